//! Whom a TLS connection trusts, and what its failures are called.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, danger};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates;
use super::dial::{Dialled, broken};
use super::{Miss, Trace};

/// Whom to trust.
pub(super) enum Trust<'a> {
    /// What this host trusts.
    Host,
    /// The certificates of this PEM file, and no others.
    File(&'a Path),
    /// Anybody.
    Anybody,
}

/// Shakes hands with one server, again and again.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// Reads whom to trust.
    ///
    /// # Errors
    /// When the file holds no certificates, or this host trusts nobody.
    pub(super) fn new(host: &str, trust: &Trust<'_>) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("`{host}` cannot be the name in a certificate"))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|why| format!("TLS: {why}"))?;
        let builder = match trust {
            Trust::Host => builder.with_root_certificates(host_roots()?),
            Trust::File(path) => builder.with_root_certificates(roots_of(path)?),
            Trust::Anybody => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider }))
            }
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would skip most of what the phase `tls` measures.
        config.resumption = Resumption::disabled();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// The handshake, noting its time.
    pub(super) async fn shake(
        &self,
        dialled: Dialled,
        trace: &mut Trace,
    ) -> Result<TlsStream<TcpStream>, Miss> {
        let begun = Instant::now();
        let shaken = self.connector.connect(self.name.clone(), dialled.stream).await;
        trace.tls = Some(begun.elapsed());
        if let Ok(stream) = &shaken
            && trace.keeps
        {
            certificates::note(stream.get_ref().1, trace);
        }
        shaken.map_err(|why| match why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(why) => Miss::new(format!("TLS with {}: {}", dialled.peer, refused(why))),
            None => in_handshake(dialled.peer, &why),
        })
    }
}

fn in_handshake(peer: SocketAddr, why: &std::io::Error) -> Miss {
    let miss = broken(peer, why);
    Miss { why: format!("{} in the TLS handshake", miss.why), ..miss }
}

/// The library's sentences hold the times of checking, which differ each time.
fn refused(why: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(certificate) = why else { return why.to_string() };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        CertificateError::UnknownIssuer => "the certificate's issuer is not trusted".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            // They are given as `DnsName("a.example")` or `IpAddress(192.0.2.7)`.
            let names: Vec<&str> = presented
                .iter()
                .map(|name| name.split_once('(').map_or(name.as_str(), |(_, inner)| inner))
                .map(|name| name.trim_end_matches(')').trim_matches('"'))
                .collect();
            format!("the certificate is for {}, not for {}", names.join(", "), expected.to_str())
        }
        other => format!("the certificate is refused: {other}"),
    }
}

/// What this host trusts, read once and only when it is needed: it is some 150 certificates.
fn host_roots() -> Result<Arc<RootCertStore>, String> {
    static ROOTS: OnceLock<Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(
                "this host has no root certificates; install `ca-certificates`, or set `ca_file`".to_owned()
            );
        }
        Ok(Arc::new(roots))
    };
    ROOTS.get_or_init(read).clone()
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("ca_file {}: {why}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|why| wrong(&why))? {
        let certificate = certificate.map_err(|why| wrong(&why))?;
        roots.add(certificate).map_err(|why| wrong(&why))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it holds no PEM certificate"));
    }
    Ok(roots)
}

/// Takes any certificate; the handshake's own signatures are still checked.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
