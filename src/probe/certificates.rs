//! What a TLS peer showed: the version, and each certificate of its chain with its expiry.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Trace;
use crate::base::{Clock, unit};

/// Notes what both sides agreed on.
pub(super) fn note_session(connection: &ClientConnection, trace: &mut Trace) {
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    trace.note("TLS", || [version, cipher].into_iter().flatten().collect::<Vec<_>>().join(", "));
}

/// Notes the chain as it was shown, leaf first.
pub(super) fn note(chain: &[CertificateDer<'_>], trace: &mut Trace) {
    let now = Clock::start().started();
    for certificate in chain {
        match valid_until(certificate) {
            Some(until) => trace.measure("certificate", until.as_second() as f64, || said(certificate, now)),
            None => trace.note("certificate", || said(certificate, now)),
        }
    }
}

/// What is wrong with a chain, leaf first, of which the leaf and each of the others must be valid for so long yet, as far
/// as anybody says.
pub(super) fn too_short(
    chain: &[CertificateDer<'_>],
    leaf: Option<Duration>,
    others: Option<Duration>,
) -> Option<String> {
    let now = Clock::start().started();
    chain.iter().enumerate().find_map(|(nth, certificate)| {
        let wanted = if nth == 0 { leaf } else { others }?;
        let until = valid_until(certificate);
        let left = until.map(|until| until.duration_since(now));
        // One whose end cannot be read is not known to be valid.
        let enough =
            left.is_some_and(|left| left >= SignedDuration::try_from(wanted).unwrap_or(SignedDuration::MAX));
        (!enough).then(|| {
            let until = until.map_or_else(|| "nobody knows when".to_owned(), told);
            let whose = Certificate::from_der(certificate)
                .map_or_else(|_| String::new(), |it| format!(" of {}", it.tbs_certificate().subject()));
            let what = if nth == 0 {
                "the certificate".to_owned()
            } else {
                format!("the chain's certificate{whose}")
            };
            format!("{what} is valid until {until}, expected for {} yet", unit::say(wanted))
        })
    })
}

/// Whether a certificate is valid beyond a moment, in seconds since 1970.
pub(super) fn outlives(certificate: &[u8], moment: u64) -> bool {
    valid_until(certificate).is_some_and(|until| i128::from(until.as_second()) > i128::from(moment))
}

fn valid_until(certificate: &[u8]) -> Option<Timestamp> {
    let parsed = Certificate::from_der(certificate).ok()?;
    expiry(parsed.tbs_certificate().validity().not_after.to_unix_duration())
}

fn told(until: Timestamp) -> String {
    until.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// A certificate (RFC 5280) in a sentence: for whom, by whom, until when.
fn said(der: &[u8], now: Timestamp) -> String {
    let Ok(certificate) = Certificate::from_der(der) else {
        return format!("{} bytes that are no certificate", der.len());
    };
    let held = certificate.tbs_certificate();
    let subject = held.subject().to_string();
    let subject = if subject.is_empty() { "(no subject)" } else { &subject };
    let until = expiry(held.validity().not_after.to_unix_duration());
    let left = until.map_or_else(String::new, |until| {
        let days = until.duration_since(now).as_hours() / 24;
        let left = if until < now { "expired".to_owned() } else { format!("{days} days left") };
        format!(", until {} ({left})", told(until))
    });
    format!("{subject}, by {}{left}", held.issuer())
}

fn expiry(since_epoch: Duration) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(since_epoch.as_secs()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_with_its_expiry() {
        let mut parameters = rcgen::CertificateParams::new(vec!["shop.example".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 5, 17);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "shop.example");
        let key = rcgen::KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let now: Timestamp = "2030-05-10T00:00:00Z".parse().unwrap();
        let told = said(&der, now);
        assert!(
            told.contains("CN=shop.example") && told.contains("until 2030-05-17 00:00 UTC (7 days left)"),
            "{told}"
        );
        assert!(said(&der, "2031-01-01T00:00:00Z".parse().unwrap()).contains("(expired)"));
        assert_eq!(said(b"x", now), "1 bytes that are no certificate");
    }
}
