//! A mark that a process hands down to all its descendants, whatever they do.
//!
//! A server may daemonise, open a session of its own, change its user, and wipe its environment; it may be
//! killed and leave orphans. What it keeps through fork and exec all the same are its resource limits
//! (fork(2), execve(2)). One of them limits nothing here: RLIMIT_RTTIME, the processor microseconds a
//! *real-time* thread may use at a stretch (getrlimit(2)). Set to some 2^62 of them, more than a hundred
//! thousand years, it can hold 62 bits of our own, and /proc/PID/limits shows them to everybody. Only the
//! soft limit is used, so that nobody needs a right to set it, and marks can follow one another. Where an
//! administrator keeps even that from us, an environment variable has to do.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::process::{self, Process};
use crate::base::RunId;
use crate::base::dice::fnv1a;

/// Says the same to people, and stands in where the limit cannot be set.
const VARIABLE: &str = "BROWNOUT_SERVICE";

/// So often is the list read again because somebody ended meanwhile.
const MOST_READINGS: u32 = 20;

/// What the processes of one service of one run carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    limit: u64,
    word: String,
    /// Whether the limit could be set where the mark was made.
    by_limit: bool,
}

impl Mark {
    /// The mark of a run's service. It is known before there is any process.
    #[must_use]
    pub fn of(run: RunId, service: &str) -> Self {
        let name = fnv1a(service.as_bytes()) & ((1 << 30) - 1);
        let limit = 1 << 62 | u64::from(run.number()) << 30 | name;
        Self { limit, word: format!("{run}/{service}"), by_limit: can_be_set() }
    }

    /// The soft limit that is the mark, microseconds.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The environment variable and its value, for people and where limits cannot be set.
    #[must_use]
    pub fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.word)
    }

    /// The command that ends, by SIGTERM, whoever carries it.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let (what, file) = if self.by_limit {
            (format!("realtime timeout *{} ", self.limit), "limits")
        } else {
            (format!("{VARIABLE}={}", self.word), "environ")
        };
        format!("grep -la '{what}' /proc/[0-9]*/{file} | cut -d/ -f3 | xargs -r kill")
    }

    /// All living processes that carry it, and the descendants of those; oldest first, never ourselves.
    ///
    /// One that ends while the list is read may have left a child that is not in it: the list is then read
    /// again, so that what forks and ends, again and again, is met in the end.
    #[must_use]
    pub fn bearers(&self) -> Vec<Process> {
        self.meet(|_| {})
    }

    /// As [`Self::bearers`], and each is visited the moment it is met: a little later, what forks and ends
    /// would be gone, and its child in its place.
    pub fn meet(&self, mut visit: impl FnMut(&Process)) -> Vec<Process> {
        let mut found = Vec::new();
        for _ in 0..MOST_READINGS {
            let (living, ended) = self.reading(&mut visit);
            found = living;
            if !found.is_empty() || !ended {
                break;
            }
        }
        found.sort_by_key(|process| (process.identity().start, process.identity().pid));
        found
    }

    /// One reading of the list: who lives, and whether somebody that carries it ended meanwhile.
    fn reading(&self, visit: &mut dyn FnMut(&Process)) -> (Vec<Process>, bool) {
        let (mut found, mut ended) = (Vec::new(), false);
        let mut seen = BTreeSet::new();
        let mut pin = |pid: i32, found: &mut Vec<Process>, ours: &dyn Fn(i32) -> bool| {
            if pid == std::process::id() as i32 || !ours(pid) {
                return;
            }
            // Asked once more now that it is pinned: its number may have been another process's.
            match Process::of_pid(pid) {
                Ok(process) if ours(pid) && process.is_alive() => {
                    visit(&process);
                    found.push(process);
                }
                _ => ended = true,
            }
        };
        // The newest first: they are the ones that are gone soonest.
        for pid in process::all().into_iter().rev() {
            pin(pid, &mut found, &|pid| self.is_on(pid));
        }
        seen.extend(found.iter().map(|process| process.identity().pid));
        let mut unasked: Vec<i32> = seen.iter().copied().collect();
        while let Some(parent) = unasked.pop() {
            for child in process::children(parent).into_iter().filter(|child| seen.insert(*child)) {
                pin(child, &mut found, &|pid| process::parent(pid) == Some(parent) || self.is_on(pid));
                unasked.push(child);
            }
        }
        (found, ended)
    }

    fn is_on(&self, pid: i32) -> bool {
        if self.by_limit { soft_limit(pid) == Some(self.limit) } else { has_word(pid, &self.word) }
    }
}

/// The soft RLIMIT_RTTIME of a process; `None` for "unlimited".
fn soft_limit(pid: i32) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max realtime timeout"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn has_word(pid: i32, word: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ.split(|byte| *byte == 0).any(|pair| {
            pair.strip_prefix(VARIABLE.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
                .is_some_and(|value| value == word.as_bytes())
        })
    })
}

/// Puts a mark on the calling process. Makes system calls only, so it may stand between fork and exec.
///
/// # Errors
/// When the hard limit is below the mark, which only an administrator does.
pub fn put_on_ourselves(limit: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit(2) and setrlimit(2) take a struct of ours that lives through the call.
    let set = unsafe {
        libc::getrlimit(libc::RLIMIT_RTTIME, &raw mut now) == 0 && {
            now.rlim_cur = limit;
            libc::setrlimit(libc::RLIMIT_RTTIME, &raw const now) == 0
        }
    };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether marks can be set here: whether the hard limit leaves room for them.
#[must_use]
pub fn can_be_set() -> bool {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: as above.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_RTTIME, &raw mut now) == 0 };
    read && now.rlim_max >= 1 << 63
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_differ_by_run_and_by_service_and_limit_nothing(
            run: u32, other: u32, a in "[a-z][a-z0-9-]{0,12}", b in "[a-z][a-z0-9-]{0,12}",
        ) {
            let id = |n: u32| format!("{n:08x}").parse::<RunId>().unwrap();
            let mark = Mark::of(id(run), &a);
            prop_assert!(mark.limit() >= 1 << 62 && mark.limit() < 1 << 63);
            prop_assert_eq!(mark == Mark::of(id(other), &a), run == other);
            prop_assert_eq!(mark.word == Mark::of(id(run), &b).word, a == b);
        }
    }

    #[test]
    fn the_names_of_one_run_have_marks_of_their_own() {
        let run = RunId::fresh();
        let marks: BTreeSet<u64> =
            (0..1000).map(|n| Mark::of(run, &format!("replica-{n}")).limit()).collect();
        assert_eq!(marks.len(), 1000);
    }

    /// A marked child of whose marks one was wiped.
    fn child(mark: &Mark, by_limit: bool) -> std::process::Child {
        use std::os::unix::process::CommandExt as _;
        let mut command = std::process::Command::new("sleep");
        command.arg("603.5").stdin(std::process::Stdio::null());
        if by_limit {
            let limit = mark.limit;
            // SAFETY: system calls only.
            unsafe { command.pre_exec(move || put_on_ourselves(limit)) };
        } else {
            let (variable, word) = mark.variable();
            command.env(variable, word);
        }
        command.spawn().unwrap()
    }

    #[test]
    fn one_mark_is_looked_for_and_the_command_for_a_person_ends_its_bearers() {
        for by_limit in [true, false] {
            let mark = Mark { by_limit, ..Mark::of(RunId::fresh(), "x") };
            let mut marked = child(&mark, by_limit);
            // The environment is the parent's until the new program stands.
            while mark.bearers().is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(mark.bearers()[0].identity().pid, marked.id() as i32);
            assert!(
                std::process::Command::new("sh").args(["-c", &mark.by_hand()]).status().unwrap().success()
            );
            marked.wait().unwrap();
            assert!(mark.bearers().is_empty());
        }
    }

    #[test]
    fn an_unmarked_process_has_no_bearers() {
        assert!(Mark::of(RunId::fresh(), "nobody").bearers().is_empty());
        assert!(soft_limit(std::process::id() as i32).is_none() || !can_be_set());
    }
}
