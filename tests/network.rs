//! Faults on traffic in other networks than brownout's own: its network and theirs are the test's, joined by a cable.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{LIMIT, Netns, Owned, World, eventually, logs, said};

/// How much later than asked an answer may be: these are tests of what is delayed, not of how exactly.
const NOISE: Duration = Duration::from_millis(40);
const ASKED: Duration = Duration::from_millis(100);

/// Answers on TCP and UDP, whatever it is asked.
const ECHO: &str = "
import socket, threading
tcp = socket.create_server(('0.0.0.0', 7000), backlog=128)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('0.0.0.0', 7000))
def datagrams():
    while True:
        data, whence = udp.recvfrom(2048)
        udp.sendto(data, whence)
def stream(one):
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        while data := one.recv(65536):
            one.sendall(data)
    except OSError:
        pass
threading.Thread(target=datagrams, daemon=True).start()
print('ready', flush=True)
while True:
    threading.Thread(target=stream, args=(tcp.accept()[0],), daemon=True).start()
";

/// The network brownout runs in (10.9.0.1) and another one (10.9.0.2), with a server on port 7000 in each.
struct Two {
    ours: Netns,
    theirs: Netns,
    server: Owned,
    _our_server: Owned,
    world: World,
}

impl Two {
    fn new() -> Option<Self> {
        let (ours, theirs) = (Netns::new()?, Netns::new()?);
        let peer = theirs.holder().to_string();
        let ip = |net: &Netns, arguments: &str| {
            let done = net.command("ip").args(arguments.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {arguments}: {}", said(&done));
        };
        ip(&ours, &format!("link add cable type veth peer name cable netns {peer}"));
        for (net, address) in [(&ours, "10.9.0.1/24"), (&theirs, "10.9.0.2/24")] {
            ip(net, &format!("addr add {address} dev cable"));
            ip(net, "link set cable up");
        }
        let serve = |net: &Netns| {
            let mut server = Owned::start(net.command("python3").args(["-c", ECHO]).stdout(Stdio::piped()));
            let mut line = String::new();
            BufReader::new(server.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            server
        };
        let (server, our_server) = (serve(&theirs), serve(&ours));
        let world = World::new();
        std::fs::write(world.folder.path().join("server"), server.pid().to_string()).unwrap();
        Some(Self { ours, theirs, server, _our_server: our_server, world })
    }

    /// Their network, by its file.
    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.theirs.holder())
    }

    fn brownout(&self, arguments: &[&str]) -> Command {
        let mut command = self.ours.brownout(&self.world.state());
        command.args(arguments).current_dir(self.world.folder.path());
        command
    }

    /// Begins a fault from our network, and returns when it has taken hold, with what was said of it.
    fn begin(&self, arguments: &str) -> (Owned, String) {
        let words: Vec<&str> = ["inject"].into_iter().chain(arguments.split(' ')).collect();
        let mut command = self.brownout(&[&words[..], &["--yes", "--for", "60s"]].concat());
        let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let mut told = String::new();
        for line in BufReader::new(runner.0.stderr.as_mut().unwrap()).lines().map(Result::unwrap) {
            told = told + &line + "\n";
            if line.contains("took hold") || line.contains("cannot be measured") {
                return (runner, told);
            }
        }
        panic!("{arguments}: it did not take hold: {told}");
    }

    /// Runs an experiment of one fault for a second; its exit code and words.
    fn run(&self, fault: &str) -> (Option<i32>, String) {
        let file = self.world.folder.path().join("x.toml");
        std::fs::write(&file, format!("title = \"x\"\n{fault}")).unwrap();
        let output = self.brownout(&["run", "--yes", &file.display().to_string()]).output().unwrap();
        (output.status.code(), said(&output).split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn tables(net: &Netns) -> String {
        net.prints("nft", &["list", "tables"])
    }

    fn nothing_left(&self) {
        for net in [&self.ours, &self.theirs] {
            eventually("no rules are left", || Self::tables(net).is_empty());
            let queues = || net.prints("cat", &["/proc/self/net/netfilter/nfnetlink_queue"]);
            eventually("no queue is left", || queues().is_empty());
        }
        eventually("nothing is owed", || logs(&self.world.state()).is_empty());
    }
}

/// Ends it as Ctrl-C does. What was started is `nsenter`, which has become the runner.
fn end(mut runner: Owned) {
    support::signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
}

/// The median of some round trips.
fn median(mut trip: impl FnMut()) -> Duration {
    let mut trips: Vec<Duration> = (0..9)
        .map(|_| {
            let begun = Instant::now();
            trip();
            begun.elapsed()
        })
        .collect();
    trips.sort_unstable();
    trips[4]
}

/// The median round trip over TCP to port 7000 of an address, seen from a network.
fn tcp(from: &Netns, to: &str) -> Duration {
    from.within(|| {
        let mut stream = TcpStream::connect((to, 7000)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        median(|| {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        })
    })
}

/// The same over UDP.
fn udp(from: &Netns, to: &str) -> Duration {
    from.within(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        median(|| {
            socket.send_to(b"x", (to, 7000)).unwrap();
            socket.recv(&mut [0; 8]).unwrap();
        })
    })
}

fn delayed(what: &str, trip: Duration, times: u32) {
    let asked = ASKED * times;
    assert!(trip >= asked && trip < asked + NOISE, "{what} took {trip:?}, not {asked:?}");
}

#[test]
fn latency_on_a_process_acts_in_the_network_that_it_is_in_and_spares_our_own() {
    let Some(two) = Two::new() else { return };
    let (runner, told) = two.begin("latency delay=100ms --pid-file server");
    let place = format!("in the network of process {}", two.server.pid());
    assert!(told.matches(&place).count() >= 2, "the plan and the figures name it: {told}");
    assert!(told.contains("a TCP handshake with 127.0.0.1:7000 took"), "{told}");
    delayed("TCP from our network", tcp(&two.ours, "10.9.0.2"), 1);
    delayed("TCP within theirs", tcp(&two.theirs, "127.0.0.1"), 1);
    delayed("UDP from our network", udp(&two.ours, "10.9.0.2"), 1);
    assert!(tcp(&two.ours, "127.0.0.1") < NOISE, "the same port here is another server");
    assert!(tcp(&two.theirs, "10.9.0.1") < NOISE, "what theirs asks of us is not named");
    assert_eq!(Two::tables(&two.ours), "");
    end(runner);
    two.nothing_left();
    assert!(tcp(&two.ours, "10.9.0.2") < NOISE);
}

#[test]
fn a_whole_network_is_slower_by_what_goes_in_and_out_and_not_by_what_goes_round_in_it() {
    let Some(two) = Two::new() else { return };
    for (direction, datagrams, times) in [("to", 1, 1), ("from", 1, 1), ("both", 2, 2)] {
        let (runner, told) =
            two.begin(&format!("latency delay=100ms direction={direction} --netns {}", two.path()));
        assert!(told.contains(&format!("with netns {}", two.path())), "{told}");
        delayed("TCP into it", tcp(&two.ours, "10.9.0.2"), times);
        delayed("TCP out of it", tcp(&two.theirs, "10.9.0.1"), times);
        delayed("UDP into it", udp(&two.ours, "10.9.0.2"), datagrams);
        delayed("UDP out of it", udp(&two.theirs, "10.9.0.1"), datagrams);
        assert!(tcp(&two.theirs, "127.0.0.1") < NOISE, "its loopback is nobody's network");
        assert!(tcp(&two.ours, "10.9.0.1") < NOISE);
        end(runner);
        two.nothing_left();
    }
}

#[test]
fn from_says_in_whose_network_and_to_which_addresses() {
    let Some(two) = Two::new() else { return };
    let pid = two.server.pid();
    let path = two.path();
    let fault = |whom: &str| format!("[fault.slow.latency]\ndelay = \"100ms\"\nfor = \"60s\"\n{whom}");
    let ours = format!("/proc/{}/ns/net", two.ours.holder());
    for (whom, from_theirs, from_ours) in [
        // By a network, which asks for an address: what others ask of that network is not meant.
        (format!("from = {{ netns = \"{path}\" }}\nto = {{ port = 7000 }}"), true, false),
        // A server elsewhere is known by its addresses where the clients are.
        (format!("from = {{ netns = \"{ours}\" }}\nto = {{ pid_file = \"server\" }}"), false, true),
        (format!("to = {{ netns = \"{path}\", address = \"10.9.0.1\" }}"), true, true),
    ] {
        let file = two.world.folder.path().join("x.toml");
        std::fs::write(&file, format!("title = \"x\"\n{}", fault(&whom))).unwrap();
        let mut command = two.brownout(&["run", "--yes", "x.toml"]);
        let runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        eventually("it begins", || [&two.ours, &two.theirs].iter().any(|net| !Two::tables(net).is_empty()));
        let slow = |from: &Netns, to: &str, slow: bool| {
            let trip = tcp(from, to);
            assert_eq!(trip >= ASKED, slow, "{whom}: {trip:?} to {to}");
        };
        slow(&two.theirs, "10.9.0.1", from_theirs);
        slow(&two.ours, "10.9.0.2", from_ours);
        end(runner);
        two.nothing_left();
    }
    let (code, told) =
        two.run(&fault(&format!("from = {{ pid_file = \"server\" }}\nto = {{ netns = \"{path}\" }}")));
    assert_eq!(code, Some(6), "{told}");
    assert!(told.contains(&format!("`to` and `from` are both in the network of process {pid}")), "{told}");
}

#[test]
fn whatever_is_done_to_traffic_elsewhere_is_gone_when_its_runner_is_killed() {
    let Some(two) = Two::new() else { return };
    for kind in [
        "latency delay=20ms",
        "bandwidth rate=10Mbit/s",
        "loss percent=30%",
        "duplicate percent=30%",
        "corrupt percent=30%",
        "reorder percent=30%",
        "partition",
        "reset",
        "http status=503",
    ] {
        // Before there is a table, nothing can be killed; what is measured needs traffic, which is not the point.
        let words = format!("inject {kind} --netns {} --to :7000 --yes --for 60s", two.path());
        let mut command = two.brownout(&words.split(' ').collect::<Vec<_>>());
        let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        eventually(kind, || !Two::tables(&two.theirs).is_empty());
        assert_eq!(Two::tables(&two.ours), "", "{kind}");
        runner.kill();
        two.nothing_left();
        assert!(tcp(&two.ours, "10.9.0.2") < NOISE, "{kind}");
    }
}

#[test]
fn a_network_that_ends_under_a_fault_takes_it_along() {
    let Some(two) = Two::new() else { return };
    let (mut runner, _) = two.begin("latency delay=20ms --pid-file server");
    let Two { theirs, server, world, .. } = two;
    drop((server, theirs));
    support::signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    eventually("nothing is owed", || logs(&world.state()).is_empty());
}

#[test]
fn what_cannot_or_must_not_be_hurt_is_refused_with_its_remedy() {
    let Some(two) = Two::new() else { return };
    let refused = |command: &mut Command, words: &str| {
        let output = command.output().unwrap();
        let told = said(&output);
        assert_eq!(output.status.code(), Some(6), "{told}");
        assert!(told.contains(words), "lacks `{words}`: {told}");
    };
    let inject = |rest: &str| {
        let words = format!("inject partition --for 3s --yes {rest}");
        two.brownout(&words.split(' ').collect::<Vec<_>>())
    };
    refused(&mut inject("--netns brownout-none"), "`ip netns` lists the named ones");
    refused(&mut inject("--netns server"), "/run/netns/server");
    refused(&mut inject("--netns ./server"), "cannot be entered");
    let ours = format!("--netns /proc/{}/ns/net", two.ours.holder());
    refused(&mut inject(&ours), "by which people come to this host; say an `address` or a `port` too");
    // The connection by which somebody came is one of this network, and not of theirs.
    let came = ("SSH_CONNECTION", "10.9.0.9 50122 10.9.0.1 7000");
    refused(inject("--to :7000").env(came.0, came.1), "is the ssh connection you came by");
    refused(inject(&format!("{ours} --to :7000")).env(came.0, came.1), "is the ssh connection you came by");
    let theirs = format!("--netns {} --to :7000", two.path());
    let output = inject(&theirs).env(came.0, came.1).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // Limits name traffic in whichever network, or one network.
    for (limit, fault) in [
        ("port 7000", "to = { pid_file = \"server\" }".to_owned()),
        (&format!("netns {}", two.path()), "to = { pid_file = \"server\" }".to_owned()),
        (&format!("netns {}", two.path()), format!("to = {{ netns = \"{}\", port = 1 }}", two.path())),
    ] {
        let (code, told) = two.run(&format!(
            "[blast_radius]\nnever = [\"{limit}\"]\n[fault.cut.partition]\nfor = \"1s\"\n{fault}\n"
        ));
        assert_eq!(code, Some(6), "{told}");
        assert!(told.contains("is never to be hurt"), "{told}");
    }
    // The same port, listened on here, is another's.
    let (code, told) = two.run(
        "[blast_radius]\nnever = [\"listen 7000\"]\n[fault.cut.partition]\nfor = \"3s\"\nto = { pid_file = \"server\" }\n",
    );
    assert_eq!(code, Some(0), "{told}");
    two.nothing_left();
}

#[test]
fn whoever_may_not_enter_the_network_is_refused_with_its_remedy() {
    let Some(two) = Two::new() else { return };
    let bound = two.world.folder.path().join("bound");
    std::fs::File::create(&bound).unwrap();
    let mounted = Command::new("mount").args(["--bind", &two.path()]).arg(&bound).status().unwrap();
    assert!(mounted.success());
    let output = two
        .ours
        .command("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"])
        .arg(env!("CARGO_BIN_EXE_brownout"))
        .args(["inject", "partition", "--for", "1s", "--yes", "--netns"])
        .arg(&bound)
        .env("BROWNOUT_STATE", two.world.state())
        .env("BROWNOUT_RUNS", two.world.folder.path().join("runs"))
        .output();
    let _ = Command::new("umount").arg(&bound).status();
    let output = output.unwrap();
    let told = said(&output);
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(told.contains("cannot be entered") && told.contains("nsenter --user --net -t PID"), "{told}");
}
