//! Quantities with their unit in the text: `"200ms"`, `"30%"`, `"2GiB"`, `"500/s"`.
//!
//! Reading is strict: a number without a unit, a negative number or one that does not fit is an
//! error that says what would be accepted.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}{because}")]
pub struct NotAQuantity {
    text: String,
    wanted: &'static str,
    because: &'static str,
}

fn wrong(text: &str, wanted: &'static str, because: &'static str) -> NotAQuantity {
    NotAQuantity { text: text.to_owned(), wanted, because }
}

/// Splits `12.5ms` into 12.5 and `ms`.
fn number_and_unit<'a>(text: &'a str, wanted: &'static str) -> Result<(f64, &'a str), NotAQuantity> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    if trimmed.starts_with('-') {
        return Err(wrong(text, wanted, ": it cannot be negative"));
    }
    let number: f64 =
        trimmed[..end].parse().map_err(|_| wrong(text, wanted, ": it does not begin with a number"))?;
    if !number.is_finite() {
        return Err(wrong(text, wanted, ": the number is too large"));
    }
    Ok((number, trimmed[end..].trim_start()))
}

const A_DURATION: &str = "a duration such as \"200ms\", \"1.5s\", \"2m\" or \"1h30m\"";

/// Reads a duration: `ns`, `us`, `ms`, `s`, `m`, `h`, `d`, also combined as in `1h30m`.
///
/// # Errors
/// When the text has no unit, an unknown one, is negative, or exceeds ten years.
pub fn duration(text: &str) -> Result<Duration, NotAQuantity> {
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong(text, A_DURATION, ": it is empty"));
    }
    while !rest.is_empty() {
        let (number, tail) =
            number_and_unit(rest, A_DURATION).map_err(|e| wrong(text, A_DURATION, e.because))?;
        let end =
            tail.find(|c: char| c.is_ascii_digit() || c == '.' || c.is_whitespace()).unwrap_or(tail.len());
        let seconds = match &tail[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            "" => return Err(wrong(text, A_DURATION, ": the unit is missing")),
            _ => return Err(wrong(text, A_DURATION, ": the unit is unknown")),
        };
        total += number * seconds;
        rest = tail[end..].trim_start();
    }
    if total > 10.0 * 365.0 * 86_400.0 {
        return Err(wrong(text, A_DURATION, ": it exceeds ten years"));
    }
    // Rounded to the nanosecond, so that "0.1s" is exactly 100 ms.
    Ok(Duration::from_nanos((total * 1e9).round() as u64))
}

/// The quantity at a share of the way between two others: durations and sizes in any units, others in the same
/// unit. `None` where there is none.
#[must_use]
pub fn between(from: &str, to: &str, share: f64) -> Option<String> {
    let at = |from: f64, to: f64| from + (to - from) * share;
    if let (Ok(from), Ok(to)) = (duration(from), duration(to)) {
        return Some(format!("{}ns", at(from.as_nanos() as f64, to.as_nanos() as f64).round()));
    }
    if let (Ok(from), Ok(to)) = (from.parse::<Bytes>(), to.parse::<Bytes>()) {
        return Some(format!("{}B", at(from.0 as f64, to.0 as f64).round()));
    }
    let ((from, unit), (to, other)) = (number_and_unit(from, "").ok()?, number_and_unit(to, "").ok()?);
    // What people write has few digits: a sum of binary fractions should not show more.
    (unit == other && !unit.is_empty()).then(|| format!("{}{unit}", (at(from, to) * 1e6).round() / 1e6))
}

/// Writes a duration the way people say it, with at most three significant figures below a minute:
/// `1.25 s`, `200 ms`, `2 m 30 s`.
#[must_use]
pub fn say(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let short = |value: f64, unit: &str| {
        let digits = if value >= 99.95 {
            0
        } else if value >= 9.995 {
            1
        } else {
            2
        };
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text} {unit}")
    };
    if duration.is_zero() {
        "0 s".to_owned()
    } else if seconds < 0.999_5e-3 {
        short(seconds * 1e6, "us")
    } else if seconds < 0.999_5 {
        short(seconds * 1e3, "ms")
    } else if seconds < 59.95 {
        short(seconds, "s")
    } else {
        let whole = seconds.round() as u64;
        let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
        [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
            .iter()
            .filter(|(n, _)| *n > 0)
            .take(2)
            .map(|(n, unit)| format!("{n} {unit}"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// An amount of storage or traffic, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        const WANTED: &str = "a size such as \"512MiB\", \"2GiB\" or \"100kB\"";
        let (number, unit) = number_and_unit(text, WANTED)?;
        let factor: f64 = match unit {
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "TB" => 1e12,
            "KiB" => 1024.0,
            "MiB" => 1_048_576.0,
            "GiB" => 1_073_741_824.0,
            "TiB" => 1_099_511_627_776.0,
            "" => return Err(wrong(text, WANTED, ": the unit is missing")),
            _ => return Err(wrong(text, WANTED, ": the unit is unknown")),
        };
        let bytes = number * factor;
        if bytes > 1e18 {
            return Err(wrong(text, WANTED, ": it exceeds an exabyte"));
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        for (factor, unit) in
            [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")]
        {
            if bytes >= factor {
                let text = format!("{:.1}", bytes / factor);
                return write!(f, "{} {unit}", text.trim_end_matches(".0"));
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// How much a disk reads or writes, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Throughput(pub u64);

impl Throughput {
    /// The mean over a while.
    #[must_use]
    pub fn of(bytes: u64, took: Duration) -> Self {
        Self((bytes as f64 / took.as_secs_f64().max(1e-9)).round() as u64)
    }
}

impl FromStr for Throughput {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        const WANTED: &str = "a throughput such as \"50MiB/s\" or \"500kB/s\"";
        let size =
            text.trim_end().strip_suffix("/s").ok_or_else(|| wrong(text, WANTED, ": `/s` is missing"))?;
        match size.parse::<Bytes>() {
            Ok(Bytes(0)) => Err(wrong(text, WANTED, ": it must be above zero")),
            Ok(Bytes(bytes)) => Ok(Self(bytes)),
            Err(why) => Err(wrong(text, WANTED, why.because)),
        }
    }
}

impl fmt::Display for Throughput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Bytes(self.0))
    }
}

/// A share of a whole: 0 to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Percent(f64);

impl Percent {
    /// From a share between 0 and 1; clamped into it.
    #[must_use]
    pub fn from_share(share: f64) -> Self {
        Self(share.clamp(0.0, 1.0) * 100.0)
    }

    /// The share, between 0 and 1.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }
}

impl FromStr for Percent {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        const WANTED: &str = "a percentage such as \"30%\" or \"99.9%\"";
        match number_and_unit(text, WANTED)? {
            (number, "%") if number <= 100.0 => Ok(Self(number)),
            (_, "%") => Err(wrong(text, WANTED, ": it exceeds 100 %")),
            (_, "") => Err(wrong(text, WANTED, ": the % sign is missing")),
            _ => Err(wrong(text, WANTED, ": the unit is not %")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e6).round() / 1e6)
    }
}

/// How much a line carries.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Bitrate(f64);

impl Bitrate {
    /// Bits a second.
    #[must_use]
    pub fn bits(self) -> f64 {
        self.0
    }

    /// How long so many bytes take; 0 at an infinite rate.
    #[must_use]
    pub fn takes(self, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 * 8.0 / self.0).unwrap_or(Duration::MAX)
    }

    /// The mean over a while.
    #[must_use]
    pub fn of(bytes: u64, took: Duration) -> Self {
        Self(bytes as f64 * 8.0 / took.as_secs_f64().max(1e-9))
    }
}

impl FromStr for Bitrate {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        const WANTED: &str = "a bit rate such as \"10Mbit/s\", \"500kbit/s\" or \"2MB/s\"";
        let (number, unit) = number_and_unit(text, WANTED)?;
        let factor = match unit {
            "bit/s" => 1.0,
            "kbit/s" | "Kbit/s" => 1e3,
            "Mbit/s" => 1e6,
            "Gbit/s" => 1e9,
            "B/s" => 8.0,
            "kB/s" | "KB/s" => 8e3,
            "MB/s" => 8e6,
            "GB/s" => 8e9,
            "KiB/s" => 8.0 * 1024.0,
            "MiB/s" => 8.0 * 1_048_576.0,
            "GiB/s" => 8.0 * 1_073_741_824.0,
            "" => return Err(wrong(text, WANTED, ": the unit is missing")),
            _ => return Err(wrong(text, WANTED, ": the unit is unknown")),
        };
        let bits = number * factor;
        if bits <= 0.0 {
            return Err(wrong(text, WANTED, ": it must be above zero"));
        }
        if bits > 1e15 {
            return Err(wrong(text, WANTED, ": it exceeds a petabit a second"));
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (factor, unit) = match self.0 {
            bits if bits >= 0.999_5e9 => (1e9, "Gbit/s"),
            bits if bits >= 0.999_5e6 => (1e6, "Mbit/s"),
            bits if bits >= 0.999_5e3 => (1e3, "kbit/s"),
            _ => (1.0, "bit/s"),
        };
        let value = self.0 / factor;
        let digits = if value >= 99.95 {
            0
        } else if value >= 9.995 {
            1
        } else {
            2
        };
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        write!(f, "{text} {unit}")
    }
}

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Rate(f64);

impl Rate {
    /// From events a second; `None` unless it is above zero and finite.
    #[must_use]
    pub fn per_second(events: f64) -> Option<Self> {
        (events > 0.0 && events.is_finite()).then_some(Self(events))
    }

    /// Events a second.
    #[must_use]
    pub fn hertz(self) -> f64 {
        self.0
    }

    /// The time between two events.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

impl FromStr for Rate {
    type Err = NotAQuantity;

    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        const WANTED: &str = "a rate such as \"20/s\", \"30/m\" or \"500/h\"";
        let (number, unit) = number_and_unit(text, WANTED)?;
        let seconds = match unit {
            "/s" => 1.0,
            "/m" | "/min" => 60.0,
            "/h" => 3600.0,
            "" => return Err(wrong(text, WANTED, ": the unit is missing")),
            _ => return Err(wrong(text, WANTED, ": the unit is unknown")),
        };
        if number > 1e6 {
            return Err(wrong(text, WANTED, ": it exceeds a million"));
        }
        let hertz = number / seconds;
        if hertz < 1.0 / 86_400.0 {
            return Err(wrong(text, WANTED, ": it must be at least one a day"));
        }
        Ok(Self(hertz))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1.0 {
            write!(f, "{}/s", (self.0 * 1e3).round() / 1e3)
        } else {
            write!(f, "{}/m", (self.0 * 60.0 * 1e3).round() / 1e3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_rates_are_read_and_said() {
        for (text, bits, said) in [
            ("10Mbit/s", 1e7, "10 Mbit/s"),
            ("2MB/s", 1.6e7, "16 Mbit/s"),
            ("1.5 Gbit/s", 1.5e9, "1.5 Gbit/s"),
            ("1KiB/s", 8192.0, "8.19 kbit/s"),
            ("9bit/s", 9.0, "9 bit/s"),
        ] {
            let rate: Bitrate = text.parse().unwrap();
            assert!((rate.bits() - bits).abs() < 1e-6 && rate.to_string() == said, "{text} {rate}");
        }
        for text in ["10", "10Mbit", "10/s", "0bit/s", "-1Mbit/s", "2e9Gbit/s", "9999999Gbit/s"] {
            assert!(text.parse::<Bitrate>().is_err(), "{text}");
        }
        let rate: Bitrate = "8Mbit/s".parse().unwrap();
        assert_eq!(rate.takes(1_000_000), Duration::from_secs(1));
        assert_eq!(Bitrate::of(1_000_000, Duration::from_secs(1)), rate);
    }

    #[test]
    fn throughputs_are_sizes_a_second() {
        for (text, bytes, said) in
            [("50MiB/s", 52_428_800, "50 MiB/s"), ("1.5 kB/s ", 1500, "1.5 KiB/s"), ("9B/s", 9, "9 B/s")]
        {
            let read: Throughput = text.parse().unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (bytes, said), "{text}");
        }
        for text in ["50MiB", "50/s", "50Mbit/s", "0B/s", "-1B/s", "/s", "9999999TB/s"] {
            assert!(text.parse::<Throughput>().is_err(), "{text}");
        }
        assert_eq!(Throughput::of(3000, Duration::from_secs(2)), Throughput(1500));
        assert_eq!(between("10MiB/s", "30MiB/s", 0.5).as_deref(), Some("20MiB/s"));
    }

    #[test]
    fn between_two_quantities_lies_one_in_a_unit_that_both_have() {
        let at = |from, to, share| between(from, to, share);
        assert_eq!(at("10ms", "1s", 0.5).map(|text| duration(&text)), Some(Ok(Duration::from_millis(505))));
        assert_eq!(at("1KiB", "3KiB", 0.5).as_deref(), Some("2048B"));
        assert_eq!(at("10%", "50%", 0.25).as_deref(), Some("20%"));
        assert_eq!(at("50%", "10%", 0.25).as_deref(), Some("40%"));
        assert_eq!(at("0.1/s", "0.3/s", 0.5).as_deref(), Some("0.2/s"));
        for (from, to) in
            [("10%", "50/s"), ("10ms", "5%"), ("1", "2"), ("", "1s"), ("KILL", "TERM"), ("-1s", "1s")]
        {
            assert_eq!(at(from, to, 0.5), None, "{from} {to}");
        }
    }

    #[test]
    fn durations_are_numbers_with_units_not_strings() {
        for (text, nanos) in [
            ("0.5ms", 500_000),
            ("200ms", 200_000_000),
            ("1h30m", 5_400_000_000_000),
            ("0.1s", 100_000_000),
            ("1 s", 1_000_000_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "5", "-5s", "5 parsecs", "s", "1.2.3s", "99999999d", "1e9s", "٣s"] {
            assert!(duration(text).is_err(), "{text} should be refused");
        }
    }

    #[test]
    fn refusals_say_what_is_wrong_and_what_would_be_right() {
        assert_eq!(
            duration("5").unwrap_err().to_string(),
            "`5` is not a duration such as \"200ms\", \"1.5s\", \"2m\" or \"1h30m\": the unit is missing"
        );
        assert_eq!(
            "101%".parse::<Percent>().unwrap_err().to_string(),
            "`101%` is not a percentage such as \"30%\" or \"99.9%\": it exceeds 100 %"
        );
    }

    #[test]
    fn durations_are_said_shortly() {
        for (nanos, said) in [
            (0, "0 s"),
            (1_500, "1.5 us"),
            (200_000_000, "200 ms"),
            (1_250_000_000, "1.25 s"),
            (999_999_999, "1 s"),
            (150_000_000_000, "2 m 30 s"),
            (3_600_000_000_000, "1 h"),
        ] {
            assert_eq!(say(Duration::from_nanos(nanos)), said);
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!("2GiB".parse(), Ok(Bytes(2 << 30)));
        assert_eq!(Bytes(2 << 30).to_string(), "2 GiB");
        assert_eq!("30/m".parse::<Rate>().unwrap().interval(), Duration::from_secs(2));
        assert_eq!("20/s".parse::<Rate>().unwrap().to_string(), "20/s");
        assert!("0/s".parse::<Rate>().is_err());
    }
}
