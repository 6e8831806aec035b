//! TLS: RFC 8446, RFC 5246; certificates: RFC 5280 and RFC 9525.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::{Beast, Den, bye, den, pouring, reset, serving, silent};
use crate::looking::{Authority, acceptor, tls_server};

const FIELDS: &str = "address = 'localhost:PORT'\nca_file = 'ca.pem'\n";
const TARGET: &str = "localhost:PORT";
const CHECKED: &str = "preferred_ip_protocol: ip4, tls: true, tls_config: {ca_file: CA}";

fn tls(name: &'static str, does: &'static str, den: Den) -> Beast {
    Beast::new(name, does, "tls", den).asked(FIELDS).theirs("tcp", TARGET, CHECKED)
}

/// Shakes hands as this says, and waits.
fn shaking(accept: impl Fn(&Authority) -> TlsAcceptor + 'static) -> Den {
    den(move |authority| {
        let accept = accept(authority);
        async move { tls_server(accept, |mut stream| async move { drop(stream.read_u8().await) }).await }
    })
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// With a certificate that the authority gives for these.
fn given(params: impl Fn() -> CertificateParams + 'static) -> Den {
    shaking(move |authority| {
        let key = KeyPair::generate().unwrap();
        let certificate = params().signed_by(&key, &authority.issuer).unwrap();
        acceptor(vec![certificate.der().clone(), authority.issuer.der().clone()], &key, rustls::ALL_VERSIONS)
    })
}

/// With a certificate of somebody between, who is known until a year, and of whom it shows what stands here.
fn between(until: i32, shown: bool) -> Den {
    shaking(move |authority| {
        let mut middle = params("somebody between");
        middle.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        middle.not_before = rcgen::date_time_ymd(2000, 1, 1);
        middle.not_after = rcgen::date_time_ymd(until, 1, 1);
        let middle =
            CertifiedIssuer::signed_by(middle, KeyPair::generate().unwrap(), &authority.issuer).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params("localhost").signed_by(&key, &middle).unwrap();
        let above: Vec<CertificateDer<'static>> = shown.then(|| middle.der().clone()).into_iter().collect();
        acceptor([vec![leaf.der().clone()], above].concat(), &key, rustls::ALL_VERSIONS)
    })
}

/// Says this when it has been greeted, and closes.
fn greeting(words: &'static [u8]) -> Den {
    serving(move |mut stream| async move {
        let mut hello = [0; 5];
        let _ = stream.read_exact(&mut hello).await;
        let _ = stream.write_all(words).await;
        bye(stream).await;
    })
}

pub(super) fn all() -> Vec<Beast> {
    [certificates(), handshakes()].into_iter().flatten().collect()
}

fn certificates() -> Vec<Beast> {
    let until = |year| {
        move || {
            let mut params = params("localhost");
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params
        }
    };
    let soon = || {
        let mut params = params("localhost");
        let day = jiff::Zoned::now().date().saturating_add(jiff::Span::new().days(10));
        params.not_after = rcgen::date_time_ymd(day.year().into(), day.month() as u8, day.day() as u8);
        params
    };
    vec![
        tls("expired", "shows a certificate that was valid until 2001", given(until(2001)))
            .bad("TLS with PEER: the certificate has expired"),
        tls("not-yet-valid", "shows a certificate that will be valid from 3000", given(|| {
            let mut params = params("localhost");
            params.not_before = rcgen::date_time_ymd(3000, 1, 1);
            params
        }))
        .bad("TLS with PEER: the certificate is not valid yet"),
        tls("soon-expiring", "shows a certificate for ten days more, where thirty are expected", given(soon))
            .asked(&format!("{FIELDS}expect = {{ valid_for = '30d' }}\n"))
            .bad("the certificate is valid until DATE, expected for 30 d yet")
            .differs("it tells the date as a figure (`probe_ssl_earliest_cert_expiry`), and a rule elsewhere must judge it"),
        tls("self-signed", "shows a certificate that it gave to itself", shaking(|_| {
            let key = KeyPair::generate().unwrap();
            let certificate = params("localhost").self_signed(&key).unwrap();
            acceptor(vec![certificate.der().clone()], &key, rustls::ALL_VERSIONS)
        }))
        .bad("TLS with PEER: the certificate's issuer is not trusted"),
        tls("wrong-name", "shows a certificate for shop.example", given(|| params("shop.example")))
            .bad("TLS with PEER: the certificate is for shop.example, not for localhost"),
        tls("name-of-an-address", "shows a certificate for localhost, and is asked by its address", given(|| params("localhost")))
            .asked("address = '127.0.0.1:PORT'\nca_file = 'ca.pem'\n")
            .theirs("tcp", "127.0.0.1:PORT", "tls: true, tls_config: {ca_file: CA}")
            .bad("TLS with PEER: the certificate is for localhost, not for 127.0.0.1"),
        tls("name-in-the-subject-only", "has its name where it has not counted since 2011", given(|| {
            let mut params = params("localhost");
            params.subject_alt_names.clear();
            params
        }))
        .bad("TLS with PEER: the certificate is for no name at all, not for localhost"),
        tls("wildcard-too-deep", "is a.b.example, and shows a certificate for *.example", given(|| params("*.example")))
            .asked(&format!("{FIELDS}name = 'a.b.example'\n"))
            .theirs("tcp", TARGET, "preferred_ip_protocol: ip4, tls: true, tls_config: {ca_file: CA, server_name: a.b.example}")
            .bad("TLS with PEER: the certificate is for *.example, not for a.b.example"),
        tls("for-clients-only", "shows a certificate that is for clients", given(|| {
            let mut params = params("localhost");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params
        }))
        .bad("TLS with PEER: the certificate is not meant for servers"),
        tls("link-missing", "does not show who stands between it and the authority", between(4000, false))
            .bad("TLS with PEER: the certificate's issuer is not trusted"),
        tls("link-expired", "shows a chain of which one between has expired", between(2001, true))
            .bad("TLS with PEER: a certificate of the chain has expired"),
        tls("trusted", "shows a good chain", between(4000, true)),
        tls("any-certificate-taken", "shows a certificate that it gave to itself, where any is taken", shaking(|_| {
            let key = KeyPair::generate().unwrap();
            acceptor(vec![params("localhost").self_signed(&key).unwrap().der().clone()], &key, rustls::ALL_VERSIONS)
        }))
        .asked("address = 'localhost:PORT'\ninsecure = true\n")
        .theirs("tcp", TARGET, "preferred_ip_protocol: ip4, tls: true, tls_config: {insecure_skip_verify: true}"),
    ]
}

/// A ServerHello of TLS 1.0 (RFC 2246): its version, a random, no session, TLS_RSA_WITH_AES_128_CBC_SHA, no compression.
const OLD_HELLO: &[u8] = &[
    22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 0x2f, 0,
];

fn handshakes() -> Vec<Beast> {
    vec![
        tls("tls-1-0-only", "answers with a hello of TLS 1.0", greeting(OLD_HELLO))
            .bad("TLS with PEER: it speaks a version older than 1.2"),
        tls("refuses-our-versions", "refuses every version that we speak", greeting(&[21, 3, 1, 0, 2, 2, 70]))
            .bad("TLS with PEER: it refuses the versions that we speak, 1.2 and 1.3"),
        tls("nothing-in-common", "refuses to shake hands", greeting(&[21, 3, 3, 0, 2, 2, 40]))
            .bad("TLS with PEER: it refuses the handshake: it has nothing in common with us, or wants a certificate of ours"),
        tls("name-unknown", "knows nobody of the name that is asked for", greeting(&[21, 3, 3, 0, 2, 2, 112]))
            .bad("TLS with PEER: it does not know the name that is asked for"),
        tls("asks-who-we-are", "asks for a certificate of ours, by TLS 1.2", shaking(|authority| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.issuer.der().clone()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let asks = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
            let key = KeyPair::generate().unwrap();
            let leaf = params("localhost").signed_by(&key, &authority.issuer).unwrap();
            let config = rustls::ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_client_cert_verifier(asks)
                .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap());
            TlsAcceptor::from(Arc::new(config.unwrap()))
        }))
        .bad("TLS with PEER: it asks for a certificate of ours"),
        tls("clear-words", "greets in the clear", serving(|mut stream| async move {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
            bye(stream).await;
        }))
        .bad("TLS with PEER: it does not speak TLS"),
        tls("silent-in-the-handshake", "takes the hello and says nothing", serving(silent))
            .within("2s")
            .bad("no answer within 2 s in the TLS handshake"),
        tls("closes-in-the-handshake", "takes the hello and closes", greeting(b""))
            .bad("connection closed by PEER in the TLS handshake"),
        tls("resets-in-the-handshake", "takes the hello and resets", serving(|mut stream| async move {
            let mut hello = [0; 5];
            let _ = stream.read_exact(&mut hello).await;
            reset(stream).await;
        }))
        .bad("connection reset by PEER in the TLS handshake"),
        // Records of 16 KiB, of one handshake message that is to have 16 MiB.
        tls("endless-handshake", "never ends a message of the handshake", serving(|mut stream| async move {
            let mut hello = [0; 5];
            let _ = stream.read_exact(&mut hello).await;
            let record = [&[22, 3, 3, 64, 0, 2, 255, 255, 255][..], &[0; 16380]].concat();
            let _ = stream.write_all(&record).await;
            pouring(stream, [&[22, 3, 3, 64, 0][..], &[0; 16384]].concat()).await;
        }))
        .bad("TLS with PEER: a message of its handshake is longer than 64 KiB"),
    ]
}
