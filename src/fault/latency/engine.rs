//! What does the delaying, and why it is that.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{At, Engine, Latency};
use crate::fault::traffic::{Feed, Reach};
use crate::fault::{Refusal, Site};
use crate::host::target::Endpoint;

/// What does it, with all its names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "engine", rename_all = "kebab-case")]
pub(super) enum Used {
    /// A packet queue, fed by a rule table.
    Queue(Feed),
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
            Self::Queue(feed) => feed.fmt(f),
            Self::Proxy { listen, to } => write!(f, "a proxy on {listen} to {to}"),
        }
    }
}

/// Which engines work here and with our rights, each with how, or with what is missing.
#[must_use]
pub fn abilities() -> Vec<(&'static str, Result<String, String>)> {
    vec![
        ("queue", Feed::ability()),
        ("proxy", Ok("TCP only, and clients must be pointed at its address, `listen`".to_owned())),
    ]
}

impl Latency {
    /// The engine, and why it is this one.
    pub(super) fn choose(&self, site: &Site, reach: &Reach) -> Result<(Used, String), Refusal> {
        match (self.engine, self.listen) {
            (Engine::Auto, Some(At(listen))) => {
                Ok((proxied(site, listen, reach)?, "`listen` is given".to_owned()))
            }
            (Engine::Proxy, Some(At(listen))) => Ok((proxied(site, listen, reach)?, "asked for".to_owned())),
            (Engine::Proxy, None) => Err(site.refuse(
                "a proxy needs an address of its own".to_owned(),
                "give it `listen = \"127.0.0.1:PORT\"`, and point the clients there",
            )),
            (Engine::Queue, Some(_)) => Err(site.refuse(
                "a packet queue listens nowhere".to_owned(),
                "leave `listen` out, or ask for `engine = \"proxy\"`",
            )),
            (Engine::Queue, None) => Ok((queued(site, reach)?, "asked for".to_owned())),
            (Engine::Auto, None) => Ok((
                queued(site, reach)?,
                "existing connections and UDP are delayed too, and no client is changed".to_owned(),
            )),
        }
    }
}

fn queued(site: &Site, reach: &Reach) -> Result<Used, Refusal> {
    const REMEDY: &str =
        "or delay TCP without rights: give `listen = \"127.0.0.1:PORT\"`, and point the clients there";
    Ok(Used::Queue(Feed::choose(site, reach, REMEDY)?))
}

fn proxied(site: &Site, listen: SocketAddr, reach: &Reach) -> Result<Used, Refusal> {
    if !reach.network().is_ours() {
        let why = format!("a proxy would listen where we are, and not in {}", reach.network().said());
        return Err(site.refuse(why, "leave `listen` out"));
    }
    if site.from.is_some() {
        return Err(site.refuse(
            "a proxy delays whoever is pointed at it, not those in `from`".to_owned(),
            "leave `from` out",
        ));
    }
    let [Endpoint { address, port: Some(port) }] = reach.endpoints() else {
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
