//! The fault `reset` on real sockets, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::Instant;

use nix::sched::{CloneFlags, setns};
use support::{LIMIT, MachineState, Netns, Owned, World, eventually, said};

/// Does something in a namespace. Sockets stay where they were made.
fn within<T: Send>(net: &Netns, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/proc/{}/ns/net", net.holder())).unwrap();
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        inside.join().unwrap()
    })
}

fn ip(net: &Netns, arguments: &str) {
    let done = net.command("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", said(&done));
}

/// Two, joined by a cable; the first has 10.9.0.1, the second 10.9.0.2.
fn pair() -> Option<(Netns, Netns)> {
    let (one, two) = (Netns::new()?, Netns::new()?);
    ip(&one, &format!("link add cable type veth peer name cable netns {}", two.holder()));
    for (net, n) in [(&one, 1), (&two, 2)] {
        ip(net, &format!("addr add 10.9.0.{n}/24 dev cable"));
        ip(net, &format!("-6 addr add fd09::{n}/64 dev cable nodad"));
        ip(net, "link set cable up");
    }
    Some((one, two))
}

/// A server, one client's connection to it, and the server's end of that.
struct Talk {
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    fn begin(listener: TcpListener, client: TcpStream) -> Self {
        let server = listener.accept().unwrap().0;
        for end in [&client, &server] {
            end.set_read_timeout(Some(LIMIT)).unwrap();
        }
        Self { listener, client, server }
    }

    fn here(at: &str) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Self::begin(listener, client)
    }

    fn at(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn goes_on(&mut self) {
        self.client.write_all(b"ping").unwrap();
        self.server.read_exact(&mut [0; 4]).unwrap();
    }
}

fn broken(end: &mut TcpStream, by: ErrorKind) {
    let why = end.read(&mut [0]).unwrap_err();
    assert_eq!(why.kind(), by, "{why}");
}

fn refused(at: SocketAddr) {
    let why = TcpStream::connect(at).unwrap_err();
    assert_eq!(why.kind(), ErrorKind::ConnectionRefused, "{why}");
}

fn reset(net: &Netns, world: &World, arguments: &str) -> Owned {
    let mut command = net.brownout(&world.state());
    command.args(["inject", "reset", "--yes", "--for", "60s"]).args(arguments.split_whitespace());
    let mut runner = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    runner.took_hold();
    runner
}

#[test]
fn both_ends_break_new_connections_are_refused_and_all_is_well_when_the_runner_is_killed() {
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    let disk = tempfile::tempdir().unwrap();
    let before = MachineState::of(&net, &world.state(), disk.path(), &[]);
    within(&net, || {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let (mut named, mut other) = (Talk::here(bind), Talk::here(bind));
            let mut runner = reset(&net, &world, &format!("--to :{}", named.at().port()));
            broken(&mut named.client, ErrorKind::ConnectionReset);
            broken(&mut named.server, ErrorKind::ConnectionAborted);
            refused(named.at());
            other.goes_on();
            TcpStream::connect(other.at()).unwrap();
            let killed = Instant::now();
            runner.kill();
            eventually("connections are made again", || TcpStream::connect(named.at()).is_ok());
            println!("reset gone {:?} after SIGKILL", killed.elapsed());
            world.nothing_left();
        }
    });
    let now = MachineState::of(&net, &world.state(), disk.path(), &[]);
    let differs = now.differs_from(&before);
    let left: Vec<&String> = differs.iter().filter(|line| !line.contains("free ")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn where_only_one_end_is_here_both_ends_break_all_the_same() {
    let Some((one, two)) = pair() else { return };
    for (address, six) in [("10.9.0.2", false), ("fd09::2", true)] {
        for here_is_client in [true, false] {
            let world = World::new();
            let bind = if six { format!("[{address}]:0") } else { format!("{address}:0") };
            let listener = within(&two, || TcpListener::bind(&bind).unwrap());
            let at = listener.local_addr().unwrap();
            let client = within(&one, || TcpStream::connect(at).unwrap());
            let mut talk = Talk::begin(listener, client);
            let to = if six { format!("[{address}]:{}", at.port()) } else { format!("{at}") };
            let near = if here_is_client { &one } else { &two };
            let mut runner = reset(near, &world, &format!("--to {to}"));
            if here_is_client {
                broken(&mut talk.client, ErrorKind::ConnectionAborted);
                broken(&mut talk.server, ErrorKind::ConnectionReset);
            } else {
                broken(&mut talk.client, ErrorKind::ConnectionReset);
                broken(&mut talk.server, ErrorKind::ConnectionAborted);
            }
            within(&one, || refused(at));
            runner.kill();
            within(&one, || {
                eventually("connections are made again", || TcpStream::connect(at).is_ok());
            });
            world.nothing_left();
        }
    }
}

#[test]
fn half_of_the_connections_are_half_of_them_and_those_that_live_go_on() {
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    within(&net, || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let talks: Vec<(TcpStream, TcpStream)> =
            (0..20).map(|_| (TcpStream::connect(at).unwrap(), listener.accept().unwrap().0)).collect();
        let output = net
            .brownout(&world.state())
            .args(["inject", "reset", "--yes", "percent=50%", "new=false", "--to"])
            .arg(format!(":{}", at.port()))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert!(said(&output).contains("of 20 open connections 10 were broken"), "{}", said(&output));
        let alive = talks
            .into_iter()
            .filter(|(client, _)| {
                client.set_nonblocking(true).unwrap();
                (&mut &*client).read(&mut [0]).unwrap_err().kind() == ErrorKind::WouldBlock
            })
            .count();
        assert_eq!(alive, 10);
        TcpStream::connect(at).unwrap();
        world.nothing_left();

        let _runner = reset(&net, &world, &format!("percent=50% existing=false --to :{}", at.port()));
        let fates: Vec<bool> = (0..200).map(|_| TcpStream::connect(at).is_ok()).collect();
        let made = fates.iter().filter(|made| **made).count();
        // Five standard deviations of 200 fair coins are 35.
        assert!((65..=135).contains(&made), "{made} of 200 connections were made");
    });
}

#[test]
fn only_those_who_are_named_in_from_are_hit() {
    const CLIENT: &str = "import socket,sys,time
port = int(sys.argv[1])
s = socket.create_connection(('127.0.0.1', port))
print('in', flush=True)
try:
    s.recv(1)
except OSError as why:
    print(why.errno, flush=True)
while True:
    try:
        socket.create_connection(('127.0.0.1', port))
        print('made', flush=True)
    except OSError as why:
        print(why.errno, flush=True)
    time.sleep(0.2)
";
    let Some(net) = Netns::new() else { return };
    let world = World::new();
    within(&net, || {
        let mut ours = Talk::here("127.0.0.1:0");
        let port = ours.at().port().to_string();
        let mut command = net.command("python3");
        let mut client =
            Owned::start(command.args(["-uc", CLIENT, &port]).stdout(Stdio::piped()).stderr(Stdio::null()));
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.0.stdout.take().unwrap()))
            .map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "in");
        let file = world.folder.path().join("experiment.toml");
        let pid = world.folder.path().join("pid");
        std::fs::write(&pid, client.pid().to_string()).unwrap();
        let text = format!(
            "title = 'x'\n[fault.cut.reset]\nto = {{ port = {port} }}\nfrom = {{ pid_file = '{}' }}\nfor = '60s'\n",
            pid.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = net.brownout(&world.state());
        command.args(["run", "--yes"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let mut runner = Owned::start(&mut command);
        assert_eq!(lines.next().unwrap(), libc_reset());
        assert_eq!(lines.next().unwrap(), "111", "ECONNREFUSED");
        ours.goes_on();
        TcpStream::connect(ours.at()).unwrap();
        runner.kill();
        eventually("connections are made again", || lines.next().unwrap() == "made");
        world.nothing_left();
    });
}

/// ECONNRESET.
fn libc_reset() -> String {
    (nix::errno::Errno::ECONNRESET as i32).to_string()
}
