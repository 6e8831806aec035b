//! `duplicate`: packets arrive twice.

use super::traffic::{Burst, Direction, Odds, Queued, Said, between};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::hands::queue::{Fate, Manner, Tally};
use crate::host::rights::Rights;
use crate::undo::Tier;

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

impl Duplicate {
    fn odds(&self, site: &Site) -> Result<Odds, Refusal> {
        let Self { percent, burst, correlation, .. } = *self;
        Odds::of(site, Said { percent, burst, correlation, bad: 1.0, good: 0.0 })
    }
}

impl Fault for Duplicate {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.echo.duplicate]
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
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        let odds = self.odds(site).map_err(|why| FaultError(why.to_string()))?;
        owed.hit(site, held, (odds, self.direction, Manner::twice()), |_, _, _| Fate::Twice).await
    }

    async fn verify(&self, site: &Site, _: &Queued, held: &Held) -> Effect {
        match self.odds(site) {
            Ok(odds) => Queued::hits(held, &odds, Tally::doubled, "doubled").await,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        format!("doubles {} of the packets {} {whom}{only}", self.percent, self.direction.said())
    }
}
