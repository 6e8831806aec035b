//! The promise: kill the real binary at any moment, and nothing is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Owned, World, brownout, children, eventually, logs, said, small_disk, tracer};

/// A fault of our own making that leaves a file while it lasts.
fn exec_fault(state: &Path, flag: &Path) -> Command {
    let mut command = brownout(state);
    let file = flag.display();
    command.args(["inject", "exec", "--yes", "--for", "60s"]);
    command.args([format!("inject=['touch', '{file}']"), format!("undo=['rm', '-f', '{file}']")]);
    command.arg(format!("remains=['test', '-e', '{file}']")).stderr(Stdio::piped());
    command
}

#[test]
fn a_harm_that_runs_its_time_is_undone_and_leaves_no_log() {
    let world = World::new();
    let file = world.flag().display().to_string();
    let output = brownout(&world.state())
        .args(["inject", "exec", "--yes", "--for", "100ms"])
        .args([format!("inject=['touch', '{file}']"), format!("undo=['rm', '-f', '{file}']")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("nothing is left of fault exec: checked in"), "{}", said(&output));
    assert!(!world.flag().exists() && logs(&world.state()).is_empty());
}

#[test]
fn a_slow_injection_and_a_slow_undo_are_not_taken_for_a_hang() {
    let world = World::new();
    // Longer than the silence after which the watchdog kills a runner.
    let output = brownout(&world.state())
        .args(["inject", "exec", "--yes", "--for", "100ms", "inject=['sleep', '4']", "undo=['sleep', '4']"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    world.nothing_left();
}

#[test]
fn the_watchdog_pays_when_the_runner_is_killed() {
    let world = World::new();
    let mut runner = Owned::start(&mut exec_fault(&world.state(), &world.flag()));
    runner.took_hold();
    assert!(world.flag().exists());
    runner.kill();
    world.nothing_left();
}

#[test]
fn the_watchdog_kills_a_runner_that_hangs_and_pays() {
    let world = World::new();
    let mut runner = Owned::start(&mut exec_fault(&world.state(), &world.flag()));
    runner.took_hold();
    let stop = Command::new("kill").args(["-STOP", &runner.pid().to_string()]).status().unwrap();
    assert!(stop.success());
    world.nothing_left();
    assert!(!runner.0.wait().unwrap().success());
}

#[test]
fn recover_pays_when_the_watchdog_and_the_runner_are_both_killed() {
    let world = World::new();
    let mut runner = Owned::start(&mut exec_fault(&world.state(), &world.flag()));
    runner.took_hold();
    // The runner stops first, so that it cannot notice that its watchdog is gone and undo by itself.
    let pid = runner.pid().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let watchdogs = children(runner.pid());
    assert_eq!(watchdogs.len(), 1, "the watchdog is the runner's only child by now");
    assert!(Command::new("kill").arg("-KILL").args(&watchdogs).status().unwrap().success());
    runner.kill();
    assert!(world.flag().exists(), "nobody was left to undo it");

    let listed = brownout(&world.state()).args(["recover", "--list"]).output().unwrap();
    assert_eq!(listed.status.code(), Some(5), "{}", said(&listed));
    assert!(said(&listed).contains("owes exec") && said(&listed).contains("by hand: rm -f"));
    let again = exec_fault(&world.state(), &world.flag()).output().unwrap();
    assert_eq!(again.status.code(), Some(6), "a claim that is owed is refused: {}", said(&again));

    let recovered = brownout(&world.state()).arg("recover").output().unwrap();
    assert_eq!(recovered.status.code(), Some(0), "{}", said(&recovered));
    world.nothing_left();
}

#[test]
fn a_runner_killed_at_any_moment_leaves_nothing() {
    // From before the log exists to well after the harm; spread, not random, so that every run covers them.
    for step in 0..40_u64 {
        let world = World::new();
        let mut runner = Owned::start(&mut exec_fault(&world.state(), &world.flag()));
        std::thread::sleep(Duration::from_micros(step * 700));
        runner.kill();
        // A log that was made before its watchdog was posted owes nothing, and the next start removes it.
        eventually("the harm is gone", || !world.flag().exists());
        eventually("what is left is paid", || {
            brownout(&world.state()).arg("recover").output().unwrap().status.success()
                && logs(&world.state()).is_empty()
        });
        assert!(!world.flag().exists(), "killed after {} us", step * 700);
    }
}

#[test]
fn a_paused_process_goes_on_when_the_runner_is_killed() {
    let world = World::new();
    let target = Owned::start(Command::new("sleep").arg("61.5"));
    let file = world.folder.path().join("pid");
    std::fs::write(&file, target.pid().to_string()).unwrap();
    let mut command = brownout(&world.state());
    command
        .args(["inject", "pause", "--yes", "--for", "60s", "--pid-file"])
        .arg(&file)
        .stderr(Stdio::piped());
    let mut runner = Owned::start(&mut command);
    runner.took_hold();
    assert_ne!(tracer(target.pid()), "0");
    let killed = Instant::now();
    runner.kill();
    eventually("the target goes on", || tracer(target.pid()) == "0");
    println!("pause gone {:?} after SIGKILL", killed.elapsed());
    world.nothing_left();
}

#[test]
fn a_killed_process_is_gone_and_that_was_measured() {
    let world = World::new();
    let mut target = Owned::start(Command::new("sleep").arg("62.5"));
    let file = world.folder.path().join("pid");
    std::fs::write(&file, target.pid().to_string()).unwrap();
    let output =
        brownout(&world.state()).args(["inject", "kill", "--yes", "--pid-file"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("1 of 1 processes gone"), "{}", said(&output));
    assert!(!target.0.wait().unwrap().success());
}

#[test]
fn a_filled_disk_is_free_again_when_the_runner_is_killed() {
    let Some(disk) = small_disk() else { return };
    let world = World::new();
    let before = disk.free();
    let mut command = brownout(&world.state());
    command.args(["inject", "disk-fill", "size=40MiB", "--yes", "--for", "60s", "--path"]);
    command.arg(disk.0.path()).stderr(Stdio::piped());
    let mut runner = Owned::start(&mut command);
    runner.took_hold();
    assert!(before - disk.free() >= 40 << 20);
    assert_eq!(std::fs::read_dir(disk.0.path()).unwrap().count(), 0, "the file has no name");
    let killed = Instant::now();
    runner.kill();
    eventually("the space is free", || disk.free() == before);
    println!("disk-fill gone {:?} after SIGKILL", killed.elapsed());
    world.nothing_left();
    assert!(std::fs::metadata(disk.0.path()).unwrap().dev() > 0);
}

#[test]
fn a_disk_is_never_filled_below_the_floor() {
    let Some(disk) = small_disk() else { return };
    let world = World::new();
    let output = brownout(&world.state())
        .args(["inject", "disk-fill", "leave=1MiB", "--yes", "--path"])
        .arg(disk.0.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert!(said(&output).contains("would leave less than the floor of 16 MiB"), "{}", said(&output));
    assert!(said(&output).contains("nothing was touched"));
}

#[test]
fn arguments_that_are_wrong_say_so_and_touch_nothing() {
    let world = World::new();
    for (arguments, words) in [
        (&["inject", "pauze"][..], "did you mean `pause`?"),
        (&["inject", "disk-fill", "sise=1GiB"], "did you mean `size`?"),
        (&["inject", "disk-fill", "size=1"], "needs its unit"),
        (&["inject", "kill", "signal=STOP"], "use the fault `pause`"),
        (&["inject", "exec", "inject=['true']"], "lacks `undo`"),
        (&["explain", "kil"], "did you mean `kill`?"),
        (&["inject", "kill", "--for=-5s"], "it cannot be negative"),
    ] {
        let output = brownout(&world.state()).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    let unconfirmed = brownout(&world.state())
        .args(["inject", "disk-fill", "size=1MiB", "--path", "/tmp"])
        .output()
        .unwrap();
    assert_eq!(unconfirmed.status.code(), Some(6), "{}", said(&unconfirmed));
    assert!(logs(&world.state()).is_empty());
}

#[test]
fn an_interrupt_ends_the_harm_early_and_says_so_in_the_exit_code() {
    for (signal, code) in [("-INT", 130), ("-HUP", 130), ("-TSTP", 130), ("-TERM", 143)] {
        let world = World::new();
        let mut runner = Owned::start(&mut exec_fault(&world.state(), &world.flag()));
        runner.took_hold();
        assert!(Command::new("kill").args([signal, &runner.pid().to_string()]).status().unwrap().success());
        assert_eq!(runner.0.wait().unwrap().code(), Some(code));
        assert!(!world.flag().exists() && logs(&world.state()).is_empty());
        let mut rest = String::new();
        runner.0.stderr.take().unwrap().read_to_string(&mut rest).unwrap();
    }
}

#[test]
fn a_target_killed_while_paused_can_be_collected_by_its_parent() {
    const THREADS: &str =
        "import threading,time; threading.Thread(target=time.sleep,args=(63,)).start(); time.sleep(63)";
    let world = World::new();
    let mut target = Owned::start(Command::new("python3").args(["-c", THREADS]));
    eventually("it has two threads", || {
        std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap().count() == 2
    });
    let file = world.folder.path().join("pid");
    std::fs::write(&file, target.pid().to_string()).unwrap();
    let mut command = brownout(&world.state());
    command
        .args(["inject", "pause", "--yes", "--for", "60s", "--pid-file"])
        .arg(&file)
        .stderr(Stdio::piped());
    let mut runner = Owned::start(&mut command);
    runner.took_hold();
    target.0.kill().unwrap();
    assert!(Command::new("kill").args(["-INT", &runner.pid().to_string()]).status().unwrap().success());
    eventually("its parent collects it", || target.0.try_wait().unwrap().is_some());
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
}
