//! A disk, kept busy: threads of ours that read and write a file without a name, and end with us.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice, fallocate, open, posix_fadvise};
use nix::sys::stat::Mode;
use nix::sys::uio::{pread, pwrite};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Heartbeat;
use crate::base::Throughput;
use crate::base::clock::since_boot;

/// At most so long does a thread sleep before it looks around.
const NAP: Duration = Duration::from_millis(10);
/// What a disk could not do is made up for, up to so much: else it would do more than asked for long after it can again.
const MOST_DEBT: Duration = Duration::from_millis(100);
/// When whoever decides is silent for so long, nothing is read or written.
const SILENCE: Duration = Duration::from_millis(1500);
/// The smallest piece: the largest sector that disks have, and what a page is.
const PIECE: u64 = 4096;
/// The pieces are taken in an order in which none is next to the one before: a prime, and so each comes.
const STRIDE: u64 = 7_368_787;
/// So many pieces a second at least, where the rate allows it: a load shall be even.
const EVEN: u64 = 20;

/// What is asked of the disk.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    /// To read so much.
    pub read: Option<Throughput>,
    /// To write so much.
    pub write: Option<Throughput>,
    /// How large the file is.
    pub size: u64,
    /// The largest piece that is read or written at once.
    pub block: u64,
    /// So many threads for each.
    pub workers: u32,
}

/// What one direction has done.
#[derive(Debug, Default)]
pub struct Tally {
    bytes: AtomicU64,
    /// The time that all threads spent waiting for the disk, in nanoseconds.
    busy: AtomicU64,
}

impl Tally {
    /// Bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How long all threads together have waited for the disk.
    #[must_use]
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct State {
    file: OwnedFd,
    /// Whether the page cache is passed by (O_DIRECT, open(2)).
    direct: bool,
    pieces: u64,
    stop: AtomicBool,
    read: Tally,
    written: Tally,
    failed: OnceLock<String>,
}

/// Threads that read and write until this is dropped, or we die. One that waits for the disk ends when the disk has
/// answered: nobody waits for that here, since a disk may hang.
#[derive(Debug)]
pub struct Churn(Arc<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Churn {
    /// Starts in a folder. What is to be read is written first. The threads bear `name`, at most 15 bytes of it, so that
    /// [`super::burner::is_there`] finds them.
    ///
    /// # Errors
    /// When the file or the threads cannot be had; then nothing goes on.
    pub fn start(folder: &Path, order: &Order, name: &str, heartbeat: &Heartbeat) -> io::Result<Self> {
        let (file, direct) = nameless(folder)?;
        let length = |rate: Throughput| {
            let even = rate.0 / u64::from(order.workers.max(1)) / EVEN;
            even.min(order.block).min(order.size).max(PIECE) / PIECE * PIECE
        };
        let pieces = (order.size / PIECE).max(1);
        let churn = Self(Arc::new(State {
            file,
            direct,
            pieces,
            stop: AtomicBool::new(false),
            read: Tally::default(),
            written: Tally::default(),
            failed: OnceLock::new(),
        }));
        if order.read.is_some() {
            churn.0.fill(order.block)?;
        } else {
            // Where it cannot be reserved, it grows.
            let _ = fallocate(&churn.0.file, FallocateFlags::empty(), 0, (pieces * PIECE) as i64);
        }
        for (way, rate) in [(Way::Read, order.read), (Way::Write, order.write)] {
            let Some(rate) = rate else { continue };
            for nth in 0..order.workers {
                let (state, heartbeat) = (churn.0.clone(), heartbeat.clone());
                let each = rate.0 as f64 / f64::from(order.workers);
                let (length, from) = (length(rate), u64::from(nth) * pieces / u64::from(order.workers));
                let work = move || {
                    if let Err(why) = state.churn(way, each, length, from, &heartbeat) {
                        let _ = state.failed.set(why.to_string());
                    }
                };
                std::thread::Builder::new().name(name.to_owned()).spawn(work)?;
            }
        }
        Ok(churn)
    }

    /// What was read until now.
    #[must_use]
    pub fn read(&self) -> &Tally {
        &self.0.read
    }

    /// What was written until now.
    #[must_use]
    pub fn written(&self) -> &Tally {
        &self.0.written
    }

    /// Why a thread has ended, if one has.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.0.failed.get().map(String::as_str)
    }

    /// Whether the page cache is passed by.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.0.direct
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// A file without a name, past the page cache where the file system lets us.
fn nameless(folder: &Path) -> io::Result<(OwnedFd, bool)> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    match open(folder, flags | OFlag::O_DIRECT, mode) {
        Err(Errno::EINVAL) => Ok((open(folder, flags, mode)?, false)),
        other => Ok((other?, true)),
    }
}

impl State {
    /// Writes the file once, so that there is something to read.
    fn fill(&self, block: u64) -> io::Result<()> {
        let block = block.max(PIECE) / PIECE;
        let mut buffer = Buffer::new(block * PIECE);
        for first in (0..self.pieces).step_by(block as usize) {
            let length = block.min(self.pieces - first) * PIECE;
            self.once(Way::Write, buffer.first(length), first)?;
        }
        Ok(())
    }

    /// Keeps what this thread reads or writes at its rate.
    fn churn(&self, way: Way, rate: f64, length: u64, from: u64, heartbeat: &Heartbeat) -> io::Result<()> {
        let tally = if way == Way::Read { &self.read } else { &self.written };
        let mut buffer = Buffer::new(length);
        let (mut since, mut done, mut piece) = (since_boot(), 0_u64, from);
        let last = self.pieces.saturating_sub(length / PIECE) + 1;
        while !self.stop.load(Ordering::Relaxed) {
            let now = since_boot();
            if heartbeat.silence() > SILENCE {
                std::thread::sleep(NAP);
                (since, done) = (since_boot(), 0);
                continue;
            }
            let due = since + Duration::from_secs_f64(done as f64 / rate);
            if now < due {
                std::thread::sleep(due.saturating_sub(now).min(NAP));
                continue;
            }
            if now.saturating_sub(due) > MOST_DEBT {
                (since, done) = (now, 0);
            }
            piece = (piece + STRIDE) % last;
            let begun = since_boot();
            let some = self.once(way, buffer.first(length), piece)?;
            let took = since_boot().saturating_sub(begun);
            tally.busy.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
            tally.bytes.fetch_add(some, Ordering::Relaxed);
            done += some;
        }
        Ok(())
    }

    /// Reads or writes at a piece, and waits for the disk; how much it was.
    fn once(&self, way: Way, bytes: &mut [u8], piece: u64) -> io::Result<u64> {
        let (at, length) = ((piece * PIECE) as i64, bytes.len() as i64);
        let done = match way {
            Way::Read => pread(&self.file, bytes, at)?,
            Way::Write => pwrite(&self.file, bytes, at)?,
        };
        match way {
            _ if self.direct => {}
            Way::Read => posix_fadvise(&self.file, at, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?,
            Way::Write => nix::unistd::fdatasync(&self.file)?,
        }
        Ok(done as u64)
    }
}

/// Bytes that begin where a page does, as O_DIRECT asks (open(2)).
struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
}

impl Buffer {
    /// Filled with what no disk can pack.
    fn new(length: u64) -> Self {
        let mut bytes = vec![0; (length + PIECE) as usize];
        ChaCha8Rng::seed_from_u64(length).fill_bytes(&mut bytes);
        Self { begin: bytes.as_ptr().align_offset(PIECE as usize).min(PIECE as usize), bytes }
    }

    fn first(&mut self, length: u64) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + length as usize]
    }
}
