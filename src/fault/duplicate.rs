//! `duplicate`: packets arrive twice.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::Site;
use super::hits::Hits;
use super::traffic::{Burst, Direction, Said, between};
use crate::base::Percent;
use crate::hands::queue::{Fate, Manner, Packet, Tally};

crate::kind! {
    /// Lets a share of the packets of some traffic arrive twice, TCP and UDP, existing connections included.
    ///
    /// TCP drops what it has already; whoever speaks UDP, or a protocol over it, must notice by itself. The copy is sent
    /// right behind the packet, by a socket of ours, so it is larger segments cut up that are met.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. Which packets are hit, alone or in bursts, and the same ones for the same seed, is as
    /// for `loss`.
    pub struct Duplicate("duplicate") {
        /// The share of packets that is hit.
        percent: Percent = required,
        /// How many packets a burst is long in the mean, such as "5 packets".
        burst: Burst = optional,
        /// How much the fate of a packet is like that of the one before it in its flow; 0 % is independence.
        correlation: Percent = optional,
        /// `to` the target, `from` it, or `both`, each way by itself.
        direction: Direction = "to",
    }
}

impl Hits for Duplicate {
    const EXAMPLE: &'static str = r#"[fault.echo.duplicate]
to      = { port = 6379 }
percent = "5%"
at      = "5s"
for     = "30s"
"#;
    const DONE: &'static str = "doubled";

    fn said(&self) -> (Said, Direction) {
        let Self { percent, burst, correlation, .. } = *self;
        (Said { percent, burst, correlation, bad: 1.0, good: 0.0 }, self.direction)
    }

    fn manner() -> Manner {
        Manner::twice()
    }

    fn done(tally: &Tally) -> u64 {
        tally.doubled()
    }

    fn fate(&self) -> impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static {
        |_, _, _| Fate::Twice
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        format!("doubles {} of the packets {} {whom}{only}", self.percent, self.direction.said())
    }
}
