//! The promise, for every kind of fault there is: whichever system call is its last, whoever dies with it, and
//! whether or not the machine was started anew since, nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use brownout::fault::AnyFault;
use support::calls::{self, Counted, Ended};
use support::stage::Stage;
use support::{MachineState, eventually};

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
            let watchdog = nix::unistd::Pid::from_raw(watchdog as i32);
            nix::sys::signal::kill(watchdog, nix::sys::signal::Signal::SIGKILL).unwrap();
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
    let live = told.contains(&format!("fault {kind} took hold")) || told.contains(&format!("fault {kind} is live"));
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
        println!("{kind}: {kills} kills at {all} calls, {} different ones; 0 leftovers; {took:.1?}", seen.len());
    });
    println!("SIGKILL at system calls: {} kills, 0 leftovers; {:.0?}", total.into_inner(), begun.elapsed());
}
