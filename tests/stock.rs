//! The same tests on the kernel that a distribution ships: native `queue` rules and cgroups of version 2, where this machine's
//! kernel has neither. `BROWNOUT_RIG` names a command that runs its arguments as root in such a machine, over this one's files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::path::PathBuf;
use std::process::Command;

/// What does not hang on how fast that machine is, which may be an emulated one.
const TESTS: &[&str] = &["fates", "bandwidth", "reset", "network", "crash", "service"];
/// What it must have loaded.
const MODULES: &[&str] = &["nfnetlink_queue", "nft_queue", "nft_ct", "inet_diag", "tcp_diag"];

/// The newest executable of a test.
fn built(name: &str) -> Option<PathBuf> {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let found = std::fs::read_dir(folder).unwrap().flatten().filter(|entry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        file.strip_prefix(name).is_some_and(|rest| rest.starts_with('-') && !rest.contains('.'))
    });
    found.max_by_key(|entry| entry.metadata().unwrap().modified().unwrap()).map(|entry| entry.path())
}

#[test]
fn packets_are_hurt_as_asked_on_a_stock_kernel() {
    let Some(rig) = std::env::var_os("BROWNOUT_RIG") else {
        // CI machines cannot run another machine.
        return println!("SKIPPED: no stock kernel was tried: BROWNOUT_RIG names nothing that runs one");
    };
    let mut steps = vec![format!("cd '{}'; modprobe -a {}", env!("CARGO_MANIFEST_DIR"), MODULES.join(" "))];
    steps.extend(TESTS.iter().map(|test| {
        let Some(executable) = built(test) else { panic!("build all tests first: there is no `{test}`") };
        format!("BROWNOUT_TESTS_REQUIRE=all '{}' --nocapture", executable.display())
    }));
    let status = Command::new(rig).args(["-t", "1200", "-m", "4096", &steps.join(" && ")]).status().unwrap();
    assert!(status.success(), "{status}");
}
