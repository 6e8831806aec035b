//! `reorder`: packets overtake one another.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::hits::Hits;
use super::traffic::{Burst, Direction, Said, between};
use super::{Refusal, Site};
use crate::base::Percent;
use crate::base::unit::say;
use crate::hands::queue::{Fate, Manner, Packet, Tally};

crate::kind! {
    /// Lets a share of the packets of some traffic be overtaken by those behind them.
    ///
    /// TCP and UDP, existing connections included. A packet that is hit waits for `by`, and what comes behind it meanwhile
    /// goes first. TCP takes a few that are overtaken for lost and sends again; a stream of datagrams arrives out of order.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. Which packets are hit, alone or in bursts, and the same ones for the same seed, is as
    /// for `loss`.
    pub struct Reorder("reorder") {
        /// The share of packets that is hit.
        percent: Percent = required,
        /// How long a packet that is hit waits.
        by: Duration = "20ms",
        /// How many packets a burst is long in the mean, such as "5 packets".
        burst: Burst = optional,
        /// How much the fate of a packet is like that of the one before it in its flow; 0 % is independence.
        correlation: Percent = optional,
        /// `to` the target, `from` it, or `both`, each way by itself.
        direction: Direction = "to",
    }
}

/// A packet that waits longer is late, not overtaken.
const LONGEST: Duration = Duration::from_secs(5);

impl Hits for Reorder {
    const EXAMPLE: &'static str = r#"[fault.overtaken.reorder]
to      = { port = 6379 }
percent = "5%"
at      = "5s"
for     = "30s"
"#;
    const DONE: &'static str = "overtaken";

    fn said(&self) -> (Said, Direction) {
        let Self { percent, burst, correlation, .. } = *self;
        (Said { percent, burst, correlation, bad: 1.0, good: 0.0 }, self.direction)
    }

    fn check_own(&self, site: &Site) -> Result<(), Refusal> {
        if self.by.is_zero() || self.by > LONGEST {
            let why = format!("a wait of {} is none, or too long", say(self.by));
            return Err(site.refuse(why, &format!("ask for more than 0 s and at most {}", say(LONGEST))));
        }
        Ok(())
    }

    fn manner() -> Manner {
        Manner::each()
    }

    fn done(tally: &Tally) -> u64 {
        tally.held()
    }

    fn fate(&self) -> impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static {
        let by = self.by;
        move |_, now, _| Fate::Hold(now + by)
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let (percent, ways, by) = (self.percent, self.direction.said(), say(self.by));
        format!("lets {percent} of the packets {ways} {whom} wait {by}, and others overtake them{only}")
    }
}
