//! A TOML document whose every key and value remembers its place.

use std::fmt::Write as _;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistakes;

/// A stretch of one source, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    source: usize,
    /// The first byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// The files an experiment was read from: itself and what it includes.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    files: Vec<(String, String)>,
}

impl Sources {
    /// Reads one file's text into nodes; syntax errors are collected, and what could be read is
    /// returned all the same.
    pub fn parse(&mut self, path: &str, text: &str, mistakes: &mut Mistakes) -> Node {
        let source = self.files.len();
        self.files.push((path.to_owned(), text.to_owned()));
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let place = Place { source, start: span.start, end: span.end };
            mistakes.error(place, format!("this is not TOML: {}", error.message().trim()), "");
        }
        let span = document.span();
        let place = Place { source, start: span.start, end: span.end };
        Node { place, value: table(source, document.into_inner()) }
    }

    /// The path and the text of the file a place is in.
    #[must_use]
    pub fn get(&self, place: Place) -> (&str, &str) {
        self.files.get(place.source).map_or(("", ""), |(path, text)| (path, text))
    }

    /// The path of the file that was asked for; `None` when it could not be read.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.files.first().map(|(path, _)| path.as_str())
    }

    /// `file:line` of a place.
    #[must_use]
    pub fn line(&self, place: Place) -> String {
        let (path, text) = self.get(place);
        let line = text.as_bytes().iter().take(place.start).filter(|byte| **byte == b'\n').count() + 1;
        format!("{path}:{line}")
    }

    /// The text of all files, in the order read: what the audit line hashes.
    #[must_use]
    pub fn text(&self) -> String {
        self.files.iter().fold(String::new(), |mut all, (path, text)| {
            let _ = writeln!(all, "# {path}\n{text}");
            all
        })
    }
}

/// A key and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// The key's text.
    pub text: String,
    /// Where it stands.
    pub place: Place,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string.
    Text(String),
    /// An integer that fits 64 bits.
    Integer(i64),
    /// A float, or an integer too large for 64 bits.
    Float(f64),
    /// true or false.
    Boolean(bool),
    /// A date or time: no field takes one, but messages name it.
    Date(String),
    /// An array.
    Array(Vec<Node>),
    /// A table, in the order of the file.
    Table(Vec<(Key, Node)>),
}

impl Value {
    /// What it is called in messages.
    #[must_use]
    pub fn called(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Date(_) => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// Calls `change` on every string below, with its place; how variables are filled in.
    pub fn each_text(&mut self, change: &mut impl FnMut(Place, &mut String)) {
        match &mut self.value {
            Value::Text(text) => change(self.place, text),
            Value::Array(nodes) => nodes.iter_mut().for_each(|node| node.each_text(change)),
            Value::Table(entries) => entries.iter_mut().for_each(|(_, node)| node.each_text(change)),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Date(_) => {}
        }
    }
}

fn table(source: usize, entries: DeTable<'_>) -> Value {
    let mut entries: Vec<(Key, Node)> = entries
        .into_iter()
        .map(|(key, value)| {
            let span = key.span();
            let key = Key {
                text: key.into_inner().into_owned(),
                place: Place { source, start: span.start, end: span.end },
            };
            (key, node(source, value))
        })
        .collect();
    entries.sort_by_key(|(key, _)| key.place);
    Value::Table(entries)
}

fn node(source: usize, value: Spanned<DeValue<'_>>) -> Node {
    let span = value.span();
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Float(f64::INFINITY),
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(boolean),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(values) => Value::Array(values.into_iter().map(|value| node(source, value)).collect()),
        DeValue::Table(entries) => table(source, entries),
    };
    Node { place: Place { source, start: span.start, end: span.end }, value }
}
