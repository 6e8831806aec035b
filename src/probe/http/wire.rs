//! One HTTP/1 connection, driven by the look that uses it: it has no task of its own, so that a look that
//! is dropped takes its connection along, and an idle one costs nothing.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::probe::Miss;
use crate::probe::dial::broken;
use crate::probe::stream::Stream;

/// The head of an answer may be so large.
const HEAD: usize = 256 * 1024;

/// A connection that may be asked one thing at a time.
pub(super) struct Wire {
    send: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<Box<Connection<TokioIo<Counted>, Full<Bytes>>>>,
    received: Arc<AtomicU64>,
    peer: SocketAddr,
}

impl Wire {
    /// Speaks HTTP on an open stream.
    pub(super) async fn new(stream: Stream, peer: SocketAddr) -> Result<Self, Miss> {
        let received = Arc::new(AtomicU64::new(0));
        let counted = TokioIo::new(Counted { stream, received: received.clone() });
        let (send, connection) = Builder::new()
            .max_buf_size(HEAD)
            .handshake(counted)
            .await
            .map_err(|why| Miss::new(format!("{peer}: {why}")))?;
        Ok(Self { send, connection: Some(Box::new(connection)), received, peer })
    }

    /// Bytes received since it was opened.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks, and waits for the head of the answer.
    pub(super) async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Miss> {
        let before = self.received();
        let asking = self.send.send_request(request);
        let answer = drive(&mut self.connection, asking).await;
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
        self.connection.is_some() && self.send.is_ready()
    }

    fn failed(&self, why: &hyper::Error, begun: bool) -> Miss {
        let peer = self.peer;
        if why.is_parse_too_large() {
            return Miss::new(format!("the head of the answer of {peer} is too large"));
        }
        if why.is_parse() {
            return Miss::new(format!("the answer of {peer} is not HTTP: {why}"));
        }
        let mut cause = why.source();
        while let Some(inner) = cause {
            match inner.downcast_ref::<io::Error>() {
                Some(io) if io.kind() != io::ErrorKind::UnexpectedEof => return broken(peer, io),
                _ => cause = inner.source(),
            }
        }
        Miss::new(if begun {
            format!("{peer} closed the connection in the middle of the answer")
        } else {
            format!("{peer} closed the connection without an answer")
        })
    }
}

/// Waits for something that comes of a connection, doing the connection's work meanwhile.
async fn drive<F: Future>(
    connection: &mut Option<Box<Connection<TokioIo<Counted>, Full<Bytes>>>>,
    awaited: F,
) -> F::Output {
    let mut awaited = pin!(awaited);
    poll_fn(|cx| {
        // How it ended is told to the request or the body that was on it.
        if connection.as_mut().is_some_and(|open| Pin::new(open).poll(cx).is_ready()) {
            *connection = None;
        }
        awaited.as_mut().poll(cx)
    })
    .await
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
