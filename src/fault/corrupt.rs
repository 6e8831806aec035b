//! `corrupt`: packets arrive with a wrong bit.

use rand::Rng;

use super::traffic::{Burst, Direction, Odds, Queued, Said, between};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::hands::flow;
use crate::hands::queue::{Fate, Manner, Tally};
use crate::host::rights::Rights;
use crate::undo::Tier;

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

impl Corrupt {
    fn odds(&self, site: &Site) -> Result<Odds, Refusal> {
        let Self { percent, burst, correlation, .. } = *self;
        Odds::of(site, Said { percent, burst, correlation, bad: 1.0, good: 0.0 })
    }
}

impl Fault for Corrupt {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.bad-memory.corrupt]
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
        let mends = self.checksum == Checksum::Mended;
        owed.hit(site, held, (odds, self.direction, Manner::whole()), move |packet, _, chance| {
            let mut bytes = packet.shown.to_vec();
            if packet.whole && flow::turn_a_bit(&mut bytes, chance.random(), mends) {
                Fate::Replace(bytes)
            } else {
                Fate::Pass
            }
        })
        .await
    }

    async fn verify(&self, site: &Site, _: &Queued, held: &Held) -> Effect {
        match self.odds(site) {
            Ok(odds) => Queued::hits(held, &odds, Tally::changed, "changed").await,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
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
