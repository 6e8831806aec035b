//! How facts are said to people, alike in every face.

use std::time::Duration;

use super::facts::{Impact, Report};
use crate::base::unit;
use crate::event::{Event, Judgement, ServiceState, StopReason, Verdict, What};
use crate::fault::Effect;

/// An event as one line for people: what the terminal shows where it cannot draw. `None` for what comes
/// many times a second.
#[must_use]
pub fn plain(event: &Event) -> Option<String> {
    let said = said(&event.what)?;
    Some(format!("{}  {:>9}  {}", clock(&event.wall), seconds(event.at_ms), clean(&said)))
}

/// What happened, in a sentence; `None` for what comes many times a second or says nothing to people.
pub(super) fn said(what: &What) -> Option<String> {
    Some(match what {
        What::Began { run, title, seed, .. } => format!("run {run} began: {title} (seed {seed})"),
        What::Planned { plan } => format!(
            "plan: {}, {}, {}",
            counted(plan.faults.len(), "fault"),
            counted(plan.probes.len(), "probe"),
            counted(plan.objectives.len(), "objective")
        ),
        What::Warning { text } => format!("warning: {text}"),
        What::Phase { phase } => format!("phase {phase}"),
        What::Service { name, state, detail } => {
            let state = match state {
                ServiceState::Started => "started",
                ServiceState::Ready => "is ready",
                ServiceState::Stopped => "stopped",
                ServiceState::Died => "DIED",
                ServiceState::NotReady => "is NOT READY",
            };
            tail(format!("service {name} {state}"), detail)
        }
        What::Steady { yes: true, why } => format!("steady state proved: {why}"),
        What::Steady { yes: false, why } => format!("NOT STEADY: {why}"),
        What::Zero => "t = 0: judging begins".to_owned(),
        What::Waiting { fault } => {
            format!("fault {fault} waits for a person: Enter, or `brownout go` from another terminal")
        }
        What::Injecting { fault, harm, mechanism, .. } => match mechanism {
            Some(mechanism) => format!("fault {fault} begins: {harm}, by {mechanism}"),
            None => format!("fault {fault} begins: {harm}"),
        },
        What::Live { fault, effect, .. } => format!("fault {fault} {}", took_hold(effect)),
        What::InjectFailed { fault, why } => {
            format!("fault {fault} COULD NOT BE INJECTED, and nothing of it is left: {why}")
        }
        What::Undone { fault, took_ms } => {
            format!("nothing is left of fault {fault}: checked in {}", ms(*took_ms))
        }
        What::NotUndone { fault, why, by_hand } => {
            format!("fault {fault} is NOT UNDONE: {why}; by hand: {by_hand}")
        }
        What::Stopping { because, why } => format!("stopping, {}: {why}", because_of(*because)),
        What::Note { who, text } => format!("note by {who}: {text}"),
        What::Expectation { name, met: true, why } => format!("expectation {name} met: {why}"),
        What::Expectation { name, met: false, why } => format!("expectation {name} MISSED: {why}"),
        What::Judged { judged } => {
            format!("objective {} {}: {}", judged.objective, judgement(judged.judgement), judged.why)
        }
        What::Recovered { yes: true, why, .. } => format!("recovered: {why}"),
        What::Recovered { yes: false, why, .. } => format!("NOT RECOVERED: {why}"),
        What::Ended { verdict, why, .. } => format!("verdict {}: {why}", self::verdict(*verdict)),
        What::Lost { losses } => format!(
            "the journal lost {} and {}",
            counted(losses.samples as usize, "look"),
            counted(losses.events as usize, "other event")
        ),
        What::Sample { .. } | What::Budget { .. } | What::Tally { .. } | What::Thinned { .. } => return None,
    })
}

fn tail(text: String, detail: &str) -> String {
    if detail.is_empty() { text } else { format!("{text}: {detail}") }
}

/// Whether a fault took hold.
pub(super) fn took_hold(effect: &Effect) -> String {
    match effect {
        Effect::Confirmed(figures) => format!("took hold: {figures}"),
        Effect::Mismatch(figures) => format!("DID NOT TAKE HOLD: {figures}"),
        Effect::Unverifiable(why) => format!("is live; whether it took hold cannot be measured: {why}"),
    }
}

pub(super) fn because_of(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Finished => "its plan has ended",
        StopReason::Deadline => "its time is over",
        StopReason::Trouble => "our own side failed",
        StopReason::Guard => "by the guard",
        StopReason::Interrupt => "interrupted by a person",
        StopReason::Terminate => "terminated",
    }
}

pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "PASSED",
        Verdict::Failed => "FAILED",
        Verdict::Aborted => "ABORTED",
        Verdict::Inconclusive => "INCONCLUSIVE",
        Verdict::Interrupted => "INTERRUPTED",
        Verdict::Refused => "REFUSED",
        Verdict::NotUndone => "NOT UNDONE",
    }
}

pub(super) fn judgement(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Passed => "passed",
        Judgement::Failed => "FAILED",
        Judgement::Inconclusive => "inconclusive",
    }
}

/// `1 fault`, `2 faults`.
pub(super) fn counted(n: usize, thing: &str) -> String {
    format!("{} {thing}{}", grouped(n as u64), if n == 1 { "" } else { "s" })
}

/// `12,345`.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds as people say them; nonsense (negative, not finite) as 0 s.
pub(super) fn ms(ms: f64) -> String {
    unit::say(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default())
}

/// Milliseconds in a column: always in the unit that fits, three figures.
pub(super) fn latency(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), self::ms)
}

/// A ratio as a percentage with as many digits as matter.
pub(super) fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let digits = if percent == 0.0 || percent >= 10.0 {
        1
    } else if percent >= 0.1 {
        2
    } else {
        4
    };
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

/// `+14.2 s`: where in the run.
pub(super) fn seconds(at_ms: f64) -> String {
    format!("+{:.1} s", at_ms / 1e3)
}

/// `14:02:11Z` of an RFC 3339 time; the text itself when it is none.
pub(super) fn clock(utc: &str) -> String {
    parsed(utc).map_or_else(|| clean(utc), |time| time.strftime("%H:%M:%SZ").to_string())
}

/// `2026-01-02 14:02:11 UTC` of an RFC 3339 time; the text itself when it is none.
pub(super) fn date(utc: &str) -> String {
    parsed(utc).map_or_else(|| clean(utc), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn parsed(utc: &str) -> Option<jiff::Zoned> {
    utc.parse::<jiff::Timestamp>().ok().map(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
}

/// One line without control characters: what a server answered must not steer a terminal or break a table.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_direction_mark(c) { ' ' } else { c }).collect()
}

/// Marks that turn the direction of text around, and with it what a reader believes to read.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// An argument as a shell takes it.
#[must_use]
pub fn quoted(argument: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !argument.is_empty() && argument.chars().all(bare) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

/// How many looks failed after the last undo, if any did: the rest of a sentence about those before it.
pub(super) fn failed_after(impact: &Impact) -> String {
    match impact.failed_after {
        Some(failed) if failed > 0 => format!(", and {} more while it recovered", grouped(failed)),
        _ => String::new(),
    }
}

/// The sentence of the verdict; also when there is none.
pub(super) fn ending(report: &Report) -> (&'static str, &str) {
    match &report.ending {
        Some(ending) => (verdict(ending.verdict), &ending.why),
        None => (
            "UNFINISHED",
            "the journal ends before the run did; `brownout recover --list` says what is still owed",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_answered_cannot_steer_the_terminal() {
        let event = Event {
            at_ms: 1250.0,
            wall: "2026-01-02T03:04:05.678Z".to_owned(),
            what: What::Note {
                who: "ann".to_owned(),
                text: "\u{1b}[2Jred\r\nalert \u{202e}gnihton".to_owned(),
            },
        };
        assert_eq!(plain(&event).unwrap(), "03:04:05Z     +1.2 s  note by ann:  [2Jred  alert  gnihton");
    }

    #[test]
    fn figures_have_as_many_digits_as_matter() {
        for (ratio, said) in [
            (0.0, "0 %"),
            (0.001, "0.1 %"),
            (0.000_43, "0.043 %"),
            (0.047_2, "4.72 %"),
            (0.5, "50 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(percent(ratio), said);
        }
        for (n, said) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(n), said);
        }
    }

    #[test]
    fn arguments_are_quoted_for_a_shell_only_where_they_must_be() {
        for (argument, said) in [
            ("a/b-c.toml", "a/b-c.toml"),
            ("my file", "'my file'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(quoted(argument), said);
        }
    }
}
