//! The probe `http` against real sockets: who is trusted and told what, where redirects lead, what lies between, which
//! address is asked, and what may be expected.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::{AnyProbe, AnyProber, Setting, look_once};
use brownout::slo::Outcome;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use looking::{Authority, GOOD, Real, bad, look, nobody, prober, prober_in, seen, server, tls_server, told};

/// Reads the head of a request; `None` when the connection ends before.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Answers each request with what it was asked.
async fn echoing(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(head) = request(&mut stream).await {
        let _ = stream.write_all(ok(&head.to_lowercase()).as_bytes()).await;
    }
}

/// Answers each request with the same.
async fn always(answer: String) -> SocketAddr {
    server(move |mut stream, _| {
        let answer = answer.clone();
        async move {
            while request(&mut stream).await.is_some() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await
}

/// What facts of one name say.
fn facts<'a>(told: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    told.iter().filter(|(of, _)| of == name).map(|(_, said)| said.as_str()).collect()
}

// ------------------------------------------------------------------------------------------------ TLS

#[tokio::test]
async fn a_server_is_asked_by_another_name_and_may_ask_who_we_are() {
    let authority = Authority::new();
    let port = tls_server(authority.acceptor_knowing_us("shop.example"), echoing).await;
    let url = format!("url = 'https://127.0.0.1:{port}/'\nca_file = 'ca.pem'");
    let named = format!("{url}\nname = 'shop.example'");
    let ours = format!("{named}\ncert_file = 'ours.pem'\nkey_file = 'ours.key'");
    assert_eq!(seen(&authority.prober("http", &ours)).await, GOOD);
    let (_, why) = seen(&authority.prober("http", &named)).await;
    assert!(why.ends_with("it asks for a certificate of ours"), "{why}");
    assert_eq!(
        seen(&authority.prober("http", &url)).await,
        bad(format!("TLS with 127.0.0.1:{port}: the certificate is for shop.example, not for 127.0.0.1"))
    );
    let page = format!("name = 'up'\naccess = {{ {} }}", ours.lines().skip(1).collect::<Vec<_>>().join(", "));
    let metric = authority.prober("metric", &format!("url = 'https://127.0.0.1:{port}/'\n{page}"));
    let (_, why) = seen(&metric).await;
    assert_eq!(why, "there is no up with these labels", "the page itself was had");
}

#[tokio::test]
async fn version_and_expiry_are_judged() {
    let authority = Authority::new();
    let old = authority.acceptor_of("localhost", 4000, &[&rustls::version::TLS12]);
    let old = tls_server(old, echoing).await;
    let brief = tls_server(Authority::until(2001).acceptor("localhost", 4000), echoing).await;
    let expired = tls_server(authority.acceptor("localhost", 2001), echoing).await;
    let of = |port: u16, more: &str| {
        authority.prober("http", &format!("url = 'https://localhost:{port}/'\n{more}"))
    };
    let peer = format!("127.0.0.1:{old}");
    for (port, more, wanted) in [
        (old, "ca_file = 'ca.pem'\nexpect = { tls_version = '1.2', valid_for = '30d' }", GOOD),
        (
            old,
            "ca_file = 'ca.pem'\nexpect = { tls_version = '1.3' }",
            bad("the TLS version is 1.2, expected 1.3"),
        ),
        (
            old,
            "ca_file = 'ca.pem'\nmin_version = '1.3'",
            bad(format!("TLS with {peer}: version 1.2, expected at least 1.3")),
        ),
        (
            brief,
            "insecure = true\nexpect = { valid_for = '1d', chain_valid_for = '1d' }",
            bad(
                "the chain's certificate of CN=an authority of the tests is valid until 2001-01-01 00:00 UTC, expected for 1 d yet",
            ),
        ),
        (
            expired,
            "insecure = true\nexpect = { valid_for = '14d' }",
            bad("the certificate is valid until 2001-01-01 00:00 UTC, expected for 14 d yet"),
        ),
        (expired, "insecure = true", GOOD),
    ] {
        let prober = of(port, more);
        assert_eq!(seen(&prober).await, wanted, "{more}");
        assert_eq!(seen(&prober).await, wanted, "{more}, on a kept connection");
    }
}

// ------------------------------------------------------------------------------------------ redirects

/// Answers paths with redirects, and every other path with what it was asked; tells what it was asked.
async fn leading(ways: Vec<(&'static str, String)>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = asked.clone();
    let address = server(move |mut stream, _| {
        let (ways, heard) = (ways.clone(), heard.clone());
        async move {
            while let Some(head) = request(&mut stream).await {
                let length = head.to_lowercase().lines().find_map(|line| {
                    line.strip_prefix("content-length: ").map(|length| length.parse().unwrap())
                });
                stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await.unwrap();
                heard.lock().unwrap().push(head.clone());
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let answer = match ways.iter().find(|(from, _)| *from == path) {
                    Some((_, to)) => format!("HTTP/1.1 {to}\r\nContent-Length: 5\r\n\r\nmoved"),
                    None => ok(&head.to_lowercase()),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (address, asked)
}

#[tokio::test]
async fn redirects_are_followed_as_far_as_asked_and_counted() {
    let to = |status: &str, where_to: &str| format!("{status} Moved\r\nLocation: {where_to}");
    let (address, asked) = leading(vec![
        ("/a", to("301", "b/c?d=e")),
        ("/b/c?d=e", to("302", "../f#part")),
        ("/loop", to("307", "/loop2")),
        ("/loop2", to("308", "/loop")),
        ("/nowhere", "302 Found".to_owned()),
        ("/odd", to("302", "ftp://elsewhere/")),
        ("/secret", to("302", "http://user:pass@elsewhere/")),
        ("/post", to("302", "/got")),
        ("/see", to("303", "/got")),
        ("/keep", to("307", "/put")),
    ])
    .await;
    let of = |path: &str, more: &str| format!("url = 'http://{address}{path}'\n{more}");
    let first = of("/a", "redirects = 5\nexpect = { body = 'get /f http/1.1' }");
    let (outcome, met) = told(Path::new("/"), "http", &first).await;
    assert_eq!(outcome, GOOD);
    let wanted = [format!("301 to http://{address}/b/c?d=e"), format!("302 to http://{address}/f")];
    assert_eq!(facts(&met, "redirect"), wanted);
    assert_eq!((facts(&met, "redirects"), facts(&met, "status")), (vec!["2"], vec!["HTTP/1.1 200 OK"]));

    for (path, more, wanted) in [
        ("/a", "", bad("status 301, expected 2xx")),
        ("/a", "expect = { status = 301 }", GOOD),
        ("/a", "redirects = 1", bad("redirected more often than expected (1)")),
        ("/a", "redirects = 2", GOOD),
        (
            "/loop",
            "redirects = 20",
            bad(format!("the redirects go round: http://{address}/loop comes again")),
        ),
        ("/nowhere", "redirects = 3", bad("status 302, expected 2xx")),
        (
            "/odd",
            "redirects = 3",
            bad(
                "it redirects to where nobody can follow: `ftp://elsewhere/` is not a URL: its scheme is neither http nor https",
            ),
        ),
        (
            "/secret",
            "redirects = 3",
            bad("it redirects to where nobody can follow: the URL holds a user or a password"),
        ),
        ("/post", "redirects = 3\nmethod = 'POST'\nbody = 'x'\nexpect = { body = 'get /got' }", GOOD),
        ("/see", "redirects = 3\nmethod = 'PUT'\nbody = 'x'\nexpect = { body = 'get /got' }", GOOD),
        (
            "/keep",
            "redirects = 3\nmethod = 'POST'\nbody = 'x'\nexpect = { body_regex = '(?s)^post /put.*length: 1' }",
            GOOD,
        ),
    ] {
        assert_eq!(seen(&prober("http", &of(path, more))).await, wanted, "{path} {more}");
    }
    asked.lock().unwrap().clear();
    let page = prober("http", &of("/a", "redirects = 5"));
    assert_eq!(seen(&page).await, GOOD);
    assert!(look(&page).await.phases.connect.is_none(), "the connection was kept");
    assert_eq!(asked.lock().unwrap().len(), 6);
}

#[tokio::test]
async fn who_we_are_is_told_to_nobody_else() {
    let authority = Authority::new();
    let (other, heard) = leading(vec![]).await;
    let (first, _) = leading(vec![
        ("/out", format!("302 Found\r\nLocation: http://{other}/")),
        ("/in", "302 Found\r\nLocation: /here".to_owned()),
        ("/plain", format!("302 Found\r\nLocation: http://127.0.0.2:{}/", other.port())),
    ])
    .await;
    let ours =
        "redirects = 2\nbearer = 'token'\nheaders = { Cookie = 'a=b', X-Mine = 'c', Host = 'shop.example' }";
    let with = |path: &str, expect: &str| {
        prober(
            "http",
            &format!("url = 'http://{first}{path}'\n{ours}\nexpect = {{ body_regex = '{expect}' }}"),
        )
    };
    let known = "(?s)host: shop.example.*authorization: bearer token";
    assert_eq!(seen(&with("/in", known)).await, GOOD, "the same place may know");
    assert_eq!(seen(&with("/out", "x-mine: c")).await, GOOD);
    let told = heard.lock().unwrap().join("").to_lowercase();
    assert!(!told.contains("authorization") && !told.contains("cookie"), "{told}");
    assert!(told.contains(&format!("host: {other}")), "{told}");

    // Nor is our certificate shown: the other server would let us in by it.
    let asks = tls_server(authority.acceptor_knowing_us("localhost"), echoing).await;
    let (sends, _) = leading(vec![("/", format!("302 Found\r\nLocation: https://localhost:{asks}/"))]).await;
    let text = format!(
        "url = 'http://{sends}/'\nredirects = 1\nca_file = 'ca.pem'\ncert_file = 'ours.pem'\nkey_file = 'ours.key'"
    );
    let (_, why) = seen(&authority.prober("http", &text)).await;
    assert!(why.ends_with("it asks for a certificate of ours"), "{why}");
    let direct = text.replace(&format!("http://{sends}/"), &format!("https://localhost:{asks}/"));
    assert_eq!(seen(&authority.prober("http", &direct)).await, GOOD);
}

// -------------------------------------------------------------------------------- proxies and sockets

/// A proxy as it should be: leads on what asks for a way, and answers the rest with what it was asked.
async fn proxying(mut stream: TcpStream) {
    let Some(head) = request(&mut stream).await else { return };
    let mut words = head.split(' ');
    if words.next() != Some("CONNECT") {
        let _ = stream.write_all(ok(&head.to_lowercase()).as_bytes()).await;
        return;
    }
    if !head.to_lowercase().contains("proxy-authorization: basic dtpw\r\n") {
        let refusal = "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n";
        let _ = stream.write_all(refusal.as_bytes()).await;
        return;
    }
    let port = words.next().unwrap().rsplit_once(':').unwrap().1;
    let mut server = TcpStream::connect(format!("127.0.0.1:{port}")).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
}

#[tokio::test]
async fn a_proxy_is_asked_for_pages_and_for_ways() {
    let authority = Authority::new();
    let proxy = server(|stream, _| proxying(stream)).await;
    let port = tls_server(authority.acceptor("shop.example", 4000), echoing).await;
    let plain = format!(
        "url = 'http://shop.example/a?b'\nproxy = 'http://{proxy}'\nproxy_basic = {{ user = 'u', password = 'p' }}\nexpect = {{ body_regex = '{}' }}",
        "(?s)^get http://shop.example/a.b http/1.1\\r\\n.*host: shop.example\\r\\n.*proxy-authorization: basic dtpw"
    );
    assert_eq!(seen(&prober("http", &plain)).await, GOOD);
    let secured = |more: &str| {
        authority.prober(
            "http",
            &format!(
                "url = 'https://shop.example:{port}/a'\nca_file = 'ca.pem'\nproxy = 'http://{proxy}'\n{more}"
            ),
        )
    };
    let known =
        secured("proxy_basic = { user = 'u', password = 'p' }\nexpect = { body_regex = '^get /a http/1.1' }");
    let first = look(&known).await;
    assert_eq!(first.sample.why, None);
    assert!(first.phases.greeting.is_some() && first.phases.lookup.is_none(), "the proxy looks the name up");
    assert!(look(&known).await.phases.connect.is_none(), "the way was kept");
    let said = |what: &str| bad(format!("the proxy {proxy} {what}"));
    assert_eq!(seen(&secured("")).await, said("answers CONNECT with status 407"));
    let other = "name = 'other.example'\nproxy_basic = { user = 'u', password = 'p' }";
    assert_eq!(
        seen(&secured(other)).await,
        bad(format!(
            "TLS with shop.example:{port} through the proxy {proxy}: the certificate is for shop.example, not for other.example"
        ))
    );
    let through = |proxy: SocketAddr, scheme: &str| {
        prober("http", &format!("url = '{scheme}://shop.example/'\nproxy = 'http://{proxy}'"))
    };
    let gone = nobody().await;
    assert_eq!(seen(&through(gone, "http")).await, bad(format!("the proxy: connection refused by {gone}")));
    let odd = always("SSH-2.0\r\n\r\n".to_owned()).await;
    let (_, why) = seen(&through(odd, "https")).await;
    assert!(why.starts_with(&format!("the proxy {odd} does not answer CONNECT: ")), "{why}");
    let hasty = always("HTTP/1.1 200 OK\r\n\r\nmore".to_owned()).await;
    assert_eq!(
        seen(&through(hasty, "https")).await,
        bad(format!("the proxy {hasty} said more than it was asked: `more`"))
    );
}

#[tokio::test]
async fn a_unix_socket_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echoing(stream));
        }
    });
    let text = "url = 'http://shop.example/a'\nunix_socket = 'socket'\nexpect = { body_regex = '(?s)^get /a .*host: shop.example' }";
    let (outcome, met) = told(folder.path(), "http", text).await;
    assert_eq!(outcome, GOOD);
    assert_eq!(facts(&met, "peer"), [path.display().to_string()]);
    let page = prober_in(folder.path(), "http", text);
    assert_eq!(seen(&page).await, GOOD);
    assert!(look(&page).await.phases.connect.is_none(), "the connection was kept");
    let gone = prober_in(folder.path(), "http", "url = 'http://a/'\nunix_socket = 'no'");
    let (_, why) = seen(&gone).await;
    assert_eq!(
        why,
        format!("{}: No such file or directory (os error 2)", folder.path().join("no").display())
    );
}

// ------------------------------------------------------------------------------------------- addresses

#[tokio::test]
async fn each_look_goes_to_the_address_that_was_chosen_and_tells_it() {
    // Of a name with two addresses, one port of which nobody else has.
    let (four, six) = loop {
        let four = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(six) = TcpListener::bind(("::1", four.local_addr().unwrap().port())).await {
            break (four, six);
        }
    };
    let port = four.local_addr().unwrap().port();
    for listener in [four, six] {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echoing(stream));
            }
        });
    }
    let (v4, v6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    let setting = |facts| brownout::probe::Setting {
        directory: "/".into(),
        timeout: looking::LONG,
        facts,
        whom: None,
        from: None,
    };
    let of = |more: &str| -> AnyProber {
        let text = format!("url = 'http://shop.localhost:{port}/'\n{more}");
        AnyProbe::from_toml("http", &text).unwrap().prober(&setting(true)).unwrap()
    };
    for (more, peers) in [
        ("", [&v4, &v4, &v4]),
        ("addresses = 'ipv4'", [&v4, &v4, &v4]),
        ("addresses = 'ipv6'", [&v6, &v6, &v6]),
        ("addresses = 'each'\nconnection = 'fresh'", [&v4, &v6, &v4]),
    ] {
        let prober = of(more);
        for peer in peers {
            let look = look(&prober).await;
            assert_eq!(look.sample.why, None, "{more}");
            let told: Vec<&str> =
                look.facts.iter().filter(|fact| fact.name == "peer").map(|fact| fact.said.as_str()).collect();
            assert_eq!(told, [peer.as_str()], "{more}, also on a kept connection");
        }
    }
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_not_replaced_by_one_that_would() {
    let port = loop {
        let six = TcpListener::bind("[::1]:0").await.unwrap();
        let port = six.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            tokio::spawn(async move {
                while let Ok((stream, _)) = six.accept().await {
                    tokio::spawn(echoing(stream));
                }
            });
            break port;
        }
    };
    let of = |more: &str| prober("http", &format!("url = 'http://localhost:{port}/'\n{more}"));
    assert_eq!(seen(&of("")).await, bad(format!("connection refused by 127.0.0.1:{port}")));
    assert_eq!(seen(&of("addresses = 'ipv6'")).await, GOOD);
}

// ------------------------------------------------------------------------------------------ bounds

#[tokio::test]
async fn sizes_and_times_are_judged_by_their_bounds() {
    let four = always(ok("four")).await;
    for (expect, wanted) in [
        ("size = 'below 5B'", GOOD),
        ("size = 'above 3B'", GOOD),
        ("size = 'below 4B'", bad("the body is not below 4B")),
        ("size = 'above 1KiB'", bad("the body is not above 1KiB")),
        ("lookup = 'below 1h', connect = 'below 1h', first_byte = 'below 1h', transfer = 'below 1h'", GOOD),
        ("first_byte = 'above 1h'", bad("the wait for the first byte is not above 1h")),
        ("connect = 'below 0s'", bad("the connecting is not below 0s")),
        // A literal address is not looked up.
        ("lookup = 'below 0s'", GOOD),
    ] {
        let text = format!("url = 'http://{four}/'\nexpect = {{ {expect} }}");
        assert_eq!(seen(&prober("http", &text)).await, wanted, "{expect}");
    }
    let slow = server(|mut stream, _| async move {
        while request(&mut stream).await.is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let _ = stream.write_all(ok("late").as_bytes()).await;
        }
    })
    .await;
    let text = format!("url = 'http://{slow}/'\nexpect = {{ first_byte = 'below 49ms' }}");
    let kept = prober("http", &text);
    for _ in 0..2 {
        assert_eq!(seen(&kept).await, bad("the wait for the first byte is not below 49ms"));
    }
}

#[tokio::test]
async fn a_compressed_body_is_bad_where_something_of_it_is_expected() {
    // Ten bytes that would be a thousand times as many.
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n0123456789";
    let packed = always(answer.to_owned()).await;
    let of = |more: &str| prober("http", &format!("url = 'http://{packed}/'\n{more}"));
    assert_eq!(seen(&of("")).await, GOOD);
    let wanted = bad("the body is compressed (`gzip`), and is not unpacked");
    assert_eq!(seen(&of("expect = { body = '0' }")).await, wanted);
    let metric = prober("metric", &format!("url = 'http://{packed}/'\nname = 'up'"));
    assert_eq!(seen(&metric).await, wanted);
}

// ------------------------------------------------------------------------------------ HTTP/2, and nginx

#[tokio::test]
async fn many_headers_and_folded_ones_are_read() {
    use std::fmt::Write as _;
    let many = (0..300).fold(String::new(), |mut all, n| {
        let _ = write!(all, "X-{n}: a\r\n");
        all
    });
    let folded = "X-Folded: one\r\n two\r\n";
    for head in [many.as_str(), folded] {
        let at = always(format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 2\r\n\r\nok")).await;
        let text = format!("url = 'http://{at}/'\nexpect = {{ body = 'ok' }}");
        assert_eq!(seen(&prober("http", &text)).await, GOOD);
    }
}

#[tokio::test]
async fn a_body_that_never_ends_and_never_waits_is_over_at_the_deadline() {
    let at = server(|mut stream, _| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let chunks = b"1\r\nx\r\n".repeat(10_000);
        while stream.write_all(&chunks).await.is_ok() {}
    })
    .await;
    let timeout = Duration::from_millis(500);
    let setting = Setting { directory: "/".into(), timeout, facts: false, whom: None, from: None };
    let prober = AnyProbe::from_toml("http", &format!("url = 'http://{at}/'")).unwrap();
    let sample = look_once(0, &prober.prober(&setting).unwrap(), &Clock::start(), timeout).await.sample;
    // Whichever bound it meets first: its time, or 16 MiB.
    assert_eq!(sample.outcome, Outcome::Bad, "{:?}", sample.why);
}

#[tokio::test]
async fn a_real_nginx_is_asked_by_both_versions_with_and_without_tls() {
    let authority = Authority::new();
    authority.write_server("localhost");
    authority.write("ours", "us.example");
    let certificates = authority.folder.path().to_owned();
    let config = |here: &Path, port: u16| {
        let (here, there) = (here.display(), certificates.display());
        let secured = format!(
            "ssl_certificate {there}/server.pem; ssl_certificate_key {there}/server.key;
             ssl_client_certificate {there}/ca.pem; ssl_verify_client on;"
        );
        let pages = "location / { return 200 'all is well by $server_protocol'; }
                     location /old { return 301 /new; }
                     location /big { root HERE; }"
            .replace("HERE", &here.to_string());
        format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;
                uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
                server {{ listen 127.0.0.1:{port} ssl http2; {secured} {pages} }}
                server {{ listen unix:{here}/one; {pages} }}
                server {{ listen unix:{here}/two http2; {pages} }}
            }}"
        )
    };
    let arguments = |here: &Path, port: u16| {
        std::fs::write(here.join("nginx.conf"), config(here, port)).unwrap();
        std::fs::write(here.join("big"), vec![b'x'; 20 << 20]).unwrap();
        let file = |name: &str| here.join(name).display().to_string();
        vec!["-c".to_owned(), file("nginx.conf"), "-e".to_owned(), file("error.log")]
    };
    let tls = |port: u16, path: &str, more: &str| {
        format!(
            "url = 'https://localhost:{port}{path}'\nca_file = 'ca.pem'\ncert_file = 'ours.pem'\nkey_file = 'ours.key'\n{more}"
        )
    };
    let ready = |_: &Path, port: u16| authority.prober("http", &tls(port, "/", ""));
    let Some(nginx) = Real::start("nginx", arguments, ready).await else { return };
    for (version, protocol) in [("1.1", "HTTP/1.1"), ("2", "HTTP/2.0"), ("either", "HTTP/2.0")] {
        let more =
            format!("version = '{version}'\nredirects = 1\nexpect = {{ body = 'well by {protocol}' }}");
        let page = authority.prober("http", &tls(nginx.port, "/old", &more));
        for nth in 0..3 {
            let look = look(&page).await;
            assert_eq!(look.sample.why, None, "{version}");
            assert_eq!(look.phases.tls.is_some(), nth == 0, "the connection was kept");
        }
    }
    let local = |socket: &str, path: &str, more: &str| {
        let text = format!("url = 'http://localhost{path}'\nunix_socket = '{socket}'\n{more}");
        prober_in(nginx.folder.path(), "http", &text)
    };
    let by = |protocol: &str| format!("expect = {{ body = 'well by {protocol}' }}");
    assert_eq!(seen(&local("one", "/", &by("HTTP/1.1"))).await, GOOD);
    let two = local("two", "/", &format!("version = '2'\n{}", by("HTTP/2.0")));
    assert_eq!((seen(&two).await, seen(&two).await), (GOOD, GOOD));
    for version in ["1.1", "2"] {
        let socket = if version == "2" { "two" } else { "one" };
        let big = local(socket, "/big", &format!("version = '{version}'"));
        assert_eq!(seen(&big).await, bad("the body is longer than 16 MiB"));
    }
    let (_, why) = seen(&local("one", "/", "version = '2'")).await;
    let socket = nginx.folder.path().join("one");
    assert!(why.starts_with(&format!("{} breaks off by HTTP/2: ", socket.display())), "{why}");
}

#[tokio::test]
async fn a_server_that_cannot_do_what_was_asked_for_is_told() {
    let authority = Authority::new();
    let port = tls_server(authority.acceptor("localhost", 4000), echoing).await;
    let text = format!("url = 'https://localhost:{port}/'\nca_file = 'ca.pem'");
    let two = authority.prober("http", &format!("{text}\nversion = '2'"));
    assert_eq!(seen(&two).await, bad(format!("127.0.0.1:{port} does not offer HTTP/2")));
    let either = authority.prober("http", &format!("{text}\nversion = 'either'"));
    assert_eq!(seen(&either).await, GOOD);
}

// ---------------------------------------------------------------------------------- what is refused

#[test]
fn what_cannot_be_meant_is_refused_with_the_remedy() {
    for (text, why) in [
        (
            "url = 'https://a/'\ncert_file = 'a'",
            "of `cert_file` and `key_file` one is missing (give both of them)",
        ),
        (
            "url = 'http://a/'\nname = 'b'",
            "`name`, `min_version` and `cert_file` mean nothing for an http:// URL (leave them out, or use https://)",
        ),
        (
            "url = 'http://a/'\nexpect = { valid_for = '1d' }",
            "an http:// URL has no TLS of which something could be expected (leave it out of `expect`, or use https://)",
        ),
        ("url = 'http://a/'\nredirects = 21", "more than 20 redirects would be followed (use 0 to 20)"),
        (
            "url = 'http://a/'\nproxy = 'http://b'\nunix_socket = '/c'",
            "both `proxy` and `unix_socket` are given (give one of them)",
        ),
        (
            "url = 'http://a/'\nproxy = 'https://b'",
            "`proxy` is an https:// URL (use a proxy that is reached by http://)",
        ),
        (
            "url = 'http://a/'\nproxy_basic = { user = 'u', password = 'hidden' }",
            "`proxy_basic` is given without `proxy` (give `proxy`, or leave it out)",
        ),
        (
            "url = 'https://a/'\nunix_socket = '/c'",
            "`unix_socket` is given with an https:// URL (use http://)",
        ),
        (
            "url = 'http://a/'\nunix_socket = '/c'\nredirects = 1",
            "`unix_socket` leads to one server, but redirects are followed (give one of them)",
        ),
        (
            "url = 'http://192.0.2.1/'\naddresses = 'ipv6'",
            "`addresses` means nothing where no name is looked up (leave it out, or use a name)",
        ),
        (
            "url = 'http://a/'\naddresses = 'each'",
            "`each` address has its turn only with fresh connections (write connection = \"fresh\")",
        ),
        (
            "url = 'http://a/'\nversion = 'either'",
            "without TLS nobody says which version of HTTP to use (write version = \"1.1\" or \"2\")",
        ),
        (
            "url = 'http://a/'\nproxy = 'http://b'\nversion = '2'",
            "a proxy is not asked for an http:// URL by HTTP/2 (leave out `version`)",
        ),
    ] {
        assert_eq!(AnyProbe::from_toml("http", text).unwrap_err(), format!("http:1: {why}"));
    }
    for (expect, why) in [
        (
            "first_byte = 'below soon'",
            "`soon` is not a duration such as \"200ms\", \"1.5s\", \"2m\" or \"1h30m\": it does not begin with a number",
        ),
        ("size = '1MiB'", "`1MiB` is not a bound (write \"below\" or \"above\", a space, and the limit)"),
        ("tls_version = '1.1'", "`1.1` is not known here (did you mean `1.3`?)"),
    ] {
        let text = format!("url = 'https://a/'\nexpect = {{ {expect} }}");
        assert_eq!(AnyProbe::from_toml("http", &text).unwrap_err(), format!("http:2: {why}"));
    }
    let hidden = "url = 'http://a/'\nproxy = 'http://b'\nproxy_basic = { user = 'u', password = 'hidden' }";
    let probe = AnyProbe::from_toml("http", hidden).unwrap();
    assert!(!format!("{probe:?}").contains("hidden"));
}
