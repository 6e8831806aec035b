//! What the tests of the real binary share: children that end with the test, waiting for events, a world of the
//! test's own, and what must not be left behind.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on should say so and stop"
)]

pub mod calls;
pub mod inside;
pub mod stage;
pub mod state;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use state::MachineState;

pub const LIMIT: Duration = Duration::from_mins(1);

pub fn brownout(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brownout"));
    command
        .env("BROWNOUT_STATE", state)
        .env("BROWNOUT_RUNS", state.with_file_name("runs"))
        .stdin(Stdio::null());
    command
}

/// Copies a program, by another process: a file that we write would be open in what another test starts meanwhile, and a
/// program that somebody may write cannot be run (ETXTBSY, execve(2)).
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    assert!(Command::new("cp").arg(from.as_ref()).arg(to.as_ref()).status().unwrap().success());
}

/// A child that ends with the test.
pub struct Owned(pub Child);

impl Owned {
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the words that say that the harm is done.
    pub fn took_hold(&mut self) {
        for line in BufReader::new(self.0.stderr.as_mut().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("took hold") {
                return;
            }
        }
        panic!("it ended before it took hold");
    }

    pub fn alive(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn logs(state: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(state.join("undo")) else { return Vec::new() };
    entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect()
}

pub fn tracer(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("TracerPid:")).unwrap_or("gone").trim().to_owned()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

pub struct World {
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
    pub fn flag(&self) -> PathBuf {
        self.folder.path().join("harm")
    }
    pub fn nothing_left(&self) {
        eventually("the harm is gone", || !self.flag().exists());
        eventually("nothing is owed", || logs(&self.state()).is_empty());
    }
}

/// The children of a process, whichever of its threads started them.
pub fn children(of: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// A small tmpfs of the test's own; `None`, loudly, where it may not be mounted.
pub fn small_disk() -> Option<Mounted> {
    disk("size=64m")
}

/// A tmpfs of the test's own, with these mount options; `None`, loudly, where it may not be mounted.
pub fn disk(options: &str) -> Option<Mounted> {
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(folder.path())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if mounted {
        return Some(Mounted(folder));
    }
    println!("SKIPPED: mounting a tmpfs of our own needs root");
    let required = std::env::var("BROWNOUT_TESTS_REQUIRE").is_ok_and(|all| all == "all");
    assert!(!required, "BROWNOUT_TESTS_REQUIRE=all, and a tmpfs cannot be mounted");
    None
}

/// A small ext4 of the test's own, in a file; `None`, loudly, where it may not be mounted.
pub fn block_disk() -> Option<Mounted> {
    let folder = tempfile::tempdir().unwrap();
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(64 << 20).unwrap();
    let quietly = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let made = quietly(Command::new("mkfs.ext4").arg("-q").arg(image.path()))
        && quietly(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(folder.path()));
    if !made {
        skip("an ext4 of our own needs root, mkfs.ext4 and loop devices");
        return None;
    }
    // The loop device keeps the file, which needs no name any more.
    Some(Mounted(folder))
}

pub struct Mounted(pub tempfile::TempDir);

impl Mounted {
    pub fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(self.0.path()).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }

    pub fn free_inodes(&self) -> u64 {
        nix::sys::statvfs::statvfs(self.0.path()).unwrap().files_available()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Says loudly that a test cannot run here, and fails where nothing may be skipped.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
    let required = std::env::var("BROWNOUT_TESTS_REQUIRE").is_ok_and(|all| all == "all");
    assert!(!required, "BROWNOUT_TESTS_REQUIRE=all, and {why}");
}

/// A network namespace of the test's own, with its loopback up; gone with the process that holds it.
pub struct Netns(Owned);

impl Netns {
    /// `None`, loudly, where it may not be made.
    pub fn new() -> Option<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(mut holder) = holder {
            let mut line = String::new();
            let read = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
            if read.is_ok() && line == "up\n" {
                return Some(Self(Owned(holder)));
            }
            let _ = holder.kill();
            let _ = holder.wait();
        }
        skip("a network namespace of our own needs root, unshare and ip");
        None
    }

    /// The process whose namespace it is.
    pub fn holder(&self) -> u32 {
        self.0.pid()
    }

    /// The namespace's own name, as every process in it shows it.
    pub fn file(&self) -> PathBuf {
        std::fs::read_link(format!("/proc/{}/ns/net", self.holder())).unwrap()
    }

    /// Does something inside. Sockets stay where they were made.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.holder())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.pid())).arg(program).stdin(Stdio::null());
        command
    }

    /// The real binary, inside.
    pub fn brownout(&self, state: &Path) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_brownout"));
        command.env("BROWNOUT_STATE", state).env("BROWNOUT_RUNS", state.with_file_name("runs"));
        command
    }

    /// Whoever else runs inside.
    pub fn others(&self) -> Vec<String> {
        let network = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let holder = self.0.pid().to_string();
        let ours = network(&holder);
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.map(|entry| entry.file_name().to_string_lossy().into_owned());
        pids.filter(|pid| pid.parse::<u32>().is_ok() && *pid != holder && network(pid) == ours)
            .map(|pid| {
                let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " "))
            })
            .collect()
    }

    /// What a command run inside prints.
    pub fn prints(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
/// `brownout inject KIND ...` that would last a minute, with what it says to be read.
pub fn inject(world: &World, kind: &str, arguments: &[&str]) -> Command {
    let mut command = brownout(&world.state());
    command.args(["inject", kind, "--yes", "--for", "60s"]).args(arguments).stderr(Stdio::piped());
    command
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

pub fn watchdogs(runner: u32) -> Vec<u32> {
    let runs_it = |pid: &String| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("watchdog"))
    };
    children(runner).into_iter().filter(runs_it).map(|pid| pid.parse().unwrap()).collect()
}

/// Who ends the harm when nobody of ours is left.
#[derive(Clone, Copy, PartialEq)]
pub enum Last {
    /// The kernel, at once.
    Kernel,
    /// `brownout recover`.
    Recover,
}

/// Lets the runner die in three ways while its harm is live: killed; hanging; killed with its watchdog.
pub fn gone_whichever_way_it_dies(
    kind: &str,
    arguments: &[&str],
    last: Last,
    harmed: impl Fn(&World) -> bool,
) {
    let world = World::new();
    let harmed = || harmed(&world);
    assert!(!harmed(), "{kind} is there before anything was done");
    let start = || {
        let mut runner = Owned::start(&mut inject(&world, kind, arguments));
        runner.took_hold();
        assert!(harmed(), "{kind} took hold, and is not there");
        runner
    };

    let mut killed = start();
    let since = Instant::now();
    killed.0.kill().unwrap();
    eventually("it is gone after SIGKILL", || !harmed());
    println!("{kind} gone {:?} after SIGKILL", since.elapsed());
    killed.kill();
    world.nothing_left();

    let mut hanging = start();
    signal(hanging.pid(), "-STOP");
    eventually("it is gone after a hang", || !harmed());
    world.nothing_left();
    assert!(!hanging.0.wait().unwrap().success());

    let mut alone = start();
    // The runner stops first, so that it cannot notice that its watchdog is gone and undo by itself.
    signal(alone.pid(), "-STOP");
    let guards = watchdogs(alone.pid());
    assert_eq!(guards.len(), 1, "one watchdog");
    signal(guards[0], "-KILL");
    alone.kill();
    match last {
        Last::Kernel => eventually("the kernel ends it", || !harmed()),
        Last::Recover => assert!(harmed(), "{kind}: nobody was left to undo it"),
    }
    let recovered = brownout(&world.state()).arg("recover").output().unwrap();
    assert_eq!(recovered.status.code(), Some(0), "{}", said(&recovered));
    assert!(!harmed(), "{kind} is there after recover");
    world.nothing_left();
}

/// What `inject` says when it refuses: exit code 6, and these words.
pub fn refused(kind: &str, arguments: &[&str], words: &[&str]) {
    let world = World::new();
    let output = inject(&world, kind, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{arguments:?}: {}", said(&output));
    for word in words.iter().chain(&["nothing was touched"]) {
        assert!(said(&output).contains(word), "{arguments:?} lacks `{word}`: {}", said(&output));
    }
}

/// What `inject` says of a harm that runs its time.
pub fn figures(kind: &str, time: &str, arguments: &[&str]) -> String {
    let world = World::new();
    let mut command = brownout(&world.state());
    let output = command.args(["inject", kind, "--yes", "--for", time]).args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    world.nothing_left();
    said(&output)
}

/// A process that does something on request and prints how it went.
pub struct Target {
    pub process: Owned,
    pub pid_file: tempfile::NamedTempFile,
}

impl Target {
    /// `python` is run for every line on its standard input, and its standard output read.
    pub fn start(python: &str) -> Self {
        let script = format!(
            "import sys,os,time,threading\nprint('ready',flush=True)\nfor line in sys.stdin:\n  {}",
            python.replace('\n', "\n  ")
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut target =
            Self { process: Owned::start(&mut command), pid_file: tempfile::NamedTempFile::new().unwrap() };
        std::fs::write(target.pid_file.path(), target.process.pid().to_string()).unwrap();
        assert_eq!(target.hear(), "ready");
        target
    }

    pub fn ask(&mut self) -> String {
        writeln!(self.process.0.stdin.as_mut().unwrap()).unwrap();
        self.hear()
    }

    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        // Byte by byte, so that nothing is kept for a reader that is gone.
        BufReader::with_capacity(1, self.process.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The control groups it is in.
    pub fn groups(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cgroup", self.process.pid())).unwrap()
    }

    /// A line of its /proc/PID/limits.
    pub fn limit(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/limits", self.process.pid())).unwrap();
        text.lines().find(|line| line.starts_with(name)).unwrap().to_owned()
    }
}
