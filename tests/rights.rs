//! One capability at a time: an ordinary user with just that one does what it is for, and is told by name which is
//! missing without it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use support::{Netns, Owned, World, said, skip};

/// `brownout inject ...` as uid 65534 with one capability, or with none; through `before`, if it is given.
fn inject(world: &World, capability: Option<&str>, before: &[String], arguments: &[&str]) -> Output {
    std::fs::set_permissions(world.folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut words: Vec<String> = before.to_vec();
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    words.extend(user.map(str::to_owned));
    let sets = capability.map_or_else(|| "-all".to_owned(), |one| format!("-all,+{one}"));
    // What is inherited may become ambient, and only that outlives the execution (capabilities(7)).
    words.extend([format!("--inh-caps={sets}"), format!("--ambient-caps={sets}")]);
    words.push(env!("CARGO_BIN_EXE_brownout").to_owned());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg("inject").args(arguments).args(["--yes", "--for", "300ms"]);
    let own = world.folder.path().join("own");
    command.env("BROWNOUT_STATE", &own).env("BROWNOUT_RUNS", own.join("runs"));
    command.stdin(Stdio::null()).output().unwrap()
}

/// Root, and a binary that others may execute; loudly not, otherwise.
fn possible(world: &World) -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("only root can hand out capabilities");
        return false;
    }
    let tried = inject(world, None, &[], &["no-such-kind"]);
    if said(&tried).contains("ermission denied") {
        skip("the binary is where an ordinary user may not execute it");
        return false;
    }
    true
}

/// A process of root's, with a file that holds its number.
fn of_root(world: &World) -> (Owned, String) {
    let sleeper = Owned::start(Command::new("sleep").arg("60").process_group(0));
    let file = world.folder.path().join("pid");
    std::fs::write(&file, sleeper.pid().to_string()).unwrap();
    (sleeper, file.display().to_string())
}

#[test]
fn one_capability_is_enough_to_signal_or_hold_still_a_process_of_roots() {
    let world = World::new();
    if !possible(&world) {
        return;
    }
    let (_sleeper, file) = of_root(&world);
    for (kind, capability) in [("pause", "sys_ptrace"), ("kill", "kill")] {
        let refused = inject(&world, None, &[], &[kind, "--pid-file", &file]);
        assert_ne!(refused.status.code(), Some(0), "{kind}: {}", said(&refused));
        assert!(said(&refused).contains("root"), "{kind} says what would help: {}", said(&refused));
        let allowed = inject(&world, Some(capability), &[], &[kind, "--pid-file", &file]);
        assert_eq!(allowed.status.code(), Some(0), "{kind}: {}", said(&allowed));
    }
}

#[test]
fn one_capability_is_enough_to_delay_traffic() {
    let world = World::new();
    if !possible(&world) {
        return;
    }
    let Some(net) = Netns::new() else { return };
    let enter: Vec<String> =
        ["nsenter", "-t", &net.holder().to_string(), "--net"].map(str::to_owned).to_vec();
    let slow = ["latency", "--to", ":6379", "delay=5ms"];
    let refused = inject(&world, None, &enter, &slow);
    assert!(said(&refused).contains("CAP_NET_ADMIN"), "{}", said(&refused));
    let allowed = inject(&world, Some("net_admin"), &enter, &slow);
    // Nobody talks there, so its effect cannot be measured: that is not what is asked here.
    assert!(matches!(allowed.status.code(), Some(0 | 4)), "{}", said(&allowed));
    assert!(said(&allowed).contains("adds 5 ms"), "{}", said(&allowed));
}
