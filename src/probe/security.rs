//! Whom a TLS connection trusts, and what its failures are called.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, InvalidMessage, OtherError,
    PeerIncompatible, ProtocolVersion, RootCertStore, SignatureScheme,
};
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates;
use super::dial::{Dialled, broken};
use super::{Miss, Setting, Trace, timed};
use crate::file::{Fields, Mistakes, Node, Read, Value};

crate::kind! {
    /// How a connection is secured.
    pub struct Security("tls") {
        /// Trusts the certificates in this PEM file instead of those this host trusts.
        ca_file: PathBuf = optional,
        /// Takes any certificate.
        insecure: bool = "false",
        /// The name asked for and expected in the certificate, instead of the host of the address.
        name: String = optional,
        /// The lowest version: "1.2" or "1.3".
        min_version: Version = "\"1.2\"",
        /// A PEM file with our own certificate and those above it, for servers that ask for one.
        cert_file: PathBuf = optional,
        /// A PEM file with the key of our own certificate.
        key_file: PathBuf = optional,
    }
}

impl Default for Security {
    fn default() -> Self {
        Self {
            ca_file: None,
            insecure: false,
            name: None,
            min_version: Version::Two,
            cert_file: None,
            key_file: None,
        }
    }
}

impl Security {
    /// Whether fields that are right one by one make sense together.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.ca_file.is_some() && self.insecure {
            return Err(("`insecure` trusts anybody, so `ca_file` means nothing", "give one of them"));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(("of `cert_file` and `key_file` one is missing", "give both of them"));
        }
        Ok(())
    }
}

/// `true` for what stands when nothing more is said, or a table.
impl Read for Security {
    const NAME: &'static str = "true or table";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let empty = Node { place: node.place, value: Value::Table(Vec::new()) };
        let node = match node.value {
            Value::Boolean(true) => &empty,
            Value::Boolean(false) => {
                mistakes.error(node.place, "`tls` is false", "leave it out");
                return None;
            }
            _ => node,
        };
        let mut fields = Fields::open(node, "`tls`", mistakes)?;
        let read = Self::take(&mut fields, mistakes);
        fields.close(mistakes);
        if let Some(Err((what, remedy))) = read.as_ref().map(Self::check) {
            mistakes.error(node.place, what, remedy);
        }
        read
    }

    fn schema() -> Json {
        json!({"anyOf": [{"const": true}, crate::file::object_schema(Self::ABOUT, &Self::fields())]})
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.2.
    Two,
    /// 1.3.
    Three,
}

crate::words!(Version, "TLS version", "1.2" => Version::Two, "1.3" => Version::Three);

impl Version {
    /// What was agreed on; the library knows none below 1.2.
    pub(super) fn of(agreed: ProtocolVersion) -> Self {
        if agreed == ProtocolVersion::TLSv1_3 { Self::Three } else { Self::Two }
    }

    /// As it is written.
    pub(super) fn said(self) -> &'static str {
        match self {
            Self::Two => "1.2",
            Self::Three => "1.3",
        }
    }
}

/// Shakes hands with one server, again and again.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    verifier: Verifier,
    name: ServerName<'static>,
    min_version: Version,
}

impl Tls {
    /// Reads whom to trust, and who we are. `protocols` are those we can speak, by their ALPN names.
    ///
    /// # Errors
    /// When a file does not hold what it should, or this host trusts nobody.
    pub(super) fn new(
        host: &str,
        security: &Security,
        setting: &Setting,
        protocols: &[&str],
    ) -> Result<Self, String> {
        let name = named(security.name.as_deref().unwrap_or(host))?;
        let provider = Arc::new(ring::default_provider());
        let file = |file: &PathBuf| setting.directory.join(file);
        let roots = match &security.ca_file {
            Some(path) => Some(Arc::new(roots_of(&file(path))?)),
            None if security.insecure => None,
            None => Some(host_roots()?),
        };
        let trusted = roots.map(|roots| {
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|why| format!("TLS: {why}"))
        });
        let verifier = Verifier { trusted: trusted.transpose()?, provider: provider.clone(), shown: None };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| format!("TLS: {why}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.clone()));
        let mut config = match (&security.cert_file, &security.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let (chain, key) =
                    (certificates_of("cert_file", &file(cert_file))?, key_of(&file(key_file))?);
                let wrong = |why| format!("cert_file {}: {why}", cert_file.display());
                builder.with_client_auth_cert(chain, key).map_err(wrong)?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // A resumed session would skip most of what the phase `tls` measures.
        config.resumption = Resumption::disabled();
        Ok(Self { config: Arc::new(config), verifier, name, min_version: security.min_version })
    }

    /// The same with another server, by its own name.
    ///
    /// # Errors
    /// When its name cannot be that of a certificate.
    pub(super) fn with(&self, host: &str) -> Result<Self, String> {
        Ok(Self { name: named(host)?, ..self.clone() })
    }

    /// The handshake, noting its time and what the server showed.
    pub(super) async fn shake(
        &self,
        dialled: Dialled,
        trace: &mut Trace,
    ) -> Result<TlsStream<TcpStream>, Miss> {
        self.shake_over(dialled.stream, dialled.peer, trace).await
    }

    /// The same with a peer that is called by more than its address.
    pub(super) async fn shake_over(
        &self,
        stream: TcpStream,
        peer: impl Display + Copy,
        trace: &mut Trace,
    ) -> Result<TlsStream<TcpStream>, Miss> {
        let (mut config, mut shown) = (self.config.clone(), None);
        if trace.keeps {
            // What a refused server showed, only its verifier sees.
            let chain = shown.insert(Shown::default()).clone();
            let verifier = Verifier { shown: Some(chain), ..self.verifier.clone() };
            Arc::make_mut(&mut config).dangerous().set_certificate_verifier(Arc::new(verifier));
        }
        let connector = TlsConnector::from(config);
        let shaken = timed(&mut trace.tls, connector.connect(self.name.clone(), stream)).await;
        if let Some(shown) = shown {
            if let Ok(stream) = &shaken {
                certificates::note_session(stream.get_ref().1, trace);
            }
            certificates::note(&shown.lock().unwrap_or_else(PoisonError::into_inner), trace);
        }
        let stream = shaken.map_err(|why| in_handshake(peer, &why))?;
        let version = stream.get_ref().1.protocol_version();
        if self.min_version == Version::Three && version != Some(ProtocolVersion::TLSv1_3) {
            return Err(Miss::new(format!("TLS with {peer}: version 1.2, expected at least 1.3")));
        }
        Ok(stream)
    }
}

fn named(host: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(host.to_owned()).map_err(|_| format!("`{host}` cannot be the name in a certificate"))
}

fn in_handshake(peer: impl Display, why: &std::io::Error) -> Miss {
    let miss = broken(peer, why);
    // What the library says tells that by itself.
    if why.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>) {
        return miss;
    }
    Miss { why: format!("{} in the TLS handshake", miss.why), ..miss }
}

/// What went wrong, in words for whoever has to mend it.
pub(super) fn refused(why: &rustls::Error) -> String {
    let said = match why {
        rustls::Error::InvalidCertificate(why) => return of_certificate(why),
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) => "it does not speak TLS",
        // So much the library takes.
        rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => {
            "a message of its handshake is longer than 64 KiB"
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => "it speaks a version older than 1.2",
        // What a server says of us: RFC 8446, section 6.2.
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it refuses the versions that we speak, 1.2 and 1.3"
        }
        rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "it refuses the handshake: it has nothing in common with us, or wants a certificate of ours"
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "it does not know the name that is asked for"
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate of ours"
        }
        rustls::Error::AlertReceived(alert) => return format!("it refuses us: {alert:?}"),
        other => return other.to_string(),
    };
    said.to_owned()
}

/// A certificate of the chain, not the server's own, has expired.
#[derive(Debug, thiserror::Error)]
#[error("a certificate of the chain has expired")]
struct ChainExpired;

/// The library's sentences hold the times of checking, which differ each time.
fn of_certificate(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet".to_owned()
        }
        CertificateError::Other(why) if why.0.is::<ChainExpired>() => why.0.to_string(),
        CertificateError::UnknownIssuer => "the certificate's issuer is not trusted".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not meant for servers".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            // They are given as `DnsName("a.example")` or `IpAddress(192.0.2.7)`.
            let names: Vec<&str> = presented
                .iter()
                .map(|name| name.split_once('(').map_or(name.as_str(), |(_, inner)| inner))
                .map(|name| name.trim_end_matches(')').trim_matches('"'))
                .collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!("the certificate is for {names}, not for {}", expected.to_str())
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
    for certificate in certificates_of("ca_file", path)? {
        roots.add(certificate).map_err(|why| wrong(&why))?;
    }
    Ok(roots)
}

fn certificates_of(field: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{field} {}: {why}", path.display());
    let read = CertificateDer::pem_file_iter(path).map_err(|why| wrong(&why))?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(|why| wrong(&why))?;
    if certificates.is_empty() {
        return Err(wrong(&"it holds no PEM certificate"));
    }
    Ok(certificates)
}

fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|why| format!("key_file {}: {why}", path.display()))
}

/// The chain that a server showed, leaf first.
type Shown = Arc<Mutex<Vec<CertificateDer<'static>>>>;

/// Takes the certificates of those it trusts, or any; the handshake's own signatures are checked in either case.
#[derive(Debug, Clone)]
struct Verifier {
    trusted: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
    shown: Option<Shown>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(shown) = &self.shown {
            let chain = std::iter::once(leaf).chain(above).map(|one| one.clone().into_owned());
            *shown.lock().unwrap_or_else(PoisonError::into_inner) = chain.collect();
        }
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        trusted.verify_server_cert(leaf, above, name, ocsp, now).map_err(|why| match why {
            // The library does not tell which of them.
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) if certificates::outlives(leaf, now.as_secs()) => {
                CertificateError::Other(OtherError(Arc::new(ChainExpired))).into()
            }
            other => other,
        })
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
