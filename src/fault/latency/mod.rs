//! `latency`: traffic arrives late.

mod engine;
mod pace;
mod spread;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::traffic::{
    Direction, Nearby, PATIENCE, Reach, between, clients, connect_time, is_here, paths, reachable,
    shortest_connect,
};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::Percent;
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::file::{Mistakes, Node, Read, Value};
use crate::hands::hold::Hold;
use crate::hands::proxy::{MakeWaits, Proxy, Way};
use crate::hands::queue::{Manner, Packet, Tally};
use crate::host::rights::Rights;
use crate::host::socket;
use crate::undo::{Claim, Tier};
use engine::Used;
pub use engine::abilities;
use pace::{Pace, Waits};
use spread::{Distribution, Drawn};

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
    ///
    /// Other kinds of faults on the same traffic add to it: a packet meets them in the order in which they began.
    ///
    /// With `jitter` the wait of each packet is drawn anew; which, depends on the seed, on the flow, and on the number of the
    /// packet in its flow, as for `loss`. `delay` is the mean of every distribution. Packets of one flow stay in order by
    /// themselves, so in a dense flow those behind a late one are late too; with `in_order = false` they overtake it, as
    /// with netem, and TCP takes that for loss.
    pub struct Latency("latency") {
        /// Added once to a round trip.
        delay: Duration = required,
        /// How far waits are spread about `delay`: up to this to both sides if uniform, else it is their standard deviation.
        jitter: Duration = "0s",
        /// `uniform`, `normal`, `pareto` (most are early, a few very late) or `paretonormal`, a mixture of both, as in netem.
        distribution: Distribution = "uniform",
        /// How much the wait of a packet is like that of the one before it in its flow; 0 % is independence.
        correlation: Percent = "0%",
        /// Whether the packets of a flow stay in order.
        in_order: bool = "true",
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
                let (meant, decision) = (owed.reach.meant(site)?, decision(site));
                let mut pace = Pace::new(self, site.dice, decision, meant, owed.reach.clone());
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
        // Of a draw without bounds nearly all is within four deviations.
        let drawn = if self.distribution == Distribution::Uniform { 1 } else { 4 };
        let slack = slack(asked) + self.jitter * drawn;
        let spread = self.spread(held).await;
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
                let right = gained.abs_diff(asked) <= slack;
                return match spread {
                    Some((as_asked, spread)) => judged(right && as_asked, format!("{figures}; {spread}")),
                    None => judged(right, figures),
                };
            }
        }
        if let Some((as_asked, figures)) = spread {
            return judged(as_asked, figures);
        }
        let Some(tally) = tally(held) else { return Effect::Unverifiable("nothing is held".to_owned()) };
        first_held(tally, 10, asked * 2 + PATIENCE).await;
        match tally.median() {
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
            let jitter = say(self.jitter);
            match self.distribution {
                Distribution::Uniform => format!(", plus or minus up to {jitter}"),
                _ => format!(", spread with a standard deviation of {jitter}"),
            }
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
        let most = self.delay.div_f64(-self.distribution.least());
        if self.jitter > most {
            let why = format!("a jitter of {} exceeds the delay of {}", say(self.jitter), say(self.delay));
            let why = match self.distribution {
                Distribution::Uniform => why,
                _ => format!("{why} in the lower half of its distribution"),
            };
            let remedy = format!("packets cannot arrive before they were sent: at most {}", say(most));
            return Err(site.refuse(why, &remedy));
        }
        if !self.in_order && (self.listen.is_some() || self.engine == Engine::Proxy) {
            let why = "a proxy carries streams, in which nothing overtakes".to_owned();
            return Err(site.refuse(why, "leave `in_order` out, or ask for `engine = \"queue\"`"));
        }
        if self.correlation.share() >= 1.0 {
            let why = "a correlation of 100 % means that every packet waits alike".to_owned();
            return Err(site.refuse(why, "ask for less, or leave `jitter` out"));
        }
        Ok(())
    }

    fn waits(&self, site: &Site) -> MakeWaits {
        let (waits, direction) = (Waits::of(self), self.direction);
        let (dice, decision) = (site.dice, decision(site));
        Box::new(move |way| {
            let asked = match way {
                Way::There => direction != Direction::From,
                Way::Back => direction != Direction::To,
            };
            if !asked {
                return Box::new(|| Duration::ZERO);
            }
            let mut drawn = Drawn::new(dice.stream(&format!("{decision}.{way:?}")));
            Box::new(move || waits.next(&mut drawn))
        })
    }

    /// Whether the packets that were held waited as they were spread, and the figures; `None` without jitter, and when too
    /// few came by. The quartiles are judged: unlike the deviation, one late packet in a heavy tail does not move them.
    async fn spread(&self, held: &Held) -> Option<(bool, String)> {
        const ENOUGH: u64 = 30;
        const QUARTILE: f64 = 0.674_490;
        let tally = tally(held).filter(|_| !self.jitter.is_zero())?;
        first_held(tally, ENOUGH, self.delay * 2 + PATIENCE).await;
        // The first that are back are those that waited least.
        tokio::time::sleep(self.delay + self.jitter * 4).await;
        let times = tally.recent();
        let count = times.len() as u32;
        if u64::from(count) < ENOUGH {
            return None;
        }
        let (low, high) = (times[times.len() / 4], times[times.len() * 3 / 4]);
        let waits = Waits::of(self);
        let (asked_low, asked_high) = (waits.at(-QUARTILE), waits.at(QUARTILE));
        // A quartile of n has a deviation of at most 1.4 / √n of the jitter, more where packets are alike.
        let alike = self.correlation.share();
        let chance = 4.0 * ((1.0 + alike) / (1.0 - alike) / f64::from(count)).sqrt();
        let slack = slack(self.delay) + self.jitter.mul_f64(chance);
        // Those behind a late one wait for it, and a packet may stand for both ways.
        let elders = if self.in_order { self.jitter * 4 } else { Duration::ZERO };
        let ways = if self.direction == Direction::Both { 2 } else { 1 };
        let right = low + slack >= asked_low && high <= asked_high * ways + slack + elders;
        let mean = times.iter().sum::<Duration>() / count;
        let figures = format!(
            "asked {} in the mean and half of the packets within {} to {}, {count} were held for {} in the mean \
             and half of them for {} to {}",
            say(self.delay),
            say(asked_low),
            say(asked_high),
            say(mean),
            say(low),
            say(high)
        );
        Some((right, figures))
    }
}

/// How much a measured time may be off on a busy host.
fn slack(asked: Duration) -> Duration {
    asked / 5 + Duration::from_millis(2)
}

/// What its chance is drawn by.
fn decision(site: &Site) -> String {
    format!("fault.{}.jitter", site.fault)
}

fn tally(held: &Held) -> Option<&Tally> {
    (held.get::<Hold>().map(|hold| hold.tally().as_ref())).or_else(|| held.get::<Proxy>().map(Proxy::tally))
}

/// Waits until so many packets were held, or for so long.
async fn first_held(tally: &Tally, enough: u64, within: Duration) {
    let until = since_boot() + within;
    while tally.held() < enough && since_boot() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
