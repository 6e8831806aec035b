//! HTTP/2 without TLS: the client's connection ends with us and another one goes to the server; requests and
//! answers, with their streams and trailers, go from one to the other.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http2::SendRequest;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::source::Source;
use super::{Answer, Asked, Talk};
use crate::hands::turn::Phase;

/// Bytes on their way that one side may have sent and the other not taken: of a stream, of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAMS: u32 = 256;
const HEAD: u32 = 64 * 1024;

type Wrong = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = UnsyncBoxBody<Bytes, Wrong>;

/// A stream is reset instead of answered, or cut.
#[derive(Debug, thiserror::Error)]
#[error("cut by a fault")]
struct Severed;

/// One connection, to its end.
pub(super) async fn speak(client: Source<TcpStream>, server: TcpStream, talk: Talk) {
    let begun = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_header_list_size(HEAD)
        .handshake::<_, Incoming>(TokioIo::new(server))
        .await;
    let Ok((send, theirs)) = begun else { return };
    let mut moment = talk.moment.clone();
    let answering = {
        let talk = talk.clone();
        service_fn(move |request| answer(request, send.clone(), talk.clone()))
    };
    let ours = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_header_list_size(HEAD)
        .serve_connection(TokioIo::new(client), answering);
    tokio::pin!(ours, theirs);
    // Streams under way may end; the client opens new ones elsewhere (GOAWAY).
    tokio::select! {
        _ = &mut ours => return,
        _ = &mut theirs => ours.as_mut().graceful_shutdown(),
        () = moment.reaches(Phase::Over) => {
            ours.as_mut().graceful_shutdown();
            tokio::select! {
                _ = &mut ours => return,
                _ = &mut theirs => {}
            }
        }
    }
    let _ = ours.await;
}

async fn answer(
    request: Request<Incoming>,
    mut send: SendRequest<Incoming>,
    mut talk: Talk,
) -> Result<Response<AnyBody>, Wrong> {
    let busy = talk.moment.busy();
    let (chosen, bare) = (talk.choose(&asked(&request)), request.method() == Method::HEAD);
    let plan = Arc::clone(&talk.plan);
    match &plan.fate.answer {
        Answer::None { .. } if chosen => {
            talk.hold().await;
            talk.done();
            Err(Severed.into())
        }
        Answer::Ours { status, fields, body } if chosen => {
            talk.hold().await;
            let body = if bare { Bytes::new() } else { body.clone() };
            let mut response = Response::new(Full::new(body).map_err(Into::into).boxed_unsync());
            *response.status_mut() = hyper::StatusCode::from_u16(*status)?;
            set(response.headers_mut(), fields);
            talk.done();
            Ok(response)
        }
        theirs => {
            send.ready().await?;
            let response = send.send_request(request).await?;
            let (mut parts, body) = response.into_parts();
            let body = Watched {
                inner: body.map_err(Into::into).boxed_unsync(),
                left: None,
                talk: None,
                _busy: busy,
            };
            let Answer::Theirs { fields, body: other, cut } = theirs else {
                return Ok(Response::from_parts(parts, body.boxed_unsync()));
            };
            if !(chosen && talk.hold().await) {
                return Ok(Response::from_parts(parts, body.boxed_unsync()));
            }
            set(&mut parts.headers, fields);
            let body = match (other, cut) {
                (Some(other), _) if !body.is_end_stream() => {
                    for described in [CONTENT_LENGTH, CONTENT_ENCODING, ETAG] {
                        parts.headers.remove(described);
                    }
                    talk.done();
                    Full::new(other.clone()).map_err(Into::into).boxed_unsync()
                }
                (Some(_), _) if fields.is_empty() => {
                    talk.unfit();
                    body.boxed_unsync()
                }
                (_, Some(cut)) => Watched { left: Some(*cut), talk: Some(talk), ..body }.boxed_unsync(),
                _ => {
                    talk.done();
                    body.boxed_unsync()
                }
            };
            Ok(Response::from_parts(parts, body))
        }
    }
}

fn asked(request: &Request<Incoming>) -> Asked<'_> {
    let host = request.uri().authority().map(|authority| ("host", authority.as_str().as_bytes()));
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Asked {
        method: request.method().as_str(),
        path: request.uri().path(),
        fields: host.into_iter().chain(fields).collect(),
    }
}

fn set(headers: &mut HeaderMap, fields: &[(String, String)]) {
    for (name, value) in fields {
        // They were looked at when the file was read.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

/// A body that is under way, and perhaps cut after so many bytes.
struct Watched {
    inner: AnyBody,
    left: Option<u64>,
    /// Whose it is to say whether it was cut.
    talk: Option<Talk>,
    _busy: crate::hands::turn::Busy,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Wrong;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let Some(left) = self.left else { return Poll::Ready(frame) };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if data.len() as u64 > left => {
                    self.left = Some(0);
                    if left > 0 {
                        return Poll::Ready(Some(Ok(Frame::data(data.slice(..left as usize)))));
                    }
                    if let Some(talk) = self.talk.take() {
                        talk.done();
                    }
                    Poll::Ready(Some(Err(Severed.into())))
                }
                Ok(data) => {
                    self.left = Some(left - data.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
            },
            None => {
                if let Some(talk) = self.talk.take() {
                    talk.unfit();
                }
                Poll::Ready(None)
            }
            wrong => Poll::Ready(wrong),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
