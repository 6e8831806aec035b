//! Operations on files that have to pass us, and wait or fail: permission events of fanotify(7).
//!
//! The kernel asks whoever holds the group, and lets everything pass when nobody does any more. What is asked about
//! waits for the answer: so whoever answers must never wait for a file itself. It reads nothing but /proc, and there
//! nothing that takes the lock of a process's memory, which a process that waits for us may hold.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::unistd::gettid;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Heartbeat;
use crate::base::clock::since_boot;
use crate::host::guarded::guarded;
use crate::host::process::{Identity, parent, start_of};

/// `FAN_PRE_ACCESS` (linux/fanotify.h): before a file's content is read or written; since Linux 6.14, on file systems
/// that allow it.
const PRE_ACCESS: u64 = 0x0010_0000;
/// When whoever decides is silent for so long, everything passes.
const SILENCE: Duration = Duration::from_millis(1500);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// So many operations wait at one time; more pass. Each takes a descriptor, and where we have none the kernel denies.
const MOST_WAITING: usize = 512;
/// A directory is watched by itself: so many at most.
pub const MOST_FOLDERS: usize = 10_000;
/// Something that is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Opening and making it.
    Open,
    /// Reading from it.
    Read,
    /// Writing to it, cutting and extending it.
    Write,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Open, Self::Read, Self::Write];

    /// The events that tell of it.
    fn mask(self) -> u64 {
        match self {
            Self::Open => libc::FAN_OPEN_PERM,
            Self::Read => libc::FAN_ACCESS_PERM,
            Self::Write => PRE_ACCESS,
        }
    }
}

/// What this kernel can do with the operations on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Powers {
    /// Whether writes can be held too, or opening and reading only.
    pub writes: bool,
    /// Whether errors may be other than EPERM.
    pub errors: bool,
}

impl Powers {
    /// Finds out for the file system of a place, without a change for anybody.
    ///
    /// # Errors
    /// When nothing can be held there: it takes CAP_SYS_ADMIN, and the kernel's CONFIG_FANOTIFY_ACCESS_PERMISSIONS.
    pub fn at(path: &Path) -> io::Result<Self> {
        let group = group()?;
        // What a group is to ignore is all that is said: nobody is asked.
        let ignore = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORED_MASK;
        mark(&group, ignore, libc::FAN_OPEN_PERM | libc::FAN_ACCESS_PERM, path)?;
        match mark(&group, ignore, PRE_ACCESS, path).map_err(|why| why.raw_os_error()) {
            Ok(()) => Ok(Self { writes: true, errors: true }),
            // The kernel knows it, and this file system does not allow it.
            Err(Some(libc::EOPNOTSUPP)) => Ok(Self { writes: false, errors: true }),
            Err(_) => Ok(Self { writes: false, errors: false }),
        }
    }
}

/// What is asked.
#[derive(Debug)]
pub struct Order {
    /// A file, or a directory with all below it on its file system.
    pub path: PathBuf,
    /// Which operations.
    pub operations: Vec<Operation>,
    /// Only those of these processes and of what they start; of everybody's when there are none.
    pub whose: Vec<Identity>,
    /// How long each waits.
    pub delay: Duration,
    /// The error with which each fails; none when it only waits.
    pub error: Option<Errno>,
    /// The share that is hit, between 0 and 1.
    pub share: f64,
    /// So many pass before the first is hit.
    pub after: u64,
    /// So many are hit at most.
    pub first: u64,
    /// What draws the share.
    pub dice: ChaCha8Rng,
}

/// What came by until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Operations that were meant.
    pub meant: u64,
    /// Those that were hit.
    pub hit: u64,
    /// Those that should have waited and passed, since too many waited.
    pub let_past: u64,
}

/// A gate that stands. Dropping it lets everything go on that waits.
#[derive(Debug)]
pub struct Gate {
    state: Arc<State>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    meant: AtomicU64,
    hit: AtomicU64,
    let_past: AtomicU64,
    /// The threads of ours that measure: they are always hit, and never counted.
    measuring: Mutex<Vec<i32>>,
}

impl Gate {
    /// Puts it up. It stands as long as there is its thread, which bears `name`, at most 15 bytes of it.
    ///
    /// # Errors
    /// When the kernel says no; nothing is in anybody's way then.
    pub fn stand(order: Order, name: &str, heartbeat: Heartbeat) -> io::Result<Self> {
        let group = group()?;
        let mask = order.operations.iter().fold(0, |mask, operation| mask | operation.mask());
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let state = Arc::new(State::default());
        let path = order.path.clone();
        let mut keeper = Keeper {
            spared: Spared::now(),
            order,
            state: state.clone(),
            waiting: BTreeMap::new(),
            group: group.try_clone()?.into(),
        };
        let (end, stop) = (wake.clone(), state.clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while !stop.stop.load(Ordering::Relaxed) {
                keeper.turn(&end, &heartbeat);
            }
        })?;
        let gate = Self { state, wake, thread: Some(thread) };
        // Whoever answers is there first: from the first mark on somebody may wait.
        for folder in folders(&path)? {
            mark(
                &group,
                libc::FAN_MARK_ADD | libc::FAN_MARK_DONT_FOLLOW,
                mask | libc::FAN_EVENT_ON_CHILD,
                &folder,
            )?;
        }
        if path.is_file() {
            mark(&group, libc::FAN_MARK_ADD, mask, &path)?;
        }
        Ok(gate)
    }

    /// What came by until now.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let State { meant, hit, let_past, .. } = &*self.state;
        Tally { meant: read(meant), hit: read(hit), let_past: read(let_past) }
    }

    /// Whatever measures at it. It does not hold the gate: that may go while somebody measures.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter { state: self.state.clone() }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Does operations of our own, as a stranger would.
#[derive(Debug, Clone)]
pub struct Meter {
    state: Arc<State>,
}

/// How an operation of ours went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// How long it took.
    pub took: Duration,
    /// The error it ended with, if it did.
    pub error: Option<Errno>,
}

impl Meter {
    /// Does one, which changes nothing: on a file, or in a directory on a file without a name.
    ///
    /// # Errors
    /// When there is nothing it could be done to.
    pub fn measure(&self, place: &Path, operation: Operation) -> io::Result<Measured> {
        let open = || {
            let mut how = OpenOptions::new();
            if place.is_dir() {
                how.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600);
            } else {
                how.read(true).write(operation == Operation::Write).custom_flags(libc::O_NONBLOCK);
            }
            how.open(place)
        };
        // As ourselves: it passes, and says whether it can be done at all.
        let file = open()?;
        let us = Registered::among(&self.state);
        let begun = since_boot();
        let result = match operation {
            Operation::Open => open().map(drop),
            // Of no bytes: the kernel asks all the same.
            Operation::Read => file.read_at(&mut [], 0).map(drop),
            Operation::Write => file.write_at(&[], 0).map(drop),
        };
        let took = since_boot().saturating_sub(begun);
        drop(us);
        let error = result.err().and_then(|why| why.raw_os_error()).map(Errno::from_raw);
        Ok(Measured { took, error })
    }
}

/// A thread that measures.
struct Registered<'a>(&'a State, i32);

impl<'a> Registered<'a> {
    fn among(state: &'a State) -> Self {
        let us = gettid().as_raw();
        state.measuring.lock().unwrap_or_else(PoisonError::into_inner).push(us);
        Self(state, us)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.measuring.lock().unwrap_or_else(PoisonError::into_inner).retain(|one| *one != self.1);
    }
}

/// The directories that must be watched for a place: itself and all below it on its file system; none for a file.
///
/// # Errors
/// When there are too many, or the first cannot be read.
pub fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let top = fs::metadata(path)?;
    if !top.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = vec![path.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&folder) {
            Err(why) if next == 1 => return Err(why),
            entries => entries.into_iter().flatten().flatten(),
        };
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.metadata().is_ok_and(|inner| inner.dev() == top.dev()) {
                found.push(entry.path());
            }
        }
        if found.len() > MOST_FOLDERS {
            return Err(io::Error::other(format!("there are more than {MOST_FOLDERS} directories below it")));
        }
    }
    Ok(found)
}

/// A group that has marked nothing yet.
fn group() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_PRE_CONTENT
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_UNLIMITED_QUEUE
        | libc::FAN_UNLIMITED_MARKS
        | libc::FAN_REPORT_TID;
    let of_events = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC) as libc::c_uint;
    // SAFETY: fanotify_init(2) takes two numbers, and returns a descriptor of ours or -1.
    let fd = Errno::result(unsafe { libc::fanotify_init(flags, of_events) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mark(group: &OwnedFd, flags: libc::c_uint, mask: u64, path: &Path) -> io::Result<()> {
    let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: fanotify_mark(2) reads the path, which ends with a NUL and lives on.
    let done = unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, libc::AT_FDCWD, name.as_ptr()) };
    Errno::result(done).map(drop).map_err(io::Error::from)
}

/// Whoever answers.
struct Keeper {
    group: File,
    order: Order,
    spared: Spared,
    state: Arc<State>,
    /// What waits, by when it may go on.
    waiting: BTreeMap<(Duration, i32), OwnedFd>,
}

impl Keeper {
    /// Waits for the next event, the next end of a wait, or the end of all, and answers.
    fn turn(&mut self, wake: &EventFd, heartbeat: &Heartbeat) {
        let decided = heartbeat.silence() < SILENCE;
        let now = since_boot();
        while let Some(first) = self.waiting.first_entry().filter(|first| !decided || first.key().0 <= now) {
            let file = first.remove();
            self.answer(&file, decided);
        }
        let next = self.waiting.keys().next().map_or(LOOK, |(due, _)| due.saturating_sub(now).min(LOOK));
        let mut events = [
            PollFd::new(self.group.as_fd(), PollFlags::POLLIN),
            PollFd::new(wake.as_fd(), PollFlags::POLLIN),
        ];
        if ppoll(&mut events, Some(TimeSpec::from(next)), None).is_err() {
            return; // A signal: the next turn comes at once.
        }
        let mut bytes = [0; 4096];
        let Ok(length) = self.group.read(&mut bytes) else { return };
        let mut rest = &bytes[..length];
        while let Some((event, after)) = Event::first(rest) {
            rest = after;
            let Some(file) = event.file else { continue };
            if !(decided && self.hits(event.mask, event.thread)) {
                self.allow(&file);
            } else if self.order.delay.is_zero() {
                self.answer(&file, true);
            } else if self.waiting.len() >= MOST_WAITING {
                self.state.let_past.fetch_add(1, Ordering::Relaxed);
                self.allow(&file);
            } else {
                self.waiting.insert((since_boot() + self.order.delay, file.as_raw_fd()), file);
            }
        }
    }

    /// Whether the harm is meant for an operation.
    fn hits(&mut self, mask: u64, thread: i32) -> bool {
        // Reading is told twice, and so is mapping: as what comes before it, and as itself.
        if mask & PRE_ACCESS != 0 && reads(thread) {
            return false;
        }
        if self.state.measuring.lock().unwrap_or_else(PoisonError::into_inner).contains(&thread) {
            return true;
        }
        let order = &mut self.order;
        let Some(process) = process_of(thread) else { return false };
        if self.spared.has(process) || !(order.whose.is_empty() || comes_from(process, &order.whose)) {
            return false;
        }
        let before = self.state.meant.fetch_add(1, Ordering::Relaxed);
        let hit = before >= order.after
            && self.state.hit.load(Ordering::Relaxed) < order.first
            && (order.share >= 1.0 || order.dice.random::<f64>() < order.share);
        if hit {
            self.state.hit.fetch_add(1, Ordering::Relaxed);
        }
        hit
    }

    fn answer(&self, file: &OwnedFd, hit: bool) {
        match self.order.error {
            // What a plain "no" means.
            Some(Errno::EPERM) if hit => self.respond(file, libc::FAN_DENY),
            // FAN_DENY_ERRNO (linux/fanotify.h).
            Some(error) if hit => self.respond(file, libc::FAN_DENY | (error as u32) << 24),
            _ => self.allow(file),
        }
    }

    fn allow(&self, file: &OwnedFd) {
        self.respond(file, libc::FAN_ALLOW);
    }

    fn respond(&self, file: &OwnedFd, response: u32) {
        // struct fanotify_response. It fails only when whoever waited was killed.
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&file.as_raw_fd().to_ne_bytes());
        bytes[4..].copy_from_slice(&response.to_ne_bytes());
        let _ = (&self.group).write(&bytes);
    }
}

/// One question of the kernel's.
struct Event {
    mask: u64,
    thread: i32,
    /// The file, opened for us; the answer names it.
    file: Option<OwnedFd>,
}

impl Event {
    /// The first of those read, and what follows (struct fanotify_event_metadata).
    fn first(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let number = |at: usize| Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let length = number(0)? as usize;
        let mask = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
        let (fd, thread) = (number(16)?, number(20)?);
        // SAFETY: the kernel opened it for whoever reads the event, and nobody else knows of it.
        let file = (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) });
        Some((Self { mask, thread, file }, bytes.get(length.max(24)..)?))
    }
}

/// Whether a thread is in a system call that reads or maps (proc_pid_syscall(5)); what cannot be seen writes.
fn reads(thread: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
    let call = text.split(' ').next().and_then(|number| number.parse::<libc::c_long>().ok());
    matches!(
        call,
        Some(
            libc::SYS_read
                | libc::SYS_pread64
                | libc::SYS_readv
                | libc::SYS_preadv
                | libc::SYS_preadv2
                | libc::SYS_sendfile
                | libc::SYS_mmap
        )
    )
}

/// The process of a thread.
fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Whether a process is one of these, or was started by one.
fn comes_from(process: i32, whose: &[Identity]) -> bool {
    let mut at = process;
    while at > 1 {
        let start = start_of(at);
        if whose.iter().any(|one| one.pid == at && Some(one.start) == start) {
            return true;
        }
        let Some(next) = parent(at) else { return false };
        at = next;
    }
    false
}

/// Who is never in the way of.
struct Spared {
    /// Ourselves, by our program: the watchdog and `recover` are others' processes.
    program: Option<(u64, u64)>,
    /// Who started us, and theirs.
    ancestors: HashSet<i32>,
}

impl Spared {
    fn now() -> Self {
        let mut ancestors = HashSet::from([1, std::process::id() as i32]);
        let mut at = std::process::id() as i32;
        while let Some(next) = parent(at).filter(|next| *next > 1) {
            ancestors.insert(next);
            at = next;
        }
        Self { program: program("self"), ancestors }
    }

    fn has(&self, process: i32) -> bool {
        self.ancestors.contains(&process)
            || self.program.is_some_and(|ours| program(&process.to_string()) == Some(ours))
            // Kernel threads, which write for everybody.
            || parent(process).is_none_or(|parent| process == 2 || parent == 2)
            // What a person needs to come in and end it.
            || guarded(process).is_some()
    }
}

/// The program of a process: the device and the inode of its file.
fn program(process: &str) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{process}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}
