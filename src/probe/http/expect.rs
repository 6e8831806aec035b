//! What an answer must be.

use std::fmt::Write as _;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName};
use rustls::ClientConnection;
use serde_json::{Value as Json, json};

use crate::base::Bytes;
use crate::file::{Fields, Mistakes, Node, Read, Value};
use crate::probe::expect::{Bound, Content, Paths, Pattern};
use crate::probe::security::Version;
use crate::probe::{Phases, beginning, certificates};

crate::kind! {
    /// What an answer must be. All of it must hold; the first that does not is told.
    pub struct Expect("expect") {
        /// One of these status codes.
        status: Statuses = "2xx",
        /// These headers must be there, each with a value in which its pattern is found.
        header: Wanted = "{}",
        /// The body contains this.
        body: String = optional,
        /// The body matches this.
        body_regex: Pattern = optional,
        /// What each path finds in the body, read as JSON, is this.
        json: Paths = "{}",
        /// How long the body is.
        size: Bound<Bytes> = optional,
        /// By which version of TLS it comes.
        tls_version: Version = optional,
        /// How long the server's own certificate must be valid yet.
        valid_for: Duration = optional,
        /// How long those above it that the server shows must be valid yet.
        chain_valid_for: Duration = optional,
        /// What looking up the name takes.
        lookup: Bound<Duration> = optional,
        /// What connecting takes.
        connect: Bound<Duration> = optional,
        /// What the TLS handshake takes.
        tls: Bound<Duration> = optional,
        /// What passes from the request sent to the first byte of the answer.
        first_byte: Bound<Duration> = optional,
        /// What passes from the first byte to the last.
        transfer: Bound<Duration> = optional,
    }
}

crate::table!(Expect, "`expect`");

/// Headers that must be there, and what is found in a value of each.
#[derive(Debug, Clone, Default)]
pub struct Wanted(Vec<(HeaderName, Pattern)>);

impl Read for Wanted {
    const NAME: &'static str = "table";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let read: Vec<_> = Fields::open(node, "`expect.header`", mistakes)?
            .rest()
            .into_iter()
            .map(|(key, node)| {
                let pattern = Pattern::read(node, mistakes);
                if let Ok(name) = key.text.parse::<HeaderName>() {
                    return Some((name, pattern?));
                }
                mistakes.error(key.place, format!("`{}` cannot be the name of a header", key.text), "");
                None
            })
            .collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }

    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": Pattern::schema()})
    }
}

impl Expect {
    /// One of these statuses, and anything else.
    pub(super) fn statuses(words: &[&str]) -> Self {
        Self {
            status: words.iter().filter_map(|word| Statuses::parse(word)).collect(),
            header: Wanted::default(),
            body: None,
            body_regex: None,
            json: Paths::default(),
            size: None,
            tls_version: None,
            valid_for: None,
            chain_valid_for: None,
            lookup: None,
            connect: None,
            tls: None,
            first_byte: None,
            transfer: None,
        }
    }

    /// Whether something is expected that only TLS has.
    pub(super) fn needs_tls(&self) -> bool {
        let until = self.valid_for.or(self.chain_valid_for);
        self.tls_version.is_some() || until.is_some() || self.tls.is_some()
    }

    /// What is wrong with how a connection is secured: the version, and the chain that the server showed.
    pub(super) fn wrong_tls(&self, connection: &ClientConnection) -> Option<String> {
        if let Some(wanted) = self.tls_version {
            let version = connection.protocol_version().map(Version::of);
            if version != Some(wanted) {
                let seen = version.map_or("unknown", Version::said);
                return Some(format!("the TLS version is {seen}, expected {}", wanted.said()));
            }
        }
        let chain = connection.peer_certificates().unwrap_or_default();
        certificates::too_short(chain, self.valid_for, self.chain_valid_for)
    }

    /// What is wrong with the times of a look. A part that it did not have, as one on a kept connection does not connect,
    /// is not judged.
    pub(super) fn wrong_times(&self, phases: &Phases) -> Option<String> {
        let parts = [
            ("the lookup", &self.lookup, phases.lookup),
            ("the connecting", &self.connect, phases.connect),
            ("the TLS handshake", &self.tls, phases.tls),
            ("the wait for the first byte", &self.first_byte, phases.first_byte),
            ("the transfer", &self.transfer, phases.transfer),
        ];
        parts.into_iter().find_map(|(called, bound, took)| bound.as_ref()?.wrong(called, &took?))
    }

    /// What the body must hold.
    pub(super) fn content(&self) -> Content<'_> {
        Content { contains: self.body.as_deref(), regex: self.body_regex.as_ref(), json: &self.json }
    }

    /// What is wrong with the head of an answer.
    pub(super) fn wrong_head(&self, status: u16, headers: &HeaderMap) -> Option<String> {
        if !self.status.hold(status) {
            return Some(format!("status {status}, expected {}", self.status.said()));
        }
        self.header.0.iter().find_map(|(name, pattern)| {
            let mut values = headers.get_all(name).iter().peekable();
            let Some(first) = values.peek() else {
                return Some(format!("there is no header {name}, expected `{pattern}`"));
            };
            let first = beginning(first.as_bytes());
            let fits = values.any(|value| pattern.is_match(value.as_bytes()));
            (!fits).then(|| format!("header {name} is `{first}`, expected `{pattern}`"))
        })
    }
}

/// Some status codes: a class such as `2xx`, a code, or a list of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statuses(Vec<Codes>);

/// The first and the last code of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Codes(u16, u16);

impl FromIterator<Codes> for Statuses {
    fn from_iter<I: IntoIterator<Item = Codes>>(codes: I) -> Self {
        Self(codes.into_iter().collect())
    }
}

impl Statuses {
    fn parse(text: &str) -> Option<Codes> {
        if let Some(class) = text.strip_suffix("xx").and_then(|class| class.parse::<u16>().ok()) {
            return (1..=5).contains(&class).then_some(Codes(class * 100, class * 100 + 99));
        }
        let code = text.parse().ok().filter(|code| (100..=599).contains(code))?;
        (text.len() == 3).then_some(Codes(code, code))
    }

    fn hold(&self, status: u16) -> bool {
        self.0.iter().any(|Codes(low, high)| (*low..=*high).contains(&status))
    }

    fn said(&self) -> String {
        let mut said = String::new();
        for (nth, Codes(low, high)) in self.0.iter().enumerate() {
            let between = match nth {
                0 => "",
                last if last + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            let _ = if low == high {
                write!(said, "{between}{low}")
            } else {
                write!(said, "{between}{}xx", low / 100)
            };
        }
        said
    }
}

impl Read for Statuses {
    const NAME: &'static str = "status";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let one = |node: &Node, mistakes: &mut Mistakes| {
            let codes = match &node.value {
                Value::Text(text) => Self::parse(text),
                Value::Integer(code) => Self::parse(&code.to_string()),
                _ => None,
            };
            if codes.is_none() {
                let said = match &node.value {
                    Value::Text(text) => format!("`{text}`"),
                    Value::Integer(code) => code.to_string(),
                    other => other.called().to_owned(),
                };
                mistakes.error(
                    node.place,
                    format!("{said} is not a status"),
                    "write \"2xx\", \"200\", or a list of these",
                );
            }
            codes
        };
        match &node.value {
            Value::Array(nodes) if nodes.is_empty() => {
                mistakes.error(
                    node.place,
                    "no status is expected",
                    "write \"2xx\", \"200\", or a list of these",
                );
                None
            }
            Value::Array(nodes) => {
                let read: Vec<_> = nodes.iter().map(|node| one(node, mistakes)).collect();
                read.into_iter().collect()
            }
            _ => one(node, mistakes).map(|codes| Self(vec![codes])),
        }
    }

    fn schema() -> Json {
        let one = json!({"anyOf": [
            {"type": "string", "pattern": "^([1-5]xx|[1-5][0-9][0-9])$"},
            {"type": "integer", "minimum": 100, "maximum": 599},
        ]});
        json!({"anyOf": [one.clone(), {"type": "array", "items": one, "minItems": 1}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_classes_codes_and_lists() {
        let statuses: Statuses = ["2xx", "301", "404"].into_iter().filter_map(Statuses::parse).collect();
        assert_eq!(statuses.said(), "2xx, 301 or 404");
        assert!(statuses.hold(200) && statuses.hold(299) && statuses.hold(404));
        assert!(!statuses.hold(300) && !statuses.hold(199));
        for text in ["", "xx", "6xx", "0xx", "99", "600", "+200", "0200", "2x", "OK"] {
            assert_eq!(Statuses::parse(text), None, "{text}");
        }
    }
}
