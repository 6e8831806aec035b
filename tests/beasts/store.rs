//! The protocols of redis (RESP2) and PostgreSQL (version 3.0). The exporter has no probers for them: its users write what is
//! to be said over TCP, which goes for redis, and not for PostgreSQL, whose words hold bytes that its file cannot.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Beast, Den, bye, pouring, serving, silent};

fn redis(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "redis", den)
        .asked("address = '127.0.0.1:PORT'\nexpect = { is = 'PONG' }\n")
        .theirs("tcp", "127.0.0.1:PORT", "query_response: [{send: PING}, {expect: '^.PONG'}]")
}

fn postgres(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "postgres", den).asked("address = '127.0.0.1:PORT'\n")
}

/// Waits for a word, says this and closes.
fn says(words: impl Into<Vec<u8>>) -> Den {
    let words = words.into();
    serving(move |mut stream| {
        let words = words.clone();
        async move {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(&words).await;
            bye(stream).await;
        }
    })
}

/// A message of PostgreSQL's: its kind, its length, what it holds.
fn message(kind: u8, holds: &[u8]) -> Vec<u8> {
    [&[kind][..], &(holds.len() as u32 + 4).to_be_bytes(), holds].concat()
}

/// The login is done and a query may come.
fn welcome() -> Vec<u8> {
    [message(b'R', &[0; 4]), message(b'Z', b"I")].concat()
}

/// Logs everybody in, waits for the query, says this and closes.
fn queried(words: Vec<u8>) -> Den {
    serving(move |mut stream| {
        let words = words.clone();
        async move {
            let _ = stream.read_u8().await;
            let _ = stream.write_all(&welcome()).await;
            // What is left of the greeting has no `Q` in it; the query begins with one.
            while stream.read_u8().await.is_ok_and(|byte| byte != b'Q') {}
            let _ = stream.write_all(&words).await;
            bye(stream).await;
        }
    })
}

pub(super) fn all() -> Vec<Beast> {
    vec![
        redis("pong", "answers", says("+PONG\r\n")),
        redis(
            "loading",
            "is there, and still loads what it kept",
            says("-LOADING Redis is loading the dataset in memory\r\n"),
        )
        .bad("the answer is an error: `LOADING Redis is loading the dataset in memory`"),
        redis("asks-for-a-password", "asks for a password", says("-NOAUTH Authentication required.\r\n"))
            .bad("the answer is an error: `NOAUTH Authentication required.`"),
        redis("no-redis", "is a web server", says("HTTP/1.1 400 Bad Request\r\n\r\n"))
            .bad("the answer of PEER is not redis's protocol: `HTTP/1.1 400 Bad Request`"),
        redis("half-a-reply", "closes in the middle of its answer", says("$100\r\nPONG"))
            .bad("PEER closed the connection in the middle of the answer"),
        redis("no-reply", "closes without an answer", says(""))
            .bad("PEER closed the connection without an answer"),
        redis(
            "huge-reply",
            "promises a terabyte and sends on",
            serving(|mut stream| async move {
                let _ = stream.write_all(b"$1099511627776\r\n").await;
                pouring(stream, b"a".to_vec()).await;
            }),
        )
        .bad("the answer is longer than 1 MiB"),
        redis(
            "huge-list",
            "promises a list of a billion, and sends on",
            serving(|mut stream| async move {
                let _ = stream.write_all(b"*1000000000\r\n").await;
                pouring(stream, b":1\r\n".to_vec()).await;
            }),
        )
        .bad("the answer is longer than 1 MiB"),
        redis("silent-redis", "says nothing", serving(silent)).within("2s").bad("no answer within 2 s"),
        postgres(
            "too-many-clients",
            "has no connection left",
            says(message(b'E', b"SFATAL\0C53300\0Msorry, too many clients already\0\0")),
        )
        .bad("the login is refused: `sorry, too many clients already` (53300)"),
        postgres("no-postgres", "is a web server", says("HTTP/1.1 400 Bad Request\r\n\r\n"))
            .bad("PEER does not speak PostgreSQL's protocol: it begins `HTTP/1.1 400 Bad Request`"),
        postgres("closes-before-the-login", "closes when it is greeted", says(""))
            .bad("PEER closed the connection without an answer"),
        postgres("silent-before-the-login", "says nothing", serving(silent))
            .within("2s")
            .bad("no answer within 2 s to the login"),
        postgres(
            "query-fails",
            "fails at the query",
            queried(
                [message(b'E', b"SERROR\0C57014\0Mcanceling statement\0\0"), message(b'Z', b"I")].concat(),
            ),
        )
        .bad("the query is refused: `canceling statement` (57014)"),
        postgres("closes-at-the-query", "closes when it is asked", queried(Vec::new()))
            .bad("PEER closed the connection without an answer"),
        postgres(
            "endless-messages",
            "never ends its notices",
            serving(|mut stream| async move {
                let _ = stream.read_u8().await;
                pouring(stream, message(b'N', b"SNOTICE\0Mhello\0\0")).await;
            }),
        )
        .within("2s")
        .bad("no answer within 2 s to the login"),
        postgres(
            "huge-message",
            "promises a message of 1 GiB",
            says([&b"R"[..], &(1_u32 << 30).to_be_bytes()].concat()),
        )
        .bad("PEER does not speak PostgreSQL's protocol: a message longer than 16 MiB"),
    ]
}
