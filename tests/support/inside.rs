//! A world of its own for a container runtime: its own mounts, processes, network and `/run`. All of it ends with its first
//! process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Owned, World, children, eventually, logs, said, skip};

/// Whether programs are there; loudly, if one is not.
pub fn there(programs: &[&str]) -> bool {
    for program in programs {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        if !found.status.success() {
            skip(&format!("{program} is missing"));
            return false;
        }
    }
    true
}

/// Such a world.
pub struct Inside {
    pub world: World,
    holder: Owned,
    first: String,
    group: String,
}

impl Inside {
    /// Runs a script in it, with a folder on a disk in memory and the name of a cgroup of its own as arguments, until a
    /// socket of its `/run` listens. `None`, loudly, when it ends before that.
    pub fn begin(script: &str, socket: &str) -> Option<Self> {
        const MOUNTS: &str = "set -e; mount -t tmpfs -o size=200m none \"$1\"; mount -t tmpfs -o size=16m none /run; \
                              ip link set lo up; ";
        let world = World::new();
        let folder = world.folder.path().join("inside");
        std::fs::create_dir(&folder).unwrap();
        let name = world.folder.path().file_name().unwrap().to_string_lossy().replace('.', "");
        let group = format!("brownout-test-{name}");
        let log = std::fs::File::create(world.folder.path().join("log")).unwrap();
        let mut holder = Owned::start(
            Command::new("unshare")
                .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"])
                .arg(format!("{MOUNTS}{script}"))
                .arg("sh")
                .args([folder.as_os_str(), group.as_ref()])
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log),
        );
        let (mut first, mut ended) = (String::new(), false);
        eventually("the runtime listens", || {
            ended = holder.0.try_wait().unwrap().is_some();
            if ended {
                return true;
            }
            first = children(holder.pid()).into_iter().next().unwrap_or_default();
            let socket = format!("/proc/{first}/root{socket}");
            !first.is_empty() && std::os::unix::net::UnixStream::connect(socket).is_ok()
        });
        let inside = Self { world, holder, first, group };
        if ended {
            skip(&format!("it does not run here: {}", inside.log()));
            return None;
        }
        Some(inside)
    }

    /// The number of its first process, seen from outside.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// The name of the cgroup that its containers belong in.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.world.folder.path().join("log")).unwrap_or_default()
    }

    /// A folder that holds busybox alone, as the root of a container.
    pub fn busybox(&self) -> PathBuf {
        let root = self.world.folder.path().join("image");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::create_dir(root.join("data")).unwrap();
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for name in ["sh", "httpd", "sleep", "wget"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
        }
        root
    }

    /// A command that runs inside, as a child of what is started here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first, "-m", "-n", "-p", "--", program]).stdin(Stdio::null());
        command
    }

    /// What such a command prints.
    pub fn prints(&self, arguments: &[&str]) -> String {
        let done = self.command(arguments[0]).args(&arguments[1..]).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}\n{}", said(&done), self.log());
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// The program that is tested, inside.
    pub fn brownout(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_brownout"));
        let state = self.world.state();
        command
            .args(arguments)
            .env("BROWNOUT_RUNS", state.with_file_name("runs"))
            .env("BROWNOUT_STATE", state);
        command
    }

    /// One fault, agreed to.
    pub fn inject(&self, arguments: &[&str]) -> Command {
        self.brownout(&[&["inject"], arguments, &["--yes"]].concat())
    }

    /// Begins a fault, and returns when it took hold.
    pub fn begin_fault(&self, arguments: &[&str]) -> Owned {
        let mut runner = Owned::start(self.inject(arguments).stdout(Stdio::null()).stderr(Stdio::piped()));
        runner.took_hold();
        runner
    }

    /// Does a fault to its end; what it said, on one line.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.inject(arguments).output().unwrap();
        let text = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success(), "{arguments:?}: {text}");
        self.nothing_owed();
        text
    }

    /// The first line of a refusal.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.inject(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{}", said(&output));
        said(&output).lines().next().unwrap().to_owned()
    }

    /// Waits until nothing is owed.
    pub fn nothing_owed(&self) {
        eventually("nothing is owed", || logs(&self.world.state()).is_empty());
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.holder.kill(); // Every process inside ends with its first one.
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let groups = hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]);
        for group in groups.map(|hierarchy| hierarchy.join(&self.group)).filter(|group| group.is_dir()) {
            let emptied = std::time::Instant::now();
            while remove(&group).is_err() && emptied.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn remove(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    std::fs::remove_dir(group)
}

/// SIGKILL to the runner itself: what was started here is `nsenter`, and the runner its child.
pub fn kill_runner(started: &Owned) {
    let runner = children(started.pid()).into_iter().next().unwrap();
    assert!(Command::new("kill").args(["-KILL", &runner]).status().unwrap().success());
}
