//! What the fields of `http` may say.

use std::fmt::{self, Write as _};

use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING};
use regex::{Regex, RegexBuilder};
use serde_json::json;

use crate::base::grpc::STATUSES;
use crate::file::{Fields, Mistakes, Node, Read, Value, nearest, no_pattern, read_text};

/// A pattern may compile to so many bytes.
const MOST_PATTERN: usize = 1 << 20;

fn compiled(pattern: &str) -> Result<Regex, (String, String)> {
    RegexBuilder::new(pattern).size_limit(MOST_PATTERN).build().map_err(|why| {
        (
            format!("`{pattern}` is not a regular expression: {}", no_pattern(&why)),
            "write \\\\ before a special character".to_owned(),
        )
    })
}

/// A path in which `*` stands for anything within one of its parts and `**` for anything at all.
#[derive(Debug, Clone)]
pub struct Glob {
    said: String,
    pattern: Regex,
}

impl Glob {
    fn parse(said: &str) -> Result<Self, (String, String)> {
        if !(said.starts_with('/') || said.starts_with('*')) || said.contains(['?', '#', ' ']) {
            let remedy = "it begins with `/` and has no query, such as \"/orders/*\"";
            return Err((format!("`{said}` is not a path"), remedy.to_owned()));
        }
        let pattern = said
            .split("**")
            .map(|part| part.split('*').map(regex::escape).collect::<Vec<_>>().join("[^/]*"))
            .collect::<Vec<_>>()
            .join(".*");
        Ok(Self { said: said.to_owned(), pattern: compiled(&format!("^{pattern}$"))? })
    }

    pub(super) fn fits(&self, path: &str) -> bool {
        self.pattern.is_match(path)
    }

    /// The only path that fits, if there is only one.
    pub(super) fn only(&self) -> Option<&str> {
        (!self.said.contains('*')).then_some(self.said.as_str())
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl Read for Glob {
    const NAME: &'static str = "path";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, Self::parse)
    }
    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^[/*]"})
    }
}

/// A regular expression, searched for anywhere.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

impl Read for Pattern {
    const NAME: &'static str = "regular expression";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| compiled(text).map(Self))
    }
    fn schema() -> serde_json::Value {
        json!({"type": "string", "format": "regex"})
    }
}

/// Request methods: one, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Methods(pub Vec<String>);

fn method(node: &Node, mistakes: &mut Mistakes) -> Option<String> {
    read_text(node, mistakes, |text| {
        let right = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        let wrong = || {
            (format!("`{text}` is not a method"), "write it in capitals, like \"GET\" or \"POST\"".to_owned())
        };
        if right { Ok(text.to_owned()) } else { Err(wrong()) }
    })
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" or "))
    }
}

impl Read for Methods {
    const NAME: &'static str = "method or list of them";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Array(nodes) = &node.value {
            let read: Vec<Option<String>> = nodes.iter().map(|node| method(node, mistakes)).collect();
            if read.is_empty() {
                mistakes.error(node.place, "no method is named", "leave `method` out to mean all of them");
            }
            return read.into_iter().collect::<Option<_>>().map(Self);
        }
        method(node, mistakes).map(|method| Self(vec![method]))
    }
    fn schema() -> serde_json::Value {
        let one = json!({"type": "string", "pattern": "^[A-Z-]+$"});
        json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

/// A name that a header can have.
fn name(text: &str) -> Option<String> {
    HeaderName::try_from(text).is_ok().then(|| text.to_ascii_lowercase())
}

const NO_NAME: &str = "that cannot be the name of a header";

/// What headers of a request must hold: names and regular expressions.
#[derive(Debug, Clone, Default)]
pub struct Held(pub Vec<(String, Pattern)>);

impl Read for Held {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut read = Vec::new();
        for (key, node) in Fields::open(node, "`request_header`", mistakes)?.rest() {
            if name(&key.text).is_none() {
                mistakes.error(key.place, NO_NAME, "for example `{ x-tenant = \"^acme$\" }`");
            }
            read.push(name(&key.text).zip(Pattern::read(node, mistakes)));
        }
        read.into_iter().collect::<Option<_>>().map(Self)
    }
    fn schema() -> serde_json::Value {
        json!({"type": "object", "additionalProperties": Pattern::schema()})
    }
}

/// Headers of an answer: names and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given(pub Vec<(String, String)>);

impl Read for Given {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut read = Vec::new();
        for (key, node) in Fields::open(node, "`answer_header`", mistakes)?.rest() {
            let named = name(&key.text);
            let ours = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];
            match &named {
                None => mistakes.error(key.place, NO_NAME, "for example `{ retry-after = \"1\" }`"),
                Some(name) if ours.iter().any(|ours| ours.as_str() == name) => {
                    mistakes.error(
                        key.place,
                        "it says where the answer ends, and follows from the rest",
                        "leave it out",
                    );
                }
                Some(_) => {}
            }
            let value = read_text(node, mistakes, |text| match HeaderValue::from_str(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(_) => Err(("that cannot be the value of a header".to_owned(), String::new())),
            });
            read.push(named.zip(value));
        }
        read.into_iter().collect::<Option<_>>().map(Self)
    }
    fn schema() -> serde_json::Value {
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    }
}

/// A status that ends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u16);

impl Read for Status {
    const NAME: &'static str = "status";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Integer(number @ 200..=599) = node.value {
            return Some(Self(number as u16));
        }
        mistakes.error(node.place, "that is no status of an answer", "use a number from 200 to 599");
        None
    }
    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 200, "maximum": 599})
    }
}

/// The status of a gRPC call: a name or its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcStatus(pub usize);

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STATUSES.get(self.0).copied().unwrap_or("unknown"))
    }
}

impl Read for GrpcStatus {
    const NAME: &'static str = "gRPC status";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Integer(number @ 1..=16) = node.value {
            return Some(Self(number as usize));
        }
        let said = if let Value::Text(text) = &node.value { text.as_str() } else { "" };
        // A call that is answered OK without a message is not what `UNAVAILABLE` and its like are.
        if let Some(number) = STATUSES.iter().position(|name| *name == said).filter(|number| *number > 0) {
            return Some(Self(number));
        }
        let remedy = nearest(said, STATUSES.into_iter().skip(1)).map_or_else(
            || "use a name such as \"UNAVAILABLE\", or its number from 1 to 16".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        mistakes.error(node.place, "that is no gRPC status of a call that failed", remedy);
        None
    }
    fn schema() -> serde_json::Value {
        json!({"anyOf": [{"enum": STATUSES[1..]}, {"type": "integer", "minimum": 1, "maximum": 16}]})
    }
}

macro_rules! words {
    ($(#[doc = $about:literal])* $type:ident, $name:literal, $($(#[doc = $doc:literal])* $variant:ident = $word:literal),*) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type { $($(#[doc = $doc])* $variant),* }

        impl Read for $type {
            const NAME: &'static str = $name;
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                read_text(node, mistakes, |text| match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err((
                        format!("`{text}` is not known here"),
                        format!("use one of: {}", [$($word),*].join(", ")),
                    )),
                })
            }
            fn schema() -> serde_json::Value {
                json!({"enum": [$($word),*]})
            }
        }
    };
}

words!(
    /// How a connection ends without an answer.
    HangUp, "word",
    /// By a proper end (FIN).
    Close = "close",
    /// By a reset (RST), as when the server had crashed.
    Reset = "reset"
);

/// A gRPC message as it stands in a header: percent-encoded (gRPC over HTTP2, Responses).
pub(super) fn grpc_message(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' | ..=0x1f | 0x7f.. => drop(write!(written, "%{byte:02X}")),
            _ => written.push(char::from(byte)),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_a_part_and_two_do_not() {
        let fits = |glob: &str, path: &str| Glob::parse(glob).unwrap().fits(path);
        assert!(fits("/orders", "/orders") && !fits("/orders", "/orders/") && !fits("/orders", "/orders2"));
        assert!(fits("/orders/*", "/orders/1") && fits("/orders/*", "/orders/"));
        assert!(!fits("/orders/*", "/orders/1/items") && fits("/orders/**", "/orders/1/items"));
        assert!(fits("/*/items", "/a/items") && !fits("/*/items", "/a/b/items"));
        assert!(fits("**.js", "/a/b.js") && !fits("**.js", "/a/bxjs") && fits("/a+(b)", "/a+(b)"));
        assert_eq!(Glob::parse("/a").unwrap().only(), Some("/a"));
        assert_eq!(Glob::parse("/a*").unwrap().only(), None);
        assert!(Glob::parse("a").is_err() && Glob::parse("/a?b").is_err() && Glob::parse("").is_err());
    }

    #[test]
    fn a_grpc_message_is_a_header() {
        assert_eq!(grpc_message("back soon: 100% sure\n\u{e9}"), "back soon: 100%25 sure%0A%C3%A9");
    }
}
