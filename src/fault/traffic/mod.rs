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
use crate::host::process::{Identity, Process};
use crate::host::socket::{self, Namespace, Owners};
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

/// Which traffic a fault is about, and who holds it: what the undo records of all faults on traffic share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reach {
    endpoints: Vec<Endpoint>,
    namespace: Namespace,
    holder: Identity,
}

impl Reach {
    /// That of a test which has no target.
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        let holder = Process::of_pid(std::process::id() as i32).map(|process| process.identity().clone());
        Self { endpoints: Vec::new(), namespace: Namespace(0), holder: holder.expect("we live") }
    }

    /// Finds what is meant by `to` and `from`, touching nothing.
    pub(super) fn survey(site: &Site) -> Result<Self, Refusal> {
        let whose = Self::at(site, Vec::new())?;
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
        Ok(Self { endpoints, ..whose })
    }

    /// Traffic to these endpoints, of whom is meant by `from`.
    pub(super) fn at(site: &Site, endpoints: Vec<Endpoint>) -> Result<Self, Refusal> {
        let named = |found: &Found| !found.processes.is_empty() || !found.endpoints.is_empty();
        if site.from.as_ref().is_some_and(|from| !named(from)) {
            return Err(site.refuse("nobody fits its `from`".to_owned(), "is the client running?"));
        }
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
        Ok(Self { endpoints, namespace, holder: site.holder.clone() })
    }

    /// The endpoints meant.
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Where it is.
    pub(super) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Whether an end of a flow is one of them.
    pub(super) fn has(&self, end: SocketAddr) -> bool {
        self.endpoints.iter().any(|target| {
            target.address.is_none_or(|address| address == end.ip())
                && target.port.is_none_or(|port| port == end.port())
        })
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
        let owners =
            Owners::open().map_err(|why| FaultError(format!("asking whose connections are: {why}")))?;
        let processes = from.iter().map(|process| process.identity().clone()).collect();
        Ok(Meant::of(owners, processes, self.clone()))
    }

    /// A target address and port, so that two runs on the same traffic clash, also when one of them names only
    /// the port or only the address. Within a run, several faults on the same traffic add up.
    pub(super) fn claims(&self, host: &str) -> Vec<Claim> {
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

    /// Whether what its holder put there is still there. Elsewhere than in its namespace that cannot be seen; but
    /// nothing of it outlives the holder.
    pub(super) async fn remains(
        &self,
        stands: impl Fn() -> Result<bool, UndoError>,
    ) -> Result<bool, UndoError> {
        let until = since_boot() + PATIENCE;
        loop {
            let lives = Process::open(&self.holder).is_ok();
            let here = Namespace::ours().is_ok_and(|ours| ours == self.namespace);
            let there = match here.then(&stands) {
                None => lives,
                Some(Ok(stands)) => stands,
                Some(Err(_)) if !lives => false,
                Some(Err(why)) => return Err(why),
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

/// Whose traffic is meant.
pub(super) fn clients(site: &Site) -> Clients {
    match &site.from {
        None => Clients::Anyone,
        Some(from) if !from.processes.is_empty() => Clients::Processes,
        Some(from) => Clients::At(from.endpoints.clone()),
    }
}

/// Whether the target is on this host, being processes.
pub(super) fn is_here(site: &Site) -> bool {
    !site.target.processes.is_empty()
}

/// With whom, and for whom only, as a plan says it.
pub(super) fn between(site: &Site) -> (String, String) {
    let whom = if is_here(site) { site.who() } else { site.target.said.clone() };
    let only = site.from.as_ref().map_or_else(String::new, |from| format!(", for {} only", from.said));
    (whom, only)
}
