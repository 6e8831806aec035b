//! The promise, for every kind of fault there is: whichever system call is its last, whoever dies with it, and
//! whether or not the machine was started anew since, nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brownout::fault::AnyFault;
use brownout::host::process::Process;
use nix::sys::signal::Signal;
use support::calls::{self, Counted, Ended};
use support::stage::Stage;
use support::{MachineState, Owned, eventually, said, skip};

/// Stages at once.
const LANES: usize = 2;
/// Kills of each kind and way to die, when the environment does not say `BROWNOUT_TORTURE=all`: each call that
/// changes something, or `every`: each call.
const SAMPLE: usize = 3;

/// Who is dead after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dead {
    /// The runner: its watchdog pays.
    Runner,
    /// The watchdog too: `recover` pays.
    Both,
}

fn kinds() -> Vec<&'static str> {
    match std::env::var("BROWNOUT_KINDS") {
        Ok(some) => {
            let some: Vec<&str> = some.split(',').collect();
            AnyFault::KINDS.iter().copied().filter(|kind| some.contains(kind)).collect()
        }
        Err(_) => AnyFault::KINDS.to_vec(),
    }
}

/// Does a job once for each kind, on several stages at once; every job gets its stage as it was at first.
fn for_every_kind(job: impl Fn(&Stage, &MachineState, &'static str, &[String]) + Sync) {
    let kinds = kinds();
    let stages: Vec<Option<Stage>> = (0..LANES).map(|_| Stage::new()).collect();
    let Some(stages) = stages.into_iter().collect::<Option<Vec<Stage>>>() else { return };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for stage in &stages {
            scope.spawn(|| {
                let before = stage.seen();
                while let Some(kind) = kinds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(arguments) = stage.arguments(kind) {
                        job(stage, &before, kind, &arguments);
                    }
                }
            });
        }
    });
}

fn is_live(stage: &Stage) -> bool {
    let told = stage.told();
    told.contains(" took hold") || told.contains(" is live")
}

/// By pidfd; one that is gone already needs none.
fn signal(pid: u32, signal: Signal) {
    if let Ok(process) = Process::of_pid(pid as i32) {
        let _ = process.signal(signal);
    }
}

/// Runs a kind and kills it at a call; whether there was such a call.
fn killed_at(
    stage: &Stage,
    before: &MachineState,
    kind: &str,
    arguments: &[String],
    counted: Counted,
    (call, dead): (usize, Dead),
) -> Option<i64> {
    let with = |runner: u32| {
        if let Some(watchdog) = Stage::watchdog_of(runner).filter(|_| dead == Dead::Both) {
            signal(watchdog, Signal::SIGKILL);
            // A zombie, which its parent will not collect any more.
            eventually("the watchdog is dead", || {
                let stat = std::fs::read_to_string(format!("/proc/{watchdog}/stat")).unwrap_or_default();
                stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
            });
        }
    };
    match calls::run(&mut stage.inject(kind, arguments, "50ms"), counted, Some(call), with) {
        Ended::Killed(number) => {
            let how = format!("{kind}: {dead:?} dead at call {call} (system call {number})");
            stage.settles(before, &how);
            Some(number)
        }
        Ended::Itself { code, .. } => {
            let left = stage.left(before, Duration::from_secs(2));
            assert!(left.is_empty(), "{kind}: ended by itself, and left {left:#?}\n{}", stage.told());
            does_harm(stage, kind, code);
            None
        }
    }
}

/// A scene must be played to its end; that its effect is not measured in so short a time is all right.
fn does_harm(stage: &Stage, kind: &str, code: Option<i32>) {
    let told = stage.told();
    let live =
        told.contains(&format!("fault {kind} took hold")) || told.contains(&format!("fault {kind} is live"));
    assert!(live && matches!(code, Some(0 | 4)), "the scene of {kind} fails when nobody is killed: {told}");
}

#[test]
fn killed_at_any_system_call_every_kind_leaves_nothing() {
    let asked = std::env::var("BROWNOUT_TORTURE").unwrap_or_default();
    let counted = if asked == "every" { Counted::Every } else { Counted::Effects };
    let whole = matches!(asked.as_str(), "all" | "every");
    let (total, begun) = (AtomicUsize::new(0), Instant::now());
    for_every_kind(|stage, before, kind, arguments| {
        let began = Instant::now();
        let mut command = stage.inject(kind, arguments, "50ms");
        let Ended::Itself { code, counted: all } = calls::run(&mut command, counted, None, |_| {}) else {
            panic!("nobody killed it");
        };
        does_harm(stage, kind, code);
        let left = stage.left(before, Duration::from_secs(2));
        assert!(left.is_empty(), "{kind}: LEFT BEHIND by a run that was let alone: {left:#?}");
        let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
        let mut kills = 0;
        for dead in [Dead::Runner, Dead::Both] {
            // Threads are never scheduled twice in the same way: a run may make some calls more, or fewer.
            let calls: Vec<usize> = if whole {
                (1..=all + all / 10).collect()
            } else {
                let shift = if dead == Dead::Runner { 1 } else { 3 };
                (0..SAMPLE).map(|n| (all * (4 * n + shift)).div_ceil(4 * SAMPLE).max(1)).collect()
            };
            for call in calls {
                match killed_at(stage, before, kind, arguments, counted, (call, dead)) {
                    Some(number) => *seen.entry(number).or_default() += 1,
                    None if whole && call > all => break,
                    None => continue,
                }
                kills += 1;
            }
        }
        total.fetch_add(kills, Ordering::Relaxed);
        let took = began.elapsed();
        println!(
            "{kind}: {kills} kills at {all} calls, {} different ones; 0 leftovers; {took:.1?}",
            seen.len()
        );
    });
    println!("SIGKILL at system calls: {} kills, 0 leftovers; {:.0?}", total.into_inner(), begun.elapsed());
}

/// Instants at which a whole family is killed, for each kind.
const INSTANTS: u32 = 4;

#[test]
fn killed_with_all_its_family_at_any_instant_every_kind_is_recovered() {
    let (kills, live) = (AtomicUsize::new(0), AtomicUsize::new(0));
    for_every_kind(|stage, before, kind, arguments| {
        let Some(unified) = stage.unified() else {
            return skip("no control group of version 2 of our own here, which can be killed as a whole");
        };
        let times = std::env::var("BROWNOUT_TORTURE").map_or(INSTANTS, |_| INSTANTS * 10);
        let dice = brownout::base::Dice::new(2027);
        for number in 0..times {
            let group = unified.join("family");
            std::fs::create_dir(&group).unwrap();
            let procs = group.join("cgroup.procs");
            let mut command = stage.inject(kind, arguments, "400ms");
            // SAFETY: system calls only, but for the path, which was made before.
            let enter = std::ffi::CString::new(procs.as_os_str().as_encoded_bytes()).unwrap();
            unsafe { command.pre_exec(move || enter_group(&enter)) };
            let after = {
                use rand::Rng as _;
                let mut chance = dice.stream(&format!("{kind} {number}"));
                Duration::from_micros(chance.random_range(0..350_000))
            };
            let mut runner = Owned::start(&mut command);
            // Half of them at any instant, half of them when the harm is there, however busy the machine.
            if number % 2 == 1 {
                eventually("it is live, or over", || {
                    is_live(stage) || runner.0.try_wait().unwrap().is_some()
                });
            }
            std::thread::sleep(if number % 2 == 1 { after / 10 } else { after });
            std::fs::write(group.join("cgroup.kill"), "1").unwrap();
            let _ = runner.0.wait();
            eventually("the group is empty", || std::fs::remove_dir(&group).is_ok());
            kills.fetch_add(1, Ordering::Relaxed);
            live.fetch_add(usize::from(is_live(stage)), Ordering::Relaxed);
            stage.is_clean_after_recover(before, &format!("{kind}: the whole family killed after {after:?}"));
        }
    });
    println!(
        "cgroup.kill of runner, watchdog and children: {} kills, {} of them after the harm was said to be live; \
         0 leftovers",
        kills.into_inner(),
        live.into_inner()
    );
}

/// Moves the calling process into a control group. Makes system calls only.
fn enter_group(procs: &std::ffi::CStr) -> std::io::Result<()> {
    // SAFETY: both strings end in a zero or have their length said, and live through the calls.
    let written = unsafe {
        let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        let written = libc::write(file, c"0".as_ptr().cast(), 1);
        libc::close(file);
        written
    };
    if written == 1 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Nothing of a process outlives a boot: a record of another boot must not touch who has its number now.
#[test]
fn after_another_boot_recover_pays_without_touching_who_lives_now() {
    for kind in kinds() {
        // Each has a stage of its own: what a process keeps is not cleared for the next.
        let Some(stage) = Stage::new() else { return };
        let Some(arguments) = stage.arguments(kind) else { continue };
        let before = stage.seen();
        let mut runner = Owned::start(&mut stage.inject(kind, &arguments, "60s"));
        eventually(&format!("{kind} is live: {}", stage.told()), || {
            is_live(&stage) || runner.0.try_wait().unwrap().is_some()
        });
        signal(runner.pid(), Signal::SIGSTOP);
        if let Some(watchdog) = Stage::watchdog_of(runner.pid()) {
            signal(watchdog, Signal::SIGKILL);
        }
        runner.kill();
        let boot = stage.here().join("boot");
        std::fs::write(&boot, "00000000-0000-4000-8000-000000000000\n").unwrap();
        let mut elsewhere = stage.command(&["recover"]);
        // nsenter passes on what follows it; a mount namespace of its own keeps the other boot to itself.
        let boot = std::ffi::CString::new(boot.as_os_str().as_encoded_bytes()).unwrap();
        let mut told = Command::new("cat");
        told.arg("/proc/sys/kernel/random/boot_id");
        for command in [&mut elsewhere, &mut told] {
            let boot = boot.clone();
            // SAFETY: system calls only, with strings that were made before.
            unsafe { command.pre_exec(move || live_in_another_boot(&boot)) };
        }
        assert!(said(&told.output().unwrap()).starts_with("00000000-"), "it is still the same boot");
        let recovered = elsewhere.output().unwrap();
        assert_eq!(recovered.status.code(), Some(0), "{kind} of another boot: {}", said(&recovered));
        assert!(support::logs(&stage.state()).is_empty(), "{kind}: {}", said(&recovered));
        assert!(stage.server.alive(), "{kind}: somebody of this boot was ended for another boot's debt");
        // What a process of this boot has is not that boot's to take back: really, it ended with that boot.
        if kind == "fds" {
            let kept = stage.seen().differs_from(&before);
            assert!(kept.iter().any(|line| line.contains("limit Max open files")), "taken back: {kept:?}");
        }
        // Nor is how a group of this boot stands, or what is mounted: that other boot's went with it.
        let of_this_boot = match kind {
            "freeze" => "cgroup.freeze = ",
            "disk-readonly" => "mount: ",
            _ => "process: ",
        };
        let others = stage.left_but(&before, Duration::from_secs(2), of_this_boot);
        assert!(others.is_empty(), "{kind} of another boot: LEFT BEHIND: {others:#?}");
    }
}

/// Makes the calling process see another boot's id. Makes system calls only.
fn live_in_another_boot(boot: &std::ffi::CStr) -> std::io::Result<()> {
    use nix::mount::{MsFlags, mount};

    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, c"/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some(boot), c"/proc/sys/kernel/random/boot_id", None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}
