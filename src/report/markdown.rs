//! `report.md`: an incident report, filled in with what was measured. What only a person can know is a blank
//! that says so.

use std::fmt::Write;

use super::facts::{FaultState, FaultStory, Report};
use super::words::{self, counted, grouped, ms, percent};
use crate::event::Judgement;
use crate::fault::Effect;

/// A blank for what cannot be measured.
fn blank(what: &str) -> String {
    format!("_(to be filled in: {what})_")
}

/// Renders the report of a run.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = String::new();
    head(report, &mut text);
    timeline(report, &mut text);
    impact(report, &mut text);
    probes(report, &mut text);
    faults(report, &mut text);
    detection_and_recovery(report, &mut text);
    held(report, &mut text);
    causes(&mut text);
    action_items(report, &mut text);
    repeat(report, &mut text);
    text
}

fn head(report: &Report, out: &mut String) {
    let run = &report.run;
    let (word, why) = words::ending(report);
    let _ = writeln!(out, "# Experiment report: {}\n", prose(&run.title));
    let _ = writeln!(out, "## Summary\n");
    let _ = writeln!(out, "**Verdict:** {word}: {}\n", prose(why));
    if let Some(hypothesis) = report.plan.as_ref().and_then(|plan| plan.hypothesis.as_deref()) {
        let _ = writeln!(out, "**Hypothesis:** {}\n", prose(hypothesis));
    }
    for unpaid in &report.not_undone {
        let _ = writeln!(
            out,
            "> **NOT UNDONE: {}** ({}). Undo it by hand: {}\n",
            prose(&unpaid.fault),
            prose(&unpaid.why),
            code(&unpaid.by_hand)
        );
    }
    let severity = blank("SEV1, SEV2 or SEV3, had it not been planned");
    let _ = writeln!(out, "**Severity:** {severity}  ");
    let _ = writeln!(out, "**Status:** {}  ", status(report));
    let _ = writeln!(
        out,
        "**Started:** {} · **Ended:** {} · **Duration:** {}  ",
        words::date(&run.began.utc),
        words::date(&run.ended.utc),
        ms(run.ended.ms - run.began.ms)
    );
    let by = run.sudo_user.as_ref().map_or_else(|| run.user.clone(), |who| format!("{who}, as {}", run.user));
    let _ = writeln!(out, "**Run:** {} on {} by {}  ", prose(&run.id), prose(&run.host), prose(&by));
    if let Some(owner) = report.plan.as_ref().and_then(|plan| plan.owner.as_deref()) {
        let _ = writeln!(out, "**Owner:** {}  ", prose(owner));
    }
    let _ = writeln!(out, "**Impact:** {}\n", in_short(report));
}

fn status(report: &Report) -> &'static str {
    let owed = |fault: &FaultStory| matches!(fault.state, FaultState::Injecting | FaultState::Live);
    if !report.not_undone.is_empty() {
        "Investigating: something is not undone"
    } else if report.ending.is_none() && report.faults.iter().any(owed) {
        "Investigating: the run ended before its undo; `brownout recover` pays what is owed"
    } else if report.steady.as_ref().is_some_and(|steady| !steady.yes) {
        "Investigating: the system was unhealthy beforehand, so nothing was hurt"
    } else if report.faults.is_empty() {
        "Resolved: nothing was hurt"
    } else if report.recovery.as_ref().is_some_and(|recovery| recovery.yes) {
        "Resolved: everything is undone, and the system is steady again"
    } else {
        "Mitigated: everything is undone, but the system was not seen steady again"
    }
}

fn in_short(report: &Report) -> String {
    match (report.impact.failed, report.impact.looks) {
        _ if report.faults.is_empty() => "none: no fault was begun".to_owned(),
        (Some(failed), Some(total)) => {
            format!(
                "{} of {} looks failed from t = 0 to the last undo{}",
                grouped(failed),
                grouped(total),
                words::failed_after(&report.impact)
            )
        }
        _ => "not measured: the run ended before its looks were counted".to_owned(),
    }
}

fn timeline(report: &Report, out: &mut String) {
    out.push_str("## Timeline\n\n| Time (UTC) | Run | Event |\n|---|---:|---|\n");
    for line in &report.timeline {
        let (at, text) = (&line.at, prose(&line.text));
        let _ = writeln!(out, "| {} | {} | {text} |", words::clock(&at.utc), words::seconds(at.ms));
    }
    if report.timeline_left_out > 0 {
        let _ = writeln!(out, "| | | {} more, in the journal |", grouped(report.timeline_left_out));
    }
    out.push('\n');
}

fn impact(report: &Report, out: &mut String) {
    let impact = &report.impact;
    let not = || "not measured".to_owned();
    let share = |rate: Option<f64>| rate.map_or_else(not, percent);
    let judged: Vec<String> = report
        .probes
        .iter()
        .filter(|probe| !probe.probe.observe_only && probe.probe.rate.is_some())
        .map(|probe| format!("{} ({})", prose(&probe.probe.name), prose(&probe.probe.looks_at)))
        .collect();
    out.push_str("## Impact\n\n");
    let _ = writeln!(out, "**Users affected:** {}  ", blank("who, and how many"));
    let _ = writeln!(out, "**Services affected:** seen through the probes: {}  ", list(&judged));
    let _ = writeln!(
        out,
        "**Error rate:** {} (baseline {})  ",
        share(impact.error_rate),
        share(impact.baseline_error_rate)
    );
    let failed = impact.failed.map(|failed| failed + impact.failed_after.unwrap_or_default());
    let _ = writeln!(out, "**Requests failed:** {} (our own looks)  ", failed.map_or_else(not, grouped));
    let outage = impact
        .longest_outage_ms
        .map_or_else(not, |long| if long > 0.0 { ms(long) } else { "none".to_owned() });
    let _ = writeln!(out, "**Longest outage:** {outage}  ");
    let _ = writeln!(out, "**Revenue impact:** {}\n", blank("estimate"));
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn probes(report: &Report, out: &mut String) {
    let measured = report.probes.iter().any(|probe| !probe.phases.is_empty());
    if !measured {
        return;
    }
    out.push_str(
        "### What the probes saw\n\n\
         | Probe | Phase | Looks | Bad | Missed | p50 | p95 | p99 | Max | Longest outage | Our slip p50 | p99 | Max |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for probe in &report.probes {
        for figures in &probe.phases {
            let totals = &figures.totals;
            let part = |pick: fn(&crate::event::Percentiles) -> f64| {
                words::latency(totals.latency.as_ref().map(pick))
            };
            let rate = totals.error_rate().map_or_else(String::new, |rate| format!(" ({})", percent(rate)));
            let outage = Some(totals.longest_outage_ms).filter(|long| *long > 0.0);
            let _ = writeln!(
                out,
                "| {} | {} | {} | {}{rate} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                prose(&probe.probe.name),
                figures.phase,
                grouped(totals.looks()),
                grouped(totals.bad),
                grouped(totals.missed),
                part(|latency| latency.p50_ms),
                part(|latency| latency.p95_ms),
                part(|latency| latency.p99_ms),
                part(|latency| latency.max_ms),
                words::latency(outage),
                ms(totals.slip_p50_ms),
                ms(totals.slip_p99_ms),
                ms(totals.slip_max_ms),
            );
        }
    }
    out.push('\n');
    let mut noted = false;
    for probe in &report.probes {
        for figures in &probe.phases {
            let (name, phase, again) =
                (prose(&probe.probe.name), figures.phase, figures.totals.good_after_retry);
            if again > 0 {
                noted = true;
                let _ = writeln!(out, "- {name} in {phase}: {} good only after a retry", grouped(again));
            }
            for reason in &figures.totals.reasons {
                noted = true;
                let (count, why) = (grouped(reason.count), code(&reason.why));
                let _ = writeln!(out, "- {name} in {phase}: {count} times {why}");
            }
        }
    }
    if noted {
        out.push('\n');
    }
}

fn faults(report: &Report, out: &mut String) {
    if report.faults.is_empty() {
        return;
    }
    out.push_str(
        "## What was done\n\n\
         | Fault | Harm | Began | Took hold | Lasted | Undone in | If we had been killed |\n\
         |---|---|---|---|---:|---:|---|\n",
    );
    for fault in &report.faults {
        let hold = match (&fault.effect, &fault.why) {
            (Some(Effect::Confirmed(figures)), _) => format!("yes: {}", prose(figures)),
            (Some(Effect::Mismatch(figures)), _) => format!("**no**: {}", prose(figures)),
            (Some(Effect::Unverifiable(why)), _) => format!("cannot be measured: {}", prose(why)),
            (None, Some(why)) => format!("**not injected**: {}", prose(why)),
            (None, None) => "not measured".to_owned(),
        };
        let undone = match (fault.state, fault.undo_ms) {
            (FaultState::NotUndone, _) => "**NOT UNDONE**".to_owned(),
            _ if !fault.lasting => "cannot be taken back".to_owned(),
            (_, Some(took)) => ms(took),
            (_, None) => "not measured".to_owned(),
        };
        let lasted = fault.ended.as_ref().map(|ended| ended.ms - fault.began.ms);
        let by = fault.mechanism.as_ref().map_or_else(String::new, |by| format!(", by {}", prose(by)));
        let _ = writeln!(
            out,
            "| {} ({}) | {}{by} | {} | {hold} | {} | {undone} | {} |",
            prose(&fault.name),
            prose(&fault.kind),
            prose(&fault.harm),
            words::seconds(fault.began.ms),
            words::latency(lasted.filter(|_| fault.lasting)),
            if fault.lasting {
                fault.tier.to_string()
            } else {
                "nothing lasts that could be undone".to_owned()
            },
        );
    }
    out.push('\n');
}

fn detection_and_recovery(report: &Report, out: &mut String) {
    out.push_str("## Detection and recovery\n\n");
    for fault in &report.faults {
        let name = prose(&fault.name);
        let _ = match &fault.noticed {
            Some(noticed) => writeln!(
                out,
                "- **{name}** was noticed after {} by the probe {}{}; {} over {}",
                ms(noticed.after_ms),
                prose(&noticed.probe),
                noticed.why.as_ref().map_or_else(String::new, |why| format!(" ({})", code(why))),
                counted(fault.bad_looks as usize, "bad look"),
                words::latency(fault.hurt_ms),
            ),
            None => writeln!(out, "- **{name}** was not noticed: no look broke a promise"),
        };
    }
    if let Some(after) = report.impact.guard_after_ms {
        let _ = writeln!(out, "- **The guard** stopped the run {} after the first fault began", ms(after));
    }
    for expectation in &report.expectations {
        let word = if expectation.met { "met" } else { "**MISSED**" };
        let _ = writeln!(out, "- **{}** was {word}: {}", prose(&expectation.name), prose(&expectation.why));
    }
    let _ = match &report.recovery {
        Some(recovery) if recovery.yes => {
            writeln!(out, "- **Recovered** in {}: {}", ms(recovery.took_ms), prose(&recovery.why))
        }
        Some(recovery) => writeln!(out, "- **Not recovered**: {}", prose(&recovery.why)),
        None if report.faults.is_empty() => {
            writeln!(out, "- There was nothing to notice and nothing to recover from")
        }
        None => writeln!(out, "- **Recovery** was not watched"),
    };
    out.push('\n');
}

fn held(report: &Report, out: &mut String) {
    let (mut well, mut badly) = (Vec::new(), Vec::new());
    if let Some(steady) = &report.steady {
        let side = if steady.yes { &mut well } else { &mut badly };
        side.push(format!("steady beforehand: {}", prose(&steady.why)));
    }
    for judged in &report.objectives {
        let said = format!("{}: {}", prose(&judged.objective), prose(&judged.why));
        match judged.judgement {
            Judgement::Passed => well.push(said),
            Judgement::Failed => badly.push(said),
            Judgement::Inconclusive => badly.push(format!("{said} (inconclusive)")),
        }
    }
    for expectation in &report.expectations {
        let side = if expectation.met { &mut well } else { &mut badly };
        side.push(format!("expectation {}: {}", prose(&expectation.name), prose(&expectation.why)));
    }
    let undone =
        report.faults.iter().filter(|fault| fault.lasting && fault.state == FaultState::Undone).count();
    if undone > 0 {
        well.push(format!("{} undone, and that was checked", counted(undone, "fault")));
    }
    for fault in &report.faults {
        if let Some(Effect::Mismatch(figures)) = &fault.effect {
            badly.push(format!("{} did not take hold: {}", prose(&fault.name), prose(figures)));
        }
        if fault.state == FaultState::Failed {
            let why = fault.why.as_deref().unwrap_or("for a reason that was not told");
            badly.push(format!("{} could not be injected: {}", prose(&fault.name), prose(why)));
        }
    }
    for unpaid in &report.not_undone {
        badly.push(format!("{} is not undone: {}", prose(&unpaid.fault), prose(&unpaid.why)));
    }
    match &report.recovery {
        Some(recovery) if recovery.yes => well.push(format!("recovered: {}", prose(&recovery.why))),
        Some(recovery) => badly.push(format!("not recovered: {}", prose(&recovery.why))),
        None => {}
    }
    if report.ending.is_none() {
        badly.push("the run did not come to its end".to_owned());
    }
    if let Some(stopped) = &report.stopped {
        badly.push(format!("stopped early, {}: {}", words::because_of(stopped.because), prose(&stopped.why)));
    }
    let spent = report.budgets.iter().map(|spent| {
        format!(
            "Budget of {}: {:.1} of {:.1} bad seconds spent",
            prose(&spent.objective),
            spent.spent_s,
            spent.budget_s
        )
    });
    bullets(out, "## What held", &well, "nothing that was judged");
    let none =
        if report.objectives.is_empty() { "nothing was judged" } else { "everything that was judged held" };
    bullets(out, "## What did not hold", &badly, none);
    let spent: Vec<String> = spent.collect();
    if !spent.is_empty() {
        bullets(out, "### Error budget", &spent, "");
    }
    let notes: Vec<String> = report
        .notes
        .iter()
        .map(|note| format!("{} {}: {}", words::clock(&note.at.utc), prose(&note.who), prose(&note.text)))
        .collect();
    if !notes.is_empty() {
        bullets(out, "### Notes", &notes, "");
    }
    let warnings: Vec<String> = report.warnings.iter().map(|text| prose(text)).collect();
    if !warnings.is_empty() {
        bullets(out, "### Warnings", &warnings, "");
    }
}

fn bullets(out: &mut String, title: &str, lines: &[String], none: &str) {
    let _ = writeln!(out, "{title}\n");
    for line in lines {
        let _ = writeln!(out, "- {line}");
    }
    if lines.is_empty() {
        let _ = writeln!(out, "- {none}");
    }
    out.push('\n');
}

fn causes(out: &mut String) {
    let _ = writeln!(
        out,
        "## Root cause\n\n{}\n",
        blank("why the system behaved like this, and what contributed")
    );
    let _ = writeln!(out, "## Lessons learned\n\n{}\n", blank("what was learned"));
}

fn action_items(report: &Report, out: &mut String) {
    let mut items: Vec<String> = Vec::new();
    for unpaid in &report.not_undone {
        items.push(format!("Undo {} by hand: {}", prose(&unpaid.fault), code(&unpaid.by_hand)));
    }
    if report.ending.is_none() {
        items.push("Run `brownout recover`: the run ended before its undo".to_owned());
    }
    for judged in &report.objectives {
        match judged.judgement {
            Judgement::Failed => {
                items.push(format!("Keep the promise {}: {}", prose(&judged.objective), prose(&judged.why)));
            }
            Judgement::Inconclusive => {
                items.push(format!("Measure {} again: {}", prose(&judged.objective), prose(&judged.why)));
            }
            Judgement::Passed => {}
        }
    }
    for expectation in report.expectations.iter().filter(|expectation| !expectation.met) {
        let said = format!("{}: {}", prose(&expectation.name), prose(&expectation.why));
        items.push(format!("Find out why the expectation was missed, {said}"));
    }
    for fault in &report.faults {
        if let Some(Effect::Mismatch(figures)) = &fault.effect {
            items.push(format!("Find out why {} did not take hold: {}", prose(&fault.name), prose(figures)));
        }
    }
    if report.recovery.as_ref().is_some_and(|recovery| !recovery.yes) {
        items.push("Bring the system back to its steady state: it did not recover by itself".to_owned());
    }
    if report.steady.as_ref().is_some_and(|steady| !steady.yes) {
        items.push("Make the system steady before hurting it: it was unhealthy beforehand".to_owned());
    }
    if items.is_empty() {
        items.push(blank("what follows from this run"));
    }
    out.push_str("## Action items\n\n");
    for item in items {
        let _ = writeln!(out, "- [ ] {item} - Owner: {} - Due: {}", blank("name"), blank("date"));
    }
    out.push('\n');
}

fn repeat(report: &Report, out: &mut String) {
    let run = &report.run;
    let fence = "```";
    let _ = writeln!(out, "## How to repeat it\n\n{fence}\n{}\n{fence}\n", words::clean(&run.repeat));
    let _ = writeln!(
        out,
        "The seed makes the same choices again. The file had the SHA-256 {}; brownout {}.",
        code(&run.file_hash),
        prose(&run.brownout)
    );
    if !report.journal.none() {
        let lost = &report.journal;
        let why = lost.error.as_ref().map_or_else(String::new, |why| format!(": {}", prose(why)));
        let _ = writeln!(
            out,
            "\nThe journal lost {} and {}{why}.",
            counted(lost.samples as usize, "look"),
            counted(lost.events as usize, "other event")
        );
    }
}

/// Text that stands in a paragraph or a table: nothing in it is Markdown or HTML. An underscore within a word
/// is no emphasis and stays as it is, for those who read the text itself.
fn prose(text: &str) -> String {
    let text = words::clean(text);
    let mut safe = String::with_capacity(text.len());
    let mut before = ' ';
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let within = before.is_alphanumeric() && rest.peek().is_some_and(|next| next.is_alphanumeric());
        if matches!(c, '\\' | '`' | '*' | '[' | ']' | '<' | '>' | '|') || (c == '_' && !within) {
            safe.push('\\');
        }
        safe.push(c);
        before = c;
    }
    safe
}

/// Text as code: between more backticks than it holds, with bars escaped for tables.
fn code(text: &str) -> String {
    let text = words::clean(text).replace('|', "\\|");
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let room = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{room}{text}{room}{fence}")
}
