//! What is asked, as it is written in a file.

use std::fmt::Write as _;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde_json::{Value as Json, json};

use crate::file::{Fields, Mistakes, Node, Read, nearest};
use crate::host::names::Family;
use crate::probe::dial::Address;
use crate::probe::{Secret, beginning, read_text};

/// An http or https address.
#[derive(Debug, Clone)]
pub struct Url {
    /// As it was written, completed.
    pub said: String,
    /// Whom it reaches.
    pub address: Address,
    /// Whether it is https.
    pub tls: bool,
    /// The path and query: what stands in the request (RFC 9112, section 3.2.1).
    pub target: Uri,
    /// All of it, as a proxy is asked for it.
    pub whole: Uri,
    /// The host as it stands in the header `Host`.
    pub host: HeaderValue,
}

impl Url {
    fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        const REMEDY: &str = "write it like \"http://localhost:8080/healthz\"";
        let wrong = |why: &str| (format!("`{text}` is not a URL: {why}"), REMEDY);
        let uri: Uri = text.parse().map_err(|why: hyper::http::uri::InvalidUri| wrong(&why.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(wrong("its scheme is neither http nor https")),
            None => return Err(wrong("it does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("the host is missing"))?;
        if authority.as_str().contains('@') {
            // Not shown: it may hold a password.
            return Err(("the URL holds a user or a password".to_owned(), "use `basic` or `bearer_file`"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let port = match (authority.port_u16(), authority.as_str().rsplit_once(':')) {
            (Some(0), _) => return Err(wrong("the port is not a number from 1 to 65535")),
            (Some(port), _) => port,
            (None, Some((_, rest))) if !rest.ends_with(']') => {
                return Err(wrong("the port is not a number from 1 to 65535"));
            }
            (None, _) => [80, 443][usize::from(tls)],
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = path.parse().map_err(|_| wrong("its path is wrong"))?;
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| wrong("the host is wrong"))?;
        let address = Address { host: host.to_owned(), port };
        Ok(Self { said: uri.to_string(), address, tls, target, whole: uri, host: value })
    }

    /// Where a redirect to here leads, which may be said by its last part only (RFC 9110, section 10.2.2).
    ///
    /// # Errors
    /// Why that is nowhere.
    pub(super) fn join(&self, location: &[u8]) -> Result<Self, String> {
        let location = String::from_utf8_lossy(location);
        let joined = url::Url::parse(&self.said).and_then(|base| base.join(&location));
        let mut joined = joined.map_err(|why| format!("`{}`: {why}", beginning(location.as_bytes())))?;
        joined.set_fragment(None);
        Self::parse(joined.as_str()).map_err(|(why, _)| why)
    }

    /// Whether another is at the same place: scheme, host and port.
    pub(super) fn shares_origin(&self, other: &Self) -> bool {
        self.tls == other.tls && self.shares_host(other) && self.address.port == other.address.port
    }

    fn shares_host(&self, other: &Self) -> bool {
        self.address.host.eq_ignore_ascii_case(&other.address.host)
    }

    /// Whether what only this place may know may also be told to another: the same one, or the same host when it is
    /// reached by https instead of http, each at its usual port.
    pub(super) fn trusts(&self, other: &Self) -> bool {
        let secured = !self.tls && self.address.port == 80 && other.tls && other.address.port == 443;
        self.shares_origin(other) || (secured && self.shares_host(other))
    }
}

impl Url {
    /// What lies below it, with a query of these words and values.
    ///
    /// # Errors
    /// When it has a query already, or they make an address that is too long: what is wrong, and the remedy.
    pub(in crate::probe) fn below(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Self, (String, String)> {
        if self.target.query().is_some() {
            return Err((
                "the URL holds a query already".to_owned(),
                "leave out `?` and what follows".to_owned(),
            ));
        }
        let words: Vec<String> =
            query.iter().map(|(word, value)| format!("{word}={}", escaped(value))).collect();
        let all = format!("{}{path}?{}", self.target.path().trim_end_matches('/'), words.join("&"));
        let target =
            all.parse().map_err(|why: hyper::http::uri::InvalidUri| (why.to_string(), String::new()))?;
        Ok(Self { target, ..self.clone() })
    }
}

/// A value of a query, in which all but the unreserved characters are escaped (RFC 3986, section 2).
fn escaped(value: &str) -> String {
    value.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
        escaped
    })
}

impl Read for Url {
    const NAME: &'static str = "URL";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, Self::parse)
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^https?://"})
    }
}

/// A request method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verb(pub Method);

impl Read for Verb {
    const NAME: &'static str = "method";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        const REMEDY: &str = "write it in capitals, like \"GET\" or \"POST\"";
        read_text(node, mistakes, |text| {
            let capitals =
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
            match text.parse::<Method>() {
                Ok(Method::CONNECT) => {
                    Err(("the method CONNECT asks for a tunnel, not for an answer".to_owned(), ""))
                }
                Ok(method) if capitals => Ok(Self(method)),
                _ => Err((format!("`{text}` is not a method"), REMEDY)),
            }
        })
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^[A-Z-]+$"})
    }
}

/// Headers; their values may be secrets and are never printed.
#[derive(Debug, Clone, Default)]
pub struct Headers(pub HeaderMap);

impl Read for Headers {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut map = HeaderMap::new();
        let mut right = true;
        for (key, node) in Fields::open(node, "`headers`", mistakes)?.rest() {
            let named = match key.text.parse::<HeaderName>() {
                Ok(name) if ours(&name) => Err("we set it ourselves"),
                Ok(name) => Ok(name),
                Err(_) => Err("that cannot be the name of a header"),
            };
            let value = String::read(node, mistakes).and_then(|text| {
                let value = HeaderValue::from_str(&text).ok();
                if value.is_none() {
                    mistakes.error(
                        node.place,
                        format!("the value of `{}` has control characters", key.text),
                        "",
                    );
                }
                value
            });
            match (named, value) {
                (Ok(name), Some(mut value)) => {
                    value.set_sensitive(true);
                    map.append(name, value);
                }
                (Err(why), _) => {
                    mistakes.error(
                        key.place,
                        format!("the header `{}` cannot be given: {why}", key.text),
                        "",
                    );
                    right = false;
                }
                (Ok(_), None) => right = false,
            }
        }
        right.then_some(Self(map))
    }
    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

/// What frames a request or rules the connection.
fn ours(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE].contains(name)
}

/// Which of the addresses of a name is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The first, an IPv4 one before an IPv6 one.
    First,
    /// The first IPv4 one.
    V4,
    /// The first IPv6 one.
    V6,
    /// All of them, one after the other.
    Each,
}

crate::words!(Pick, "choice", "first" => Pick::First, "ipv4" => Pick::V4, "ipv6" => Pick::V6, "each" => Pick::Each);

impl Pick {
    /// Which are looked up.
    pub(super) fn family(self) -> Family {
        match self {
            Self::First => Family::Any,
            Self::V4 => Family::V4,
            Self::V6 => Family::V6,
            Self::Each => Family::Both,
        }
    }
}

/// The version of HTTP that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2: agreed on by TLS, or taken for granted without.
    Two,
    /// What the server prefers.
    Either,
}

crate::words!(Version, "HTTP version", "1.1" => Version::One, "2" => Version::Two, "either" => Version::Either);

impl Version {
    /// What is offered in a TLS handshake (RFC 7301).
    pub(super) fn offered(self) -> &'static [&'static str] {
        match self {
            Self::One => &["http/1.1"],
            Self::Two => &["h2"],
            Self::Either => &["h2", "http/1.1"],
        }
    }
}

/// Whether a connection serves one look or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// Many, one after the other.
    KeepAlive,
    /// One.
    Fresh,
}

impl Read for Reuse {
    const NAME: &'static str = "word";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| match text {
            "keep-alive" => Ok(Self::KeepAlive),
            "fresh" => Ok(Self::Fresh),
            other => Err((
                format!("`{other}` is not a way to connect"),
                match nearest(other, ["keep-alive", "fresh"].into_iter()) {
                    Some("keep-alive") => "did you mean `keep-alive`?",
                    Some(_) => "did you mean `fresh`?",
                    None => "use `keep-alive` or `fresh`",
                },
            )),
        })
    }
    fn schema() -> Json {
        json!({"enum": ["keep-alive", "fresh"]})
    }
}

/// A user and a password (RFC 7617).
#[derive(Debug, Clone)]
pub struct Basic {
    /// The user.
    pub user: String,
    /// The password, or the file it is in.
    pub password: Result<Secret, std::path::PathBuf>,
}

impl Read for Basic {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut fields = Fields::open(node, "`basic`", mistakes)?;
        let user: Option<String> = fields.required("user", mistakes);
        let (said, file) = (fields.node("password"), fields.node("password_file"));
        fields.close(mistakes);
        let password = match (said, file) {
            (Some((_, said)), None) => Secret::read(said, mistakes).map(Ok),
            (None, Some((_, file))) => std::path::PathBuf::read(file, mistakes).map(Err),
            (said, _) => {
                let what = if said.is_some() {
                    "`basic` has both `password` and `password_file`"
                } else {
                    "`basic` lacks a password"
                };
                mistakes.error(node.place, what, "give one of `password` and `password_file`");
                None
            }
        };
        let user = user.filter(|user| {
            let colon = user.contains(':');
            if colon {
                mistakes.error(node.place, "a user of `basic` cannot hold a colon (RFC 7617)", "");
            }
            !colon
        });
        Some(Self { user: user?, password: password? })
    }
    fn schema() -> Json {
        json!({
            "type": "object",
            "properties": {"user": {"type": "string"}, "password": {"type": "string"}, "password_file": {"type": "string"}},
            "required": ["user"],
            "additionalProperties": false,
        })
    }
}

/// Base64 with padding (RFC 4648, section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, nth| bits << 8 | u32::from(three.get(nth).copied().unwrap_or(0)));
        for nth in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * nth) & 63) as usize];
            text.push(if nth <= three.len() { letter as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("Aladdin:open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn urls_are_read_and_wrong_ones_refused_with_the_reason() {
        for (text, address, target) in [
            ("http://a", "a:80", "/"),
            ("https://a/b?c=d", "a:443", "/b?c=d"),
            ("http://[2001:db8::1]:8080/x", "[2001:db8::1]:8080", "/x"),
            ("http://[::1]", "[::1]:80", "/"),
            ("HTTP://A:81", "A:81", "/"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(
                (url.address.to_string().as_str(), url.target.to_string().as_str()),
                (address, target)
            );
        }
        for (text, why) in [
            ("ftp://a", "`ftp://a` is not a URL: its scheme is neither http nor https"),
            ("a", "`a` is not a URL: it does not begin with http:// or https://"),
            ("/a", "`/a` is not a URL: it does not begin with http:// or https://"),
            ("", "`` is not a URL: empty string"),
            ("http://a b", "`http://a b` is not a URL: invalid uri character"),
            ("http://a:0", "`http://a:0` is not a URL: the port is not a number from 1 to 65535"),
            ("http://a:99999", "`http://a:99999` is not a URL: the port is not a number from 1 to 65535"),
            ("http://u:secret@a", "the URL holds a user or a password"),
        ] {
            assert_eq!(Url::parse(text).unwrap_err().0, why);
        }
    }
}
