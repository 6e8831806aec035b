//! `reorder`: packets overtake one another.

use std::time::Duration;

use super::traffic::{Burst, Direction, Odds, Queued, Said, between};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::base::unit::say;
use crate::hands::queue::{Fate, Manner, Tally};
use crate::host::rights::Rights;
use crate::undo::Tier;

crate::kind! {
    /// Lets a share of the packets of some traffic be overtaken by those behind them.
    ///
    /// TCP and UDP, existing connections included. A packet that is hit waits for `by`, and what comes behind it meanwhile goes first. TCP takes a few that are
    /// overtaken for lost and sends again; a stream of datagrams arrives out of order.
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

impl Reorder {
    fn odds(&self, site: &Site) -> Result<Odds, Refusal> {
        let Self { percent, burst, correlation, .. } = *self;
        Odds::of(site, Said { percent, burst, correlation, bad: 1.0, good: 0.0 })
    }
}

impl Fault for Reorder {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.overtaken.reorder]
to      = { port = 6379 }
percent = "5%"
at      = "5s"
for     = "30s"
"#;

    fn ability(_: &Rights) -> Ability {
        Queued::ability()
    }

    async fn survey(&self, site: &Site) -> Result<Queued, Refusal> {
        self.odds(site)?;
        if self.by.is_zero() || self.by > LONGEST {
            let why = format!("a wait of {} is none, or too long", say(self.by));
            return Err(site.refuse(why, &format!("ask for more than 0 s and at most {}", say(LONGEST))));
        }
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        let odds = self.odds(site).map_err(|why| FaultError(why.to_string()))?;
        let by = self.by;
        owed.hit(site, held, (odds, self.direction, Manner::each()), move |_, now, _| Fate::Hold(now + by))
            .await
    }

    async fn verify(&self, site: &Site, _: &Queued, held: &Held) -> Effect {
        match self.odds(site) {
            Ok(odds) => Queued::hits(held, &odds, Tally::held, "overtaken").await,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let (percent, ways, by) = (self.percent, self.direction.said(), say(self.by));
        format!("lets {percent} of the packets {ways} {whom} wait {by}, and others overtake them{only}")
    }
}
