//! What an answer must be.

use std::fmt::Write as _;

use hyper::header::{HeaderMap, HeaderName};
use regex::Regex;
use serde_json::{Value as Json, json};
use serde_json_path::JsonPath;

use crate::file::{Fields, Mistakes, Node, Read, Value, read_text};
use crate::probe::beginning;

/// So much of a body is kept to be judged.
pub(super) const KEPT: usize = 1024 * 1024;

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
    pub json: Vec<(JsonPath, Json)>,
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
        let json = fields.node("json").map_or(Some(Vec::new()), |(_, node)| paths(node, mistakes));
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
                "json": {"type": "object"},
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

fn paths(node: &Node, mistakes: &mut Mistakes) -> Option<Vec<(JsonPath, Json)>> {
    let read: Vec<_> = Fields::open(node, "`expect.json`", mistakes)?
        .rest()
        .into_iter()
        .map(|(key, node)| match JsonPath::parse(&key.text) {
            Ok(path) => Some((path, Json::read(node, mistakes)?)),
            Err(why) => {
                mistakes.error(
                    key.place,
                    format!("`{}` is not a JSON path: {}", key.text, why.message()),
                    "write it like \"$.items[0].ok\" (RFC 9535)",
                );
                None
            }
        })
        .collect();
    read.into_iter().collect()
}

impl Expect {
    /// Whether the body must be kept to be judged.
    pub(super) fn reads_body(&self) -> bool {
        self.body.is_some() || self.body_regex.is_some() || !self.json.is_empty()
    }

    /// What is wrong with the head of an answer.
    pub(super) fn wrong_head(&self, status: u16, headers: &HeaderMap) -> Option<String> {
        if !self.status.hold(status) {
            return Some(format!("status {status}, expected {}", self.status.said()));
        }
        self.header.iter().find_map(|(name, pattern)| {
            let mut values = headers.get_all(name).iter().peekable();
            let Some(first) = values.peek() else {
                return Some(format!("there is no header {name}, expected `{}`", pattern.0));
            };
            let first = beginning(first.as_bytes());
            let fits = values.any(|value| pattern.0.is_match(&String::from_utf8_lossy(value.as_bytes())));
            (!fits).then(|| format!("header {name} is `{first}`, expected `{}`", pattern.0))
        })
    }

    /// What is wrong with a body, of which at most [`KEPT`] bytes were kept.
    pub(super) fn wrong_body(&self, kept: &[u8], whole: bool) -> Option<String> {
        let text = String::from_utf8_lossy(kept);
        let lacks = |how: &str, wanted: &str| {
            Some(match (kept.is_empty(), whole) {
                (true, _) => format!("the body is empty, expected `{wanted}`"),
                (_, true) => format!("the body {how} `{wanted}`; it begins `{}`", beginning(kept)),
                (_, false) => {
                    format!("the first 1 MiB of the body {how} `{wanted}`; it begins `{}`", beginning(kept))
                }
            })
        };
        if let Some(wanted) = &self.body
            && !text.contains(wanted)
        {
            return lacks("does not contain", wanted);
        }
        if let Some(Pattern(wanted)) = &self.body_regex
            && !wanted.is_match(&text)
        {
            return lacks("does not match", wanted.as_str());
        }
        if self.json.is_empty() {
            return None;
        }
        if !whole {
            return Some("the body is longer than 1 MiB, too long to be read as JSON".to_owned());
        }
        let Ok(document) = serde_json::from_slice::<Json>(kept) else {
            return Some(format!("the body is not JSON; it begins `{}`", beginning(kept)));
        };
        self.json.iter().find_map(|(path, wanted)| wrong_json(&document, path, wanted))
    }
}

/// A path must find something, and all it finds must be as wanted.
fn wrong_json(document: &Json, path: &JsonPath, wanted: &Json) -> Option<String> {
    let found = path.query(document).all();
    if found.is_empty() {
        return Some(format!("`{path}` is not in the answer, expected `{wanted}`"));
    }
    let other = found.into_iter().find(|found| !equal(found, wanted))?;
    Some(format!("`{path}` is `{}`, expected `{wanted}`", beginning(other.to_string().as_bytes())))
}

/// Equal as JSON: `1` and `1.0` are one number (RFC 8259, section 6), and the order of keys says nothing.
fn equal(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| equal(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| equal(one, other)))
        }
        _ => one == other,
    }
}

/// A regular expression, searched for anywhere. A plain value without special characters is one, too.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Read for Pattern {
    const NAME: &'static str = "regular expression";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| {
            // The library draws a picture of several lines; its last one says what is wrong.
            let wrong = |why: regex::Error| {
                let why = why.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                (
                    format!("`{text}` is not a regular expression: {why}"),
                    "write \\\\ before a special character",
                )
            };
            Regex::new(text).map(Self).map_err(wrong)
        })
    }
    fn schema() -> Json {
        json!({"type": "string", "format": "regex"})
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

    fn equal_texts(one: &str, other: &str) -> bool {
        equal(&serde_json::from_str(one).unwrap(), &serde_json::from_str(other).unwrap())
    }

    #[test]
    fn json_is_compared_as_json() {
        for (one, other, same) in [
            ("1", "1.0", true),
            ("[1, {\"a\": 2, \"b\": 3}]", "[1.0, {\"b\": 3.0, \"a\": 2}]", true),
            ("9007199254740993", "9007199254740993", true),
            ("1", "\"1\"", false),
            ("null", "false", false),
            ("[1]", "[1, 2]", false),
            ("{\"a\": 1}", "{\"b\": 1}", false),
        ] {
            assert_eq!(equal_texts(one, other), same, "{one} {other}");
        }
    }

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
