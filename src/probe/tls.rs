//! `tls`: does a server shake hands, and for how long will its certificates let it?

use std::path::PathBuf;
use std::time::Duration;

use super::certificates;
use super::dial::Address;
use super::security::{Security, Tls as Shaking, Version};
use super::starttls::Before;
use super::{Miss, Probe, Prober, Setting, Trace, timed};
use crate::host::names::Names;

crate::kind! {
    /// Shakes hands by TLS, judges the certificates, and closes.
    ///
    /// The chain must lead to somebody trusted and be for the name; then each certificate must be valid for as
    /// long as expected. What a refused server showed is told, too.
    pub struct Tls("tls") {
        /// Where: `host:port`.
        address: Address = required,
        /// The name asked for and expected in the certificate, instead of the host of the address.
        name: String = optional,
        /// The protocol that is spoken before TLS: `smtp`, `imap` or `postgres`. TLS begins at once when absent.
        starttls: Before = optional,
        /// Trusts the certificates in this PEM file instead of those this host trusts.
        ca_file: PathBuf = optional,
        /// Takes any certificate; how long it is valid is judged all the same.
        insecure: bool = "false",
        /// The lowest version: "1.2" or "1.3".
        min_version: Version = "\"1.2\"",
        /// A PEM file with our own certificate and those above it, for servers that ask for one.
        cert_file: PathBuf = optional,
        /// A PEM file with the key of our own certificate.
        key_file: PathBuf = optional,
        /// What must be seen: `valid_for`, how long the server's own certificate must be valid yet, and
        /// `chain_valid_for`, how long those above it that the server shows.
        expect: Expect = "{}",
    }
}

crate::kind! {
    /// How long certificates must be valid yet.
    pub struct Expect("expect") {
        /// The server's own.
        valid_for: Duration = "0s",
        /// Those above it that the server shows.
        chain_valid_for: Duration = "0s",
    }
}

crate::table!(Expect, "`expect`");

/// Shakes hands, again and again.
pub struct TlsProber {
    tls: Tls,
    shaking: Shaking,
    names: Names,
}

impl Tls {
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
}

impl Probe for Tls {
    type Prober = TlsProber;
    const EXAMPLE: &'static str = r#"[probe.certificate.tls]
address = "mail.example.com:25"
starttls = "smtp"
expect  = { valid_for = "14d" }
every   = "1m"
timeout = "5s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        self.security().check().map_err(|(what, remedy)| (what.to_owned(), remedy.to_owned()))
    }

    fn prober(&self, setting: &Setting) -> Result<TlsProber, String> {
        let shaking = Shaking::new(&self.address.host, &self.security(), setting, &[])?;
        Ok(TlsProber { tls: self.clone(), shaking, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        self.address.to_string()
    }
}

impl Prober for TlsProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Tls { address, starttls, expect, .. } = &self.tls;
        let mut dialled = address.dial(&self.names, trace).await?;
        if let Some(before) = starttls {
            timed(&mut trace.greeting, before.agree(&mut dialled)).await?;
        }
        let stream = self.shaking.shake(dialled, trace).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        certificates::too_short(chain, Some(expect.valid_for), Some(expect.chain_valid_for))
            .map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}
