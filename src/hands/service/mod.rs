//! What an experiment itself starts, and always stops, with everything it became.
//!
//! Every process of a service carries a mark (`host::mark`) that is known before the first of them exists. So
//! the record, [`Started`], is on disk before the start, stays true over restarts, and is all that anybody
//! needs to stop the service: this process, the watchdog, or `brownout recover`.

mod home;
mod ready;
mod spawn;
mod supervise;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use supervise::{Running, start};

use crate::base::RunId;
use crate::host::mark::Mark;
use crate::host::process::{Process, ProcessError, boot_id};

/// From SIGTERM to SIGKILL.
pub const GRACE: Duration = Duration::from_secs(10);
/// From SIGKILL to giving up: a process in an uninterruptible wait may not die.
const DEATH: Duration = Duration::from_secs(5);
/// So many readings in a row must find nobody.
const EMPTY: u32 = 4;
/// `setup` may take so long.
const SETUP_WITHIN: Duration = Duration::from_mins(2);

/// Something to start, with every name resolved.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The run it belongs to.
    pub run: RunId,
    /// Its name in the file.
    pub name: String,
    /// Run to its end before `command`.
    pub setup: Option<Vec<String>>,
    /// The service's own command.
    pub command: Vec<String>,
    /// Its extra environment.
    pub env: BTreeMap<String, String>,
    /// The user it runs as, by name or number; ours when absent.
    pub user: Option<String>,
    /// The directory it runs in: the experiment file's.
    pub directory: PathBuf,
    /// Its own folder, made when missing, given to its user. It is removed with the service only where it lies
    /// in the run's own folder, `brownout-<run>`.
    pub dir: Option<PathBuf>,
    /// Its port on this host; refused when somebody listens there.
    pub port: Option<u16>,
    /// Where its standard output and error are appended.
    pub log: PathBuf,
    /// Started again this long after it died; never when absent.
    pub restart_after: Option<Duration>,
    /// How it is known to be ready; at once when absent.
    pub ready: Option<Ready>,
    /// It must be ready within this.
    pub ready_within: Duration,
}

/// How a service is known to be ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// This `host:port` accepts a connection.
    Tcp(String),
    /// This `http://` URL answers 2xx.
    Http(String),
    /// This command, run like the service itself, exits 0.
    Exec(Vec<String>),
}

/// What became of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its name.
    pub service: String,
    /// What became of it.
    pub change: Change,
}

/// What can become of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its process runs.
    Started {
        /// The main process.
        pid: i32,
    },
    /// It answered as its `ready` says, so long after its start.
    Ready(Duration),
    /// It was started again and is not ready within its time: why. It is left running.
    NotReady(String),
    /// It ended without our doing, or could not be started again: how.
    Died(String),
    /// We stopped it, and nothing of it is left.
    Stopped,
}

/// The undo record of a service: written before its first process exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    run: RunId,
    name: String,
    mark: Mark,
    boot: String,
    port: Option<u16>,
    dir: Option<PathBuf>,
}

impl Spec {
    /// What stopping it will need. To be on disk before [`start`] is called.
    #[must_use]
    pub fn record(&self) -> Started {
        Started {
            run: self.run,
            name: self.name.clone(),
            mark: Mark::of(self.run, &self.name),
            boot: boot_id(),
            port: self.port,
            dir: self.dir.clone(),
        }
    }
}

impl Started {
    /// Its port, if it has one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Its own folder, if it has one.
    #[must_use]
    pub fn dir(&self) -> Option<&PathBuf> {
        self.dir.as_ref()
    }

    /// Its living processes, oldest first; none after a reboot.
    #[must_use]
    pub fn members(&self) -> Vec<Process> {
        if self.boot == boot_id() { self.mark.bearers() } else { Vec::new() }
    }

    /// As [`Self::members`], and each is visited the moment it is met.
    fn meet(&self, visit: impl FnMut(&Process)) -> Vec<Process> {
        if self.boot == boot_id() { self.mark.meet(visit) } else { Vec::new() }
    }

    /// Its own folder and the run's, where the one lies in the other: then it goes with the service.
    fn home(&self) -> Option<(&Path, &Path)> {
        let dir = self.dir.as_deref()?;
        Some((dir, home::run_folder(dir, self.run)?))
    }

    /// Whether anything of it is left: a process, or its folder in the run's own.
    #[must_use]
    pub fn remains(&self) -> bool {
        self.home().is_some_and(|(dir, _)| dir.symlink_metadata().is_ok()) || !self.members().is_empty()
    }

    /// The command that ends its processes by hand, and removes what goes with them.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let folder = self.home().map(|(dir, _)| format!("; rm -rf {}", dir.display()));
        self.mark.by_hand() + &folder.unwrap_or_default()
    }
}

/// Why a service cannot be started or stopped.
#[derive(Debug, thiserror::Error)]
#[error("service `{service}`: {why}")]
pub struct ServiceError {
    /// Its name.
    pub service: String,
    /// Why.
    pub why: Trouble,
}

/// What can be wrong with a service.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The named user does not exist.
    #[error("there is no user `{0}` in /etc/passwd; name one that is, or give a number")]
    NoUser(String),
    /// Another user was asked for, and we are not root.
    #[error("only root can start it as user `{0}`; run as root, or leave `user` out")]
    NotRoot(String),
    /// The port is taken.
    #[error("port {port} is in use{by}; stop that, or choose another port")]
    PortTaken {
        /// The port.
        port: u16,
        /// By whom, when that can be seen.
        by: String,
    },
    /// The system said no.
    #[error("{doing}: {why}")]
    System {
        /// What was tried.
        doing: String,
        /// What the system said.
        why: io::Error,
    },
    /// Its setup failed.
    #[error("its setup `{command}` {how}{log}")]
    Setup {
        /// The command.
        command: String,
        /// How it ended.
        how: String,
        /// The last lines of its log.
        log: String,
    },
    /// It ended before it was ready.
    #[error("it ended before it was ready: {how}{log}")]
    Died {
        /// How it ended.
        how: String,
        /// The last lines of its log.
        log: String,
    },
    /// It is not ready within its time.
    #[error("{why}{log}")]
    NotReady {
        /// What was seen last.
        why: String,
        /// The last lines of its log.
        log: String,
    },
    /// Some of its processes do not die.
    #[error("{0}")]
    Lives(String),
}

/// Stops a service and removes its folder in the run's own: SIGTERM (and SIGCONT) to all of its processes at once, SIGKILL to what is left after
/// [`GRACE`], until none is left. Idempotent, and harmless when it was never started.
///
/// Whoever supervises it must have let go of it before, or be dead.
///
/// # Errors
/// When some of its processes cannot be ended (they belong to another user, or hang in the kernel), or its folder
/// cannot be removed.
pub async fn stop(record: &Started) -> Result<(), ServiceError> {
    end(record)
        .await
        .and_then(|()| clear(record))
        .map_err(|why| ServiceError { service: record.name.clone(), why })
}

fn clear(record: &Started) -> Result<(), Trouble> {
    let Some((dir, folder)) = record.home() else { return Ok(()) };
    let doing = || format!("removing its folder {}", dir.display());
    home::clear(dir, folder).map_err(|why| Trouble::System { doing: doing(), why })
}

async fn end(record: &Started) -> Result<(), Trouble> {
    let kill_at = Instant::now() + GRACE;
    let give_up_at = kill_at + DEATH;
    let mut asked = Vec::new();
    let mut refused = None;
    // A process that forks while the list is read may escape one reading, so that several in a row must find
    // none.
    let mut empty = 0;
    while empty < EMPTY {
        let (now, kill) = (Instant::now(), Instant::now() >= kill_at);
        let members = record.meet(|member| {
            let sent = if kill {
                member.signal(Signal::SIGKILL)
            } else if asked.contains(member.identity()) {
                Ok(())
            } else {
                asked.push(member.identity().clone());
                member.signal(Signal::SIGTERM).and_then(|()| member.signal(Signal::SIGCONT))
            };
            if let Err(why @ ProcessError::Refused { .. }) = sent {
                refused = Some(why);
            }
        });
        let Some(first) = members.first() else {
            empty += 1;
            continue;
        };
        empty = 0;
        if now >= give_up_at {
            let pids: Vec<String> = members.iter().map(|one| one.identity().pid.to_string()).collect();
            let why = refused
                .map_or_else(|| "they hang in the kernel".to_owned(), |why: ProcessError| why.to_string());
            return Err(Trouble::Lives(format!("processes {} are still there: {why}", pids.join(", "))));
        }
        // Woken by the oldest one's end, or soon: the list is short-lived, and in the end every moment counts.
        first.wait_gone(if kill { Duration::from_millis(1) } else { Duration::from_millis(50) }).await;
    }
    Ok(())
}
