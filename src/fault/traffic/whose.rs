//! Whose packet it is: where `from` names processes, rules cannot tell.

use std::collections::HashMap;
use std::time::Duration;

use super::Reach;
use crate::hands::flow::{self, Flow};
use crate::hands::queue::Packet;
use crate::host::process::Identity;
use crate::host::socket::{Owners, is_of};

/// Flows remembered at once. More than that, and what is known of them is thrown away.
pub(in crate::fault) const MOST_FLOWS: usize = 65_536;
/// Whose a flow is, is asked again after so long: a port may have changed hands.
const FRESH: Duration = Duration::from_secs(5);

/// Which of the packets that the rules took are meant.
#[derive(Debug)]
pub(in crate::fault) struct Meant(Option<Whose>);

impl Meant {
    /// All of them.
    pub(in crate::fault) fn all() -> Self {
        Self(None)
    }

    /// Those between these processes and the target.
    pub(in crate::fault) fn of(owners: Owners, processes: Vec<Identity>, target: Reach) -> Self {
        Self(Some(Whose { owners, processes, target, known: HashMap::new() }))
    }

    /// Whether a packet is meant, and its flow if it shows one.
    pub(in crate::fault) fn flow(&mut self, packet: &Packet<'_>, now: Duration) -> (bool, Option<Flow>) {
        let seen = flow::of(packet.shown);
        let meant = match (&mut self.0, seen) {
            (None, _) => true,
            (Some(whose), Some((flow, opens))) => whose.ours(flow, opens, now),
            (Some(_), None) => false,
        };
        (meant, seen.map(|(flow, _)| flow))
    }
}

/// Tells the flows of some processes from those of others.
#[derive(Debug)]
struct Whose {
    owners: Owners,
    processes: Vec<Identity>,
    target: Reach,
    known: HashMap<Flow, (bool, Duration)>,
}

impl Whose {
    fn ours(&mut self, flow: Flow, opens: bool, now: Duration) -> bool {
        match self.known.get(&flow) {
            Some((ours, asked)) if !opens && now < *asked + FRESH => return *ours,
            _ => {}
        }
        // The client's end: the other one is the target's.
        let (near, far) = if self.target.has(flow.to) { (flow.from, flow.to) } else { (flow.to, flow.from) };
        let inode = self.owners.inode(flow.protocol, near, far);
        let ours = inode.is_some_and(|inode| is_of(inode, &self.processes));
        if self.known.len() >= MOST_FLOWS {
            self.known.clear();
        }
        self.known.insert(flow, (ours, now));
        ours
    }
}
