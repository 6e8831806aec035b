//! `grpc`: does a server say that it serves?

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::HeaderMap;
use hyper::rt::Executor;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;

use super::dial::{Address, broken};
use super::security::{Security, Tls};
use super::stream::{EndsThem, Stream, Tasks};
use super::{Miss, Probe, Prober, Setting, Trace, beginning, timed};
use crate::base::grpc::STATUSES;
use crate::host::names::Names;

/// A health answer has a few bytes.
const LONGEST: usize = 64 * 1024;

crate::kind! {
    /// Asks a gRPC server for its health (`grpc.health.v1.Health/Check`).
    ///
    /// Each look has a connection of its own.
    pub struct Grpc("grpc") {
        /// Where: `host:port`.
        address: Address = required,
        /// TLS: `true`, or a table with `ca_file`, `insecure`, `name`, `min_version`, `cert_file` and `key_file`.
        tls: Security = optional,
        /// The service that is asked about; the server as a whole when empty.
        service: String = "\"\"",
        /// What it must say: `SERVING`, `NOT_SERVING`, `SERVICE_UNKNOWN` or `UNKNOWN`.
        expect: Health = "SERVING",
    }
}

/// What a server says of a service; the numbers are those of `health.proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It does not know.
    Unknown = 0,
    /// All is well.
    Serving = 1,
    /// It does not serve.
    NotServing = 2,
    /// It knows no such service.
    ServiceUnknown = 3,
}

crate::words!(Health, "health",
    "SERVING" => Health::Serving, "NOT_SERVING" => Health::NotServing,
    "SERVICE_UNKNOWN" => Health::ServiceUnknown, "UNKNOWN" => Health::Unknown);

impl Health {
    fn said(number: u64) -> String {
        let names = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
        let name = usize::try_from(number).ok().and_then(|number| names.get(number));
        name.map_or_else(|| format!("health {number}"), |name| (*name).to_owned())
    }
}

/// Asks, again and again.
pub struct GrpcProber {
    grpc: Grpc,
    tls: Option<Tls>,
    message: Bytes,
    names: Names,
}

impl Probe for Grpc {
    type Prober = GrpcProber;
    const EXAMPLE: &'static str = r#"[probe.orders.grpc]
address = "127.0.0.1:50051"
service = "shop.Orders"
rate    = "2/s"
"#;

    fn prober(&self, setting: &Setting) -> Result<GrpcProber, String> {
        let tls = self.tls.as_ref().map(|security| Tls::new(&self.address.host, security, setting, &["h2"]));
        let message = asked(&self.service).into();
        Ok(GrpcProber { grpc: self.clone(), tls: tls.transpose()?, message, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.address, self.service).trim_end().to_owned()
    }
}

impl Prober for GrpcProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let dialled = self.grpc.address.dial(&self.names, trace).await?;
        let peer = dialled.peer;
        let stream = match &self.tls {
            Some(tls) => Stream::Tls(Box::new(tls.shake(dialled, trace).await?)),
            None => Stream::Plain(dialled.stream),
        };
        let tasks = Tasks::default();
        let _ended_with_the_look = EndsThem(tasks.clone());
        let asking = async {
            let (mut send, connection) = http2::handshake(tasks.clone(), TokioIo::new(stream)).await?;
            tasks.execute(async move { drop(connection.await) });
            send.send_request(self.request()).await
        };
        let answer = timed(&mut trace.first_byte, asking).await.map_err(|why| failed(peer, &why))?;
        let (head, body) = answer.into_parts();
        trace.measure("status", head.status.as_u16(), || format!("{:?} {}", head.version, head.status));
        if head.status != 200 {
            return Err(Miss::new(format!("status {}, expected 200", head.status.as_u16())));
        }
        let body = timed(&mut trace.transfer, Limited::new(body, LONGEST).collect()).await;
        let body = body.map_err(|why| Miss::new(format!("{peer} cut its answer short: {why}")))?;
        // A call that fails at once has its status where others have it after the answer.
        let status = body.trailers().and_then(status).or_else(|| status(&head.headers));
        if let Some(why) = refused(status) {
            return Err(Miss::new(why));
        }
        let Some(health) = answered(&body.to_bytes()) else {
            return Err(Miss::new(format!("the answer of {peer} is no health")));
        };
        let (said, expected) = (Health::said(health), Health::said(self.grpc.expect as u64));
        trace.measure("health", health as f64, || said.clone());
        if said == expected { Ok(()) } else { Err(Miss::new(format!("it says {said}, expected {expected}"))) }
    }
}

impl GrpcProber {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.message.clone()));
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let path = format!("{scheme}://{}/grpc.health.v1.Health/Check", self.grpc.address);
        *request.method_mut() = hyper::Method::POST;
        // An address is always the authority of a URI.
        *request.uri_mut() = path.parse().unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert("content-type", hyper::header::HeaderValue::from_static("application/grpc"));
        headers.insert("te", hyper::header::HeaderValue::from_static("trailers"));
        request
    }
}

fn failed(peer: std::net::SocketAddr, why: &hyper::Error) -> Miss {
    let mut cause = std::error::Error::source(why);
    while let Some(inner) = cause {
        match inner.downcast_ref::<std::io::Error>() {
            Some(io) => return broken(peer, io),
            None => cause = inner.source(),
        }
    }
    Miss::new(format!("{peer} does not answer by HTTP/2: {why}"))
}

/// What the server made of a call: a number and its words.
fn status(headers: &HeaderMap) -> Option<(u16, String)> {
    let number = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let words = headers.get("grpc-message").map_or_else(String::new, |words| beginning(words.as_bytes()));
    Some((number, words))
}

/// What is wrong with a call.
fn refused(status: Option<(u16, String)>) -> Option<String> {
    let Some((number, words)) = status else { return Some("the answer has no gRPC status".to_owned()) };
    let name =
        STATUSES.get(usize::from(number)).map_or_else(|| number.to_string(), |name| (*name).to_owned());
    match (number, words.as_str()) {
        (0, _) => None,
        (_, "") => Some(format!("the call fails: {name}")),
        (_, words) => Some(format!("the call fails: {name}: `{words}`")),
    }
}

/// A `HealthCheckRequest` in gRPC's frame: not compressed, its length, then field 1, the service.
fn asked(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f | 0x80) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend(service.bytes());
    }
    [&[0], (message.len() as u32).to_be_bytes().as_slice(), &message].concat()
}

/// The health in a framed `HealthCheckResponse`: field 1, a number of variable length; absent it is 0.
fn answered(framed: &[u8]) -> Option<u64> {
    let (head, message) = framed.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..)?.try_into().ok()?);
    match (head[0], message) {
        (0, message) if message.len() != length as usize => None,
        (0, []) => Some(0),
        (0, [0x08, number @ ..]) => {
            let (last, more) = number.split_last()?;
            let whole = last & 0x80 == 0 && number.len() <= 9 && more.iter().all(|byte| byte & 0x80 != 0);
            whole.then(|| number.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_asked_and_answered_in_frames() {
        assert_eq!(asked(""), [0, 0, 0, 0, 0]);
        assert_eq!(asked("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(asked(&"x".repeat(300))[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
        for (framed, health) in [
            (&[0, 0, 0, 0, 2, 8, 1][..], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 0, 0, 0, 3, 8, 0x80, 1], Some(128)),
            (&[0, 0, 0, 0, 2, 8], None),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 2, 16, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0], None),
            (&[], None),
        ] {
            assert_eq!(answered(framed), health, "{framed:?}");
        }
    }
}
