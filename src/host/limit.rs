//! The limits of other processes (prlimit(2)).

use std::io;

use super::apart::apart;
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
    /// When it has ended, or belongs to somebody else, which takes CAP_SYS_RESOURCE, or CAP_SETUID and CAP_SETGID.
    pub fn of(self, process: &Process) -> Result<Limits, ProcessError> {
        self.exchange(process, None, "reading its limits")
    }

    /// Sets the soft limit and leaves the hard one; what held before.
    ///
    /// # Errors
    /// As [`Self::of`].
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
        let exchanged = match prlimit(pid, resource, new.as_ref()) {
            Err(why) if why.raw_os_error() == Some(libc::EPERM) => {
                as_its_user(pid, || prlimit(pid, resource, new.as_ref())).unwrap_or(Err(why))
            }
            other => other,
        };
        match exchanged {
            Ok(old) => Ok(Limits { soft: old.rlim_cur, hard: old.rlim_max }),
            Err(why) if why.raw_os_error() == Some(libc::ESRCH) => {
                Err(ProcessError::Gone { pid, reused: false })
            }
            Err(why) => Err(ProcessError::Refused { pid, doing, why }),
        }
    }
}

fn prlimit(
    pid: i32,
    resource: libc::__rlimit_resource_t,
    new: Option<&libc::rlimit>,
) -> io::Result<libc::rlimit> {
    let mut old = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both structures live until the call has returned.
    match unsafe { libc::prlimit(pid, resource, new, &raw mut old) } {
        0 => Ok(old),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does something in a thread whose real user and group are a process's, which is all that the kernel asks of whoever
/// lacks CAP_SYS_RESOURCE, as root in a container does (check_prlimit_permission, kernel/sys.c). `None` where that is
/// not to be had. The effective user stays, and with it what the thread may do.
fn as_its_user<T: Send>(pid: i32, work: impl FnOnce() -> T + Send) -> Option<T> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (user, group) = (real(&status, "Uid:")?, real(&status, "Gid:")?);
    let become_them = move || {
        // The C library would change all threads of this process; the kernel knows each thread's own.
        // SAFETY: setresgid(2) and setresuid(2) take three integers, of which -1 changes nothing.
        let became = unsafe {
            libc::syscall(libc::SYS_setresgid, group, -1, -1) == 0
                && libc::syscall(libc::SYS_setresuid, user, -1, -1) == 0
        };
        if became { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    apart("their user", become_them, |()| work()).ok()
}

/// The first number in a line of /proc/PID/status: the real one (proc_pid_status(5)).
fn real(status: &str, line: &str) -> Option<libc::uid_t> {
    let numbers = status.lines().find_map(|text| text.strip_prefix(line))?;
    numbers.split_whitespace().next()?.parse().ok()
}
