//! `fds`: a running process has few file descriptors left, by its own soft limit.

use std::collections::{BTreeSet, HashSet};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::host::limit::{Limited, Limits};
use crate::host::process::{Identity, Process, ProcessError};
use crate::host::rights::{Capability, Dummy, Rights};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Leaves processes few file descriptors: opening a file, a connection or a pipe then fails with EMFILE.
    ///
    /// What a descriptor leak does. By the soft limit of each process (RLIMIT_NOFILE, prlimit(2)); what is open
    /// stays open and works. Children that are started meanwhile inherit the limit, and keep it afterwards. A
    /// process may raise its own soft limit again, and some do when they start.
    pub struct Fds("fds") {
        /// So many can still be opened.
        leave: u32 = "0",
    }
}

/// The soft limits of some processes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lowered {
    targets: Vec<One>,
}

/// One process: the soft limit it had, and the one it got.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct One {
    process: Identity,
    before: u64,
    during: u64,
}

impl Fault for Fds {
    type Owed = Lowered;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.out-of-descriptors.fds]
target = { listen = 8080 }       # the process that listens there
leave  = 2
for    = "20s"
"#;

    async fn survey(&self, site: &Site) -> Result<Lowered, Refusal> {
        site.some_processes()?;
        let mut targets = Vec::new();
        for process in &site.target.processes {
            let pid = process.identity().pid;
            // Reading takes the same rights as setting (prlimit(2)).
            let Limits { soft: before, hard } = limits(process).map_err(|why| refusal(site, &why))?;
            if lowered().contains(process.identity()) {
                return Err(site.refuse(
                    format!("another fault of this run holds the limit of process {pid}"),
                    "let one begin after the other ended",
                ));
            }
            let open = open_by(pid).map_err(|why| {
                site.refuse(format!("the descriptors of process {pid} cannot be seen: {why}"), "run as root")
            })?;
            let during = limit_that_leaves(self.leave, &open);
            if during >= before.min(hard) {
                return Err(site.refuse(
                    format!("process {pid} has {} left of {before} as it is", left(&open, before)),
                    "leave fewer",
                ));
            }
            targets.push(One { process: process.identity().clone(), before, during });
        }
        Ok(Lowered { targets })
    }

    async fn inject(&self, site: &Site, owed: &Lowered, _: &mut Held) -> Result<(), FaultError> {
        for (process, one) in site.target.processes.iter().zip(&owed.targets) {
            let was =
                Limited::Files.set_soft(process, one.during).map_err(|why| FaultError(why.to_string()))?.soft;
            if was != one.before {
                // Undoing brings back what was written down, which is no longer what was there.
                let _ = Limited::Files.set_soft(process, was);
                let pid = one.process.pid;
                return Err(FaultError(format!(
                    "the limit of process {pid} changed from {} to {was} as we came to it: another fault, or itself",
                    one.before
                )));
            }
            lowered().insert(one.process.clone());
        }
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Lowered, _: &Held) -> Effect {
        let (mut said, mut as_asked) = (Vec::new(), true);
        for one in &owed.targets {
            let pid = one.process.pid;
            let seen = Process::open(&one.process).and_then(|process| limits(&process));
            match (seen, open_by(pid)) {
                (Ok(Limits { soft, .. }), Ok(open)) => {
                    let left = left(&open, soft);
                    as_asked &= soft == one.during && left <= u64::from(self.leave);
                    said.push(format!("process {pid} has {left} left of {soft}, before of {}", one.before));
                }
                (Err(why), _) => return Effect::Unverifiable(why.to_string()),
                (_, Err(why)) => return Effect::Unverifiable(format!("process {pid}: {why}")),
            }
        }
        let figures = format!("asked to leave {}; {}", self.leave, said.join("; "));
        if as_asked { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }

    fn harm(&self, site: &Site) -> String {
        format!("leaves {} file descriptors to {}", self.leave, site.who())
    }

    fn ability(rights: &Rights) -> Ability {
        let tier = Some(Tier::Watchdog);
        let tried = Dummy::start().map_err(|why| why.to_string()).and_then(|dummy| {
            let process = dummy.process().map_err(|why| why.to_string())?;
            let Limits { soft, .. } = limits(&process).map_err(|why| why.to_string())?;
            Limited::Files.set_soft(&process, soft / 2).map_err(|why| why.to_string())
        });
        match tried {
            Err(why) => {
                Ability::no(why, "something filters prlimit (a container's seccomp profile?): allow it")
            }
            Ok(_)
                if rights.has(Capability::SysResource)
                    || rights.has(Capability::SetUid) && rights.has(Capability::SetGid) =>
            {
                Ability::yes("any process", tier)
            }
            Ok(_) => Ability::limited(
                "your own processes",
                tier,
                "root (CAP_SYS_RESOURCE, or CAP_SETUID and CAP_SETGID) reaches everybody's",
            ),
        }
    }
}

/// Whose limits this process of ours holds down. A second fault on one of them would take the first one's limit for
/// what was there before, and bring that back.
fn lowered() -> MutexGuard<'static, HashSet<Identity>> {
    static LOWERED: LazyLock<Mutex<HashSet<Identity>>> = LazyLock::new(Mutex::default);
    LOWERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limits(process: &Process) -> Result<Limits, ProcessError> {
    Limited::Files.of(process)
}

fn refusal(site: &Site, why: &ProcessError) -> Refusal {
    match why {
        ProcessError::Gone { .. } => site.refuse(why.to_string(), "is the service running?"),
        ProcessError::Refused { pid, .. } => site.refuse(
            format!("the limits of process {pid} are not ours to change ({why})"),
            "it takes root (CAP_SYS_RESOURCE, or CAP_SETUID and CAP_SETGID), or to be its user: `brownout doctor` \
             shows what you have",
        ),
    }
}

/// The numbers of the files a process has open.
fn open_by(pid: i32) -> std::io::Result<BTreeSet<u64>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The soft limit under which so many numbers are free. A new file gets the lowest free number, which must be
/// below the limit (open(2), RLIMIT_NOFILE in getrlimit(2)); open ones above it stay.
fn limit_that_leaves(leave: u32, open: &BTreeSet<u64>) -> u64 {
    // The first free number that is one too many: each open one below it moves it up by one.
    open.iter().fold(u64::from(leave), |limit, number| limit + u64::from(*number <= limit))
}

/// How many numbers are free below a limit.
fn left(open: &BTreeSet<u64>, limit: u64) -> u64 {
    limit - open.range(..limit).count() as u64
}

impl Owed for Lowered {
    async fn undo(&self) -> Result<(), UndoError> {
        let mut trouble = Vec::new();
        for one in &self.targets {
            if let Some(process) = one.still_lowered()?
                && let Err(why) = Limited::Files.set_soft(&process, one.before)
            {
                trouble.push(why.to_string());
            } else {
                lowered().remove(&one.process);
            }
        }
        if trouble.is_empty() { Ok(()) } else { Err(UndoError(trouble.join("; "))) }
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        for one in &self.targets {
            if one.still_lowered()?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let targets: Vec<Identity> = self.targets.iter().map(|one| one.process.clone()).collect();
        super::process_claims(host, &targets)
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        let command = |one: &One| format!("prlimit --pid {} --nofile={}:", one.process.pid, one.before);
        self.targets.iter().map(command).collect::<Vec<_>>().join("; ")
    }
}

impl One {
    /// The process, if it lives and still has the limit that we set: any other is somebody else's decision.
    fn still_lowered(&self) -> Result<Option<Process>, UndoError> {
        let seen = Process::open(&self.process).and_then(|process| Ok((limits(&process)?.soft, process)));
        match seen {
            Ok((soft, process)) => Ok((soft == self.during).then_some(process)),
            Err(ProcessError::Gone { .. }) => Ok(None),
            Err(why) => Err(UndoError(why.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn under_the_limit_exactly_so_many_are_left(
            open in proptest::collection::btree_set(0_u64..200, 0..100), leave in 0_u32..300,
        ) {
            let limit = limit_that_leaves(leave, &open);
            prop_assert_eq!(left(&open, limit), u64::from(leave));
        }
    }

    #[test]
    fn gaps_count_and_what_is_open_above_the_limit_does_not() {
        let open = BTreeSet::from([0, 1, 2, 5, 900]);
        assert_eq!(limit_that_leaves(0, &open), 3);
        assert_eq!(limit_that_leaves(2, &open), 6);
        assert_eq!(left(&open, 6), 2);
    }
}
