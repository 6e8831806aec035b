//! A keep-alive line to another part of the shop.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept.
const IDLE: usize = 64;

type Connection = SendRequest<Empty<Bytes>>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The connection was refused, or broke.
    #[error("{0}")]
    Broken(String),
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
}

/// Requests to one port of the loopback interface, over connections that are kept.
pub(super) struct Line {
    port: u16,
    idle: Mutex<Vec<Connection>>,
}

impl Line {
    pub(super) fn to(port: u16) -> Self {
        Self { port, idle: Mutex::new(Vec::new()) }
    }

    /// Asks, at most so long; the status and the body.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        within: Duration,
    ) -> Result<(StatusCode, Bytes), NoAnswer> {
        let asked = tokio::time::timeout(within, self.ask_anyhow(method, path)).await;
        asked.unwrap_or(Err(NoAnswer::Late(within)))
    }

    async fn ask_anyhow(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), NoAnswer> {
        // The other side may have closed a kept connection without our having noticed yet: the next one then, and
        // a fresh one in the end.
        loop {
            let kept = self.idle().pop();
            let fresh = kept.is_none();
            let mut connection = match kept {
                Some(kept) => kept,
                None => self.connect().await?,
            };
            match ask_on(&mut connection, method.clone(), path).await {
                Ok(answer) => {
                    let mut idle = self.idle();
                    if idle.len() < IDLE {
                        idle.push(connection);
                    }
                    return Ok(answer);
                }
                Err(why) if fresh => return Err(broken(&why)),
                Err(_) => {}
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        match self.idle.lock() {
            Ok(idle) => idle,
            Err(poisoned) => poisoned.into_inner(),
        }
    }

    async fn connect(&self) -> Result<Connection, NoAnswer> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|why| broken(&why))?;
        stream.set_nodelay(true).map_err(|why| broken(&why))?;
        let (connection, work) = handshake(TokioIo::new(stream)).await.map_err(|why| broken(&why))?;
        // Ends when the connection is dropped, or closed by the other side.
        tokio::spawn(work);
        Ok(connection)
    }
}

fn broken(why: &impl ToString) -> NoAnswer {
    NoAnswer::Broken(why.to_string())
}

async fn ask_on(
    connection: &mut Connection,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), hyper::Error> {
    connection.ready().await?;
    let mut request = Request::new(Empty::new());
    *request.method_mut() = method;
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request.headers_mut().insert(HOST, hyper::header::HeaderValue::from_static("shop"));
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}
