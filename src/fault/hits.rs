//! What `loss`, `duplicate`, `corrupt` and `reorder` have in common: packets are hit by chance, and the rest of each kind
//! is what becomes of one that is hit.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use super::traffic::{Direction, Odds, Queued, Said};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::hands::queue::{Fate, Manner, Packet, Tally};
use crate::host::rights::Rights;
use crate::undo::Tier;

/// A fault that hits packets by chance.
pub(super) trait Hits {
    /// See [`Fault::EXAMPLE`].
    const EXAMPLE: &'static str;
    /// What was done to a packet that is hit, as figures say it: `lost`.
    const DONE: &'static str;

    /// How many are hit, which come together, and which way they go.
    fn said(&self) -> (Said, Direction);
    /// What of its own fields cannot be.
    fn check_own(&self, _: &Site) -> Result<(), Refusal> {
        Ok(())
    }
    /// How packets must be shown for that.
    fn manner() -> Manner;
    /// How many were hit.
    fn done(tally: &Tally) -> u64;
    /// What becomes of a packet that is hit, with its own chance.
    fn fate(&self) -> impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static;
    /// See [`Fault::harm`].
    fn harm(&self, site: &Site) -> String;
}

fn odds(of: &impl Hits, site: &Site) -> Result<Odds, Refusal> {
    Odds::of(site, of.said().0)
}

impl<H: Hits> Fault for H {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = H::EXAMPLE;

    fn ability(_: &Rights) -> Ability {
        Queued::ability()
    }

    async fn survey(&self, site: &Site) -> Result<Queued, Refusal> {
        odds(self, site)?;
        self.check_own(site)?;
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        let odds = odds(self, site).map_err(|why| FaultError(why.to_string()))?;
        let (_, direction) = self.said();
        owed.hit(site, held, (odds, direction, H::manner()), self.fate()).await
    }

    async fn verify(&self, site: &Site, _: &Queued, held: &Held) -> Effect {
        match odds(self, site) {
            Ok(odds) => Queued::hits(held, &odds, H::done, H::DONE).await,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        Hits::harm(self, site)
    }
}
