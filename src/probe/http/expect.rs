//! What an answer must be.

use std::fmt::Write as _;

use hyper::header::{HeaderMap, HeaderName};
use serde_json::{Value as Json, json};

use crate::file::{Fields, Mistakes, Node, Read, Value};
use crate::probe::beginning;
use crate::probe::expect::{Content, Paths, Pattern};

/// What an answer must be. All of it must hold; the first that does not is told.
#[derive(Debug, Clone)]
pub struct Expect {
    /// One of these status codes.
    pub status: Statuses,
    /// These headers must be there, each with a value in which its pattern is found.
    pub header: Vec<(HeaderName, Pattern)>,
    /// The body contains this.
    pub body: Option<String>,
    /// The body matches this.
    pub body_regex: Option<Pattern>,
    /// What each path finds in the body, read as JSON, is this.
    pub json: Paths,
}

impl Read for Expect {
    const NAME: &'static str = "table";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut fields = Fields::open(node, "`expect`", mistakes)?;
        let status = match fields.node("status") {
            Some((_, node)) => Statuses::read(node, mistakes),
            None => Some(Statuses::parse("2xx").into_iter().collect()),
        };
        let header = fields.node("header").map_or(Some(Vec::new()), |(_, node)| headers(node, mistakes));
        let body = fields.node("body").map(|(_, node)| String::read(node, mistakes));
        let body_regex = fields.node("body_regex").map(|(_, node)| Pattern::read(node, mistakes));
        let json =
            fields.node("json").map_or(Some(Paths::default()), |(_, node)| Paths::read(node, mistakes));
        fields.close(mistakes);
        Some(Self {
            status: status?,
            header: header?,
            body: body.map_or(Some(None), |read| read.map(Some))?,
            body_regex: body_regex.map_or(Some(None), |read| read.map(Some))?,
            json: json?,
        })
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "properties": {
                "status": Statuses::schema(),
                "header": {"type": "object", "additionalProperties": Pattern::schema()},
                "body": String::schema(),
                "body_regex": Pattern::schema(),
                "json": Paths::schema(),
            },
            "additionalProperties": false,
        })
    }
}

fn headers(node: &Node, mistakes: &mut Mistakes) -> Option<Vec<(HeaderName, Pattern)>> {
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
    read.into_iter().collect()
}

impl Expect {
    /// One of these statuses, and anything else.
    pub(super) fn statuses(words: &[&str]) -> Self {
        let status = words.iter().filter_map(|word| Statuses::parse(word)).collect();
        Self { status, header: Vec::new(), body: None, body_regex: None, json: Paths::default() }
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
        self.header.iter().find_map(|(name, pattern)| {
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
