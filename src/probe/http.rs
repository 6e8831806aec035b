//! `http`: does a server answer as it should?

mod access;
mod expect;
mod request;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Method, Request};

use super::expect::KEPT;
use super::security::{Security, Tls};
use super::stream::Stream;
use super::{Miss, Probe, Prober, Secret, Setting, Trace, beginning, read_file, secret, timed};
use crate::host::names::Names;
pub(super) use access::{Access, Page};
use expect::Expect;
pub(super) use request::Url;
use request::{Basic, Headers, Reuse, Verb, base64};
use wire::Wire;

/// A longer body is a miss, whatever is expected.
const LONGEST: usize = 16 * 1024 * 1024;
/// So many idle connections are kept.
const IDLE: usize = 128;
/// An idle connection is closed after this.
const IDLE_FOR: Duration = Duration::from_secs(30);

crate::kind! {
    /// Asks an HTTP server and judges the answer.
    ///
    /// HTTP/1.1, over TLS for https. A redirect is an answer like any other, and is not followed. Nothing is
    /// asked twice, with one exception: when a kept connection turns out to have been closed before a single
    /// byte of the answer came, and asking again is harmless by the method's meaning (GET, HEAD, OPTIONS,
    /// TRACE, PUT, DELETE: RFC 9110, section 9.2.2), the look goes on with a fresh connection, and its time
    /// goes on counting.
    pub struct Http("http") {
        /// What is asked: `http://host:port/path` or `https://...`. The host is looked up anew for each
        /// fresh connection; of several addresses the first IPv4 one is used.
        url: Url = required,
        /// The method.
        method: Verb = "GET",
        /// Headers, in addition to `Host` and `User-Agent`, which may be replaced.
        headers: Headers = "{}",
        /// What is sent.
        body: String = optional,
        /// A file with what is sent, read at the start.
        body_file: PathBuf = optional,
        /// What the answer must be: `status` ("2xx", "200", or a list of these), `header` (a table of names and
        /// regular expressions), `body` (what it contains), `body_regex`, `json` (a table of JSON paths and
        /// values; a path must find something, and all it finds must equal the value). Of the body the first
        /// MiB is judged; a body of more than 16 MiB is bad.
        expect: Expect = "{ status = \"2xx\" }",
        /// Whether `keep-alive` connections serve one look after the other, or each look has a `fresh` one,
        /// which at most some 400 looks a second can have before the host runs out of ports.
        connection: Reuse = "keep-alive",
        /// Trusts the certificates in this PEM file instead of those this host trusts.
        ca_file: PathBuf = optional,
        /// Takes any certificate.
        insecure: bool = "false",
        /// A token for the header `Authorization`. Never printed.
        bearer: Secret = optional,
        /// A file with that token.
        bearer_file: PathBuf = optional,
        /// `user` and `password` or `password_file` for the header `Authorization`. Never printed.
        basic: Basic = optional,
    }
}

/// Asks, again and again.
pub struct HttpProber {
    url: Url,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    expect: Expect,
    reuse: Reuse,
    tls: Option<Tls>,
    names: Names,
    idle: Mutex<VecDeque<(Instant, Wire)>>,
    /// So much of a body is kept.
    keeps: usize,
}

impl Probe for Http {
    type Prober = HttpProber;
    const EXAMPLE: &'static str = r#"[probe.order.http]
url    = "http://127.0.0.1:8080/orders"
method = "POST"
body   = '{"sku":"a","n":1}'
rate   = "20/s"
expect = { status = "2xx", json = { "$.ok" = true } }
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let ways = [self.bearer.is_some(), self.bearer_file.is_some(), self.basic.is_some()];
        let wrong = if self.body.is_some() && self.body_file.is_some() {
            Some(("both `body` and `body_file` are given", "give one of them"))
        } else if ways.iter().filter(|given| **given).count() > 1 {
            Some(("more than one of `bearer`, `bearer_file` and `basic` is given", "give one of them"))
        } else if ways.contains(&true) && self.headers.0.contains_key(AUTHORIZATION) {
            Some(("the header `Authorization` is given twice", "leave it out of `headers`"))
        } else if self.ca_file.is_some() && self.insecure {
            Some(("`insecure` trusts anybody, so `ca_file` means nothing", "give one of them"))
        } else if (self.ca_file.is_some() || self.insecure) && !self.url.tls {
            Some((
                "`ca_file` and `insecure` mean nothing for an http:// URL",
                "leave them out, or use https://",
            ))
        } else {
            None
        };
        wrong.map_or(Ok(()), |(what, remedy)| Err((what.to_owned(), remedy.to_owned())))
    }

    fn prober(&self, setting: &Setting) -> Result<HttpProber, String> {
        let path = |file: &PathBuf| setting.directory.join(file);
        let body = match (&self.body, &self.body_file) {
            (Some(text), _) => text.clone().into(),
            (None, Some(file)) => read_file("body_file", &path(file))?.into(),
            (None, None) => Bytes::new(),
        };
        let security =
            Security { ca_file: self.ca_file.clone(), insecure: self.insecure, ..Security::default() };
        let tls = self.url.tls.then(|| Tls::new(&self.url.address.host, &security, setting, &["http/1.1"]));
        let tls = tls.transpose()?;
        let mut headers = self.headers.0.clone();
        headers.entry(HOST).or_insert_with(|| self.url.host.clone());
        let agent = HeaderValue::from_static(concat!("brownout/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        if let Some(authorization) = self.authorization(setting)? {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(HttpProber {
            url: self.url.clone(),
            method: self.method.0.clone(),
            headers,
            body,
            expect: self.expect.clone(),
            reuse: self.connection,
            tls,
            names: Names::default(),
            idle: Mutex::default(),
            keeps: if self.expect.content().any() { KEPT } else { 0 },
        })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.method.0, self.url.said)
    }
}

impl Http {
    fn authorization(&self, setting: &Setting) -> Result<Option<HeaderValue>, String> {
        let token = secret(self.bearer.as_ref(), self.bearer_file.as_ref(), "bearer_file", setting)?;
        let text = match (token, &self.basic) {
            (Some(token), _) => format!("Bearer {token}"),
            (None, Some(Basic { user, password })) => {
                let (said, file) = (password.as_ref().ok(), password.as_ref().err());
                let password = secret(said, file, "password_file", setting)?.unwrap_or_default();
                format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
            }
            (None, None) => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "the token holds a control character, which no header may".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Prober for HttpProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        self.read(trace).await.map(drop)
    }
}

impl HttpProber {
    /// One look; what was kept of the body.
    async fn read(&self, trace: &mut Trace) -> Result<Vec<u8>, Miss> {
        if let Some(mut wire) = self.kept().await {
            let before = wire.received();
            match self.ask(&mut wire, trace).await {
                Err(_) if wire.received() == before && self.method.is_idempotent() => {}
                Err(miss) => return Err(miss),
                Ok(answer) => return self.judge(wire, answer, trace).await,
            }
        }
        let mut wire = self.connect(trace).await?;
        let answer = self.ask(&mut wire, trace).await?;
        self.judge(wire, answer, trace).await
    }

    async fn connect(&self, trace: &mut Trace) -> Result<Wire, Miss> {
        let dialled = self.url.address.dial(&self.names, trace).await?;
        let peer = dialled.peer;
        let stream = match &self.tls {
            Some(tls) => Stream::Tls(Box::new(tls.shake(dialled, trace).await?)),
            None => Stream::Plain(dialled.stream),
        };
        Wire::new(stream, peer).await
    }

    async fn ask(&self, wire: &mut Wire, trace: &mut Trace) -> Result<hyper::Response<Incoming>, Miss> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.url.target.clone();
        *request.headers_mut() = self.headers.clone();
        timed(&mut trace.first_byte, wire.ask(request)).await
    }

    async fn judge(
        &self,
        mut wire: Wire,
        answer: hyper::Response<Incoming>,
        trace: &mut Trace,
    ) -> Result<Vec<u8>, Miss> {
        let (head, mut body) = answer.into_parts();
        // The first thing wrong is told, but the connection is kept only when the body has been read.
        trace.measure("status", head.status.as_u16(), || format!("{:?} {}", head.version, head.status));
        if trace.keeps {
            for (name, value) in &head.headers {
                trace.note("header", || format!("{name}: {}", beginning(value.as_bytes())));
            }
        }
        let mut wrong = self.expect.wrong_head(head.status.as_u16(), &head.headers);
        let keeps = if wrong.is_none() { self.keeps } else { 0 };
        let (begun, mut kept, mut length) = (Instant::now(), Vec::new(), 0);
        loop {
            let part = match wire.part(&mut body).await {
                Ok(Some(part)) => part,
                Ok(None) => break,
                Err(miss) => return Err(wrong.map_or(miss, Miss::new)),
            };
            length += part.len();
            if length > LONGEST {
                return Err(Miss::new(wrong.unwrap_or_else(|| "the body is longer than 16 MiB".to_owned())));
            }
            kept.extend_from_slice(&part[..part.len().min(keeps - kept.len())]);
        }
        trace.transfer = Some(begun.elapsed());
        trace.measure("body", length as f64, || crate::base::Bytes(length as u64).to_string());
        if self.reuse == Reuse::KeepAlive && wire.is_idle().await {
            self.keep(wire);
        }
        if wrong.is_none() {
            wrong = self.expect.content().wrong("the body", &kept, length <= KEPT);
        }
        wrong.map_or(Ok(kept), |why| Err(Miss::new(why)))
    }

    /// The connection used last that is still open.
    async fn kept(&self) -> Option<Wire> {
        loop {
            let (_, mut wire) = self.idle().pop_back()?;
            if wire.is_idle().await {
                return Some(wire);
            }
        }
    }

    fn keep(&self, wire: Wire) {
        let mut idle = self.idle();
        idle.push_back((Instant::now(), wire));
        while idle.len() > IDLE || idle.front().is_some_and(|(since, _)| since.elapsed() > IDLE_FOR) {
            idle.pop_front();
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(Instant, Wire)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
