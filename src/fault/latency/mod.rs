//! `latency`: traffic arrives late.

mod engine;
mod pace;
mod paths;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::file::{Mistakes, Node, Read, Value, word};
use crate::hands::hold::{Hold, Order};
use crate::hands::proxy::{Proxy, Way};
use crate::hands::queue::{Packet, Tally};
use crate::hands::rules;
use crate::host::process::{Identity, Process};
use crate::host::rights::Rights;
use crate::host::socket::{self, Namespace, Owners, Protocol};
use crate::host::target::Endpoint;
use crate::undo::{Claim, Tier};
use engine::Used;
pub use engine::abilities;
use pace::{Pace, Whose};
use paths::Clients;

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

/// Which way traffic is delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Towards the target.
    To,
    /// From the target.
    From,
    /// Each way.
    Both,
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

macro_rules! words {
    ($type:ty, $name:literal, $($word:literal => $meant:expr),*) => {
        impl Read for $type {
            const NAME: &'static str = $name;
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                word(node, mistakes, &[$(($word, $meant)),*])
            }
            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),*]})
            }
        }
    };
}

words!(Direction, "direction", "to" => Self::To, "from" => Self::From, "both" => Self::Both);
words!(Engine, "engine", "auto" => Self::Auto, "queue" => Self::Queue, "proxy" => Self::Proxy);

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
    endpoints: Vec<Endpoint>,
    namespace: Namespace,
    holder: Identity,
}

/// The longest delay that makes sense to ask for: no network keeps packets longer.
const LONGEST: Duration = Duration::from_mins(10);
/// More endpoints than a process listens on.
const MOST_ENDPOINTS: usize = 256;

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
        let namespace = Namespace::ours()
            .map_err(|why| site.refuse(format!("our network namespace: {why}"), "mount /proc"))?;
        let processes = site.target.processes.iter().chain(site.from.iter().flat_map(|from| &from.processes));
        for process in processes {
            let pid = process.identity().pid;
            if Namespace::of(pid).is_ok_and(|theirs| theirs != namespace) {
                return Err(site.refuse(
                    format!("process {pid} is in another network namespace than we are"),
                    &format!("run brownout in it: nsenter --net=/proc/{pid}/ns/net brownout ..."),
                ));
            }
        }
        let mut endpoints = site.target.endpoints.clone();
        if !site.target.processes.is_empty() {
            endpoints = socket::listening(&site.target.pids());
        }
        if endpoints.is_empty() || endpoints.iter().any(|e| e.address.is_none() && e.port.is_none()) {
            let why = if site.target.processes.is_empty() {
                "it does not say which traffic".to_owned()
            } else {
                format!("{} listens nowhere", site.who())
            };
            return Err(
                site.refuse(why, "give it `to = { address = \"10.0.0.7:6379\" }` or `{ port = 6379 }`")
            );
        }
        if endpoints.len() > MOST_ENDPOINTS {
            return Err(site.refuse(
                format!("{} endpoints are more than {MOST_ENDPOINTS}", endpoints.len()),
                "name one address or port",
            ));
        }
        let (used, why) = self.choose(site, &endpoints)?;
        Ok(Slowed { used, why, endpoints, namespace, holder: site.holder.clone() })
    }

    async fn inject(&self, site: &Site, owed: &Slowed, held: &mut Held) -> Result<(), FaultError> {
        let seen = measurable(site, owed);
        let before = match seen {
            Some(at) => shortest_connect(at).await,
            None => None,
        };
        held.hold(Before(seen.zip(before)));
        match &owed.used {
            Used::Queue { table, queue, by } => {
                let clients = clients(site);
                let here = !site.target.processes.is_empty();
                let traffic = paths::paths(self.direction, &owed.endpoints, here, &clients);
                let mut pace = self.pace(site, owed).map_err(|why| FaultError(why.to_string()))?;
                let order =
                    Order { table, queue: *queue, by: *by, traffic: &traffic, in_turn: pace.in_turn() };
                let judge = Box::new(move |packet: &Packet<'_>, now| pace.due(packet, now));
                let hold = Hold::begin(&order, judge, site.heartbeat.clone());
                held.hold(hold.map_err(|why| FaultError(why.to_string()))?);
            }
            Used::Proxy { listen, to } => {
                let proxy = Proxy::listen(*listen, *to, self.waits(site), site.heartbeat.clone());
                held.hold(proxy.map_err(|why| FaultError(format!("listening on {listen}: {why}")))?);
            }
        }
        Ok(())
    }

    async fn verify(&self, _: &Site, _: &Slowed, held: &Held) -> Effect {
        let asked = self.delay * if self.direction == Direction::Both { 2 } else { 1 };
        let slack = asked / 5 + Duration::from_millis(2) + self.jitter;
        if let Some(Before(Some((at, before)))) = held.get::<Before>() {
            // A busy host may be late by itself: once right is right.
            let mut shortest: Option<Duration> = None;
            for _ in 0..TRIES {
                let Some(now) = connect_time(*at, asked * 2 + PATIENCE).await else { break };
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

    fn harm(&self, site: &Site) -> String {
        let whom = if site.target.processes.is_empty() { site.target.said.clone() } else { site.who() };
        let jitter = if self.jitter.is_zero() {
            String::new()
        } else {
            format!(", plus or minus up to {}", say(self.jitter))
        };
        let ways = if self.direction == Direction::Both { ", each way" } else { "" };
        let only = site.from.as_ref().map_or_else(String::new, |from| format!(", for {} only", from.said));
        format!("adds {} to a round trip with {whom}{jitter}{ways}{only}", say(self.delay))
    }

    fn mechanism(&self, owed: &Slowed) -> Option<String> {
        Some(format!("{}: {}", owed.used, owed.why))
    }
}

/// A TCP handshake took so long before the harm, if it could be made.
struct Before(Option<(SocketAddr, Duration)>);

const PATIENCE: Duration = Duration::from_secs(1);
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
        let named =
            |found: &crate::host::target::Found| !found.processes.is_empty() || !found.endpoints.is_empty();
        if site.from.as_ref().is_some_and(|from| !named(from)) {
            return Err(site.refuse("nobody fits its `from`".to_owned(), "is the client running?"));
        }
        Ok(())
    }

    fn pace(&self, site: &Site, owed: &Slowed) -> std::io::Result<Pace> {
        let from = site.from.as_ref().map_or(&[][..], |from| &from.processes);
        let whose = if from.is_empty() {
            None
        } else {
            let processes = from.iter().map(|process| process.identity().clone()).collect();
            Some(Whose::new(Owners::open()?, processes, owed.endpoints.clone()))
        };
        let chance = site.dice.stream(&format!("fault.{}.jitter", site.fault));
        Ok(Pace::new((self.delay, self.jitter), self.direction, chance, whose))
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
            let mut pace = Pace::new((fault.delay, fault.jitter), fault.direction, chance, None);
            Box::new(move || pace.one_wait())
        })
    }
}

fn clients(site: &Site) -> Clients {
    match &site.from {
        None => Clients::Anyone,
        Some(from) if !from.processes.is_empty() => Clients::Processes,
        Some(from) => Clients::At(from.endpoints.clone()),
    }
}

/// Where a TCP handshake of our own shows the delay: the packet queue, delaying everybody, and a target that
/// has an address or listens here.
fn measurable(site: &Site, owed: &Slowed) -> Option<SocketAddr> {
    if site.from.is_some() || !matches!(owed.used, Used::Queue { .. }) {
        return None;
    }
    let listeners = socket::listeners();
    owed.endpoints.iter().find_map(|endpoint| {
        let port = endpoint.port?;
        if let Some(address) = endpoint.address {
            return Some(SocketAddr::new(address, port));
        }
        let here = listeners.iter().find(|l| l.protocol == Protocol::Tcp && l.at.port() == port)?.at;
        Some(match (here.ip().is_unspecified(), here) {
            (false, _) => here,
            (true, SocketAddr::V4(_)) => SocketAddr::from(([127, 0, 0, 1], port)),
            (true, SocketAddr::V6(_)) => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        })
    })
}

/// The shortest of a few: a busy host is late by itself.
async fn shortest_connect(at: SocketAddr) -> Option<Duration> {
    let mut shortest = connect_time(at, PATIENCE).await?;
    for _ in 1..TRIES {
        shortest = shortest.min(connect_time(at, PATIENCE).await?);
    }
    Some(shortest)
}

/// How long a TCP handshake takes. A refusal is a round trip too.
async fn connect_time(at: SocketAddr, within: Duration) -> Option<Duration> {
    let begun = since_boot();
    let ended = tokio::time::timeout(within, TcpStream::connect(at)).await.ok()?;
    let round_trip = ended.map_or_else(|why| why.kind() == std::io::ErrorKind::ConnectionRefused, |_| true);
    round_trip.then(|| since_boot().saturating_sub(begun))
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
        // What closes with a process is closed a moment before or after it can be seen to be gone.
        let until = since_boot() + PATIENCE;
        loop {
            if !self.stands()? {
                return Ok(false);
            }
            if since_boot() > until {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A target address and port, so that two faults on the same traffic clash, also when one of them
    /// names only the port or only the address.
    fn claims(&self, host: &str) -> Vec<Claim> {
        let thing = |what: &Endpoint| format!("traffic to {what} in network namespace {}", self.namespace.0);
        let mut claims = Vec::new();
        for endpoint in &self.endpoints {
            claims.push(Claim::exclusive(host, thing(endpoint)));
            if endpoint.address.is_some() && endpoint.port.is_some() {
                claims.push(Claim::shared(host, thing(&Endpoint { address: None, ..*endpoint })));
                claims.push(Claim::shared(host, thing(&Endpoint { port: None, ..*endpoint })));
            }
        }
        claims
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: {} goes with it", self.holder.pid, self.used)
    }
}

impl Slowed {
    /// Whether what delays is still there.
    fn stands(&self) -> Result<bool, UndoError> {
        let lives = Process::open(&self.holder).is_ok();
        // Elsewhere, what stands cannot be seen; but nothing of it outlives its holder.
        if !Namespace::ours().is_ok_and(|ours| ours == self.namespace) {
            return Ok(lives);
        }
        match &self.used {
            Used::Queue { table, .. } => match rules::stands(table) {
                Ok(stands) => Ok(stands),
                Err(_) if !lives => Ok(false),
                Err(why) => Err(UndoError(why.to_string())),
            },
            Used::Proxy { listen, .. } => {
                let theirs = socket::inodes(self.holder.pid);
                let listens = |l: &socket::Listener| l.at == *listen && theirs.contains(&l.inode);
                Ok(lives && socket::listeners().iter().any(listens))
            }
        }
    }
}
