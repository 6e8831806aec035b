//! Counts the system calls of a process, all its threads, and kills it at one of them.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Which calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Every one.
    Every,
    /// Those that can change something outside the process's own memory: between two of them it makes no difference
    /// to the machine at which instruction the process dies.
    Effects,
}

/// How a process that was watched ended.
#[derive(Debug)]
pub enum Ended {
    /// Killed as it entered this call.
    Killed(i64),
    /// By itself: its exit code, and how many calls counted.
    Itself { code: Option<i32>, counted: usize },
}

/// Runs a command and kills it as it is about to make the call of a number, counted from 1 and from the moment it
/// makes the undo log; `before` is called when everything stands, and is told the process id. With no number, it
/// only counts.
///
/// Whoever calls must have no other children that this thread started: it waits for all of them.
pub fn run(command: &mut Command, counted: Counted, at: Option<usize>, before: impl FnOnce(u32)) -> Ended {
    // SAFETY: a system call only.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut child = command.spawn().unwrap();
    let leader = Pid::from_raw(child.id() as i32);
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    assert!(matches!(waitpid(leader, Some(flags)).unwrap(), WaitStatus::Stopped(_, Signal::SIGTRAP)));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(leader, options).unwrap();
    let _ = ptrace::syscall(leader, None);
    // Whether a thread is inside a call, by its number.
    let mut inside: BTreeMap<Pid, bool> = BTreeMap::new();
    let (mut begun, mut count, mut code, mut before) = (false, 0, None, Some(before));
    let mut killed = None;
    loop {
        let (tid, signal) = match waitpid(Pid::from_raw(-1), Some(flags)) {
            Err(Errno::ECHILD) => break,
            Err(Errno::EINTR) => continue,
            Err(why) => panic!("{why}"),
            Ok(WaitStatus::Exited(tid, with)) => {
                code = if tid == leader { Some(with) } else { code };
                continue;
            }
            Ok(WaitStatus::PtraceSyscall(tid)) => {
                let was_inside = inside.entry(tid).or_default();
                *was_inside = !*was_inside;
                if *was_inside && killed.is_none() {
                    let Ok(registers) = ptrace::getregs(tid) else { continue };
                    let call = registers.orig_rax as i64;
                    begun = begun || makes_the_log(tid, call, registers.rsi, registers.rdx);
                    let counts = begun && (counted == Counted::Every || changes(tid, call, &registers));
                    count += usize::from(counts);
                    if counts && at == Some(count) {
                        if let Some(before) = before.take() {
                            before(leader.as_raw() as u32);
                        }
                        let _ = child.kill();
                        killed = Some(call);
                        continue; // It stays where it is: only its death comes.
                    }
                }
                (tid, None)
            }
            // A new thread's first stop; the stop after execve(2); a signal on its way.
            Ok(
                WaitStatus::Stopped(tid, Signal::SIGSTOP | Signal::SIGTRAP)
                | WaitStatus::PtraceEvent(tid, ..),
            ) => (tid, None),
            Ok(WaitStatus::Stopped(tid, signal)) => (tid, Some(signal)),
            Ok(_) => continue,
        };
        let _ = ptrace::syscall(tid, signal);
    }
    let _ = child.wait(); // It was collected above.
    match killed {
        Some(call) => Ended::Killed(call),
        None => Ended::Itself { code, counted: count },
    }
}

/// Whether this is openat(2) of an undo log that is not there yet.
fn makes_the_log(tid: Pid, call: i64, path: u64, flags: u64) -> bool {
    call == libc::SYS_openat && flags & libc::O_CREAT as u64 != 0 && {
        let path = PathBuf::from(text(tid, path));
        path.extension().is_some_and(|one| one == "log")
            && path.parent().is_some_and(|at| at.ends_with("undo"))
    }
}

fn text(tid: Pid, at: u64) -> String {
    let mut bytes = [0; 256];
    let Ok(memory) = std::fs::File::open(format!("/proc/{tid}/mem")) else { return String::new() };
    let read = memory.read_at(&mut bytes, at).unwrap_or(0);
    String::from_utf8_lossy(bytes[..read].split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Whether a call can change anything outside the memory of the process. What is not known to be harmless counts.
fn changes(tid: Pid, call: i64, registers: &libc::user_regs_struct) -> bool {
    match call {
        // Reading, waiting, its own memory, its own signals, its own clocks.
        libc::SYS_read
        | libc::SYS_pread64
        | libc::SYS_readv
        | libc::SYS_lseek
        | libc::SYS_mmap
        | libc::SYS_munmap
        | libc::SYS_mprotect
        | libc::SYS_mremap
        | libc::SYS_brk
        | libc::SYS_madvise
        | libc::SYS_membarrier
        | libc::SYS_rt_sigaction
        | libc::SYS_rt_sigprocmask
        | libc::SYS_rt_sigreturn
        | libc::SYS_sigaltstack
        | libc::SYS_futex
        | libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_epoll_ctl
        | libc::SYS_epoll_create1
        | libc::SYS_poll
        | libc::SYS_ppoll
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_clock_gettime
        | libc::SYS_sched_yield
        | libc::SYS_sched_getaffinity
        | libc::SYS_getpid
        | libc::SYS_gettid
        | libc::SYS_getuid
        | libc::SYS_geteuid
        | libc::SYS_getgid
        | libc::SYS_getegid
        | libc::SYS_getrandom
        | libc::SYS_getcwd
        | libc::SYS_uname
        | libc::SYS_sysinfo
        | libc::SYS_stat
        | libc::SYS_fstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_statfs
        | libc::SYS_fstatfs
        | libc::SYS_readlink
        | libc::SYS_readlinkat
        | libc::SYS_getdents64
        | libc::SYS_access
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_getsockname
        | libc::SYS_getpeername
        | libc::SYS_getsockopt
        | libc::SYS_pidfd_open
        | libc::SYS_eventfd2
        | libc::SYS_timerfd_create
        | libc::SYS_timerfd_settime
        | libc::SYS_pipe2
        | libc::SYS_dup
        | libc::SYS_fcntl
        | libc::SYS_rseq
        | libc::SYS_set_robust_list
        | libc::SYS_arch_prctl
        | libc::SYS_wait4
        | libc::SYS_waitid => false,
        libc::SYS_openat => {
            let changing = libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY;
            registers.rdx & changing as u64 != 0
        }
        // Without new limits it only reads them.
        libc::SYS_prlimit64 => registers.rdx != 0,
        // Waking a thread of its own.
        libc::SYS_write => file(tid, registers.rdi) != "anon_inode:[eventfd]",
        // What was only read, or is nobody's.
        libc::SYS_close => {
            let file = file(tid, registers.rdi);
            !["/proc/", "/sys/", "anon_inode:[event", "anon_inode:[timerfd]"]
                .iter()
                .any(|at| file.starts_with(at))
        }
        _ => true,
    }
}

/// What a descriptor is of.
fn file(tid: Pid, descriptor: u64) -> String {
    let file = std::fs::read_link(format!("/proc/{tid}/fd/{descriptor}")).unwrap_or_default();
    file.to_string_lossy().into_owned()
}
