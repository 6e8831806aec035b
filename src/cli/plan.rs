//! A plan as a person reads it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use super::Exit;
use crate::base::unit;
use crate::engine::Plan;

/// Prints a plan; refused when something stands in its way.
pub(super) fn print(plan: &Plan, json: bool) -> Exit {
    let mut out = std::io::stdout().lock();
    let text = if json {
        let mut value = serde_json::to_value(plan.told()).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.insert("title".to_owned(), plan.experiment().title.clone().into());
            fields.insert("seed".to_owned(), plan.dice.seed().into());
            fields.insert("refusals".to_owned(), plan.refusals.clone().into());
            fields.insert("warnings".to_owned(), plan.warnings().into());
            fields.insert("takes_ms".to_owned(), (plan.takes.as_secs_f64() * 1e3).into());
        }
        format!("{value}\n")
    } else {
        text(plan)
    };
    let _ = write!(out, "{text}");
    if plan.refusals.is_empty() { Exit::Passed } else { Exit::Refused }
}

/// What would be hurt, when, by which mechanism, and who undoes it if we are killed.
pub(super) fn text(plan: &Plan) -> String {
    let (experiment, told) = (plan.experiment(), plan.told());
    let ms = |ms: f64| unit::say(Duration::from_secs_f64(ms.max(0.0) / 1e3));
    let mut text = String::new();
    let mut line = |words: String| {
        let _ = writeln!(text, "{}", words.trim_end());
    };
    line(experiment.title.clone());
    line(format!(
        "steady state {}, then {} of faults, then recovery within {}; seed {}",
        unit::say(experiment.steady_for),
        unit::say(plan.takes),
        unit::say(experiment.recovery_within),
        plan.dice.seed()
    ));
    for service in &experiment.services {
        line(format!("\nstarts  {}: {}", service.name, service.run.join(" ")));
        line("        stopped at the end; if we are killed, the watchdog stops it".to_owned());
    }
    line(String::new());
    for fault in &told.faults {
        let lasts =
            fault.hold_ms.map_or_else(|| "over when done".to_owned(), |hold| format!("for {}", ms(hold)));
        let times = if fault.times == 1 { String::new() } else { format!(", {} times", fault.times) };
        line(format!("hurts   {} ({}): {}", fault.name, fault.kind, fault.harm));
        line(format!("        at {}, {lasts}{times}", fault.at));
        if let Some(mechanism) = &fault.mechanism {
            line(format!("        by {mechanism}"));
        }
        line(format!("        if we are killed: {}", fault.tier));
    }
    line(String::new());
    for probe in &told.probes {
        let rhythm = probe.rhythm.as_deref().unwrap_or("once");
        let retries = match probe.retries {
            0 => String::new(),
            retries => format!(", tried again up to {retries} times"),
        };
        let observed = if probe.observe_only { ", only recorded" } else { "" };
        let how = format!("{}, {rhythm}{retries}{observed}", probe.kind);
        line(format!("looks   {} ({how}): {}", probe.name, probe.looks_at));
    }
    for objective in &told.objectives {
        line(format!("judges  {}", objective.name));
    }
    for expectation in &told.expectations {
        line(format!("expects {}: {}", expectation.name, expectation.wants));
    }
    for warning in plan.warnings() {
        line(format!("note    {warning}"));
    }
    if !plan.foreign.is_empty() {
        line(format!(
            "\nnot started by this experiment, so somebody must agree: {}",
            plan.foreign.join(", ")
        ));
    }
    for refusal in &plan.refusals {
        line(format!("\nREFUSED {refusal}"));
    }
    text
}
