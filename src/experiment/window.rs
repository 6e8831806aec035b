//! When hurting is allowed: `Mon-Thu 10:00-16:00 Europe/Berlin`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const A_DAY: u32 = 24 * 60;

/// Times of the week, on the clock of a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    text: String,
    /// Monday first.
    days: [bool; 7],
    /// Minutes of the day; `until` is excluded and may be 24:00, or before `from`: past midnight.
    from: u32,
    until: u32,
    zone: TimeZone,
}

impl Window {
    /// Whether hurting is allowed at a moment. A window past midnight belongs to the day it begins on.
    #[must_use]
    pub fn holds(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        let minute = u32::from(local.hour().unsigned_abs()) * 60 + u32::from(local.minute().unsigned_abs());
        let on = |day: Weekday| self.days[usize::from(day.to_monday_zero_offset().unsigned_abs())];
        if self.from < self.until {
            return on(local.weekday()) && (self.from..self.until).contains(&minute);
        }
        (on(local.weekday()) && minute >= self.from)
            || (on(local.weekday().previous()) && minute < self.until)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split_whitespace();
        let days = read_days(parts.next().unwrap_or_default())?;
        let (from, until) =
            parts.next().and_then(|hours| hours.split_once('-')).ok_or("its hours are missing")?;
        let (from, until) = (minute(from)?, minute(until)?);
        if from == until || from == A_DAY {
            return Err("it is never open".to_owned());
        }
        let zone = match parts.next() {
            Some(name) => {
                TimeZone::get(name).map_err(|_| format!("`{name}` is no time zone such as Europe/Berlin"))?
            }
            None => TimeZone::UTC,
        };
        if let Some(more) = parts.next() {
            return Err(format!("`{more}` is too much"));
        }
        Ok(Self { text: text.to_owned(), days, from, until, zone })
    }
}

fn day(text: &str) -> Result<usize, String> {
    DAYS.iter()
        .position(|day| day.eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is no day of {}", DAYS.join(", ")))
}

fn read_days(text: &str) -> Result<[bool; 7], String> {
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[last] = true;
        while at != last {
            days[at] = true;
            at = (at + 1) % 7;
        }
    }
    Ok(days)
}

fn minute(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no time of day such as 16:00");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| -> Result<u32, String> {
        if text.len() > 2 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        text.parse().map_err(|_| wrong())
    };
    match (number(hour)?, number(minute)?) {
        (24, 0) => Ok(A_DAY),
        (hour @ 0..24, minute @ 0..60) => Ok(hour * 60 + minute),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(window: &str, at: &str) -> bool {
        window.parse::<Window>().unwrap().holds(at.parse().unwrap())
    }

    #[test]
    fn a_window_is_read_on_the_clock_of_its_place() {
        let office = "Mon-Thu 10:00-16:00 Europe/Berlin";
        // 2026-11-24 is a Tuesday; Berlin is an hour ahead of UTC in winter and two in summer.
        assert!(holds(office, "2026-11-24T09:00:00Z"));
        assert!(!holds(office, "2026-11-24T08:59:59Z"));
        assert!(holds(office, "2026-11-24T14:59:59Z"));
        assert!(!holds(office, "2026-11-24T15:00:00Z"), "the end is excluded");
        assert!(holds(office, "2026-07-21T08:00:00Z"), "summer");
        assert!(!holds(office, "2026-11-27T11:00:00Z"), "a Friday");
    }

    #[test]
    fn a_window_past_midnight_belongs_to_the_day_it_begins_on() {
        let night = "Fri 22:00-04:00";
        assert!(holds(night, "2026-11-27T23:00:00Z"));
        assert!(holds(night, "2026-11-28T03:59:00Z"));
        assert!(!holds(night, "2026-11-27T03:00:00Z"), "that night began on Thursday");
    }

    #[test]
    fn days_may_be_listed_and_wrap_round() {
        assert!(holds("Sat-Mon,Wed 00:00-24:00", "2026-11-29T23:59:59Z"), "Sunday");
        assert!(holds("Sat-Mon,Wed 00:00-24:00", "2026-11-25T00:00:00Z"), "Wednesday");
        assert!(!holds("Sat-Mon,Wed 00:00-24:00", "2026-11-24T12:00:00Z"), "Tuesday");
    }

    #[test]
    fn windows_that_are_none_are_refused() {
        for text in [
            "",
            "Mon",
            "10:00-16:00",
            "Mon 10-16",
            "Mon 10:00-10:00",
            "Mon 25:00-26:00",
            "Mon 24:00-04:00",
            "Mon 10:60-11:00",
            "Moon 10:00-11:00",
            "Mon- 10:00-11:00",
            "Mon 10:00-11:00 Mars/Olympus",
            "Mon 10:00-11:00 UTC today",
            "Mon +1:00-11:00",
        ] {
            assert!(text.parse::<Window>().is_err(), "{text}");
        }
    }
}
