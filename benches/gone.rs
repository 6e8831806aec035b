//! How soon a harm is gone after a SIGKILL of the runner, for every kind there is: from kill(2) to the first healthy
//! observation, made from outside by this benchmark, and what a request in flight waits for its answer. Needs root.
//! `cargo bench --bench gone`, fewer rounds with `GONE_ROUNDS=10`, some kinds only with `BROWNOUT_KINDS=pause,fds`.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use brownout::fault::AnyFault;
use brownout::host::netlink::{Attributes, Messages, Socket, messages};
use support::stage::{PORT, Stage};
use support::{Owned, eventually, tracer};

/// A fresh look every so often.
const BETWEEN: Duration = Duration::from_micros(50);

/// Milliseconds of several rounds.
#[derive(Default)]
struct Row(Vec<f64>);

impl Row {
    fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    fn said(&mut self) -> String {
        if self.0.is_empty() {
            return "| – | – | – ".to_owned();
        }
        self.0.sort_by(f64::total_cmp);
        let at = |share: f64| self.0[((self.0.len() as f64 * share).ceil() as usize).max(1) - 1];
        format!("| {:.2} | {:.2} | {:.2} ", at(0.5), at(0.99), at(1.0))
    }
}

/// Whether a harm is there, as somebody sees it who has no part in it.
type Harmed<'s> = Box<dyn FnMut() -> bool + 's>;

/// How a kind is seen, in words and by looking; `None` for what cannot be taken back, and for what a look cannot tell from
/// outside without waiting for it.
fn look<'s>(stage: &'s Stage, kind: &str, runner: u32) -> Option<(&'static str, Harmed<'s>)> {
    let pid = stage.server.pid();
    Some(match kind {
        "kill" | "disk-slow" | "disk-error" => {
            println!("NOT MEASURED {kind}: no look from outside");
            return None;
        }
        "disk-readonly" => {
            let file = stage.here().join("app/look");
            let shut = move || {
                let made = std::fs::File::create(&file).is_ok();
                let _ = std::fs::remove_file(&file);
                !made
            };
            ("a file can be made", Box::new(shut))
        }
        "pause" => ("TracerPid of the target is 0", Box::new(move || tracer(pid) != "0")),
        "disk-fill" => {
            let whole = stage.disk.0.path().to_owned();
            let free = move || nix::sys::statvfs::statvfs(&whole).unwrap().blocks_available();
            ("free blocks as before", Box::new(move || free() < (62 << 20) / 4096))
        }
        "inode-fill" => ("free inodes as before", Box::new(|| stage.disk.free_inodes() < 950)),
        "cpu" | "io" => {
            let tasks = PathBuf::from(format!("/proc/{runner}/task"));
            (
                "no thread of ours works",
                Box::new(move || std::fs::read_dir(&tasks).is_ok_and(|d| d.count() > 1)),
            )
        }
        "memory" => {
            let word = format!("BROWNOUT_STATE={}", stage.state().display());
            let mut holders: Vec<PathBuf> =
                std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path()).collect();
            holders.retain(|path| {
                let read = |file: &str| {
                    String::from_utf8_lossy(&std::fs::read(path.join(file)).unwrap_or_default()).into_owned()
                };
                read("environ").contains(&word) && read("cmdline").contains("\0balloon\0")
            });
            assert_eq!(holders.len(), 1, "one process holds the memory");
            // Its status has this line for as long as it has memory.
            let held = move || std::fs::read_to_string(holders[0].join("status")).unwrap_or_default();
            ("its holder has no memory", Box::new(move || held().contains("VmRSS")))
        }
        "fds" => {
            let limits = PathBuf::from(format!("/proc/{pid}/limits"));
            let during = std::fs::read_to_string(&limits).unwrap();
            ("the limit is another", Box::new(move || std::fs::read_to_string(&limits).unwrap() == during))
        }
        "freeze" => {
            let states: Vec<PathBuf> = (stage.groups.iter())
                .flat_map(|group| [group.join("cgroup.events"), group.join("freezer.state")])
                .filter(|file| file.exists())
                .collect();
            let frozen = |file: &PathBuf| {
                let said = std::fs::read_to_string(file).unwrap();
                said.contains("frozen 1") || said.contains("FROZEN")
            };
            ("its cgroup is not frozen", Box::new(move || states.iter().any(frozen)))
        }
        "starve" | "threads" | "io-limit" => {
            let during = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let cgroup = move || std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            ("the target is in its own cgroup", Box::new(move || cgroup() == during))
        }
        "memory-limit" => {
            let files = |group: &PathBuf| [group.join("memory.max"), group.join("memory.limit_in_bytes")];
            let file = stage.groups.iter().flat_map(files).find(|file| file.exists()).unwrap();
            let limit = move || std::fs::read_to_string(&file).unwrap();
            let during = limit();
            ("its cgroup has another limit", Box::new(move || limit() == during))
        }
        "clock" => {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
            let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
            let at = |n| u64::from_str_radix(vdso.split([' ', '-']).nth(n).unwrap(), 16).unwrap();
            let (from, length) = (at(0), (at(1) - at(0)) as usize);
            let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
            let bytes = move || {
                let mut bytes = vec![0; length];
                memory.read_exact_at(&mut bytes, from).unwrap();
                bytes.truncate(support::state::image(&bytes));
                bytes
            };
            let during = bytes();
            ("the vDSO is another", Box::new(move || bytes() == during))
        }
        "exec" => {
            let flag = stage.here().join("tmp/flag");
            ("its file is gone", Box::new(move || flag.exists()))
        }
        // On traffic: no rule leads there. Whether packets pass is one of `benches/undo.rs`'s figures.
        _ => {
            let socket = stage.netns.within(|| Socket::open(libc::NETLINK_NETFILTER).unwrap());
            ("no rule of ours stands", Box::new(move || tables(&socket) > 0))
        }
    })
}

fn tables(socket: &Socket) -> usize {
    let mut asked = Messages::new();
    let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETTABLE;
    asked.push(kind, libc::NLM_F_DUMP, &[0; 4], &Attributes::new());
    socket.send(asked.bytes()).unwrap();
    let (mut count, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        for message in messages(socket.receive(&mut buffer, Duration::from_secs(5)).unwrap()) {
            match message.kind {
                libc::NLMSG_DONE | libc::NLMSG_ERROR => return count,
                _ => count += 1,
            }
        }
    }
}

/// A question that was asked, and perhaps not answered, before the kill: how long after it the answer comes.
fn asked(stage: &Stage) -> Option<TcpStream> {
    stage.netns.within(|| {
        let address = SocketAddr::from(([127, 0, 0, 1], PORT));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"PING\r\n").ok()?;
        Some(stream)
    })
}

fn rounds(stage: &Stage, kind: &str, arguments: &[String], rounds: usize) {
    let (mut gone, mut answered, mut seen_by) = (Row::default(), Row::default(), "");
    for _ in 0..rounds {
        let mut runner = Owned::start(&mut stage.inject(kind, arguments, "60s"));
        eventually(&format!("{kind} is live"), || {
            assert!(runner.alive(), "{}", stage.told());
            let told = stage.told();
            told.contains(" took hold") || told.contains(" is live")
        });
        let Some((how, mut harmed)) = look(stage, kind, runner.pid()) else { return };
        assert!(harmed(), "{kind} is live, and cannot be seen");
        seen_by = how;
        let question = asked(stage);
        let begun = Instant::now();
        runner.0.kill().unwrap();
        std::thread::scope(|scope| {
            let answer = question.map(|mut stream| {
                scope.spawn(move || stream.read_exact(&mut [0; 7]).is_ok().then(|| begun.elapsed()))
            });
            while harmed() {
                assert!(begun.elapsed() < support::LIMIT, "{kind} stays");
                std::thread::sleep(BETWEEN);
            }
            gone.add(begun.elapsed());
            if let Some(took) = answer.and_then(|answer| answer.join().unwrap()) {
                answered.add(took);
            }
        });
        runner.kill();
        eventually("nothing is owed", || support::logs(&stage.state()).is_empty());
    }
    println!(
        "| `{kind}` | {:?} | {rounds} {}{}| {seen_by} |",
        AnyFault::undone_by(kind).unwrap(),
        gone.said(),
        answered.said()
    );
}

fn main() {
    let Some(stage) = Stage::new() else { return };
    let count = std::env::var("GONE_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    println!("| kind | ended by | n | p50 | p99 | max | in flight: p50 | p99 | max | seen from outside |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let only = std::env::var("BROWNOUT_KINDS").ok();
    for kind in AnyFault::KINDS {
        if only.as_ref().is_some_and(|only| !only.split(',').any(|one| one == *kind)) {
            continue;
        }
        if let Some(arguments) = stage.arguments(kind) {
            rounds(&stage, kind, &arguments, count);
        }
    }
}
