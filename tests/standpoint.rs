//! Probes that look from elsewhere: another network of this host, and a container.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;
mod support;

use std::net::SocketAddr;
use std::path::Path;

use brownout::host::container::Which;
use brownout::host::standpoint::Standpoint;
use brownout::host::target::Netns as Named;
use brownout::probe::{AnyProbe, AnyProber, Setting};
use brownout::slo::Outcome;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use looking::{GOOD, LONG, bad, seen};
use support::{Netns, brownout, said};

/// The network of a process, by the path that leads to it.
fn network(path: &Path) -> Standpoint {
    Standpoint::Network(Named::parse(&path.display().to_string()).unwrap())
}

fn door(netns: &Netns) -> std::path::PathBuf {
    format!("/proc/{}/ns/net", netns.holder()).into()
}

fn from(standpoint: Option<Standpoint>, kind: &str, text: &str) -> AnyProber {
    let setting =
        Setting { directory: "/".into(), timeout: LONG, facts: false, whom: None, from: standpoint };
    AnyProbe::from_toml(kind, text).unwrap().prober(&setting).unwrap()
}

/// A web server that is reached in a network only.
fn web(netns: &Netns) -> SocketAddr {
    let listener = netns.within(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if head.ends_with(b"\r\n\r\n") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            head.clear();
        }
    }
}

#[tokio::test]
async fn a_server_of_another_network_is_seen_from_there_and_only_from_there() {
    let Some(netns) = Netns::new() else { return };
    let there = || Some(network(&door(&netns)));
    let address = web(&netns);
    // A host that only that network knows.
    netns.prints("ip", &["address", "add", "192.0.2.7/32", "dev", "lo"]);
    let echo = netns.within(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    echo.set_nonblocking(true).unwrap();
    let datagrams = UdpSocket::from_std(echo).unwrap();
    let port = datagrams.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut packet = [0; 64];
        while let Ok((length, who)) = datagrams.recv_from(&mut packet).await {
            let _ = datagrams.send_to(&packet[..length], who).await;
        }
    });
    let name = netns.file();
    let name = name.display();
    for (kind, text, here) in [
        ("http", format!("url = 'http://{address}/'"), bad(format!("connection refused by {address}"))),
        (
            "http",
            format!("url = 'http://localhost:{}/'\nconnection = 'fresh'", address.port()),
            bad(format!("connection refused by {address}")),
        ),
        ("tcp", format!("address = '{address}'"), bad(format!("connection refused by {address}"))),
        (
            "udp",
            format!("address = '127.0.0.1:{port}'\nsend = 'x'\nexpect = {{ is = 'x' }}"),
            bad(format!("connection refused by 127.0.0.1:{port}")),
        ),
        (
            "exec",
            format!("run = ['readlink', '/proc/self/ns/net']\nexpect = {{ stdout = '{name}' }}"),
            (Outcome::Bad, String::new()),
        ),
    ] {
        let elsewhere = from(there(), kind, &text);
        for _ in 0..2 {
            assert_eq!(seen(&elsewhere).await, GOOD, "{kind}");
        }
        let (outcome, why) = seen(&from(None, kind, &text)).await;
        assert_eq!(outcome, here.0, "{kind}");
        assert!(why.starts_with(&here.1), "{kind}: {why}");
    }
    assert_eq!(seen(&from(there(), "icmp", "host = '192.0.2.7'")).await, GOOD);
}

#[tokio::test]
async fn a_name_server_of_another_network_is_asked_from_there() {
    let Some(netns) = Netns::new() else { return };
    let server = netns.within(|| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let address = server.local_addr().unwrap();
    server.set_nonblocking(true).unwrap();
    let server = UdpSocket::from_std(server).unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, who)) = server.recv_from(&mut packet).await {
            // The question comes back as an answer without records: a response, no error.
            packet[2] |= 0x80;
            let _ = server.send_to(&packet[..length], who).await;
        }
    });
    let text = format!("address = '{address}'\nname = 'db.example'");
    assert_eq!(seen(&from(Some(network(&door(&netns))), "dns", &text)).await, GOOD);
    assert_eq!(seen(&from(None, "dns", &text)).await, bad(format!("connection refused by {address}")));
}

#[tokio::test]
async fn a_network_that_took_the_place_of_another_is_looked_from_and_one_that_is_gone_is_our_own_trouble() {
    let (Some(first), Some(second)) = (Netns::new(), Netns::new()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("net");
    let lead = |netns: &Netns| {
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(door(netns), &path).unwrap();
    };
    lead(&first);
    let address = web(&second);
    let text = format!("address = '{address}'");
    let tcp = from(Some(network(&path)), "tcp", &text);
    assert_eq!(seen(&tcp).await, bad(format!("connection refused by {address}")));
    lead(&second);
    assert_eq!(seen(&tcp).await, GOOD, "it is found anew");
    std::fs::remove_file(&path).unwrap();
    let (outcome, why) = seen(&tcp).await;
    assert_eq!(outcome, Outcome::Missed);
    let path = path.display();
    assert_eq!(
        why,
        format!(
            "we cannot look from netns {path}: {path}: No such file or directory (os error 2); `ip netns` lists the named ones; or give a path such as /proc/PID/ns/net"
        )
    );
    let exec = from(Some(network(Path::new("/no/such"))), "exec", "run = ['true']");
    assert_eq!(seen(&exec).await.0, Outcome::Missed);
}

/// Of each kind, the least that a file must say.
fn least(kind: &str) -> String {
    match kind {
        "http" => "url = 'http://127.0.0.1:1/'",
        "metric" => "url = 'http://127.0.0.1:1/'\nname = 'up'",
        "promql" => "url = 'http://127.0.0.1:1'\nquery = 'up'\nexpect = { above = 0 }",
        "exec" => "run = ['true']",
        "scenario" => "[[steps]]\nname = 'a'\nexec = { run = ['true'] }",
        "mysql" => "address = '127.0.0.1:1'\nuser = 'u'",
        "udp" => "address = '127.0.0.1:1'\nsend = 'x'",
        "icmp" => "host = '127.0.0.1'",
        "dns" => "address = '127.0.0.1:1'\nname = 'a'",
        "tls" => "address = '127.0.0.1:1'\ninsecure = true",
        "file" => "path = '/etc/passwd'",
        "log" => "path = '/etc/passwd'\nregex = 'x'\nexpect = { below = 1 }",
        _ => "address = '127.0.0.1:1'",
    }
    .to_owned()
}

#[tokio::test]
async fn no_kind_looks_from_here_when_it_was_told_to_look_from_elsewhere() {
    let nowhere = Standpoint::Container(Which::parse("brownout-tests-have-no-such-container").unwrap());
    // What is looked at by `host` is this machine, whichever its networks: there it is refused.
    for kind in AnyProbe::KINDS.iter().filter(|kind| **kind != "host") {
        let (outcome, why) = seen(&from(Some(nowhere.clone()), kind, &least(kind))).await;
        assert_eq!(outcome, Outcome::Missed, "{kind}: {why}");
        assert!(
            why.contains("we cannot look from container brownout-tests-have-no-such-container: "),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_says_where_a_probe_looks_from_and_what_it_looks_at_tells_it() {
    let Some(netns) = Netns::new() else { return };
    let (address, folder) = (web(&netns), tempfile::tempdir().unwrap());
    let file = folder.path().join("looks.toml");
    let door = door(&netns);
    let text =
        format!("[probe.web.http]\nurl = 'http://{address}/'\nnetns = '{}'\nrate = '1/s'\n", door.display());
    std::fs::write(&file, text).unwrap();
    let mut look = brownout(&folder.path().join("state"));
    look.arg("probe").arg(&file);
    let output = tokio::task::spawn_blocking(move || look.output().unwrap()).await.unwrap();
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains(&format!("GET http://{address}/, from netns {}", door.display())), "{told}");
}
