//! What an answer must be: what several kinds expect alike.

use std::cmp::Ordering;

use regex::bytes::Regex;
use serde_json::{Value as Json, json};
use serde_json_path::JsonPath;

use super::{Trace, beginning, read_text};
use crate::base::{Bytes, Percent, unit};
use crate::file::{Fields, Mistakes, Node, Read, Value, no_pattern};

/// So much of an answer is kept to be judged.
pub(super) const KEPT: usize = 1024 * 1024;

crate::kind! {
    /// What an answer must be. All of it must hold.
    pub struct Expect("expect") {
        /// The whole answer.
        is: String = optional,
        /// What the answer contains.
        contains: String = optional,
        /// A regular expression that is found in the answer.
        regex: Pattern = optional,
        /// The answer is JSON: paths (RFC 9535) and values. A path must find something, and all it finds must equal
        /// the value.
        json: Paths = "{}",
        /// The answer is a number above this.
        above: Number = optional,
        /// The answer is a number below this.
        below: Number = optional,
    }
}

crate::table!(Expect, "`expect`");

impl Expect {
    /// What is wrong with an answer; a number is noted as the figure of the look.
    pub(super) fn wrong(&self, called: &str, answer: &[u8], trace: &mut Trace) -> Option<String> {
        trace.note("answer", || beginning(answer));
        trace.answered(answer);
        let text = String::from_utf8_lossy(answer);
        if let Some(wanted) = self.is.as_ref().filter(|wanted| *wanted != text.as_ref()) {
            return Some(match answer {
                [] => format!("{called} is empty, expected `{wanted}`"),
                _ => format!("{called} is `{}`, expected `{wanted}`", beginning(answer)),
            });
        }
        let content =
            Content { contains: self.contains.as_deref(), regex: self.regex.as_ref(), json: &self.json };
        content.wrong(called, answer, answer.len() <= KEPT).or_else(|| {
            let bounds = Bounds { above: self.above.as_ref(), below: self.below.as_ref() };
            match text.trim().parse::<f64>() {
                Ok(figure) => bounds.wrong(called, figure, trace),
                Err(_) if bounds.any() => Some(format!("{called} is no number: `{}`", beginning(answer))),
                Err(_) => None,
            }
        })
    }
}

/// What a text must hold.
pub(super) struct Content<'a> {
    pub contains: Option<&'a str>,
    pub regex: Option<&'a Pattern>,
    pub json: &'a Paths,
}

impl Content<'_> {
    /// Whether anything is asked of it.
    pub(super) fn any(&self) -> bool {
        self.contains.is_some() || self.regex.is_some() || !self.json.0.is_empty()
    }

    /// What is wrong with a text, of which at most [`KEPT`] bytes were kept.
    pub(super) fn wrong(&self, called: &str, kept: &[u8], whole: bool) -> Option<String> {
        let text = String::from_utf8_lossy(kept);
        let lacks = |how: &str, wanted: &str| {
            Some(match (kept.is_empty(), whole) {
                (true, _) => format!("{called} is empty, expected `{wanted}`"),
                (_, true) => format!("{called} {how} `{wanted}`; it begins `{}`", beginning(kept)),
                (_, false) => {
                    format!("the first 1 MiB of {called} {how} `{wanted}`; it begins `{}`", beginning(kept))
                }
            })
        };
        if let Some(wanted) = self.contains
            && !text.contains(wanted)
        {
            return lacks("does not contain", wanted);
        }
        if let Some(Pattern(wanted)) = self.regex
            && !wanted.is_match(kept)
        {
            return lacks("does not match", wanted.as_str());
        }
        if self.json.0.is_empty() {
            return None;
        }
        if !whole {
            return Some(format!("{called} is longer than 1 MiB, too long to be read as JSON"));
        }
        if kept.is_empty() {
            return Some(format!("{called} is empty, expected JSON"));
        }
        let Ok(document) = serde_json::from_slice::<Json>(kept) else {
            return Some(format!("{called} is not JSON; it begins `{}`", beginning(kept)));
        };
        self.json.0.iter().find_map(|(path, wanted)| wrong_json(&document, path, wanted))
    }
}

/// Between what a figure must lie.
#[derive(Clone, Copy)]
pub(super) struct Bounds<'a> {
    pub above: Option<&'a Number>,
    pub below: Option<&'a Number>,
}

impl Bounds<'_> {
    /// Whether anything is asked of it.
    pub(super) fn any(&self) -> bool {
        self.above.is_some() || self.below.is_some()
    }

    /// What is wrong with a figure, which is noted. The sentence is without it: it differs each time.
    pub(super) fn wrong(&self, called: &str, figure: f64, trace: &mut Trace) -> Option<String> {
        trace.measure("figure", figure, || format!("{called} is {figure}"));
        let above = self.above.filter(|bound| figure.partial_cmp(&bound.value) != Some(Ordering::Greater));
        let below = self.below.filter(|bound| figure.partial_cmp(&bound.value) != Some(Ordering::Less));
        let wrong = above.map(|bound| ("above", bound)).or_else(|| below.map(|bound| ("below", bound)));
        wrong.map(|(side, bound)| format!("{called} is not {side} {}", bound.said))
    }
}

/// A number, bare or with its unit: durations count in seconds, sizes in bytes, percentages as shares of 1.
#[derive(Debug, Clone)]
pub struct Number {
    /// What it is.
    pub value: f64,
    /// As it was written.
    pub said: String,
}

impl Read for Number {
    const NAME: &'static str = "number";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let bare = |value: f64| Some(Self { value, said: value.to_string() });
        match &node.value {
            Value::Integer(number) => bare(*number as f64),
            Value::Float(number) if number.is_finite() => bare(*number),
            _ => read_text(node, mistakes, |text| {
                let value = (text.parse().ok().filter(|value: &f64| value.is_finite()))
                    .or_else(|| unit::duration(text).ok().map(|duration| duration.as_secs_f64()))
                    .or_else(|| text.parse::<Bytes>().ok().map(|bytes| bytes.0 as f64))
                    .or_else(|| text.parse::<Percent>().ok().map(Percent::share));
                let value = value.ok_or_else(|| {
                    (format!("`{text}` is not a number"), "write it like 0.5, \"80%\", \"2GiB\" or \"5s\"")
                })?;
                Ok(Self { value, said: text.to_owned() })
            }),
        }
    }
    fn schema() -> Json {
        json!({"type": ["number", "string"]})
    }
}

/// Below or above what a quantity must lie: `"below 200ms"`, `"above 1KiB"`.
#[derive(Debug, Clone)]
pub struct Bound<T> {
    /// How what is seen must compare with the limit.
    side: Ordering,
    limit: T,
    /// As it was written.
    said: String,
}

impl<T: PartialOrd> Bound<T> {
    /// What is wrong with what was seen. The sentence is without it: it differs each time.
    pub(super) fn wrong(&self, called: &str, seen: &T) -> Option<String> {
        let holds = seen.partial_cmp(&self.limit) == Some(self.side);
        (!holds).then(|| format!("{called} is not {}", self.said))
    }
}

impl<T: Read> Read for Bound<T> {
    const NAME: &'static str = "bound";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let text = String::read(node, mistakes)?;
        let (side, limit) = match text.split_once(' ') {
            Some(("below", limit)) => (Ordering::Less, limit),
            Some(("above", limit)) => (Ordering::Greater, limit),
            _ => {
                let remedy = "write \"below\" or \"above\", a space, and the limit";
                mistakes.error(node.place, format!("`{text}` is not a bound"), remedy);
                return None;
            }
        };
        let limit = T::read(&Node { place: node.place, value: Value::Text(limit.to_owned()) }, mistakes)?;
        Some(Self { side, limit, said: text })
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^(below|above) .+$"})
    }
}

/// JSON paths, and what each must find.
#[derive(Debug, Clone, Default)]
pub struct Paths(Vec<(JsonPath, Json)>);

impl Read for Paths {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
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
        read.into_iter().collect::<Option<_>>().map(Self)
    }
    fn schema() -> Json {
        json!({"type": "object"})
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

impl Pattern {
    /// One that finds a text.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        Regex::new(&regex::escape(text)).ok().map(Self)
    }

    /// Whether it is found in a text.
    pub(super) fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }

    /// What its first group, or all of it, has found in a text.
    pub(super) fn group(&self, text: &[u8]) -> Option<String> {
        let found = self.0.captures(text)?;
        let group = found.get(1).or_else(|| found.get(0))?;
        Some(String::from_utf8_lossy(group.as_bytes()).into_owned())
    }

    /// Where the first match in a text ends.
    pub(super) fn end_of_match(&self, text: &[u8]) -> Option<usize> {
        self.0.find(text).map(|found| found.end())
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Read for Pattern {
    const NAME: &'static str = "regular expression";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| {
            let wrong = |why: regex::Error| {
                (
                    format!("`{text}` is not a regular expression: {}", no_pattern(&why)),
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

    fn wrong(expect: &str, answer: &str) -> Option<String> {
        let mut trace = Trace::new(true);
        crate::file::default_value::<Expect>(expect).unwrap().wrong("it", answer.as_bytes(), &mut trace)
    }

    #[test]
    fn an_answer_is_judged_and_what_is_wrong_is_told() {
        for (expect, answer) in [
            ("{}", "anything"),
            ("{ is = '' }", ""),
            ("{ contains = 'b', regex = '^a' }", "abc"),
            ("{ json = { '$.a' = 1 }, contains = 'a' }", "{\"a\": 1.0}"),
            ("{ above = 5, below = '1KiB' }", " 6\n"),
            ("{ below = '80%' }", "0.79"),
        ] {
            assert_eq!(wrong(expect, answer), None, "{expect}");
        }
        for (expect, answer, why) in [
            ("{ is = 'a' }", "ab", "it is `ab`, expected `a`"),
            ("{ is = 'a' }", "", "it is empty, expected `a`"),
            ("{ contains = 'x' }", "ab", "it does not contain `x`; it begins `ab`"),
            ("{ above = 5 }", "5", "it is not above 5"),
            ("{ below = '80%' }", "0.8", "it is not below 80%"),
            ("{ below = 5 }", "NaN", "it is not below 5"),
            ("{ below = 5 }", "many", "it is no number: `many`"),
        ] {
            assert_eq!(wrong(expect, answer).as_deref(), Some(why));
        }
    }
}
