//! Bad input and bad luck: a clear error or a verdict, nothing lost, nothing left, no panic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Owned, World, brownout, disk, eventually, logs, said};

/// A server whose connections are accepted by the kernel, and never answered.
struct Mute(TcpListener);

impl Mute {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

/// A file with one fault that leaves the world's flag for so long, watched by a probe that is always good.
fn experiment(world: &World, lasts: &str, probe: &str) -> PathBuf {
    let (file, flag) = (world.folder.path().join("experiment.toml"), world.flag().display().to_string());
    let text = format!(
        "title = 'bad luck'\n{probe}\n[slo.web]\nprobe = 'web'\navailability = '50%'\n\
         [steady_state]\nfor = '300ms'\n[recovery]\nwithin = '2s'\n\
         [fault.own.exec]\ninject = ['touch', '{flag}']\nundo = ['rm', '-f', '{flag}']\n\
         remains = ['test', '-e', '{flag}']\nat = '0s'\nfor = '{lasts}'\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// A probe of a server that takes every connection.
fn good() -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    std::thread::spawn(move || server.incoming().for_each(drop));
    format!("[probe.web.tcp]\naddress = '{address}'\nrate = '100/s'")
}

fn run(world: &World, runs: &Path, file: &Path) -> Command {
    let mut command = brownout(&world.state());
    command.args(["run", "--yes", "--runs"]).arg(runs).arg(file).current_dir(world.folder.path());
    command
}

#[test]
fn what_is_no_file_of_ours_is_refused_in_words() {
    let world = World::new();
    let here = world.folder.path();
    let garbage: Vec<u8> = (0..4000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(here.join("garbage"), garbage).unwrap();
    std::fs::create_dir(here.join("folder")).unwrap();
    std::fs::write(here.join("empty"), "").unwrap();
    for name in ["garbage", "folder", "empty", "missing"] {
        for command in ["run", "check", "plan"] {
            let output = brownout(&world.state()).arg(command).arg(here.join(name)).output().unwrap();
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {name}: {text}");
            assert!(text.contains(name) && !text.contains("panicked"), "{command} {name}: {text}");
        }
    }
    assert!(logs(&world.state()).is_empty());
}

#[test]
fn a_pid_file_of_a_dead_process_or_of_garbage_is_refused_before_any_harm() {
    let world = World::new();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    for text in [dead.id().to_string(), "no number".to_owned(), String::new(), "99999999999999".to_owned()] {
        let file = world.folder.path().join("pid");
        std::fs::write(&file, &text).unwrap();
        for kind in ["pause", "kill"] {
            let mut command = brownout(&world.state());
            command.args(["inject", kind, "--yes", "--pid-file"]).arg(&file);
            if kind == "pause" {
                command.args(["--for", "1s"]);
            }
            let output = command.output().unwrap();
            assert_eq!(output.status.code(), Some(6), "{kind} {text:?}: {}", said(&output));
            assert!(said(&output).contains("nothing was touched"), "{}", said(&output));
        }
    }
    assert!(logs(&world.state()).is_empty());
}

#[test]
fn a_full_disk_under_the_runs_folder_keeps_neither_the_verdict_nor_the_undo() {
    let Some(small) = disk("size=1m") else { return };
    let world = World::new();
    let file = experiment(&world, "1s", &good());
    let runs = small.0.path().join("runs");
    let log = world.folder.path().join("said");
    let mut command = run(&world, &runs, &file);
    command.stdout(std::fs::File::create(&log).unwrap()).stderr(Stdio::null());
    let mut runner = Owned::start(&mut command);
    eventually("the harm is done", || world.flag().exists());
    // Full to the last block, in the middle of the run.
    let _ = std::fs::write(small.0.path().join("rest"), vec![0; 2 << 20]);
    assert_eq!(small.free(), 0);
    let code = runner.0.wait().unwrap().code();
    assert_eq!(code, Some(0), "{}", std::fs::read_to_string(&log).unwrap());
    assert!(std::fs::read_to_string(&log).unwrap().contains("PASSED"));
    world.nothing_left();
}

#[test]
fn a_state_folder_that_cannot_be_written_is_refused_with_the_remedy() {
    let Some(small) = disk("size=1m") else { return };
    let world = World::new();
    let file = experiment(&world, "1s", &good());
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(small.0.path()).status().unwrap();
    assert!(remounted.success());
    let output = run(&world, &world.folder.path().join("runs"), &file)
        .env("BROWNOUT_STATE", small.0.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("--state or BROWNOUT_STATE"), "{}", said(&output));
    assert!(!world.flag().exists());
}

#[test]
fn an_endpoint_that_never_answers_is_not_healthy_and_nothing_is_hurt() {
    let (world, mute) = (World::new(), Mute::new());
    let probe = format!(
        "[probe.web.http]\nurl = 'http://127.0.0.1:{}/'\nrate = '100/s'\ntimeout = '200ms'",
        mute.port()
    );
    let file = experiment(&world, "1s", &probe);
    let output = run(&world, &world.folder.path().join("runs"), &file).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("nothing was injected"), "{}", said(&output));
    world.nothing_left();
}

#[test]
fn whoever_stops_reading_what_we_say_does_not_stop_the_undo() {
    for format in ["text", "json"] {
        let world = World::new();
        let file = experiment(&world, "1s", &good());
        let mut command = run(&world, &world.folder.path().join("runs"), &file);
        command.args(["--format", format]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut runner = Owned::start(&mut command);
        eventually("the harm is done", || world.flag().exists());
        drop((runner.0.stdout.take(), runner.0.stderr.take()));
        assert_eq!(runner.0.wait().unwrap().code(), Some(0), "{format}");
        world.nothing_left();
    }
}
