//! The fault `dns` on real clients and servers, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use support::{LIMIT, Netns, Owned, World, eventually, said, skip};

/// Where the server of most tests is.
const SERVER: &str = "127.0.0.1";

/// A small name server, over UDP and TCP. What it is asked is counted by name.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<BTreeMap<String, usize>>>);

impl Server {
    /// Begins to serve in a namespace, until the test ends.
    fn begin(net: &Netns, addresses: &[&str]) -> Self {
        let server = Self::default();
        for address in addresses {
            let at = SocketAddr::new(address.parse().unwrap(), 53);
            let (udp, tcp) = net.within(|| (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap()));
            let ours = server.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&ours.answer(&buffer[..length], false), from);
                }
            });
            let ours = server.clone();
            std::thread::spawn(move || {
                while let Ok((stream, _)) = tcp.accept() {
                    let ours = ours.clone();
                    std::thread::spawn(move || ours.serve(stream));
                }
            });
        }
        server
    }

    fn serve(&self, mut stream: TcpStream) {
        while let Some(question) = framed(&mut stream) {
            let answer = self.answer(&question, true);
            let length = (answer.len() as u16).to_be_bytes();
            if stream.write_all(&[&length[..], &answer].concat()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, bytes: &[u8], tcp: bool) -> Vec<u8> {
        let asked = Message::from_vec(bytes).unwrap();
        let Query { name, query_type, .. } = asked.queries[0].clone();
        let text = name.to_ascii().to_ascii_lowercase();
        *self.0.lock().unwrap().entry(text.clone()).or_default() += 1;
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = asked.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(asked.queries[0].clone());
        let mut owner = name;
        if text.starts_with("alias.") {
            let target = Name::from_ascii("db.example.com.").unwrap();
            answer.add_answer(Record::from_rdata(owner, 60, RData::CNAME(CNAME(target.clone()))));
            owner = target;
        }
        if text.starts_with("big.") && !tcp {
            answer.metadata.truncation = true;
        } else if query_type == RecordType::A {
            answer.add_answer(Record::from_rdata(owner, 60, RData::A("192.0.2.7".parse().unwrap())));
        } else if query_type == RecordType::AAAA {
            answer.add_answer(Record::from_rdata(owner, 60, RData::AAAA("2001:db8::7".parse().unwrap())));
        }
        if asked.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        answer.to_vec().unwrap()
    }

    /// How often it was asked for a name.
    fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(&format!("{name}.")).copied().unwrap_or_default()
    }
}

/// A message out of a stream; `None` when it ends.
fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

/// A network, what its name servers are, and folders of the test's own.
struct Place {
    net: Netns,
    world: World,
}

impl Place {
    fn new(server: &str) -> Option<Self> {
        Some(Self::of(Netns::new()?, server))
    }

    fn of(net: Netns, server: &str) -> Self {
        let place = Self { net, world: World::new() };
        place.ask(server, 20);
        place
    }

    /// Where programs look names up, and after how many seconds they give up.
    fn ask(&self, server: &str, seconds: u32) {
        let text = format!("nameserver {server}\noptions timeout:{seconds} attempts:1\n");
        std::fs::write(self.resolv_conf(), text).unwrap();
    }

    fn resolv_conf(&self) -> PathBuf {
        self.world.folder.path().join("resolv.conf")
    }

    /// A command that runs in the network, with name servers of its own.
    fn command(&self, program: &str) -> Command {
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut command = self.net.command("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(self.resolv_conf()).arg(program);
        command.env("BROWNOUT_STATE", self.world.state());
        command.env("BROWNOUT_RUNS", self.world.folder.path().join("runs"));
        command
    }

    fn brownout(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_brownout"));
        command.args(arguments);
        command
    }

    /// Begins a fault, and returns when it is live, with what was measured.
    fn inject(&self, arguments: &[&str]) -> Runner {
        let mut command = self.brownout(&["inject", "dns", "--yes", "--for", "60s"]);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
        Runner::begin(command)
    }

    /// What `dig` sees, asking for records of a name.
    fn dig(&self, arguments: &str) -> Seen {
        let mut command = self.command("dig");
        command.args(["+tries=1", "+time=20", "+noall", "+comments", "+answer", "+stats"]);
        Seen::of(&command.args(arguments.split(' ')).output().unwrap())
    }

    /// What the C library tells a program of a name: its addresses; `None` when there is no such name.
    fn getent(&self, database: &str, name: &str) -> Option<Vec<String>> {
        let output = self.command("getent").args([database, name]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let mut addresses: Vec<String> = text.lines().filter_map(first).collect();
        addresses.dedup();
        output.status.success().then_some(addresses)
    }
}

/// A running `brownout inject`.
struct Runner {
    child: Owned,
    took_hold: String,
}

impl Runner {
    fn begin(mut command: Command) -> Self {
        let mut child = Owned::start(&mut command);
        let mut told = String::new();
        for line in std::io::BufRead::lines(std::io::BufReader::new(child.0.stderr.as_mut().unwrap())) {
            let line = line.unwrap();
            if line.contains("took hold") {
                return Self { child, took_hold: line };
            }
            told = told + &line + "\n";
        }
        panic!("it ended before it took hold: {told}");
    }

    fn kill(mut self) {
        self.child.kill();
    }
}

/// An answer as `dig` shows it.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// `NXDOMAIN` and its like; empty when there was no answer.
    status: String,
    /// Records: time to live and data.
    records: Vec<(String, String)>,
    flags: String,
    time: Duration,
    tcp: bool,
    edns: bool,
    text: String,
}

impl Seen {
    fn of(output: &Output) -> Self {
        let text = said(output);
        let after = |word: &str, end: char| {
            let rest = text.split_once(word)?.1;
            Some(rest.split(end).next()?.trim().to_owned())
        };
        let records = text.lines().filter(|line| !line.starts_with(';') && line.contains("\tIN\t"));
        let records = records.map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[1].to_owned(), words[4..].join(" "))
        });
        let time = after("Query time: ", ' ').and_then(|time| time.parse().ok()).unwrap_or_default();
        Self {
            status: after("status: ", ',').unwrap_or_default(),
            records: records.collect(),
            flags: after(";; flags: ", ';').unwrap_or_default(),
            time: Duration::from_millis(time),
            tcp: text.contains("(TCP)"),
            edns: text.contains("EDNS: version: 0"),
            text,
        }
    }

    fn data(&self) -> Vec<&str> {
        self.records.iter().map(|(_, data)| data.as_str()).collect()
    }

    #[track_caller]
    fn is(&self, status: &str, data: &[&str]) {
        assert_eq!((self.status.as_str(), self.data()), (status, data.to_vec()), "{}", self.text);
    }
}

fn ip(net: &Netns, arguments: &str) {
    let done = net.command("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", said(&done));
}

/// Two, joined by a cable; the first has 10.9.N.1 and fd09:N::1, the second 10.9.N.2 and fd09:N::2.
fn join(one: &Netns, two: &Netns, n: u32) {
    ip(one, &format!("link add cable{n} type veth peer name cable{n} netns {}", two.holder()));
    for (net, host) in [(one, 1), (two, 2)] {
        ip(net, &format!("addr add 10.9.{n}.{host}/24 dev cable{n}"));
        ip(net, &format!("-6 addr add fd09:{n}::{host}/64 dev cable{n} nodad"));
        ip(net, &format!("link set cable{n} up"));
    }
}

const RIGHT: &[&str] = &["192.0.2.7"];

#[test]
fn a_client_sees_what_was_asked_and_no_other_name_and_the_server_hears_nothing() {
    let Some(place) = Place::new(SERVER) else { return };
    let server = Server::begin(&place.net, &[SERVER, "::1"]);
    place.dig("db.example.com").is("NOERROR", RIGHT);
    for (asked, status, told) in [
        ("answer=nxdomain", "NXDOMAIN", "NXDOMAIN"),
        ("answer=servfail", "SERVFAIL", "SERVFAIL"),
        ("answer=refused", "REFUSED", "REFUSED"),
        ("answer=empty", "NOERROR", "without a record"),
        ("answer=timeout", "", "no answer"),
    ] {
        let before = server.asked("db.example.com");
        let runner = place.inject(&["names=['db.example.com', '*.below.example.com']", asked]);
        assert!(
            runner.took_hold.contains(told) && runner.took_hold.contains("not named"),
            "{}",
            runner.took_hold
        );
        let looks = 2; // Before the harm, over UDP and TCP.
        let most = if status.is_empty() { 1 } else { 20 };
        for at in ["@127.0.0.1", "@::1"] {
            for over in ["+notcp", "+tcp"] {
                let seen = place.dig(&format!("{at} {over} +time={most} dB.Example.COM"));
                seen.is(status, &[]);
                assert_eq!((seen.tcp, seen.edns), (over == "+tcp" && !status.is_empty(), !status.is_empty()));
                place.dig(&format!("{at} {over} +time={most} a.b.below.example.com")).is(status, &[]);
                place.dig(&format!("{at} {over} below.example.com")).is("NOERROR", RIGHT);
                place.dig(&format!("{at} {over} xdb.example.com")).is("NOERROR", RIGHT);
            }
        }
        assert_eq!(server.asked("db.example.com"), before + looks, "{asked}: the server heard of it");
        assert_eq!(server.asked("a.b.below.example.com"), 0, "{asked}");
        let killed = Instant::now();
        runner.kill();
        eventually("lookups are right again", || place.dig("+time=1 db.example.com").data() == RIGHT);
        println!("dns {asked} gone {:?} after SIGKILL", killed.elapsed());
        place.dig("+tcp db.example.com").is("NOERROR", RIGHT);
        place.world.nothing_left();
    }
}

#[test]
fn wrong_addresses_are_told_by_their_version_to_be_forgotten_at_once() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let runner = place.inject(&["names=db.example.com", "addresses=['10.9.9.9', 'fd00::9', '10.9.9.8']"]);
    assert!(
        runner.took_hold.contains("192.0.2.7") && runner.took_hold.contains("10.9.9.8"),
        "{}",
        runner.took_hold
    );
    for over in ["+notcp", "+tcp"] {
        let seen = place.dig(&format!("{over} db.example.com A"));
        seen.is("NOERROR", &["10.9.9.9", "10.9.9.8"]);
        assert!(seen.records.iter().all(|(ttl, _)| ttl == "0") && seen.flags == "qr rd ra", "{}", seen.text);
        place.dig(&format!("{over} db.example.com AAAA")).is("NOERROR", &["fd00::9"]);
    }
    // Who asks for an alias asks for another name.
    place.dig("alias.example.com").is("NOERROR", &["db.example.com.", "192.0.2.7"]);
    let both = place.getent("ahosts", "db.example.com").unwrap();
    assert!(both.contains(&"10.9.9.9".to_owned()) && both.contains(&"fd00::9".to_owned()), "{both:?}");
    runner.kill();
    eventually("lookups are right again", || place.dig("db.example.com").data() == RIGHT);
    place.world.nothing_left();

    // Of a version for which no address is given there is none.
    let _runner = place.inject(&["names=db.example.com", "addresses=fd00::9"]);
    place.dig("db.example.com A").is("NOERROR", &[]);
    place.dig("db.example.com AAAA").is("NOERROR", &["fd00::9"]);
    assert_eq!(place.getent("ahostsv4", "db.example.com"), None);
}

#[test]
fn the_c_library_of_a_program_believes_it() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let right = place.getent("ahosts", "db.example.com").unwrap();
    assert_eq!(right, ["2001:db8::7", "192.0.2.7"]);
    for asked in ["answer=nxdomain", "answer=servfail", "answer=timeout", "answer=empty"] {
        let runner = place.inject(&["names=db.example.com", asked]);
        place.ask(SERVER, if asked == "answer=timeout" { 1 } else { 20 });
        assert_eq!(place.getent("ahosts", "db.example.com"), None, "{asked}");
        place.ask(SERVER, 20);
        assert_eq!(place.getent("ahosts", "other.example.com").unwrap(), right, "{asked}");
        runner.kill();
        eventually("lookups are right again", || {
            place.getent("ahosts", "db.example.com") == Some(right.clone())
        });
        place.world.nothing_left();
    }
    // Every name.
    let _runner = place.inject(&["answer=nxdomain"]);
    assert_eq!(place.getent("ahosts", "db.example.com"), None);
    assert_eq!(place.getent("ahosts", "other.example.org"), None);
}

#[test]
fn a_delay_is_as_long_as_asked_for_right_and_for_wrong_answers() {
    const LATE: Duration = Duration::from_millis(400);
    let Some(place) = Place::new(SERVER) else { return };
    let server = Server::begin(&place.net, &[SERVER]);
    for (asked, status, data) in [(&[][..], "NOERROR", RIGHT), (&["answer=nxdomain"], "NXDOMAIN", &[])] {
        let arguments = [&["names=db.example.com", "--delay", "400ms"], asked].concat();
        let runner = place.inject(&arguments);
        for over in ["+notcp", "+tcp"] {
            let seen = place.dig(&format!("{over} db.example.com"));
            seen.is(status, data);
            assert!(seen.time >= LATE, "{:?}: {}", seen.time, seen.text);
            place.dig(&format!("{over} other.example.com")).is("NOERROR", RIGHT);
        }
        runner.kill();
        place.world.nothing_left();
    }
    // What waits when it ends in time goes on, to the right answer.
    let before = server.asked("db.example.com");
    let mut runner = place.inject(&["names=db.example.com", "--delay", "5s", "answer=nxdomain"]);
    let heard = server.asked("db.example.com");
    assert_eq!(heard, before + 2, "our own looks before the harm");
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| place.dig("+time=50 db.example.com"));
        eventually("it is asked", || place.net.prints("ss", &["-Hun"]).contains(":53"));
        support::signal(runner.child.pid(), "-INT");
        waits.join().unwrap()
    });
    waits.is("NOERROR", RIGHT);
    runner.child.0.wait().unwrap();
    place.world.nothing_left();
}

#[test]
fn an_answer_too_long_for_udp_is_asked_for_over_tcp_and_hit_there() {
    let Some(place) = Place::new(SERVER) else { return };
    let server = Server::begin(&place.net, &[SERVER]);
    let seen = place.dig("big.example.com");
    seen.is("NOERROR", RIGHT);
    assert!(seen.tcp, "{}", seen.text);
    // Every second lookup on average: the question is asked over UDP, and then over TCP, so both may be hit.
    let runner = place.inject(&["names=big.example.com", "answer=servfail", "percent=50%", "--seed", "7"]);
    let fates: Vec<(String, bool)> = (0..40)
        .map(|_| {
            let seen = place.dig("big.example.com");
            (seen.status, seen.tcp)
        })
        .collect();
    for fate in [("SERVFAIL", false), ("SERVFAIL", true), ("NOERROR", true)] {
        assert!(fates.contains(&(fate.0.to_owned(), fate.1)), "{fate:?} never: {fates:?}");
    }
    assert!(server.asked("big.example.com") > 0);
    runner.kill();
    place.world.nothing_left();
}

#[test]
fn wherever_client_and_server_are_lookups_are_met_once_and_right_again_afterwards() {
    let (Some(client), Some(middle), Some(server)) = (Netns::new(), Netns::new(), Netns::new()) else {
        return;
    };
    join(&client, &middle, 1);
    join(&middle, &server, 2);
    ip(&client, "route add default via 10.9.1.2");
    ip(&client, "-6 route add default via fd09:1::2");
    ip(&server, "route add default via 10.9.2.1");
    ip(&server, "-6 route add default via fd09:2::1");
    for switch in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        let done = middle.command("sysctl").args(["-qw", switch]).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }
    let served = Server::begin(&server, &["10.9.2.2", "fd09:2::2"]);
    let places = [client, middle, server].map(|net| Place::of(net, "10.9.2.2"));
    let right = |over: &str| places[0].dig(&format!("{over} db.example.com")).data() == RIGHT;
    eventually("the way is open", || right("@10.9.2.2") && right("@fd09:2::2"));
    for (where_, place) in ["where it leaves", "where it passes", "where it comes in"].iter().zip(&places) {
        let runner = place.inject(&["names=db.example.com", "addresses=['10.9.9.9']"]);
        assert!(runner.took_hold.contains("10.9.9.9"), "{}", runner.took_hold);
        for server in ["@10.9.2.2", "@fd09:2::2"] {
            for over in ["+notcp", "+tcp"] {
                let before = served.asked("db.example.com");
                places[0].dig(&format!("{server} {over} db.example.com")).is("NOERROR", &["10.9.9.9"]);
                assert_eq!(served.asked("db.example.com"), before, "{where_}: the server heard of it");
                places[0].dig(&format!("{server} {over} other.example.com")).is("NOERROR", RIGHT);
            }
        }
        runner.kill();
        eventually("lookups are right again", || right("@10.9.2.2") && right("@fd09:2::2"));
        assert!(right("@10.9.2.2 +tcp") && right("@fd09:2::2 +tcp"));
        place.world.nothing_left();

        let runner = place.inject(&["names=db.example.com", "--delay", "300ms"]);
        for arguments in ["@10.9.2.2 db.example.com", "@fd09:2::2 +tcp db.example.com"] {
            eventually("it is delayed once", || {
                let time = places[0].dig(arguments).time.as_millis();
                assert!(time >= 300, "{where_}: {time} ms");
                time < 600
            });
        }
        runner.kill();
        place.world.nothing_left();
    }
}

/// A question for an A record, as it stands in a stream.
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

#[test]
fn on_a_connection_made_before_a_question_in_pieces_is_hit_and_those_of_others_are_answered() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let connect = || {
        let stream = place.net.within(|| TcpStream::connect((SERVER, 53))).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    };
    let answer = |stream: &mut TcpStream| Message::from_vec(&framed(stream).unwrap()).unwrap();
    let (mut old, mut other) = (connect(), connect());
    old.write_all(&question(1, "other.example.com.")).unwrap();
    assert_eq!(answer(&mut old).answers.len(), 1);
    let runner = place.inject(&["names=db.example.com", "answer=nxdomain"]);
    for stream in [&mut old, &mut other, &mut connect()] {
        stream.write_all(&question(2, "other.example.com.")).unwrap();
        assert_eq!(answer(stream).answers.len(), 1);
        let asked = question(3, "db.example.com.");
        stream.write_all(&asked[..2]).unwrap();
        // Sent by itself: the first piece has been acknowledged.
        eventually("the pieces are two", || {
            !place
                .net
                .prints("ss", &["-Htn", "dst", SERVER, "dport", "=", ":53"])
                .lines()
                .any(|l| l.split_whitespace().nth(2) != Some("0"))
        });
        stream.write_all(&asked[2..]).unwrap();
        let said = answer(stream);
        assert_eq!((said.metadata.id, said.metadata.response_code), (3, ResponseCode::NXDomain));
        // The connection has ended in order.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    runner.kill();
    place.world.nothing_left();
}

#[test]
fn only_those_who_are_named_in_from_are_hit() {
    const CLIENT: &str = "import socket,sys
for line in sys.stdin:
    try:
        print(socket.gethostbyname('db.example.com'), flush=True)
    except OSError as why:
        print('none', flush=True)
";
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let mut command = place.command("python3");
    let mut client = Owned::start(command.args(["-uc", CLIENT]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client.0.stdout.take().unwrap()));
    let mut to = client.0.stdin.take().unwrap();
    let mut look = || {
        writeln!(to).unwrap();
        lines.next().unwrap().unwrap()
    };
    assert_eq!(look(), "192.0.2.7");
    let (file, pid) =
        (place.world.folder.path().join("experiment.toml"), place.world.folder.path().join("pid"));
    std::fs::write(&pid, client.pid().to_string()).unwrap();
    let text = format!(
        "title = 'x'\n[fault.gone.dns]\nanswer = 'nxdomain'\nfrom = {{ pid_file = '{}' }}\nfor = '60s'\n",
        pid.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = place.brownout(&["run", "--yes"]);
    command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let runner = Runner::begin(command);
    // Our own look is hit, and the same one is not when it is not said to be ours.
    let told = &runner.took_hold;
    assert!(
        told.contains("NXDOMAIN after") && told.contains("not named") && told.contains("192.0.2.7"),
        "{told}"
    );
    assert_eq!(look(), "none");
    place.dig("db.example.com").is("NOERROR", RIGHT);
    place.dig("+tcp db.example.com").is("NOERROR", RIGHT);
    runner.kill();
    eventually("lookups are right again", || look() == "192.0.2.7");
    place.world.nothing_left();

    // By address: this host has two, and one of them is meant.
    ip(&place.net, "addr add 10.77.0.1/32 dev lo");
    let text =
        "title = 'x'\n[fault.gone.dns]\nanswer = 'nxdomain'\nfrom = { address = '10.77.0.1' }\nfor = '60s'\n";
    std::fs::write(&file, text).unwrap();
    let mut command = place.brownout(&["run", "--yes"]);
    command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Owned::start(&mut command);
    eventually("lookups from there are hit", || {
        place.dig("-b 10.77.0.1 db.example.com").status == "NXDOMAIN"
    });
    place.dig("db.example.com").is("NOERROR", RIGHT);
    child.kill();
    place.world.nothing_left();
}

#[test]
fn who_is_in_another_network_is_hit_there_and_nobody_here() {
    let (Some(here), Some(there)) = (Place::new(SERVER), Place::new(SERVER)) else { return };
    for place in [&here, &there] {
        Server::begin(&place.net, &[SERVER]);
    }
    let file = here.world.folder.path().join("experiment.toml");
    let pid = here.world.folder.path().join("pid");
    let client = Owned::start(there.command("sleep").arg("600"));
    std::fs::write(&pid, client.pid().to_string()).unwrap();
    eventually("it is there", || there.net.others().iter().any(|line| line.contains("sleep 600")));
    let text = format!(
        "title = 'x'\n[fault.gone.dns]\nanswer = 'nxdomain'\nfrom = {{ pid_file = '{}' }}\nfor = '60s'\n",
        pid.display()
    );
    std::fs::write(&file, text).unwrap();
    let mut command = here.brownout(&["run", "--yes"]);
    command.arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let runner = Runner::begin(command);
    // Our own look is made in that network.
    assert!(runner.took_hold.contains("NXDOMAIN after"), "{}", runner.took_hold);
    assert_ne!(there.net.prints("nft", &["list", "tables"]), "");
    assert_eq!(here.net.prints("nft", &["list", "tables"]), "");
    for place in [&here, &there] {
        place.dig("db.example.com").is("NOERROR", RIGHT);
    }
    runner.kill();
    eventually("no rule is left there", || there.net.prints("nft", &["list", "tables"]).is_empty());
    here.world.nothing_left();
}

#[test]
fn half_of_the_lookups_are_half_of_them_and_the_same_ones_for_the_same_seed() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let fates = |seed: &str, noise: bool| -> Vec<bool> {
        let runner = place.inject(&[
            "names=['db.example.com', 'noise.example.com']",
            "answer=nxdomain",
            "percent=50%",
            "--seed",
            seed,
        ]);
        let socket = place.net.within(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let ask = |id: u16, name: &str| {
            socket.send_to(&question(id, name)[2..], (SERVER, 53)).unwrap();
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer).unwrap();
            Message::from_vec(&buffer[..length]).unwrap().metadata.response_code == ResponseCode::NXDomain
        };
        let fates = (0..300)
            .map(|n| {
                if noise {
                    ask(n, "noise.example.com.");
                }
                ask(n, "db.example.com.")
            })
            .collect();
        runner.kill();
        place.world.nothing_left();
        fates
    };
    let (one, again, other) = (fates("1", false), fates("1", true), fates("2", false));
    assert_eq!(one, again, "the same seed, with other lookups in between");
    assert_ne!(one, other, "another seed");
    let hit = one.iter().filter(|hit| **hit).count();
    // Five standard deviations of 300 fair coins are 43.
    assert!((107..=193).contains(&hit), "{hit} of 300 lookups were hit");
}

#[test]
fn a_real_resolver_on_this_host_is_hit_before_and_behind_it() {
    let Some(place) = Place::new("127.0.0.53") else { return };
    let upstream = Server::begin(&place.net, &["127.0.0.1"]);
    let mut command = place.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--no-hosts",
        "--no-resolv",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
    ]);
    command.args(["--listen-address=127.0.0.53", "--server=127.0.0.1"]);
    command.args([
        "--cname=www.example.com,host.example.com",
        "--host-record=host.example.com,198.51.100.7,2001:db8::77",
    ]);
    if Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("dnsmasq is not here");
    }
    let _resolver = Owned::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    eventually("the resolver answers", || place.dig("db.example.com").data() == RIGHT);
    place.dig("www.example.com").is("NOERROR", &["host.example.com.", "198.51.100.7"]);

    // What it knows itself, and what it would ask for, is answered before it.
    let runner = place.inject(&["names=['www.example.com', 'fresh.example.com']", "answer=nxdomain"]);
    for (name, over) in [("www", "+notcp"), ("www", "+tcp"), ("fresh", "+notcp"), ("fresh", "+tcp")] {
        place.dig(&format!("{over} {name}.example.com")).is("NXDOMAIN", &[]);
    }
    assert_eq!(upstream.asked("fresh.example.com"), 0);
    place.dig("host.example.com AAAA").is("NOERROR", &["2001:db8::77"]);
    place.dig("+tcp host.example.com").is("NOERROR", &["198.51.100.7"]);
    assert_eq!(place.getent("ahosts", "www.example.com"), None);
    runner.kill();
    eventually("lookups are right again", || {
        place.dig("+tcp www.example.com").data().contains(&"198.51.100.7")
    });
    assert_eq!(place.getent("ahosts", "www.example.com").unwrap(), ["2001:db8::77", "198.51.100.7"]);
    place.world.nothing_left();
}

#[test]
fn it_ends_by_itself_when_its_runner_hangs_and_leaves_nothing() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let tables = || place.net.prints("nft", &["list", "tables"]);
    assert_eq!(tables(), "");
    let mut runner = place.inject(&["names=db.example.com", "answer=nxdomain"]);
    assert_ne!(tables(), "");
    support::signal(runner.child.pid(), "-STOP");
    eventually("it ends when its runner hangs", || place.dig("+time=1 db.example.com").data() == RIGHT);
    place.world.nothing_left();
    assert!(!runner.child.0.wait().unwrap().success());
    assert_eq!(tables(), "");
}

#[test]
fn two_faults_on_one_name_are_refused_and_on_two_names_both_are_live() {
    let Some(place) = Place::new(SERVER) else { return };
    Server::begin(&place.net, &[SERVER]);
    let one = place.inject(&["names=*.example.com", "answer=nxdomain"]);
    let clash =
        place.brownout(&["inject", "dns", "--yes", "--for", "5s", "names=db.example.com", "answer=servfail"]);
    let output = { clash }.output().unwrap();
    assert!(
        !output.status.success() && said(&output).contains("lookups of *.example.com"),
        "{}",
        said(&output)
    );
    let two = place.inject(&["names=db.example.org", "answer=servfail"]);
    for over in ["+notcp", "+tcp"] {
        place.dig(&format!("{over} db.example.com")).is("NXDOMAIN", &[]);
        place.dig(&format!("{over} db.example.org")).is("SERVFAIL", &[]);
        place.dig(&format!("{over} db.example.net")).is("NOERROR", RIGHT);
    }
    one.kill();
    eventually("the one is over", || place.dig("db.example.com").data() == RIGHT);
    place.dig("db.example.org").is("SERVFAIL", &[]);
    two.kill();
    place.world.nothing_left();
}

#[test]
fn a_look_that_cannot_be_made_proves_nothing() {
    let Some(place) = Place::new("192.0.2.1") else { return };
    // No route leads there.
    let runner = place.inject(&["names=db.example.com", "answer=nxdomain"]);
    assert!(
        runner.took_hold.contains("cannot be measured") && runner.took_hold.contains("unreachable"),
        "{}",
        runner.took_hold
    );
    runner.kill();
    place.world.nothing_left();
}

#[test]
fn the_plan_says_what_is_hit_and_what_is_not() {
    let Some(place) = Place::new(SERVER) else { return };
    let file = place.world.folder.path().join("experiment.toml");
    let text = "title = 'x'\n[fault.gone.dns]\nnames = 'db.example.com'\nanswer = 'nxdomain'\npercent = '30%'\nfor = '60s'\n";
    std::fs::write(&file, text).unwrap();
    let output = place.brownout(&["plan"]).arg(&file).output().unwrap();
    let told = said(&output);
    for words in ["answers NXDOMAIN to 30% of the lookups of db.example.com", "over TLS or HTTPS"] {
        assert!(told.contains(words), "`{words}`: {told}");
    }
}
