//! Taking typed values out of a table, collecting what is wrong instead of stopping.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::mistake::Mistakes;
use super::node::{Key, Node, Place, Value};
use crate::base::{Bitrate, Bytes, Percent, Rate, Throughput, unit};

/// A type that can stand as a value in a file.
pub trait Read: Sized {
    /// What it is called in messages and in the docs, for example `duration`.
    const NAME: &'static str;

    /// Reads it; on a mistake says so and returns `None`.
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self>;

    /// Its JSON Schema, for editors.
    #[must_use]
    fn schema() -> Json;
}

/// What the docs say about one field of a kind.
#[derive(Debug, Clone)]
pub struct FieldDoc {
    /// Its key.
    pub name: &'static str,
    /// What it is called: `duration`, `size`, ...
    pub type_name: &'static str,
    /// Whether it must be there.
    pub required: bool,
    /// Its default as one would write it; empty when there is none.
    pub default: &'static str,
    /// Its meaning.
    pub doc: &'static str,
    /// Its JSON Schema.
    pub schema: Json,
}

impl FieldDoc {
    /// Its meaning as one paragraph.
    #[must_use]
    pub fn meaning(&self) -> String {
        prose(self.doc)
    }

    /// Its type and whether it must be there, or what stands in for it: `duration, default "1s"`.
    #[must_use]
    pub fn need(&self) -> String {
        let need = match (self.required, self.default) {
            (true, _) => "required".to_owned(),
            (false, "" | "{}" | "[]") => "optional".to_owned(),
            // A default is declared as TOML, or as the bare text of a string.
            (false, default) => match super::default_value::<Json>(default) {
                Some(Json::String(text)) => format!("default {}", json!(text)),
                _ => format!("default {default}"),
            },
        };
        format!("{}, {need}", self.type_name)
    }
}

/// A doc comment as its paragraphs, each on one line.
#[must_use]
pub fn paragraphs(doc: &str) -> Vec<String> {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    lines
        .split(|line| line.is_empty())
        .map(|lines| prose(&lines.join(" ")))
        .filter(|p| !p.is_empty())
        .collect()
}

/// A value with its place, for what is judged together with other values later. `None` when it was
/// wrong: that has been said, and the rest of the file can still be looked through.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub value: Option<T>,
}

impl<T: Read> Read for Placed<T> {
    const NAME: &'static str = T::NAME;
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        Some(Self { place: node.place, value: T::read(node, mistakes) })
    }
    fn schema() -> Json {
        T::schema()
    }
}

/// A field's word as it stands in a file: without the `r#` that Rust wants before its own words.
#[must_use]
pub fn plain(word: &'static str) -> &'static str {
    word.strip_prefix("r#").unwrap_or(word)
}

/// The JSON Schema of a table with these fields and no others; `about` says what it is.
#[must_use]
pub fn object_schema(about: &str, fields: &[FieldDoc]) -> Json {
    let properties: serde_json::Map<String, Json> = fields
        .iter()
        .map(|field| {
            let mut schema = field.schema.clone();
            if let Json::Object(schema) = &mut schema {
                schema.insert("description".to_owned(), json!(prose(field.doc)));
                if !field.default.is_empty() {
                    schema.insert("default".to_owned(), written(field.default));
                }
            }
            (field.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    json!({
        "description": prose(about), "type": "object",
        "properties": properties, "required": required, "additionalProperties": false,
    })
}

/// Doc comments as one paragraph.
fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A default as a JSON value.
fn written(default: &str) -> Json {
    super::default_value::<Json>(default).unwrap_or_else(|| json!(default))
}

/// The entries of one table while they are taken out.
#[derive(Debug)]
pub struct Fields<'a> {
    place: Place,
    left: Vec<(&'a Key, &'a Node)>,
    known: Vec<&'static str>,
    called: String,
}

impl<'a> Fields<'a> {
    /// Opens a table. `called` names it in messages: `[fault.slow.latency]`. When the node is no table,
    /// that is a mistake and there are no fields.
    pub fn open(node: &'a Node, called: impl Into<String>, mistakes: &mut Mistakes) -> Option<Self> {
        let called = called.into();
        if let Value::Table(entries) = &node.value {
            let left = entries.iter().map(|(key, node)| (key, node)).collect();
            return Some(Self { place: node.place, left, known: Vec::new(), called });
        }
        mistakes.error(node.place, format!("{called} must be a table, not {}", node.value.called()), "");
        None
    }

    /// Where the table stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Takes out a node as it is.
    pub fn node(&mut self, name: &'static str) -> Option<(&'a Key, &'a Node)> {
        self.known.push(name);
        let found = self.left.iter().position(|(key, _)| key.text == name)?;
        Some(self.left.remove(found))
    }

    /// Takes out all that is left: for tables whose keys are people's own names.
    pub fn rest(&mut self) -> Vec<(&'a Key, &'a Node)> {
        std::mem::take(&mut self.left)
    }

    /// Takes out a value that may be missing.
    pub fn optional<T: Read>(&mut self, name: &'static str, mistakes: &mut Mistakes) -> Option<T> {
        self.node(name).and_then(|(_, node)| T::read(node, mistakes))
    }

    /// Takes out a value that must be there.
    pub fn required<T: Read>(&mut self, name: &'static str, mistakes: &mut Mistakes) -> Option<T> {
        if let Some((_, node)) = self.node(name) {
            return T::read(node, mistakes);
        }
        mistakes.error(
            self.place,
            format!("{} lacks `{name}`", self.called),
            format!("add `{name} = ...` ({} {})", article(T::NAME), T::NAME),
        );
        None
    }

    /// Closes the table: what was not taken out is unknown, with the nearest known word.
    pub fn close(self, mistakes: &mut Mistakes) {
        for (key, _) in &self.left {
            let remedy = nearest(&key.text, self.known.iter().copied()).map_or_else(
                || format!("known here: {}", self.known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            mistakes.error(key.place, format!("{} has no field `{}`", self.called, key.text), remedy);
        }
    }
}

/// The known word a person probably meant, if one is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Reads one word out of a few, each with what it means.
pub fn word<T: Copy>(node: &Node, mistakes: &mut Mistakes, words: &[(&str, T)]) -> Option<T> {
    let known = || words.iter().map(|(word, _)| *word);
    let said = if let Value::Text(text) = &node.value { text.as_str() } else { "" };
    if let Some((_, meant)) = words.iter().find(|(word, _)| *word == said) {
        return Some(*meant);
    }
    let remedy = nearest(said, known()).map_or_else(
        || format!("use one of: {}", known().collect::<Vec<_>>().join(", ")),
        |near| format!("did you mean `{near}`?"),
    );
    mistakes.error(node.place, format!("`{said}` is not known here"), remedy);
    None
}

/// Reads a value that is written as text, where the text may be wrong: what is wrong, and the remedy.
pub fn read_text<T, R: Into<String>>(
    node: &Node,
    mistakes: &mut Mistakes,
    parse: impl FnOnce(&str) -> Result<T, (String, R)>,
) -> Option<T> {
    let text = String::read(node, mistakes)?;
    parse(&text).map_err(|(what, remedy)| mistakes.error(node.place, what, remedy)).ok()
}

/// Why a text is no regular expression: the library draws a picture of several lines, whose last one says it.
#[must_use]
pub fn no_pattern(why: &regex::Error) -> String {
    let why = why.to_string();
    why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

/// Reads one value, or a list of them that is not empty.
pub fn some<T: Read>(node: &Node, mistakes: &mut Mistakes) -> Option<Vec<T>> {
    let nodes = match &node.value {
        Value::Array(nodes) => nodes.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        mistakes.error(node.place, "the list is empty", "leave it out, or name some");
    }
    // Each is read, so that all mistakes are told.
    let read: Vec<Option<T>> = nodes.iter().map(|one| T::read(one, mistakes)).collect();
    read.into_iter().collect::<Option<Vec<_>>>().filter(|read| !read.is_empty())
}

/// The schema of what [`some`] reads.
#[must_use]
pub fn some_schema<T: Read>() -> Json {
    json!({"anyOf": [T::schema(), {"type": "array", "items": T::schema(), "minItems": 1}]})
}

/// `a` or `an`, whichever stands before a word.
fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" }
}

fn expected<T: Read>(node: &Node, mistakes: &mut Mistakes) -> Option<T> {
    mistakes.error(node.place, format!("expected a {}, found {}", T::NAME, node.value.called()), "");
    None
}

/// Reads a quantity that is written as text.
fn quantity<T: Read, E: std::fmt::Display>(
    node: &Node,
    mistakes: &mut Mistakes,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Option<T> {
    match &node.value {
        Value::Text(text) => parse(text).map_err(|why| mistakes.error(node.place, why.to_string(), "")).ok(),
        Value::Integer(_) | Value::Float(_) => {
            mistakes.error(
                node.place,
                format!("a {} needs its unit in the value", T::NAME),
                "write it as a string with its unit, such as \"200ms\", \"30%\", \"2GiB\" or \"500/s\"",
            );
            None
        }
        _ => expected(node, mistakes),
    }
}

macro_rules! quantities {
    ($($type:ty, $name:literal, $parse:expr, $pattern:literal;)*) => {$(
        impl Read for $type {
            const NAME: &'static str = $name;
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                quantity(node, mistakes, $parse)
            }
            fn schema() -> Json {
                json!({"type": "string", "pattern": $pattern})
            }
        }
    )*};
}

quantities! {
    Duration, "duration", unit::duration, r"^\s*([0-9.]+\s*(ns|us|µs|ms|s|m|min|h|d)\s*)+$";
    Bitrate, "bit rate", str::parse::<Bitrate>, r"^\s*[0-9.]+\s*([kKMG]?bit|[kKMG]?B|[KMG]iB)/s\s*$";
    Bytes, "size", str::parse::<Bytes>, r"^\s*[0-9.]+\s*([kKMGT]B|[KMGT]iB|B)\s*$";
    Percent, "percentage", str::parse::<Percent>, r"^\s*[0-9.]+\s*%\s*$";
    Rate, "rate", str::parse::<Rate>, r"^\s*[0-9.]+\s*/(s|m|min|h)\s*$";
    Throughput, "throughput", str::parse::<Throughput>, r"^\s*[0-9.]+\s*([kKMGT]B|[KMGT]iB|B)/s\s*$";
}

impl Read for String {
    const NAME: &'static str = "string";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            _ => expected(node, mistakes),
        }
    }
    fn schema() -> Json {
        json!({"type": "string"})
    }
}

impl Read for PathBuf {
    const NAME: &'static str = "path";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(text) if !text.is_empty() && !text.contains('\0') => Some(Self::from(text)),
            Value::Text(_) => {
                mistakes.error(node.place, "a path cannot be empty or hold a NUL", "");
                None
            }
            _ => expected(node, mistakes),
        }
    }
    fn schema() -> Json {
        json!({"type": "string"})
    }
}

impl Read for bool {
    const NAME: &'static str = "true or false";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match node.value {
            Value::Boolean(boolean) => Some(boolean),
            _ => expected(node, mistakes),
        }
    }
    fn schema() -> Json {
        json!({"type": "boolean"})
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Read for $type {
            const NAME: &'static str = "whole number";
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                let Value::Integer(number) = node.value else { return expected(node, mistakes) };
                Self::try_from(number).map_err(|_| {
                    let (low, high) = (<$type>::MIN, <$type>::MAX);
                    mistakes.error(node.place, format!("{number} is out of range"), format!("use {low} to {high}"));
                }).ok()
            }
            fn schema() -> Json {
                json!({"type": "integer", "minimum": <$type>::MIN})
            }
        }
    )*};
}

integers!(u16, u32, u64);

impl<T: Read> Read for Vec<T> {
    const NAME: &'static str = "list";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::Array(nodes) = &node.value else { return expected(node, mistakes) };
        // Every element is read, so that all their mistakes are told.
        let read: Vec<Option<T>> = nodes.iter().map(|node| T::read(node, mistakes)).collect();
        read.into_iter().collect()
    }
    fn schema() -> Json {
        json!({"type": "array", "items": T::schema()})
    }
}

impl<T: Read> Read for BTreeMap<String, T> {
    const NAME: &'static str = "table";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::Table(entries) = &node.value else { return expected(node, mistakes) };
        let read: Vec<Option<(String, T)>> = entries
            .iter()
            .map(|(key, node)| T::read(node, mistakes).map(|value| (key.text.clone(), value)))
            .collect();
        read.into_iter().collect()
    }
    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

impl Read for Json {
    const NAME: &'static str = "value";
    fn read(node: &Node, _: &mut Mistakes) -> Option<Self> {
        Some(bare(node))
    }
    fn schema() -> Json {
        json!(true)
    }
}

/// A node without its places.
fn bare(node: &Node) -> Json {
    match &node.value {
        Value::Text(text) | Value::Date(text) => json!(text),
        Value::Integer(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(boolean) => json!(boolean),
        Value::Array(nodes) => Json::Array(nodes.iter().map(bare).collect()),
        Value::Table(entries) => {
            Json::Object(entries.iter().map(|(key, node)| (key.text.clone(), bare(node))).collect())
        }
    }
}
