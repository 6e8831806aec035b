//! `disk-error`: what is done to files fails.

use nix::errno::Errno;

use super::gated::{self, Gated, Operations};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Percent;
use crate::file::{Mistakes, Node, Read, word};
use crate::hands::gate::{Measured, Operation, Order};
use crate::host::rights::Rights;
use crate::undo::Tier;

crate::kind! {
    /// Lets opening, reading and writing files fail.
    ///
    /// What a dying disk, a full volume or a used-up quota does. By a gate that the kernel asks before each operation
    /// (fanotify(7)), in a directory and all below it, or at one file. When its holder dies, the kernel lets everything
    /// pass at once.
    ///
    /// Before Linux 6.14 the only error is EPERM, and only opening and reading can fail; writing can on ext4, xfs and
    /// btrfs. Reading and writing fail in files that are opened meanwhile: one that was open already may go on (since
    /// Linux 6.14 it does). Not failing are fsync, what is done to mapped memory, and what lies in a directory that is made
    /// meanwhile. A new file whose opening fails is there all the same, and empty. Our own files, sshd, the init system
    /// and container runtimes are spared.
    pub struct DiskError("disk-error") {
        /// How it fails: EIO, ENOSPC, EDQUOT, EPERM, EBUSY, ETXTBSY or EAGAIN, which is all that the kernel lets us say.
        errno: Errors = "EIO",
        /// Which: some of `open`, `read` and `write`. All that can be had here when not said.
        operations: Operations = optional,
        /// Such a share of them, drawn from the seed.
        percent: Percent = "100%",
        /// So many pass before the first fails.
        after: u32 = "0",
        /// Only so many fail, then all pass again.
        first: u32 = optional,
    }
}

/// An error of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errors(Errno);

/// Those that a gate may answer with (fanotify(7), FAN_DENY_ERRNO).
const ERRORS: [(&str, Errors); 7] = [
    ("EIO", Errors(Errno::EIO)),
    ("ENOSPC", Errors(Errno::ENOSPC)),
    ("EDQUOT", Errors(Errno::EDQUOT)),
    ("EPERM", Errors(Errno::EPERM)),
    ("EBUSY", Errors(Errno::EBUSY)),
    ("ETXTBSY", Errors(Errno::ETXTBSY)),
    ("EAGAIN", Errors(Errno::EAGAIN)),
];

impl Read for Errors {
    const NAME: &'static str = "error";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        word(node, mistakes, &ERRORS)
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"enum": ERRORS.map(|(word, _)| word)})
    }
}

impl Fault for DiskError {
    type Owed = Gated;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Files;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.bad-sectors.disk-error]
target     = { path = "/var/lib/app" }
from       = { exe = "my-server" }   # its doings only, and its children's
errno      = "EIO"
operations = ["read"]
percent    = "5%"
for        = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Gated, Refusal> {
        if self.percent.share() <= 0.0 || self.first == Some(0) {
            return Err(site.refuse("nothing would fail".to_owned(), "raise `percent` or `first`"));
        }
        let (owed, powers) = gated::survey(site, self.operations.as_ref())?;
        let Errors(error) = self.errno;
        if error != Errno::EPERM && !powers.errors {
            return Err(site.refuse(
                format!("{error:?} takes Linux 6.14: before, the kernel lets us say EPERM only"),
                "ask for errno = \"EPERM\"",
            ));
        }
        Ok(owed)
    }

    async fn inject(&self, site: &Site, owed: &Gated, held: &mut Held) -> Result<(), FaultError> {
        let order = Order {
            error: Some(self.errno.0),
            share: self.percent.share(),
            after: u64::from(self.after),
            first: self.first.map_or(u64::MAX, u64::from),
            ..gated::order(site, owed)
        };
        gated::inject(site, owed, order, held).await
    }

    async fn verify(&self, _: &Site, owed: &Gated, held: &Held) -> Effect {
        match gated::measure(owed, held).await {
            Ok(went) => judge(self.errno.0, &went, &gated::came_by(held)),
            Err(why) => Effect::Unverifiable(format!("{why}; {}", gated::came_by(held))),
        }
    }

    async fn spared(&self, _: &Site, owed: &Gated, held: &Held) -> Option<Effect> {
        let (outside, went) = gated::beside(owed, held).await?;
        let failed = went.iter().find_map(|(operation, one)| Some((*operation, one.error?)));
        Some(match failed {
            None => Effect::Confirmed(format!("nothing failed in {}", outside.display())),
            Some((operation, error)) => Effect::Mismatch(format!(
                "{} in {} failed with {error:?}",
                gated::named(operation),
                outside.display()
            )),
        })
    }

    fn mechanism(&self, owed: &Gated) -> Option<String> {
        Some(gated::mechanism(owed))
    }

    fn harm(&self, site: &Site) -> String {
        let what =
            self.operations.as_ref().map_or_else(|| "using".to_owned(), |Operations(some)| gated::said(some));
        let share = if self.percent.share() < 1.0 { format!("{} of ", self.percent) } else { String::new() };
        format!("makes {share}{what} files of {} fail with {:?}", gated::whose(site), self.errno.0)
    }

    fn ability(rights: &Rights) -> Ability {
        gated::ability(rights)
    }
}

fn judge(error: Errno, went: &[(Operation, Measured)], others: &str) -> Effect {
    let each: Vec<String> = went
        .iter()
        .map(|(operation, one)| {
            let end = one.error.map_or_else(|| "no error".to_owned(), |error| format!("{error:?}"));
            format!("{} got {end}", gated::named(*operation))
        })
        .collect();
    let figures = format!("asked {error:?}, measured: {}; {others}", each.join(", "));
    let fits = went.iter().all(|(_, one)| one.error == Some(error));
    if fits { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_error_or_none_is_not_what_was_asked_for() {
        let went = |error| [(Operation::Open, Measured { took: std::time::Duration::ZERO, error })];
        assert_eq!(
            judge(Errno::EIO, &went(Some(Errno::EIO)), "x"),
            Effect::Confirmed("asked EIO, measured: opening got EIO; x".to_owned())
        );
        for error in [None, Some(Errno::EPERM)] {
            assert!(matches!(judge(Errno::EIO, &went(error), ""), Effect::Mismatch(_)), "{error:?}");
        }
    }
}
