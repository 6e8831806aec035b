//! `corrupt`: packets arrive with a wrong bit.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Site;
use super::hits::Hits;
use super::traffic::{Burst, Direction, Said, between};
use crate::base::Percent;
use crate::hands::flow;
use crate::hands::queue::{Fate, Manner, Packet, Tally};

crate::kind! {
    /// Turns a bit over in a share of the packets of some traffic, TCP and UDP, existing connections included.
    ///
    /// With a checksum that is not mended, as on a bad cable, the receiver drops the packet: it is lost, and TCP sends
    /// again. With one that is mended, as behind a broken router or in bad memory, the wrong bit reaches the program: what
    /// TLS or a checksum of the protocol's own must notice.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. Which packets are hit, alone or in bursts, and the same ones for the same seed, is as
    /// for `loss`.
    pub struct Corrupt("corrupt") {
        /// The share of packets that is hit.
        percent: Percent = required,
        /// Whether the checksum fits the wrong bit: `broken` or `mended`.
        checksum: Checksum = "broken",
        /// How many packets a burst is long in the mean, such as "5 packets".
        burst: Burst = optional,
        /// How much the fate of a packet is like that of the one before it in its flow; 0 % is independence.
        correlation: Percent = optional,
        /// `to` the target, `from` it, or `both`, each way by itself.
        direction: Direction = "to",
    }
}

/// Whether a checksum fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// It is left as it was.
    Broken,
    /// It is made to fit.
    Mended,
}

crate::words!(Checksum, "checksum", "broken" => Self::Broken, "mended" => Self::Mended);

impl Hits for Corrupt {
    const EXAMPLE: &'static str = r#"[fault.bad-memory.corrupt]
to      = { port = 6379 }
percent = "5%"
at      = "5s"
for     = "30s"
"#;
    const DONE: &'static str = "changed";

    fn said(&self) -> (Said, Direction) {
        let Self { percent, burst, correlation, .. } = *self;
        (Said { percent, burst, correlation, bad: 1.0, good: 0.0 }, self.direction)
    }

    fn manner() -> Manner {
        Manner::whole()
    }

    fn done(tally: &Tally) -> u64 {
        tally.changed()
    }

    fn fate(&self) -> impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static {
        let mends = self.checksum == Checksum::Mended;
        move |packet, _, chance| {
            let mut bytes = packet.shown.to_vec();
            if packet.whole && flow::turn_a_bit(&mut bytes, chance.random(), mends) {
                Fate::Replace(bytes)
            } else {
                Fate::Pass
            }
        }
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let how = if self.checksum == Checksum::Mended {
            "and mends their checksums"
        } else {
            "which breaks their checksums"
        };
        let (percent, ways) = (self.percent, self.direction.said());
        format!("turns a bit over in {percent} of the packets {ways} {whom}, {how}{only}")
    }
}
