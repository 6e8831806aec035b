//! Processes that stand still for as long as we live, by ptrace.
//!
//! A stop by PTRACE_SEIZE and PTRACE_INTERRUPT ends when its tracer dies (ptrace(2)); SIGSTOP does not. A
//! tracer is a *thread*, so one immortal thread traces for the whole process.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::host::process::{self, Process};

/// Why a process cannot be paused.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The kernel said no.
    #[error("process {pid} cannot be paused: {why}{}", if *.why == Errno::EPERM {
        "; it belongs to another user, is traced already, or kernel.yama.ptrace_scope forbids it: run as root, or set that to 0"
    } else { "" })]
    Refused {
        /// Its number.
        pid: i32,
        /// What the kernel said.
        why: Errno,
    },
    /// It ended meanwhile.
    #[error("process {0} ended before it could be paused")]
    Gone(i32),
    /// The tracing thread could not be started.
    #[error("the tracing thread: {0}")]
    Thread(String),
}

/// A process that stands still until this is dropped, or we die.
#[derive(Debug)]
pub struct Paused {
    pid: i32,
}

impl Drop for Paused {
    fn drop(&mut self) {
        let (answer, done) = channel();
        if let Ok(tracer) = tracer()
            && tracer.send(Order::Resume(self.pid, answer)).is_ok()
        {
            // The answer means that every thread was let go.
            let _ = done.recv();
        }
    }
}

enum Order {
    Pause(i32, Sender<Result<(), TracerError>>),
    Resume(i32, Sender<()>),
}

/// Holds every thread of a process still.
///
/// # Errors
/// When the kernel refuses, or the process has ended; then none of its threads is held.
pub fn pause(process: &Process) -> Result<Paused, TracerError> {
    let pid = process.identity().pid;
    let (answer, result) = channel();
    let died = || TracerError::Thread("it has ended".to_owned());
    tracer()?.send(Order::Pause(pid, answer)).map_err(|_| died())?;
    result.recv().map_err(|_| died())??;
    let paused = Paused { pid };
    // The pidfd still pins the process, so its number was its own all along, if it still lives.
    if process.is_alive() { Ok(paused) } else { Err(TracerError::Gone(pid)) }
}

fn tracer() -> Result<Sender<Order>, TracerError> {
    static TRACER: OnceLock<Result<Mutex<Sender<Order>>, String>> = OnceLock::new();
    let started = TRACER.get_or_init(|| {
        let (sender, orders) = channel();
        std::thread::Builder::new()
            .name("tracer".to_owned())
            .spawn(move || serve(&orders))
            .map(|_| Mutex::new(sender))
            .map_err(|why: io::Error| why.to_string())
    });
    match started {
        Ok(sender) => match sender.lock() {
            Ok(sender) => Ok(sender.clone()),
            Err(poisoned) => Ok(poisoned.into_inner().clone()),
        },
        Err(why) => Err(TracerError::Thread(why.clone())),
    }
}

fn serve(orders: &Receiver<Order>) {
    for order in orders {
        match order {
            Order::Pause(pid, answer) => {
                let seized = seize_all(pid);
                if seized.is_err() {
                    release_all(pid);
                }
                let _ = answer.send(seized);
            }
            Order::Resume(pid, answer) => {
                release_all(pid);
                let _ = answer.send(());
            }
        }
    }
}

fn threads(pid: i32) -> BTreeSet<i32> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Seizes and stops thread after thread until a reading of the list shows no new one: a thread that is
/// not stopped yet may start others.
fn seize_all(pid: i32) -> Result<(), TracerError> {
    let mut held = BTreeSet::new();
    loop {
        let fresh: Vec<i32> = threads(pid).difference(&held).copied().collect();
        if fresh.is_empty() {
            return if held.is_empty() { Err(TracerError::Gone(pid)) } else { Ok(()) };
        }
        for thread in fresh {
            match seize(thread) {
                // ESRCH: it ended meanwhile: nothing to hold. A main thread that ended while others run stays in
                // the list as a zombie, which the kernel refuses to seize.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(Errno::EPERM) if ended(pid, thread) => {}
                Err(why) => return Err(TracerError::Refused { pid, why }),
            }
            held.insert(thread);
        }
    }
}

/// Whether a thread is a zombie or gone.
fn ended(pid: i32, thread: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).map_or(true, |stat| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
    })
}

fn seize(thread: i32) -> nix::Result<()> {
    let thread = Pid::from_raw(thread);
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    waitpid(thread, Some(WaitPidFlag::__WALL)).map(|_: WaitStatus| ())
}

/// Lets every thread go. The main thread comes last: one that was killed reports its end only when all
/// others have been reaped, and they are ours to reap.
fn release_all(pid: i32) {
    for thread in threads(pid).into_iter().filter(|thread| *thread != pid) {
        release(Pid::from_raw(thread));
    }
    // Our own child's end is for whoever started it to collect: parent and tracer are one process here, and
    // to reap it as its tracer would take the exit status away.
    if process::parent(pid) == Some(std::process::id() as i32) {
        let _ = ptrace::detach(Pid::from_raw(pid), None);
    } else {
        release(Pid::from_raw(pid));
    }
}

/// Lets one thread go. One that cannot be detached was killed while it stood still (ptrace(2), ESRCH): it
/// is on its way out, and until its tracer has reaped it, its parent waits for ever.
fn release(thread: Pid) {
    while ptrace::detach(thread, None) == Err(Errno::ESRCH) {
        match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceEvent(..)) | Err(Errno::EINTR) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    /// A process of two threads, each printing a letter again and again.
    struct Chatter(Child);

    impl Chatter {
        fn start() -> Self {
            const TALK: &str = "import threading,sys,time\ndef talk(c):\n  while True:\n    sys.stdout.write(c); sys.stdout.flush(); time.sleep(.001)\nthreading.Thread(target=talk,args='a').start()\ntalk('b')";
            let child = Command::new("python3").args(["-c", TALK]).stdout(Stdio::piped()).spawn().unwrap();
            let mut chatter = Self(child);
            let mut both = BTreeSet::new();
            while both.len() < 2 {
                both.extend(chatter.hear());
            }
            chatter
        }

        fn hear(&mut self) -> Vec<u8> {
            let mut letters = [0; 4096];
            let n = self.0.stdout.as_mut().unwrap().read(&mut letters).unwrap();
            letters[..n].to_vec()
        }

        /// Whether it says anything within a time that is long for it and short for us.
        fn silent(&self) -> bool {
            let out = std::os::fd::AsFd::as_fd(self.0.stdout.as_ref().unwrap());
            let mut watched = [nix::poll::PollFd::new(out, nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut watched, 200_u16).unwrap() == 0
        }
    }

    impl Drop for Chatter {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn all_threads_stand_still_and_go_on() {
        let mut chatter = Chatter::start();
        let process = Process::of_pid(chatter.0.id() as i32).unwrap();
        let paused = pause(&process).unwrap();
        while !chatter.silent() {
            chatter.hear(); // what was in the pipe
        }
        assert!(process.is_alive());
        drop(paused);
        let (mut both, since) = (BTreeSet::new(), Instant::now());
        while both.len() < 2 {
            both.extend(chatter.hear());
            assert!(since.elapsed() < Duration::from_secs(30), "a thread did not go on");
        }
        let again = pause(&process).unwrap();
        drop(again);
        chatter.hear();
    }

    #[test]
    fn a_target_that_dies_while_paused_is_no_harm() {
        let mut chatter = Chatter::start();
        let process = Process::of_pid(chatter.0.id() as i32).unwrap();
        let paused = pause(&process).unwrap();
        process.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
        drop(paused);
        chatter.0.wait().unwrap();
        assert!(matches!(pause(&process), Err(TracerError::Gone(_))));
    }
}
