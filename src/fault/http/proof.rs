//! A request of our own, by which it is seen what others get.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, HeaderMap, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::base::clock::since_boot;
use crate::hands::http::Plan;
use crate::host::network::Network;
use crate::host::socket::any;

/// A longer body proves nothing more.
const KEPT: usize = 1 << 20;

/// The network in which it is made, and whither.
pub(super) type To<'a> = (&'a Network, SocketAddr);

/// What came of it.
#[derive(Debug, Clone)]
pub(super) enum Got {
    /// An answer.
    Answer {
        status: u16,
        headers: HeaderMap,
        body: Vec<u8>,
        /// Whether the body ended as it should.
        whole: bool,
        /// Until its head was there.
        after: Duration,
    },
    /// The connection was closed without one.
    Closed,
    /// It was reset without one.
    Reset,
    /// Something else: nobody there, no HTTP, nothing in time.
    Nothing(String),
}

/// Asks for a path; through the plan, if there is one yet, as one of ours.
pub(super) async fn get(to: To<'_>, path: &str, plan: Option<&Plan>, within: Duration) -> Got {
    match tokio::time::timeout(within, asked(to, path, plan)).await {
        Ok(Ok(got)) => got,
        Ok(Err(why)) => Got::Nothing(why.to_string()),
        Err(_) => Got::Nothing("no answer in time".to_owned()),
    }
}

async fn connect((network, at): To<'_>, plan: Option<&Plan>) -> std::io::Result<TcpStream> {
    let socket = network.tcp(at)?;
    socket.bind(any(at))?;
    if let Some(plan) = plan {
        plan.is_own(socket.local_addr()?.port());
    }
    socket.connect(at).await
}

async fn asked(to: To<'_>, path: &str, plan: Option<&Plan>) -> std::io::Result<Got> {
    let stream = connect(to, plan).await?;
    let (mut send, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
    let request = Request::get(path)
        .header(HOST, to.1.to_string())
        .header(USER_AGENT, concat!("brownout/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(std::io::Error::other)?;
    let begun = since_boot();
    let asking = async {
        let response = match send.send_request(request).await {
            Ok(response) => response,
            Err(why) => return no_answer(&why),
        };
        let after = since_boot().saturating_sub(begun);
        let (parts, mut incoming) = response.into_parts();
        let (mut body, mut whole) = (Vec::new(), true);
        while let Some(frame) = incoming.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(_)) => {}
                Err(_) => whole = false,
            }
            if !whole || body.len() > KEPT {
                break;
            }
        }
        Got::Answer { status: parts.status.as_u16(), headers: parts.headers, body, whole, after }
    };
    tokio::pin!(asking, connection);
    let mut open = true;
    loop {
        tokio::select! {
            got = &mut asking => return Ok(got),
            _ = &mut connection, if open => open = false,
        }
    }
}

fn no_answer(why: &hyper::Error) -> Got {
    let mut cause: Option<&dyn std::error::Error> = Some(why);
    while let Some(here) = cause {
        if let Some(io) = here.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionReset
        {
            return Got::Reset;
        }
        cause = here.source();
    }
    if why.is_incomplete_message() { Got::Closed } else { Got::Nothing(format!("no HTTP/1: {why}")) }
}

/// Whether TLS is spoken there: it answers the beginning of a handshake (RFC 8446, section 5.1: a record of
/// kind 22 with an empty ClientHello) with a record of kind 21, alert, or 22.
pub(super) async fn speaks_tls(to: To<'_>, within: Duration) -> bool {
    const HELLO: [u8; 9] = [22, 3, 1, 0, 4, 1, 0, 0, 0];
    let asking = async {
        let mut stream = connect(to, None).await?;
        stream.write_all(&HELLO).await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(within, asking).await, Ok(Ok(21 | 22)))
}
