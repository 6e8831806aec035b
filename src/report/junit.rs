//! `junit.xml`: what a CI system shows. One test case for everything that can go wrong by itself.
//!
//! The shape is the one that CI systems read (Ant's JUnit task): a promise that was broken is a failure, what
//! cannot be concluded is an error, what was never judged is skipped.

use std::fmt::Write;

use super::facts::{FaultState, FaultStory, Report};
use super::words;
use crate::event::{Judged, Judgement, StopReason};
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
    let skipped = |what: &str| Case::Skipped(format!("not {what}: the run ended before"));
    let planned = report.plan.as_ref();
    let names = planned.iter().flat_map(|plan| &plan.objectives).map(|objective| objective.name.as_str());
    let judged = report.objectives.iter().map(|judged| (judged.objective.as_str(), judgement(judged)));
    for (name, case) in in_planned_order(names, judged) {
        cases.push((format!("objective {name}"), 0.0, case.unwrap_or_else(|| skipped("judged"))));
    }
    let names = planned.iter().flat_map(|plan| &plan.expectations).map(|expected| expected.name.as_str());
    let decided = report
        .expectations
        .iter()
        .map(|expected| (expected.name.as_str(), yes_or(expected.met, &expected.why)));
    for (name, case) in in_planned_order(names, decided) {
        cases.push((format!("expectation {name}"), 0.0, case.unwrap_or_else(|| skipped("decided"))));
    }
    for fault in planned.iter().flat_map(|plan| &plan.faults) {
        if !report.faults.iter().any(|begun| begun.name == fault.name) {
            cases.push((format!("fault {} took hold", fault.name), 0.0, skipped("begun")));
        }
    }
    for (place, fault) in report.faults.iter().enumerate() {
        let before = report.faults[..place].iter().filter(|before| before.name == fault.name).count();
        let name =
            if before == 0 { fault.name.clone() } else { format!("{} (time {})", fault.name, before + 1) };
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
        cases.push((format!("fault {name} undone"), fault.undo_ms.unwrap_or(0.0) / 1e3, undone));
    }
    if let Some(recovery) = &report.recovery {
        let case = yes_or(recovery.yes, &recovery.why);
        cases.push(("recovery".to_owned(), recovery.took_ms / 1e3, case));
    }
    let whole = (report.run.ended.ms - report.run.began.ms) / 1e3;
    cases.push(("ran to its end".to_owned(), whole, to_its_end(report)));
    cases
}

fn judgement(judged: &Judged) -> Case {
    match judged.judgement {
        Judgement::Passed => Case::Passed,
        Judgement::Failed => Case::Failed(judged.why.clone()),
        Judgement::Inconclusive => Case::Error(judged.why.clone()),
    }
}

/// What was planned with how it came out, if it did; then what came out unplanned.
fn in_planned_order<'a>(
    planned: impl Iterator<Item = &'a str>,
    came_out: impl Iterator<Item = (&'a str, Case)>,
) -> Vec<(&'a str, Option<Case>)> {
    let mut cases: Vec<(&str, Option<Case>)> = planned.map(|name| (name, None)).collect();
    for (name, case) in came_out {
        match cases.iter_mut().find(|(planned, known)| *planned == name && known.is_none()) {
            Some((_, known)) => *known = Some(case),
            None => cases.push((name, Some(case))),
        }
    }
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
