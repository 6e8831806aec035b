//! Another time of day for a running process, by its vDSO.
//!
//! The vDSO (vdso(7)) is code that the kernel maps into every process; a C library asks it for the time without
//! a system call. Three of its functions tell the time of day. Their first instruction becomes a jump to code of
//! ours in the padding behind the image, which asks the kernel and shifts the answer. The pages are the process's
//! own copy (a write through /proc/PID/mem copies them, proc_pid_mem(5)): nobody else sees them, children inherit
//! them, and an execution drops them.
//!
//! The code holds a deadline and tells the true time from then on, whoever is left to take it away. Setting the
//! deadline to zero is one aligned word and ends the harm while the process runs; the jumps are taken out
//! while it stands still. The code itself stays behind, dead, in the padding: a signal handler may be about
//! to return into it, and nobody can see that from outside.
//!
//! What asks the kernel by a system call of its own sees the true time; so does the monotonic clock.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::tracer::{self, TracerError};
use crate::host::process::{self, Process};

/// Why a process's time cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum VdsoError {
    /// The kernel's image is not as this needs it.
    #[error("the vDSO of this kernel {0}")]
    Image(&'static str),
    /// The process maps another image than we do.
    #[error(
        "process {0} has another vDSO than this kernel gives: a 32-bit program, or something changed it already"
    )]
    Foreign(i32),
    /// Its memory cannot be read or written.
    #[error("the memory of process {pid}: {why}{}", if why.raw_os_error() == Some(libc::EACCES) || why.raw_os_error() == Some(libc::EPERM) {
        "; it belongs to another user: run as root"
    } else { "" })]
    Memory {
        /// Its number.
        pid: i32,
        /// What the kernel said.
        why: io::Error,
    },
    /// It cannot be held still.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// Its threads are in the way each time.
    #[error("process {0} was asking for the time whenever it was held still")]
    Busy(i32),
}

/// How the time of day is shifted: at `begin` by `offset`, and from there on by `drift` for each true second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// Which shift it is: what marks it as ours.
    pub mark: u64,
    /// From this second on the true time is told; seconds since 1970.
    pub deadline: i64,
    /// Seconds since 1970.
    pub begin: i64,
    /// Nanoseconds.
    pub offset: i64,
    /// Nanoseconds a second.
    pub drift: i64,
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.brownout_clock, \"a\", @progbits",
    ".balign 64",
    ".globl brownout_clock_begin",
    "brownout_clock_begin:",
    // The words: magic, mark, deadline, begin, offset, drift, and the drift of a nanosecond times 2^30.
    "20: .quad 0",
    "21: .quad 0",
    "22: .quad 0",
    "23: .quad 0",
    "24: .quad 0",
    "25: .quad 0",
    "26: .quad 0",
    // Shifts r8 seconds and r9 nanoseconds; uses rax, rcx, rdx, r10.
    "30:",
    "cmp r8, qword ptr [rip + 22b]",
    "jge 32f",
    "mov r10, r8",
    "sub r10, qword ptr [rip + 23b]",
    "imul r10, qword ptr [rip + 25b]",
    "mov rax, r9",
    "imul rax, qword ptr [rip + 26b]",
    "sar rax, 30",
    "add r10, rax",
    "add r10, qword ptr [rip + 24b]",
    "lea rax, [r10 + r9]",
    "cqo",
    "mov ecx, 1000000000",
    "idiv rcx",
    "test rdx, rdx",
    "jns 31f",
    "add rdx, rcx",
    "dec rax",
    "31: add r8, rax",
    "mov r9, rdx",
    "32: ret",
    // clock_gettime(edi, rsi): system call 228; CLOCK_REALTIME is 0, CLOCK_REALTIME_COARSE 5.
    ".globl brownout_clock_gettime",
    "brownout_clock_gettime:",
    "mov eax, 228",
    "syscall",
    "test eax, eax",
    "jnz 34f",
    "test edi, edi",
    "jz 33f",
    "cmp edi, 5",
    "jne 34f",
    "33: mov r8, qword ptr [rsi]",
    "mov r9, qword ptr [rsi + 8]",
    "call 30b",
    "mov qword ptr [rsi], r8",
    "mov qword ptr [rsi + 8], r9",
    "xor eax, eax",
    "34: ret",
    // gettimeofday(rdi, rsi): system call 96, in microseconds.
    ".globl brownout_clock_timeofday",
    "brownout_clock_timeofday:",
    "mov eax, 96",
    "syscall",
    "test eax, eax",
    "jnz 35f",
    "test rdi, rdi",
    "jz 35f",
    "mov r8, qword ptr [rdi]",
    "imul r9, qword ptr [rdi + 8], 1000",
    "call 30b",
    "mov qword ptr [rdi], r8",
    "mov rax, r9",
    "xor edx, edx",
    "mov ecx, 1000",
    "div rcx",
    "mov qword ptr [rdi + 8], rax",
    "xor eax, eax",
    "35: ret",
    // time(rdi): by clock_gettime, so that both turn over at the same instant.
    ".globl brownout_clock_time",
    "brownout_clock_time:",
    "push rdi",
    "sub rsp, 16",
    "mov eax, 228",
    "xor edi, edi",
    "mov rsi, rsp",
    "syscall",
    "mov r8, qword ptr [rsp]",
    "mov r9, qword ptr [rsp + 8]",
    "add rsp, 16",
    "pop rdi",
    "call 30b",
    "test rdi, rdi",
    "jz 36f",
    "mov qword ptr [rdi], r8",
    "36: mov rax, r8",
    "ret",
    ".globl brownout_clock_end",
    "brownout_clock_end:",
    ".popsection",
);

#[cfg(target_arch = "x86_64")]
unsafe extern "C" {
    static brownout_clock_begin: u8;
    static brownout_clock_gettime: u8;
    static brownout_clock_timeofday: u8;
    static brownout_clock_time: u8;
    static brownout_clock_end: u8;
}

/// The code, and where in it each of the three functions begins.
#[cfg(target_arch = "x86_64")]
fn code() -> (&'static [u8], [usize; 3]) {
    let begin = &raw const brownout_clock_begin;
    let at = |symbol: *const u8| symbol as usize - begin as usize;
    let entries = [
        &raw const brownout_clock_gettime,
        &raw const brownout_clock_timeofday,
        &raw const brownout_clock_time,
    ];
    // SAFETY: the symbols enclose read-only data of this program.
    let code = unsafe { std::slice::from_raw_parts(begin, at(&raw const brownout_clock_end)) };
    (code, entries.map(at))
}

#[cfg(not(target_arch = "x86_64"))]
fn code() -> (&'static [u8], [usize; 3]) {
    (&[], [0; 3])
}

/// The functions that tell the time of day, in the order of [`code`].
const FUNCTIONS: [&str; 3] = ["__vdso_clock_gettime", "__vdso_gettimeofday", "__vdso_time"];
const MAGIC: u64 = u64::from_le_bytes(*b"brownout");
const WORD: usize = size_of::<u64>();
/// Words before the code.
const WORDS: usize = 7;
const DEADLINE: usize = 2 * WORD;
/// A jump: e9 and a distance from its end of 32 bits (Intel SDM, JMP rel32).
const JUMP: usize = 5;
/// So often a process is held still until none of its threads is in the way.
const TRIES: u32 = 50;

/// The image that this kernel maps into every process.
#[derive(Debug)]
pub struct Image {
    bytes: Vec<u8>,
    functions: [usize; 3],
    padding: usize,
}

impl Image {
    /// Reads ours.
    ///
    /// # Errors
    /// When this is another processor, or the image has no such functions or no room.
    pub fn ours() -> Result<Self, VdsoError> {
        if code().0.is_empty() {
            return Err(VdsoError::Image("is changed on x86_64 only"));
        }
        let us = std::process::id() as i32;
        let (base, length) = mapped(us).ok_or(VdsoError::Image("is not mapped: vdso=0?"))?;
        let mut bytes = vec![0; length];
        let memory = |why| VdsoError::Memory { pid: us, why };
        open(us, false).and_then(|memory| memory.read_exact_at(&mut bytes, base)).map_err(memory)?;
        Self::parse(bytes)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, VdsoError> {
        let functions =
            FUNCTIONS.map(|name| symbol(&bytes, name).filter(|at| at.saturating_add(JUMP) <= bytes.len()));
        let [Some(gettime), Some(timeofday), Some(time)] = functions else {
            return Err(VdsoError::Image("has no functions that tell the time"));
        };
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let padding = used.next_multiple_of(64);
        if padding + code().0.len() > bytes.len() {
            return Err(VdsoError::Image("has no room behind its code"));
        }
        Ok(Self { functions: [gettime, timeofday, time], padding, bytes })
    }

    /// The jump that leads from each function to ours.
    fn jumps(&self) -> [[u8; JUMP]; 3] {
        let (_, entries) = code();
        std::array::from_fn(|n| {
            let distance = (self.padding + entries[n]) as i64 - (self.functions[n] + JUMP) as i64;
            let mut jump = [0xe9; JUMP];
            jump[1..].copy_from_slice(&(distance as i32).to_le_bytes());
            jump
        })
    }

    fn originals(&self) -> [&[u8]; 3] {
        self.functions.map(|at| &self.bytes[at..at + JUMP])
    }
}

/// Where a process maps its vDSO, and how long it is.
fn mapped(pid: i32) -> Option<(u64, usize)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (begin, end) = line.split_whitespace().next()?.split_once('-')?;
    let (begin, end) = (u64::from_str_radix(begin, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    Some((begin, end.checked_sub(begin)? as usize))
}

fn open(pid: i32, write: bool) -> io::Result<File> {
    File::options().read(true).write(write).open(format!("/proc/{pid}/mem"))
}

/// The place of a dynamic symbol in an ELF image of 64 bits (elf(5)).
fn symbol(image: &[u8], name: &str) -> Option<usize> {
    const DYNSYM: u32 = 11;
    let number = |at: usize, length: usize| -> Option<usize> {
        let mut wide = [0; 8];
        wide[..length].copy_from_slice(image.get(at..at.checked_add(length)?)?);
        usize::try_from(u64::from_le_bytes(wide)).ok()
    };
    // e_shoff, e_shnum; of a section header sh_type, sh_offset, sh_size, sh_link.
    let (sections, count) = (number(40, 8)?, number(60, 2)?);
    let section = |n: usize| sections.checked_add(n.checked_mul(64)?);
    let is_table = |at: &usize| number(at.saturating_add(4), 4) == Some(DYNSYM as usize);
    let symbols = (0..count).filter_map(section).find(is_table)?;
    let (table, size) = (number(symbols.checked_add(24)?, 8)?, number(symbols.checked_add(32)?, 8)?);
    let names = section(number(symbols.checked_add(40)?, 4)?)?;
    let names = number(names.checked_add(24)?, 8)?;
    // Of a symbol st_name, st_value.
    (0..size / 24).find_map(|n| {
        let entry = table.checked_add(n * 24)?;
        let text = image.get(names.checked_add(number(entry, 4)?)?..)?;
        let named = text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0);
        number(entry.checked_add(8)?, 8).filter(|_| named)
    })
}

/// One process's copy of the image.
struct Copy<'a> {
    pid: i32,
    base: u64,
    memory: File,
    image: &'a Image,
}

impl<'a> Copy<'a> {
    fn open(pid: i32, image: &'a Image, write: bool) -> Result<Self, VdsoError> {
        let (base, length) = mapped(pid).ok_or(VdsoError::Foreign(pid))?;
        if length != image.bytes.len() {
            return Err(VdsoError::Foreign(pid));
        }
        let memory = open(pid, write).map_err(|why| VdsoError::Memory { pid, why })?;
        Ok(Self { pid, base, memory, image })
    }

    fn read(&self, at: usize, into: &mut [u8]) -> Result<(), VdsoError> {
        let read = self.memory.read_exact_at(into, self.base + at as u64);
        read.map_err(|why| VdsoError::Memory { pid: self.pid, why })
    }

    fn write(&self, at: usize, bytes: &[u8]) -> Result<(), VdsoError> {
        let written = self.memory.write_all_at(bytes, self.base + at as u64);
        written.map_err(|why| VdsoError::Memory { pid: self.pid, why })
    }

    fn words(&self) -> Result<[u64; WORDS], VdsoError> {
        let mut bytes = [0; WORDS * WORD];
        self.read(self.image.padding, &mut bytes)?;
        let mut words =
            bytes.chunks_exact(WORD).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes);
        Ok(std::array::from_fn(|_| words.next().unwrap_or_default()))
    }

    /// Which functions lead to us.
    fn led(&self) -> Result<[bool; 3], VdsoError> {
        let mut led = [false; 3];
        for (n, jump) in self.image.jumps().iter().enumerate() {
            let mut there = [0; JUMP];
            self.read(self.image.functions[n], &mut there)?;
            led[n] = there == *jump;
        }
        Ok(led)
    }

    /// Holds the process still when no thread is inside of what is about to change, and changes it.
    fn while_still(
        &self,
        process: &Process,
        change: impl Fn(&Self) -> Result<(), VdsoError>,
    ) -> Result<(), VdsoError> {
        for _ in 0..TRIES {
            let still = tracer::pause(process)?;
            let inside = self.image.functions.iter().any(|function| {
                let first = self.base + *function as u64;
                let changed = first + 1..first + JUMP as u64;
                process
                    .threads()
                    .into_iter()
                    .any(|thread| at(self.pid, thread).is_some_and(|at| changed.contains(&at)))
            });
            if !inside {
                return change(self);
            }
            drop(still);
            std::thread::yield_now();
        }
        Err(VdsoError::Busy(self.pid))
    }
}

/// Where a thread that stands still is: the last word of /proc/PID/task/TID/syscall (proc_pid_syscall(5)).
fn at(pid: i32, thread: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    u64::from_str_radix(text.split_whitespace().last()?.strip_prefix("0x")?, 16).ok()
}

/// Whether a process's time of day can be shifted, as far as looking tells.
///
/// # Errors
/// Why it cannot be.
pub fn check(pid: i32, image: &Image) -> Result<(), VdsoError> {
    fits(&Copy::open(pid, image, false)?)
}

/// Whether it is the kernel's own image. What an earlier shift left dead in the padding is the only difference
/// that may be.
fn fits(copy: &Copy<'_>) -> Result<(), VdsoError> {
    let (code, _) = code();
    let mut now = vec![0; copy.image.bytes.len()];
    copy.read(0, &mut now)?;
    let (front, padding) = now.split_at(copy.image.padding);
    let dead = padding.get(WORDS * WORD..code.len()) == code.get(WORDS * WORD..);
    if front == &copy.image.bytes[..copy.image.padding] && (dead || padding.iter().all(|byte| *byte == 0)) {
        return Ok(());
    }
    Err(VdsoError::Foreign(copy.pid))
}

/// Shifts the time of day of a process.
///
/// # Errors
/// When it cannot be; then nothing of it is shifted.
pub fn shift(process: &Process, image: &Image, shift: Shift) -> Result<(), VdsoError> {
    let copy = Copy::open(process.identity().pid, image, true)?;
    fits(&copy)?;
    let (code, _) = code();
    let part = (i128::from(shift.drift) << 30) / 1_000_000_000;
    let words = [
        MAGIC,
        shift.mark,
        shift.deadline as u64,
        shift.begin as u64,
        shift.offset as u64,
        shift.drift as u64,
        part as u64,
    ];
    let mut body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    body.extend(code.get(WORDS * WORD..).unwrap_or_default());
    copy.while_still(process, |copy| {
        copy.write(image.padding, &body)?;
        let mut leads = image.functions.iter().zip(image.jumps());
        let led = leads.try_for_each(|(at, jump)| copy.write(*at, &jump));
        if led.is_err() {
            let _ = copy.write(image.padding + DEADLINE, &0_u64.to_le_bytes());
        }
        led
    })
}

/// The processes whose time of day is shifted by this mark and not told truly again yet; those we may not look
/// into are passed over. Milliseconds on a host of hundreds.
#[must_use]
pub fn shifted(image: &Image, mark: u64) -> Vec<i32> {
    process::all().into_iter().filter(|pid| is_shifted(*pid, image, mark)).collect()
}

fn is_shifted(pid: i32, image: &Image, mark: u64) -> bool {
    Copy::open(pid, image, false).is_ok_and(|copy| {
        let ours = copy.words().is_ok_and(|words| words[0] == MAGIC && words[1] == mark);
        ours && copy.led().is_ok_and(|led| led.contains(&true))
    })
}

/// Lets a process tell the true time again: at once, while it runs; then its image is made whole while it stands
/// still. One that ended, or that this mark does not shift, is left alone.
///
/// # Errors
/// When its memory cannot be written. When it cannot be held still it tells the true time all the same.
pub fn restore(pid: i32, image: &Image, mark: u64) -> Result<(), VdsoError> {
    let Ok(process) = Process::of_pid(pid) else { return Ok(()) };
    if !is_shifted(pid, image, mark) {
        return Ok(());
    }
    let copy = match Copy::open(pid, image, true) {
        Err(VdsoError::Memory { why, .. }) if why.raw_os_error() == Some(Errno::ESRCH as i32) => {
            return Ok(());
        }
        other => other?,
    };
    copy.write(image.padding + DEADLINE, &0_u64.to_le_bytes())?;
    copy.while_still(&process, |copy| {
        image.functions.iter().zip(image.originals()).try_for_each(|(at, bytes)| copy.write(*at, bytes))
    })
}

/// By how many nanoseconds a process's clock is ahead of ours: its own code, copied and called here. `None` when
/// not all of its functions lead to it.
///
/// # Errors
/// When it cannot be read, or no memory can be had that may be executed.
pub fn ahead(pid: i32, image: &Image) -> Result<Option<i64>, VdsoError> {
    let copy = Copy::open(pid, image, false)?;
    if copy.led()? != [true; 3] {
        return Ok(None);
    }
    let (code, [gettime, ..]) = code();
    let mut theirs = vec![0; code.len()];
    copy.read(image.padding, &mut theirs)?;
    // Only what is our own code to the last byte is executed here.
    if theirs.get(WORDS * WORD..) != code.get(WORDS * WORD..) {
        return Err(VdsoError::Foreign(pid));
    }
    let ours = || {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)
            .unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
        now.tv_sec() * 1_000_000_000 + now.tv_nsec()
    };
    let memory = |why: Errno| VdsoError::Memory { pid, why: why.into() };
    // SAFETY: a fresh anonymous mapping, filled while it may be written, then executed as the function that it
    // holds: the code is our own (compared above), and clock_gettime's signature is that of vdso(7). Its words are
    // numbers, for which any value is valid.
    let told = unsafe {
        let length = theirs.len().next_multiple_of(4096);
        let room = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if room == libc::MAP_FAILED {
            return Err(memory(Errno::last()));
        }
        std::ptr::copy_nonoverlapping(theirs.as_ptr(), room.cast::<u8>(), theirs.len());
        let called = if libc::mprotect(room, length, libc::PROT_READ | libc::PROT_EXEC) == 0 {
            let entry = room.cast::<u8>().add(gettime);
            let ask: extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int =
                std::mem::transmute(entry);
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            ask(libc::CLOCK_REALTIME, &raw mut time);
            Ok(time)
        } else {
            Err(memory(Errno::last()))
        };
        libc::munmap(room, length);
        called
    }?;
    Ok(Some(told.tv_sec * 1_000_000_000 + told.tv_nsec - ours()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

    use super::*;

    /// A Python that tells its time by all three functions, when it is asked.
    struct Teller {
        child: Child,
        ask: ChildStdin,
        answers: BufReader<ChildStdout>,
    }

    impl Teller {
        fn start() -> Self {
            const TELL: &str = "import sys,time,ctypes\nlibc=ctypes.CDLL(None)\nlibc.time.restype=ctypes.c_long\n\
                class TV(ctypes.Structure): _fields_=[('s',ctypes.c_long),('u',ctypes.c_long)]\n\
                for _ in sys.stdin:\n  tv=TV(); libc.gettimeofday(ctypes.byref(tv),None)\n  \
                print(time.time_ns(),tv.s*10**6+tv.u,libc.time(None),time.monotonic_ns(),flush=True)";
            let mut child = Command::new("python3")
                .args(["-c", TELL])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let (ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            let mut teller = Self { child, ask, answers: BufReader::new(answers) };
            teller.tell();
            teller
        }

        /// Nanoseconds, microseconds, seconds, monotonic nanoseconds.
        fn tell(&mut self) -> [i64; 4] {
            writeln!(self.ask).unwrap();
            let mut line = String::new();
            self.answers.read_line(&mut line).unwrap();
            let mut numbers = line.split_whitespace().map(|word| word.parse().unwrap());
            std::array::from_fn(|_| numbers.next().unwrap())
        }

        fn process(&self) -> Process {
            Process::of_pid(self.child.id() as i32).unwrap()
        }
    }

    impl Drop for Teller {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn now() -> i64 {
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).unwrap().tv_sec()
    }

    const HOUR: i64 = 3_600_000_000_000;

    fn by(offset: i64, drift: i64, lasts: i64) -> Shift {
        Shift { mark: 0x1234_5678, deadline: now() + lasts, begin: now(), offset, drift }
    }

    #[test]
    fn all_three_functions_are_shifted_and_the_image_is_whole_again_afterwards() {
        let (mut teller, image) = (Teller::start(), Image::ours().unwrap());
        let pid = teller.child.id() as i32;
        for offset in [HOUR, -24 * HOUR, 500_000_000] {
            let monotonic = teller.tell()[3];
            shift(&teller.process(), &image, by(offset, 0, 100)).unwrap();
            assert!(shifted(&image, 0x1234_5678).contains(&pid));
            let [ns, us, s, later] = teller.tell();
            let behind = now() * 1_000_000_000 + offset - ns;
            // A second that turns over between, and a busy machine.
            assert!(behind.abs() < 20_000_000_000, "{offset}: {behind}");
            assert!(
                (us * 1000 - ns).abs() < 5_000_000_000 && (s - ns / 1_000_000_000).abs() <= 5,
                "{ns} {us} {s}"
            );
            assert!(later > monotonic && later - monotonic < 60_000_000_000, "the monotonic clock goes on");
            let ahead = ahead(pid, &image).unwrap().unwrap();
            assert!((ahead - offset).abs() < 1_000_000_000, "{ahead}");
            assert!(
                matches!(shift(&teller.process(), &image, by(1, 0, 100)), Err(VdsoError::Foreign(_))),
                "twice"
            );

            restore(pid, &image, 0x1234_5678).unwrap();
            assert!(!shifted(&image, 0x1234_5678).contains(&pid));
            let [ns, us, s, _] = teller.tell();
            for seconds in [ns / 1_000_000_000, us / 1_000_000, s] {
                assert!((seconds - now()).abs() < 20, "{seconds}");
            }
            let copy = Copy::open(pid, &image, false).unwrap();
            let mut bytes = vec![0; image.padding];
            copy.read(0, &mut bytes).unwrap();
            assert_eq!(bytes, image.bytes[..image.padding]);
            restore(pid, &image, 0x1234_5678).unwrap();
        }
    }

    #[test]
    fn a_deadline_ends_it_without_anybody() {
        let (mut teller, image) = (Teller::start(), Image::ours().unwrap());
        shift(&teller.process(), &image, by(HOUR, 0, 0)).unwrap();
        let ns = teller.tell()[0];
        assert!((ns / 1_000_000_000 - now()).abs() < 20, "its deadline is past: {ns}");
    }

    #[test]
    fn a_drift_adds_up_from_its_beginning_and_a_fraction_counts() {
        let (mut teller, image) = (Teller::start(), Image::ours().unwrap());
        let begun = now() - 1000;
        // A thousand seconds ago it began to gain half a second each second.
        let drifting = Shift { begin: begun, ..by(0, 500_000_000, 100) };
        shift(&teller.process(), &image, drifting).unwrap();
        let gained = (teller.tell()[0] - now() * 1_000_000_000) as f64 / 1e9;
        assert!((495.0..530.0).contains(&gained), "{gained}");
        let ahead = ahead(teller.child.id() as i32, &image).unwrap().unwrap();
        let so_far = (now() - begun) as f64 / 2.0;
        assert!((ahead as f64 / 1e9 - so_far).abs() < 10.0, "{ahead} {so_far}");
    }

    #[test]
    fn children_inherit_it_and_are_found() {
        const FORK: &str = "import os,sys\nprint('here',flush=True)\nfor _ in sys.stdin:\n  if os.fork()==0: sys.stdin.read(); os._exit(0)\n  print('forked',flush=True)";
        let image = Image::ours().unwrap();
        let mut child = Command::new("python3")
            .args(["-c", FORK])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut ask, mut answers) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let (pid, mark, mut line) = (child.id() as i32, 0x77, String::new());
        answers.read_line(&mut line).unwrap(); // It has executed its program.
        shift(&Process::of_pid(pid).unwrap(), &image, Shift { mark, ..by(HOUR, 0, 100) }).unwrap();
        writeln!(ask).unwrap();
        answers.read_line(&mut line).unwrap();
        let found = shifted(&image, mark);
        assert!(found.len() == 2 && found.contains(&pid), "{found:?}");
        for pid in found {
            restore(pid, &image, mark).unwrap();
        }
        assert_eq!(shifted(&image, mark), Vec::<i32>::new());
        drop(ask);
        child.wait().unwrap();
    }

    #[test]
    fn an_image_that_is_none_is_refused() {
        for bytes in [Vec::new(), vec![0; 64], vec![0xff; 8192]] {
            assert!(matches!(Image::parse(bytes), Err(VdsoError::Image(_))));
        }
        let mut full = Image::ours().unwrap().bytes;
        if let Some(last) = full.last_mut() {
            *last = 1;
        }
        assert!(matches!(Image::parse(full), Err(VdsoError::Image(why)) if why.contains("room")));
    }
}
