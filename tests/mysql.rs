//! The probe `mysql`: against servers that answer rightly, wrongly, half and never, and a real MariaDB.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;

use std::net::SocketAddr;
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::look_once;
use brownout::slo::Outcome;
use looking::{Authority, GOOD, Real, bad, look, prober, seen, server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A message with its number.
fn says(number: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&length[..3], &[number], body].concat()
}

/// What a server begins with: its abilities, and how it would like us to log in.
fn greeting(can: u32, way: &str) -> Vec<u8> {
    let can = can.to_le_bytes();
    let body = [
        b"\x0a8.0.1\0\x01\0\0\0".as_slice(),
        b"12345678\0",
        &can[..2],
        b"\x2d\x02\0",
        &can[2..],
        b"\x15\0\0\0\0\0\0\0\0\0\0",
        b"123456789012\0",
        way.as_bytes(),
        b"\0",
    ];
    says(0, &body.concat())
}

const CAN: u32 = 0x8 | 0x200 | 0x8000 | 0x8_0000;
const NATIVE: &str = "mysql_native_password";
const CACHING: &str = "caching_sha2_password";

/// A server that says the first of these at once, and answers each message with the next.
async fn database(turns: Vec<Vec<u8>>) -> SocketAddr {
    server(move |mut stream, _| {
        let turns = turns.clone();
        async move {
            for turn in turns {
                let _ = stream.write_all(&turn).await;
                let mut begun = [0; 4];
                if stream.read_exact(&mut begun).await.is_err() {
                    return;
                }
                let length = u32::from_le_bytes([begun[0], begun[1], begun[2], 0]) as usize;
                let _ = stream.read_exact(&mut vec![0; length]).await;
            }
        }
    })
    .await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of what servers say")]
async fn answers_of_mysql_are_judged_and_broken_ones_told() {
    let (hello, welcome) = (greeting(CAN, NATIVE), says(2, b"\0\0\0\x02\0\0\0"));
    let end = |number| says(number, b"\xfe\0\0\x02\0");
    let head = [says(1, b"\x01"), says(2, b"\x03def\0\0\0\x01a\0"), end(3)].concat();
    let rows = |rows: &[u8]| [head.clone(), rows.to_vec(), end(9)].concat();
    let error = says(1, b"\xff\x7a\x04#42S02no such table");
    for (turns, more, wanted) in [
        (
            vec![hello.clone(), welcome.clone(), rows(&says(4, b"\x017"))],
            "expect = { is = '7', above = 6 }",
            GOOD,
        ),
        (
            vec![hello.clone(), welcome.clone(), rows(&[says(4, b"\x017"), says(5, b"\x018")].concat())],
            "expect = { above = 7 }",
            bad("the answer is not above 7"),
        ),
        (vec![hello.clone(), welcome.clone(), rows(&says(4, b"\xfb"))], "expect = { is = 'null' }", GOOD),
        (
            vec![hello.clone(), welcome.clone(), rows(b"")],
            "expect = { is = 'x' }",
            bad("the answer is empty, expected `x`"),
        ),
        (vec![hello.clone(), welcome.clone(), says(1, b"\0\0\0\x02\0\0\0")], "query = 'DO 1'", GOOD),
        (
            vec![hello.clone(), welcome.clone(), error.clone()],
            "",
            bad("the query is refused: `no such table` (1146)"),
        ),
        (
            vec![hello.clone(), welcome.clone(), [head.clone(), error.clone()].concat()],
            "",
            bad("the query is refused: `no such table` (1146)"),
        ),
        (
            vec![hello.clone(), welcome.clone(), says(1, b"\xfb/etc/passwd")],
            "",
            bad("the query is refused: the server asks for a file of ours, which is no answer"),
        ),
        (
            vec![hello.clone(), welcome.clone(), rows(&says(4, b"\x057"))],
            "",
            bad("PEER does not speak MySQL's protocol: a message that is cut short"),
        ),
        (vec![hello.clone(), error.clone()], "", bad("the login is refused: `no such table` (1146)")),
        (
            vec![says(0, b"\xff\x10\x04Too many connections")],
            "",
            bad("the connection is refused: `Too many connections` (1040)"),
        ),
        (vec![hello.clone()], "tls = true", bad("PEER does not offer TLS")),
        (
            vec![hello.clone(), says(2, b"\xfeclient_ed25519\x0012345678901234567890\0")],
            "",
            bad(
                "the login is refused: the server asks for client_ed25519, which we cannot: give the account \
                 mysql_native_password or caching_sha2_password",
            ),
        ),
        (
            vec![hello.clone(), says(2, b"\xfemysql_clear_password\0")],
            "password = 'x'",
            bad(
                "the login is refused: the server wants the password in the clear, which we say over TLS only: give `tls`",
            ),
        ),
        (
            vec![greeting(CAN, CACHING), says(2, b"\x01\x04")],
            "password = 'x'",
            bad(
                "the login is refused: the server wants the password itself, which we say over TLS only: give `tls`",
            ),
        ),
        (
            vec![
                greeting(CAN, CACHING),
                [says(2, b"\x01\x03"), says(3, b"\0\0\0\x02\0\0\0")].concat(),
                rows(&says(4, b"\x017")),
            ],
            "password = 'x'\ndatabase = 'shop'\nexpect = { is = '7' }",
            GOOD,
        ),
        (
            vec![greeting(0x8000, NATIVE)],
            "",
            bad("the connection is refused: the server is older than MySQL 4.1"),
        ),
        (
            vec![b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()],
            "",
            bad("PEER does not speak MySQL's protocol: it begins `SSH-`"),
        ),
        (vec![says(0, b"\x09old")], "", bad("PEER does not speak MySQL's protocol: it begins `old`")),
        (
            vec![hello.clone(), b"\xff\xff\xff\x02".to_vec()],
            "",
            bad("PEER does not speak MySQL's protocol: a message longer than 16 MiB"),
        ),
        (vec![hello[..20].to_vec()], "", bad("no answer within 300 ms to the login")),
    ] {
        let address = database(turns).await;
        let asks = prober("mysql", &format!("address = '{address}'\nuser = 'u'\n{more}"));
        let limit = if wanted.1.contains("300 ms") { Duration::from_millis(300) } else { looking::LONG };
        let sample = look_once(0, &asks, &Clock::start(), limit).await.sample;
        let why = sample.why.as_deref().unwrap_or_default().replace(&address.to_string(), "PEER");
        assert_eq!((sample.outcome, why), wanted, "{more}");
    }
    for cut in [0, 3, 20] {
        let half = greeting(CAN, NATIVE)[..cut].to_vec();
        let address = server(move |mut stream, _| {
            let half = half.clone();
            async move { drop(stream.write_all(&half).await) }
        })
        .await;
        let asks = prober("mysql", &format!("address = '{address}'\nuser = 'u'"));
        assert_eq!(seen(&asks).await, bad(format!("{address} closed the connection without an answer")));
    }
}

/// One that hashes with SHA-256, and wants the password itself once TLS has begun.
#[tokio::test]
async fn a_password_is_said_over_tls_when_a_server_does_not_know_its_hash() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("localhost", 4000);
    let address = server(move |mut stream, _| {
        let acceptor = acceptor.clone();
        async move {
            stream.write_all(&greeting(CAN | 0x800, CACHING)).await.unwrap();
            let mut asking = [0; 36];
            stream.read_exact(&mut asking).await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let hear = async |stream: &mut tokio_rustls::server::TlsStream<tokio::net::TcpStream>| {
                let mut begun = [0; 4];
                stream.read_exact(&mut begun).await.unwrap();
                let mut said = vec![0; u32::from_le_bytes([begun[0], begun[1], begun[2], 0]) as usize];
                stream.read_exact(&mut said).await.unwrap();
                (begun[3], said)
            };
            let (number, _) = hear(&mut stream).await;
            assert_eq!((asking[3], number), (1, 2));
            stream.write_all(&says(3, b"\x01\x04")).await.unwrap();
            let (number, said) = hear(&mut stream).await;
            let right = said == b"open sesame\0" && number == 4;
            let answer = if right { &b"\0\0\0\x02\0\0\0"[..] } else { b"\xff\x15\x04#28000no" };
            stream.write_all(&says(5, answer)).await.unwrap();
            if right {
                assert_eq!(hear(&mut stream).await, (0, b"\x03SELECT 1".to_vec()));
                stream.write_all(&says(1, b"\0\0\0\x02\0\0\0")).await.unwrap();
                assert_eq!(hear(&mut stream).await, (0, b"\x01".to_vec()));
            }
        }
    })
    .await;
    for (password, wanted) in [("open sesame", GOOD), ("close", bad("the login is refused: `no` (1045)"))] {
        let port = address.port();
        let text = format!(
            "address = 'localhost:{port}'\nuser = 'u'\npassword = '{password}'\ntls = {{ ca_file = 'ca.pem' }}"
        );
        assert_eq!(seen(&authority.prober("mysql", &text)).await, wanted);
    }
}

#[tokio::test]
async fn a_real_mariadb_is_asked_by_its_ways_to_log_in_and_over_tls() {
    let authority = Authority::new();
    authority.write_server("localhost");
    let of = authority.folder.path().display().to_string();
    let accounts = "CREATE DATABASE shop;\nCREATE TABLE shop.beats (n INT);\nINSERT INTO shop.beats VALUES (3), (5);\n\
        CREATE USER watcher IDENTIFIED BY 'sésame';\nGRANT SELECT ON shop.* TO watcher;\nCREATE USER open;\n\
        CREATE USER secured REQUIRE SSL;\nCREATE USER curved IDENTIFIED VIA ed25519 USING PASSWORD('open');\n";
    let arguments = |folder: &std::path::Path, port: u16| {
        std::fs::write(folder.join("accounts.sql"), accounts).unwrap();
        let here = folder.display();
        let script = format!(
            "set -e; mariadb-install-db --no-defaults --datadir={here}/db --auth-root-authentication-method=normal \
              --skip-test-db --user=root >/dev/null
            exec mariadbd --no-defaults --user=root --datadir={here}/db --port={port} --bind-address=127.0.0.1 \
              --socket={here}/s --pid-file={here}/pid --init-file={here}/accounts.sql --plugin-load-add=auth_ed25519 \
              --innodb-buffer-pool-size=16M --character-set-server=utf8mb4 \
              --ssl-cert={of}/server.pem --ssl-key={of}/server.key --ssl-ca={of}/ca.pem"
        );
        vec!["-c".to_owned(), script]
    };
    let text = |port: u16, more: &str| format!("address = 'localhost:{port}'\n{more}");
    let ready = |_: &std::path::Path, port| prober("mysql", &text(port, "user = 'open'"));
    if std::process::Command::new("mariadbd").arg("--version").output().is_err() {
        println!("SKIPPED: there is no mariadbd");
        assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"));
        return;
    }
    let Some(mut real) = Real::start("sh", arguments, ready).await else { return };
    let port = real.port;
    let seen_as = async |more: &str| seen(&authority.prober("mysql", &text(port, more))).await;
    let watcher = "user = 'watcher'\npassword = 'sésame'\ndatabase = 'shop'";
    let sum = "query = 'SELECT sum(n), 1 FROM beats'\nexpect = { above = 7, below = 9 }";
    assert_eq!(seen_as(&format!("{watcher}\n{sum}")).await, GOOD);
    let tls = "tls = { ca_file = 'ca.pem' }";
    assert_eq!(seen_as(&format!("{watcher}\n{sum}\n{tls}")).await, GOOD);
    let who = "query = \"SELECT concat(user(), 'é')\"\nexpect = { regex = '^watcher@.*é$' }";
    assert_eq!(seen_as(&format!("{watcher}\n{who}")).await, GOOD, "UTF-8 both ways");
    for (more, begins, ends) in [
        (
            "user = 'watcher'\npassword = 'wrong'",
            "the login is refused: `Access denied for user 'watcher'@",
            "(1045)",
        ),
        ("user = 'watcher'", "the login is refused: `Access denied", "(1045)"),
        ("user = 'secured'", "the login is refused: `Access denied", "(1045)"),
        (
            "user = 'open'\ndatabase = 'shop'",
            "the login is refused: `Access denied for user 'open'@",
            "(1044)",
        ),
        (
            "user = 'curved'\npassword = 'open'",
            "the login is refused: the server asks for client_ed25519, which we cannot",
            "caching_sha2_password",
        ),
        (
            "user = 'open'\nquery = 'SELEC'",
            "the query is refused: `You have an error in your SQL syntax",
            "(1064)",
        ),
        ("user = 'open'\nquery = 'SELECT 1 FROM no.such'", "the query is refused: `", "(1142)"),
    ] {
        let (outcome, why) = seen_as(more).await;
        assert!(outcome == Outcome::Bad && why.starts_with(begins) && why.ends_with(ends), "{more}: {why}");
    }
    let secured = look(&authority.prober("mysql", &text(port, &format!("user = 'secured'\n{tls}")))).await;
    assert_eq!((secured.sample.outcome, secured.sample.why), (Outcome::Good, None));
    let phases = secured.phases;
    assert!(phases.greeting.is_some() && phases.tls.is_some() && phases.login.is_some(), "{phases:?}");
    assert_eq!(seen_as("user = 'open'\nquery = 'SELECT NULL'\nexpect = { is = 'null' }").await, GOOD);
    let many = "query = \"SELECT repeat('x', 1000000) FROM seq_1_to_30\"\nexpect = { regex = '^x' }";
    assert_eq!(seen_as(&format!("{watcher}\n{many}")).await, GOOD, "rows that are not kept");
    let long = "user = 'open'\nquery = \"SELECT repeat('x', 300000)\"\nexpect = { regex = '^x{1000}' }";
    assert_eq!(seen_as(long).await, GOOD);
    let slow = prober("mysql", &text(port, "user = 'open'\nquery = 'SELECT sleep(60)'"));
    let over = look_once(0, &slow, &Clock::start(), Duration::from_secs(2)).await;
    assert_eq!(over.sample.why.as_deref(), Some("no answer within 2 s"));
    assert!(over.phases.first_byte.is_some(), "the query is what it was waiting for: {:?}", over.phases);
    real.kill();
    assert_eq!(seen(&slow).await, bad(format!("connection refused by 127.0.0.1:{port}")));
}
