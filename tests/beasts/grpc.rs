//! HTTP/2 (RFC 9113), gRPC over it, and its health protocol.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Beast, Den, bye, pouring, reset, serving, silent};

fn grpc(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "grpc", den)
        .asked("address = '127.0.0.1:PORT'\n")
        .theirs("grpc", "127.0.0.1:PORT", "")
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header in HPACK (RFC 7541, section 6.2.2): not indexed, name and value as they are.
fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// `:status: 200`, and what a gRPC answer begins with.
fn begins() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &[&[0x88][..], &header("content-type", "application/grpc")].concat())
}

/// The health, in its frame.
fn health(number: u8) -> Vec<u8> {
    frame(DATA, 0, 1, &[0, 0, 0, 0, 2, 8, number])
}

/// What the server made of the call.
fn ends(status: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &header("grpc-status", status))
}

/// Takes the first request, as a server of HTTP/2 does.
async fn asked(stream: &mut TcpStream) -> Option<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        match (head[3], head[4]) {
            (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.ok()?,
            (DATA | HEADERS, flags) if flags & END_STREAM != 0 => return Some(()),
            _ => {}
        }
    }
}

/// Answers the first request by these frames, then waits for the end.
fn says(frames: Vec<Vec<u8>>) -> Den {
    let bytes = frames.concat();
    serving(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            if asked(&mut stream).await.is_some() {
                let _ = stream.write_all(&bytes).await;
            }
            silent(stream).await;
        }
    })
}

/// Answers by these frames, then closes.
fn then_closes(frames: Vec<Vec<u8>>) -> Den {
    let bytes = frames.concat();
    serving(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            asked(&mut stream).await;
            let _ = stream.write_all(&bytes).await;
            bye(stream).await;
        }
    })
}

/// Goes on with these for ever, after some others.
fn pours(first: Vec<u8>, again: Vec<u8>) -> Den {
    serving(move |mut stream| {
        let (first, again) = (first.clone(), again.clone());
        async move {
            asked(&mut stream).await;
            let _ = stream.write_all(&first).await;
            pouring(stream, again).await;
        }
    })
}

pub(super) fn all() -> Vec<Beast> {
    [answers(), connections()].into_iter().flatten().collect()
}

fn answers() -> Vec<Beast> {
    vec![
        grpc("serving", "serves", says(vec![begins(), health(1), ends("0")])),
        grpc("not-serving", "says that it does not serve", says(vec![begins(), health(2), ends("0")]))
            .bad("it says NOT_SERVING, expected SERVING"),
        grpc("service-unknown", "knows no such service", says(vec![begins(), ends("5")]))
            .bad("the call fails: NOT_FOUND"),
        grpc("no-health", "has no health service, and says so in the head", says(vec![frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &[&[0x88][..], &header("content-type", "application/grpc"), &header("grpc-status", "12")].concat(),
        )]))
        .bad("the call fails: UNIMPLEMENTED"),
        grpc("no-status", "ends its answer without a status", says(vec![begins(), health(1), frame(DATA, END_STREAM, 1, &[])]))
            .bad("the answer has no gRPC status"),
        grpc("no-message", "says that the call went well, and answers nothing", says(vec![begins(), ends("0")]))
            .bad("the answer of PEER is no health"),
        grpc("message-of-another-length", "answers with less than it says", says(vec![
            begins(),
            frame(DATA, 0, 1, &[0, 0, 0, 0, 9, 8, 1]),
            ends("0"),
        ]))
        .bad("the answer of PEER is no health"),
        grpc("bad-gateway", "answers 502, as a proxy before it would", says(vec![frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &[&[8, 3][..], b"502"].concat(),
        )]))
        .bad("status 502, expected 200"),
        grpc("silent-after-settings", "takes the call and says nothing", says(Vec::new()))
            .within("2s")
            .bad("no answer within 2 s"),
        grpc("half-an-answer", "begins an answer and says nothing more", says(vec![begins()]))
            .within("2s")
            .bad("no whole answer within 2 s"),
    ]
}

fn connections() -> Vec<Beast> {
    let went_away = |code: u8, last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, code]);
    vec![
        grpc("goaway", "goes away without having taken the call", then_closes(vec![went_away(0, 0)]))
            .bad("PEER went away (GOAWAY: NO_ERROR)"),
        grpc("goaway-calm-down", "goes away since there are too many calls", then_closes(vec![went_away(11, 0)]))
            .bad("PEER went away (GOAWAY: ENHANCE_YOUR_CALM)"),
        grpc("goaway-after-this-call", "goes away, and answers this call yet", says(vec![
            went_away(0, 1),
            begins(),
            health(1),
            ends("0"),
        ])),
        grpc("stream-refused", "refuses the stream", says(vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 7])]))
            .bad("PEER reset the stream (REFUSED_STREAM)"),
        grpc("stream-reset-in-the-answer", "resets the stream in the middle of its answer", says(vec![
            begins(),
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 2]),
        ]))
        .bad("PEER reset the stream (INTERNAL_ERROR)"),
        grpc("closes-the-connection", "closes instead of answering", then_closes(Vec::new()))
            .bad("PEER closed the connection without an answer"),
        grpc("closes-in-the-answer", "closes in the middle of its answer", then_closes(vec![begins()]))
            .bad("PEER closed the connection in the middle of the answer"),
        grpc("resets-the-connection", "resets instead of answering", serving(|mut stream| async move {
            asked(&mut stream).await;
            reset(stream).await;
        }))
        .bad("connection reset by PEER"),
        grpc("speaks-http-1-only", "speaks HTTP/1.1", serving(|mut stream| async move {
            let mut preface = [0; 24];
            let _ = stream.read_exact(&mut preface).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            bye(stream).await;
        }))
        .bad("PEER does not speak HTTP/2: it begins `HTTP/1.1 400 Bad Request`"),
        grpc("frame-too-large", "sends a frame that is larger than we allow", says(vec![frame(DATA, 0, 1, &[0; 20_000])]))
            .bad("PEER broke the rules of HTTP/2 (FRAME_SIZE_ERROR)"),
        // 4000 times a header of 4 KiB that takes one byte (RFC 7541, section 7.3).
        grpc("header-bomb", "sends 16 MiB of headers in 8 KiB", says(vec![{
            let value = "a".repeat(4000);
            let long = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], value.as_bytes(), &[0xbe; 4000]].concat();
            frame(HEADERS, END_HEADERS, 1, &[&[0x88][..], &long].concat())
        }]))
        .bad("the head of the answer of PEER is too large"),
        grpc("endless-head-in-frames", "never ends the head of its answer (CVE-2024-27316)", pours(
            frame(HEADERS, 0, 1, &[0x88]),
            frame(CONTINUATION, 0, 1, &header("x-header", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").repeat(100)),
        ))
        .bad("the head of the answer of PEER is too large"),
        grpc("endless-answer", "never ends its answer", pours(begins(), frame(DATA, 0, 1, &[0; 10_000])))
            .bad("the answer of PEER is longer than 64 KiB"),
        grpc("endless-pings", "pings for ever and does not answer", pours(Vec::new(), frame(PING, 0, 0, &[7; 8])))
            .within("2s")
            .bad("no answer within 2 s"),
    ]
}
