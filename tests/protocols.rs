//! The probes of protocols against servers that answer rightly, wrongly, slowly, half and never, and against real ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;
mod support;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::{AnyProbe, AnyProber, Setting, look_once};
use brownout::slo::Outcome;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use looking::{Authority, GOOD, LONG, Real, bad, look, prober, seen, server, tls_server, told};

/// The next line of a connection, without its end; empty when there is none.
async fn line(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        if byte == b'\n' {
            break;
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

/// The year that begins in so many years.
fn year(from_now: i16) -> i32 {
    i32::from(jiff::Zoned::now().year() + from_now)
}

// ------------------------------------------------------------------------------------------------ tls

#[tokio::test]
async fn a_handshake_is_judged_by_chain_name_and_expiry_and_a_refused_chain_is_told() {
    let authority = Authority::new();
    let folder = authority.folder.path();
    let hold = |mut stream: tokio_rustls::server::TlsStream<TcpStream>| async move {
        let _ = stream.read_u8().await;
    };
    let soon = tls_server(authority.acceptor("localhost", year(2)), hold).await;
    let expired = tls_server(authority.acceptor("localhost", 2001), hold).await;
    let foreign = tls_server(authority.acceptor("shop.example", 4000), hold).await;
    let text = |port: u16, more: &str| format!("address = 'localhost:{port}'\n{more}");
    let trusted = "ca_file = 'ca.pem'\n";

    let (outcome, facts) = told(folder, "tls", &text(soon, trusted)).await;
    assert_eq!(outcome, GOOD);
    let names: Vec<&str> = facts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["peer", "TLS", "certificate", "certificate"]);
    assert!(facts[1].1.starts_with("TLSv1_3") && facts[2].1.contains("CN=localhost"), "{facts:?}");

    let (outcome, facts) = told(folder, "tls", &text(expired, trusted)).await;
    assert_eq!(outcome, bad(format!("TLS with 127.0.0.1:{expired}: the certificate has expired")));
    assert!(
        facts[1].1.contains("until 2001-01-01 00:00 UTC (expired)"),
        "what was refused is told: {facts:?}"
    );
    let said = |port: u16, what: &str| bad(format!("TLS with 127.0.0.1:{port}: {what}"));
    for (port, more, wanted) in [
        (soon, "ca_file = 'ca.pem'\nexpect = { valid_for = '30d' }", GOOD),
        (
            soon,
            "ca_file = 'ca.pem'\nexpect = { valid_for = '3650d' }",
            bad(format!(
                "the certificate is valid until {}-01-01 00:00 UTC, expected for 3650 d yet",
                year(2)
            )),
        ),
        (soon, "insecure = true\nname = 'other.example'", GOOD),
        (
            soon,
            "ca_file = 'ca.pem'\nname = 'other.example'",
            said(soon, "the certificate is for localhost, not for other.example"),
        ),
        (
            foreign,
            "ca_file = 'ca.pem'",
            said(foreign, "the certificate is for shop.example, not for localhost"),
        ),
        (foreign, "ca_file = 'ca.pem'\nname = 'shop.example'", GOOD),
        (
            expired,
            "insecure = true",
            bad("the certificate is valid until 2001-01-01 00:00 UTC, expected for 0 s yet"),
        ),
    ] {
        assert_eq!(seen(&authority.prober("tls", &text(port, more))).await, wanted, "{more}");
    }

    let brief = Authority::until(year(1));
    let port = tls_server(brief.acceptor("localhost", year(3)), hold).await;
    let more = "ca_file = 'ca.pem'\nexpect = { chain_valid_for = '3650d' }";
    let why = format!(
        "the chain's certificate of CN=an authority of the tests is valid until {}-01-01 00:00 UTC, expected for 3650 d yet",
        year(1)
    );
    assert_eq!(seen(&brief.prober("tls", &text(port, more))).await, bad(why));
    let (outcome, why) = seen(&authority.prober("tls", &text(port, trusted))).await;
    assert_eq!(outcome, Outcome::Bad, "another authority of the same name");
    assert!(why.contains("the certificate is refused"), "{why}");
}

#[tokio::test]
async fn old_versions_and_servers_without_tls_are_told() {
    let authority = Authority::new();
    let old = authority.acceptor_of("localhost", 4000, &[&rustls::version::TLS12]);
    let old = tls_server(old, |mut stream| async move { drop(stream.read_u8().await) }).await;
    let text = |min: &str| format!("address = 'localhost:{old}'\nca_file = 'ca.pem'\nmin_version = '{min}'");
    assert_eq!(seen(&authority.prober("tls", &text("1.2"))).await, GOOD);
    assert_eq!(
        seen(&authority.prober("tls", &text("1.3"))).await,
        bad(format!("TLS with 127.0.0.1:{old}: version 1.2, expected at least 1.3"))
    );
    let plain = server(|mut stream, _| async move { drop(stream.write_all(b"220 hello\r\n").await) }).await;
    let (outcome, why) = seen(&prober("tls", &format!("address = '{plain}'\ninsecure = true"))).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.starts_with(&format!("TLS with {plain}: ")), "{why}");
}

#[tokio::test]
async fn a_look_that_is_over_shows_what_it_was_waiting_for() {
    let silent = server(|mut stream, _| async move { while stream.read_u8().await.is_ok() {} }).await;
    let prober = prober("tls", &format!("address = '{silent}'\ninsecure = true"));
    let limit = Duration::from_millis(300);
    let look = look_once(0, &prober, &Clock::start(), limit).await;
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 300 ms in the TLS handshake"));
    assert!(look.phases.connect.is_some() && look.phases.tls > Some(limit / 10), "{:?}", look.phases);
}

#[tokio::test]
async fn a_server_may_ask_for_a_certificate_of_ours() {
    let authority = Authority::new();
    let acceptor = authority.acceptor_knowing_us("localhost");
    let port = tls_server(acceptor, |mut stream| async move {
        // By the end of its answer both sides have seen each other's certificates, in every version.
        let _ = stream.write_all(b"hello\n").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let text = |more: &str| {
        format!("address = 'localhost:{port}'\nexpect = 'hello'\ntls = {{ ca_file = 'ca.pem'{more} }}")
    };
    let with = authority.prober("tcp", &text(", cert_file = 'ours.pem', key_file = 'ours.key'"));
    assert_eq!(seen(&with).await, GOOD);
    let told = bad(format!("TLS with 127.0.0.1:{port}: it asks for a certificate of ours"));
    assert_eq!(seen(&authority.prober("tcp", &text(""))).await, told);
}

/// A server that says each of these and waits for a line after it, then begins TLS.
async fn talking(authority: &Authority, says: &'static [&'static str]) -> SocketAddr {
    let acceptor = authority.acceptor("localhost", 4000);
    server(move |mut stream, _| {
        let acceptor = acceptor.clone();
        async move {
            for (nth, words) in says.iter().enumerate() {
                if nth > 0 && line(&mut stream).await.is_empty() {
                    return;
                }
                let _ = stream.write_all(words.as_bytes()).await;
            }
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let _ = stream.read_u8().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn tls_begins_after_the_words_of_smtp_and_imap() {
    let authority = Authority::new();
    for (protocol, says, wanted) in [
        ("smtp", &["220-a\r\n220 b\r\n", "250-me\r\n250-SIZE 1\r\n250 starttls\r\n", "220 go\r\n"][..], GOOD),
        ("imap", &["* OK hello\r\n", "* a word\r\na OK go\r\n"], GOOD),
        ("smtp", &["554 no\r\n"], bad("PEER does not greet as SMTP does: `554 no`")),
        ("smtp", &["220 a\r\n", "250 SIZE 1\r\n"], bad("PEER does not offer STARTTLS")),
        (
            "smtp",
            &["220 a\r\n", "250-a\r\n250 STARTTLS\r\n", "454 not now\r\n"],
            bad("PEER refuses STARTTLS: `454 not now`"),
        ),
        ("imap", &["* BYE full\r\n"], bad("PEER does not greet as IMAP does: `* BYE full`")),
        ("imap", &["* OK hi\r\n", "a NO never\r\n"], bad("PEER refuses STARTTLS: `NO never`")),
        ("postgres", &["x"], bad("PEER is no PostgreSQL server: it answers `x`")),
        ("postgres", &["N"], bad("PEER does not speak TLS")),
    ] {
        let address = talking(&authority, says).await;
        let port = address.port();
        let text = format!("address = 'localhost:{port}'\nca_file = 'ca.pem'\nstarttls = '{protocol}'");
        let look = look(&authority.prober("tls", &text)).await;
        let why = look.sample.why.as_deref().unwrap_or_default().replace(&address.to_string(), "PEER");
        assert_eq!((look.sample.outcome, why), wanted, "{says:?}");
        assert!(look.phases.greeting.is_some(), "{says:?}");
    }
    let closing = server(|stream, _| async move { drop(stream) }).await;
    let text = format!("address = '{closing}'\ninsecure = true\nstarttls = 'smtp'");
    assert_eq!(seen(&prober("tls", &text)).await.0, Outcome::Bad);
}

// ------------------------------------------------------------------------------------------------ tcp

#[tokio::test]
async fn a_conversation_is_held_step_by_step_and_goes_on_over_tls() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("localhost", 4000);
    let mail = server(move |mut stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let _ = stream.write_all(b"220 mail ready\r\n").await;
            if line(&mut stream).await != "EHLO me" {
                return;
            }
            let _ = stream.write_all(b"250-mail\r\n250 STARTTLS\r\n").await;
            let said = line(&mut stream).await;
            let early: &[u8] = if said == "STARTTLS" { b"" } else { b"250 forged\r\n" };
            let _ = stream.write_all(&[b"220 go\r\n", early].concat()).await;
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let mut stream = BufReader::new(stream);
            let mut said = String::new();
            let _ = stream.read_line(&mut said).await;
            let _ = stream.write_all(b"250 AUTH PLAIN\r\n").await;
        }
    })
    .await;
    let script = |starts: &str, last: &str| {
        format!(
            "address = 'localhost:{}'\nscript = [{{ regex = '^220 ' }}, {{ send = \"EHLO me\\r\\n\" }},
            {{ expect = 'STARTTLS' }}, {{ send = \"{starts}\\r\\n\" }}, {{ regex = '220 go\\r?\\n' }},
            {{ tls = {{ ca_file = 'ca.pem' }} }}, {{ send = \"EHLO me\\r\\n\" }}, {last}]",
            mail.port()
        )
    };
    let good = look(&authority.prober("tcp", &script("STARTTLS", "{ expect = 'AUTH' }"))).await;
    assert_eq!((good.sample.outcome, good.sample.why), (Outcome::Good, None));
    assert!(good.phases.tls.is_some() && good.phases.first_byte.is_some() && good.phases.transfer.is_some());
    assert_eq!(
        seen(&authority.prober("tcp", &script("STARTTLS", "{ regex = 'AUTH [XYZ]' }"))).await,
        bad("the answer does not match `AUTH [XYZ]`; it begins `250 AUTH PLAIN`")
    );
    assert_eq!(
        seen(&authority.prober("tcp", &script("FORGED", "{ expect = 'AUTH' }"))).await,
        bad(format!("{mail} said more before TLS began: `250 forged`"))
    );
}

#[tokio::test]
async fn what_was_found_is_not_found_again_and_bytes_need_not_be_text() {
    let echo = server(|mut stream, _| async move {
        let mut bytes = [0; 4];
        let _ = stream.read_exact(&mut bytes).await;
        let _ = stream.write_all(&bytes).await;
    })
    .await;
    let text = |script: &str| format!("address = '{echo}'\nscript = [{script}]");
    let twice = "{ send = 'abab' }, { expect = 'ab' }, { expect = 'ab' }";
    assert_eq!(seen(&prober("tcp", &text(twice))).await, GOOD);
    let thrice = text(&format!("{twice}, {{ expect = 'ab' }}"));
    assert_eq!(
        seen(&prober("tcp", &thrice)).await,
        bad(format!("{echo} closed the connection without a word"))
    );
    let bytes = "{ send = { hex = '00 ff 80 0a' } }, { regex = '(?-u)^\\x00\\xff\\x80\\n' }";
    assert_eq!(seen(&prober("tcp", &text(bytes))).await, GOOD);
}

// ---------------------------------------------------------------------------------------------- redis

/// A server that answers each line as `says`.
async fn resp(says: &'static [u8]) -> SocketAddr {
    server(move |mut stream, _| async move {
        let mut part = [0; 1024];
        if stream.read(&mut part).await.is_ok_and(|length| length > 0) {
            let _ = stream.write_all(says).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

#[tokio::test]
async fn answers_of_redis_are_judged_and_broken_ones_told() {
    for (says, more, wanted) in [
        (&b"+PONG\r\n"[..], "", GOOD),
        (b":7\r\n", "expect = { above = 6, below = 8 }", GOOD),
        (b":7\r\n", "expect = { below = 7 }", bad("the answer is not below 7")),
        (b"$-1\r\n", "expect = { is = 'null' }", GOOD),
        (b"$2\r\nup\r\n", "expect = { is = 'down' }", bad("the answer is `up`, expected `down`")),
        (b"*2\r\n:1\r\n$1\r\na\r\n", "expect = { json = { '$[1]' = 'a' } }", GOOD),
        (b"-LOADING dataset\r\n", "", bad("the answer is an error: `LOADING dataset`")),
        (b"-WRONGPASS no\r\n", "password = 'x'", bad("the login is refused: `WRONGPASS no`")),
        (b"$5\r\nab", "", bad("PEER closed the connection in the middle of the answer")),
        (b"", "", bad("PEER closed the connection without an answer")),
        (b"HTTP/1.1 400 no\r\n", "", bad("the answer of PEER is not redis's protocol: `HTTP/1.1 400 no`")),
    ] {
        let address = resp(says).await;
        let (outcome, why) = seen(&prober("redis", &format!("address = '{address}'\n{more}"))).await;
        assert_eq!((outcome, why.replace(&address.to_string(), "PEER")), wanted, "{more}");
    }
    let endless = server(|mut stream, _| async move {
        let _ = stream.write_all(b"$2000000\r\n").await;
        while stream.write_all(&[b'x'; 8192]).await.is_ok() {}
    })
    .await;
    assert_eq!(
        seen(&prober("redis", &format!("address = '{endless}'"))).await,
        bad("the answer is longer than 1 MiB")
    );
}

#[tokio::test]
async fn a_real_redis_is_asked_with_a_password_and_over_tls() {
    let authority = Authority::new();
    authority.write_server("localhost");
    let of = authority.folder.path().display();
    let tls_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = |_: &std::path::Path, port: u16| {
        format!(
            "--bind 127.0.0.1 --port {port} --save '' --tls-port {tls_port} --tls-auth-clients no \
             --tls-cert-file {of}/server.pem --tls-key-file {of}/server.key --tls-ca-cert-file {of}/ca.pem \
             --requirepass open --user watcher on >sesame ~* +ping +llen"
        )
        .split(' ')
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
    };
    let text = |port: u16, more: &str| format!("address = 'localhost:{port}'\n{more}");
    let ready = |_: &std::path::Path, port| prober("redis", &text(port, "password = 'open'"));
    let Some(mut redis) = Real::start("redis-server", arguments, ready).await else { return };
    let port = redis.port;
    let secured = look(&authority.prober(
        "redis",
        &text(tls_port, "tls = { ca_file = 'ca.pem' }\nuser = 'watcher'\npassword = 'sesame'\ncommand = ['LLEN', 'jobs']\nexpect = { below = 1 }"),
    ))
    .await;
    assert_eq!((secured.sample.outcome, secured.sample.why), (Outcome::Good, None));
    assert!(secured.phases.tls.is_some() && secured.phases.login.is_some());
    assert_eq!(
        seen(&prober("redis", &text(port, ""))).await,
        bad("the answer is an error: `NOAUTH Authentication required.`")
    );
    let (outcome, why) = seen(&prober("redis", &text(port, "password = 'shut'"))).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.starts_with("the login is refused: `WRONGPASS"), "{why}");
    let info =
        "password = 'open'\ncommand = ['INFO', 'replication']\nexpect = { regex = '(?m)^role:master' }";
    assert_eq!(seen(&prober("redis", &text(port, info))).await, GOOD);
    redis.kill();
    let (outcome, why) = seen(&prober("redis", &text(port, ""))).await;
    assert_eq!((outcome, why), bad(format!("connection refused by 127.0.0.1:{port}")));
}

// ------------------------------------------------------------------------------------------- postgres

/// A message of PostgreSQL's server.
fn says(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&[kind], length.as_slice(), body].concat()
}

/// A server that answers each message with the next of these.
async fn database(turns: Vec<Vec<u8>>) -> SocketAddr {
    server(move |mut stream, _| {
        let turns = turns.clone();
        async move {
            let mut part = [0; 4096];
            for turn in turns {
                if stream.read(&mut part).await.is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(&turn).await;
                }
            }
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut part).await;
        }
    })
    .await
}

#[tokio::test]
async fn answers_of_postgres_are_judged_and_broken_ones_told() {
    let open =
        [says(b'R', &[0, 0, 0, 0]), says(b'S', b"server_version\x0018\x00"), says(b'Z', b"I")].concat();
    let row = |value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap().to_be_bytes();
        says(b'D', &[&[0, 1], length.as_slice(), value].concat())
    };
    let done = [says(b'C', b"SELECT 1\0"), says(b'Z', b"I")].concat();
    let one = |value: &[u8]| [says(b'T', &[0, 0]), row(value), row(b"other"), done.clone()].concat();
    let null = [says(b'D', &[0, 1, 255, 255, 255, 255]), done.clone()].concat();
    let error = says(b'E', b"SERROR\0C42P01\0Mno such table\0\0");
    let failed = [error.clone(), says(b'Z', b"I")].concat();
    for (turns, more, wanted) in [
        (vec![open.clone(), one(b"7")], "expect = { is = '7', above = 6 }", GOOD),
        (vec![open.clone(), one(b"7")], "expect = { below = 7 }", bad("the answer is not below 7")),
        (
            vec![open.clone(), one(b"down")],
            "expect = { is = 'up' }",
            bad("the answer is `down`, expected `up`"),
        ),
        (vec![open.clone(), null], "expect = { is = 'null' }", GOOD),
        (vec![open.clone(), done.clone()], "expect = { is = 'x' }", bad("the answer is empty, expected `x`")),
        (vec![open.clone(), failed], "", bad("the query is refused: `no such table` (42P01)")),
        (vec![error], "", bad("the login is refused: `no such table` (42P01)")),
        (vec![says(b'R', &[0, 0, 0, 3])], "", bad("the login is refused: the server asks for a password")),
        (
            vec![says(b'R', b"\0\0\0\x0aSCRAM-SHA-1\0\0")],
            "password = 'x'",
            bad("the login is refused: the server asks for SCRAM-SHA-1, which we cannot"),
        ),
        (vec![open.clone()], "", bad("PEER closed the connection without an answer")),
        (vec![open[..20].to_vec()], "", bad("PEER closed the connection without an answer")),
        (
            vec![b"HTTP/1.1 400 Bad Request\r\n".to_vec()],
            "",
            bad("PEER does not speak PostgreSQL's protocol: it begins `HTTP/1.1 400 Bad Request`"),
        ),
    ] {
        let address = database(turns).await;
        let (outcome, why) = seen(&prober("postgres", &format!("address = '{address}'\n{more}"))).await;
        assert_eq!((outcome, why.replace(&address.to_string(), "PEER")), wanted, "{more}");
    }
}

#[tokio::test]
async fn a_real_postgres_is_asked_by_every_way_to_log_in_and_over_tls() {
    let authority = Authority::new();
    authority.write_server("localhost");
    let of = authority.folder.path().display().to_string();
    let postgres = format!("{}/experiments/parts/postgres.sh", env!("CARGO_MANIFEST_DIR"));
    let arguments = |folder: &std::path::Path, port: u16| {
        let here = folder.display();
        let script = format!(
            "set -e; cp {of}/server.pem {of}/server.key {here}; chmod 600 {here}/server.key; chown -R postgres {here}
            chmod 755 {here}; as='setpriv --reuid postgres --regid postgres --clear-groups sh {postgres}'
            $as initdb -D {here}/db -A trust --no-sync >/dev/null
            printf '%s\\n' 'local all all trust' 'hostssl all secured all trust' 'host all postgres all trust' \
              'host all scram all scram-sha-256' 'host all md5 all md5' 'host all clear all password' >{here}/db/pg_hba.conf
            exec $as postgres -D {here}/db -k {here} -p {port} -h 127.0.0.1 -c fsync=off -c ssl=on \
              -c ssl_cert_file={here}/server.pem -c ssl_key_file={here}/server.key"
        );
        vec!["-c".to_owned(), script]
    };
    let text = |port: u16, more: &str| format!("address = 'localhost:{port}'\n{more}");
    let ready = |_: &std::path::Path, port| prober("postgres", &text(port, ""));
    let Some(mut real) = Real::start("sh", arguments, ready).await else { return };
    let port = real.port;
    let roles = "query = \"\"\"
        SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN PASSWORD 'sésame';
        CREATE ROLE clear LOGIN PASSWORD 'open'; CREATE ROLE secured LOGIN;
        SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD 'open'\"\"\"";
    assert_eq!(seen(&prober("postgres", &text(port, roles))).await, GOOD);
    for (user, password) in [("scram", "sésame"), ("md5", "open"), ("clear", "open")] {
        let as_user = |password: &str| {
            let more = "database = 'postgres'\nquery = 'SELECT current_user'";
            text(
                port,
                &format!("user = '{user}'\npassword = '{password}'\n{more}\nexpect = {{ is = '{user}' }}"),
            )
        };
        assert_eq!(seen(&prober("postgres", &as_user(password))).await, GOOD, "{user}");
        let (outcome, why) = seen(&prober("postgres", &as_user("wrong"))).await;
        assert_eq!(outcome, Outcome::Bad);
        assert!(why.starts_with("the login is refused: `") && why.ends_with("(28P01)"), "{why}");
    }
    let secured = "user = 'secured'\ndatabase = 'postgres'\ntls = { ca_file = 'ca.pem' }";
    let secured = look(&authority.prober("postgres", &text(port, secured))).await;
    assert_eq!((secured.sample.outcome, secured.sample.why), (Outcome::Good, None));
    let phases = secured.phases;
    assert!(phases.greeting.is_some() && phases.tls.is_some() && phases.login.is_some(), "{phases:?}");
    let slow = prober("postgres", &text(port, "query = 'SELECT pg_sleep(60)'"));
    let over = look_once(0, &slow, &Clock::start(), Duration::from_secs(2)).await;
    assert_eq!(over.sample.why.as_deref(), Some("no answer within 2 s"));
    assert!(over.phases.first_byte.is_some(), "the query is what it was waiting for: {:?}", over.phases);
    let figure =
        "query = 'SELECT count(*) FROM pg_roles WHERE rolcanlogin'\nexpect = { above = 4, below = 6 }";
    assert_eq!(seen(&prober("postgres", &text(port, figure))).await, GOOD);
    let starttls = format!("address = 'localhost:{port}'\nstarttls = 'postgres'\nca_file = 'ca.pem'");
    assert_eq!(seen(&authority.prober("tls", &starttls)).await, GOOD);
    real.kill();
    assert_eq!(seen(&slow).await, bad(format!("connection refused by 127.0.0.1:{port}")));
}

// ----------------------------------------------------------------------------------------------- grpc

/// A gRPC server in a few lines: its health by the service asked about.
const HEALTH: &str = r"
import sys, grpc
from concurrent import futures
def check(request, context):
    if request == b'\x0a\x04gone': context.abort(grpc.StatusCode.NOT_FOUND, 'no such service')
    return {b'': b'\x08\x01', b'\x0a\x04down': b'\x08\x02'}[request]
class Health(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == '/grpc.health.v1.Health/Check': return grpc.unary_unary_rpc_method_handler(check)
server = grpc.server(futures.ThreadPoolExecutor(4)); server.add_generic_rpc_handlers((Health(),))
server.add_insecure_port('127.0.0.1:' + sys.argv[1])
of = sys.argv[2]
read = lambda name: open(of + '/' + name, 'rb').read()
if of: server.add_secure_port('127.0.0.1:' + sys.argv[3], grpc.ssl_server_credentials([(read('server.key'), read('server.pem'))]))
server.start(); server.wait_for_termination()
";

#[tokio::test]
async fn a_real_grpc_server_tells_its_health_also_over_tls() {
    let authority = Authority::new();
    authority.write_server("localhost");
    let of = authority.folder.path().display().to_string();
    let secured = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let arguments = |_: &std::path::Path, port: u16| {
        vec!["-c".to_owned(), HEALTH.to_owned(), port.to_string(), of.clone(), secured.to_string()]
    };
    let text = |port: u16, more: &str| format!("address = 'localhost:{port}'\n{more}");
    let ready = |_: &std::path::Path, port| prober("grpc", &text(port, ""));
    let Some(real) = Real::start("/usr/bin/python3", arguments, ready).await else { return };
    for (more, wanted) in [
        ("", GOOD),
        ("service = 'down'", bad("it says NOT_SERVING, expected SERVING")),
        ("service = 'down'\nexpect = 'NOT_SERVING'", GOOD),
        ("service = 'gone'", bad("the call fails: NOT_FOUND: `no such service`")),
    ] {
        assert_eq!(seen(&prober("grpc", &text(real.port, more))).await, wanted, "{more}");
    }
    let look = look(&authority.prober("grpc", &text(secured, "tls = { ca_file = 'ca.pem' }"))).await;
    assert_eq!((look.sample.outcome, look.sample.why), (Outcome::Good, None));
    assert!(look.phases.tls.is_some() && look.phases.first_byte.is_some());
}

#[tokio::test]
async fn what_is_no_grpc_server_is_told() {
    let text = server(|mut stream, _| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        while stream.read_u8().await.is_ok() {}
    })
    .await;
    let (outcome, why) = seen(&prober("grpc", &format!("address = '{text}'"))).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.starts_with(&format!("{text} does not answer by HTTP/2: ")), "{why}");
    let closing = server(|stream, _| async move { drop(stream) }).await;
    assert_eq!(seen(&prober("grpc", &format!("address = '{closing}'"))).await.0, Outcome::Bad);
}

// ------------------------------------------------------------------------------------------------ udp

#[tokio::test]
async fn a_datagram_is_answered_wrongly_by_another_or_never() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut datagram = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            // What another says is no answer of this port.
            stranger.send_to(b"forged", from).await.unwrap();
            if datagram[..length] != *b"never" {
                socket.send_to(&datagram[..length], from).await.unwrap();
            }
        }
    });
    let text = |more: &str| format!("address = '{address}'\n{more}");
    for (more, wanted) in [
        ("send = 'ping'\nexpect = { is = 'ping' }", GOOD),
        ("send = { hex = 'ff 00' }\nexpect = { regex = '(?s-u)^\\xff\\x00$' }", GOOD),
        ("send = 'ping'\nexpect = { is = 'pong' }", bad("the answer is `ping`, expected `pong`")),
        ("send = '42'\nexpect = { above = 41 }", GOOD),
        ("send = ''\nexpect = { contains = 'x' }", bad("the answer is empty, expected `x`")),
    ] {
        assert_eq!(seen(&prober("udp", &text(more))).await, wanted, "{more}");
    }
    let silent = prober("udp", &text("send = 'never'"));
    let never = look_once(0, &silent, &Clock::start(), Duration::from_millis(300)).await;
    assert_eq!(never.sample.why.as_deref(), Some("no answer within 300 ms"));
    assert!(never.phases.first_byte.is_some());
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let nobody = format!("address = '{nobody}'\nsend = 'x'");
    assert!(seen(&prober("udp", &nobody)).await.1.starts_with("connection refused by "));
}

// ----------------------------------------------------------------------------------------------- icmp

/// A network of two hosts: the second is 10.9.0.2, and the way to 198.51.100.0/24; 203.0.113.0/24 it cannot reach.
fn two_hosts() -> Option<(support::Netns, support::Netns)> {
    let (one, two) = (support::Netns::new()?, support::Netns::new()?);
    let run = |net: &support::Netns, script: &str| {
        let done = net.command("sh").args(["-c", script]).output().unwrap();
        assert!(done.status.success(), "{script}: {}", support::said(&done));
    };
    let holder = two.holder();
    run(
        &one,
        &format!(
            "set -e; ip link add cable type veth peer name cable netns {holder}; ip addr add 10.9.0.1/24 dev cable
            ip addr add fd09::1/64 dev cable nodad; ip link set cable up
            ip route add 198.51.100.0/24 via 10.9.0.2; ip route add 203.0.113.0/24 via 10.9.0.2"
        ),
    );
    run(
        &two,
        "set -e; ip addr add 10.9.0.2/24 dev cable; ip addr add fd09::2/64 dev cable nodad; ip link set cable up
        echo 1 >/proc/sys/net/ipv4/ip_forward; ip route add 198.51.100.0/24 dev lo; ip route add unreachable 203.0.113.0/24",
    );
    Some((one, two))
}

/// Does something on a network with a runtime of its own.
fn on<T: Send>(net: &support::Netns, work: impl Future<Output = T> + Send) -> T {
    net.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    })
}

#[test]
fn a_host_is_asked_with_and_without_rights_and_who_stops_the_request_is_told() {
    let Some((one, _two)) = two_hosts() else { return };
    let asked = |text: &str| on(&one, told(std::path::Path::new("/"), "icmp", text));
    let ways = [("1 0", "raw"), ("0 2147483647", "ping")];
    for (groups, socket) in ways {
        one.prints("sh", &["-c", &format!("echo '{groups}' >/proc/sys/net/ipv4/ping_group_range")]);
        for (text, wanted) in [
            ("host = '10.9.0.2'", GOOD),
            ("host = '127.0.0.1'", GOOD),
            ("host = 'localhost'\nsize = '0B'", GOOD),
            ("host = '10.9.0.2'\nsize = '65507B'", GOOD),
            ("host = 'fd09::2'\nsize = '4KiB'\nttl = 3", GOOD),
            ("host = '198.51.100.7'\nttl = 1", bad("198.51.100.7: its time to live is over, says 10.9.0.2")),
            ("host = '203.0.113.7'", bad("203.0.113.7: the host cannot be reached, says 10.9.0.2")),
            ("host = '192.0.2.7'", bad("192.0.2.7: Network is unreachable (os error 101)")),
        ] {
            let (outcome, facts) = asked(text);
            assert_eq!(outcome, wanted, "{socket} {text}");
            let used = facts.iter().find(|(name, _)| name == "socket").map(|(_, said)| said.as_str());
            assert!(used == Some(socket) || text.contains("192.0.2.7"), "{text}: {used:?}");
        }
    }
    let many = on(&one, async {
        let prober = prober("icmp", "host = '10.9.0.2'");
        let mut outcomes = Vec::new();
        for _ in 0..50 {
            outcomes.push(seen(&prober).await);
        }
        outcomes
    });
    assert!(many.iter().all(|outcome| *outcome == GOOD), "{many:?}");
}

#[test]
fn a_host_that_is_silent_is_bad_at_the_deadline_and_a_port_that_is_shut_is_told_from_afar() {
    let Some((one, two)) = two_hosts() else { return };
    let shut = on(&one, async { seen(&prober("udp", "address = '10.9.0.2:9'\nsend = 'x'")).await });
    assert_eq!(shut, bad("connection refused by 10.9.0.2:9"));
    two.prints("sh", &["-c", "echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all"]);
    let look = on(&one, async {
        let prober = prober("icmp", "host = '10.9.0.2'");
        look_once(0, &prober, &Clock::start(), Duration::from_millis(300)).await
    });
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 300 ms"));
    assert!(look.phases.first_byte.is_some());
}

// ----------------------------------------------------------------------------------------------- file

#[tokio::test]
async fn a_file_is_judged_by_its_age_its_size_and_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    std::fs::write(&path, "{\"rows\": 7}").unwrap();
    let old = std::time::Duration::from_hours(48);
    let changed = std::fs::metadata(&path).unwrap().modified().unwrap() - old;
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(changed).unwrap();
    std::fs::write(folder.path().join("new"), "").unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (text, wanted) in [
        ("path = 'dump'", GOOD),
        ("path = 'dump'\nexpect = { younger_than = '3d', older_than = '1d', larger_than = '1B' }", GOOD),
        ("path = 'dump'\nexpect = { json = { '$.rows' = 7 }, regex = '^.\"rows' }", GOOD),
        ("path = 'no'\nexpect = { absent = true }", GOOD),
        ("path = 'pipe'", GOOD),
        ("path = '.'", GOOD),
        ("path = 'no'", bad("HERE/no is not there")),
        ("path = 'dump'\nexpect = { absent = true }", bad("HERE/dump is there")),
        ("path = 'dump'\nexpect = { younger_than = '1d' }", bad("HERE/dump is older than 1 d")),
        ("path = 'new'\nexpect = { older_than = '1d' }", bad("HERE/new is younger than 1 d")),
        ("path = 'new'\nexpect = { larger_than = '0B' }", bad("HERE/new is not larger than 0 B")),
        ("path = 'dump'\nexpect = { smaller_than = '11B' }", bad("HERE/dump is not smaller than 11 B")),
        (
            "path = 'dump'\nexpect = { contains = 'x' }",
            bad("HERE/dump does not contain `x`; it begins `{\"rows\": 7}`"),
        ),
        ("path = 'dump'\nexpect = { json = { '$.rows' = 8 } }", bad("`$.rows` is `7`, expected `8`")),
        (
            "path = 'pipe'\nexpect = { contains = 'x' }",
            bad("HERE/pipe: it is no regular file, so its content is not read"),
        ),
    ] {
        let ((outcome, why), facts) = told(folder.path(), "file", text).await;
        let here = folder.path().display().to_string();
        assert_eq!((outcome, why.replace(&here, "HERE")), wanted, "{text}");
        let names: Vec<&str> = facts.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            names == ["size", "age"]
                || text.contains("'no'")
                || text.contains("absent")
                || text.contains("pipe")
        );
    }
}

// ------------------------------------------------------------------------------------------------ dns

/// What a name server of the tests answers to a question, by its name.
fn records(question: &[u8]) -> Vec<u8> {
    use hickory_proto::op::{Message, MessageType, ResponseCode};
    use hickory_proto::rr::{Name, RData, Record, rdata};
    let mut answer = Message::from_vec(question).unwrap();
    let name = answer.queries[0].name().clone();
    let about = &mut answer.metadata;
    about.message_type = MessageType::Response;
    let first = name.iter().next().unwrap_or_default().to_vec();
    match first.as_slice() {
        b"gone" => about.response_code = ResponseCode::NXDomain,
        b"sick" => about.response_code = ResponseCode::ServFail,
        b"cut" => about.truncation = true,
        b"other" => about.id = about.id.wrapping_add(1),
        _ => about.authoritative = !about.recursion_desired,
    }
    if first == b"db" {
        let server = Name::from_ascii("ns.example.").unwrap();
        let at = |name: &Name, last| {
            Record::from_rdata(name.clone(), 300, RData::A(rdata::A::new(192, 0, 2, last)))
        };
        answer.answers = vec![at(&name, 7), at(&name, 8)];
        answer.authorities = vec![Record::from_rdata(name, 60, RData::NS(rdata::NS(server.clone())))];
        answer.additionals = vec![at(&server, 1)];
    }
    answer.to_vec().unwrap()
}

/// Answers the question of a connection.
async fn answer_one(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) {
    let Ok(length) = stream.read_u16().await else { return };
    let mut question = vec![0; usize::from(length)];
    let _ = stream.read_exact(&mut question).await;
    let answer = records(&question);
    let _ = stream.write_u16(u16::try_from(answer.len()).unwrap()).await;
    let half = question.windows(4).any(|part| part == b"half");
    let _ = stream.write_all(&answer[..answer.len() / (1 + usize::from(half))]).await;
    let _ = stream.shutdown().await;
}

/// Name servers: by datagrams, by connections, which end in the middle of an answer about `half`, and over TLS.
async fn name_servers(authority: &Authority) -> (SocketAddr, SocketAddr, u16) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let by_datagram = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
            // First one that answers nothing, then half of one: neither is heard.
            socket.send_to(b"not a message", from).await.unwrap();
            let answer = records(&datagram[..length]);
            socket.send_to(&answer[..answer.len() / 2], from).await.unwrap();
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    let by_stream = server(|mut stream, _| async move { answer_one(&mut stream).await }).await;
    let acceptor = authority.acceptor("localhost", 4000);
    let secured = tls_server(acceptor, |mut stream| async move { answer_one(&mut stream).await }).await;
    (by_datagram, by_stream, secured)
}

#[tokio::test]
async fn answers_of_a_name_server_are_judged_by_code_and_records_whichever_way_they_come() {
    let authority = Authority::new();
    let (by_datagram, by_stream, secured) = name_servers(&authority).await;
    let ways = [
        format!("address = '{by_datagram}'"),
        format!("address = '{by_stream}'\nprotocol = 'tcp'"),
        format!("address = 'localhost:{secured}'\nprotocol = 'tcp'\ntls = {{ ca_file = 'ca.pem' }}"),
    ];
    for (way, (more, wanted)) in ways.iter().flat_map(|way| {
        let cases = [
            ("name = 'db.example'", GOOD),
            (
                "name = 'db.example.'\nexpect = { answer = ['^db.example. 300 IN A 192.0.2.7$', '\\.8$'], authority = ['NS ns.example.'], additional = ['192.0.2.1'] }",
                GOOD,
            ),
            ("name = 'gone.example'\nexpect = { rcode = 'NXDOMAIN' }", GOOD),
            ("name = 'db'\nrecurse = false\nexpect = { authoritative = true }", GOOD),
            ("name = 'db'\nexpect = { authoritative = true }", bad("the answer comes from no authority for the name")),
            ("name = 'gone'", bad("the answer is NXDOMAIN, expected NOERROR")),
            ("name = 'sick'", bad("the answer is SERVFAIL, expected NOERROR")),
            (
                "name = 'db'\nexpect = { answer = ['2.7', '2.9'] }",
                bad("no record in the section `answer` matches `2.9`"),
            ),
            (
                "name = 'none'\nexpect = { authority = ['.'] }",
                bad("there is no record in the section `authority`, expected `.`"),
            ),
            ("name = 'db'\nexpect = { never = ['2.9', '2.8'] }", bad("a record of the answer matches `2.8`")),
            ("name = 'cut'", GOOD),
            (
                "name = 'cut'\nexpect = { answer = ['.'] }",
                bad("the answer is cut short: it does not fit into a datagram"),
            ),
        ];
        cases.map(|case| (way, case))
    }) {
        assert_eq!(seen(&authority.prober("dns", &format!("{way}\n{more}"))).await, wanted, "{way} {more}");
    }
    let (_, facts) = told(authority.folder.path(), "dns", &format!("{}\nname = 'db'", ways[2])).await;
    let names: Vec<&str> = facts.iter().map(|(name, _)| name.as_str()).collect();
    assert!(
        names.ends_with(&["rcode", "authoritative", "answer", "answer", "authority", "additional"]),
        "{names:?}"
    );
}

#[tokio::test]
async fn what_is_no_answer_of_a_name_server_is_not_heard_or_told() {
    let (by_datagram, by_stream, _) = name_servers(&Authority::new()).await;
    let other = prober("dns", &format!("address = '{by_datagram}'\nname = 'other'"));
    let look = look_once(0, &other, &Clock::start(), Duration::from_millis(300)).await;
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 300 ms: what came has another id"));
    assert!(look.phases.first_byte.is_some());
    let by_tcp = |address, name| format!("address = '{address}'\nprotocol = 'tcp'\nname = '{name}'");
    let told = bad(format!("{by_stream} does not answer the question: what came has another id"));
    assert_eq!(seen(&prober("dns", &by_tcp(by_stream, "other"))).await, told);
    let told = bad(format!("{by_stream} closed the connection in the middle of the answer"));
    assert_eq!(seen(&prober("dns", &by_tcp(by_stream, "half"))).await, told);
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let told = bad(format!("connection refused by {nobody}"));
    assert_eq!(seen(&prober("dns", &format!("address = '{nobody}'\nname = 'db'"))).await, told);
}

// --------------------------------------------------------------------------------------------- metric

/// A server that answers every request with this status and body, and says that the body is so much longer.
async fn page(status: &'static str, body: &'static str, lacks: usize) -> SocketAddr {
    server(move |mut stream, _| async move {
        while !line(&mut stream).await.is_empty() {}
        let length = body.len() + lacks;
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn a_figure_of_a_page_is_judged_by_its_name_and_labels() {
    let metrics = "# HELP jobs Jobs.\n# TYPE jobs gauge\njobs{queue=\"mail\",of=\"a\"} 3\njobs{queue=\"mail\",of=\"b\"} 4 1700000000000\n\
        jobs{queue=\"print\"} 1e3\njobs_total 9\nlag NaN\nodd{a} 1\nfree +Inf\n";
    let right = page("200 OK", metrics, 0).await;
    for (more, wanted) in [
        ("name = 'jobs_total'", GOOD),
        ("name = 'jobs_total'\nexpect = { above = 8, below = 10 }", GOOD),
        ("name = 'jobs'\nlabels = { queue = 'print' }\nexpect = { above = 999 }", GOOD),
        (
            "name = 'jobs'\nlabels = { queue = 'mail' }\nseveral = 'sum'\nexpect = { above = 6, below = 8 }",
            GOOD,
        ),
        ("name = 'jobs'\nseveral = 'greatest'\nexpect = { above = 999 }", GOOD),
        ("name = 'jobs'\nseveral = 'least'\nexpect = { below = 4 }", GOOD),
        ("name = 'free'\nexpect = { above = '1GiB' }", GOOD),
        ("name = 'jobs_total'\nexpect = { below = 9 }", bad("jobs_total is not below 9")),
        ("name = 'lag'\nexpect = { below = 9 }", bad("lag is not below 9")),
        ("name = 'job'", bad("there is no job with these labels")),
        ("name = 'jobs'\nlabels = { queue = 'fax' }", bad("there is no jobs with these labels")),
        ("name = 'jobs'", bad("there is more than one jobs with these labels: narrow it, or say `several`")),
        ("name = 'odd'", bad("the page is not Prometheus's text: `odd{a} 1`")),
    ] {
        let outcome = seen(&prober("metric", &format!("url = 'http://{right}/metrics'\n{more}"))).await;
        assert_eq!(outcome, wanted, "{more}");
    }
    let text = |at: SocketAddr| format!("url = 'http://{at}/'\nname = 'jobs_total'");
    let (outcome, facts) = told(std::path::Path::new("/"), "metric", &text(right)).await;
    assert_eq!((outcome, facts.last().unwrap().1.as_str()), (GOOD, "jobs_total is 9"));
    let sick = page("503 Service Unavailable", metrics, 0).await;
    assert_eq!(seen(&prober("metric", &text(sick))).await, bad("status 503, expected 2xx"));
    let half = page("200 OK", metrics, 1).await;
    assert_eq!(
        seen(&prober("metric", &text(half))).await,
        bad(format!("{half} closed the connection in the middle of the answer"))
    );
    let empty = page("200 OK", "", 0).await;
    assert_eq!(seen(&prober("metric", &text(empty))).await, bad("there is no jobs_total with these labels"));
    let silent = server(|mut stream, _| async move { while stream.read_u8().await.is_ok() {} }).await;
    let never =
        look_once(0, &prober("metric", &text(silent)), &Clock::start(), Duration::from_millis(300)).await;
    assert_eq!(never.sample.why.as_deref(), Some("no answer within 300 ms"));
}

// ------------------------------------------------------------------------------------------------ log

/// What a look at a log counts, or why it does not.
async fn counted(prober: &AnyProber) -> Result<f64, String> {
    let look = look(prober).await;
    let figure = look.facts.iter().find(|fact| fact.name == "figure").and_then(|fact| fact.figure);
    figure.ok_or_else(|| look.sample.why.as_deref().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn each_line_of_a_log_counts_once_also_when_it_is_moved_away_or_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("app.log"), folder.path().join("app.log.1"));
    let add = |path: &std::path::Path, text: &str| {
        let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    let setting =
        Setting { directory: folder.path().to_owned(), timeout: LONG, facts: true, whom: None, from: None };
    let reads = |file: &str, more: &str| {
        AnyProbe::from_toml("log", &format!("path = '{file}'\nregex = 'ERROR'\n{more}"))
            .unwrap()
            .prober(&setting)
    };
    let of_count = "of = 'count'\nexpect = { below = 1 }";
    add(&path, "ERROR before\n");
    let log = reads("app.log", of_count).unwrap();
    assert_eq!(seen(&log).await, GOOD, "what was there before does not count");
    add(&path, "ok\nERROR one\nERR");
    assert_eq!(seen(&log).await, bad("the number of lines with `ERROR` is not below 1"));
    add(&path, "OR two\n");
    assert_eq!(counted(&log).await, Ok(1.0), "a line that was not whole");
    assert_eq!(counted(&log).await, Ok(0.0));
    add(&path, "ERROR three\nERROR four");
    std::fs::rename(&path, &moved).unwrap();
    add(&path, "ERROR five\n");
    assert_eq!(counted(&log).await, Ok(3.0), "the rest of the old file, and the new one");
    std::fs::rename(&path, &moved).unwrap();
    add(&moved, "ERROR six\n");
    assert_eq!(counted(&log).await, Ok(1.0), "moved away, and still written to");
    add(&path, "ERROR seven\n");
    assert_eq!(counted(&log).await, Ok(1.0));
    std::fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    add(&path, "ERROR 8\n");
    assert_eq!(counted(&log).await, Ok(1.0), "cut to nothing");
    add(&path, &format!("{} ERROR\n\n", "x".repeat(200 * 1024)));
    assert_eq!(counted(&log).await, Ok(1.0), "a line that is too long to be kept");

    let late = reads("late.log", of_count).unwrap();
    let told = format!("{} is not there", folder.path().join("late.log").display());
    assert_eq!(counted(&late).await, Err(told));
    add(&folder.path().join("late.log"), "ERROR\n");
    assert_eq!(counted(&late).await, Ok(1.0));

    let rate = reads("app.log", "expect = { above = 0 }").unwrap();
    add(&path, "ERROR\n");
    assert_eq!(seen(&rate).await, GOOD);
    assert_eq!(seen(&rate).await, bad("the number of lines a second with `ERROR` is not above 0"));

    nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let why = reads("pipe", of_count).err().unwrap();
    assert!(why.ends_with("/pipe: it is no regular file"), "{why}");
}
