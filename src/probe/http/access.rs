//! Pages that other kinds read: how they are reached.

use std::path::PathBuf;

use hyper::Method;
use hyper::header::{ACCEPT, HeaderValue};

use super::expect::Expect;
use super::request::{Basic, Headers, Pick, Reuse, Url, Verb, Version};
use super::{Http, HttpProber, LONGEST};
use crate::probe::{Miss, Probe, Secret, Setting, Trace, security};

crate::kind! {
    /// How a page is reached.
    pub struct Access("access") {
        /// Headers of the request. Never printed.
        headers: Headers = "{}",
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

crate::table!(Access, "`access`");

/// A page that is read, again and again.
pub struct Page(HttpProber);

impl Access {
    fn asks(&self, url: Url, statuses: &[&str]) -> Http {
        Http {
            url,
            method: Verb(Method::GET),
            headers: self.headers.clone(),
            body: None,
            body_file: None,
            expect: Expect::statuses(statuses),
            version: Version::One,
            redirects: 0,
            connection: Reuse::KeepAlive,
            addresses: Pick::First,
            proxy: None,
            proxy_basic: None,
            unix_socket: None,
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            name: self.name.clone(),
            min_version: self.min_version,
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            bearer: self.bearer.clone(),
            bearer_file: self.bearer_file.clone(),
            basic: self.basic.clone(),
        }
    }

    /// Whether a page can be reached so: what is wrong, and the remedy.
    pub(in crate::probe) fn check(&self, url: &Url) -> Result<(), (String, String)> {
        self.asks(url.clone(), &[]).check()
    }

    /// Gets ready to read a page, which comes with one of these statuses and in this format, unless the headers ask for
    /// another.
    pub(in crate::probe) fn page(
        &self,
        url: Url,
        statuses: &[&str],
        format: &'static str,
        setting: &Setting,
    ) -> Result<Page, String> {
        let mut asks = self.asks(url, statuses);
        asks.headers.0.entry(ACCEPT).or_insert(HeaderValue::from_static(format));
        Ok(Page(HttpProber { keeps: LONGEST, ..asks.prober(setting)? }))
    }
}

impl Page {
    /// Reads it.
    pub(in crate::probe) async fn body(&self, trace: &mut Trace) -> Result<Vec<u8>, Miss> {
        self.0.read(trace).await
    }
}
