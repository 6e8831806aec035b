//! The promise, tortured: one run with every kind of fault live at once is killed at every entry of its undo
//! log and at many moments between; so is its watchdog; and nothing is left, each time.
//!
//! `BROWNOUT_TORTURE=200` kills at so many moments instead of the few that fit into every run of the tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{MachineState, Netns, Owned, World, children, eventually, logs, said, small_disk};

/// A world with something to hurt for every kind.
struct Scene {
    world: World,
    netns: Netns,
    disk: support::Mounted,
    sleeper: Owned,
    respawner: Owned,
    file: PathBuf,
    before: MachineState,
}

impl Scene {
    fn new() -> Option<Self> {
        let (netns, disk) = (Netns::new()?, small_disk()?);
        let world = World::new();
        let folder = world.folder.path().to_owned();
        let sleeper = Owned::start(Command::new("sleep").arg("611"));
        // Something that supervises: what is killed comes back.
        let beat = format!("{}.{}", 600 + netns.pid() % 100, netns.pid());
        let script = format!("while :; do sleep {beat}; done");
        let respawner = Owned::start(Command::new("bash").args(["-c", &script]));
        std::fs::write(folder.join("sleeper.pid"), sleeper.pid().to_string()).unwrap();
        let (flag, place) = (world.flag(), disk.0.path().to_owned());
        let brownout = env!("CARGO_BIN_EXE_brownout");
        let text = format!(
            r#"
title = "everything at once"
[service.store]
run   = ["{brownout}", "shop", "store", "--port", "${{self.port}}"]
ready = {{ tcp = "127.0.0.1:${{self.port}}" }}
[service.other]
run   = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", "${{self.dir}}", "${{self.port}}"]
ready = {{ tcp = "127.0.0.1:${{self.port}}" }}
[probe.store.tcp]
address = "127.0.0.1:${{service.store.port}}"
rate    = "100/s"
[slo.store]
probe          = "store"
longest_outage = "60s"
[steady_state]
for = "210ms"
[fault.slow.latency]
to    = {{ service = "store" }}
delay = "30ms"
for   = "60s"
[fault.still.pause]
target = {{ pid_file = "{}" }}
for    = "60s"
[fault.gone.kill]
target = {{ cmdline = "^sleep {beat}$" }}
[fault.full.disk-fill]
target = {{ path = "{}" }}
size   = "20MiB"
for    = "60s"
[fault.own.exec]
inject  = ["touch", "{flag}"]
undo    = ["rm", "-f", "{flag}"]
remains = ["test", "-e", "{flag}"]
for     = "60s"
"#,
            folder.join("sleeper.pid").display(),
            place.display(),
            flag = flag.display(),
        );
        let file = folder.join("everything.toml");
        std::fs::write(&file, text).unwrap();
        let before = Self::look(&netns, &world, &disk, &sleeper);
        Some(Self { world, netns, disk, sleeper, respawner, file, before })
    }

    fn look(netns: &Netns, world: &World, disk: &support::Mounted, sleeper: &Owned) -> MachineState {
        MachineState::of(netns, &world.state(), disk.0.path(), &[sleeper.pid()])
    }

    fn run(&self) -> Run<'_> {
        let mut command = self.netns.brownout(&self.world.state());
        command.args(["run", "--yes"]).arg(&self.file).env("TMPDIR", self.world.folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // nsenter executes it in its own place, so the child is the runner.
        Run { scene: self, runner: Owned::start(&mut command) }
    }

    /// What is here and was not there before.
    fn left(&self) -> Vec<String> {
        let mut left =
            Self::look(&self.netns, &self.world, &self.disk, &self.sleeper).differs_from(&self.before);
        if self.world.flag().exists() {
            left.push("+ the flag".to_owned());
        }
        for entry in std::fs::read_dir(self.world.folder.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("brownout-") {
                left.push(format!("+ {}", entry.path().display()));
            }
        }
        left
    }

    fn recover(&self) {
        let output = self
            .netns
            .brownout(&self.world.state())
            .arg("recover")
            .env("TMPDIR", self.world.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }

    fn nothing_left(&self, killed: &str) {
        let since = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(40), "killed {killed}, and left: {left:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(self.respawner.alive(), "the supervisor was hurt");
    }
}

struct Run<'a> {
    scene: &'a Scene,
    runner: Owned,
}

impl Run<'_> {
    /// Waits until its undo log holds so many lines; whether it came to that.
    fn until_entry(&mut self, lines: usize) -> bool {
        let since = Instant::now();
        loop {
            let written: usize = logs(&self.scene.world.state())
                .iter()
                .filter_map(|log| std::fs::read(log).ok())
                .map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count())
                .sum();
            if written >= lines {
                return true;
            }
            if self.runner.0.try_wait().unwrap().is_some() || since.elapsed() > Duration::from_secs(30) {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn watchdog(&self) -> Option<String> {
        children(self.runner.pid()).into_iter().find(|child| {
            std::fs::read(format!("/proc/{child}/cmdline"))
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("\0watchdog\0"))
        })
    }
}

fn signal(signal: &str, pid: &str) {
    // By number, but only of children that are not collected yet, so that the number is still theirs.
    let _ = Command::new("kill").args([signal, pid]).stderr(Stdio::null()).status();
}

/// Whom to kill.
#[derive(Debug, Clone, Copy)]
enum Whom {
    Runner,
    Watchdog,
    Both,
}

fn kill_and_look(scene: &Scene, mut run: Run<'_>, whom: Whom, when: &str) {
    match whom {
        Whom::Runner => {
            run.runner.kill();
            scene.nothing_left_but_empty_logs(&format!("the runner {when}"));
        }
        Whom::Watchdog => {
            // The run notices, and ends by itself, undoing everything.
            if let Some(watchdog) = run.watchdog() {
                signal("-KILL", &watchdog);
                run.runner.0.wait().unwrap();
            } else {
                run.runner.kill();
            }
            scene.nothing_left_but_empty_logs(&format!("the watchdog {when}"));
        }
        Whom::Both => {
            let pid = run.runner.pid().to_string();
            signal("-STOP", &pid);
            if let Some(watchdog) = run.watchdog() {
                signal("-KILL", &watchdog);
            }
            run.runner.kill();
            scene.recover();
            scene.nothing_left(&format!("both {when}"));
        }
    }
}

impl Scene {
    /// As [`Scene::nothing_left`]; a log whose run died before it owed anything is swept by the next start.
    fn nothing_left_but_empty_logs(&self, killed: &str) {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(30) {
            let left = self.left();
            if left.iter().all(|line| line.starts_with("+ state:") || line.contains("/brownout-")) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.recover();
        self.nothing_left(killed);
    }
}

/// Does all of a list of kills, several worlds at a time.
fn torture(kills: &[(Whom, When)]) -> usize {
    const WORLDS: usize = 4;
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                while let Some((whom, when)) = kills.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(scene) = Scene::new() else { return };
                    let mut run = scene.run();
                    let said = match when {
                        When::Entry(lines) => {
                            run.until_entry(*lines);
                            format!("at entry {lines}")
                        }
                        When::After(wait) => {
                            std::thread::sleep(*wait);
                            format!("after {wait:?}")
                        }
                    };
                    kill_and_look(&scene, run, *whom, &said);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.load(Ordering::Relaxed)
}

#[derive(Debug, Clone, Copy)]
enum When {
    /// When the undo log holds so many lines.
    Entry(usize),
    /// So long after the start.
    After(Duration),
}

/// Header, claims, two services with their claims, five faults, one of them with claims of its own.
const ENTRIES: usize = 12;

#[test]
fn killed_after_every_entry_of_the_undo_log_nothing_is_left() {
    let kills: Vec<_> = (1..=ENTRIES)
        .flat_map(|lines| [(Whom::Runner, When::Entry(lines)), (Whom::Both, When::Entry(lines))])
        .collect();
    let done = torture(&kills);
    println!("{done} kills at entries of the undo log");
    assert!(done == kills.len() || support::Netns::new().is_none());
}

#[test]
fn killed_at_many_moments_nothing_is_left() {
    let count: u32 =
        std::env::var("BROWNOUT_TORTURE").ok().and_then(|count| count.parse().ok()).unwrap_or(24);
    // From before the log to well after all are live; spread evenly, so that every run covers all of it.
    let span = Duration::from_millis(1_800);
    let whoms = [Whom::Runner, Whom::Both, Whom::Runner, Whom::Watchdog];
    let kills: Vec<_> =
        (0..count).map(|n| (whoms[n as usize % whoms.len()], When::After(span * n / count))).collect();
    let done = torture(&kills);
    println!("{done} kills at moments spread over {span:?}");
    assert!(done == kills.len() || support::Netns::new().is_none());
}

#[test]
fn a_runner_that_hangs_is_undone_within_five_seconds() {
    let Some(scene) = Scene::new() else { return };
    let mut run = scene.run();
    assert!(run.until_entry(ENTRIES), "all five are recorded");
    eventually("all are live", || {
        scene.world.flag().exists() && scene.left().iter().any(|l| l.contains("table"))
    });
    signal("-STOP", &run.runner.pid().to_string());
    let hung = Instant::now();
    eventually("the rule table holds nobody back", || !scene.world.flag().exists());
    assert!(hung.elapsed() < Duration::from_secs(8), "the watchdog took {:?}", hung.elapsed());
    run.runner.0.wait().unwrap();
    scene.nothing_left("by the watchdog");
}

#[test]
fn planted_leftovers_are_found() {
    let Some(scene) = Scene::new() else { return };
    let found = |what: &str| {
        let left = scene.left();
        assert!(left.iter().any(|line| line.contains(what)), "{what} in {left:#?}");
    };
    assert_eq!(scene.left(), Vec::<String>::new());
    assert!(scene.netns.command("nft").args(["add", "table", "ip", "planted"]).status().unwrap().success());
    found("table ip planted");
    assert!(
        scene
            .netns
            .command("tc")
            .args(["qdisc", "add", "dev", "lo", "root", "pfifo"])
            .status()
            .unwrap()
            .success()
    );
    found("qdisc pfifo");
    let file = std::fs::File::create(scene.disk.0.path().join("planted")).unwrap();
    file.set_len(1 << 20).unwrap();
    std::fs::write(scene.disk.0.path().join("blocks"), vec![1; 1 << 20]).unwrap();
    found("free blocks");
    found("free inodes");
    signal("-STOP", &scene.sleeper.pid().to_string());
    eventually("it stands still", || scene.left().iter().any(|line| line.contains("State:\tT")));
    signal("-CONT", &scene.sleeper.pid().to_string());
    let listener = Owned::start(
        scene
            .netns
            .command("python3")
            .args(["-m", "http.server", "--bind", "127.0.0.1", "8999"])
            .stderr(Stdio::null())
            .stdout(Stdio::null()),
    );
    eventually("it listens", || scene.left().iter().any(|line| line.contains("127.0.0.1:8999")));
    drop(listener);
    std::fs::create_dir_all(scene.world.state().join("undo")).unwrap();
    std::fs::write(scene.world.state().join("undo/planted.log"), "").unwrap();
    found("state: planted.log");
    std::fs::write(scene.world.flag(), "").unwrap();
    found("the flag");
    std::fs::create_dir(scene.world.folder.path().join("brownout-planted")).unwrap();
    found("brownout-planted");
    let marked = Owned::start(scene.netns.command("sleep").arg("613").env("BROWNOUT_SERVICE", "planted"));
    eventually("it is seen", || scene.left().iter().any(|line| line.contains("left running: sleep 613")));
    drop(marked);
}
