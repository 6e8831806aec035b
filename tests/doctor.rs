//! `doctor` and `completions` through the real binary, as root and as nobody in particular.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use brownout::fault::AnyFault;

const NOBODY: u32 = 65534;

fn run(binary: &Path, arguments: &[&str], state: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(arguments).env("BROWNOUT_STATE", state).stdin(Stdio::null()).current_dir("/");
    command
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The entry of a name among the faults or what is around them.
fn entry<'a>(findings: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let all = ["faults", "ground"].map(|group| findings[group].as_array().unwrap());
    all.into_iter().flatten().find(|entry| entry["name"] == name).unwrap()
}

#[test]
fn every_kind_is_judged_and_nothing_is_left() {
    let state = tempfile::tempdir().unwrap();
    let place = state.path().join("state");
    let binary = Path::new(env!("CARGO_BIN_EXE_brownout"));
    let output = run(binary, &["doctor", "--format", "json"], &place).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let findings = json(&output);
    for kind in AnyFault::KINDS {
        let extent = entry(&findings, kind)["extent"].as_str().unwrap();
        assert!(["yes", "limited", "no"].contains(&extent));
    }
    assert!(!place.exists(), "a look makes nothing");
    let text = run(binary, &["doctor"], &place).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
}

/// A copy of the binary that everybody may read.
fn readable_copy(folder: &Path) -> PathBuf {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.join("brownout");
    // By another process: what we write ourselves may be open in what another test starts, and cannot be run (ETXTBSY).
    assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_brownout")).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn an_ordinary_user_is_told_what_is_missing_and_what_would_help() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"), "required: root");
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let binary = readable_copy(folder.path());
    let as_nobody = |state: &Path| {
        let mut command = run(&binary, &["doctor", "--format", "json"], state);
        command.uid(NOBODY).gid(NOBODY).output().unwrap()
    };
    let open = folder.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o777)).unwrap();
    let output = as_nobody(&open.join("state"));
    assert_eq!(output.status.code(), Some(0));
    let findings = json(&output);
    for name in ["kill", "pause", "services"] {
        assert_eq!(entry(&findings, name)["extent"], "limited", "{name}");
        assert!(entry(&findings, name)["remedy"].as_str().unwrap().contains("root"), "{name}");
    }
    assert_eq!(entry(&findings, "disk-fill")["extent"], "yes");
    let network = entry(&findings, "network");
    assert!(network["extent"] == "yes" || network["remedy"].is_string());

    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let output = as_nobody(&closed.join("state"));
    assert_eq!(output.status.code(), Some(6), "nothing may be hurt without an undo log");
    assert!(json(&output)["state_trouble"].as_str().unwrap().contains("Permission denied"));
}

#[test]
fn every_shell_has_its_completions_and_the_version_is_told() {
    let binary = Path::new(env!("CARGO_BIN_EXE_brownout"));
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = run(binary, &["completions", shell], Path::new("/nonexistent")).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("doctor") && script.contains("recover"),
            "{shell}"
        );
    }
    let version = run(binary, &["--version"], Path::new("/nonexistent")).output().unwrap();
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim(),
        concat!("brownout ", env!("CARGO_PKG_VERSION"))
    );
}
