//! `dns`: lookups of names are answered wrongly, late or not at all.

mod fates;
mod message;
mod names;
mod proof;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use serde::{Deserialize, Serialize};

use super::traffic::{self, Clients, Feed, Reach, clients};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::Percent;
use crate::base::unit::say;
use crate::file::{Mistakes, Node, Read, read_text, some, some_schema};
use crate::hands::forge::Forge;
use crate::hands::queue::{Manner, Packet};
use crate::hands::rules::{Hook, Traffic};
use crate::host::names::PORT;
use crate::host::rights::Rights;
use crate::host::socket::Protocol;
use crate::host::target::Endpoint;
use crate::undo::{Claim, Tier};
use fates::{Deed, Drawn, Fates, Streams, Watch};
use message::{Lookup, Reply};
use names::{Names, claims};

crate::kind! {
    /// Answers lookups of names wrongly, late or not at all.
    ///
    /// What is asked on port 53 over UDP or TCP is met where it leaves the network of whoever is named in `from`, else
    /// ours, where it comes into it from another host, or passes through: also what goes to a resolver on this host, such as
    /// systemd-resolved on 127.0.0.53. The name asked for is compared, in any case: who asks for an alias is told its target
    /// by the server in one go, so name the alias. A search list makes several names of one: name the one that exists.
    ///
    /// `from` narrows to the lookups of some processes, or from some addresses; without it those of everybody are hit, our
    /// own probes' too. What a resolver asks on behalf of a process is the resolver's: a process that leaves its lookups to
    /// nscd, or to systemd-resolved by its bus (nss-resolve), asks nothing itself. Not hit is whatever asks nobody on port
    /// 53: /etc/hosts, what a program or a resolver still knows, lookups over TLS or HTTPS, multicast DNS.
    ///
    /// The server never hears of a lookup that is answered here; the answer is to be forgotten at once (TTL 0), but some
    /// clients remember that there is none. Over TCP the connection ends with it, as a server may end one at any time: what
    /// else was asked on it is asked anew by its client. Each lookup is hit or not by itself, also when it is tried again;
    /// the same ones for the same seed.
    pub struct Dns("dns") {
        /// Only lookups of this name, or of one of these: "db.example.com", or "*.example.com" for all below it.
        names: Names = optional,
        /// What is said instead: `nxdomain` (there is no such name), `servfail`, `refused`, `empty` (no records of that
        /// type), or nothing, which is a `timeout`.
        answer: Answer = optional,
        /// They are told these addresses: A records for IPv4, AAAA for IPv6, and none where none is given. Other types are
        /// left alone.
        addresses: Addresses = optional,
        /// They get their answer so much later.
        delay: Duration = "0s",
        /// So many of them, drawn from the seed.
        percent: Percent = "100%",
    }
}

/// What is said without an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There is no such name.
    NxDomain,
    /// The server cannot tell.
    ServFail,
    /// The server does not want to.
    Refused,
    /// There is such a name, with nothing of that type.
    Empty,
    /// Nothing.
    Timeout,
}

crate::words!(Answer, "word", "nxdomain" => Self::NxDomain, "servfail" => Self::ServFail, "refused" => Self::Refused,
    "empty" => Self::Empty, "timeout" => Self::Timeout);

/// So many addresses fit into the shortest message.
const MOST_ADDRESSES: usize = 8;
/// The longest delay that makes sense to ask for: clients have given up by then.
const LONGEST: Duration = Duration::from_mins(1);

/// Addresses to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses(Vec<IpAddr>);

struct Address(IpAddr);

impl Read for Address {
    const NAME: &'static str = "address";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| {
            let wrong =
                || (format!("`{text}` is no address"), "an IP address, such as \"10.9.9.9\" or \"fd00::9\"");
            text.parse().map(Self).map_err(|_| wrong())
        })
    }
    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "pattern": "^[0-9a-fA-F:.]+$"})
    }
}

impl Read for Addresses {
    const NAME: &'static str = "address or list of them";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let addresses: Vec<Address> = some(node, mistakes)?;
        if addresses.len() > MOST_ADDRESSES {
            let what = format!("{} addresses do not fit into every answer", addresses.len());
            mistakes.error(node.place, what, format!("give {MOST_ADDRESSES} at most"));
            return None;
        }
        Some(Self(addresses.into_iter().map(|Address(address)| address).collect()))
    }
    fn schema() -> serde_json::Value {
        some_schema::<Address>()
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(" and "))
    }
}

/// Whose lookups of what, and by what they are met.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Misled {
    reach: Reach,
    feed: Feed,
    /// None are all.
    names: Vec<String>,
}

impl Fault for Dns {
    type Owed = Misled;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Lookups;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.db-unknown.dns]
names  = ["db.example.com", "*.cache.example.com"]
answer = "nxdomain"
at     = "5s"
for    = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |what: &str, remedy: &str| Err((what.to_owned(), remedy.to_owned()));
        if self.answer.is_some() && self.addresses.is_some() {
            return wrong("both `answer` and `addresses` say what is answered", "give one of them");
        }
        if self.answer == Some(Answer::Timeout) && !self.delay.is_zero() {
            return wrong("an answer that never comes cannot be late", "leave out `delay`");
        }
        if self.answer.is_none() && self.addresses.is_none() && self.delay.is_zero() {
            return wrong(
                "it does not say what becomes of the lookups",
                "give it `answer`, `addresses` or `delay`",
            );
        }
        if self.delay > LONGEST {
            let remedy = format!("ask for at most {}", say(LONGEST));
            return Err((format!("a delay of {} is too long", say(self.delay)), remedy));
        }
        if self.percent.share() <= 0.0 {
            return wrong("0 % of lookups is none", "ask for a `percent` above 0%");
        }
        Ok(())
    }

    fn clash(&self, other: &Self) -> Option<String> {
        let both = match (&self.names, &other.names) {
            (Some(ours), Some(theirs)) => ours.met(theirs)?,
            (Some(names), None) | (None, Some(names)) => names.to_string(),
            (None, None) => "all names".to_owned(),
        };
        Some(format!("hurt lookups of {both}"))
    }

    fn ability(_: &Rights) -> Ability {
        let forge = || Forge::open().map_err(|why| format!("a raw socket: {why}"));
        match Feed::ability().and_then(|how| forge().map(|_| how)) {
            Ok(how) => Ability::yes(how, Some(Tier::Kernel)),
            Err(why) => Ability::no(why, "run as root, or in a network namespace of your own"),
        }
    }

    async fn survey(&self, site: &Site) -> Result<Misled, Refusal> {
        Forge::open().map_err(|why| {
            site.refuse(format!("a raw socket (CAP_NET_RAW is needed): {why}"), "run as root")
        })?;
        let reach = Reach::at(site, vec![SERVERS])?;
        let feed = Feed::choose(site, &reach, "`brownout doctor` says what this host can do")?;
        Ok(Misled { reach, feed, names: self.names.as_ref().map_or_else(Vec::new, Names::said) })
    }

    async fn inject(&self, site: &Site, owed: &Misled, held: &mut Held) -> Result<(), FaultError> {
        held.hold(self.before(site, owed.reach.network()).await);
        let watch = Arc::new(Watch::default());
        let mut fates = Fates {
            deed: self.deed(),
            meant: owed.reach.meant(site)?,
            drawn: Drawn::new(site.dice, format!("fault.{}.lookup", site.fault), self.percent.share()),
            watch: Arc::clone(&watch),
            streams: Streams::default(),
            fault: self.clone(),
        };
        held.hold(watch);
        let judge = Box::new(move |packet: &Packet<'_>, now| fates.of(packet, now));
        held.hold(owed.feed.hold(site, &owed.reach, &asking(&clients(site)), Manner::answers(), judge)?);
        Ok(())
    }

    async fn verify(&self, _: &Site, _: &Misled, held: &Held) -> Effect {
        self.proved(held).await
    }

    async fn spared(&self, _: &Site, _: &Misled, held: &Held) -> Option<Effect> {
        proof::spared(held).await
    }

    fn mechanism(&self, owed: &Misled) -> Option<String> {
        Some(format!(
            "{}: UDP and TCP on port 53; lookups over TLS or HTTPS, of /etc/hosts and out of caches are not hit",
            owed.feed
        ))
    }

    fn harm(&self, site: &Site) -> String {
        let (_, only) = traffic::between(site);
        format!("{}{only}", self.asked())
    }
}

/// Where lookups go.
const SERVERS: Endpoint = Endpoint { address: None, port: Some(PORT) };

/// The rules for lookups, each met once: where it leaves this host, before anybody translates where it goes, comes in from
/// another, or passes through.
fn asking(clients: &Clients) -> Vec<Traffic> {
    const ANYWHERE: &[Endpoint] = &[Endpoint::ANYWHERE];
    let (hooks, from): (&[(Hook, Option<bool>)], &[Endpoint]) = match clients {
        Clients::Processes | Clients::Here => (&[(Hook::Output, None)], ANYWHERE),
        Clients::Anyone => {
            (&[(Hook::Output, None), (Hook::Input, Some(false)), (Hook::Forward, None)], ANYWHERE)
        }
        Clients::At(some) => {
            (&[(Hook::Output, None), (Hook::Input, Some(false)), (Hook::Forward, None)], some)
        }
    };
    let rule = |protocol, (hook, loopback), from| Traffic {
        hook,
        protocol,
        loopback,
        from,
        to: SERVERS,
        opens: false,
    };
    let of = |protocol| {
        hooks.iter().flat_map(move |hook| from.iter().map(move |from| rule(protocol, *hook, *from)))
    };
    Protocol::ALL.into_iter().flat_map(of).collect()
}

impl Dns {
    fn deed(&self) -> Deed {
        let say = |code| Deed::Say(Reply { code, addresses: Vec::new() });
        match (self.answer, &self.addresses) {
            (Some(Answer::NxDomain), _) => say(ResponseCode::NXDomain),
            (Some(Answer::ServFail), _) => say(ResponseCode::ServFail),
            (Some(Answer::Refused), _) => say(ResponseCode::Refused),
            (Some(Answer::Empty), _) => say(ResponseCode::NoError),
            (Some(Answer::Timeout), _) => Deed::Silence,
            (None, Some(Addresses(addresses))) => {
                Deed::Say(Reply { code: ResponseCode::NoError, addresses: addresses.clone() })
            }
            (None, None) => Deed::Late,
        }
    }

    /// Whether a lookup is one of those that are meant.
    fn means(&self, lookup: &Lookup) -> bool {
        let asked = lookup.query();
        self.names.as_ref().is_none_or(|names| names.fit(&asked.name))
            && (self.addresses.is_none() || matches!(asked.query_type, RecordType::A | RecordType::AAAA))
    }

    /// The harm and what it falls on, in a sentence.
    fn asked(&self) -> String {
        let many =
            if self.percent.share() < 1.0 { format!("{} of the ", self.percent) } else { String::new() };
        let names = self.names.as_ref().map_or_else(|| "all names".to_owned(), ToString::to_string);
        let late = if self.delay.is_zero() { String::new() } else { format!(" after {}", say(self.delay)) };
        let says = match (self.answer, &self.addresses) {
            (Some(Answer::NxDomain), _) => "answers NXDOMAIN".to_owned(),
            (Some(Answer::ServFail), _) => "answers SERVFAIL".to_owned(),
            (Some(Answer::Refused), _) => "answers REFUSED".to_owned(),
            (Some(Answer::Empty), _) => "answers without a record".to_owned(),
            (Some(Answer::Timeout), _) => "gives no answer".to_owned(),
            (None, Some(addresses)) => format!("answers {addresses}"),
            (None, None) => return format!("delays {many}lookups of {names} by {}", say(self.delay)),
        };
        format!("{says}{late} to {many}lookups of {names}")
    }
}

impl Owed for Misled {
    /// Nobody but its holder can take it away, and it does so before this is called; after its death the
    /// kernel does.
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.reach.remains(|| self.feed.stands()).await
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        claims(&self.names, self.reach.network().namespace(), host)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        self.reach.by_hand(&self.feed)
    }
}
