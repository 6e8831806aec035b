//! The limits of other processes (prlimit(2)).

use std::io;

use super::process::{Process, ProcessError};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// The numbers of open files: they stay below it (RLIMIT_NOFILE, getrlimit(2)).
    Files,
}

/// A limit: what holds, and how far its process may raise it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// What holds.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

impl Limited {
    /// A process's limits.
    ///
    /// # Errors
    /// When it has ended or belongs to somebody else.
    pub fn of(self, process: &Process) -> Result<Limits, ProcessError> {
        self.exchange(process, None, "reading its limits")
    }

    /// Sets the soft limit and leaves the hard one; what held before.
    ///
    /// # Errors
    /// When it has ended, or belongs to somebody else, which takes CAP_SYS_RESOURCE.
    pub fn set_soft(self, process: &Process, soft: u64) -> Result<Limits, ProcessError> {
        let Limits { hard, .. } = self.of(process)?;
        self.exchange(process, Some(Limits { soft, hard }), "setting its limits")
    }

    fn exchange(
        self,
        process: &Process,
        new: Option<Limits>,
        doing: &'static str,
    ) -> Result<Limits, ProcessError> {
        let pid = process.identity().pid;
        let resource = match self {
            Self::Files => libc::RLIMIT_NOFILE,
        };
        // prlimit(2) knows numbers only. The pidfd still pins the process, so that its number was its own all along
        // if it still lives; one that was given to another within these lines is not possible while it does.
        if !process.is_alive() {
            return Err(ProcessError::Gone { pid, reused: false });
        }
        let new = new.map(|new| libc::rlimit { rlim_cur: new.soft, rlim_max: new.hard });
        let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: both structures live until the call has returned.
        if unsafe { libc::prlimit(pid, resource, new, &raw mut old) } == 0 {
            return Ok(Limits { soft: old.rlim_cur, hard: old.rlim_max });
        }
        let why = io::Error::last_os_error();
        Err(match why.raw_os_error() {
            Some(libc::ESRCH) => ProcessError::Gone { pid, reused: false },
            _ => ProcessError::Refused { pid, doing, why },
        })
    }
}
