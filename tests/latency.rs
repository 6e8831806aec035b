//! The fault `latency` on real sockets and a real redis, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

const LIMIT: Duration = Duration::from_mins(1);
/// How much later than asked a packet may be here: the machine is busy, and these are tests of what is
/// delayed, not of how exactly. The benchmark measures that.
const NOISE: Duration = Duration::from_millis(20);

fn run(program: &str, arguments: &str) -> Output {
    Command::new(program).args(arguments.split_whitespace()).output().unwrap()
}

fn ip(arguments: &str) {
    let done = run("ip", arguments);
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A network namespace that ends with the test.
struct Net {
    name: String,
    state: tempfile::TempDir,
}

impl Net {
    /// One with a loopback; `None`, loudly, where we may not make one.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("brownout-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("SKIPPED: a network namespace of our own needs root and iproute2");
            let required = std::env::var("BROWNOUT_TESTS_REQUIRE").is_ok_and(|all| all == "all");
            assert!(!required, "BROWNOUT_TESTS_REQUIRE=all, and a network namespace cannot be made");
            return None;
        }
        let net = Self { name, state: tempfile::tempdir().unwrap() };
        ip(&format!("-n {} link set lo up", net.name));
        Some(net)
    }

    /// Two, joined by a cable; the first has 10.9.0.1, the second 10.9.0.2.
    fn pair() -> Option<(Self, Self)> {
        let (one, two) = (Self::new()?, Self::new()?);
        ip(&format!("-n {} link add cable type veth peer name cable netns {}", one.name, two.name));
        for (net, n) in [(&one, 1), (&two, 2)] {
            ip(&format!("-n {} addr add 10.9.0.{n}/24 dev cable", net.name));
            ip(&format!("-n {} -6 addr add fd09::{n}/64 dev cable nodad", net.name));
            ip(&format!("-n {} link set cable up", net.name));
        }
        Some((one, two))
    }

    /// Does something in it. Sockets stay where they were made.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    fn inject(&self, arguments: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_brownout"));
        command.args(["inject", "latency", "--yes"]).args(arguments.split_whitespace());
        command.env("BROWNOUT_STATE", self.state.path()).env("BROWNOUT_RUNS", self.state.path().join("runs"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Begins a fault, and returns when it has taken hold, with what was said.
    fn slow(&self, arguments: &str) -> Runner {
        let mut runner =
            Runner(self.inject(&format!("{arguments} --for 60s")).spawn().unwrap(), String::new());
        for line in BufReader::new(runner.0.stderr.as_mut().unwrap()).lines().map(Result::unwrap) {
            runner.1 += &line;
            runner.1 += "\n";
            if line.contains("took hold") || line.contains("cannot be measured") {
                return runner;
            }
        }
        panic!("it did not take hold: {}", runner.1);
    }

    /// What is left: tables, queues, undo logs.
    fn left(&self) -> String {
        let tables = self.command("nft").args(["list", "tables"]).output().unwrap();
        assert!(tables.status.success());
        let queues = self.command("cat").arg("/proc/self/net/netfilter/nfnetlink_queue").output().unwrap();
        let logs = std::fs::read_dir(self.state.path().join("undo")).map_or(0, |logs| {
            logs.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "log")).count()
        });
        String::from_utf8([tables.stdout, queues.stdout].concat()).unwrap() + &"log ".repeat(logs)
    }

    fn nothing_left(&self) {
        let since = Instant::now();
        while !self.left().is_empty() {
            assert!(since.elapsed() < LIMIT, "left: {}", self.left());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = run("ip", &format!("netns del {}", self.name));
    }
}

/// The real binary, holding a fault.
struct Runner(Child, String);

impl Runner {
    fn signal(&self, signal: &str) {
        assert!(run("kill", &format!("-{signal} {}", self.0.id())).status.success());
    }

    /// Ends it as Ctrl-C does.
    fn end(mut self) {
        self.signal("INT");
        assert_eq!(self.0.wait().unwrap().code(), Some(130));
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A TCP and a UDP echo on one port of an address, as long as the process lives.
fn echo(at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let at = listener.local_addr().unwrap();
    let datagrams = UdpSocket::bind(at).unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((n, from)) = datagrams.recv_from(&mut bytes) {
            let _ = datagrams.send_to(&bytes[..n], from);
        }
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 16 << 10];
                while let Ok(n @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..n]).is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown(Shutdown::Write);
            });
        }
    });
    at
}

struct Client(TcpStream);

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    /// One round trip.
    fn trip(&mut self) -> Duration {
        let (begun, mut answer) = (Instant::now(), [0; 7]);
        self.0.write_all(b"PING\r\n ").unwrap();
        self.0.read_exact(&mut answer).unwrap();
        begun.elapsed()
    }

    fn median(&mut self) -> Duration {
        let mut trips: Vec<Duration> = (0..15).map(|_| self.trip()).collect();
        trips.sort_unstable();
        trips[7]
    }
}

/// The median round trip of datagrams.
fn datagrams(to: SocketAddr) -> Duration {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.connect(to).unwrap();
    let mut trips: Vec<Duration> = (0..15)
        .map(|_| {
            let begun = Instant::now();
            socket.send(b"ping").unwrap();
            socket.recv(&mut [0; 16]).unwrap();
            begun.elapsed()
        })
        .collect();
    trips.sort_unstable();
    trips[7]
}

fn delayed(what: &str, trip: Duration, by: u64) {
    let by = Duration::from_millis(by);
    assert!(trip >= by && trip < by + NOISE, "{what} took {trip:?}, not {by:?}");
}

#[test]
fn a_real_redis_is_slower_by_what_was_asked_also_over_a_connection_made_before() {
    let Some(net) = Net::new() else { return };
    let mut redis = net.command("redis-server");
    redis.args(["--port", "6379", "--save", "", "--dir"]).arg(net.state.path()).stdout(Stdio::null());
    let _redis = Runner(redis.spawn().unwrap(), String::new());
    net.within(|| {
        let at: SocketAddr = "127.0.0.1:6379".parse().unwrap();
        let since = Instant::now();
        while TcpStream::connect(at).is_err() {
            assert!(since.elapsed() < LIMIT, "redis does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        let other = echo("127.0.0.1:0");
        let (mut before, mut others) = (Client::connect(at), Client::connect(other));
        before.0.write_all(b"PING\r\n").unwrap();
        before.0.read_exact(&mut [0; 7]).unwrap();
        let ping = |client: &mut Client| {
            let mut trips: Vec<Duration> = (0..15)
                .map(|_| {
                    let begun = Instant::now();
                    client.0.write_all(b"PING\r\n").unwrap();
                    client.0.read_exact(&mut [0; 7]).unwrap();
                    begun.elapsed()
                })
                .collect();
            trips.sort_unstable();
            trips[7]
        };
        // By the endpoint, and by the process that listens there.
        for (target, asked) in [("--to :6379", 25), ("--listen 6379", 100)] {
            let runner = net.slow(&format!("{target} delay={asked}ms"));
            assert!(runner.1.contains("a TCP handshake with 127.0.0.1:6379 took"), "{}", runner.1);
            delayed("a connection made before", ping(&mut before), asked);
            let begun = Instant::now();
            let mut fresh = Client::connect(at);
            delayed("a handshake", begun.elapsed(), asked);
            delayed("a fresh connection", ping(&mut fresh), asked);
            assert!(others.median() < NOISE, "another port must not be touched");
            runner.end();
            net.nothing_left();
            assert!(ping(&mut before) < NOISE, "the connection lives on, undelayed");
        }
    });
}

#[test]
fn udp_and_both_ip_versions_are_delayed_once_a_round_trip_in_each_direction() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        for address in ["127.0.0.1", "[::1]"] {
            let at = echo(&format!("{address}:0"));
            let mut client = Client::connect(at);
            for (direction, gained) in [("to", 30), ("from", 30), ("both", 60)] {
                let runner = net.slow(&format!("--to {at} delay=30ms direction={direction}"));
                delayed(&format!("TCP {at} {direction}"), client.median(), gained);
                delayed(&format!("UDP {at} {direction}"), datagrams(at), gained);
                runner.end();
                net.nothing_left();
                assert!(client.median() < NOISE && datagrams(at) < NOISE);
            }
        }
    });
}

#[test]
fn a_round_trip_between_two_hosts_gains_the_delay_once_wherever_it_is_injected() {
    let Some((ours, theirs)) = Net::pair() else { return };
    let four = theirs.within(|| echo("10.9.0.2:0"));
    let six = theirs.within(|| echo("[fd09::2]:0"));
    ours.within(|| {
        for at in [four, six] {
            let mut client = Client::connect(at);
            for (direction, gained) in [("to", 30), ("from", 30), ("both", 60)] {
                for (side, net) in [("the client's", &ours), ("the server's", &theirs)] {
                    let runner = net.slow(&format!("--to {at} delay=30ms direction={direction}"));
                    delayed(&format!("TCP {at} {direction} on {side} host"), client.median(), gained);
                    delayed(&format!("UDP {at} {direction} on {side} host"), datagrams(at), gained);
                    runner.end();
                    net.nothing_left();
                }
            }
            assert!(client.median() < NOISE);
        }
    });
}

#[test]
fn only_the_processes_named_in_from_are_delayed() {
    // Speaks when it is told to, over one connection and one UDP socket that it keeps; says how long it took.
    const CLIENT: &str = r"
        exec 3<>/dev/tcp/127.0.0.1/$1 4<>/dev/udp/127.0.0.1/$1
        echo ready
        while read; do for fd in 3 4; do
            begun=${EPOCHREALTIME/./}
            printf x >&$fd; read -r -N 1 -u $fd
            echo $((${EPOCHREALTIME/./} - begun))
        done; done";
    let Some(net) = Net::new() else { return };
    let program = net.state.path().join("slow-client");
    // By another process: what we write ourselves may be open in what another test starts, and cannot be run (ETXTBSY).
    assert!(Command::new("cp").arg("/bin/bash").arg(&program).status().unwrap().success());
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let port = at.port().to_string();
        let client = Command::new(&program)
            .args(["-c", CLIENT, "client", &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut client = Runner(client, String::new());
        let mut said = BufReader::new(client.0.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "ready");
        let mut others = Client::connect(at);
        let runner = net.slow(&format!("--to :{port} --from-exe slow-client delay=40ms"));
        for _ in 0..5 {
            client.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
            for what in ["TCP", "UDP"] {
                let trip = Duration::from_micros(said.next().unwrap().unwrap().parse().unwrap());
                delayed(what, trip, 40);
            }
        }
        assert!(others.median() < NOISE && datagrams(at) < NOISE, "others are not delayed");
        runner.end();
        net.nothing_left();
    });
}

/// Datagrams with numbers, one a millisecond; each answer's number and delay as it comes back.
fn numbered(to: SocketAddr, count: u32, mut meanwhile: impl FnMut(u32)) -> Vec<(u32, Duration)> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let begun = Instant::now();
    let receiving = socket.try_clone().unwrap();
    let receiver = std::thread::spawn(move || {
        let mut got = Vec::new();
        let mut bytes = [0; 12];
        while got.len() < count as usize && receiving.recv(&mut bytes).is_ok() {
            let number = u32::from_be_bytes(bytes[..4].try_into().unwrap());
            let sent = Duration::from_nanos(u64::from_be_bytes(bytes[4..].try_into().unwrap()));
            got.push((number, begun.elapsed().saturating_sub(sent)));
        }
        got
    });
    for number in 0..count {
        let sent = begun.elapsed().as_nanos() as u64;
        socket.send(&[&number.to_be_bytes()[..], &sent.to_be_bytes()].concat()).unwrap();
        meanwhile(number);
        std::thread::sleep(Duration::from_millis(1));
    }
    receiver.join().unwrap()
}

#[test]
fn jitter_spreads_the_delay_and_never_reorders_a_flow() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let runner = net.slow(&format!("--to {at} delay=30ms jitter=25ms"));
        let got = numbered(at, 500, |_| {});
        assert_eq!(got.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
        let shortest = got.iter().map(|(_, trip)| *trip).min().unwrap();
        let longest = got.iter().map(|(_, trip)| *trip).max().unwrap();
        assert!(shortest >= Duration::from_millis(5), "{shortest:?}");
        assert!(longest.saturating_sub(shortest) > Duration::from_millis(15), "{shortest:?} to {longest:?}");
        runner.end();
        net.nothing_left();
    });
}

#[test]
fn waits_are_spread_as_asked_and_the_same_ones_for_the_same_seed() {
    const OF: u32 = 1000;
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let waits = |of: &str, seed: u32| {
            let asked =
                format!("--to {at} delay=60ms jitter=20ms in_order=false distribution={of} --seed {seed}");
            let runner = net.slow(&asked);
            let mut got = numbered(at, OF, |_| {});
            runner.end();
            net.nothing_left();
            assert!(!got.is_sorted_by_key(|(number, _)| *number), "{of}: none overtook another");
            got.sort_unstable_by_key(|(number, _)| *number);
            assert_eq!(got.len(), OF as usize, "{of}: none is lost");
            got.into_iter().map(|(_, trip)| trip.as_secs_f64() * 1e3).collect::<Vec<f64>>()
        };
        // How many packets waited less than a time, against what the formula says, within 99.99 % of what chance does. A
        // busy machine makes packets late, never early, so early ones are counted up to that.
        for (of, mean, shares) in [
            ("uniform", 60.0, [(50.0, 0.25), (70.0, 0.75), (40.0, 0.0)]),
            ("normal", 60.0, [(40.0, 0.158_655), (80.0, 0.841_345), (20.0, 0.022_750)]),
            ("pareto", 60.0, [(54.455, 0.5), (81.78, 0.931_4), (48.4, 0.0)]),
        ] {
            let first = waits(of, 7);
            let noise = NOISE.as_secs_f64() * 1e3;
            let got = first.iter().sum::<f64>() / f64::from(OF);
            assert!(got > mean - 4.0 * 20.0 / f64::from(OF).sqrt() && got < mean + noise, "{of}: mean {got}");
            for (by, share) in shares {
                let spread = 3.9 * (f64::from(OF) * share * (1.0 - share)).sqrt() / f64::from(OF);
                let up_to = |by| first.iter().filter(|wait| **wait < by).count() as f64 / f64::from(OF);
                assert!(up_to(by) <= share + spread + 1e-9, "{of}: {} waited less than {by}", up_to(by));
                assert!(up_to(by + noise) >= share - spread, "{of}: {} waited less than {by}", up_to(by));
            }
            let mut apart: Vec<f64> = waits(of, 7).iter().zip(&first).map(|(a, b)| (a - b).abs()).collect();
            apart.sort_unstable_by(f64::total_cmp);
            let mut other: Vec<f64> = waits(of, 8).iter().zip(&first).map(|(a, b)| (a - b).abs()).collect();
            other.sort_unstable_by(f64::total_cmp);
            let middle = OF as usize / 2;
            println!("{of}: mean {got:.2} ms; half of the waits repeat within {:.2} ms", apart[middle]);
            assert!(apart[middle] * 2.0 < other[middle], "{of}: {} {}", apart[middle], other[middle]);
        }
    });
}

#[test]
fn the_end_of_a_fault_loses_and_reorders_nothing_that_was_held() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let runner = net.slow(&format!("--to {at} delay=200ms"));
        let mut stream = Client::connect(at);
        stream.0.write_all(&vec![7; 100_000]).unwrap();
        let got = numbered(at, 500, |number| {
            if number == 250 {
                runner.signal("INT");
            }
        });
        assert_eq!(got.iter().map(|(n, _)| *n).collect::<Vec<_>>(), (0..500).collect::<Vec<_>>());
        assert!(got[0].1 >= Duration::from_millis(200) && got[499].1 < NOISE, "{:?} {:?}", got[0], got[499]);
        let mut echoed = vec![0; 100_000];
        stream.0.read_exact(&mut echoed).unwrap();
        assert!(stream.trip() < NOISE);
        net.nothing_left();
    });
}

/// How long after something was done a fresh datagram makes its round trip undelayed.
fn gone(at: SocketAddr, since: Instant) -> Duration {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let sent = Instant::now();
        socket.send_to(b"ping", at).unwrap();
        if socket.recv(&mut [0; 16]).is_ok() && sent.elapsed() < NOISE {
            return since.elapsed();
        }
        assert!(since.elapsed() < LIMIT, "it is never gone");
    }
}

#[test]
fn the_harm_ends_when_the_runner_is_killed_and_connections_live_on() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let mut client = Client::connect(at);
        let mut runner = net.slow(&format!("--to {at} delay=500ms"));
        client.0.write_all(b"PING\r\n ").unwrap(); // is held, and dies with the runner
        let killed = Instant::now();
        runner.0.kill().unwrap();
        let gone = gone(at, killed);
        println!("latency gone {gone:?} after SIGKILL");
        assert!(gone < Duration::from_millis(400), "only the kernel is so fast: {gone:?}");
        client.0.read_exact(&mut [0; 7]).unwrap();
        assert!(client.median() < NOISE, "TCP sends again what was held");
        runner.0.wait().unwrap();
        net.nothing_left();
    });
}

#[test]
fn a_runner_killed_at_any_moment_leaves_nothing_in_its_namespace() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        // From before the log exists to well after the harm; spread, so that every run covers them.
        for step in 0..25_u64 {
            let runner = net.inject(&format!("--to {at} delay=300ms --for 60s")).spawn().unwrap();
            let mut runner = Runner(runner, String::new());
            std::thread::sleep(Duration::from_millis(step * 2));
            runner.0.kill().unwrap();
            runner.0.wait().unwrap();
            assert!(gone(at, Instant::now()) < LIMIT);
            // A log that was made before its watchdog was posted owes nothing, and the next start removes it.
            let since = Instant::now();
            let recovered = || {
                let mut recover = net.command(env!("CARGO_BIN_EXE_brownout"));
                recover.arg("recover").env("BROWNOUT_STATE", net.state.path());
                recover.output().unwrap().status.success() && net.left().is_empty()
            };
            while !recovered() {
                assert!(since.elapsed() < LIMIT, "killed after {} ms, left: {}", step * 2, net.left());
            }
        }
    });
}

#[test]
fn the_lease_ends_the_harm_when_the_runner_hangs() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let runner = net.slow(&format!("--to {at} delay=500ms"));
        std::thread::sleep(Duration::from_millis(2500));
        let begun = Instant::now();
        Client::connect(at);
        delayed("long after one lease", begun.elapsed(), 500);
        let stopped = Instant::now();
        runner.signal("STOP");
        let gone = gone(at, stopped);
        println!("latency gone {gone:?} after SIGSTOP");
        let state = std::fs::read_to_string(format!("/proc/{}/stat", runner.0.id())).unwrap();
        assert!(state.contains(") T "), "the lease ends it, not the watchdog: {state}");
        assert!(gone < Duration::from_millis(2100), "{gone:?}");
        net.nothing_left(); // The watchdog has killed the runner by then.
    });
}

#[test]
fn what_cannot_be_done_is_refused_with_its_remedy() {
    let Some(net) = Net::new() else { return };
    let port = net.within(|| echo("127.0.0.1:0")).port();
    for (arguments, words) in [
        ("--to :6379 delay=0s", "a delay of 0 s is none"),
        ("--to :6379 delay=1h", "at most 10 m"),
        ("--to :6379 delay=5ms jitter=6ms", "a jitter of 6 ms exceeds the delay"),
        ("--to :6379 delay=5ms jitter=2ms distribution=normal", "at most 1.67 ms"),
        ("--to :6379 delay=5ms jitter=2ms correlation=100%", "every packet waits alike"),
        ("--to 127.0.0.1:1 delay=5ms in_order=false listen=127.0.0.1:2", "nothing overtakes"),
        ("--to :6379 --from-exe no-such-program delay=5ms", "nobody fits its `from`"),
        ("--to :6379 delay=5ms engine=proxy", "a proxy needs an address of its own"),
        ("--to 10.0.0.1 delay=5ms listen=127.0.0.1:1", "a proxy forwards to one address and port"),
        (&format!("--to :6379 delay=5ms listen=127.0.0.1:{port}"), "in use"),
        ("--to :6379 delay=5ms engine=queue listen=127.0.0.1:1", "a packet queue listens nowhere"),
    ] {
        let output = net.inject(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(6), "{arguments}: {said}");
        assert!(said.contains(words) && said.contains("nothing was touched"), "{arguments}: {said}");
    }
    for (arguments, words) in [
        ("delay=25ms", "whom `latency` hurts is not said"),
        ("--to :6379 delay=5ms direction=too", "did you mean `to`?"),
        ("--to :6379 delay=5ms engine=magic", "use one of: auto, queue, proxy"),
        ("--to :6379 delay=5ms listen=here", "not an address with a port"),
        ("--to 6379 delay=5ms", "`6379` is no address"),
    ] {
        let output = net.inject(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
    }
    net.nothing_left();
}

#[test]
fn two_faults_on_the_same_traffic_clash_and_on_other_traffic_do_not() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let (one, two) = (echo("127.0.0.1:0"), echo("127.0.0.1:0"));
        let first = net.slow(&format!("--to {one} delay=30ms"));
        for same in [one.to_string(), format!(":{}", one.port()), "127.0.0.1".to_owned()] {
            let output = net.inject(&format!("--to {same} delay=5ms")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(6), "{same}: {said}");
        }
        let second = net.slow(&format!("--to {two} delay=60ms"));
        delayed("the first", datagrams(one), 30);
        delayed("the second", datagrams(two), 60);
        first.end();
        delayed("the second, alone", datagrams(two), 60);
        second.end();
        net.nothing_left();
    });
}

#[test]
fn without_rights_the_queue_is_refused_and_the_proxy_works() {
    let Some(net) = Net::new() else { return };
    net.within(|| {
        let at = echo("127.0.0.1:0");
        let own = tempfile::tempdir().unwrap();
        std::fs::set_permissions(own.path(), Permissions::from_mode(0o777)).unwrap();
        let nobody = |arguments: &str| {
            let mut command = net.command("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
            command.arg(env!("CARGO_BIN_EXE_brownout")).args(["inject", "latency", "--yes"]);
            command.args(arguments.split_whitespace());
            command.env("BROWNOUT_STATE", own.path()).env("BROWNOUT_RUNS", own.path().join("runs"));
            command.stdin(Stdio::null()).stderr(Stdio::piped());
            command
        };
        let output = nobody(&format!("--to {at} delay=30ms")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.contains("ermission denied") && !said.contains("nf_tables") {
            println!("SKIPPED: the binary is where nobody may run it: {said}");
            return;
        }
        assert_eq!(output.status.code(), Some(6), "{said}");
        assert!(said.contains("CAP_NET_ADMIN") && said.contains("give `listen"), "{said}");

        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut runner = Runner(
            nobody(&format!("--to {at} delay=30ms listen={listen} --for 60s")).spawn().unwrap(),
            String::new(),
        );
        let since = Instant::now();
        let mut client = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break Client(stream),
                Err(_) => assert!(since.elapsed() < LIMIT, "the proxy does not listen"),
            }
        };
        client.trip();
        delayed("through the proxy", client.median(), 30);
        runner.0.kill().unwrap();
        runner.0.wait().unwrap();
        assert!(client.0.read(&mut [0; 9]).is_ok_and(|n| n == 0), "the proxy dies with us");
        assert!(TcpStream::connect(listen).is_err());
    });
}
