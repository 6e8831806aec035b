//! One connection, driven by the look that uses it, so that a look that is dropped takes its connection along. Of
//! HTTP/1 it has no task of its own, and an idle one costs nothing; of HTTP/2 it has, and they end with it.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request::Url;
use crate::probe::dial::{Address, broken};
use crate::probe::stream::{EndsThem, Stream, Tasks};
use crate::probe::{Miss, beginning};

/// The head of an answer may be so large.
const HEAD: usize = 256 * 1024;

/// So many headers it may have: the library takes 100, which an honest server may well pass.
const HEADERS: usize = 1000;

/// Where a connection leads.
pub(super) struct Course {
    /// To a server of this place.
    pub url: Url,
    /// Whether that server may know who we are.
    pub home: bool,
    /// What the other end is called in sentences.
    pub peer: String,
    /// What is wrong with how the connection is secured.
    pub flaw: Option<String>,
}

/// A connection that may be asked one thing at a time.
pub(super) struct Wire {
    send: Sender,
    /// `None` once it has ended.
    connection: Option<Driven>,
    received: Arc<AtomicU64>,
    pub(super) course: Course,
    _ends: Option<EndsThem>,
}

/// Does a connection's work while it is awaited, until the connection ends.
type Driven = Pin<Box<dyn Future<Output = ()> + Send>>;

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Wire {
    /// Speaks HTTP on an open stream, version 2 or 1.1.
    pub(super) async fn new(stream: Stream, two: bool, course: Course) -> Result<Self, Miss> {
        let received = Arc::new(AtomicU64::new(0));
        let counted = TokioIo::new(Counted { stream, received: received.clone() });
        let failed = |why| Miss::new(format!("{}: {why}", course.peer));
        let (send, connection, ends): (_, Driven, _) = if two {
            let tasks = Tasks::default();
            let ends = EndsThem(tasks.clone());
            let mut builder = http2::Builder::new(tasks);
            builder.max_header_list_size(HEAD as u32);
            let (send, connection) = builder.handshake(counted).await.map_err(failed)?;
            // How it ended is told to the request or the body that was on it.
            (Sender::Two(send), Box::pin(async move { drop(connection.await) }), Some(ends))
        } else {
            let mut builder = http1::Builder::new();
            // A header that goes on in the next line is to be read as one (RFC 9112, section 5.2).
            builder
                .max_buf_size(HEAD)
                .max_headers(HEADERS)
                .allow_obsolete_multiline_headers_in_responses(true);
            let (send, connection) = builder.handshake(counted).await.map_err(failed)?;
            (Sender::One(send), Box::pin(async move { drop(connection.await) }), None)
        };
        Ok(Self { send, connection: Some(connection), received, course, _ends: ends })
    }

    /// Bytes received since it was opened.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks, and waits for the head of the answer. `request` is of HTTP/1.1.
    pub(super) async fn ask(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Miss> {
        let before = self.received();
        let answer = match &mut self.send {
            Sender::One(send) => drive(&mut self.connection, send.send_request(request)).await,
            Sender::Two(send) => {
                as_two(&mut request, self.course.url.tls);
                drive(&mut self.connection, send.send_request(request)).await
            }
        };
        answer.map_err(|why| self.failed(&why, self.received() > before))
    }

    /// The next part of a body that is no trailer.
    pub(super) async fn part(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Miss> {
        while let Some(frame) = drive(&mut self.connection, body.frame()).await {
            if let Ok(part) = frame.map_err(|why| self.failed(&why, true))?.into_data() {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Whether it can be asked again: both sides are done with the last answer, and neither has closed.
    pub(super) async fn is_idle(&mut self) -> bool {
        drive(&mut self.connection, std::future::ready(())).await;
        let ready = match &self.send {
            Sender::One(send) => send.is_ready(),
            Sender::Two(send) => send.is_ready(),
        };
        self.connection.is_some() && ready
    }

    fn failed(&self, why: &hyper::Error, begun: bool) -> Miss {
        let peer = &self.course.peer;
        if why.is_parse_too_large() {
            return Miss::new(format!("the head of the answer of {peer} is too large"));
        }
        if why.is_parse() {
            return Miss::new(format!("the answer of {peer} is not HTTP: {why}"));
        }
        let (mut cause, mut innermost) = (why.source(), None);
        while let Some(inner) = cause {
            match inner.downcast_ref::<io::Error>() {
                Some(io) if io.kind() != io::ErrorKind::UnexpectedEof => return broken(peer, io),
                _ => (cause, innermost) = (inner.source(), Some(inner)),
            }
        }
        match (&self.send, innermost) {
            (Sender::Two(_), Some(inner)) => Miss::new(format!("{peer} breaks off by HTTP/2: {inner}")),
            _ if begun => Miss::new(format!("{peer} closed the connection in the middle of the answer")),
            _ => Miss::new(format!("{peer} closed the connection without an answer")),
        }
    }
}

/// A request as HTTP/2 has it: the whole address, and the host in that only (RFC 9113, section 8.3.1).
fn as_two(request: &mut Request<Full<Bytes>>, tls: bool) {
    let host = request.headers_mut().remove(HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default();
    let scheme = if tls { "https" } else { "http" };
    if let Ok(whole) = format!("{scheme}://{host}{}", request.uri()).parse() {
        *request.uri_mut() = whole;
    }
    *request.version_mut() = Version::HTTP_2;
}

/// Waits for something that comes of a connection, doing the connection's work meanwhile.
async fn drive<F: Future>(connection: &mut Option<Driven>, awaited: F) -> F::Output {
    let mut awaited = pin!(awaited);
    poll_fn(|cx| {
        if connection.as_mut().is_some_and(|open| open.as_mut().poll(cx).is_ready()) {
            *connection = None;
        }
        awaited.as_mut().poll(cx)
    })
    .await
}

/// Asks a proxy for a way to a server (RFC 9110, section 9.3.6): the same stream, which leads there now.
pub(super) async fn tunnel(
    stream: Stream,
    to: &Address,
    authorization: Option<&HeaderValue>,
    proxy: &str,
) -> Result<Stream, Miss> {
    let failed = |why: hyper::Error| {
        let io = why.source().and_then(|inner| inner.downcast_ref::<io::Error>());
        io.map_or_else(
            || Miss::new(format!("{proxy} does not answer CONNECT: {why}")),
            |io| broken(proxy, io),
        )
    };
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = to.to_string().parse().map_err(|why| Miss::new(format!("{to}: {why}")))?;
    let host = HeaderValue::from_str(&to.to_string()).map_err(|why| Miss::new(format!("{to}: {why}")))?;
    request.headers_mut().insert(HOST, host);
    if let Some(authorization) = authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD);
    let (mut send, mut connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut asking = pin!(send.send_request(request));
    let mut over = false;
    let answer = poll_fn(|cx| {
        // How it ended is told to the request that was on it.
        over = over || connection.poll_without_shutdown(cx).is_ready();
        asking.as_mut().poll(cx)
    });
    let status = answer.await.map_err(failed)?.status();
    if !status.is_success() {
        return Err(Miss::new(format!("{proxy} answers CONNECT with status {}", status.as_u16())));
    }
    if !over {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(failed)?;
    }
    let parts = connection.into_parts();
    if !parts.read_buf.is_empty() {
        // It came in the clear and must not be taken for what comes over TLS.
        return Err(Miss::new(format!(
            "{proxy} said more than it was asked: `{}`",
            beginning(&parts.read_buf)
        )));
    }
    Ok(parts.io.into_inner())
}

/// A stream that counts what it receives: whether a server has begun to answer decides whether a request
/// may be sent again.
struct Counted {
    stream: Stream,
    received: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.received.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
