//! How soon two hundred faults of one experiment hurt: from t = 0 to the last injection that begins, and to the last
//! effect that was measured; by the journal of whole runs. `cargo bench --bench armed`; other rounds than three with
//! `ARMED_ROUNDS=1`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Netns, Owned, World, eventually, signal};

const FAULTS: u16 = 200;
const FIRST_PORT: u16 = 7000;

/// The events of the only run there is.
fn journal(world: &World) -> Vec<Value> {
    let runs = std::fs::read_dir(world.folder.path().join("runs")).into_iter().flatten().flatten();
    let file: Option<PathBuf> = runs.map(|run| run.path().join("journal.ndjson")).find(|file| file.is_file());
    let text = file.map(|file| std::fs::read_to_string(file).unwrap()).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Runs all faults at once until each was measured, then interrupts.
fn run(netns: &Netns, what: &str, faults: &[String]) {
    let world = World::new();
    let mut text = "title = \"armed\"\n[recovery]\nwithin = \"1s\"\n".to_owned();
    for (n, fault) in faults.iter().enumerate() {
        let _ = write!(text, "[fault.f{n}.{fault}\nat = \"0s\"\nfor = \"5m\"\n");
    }
    let file = world.folder.path().join("armed.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = netns.brownout(&world.state());
    command.args(["run", "--yes"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let mut runner = Owned::start(&mut command);
    let of = |events: &[Value], kind: &str| -> Vec<Value> {
        events.iter().filter(|event| event["event"] == kind).cloned().collect()
    };
    eventually("all are live", || of(&journal(&world), "live").len() == faults.len());
    signal(runner.pid(), "-INT");
    runner.0.wait().unwrap();
    let events = journal(&world);
    let last = |kind: &str| of(&events, kind).last().unwrap()["at_ms"].as_f64().unwrap();
    let (zero, stopping) = (last("zero"), last("stopping"));
    let confirmed = of(&events, "live").iter().filter(|live| live["effect"] == "confirmed").count();
    println!(
        "{what:<30} {:>10.0} {:>10.0} {confirmed:>10} {:>10.0} {:>6}",
        last("injecting") - zero,
        last("live") - zero,
        last("undone") - stopping,
        std::fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap()
    );
    world.nothing_left();
}

fn main() {
    let Some(netns) = Netns::new() else { return };
    let rounds = std::env::var("ARMED_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    println!(
        "{:<30} {:>10} {:>10} {:>10} {:>10} {:>6}",
        "milliseconds", "injecting", "measured", "confirmed", "undone", "load"
    );
    let ports = FIRST_PORT..FIRST_PORT + FAULTS;
    let _servers: Vec<TcpListener> =
        netns.within(|| ports.clone().map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap()).collect());
    let slow: Vec<String> = ports
        .map(|port| format!("latency]\nto = {{ address = \"127.0.0.1:{port}\" }}\ndelay = \"20ms\""))
        .collect();
    let sleepers: Vec<Owned> = (0..FAULTS).map(|_| Owned::start(Command::new("sleep").arg("600"))).collect();
    let pids = tempfile::tempdir().unwrap();
    let paused = |sleeper: &Owned| {
        let file = pids.path().join(sleeper.pid().to_string());
        std::fs::write(&file, sleeper.pid().to_string()).unwrap();
        format!("pause]\ntarget = {{ pid_file = {:?} }}", file.display().to_string())
    };
    let still: Vec<String> = sleepers.iter().map(paused).collect();
    for _ in 0..rounds {
        run(&netns, "200 pauses", &still);
        run(&netns, "200 latencies, one network", &slow);
    }
}
