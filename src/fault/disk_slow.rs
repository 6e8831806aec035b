//! `disk-slow`: what is done to files takes longer.

use std::time::Duration;

use super::gated::{self, Gated, Operations};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::base::unit::say;
use crate::hands::gate::{Measured, Operation, Order};
use crate::host::rights::Rights;
use crate::undo::Tier;

/// Longer, and nobody could tell it from a disk that hangs.
const MOST: Duration = Duration::from_mins(1);

crate::kind! {
    /// Lets opening, reading and writing files take longer.
    ///
    /// What a worn disk, a busy array or a volume over a network does. By a gate that the kernel asks before each
    /// operation (fanotify(7)), in a directory and all below it, or at one file. When its holder dies, the kernel lets
    /// everything pass at once, and what waits goes on.
    ///
    /// Reading and writing are slow in files that are opened meanwhile: a file that was open already may stay fast
    /// (since Linux 6.14 it does). Writing can be held since Linux 6.14, on ext4, xfs and btrfs. Not slow are fsync,
    /// what is done to mapped memory, and what lies in a directory that is made meanwhile. Our own files, sshd, the init
    /// system and container runtimes are never held.
    pub struct DiskSlow("disk-slow") {
        /// How much longer each operation takes; at most a minute.
        delay: Duration = required,
        /// Which: some of `open`, `read` and `write`. All that can be had here when not said.
        operations: Operations = optional,
        /// Such a share of them, drawn from the seed.
        percent: Percent = "100%",
    }
}

impl Fault for DiskSlow {
    type Owed = Gated;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Files;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.slow-disk.disk-slow]
target = { path = "/var/lib/app" }
from   = { exe = "my-server" }   # its doings only, and its children's
delay  = "50ms"
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Gated, Refusal> {
        if self.delay.is_zero() || self.delay > MOST || self.percent.share() <= 0.0 {
            return Err(site.refuse(
                format!("{} for {} of all operations", say(self.delay), self.percent),
                "ask for a delay of at most a minute, and for more than 0%",
            ));
        }
        gated::survey(site, self.operations.as_ref()).map(|(owed, _)| owed)
    }

    async fn inject(&self, site: &Site, owed: &Gated, held: &mut Held) -> Result<(), FaultError> {
        let order = Order { delay: self.delay, share: self.percent.share(), ..gated::order(site, owed) };
        gated::inject(site, owed, order, held).await
    }

    async fn verify(&self, _: &Site, owed: &Gated, held: &Held) -> Effect {
        match gated::measure(owed, held).await {
            Ok(went) => judge(self.delay, &went, &gated::came_by(held)),
            Err(why) => Effect::Unverifiable(format!("{why}; {}", gated::came_by(held))),
        }
    }

    async fn spared(&self, _: &Site, owed: &Gated, held: &Held) -> Option<Effect> {
        let (outside, went) = gated::beside(owed, held).await?;
        let longest = went.iter().map(|(_, one)| one.took).max()?;
        let figures = format!("{} took {}", outside.display(), say(rounded(longest)));
        Some(if longest < self.delay { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) })
    }

    fn mechanism(&self, owed: &Gated) -> Option<String> {
        Some(gated::mechanism(owed))
    }

    fn harm(&self, site: &Site) -> String {
        let what =
            self.operations.as_ref().map_or_else(|| "using".to_owned(), |Operations(some)| gated::said(some));
        let share = if self.percent.share() < 1.0 { format!("{} of ", self.percent) } else { String::new() };
        format!("makes {share}{what} files of {} take {} longer", gated::whose(site), say(self.delay))
    }

    fn ability(rights: &Rights) -> Ability {
        gated::ability(rights)
    }
}

/// To what people read.
pub(super) fn rounded(took: Duration) -> Duration {
    Duration::from_micros(took.as_micros() as u64 / 10 * 10)
}

fn judge(delay: Duration, went: &[(Operation, Measured)], others: &str) -> Effect {
    let each: Vec<String> = went
        .iter()
        .map(|(operation, one)| format!("{} took {}", gated::named(*operation), say(rounded(one.took))))
        .collect();
    let figures = format!("asked {}, measured: {}; {others}", say(delay), each.join(", "));
    // A busy machine is late, and never early.
    let fits = |one: &Measured| one.error.is_none() && one.took >= delay && one.took <= delay * 2 + MARGIN;
    if went.iter().all(|(_, one)| fits(one)) { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
}

/// How late a busy machine may be.
const MARGIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_is_too_fast_or_fails_is_not_what_was_asked_for() {
        let ms = Duration::from_millis;
        let went = |took, error| [(Operation::Read, Measured { took, error })];
        assert_eq!(
            judge(ms(50), &went(Duration::from_micros(50_123), None), "x"),
            Effect::Confirmed("asked 50 ms, measured: reading took 50.1 ms; x".to_owned())
        );
        for (took, error) in [(ms(49), None), (ms(50), Some(nix::errno::Errno::EIO)), (ms(500), None)] {
            assert!(matches!(judge(ms(50), &went(took, error), ""), Effect::Mismatch(_)), "{took:?}");
        }
    }
}
