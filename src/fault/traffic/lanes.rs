//! Something of its own for each flow, with a chance of its own.

use std::collections::HashMap;
use std::net::SocketAddr;

use rand_chacha::ChaCha8Rng;

use super::{MOST_FLOWS, Reach};
use crate::base::Dice;
use crate::hands::flow::Flow;
use crate::host::socket::Protocol;

/// What is kept for each flow. The chance it begins with depends on the seed, on the decision, and on which flow it is,
/// and on nothing else: not on what other flows do meanwhile. Flows are told apart by the end that is the target, by
/// their way, and by the order in which they first came, since the port of a client is another each time.
#[derive(Debug)]
pub(in crate::fault) struct Lanes<T> {
    dice: Dice,
    decision: String,
    target: Reach,
    of: HashMap<Option<Flow>, T>,
    /// How many flows were met of each sort.
    met: HashMap<(Protocol, SocketAddr), u64>,
}

impl<T> Lanes<T> {
    pub(in crate::fault) fn new(dice: Dice, decision: String, target: Reach) -> Self {
        Self { dice, decision, target, of: HashMap::new(), met: HashMap::new() }
    }

    /// That of a flow; packets that show none share one. Of too many flows, those that are `idle` are forgotten, or all.
    pub(in crate::fault) fn of(
        &mut self,
        flow: Option<Flow>,
        idle: impl Fn(&T) -> bool,
        begin: impl FnOnce(ChaCha8Rng) -> T,
    ) -> &mut T {
        if self.of.len() >= MOST_FLOWS && !self.of.contains_key(&flow) {
            self.of.retain(|_, lane| !idle(lane));
            if self.of.len() >= MOST_FLOWS {
                self.of.clear();
            }
        }
        let Self { dice, decision, target, of, met } = self;
        of.entry(flow).or_insert_with(|| {
            let name = flow.map_or_else(String::new, |flow| {
                let to_target = target.has(flow.to);
                let end = if to_target { flow.to } else { flow.from };
                let nth = met.entry((flow.protocol, end)).or_default();
                *nth += 1;
                format!("{:?} {end} {to_target} {nth}", flow.protocol)
            });
            begin(dice.stream(&format!("{decision} {name}")))
        })
    }
}
