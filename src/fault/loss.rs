//! `loss`: packets do not arrive.

use super::traffic::{Burst, Direction, Odds, Queued, Said, between};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::hands::queue::{Fate, Manner, Tally};
use crate::host::rights::Rights;
use crate::undo::Tier;

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

impl Loss {
    fn odds(&self, site: &Site) -> Result<Odds, Refusal> {
        let (bad, good) = (self.in_burst.share(), self.between.share());
        let Self { percent, burst, correlation, .. } = *self;
        Odds::of(site, Said { percent, burst, correlation, bad, good })
    }
}

impl Fault for Loss {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.bad-cable.loss]
to      = { port = 6379 }
percent = "10%"
burst   = "3 packets"
at      = "5s"
for     = "30s"
"#;

    fn ability(_: &Rights) -> Ability {
        Queued::ability()
    }

    async fn survey(&self, site: &Site) -> Result<Queued, Refusal> {
        self.odds(site)?;
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        let odds = self.odds(site).map_err(|why| FaultError(why.to_string()))?;
        owed.hit(site, held, (odds, self.direction, Manner::each()), |_, _, _| Fate::Drop).await
    }

    async fn verify(&self, site: &Site, _: &Queued, held: &Held) -> Effect {
        match self.odds(site) {
            Ok(odds) => Queued::hits(held, &odds, Tally::dropped, "lost").await,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        format!("loses {} of the packets {} {whom}{only}", self.percent, self.direction.said())
    }
}
