//! What all faults on traffic have in common: which traffic is meant and whose it is, how it is led to a packet queue,
//! and a look at it from outside. A fault on traffic is its own file with little more than its fields.

mod feed;
mod lanes;
mod look;
mod odds;
pub(super) mod paths;
mod whose;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FaultError, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::hands::flow::Flow;
use crate::hands::queue::Packet;
use crate::hands::rules::Hook;
use crate::host::network::Network;
use crate::host::process::{Identity, Process};
use crate::host::socket::{self, Owners};
use crate::host::target::{Endpoint, Found};
use crate::undo::Claim;
pub(super) use feed::{Feed, Queued};
pub(super) use lanes::Lanes;
pub(super) use look::{Before, Nearby, PATIENCE, connect_time, places, reachable, shortest_connect};
pub(super) use odds::{Burst, Odds, Said};
pub(super) use paths::{Clients, Direction};
pub(super) use whose::{MOST_FLOWS, Meant};

/// More endpoints than a process listens on.
const MOST_ENDPOINTS: usize = 256;

/// Which traffic a fault is about, in which network, and who holds it: what the undo records of all faults on traffic
/// share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reach {
    endpoints: Vec<Endpoint>,
    #[serde(flatten)]
    network: Network,
    holder: Identity,
}

impl Reach {
    /// That of a test which has no target.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        let holder = Process::of_pid(std::process::id() as i32).map(|process| process.identity().clone());
        let network = Network::ours().expect("/proc is there");
        Self { endpoints: Vec::new(), network, holder: holder.expect("we live") }
    }

    /// Finds what is meant by `to` and `from`, touching nothing.
    pub(super) fn survey(site: &Site) -> Result<Self, Refusal> {
        let network = network(site)?;
        let mut endpoints = site.target.endpoints.clone();
        if !site.target.processes.is_empty() {
            endpoints = socket::listening(&site.target.pids());
        }
        if endpoints.is_empty() {
            let why = if site.target.processes.is_empty() {
                "it does not say which traffic".to_owned()
            } else {
                format!("{} listens nowhere", site.who())
            };
            return Err(
                site.refuse(why, "give it `to = { address = \"10.0.0.7:6379\" }` or `{ port = 6379 }`")
            );
        }
        if let Some(theirs) = site.target_elsewhere() {
            endpoints = seen_from_outside(&endpoints, &theirs).map_err(|why| {
                site.refuse(format!("the addresses of {}: {why}", theirs.said()), "run as root")
            })?;
            if endpoints.is_empty() {
                return Err(site.refuse(
                    format!("nothing of it can be reached from outside of {}", theirs.said()),
                    "leave `from` out, or name it by an address",
                ));
            }
        } else if endpoints.contains(&Endpoint::ANYWHERE) {
            if network.is_the_hosts() {
                return Err(site.refuse(
                    format!("that is all traffic of {}, by which people come to this host", network.said()),
                    "say an `address` or a `port` too",
                ));
            }
            if site.from.as_ref().is_some_and(|from| from.network().is_ok_and(|from| from.is_some())) {
                return Err(site.refuse(
                    format!("`to` and `from` are both in {}", network.said()),
                    "leave `from` out, or say an `address` or a `port` in `to`",
                ));
            }
        }
        if endpoints.len() > MOST_ENDPOINTS {
            return Err(site.refuse(
                format!("{} endpoints are more than {MOST_ENDPOINTS}", endpoints.len()),
                "name one address or port",
            ));
        }
        Ok(Self { endpoints, network, holder: site.holder.clone() })
    }

    /// Traffic to these endpoints, whoever has them.
    pub(super) fn at(site: &Site, endpoints: Vec<Endpoint>) -> Result<Self, Refusal> {
        Ok(Self { endpoints, network: network(site)?, holder: site.holder.clone() })
    }

    /// The endpoints meant.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The network in which it acts.
    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Does something in the network in which it acts.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, FaultError> {
        self.network
            .within(work)
            .map_err(|why| FaultError(format!("{} cannot be entered: {why}", self.network.said())))
    }

    /// Whether an end of a flow is one of them.
    pub(super) fn has(&self, end: SocketAddr) -> bool {
        self.endpoints.iter().any(|target| target.has(end))
    }

    /// Whether it is all that goes in and out of the network.
    pub(super) fn is_everything(&self) -> bool {
        self.endpoints.contains(&Endpoint::ANYWHERE)
    }

    /// Whether a packet goes to the target, not from it.
    pub(super) fn is_to(&self, packet: &Packet<'_>, flow: Option<Flow>) -> bool {
        if self.is_everything() {
            packet.hook != Hook::Output
        } else {
            flow.is_some_and(|flow| self.has(flow.to))
        }
    }

    /// Who holds the harm.
    pub(super) fn holder(&self) -> &Identity {
        &self.holder
    }

    /// Which packets are meant: where `from` names processes, the rules cannot tell and each flow is asked for.
    pub(super) fn meant(&self, site: &Site) -> Result<Meant, FaultError> {
        let from = site.from.as_ref().map_or(&[][..], |from| &from.processes);
        if from.is_empty() {
            return Ok(Meant::all());
        }
        let owners = self
            .within(Owners::open)?
            .map_err(|why| FaultError(format!("asking whose connections are: {why}")))?;
        let processes = from.iter().map(|process| process.identity().clone()).collect();
        Ok(Meant::of(owners, processes, self.clone()))
    }

    /// A target address and port, so that two runs on the same traffic clash, also when one of them names only
    /// the port or only the address, or all of the network. Within a run, several faults on the same traffic add up.
    pub(super) fn claims(&self, host: &str) -> Vec<Claim> {
        let network = self.network.namespace().0;
        let thing = |what: &Endpoint| format!("traffic to {what} in network namespace {network}");
        let mut claims = Vec::new();
        for endpoint in &self.endpoints {
            claims.push(Claim::exclusive(host, thing(endpoint)));
            if *endpoint != Endpoint::ANYWHERE {
                claims.push(Claim::shared(host, thing(&Endpoint::ANYWHERE)));
            }
            if endpoint.address.is_some() && endpoint.port.is_some() {
                claims.push(Claim::shared(host, thing(&Endpoint { address: None, ..*endpoint })));
                claims.push(Claim::shared(host, thing(&Endpoint { port: None, ..*endpoint })));
            }
        }
        claims
    }

    /// Whether what its holder put there is still there. With a network that has ended everything in it has. Where we
    /// may not look, it is there for as long as its holder lives, which nothing of it outlives.
    pub(super) async fn remains(
        &self,
        stands: impl Fn() -> Result<bool, UndoError> + Sync,
    ) -> Result<bool, UndoError> {
        let until = since_boot() + PATIENCE;
        loop {
            let lives = Process::open(&self.holder).is_ok();
            let there = match self.network.if_there(&stands) {
                Err(_) => lives,
                Ok(None) => false,
                Ok(Some(Ok(stands))) => stands,
                Ok(Some(Err(_))) if !lives => false,
                Ok(Some(Err(why))) => return Err(why),
            };
            // What closes with a process is closed a moment before or after it can be seen to be gone.
            if !there || since_boot() > until {
                return Ok(there);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a person can do to end it.
    pub(super) fn by_hand(&self, held: &impl std::fmt::Display) -> String {
        format!("end process {} of brownout: {held} goes with it", self.holder.pid)
    }
}

/// The network in which a fault acts, once it has been entered; refused when nobody is there whose traffic is meant.
fn network(site: &Site) -> Result<Network, Refusal> {
    let named = |found: &Found| !found.processes.is_empty() || !found.endpoints.is_empty();
    if site.from.as_ref().is_some_and(|from| !named(from)) {
        return Err(site.refuse("nobody fits its `from`".to_owned(), "is the client running?"));
    }
    let network = match &site.network {
        Some(network) => network.clone(),
        None => Network::ours()
            .map_err(|why| site.refuse(format!("our network namespace: {why}"), "mount /proc"))?,
    };
    network.within(|| ()).map_err(|why| {
        let remedy = "run as root of this host; where it belongs to another user, enter it as that user \
                          (`nsenter --user --net -t PID`) and run brownout there";
        site.refuse(format!("{} cannot be entered: {why}", network.said()), remedy)
    })?;
    Ok(network)
}

/// What stands for some endpoints of a network where one looks at it from another.
fn seen_from_outside(endpoints: &[Endpoint], theirs: &Network) -> std::io::Result<Vec<Endpoint>> {
    let addresses = theirs.addresses()?;
    let mut seen = Vec::new();
    for endpoint in endpoints {
        match endpoint.address {
            Some(address) if address.is_loopback() => {}
            Some(_) => seen.push(*endpoint),
            None => seen.extend(
                addresses.iter().map(|address| Endpoint { address: Some(*address), port: endpoint.port }),
            ),
        }
    }
    Ok(seen)
}

/// Whose traffic is meant.
pub(super) fn clients(site: &Site) -> Clients {
    match &site.from {
        None => Clients::Anyone,
        Some(from) if !from.processes.is_empty() => Clients::Processes,
        Some(from) if from.endpoints.contains(&Endpoint::ANYWHERE) => Clients::Here,
        Some(from) => Clients::At(from.endpoints.clone()),
    }
}

/// Whether the target is where it acts, being processes.
pub(super) fn is_here(site: &Site) -> bool {
    !site.target.processes.is_empty() && site.target_elsewhere().is_none()
}

/// With whom, and for whom only, as a plan says it; and where, when it is not where we are.
pub(super) fn between(site: &Site) -> (String, String) {
    let whom = if site.target.processes.is_empty() { site.target.said.clone() } else { site.who() };
    let only = site.from.as_ref().map_or_else(String::new, |from| format!(", for {} only", from.said));
    let named = |found: &Found| found.netns.is_some();
    let place = match &site.network {
        Some(network)
            if !network.is_ours() && !named(&site.target) && !site.from.as_ref().is_some_and(named) =>
        {
            format!(", in {}", network.said())
        }
        _ => String::new(),
    };
    (whom, only + &place)
}
