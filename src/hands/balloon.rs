//! Memory, taken: a process of our own holds it, and ends with us.
//!
//! It is not ours to hold: the kernel's out-of-memory killer shall find somebody to kill who is neither the runner
//! nor a bystander. The holder asks to be the first (oom_score_adj, proc_pid_oom_score_adj(5)).

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};
use nix::sys::signal::Signal;

use crate::host::memory::{available, of_process};
use crate::host::process::{Identity, Process, all};

/// The command of ours that holds memory.
pub const COMMAND: &str = "balloon";
/// It grows and shrinks by so much, looking at the host's memory in between.
const STEP: usize = 16 << 20;
/// How often it looks once it is full.
const LOOK_MS: u8 = 100;
/// So long may a holder take to go when it was killed: gigabytes are given back in half a second.
const GOING: Duration = Duration::from_secs(10);

/// Why memory cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum BalloonError {
    /// The holder could not be started, or not be spoken to.
    #[error("the process that shall hold the memory: {0}")]
    Holder(#[from] io::Error),
    /// It said why it could not, or ended.
    #[error("the process that shall hold the memory {0}")]
    Failed(String),
}

/// Memory that is held until this is dropped, or we die.
#[derive(Debug)]
pub struct Balloon {
    holder: Holder,
    /// Its end ends the keeper, and with it the holder.
    end: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Balloon {
    /// Takes so many bytes, as far as `floor` bytes stay available to others; returns when it has them. The holder
    /// bears `mark`, so that [`holders`] finds it.
    ///
    /// # Errors
    /// When the holder cannot be started, or is killed while it grows; then nothing is held.
    pub fn inflate(bytes: u64, floor: u64, mark: &str) -> Result<Self, BalloonError> {
        let mut command = Command::new("/proc/self/exe");
        command.args([COMMAND, mark, &bytes.to_string(), &floor.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| {
                // Its own session: a terminal's Ctrl-C is the runner's to handle.
                nix::unistd::setsid()?;
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)
            });
        }
        // The signal of the parent's death is that of the parent *thread* (PR_SET_PDEATHSIG, prctl(2)): one that
        // lives for as long as the memory is held.
        let (end, ended) = channel::<()>();
        let (say, started) = channel();
        let keeper = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            let mut child = match command.spawn() {
                Ok(child) => child,
                Err(why) => return drop(say.send(Err(why.into()))),
            };
            let _ = say.send(grown(&mut child));
            let _ = ended.recv();
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let (end, keeper) = (Some(end), Some(keeper));
        let mut balloon = Self { holder: Holder::default(), end, keeper };
        let gone = || BalloonError::Failed("could not be watched".to_owned());
        balloon.holder = started.recv().map_err(|_| gone())??;
        Ok(balloon)
    }

    /// Whether the kernel may not swap it out.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.holder.locked
    }

    /// What the holder really has in memory for us, in bytes; `None` when it was killed.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        of_process(self.holder.pid).map(|bytes| bytes.saturating_sub(self.holder.own))
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        self.end.take();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// The process that holds it.
#[derive(Debug, Default)]
struct Holder {
    pid: i32,
    /// What it had of its own before it took any for us.
    own: u64,
    locked: bool,
}

/// Waits for the holder's word that it has grown.
fn grown(child: &mut Child) -> Result<Holder, BalloonError> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    let failed = |why: &str| BalloonError::Failed(why.to_owned());
    match line.trim_end().split_once(' ') {
        Some(("cannot", why)) => Err(failed(why)),
        Some((how, own)) => {
            let own = own.parse().map_err(|_| failed("said what nobody understands"))?;
            Ok(Holder { pid: child.id() as i32, own, locked: how == "locked" })
        }
        None => Err(failed(
            "ended while it grew; was it killed because its cgroup or the host ran out of memory?",
        )),
    }
}

/// The living holders that bear a mark.
#[must_use]
pub fn holders(mark: &str) -> Vec<Process> {
    let bears_it = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let mut words = line.split(|byte| *byte == 0).skip(1);
            words.next() == Some(COMMAND.as_bytes()) && words.next() == Some(mark.as_bytes())
        })
    };
    all().into_iter().filter(bears_it).filter_map(|pid| Process::of_pid(pid).ok()).collect()
}

/// Ends the holders that bear a mark, and waits until they are gone; those that are still there.
pub async fn burst(mark: &str) -> Vec<Identity> {
    let mut left = Vec::new();
    for holder in holders(mark) {
        let _ = holder.signal(Signal::SIGKILL);
        if !holder.wait_gone(GOING).await {
            left.push(holder.identity().clone());
        }
    }
    left
}

/// The holder's own life: takes memory, says so on its standard output, and holds it until its standard input
/// ends. Whenever less than `floor` is available to others it gives some back.
///
/// # Errors
/// When it cannot speak to whoever started it.
pub fn hold(bytes: u64, floor: u64) -> io::Result<()> {
    // Raising it needs no right.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let mut said = io::stdout();
    let mut region = match Region::reserve(bytes) {
        Ok(region) => region,
        Err(why) => return writeln!(said, "cannot have so much: {why}"),
    };
    let own = of_process(std::process::id() as i32).unwrap_or(0);
    let input = io::stdin();
    let mut growing = true;
    loop {
        let wait = if growing { PollTimeout::ZERO } else { PollTimeout::from(LOOK_MS) };
        let mut watched = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, wait)? > 0 {
            return Ok(()); // Nobody says anything: it is the end.
        }
        let free = available()?;
        if free < floor {
            region.shrink();
        }
        if growing && (free < floor.saturating_add(region.step() as u64) || !region.grow()) {
            growing = false;
            let how = if region.locked { "locked" } else { "unlocked" };
            writeln!(said, "{how} {own}")?;
            said.flush()?;
        }
    }
}

/// Memory of this process: reserved as a whole, had as far as it is `held`.
struct Region {
    start: NonNull<libc::c_void>,
    whole: usize,
    held: usize,
    locked: bool,
}

impl Region {
    fn reserve(bytes: u64) -> io::Result<Self> {
        let whole = usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
        let whole = whole.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let (access, kind) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
        // SAFETY: a new mapping, where the kernel likes.
        let start = unsafe { mmap_anonymous(None, whole, access, kind) }?;
        Ok(Self { start, whole: whole.get(), held: 0, locked: true })
    }

    /// How much the next step takes.
    fn step(&self) -> usize {
        STEP.min(self.whole - self.held)
    }

    /// Takes one step more; false when it has all.
    fn grow(&mut self) -> bool {
        let step = self.step();
        if step == 0 {
            return false;
        }
        // SAFETY: `held` and `step` lie within the mapping, which nobody else knows.
        unsafe {
            let begin = self.start.byte_add(self.held);
            // Locking has the pages made (mlock(2)); without the right to it, writing to each does.
            if !self.locked || mlock(begin, step).is_err() {
                self.locked = false;
                for page in (0..step).step_by(4096) {
                    begin.cast::<u8>().add(page).write_volatile(1);
                }
            }
        }
        self.held += step;
        true
    }

    /// Gives the newest step back, for good.
    fn shrink(&mut self) {
        let step = STEP.min(self.held);
        if step == 0 {
            return;
        }
        self.held = (self.held - step).next_multiple_of(4096);
        // SAFETY: what is beyond `held` is ours, and is not used again: `whole` ends there.
        let _ = unsafe { munmap(self.start.byte_add(self.held), self.whole - self.held) };
        self.whole = self.held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_grows_to_its_size_and_shrinks_to_nothing() {
        const MIB: usize = 1 << 20;
        let mut region = Region::reserve(40 << 20).unwrap();
        let mut steps = Vec::new();
        while region.grow() {
            steps.push(region.held / MIB);
        }
        assert_eq!(steps, [16, 32, 40]);
        // The pages are there: written to, or locked.
        let mut there = [0_u8; 40 * MIB / 4096];
        // SAFETY: the mapping is as long as the pages that are asked for.
        let asked = unsafe { libc::mincore(region.start.as_ptr(), 40 * MIB, there.as_mut_ptr()) };
        assert!(asked == 0 && there.iter().all(|page| page & 1 == 1));
        region.shrink();
        assert_eq!((region.held / MIB, region.grow()), (24, false), "what was given back stays so");
        region.shrink();
        region.shrink();
        region.shrink();
        assert_eq!((region.held, region.whole), (0, 0));
        assert!(Region::reserve(0).is_err());
    }
}
