//! HTTP/1.1: RFC 9110 and RFC 9112.

use std::io::Write as _;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Beast, Den, bye, den, deserted, dripping, head, pouring, reset, serving, silent};
use crate::looking::tls_server;

const URL: &str = "url = 'http://127.0.0.1:PORT/'\n";
const TARGET: &str = "http://127.0.0.1:PORT/";
const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn http(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "http", den).asked(URL).theirs("http", TARGET, "")
}

impl Beast {
    /// What the answer must be, in our words and in theirs.
    fn expects(self, ours: &str, theirs: &str) -> Self {
        self.asked(&format!("{URL}expect = {{ {ours} }}\n")).theirs("http", TARGET, theirs)
    }
}

/// A body that must hold `ok`.
const OK: (&str, &str) = ("body = 'ok'", "fail_if_body_not_matches_regexp: ['ok']");

/// Answers every request so, then closes.
fn says(answer: impl Into<Vec<u8>>) -> Den {
    let answer = answer.into();
    serving(move |mut stream| {
        let answer = answer.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(&answer).await;
            bye(stream).await;
        }
    })
}

/// Answers a request, then goes on in another way.
fn then<F, R>(answer: &'static str, goes_on: F) -> Den
where
    F: Fn(TcpStream) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    serving(move |mut stream| {
        let goes_on = goes_on.clone();
        async move {
            head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            goes_on(stream).await;
        }
    })
}

/// Deflated zeros in gzip's frame (RFC 1952): so many MiB in a thousandth of that.
fn bomb() -> Vec<u8> {
    // Made by the format's own rules, so that no compressor is needed: a block with fixed codes (RFC 1951, section 3.2.6)
    // of one zero and copies of 258 from one byte before.
    let (mut bytes, mut held, mut count) = (vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff], 0_u32, 0);
    let mut bit = |value: u32| {
        held |= value << count;
        count += 1;
        if count == 8 {
            bytes.push(held as u8);
            (held, count) = (0, 0);
        }
    };
    // Last block, fixed codes (header fields least significant bit first); the literal 0 is 00110000.
    for value in [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0] {
        bit(value);
    }
    // Length 258 is 11000101, distance 1 is 00000.
    for _ in 0..(64 << 20) / 258 {
        for value in [1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0] {
            bit(value);
        }
    }
    // The end is 0000000; the check and the length behind it nobody lives to see.
    for _ in 0..15 {
        bit(0);
    }
    bytes.extend([0; 8]);
    let mut answer = Vec::new();
    let _ = write!(
        answer,
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    answer.extend(bytes);
    answer
}

const MIDDLE: &str = "PEER closed the connection in the middle of the answer";

pub(super) fn all() -> Vec<Beast> {
    [lengths(), heads(), times(), bodies(), statuses(), others(), secured()].into_iter().flatten().collect()
}

fn lengths() -> Vec<Beast> {
    vec![
        http(
            "truncated-body",
            "promises 1000 bytes, sends 10, closes",
            says("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789"),
        )
        .bad(MIDDLE),
        http(
            "truncated-chunk",
            "closes in a chunk",
            says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n0123456789"),
        )
        .bad(MIDDLE),
        http(
            "no-last-chunk",
            "closes after a whole chunk that is not the last",
            says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"),
        )
        .bad(MIDDLE),
        http(
            "longer-than-said",
            "sends more than the length that it said",
            says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more"),
        )
        .expects(OK.0, OK.1),
        http(
            "two-lengths",
            "says two lengths that differ",
            says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"),
        )
        .bad("the answer of PEER is not HTTP: invalid content-length parsed"),
        http(
            "length-and-chunks",
            "says a length, and sends chunks, which count",
            says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        )
        .expects(OK.0, OK.1),
        http(
            "length-is-a-word",
            "says that its length is `many`",
            says("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok"),
        )
        .bad("the answer of PEER is not HTTP: invalid content-length parsed"),
        http(
            "negative-length",
            "says a length below nothing",
            says("HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"),
        )
        .bad("the answer of PEER is not HTTP: invalid content-length parsed"),
        http(
            "chunk-size-is-a-word",
            "begins a chunk with something that is no size",
            says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\nok\r\n0\r\n\r\n"),
        )
        .bad("the body of PEER's answer is not HTTP: invalid chunk size"),
        http("until-it-closes", "HTTP/1.0 without a length: the end is the end", says("HTTP/1.0 200 OK\r\n\r\nok"))
            .expects(OK.0, OK.1),
        http(
            "reset-instead-of-an-end",
            "no length, and a reset where the end would be",
            then("HTTP/1.1 200 OK\r\n\r\nok", reset),
        )
        .bad("connection reset by PEER"),
    ]
}

fn heads() -> Vec<Beast> {
    let many: String = (0..150).map(|nth| format!("X-Header-{nth}: a\r\n")).collect();
    vec![
        http(
            "many-headers",
            "sends 150 headers",
            says(format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2\r\n\r\nok")),
        ),
        http("endless-head", "never ends its head", then("HTTP/1.1 200 OK\r\n", |stream| {
            pouring(stream, b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".to_vec())
        }))
        .bad("the head of the answer of PEER is too large"),
        http(
            "endless-header",
            "never ends one header",
            then("HTTP/1.1 200 OK\r\nX-Header: ", |stream| pouring(stream, b"a".to_vec())),
        )
        .bad("the head of the answer of PEER is too large"),
        http("bare-line-feeds", "ends lines without a carriage return", says("HTTP/1.1 200 OK\nContent-Length: 2\n\nok"))
            .expects(OK.0, OK.1),
        http(
            "folded-header",
            "goes on with a header in the next line, as was once allowed",
            says("HTTP/1.1 200 OK\r\nX-Note: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        )
        .expects(
            "header = { x-note = '^a +b$' }",
            "fail_if_header_not_matches: [{header: X-Note, regexp: '^a +b$'}]",
        ),
        http(
            "nul-in-a-header",
            "puts a NUL into a header",
            says("HTTP/1.1 200 OK\r\nX-Note: a\0b\r\nContent-Length: 2\r\n\r\nok"),
        )
        .bad("the answer of PEER is not HTTP: invalid HTTP header parsed"),
        http("banner-of-another", "greets as SSH does", says("SSH-2.0-OpenSSH_9.2\r\n"))
            .bad("the answer of PEER is not HTTP: it begins `SSH-2.0-OpenSSH_9.2`"),
        http("no-head-at-all", "sends a page and nothing else, as HTTP/0.9 did", says("<html>ok</html>\n"))
            .bad("the answer of PEER is not HTTP: it begins `<html>ok</html>`"),
        http("speaks-http-2-only", "speaks HTTP/2 at once", serving(|mut stream| async move {
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            bye(stream).await;
        }))
        .bad("the answer of PEER is not HTTP/1.1: it speaks HTTP/2"),
    ]
}

fn times() -> Vec<Beast> {
    vec![
        http("slow-head", "sends its head a byte at a time and never all of it", then(
            "HTTP/1.1 200 OK\r\nX-Slow: ",
            |stream| dripping(stream, b"a"),
        ))
        .within("2s")
        .bad("no whole answer within 2 s"),
        http("slow-body", "sends its body a byte at a time and never all of it", then(
            "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
            |stream| dripping(stream, b"a"),
        ))
        .within("2s")
        .bad("no whole answer within 2 s"),
        http("silent", "takes the request and says nothing", serving(silent))
            .within("2s")
            .bad("no answer within 2 s"),
        http(
            "endless-continues",
            "says `100 Continue` for ever",
            serving(|mut stream| async move {
                head(&mut stream).await;
                dripping(stream, b"HTTP/1.1 100 Continue\r\n\r\n").await;
            }),
        )
        .within("2s")
        .bad("no whole answer within 2 s"),
        http(
            "early-hints",
            "says `103 Early Hints` three times before it answers",
            says("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3) + GOOD),
        )
        .expects(OK.0, OK.1),
    ]
}

fn bodies() -> Vec<Beast> {
    let late = format!("{}ok", "a".repeat(2 << 20));
    vec![
        http("endless-body", "never ends its body", then("HTTP/1.1 200 OK\r\n\r\n", |stream| {
            pouring(stream, b"a".to_vec())
        }))
        .theirs("http", TARGET, "body_size_limit: 16MB")
        .bad("the body is longer than 16 MiB"),
        http("endless-chunks", "sends chunks of one byte for ever", then(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            |stream| pouring(stream, b"1\r\na\r\n".to_vec()),
        ))
        .theirs("http", TARGET, "body_size_limit: 16MB")
        .within("2s")
        .bad("no whole answer within 2 s"),
        http("bomb", "sends 64 MiB of zeros in 64 KiB of gzip, unasked", says(bomb())),
        http("bomb-to-be-read", "sends it where something is expected in the body", says(bomb()))
            .expects(OK.0, "compression: gzip, body_size_limit: 16MB, fail_if_body_not_matches_regexp: ['ok']")
            .bad("the body is encoded as `gzip`, which was not asked for, and is not read"),
        http("wrong-words", "answers 200 with an error page", says("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsorry"))
            .expects(OK.0, OK.1)
            .bad("the body does not contain `ok`; it begins `sorry`"),
        http("empty-body", "answers 200 with nothing", says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
            .expects("json = { '$.ok' = true }", "fail_if_body_not_matches_regexp: ['\"ok\": *true']")
            .bad("the body is empty, expected JSON"),
        http(
            "words-after-the-first-mib",
            "has what is expected behind 2 MiB of something else",
            says(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{late}", late.len())),
        )
        .expects(OK.0, OK.1)
        .bad("the first 1 MiB of the body does not contain `ok`; it begins `aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...`")
        .differs("we keep the first MiB of a body, so that ten thousand looks stay small, and say so; it keeps all"),
        http(
            "body-where-none-may-be",
            "sends a body after 204",
            says("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok"),
        ),
    ]
}

fn statuses() -> Vec<Beast> {
    vec![
        http("server-error", "answers 500", says("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"))
            .bad("status 500, expected 2xx"),
        http("status-of-no-class", "answers 999", says("HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n"))
            .bad("status 999, expected 2xx"),
        http("switches-protocols", "switches protocols, unasked", says("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"))
            .bad("status 101, expected 2xx"),
        http("redirect-to-nowhere", "redirects without saying whither", says("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"))
            .bad("status 302, expected 2xx"),
    ]
}

fn others() -> Vec<Beast> {
    vec![
        http("closes-unasked", "takes the request and closes", then("", bye))
            .bad("PEER closed the connection without an answer"),
        http("half-closed", "closes its half before it is asked, and listens on", serving(bye))
            .bad("PEER closed the connection without an answer"),
        http("resets", "takes the request and resets", then("", reset)).bad("connection reset by PEER"),
        http("resets-in-the-body", "resets in the middle of the body", then(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789",
            reset,
        ))
        .bad("connection reset by PEER"),
        http("nobody", "does not listen", deserted()).bad("connection refused by PEER"),
        http("tls-asked-in-the-clear", "speaks TLS and is asked in the clear", secure("")) // An alert is all it says.
            .bad("the answer of PEER is not HTTP: it speaks TLS"),
        http("clear-asked-by-tls", "speaks no TLS and is asked by https", says(GOOD))
            .asked("url = 'https://127.0.0.1:PORT/'\ninsecure = true\n")
            .theirs("http", "https://127.0.0.1:PORT/", "tls_config: {insecure_skip_verify: true}")
            .bad("TLS with PEER: it does not speak TLS"),
    ]
}

/// Answers over TLS so, then ends the connection without a word of TLS.
fn secure(answer: &'static str) -> Den {
    den(move |authority| {
        let acceptor = authority.acceptor("localhost", 4000);
        async move {
            tls_server(acceptor, move |mut stream| async move {
                head(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.flush().await;
                bye(stream.into_inner().0).await;
            })
            .await
        }
    })
}

fn secured() -> Vec<Beast> {
    let by_tls = |beast: Beast| {
        beast
            .asked("url = 'https://localhost:PORT/'\nca_file = 'ca.pem'\n")
            .theirs("http", "https://localhost:PORT/", "preferred_ip_protocol: ip4, tls_config: {ca_file: CA}")
    };
    vec![
        by_tls(http(
            "no-farewell",
            "ends a TLS connection without TLS's own end, where only that could tell that the body is whole",
            secure("HTTP/1.1 200 OK\r\n\r\nok"),
        ))
        .bad(MIDDLE),
        by_tls(http(
            "no-farewell-after-all",
            "ends a TLS connection without TLS's own end after a body of known length",
            secure(GOOD),
        )),
    ]
}
