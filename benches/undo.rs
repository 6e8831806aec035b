//! How soon a harm is gone: after the look that made the guard stop, after a SIGKILL of the runner, and after it
//! hung. Every figure is seen from outside by a prober of the benchmark's own; for aborts the run's journal says it
//! too. Needs root. `cargo bench --bench undo`, fewer rounds with `UNDO_ROUNDS=10`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use brownout::base::Clock;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use support::{Netns, Owned, World, brownout, eventually, tracer};

const PORT: u16 = 7000;
/// What the faults add, and what a fresh connection takes without them, at most.
const DELAY: Duration = Duration::from_millis(100);
const FAST: Duration = Duration::from_millis(20);
const GIB: u64 = 1 << 30;

/// Milliseconds of several rounds.
#[derive(Default)]
struct Row(Vec<f64>);

impl Row {
    fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    fn print(mut self, what: &str) {
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() as f64 * share).ceil() as usize).max(1) - 1];
        println!("{what:<66} {:>4} {:>9.2} {:>9.2} {:>9.2}", self.0.len(), at(0.5), at(0.99), at(1.0));
    }
}

/// A namespace with a redis in it.
struct Lab {
    netns: Netns,
    world: World,
    redis: Owned,
}

impl Lab {
    fn new() -> Option<Self> {
        let (netns, world) = (Netns::new()?, World::new());
        let port = PORT.to_string();
        let mut command = netns.command("redis-server");
        command.args(["--port", &port, "--save", ""]).stdout(Stdio::null()).current_dir(world.folder.path());
        let redis = Owned::start(&mut command);
        eventually("redis listens", || netns.prints("ss", &["-Hltn"]).contains(&format!(":{port} ")));
        std::fs::write(world.folder.path().join("pid"), redis.pid().to_string()).unwrap();
        Some(Self { netns, world, redis })
    }

    fn path(&self) -> &Path {
        self.world.folder.path()
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.netns.holder())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn inject(&self, arguments: &[&str]) -> Owned {
        let mut command = self.netns.brownout(&self.world.state());
        command.args(["inject", "--yes", "--for", "60s"]).args(arguments).current_dir(self.path());
        let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        runner.took_hold();
        runner
    }

    fn latency(&self) -> Owned {
        self.inject(&["latency", "delay=100ms", "--to", &format!("127.0.0.1:{PORT}")])
    }

    fn pause(&self) -> Owned {
        self.inject(&["pause", "--pid-file", "pid"])
    }

    /// Waits until the watchdog has paid and gone.
    fn rests(&self) {
        self.world.nothing_left();
    }
}

/// When a fresh connection is answered at once again, having seen that none was: begins one every half millisecond.
fn passes(clock: Clock) -> Duration {
    let (mut pending, mut slow): (VecDeque<(Duration, OwnedFd)>, _) = (VecDeque::new(), None);
    let begun = clock.now();
    loop {
        let now = clock.now();
        assert!(now < begun + support::LIMIT, "it never was slow and fast again");
        if pending.len() < 500 {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let fresh = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            let to = SockaddrIn::new(127, 0, 0, 1, PORT);
            match connect(fresh.as_raw_fd(), &to) {
                Ok(()) | Err(Errno::EINPROGRESS) => pending.push_back((now, fresh)),
                Err(why) => panic!("{why}"),
            }
        }
        let mut polled: Vec<PollFd> =
            pending.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)).collect();
        poll(&mut polled, PollTimeout::ZERO).unwrap();
        let done: Vec<bool> =
            polled.iter().map(|one| one.revents().is_some_and(|seen| !seen.is_empty())).collect();
        drop(polled);
        let now = clock.now();
        let since = slow.unwrap_or(Duration::MAX);
        if pending
            .iter()
            .zip(&done)
            .any(|((at, _), done)| *done && *at >= since && now.saturating_sub(*at) < FAST)
        {
            return now;
        }
        if pending.iter().zip(&done).any(|((at, _), done)| !done && now.saturating_sub(*at) > FAST * 2) {
            slow.get_or_insert(now);
        }
        let mut done = done.into_iter();
        pending
            .retain(|(at, _)| !done.next().unwrap() && now.saturating_sub(*at) < Duration::from_millis(300));
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// When a process is traced no longer, having been.
fn untraced(clock: Clock, pid: u32) -> Duration {
    for traced in [true, false] {
        while (tracer(pid) != "0") != traced {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    clock.now()
}

/// One run that its guard aborts: from the last bad look before the stop to the decision, to the checked end by the
/// journal, and to what the prober saw; and from the decision to what the prober saw.
///
/// The guard also counts looks under way, so that what decides is often not the bad look but the beginning of the
/// next one, up to 5 ms later here.
fn abort(lab: &Lab, fault: &str, seen: impl FnOnce(Clock) -> Duration + Send) -> [Duration; 4] {
    let text = format!(
        "title = 'abort'\n[probe.web.tcp]\naddress = '127.0.0.1:{PORT}'\nsend = \"PING\\r\\n\"\nexpect = 'PONG'\n\
         rate = '200/s'\ntimeout = '30ms'\n[slo.web]\nprobe = 'web'\navailability = '90%'\n\
         [steady_state]\nfor = '150ms'\n[guard]\nbudget = '20 looks'\n[recovery]\nwithin = '2s'\n{fault}\nfor = '20s'\n"
    );
    std::fs::write(lab.path().join("abort.toml"), text).unwrap();
    let runs = lab.path().join("runs");
    let _ = std::fs::remove_dir_all(&runs);
    let mut command = lab.netns.brownout(&lab.world.state());
    command.args(["run", "--yes", "--runs"]).arg(&runs).arg("abort.toml").current_dir(lab.path());
    let clock = Clock::start();
    let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let gone = lab.within(|| seen(clock));
    assert_eq!(runner.0.wait().unwrap().code(), Some(3), "the guard should have stopped it");
    let mut folders = std::fs::read_dir(&runs).unwrap().flatten().map(|entry| entry.path());
    let folder = folders.find(|path| path.is_dir()).unwrap();
    let journal = std::fs::read_to_string(folder.join("journal.ndjson")).unwrap();
    let events: Vec<serde_json::Value> =
        journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |event: &serde_json::Value| event["at_ms"].as_f64().unwrap();
    let first = |kind: &str| events.iter().find(|event| event["event"] == kind).unwrap();
    let (stopping, undone) = (first("stopping"), first("undone"));
    let bad = events.iter().filter(|event| event["event"] == "sample" && event["outcome"] == "bad");
    let decisive =
        bad.filter(|event| at(event) <= at(stopping)).max_by(|a, b| at(a).total_cmp(&at(b))).unwrap();
    let outside = |event: &serde_json::Value| {
        let wall: jiff::Timestamp = event["wall"].as_str().unwrap().parse().unwrap();
        clock.wall(gone).duration_since(wall).as_secs_f64() * 1e3
    };
    let ms = |figure: f64| Duration::from_secs_f64(figure.max(0.0) / 1e3);
    [
        ms(at(stopping) - at(decisive)),
        ms(at(stopping) - at(decisive) + undone["took_ms"].as_f64().unwrap()),
        ms(outside(decisive)),
        ms(outside(stopping)),
    ]
}

fn aborts(lab: &Lab, rounds: usize) {
    let slow =
        format!("[fault.f.latency]\nto = {{ address = '127.0.0.1:{PORT}' }}\ndelay = '100ms'\nat = '0s'");
    let still = "[fault.f.pause]\ntarget = { pid_file = 'pid' }\nat = '0s'".to_owned();
    for (name, fault) in [("latency", slow), ("pause", still)] {
        let mut rows: [Row; 4] = Default::default();
        for _ in 0..rounds {
            let figures = abort(lab, &fault, |clock| match name {
                "latency" => passes(clock),
                _ => untraced(clock, lab.redis.pid()),
            });
            rows.iter_mut().zip(figures).for_each(|(row, figure)| row.add(figure));
        }
        let [decided, checked, seen, after] = rows;
        decided.print(&format!("abort, {name}: decisive look to the decision (journal)"));
        checked.print(&format!("abort, {name}: decisive look to checked absence (journal)"));
        seen.print(&format!("abort, {name}: decisive look to gone (prober outside)"));
        after.print(&format!("abort, {name}: decision to gone (prober outside)"));
    }
}

/// A question asked when the runner dies, and how long after that its answer comes.
fn in_flight(clock: Clock, asked: &mut TcpStream) -> Duration {
    let _ = asked.read_exact(&mut [0; 7]);
    clock.now()
}

fn killed(lab: &Lab, rounds: usize) {
    let (mut fresh, mut waiting, mut still) = (Row::default(), Row::default(), Row::default());
    for _ in 0..rounds {
        let mut runner = lab.latency();
        let clock = Clock::start();
        let (gone, answered, at) = lab.within(|| {
            let mut asked = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], PORT))).unwrap();
            asked.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            std::thread::scope(|scope| {
                let probing = scope.spawn(move || passes(clock));
                std::thread::sleep(DELAY);
                asked.write_all(b"PING\r\n").unwrap();
                std::thread::sleep(DELAY / 2);
                let at = clock.now();
                runner.0.kill().unwrap();
                let answering = scope.spawn(move || in_flight(clock, &mut asked));
                (probing.join().unwrap(), answering.join().unwrap(), at)
            })
        });
        runner.kill();
        fresh.add(gone.saturating_sub(at));
        waiting.add(answered.saturating_sub(at));
        lab.rests();

        let mut runner = lab.pause();
        let clock = Clock::start();
        runner.0.kill().unwrap();
        while tracer(lab.redis.pid()) != "0" {
            std::thread::sleep(Duration::from_micros(100));
        }
        still.add(clock.now());
        runner.kill();
        lab.rests();
    }
    fresh.print("SIGKILL of the runner, latency: fresh packets pass");
    waiting.print("SIGKILL of the runner, latency: a request in flight is answered");
    still.print("SIGKILL of the runner, pause: TracerPid 0");
}

/// An ext4 of the benchmark's own, in a file.
struct Ext4(tempfile::TempDir);

impl Ext4 {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (image, mount) = (folder.path().join("image"), folder.path().join("mount"));
        std::fs::File::create(&image).unwrap().set_len(3 * GIB / 2).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status().unwrap();
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount).status().unwrap();
        assert!(made.success() && mounted.success());
        Self(folder)
    }

    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.0.path().join("mount")).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path().join("mount")).status();
    }
}

fn filled(lab: &Lab, rounds: usize) {
    let disk = Ext4::new();
    let place = disk.0.path().join("mount").display().to_string();
    let mut row = Row::default();
    for _ in 0..rounds {
        let before = disk.free();
        let mut runner = lab.inject(&["disk-fill", "size=1GiB", "--path", &place]);
        assert!(before - disk.free() >= GIB);
        let clock = Clock::start();
        runner.0.kill().unwrap();
        while disk.free() < before {
            assert!(clock.now() < support::LIMIT);
            std::thread::sleep(Duration::from_micros(100));
        }
        row.add(clock.now());
        runner.kill();
        lab.rests();
    }
    row.print("SIGKILL of the runner, disk-fill 1 GiB on ext4: space free");
}

fn hung(lab: &Lab, rounds: usize) {
    let (mut fresh, mut still) = (Row::default(), Row::default());
    let stop = |runner: &Owned| {
        assert!(Command::new("kill").args(["-STOP", &runner.pid().to_string()]).status().unwrap().success());
    };
    for _ in 0..rounds {
        let runner = lab.latency();
        let clock = Clock::start();
        stop(&runner);
        let at = clock.now();
        fresh.add(lab.within(|| passes(clock)).saturating_sub(at));
        lab.rests();
        let runner = lab.pause();
        let clock = Clock::start();
        stop(&runner);
        eventually("it goes on", || tracer(lab.redis.pid()) == "0");
        still.add(clock.now());
        lab.rests();
    }
    fresh.print("SIGSTOP of the runner, latency: fresh packets pass (lease)");
    still.print("SIGSTOP of the runner, pause: TracerPid 0 (watchdog)");
}

fn checks(lab: &Lab, rounds: usize) {
    let mut row = Row::default();
    for _ in 0..rounds {
        let clock = Clock::start();
        let mut command = brownout(&lab.world.state());
        let file = lab.path().join("abort.toml");
        let status = command.arg("check").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).status();
        row.add(clock.now());
        assert!(status.unwrap().success());
    }
    row.print("brownout check, start to end");
}

fn main() {
    let Some(lab) = Lab::new() else { return };
    let rounds = std::env::var("UNDO_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    println!("{:<66} {:>4} {:>9} {:>9} {:>9}", "milliseconds", "n", "p50", "p99", "max");
    aborts(&lab, rounds);
    killed(&lab, rounds);
    filled(&lab, rounds);
    hung(&lab, (rounds / 10).max(2));
    checks(&lab, rounds);
}
