//! Looks at traffic from outside: how long a TCP handshake takes, to the target and to somebody who was not named.

use std::cell::LazyCell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::time::Duration;

use super::super::{Effect, Site};
use super::{Clients, Reach, clients};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::host::network::Network;
use crate::host::socket::{self, Protocol};
use crate::host::target::Endpoint;

/// A handshake that takes longer is none.
pub(in crate::fault) const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 3;

/// Where a TCP handshake of our own meets the fault: it is on everybody's traffic, and the target has an address or
/// listens here.
pub(in crate::fault) fn reachable(site: &Site, reach: &Reach) -> Option<SocketAddr> {
    if !matches!(clients(site), Clients::Anyone | Clients::Here) {
        return None;
    }
    places(reach, reach.endpoints().iter().copied()).next()
}

/// Where something of ours could be sent to meet these endpoints over TCP: to an address, or to who listens on a port here.
pub(in crate::fault) fn places(
    reach: &Reach,
    endpoints: impl Iterator<Item = Endpoint>,
) -> impl Iterator<Item = SocketAddr> {
    // Who listens on all addresses listens on those of IPv4 too, as a rule; a container may have no other.
    let here = || (socket::listeners(), socket::is_ours(Ipv6Addr::LOCALHOST.into()));
    // Only a port alone needs that: reading who listens takes milliseconds.
    let here = LazyCell::new(move || reach.within(here).unwrap_or_default());
    endpoints.filter_map(move |endpoint| {
        let port = endpoint.port?;
        if let Some(address) = endpoint.address {
            return Some(SocketAddr::new(address, port));
        }
        let (listeners, has_six) = &*here;
        let here = listeners.iter().find(|l| l.protocol == Protocol::Tcp && l.at.port() == port)?.at;
        Some(match (here.ip().is_unspecified(), here) {
            (false, _) => here,
            (true, SocketAddr::V6(_)) if *has_six => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            (true, _) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        })
    })
}

/// The shortest of a few: a busy host is late by itself.
pub(in crate::fault) async fn shortest_connect(network: &Network, at: SocketAddr) -> Option<Duration> {
    let mut shortest = connect_time(network, at, PATIENCE).await?;
    for _ in 1..TRIES {
        shortest = shortest.min(connect_time(network, at, PATIENCE).await?);
    }
    Some(shortest)
}

/// How long a TCP handshake takes, made in that network. A refusal is a round trip too.
pub(in crate::fault) async fn connect_time(
    network: &Network,
    at: SocketAddr,
    within: Duration,
) -> Option<Duration> {
    let socket = network.tcp(at).ok()?;
    let begun = since_boot();
    let ended = tokio::time::timeout(within, socket.connect(at)).await.ok()?;
    let heard = since_boot().saturating_sub(begun);
    match ended {
        Ok(connection) => Some(socket::handshake(connection.as_fd()).unwrap_or(heard)),
        Err(why) => (why.kind() == std::io::ErrorKind::ConnectionRefused).then_some(heard),
    }
}

/// How long a handshake with the target took before the harm; `None` where none could be made.
pub(in crate::fault) struct Before(pub(in crate::fault) Option<Duration>);

impl Before {
    /// Measures it.
    pub(in crate::fault) async fn measure(site: &Site, reach: &Reach) -> Self {
        match reachable(site, reach) {
            Some(at) => Self(shortest_connect(reach.network(), at).await),
            None => Self(None),
        }
    }
}

/// A listener of our own that nobody named, beside the traffic that is hurt: handshakes with it must stay as they were.
#[derive(Debug)]
pub(in crate::fault) struct Nearby {
    network: Network,
    listener: TcpListener,
    at: SocketAddr,
    before: Duration,
}

/// A handshake over loopback that takes so much longer was hurt; less is the noise of a host.
const MOVED: Duration = Duration::from_millis(2);
/// How often it is tried again before it counts as moved: a busy host is late by itself.
const AGAIN: u32 = 40;

impl Nearby {
    /// Measures before the harm. `None` when there is no loopback, or the fault is on all of it.
    pub(in crate::fault) async fn begin(reach: &Reach) -> Option<Self> {
        let network = reach.network().clone();
        let listener = network.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).ok()?.ok()?;
        let at = listener.local_addr().ok()?;
        // All that goes in and out of a network is not what goes round in it.
        if reach.has(at) && !reach.is_everything() {
            return None;
        }
        let before = shortest_connect(&network, at).await?;
        Some(Self { network, listener, at, before })
    }

    /// Measures again.
    pub(in crate::fault) async fn spared(&self) -> Effect {
        // What was accepted by the kernel for us must not fill its backlog.
        let _ = self.listener.set_nonblocking(true);
        let mut shortest: Option<Duration> = None;
        for _ in 0..AGAIN {
            while self.listener.accept().is_ok() {}
            let Some(now) = connect_time(&self.network, self.at, PATIENCE).await else { break };
            let least = shortest.map_or(now, |shortest| shortest.min(now));
            shortest = Some(least);
            if least <= self.before + MOVED {
                let (before, now) = (say(self.before), say(least));
                return Effect::Confirmed(format!(
                    "a TCP handshake with a port nobody named took {before} before and {now} now"
                ));
            }
        }
        let now = shortest.map_or_else(|| "fails now".to_owned(), |now| format!("takes {} now", say(now)));
        let before = say(self.before);
        Effect::Mismatch(format!("a TCP handshake with a port nobody named took {before} before and {now}"))
    }
}
