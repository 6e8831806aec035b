//! Commands people wrote, with a time limit and an end.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::base::unit;
use crate::host::mark::{self, Mark};
use crate::host::process::Process;

/// Runs a command to its end, at most so long; whether it exited with 0.
///
/// It has a process group of its own, which is killed when its time is up. It is also killed when we die
/// (PR_SET_PDEATHSIG, prctl(2)), so that a harm does not go on growing while the watchdog undoes it. What it
/// started itself is not covered by that: `mark`, where there is one, makes it known ([`group_of`]).
///
/// # Errors
/// When it cannot be started or took too long; the sentence names the command.
pub async fn run(
    argv: &[String],
    within: Duration,
    directory: &Path,
    mark: Option<&Mark>,
) -> Result<bool, String> {
    let mut child = prepare(argv, directory, mark)?.spawn().map_err(|why| not_started(argv, &why))?;
    let shown = argv.join(" ");
    let group = child.id().map(|id| Pid::from_raw(id as i32));
    if let Ok(ended) = tokio::time::timeout(within, child.wait()).await {
        return ended.map(|status| status.success()).map_err(|why| format!("`{shown}`: {why}"));
    }
    // The group is ours and its leader is not reaped yet, so its number cannot have been reused.
    if let Some(group) = group {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let _ = child.wait().await;
    Err(format!("`{shown}` took longer than {} and was killed", unit::say(within)))
}

/// Keeps so much of what a command writes; the rest is read and forgotten.
const KEPT: usize = 64 * 1024;

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// The beginning of what it wrote to standard output, at most 64 KiB.
    pub stdout: Vec<u8>,
    /// The same of standard error.
    pub stderr: Vec<u8>,
}

/// Runs a command to its end and keeps the beginning of what it writes. How long it may take is the
/// caller's to say: it and its whole process group are killed when this future is dropped, and what is
/// left of the group is killed when it has ended, so that nothing stays behind either way.
///
/// It runs in the network namespace of a file, if there is one.
///
/// # Errors
/// When it cannot be started or watched; the sentence names the command.
pub async fn output(argv: &[String], directory: &Path, network: Option<File>) -> Result<Ended, String> {
    let mut command = prepare(argv, directory, None)?;
    if let Some(network) = network {
        // SAFETY: between fork and exec only async-signal-safe system calls are made.
        unsafe { command.pre_exec(move || Ok(setns(&network, CloneFlags::CLONE_NEWNET)?)) };
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|why| not_started(argv, &why))?;
    let mut group = Group { child, reaped: false };
    let failed = |why: &dyn std::fmt::Display| format!("`{}`: {why}", argv.join(" "));
    let leader = group.child.id().unwrap_or_default() as i32;
    let leader = Process::of_pid(leader).map_err(|why| failed(&why))?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (group.child.stdout.take(), group.child.stderr.take());
    {
        let reading = async { tokio::join!(keep(stdout, &mut out), keep(stderr, &mut err)) };
        tokio::pin!(reading);
        tokio::select! {
            _ = &mut reading => { leader.wait_gone(FOREVER).await; }
            _ = leader.wait_gone(FOREVER) => {
                group.kill();
                // Whoever left the group may hold the pipes open for ever; what the command itself wrote
                // is in them already.
                let _ = tokio::time::timeout(Duration::from_millis(100), reading).await;
            }
        }
    }
    group.kill();
    let status = group.child.wait().await.map_err(|why| failed(&why))?;
    group.reaped = true;
    Ok(Ended { status, stdout: out, stderr: err })
}

/// Longer than any command is waited for.
const FOREVER: Duration = Duration::from_hours(24 * 365);

/// A child with the process group it leads. The number of a group cannot be reused before its leader is
/// reaped, so until then it can be killed by its number.
struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    fn kill(&self) {
        if let (Some(id), false) = (self.child.id(), self.reaped) {
            let _ = killpg(Pid::from_raw(id as i32), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = pipe.read(&mut part).await {
        kept.extend_from_slice(&part[..length.min(KEPT - kept.len())]);
    }
}

/// The session we are in: commands we run are in it too, unless they left it.
#[must_use]
pub fn session() -> i32 {
    nix::unistd::getsid(None).map_or(0, Pid::as_raw)
}

/// What a marked command started and is still there. What opened a session of its own is not counted: a server
/// that was started on purpose, and has its own way to be stopped.
#[must_use]
pub fn group_of(mark: &Mark, session: i32) -> Vec<Process> {
    let mut group = mark.bearers();
    group.retain(|process| {
        let pid = Pid::from_raw(process.identity().pid);
        nix::unistd::getsid(Some(pid)).is_ok_and(|of| of.as_raw() == session)
    });
    group
}

/// Kills what a marked command started, until none of it is left; whether there was any.
///
/// # Errors
/// When some of it does not die; the sentence names one.
pub async fn end_group(mark: &Mark, session: i32) -> Result<bool, String> {
    let (mut any, mut empty) = (false, 0);
    for _ in 0..KILLS {
        let group = group_of(mark, session);
        // One that forks while the list is read may escape one reading, so that two in a row must find none.
        empty = if group.is_empty() { empty + 1 } else { 0 };
        if empty == 2 {
            return Ok(any);
        }
        any |= !group.is_empty();
        for process in &group {
            let _ = process.signal(Signal::SIGKILL);
        }
        if let Some(first) = group.first() {
            first.wait_gone(Duration::from_millis(50)).await;
        }
    }
    Err("what the injection started does not die".to_owned())
}

/// How often what is left is killed, up to 50 ms apart: five seconds.
const KILLS: u32 = 100;

fn prepare(argv: &[String], directory: &Path, mark: Option<&Mark>) -> Result<Command, String> {
    let [program, arguments @ ..] = argv else { return Err("the command is empty".to_owned()) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(mark) = mark {
        let (variable, word) = mark.variable();
        command.env(variable, word);
    }
    let (limit, runner) = (mark.map(Mark::limit), std::process::id());
    // SAFETY: between fork and exec only async-signal-safe system calls are made.
    unsafe {
        command.pre_exec(move || {
            if let Some(limit) = limit {
                // Where it cannot be set, the environment's mark stands in.
                let _ = mark::put_on_ourselves(limit);
            }
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // Our death is a signal only from here on: if we died before, it must not even begin.
            if std::os::unix::process::parent_id() != runner {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            Ok(())
        });
    }
    Ok(command)
}

fn not_started(argv: &[String], why: &std::io::Error) -> String {
    format!("`{}` cannot be started: {why}", argv.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, within: u64) -> Result<bool, String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        run(&argv, Duration::from_millis(within), Path::new("/"), None).await
    }

    #[tokio::test]
    async fn a_command_succeeds_fails_or_is_ended_with_its_children() {
        assert_eq!(sh("exit 0", 30_000).await, Ok(true));
        assert_eq!(sh("exit 3", 30_000).await, Ok(false));
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let late = sh(&format!("sleep 60 & echo $! > {}; wait", pid.display()), 1_000).await;
        assert!(late.unwrap_err().contains("took longer than 1 s"));
        let child: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        if let Ok(child) = crate::host::process::Process::of_pid(child) {
            assert!(child.wait_gone(Duration::from_secs(10)).await, "its child must be gone too");
        }
        let missing = run(&["/no/such".to_owned()], Duration::from_secs(1), Path::new("/"), None).await;
        assert!(missing.unwrap_err().starts_with("`/no/such` cannot be started"));
    }

    async fn told(script: &str) -> Result<Ended, String> {
        output(&["sh", "-c", script].map(str::to_owned), Path::new("/"), None).await
    }

    /// Waits until a script has written a process id into a file.
    async fn written_pid(file: &Path) -> i32 {
        loop {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n') {
                return pid.parse().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn what_a_command_wrote_and_how_it_ended_is_told() {
        let ended = told("echo out; echo err >&2; exit 3").await.unwrap();
        assert_eq!(ended.status.code(), Some(3));
        assert_eq!((ended.stdout.as_slice(), ended.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        let much = told("yes | head -c 1000000").await.unwrap();
        assert_eq!((much.stdout.len(), much.status.code()), (KEPT, Some(0)));
        let why = output(&["/no/such".to_owned()], Path::new("/"), None).await.unwrap_err();
        assert_eq!(why, "`/no/such` cannot be started: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn a_command_that_is_dropped_takes_its_whole_group_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", pid.display());
        let running = told(&script);
        let child = tokio::select! {
            ended = running => panic!("{ended:?}"),
            child = written_pid(&pid) => Process::of_pid(child).unwrap(),
        };
        assert!(child.wait_gone(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn what_a_command_leaves_behind_is_killed_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let (same, other) = (folder.path().join("same"), folder.path().join("other"));
        // It ends only once the second sleeper has left the group.
        let script = format!(
            "sleep 60 & echo $! > {}; setsid sh -c 'echo $$ > {1}; exec sleep 60' & \
             until test -s {1}; do sleep 0.01; done; echo said",
            same.display(),
            other.display()
        );
        let begun = std::time::Instant::now();
        let ended = told(&script).await;
        let (same, other) =
            (Process::of_pid(written_pid(&same).await), Process::of_pid(written_pid(&other).await));
        assert_eq!(ended.unwrap().stdout, b"said\n");
        assert!(begun.elapsed() < Duration::from_secs(30), "the sleeper of another session was waited for");
        if let Ok(same) = same {
            assert!(same.wait_gone(Duration::from_secs(10)).await, "it was in the group");
        }
        let other = other.unwrap();
        assert!(other.is_alive());
        let _ = other.signal(Signal::SIGKILL);
    }
}
