//! The promise under torture: one experiment with all five faults and a service, killed everywhere and at any
//! moment; afterwards the machine is as it was before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use support::{LIMIT, MachineState, Mounted, Netns, Owned, eventually, logs, said, small_disk, tracer};

/// A hung runner's harm is gone by then.
const HUNG: Duration = Duration::from_secs(30);
/// The lease of the packet queue, and what the kernel may be late by.
const LEASE: Duration = Duration::from_millis(2800);
/// Kills at random instants, when the environment does not say.
const KILLS: usize = 40;
/// Worlds at once.
const LANES: usize = 3;

const EXPERIMENT: &str = r#"
title = "everything at once"
[service.web]
run   = ["redis-server", "--port", "${self.port}", "--dir", "${self.dir}", "--save", ""]
ready = { tcp = "127.0.0.1:${self.port}" }
[probe.web.tcp]
address = "127.0.0.1:${service.web.port}"
rate    = "100/s"
[slo.web]
probe        = "web"
availability = "50%"
[steady_state]
for = "250ms"
[fault.slow.latency]
to    = { service = "web" }
delay = "60ms"
at    = "0s"
for   = "FOR"
[fault.still.pause]
target = { pid_file = "HERE/paused" }
at     = "0s"
for    = "FOR"
[fault.hit.kill]
target = { pid_file = "HERE/respawned" }
at     = "100ms"
[fault.full.disk-fill]
target = { path = "HERE/disk" }
size   = "30MiB"
at     = "0s"
for    = "FOR"
[fault.own.exec]
inject  = ["sh", "-c", "touch HERE/begun; sleep 0.05 & wait; touch HERE/flag"]
undo    = ["rm", "-f", "HERE/flag", "HERE/begun"]
remains = ["test", "-e", "HERE/flag"]
at      = "0s"
for     = "FOR"
[recovery]
within = "2s"
"#;

/// A world of a test's own: a namespace, a disk, processes to hurt, and folders.
struct Arena {
    netns: Netns,
    disk: Mounted,
    folder: tempfile::TempDir,
    paused: Owned,
    _respawner: Owned,
}

impl Arena {
    fn new() -> Option<Self> {
        let (netns, disk) = (Netns::new()?, small_disk()?);
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        std::os::unix::fs::symlink(disk.0.path(), here.join("disk")).unwrap();
        std::fs::create_dir(here.join("tmp")).unwrap();
        let paused =
            Owned::start(Command::new("sleep").arg("3600").stdout(Stdio::null()).stderr(Stdio::null()));
        std::fs::write(here.join("paused"), paused.pid().to_string()).unwrap();
        // The pid file is replaced as a whole: it never names nobody.
        let script =
            "while :; do setpriv --pdeathsig KILL sleep 3600 & echo $! > new; mv new respawned; wait; done";
        let mut respawner = Command::new("sh");
        // SAFETY: a system call only: whoever respawns ends with the test, and what it started with it.
        unsafe {
            respawner.pre_exec(|| {
                nix::unistd::setsid()?;
                Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)
            });
        }
        let respawner = Owned::start(
            respawner.args(["-c", script]).current_dir(here).stdout(Stdio::null()).stderr(Stdio::null()),
        );
        eventually("there is somebody to kill", || here.join("respawned").exists());
        let arena = Self { netns, disk, folder, paused, _respawner: respawner };
        arena.write("1s");
        Some(arena)
    }

    fn here(&self) -> &Path {
        self.folder.path()
    }

    fn state(&self) -> PathBuf {
        self.here().join("state")
    }

    fn write(&self, lasts: &str) {
        let text = EXPERIMENT.replace("HERE", &self.here().display().to_string()).replace("FOR", lasts);
        std::fs::write(self.here().join("experiment.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.brownout(&self.state());
        command.args(arguments).env("TMPDIR", self.here().join("tmp")).current_dir(self.here());
        command
    }

    fn run(&self) -> Command {
        let mut command = self.command(&["run", "--yes", "experiment.toml"]);
        let log = std::fs::File::create(self.here().join("said")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn seen(&self) -> MachineState {
        let mut state =
            MachineState::of(&self.netns, &self.state(), self.disk.0.path(), &[self.paused.pid()]);
        for file in ["flag", "begun"] {
            if self.here().join(file).exists() {
                state.0.push(format!("file: {file}"));
            }
        }
        state
    }

    /// Waits until the machine is as it was, without `recover` wherever somebody was left to pay.
    fn settles(&self, before: &MachineState, nobody_was_left: bool, how: &str) {
        let since = Instant::now();
        let limit = if nobody_was_left { Duration::from_secs(1) } else { Duration::from_secs(30) };
        loop {
            let left = self.seen().differs_from(before);
            // A run that died before its watchdog was posted owes nothing; its log is swept by the next start.
            let only_log = left.iter().all(|line| line.starts_with("+ state: "));
            if left.is_empty()
                || nobody_was_left && since.elapsed() > limit
                || only_log && self.owes_nothing()
            {
                break;
            }
            assert!(since.elapsed() < limit, "{how}: left: {left:#?}\n{}", self.told());
            std::thread::sleep(Duration::from_millis(20));
        }
        let recovered = self.command(&["recover"]).output().unwrap();
        assert_eq!(recovered.status.code(), Some(0), "{how}: {}\n{}", said(&recovered), self.told());
        let left = self.seen().differs_from(before);
        assert!(left.is_empty(), "{how}: left after recover: {left:#?}\n{}{}", said(&recovered), self.told());
    }

    fn owes_nothing(&self) -> bool {
        let listed = self.command(&["recover", "--list"]).output().unwrap();
        let text = said(&listed);
        listed.status.success() && !text.contains("(running") && !text.contains("owes")
    }

    fn told(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        logs(&self.state()).iter().fold(read(&self.here().join("said")), |text, log| text + &read(log))
    }

    fn entries(&self) -> usize {
        let bytes = |log: &PathBuf| std::fs::read(log).unwrap_or_default();
        logs(&self.state()).iter().flat_map(bytes).filter(|byte| *byte == b'\n').count()
    }

    /// How long a fresh connection and its first answer take, from the service started by the run.
    fn answers_in(&self, port: u16) -> Duration {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.netns.holder())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                let begun = Instant::now();
                let address = SocketAddr::from(([127, 0, 0, 1], port));
                let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
                    return begun.elapsed();
                };
                stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                let _ = stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut [0; 5]));
                begun.elapsed()
            });
            inside.join().unwrap()
        })
    }

    fn port(&self) -> u16 {
        let line = self.netns.prints("ss", &["-Hltn"]);
        let local = line.split_whitespace().nth(3).unwrap();
        local.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn all_five_are_live(&self) -> bool {
        let told = std::fs::read_to_string(self.here().join("said")).unwrap_or_default();
        ["slow", "still", "full", "own", "hit"]
            .iter()
            .all(|name| told.contains(&format!("fault {name} took hold")))
    }
}

/// The watchdog of the run, once it is posted.
fn watchdog_of(runner: u32) -> Option<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{runner}/task")).ok()?;
    let children = tasks.flatten().flat_map(|task| {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
    });
    children.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("\0watchdog\0")
    })
}

fn signal(signal: &str, pid: u32) -> bool {
    let sent = Command::new("kill").arg(signal).arg(pid.to_string()).stderr(Stdio::null()).status();
    sent.unwrap().success()
}

fn waits_for(what: &str, runner: &mut Owned, mut holds: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    while !holds() {
        if runner.0.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(since.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// Does a job once for each number, in several worlds at once; every job gets its world as it was at first.
fn in_lanes(jobs: usize, job: impl Fn(&Arena, &MachineState, usize) + Sync) -> bool {
    let arenas: Vec<Option<Arena>> = (0..LANES.min(jobs)).map(|_| Arena::new()).collect();
    let Some(arenas) = arenas.into_iter().collect::<Option<Vec<Arena>>>() else { return false };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for arena in &arenas {
            scope.spawn(|| {
                let before = arena.seen();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= jobs {
                        return;
                    }
                    job(arena, &before, number);
                }
            });
        }
    });
    true
}

#[test]
fn a_whole_run_with_all_five_faults_passes_and_leaves_nothing() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    let status = arena.run().status().unwrap();
    assert_eq!(status.code(), Some(0), "{}", arena.told());
    assert!(arena.all_five_are_live(), "{}", arena.told());
    assert_eq!(arena.seen().differs_from(&before), Vec::<String>::new());
}

#[test]
fn killed_after_every_entry_of_the_undo_log_nothing_is_left() {
    // More than a run writes: header, claims, and for each of six records claims, the record, and its end.
    let (kills, ends) = (AtomicUsize::new(0), AtomicUsize::new(0));
    in_lanes(24, |arena, before, number| {
        let mut runner = Owned::start(&mut arena.run());
        if waits_for("an entry", &mut runner, || arena.entries() > number) {
            kills.fetch_add(1, Ordering::Relaxed);
        } else {
            ends.fetch_add(1, Ordering::Relaxed);
        }
        runner.kill();
        arena.settles(before, false, &format!("killed after entry {}", number + 1));
    });
    let (kills, ends) = (kills.into_inner(), ends.into_inner());
    println!(
        "SIGKILL after entries of the undo log: {kills} kills, {ends} runs had fewer entries; 0 leftovers"
    );
    assert!(kills == 0 && ends == 0 || kills >= 14 && ends >= 1, "{kills} kills, {ends} ends");
}

#[test]
fn killed_at_random_instants_nothing_is_left_whoever_is_killed() {
    let jobs = std::env::var("BROWNOUT_TORTURE").map_or(KILLS, |kills| kills.parse().unwrap());
    let dice = brownout::base::Dice::new(2026);
    let counts: [AtomicUsize; 4] = std::array::from_fn(|_| AtomicUsize::new(0));
    in_lanes(jobs, |arena, before, number| {
        use rand::Rng as _;
        let mut chance = dice.stream(&format!("kill {number}"));
        let whom = if number % 10 == 9 { 3 } else { number % 3 };
        let after = Duration::from_micros(chance.random_range(0..2_600_000));
        let how = format!(
            "kill {number}, of {}, after {after:?}",
            ["the runner", "the watchdog", "both", "none: hung"][whom]
        );
        let begun = Instant::now();
        let mut runner = Owned::start(&mut arena.run());
        let pid = runner.pid();
        waits_for("the instant", &mut runner, || begun.elapsed() >= after);
        let watchdog = watchdog_of(pid);
        let mut nobody_was_left = false;
        // Before the watchdog is posted, or after it was sent home, there is only the runner to kill.
        let whom = if watchdog.is_some() { whom } else { 0 };
        match (whom, watchdog) {
            (1, Some(watchdog)) => {
                signal("-KILL", watchdog);
                runner.0.wait().unwrap();
            }
            (2, Some(watchdog)) => {
                // Hung first, so that neither sees the other's end.
                signal("-STOP", pid);
                nobody_was_left = signal("-KILL", watchdog);
                runner.kill();
            }
            (3, Some(_)) => {
                let stopped = Instant::now();
                if signal("-STOP", pid) && runner.0.try_wait().unwrap().is_none() {
                    eventually("the watchdog kills it", || runner.0.try_wait().unwrap().is_some());
                    arena.settles(before, false, &how);
                    assert!(stopped.elapsed() < HUNG, "{how}: {:?}", stopped.elapsed());
                }
            }
            _ => runner.kill(),
        }
        counts[whom].fetch_add(1, Ordering::Relaxed);
        arena.settles(before, nobody_was_left, &how);
    });
    let [runner, watchdog, both, hung] = counts.map(AtomicUsize::into_inner);
    println!(
        "at random instants: {runner} runners, {watchdog} watchdogs, {both} both, {hung} hung; 0 leftovers"
    );
}

#[test]
fn a_hung_runner_loses_its_delay_within_the_lease_and_everything_within_five_seconds() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    arena.write("30s");
    let mut runner = Owned::start(&mut arena.run());
    assert!(waits_for("all five faults", &mut runner, || arena.all_five_are_live()), "{}", arena.told());
    let port = arena.port();
    assert!(arena.answers_in(port) >= Duration::from_millis(120), "a handshake and a request are delayed");
    assert_ne!(tracer(arena.paused.pid()), "0");
    let stopped = Instant::now();
    assert!(signal("-STOP", runner.pid()));
    let fast = loop {
        let asked = stopped.elapsed();
        if arena.answers_in(port) < Duration::from_millis(60) {
            break asked;
        }
        assert!(asked < LIMIT, "the delay stays");
    };
    eventually("the watchdog kills it", || runner.0.try_wait().unwrap().is_some());
    eventually("everything is gone", || arena.seen() == before);
    let all = stopped.elapsed();
    println!("SIGSTOP of the runner: fresh packets pass after {fast:?}, everything is gone after {all:?}");
    // A question asked before the lease's end waits for its answer until after it: the next one counts.
    assert!(fast <= LEASE + Duration::from_secs(1), "latency gone only after {fast:?}");
    assert!(all <= HUNG, "everything gone only after {all:?}");
    arena.settles(&before, false, "hung");
}

#[test]
fn recover_itself_may_be_killed_and_started_again() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    arena.write("30s");
    for step in 0..8_u64 {
        let mut runner = Owned::start(&mut arena.run());
        assert!(waits_for("all five faults", &mut runner, || arena.all_five_are_live()), "{}", arena.told());
        let watchdog = watchdog_of(runner.pid()).unwrap();
        assert!(signal("-STOP", runner.pid()) && signal("-KILL", watchdog));
        runner.kill();
        assert!(arena.here().join("flag").exists(), "nobody was left to undo it");
        let mut recover = arena.command(&["recover"]);
        let mut recover = Owned::start(recover.stdout(Stdio::null()).stderr(Stdio::null()));
        std::thread::sleep(Duration::from_millis(step * 12));
        recover.kill();
        arena.settles(&before, true, &format!("recover killed after {} ms", step * 12));
    }
}

#[test]
fn two_runs_at_once_are_fine_unless_they_want_the_same() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    arena.write("30s");
    let mut runner = Owned::start(&mut arena.run());
    assert!(waits_for("all five faults", &mut runner, || arena.all_five_are_live()), "{}", arena.told());
    for wanted in [
        &["pause", "--pid-file", "paused"][..],
        &["disk-fill", "size=1MiB", "--path", "disk"],
        &["exec", &own_undo(&arena), "inject=['touch', 'other']"],
    ] {
        let second = arena.command(&["inject", "--yes", "--for", "1s"]).args(wanted).output().unwrap();
        assert_eq!(second.status.code(), Some(6), "{wanted:?}: {}", said(&second));
    }
    let apart = [
        "inject",
        "exec",
        "--yes",
        "--for",
        "100ms",
        "inject=['touch', 'other']",
        "undo=['rm', '-f', 'other']",
    ];
    let second = arena.command(&apart).output().unwrap();
    assert_eq!(second.status.code(), Some(0), "{}", said(&second));
    assert!(signal("-INT", runner.pid()));
    assert_eq!(runner.0.wait().unwrap().code(), Some(130), "{}", arena.told());
    assert_eq!(arena.seen().differs_from(&before), Vec::<String>::new());
}

fn own_undo(arena: &Arena) -> String {
    let here = arena.here().display();
    format!("undo=['rm', '-f', '{here}/flag', '{here}/begun']")
}

#[test]
fn what_an_injection_started_does_no_harm_after_its_undo() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    // A grandchild that does the harm later: the death of the runner ends only the command itself.
    let here = arena.here().display();
    let slow = format!("inject=['sh', '-c', 'touch {here}/begun; (sleep 1; touch {here}/flag) & wait']");
    let arguments = ["inject", "exec", "--yes", "--for", "30s", &slow, &own_undo(&arena)];
    let mut command = arena.command(&arguments);
    let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    assert!(waits_for("the injection begins", &mut runner, || arena.here().join("begun").exists()));
    runner.kill();
    arena.settles(&before, false, "killed while injecting");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(arena.seen().differs_from(&before), Vec::<String>::new(), "it did its harm after the undo");
}

#[test]
fn what_an_injection_left_running_may_be_stopped_by_its_own_undo() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    let inject = "inject=['sh', '-c', 'sleep 60 & echo $! > one']";
    let undo = "undo=['sh', '-c', 'kill $(cat one) && rm one']";
    let done = arena.command(&["inject", "exec", "--yes", "--for", "100ms", inject, undo]).output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", said(&done));
    assert_eq!(arena.seen().differs_from(&before), Vec::<String>::new());
}

#[test]
fn a_service_that_never_comes_up_is_stopped_all_the_same() {
    let Some(arena) = Arena::new() else { return };
    let before = arena.seen();
    let text = std::fs::read_to_string(arena.here().join("experiment.toml")).unwrap();
    let never = "ready = { exec = [\"false\"], within = \"WITHIN\" }";
    let text = text.replace("ready = { tcp = \"127.0.0.1:${self.port}\" }", never);
    for (within, interrupted, code) in [("500ms", false, 6), ("60s", true, 130)] {
        std::fs::write(arena.here().join("experiment.toml"), text.replace("WITHIN", within)).unwrap();
        let mut runner = Owned::start(&mut arena.run());
        // A runner that looks for a free port listens for a moment, too, before it heeds signals.
        waits_for("the service runs", &mut runner, || {
            let listens = arena.netns.prints("ss", &["-Hltnp"]);
            !listens.is_empty() && !listens.contains("\"brownout\"")
        });
        if interrupted {
            assert!(signal("-INT", runner.pid()));
        }
        assert_eq!(runner.0.wait().unwrap().code(), Some(code), "{}", arena.told());
        assert_eq!(arena.seen().differs_from(&before), Vec::<String>::new(), "{}", arena.told());
    }
}
