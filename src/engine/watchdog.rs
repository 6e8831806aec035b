//! The small process that undoes when the runner dies or hangs.
//!
//! It is our own binary executed anew, never a bare fork: a fork would inherit the very descriptors whose
//! death must end a fault. It hears the runner's heartbeat on its standard input. Silence, the end of the
//! pipe, or a record past its deadline: it kills the runner first (only that frees what the kernel
//! holds), then pays.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::pay::{Unpaid, pay};
use crate::base::clock::since_boot;
use crate::fault::Entry;
use crate::host::process::{Identity, Process};
use crate::undo::{LogError, UndoLog, owed_in};

/// A runner that is silent for so long hangs.
const SILENCE: Duration = Duration::from_secs(3);
/// A lister may hold a dead run's log for a moment; the watchdog waits that long for it.
const BUSY: Duration = Duration::from_secs(10);

/// So long may it take to go when it is sent home.
const GOING: Duration = Duration::from_secs(2);

const BEAT: &[u8] = b".";
const DISMISSED: u8 = b'd';
const LEAVING: u8 = b'l';
/// A runner that leaves, and owes something, may take so long for its reports.
const REPORTING: Duration = Duration::from_secs(30);

/// The watchdog could not be posted, or could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// It could not be started, or spoken to.
    #[error("the watchdog: {0}; nothing is hurt without it")]
    Post(#[from] io::Error),
    /// The log of its runner.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// The runner's side of it.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
    pipe: ChildStdin,
}

impl Watchdog {
    /// Posts a watchdog over our own log, and waits until it watches.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn post(log: &Path, runner: &Identity) -> Result<Self, WatchdogError> {
        let mut child = Command::new("/proc/self/exe")
            .arg("watchdog")
            .arg(log)
            .args([runner.pid.to_string(), runner.start.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(pipe), Some(mut ready)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no pipe").into());
        };
        ready.read_exact(&mut [0])?;
        // A watchdog that does not read must not hold up whoever decides.
        let flags = OFlag::from_bits_truncate(fcntl(&pipe, FcntlArg::F_GETFL).map_err(io::Error::from)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(io::Error::from)?;
        Ok(Self { child, pipe })
    }

    /// Says that we live. To be called by whoever decides, at least twice a second.
    ///
    /// # Errors
    /// When the watchdog is gone: then the run must end, since nobody would undo after us.
    pub fn beat(&mut self) -> Result<(), WatchdogError> {
        match self.pipe.write_all(BEAT) {
            // The pipe holds minutes of beats that the watchdog, slow as it may be, has yet to read.
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => Ok(result?),
        }
    }

    /// Says that we are about to end although something is owed: that is not to be taken for a hang, and once we
    /// are gone it tries once more.
    pub fn leave(mut self) {
        let _ = self.pipe.write_all(&[LEAVING]);
        // The pipe ends when this process does, not before: its end is taken for our death.
        std::mem::forget(self.pipe);
    }

    /// Sends it home, when nothing is owed any more.
    pub fn dismiss(mut self) {
        let _ = self.pipe.write_all(&[DISMISSED]);
        drop(self.pipe);
        // It goes at once, unless somebody has stopped it: then it goes when it is let on.
        let limit = since_boot() + GOING;
        while matches!(self.child.try_wait(), Ok(None)) && since_boot() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The watchdog's own life: watches until it is dismissed, or pays. Returns what it could not undo.
///
/// # Errors
/// When the log cannot be had.
pub async fn guard(log: &Path, runner: &Identity) -> Result<Vec<Unpaid>, WatchdogError> {
    // Its own session: a terminal's hang-up or Ctrl-C is the runner's to handle, not ours.
    let _ = nix::unistd::setsid();
    let runner = Process::open(runner).ok();
    let mut out = io::stdout();
    out.write_all(BEAT).and_then(|()| out.flush())?;

    if dismissed(log)? {
        return Ok(Vec::new());
    }
    if let Some(runner) = runner {
        let _ = runner.signal(Signal::SIGKILL);
        runner.wait_gone(SILENCE).await;
    }
    let begun = since_boot();
    let mut log = loop {
        match UndoLog::<Entry>::adopt(log) {
            Err(LogError::Busy { .. }) if since_boot() < begun + BUSY => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => break other?,
        }
    };
    let unpaid = pay(&mut log, || {}).await;
    log.close()?;
    Ok(unpaid)
}

/// Listens until the runner says goodbye (true), or must be taken for dead (false).
fn dismissed(log: &Path) -> Result<bool, WatchdogError> {
    let mut input = io::stdin();
    let mut heard = since_boot();
    let mut leaving = None;
    loop {
        let mut watched = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        // A quarter of a second: how late a deadline may be noticed.
        let ready = poll(&mut watched, PollTimeout::from(250_u16)).unwrap_or(0);
        if ready > 0 {
            let mut bytes = [0; 64];
            match input.read(&mut bytes) {
                Ok(0) | Err(_) => return Ok(false),
                Ok(n) if bytes[..n].contains(&DISMISSED) => return Ok(true),
                Ok(n) => {
                    heard = since_boot();
                    leaving = leaving.or(bytes[..n].contains(&LEAVING).then_some(heard + REPORTING));
                }
            }
        }
        let taken_for_dead = match leaving {
            Some(limit) => since_boot() > limit,
            None => since_boot() > heard + SILENCE || overdue(log),
        };
        if taken_for_dead {
            return Ok(false);
        }
    }
}

/// Whether a record of this log is past its deadline. A log that cannot be read now is looked at again.
fn overdue(log: &Path) -> bool {
    let Ok(owed) = owed_in::<Entry>(log) else { return false };
    owed.iter().any(|(_, entry)| entry.deadline.is_some_and(|deadline| since_boot() > deadline))
}
