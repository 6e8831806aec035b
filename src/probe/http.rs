//! `http`: does a server answer as it should?

mod access;
mod expect;
mod redirect;
mod request;
mod way;
mod wire;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderMap, HeaderValue, USER_AGENT};

use super::expect::KEPT;
use super::security::{self, Security, Tls};
use super::{Miss, Probe, Prober, Secret, Setting, Trace, beginning, read_file, secret, timed};
pub(super) use access::{Access, Page};
use expect::Expect;
use redirect::{Asked, redirect};
pub(super) use request::Url;
use request::{Basic, Headers, Pick, Reuse, Verb, Version, base64};
use way::{Through, Way};
use wire::Wire;

/// A longer body is a miss, whatever is expected.
const LONGEST: usize = 16 * 1024 * 1024;
/// More redirects in one look are not followed, whatever is asked for.
const FOLLOWED: u16 = 20;
/// So many idle connections are kept.
const IDLE: usize = 128;
/// An idle connection is closed after this.
const IDLE_FOR: Duration = Duration::from_secs(30);

crate::kind! {
    /// Asks an HTTP server and judges the answer.
    ///
    /// Nothing is asked twice, with one exception: when a kept connection turns out to have been closed before a
    /// single byte of the answer came, and asking again is harmless by the method's meaning (GET, HEAD, OPTIONS,
    /// TRACE, PUT, DELETE: RFC 9110, section 9.2.2), the look goes on with a fresh connection, and its time
    /// goes on counting.
    pub struct Http("http") {
        /// What is asked: `http://host:port/path` or `https://...`. The host is looked up anew for each
        /// fresh connection.
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
        /// values; a path must find something, and all it finds must equal the value), `size` of the body
        /// ("below 1MiB", "above 0B"); `tls_version` ("1.2" or "1.3"), `valid_for` and `chain_valid_for` (how long the
        /// server's certificate and those above it must be valid yet), which are judged when a connection is made; and
        /// of what each part takes ("below 200ms"): `lookup`, `connect`, `tls`, `first_byte`, `transfer`. Of the body
        /// the first MiB is judged, as it was sent: a compressed one is bad where something of it is expected. A
        /// body of more than 16 MiB is bad.
        expect: Expect = "{ status = \"2xx\" }",
        /// The version of HTTP: "1.1", "2" (agreed on by TLS; without, the server must know), or what the server prefers of
        /// both over TLS (`either`).
        version: Version = "\"1.1\"",
        /// So many redirects are followed, at most 20. When 0, a redirect is an answer like any other. A POST becomes a GET
        /// by all but 307 and 308. Another scheme, host or port is not told `Authorization`, `Cookie` and our certificate,
        /// but for https at the same host with the usual ports.
        redirects: u16 = "0",
        /// Whether `keep-alive` connections serve one look after the other, or each look has a `fresh` one,
        /// which at most some 400 looks a second can have before the host runs out of ports.
        connection: Reuse = "keep-alive",
        /// Which address of the host's name is asked, or of the proxy's: the `first`, an IPv4 one if there is any; the
        /// first `ipv4` or `ipv6` one; or `each`, one after the other, a look each. No look tries another one.
        addresses: Pick = "first",
        /// The proxy that is asked: `http://host:port`. For an https URL it only makes the way to the server (CONNECT).
        proxy: Url = optional,
        /// `user` and `password` or `password_file` for the proxy. Never printed.
        proxy_basic: Basic = optional,
        /// The unix socket of the server, instead of an address; `url` still says what is asked.
        unix_socket: PathBuf = optional,
        /// Trusts the certificates in this PEM file instead of those this host trusts.
        ca_file: PathBuf = optional,
        /// Takes any certificate.
        insecure: bool = "false",
        /// The name asked for and expected in the certificate, instead of the host of the URL.
        name: String = optional,
        /// The lowest version of TLS: "1.2" or "1.3".
        min_version: security::Version = "\"1.2\"",
        /// A PEM file with our own certificate and those above it, for servers that ask for one.
        cert_file: PathBuf = optional,
        /// A PEM file with the key of our own certificate.
        key_file: PathBuf = optional,
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
    asked: Asked,
    /// So many redirects are followed.
    follows: usize,
    expect: Expect,
    reuse: Reuse,
    way: Way,
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
        let wrong = self.wrong_request().or_else(|| self.wrong_way()).or_else(|| self.wrong_tls());
        wrong.map_or(Ok(()), |(what, remedy)| Err((what.to_owned(), remedy.to_owned())))
    }

    fn prober(&self, setting: &Setting) -> Result<HttpProber, String> {
        let path = |file: &PathBuf| setting.directory.join(file);
        let body = match (&self.body, &self.body_file) {
            (Some(text), _) => text.clone().into(),
            (None, Some(file)) => read_file("body_file", &path(file))?.into(),
            (None, None) => Bytes::new(),
        };
        let mut headers = self.headers.0.clone();
        headers.entry(HOST).or_insert_with(|| self.url.host.clone());
        let agent = HeaderValue::from_static(concat!("brownout/", env!("CARGO_PKG_VERSION")));
        headers.entry(USER_AGENT).or_insert(agent);
        if let Some(authorization) = self.authorization(setting)? {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(HttpProber {
            asked: Asked { url: self.url.clone(), method: self.method.0.clone(), headers, body, home: true },
            follows: self.redirects.into(),
            expect: self.expect.clone(),
            reuse: self.connection,
            way: self.way(setting)?,
            idle: Mutex::default(),
            keeps: if self.expect.content().any() { KEPT } else { 0 },
        })
    }

    fn looks_at(&self) -> String {
        format!("{} {}", self.method.0, self.url.said)
    }
}

/// What is wrong, and the remedy.
type Wrong = Option<(&'static str, &'static str)>;

impl Http {
    fn wrong_request(&self) -> Wrong {
        let ways = [self.bearer.is_some(), self.bearer_file.is_some(), self.basic.is_some()];
        if self.body.is_some() && self.body_file.is_some() {
            Some(("both `body` and `body_file` are given", "give one of them"))
        } else if ways.iter().filter(|given| **given).count() > 1 {
            Some(("more than one of `bearer`, `bearer_file` and `basic` is given", "give one of them"))
        } else if ways.contains(&true) && self.headers.0.contains_key(AUTHORIZATION) {
            Some(("the header `Authorization` is given twice", "leave it out of `headers`"))
        } else if self.redirects > FOLLOWED {
            Some(("more than 20 redirects would be followed", "use 0 to 20"))
        } else {
            None
        }
    }

    fn wrong_way(&self) -> Wrong {
        let dialled = self.proxy.as_ref().unwrap_or(&self.url);
        if self.proxy.is_some() && self.unix_socket.is_some() {
            Some(("both `proxy` and `unix_socket` are given", "give one of them"))
        } else if self.proxy.as_ref().is_some_and(|proxy| proxy.tls) {
            Some(("`proxy` is an https:// URL", "use a proxy that is reached by http://"))
        } else if self.proxy_basic.is_some() && self.proxy.is_none() {
            Some(("`proxy_basic` is given without `proxy`", "give `proxy`, or leave it out"))
        } else if self.unix_socket.is_some() && self.url.tls {
            Some(("`unix_socket` is given with an https:// URL", "use http://"))
        } else if self.unix_socket.is_some() && self.redirects > 0 {
            Some(("`unix_socket` leads to one server, but redirects are followed", "give one of them"))
        } else if self.addresses != Pick::First
            && (self.unix_socket.is_some() || dialled.address.host.parse::<IpAddr>().is_ok())
        {
            Some(("`addresses` means nothing where no name is looked up", "leave it out, or use a name"))
        } else if self.addresses == Pick::Each && self.connection == Reuse::KeepAlive {
            Some(("`each` address has its turn only with fresh connections", "write connection = \"fresh\""))
        } else {
            None
        }
    }

    fn wrong_tls(&self) -> Wrong {
        let Http { name, min_version, cert_file, .. } = self;
        let own = name.is_some() || cert_file.is_some() || *min_version != security::Version::Two;
        let plain = !self.url.tls && self.redirects == 0;
        if let Err(wrong) = self.security().check() {
            Some(wrong)
        } else if plain && (self.ca_file.is_some() || self.insecure) {
            Some((
                "`ca_file` and `insecure` mean nothing for an http:// URL",
                "leave them out, or use https://",
            ))
        } else if plain && own {
            let what = "`name`, `min_version` and `cert_file` mean nothing for an http:// URL";
            Some((what, "leave them out, or use https://"))
        } else if plain && self.expect.needs_tls() {
            let what = "an http:// URL has no TLS of which something could be expected";
            Some((what, "leave it out of `expect`, or use https://"))
        } else if plain && self.version == Version::Either {
            Some(("without TLS nobody says which version of HTTP to use", "write version = \"1.1\" or \"2\""))
        } else if !self.url.tls && self.proxy.is_some() && self.version == Version::Two {
            Some(("a proxy is not asked for an http:// URL by HTTP/2", "leave out `version`"))
        } else {
            None
        }
    }

    fn security(&self) -> Security {
        Security {
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            name: self.name.clone(),
            min_version: self.min_version,
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
        }
    }

    fn way(&self, setting: &Setting) -> Result<Way, String> {
        let (host, security) = (&self.url.address.host, self.security());
        let with = |security: &Security| Tls::new(host, security, setting, self.version.offered());
        let strangers = Security { name: None, cert_file: None, key_file: None, ..security.clone() };
        let follows = self.redirects > 0;
        let through = match (&self.proxy, &self.unix_socket) {
            (Some(proxy), _) => Through::Proxy {
                address: proxy.address.clone(),
                authorization: self.proxy_basic.as_ref().map(|basic| basic.header(setting)).transpose()?,
            },
            (None, Some(path)) => Through::Socket(setting.path(path), setting.place()),
            (None, None) => Through::Nothing,
        };
        Ok(Way {
            names: setting.names(),
            pick: self.addresses,
            turn: AtomicUsize::new(0),
            through,
            version: self.version,
            tls: (self.url.tls || follows).then(|| with(&security)).transpose()?,
            strangers: follows.then(|| with(&strangers)).transpose()?,
        })
    }

    fn authorization(&self, setting: &Setting) -> Result<Option<HeaderValue>, String> {
        let token = secret(self.bearer.as_ref(), self.bearer_file.as_ref(), "bearer_file", setting)?;
        match (token, &self.basic) {
            (Some(token), _) => sensitive(&format!("Bearer {token}")).map(Some),
            (None, Some(basic)) => basic.header(setting).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Basic {
    fn header(&self, setting: &Setting) -> Result<HeaderValue, String> {
        let Basic { user, password } = self;
        let (said, file) = (password.as_ref().ok(), password.as_ref().err());
        let password = secret(said, file, "password_file", setting)?.unwrap_or_default();
        sensitive(&format!("Basic {}", base64(format!("{user}:{password}").as_bytes())))
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "the token holds a control character, which no header may".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

impl Prober for HttpProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        self.read(trace).await.map(drop)
    }
}

impl HttpProber {
    /// One look; what was kept of the body.
    async fn read(&self, trace: &mut Trace) -> Result<Vec<u8>, Miss> {
        let (mut been, mut next) = (Vec::new(), None);
        loop {
            let asked = next.as_ref().unwrap_or(&self.asked);
            let (wire, answer) = self.answer(asked, trace).await?;
            let location = if self.follows > 0 { redirect(&answer) } else { None };
            let Some(location) = location else {
                if self.follows > 0 {
                    trace.measure("redirects", been.len() as f64, || been.len().to_string());
                }
                return self.judge(wire, answer, trace).await;
            };
            let status = answer.status();
            let then = asked.after(status, location.as_bytes())?;
            trace.note("redirect", || format!("{} to {}", status.as_u16(), then.url.said));
            been.push((asked.method.clone(), asked.url.said.clone()));
            if been.contains(&(then.method.clone(), then.url.said.clone())) {
                return Err(Miss::new(format!("the redirects go round: {} comes again", then.url.said)));
            }
            if been.len() > self.follows {
                return Err(Miss::new(format!("redirected more often than expected ({})", self.follows)));
            }
            self.body(wire, answer.into_body(), 0, trace).await?;
            next = Some(then);
        }
    }

    /// The head of an answer, and the connection that it comes by.
    async fn answer(
        &self,
        asked: &Asked,
        trace: &mut Trace,
    ) -> Result<(Wire, hyper::Response<Incoming>), Miss> {
        if let Some(mut wire) = self.kept(asked).await {
            let before = wire.received();
            match self.ask(asked, &mut wire, trace).await {
                Err(_) if wire.received() == before && asked.method.is_idempotent() => {}
                Err(miss) => return Err(miss),
                Ok(answer) => {
                    trace.note("peer", || wire.course.peer.clone());
                    return Ok((wire, answer));
                }
            }
        }
        let mut wire = self.way.open(&asked.url, asked.home, &self.expect, trace).await?;
        let answer = self.ask(asked, &mut wire, trace).await?;
        Ok((wire, answer))
    }

    async fn ask(
        &self,
        asked: &Asked,
        wire: &mut Wire,
        trace: &mut Trace,
    ) -> Result<hyper::Response<Incoming>, Miss> {
        let mut request = Request::new(Full::new(asked.body.clone()));
        *request.method_mut() = asked.method.clone();
        *request.headers_mut() = asked.headers.clone();
        self.way.address(&mut request, &asked.url);
        timed(&mut trace.first_byte, wire.ask(request)).await
    }

    async fn judge(
        &self,
        wire: Wire,
        answer: hyper::Response<Incoming>,
        trace: &mut Trace,
    ) -> Result<Vec<u8>, Miss> {
        let (head, body) = answer.into_parts();
        // The first thing wrong is told, but the connection is kept only when the body has been read.
        trace.measure("status", head.status.as_u16(), || format!("{:?} {}", head.version, head.status));
        if trace.keeps {
            for (name, value) in &head.headers {
                trace.note("header", || format!("{name}: {}", beginning(value.as_bytes())));
            }
        }
        let mut wrong = self.expect.wrong_head(head.status.as_u16(), &head.headers);
        wrong = wrong.or_else(|| wire.course.flaw.clone());
        let wanted = if trace.keeps_answer { self.keeps.max(KEPT) } else { self.keeps };
        if wanted > 0 {
            wrong = wrong.or_else(|| compressed(&head.headers));
        }
        let keeps = if wrong.is_none() { wanted } else { 0 };
        let read = self.body(wire, body, keeps, trace).await;
        let (kept, length) = read.map_err(|miss| wrong.take().map_or(miss, Miss::new))?;
        trace.measure("body", length.0 as f64, || length.to_string());
        trace.answered(&kept);
        let wrong = wrong
            .or_else(|| self.expect.content().wrong("the body", &kept, length.0 <= KEPT as u64))
            .or_else(|| self.expect.size.as_ref()?.wrong("the body", &length))
            .or_else(|| self.expect.wrong_times(&trace.phases));
        wrong.map_or(Ok(kept), |why| Err(Miss::new(why)))
    }

    /// Reads a body to its end, and keeps the connection if it may be kept: the beginning of the body, and its length.
    async fn body(
        &self,
        mut wire: Wire,
        mut body: Incoming,
        keeps: usize,
        trace: &mut Trace,
    ) -> Result<(Vec<u8>, crate::base::Bytes), Miss> {
        let (mut kept, mut length) = (Vec::new(), 0);
        let reading = async {
            while let Some(part) = wire.part(&mut body).await? {
                length += part.len();
                if length > LONGEST {
                    return Err(Miss::new("the body is longer than 16 MiB"));
                }
                kept.extend_from_slice(&part[..part.len().min(keeps - kept.len())]);
                // Parts that are read already come without waiting; the deadline must be heard all the same.
                tokio::task::consume_budget().await;
            }
            Ok(())
        };
        timed(&mut trace.transfer, reading).await?;
        if self.reuse == Reuse::KeepAlive && wire.is_idle().await {
            self.keep(wire);
        }
        Ok((kept, crate::base::Bytes(length as u64)))
    }

    /// The connection to the same place used last that is still open.
    async fn kept(&self, asked: &Asked) -> Option<Wire> {
        let fits = |(_, wire): &(Instant, Wire)| {
            wire.course.home == asked.home && wire.course.url.shares_origin(&asked.url)
        };
        loop {
            let (_, mut wire) = {
                let mut idle = self.idle();
                let last = idle.iter().rposition(fits)?;
                idle.remove(last)?
            };
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

/// What nobody unpacks cannot be judged: a small answer may hold more than memory does.
fn compressed(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(CONTENT_ENCODING).filter(|coding| *coding != "identity")?;
    Some(format!("the body is compressed (`{}`), and is not unpacked", beginning(coding.as_bytes())))
}
