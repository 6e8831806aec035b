//! `loss`: packets do not arrive.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::Site;
use super::hits::Hits;
use super::traffic::{Burst, Direction, Said, between};
use crate::base::Percent;
use crate::hands::queue::{Fate, Manner, Packet, Tally};

crate::kind! {
    /// Loses a share of the packets of some traffic, TCP and UDP, existing connections included.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. Every packet that goes that way may be lost; no sender on this host sees an error.
    /// TCP sends again: what a client feels is a wait of 200 ms and more, doubled each time.
    ///
    /// Packets are lost independently of one another, or in bursts (`burst`), or with a likeness to the packet before
    /// (`correlation`). By themselves these mean that a burst loses everything and nothing is lost outside it
    /// (Gilbert); `in_burst` and `between` make it the model of Gilbert and Elliott. `percent` is the mean in any case.
    ///
    /// Which packets are lost depends on the seed, on the flow, and on the number of the packet in its flow, not on what
    /// other flows do meanwhile: the same seed loses the same packets. Flows are counted as they come.
    pub struct Loss("loss") {
        /// The share of packets that is lost.
        percent: Percent = required,
        /// How many packets a burst is long in the mean, such as "5 packets".
        burst: Burst = optional,
        /// How much the fate of a packet is like that of the one before it in its flow; 0 % is independence.
        correlation: Percent = optional,
        /// The share lost within a burst.
        in_burst: Percent = "100%",
        /// The share lost between bursts.
        between: Percent = "0%",
        /// `to` the target, `from` it, or `both`, each way by itself.
        direction: Direction = "to",
    }
}

impl Hits for Loss {
    const EXAMPLE: &'static str = r#"[fault.bad-cable.loss]
to      = { port = 6379 }
percent = "10%"
burst   = "3 packets"
at      = "5s"
for     = "30s"
"#;
    const DONE: &'static str = "lost";

    fn said(&self) -> (Said, Direction) {
        let (bad, good) = (self.in_burst.share(), self.between.share());
        let Self { percent, burst, correlation, .. } = *self;
        (Said { percent, burst, correlation, bad, good }, self.direction)
    }

    fn manner() -> Manner {
        Manner::each()
    }

    fn done(tally: &Tally) -> u64 {
        tally.dropped()
    }

    fn fate(&self) -> impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static {
        |_, _, _| Fate::Drop
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        format!("loses {} of the packets {} {whom}{only}", self.percent, self.direction.said())
    }
}
