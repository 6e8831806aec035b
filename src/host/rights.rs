//! What we may do here: capabilities, the kernel settings that stand in the way, and harmless trials.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{AccessFlags, ForkResult, Pid, eaccess, fork, geteuid};

use super::process::{Process, ProcessError};

/// A right that root has, by its number (linux/capability.h, capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// Signal processes of other users.
    Kill = 5,
    /// Become another group.
    SetGid = 6,
    /// Become another user.
    SetUid = 7,
    /// Change the network.
    NetAdmin = 12,
    /// Lock memory.
    IpcLock = 14,
    /// Trace processes of other users.
    SysPtrace = 19,
    /// Make namespaces, mount.
    SysAdmin = 21,
    /// Exceed and change limits.
    SysResource = 24,
}

/// What we may do on this host.
#[derive(Debug, Clone)]
pub struct Rights {
    /// Who we are.
    pub uid: u32,
    /// A folder in which something may be tried: the state folder, or what of its path exists.
    pub place: PathBuf,
    capabilities: u64,
}

impl Rights {
    /// Our own. `state` is the state folder, which need not exist yet.
    #[must_use]
    pub fn ours(state: &Path) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let place = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
        Self { uid: geteuid().as_raw(), place: place.to_owned(), capabilities: effective(&status) }
    }

    /// Whether we have a capability.
    #[must_use]
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities >> capability as u32 & 1 == 1
    }

    /// Whether our files may be made in [`Rights::place`].
    ///
    /// # Errors
    /// What the system says.
    pub fn can_write(&self) -> io::Result<()> {
        match nameless_file(&self.place) {
            // A file system that has no nameless files may still have files.
            Err(why) if why.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                eaccess(&self.place, AccessFlags::W_OK | AccessFlags::X_OK).map_err(Into::into)
            }
            other => other,
        }
    }

    /// Whether a file without a name can be had in [`Rights::place`].
    ///
    /// # Errors
    /// What the system says.
    pub fn can_hold_nameless_file(&self) -> io::Result<()> {
        nameless_file(&self.place)
    }
}

fn effective(status: &str) -> u64 {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

fn nameless_file(folder: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder).map(drop)
}

/// A kernel setting by its name, such as `kernel.yama.ptrace_scope`; `None` where the kernel has no such.
#[must_use]
pub fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok()?;
    Some(text.trim().to_owned())
}

/// The kernel's release, as uname(1) prints it.
#[must_use]
pub fn kernel() -> String {
    setting("kernel.osrelease").unwrap_or_else(|| "of unknown release".to_owned())
}

/// What keeps an ordinary user from namespaces, as far as a setting says so, and what would allow it.
#[must_use]
pub fn what_forbids_user_namespaces() -> Option<String> {
    let is = |name: &str, value: &str| setting(name).is_some_and(|now| now == value);
    if is("user.max_user_namespaces", "0") {
        return Some("user.max_user_namespaces is 0: set it to 1000 or so".to_owned());
    }
    // Debian's own setting.
    if is("kernel.unprivileged_userns_clone", "0") {
        return Some("kernel.unprivileged_userns_clone is 0: set it to 1".to_owned());
    }
    // Ubuntu's, since 23.10: the namespace can be made, but gives no rights.
    if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        return Some("kernel.apparmor_restrict_unprivileged_userns is 1: set it to 0".to_owned());
    }
    None
}

/// What Yama (Linux' Documentation/admin-guide/LSM/Yama.rst) lets us trace, by kernel.yama.ptrace_scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traceable {
    /// All that have our user.
    OurUser,
    /// Only what we started.
    Descendants,
    /// Nothing without CAP_SYS_PTRACE.
    WithCapability,
    /// Nothing at all, until the next boot.
    Nothing,
}

/// What Yama lets us trace.
#[must_use]
pub fn traceable() -> Traceable {
    match setting("kernel.yama.ptrace_scope").as_deref() {
        None | Some("0") => Traceable::OurUser,
        Some("1") => Traceable::Descendants,
        Some("2") => Traceable::WithCapability,
        Some(_) => Traceable::Nothing,
    }
}

/// A child that does nothing, to try things on; it is gone when this is dropped, or when we are.
#[derive(Debug)]
pub struct Dummy {
    pid: Pid,
}

impl Dummy {
    /// Starts it.
    ///
    /// # Errors
    /// When no process can be had.
    pub fn start() -> io::Result<Self> {
        // SAFETY: the child makes system calls only.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child }),
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                loop {
                    // SAFETY: pause(2) waits for a signal, and touches nothing.
                    unsafe { libc::pause() };
                }
            }
        }
    }

    /// The process.
    ///
    /// # Errors
    /// When /proc is not mounted, or pidfds are refused.
    pub fn process(&self) -> Result<Process, ProcessError> {
        Process::of_pid(self.pid.as_raw())
    }
}

impl Drop for Dummy {
    fn drop(&mut self) {
        // Our own child, not collected yet: its number is its own.
        if let Ok(process) = self.process() {
            let _ = process.signal(Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000080020\n";
        let rights = Rights { uid: 1, place: PathBuf::new(), capabilities: effective(status) };
        assert!(rights.has(Capability::Kill) && rights.has(Capability::SysPtrace));
        assert!(!rights.has(Capability::NetAdmin) && !rights.has(Capability::SysAdmin));
        assert_eq!(effective("CapEff:\tgarbage\n"), 0);
    }

    #[test]
    fn a_place_that_does_not_exist_yet_is_tried_where_it_would_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let rights = Rights::ours(&folder.path().join("a/b/c"));
        assert_eq!(rights.place, folder.path());
        rights.can_write().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a trial leaves nothing");
        assert!(Rights::ours(Path::new("/proc/self")).can_write().is_err());
    }

    #[test]
    fn a_dummy_is_gone_when_dropped() {
        let dummy = Dummy::start().unwrap();
        let process = dummy.process().unwrap();
        assert!(process.is_alive());
        drop(dummy);
        assert!(!process.is_alive());
    }
}
