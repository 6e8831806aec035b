//! What does the delaying, and why it is that.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{At, Engine, Latency};
use crate::base::RunId;
use crate::base::dice::fnv1a;
use crate::fault::{Refusal, Site};
use crate::hands::queue::Queue;
use crate::hands::rules::{self, QueueBy};
use crate::host::target::Endpoint;

/// What does it, with all its names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub(super) enum Used {
    /// A packet queue, fed by a rule table.
    Queue {
        /// The table's name.
        table: String,
        /// The queue's number.
        queue: u16,
        /// How packets get from one to the other.
        by: QueueBy,
    },
    /// A proxy.
    Proxy {
        /// Where it listens.
        listen: SocketAddr,
        /// Where it forwards to.
        to: SocketAddr,
    },
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue { table, queue, .. } => write!(f, "packet queue {queue} with rule table {table}"),
            Self::Proxy { listen, to } => write!(f, "a proxy on {listen} to {to}"),
        }
    }
}

/// Which engines work here and with our rights, each with how, or with what is missing.
#[must_use]
pub fn abilities() -> Vec<(&'static str, Result<String, String>)> {
    let queue = rules::probe().map_err(|why| why.to_string()).and_then(|by| {
        free_queue(fnv1a(b"abilities")).map_err(|why| why.to_string())?;
        Ok(match by {
            QueueBy::Expression => "nf_tables hands packets to a queue".to_owned(),
            QueueBy::Target => "nf_tables hands packets to a queue by the target NFQUEUE".to_owned(),
        })
    });
    vec![
        ("queue", queue),
        ("proxy", Ok("TCP only, and clients must be pointed at its address, `listen`".to_owned())),
    ]
}

impl Latency {
    /// The engine, and why it is this one.
    pub(super) fn choose(&self, site: &Site, endpoints: &[Endpoint]) -> Result<(Used, String), Refusal> {
        match (self.engine, self.listen) {
            (Engine::Auto, Some(At(listen))) => {
                Ok((proxied(site, listen, endpoints)?, "`listen` is given".to_owned()))
            }
            (Engine::Proxy, Some(At(listen))) => {
                Ok((proxied(site, listen, endpoints)?, "asked for".to_owned()))
            }
            (Engine::Proxy, None) => Err(site.refuse(
                "a proxy needs an address of its own".to_owned(),
                "give it `listen = \"127.0.0.1:PORT\"`, and point the clients there",
            )),
            (Engine::Queue, Some(_)) => Err(site.refuse(
                "a packet queue listens nowhere".to_owned(),
                "leave `listen` out, or ask for `engine = \"proxy\"`",
            )),
            (Engine::Queue, None) => Ok((queued(site)?, "asked for".to_owned())),
            (Engine::Auto, None) => Ok((
                queued(site)?,
                "existing connections and UDP are delayed too, and no client is changed".to_owned(),
            )),
        }
    }
}

fn queued(site: &Site) -> Result<Used, Refusal> {
    const REMEDY: &str =
        "or delay TCP without rights: give `listen = \"127.0.0.1:PORT\"`, and point the clients there";
    let by = rules::probe().map_err(|why| site.refuse(why.to_string(), REMEDY))?;
    let begin = fnv1a(format!("{} {}", site.run, site.fault).as_bytes());
    let queue = free_queue(begin).map_err(|why| site.refuse(why.to_string(), REMEDY))?;
    Ok(Used::Queue { table: table_name(site.run, queue), queue, by })
}

/// The name of the table that feeds a queue of a run.
fn table_name(run: RunId, queue: u16) -> String {
    format!("brownout_{run}_{queue}")
}

/// A queue number that nobody has now. It is taken for a moment, which touches no traffic.
fn free_queue(begin: u64) -> Result<u16, crate::hands::queue::QueueError> {
    const FIRST: u64 = 0x1000;
    const TRIES: u64 = 16;
    let numbers = (0..TRIES).map(|n| (FIRST + begin.wrapping_add(n) % (0x1_0000 - FIRST)) as u16);
    let mut last = None;
    for number in numbers {
        match Queue::bind(number) {
            Ok(_) => return Ok(number),
            Err(why) => last = Some(why),
        }
    }
    Err(last.unwrap_or(crate::hands::queue::QueueError::Taken(0)))
}

fn proxied(site: &Site, listen: SocketAddr, endpoints: &[Endpoint]) -> Result<Used, Refusal> {
    if site.from.is_some() {
        return Err(site.refuse(
            "a proxy delays whoever is pointed at it, not those in `from`".to_owned(),
            "leave `from` out",
        ));
    }
    let [Endpoint { address, port: Some(port) }] = endpoints else {
        return Err(site.refuse(
            "a proxy forwards to one address and port".to_owned(),
            "give it `to = { address = \"127.0.0.1:6379\" }`",
        ));
    };
    let to = SocketAddr::new(address.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()), *port);
    if to == listen {
        return Err(site.refuse(format!("{to} would be forwarded to itself"), "let it listen elsewhere"));
    }
    std::net::TcpListener::bind(listen).map_err(|why| {
        site.refuse(format!("{listen}: {why}"), "let it listen on a free port of an address of this host")
    })?;
    Ok(Used::Proxy { listen, to })
}
