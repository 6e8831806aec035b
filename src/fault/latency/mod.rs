//! `latency`: traffic arrives late.

mod engine;
mod pace;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::traffic::{
    self, Direction, Nearby, PATIENCE, Reach, between, clients, connect_time, is_here, paths, reachable,
    shortest_connect,
};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::file::{Mistakes, Node, Read, Value};
use crate::hands::hold::Hold;
use crate::hands::proxy::{Proxy, Way};
use crate::hands::queue::{Manner, Packet, Tally};
use crate::host::rights::Rights;
use crate::host::socket;
use crate::undo::{Claim, Tier};
use engine::Used;
pub use engine::abilities;
use pace::Pace;

crate::kind! {
    /// Delays traffic, TCP and UDP, existing connections included.
    ///
    /// The delay is added once to a round trip, also when both ends are on this host. An established
    /// connection gains it per request; a fresh one pays it at the handshake and again at the request.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some
    /// processes or endpoints. An address means also traffic that passes through this host; a port alone means
    /// only traffic that begins or ends here.
    ///
    /// Two ways: a packet queue in the kernel (`queue`, needs CAP_NET_ADMIN), which clients and servers do
    /// not notice, and a proxy (`proxy`, needs no rights) to which clients must be pointed. No qdisc is touched.
    ///
    /// Where only one end is on this host, the queue holds TCP on its way in whichever `direction` is asked:
    /// a round trip gains the same, but of a request to another host the target hears at once, and the
    /// reply is late. A TCP segment held on its way out would throttle its sender.
    pub struct Latency("latency") {
        /// Added once to a round trip.
        delay: Duration = required,
        /// Each packet waits `delay` plus or minus up to this; packets of one flow stay in order.
        jitter: Duration = "0s",
        /// `to` the target, `from` it, or `both`, which adds the delay twice to a round trip.
        direction: Direction = "to",
        /// `queue`, `proxy`, or `auto`: the proxy when `listen` is given, else the queue.
        engine: Engine = "auto",
        /// Where the proxy listens, for example "127.0.0.1:16379"; clients must be pointed there.
        listen: At = optional,
    }
}

/// What does the delaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// What fits.
    Auto,
    /// The packet queue.
    Queue,
    /// The proxy.
    Proxy,
}

/// A socket's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub SocketAddr);

crate::words!(Engine, "engine", "auto" => Self::Auto, "queue" => Self::Queue, "proxy" => Self::Proxy);

impl Read for At {
    const NAME: &'static str = "socket address";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Text(text) = &node.value
            && let Ok(at) = text.parse()
        {
            return Some(Self(at));
        }
        mistakes.error(node.place, "it is not an address with a port", "for example \"127.0.0.1:16379\"");
        None
    }
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string"})
    }
}

/// What is delayed, by what, and by whom it is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Slowed {
    used: Used,
    why: String,
    reach: Reach,
}

/// The longest delay that makes sense to ask for: no network keeps packets longer.
const LONGEST: Duration = Duration::from_mins(10);

impl Fault for Latency {
    type Owed = Slowed;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.slow-redis.latency]
to    = { port = 6379 }
delay = "100ms"
at    = "5s"
for   = "30s"
"#;

    fn ability(_: &Rights) -> Ability {
        let engines = abilities();
        let tier = Some(Tier::Kernel);
        match engines.iter().find(|(engine, _)| *engine == "queue") {
            Some((_, Ok(how))) => Ability::yes(how.clone(), tier),
            Some((_, Err(why))) => Ability::limited(
                "by proxy only: TCP, and clients must be pointed at it",
                tier,
                format!("the packet queue: {why}"),
            ),
            None => Ability::no("no engine", ""),
        }
    }

    async fn survey(&self, site: &Site) -> Result<Slowed, Refusal> {
        self.check(site)?;
        let reach = Reach::survey(site)?;
        let (used, why) = self.choose(site, &reach)?;
        Ok(Slowed { used, why, reach })
    }

    async fn inject(&self, site: &Site, owed: &Slowed, held: &mut Held) -> Result<(), FaultError> {
        let seen = match owed.used {
            Used::Queue(_) => reachable(site, &owed.reach),
            Used::Proxy { .. } => None,
        };
        let before = match seen {
            Some(at) => shortest_connect(owed.reach.network(), at).await,
            None => None,
        };
        held.hold(Before(seen.zip(before)));
        if let Some(nearby) = Nearby::begin(&owed.reach).await {
            held.hold(nearby);
        }
        match &owed.used {
            Used::Queue(feed) => {
                let traffic =
                    paths::waiting(self.direction, owed.reach.endpoints(), is_here(site), &clients(site));
                let mut pace = self.pace(site, &owed.reach)?;
                let manner = Manner::bulk(pace.in_turn());
                let judge = Box::new(move |packet: &Packet<'_>, now| pace.fate(packet, now));
                held.hold(feed.hold(site, &owed.reach, &traffic, manner, judge)?);
            }
            Used::Proxy { listen, to } => {
                let proxy = Proxy::listen(*listen, *to, self.waits(site), site.heartbeat.clone());
                held.hold(proxy.map_err(|why| FaultError(format!("listening on {listen}: {why}")))?);
            }
        }
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Slowed, held: &Held) -> Effect {
        let asked = self.delay * if self.direction == Direction::Both { 2 } else { 1 };
        let slack = asked / 5 + Duration::from_millis(2) + self.jitter;
        if let Some(Before(Some((at, before)))) = held.get::<Before>() {
            let mut shortest: Option<Duration> = None;
            for _ in 0..TRIES {
                let Some(now) = connect_time(owed.reach.network(), *at, asked * 2 + PATIENCE).await else {
                    break;
                };
                shortest = Some(shortest.map_or(now, |shortest| shortest.min(now)));
                if now.saturating_sub(*before).abs_diff(asked) <= slack {
                    break;
                }
            }
            if let Some(now) = shortest {
                let gained = now.saturating_sub(*before);
                let figures = format!(
                    "asked {}, a TCP handshake with {at} took {} before and {} now",
                    say(asked),
                    say(*before),
                    say(now)
                );
                return judged(gained.abs_diff(asked) <= slack, figures);
            }
        }
        let tally = (held.get::<Hold>().map(|hold| hold.tally().as_ref()))
            .or_else(|| held.get::<Proxy>().map(Proxy::tally));
        let Some(tally) = tally else { return Effect::Unverifiable("nothing is held".to_owned()) };
        match first_held(tally, asked * 2 + PATIENCE).await {
            Some(median) => {
                let figures = format!(
                    "asked {}, {} packets were held for {} (median)",
                    say(asked),
                    tally.held(),
                    say(median)
                );
                // With `both`, the two ways may be held one by one.
                let right = median.abs_diff(asked) <= slack || median.abs_diff(self.delay) <= slack;
                judged(right, figures)
            }
            None => Effect::Unverifiable("no traffic to it came by".to_owned()),
        }
    }

    async fn spared(&self, _: &Site, _: &Slowed, held: &Held) -> Option<Effect> {
        Some(held.get::<Nearby>()?.spared().await)
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let jitter = if self.jitter.is_zero() {
            String::new()
        } else {
            format!(", plus or minus up to {}", say(self.jitter))
        };
        let ways = if self.direction == Direction::Both { ", each way" } else { "" };
        format!("adds {} to a round trip with {whom}{jitter}{ways}{only}", say(self.delay))
    }

    fn mechanism(&self, owed: &Slowed) -> Option<String> {
        Some(format!("{}: {}", owed.used, owed.why))
    }
}

/// A TCP handshake took so long before the harm, if it could be made.
struct Before(Option<(SocketAddr, Duration)>);

/// A busy host may be late by itself: once right is right.
const TRIES: u32 = 3;

fn judged(right: bool, figures: String) -> Effect {
    if right { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
}

impl Latency {
    fn check(&self, site: &Site) -> Result<(), Refusal> {
        if self.delay.is_zero() || self.delay > LONGEST {
            let why = format!("a delay of {} is none, or too long", say(self.delay));
            return Err(site.refuse(why, &format!("ask for more than 0 s and at most {}", say(LONGEST))));
        }
        if self.jitter > self.delay {
            let why = format!("a jitter of {} exceeds the delay of {}", say(self.jitter), say(self.delay));
            return Err(site.refuse(why, "packets cannot arrive before they were sent: lower `jitter`"));
        }
        Ok(())
    }

    fn pace(&self, site: &Site, reach: &Reach) -> Result<Pace, FaultError> {
        let chance = site.dice.stream(&format!("fault.{}.jitter", site.fault));
        Ok(Pace::new((self.delay, self.jitter), self.direction, chance, reach.meant(site)?))
    }

    fn waits(&self, site: &Site) -> crate::hands::proxy::MakeWaits {
        let (fault, dice, name) = (self.clone(), site.dice, site.fault.clone());
        Box::new(move |way| {
            let asked = match way {
                Way::There => fault.direction != Direction::From,
                Way::Back => fault.direction != Direction::To,
            };
            if !asked {
                return Box::new(|| Duration::ZERO);
            }
            let chance = dice.stream(&format!("fault.{name}.jitter.{way:?}"));
            let mut pace =
                Pace::new((fault.delay, fault.jitter), fault.direction, chance, traffic::Meant::all());
            Box::new(move || pace.one_wait())
        })
    }
}

/// The median hold time, as soon as some packets were held, or all that were by then.
async fn first_held(tally: &Tally, within: Duration) -> Option<Duration> {
    const ENOUGH: u64 = 10;
    let until = since_boot() + within;
    while tally.held() < ENOUGH && since_boot() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tally.median()
}

impl Owed for Slowed {
    /// Nobody but its holder can take it away, and it does so before this is called; after its death the
    /// kernel does.
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.reach.remains(|| self.stands()).await
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        self.reach.claims(host)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        self.reach.by_hand(&self.used)
    }
}

impl Slowed {
    /// Whether what delays is still there.
    fn stands(&self) -> Result<bool, UndoError> {
        match &self.used {
            Used::Queue(feed) => feed.stands(),
            Used::Proxy { listen, .. } => {
                let theirs = socket::inodes(self.reach.holder().pid);
                let listens = |l: &socket::Listener| l.at == *listen && theirs.contains(&l.inode);
                Ok(socket::listeners().iter().any(listens))
            }
        }
    }
}
