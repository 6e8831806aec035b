//! The fault `http` on real servers and clients, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use support::{LIMIT, Netns, Owned, World, eventually, logs, skip};

const SERVER: &str = "127.0.0.1:8080";
/// What ends with a process is seen to be gone within this on the busiest machine; it is some milliseconds.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A network and folders of the test's own.
struct Place {
    net: Netns,
    world: World,
}

impl Place {
    fn new() -> Option<Self> {
        Some(Self { net: Netns::new()?, world: World::new() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// Does something inside. Sockets stay where they were made.
    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/proc/{}/ns/net", self.net.holder())).unwrap();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn connect(&self, to: &str) -> TcpStream {
        let stream = self.within(|| TcpStream::connect(to)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Begins a fault, and returns when it is live.
    fn inject(&self, arguments: &str) -> Runner {
        let mut command = self.net.brownout(&self.world.state());
        command.args(["inject", "http", "--yes", "--for", "60s"]).args(arguments.split(' '));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut runner = Runner { child: command.spawn().unwrap(), said: String::new() };
        for line in BufReader::new(runner.child.stderr.as_mut().unwrap()).lines().map(Result::unwrap) {
            runner.said += &line;
            runner.said += "\n";
            if line.contains("took hold") {
                return runner;
            }
        }
        panic!("it did not begin: {}", runner.said);
    }

    fn curl(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.net.command("curl").args(["-s", "-m", "50"]).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn nothing_left(&self) {
        eventually("no table is left", || self.net.prints("nft", &["list", "tables"]).is_empty());
        eventually("nothing is owed", || logs(&self.world.state()).is_empty());
    }

    /// A real nginx on port 8080, with TLS on port 8443, and HTTP/2 without it on port 8082.
    fn nginx(&self) -> Option<Owned> {
        if !Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
            skip("it needs nginx");
            return None;
        }
        let folder = self.path("nginx");
        std::fs::create_dir(&folder).unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let bytes: Vec<u8> = (0..4 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::write(folder.join("big"), bytes).unwrap();
        let inside = folder.display();
        let conf = format!(
            "daemon off;\nmaster_process off;\nuser root;\npid {inside}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n\
             client_body_temp_path {inside}/a;\nclient_max_body_size 0;\n\
             server {{ listen 0.0.0.0:8080; listen [::]:8080; root {inside}; location /text {{ return 200 'hello world'; }} \
             location /orders {{ return 200 'order'; }} }}\n\
             server {{ listen 127.0.0.1:8082 http2; location / {{ return 200 'two'; }} }}\n\
             server {{ listen 127.0.0.1:8443 ssl; ssl_certificate {inside}/cert.pem; ssl_certificate_key {inside}/key.pem;\n\
             location / {{ return 200 'secret'; }} }}\n}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), conf).unwrap();
        let mut nginx = self.net.command("nginx");
        nginx
            .arg("-p")
            .arg(&folder)
            .arg("-c")
            .arg(folder.join("nginx.conf"))
            .arg("-e")
            .arg(folder.join("log"));
        let nginx = Owned::start(nginx.stderr(Stdio::null()));
        eventually("nginx listens", || self.net.prints("ss", &["-Hltn"]).contains(":8443"));
        Some(nginx)
    }

    /// A server of the test's own: each connection is given to `serve`, in a thread.
    fn serve(&self, at: &str, serve: fn(TcpStream)) {
        let listener = self.within(|| TcpListener::bind(at)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || serve(stream));
            }
        });
    }
}

/// The real binary, holding a fault.
struct Runner {
    child: Child,
    said: String,
}

impl Runner {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Ends it as Ctrl-C does, to its last word.
    fn end(mut self) {
        self.signal("-INT");
        let _ = std::io::copy(self.child.stderr.as_mut().unwrap(), &mut std::io::sink());
        assert_eq!(self.child.wait().unwrap().code(), Some(130));
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks and reads one answer with a declared length, over a kept connection.
fn ask(stream: &mut TcpStream, path: &str) -> String {
    try_ask(stream, path).unwrap()
}

/// The same where the connection may be closed instead of any answer. One that has begun must be whole.
fn try_ask(stream: &mut TcpStream, path: &str) -> std::io::Result<String> {
    let mut byte = [0];
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    stream.read_exact(&mut byte)?;
    let mut answer = String::from(char::from(byte[0]));
    while !answer.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        answer.push(char::from(byte[0]));
    }
    let length =
        answer.to_lowercase().split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse();
    let mut body = vec![0; length.unwrap()];
    stream.read_exact(&mut body).unwrap();
    Ok(answer + &String::from_utf8(body).unwrap())
}

#[test]
fn a_real_nginx_answers_as_asked_on_one_path_and_as_ever_on_others() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let url = |path: &str| format!("http://{SERVER}{path}");
    let plain = place.curl(&["-i", &url("/text")]).1;
    for to in ["--to :8080", "--to 127.0.0.1:8080", "--listen 8080"] {
        let runner = place.inject(&format!(
            "{to} path=/orders/* status=503 body=sorry answer_header={{retry-after=\"7\"}}"
        ));
        assert!(runner.said.contains("not named: GET"), "{}", runner.said);
        let (_, hurt) = place.curl(&["-i", &url("/orders/1?a=b")]);
        assert_eq!(
            hurt,
            "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\nContent-Length: 5\r\n\r\nsorry"
        );
        assert!(place.curl(&["-I", &url("/orders/1")]).1.starts_with("HTTP/1.1 503"));
        let dateless =
            |text: &str| text.lines().filter(|l| !l.starts_with("Date")).collect::<Vec<_>>().join("\n");
        assert_eq!(dateless(&place.curl(&["-i", &url("/text")]).1), dateless(&plain), "{to}");
        // Kept connections, large bodies each way, one that waits for a word, and HTTP/1.0.
        let both = place.curl(&[&url("/text"), &url("/orders/1"), &url("/text")]);
        assert_eq!(both.1, "hello worldsorryhello world");
        let big = place.path("nginx/big").display().to_string();
        let got = place.path("got").display().to_string();
        assert_eq!(place.curl(&["-o", &got, &url("/big")]).0, 0);
        assert!(std::fs::read(&big).unwrap() == std::fs::read(&got).unwrap(), "{to}: another body");
        let at = format!("@{big}");
        for path in ["/text", "/orders/1"] {
            let (code, said) = place.curl(&["--data-binary", &at, "-w", "%{http_code}", &url(path)]);
            assert!(code == 0 && (said.ends_with("200") || said.ends_with("503")), "{path}: {code} {said}");
        }
        assert_eq!(place.curl(&["--http1.0", &url("/text")]).1, "hello world");
        assert_eq!(place.curl(&["--http1.0", &url("/orders/1")]).1, "sorry");
        if to.ends_with(":8080") && !to.contains("127") {
            assert_eq!(place.curl(&["http://[::1]:8080/orders/1"]).1, "sorry");
        }
        runner.end();
        place.nothing_left();
        assert_eq!(place.curl(&[&url("/orders/1")]).1, "order");
    }
}

#[test]
fn every_way_to_hurt_an_answer_is_seen_by_a_real_client_and_proved() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let url = format!("http://{SERVER}/text");
    // The fields, what curl makes of it (curl(1), exit codes) and reads, and what our own request saw.
    for (fields, code, body, seen) in [
        ("hang_up=close", 52, "", "closed without an answer now"),
        ("hang_up=reset", 56, "", "reset without an answer now"),
        ("truncate=4B", 18, "hell", "then cut now"),
        ("body=other", 0, "other", "200 with 5 bytes"),
        ("delay=300ms", 0, "hello world", "200 with 11 bytes"),
    ] {
        let runner = place.inject(&format!("--to {SERVER} path=/text {fields}"));
        assert!(runner.said.contains(seen), "{}", runner.said);
        let begun = Instant::now();
        assert_eq!(place.curl(&[&url]), (code, body.to_owned()), "{fields}");
        assert!(!fields.starts_with("delay") || begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(place.curl(&[&format!("http://{SERVER}/orders")]), (0, "order".to_owned()));
        runner.end();
        place.nothing_left();
        assert_eq!(place.curl(&[&url]), (0, "hello world".to_owned()), "after {fields}");
    }
    // HTTP/2 without TLS.
    let runner = place.inject("--to 127.0.0.1:8080 first=2 path=/text status=500");
    let codes: Vec<String> =
        (0..4).map(|_| place.curl(&["-o", "/dev/null", "-w", "%{http_code}", &url]).1).collect();
    assert_eq!(codes, ["500", "500", "200", "200"]);
    runner.end();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte).escape_default().to_string()).collect()
}

/// Tells what it reads, byte for byte, and answers oddly.
fn odd(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    let mut read = Vec::new();
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        read.extend_from_slice(&bytes[..n]);
        if read.ends_with(b"over") {
            let hex = hex(&read);
            let _ = stream.write_all(hex.as_bytes());
            return;
        }
    }
}

const ODD_ANSWER: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 299 Odd Reason\r\nx-ODD:   1\r\nTransfer-encoding: chunked\r\n\r\n3;e=\"f\"\r\nabc\r\n0\r\nT: r\r\n\r\n";

/// Answers each of two requests in its own odd way.
fn odd_answers(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    let mut read = Vec::new();
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        read.extend_from_slice(&bytes[..n]);
        if read.windows(3).filter(|three| three == b"end").count() == 2 {
            let _ = stream.write_all(&[ODD_ANSWER, ODD_ANSWER].concat());
            read.clear();
        }
    }
}

fn speaks_first(mut stream: TcpStream) {
    stream.write_all(b"220 ready\r\n").unwrap();
    let mut line = [0; 6];
    if stream.read_exact(&mut line).is_ok() {
        let _ = stream.write_all(b"250 ok\r\n");
    }
}

/// Echoes, and passes a half-close on.
fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut bytes) {
        let _ = stream.write_all(&bytes[..n]);
    }
    let _ = stream.write_all(b"bye");
    let _ = stream.shutdown(Shutdown::Write);
}

/// Switches to another protocol, in which it echoes.
fn upgrades(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream
        .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
        .unwrap();
    echo(stream);
}

#[test]
fn what_is_not_chosen_goes_through_byte_for_byte_whatever_it_is() {
    let Some(place) = Place::new() else { return };
    for (port, server) in [
        (9001, odd as fn(TcpStream)),
        (9002, odd_answers),
        (9003, speaks_first),
        (9004, echo),
        (9005, upgrades),
    ] {
        place.serve(&format!("127.0.0.1:{port}"), server);
        let at = format!("127.0.0.1:{port}");
        let mut fault = place.net.brownout(&place.world.state());
        fault.args([
            "inject",
            "http",
            "--yes",
            "--for",
            "60s",
            "--to",
            &at,
            "path_regex=^/never$",
            "status=503",
        ]);
        fault.stdout(Stdio::null()).stderr(Stdio::null());
        let mut runner = Owned::start(&mut fault);
        eventually("it is live", || place.net.prints("nft", &["list", "ruleset"]).contains("tproxy ip to"));
        let mut client = place.connect(&at);
        match port {
            9001 => {
                let sent = b"POST /a HTTP/1.1\r\nhOsT:  x \r\nTransfer-Encoding: chunked\r\nX: \xe9\r\n\r\n2;a=b\r\nhi\r\n0\r\nTrailer: 1\r\n\r\nGET /b HTTP/1.0\r\n\r\nGET /c HTTP/1.1\r\nContent-Length: 4\r\n\r\nover";
                client.write_all(sent).unwrap();
                let mut heard = String::new();
                client.read_to_string(&mut heard).unwrap();
                assert_eq!(heard, hex(sent));
            }
            9002 => {
                client.write_all(b"GET /end HTTP/1.1\r\n\r\nGET /end HTTP/1.1\r\n\r\n").unwrap();
                let mut heard = vec![0; 2 * ODD_ANSWER.len()];
                client.read_exact(&mut heard).unwrap();
                assert_eq!(heard, [ODD_ANSWER, ODD_ANSWER].concat());
            }
            9003 => {
                let mut line = [0; 11];
                client.read_exact(&mut line).unwrap();
                assert_eq!(&line, b"220 ready\r\n");
                client.write_all(b"HELO \n").unwrap();
                let mut rest = String::new();
                client.read_to_string(&mut rest).unwrap();
                assert_eq!(rest, "250 ok\r\n");
            }
            9004 => {
                // Half a line of no protocol, and a half-close.
                client.write_all(b"\x00\x01binary").unwrap();
                let mut heard = [0; 8];
                client.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"\x00\x01binary");
                client.shutdown(Shutdown::Write).unwrap();
                let mut rest = String::new();
                client.read_to_string(&mut rest).unwrap();
                assert_eq!(rest, "bye");
            }
            _ => {
                client.write_all(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n").unwrap();
                let mut head = [0; 69];
                client.read_exact(&mut head).unwrap();
                assert!(head.ends_with(b"\r\n\r\n"));
                client.write_all(b"\x81frame").unwrap();
                let mut heard = [0; 6];
                client.read_exact(&mut heard).unwrap();
                assert_eq!(&heard, b"\x81frame");
            }
        }
        runner.kill();
        place.nothing_left();
    }
}

#[test]
fn tls_is_carried_as_it_is_and_the_verdict_says_that_it_cannot_be_read() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let mut fault = place.net.brownout(&place.world.state());
    fault.args(["inject", "http", "--yes", "--for", "60s", "--to", ":8443", "status=503"]);
    let mut fault = Owned::start(fault.stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut said = String::new();
    for line in BufReader::new(fault.0.stderr.as_mut().unwrap()).lines().map(Result::unwrap) {
        said = line;
        if said.contains("cannot be measured") {
            break;
        }
    }
    assert!(said.contains("it speaks TLS, which only its two ends can read"), "{said}");
    assert_eq!(place.curl(&["-k", "https://127.0.0.1:8443/"]), (0, "secret".to_owned()));
}

#[test]
fn connections_made_before_are_not_touched_and_those_made_meanwhile_outlive_the_end() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let mut before = place.connect(SERVER);
    assert!(ask(&mut before, "/text").ends_with("hello world"));
    let runner = place.inject("--to :8080 path=/text status=503");
    assert!(ask(&mut before, "/text").ends_with("hello world"), "it was made before");
    let (mut meanwhile, mut idle) = (place.connect(SERVER), place.connect(SERVER));
    assert!(ask(&mut meanwhile, "/text").starts_with("HTTP/1.1 503"));
    assert!(ask(&mut idle, "/orders").ends_with("order"));
    // A download is under way when it ends.
    let mut download = place.connect(SERVER);
    download.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut some = [0; 1000];
    download.read_exact(&mut some).unwrap();
    runner.signal("-INT");
    // It is asked all the time. The first answer after the end says that it is the last one; between two answers the
    // connection is idle, and an idle one is closed when the process ends, which may be at once.
    let last = loop {
        match try_ask(&mut meanwhile, "/text") {
            Ok(answer) if answer.starts_with("HTTP/1.1 503") => {}
            last => break last,
        }
    };
    if let Ok(answer) = last {
        assert!(answer.ends_with("hello world") && answer.contains("\r\nConnection: close\r\n"), "{answer}");
        assert_eq!(meanwhile.read(&mut [0; 1]).unwrap(), 0, "the client comes back without us");
    }
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "it was idle");
    let mut rest = Vec::new();
    let length = 4 << 20;
    while rest.len() + some.len() < length {
        let mut piece = [0; 8192];
        let n = download.read(&mut piece).unwrap();
        assert!(n > 0, "cut after {}", rest.len());
        rest.extend_from_slice(&piece[..n]);
    }
    runner.end();
    assert!(ask(&mut before, "/text").ends_with("hello world"));
    place.nothing_left();
}

/// Takes a request and never answers.
fn silent(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(1..) = stream.read(&mut bytes) {}
}

/// What a client that waits for an answer hears when its connection ends.
fn waits(mut stream: TcpStream) -> Receiver<(std::io::Result<usize>, Instant)> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let heard = stream.read(&mut [0; 1]);
        let _ = tell.send((heard, Instant::now()));
    });
    told
}

#[test]
fn a_killed_runner_leaves_nothing_and_nobody_waiting() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    place.serve("127.0.0.1:9001", silent);
    let mut runner =
        place.inject(&format!("--to {SERVER} path=/text delay=20s percent=100% method=POST body=x"));
    let _ = &mut runner;
    drop(runner);
    place.nothing_left();
    let mut runner = place.inject("--to :8080 path=/text status=503");
    let mut idle = place.connect(SERVER);
    assert!(ask(&mut idle, "/text").starts_with("HTTP/1.1 503"));
    let mut download = place.connect(SERVER);
    download.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    download.read_exact(&mut [0; 10]).unwrap();
    let idle = waits(idle);
    let killed = Instant::now();
    runner.kill();
    let (heard, at) = idle.recv_timeout(AT_ONCE).expect("an idle client hears of it");
    println!(
        "http, server here: an idle client heard {heard:?} {:?} after SIGKILL",
        at.duration_since(killed)
    );
    let begun = Instant::now();
    while let Ok(1..) = download.read(&mut [0; 8192]) {
        assert!(begun.elapsed() < LIMIT);
    }
    assert_eq!(place.curl(&[&format!("http://{SERVER}/text")]).1, "hello world");
    println!("http, server here: all as before {:?} after SIGKILL", killed.elapsed());
    place.nothing_left();
}

/// Two networks joined by a cable: 10.9.0.1 and 10.9.0.2.
fn pair() -> Option<(Place, Place)> {
    let (one, two) = (Place::new()?, Place::new()?);
    let ip = |net: &Netns, arguments: &str| {
        assert!(net.command("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    };
    ip(&one.net, &format!("link add cable type veth peer name cable netns {}", two.net.holder()));
    for (place, n) in [(&one, 1), (&two, 2)] {
        ip(&place.net, &format!("addr add 10.9.0.{n}/24 dev cable"));
        ip(&place.net, "link set cable up");
    }
    Some((one, two))
}

#[test]
fn a_server_elsewhere_is_hurt_for_the_clients_here_and_a_server_here_for_those_elsewhere() {
    let Some((ours, theirs)) = pair() else { return };
    let Some(_nginx) = theirs.nginx() else { return };
    let url = "http://10.9.0.2:8080/text";
    // Where the server is.
    let runner = theirs.inject("--to 10.9.0.2:8080 path=/text status=503 body=here");
    assert_eq!(ours.curl(&[url]).1, "here");
    assert_eq!(theirs.curl(&[url]).1, "here");
    runner.end();
    theirs.nothing_left();
    // Where the client is: redirected, with its connections tracked.
    let mut before = ours.connect("10.9.0.2:8080");
    assert!(ask(&mut before, "/text").ends_with("hello world"));
    for killed in [false, true] {
        let mut runner = ours.inject("--to 10.9.0.2:8080 path=/text status=503 body=there");
        assert!(runner.said.contains("redirect, since the server is elsewhere"), "{}", runner.said);
        assert_eq!(ours.curl(&[url]).1, "there");
        assert_eq!(theirs.curl(&[url]).1, "hello world", "it is not a client here");
        assert!(ask(&mut before, "/text").ends_with("hello world"), "it was made before");
        let mut idle = ours.connect("10.9.0.2:8080");
        assert!(ask(&mut idle, "/orders").ends_with("order"));
        let mut download = ours.connect("10.9.0.2:8080");
        download.write_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut got = vec![0; 1000];
        download.read_exact(&mut got).unwrap();
        if killed {
            let (idle, ended) = (waits(idle), Instant::now());
            runner.kill();
            let (heard, at) = idle.recv_timeout(AT_ONCE).expect("an idle client hears of it");
            println!(
                "http, server elsewhere: an idle client heard {heard:?} {:?} after SIGKILL",
                at.duration_since(ended)
            );
            while let Ok(1..) = download.read(&mut [0; 8192]) {}
            assert!(ended.elapsed() < LIMIT, "a client that was being answered waits for ever");
        } else {
            runner.signal("-INT");
            // Its rules are off and its translation is not.
            let mut piece = [0; 8192];
            while got.len() < 4 << 20 {
                let n = download.read(&mut piece).unwrap();
                assert!(n > 0, "cut after {}", got.len());
                got.extend_from_slice(&piece[..n]);
            }
            runner.end();
        }
        ours.nothing_left();
        assert_eq!(ours.curl(&[url]).1, "hello world");
        assert!(ask(&mut before, "/text").ends_with("hello world"));
    }
}

#[test]
fn a_runner_that_hangs_hurts_nobody_after_its_lease() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let mut runner = place.inject("--to :8080 path=/text status=503");
    runner.signal("-STOP");
    let since = Instant::now();
    let spared = || place.curl(&["-m", "1", &format!("http://{SERVER}/text")]).1 == "hello world";
    eventually("its lease runs out", spared);
    println!("http: a runner that hangs was passed by after {:?}", since.elapsed());
    place.nothing_left();
    assert!(!runner.child.wait().unwrap().success(), "the watchdog ends it");
}

#[test]
fn only_the_processes_named_in_from_are_hurt() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let named = place.path("named-client");
    support::copy_program("/bin/bash", &named);
    let script = "echo ready; while read; do exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /text HTTP/1.0\\r\\n\\r\\n' >&3; \
                  head -n 1 <&3; exec 3<&-; done";
    let client = |program: &Path| {
        let mut command = place.net.command(program);
        let child =
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut child = Owned(child);
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        (child, lines)
    };
    let (mut meant, mut meant_says) = client(&named);
    let (mut other, mut other_says) = client(Path::new("/bin/bash"));
    let mut command = place.net.brownout(&place.world.state());
    command.args(["inject", "http", "--yes", "--for", "60s", "--to", ":8080", "--from-exe"]).arg(&named);
    command.args(["status=503"]).stdout(Stdio::null()).stderr(Stdio::null());
    let _runner = Owned::start(&mut command);
    eventually("it is live", || place.net.prints("nft", &["list", "ruleset"]).contains("tproxy ip to"));
    meant.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    other.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert!(meant_says.next().unwrap().unwrap().starts_with("HTTP/1.1 503"));
    assert!(other_says.next().unwrap().unwrap().starts_with("HTTP/1.1 200"));
}

const GRPC: &str = r"
import sys, grpc
from concurrent import futures
same = lambda x: x
def handle(details):
    if details.method == '/shop.Orders/Watch':
        return grpc.unary_stream_rpc_method_handler(lambda r, c: iter([r] * 5))
    return grpc.unary_unary_rpc_method_handler(lambda r, c: b'did ' + r)
class Any(grpc.GenericRpcHandler):
    def service(self, details): return handle(details)
if sys.argv[1] == 'serve':
    server = grpc.server(futures.ThreadPoolExecutor(4)); server.add_generic_rpc_handlers((Any(),))
    server.add_insecure_port('127.0.0.1:50051'); server.start(); print('ready', flush=True); server.wait_for_termination()
channel = grpc.insecure_channel('127.0.0.1:50051')
for line in sys.stdin:
    try:
        if line.strip() == 'Watch': said = len(list(channel.unary_stream('/shop.Orders/Watch')(b'x' * 100000, timeout=40)))
        else: said = channel.unary_unary('/shop.Orders/' + line.strip())(b'it', timeout=40).decode()
    except grpc.RpcError as e: said = e.code().name + ' ' + e.details()
    print(said, flush=True)
";

#[test]
fn a_real_grpc_server_fails_as_asked_in_one_method_and_serves_the_others() {
    let Some(place) = Place::new() else { return };
    let python = "/usr/bin/python3";
    if !Command::new(python)
        .args(["-c", "import grpc"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        return skip("it needs python3-grpcio");
    }
    let mut server = place.net.command(python);
    let mut server = Owned::start(server.args(["-c", GRPC, "serve"]).stdout(Stdio::piped()));
    let mut ready = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let start = || {
        let mut client = place.net.command(python);
        client.args(["-c", GRPC, "ask"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = Owned::start(&mut client);
        let says = BufReader::new(client.0.stdout.take().unwrap()).lines();
        (client, says)
    };
    let mut fault = place.net.brownout(&place.world.state());
    fault.args(["inject", "http", "--yes", "--for", "60s", "--to", ":50051", "path=/shop.Orders/Place"]);
    fault
        .args(["grpc_status=UNAVAILABLE", "grpc_message=back soon: 1%"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut fault = Owned::start(&mut fault);
    eventually("it is live", || place.net.prints("nft", &["list", "ruleset"]).contains("tproxy ip to"));
    let (mut client, mut says) = start();
    let mut ask = |what: &str| {
        client.0.stdin.as_mut().unwrap().write_all(format!("{what}\n").as_bytes()).unwrap();
        says.next().unwrap().unwrap()
    };
    assert_eq!(ask("Place"), "UNAVAILABLE back soon: 1%");
    fault.took_hold();
    assert_eq!(ask("Cancel"), "did it");
    assert_eq!(ask("Watch"), "5");
    assert_eq!(ask("Place"), "UNAVAILABLE back soon: 1%");
    assert!(Command::new("kill").args(["-INT", &fault.pid().to_string()]).status().unwrap().success());
    eventually("it is over", || !place.net.prints("nft", &["list", "ruleset"]).contains("elements"));
    assert_eq!(ask("Place"), "did it", "the channel lives on");
    place.nothing_left();
    assert_eq!(ask("Place"), "did it", "and after the end");
}

#[test]
fn of_two_sockets_that_want_the_same_port_ours_is_never_in_the_way() {
    let Some(place) = Place::new() else { return };
    let Some(_nginx) = place.nginx() else { return };
    let runner = place.inject("--to :8080 path=/text status=503");
    let listens = place.net.prints("ss", &["-Hltnp"]);
    let ours: Vec<SocketAddr> = listens
        .lines()
        .filter(|line| line.contains("brownout"))
        .map(|line| line.split_whitespace().nth(3).unwrap().parse().unwrap())
        .collect();
    assert!(!ours.is_empty() && ours.iter().all(|at| at.ip().is_loopback()), "{listens}");
    // Who comes to us directly was not going anywhere.
    let mut direct = place.connect(&ours[0].to_string());
    assert!(matches!(direct.read(&mut [0; 1]), Ok(0) | Err(_)));
    runner.end();
}
