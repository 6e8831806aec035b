//! What the tests of the probes share: looking once, servers that do what a test says, an authority that vouches for them.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on should say so and stop"
)]

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::{AnyProbe, AnyProber, Look, Setting, look_once};
use brownout::slo::Outcome;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// No look of these tests needs so long: reaching it is a failure, not a slow machine.
pub const LONG: Duration = Duration::from_secs(20);

pub fn prober_in(directory: &Path, kind: &str, text: &str) -> AnyProber {
    let setting =
        Setting { directory: directory.to_owned(), timeout: LONG, facts: false, whom: None, from: None };
    AnyProbe::from_toml(kind, text).unwrap().prober(&setting).unwrap()
}

/// A look's outcome as [`seen`], and what it met: names and words.
pub async fn told(directory: &Path, kind: &str, text: &str) -> ((Outcome, String), Vec<(String, String)>) {
    let setting =
        Setting { directory: directory.to_owned(), timeout: LONG, facts: true, whom: None, from: None };
    let prober = AnyProbe::from_toml(kind, text).unwrap().prober(&setting).unwrap();
    let look = look(&prober).await;
    let facts = look.facts.into_iter().map(|fact| (fact.name.to_owned(), fact.said)).collect();
    ((look.sample.outcome, look.sample.why.as_deref().unwrap_or_default().to_owned()), facts)
}

pub fn prober(kind: &str, text: &str) -> AnyProber {
    prober_in(Path::new("/"), kind, text)
}

pub async fn look(prober: &AnyProber) -> Look {
    look_once(0, prober, &Clock::start(), LONG).await
}

/// How a look came out, in a word and its reason.
pub async fn seen(prober: &AnyProber) -> (Outcome, String) {
    let sample = look(prober).await.sample;
    (sample.outcome, sample.why.as_deref().unwrap_or_default().to_owned())
}

pub const GOOD: (Outcome, String) = (Outcome::Good, String::new());

pub fn bad(why: impl Into<String>) -> (Outcome, String) {
    (Outcome::Bad, why.into())
}

/// A server that serves each connection, told which it is, by `serve`.
pub async fn server<F, R>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream, usize) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for nth in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, nth));
        }
    });
    address
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A certificate authority, and servers it vouches for.
pub struct Authority {
    pub folder: tempfile::TempDir,
    pub issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        Self::until(4096)
    }

    /// One that is itself known until a year only.
    pub fn until(year: i32) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "an authority of the tests");
        let issuer =
            rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        std::fs::write(folder.path().join("empty.pem"), "").unwrap();
        Self { folder, issuer }
    }

    /// Lets servers shake hands with a certificate for a name until a year.
    pub fn acceptor(&self, name: &str, until: i32) -> TlsAcceptor {
        self.acceptor_of(name, until, rustls::ALL_VERSIONS)
    }

    /// As [`Authority::acceptor`], speaking some versions only.
    pub fn acceptor_of(
        &self,
        name: &str,
        until: i32,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsAcceptor {
        let (chain, key) = self.vouches(name, until);
        acceptor(chain, &key, versions)
    }

    /// As [`Authority::acceptor`], asking who we are.
    fn acceptor_asking(
        &self,
        name: &str,
        asks: Arc<dyn rustls::server::danger::ClientCertVerifier>,
    ) -> TlsAcceptor {
        let (chain, key) = self.vouches(name, 4000);
        let config = builder(rustls::ALL_VERSIONS).with_client_cert_verifier(asks);
        TlsAcceptor::from(Arc::new(config.with_single_cert(chain, private(&key)).unwrap()))
    }

    /// As [`Authority::acceptor`], letting nobody in but us: by `ours.pem` and `ours.key`, which are written.
    pub fn acceptor_knowing_us(&self, name: &str) -> TlsAcceptor {
        self.write("ours", "us.example");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let asks = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        self.acceptor_asking(name, asks.build().unwrap())
    }

    /// Writes what a real server needs beside our own certificate: `server.pem` and `server.key`.
    pub fn write_server(&self, name: &str) {
        self.write("server", name);
    }

    /// Writes a certificate for a name and its key, for example `server.pem` and `server.key`.
    pub fn write(&self, file: &str, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.folder.path().join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.folder.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn vouches(
        &self,
        name: &str,
        until: i32,
    ) -> (Vec<rustls::pki_types::CertificateDer<'static>>, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone(), self.issuer.der().clone()], key)
    }

    /// A prober whose files are the authority's.
    pub fn prober(&self, kind: &str, text: &str) -> AnyProber {
        prober_in(self.folder.path(), kind, text)
    }
}

/// Lets servers shake hands with this chain.
pub fn acceptor(
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: &rcgen::KeyPair,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> TlsAcceptor {
    let config = builder(versions).with_no_client_auth();
    TlsAcceptor::from(Arc::new(config.with_single_cert(chain, private(key)).unwrap()))
}

fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}

fn private(key: &rcgen::KeyPair) -> rustls::pki_types::PrivateKeyDer<'static> {
    rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap()
}

/// A server that serves each connection with which it could shake hands; its port.
pub async fn tls_server<F, R>(acceptor: TlsAcceptor, serve: F) -> u16
where
    F: Fn(TlsStream<TcpStream>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let address = server(move |stream, _| {
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        }
    });
    address.await.port()
}

/// A real server of this machine, ended with the test.
pub struct Real {
    child: std::process::Child,
    pub folder: tempfile::TempDir,
    pub port: u16,
}

impl Real {
    /// Starts a program with the arguments that are made of its folder and a free port, and waits until `ready` is good.
    /// `None`, loudly, where the program is not there.
    pub async fn start(
        program: &str,
        arguments: impl Fn(&Path, u16) -> Vec<String>,
        ready: impl Fn(&Path, u16) -> AnyProber,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = std::process::Command::new(program);
        command
            .args(arguments(folder.path(), port))
            .current_dir(folder.path())
            .stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(why) => {
                println!("SKIPPED: {program} cannot be started: {why}");
                assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"), "{program}: {why}");
                return None;
            }
        };
        let real = Self { child, folder, port };
        let (begun, ready) = (std::time::Instant::now(), ready(real.folder.path(), port));
        loop {
            let outcome = seen(&ready).await;
            if outcome == GOOD {
                return Some(real);
            }
            let log = || std::fs::read_to_string(real.folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < 3 * LONG, "{program} did not start: {outcome:?} {}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.kill();
    }
}
