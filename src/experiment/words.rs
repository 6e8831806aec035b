//! The small languages inside values: moments, budgets, percentiles, restarts, and words of a closed list.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::model::{Budget, Once};
use super::window::Window;
use crate::base::{Percent, unit};
use crate::file::{Mistakes, Node, Read, Value, nearest, read_text};
use crate::host::container::Which;
use crate::host::target::{Netns, Pick};
use crate::slo::Proof;

/// Reads a value that is one of a few words.
macro_rules! words {
    ($type:ty, $name:literal: $($word:literal => $value:expr),+) => {
        impl Read for $type {
            const NAME: &'static str = $name;

            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                match &node.value {
                    $(Value::Text(text) if text == $word => Some($value),)+
                    other => {
                        let known = [$($word),+];
                        let (found, near) = match other {
                            Value::Text(text) => (format!("`{text}`"), nearest(text, known.into_iter())),
                            other => (other.called().to_owned(), None),
                        };
                        let remedy = near.map_or_else(
                            || format!("one of {}", known.map(|word| format!("\"{word}\"")).join(", ")),
                            |near| format!("did you mean \"{near}\"?"),
                        );
                        mistakes.error(node.place, format!("{found} is no {}", $name), remedy);
                        None
                    }
                }
            }

            fn schema() -> Json {
                json!({"type": "string", "enum": [$($word),+]})
            }
        }
    };
}

/// How a container is named.
pub(super) const CONTAINER: &str = "a name, the beginning of an id, or \"label KEY=VALUE\"";
/// How a network namespace is named.
pub(super) const NETNS: &str = "a name in /run/netns, a path such as /proc/PID/ns/net, or \"container:NAME\"";

impl Read for Which {
    const NAME: &'static str = "container";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| Self::parse(text).map_err(|why| (why, CONTAINER)))
    }

    fn schema() -> Json {
        String::schema()
    }
}

impl Read for Netns {
    const NAME: &'static str = "network namespace";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, |text| Self::parse(text).map_err(|why| (why, NETNS)))
    }

    fn schema() -> Json {
        String::schema()
    }
}

/// What a probe is for, when it is not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Recorded, and judged by expectations alone.
    Observe,
}

/// How looks lie between one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// On a grid.
    Even,
    /// Independently of one another.
    Poisson,
}

/// What an expectation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// A good look.
    Good,
    /// A bad look.
    Bad,
    /// What a fault hit is there again.
    Back,
}

words!(Once, "time for a check": "before" => Self::Before, "after" => Self::After);
words!(Arrivals, "way to arrive": "even" => Self::Even, "poisson" => Self::Poisson);
words!(Role, "role": "observe" => Self::Observe);
words!(Is, "outcome": "good" => Self::Good, "bad" => Self::Bad, "back" => Self::Back);
words!(Proof, "proof": "observed" => Self::Observed, "likely" => Self::Likely, "proven" => Self::Proven);

/// Reads a value that is text in a language of its own; `None` from `parse` is a mistake with the remedy.
fn text<T>(
    node: &Node,
    mistakes: &mut Mistakes,
    called: &str,
    remedy: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<T> {
    let Value::Text(text) = &node.value else {
        mistakes.error(node.place, format!("a {called} is a string, not {}", node.value.called()), remedy);
        return None;
    };
    match parse(text.trim()) {
        Ok(value) => Some(value),
        Err(why) => {
            let why = if why.is_empty() { why } else { format!(": {why}") };
            mistakes.error(node.place, format!("`{text}` is no {called}{why}"), remedy);
            None
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    unit::duration(text.trim()).map_err(|why| why.to_string())
}

/// A moment of the timeline, before names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// After t = 0.
    Zero(Duration),
    /// After a fault's verified effect.
    Begin(String, Duration),
    /// After a fault's verified undo.
    End(String, Duration),
    /// When a person says so.
    Operator,
}

impl When {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "operator" {
            return Ok(Self::Operator);
        }
        if text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
            return duration(text).map(Self::Zero);
        }
        let (anchor, later) = match text.split_once('+') {
            Some((anchor, later)) => (anchor.trim_end(), duration(later)?),
            None => (text, Duration::ZERO),
        };
        match anchor.rsplit_once('.') {
            Some((fault, "begin")) if super::draft::is_name(fault) => {
                Ok(Self::Begin(fault.to_owned(), later))
            }
            Some((fault, "end")) if super::draft::is_name(fault) => Ok(Self::End(fault.to_owned(), later)),
            _ => Err(String::new()),
        }
    }
}

impl Read for When {
    const NAME: &'static str = "moment";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let remedy = "such as \"10s\", \"FAULT.begin + 2s\", \"FAULT.end + 5s\" or \"operator\"";
        text(node, mistakes, Self::NAME, remedy, Self::parse)
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^\s*(operator|[0-9].*|.+\.(begin|end)(\s*\+.*)?)\s*$"})
    }
}

impl Read for Budget {
    const NAME: &'static str = "budget";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let remedy =
            "bad seconds \"20s\", bad looks \"30 looks\", or a share of a period's budget \"2% of 30d\"";
        text(node, mistakes, Self::NAME, remedy, |text| {
            let budget = if let Some((share, period)) = text.split_once(" of ") {
                let share: Percent = share.trim().parse().map_err(|why| format!("{why}"))?;
                Self::Share(share.share(), duration(period)?)
            } else if let Some(looks) = text.strip_suffix("looks").or_else(|| text.strip_suffix("look")) {
                Self::Looks(looks.trim().parse().map_err(|_| "the number of looks is not a whole number")?)
            } else {
                Self::Seconds(duration(text)?.as_secs_f64())
            };
            let nothing = match budget {
                Self::Seconds(seconds) => seconds <= 0.0,
                Self::Looks(looks) => looks == 0,
                Self::Share(share, period) => share <= 0.0 || period.is_zero(),
            };
            if nothing { Err("the first bad look would stop the run".to_owned()) } else { Ok(budget) }
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^\s*[0-9.]+\s*(looks?|%\s+of\s+.+|ns|us|µs|ms|s|m|min|h|d)[0-9a-zµ. ]*$"})
    }
}

/// The share of looks below a percentile's threshold: `p95` is 0.95.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentile(pub f64);

impl Read for Percentile {
    const NAME: &'static str = "percentile";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        text(
            node,
            mistakes,
            Self::NAME,
            "from \"p50\" to just below \"p100\", such as \"p95\" or \"p99.9\"",
            |text| {
                let number = text.strip_prefix('p').unwrap_or_default();
                if !number.starts_with(|c: char| c.is_ascii_digit()) {
                    return Err(String::new());
                }
                match number.parse::<f64>() {
                    Ok(percent) if (50.0..100.0).contains(&percent) => Ok(Self(percent / 100.0)),
                    Ok(percent) if (100.0..=100.0).contains(&percent) => {
                        Err("the slowest of all looks is always beaten by a slower one".to_owned())
                    }
                    _ => Err(String::new()),
                }
            },
        )
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^\s*p[5-9][0-9](\.[0-9]+)?\s*$"})
    }
}

/// Whether a service that died is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// It stays dead.
    Never,
    /// So long after it died.
    After(Duration),
}

impl Read for Restart {
    const NAME: &'static str = "restart";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        text(node, mistakes, Self::NAME, "\"never\" or \"after 1s\"", |text| {
            match (text, text.strip_prefix("after ")) {
                ("never", _) => Ok(Self::Never),
                (_, Some(wait)) => duration(wait).map(Self::After),
                _ => Err(String::new()),
            }
        })
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^\s*(never|after\s+[0-9].*)\s*$"})
    }
}

/// A whole number above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Some1(pub u32);

impl Read for Some1 {
    const NAME: &'static str = "whole number above zero";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match u32::read(node, mistakes)? {
            0 => {
                mistakes.error(node.place, "0 is too few", "use 1 or more");
                None
            }
            number => Some(Self(number)),
        }
    }

    fn schema() -> Json {
        json!({"type": "integer", "minimum": 1, "maximum": u32::MAX})
    }
}

/// A TCP or UDP port: a number, or text, so that a variable can stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(pub u16);

impl Read for Port {
    const NAME: &'static str = "port";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let number = match &node.value {
            Value::Integer(number) => u16::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        let port = number.filter(|number| *number > 0).map(Self);
        if port.is_none() {
            mistakes.error(node.place, "this is no port", "a number from 1 to 65535");
        }
        port
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "integer", "minimum": 1, "maximum": u16::MAX},
            {"type": "string", "pattern": "^[0-9]{1,5}$"},
        ]})
    }
}

/// A user id: a number, or text, so that a variable can stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uid(pub u32);

impl Read for Uid {
    const NAME: &'static str = "user id";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let number = match &node.value {
            Value::Integer(number) => u32::try_from(*number).ok(),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        if number.is_none() {
            mistakes.error(node.place, "this is no user id", "a number, as `id -u NAME` prints it");
        }
        number.map(Self)
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            {"type": "string", "pattern": "^[0-9]+$"},
        ]})
    }
}

impl Read for Pick {
    const NAME: &'static str = "pick";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let remedy = "\"all\", \"oldest\", { count = 1 } or { percent = \"30%\" }";
        match &node.value {
            Value::Text(text) if text == "all" => return Some(Self::All),
            Value::Text(text) if text == "oldest" => return Some(Self::Oldest),
            Value::Table(entries) => {
                if let [(key, value)] = entries.as_slice() {
                    match key.text.as_str() {
                        "count" => return Some1::read(value, mistakes).map(|count| Self::Count(count.0)),
                        "percent" => return Percent::read(value, mistakes).map(Self::Share),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        mistakes.error(node.place, "this is no pick", remedy);
        None
    }

    fn schema() -> Json {
        json!({"anyOf": [
            {"type": "string", "enum": ["all", "oldest"]},
            {"type": "object", "properties": {"count": Some1::schema()}, "required": ["count"], "additionalProperties": false},
            {"type": "object", "properties": {"percent": Percent::schema()}, "required": ["percent"], "additionalProperties": false},
        ]})
    }
}

impl Read for Window {
    const NAME: &'static str = "window of time";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let remedy = "such as \"Mon-Thu 10:00-16:00 Europe/Berlin\"";
        text(node, mistakes, Self::NAME, remedy, str::parse)
    }

    fn schema() -> Json {
        json!({"type": "string", "pattern": r"^\s*[A-Za-z,-]+\s+[0-9]{1,2}:[0-9]{2}-[0-9]{1,2}:[0-9]{2}(\s+\S+)?\s*$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_and_without_space() {
        let s = Duration::from_secs;
        for (text, moment) in [
            ("0s", When::Zero(s(0))),
            ("operator", When::Operator),
            ("x.begin", When::Begin("x".to_owned(), s(0))),
            ("x.begin+2s", When::Begin("x".to_owned(), s(2))),
            ("slow-redis.end + 5s", When::End("slow-redis".to_owned(), s(5))),
        ] {
            assert_eq!(When::parse(text), Ok(moment), "{text}");
        }
        for text in ["", "x", "x.middle", ".end", "x.end - 2s", "x.end +", "-1s", "x y.end", "5", "end + 2s"]
        {
            assert!(When::parse(text).is_err(), "{text}");
        }
    }
}
