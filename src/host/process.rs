//! Processes by what they are, never by a bare number.
//!
//! A process id is reused (pid_max is 32,768 on many hosts). A process here is its id, its start time and
//! the boot it lives in, and it is signalled by pidfd (pidfd_open(2)), which cannot hit another one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use regex::Regex;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::socket::{Protocol, inodes};
use crate::base::clock::since_boot;

/// What makes a process itself: written into undo records.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of proc_pid_stat(5)).
    pub start: u64,
    /// The boot it lives in.
    pub boot: String,
}

/// Why a process cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It has ended, or its number belongs to another process now.
    #[error("process {pid} has ended{}", if *.reused { ", and its number was given to another process" } else { "" })]
    Gone {
        /// Its number.
        pid: i32,
        /// Whether the number is in use again.
        reused: bool,
    },
    /// The kernel said no.
    #[error("process {pid}: {doing}: {why}{}", remedy(.why))]
    Refused {
        /// Its number.
        pid: i32,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        why: io::Error,
    },
}

fn remedy(why: &io::Error) -> &'static str {
    if why.kind() == io::ErrorKind::PermissionDenied {
        "; it belongs to another user: run as root"
    } else {
        ""
    }
}

/// A living process, pinned.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Process {
    /// Pins the process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of_pid(pid: i32) -> Result<Self, ProcessError> {
        let gone = ProcessError::Gone { pid, reused: false };
        // The start time is read before and after the pidfd is taken: equal means the same process.
        let Some(before) = start_of(pid) else { return Err(gone) };
        let pidfd = pidfd_open(pid)?;
        match start_of(pid) {
            Some(start) if start == before => {
                Ok(Self { identity: Identity { pid, start, boot: boot_id() }, pidfd })
            }
            _ => Err(gone),
        }
    }

    /// Pins the very process that was written down.
    ///
    /// # Errors
    /// [`ProcessError::Gone`] when it has ended, also when its number is in use again.
    pub fn open(identity: &Identity) -> Result<Self, ProcessError> {
        let process = Self::of_pid(identity.pid)?;
        if process.identity == *identity {
            Ok(process)
        } else {
            Err(ProcessError::Gone { pid: identity.pid, reused: true })
        }
    }

    /// What it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends a signal, to this process or to none.
    ///
    /// # Errors
    /// When it has ended, or belongs to somebody else.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let pid = self.identity.pid;
        // SAFETY: pidfd_send_signal(2) takes a descriptor we own and a null siginfo.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal as libc::c_int,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if sent == 0 {
            return Ok(());
        }
        let why = io::Error::last_os_error();
        if why.raw_os_error() == Some(libc::ESRCH) {
            return Err(ProcessError::Gone { pid, reused: false });
        }
        Err(ProcessError::Refused { pid, doing: "sending a signal", why })
    }

    /// Waits until it has ended, at most so long; whether it has. A zombie has ended.
    pub async fn wait_gone(&self, within: Duration) -> bool {
        // A pidfd becomes readable when its process ends (pidfd_open(2)).
        let Ok(copy) = self.pidfd.try_clone() else { return !self.is_alive() };
        // SAFETY: the descriptor is owned by the AsyncFd itself, so it is open for as long as it is watched.
        let watched = unsafe { AsyncFd::register_with_interest(copy, tokio::io::Interest::READABLE) };
        let Ok(watched) = watched else { return !self.is_alive() };
        tokio::time::timeout(within, watched.readable()).await.is_ok_and(|ready| ready.is_ok())
    }

    /// Whether it runs (a zombie does not).
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut watched =
            [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&self.pidfd), nix::poll::PollFlags::POLLIN)];
        matches!(nix::poll::poll(&mut watched, nix::poll::PollTimeout::ZERO), Ok(0))
    }

    /// How many files it has open; sockets and pipes are files, too.
    ///
    /// # Errors
    /// When it has ended, or belongs to somebody else.
    pub fn open_files(&self) -> Result<usize, ProcessError> {
        let pid = self.identity.pid;
        fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => ProcessError::Gone { pid, reused: false },
            _ => ProcessError::Refused { pid, doing: "counting its open files", why },
        })
    }

    /// The ids of all its threads.
    #[must_use]
    pub fn threads(&self) -> Vec<i32> {
        numbers_in(Path::new(&format!("/proc/{}/task", self.identity.pid)))
    }
}

fn pidfd_open(pid: i32) -> Result<OwnedFd, ProcessError> {
    // SAFETY: pidfd_open(2) takes two integers and returns a new descriptor, which is ours alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        let why = io::Error::last_os_error();
        return Err(if why.raw_os_error() == Some(libc::ESRCH) {
            ProcessError::Gone { pid, reused: false }
        } else {
            ProcessError::Refused { pid, doing: "pinning it", why }
        });
    }
    // SAFETY: as above; a descriptor fits an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The fields of /proc/PID/stat that follow the command, which may hold blanks and parentheses.
fn stat_after_command(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// When a process started, in clock ticks since boot.
#[must_use]
pub fn start_of(pid: i32) -> Option<u64> {
    // Field 22 of the file; the first after the command is field 3.
    stat_after_command(pid)?.get(19)?.parse().ok()
}

/// How long ago a process started, in steps of a clock tick.
#[must_use]
pub fn age(pid: i32) -> Option<Duration> {
    let start = Duration::from_secs_f64(start_of(pid)? as f64 / ticks_a_second()?);
    Some(since_boot().saturating_sub(start))
}

fn ticks_a_second() -> Option<f64> {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()?.map(|ticks| ticks as f64)
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    stat_after_command(pid)?.get(1)?.parse().ok()
}

/// The processor time that a process has used, in steps of a clock tick (utime and stime, proc_pid_stat(5)).
#[must_use]
pub fn cpu_time(pid: i32) -> Option<Duration> {
    let fields = stat_after_command(pid)?;
    let ticks = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Duration::from_secs_f64((ticks(11)? + ticks(12)?) as f64 / ticks_a_second()?))
}

/// The children of a process (proc_pid_children(5)); none where the kernel does not list them.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    let threads = numbers_in(Path::new(&format!("/proc/{pid}/task")));
    let lists = threads.into_iter().map(|thread| format!("/proc/{pid}/task/{thread}/children"));
    let read = |list: String| fs::read_to_string(list).unwrap_or_default();
    lists
        .flat_map(|list| read(list).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The children of a process, theirs, and so on.
#[must_use]
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// The id of this boot (random(4)); empty when the kernel does not tell.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// This very process.
///
/// # Errors
/// When /proc is not mounted.
pub fn ourselves() -> Result<Process, ProcessError> {
    Process::of_pid(std::process::id() as i32)
}

fn numbers_in(folder: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut numbers: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// The numbers of all processes there are now.
#[must_use]
pub fn all() -> Vec<i32> {
    numbers_in(Path::new("/proc"))
}

/// How a process is found.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// Its number is in this file.
    PidFile(PathBuf),
    /// It runs this program: a path, or the last part of one.
    Exe(String),
    /// Its command line, arguments joined by blanks, matches.
    Cmdline(Regex),
    /// It listens on this TCP port.
    Listen(u16),
    /// It runs as this user.
    Uid(u32),
    /// It is in this cgroup or below, as /proc/PID/cgroup writes it.
    Cgroup(String),
    /// It belongs to this unit of systemd, by the unit's full name.
    Unit(String),
}

/// All processes that fit, oldest first. Ourselves, our ancestors, process 1 and kernel threads never do.
///
/// # Errors
/// When a pid file cannot be read or holds no number.
pub fn find(wanted: &Wanted) -> io::Result<Vec<Process>> {
    let pids = match wanted {
        Wanted::PidFile(path) => {
            let text = fs::read_to_string(path)?;
            // PostgreSQL's has more lines; the first is the number.
            let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
            vec![pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no process id"))?]
        }
        Wanted::Listen(port) => listeners(*port),
        _ => numbers_in(Path::new("/proc")).into_iter().filter(|pid| fits(*pid, wanted)).collect(),
    };
    let mut found: Vec<Process> = pids
        .into_iter()
        .filter(|pid| protected(*pid).is_none())
        .filter_map(|pid| Process::of_pid(pid).ok())
        .collect();
    found.sort_by_key(|process| (process.identity.start, process.identity.pid));
    Ok(found)
}

fn fits(pid: i32, wanted: &Wanted) -> bool {
    match wanted {
        Wanted::Exe(name) => fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| {
            exe.as_path() == Path::new(name) || exe.file_name().is_some_and(|last| last == name.as_str())
        }),
        Wanted::Cmdline(pattern) => fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|bytes| {
            let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
            !text.is_empty() && pattern.is_match(text.trim_end())
        }),
        Wanted::Uid(uid) => {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(format!("/proc/{pid}")).is_ok_and(|entry| entry.uid() == *uid)
        }
        Wanted::Cgroup(wanted) => fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| {
            text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| {
                path.strip_prefix(wanted.trim_end_matches('/'))
                    .is_some_and(|r| r.is_empty() || r.starts_with('/'))
            })
        }),
        Wanted::Unit(name) => fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|text| units(&text).any(|unit| unit == name)),
        Wanted::PidFile(_) | Wanted::Listen(_) => false,
    }
}

/// The units that a process belongs to, outermost slice first, out of its /proc/PID/cgroup: systemd names a cgroup
/// after its unit, in the hierarchy of version 2 or in its own of version 1, and puts a `_` before names that the
/// kernel would take for its own files (sd_pid_get_unit(3), cg_unescape of systemd's cgroup-util.c).
pub fn units(groups: &str) -> impl Iterator<Item = &str> {
    groups
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(controllers, _)| matches!(*controllers, "" | "name=systemd"))
        .map(|(_, path)| path)
        .flat_map(|path| path.split('/'))
        .filter(|part| !part.is_empty())
        .map(|part| part.strip_prefix('_').unwrap_or(part))
}

/// Why a process is never a target, if it is not.
#[must_use]
pub fn protected(pid: i32) -> Option<&'static str> {
    if pid == 1 {
        return Some("it is process 1");
    }
    let mut ours = std::process::id() as i32;
    if pid == ours {
        return Some("it is brownout itself");
    }
    while let Some(next) = parent(ours).filter(|next| *next > 1) {
        if pid == next {
            return Some("brownout was started by it");
        }
        ours = next;
    }
    // Kernel threads are children of 2 and have no program.
    (pid == 2 || parent(pid) == Some(2)).then_some("it is a kernel thread")
}

/// The processes that hold a listening TCP socket on a port.
fn listeners(port: u16) -> Vec<i32> {
    let wanted: BTreeSet<u64> = super::socket::listeners()
        .into_iter()
        .filter(|listener| listener.protocol == Protocol::Tcp && listener.at.port() == port)
        .map(|listener| listener.inode)
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let holds = |pid: &i32| !inodes(*pid).is_disjoint(&wanted);
    numbers_in(Path::new("/proc")).into_iter().filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A child that ends with the test, however the test ends.
    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("sleep").arg("60.125").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id() as i32
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn a_signal_reaches_the_process_and_its_end_is_seen() {
        let sleeper = Sleeper::start();
        let process = Process::of_pid(sleeper.pid()).unwrap();
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL).unwrap();
        assert!(process.wait_gone(Duration::from_secs(10)).await);
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn a_number_that_was_reused_is_another_process() {
        let sleeper = Sleeper::start();
        let process = Process::of_pid(sleeper.pid()).unwrap();
        let other = Identity { start: process.identity().start - 1, ..process.identity().clone() };
        assert!(matches!(Process::open(&other), Err(ProcessError::Gone { reused: true, .. })));
        let other = Identity { boot: "another boot".to_owned(), ..process.identity().clone() };
        assert!(Process::open(&other).is_err());
        assert!(Process::open(process.identity()).is_ok());
    }

    #[test]
    fn a_reaped_process_is_gone_even_for_its_pidfd() {
        let mut sleeper = Sleeper::start();
        let process = Process::of_pid(sleeper.pid()).unwrap();
        sleeper.0.kill().unwrap();
        sleeper.0.wait().unwrap();
        assert!(matches!(process.signal(Signal::SIGTERM), Err(ProcessError::Gone { .. })));
    }

    #[test]
    fn processes_are_found_by_what_they_run_and_where_they_listen() {
        let sleeper = Sleeper::start();
        let seen = |wanted: &Wanted| -> bool {
            find(wanted).unwrap().iter().any(|process| process.identity().pid == sleeper.pid())
        };
        // A child is its parent's image until it has executed its own.
        while fs::read(format!("/proc/{}/cmdline", sleeper.pid())).unwrap() != b"sleep\x0060.125\0" {
            std::thread::yield_now();
        }
        assert!(seen(&Wanted::Cmdline(Regex::new(r"^sleep 60\.125$").unwrap())));
        assert!(!seen(&Wanted::Cmdline(Regex::new(r"^sleep 61$").unwrap())));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{}\nmore\n", sleeper.pid())).unwrap();
        assert!(seen(&Wanted::PidFile(file.path().to_owned())));
        fs::write(file.path(), "none").unwrap();
        assert!(find(&Wanted::PidFile(file.path().to_owned())).is_err());

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listeners(port).contains(&(std::process::id() as i32)));
        assert!(find(&Wanted::Listen(port)).unwrap().is_empty(), "we are never a target");
    }

    #[test]
    fn the_units_of_a_process_are_the_names_of_its_cgroups() {
        let unified = "0::/system.slice/_cpu.service/worker\n";
        assert_eq!(units(unified).collect::<Vec<_>>(), ["system.slice", "cpu.service", "worker"]);
        let hybrid =
            "4:cpu,cpuacct:/system.slice/other.service\n1:name=systemd:/system.slice/a.service\n0::/\n";
        assert_eq!(units(hybrid).collect::<Vec<_>>(), ["system.slice", "a.service"]);
        assert_eq!(units("garbage\n0::/\n").count(), 0);
    }

    #[test]
    fn the_init_process_ourselves_and_our_ancestors_are_protected() {
        let us = std::process::id() as i32;
        assert!(
            protected(1).is_some() && protected(us).is_some() && protected(parent(us).unwrap()).is_some()
        );
        let sleeper = Sleeper::start();
        assert_eq!(protected(sleeper.pid()), None);
    }
}
