//! The probes of protocols against servers that answer rightly, wrongly, slowly, half and never, and against real ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;

use std::net::SocketAddr;
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::look_once;
use brownout::slo::Outcome;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use looking::{Authority, GOOD, Real, bad, look, prober, seen, server, tls_server, told};

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
    assert_eq!(look.sample.why.as_deref(), Some("no answer within 300 ms"));
    assert!(look.phases.connect.is_some() && look.phases.tls > Some(limit / 10), "{:?}", look.phases);
}

#[tokio::test]
async fn a_server_may_ask_for_a_certificate_of_ours() {
    let authority = Authority::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let ours = rcgen::CertificateParams::new(vec!["us.example".to_owned()]).unwrap();
    let ours = ours.signed_by(&key, &authority.issuer).unwrap();
    std::fs::write(authority.folder.path().join("ours.pem"), ours.pem()).unwrap();
    std::fs::write(authority.folder.path().join("key.pem"), key.serialize_pem()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let asks =
        rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let acceptor = authority.acceptor_asking("localhost", asks);
    let port = tls_server(acceptor, |mut stream| async move {
        // By the end of its answer both sides have seen each other's certificates, in every version.
        let _ = stream.write_all(b"hello\n").await;
        let _ = stream.read_u8().await;
    })
    .await;
    let text = |more: &str| {
        format!("address = 'localhost:{port}'\nexpect = 'hello'\ntls = {{ ca_file = 'ca.pem'{more} }}")
    };
    let with = authority.prober("tcp", &text(", cert_file = 'ours.pem', key_file = 'key.pem'"));
    assert_eq!(seen(&with).await, GOOD);
    let (outcome, why) = seen(&authority.prober("tcp", &text(""))).await;
    assert_eq!(outcome, Outcome::Bad);
    assert!(why.contains("CertificateRequired"), "{why}");
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
        (b"$5\r\nab", "", bad("PEER closed the connection without an answer")),
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
