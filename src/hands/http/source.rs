//! Bytes that were read and not yet used.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// So much is read at once.
const PIECE: usize = 16 * 1024;

/// One end of a connection, with what was read of it and not yet used.
#[derive(Debug)]
pub(super) struct Source<S> {
    inner: S,
    held: Vec<u8>,
    at: usize,
}

impl<S> Source<S> {
    pub(super) fn new(inner: S) -> Self {
        Self::with(inner, Vec::new())
    }

    /// One of which so much was read before.
    pub(super) fn with(inner: S, held: Vec<u8>) -> Self {
        Self { inner, held, at: 0 }
    }

    /// What was read and not yet used.
    pub(super) fn seen(&self) -> &[u8] {
        &self.held[self.at..]
    }

    /// So many of them are used.
    pub(super) fn used(&mut self, bytes: usize) {
        self.at += bytes;
        if self.at >= self.held.len() {
            self.held.clear();
            self.at = 0;
        }
    }

    /// The end itself, and what was not used.
    pub(super) fn open(mut self) -> (S, Vec<u8>) {
        self.held.drain(..self.at);
        (self.inner, self.held)
    }
}

impl<S: AsyncRead + Unpin> Source<S> {
    /// Reads some more; none is the end. May be dropped without loss.
    pub(super) async fn more(&mut self) -> io::Result<usize> {
        if self.at > 0 {
            self.held.drain(..self.at);
            self.at = 0;
        }
        self.held.reserve(PIECE);
        self.inner.read_buf(&mut self.held).await
    }

    /// Passes on what it holds and all that follows, and then the end.
    pub(super) async fn pour(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(self.seen()).await?;
        self.used(self.held.len());
        tokio::io::copy(&mut self.inner, to).await?;
        to.shutdown().await
    }
}

/// Reads what is held first.
impl<S: AsyncRead + Unpin> AsyncRead for Source<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen().is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let some = self.seen().len().min(buffer.remaining());
        buffer.put_slice(&self.seen()[..some]);
        self.used(some);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Source<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
