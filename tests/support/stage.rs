//! A world in which every kind of fault finds whom to hurt, and the scene of each.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use brownout::host::disk::Disk;
use nix::sys::signal::Signal;

use super::{LIMIT, MachineState, Mounted, Netns, Owned, disk, eventually, logs, said};

/// Where the server of a stage listens, in the stage's own network.
pub const PORT: u16 = 7000;

/// Kinds that are tried from another network than the one they act in, in which `recover` then runs.
const ELSEWHERE: &[&str] = &["latency", "partition"];

/// How a kind is tried.
pub enum Scene {
    /// By `brownout inject KIND` with these arguments.
    Inject(Vec<String>),
    /// Not on this machine, and why.
    Cannot(String),
}

/// A network, a disk, a server, and a process that is respawned; a state folder and a temporary one.
pub struct Stage {
    pub netns: Netns,
    /// Another network, from which faults reach into that one.
    elsewhere: Netns,
    pub disk: Mounted,
    pub server: Owned,
    respawner: Owned,
    pub groups: Vec<PathBuf>,
    folder: tempfile::TempDir,
}

impl Stage {
    /// `None`, loudly, where it may not be set up.
    pub fn new() -> Option<Self> {
        let (netns, elsewhere, disk) = (Netns::new()?, Netns::new()?, disk("size=64m,nr_inodes=1000")?);
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        std::fs::create_dir(here.join("tmp")).unwrap();
        std::fs::create_dir(here.join("app")).unwrap();
        std::os::unix::fs::symlink(disk.0.path(), here.join("disk")).unwrap();
        // Before redis listens it starts threads; afterwards it stands as it is.
        let mut server = netns.command("redis-server");
        server.args(["--port", &PORT.to_string(), "--save", "", "--dir"]).arg(here);
        let server = Owned::start(server.stdout(Stdio::null()).stderr(Stdio::null()));
        std::fs::write(here.join("server"), server.pid().to_string()).unwrap();
        // The pid file is replaced as a whole: it never names nobody.
        let script =
            "while :; do setpriv --pdeathsig KILL sleep 3600 & echo $! > new; mv new respawned; wait; done";
        let mut respawner = Command::new("sh");
        respawner.args(["-c", script]).current_dir(here).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: system calls only: whoever respawns ends with the test, and what it started with it.
        unsafe {
            respawner.pre_exec(|| {
                nix::unistd::setsid()?;
                Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
            });
        }
        let respawner = Owned::start(&mut respawner);
        eventually("there is somebody to kill", || here.join("respawned").exists());
        let mut stage = Self { netns, elsewhere, disk, server, respawner, groups: Vec::new(), folder };
        stage.fence();
        eventually("the server listens", || stage.netns.prints("ss", &["-Hltn"]).contains(":7000 "));
        eventually("the server has all its threads", || {
            let count = || std::fs::read_dir(format!("/proc/{}/task", stage.server.pid())).unwrap().count();
            let before = count();
            std::thread::sleep(Duration::from_millis(100));
            count() == before
        });
        Some(stage)
    }

    /// Puts the server into control groups of its own, named as this world, wherever they may be made.
    fn fence(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let world = self.folder.path().file_name().unwrap();
        for mount in mounts.lines() {
            let words: Vec<&str> = mount.split(' ').collect();
            let wanted = |one: &str| matches!(one, "cpu" | "pids" | "freezer" | "blkio" | "memory");
            let ours = words[2] == "cgroup2" || words[2] == "cgroup" && words[3].split(',').any(wanted);
            let group = Path::new(words[1]).join(world);
            if ours && std::fs::create_dir(&group).is_ok() {
                self.groups.push(group.clone());
                let _ = std::fs::write(group.join("cgroup.procs"), self.server.pid().to_string());
            }
        }
    }

    pub fn here(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.here().join("state")
    }

    /// The respawner's control group hierarchy of version 2, if there is one.
    pub fn unified(&self) -> Option<&Path> {
        let one = self.groups.iter().find(|group| group.join("cgroup.kill").exists());
        one.map(PathBuf::as_path)
    }

    /// The real binary, in this world.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_from(&self.netns, arguments)
    }

    fn command_from(&self, netns: &Netns, arguments: &[&str]) -> Command {
        let mut command = netns.brownout(&self.state());
        command.args(arguments).env("TMPDIR", self.here().join("tmp")).current_dir(self.here());
        command
    }

    /// The real binary, about to inject a kind for a time; what it says goes to a file.
    pub fn inject(&self, kind: &str, arguments: &[String], hold: &str) -> Command {
        let from = if ELSEWHERE.contains(&kind) { &self.elsewhere } else { &self.netns };
        let mut command = self.command_from(from, &["inject", kind, "--yes", "--for", hold]);
        let log = std::fs::File::create(self.here().join("said")).unwrap();
        command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// The scene of a kind, with little of it: what is undone counts here, not how much it hurts.
    pub fn scene(&self, kind: &str) -> Scene {
        let here = self.here().display();
        let of = |words: &[&str]| Scene::Inject(words.iter().map(|word| (*word).to_owned()).collect());
        let server = "server";
        match kind {
            "kill" => of(&["--pid-file", "respawned"]),
            "pause" | "partition" => of(&["--pid-file", server]),
            "disk-fill" => of(&["size=8MiB", "--path", "disk"]),
            "inode-fill" => of(&["count=100", "--path", "disk"]),
            "disk-slow" => of(&["delay=1ms", "operations=open", "--path", "disk"]),
            "disk-error" => of(&["errno=EPERM", "operations=open", "--path", "disk"]),
            "disk-readonly" => of(&["--path", "app"]),
            "io" => of(&["write=100kB/s", "size=64KiB", "block=4KiB", "--path", "disk"]),
            "io-limit" => match Disk::of(self.here()) {
                Ok(Some(_)) => of(&["disk=.", "write=50MiB/s", "--pid-file", server]),
                _ => Scene::Cannot("the stage lies on no disk of its own".to_owned()),
            },
            "cpu" => of(&["load=0.05 cores"]),
            "memory" => of(&["size=1MiB"]),
            // Room enough for the server not to be killed, whoever else is.
            "memory-limit" => of(&["leave=64MiB", "--pid-file", server]),
            "fds" | "threads" => of(&["leave=1", "--pid-file", server]),
            "starve" => of(&["quota=0.5 cores", "--pid-file", server]),
            "freeze" => {
                let name = self.folder.path().file_name().unwrap().to_str().unwrap();
                of(&["--cgroup", &format!("/{name}")])
            }
            "unit" => Scene::Cannot(
                "no systemd runs this stage: one runs tests/unit.rs, where it is killed".to_owned(),
            ),
            "exec" => of(&[
                &format!("inject=['sh', '-c', 'touch {here}/tmp/begun; touch {here}/tmp/flag']"),
                &format!("undo=['rm', '-f', '{here}/tmp/flag', '{here}/tmp/begun']"),
                &format!("remains=['test', '-e', '{here}/tmp/flag']"),
            ]),
            "clock" => of(&["offset=1h", "--pid-file", server]),
            "latency" => of(&["delay=20ms", "--pid-file", server]),
            "bandwidth" => of(&["rate=10Mbit/s", "--to", "127.0.0.1:7000"]),
            "loss" | "duplicate" | "corrupt" | "reorder" => of(&["percent=30%", "--to", "127.0.0.1:7000"]),
            "reset" => of(&["--to", "127.0.0.1:7000"]),
            "container" => Scene::Cannot(
                "no container runtime runs on this stage: one runs tests/container.rs, where it is killed"
                    .to_owned(),
            ),
            "http" => of(&["status=503", "--to", "127.0.0.1:7000"]),
            "dns" => of(&["names=db.example.com", "answer=nxdomain", "delay=20ms"]),
            other => panic!(
                "the fault kind `{other}` has no scene, so nobody has seen that it leaves nothing when it is killed: \
                 add its line to `Stage::scene` in tests/support/stage.rs"
            ),
        }
    }

    /// The scene's arguments; `None`, loudly, where it cannot be played.
    pub fn arguments(&self, kind: &str) -> Option<Vec<String>> {
        match self.scene(kind) {
            Scene::Inject(arguments) => Some(arguments),
            Scene::Cannot(why) => {
                println!("SKIPPED {kind}: {why}");
                None
            }
        }
    }

    pub fn seen(&self) -> MachineState {
        MachineState::of(
            &self.netns,
            &self.state(),
            self.disk.0.path(),
            &[self.server.pid(), self.respawner.pid()],
        )
    }

    /// What is different from before, when it has had the time to settle.
    pub fn left(&self, before: &MachineState, within: Duration) -> Vec<String> {
        self.left_but(before, within, "none is left out")
    }

    /// The same, without what contains some words.
    pub fn left_but(&self, before: &MachineState, within: Duration, words: &str) -> Vec<String> {
        let since = Instant::now();
        loop {
            let mut left = self.seen().differs_from(before);
            left.retain(|line| !line.contains(words));
            if left.is_empty() || since.elapsed() > within {
                return left;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits until whoever was left to pay has paid, then starts `recover`, which must find nothing to do that it
    /// cannot; afterwards everything must be as before.
    pub fn settles(&self, before: &MachineState, how: &str) {
        let since = Instant::now();
        // A log whose watchdog had not been posted yet, and which so owes nothing, goes with the next start.
        while self.is_watched() {
            assert!(since.elapsed() < LIMIT, "{how}: somebody still pays\n{}", self.told());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.is_clean_after_recover(before, how);
    }

    pub fn is_clean_after_recover(&self, before: &MachineState, how: &str) {
        let recovered = self.command(&["recover"]).output().unwrap();
        assert_eq!(recovered.status.code(), Some(0), "{how}: {}\n{}", said(&recovered), self.told());
        let left = self.left(before, Duration::from_secs(2));
        assert!(left.is_empty(), "{how}: LEFT BEHIND: {left:#?}\n{}{}", said(&recovered), self.told());
    }

    /// Whether somebody who belongs to a run of this world lives.
    fn is_watched(&self) -> bool {
        let word = format!("BROWNOUT_STATE={}", self.state().display());
        std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            read("environ").split(|byte| *byte == 0).any(|one| one == word.as_bytes())
                && String::from_utf8_lossy(&read("cmdline")).contains("\0watchdog\0")
        })
    }

    pub fn told(&self) -> String {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        logs(&self.state()).iter().fold(read(&self.here().join("said")), |text, log| text + &read(log))
    }

    /// The watchdog of a runner, once it is posted.
    pub fn watchdog_of(runner: u32) -> Option<u32> {
        let children = super::children(runner).into_iter();
        children.filter_map(|pid| pid.parse().ok()).find(|pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0watchdog\0")
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.server.0.kill();
        let _ = self.server.0.wait();
        // What another boot's `recover` let stand.
        let _ = nix::mount::umount2(&self.here().join("app"), nix::mount::MntFlags::MNT_DETACH);
        for group in &self.groups {
            // Thawed, so that whoever is inside can end; then empty in a moment.
            let _ = std::fs::write(group.join("freezer.state"), "THAWED");
            let _ = std::fs::write(group.join("cgroup.freeze"), "0");
            for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(inner.path());
            }
            let since = Instant::now();
            while std::fs::remove_dir(group).is_err() && since.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}
