//! Commands people wrote, with a time limit and an end.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::base::unit;

/// Runs a command to its end, at most so long; whether it exited with 0.
///
/// It has a process group of its own, which is killed when its time is up. It is also killed when we die
/// (PR_SET_PDEATHSIG, prctl(2)), so that a harm does not go on growing while the watchdog undoes it; what
/// it started itself is not covered by that.
///
/// # Errors
/// When it cannot be started or took too long; the sentence names the command.
pub async fn run(argv: &[String], within: Duration, directory: &Path) -> Result<bool, String> {
    let [program, arguments @ ..] = argv else { return Err("the command is empty".to_owned()) };
    let shown = argv.join(" ");
    let mut command = tokio::process::Command::new(program);
    command
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: between fork and exec only an async-signal-safe system call is made.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
    }
    let mut child = command.spawn().map_err(|why| format!("`{shown}` cannot be started: {why}"))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, within: u64) -> Result<bool, String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        run(&argv, Duration::from_millis(within), Path::new("/")).await
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
        let missing = run(&["/no/such".to_owned()], Duration::from_secs(1), Path::new("/")).await;
        assert!(missing.unwrap_err().starts_with("`/no/such` cannot be started"));
    }
}
