//! The tool that looks for leftovers finds them: each sort is planted, reported, and cleared again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use brownout::hands::queue::Queue;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::ptrace;
use nix::unistd::Pid;
use support::stage::Stage;
use support::state::image;
use support::{MachineState, Owned, eventually};

struct Looking<'s> {
    stage: &'s Stage,
    before: MachineState,
}

impl Looking<'_> {
    /// What was planted is among what is reported.
    fn finds(&self, words: &str) {
        eventually(&format!("`{words}` is found"), || {
            self.stage.seen().differs_from(&self.before).iter().any(|line| line.contains(words))
        });
    }

    fn clean(&self, what: &str) {
        eventually(&format!("clean after {what}"), || self.stage.seen() == self.before);
    }

    /// A command inside the network namespace; whether it could be done.
    fn try_inside(&self, line: &str) -> bool {
        let (program, rest) = line.split_once(' ').unwrap();
        let mut command = self.stage.netns.command(program);
        command.args(rest.split(' ')).stderr(Stdio::null()).status().unwrap().success()
    }

    /// Plants by one command and clears by another.
    fn by_commands(&self, plant: &str, words: &[&str], clear: &str) {
        assert!(self.try_inside(plant), "{plant}");
        for words in words {
            self.finds(words);
        }
        assert!(self.try_inside(clear), "{clear}");
        self.clean(plant);
    }

    /// Plants by writing a file and clears by writing what it said before.
    fn by_writing(&self, file: &Path, text: &str, words: &str) {
        let before = fs::read_to_string(file).unwrap();
        fs::write(file, text).unwrap();
        self.finds(words);
        fs::write(file, before.trim()).unwrap();
        self.clean(words);
    }

    /// Plants what goes with a process.
    fn by_process(&self, command: &mut Command, words: &str) {
        let process = Owned::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
        self.finds(words);
        drop(process);
        self.clean(words);
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(format!("/proc/{}/ns/net", self.stage.netns.holder())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }
}

fn with_looking(plant: impl FnOnce(&Looking<'_>)) {
    let Some(stage) = Stage::new() else { return };
    let before = stage.seen();
    plant(&Looking { stage: &stage, before });
}

fn python(program: &str) -> [String; 2] {
    ["-c".to_owned(), format!("import socket,time\n{program}\ntime.sleep(60)")]
}

#[test]
fn leftovers_in_the_network_are_found() {
    with_looking(|looking| {
        looking.by_commands(
            "nft add table inet left",
            &["+ nft table: inet left"],
            "nft delete table inet left",
        );
        for (plant, words) in [
            ("nft add table ip t", "+ nft table: ip t"),
            ("nft add chain ip t c", "+ nft chain: ip t c"),
            ("nft add rule ip t c drop", "+ nft rule: ip t c"),
            ("nft add set ip t s {type inet_service;}", "+ nft set: ip t s"),
            ("nft add element ip t s {7}", "+ nft elements: 1 in t s"),
            ("nft add counter ip t n", "+ nft object: ip t n"),
        ] {
            assert!(looking.try_inside(plant), "{plant}");
            looking.finds(words);
        }
        assert!(looking.try_inside("nft delete table ip t"));
        looking.clean("a table with all that may be in it");

        looking.by_commands(
            "tc qdisc add dev lo root pfifo",
            &["+ qdisc: ", "pfifo"],
            "tc qdisc del dev lo root",
        );
        let (veth, del) = ("ip link add left0 type veth peer name left1", "ip link del left0");
        looking.by_commands(veth, &["+ link: ", "left0", "left1"], del);
        let (add, del) = ("ip address add 10.77.0.1/32 dev lo", "ip address del 10.77.0.1/32 dev lo");
        looking.by_commands(add, &["+ address: "], del);
        let (add, del) = ("ip route add 10.78.0.0/24 dev lo", "ip route del 10.78.0.0/24");
        looking.by_commands(add, &["+ route: "], del);
        let (add, del) = ("ip rule add from 10.79.0.1 table 77", "ip rule del from 10.79.0.1 table 77");
        if looking.try_inside(add) {
            looking.finds("+ routing rule: ");
            assert!(looking.try_inside(del));
            looking.clean(add);
        }
        let (set, unset) =
            ("sysctl -qw net.ipv4.conf.lo.route_localnet=1", "sysctl -qw net.ipv4.conf.lo.route_localnet=0");
        looking.by_commands(set, &["+ setting: /proc/sys/net/ipv4/conf/lo/route_localnet = 1"], unset);

        let tcp = python("s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()");
        looking.by_process(looking.stage.netns.command("python3").args(tcp), "+ listener: tcp ");
        let udp = python("s=socket.socket(type=socket.SOCK_DGRAM); s.bind(('127.0.0.1',0))");
        looking.by_process(looking.stage.netns.command("python3").args(udp), "+ listener: udp ");
        let packet = python("s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))");
        looking.by_process(looking.stage.netns.command("python3").args(packet), "+ packet socket: ");
        let queue = looking.within(|| Queue::bind(77).unwrap());
        looking.finds("+ packet queue: 77");
        drop(queue);
        looking.clean("a packet queue");
    });
}

#[test]
fn leftovers_in_folders_and_on_disks_are_found() {
    with_looking(|looking| {
        let stage = looking.stage;
        let place = stage.here().join("tmp/mounted");
        fs::create_dir(&place).unwrap();
        looking.finds("+ temp: mounted");
        assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place).status().unwrap().success());
        looking.finds("+ mount: ");
        assert!(Command::new("umount").arg(&place).status().unwrap().success());
        fs::remove_dir(&place).unwrap();
        looking.clean("a mount");

        let log = stage.state().join("undo/0.log");
        fs::create_dir_all(log.parent().unwrap()).unwrap();
        fs::write(&log, "").unwrap();
        looking.finds("+ state: 0.log");
        let locked = Flock::lock(fs::File::open(&log).unwrap(), FlockArg::LockExclusive).unwrap();
        looking.finds("+ lock: FLOCK ");
        drop(locked);
        fs::remove_file(&log).unwrap();
        looking.clean("a log");

        let file = stage.disk.0.path().join("file");
        fs::write(&file, vec![1; 1 << 20]).unwrap();
        for words in ["+ on the disk: file", "+ free blocks: ", "+ free inodes: "] {
            looking.finds(words);
        }
        // What has no name is seen by the space it takes.
        let open = fs::File::open(&file).unwrap();
        fs::remove_file(&file).unwrap();
        looking.finds("+ free blocks: ");
        drop(open);
        looking.clean("a file");

        let image = stage.here().join("image");
        fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let set_up = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
        if set_up.status.success() {
            looking.finds("+ loop device: ");
            let device = String::from_utf8(set_up.stdout).unwrap();
            assert!(Command::new("losetup").args(["-d", device.trim()]).status().unwrap().success());
            looking.clean("a loop device");
        }

        let remount = |how: &str| {
            let status = Command::new("mount").args(["-o", how]).arg(stage.disk.0.path()).status();
            assert!(status.unwrap().success());
        };
        remount("remount,ro");
        looking.finds("+ disk: Read-only file system");
        remount("remount,rw");
        looking.clean("a disk that can only be read");
    });
}

#[test]
fn leftovers_on_processes_are_found() {
    with_looking(|looking| {
        let pid = looking.stage.server.pid();
        let with = |pid_first: &[&str], pid_last: &[&str]| {
            let mut words = pid_first.to_vec();
            let pid = pid.to_string();
            words.push(&pid);
            words.extend(pid_last);
            let mut command = Command::new(words[0]);
            assert!(command.args(&words[1..]).stdout(Stdio::null()).status().unwrap().success(), "{words:?}");
        };
        with(&["kill", "-STOP"], &[]);
        looking.finds("State:\tT (stopped)");
        with(&["kill", "-CONT"], &[]);
        looking.clean("a stopped process");

        // Of one thread alone.
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let last = tasks.filter_map(|task| task.file_name().to_str()?.parse::<i32>().ok()).max().unwrap();
        let thread = Pid::from_raw(last);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        looking.finds("TracerPid");
        ptrace::interrupt(thread).unwrap();
        looking.finds("State:\tt (tracing stop)");
        nix::sys::wait::waitpid(thread, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
        ptrace::detach(thread, None).unwrap();
        looking.clean("a traced thread");

        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let soft = files.split_whitespace().next().unwrap();
        with(&["prlimit", "--nofile=99:", "--pid"], &[]);
        looking.finds("limit Max open files            99");
        with(&["prlimit", &format!("--nofile={soft}:"), "--pid"], &[]);
        looking.clean("a limit");

        let proc = PathBuf::from(format!("/proc/{pid}"));
        looking.by_writing(&proc.join("oom_score_adj"), "77", "oom_score_adj 77");
        let nice = |value: i32| {
            // SAFETY: setpriority(2) takes three integers.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, value) }, 0);
        };
        nice(7);
        looking.finds("nice, policy Some(\"7\")");
        nice(0);
        looking.clean("another priority");

        let maps = fs::read_to_string(proc.join("maps")).unwrap();
        if let Some(vdso) = maps.lines().find(|line| line.ends_with("[vdso]")) {
            let at = |n| u64::from_str_radix(vdso.split([' ', '-']).nth(n).unwrap(), 16).unwrap();
            let memory = fs::OpenOptions::new().read(true).write(true).open(proc.join("mem")).unwrap();
            let mut whole = vec![0; (at(1) - at(0)) as usize];
            memory.read_exact_at(&mut whole, at(0)).unwrap();
            let last = image(&whole) - 1;
            let (byte, last) = ([whole[last]], at(0) + last as u64);
            memory.write_all_at(&[!byte[0]], last).unwrap();
            looking.finds("vdso Some(");
            memory.write_all_at(&byte, last).unwrap();
            looking.clean("a patched clock");
        }
    });
}

#[test]
fn leftovers_of_control_groups_are_found() {
    with_looking(|looking| {
        let world = looking.stage.here().file_name().unwrap();
        let mut planted = 0;
        for (mount, file, text) in [
            ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "50000"),
            ("/sys/fs/cgroup/pids", "pids.max", "77"),
            ("/sys/fs/cgroup/freezer", "freezer.state", "FROZEN"),
            ("/sys/fs/cgroup/unified", "cgroup.freeze", "1"),
            ("/sys/fs/cgroup", "cgroup.freeze", "1"),
            ("/sys/fs/cgroup", "pids.max", "77"),
        ] {
            let group = Path::new(mount).join(world);
            if !group.join(file).exists() {
                continue;
            }
            planted += 1;
            looking.by_writing(&group.join(file), text, &format!("/{file} = {text}"));
            let inner = group.join("inner");
            fs::create_dir(&inner).unwrap();
            looking.finds(&format!("+ cgroup: {}", inner.display()));
            let server = looking.stage.server.pid().to_string();
            // A group of version 2 whose controllers are handed on has no room for processes of its own.
            if fs::write(inner.join("cgroup.procs"), &server).is_ok() {
                looking.finds("in cgroup ");
                fs::write(group.join("cgroup.procs"), &server).unwrap();
            }
            fs::remove_dir(&inner).unwrap();
            looking.clean("a control group");
        }
        if planted == 0 {
            support::skip("control groups of our own need root and mounted cgroups");
        }
    });
}

#[test]
fn processes_that_were_left_running_are_found() {
    with_looking(|looking| {
        let stage = looking.stage;
        let mut marked = stage.netns.command("sleep");
        // SAFETY: system calls only.
        unsafe { marked.pre_exec(|| brownout::host::mark::put_on_ourselves(1 << 62 | 7)) };
        looking.by_process(marked.arg("60"), "+ left running: sleep 60");
        let mut started = Command::new("sleep");
        started.arg("61").env("BROWNOUT_STATE", stage.state());
        looking.by_process(&mut started, "+ left running: sleep 61");
        let mut server = stage.netns.command("sleep");
        looking.by_process(server.arg("62").env("BROWNOUT_SERVICE", "run/web"), "+ left running: sleep 62");
        let log = stage.here().join("log").display().to_string();
        let mut posing = Command::new("sh");
        posing.args(["-c", "sleep 63; true", "brownout", "watchdog", &log]);
        looking.by_process(&mut posing, "+ left running: sh -c sleep 63");

        let name = format!("brownout-{}", std::process::id());
        let named = |what: &str| {
            let done = Command::new("ip").args(["netns", what, &name]).status();
            assert!(done.unwrap().success());
        };
        named("add");
        looking.finds("+ network namespace: brownout-");
        named("del");
        looking.clean("a named network namespace");
    });
}
