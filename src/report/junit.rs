//! `junit.xml`: what a CI system shows. One test case for everything that can go wrong by itself.
//!
//! The shape is the one that Jenkins, GitLab and GitHub actions read (the Ant JUnit schema): a promise that was broken
//! is a failure, what cannot be concluded is an error, what was never judged is skipped.

use std::fmt::Write;

use super::facts::{FaultState, FaultStory, Report};
use super::words;
use crate::event::{Judgement, StopReason};
use crate::fault::Effect;

/// How one case came out, with its message.
enum Case {
    Passed,
    Failed(String),
    Error(String),
    Skipped(String),
}

/// Renders the cases of a run.
#[must_use]
pub fn junit(report: &Report) -> String {
    let cases = cases(report);
    let count = |wanted: fn(&Case) -> bool| cases.iter().filter(|(_, _, case)| wanted(case)).count();
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{:.3}\"",
        cases.len(),
        count(|case| matches!(case, Case::Failed(_))),
        count(|case| matches!(case, Case::Error(_))),
        count(|case| matches!(case, Case::Skipped(_))),
        ((report.run.ended.ms - report.run.began.ms) / 1e3).max(0.0),
    );
    let (run, title) = (&report.run, escaped(&report.run.title));
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(xml, "<testsuites name=\"brownout\" {counts}>");
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{title}\" {counts} timestamp=\"{}\" hostname=\"{}\" id=\"{}\">",
        escaped(&run.began.utc),
        escaped(&run.host),
        escaped(&run.id)
    );
    let _ = writeln!(xml, "    <properties>");
    let (word, why) = words::ending(report);
    for (name, value) in
        [("seed", run.seed.to_string()), ("file", run.file.clone()), ("verdict", format!("{word}: {why}"))]
    {
        let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{}\"/>", escaped(&value));
    }
    let _ = writeln!(xml, "    </properties>");
    for (name, seconds, case) in &cases {
        let head =
            format!("    <testcase classname=\"{title}\" name=\"{}\" time=\"{seconds:.3}\"", escaped(name));
        let (tag, message) = match case {
            Case::Passed => {
                let _ = writeln!(xml, "{head}/>");
                continue;
            }
            Case::Failed(message) => ("failure", message),
            Case::Error(message) => ("error", message),
            Case::Skipped(message) => ("skipped", message),
        };
        let message = escaped(message);
        let body = if tag == "skipped" { "/>".to_owned() } else { format!(">{message}</{tag}>") };
        let _ = writeln!(xml, "{head}>\n      <{tag} message=\"{message}\"{body}\n    </testcase>");
    }
    xml.push_str("  </testsuite>\n</testsuites>\n");
    xml
}

/// Name, seconds, and how it came out.
fn cases(report: &Report) -> Vec<(String, f64, Case)> {
    let mut cases = Vec::new();
    let yes_or = |yes: bool, why: &str| if yes { Case::Passed } else { Case::Failed(why.to_owned()) };
    if let Some(steady) = &report.steady {
        cases.push(("steady state".to_owned(), 0.0, yes_or(steady.yes, &steady.why)));
    }
    let planned = report.plan.as_ref();
    for objective in planned.iter().flat_map(|plan| &plan.objectives) {
        if !report.objectives.iter().any(|judged| judged.objective == objective.name) {
            let why = Case::Skipped("not judged: the run ended before".to_owned());
            cases.push((format!("objective {}", objective.name), 0.0, why));
        }
    }
    for judged in &report.objectives {
        let case = match judged.judgement {
            Judgement::Passed => Case::Passed,
            Judgement::Failed => Case::Failed(judged.why.clone()),
            Judgement::Inconclusive => Case::Error(judged.why.clone()),
        };
        cases.push((format!("objective {}", judged.objective), 0.0, case));
    }
    for expectation in planned.iter().flat_map(|plan| &plan.expectations) {
        if !report.expectations.iter().any(|met| met.name == expectation.name) {
            let why = Case::Skipped("not decided: the run ended before".to_owned());
            cases.push((format!("expectation {}", expectation.name), 0.0, why));
        }
    }
    for expectation in &report.expectations {
        let case = yes_or(expectation.met, &expectation.why);
        cases.push((format!("expectation {}", expectation.name), 0.0, case));
    }
    for fault in planned.iter().flat_map(|plan| &plan.faults) {
        if !report.faults.iter().any(|begun| begun.name == fault.name) {
            let why = Case::Skipped("not begun: the run ended before".to_owned());
            cases.push((format!("fault {} took hold", fault.name), 0.0, why));
        }
    }
    for fault in &report.faults {
        let seconds = |from: f64, to: Option<f64>| to.map_or(0.0, |to| (to - from).max(0.0) / 1e3);
        let live = fault.live.as_ref().map(|live| live.ms);
        cases.push((
            format!("fault {} took hold", fault.name),
            seconds(fault.began.ms, live),
            took_hold(fault),
        ));
        let undone = match fault.state {
            FaultState::Undone | FaultState::Failed => Case::Passed,
            FaultState::NotUndone => Case::Failed(not_undone(report, fault)),
            FaultState::Injecting | FaultState::Live => {
                Case::Failed("the run ended before its undo: `brownout recover` pays what is owed".to_owned())
            }
        };
        cases.push((format!("fault {} undone", fault.name), fault.undo_ms.unwrap_or(0.0) / 1e3, undone));
    }
    if let Some(recovery) = &report.recovery {
        let case = yes_or(recovery.yes, &recovery.why);
        cases.push(("recovery".to_owned(), recovery.took_ms / 1e3, case));
    }
    let whole = (report.run.ended.ms - report.run.began.ms) / 1e3;
    cases.push(("ran to its end".to_owned(), whole, to_its_end(report)));
    cases
}

fn took_hold(fault: &FaultStory) -> Case {
    match (&fault.effect, &fault.why) {
        (Some(Effect::Confirmed(_)), _) => Case::Passed,
        (Some(Effect::Mismatch(figures)), _) => Case::Error(format!("it did not take hold: {figures}")),
        (Some(Effect::Unverifiable(why)), _) => Case::Skipped(format!("cannot be measured here: {why}")),
        (None, Some(why)) => Case::Error(format!("the injection failed: {why}")),
        (None, None) => Case::Error("the run ended before it took hold".to_owned()),
    }
}

fn not_undone(report: &Report, fault: &FaultStory) -> String {
    let by_hand = report.not_undone.iter().find(|unpaid| unpaid.fault == fault.name);
    let why = fault.why.as_deref().unwrap_or("it is still there");
    match by_hand {
        Some(unpaid) => format!("{why}; by hand: {}", unpaid.by_hand),
        None => why.to_owned(),
    }
}

fn to_its_end(report: &Report) -> Case {
    match (&report.stopped, &report.ending) {
        (_, None) => Case::Error(words::ending(report).1.to_owned()),
        (Some(stopped), _) if stopped.because == StopReason::Guard => {
            Case::Failed(format!("stopped by the guard: {}", stopped.why))
        }
        (Some(stopped), _) if stopped.because > StopReason::Finished => {
            Case::Error(format!("{}: {}", words::because_of(stopped.because), stopped.why))
        }
        _ => Case::Passed,
    }
}

/// Text as XML 1.0 takes it, in content and in attributes; characters it has no place for become spaces.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in words::clean(text).chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            '\u{fffe}' | '\u{ffff}' => safe.push(' '),
            _ => safe.push(c),
        }
    }
    safe
}
