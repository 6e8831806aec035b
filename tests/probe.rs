//! The probes against real sockets: a zoo of servers that do what servers do when they are hurt.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brownout::base::{Clock, Dice, Rate};
use brownout::host::process::Process;
use brownout::probe::{
    AnyProbe, AnyProber, Beats, News, Phases, Rhythm, Schedule, Setting, look_once, watch,
};
use brownout::slo::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use looking::{
    Authority, GOOD, LONG, acceptor, bad, look, nobody, prober, prober_in, seen, server, tls_server,
};

/// Reads the head of a request; `None` when the connection ends before.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// What a server does once it has answered.
#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Hold,
}

async fn answering(answer: &'static [u8], then: Then) -> SocketAddr {
    server(move |mut stream, _| async move {
        request(&mut stream).await;
        let _ = stream.write_all(answer).await;
        match then {
            Then::Close => {}
            Then::Reset => stream.set_zero_linger().unwrap(),
            Then::Hold => drop(stream.read_u8().await),
        }
    })
    .await
}

// ------------------------------------------------------------------------------- the law of every kind

/// Of each kind, the least that a file must say.
fn samples(address: SocketAddr) -> Vec<(&'static str, String)> {
    vec![
        ("http", format!("url = 'http://{address}/'")),
        ("tcp", format!("address = '{address}'\nexpect = 'x'")),
        ("exec", "run = ['/no/such/command']".to_owned()),
        ("tls", format!("address = '{address}'\ninsecure = true")),
        ("redis", format!("address = '{address}'")),
        ("postgres", format!("address = '{address}'")),
        ("grpc", format!("address = '{address}'")),
        ("udp", format!("address = '{address}'\nsend = 'x'")),
        ("icmp", "host = '255.255.255.255'".to_owned()),
        ("file", "path = '/no/such/file'".to_owned()),
        ("dns", format!("address = '{address}'\nname = 'a'\nprotocol = 'tcp'")),
        ("metric", format!("url = 'http://{address}/metrics'\nname = 'up'")),
        ("log", "path = '/no/such/file'\nregex = 'x'\nexpect = { below = 1 }".to_owned()),
        ("scenario", "[[steps]]\nname = 'a'\nexec = { run = ['/no/such/command'] }".to_owned()),
        ("host", "of = 'disk-free'\npath = '/no/such/file'\nexpect = { above = 0 }".to_owned()),
        ("promql", format!("url = 'http://{address}'\nquery = 'up'\nexpect = {{ above = 0 }}")),
        ("mysql", format!("address = '{address}'\nuser = 'u'")),
    ]
}

#[tokio::test]
async fn every_kind_is_documented_and_tells_why_a_dead_endpoint_is_not_good() {
    let samples = samples(nobody().await);
    let sampled: Vec<&str> = samples.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(sampled, AnyProbe::KINDS, "each kind has its sample here");
    for (kind, text) in samples {
        let (about, fields) = AnyProbe::explain(kind).unwrap();
        assert!(about.trim().len() > 20 && !fields.is_empty(), "{kind}");
        for field in fields {
            assert!(!field.doc.trim().is_empty() && field.schema.is_object(), "{kind}.{}", field.name);
            assert!(!field.required || field.default.is_empty(), "{kind}.{}", field.name);
        }
        let probe = AnyProbe::from_toml(kind, &text).unwrap();
        assert_eq!(probe.kind(), kind);
        assert!(!probe.looks_at().is_empty());
        let sample = look(&prober(kind, &text)).await.sample;
        assert_ne!(sample.outcome, Outcome::Good, "{kind}");
        assert!(sample.why.is_some_and(|why| why.len() > 10), "{kind}");
    }
    assert!(AnyProbe::explain("nonsense").is_none());
}

#[tokio::test]
async fn a_look_that_is_dropped_leaves_no_connection() {
    let (closed, mut closings) = tokio::sync::mpsc::channel(8);
    let (opened, mut openings) = tokio::sync::mpsc::channel(8);
    let silent = server(move |mut stream, _| {
        let (closed, opened) = (closed.clone(), opened.clone());
        async move {
            opened.send(()).await.unwrap();
            let mut part = [0; 1024];
            while stream.read(&mut part).await.is_ok_and(|length| length > 0) {}
            closed.send(()).await.unwrap();
        }
    })
    .await;
    for (kind, text) in samples(silent)
        .into_iter()
        .filter(|(kind, _)| !["exec", "udp", "icmp", "file", "log", "host", "scenario"].contains(kind))
    {
        let prober = prober(kind, &text);
        tokio::select! {
            outcome = seen(&prober) => panic!("{kind}: {outcome:?}"),
            _ = openings.recv() => {}
        }
        // The prober is still there; only the look is not.
        let left = tokio::time::timeout(LONG, closings.recv()).await;
        assert!(left.is_ok(), "{kind} left its connection open");
        drop(prober);
    }
}

#[tokio::test]
async fn a_look_that_outlives_its_timeout_takes_its_whole_process_group_along() {
    let folder = tempfile::tempdir().unwrap();
    let text = "run = ['sh', '-c', 'echo $$ > leader; sleep 60 & echo $! > child; wait']";
    let prober = prober_in(folder.path(), "exec", text);
    let limit = Duration::from_secs(1);
    let pids = async {
        let pid = |name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        while !pid("child").ends_with('\n') {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        [pid("leader"), pid("child")].map(|pid| Process::of_pid(pid.trim().parse().unwrap()).unwrap())
    };
    let clock = Clock::start();
    let (look, pinned) = tokio::join!(look_once(0, &prober, &clock, limit), pids);
    assert_eq!(look.sample.outcome, Outcome::Bad);
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 1 s"));
    for process in pinned {
        assert!(process.wait_gone(LONG).await);
    }
}

// ----------------------------------------------------------------------------------------------- http

fn http(address: SocketAddr, more: &str) -> AnyProber {
    prober("http", &format!("url = 'http://{address}/'\n{more}"))
}

/// How one look at a server came out that answers like that; its address in the reason is `PEER`.
async fn answer(answer: &'static [u8], then: Then, more: &str) -> (Outcome, String) {
    let address = answering(answer, then).await;
    let (outcome, why) = seen(&http(address, more)).await;
    (outcome, why.replace(&address.to_string(), "PEER"))
}

#[tokio::test]
async fn answers_are_judged_by_what_is_expected() {
    const JSON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{\"ok\":true,\"n\":1.0,\"items\":[{\"a\":[1]}]}\n";
    const PAGE: &[u8] =
        b"HTTP/1.1 200 OK\r\nX-Two: one\r\nX-Two: two\r\nContent-Length: 24\r\n\r\n<html>all is well</html>";
    const EMPTY: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
    const DOWN: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ndown";
    const MOVED: &[u8] = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n";
    for (bytes, more, wanted) in [
        (JSON, "", GOOD),
        (EMPTY, "", GOOD),
        (EMPTY, "expect = { status = '204' }", GOOD),
        (MOVED, "expect = { status = ['2xx', 302] }", GOOD),
        (MOVED, "", bad("status 302, expected 2xx")),
        (DOWN, "", bad("status 503, expected 2xx")),
        (DOWN, "expect = { status = ['200', '204'] }", bad("status 503, expected 200 or 204")),
        (DOWN, "expect = { status = '503', body = 'down' }", GOOD),
        (PAGE, "expect = { body = 'all is well' }", GOOD),
        (PAGE, "expect = { body_regex = '^<html>.*</html>$' }", GOOD),
        (PAGE, "expect = { header = { x-two = '^two$' } }", GOOD),
        (PAGE, "expect = { header = { X-Two = 'three' } }", bad("header x-two is `one`, expected `three`")),
        (PAGE, "expect = { header = { x-no = '.' } }", bad("there is no header x-no, expected `.`")),
        (
            PAGE,
            "expect = { body = 'ok' }",
            bad("the body does not contain `ok`; it begins `<html>all is well</html>`"),
        ),
        (
            PAGE,
            "expect = { body_regex = '^ok' }",
            bad("the body does not match `^ok`; it begins `<html>all is well</html>`"),
        ),
        (EMPTY, "expect = { body = 'ok' }", bad("the body is empty, expected `ok`")),
        (JSON, "expect = { json = { '$.ok' = true, '$.n' = 1, '$.items[0]' = { a = [1] } } }", GOOD),
        (JSON, "expect = { json = { '$.ok' = false } }", bad("`$.ok` is `true`, expected `false`")),
        (JSON, "expect = { json = { '$.no' = 1 } }", bad("`$.no` is not in the answer, expected `1`")),
        (
            PAGE,
            "expect = { json = { '$.ok' = true } }",
            bad("the body is not JSON; it begins `<html>all is well</html>`"),
        ),
    ] {
        assert_eq!(answer(bytes, Then::Hold, more).await, wanted, "{more}");
    }
}

#[tokio::test]
async fn broken_answers_are_bad_and_say_how() {
    const CUT: &str = "PEER closed the connection in the middle of the answer";
    let cases: &[(&'static [u8], Then, (Outcome, String))] = &[
        (b"", Then::Close, bad("PEER closed the connection without an answer")),
        (b"", Then::Reset, bad("connection reset by PEER")),
        (b"HTTP/1.1 20", Then::Close, bad(CUT)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", Then::Close, bad(CUT)),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Then::Close, bad(CUT)),
        (b"HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\nabc", Then::Close, bad("status 503, expected 2xx")),
        (
            b"SSH-2.0-OpenSSH_9.6\r\n",
            Then::Hold,
            bad("the answer of PEER is not HTTP: invalid HTTP version parsed"),
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
            Then::Hold,
            bad("the answer of PEER is not HTTP: invalid content-length parsed"),
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            Then::Hold,
            bad("the answer of PEER is not HTTP: invalid content-length parsed"),
        ),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", Then::Close, GOOD),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Hold, GOOD),
    ];
    for (bytes, then, wanted) in cases {
        assert_eq!(answer(bytes, *then, "").await, *wanted, "{}", String::from_utf8_lossy(bytes));
    }
    let nobody = nobody().await;
    assert_eq!(seen(&http(nobody, "")).await, bad(format!("connection refused by {nobody}")));
}

#[tokio::test]
async fn heads_and_bodies_without_an_end_are_bad_not_fatal() {
    let head = server(|mut stream, _| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Much: ").await;
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    })
    .await;
    assert_eq!(seen(&http(head, "")).await, bad(format!("the head of the answer of {head} is too large")));
    let body = server(|mut stream, _| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 16384]).await.is_ok() {}
    })
    .await;
    assert_eq!(seen(&http(body, "expect = { body = 'x' }")).await, bad("the body is longer than 16 MiB"));
    let long = server(|mut stream, _| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2097153\r\n\r\n").await;
        let _ = stream.write_all(&vec![b'x'; 2 << 20]).await;
        let _ = stream.write_all(b"y").await;
        let _ = stream.read_u8().await;
    })
    .await;
    assert_eq!(seen(&http(long, "expect = { body = 'x' }")).await, GOOD);
    let (outcome, why) = seen(&http(long, "expect = { body = 'y' }")).await;
    let wanted =
        format!("the first 1 MiB of the body does not contain `y`; it begins `{}...`", "x".repeat(60));
    assert_eq!((outcome, why), bad(wanted));
    assert_eq!(
        seen(&http(long, "expect = { json = { '$' = 1 } }")).await,
        bad("the body is longer than 1 MiB, too long to be read as JSON")
    );
}

#[tokio::test]
async fn a_server_that_never_answers_is_bad_at_the_deadline() {
    let silent = answering(b"", Then::Hold).await;
    let look = look_once(0, &http(silent, ""), &Clock::start(), Duration::from_millis(200)).await;
    assert_eq!(look.sample.outcome, Outcome::Bad);
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 200 ms"));
    assert!(look.sample.latency() >= Duration::from_millis(200));
}

/// Answers what it is asked for ever, and says what it was asked.
async fn echoing(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(head) = request(&mut stream).await {
        let length = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let said = head.to_lowercase() + &String::from_utf8(body).unwrap();
        // An answer to HEAD has no body, whatever its length says.
        let shown = if head.starts_with("HEAD") { "" } else { said.as_str() };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{shown}", said.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_asked_is_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("body"), "from a file").unwrap();
    std::fs::write(folder.path().join("token"), "s3cret\n").unwrap();
    let echo = server(|stream, _| echoing(stream)).await;
    let expect = |wanted: &str| format!("expect = {{ body_regex = '{wanted}' }}");
    for (path, more, wanted) in [
        ("/a?b=c", "", "^get /a\\?b=c http/1.1"),
        ("", "", "^get / http/1.1"),
        ("/", "method = 'POST'\nbody = 'hello'", "(?s)^post / .*content-length: 5.*hello$"),
        ("/", "method = 'PUT'\nbody_file = 'body'", "(?s)^put / .*from a file$"),
        ("/", "method = 'DELETE'", "^delete /"),
        ("/", "headers = { X-Mine = 'yes' }", "x-mine: yes"),
        ("/", "headers = { Host = 'shop.example' }", "host: shop.example"),
        ("/", "", "user-agent: brownout/"),
        ("/", "bearer = 'abc'", "authorization: bearer abc\r\n"),
        ("/", "bearer_file = 'token'", "authorization: bearer s3cret\r\n"),
        ("/", "basic = { user = 'u', password_file = 'token' }", "authorization: basic dtpzm2nyzxq=\r\n"),
    ] {
        let wanted = wanted.replace("\r\n", "\\r\\n");
        let text = format!("url = 'http://{echo}{path}'\n{more}\n{}", expect(&wanted));
        assert_eq!(seen(&prober_in(folder.path(), "http", &text)).await, GOOD, "{more}");
    }
    let host = seen(&http(echo, &expect(&format!("host: {echo}")))).await;
    assert_eq!(host, GOOD);
    let head = http(echo, "method = 'HEAD'");
    assert_eq!((seen(&head).await, seen(&head).await), (GOOD, GOOD));
}

#[tokio::test]
async fn a_name_is_looked_up_and_the_parts_of_a_look_are_told() {
    let port = server(|stream, _| echoing(stream)).await.port();
    let prober = prober("http", &format!("url = 'http://localhost:{port}/'"));
    let first = look(&prober).await;
    let Phases { lookup, connect, tls, first_byte, transfer, .. } = first.phases;
    assert!(lookup.is_some() && connect.is_some() && first_byte.is_some() && transfer.is_some());
    assert!(tls.is_none());
    let parts: Duration = [lookup, connect, first_byte, transfer].into_iter().flatten().sum();
    assert!(parts <= first.sample.latency());
    let second = look(&prober).await.phases;
    assert!(second.lookup.is_none() && second.connect.is_none() && second.first_byte.is_some());
}

/// Counts connections and requests.
async fn counting() -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let shared = counts.clone();
    let address = server(move |mut stream, _| {
        let counts = shared.clone();
        async move {
            counts[0].fetch_add(1, Ordering::SeqCst);
            while request(&mut stream).await.is_some() {
                counts[1].fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (address, counts)
}

#[tokio::test]
async fn connections_are_kept_or_fresh_as_the_file_says() {
    for (more, connections) in [("", 1), ("connection = 'keep-alive'", 1), ("connection = 'fresh'", 10)] {
        let (address, counts) = counting().await;
        let prober = http(address, more);
        for _ in 0..10 {
            assert_eq!(seen(&prober).await, GOOD);
        }
        let counted = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        assert_eq!(counted, [connections, 10], "{more}");
    }
}

/// Answers the first request of each connection, and at the second does what `second` says.
async fn once_good(second: fn(TcpStream)) -> (SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let shared = requests.clone();
    let address = server(move |mut stream, _| {
        let requests = shared.clone();
        async move {
            request(&mut stream).await;
            requests.fetch_add(1, Ordering::SeqCst);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            if request(&mut stream).await.is_some() {
                requests.fetch_add(1, Ordering::SeqCst);
                second(stream);
            }
        }
    })
    .await;
    (address, requests)
}

#[tokio::test]
async fn a_kept_connection_that_dies_unanswered_is_replaced_once_if_asking_again_is_harmless() {
    for end in [drop as fn(TcpStream), |stream| stream.set_zero_linger().unwrap()] {
        let (address, requests) = once_good(end).await;
        let get = http(address, "");
        assert_eq!(seen(&get).await, GOOD);
        let again = look(&get).await;
        assert_eq!(again.sample.outcome, Outcome::Good);
        assert!(again.phases.connect.is_some(), "on a fresh connection");
        assert_eq!(requests.load(Ordering::SeqCst), 3);

        let (address, requests) = once_good(end).await;
        let post = http(address, "method = 'POST'");
        assert_eq!(seen(&post).await, GOOD);
        assert_eq!(seen(&post).await.0, Outcome::Bad, "an order must not be placed twice");
        assert_eq!(requests.load(Ordering::SeqCst), 2);
    }
    // Half an answer is an answer: nothing is asked again.
    let (address, requests) = once_good(|mut stream| {
        tokio::spawn(async move { stream.write_all(b"HTTP/1.1 200 OK\r\n").await });
    })
    .await;
    let get = http(address, "");
    assert_eq!(seen(&get).await, GOOD);
    assert_eq!(seen(&get).await, bad(format!("{address} closed the connection in the middle of the answer")));
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_is_not_fit_to_be_kept_is_not() {
    let unfit: &[&'static [u8]] = &[
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Not asked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ];
    for bytes in unfit {
        let prober = http(answering(bytes, Then::Hold).await, "");
        for _ in 0..3 {
            let look = look(&prober).await;
            assert_eq!(look.sample.why, None, "{}", String::from_utf8_lossy(bytes));
            assert!(look.phases.connect.is_some());
        }
    }
}

#[tokio::test]
async fn a_connection_is_closed_when_its_server_says_so_and_not_asked_when_its_server_has_left() {
    let (closed, mut closings) = tokio::sync::mpsc::channel(1);
    let leaving = closed.clone();
    let last = server(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            request(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            assert!(stream.read_u8().await.is_err());
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let prober = http(last, "");
    assert_eq!(seen(&prober).await, GOOD);
    assert!(tokio::time::timeout(LONG, closings.recv()).await.is_ok(), "it is closed at once");

    let leave = Arc::new(tokio::sync::Notify::new());
    let told = leave.clone();
    let leaver = server(move |mut stream, _| {
        let (leaving, told) = (leaving.clone(), told.clone());
        async move {
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            told.notified().await;
            drop(stream);
            leaving.send(()).await.unwrap();
        }
    })
    .await;
    let post = http(leaver, "method = 'POST'");
    for _ in 0..3 {
        let look = look(&post).await;
        assert_eq!(look.sample.why, None);
        assert!(look.phases.connect.is_some(), "on a fresh connection");
        leave.notify_one();
        closings.recv().await.unwrap();
        // The runtime hears of the end once it has nothing else to do.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ------------------------------------------------------------------------------------------------ TLS

impl Authority {
    /// A web server with a certificate for a name until a year; its port.
    async fn server(&self, name: &str, until: i32) -> u16 {
        tls_server(self.acceptor(name, until), echoing).await
    }

    fn https(&self, port: u16, more: &str) -> AnyProber {
        self.prober("http", &format!("url = 'https://localhost:{port}/'\n{more}"))
    }
}

#[tokio::test]
async fn certificates_are_checked_and_what_is_wrong_is_told() {
    let authority = Authority::new();
    let trusted = "ca_file = 'ca.pem'";
    let right = authority.server("localhost", 4000).await;
    let prober = authority.https(right, trusted);
    let first = look(&prober).await;
    assert_eq!((first.sample.outcome, first.sample.why), (Outcome::Good, None));
    assert!(first.phases.tls.is_some() && first.phases.lookup.is_some());
    assert!(look(&prober).await.phases.tls.is_none(), "the connection was kept");

    let expired = authority.server("localhost", 2001).await;
    let foreign = authority.server("shop.example", 4000).await;
    let said = |port: u16, what: &str| bad(format!("TLS with 127.0.0.1:{port}: {what}"));
    assert_eq!(seen(&authority.https(expired, trusted)).await, said(expired, "the certificate has expired"));
    assert_eq!(
        seen(&authority.https(foreign, trusted)).await,
        said(foreign, "the certificate is for shop.example, not for localhost")
    );
    let alone = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let alone = acceptor(vec![alone.cert.der().clone()], &alone.signing_key, rustls::ALL_VERSIONS);
    let alone = tls_server(alone, echoing).await;
    assert_eq!(
        seen(&authority.https(alone, trusted)).await,
        said(alone, "the certificate's issuer is not trusted")
    );
    for port in [right, expired, foreign, alone] {
        assert_eq!(seen(&authority.https(port, "insecure = true")).await, GOOD);
    }
}

#[tokio::test]
async fn a_server_without_tls_is_told_apart_from_one_with_a_wrong_certificate() {
    let authority = Authority::new();
    let server = server(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let (outcome, why) = seen(&authority.https(server.port(), "insecure = true")).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.starts_with(&format!("TLS with {server}: ")), "{why}");
    let closing = self::server(|stream, _| async move { drop(stream) }).await;
    let (outcome, why) = seen(&authority.https(closing.port(), "insecure = true")).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.ends_with("in the TLS handshake"), "{why}");
}

// ---------------------------------------------------------------------------------------- tcp and exec

#[tokio::test]
async fn tcp_connects_and_may_have_a_word() {
    let pong = answering_line(b"+PONG\r\n").await;
    let tcp = |address: SocketAddr, more: &str| prober("tcp", &format!("address = '{address}'\n{more}"));
    assert_eq!(seen(&tcp(pong, "")).await, GOOD);
    assert_eq!(seen(&tcp(pong, "send = \"PING\\r\\n\"\nexpect = 'PONG'")).await, GOOD);
    assert_eq!(
        seen(&tcp(pong, "send = \"PING\\r\\n\"\nexpect = 'OK'")).await,
        bad("the answer does not contain `OK`; it begins `+PONG`")
    );
    let mute = server(|stream, _| async move { drop(stream) }).await;
    assert_eq!(
        seen(&tcp(mute, "expect = 'OK'")).await,
        bad(format!("{mute} closed the connection without a word"))
    );
    let nobody = nobody().await;
    assert_eq!(seen(&tcp(nobody, "")).await, bad(format!("connection refused by {nobody}")));
    let named = prober("tcp", &format!("address = 'localhost:{}'", pong.port()));
    let phases = look(&named).await.phases;
    assert!(phases.lookup.is_some() && phases.connect.is_some());
}

async fn answering_line(answer: &'static [u8]) -> SocketAddr {
    server(move |mut stream, _| async move {
        while stream.read_u8().await.is_ok_and(|byte| byte != b'\n') {}
        let _ = stream.write_all(answer).await;
    })
    .await
}

#[tokio::test]
async fn exec_is_judged_by_its_code_and_its_words() {
    let exec = |script: &str, expect: &str| {
        prober("exec", &format!("run = ['sh', '-c', \"{script}\"]\nexpect = {{ {expect} }}"))
    };
    for (script, expect, wanted) in [
        ("exit 0", "", GOOD),
        ("exit 3", "code = 3", GOOD),
        ("echo all is well", "stdout = 'is well'", GOOD),
        ("exit 3", "", bad("exit code 3, expected 0")),
        ("echo no space left >&2; exit 1", "", bad("exit code 1, expected 0; it said `no space left`")),
        ("echo down; exit 2", "", bad("exit code 2, expected 0; it said `down`")),
        ("kill -KILL $$", "", bad("ended by signal: 9 (SIGKILL)")),
        ("echo down", "stdout = 'up'", bad("its output does not contain `up`; it begins `down`")),
    ] {
        assert_eq!(seen(&exec(script, expect)).await, wanted, "{script}");
    }
    assert_eq!(
        seen(&prober("exec", "run = ['/no/such']")).await,
        (Outcome::Missed, "`/no/such` cannot be started: No such file or directory (os error 2)".to_owned())
    );
    let folder = tempfile::tempdir().unwrap();
    let here = prober_in(folder.path(), "exec", "run = ['sh', '-c', 'pwd > here']");
    assert_eq!(seen(&here).await, GOOD);
    assert!(folder.path().join("here").exists());
}

// ---------------------------------------------------------------------------------- what is refused

fn refused(kind: &str, text: &str) -> String {
    AnyProbe::from_toml(kind, text).unwrap_err()
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place_and_the_remedy() {
    let url = "url = 'http://a/'\n";
    for (kind, text, why) in [
        ("http", "", "http:1: probe http lacks `url` (add `url = ...` (a URL))"),
        (
            "http",
            "url = 'localhost:80'",
            "http:1: `localhost:80` is not a URL: it does not begin with http:// or https:// (write it like \"http://localhost:8080/healthz\")",
        ),
        (
            "http",
            "url = 'http://u:hidden@a/'",
            "http:1: the URL holds a user or a password (use `basic` or `bearer_file`)",
        ),
        ("http", "URL+expext = 1", "http:2: probe http has no field `expext` (did you mean `expect`?)"),
        (
            "http",
            "URL+expect = { stauts = '2xx' }",
            "http:2: `expect` has no field `stauts` (did you mean `status`?)",
        ),
        ("http", "URL+expect = '2xx'", "http:2: `expect` must be a table, not a string"),
        (
            "http",
            "URL+expect = { status = 'ok' }",
            "http:2: `ok` is not a status (write \"2xx\", \"200\", or a list of these)",
        ),
        (
            "http",
            "URL+expect = { status = [200, 2000] }",
            "http:2: 2000 is not a status (write \"2xx\", \"200\", or a list of these)",
        ),
        (
            "http",
            "URL+expect = { status = [] }",
            "http:2: no status is expected (write \"2xx\", \"200\", or a list of these)",
        ),
        (
            "http",
            "URL+expect = { body_regex = '(' }",
            "http:2: `(` is not a regular expression: unclosed group (write \\\\ before a special character)",
        ),
        ("http", "URL+expect = { header = { 'a b' = 'c' } }", "http:2: `a b` cannot be the name of a header"),
        (
            "http",
            "URL+method = 'get'",
            "http:2: `get` is not a method (write it in capitals, like \"GET\" or \"POST\")",
        ),
        (
            "http",
            "URL+connection = 'keepalive'",
            "http:2: `keepalive` is not a way to connect (did you mean `keep-alive`?)",
        ),
        (
            "http",
            "URL+headers = { Content-Length = '1' }",
            "http:2: the header `Content-Length` cannot be given: we set it ourselves",
        ),
        ("http", "URL+bearer = ''", "http:2: the secret is empty (is its variable set?)"),
        (
            "http",
            "URL+basic = { user = 'a' }",
            "http:2: `basic` lacks a password (give one of `password` and `password_file`)",
        ),
        (
            "http",
            "URL+body = 'a'\nbody_file = 'b'",
            "http:1: both `body` and `body_file` are given (give one of them)",
        ),
        (
            "http",
            "URL+bearer = 'hidden'\nbearer_file = 'b'",
            "http:1: more than one of `bearer`, `bearer_file` and `basic` is given (give one of them)",
        ),
        (
            "http",
            "URL+insecure = true",
            "http:1: `ca_file` and `insecure` mean nothing for an http:// URL (leave them out, or use https://)",
        ),
        (
            "tcp",
            "address = 'localhost'",
            "tcp:1: `localhost` is not an address: the port is missing (write it as \"host:port\", \"192.0.2.7:80\" or \"[2001:db8::7]:80\")",
        ),
        ("exec", "run = []", "exec:1: `run` names no program (write run = [\"program\", \"argument\"])"),
        ("exec", "run = ['a']\nexpect = { code = 256 }", "exec:2: 256 is not an exit code (use 0 to 255)"),
        (
            "exec",
            "run = ['a']\nexpect = { stdot = 'x' }",
            "exec:2: `expect` has no field `stdot` (did you mean `stdout`?)",
        ),
    ] {
        assert_eq!(refused(kind, &text.replace("URL+", url)), why);
    }
    let path = refused("http", "url = 'http://a/'\nexpect = { json = { 'ok' = true } }");
    assert!(path.starts_with("http:2: `ok` is not a JSON path: "), "{path}");
    assert!(path.ends_with("(write it like \"$.items[0].ok\" (RFC 9535))"), "{path}");
    assert_eq!(refused("smoke", ""), "there is no probe kind `smoke`");
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text =
        "url = 'a'\nmethod = 'get'\nexpect = { status = 'ok', body = 1, header = { x = '(' } }\nbasic = 1\n";
    assert_eq!(refused("http", text).lines().count(), 6);
}

#[test]
fn secrets_are_not_printed() {
    let text = "url = 'http://a/'\nheaders = { X-Key = 'hidden' }\nbearer = 'hidden'";
    let probe = AnyProbe::from_toml("http", text).unwrap();
    assert!(!format!("{probe:?} {}", probe.looks_at()).contains("hidden"));
    let text = "url = 'http://a/'\nbasic = { user = 'u', password = 'hidden' }";
    let probe = AnyProbe::from_toml("http", text).unwrap();
    assert!(!format!("{probe:?}").contains("hidden"));
    let setting = Setting { directory: "/".into(), timeout: LONG, facts: false, whom: None, from: None };
    let text = "url = 'http://a/'\nbearer = \"hidden\\u0000\"";
    let why = AnyProbe::from_toml("http", text).unwrap().prober(&setting).err().unwrap();
    assert_eq!(why, "the token holds a control character, which no header may");
}

#[test]
fn a_prober_says_which_file_it_lacks() {
    let authority = Authority::new();
    let setting = Setting {
        directory: authority.folder.path().to_owned(),
        timeout: LONG,
        facts: false,
        whom: None,
        from: None,
    };
    for (more, why) in [
        ("body_file = 'no'", "body_file FOLDER/no: No such file or directory (os error 2)"),
        ("bearer_file = 'no'", "bearer_file FOLDER/no: No such file or directory (os error 2)"),
        ("ca_file = 'empty.pem'", "ca_file FOLDER/empty.pem: it holds no PEM certificate"),
    ] {
        let probe = AnyProbe::from_toml("http", &format!("url = 'https://a/'\n{more}")).unwrap();
        let told = probe.prober(&setting).err().unwrap();
        assert_eq!(told, why.replace("FOLDER", &authority.folder.path().display().to_string()));
    }
}

// --------------------------------------------------------------------------------- a schedule for real

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_server_is_seen_to_stall_by_every_look_of_the_stall() {
    const MS: Duration = Duration::from_millis(1);
    let clock = Clock::start();
    let (stall, until) = (500 * MS, 1500 * MS);
    let address = server(move |mut stream, _| async move {
        while request(&mut stream).await.is_some() {
            if clock.now() >= stall {
                clock.sleep_until(until).await;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let rhythm = Rhythm::even(Rate::per_second(200.0).unwrap());
    let beats = Beats::begun(rhythm, &Dice::new(1), "p");
    let schedule = Schedule::now(beats, LONG.into(), 1000, &clock);
    let (news, mut heard) = tokio::sync::mpsc::channel(64);
    let stop = async move { clock.sleep_until(1800 * MS).await };
    let watching = tokio::spawn(watch(3, Arc::new(http(address, "")), schedule, clock, news, stop));
    let (mut begun, mut looks) = (0, Vec::new());
    while let Some(news) = heard.recv().await {
        match news {
            News::Begun { .. } => begun += 1,
            News::Settled(look) => looks.push(look.sample),
        }
    }
    watching.await.unwrap();
    assert_eq!(begun, looks.len());
    assert!(looks.iter().all(|sample| sample.outcome == Outcome::Good), "nothing is missed or bad");
    let stalled: Vec<_> =
        looks.iter().filter(|sample| sample.started >= stall && sample.intended < until).collect();
    assert!(stalled.len() >= 199, "{}", stalled.len());
    // No look of the stall can have been answered before its end: this bound no busy machine can break.
    assert!(stalled.iter().all(|sample| sample.latency() >= until.saturating_sub(sample.intended)));
    let mut excess: Vec<_> = stalled
        .iter()
        .map(|sample| sample.latency().saturating_sub(until.saturating_sub(sample.intended)))
        .collect();
    excess.sort_unstable();
    assert!(excess[excess.len() / 2] < 200 * MS, "{:?}", excess[excess.len() / 2]);
}

// -------------------------------------------------------------------------------------------- nginx

/// A real server, ended with the test.
struct Nginx {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Nginx {
    fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display();
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;
            events {{}}
            http {{
                access_log off; keepalive_requests 3;
                client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;
                uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
                server {{
                    listen 127.0.0.1:PORT;
                    location / {{ return 200 'all is well'; }}
                    location /down {{ return 503; }}
                }}
            }}"
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, config.replace("PORT", &port.to_string())).unwrap();
        std::fs::write(folder.path().join("port"), port.to_string()).unwrap();
        let child = std::process::Command::new("nginx")
            .arg("-c")
            .arg(&file)
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .spawn();
        match child {
            Ok(child) => Some(Self { child, folder }),
            Err(why) => {
                assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"), "nginx: {why}");
                eprintln!("SKIPPED: nginx cannot be started: {why}");
                None
            }
        }
    }

    fn url(&self, path: &str) -> String {
        let port = std::fs::read_to_string(self.folder.path().join("port")).unwrap();
        format!("http://127.0.0.1:{port}{path}")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_real_nginx_is_looked_at_over_connections_that_it_closes_now_and_then() {
    let Some(mut nginx) = Nginx::start() else { return };
    let page = prober("http", &format!("url = '{}'\nexpect = {{ body = 'all is well' }}", nginx.url("/")));
    let begun = std::time::Instant::now();
    while seen(&page).await != GOOD {
        assert!(begun.elapsed() < LONG, "nginx did not start");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut fresh = 0;
    for _ in 0..30 {
        let look = look(&page).await;
        assert_eq!(look.sample.why, None);
        fresh += usize::from(look.phases.connect.is_some());
    }
    assert!((9..=11).contains(&fresh), "three requests a connection: {fresh}");
    let down = prober("http", &format!("url = '{}'", nginx.url("/down")));
    assert_eq!(seen(&down).await, bad("status 503, expected 2xx"));
    nginx.child.kill().unwrap();
    nginx.child.wait().unwrap();
    let (outcome, why) = seen(&page).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.starts_with("connection refused by 127.0.0.1:"), "{why}");
}
