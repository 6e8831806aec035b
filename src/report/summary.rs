//! The end of a run, for the terminal: what happened, when it was noticed, how long it lasted, when it
//! recovered, the verdict, where the report is.

use std::fmt::Write;
use std::path::Path;

use super::facts::{FaultState, FaultStory, Report};
use super::paint::{Mood, Paint, wrapped};
use super::words::{self, clean, counted, ms};
use crate::event::{Judgement, Phase, Verdict};
use crate::fault::Effect;

/// Longer lines are hard to read, shorter ones leave no room beside the labels.
const WIDTHS: std::ops::RangeInclusive<usize> = 60..=100;
const LABEL: usize = 12;

/// Renders the summary for a terminal of so many columns; its lines have 60 to 100, but for what a person copies, and each ends with a line feed.
/// `place` is where the report lies, if one could be written.
#[must_use]
pub fn summary(report: &Report, place: Option<&Path>, columns: usize, paint: Paint) -> String {
    let mut page = Page { width: columns.clamp(*WIDTHS.start(), *WIDTHS.end()), paint, text: String::new() };
    let (word, why) = words::ending(report);
    let mood = match report.ending.as_ref().map(|ending| ending.verdict) {
        Some(Verdict::Passed) => Mood::Good,
        Some(Verdict::Inconclusive | Verdict::Interrupted | Verdict::Refused) => Mood::Doubt,
        _ => Mood::Bad,
    };
    page.text.push('\n');
    let title = clean(&report.run.title);
    let title = super::paint::cut(&title, page.width - word.len() - 2);
    let _ = writeln!(page.text, "{}  {}", paint.mood(mood, word), paint.bold(title));
    // The reason of a pass is that every promise was kept; each stands below, with its numbers.
    let passed = report.ending.as_ref().is_some_and(|ending| ending.verdict == Verdict::Passed);
    match report.objectives.len() + report.expectations.len() {
        promises if passed && promises > 0 => {
            let kept = if promises == 1 { "its promise was" } else { "all promises were" };
            page.add("", Mood::Calm, &format!("{kept} kept, and everything is undone"));
        }
        _ => page.add("", Mood::Calm, why),
    }
    page.text.push('\n');
    for unpaid in &report.not_undone {
        page.add("NOT UNDONE", Mood::Bad, &format!("{}: {}", unpaid.fault, unpaid.why));
        page.whole("by hand", Mood::Bad, &unpaid.by_hand);
    }
    if let Some(steady) = report.steady.as_ref().filter(|steady| !steady.yes) {
        page.add("not steady", Mood::Bad, &steady.why);
    }
    for fault in &report.faults {
        page.add("happened", Mood::Calm, &happened(fault));
        page.add("noticed", Mood::Calm, &noticed(fault));
    }
    if let Some(stopped) = &report.stopped {
        page.add("stopped", Mood::Doubt, &format!("{}: {}", words::because_of(stopped.because), stopped.why));
    }
    if let Some(lasted) = lasted(report) {
        page.add("lasted", Mood::Calm, &lasted);
    }
    if let Some(recovery) = &report.recovery {
        let (mood, text) = if recovery.yes {
            (Mood::Good, format!("in {}: {}", ms(recovery.took_ms), recovery.why))
        } else {
            (Mood::Bad, format!("no: {}", recovery.why))
        };
        page.add("recovered", mood, &text);
    }
    for judged in &report.objectives {
        let mood = match judged.judgement {
            Judgement::Passed => Mood::Good,
            Judgement::Failed => Mood::Bad,
            Judgement::Inconclusive => Mood::Doubt,
        };
        let word = words::judgement(judged.judgement);
        page.add("objective", mood, &format!("{word}  {}: {}", judged.objective, judged.why));
    }
    for expectation in &report.expectations {
        let (mood, word) = if expectation.met { (Mood::Good, "met") } else { (Mood::Bad, "MISSED") };
        page.add("expectation", mood, &format!("{word}  {}: {}", expectation.name, expectation.why));
    }
    for text in &report.warnings {
        page.add("warning", Mood::Doubt, text);
    }
    if !report.journal.none() {
        let lost = &report.journal;
        let why = lost.error.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let (looks, events) =
            (counted(lost.samples as usize, "look"), counted(lost.events as usize, "other event"));
        page.add("journal", Mood::Doubt, &format!("lost {looks} and {events}{why}"));
    }
    if !report.run.file.is_empty() {
        page.whole("repeat", Mood::Calm, &report.run.repeat);
    }
    if let Some(place) = place {
        page.whole("report", Mood::Calm, &place.display().to_string());
    }
    page.text
}

struct Page {
    width: usize,
    paint: Paint,
    text: String,
}

impl Page {
    /// A label and a line that a person copies: never broken, however wide the terminal is.
    fn whole(&mut self, label: &str, mood: Mood, text: &str) {
        let label = self.paint.dim(format!("{label:>LABEL$}"));
        let _ = writeln!(self.text, "{label}  {}", self.paint.mood(mood, clean(text)));
    }

    /// A label and a text wrapped beside it.
    fn add(&mut self, label: &str, mood: Mood, text: &str) {
        for (n, line) in wrapped(&clean(text), self.width - LABEL - 2).iter().enumerate() {
            let label = if n == 0 { label } else { "" };
            let label = self.paint.dim(format!("{label:>LABEL$}"));
            let _ = writeln!(self.text, "{label}  {}", self.paint.mood(mood, line));
        }
    }
}

fn happened(fault: &FaultStory) -> String {
    let lasted = fault.ended.as_ref().map(|ended| ended.ms - fault.began.ms);
    let hold = match (&fault.effect, fault.state) {
        (Some(Effect::Mismatch(figures)), _) => format!("DID NOT TAKE HOLD: {figures}"),
        (_, FaultState::Failed) => {
            format!("could not be injected: {}", fault.why.as_deref().unwrap_or("no reason was told"))
        }
        (Some(Effect::Confirmed(figures)), _) => figures.clone(),
        (Some(Effect::Unverifiable(why)), _) => format!("its effect cannot be measured: {why}"),
        (None, _) => "its effect was not measured".to_owned(),
    };
    let end = match (fault.state, fault.undo_ms) {
        (FaultState::NotUndone, _) => "; NOT UNDONE".to_owned(),
        (FaultState::Injecting | FaultState::Live, _) => "; its undo was not seen".to_owned(),
        _ if !fault.lasting => "; it cannot be taken back".to_owned(),
        (_, Some(took)) => {
            format!("; undone in {} after {}", ms(took), words::latency(lasted))
        }
        (_, None) => String::new(),
    };
    format!("{} {}: {}; {hold}{end}", words::seconds(fault.began.ms), fault.name, fault.harm)
}

fn noticed(fault: &FaultStory) -> String {
    match &fault.noticed {
        Some(noticed) => format!(
            "after {} by {}{}; {} over {}",
            ms(noticed.after_ms),
            noticed.probe,
            noticed.why.as_ref().map_or_else(String::new, |why| format!(" ({why})")),
            counted(fault.bad_looks as usize, "bad look"),
            words::latency(fault.hurt_ms)
        ),
        None => "by nobody: no look broke a promise".to_owned(),
    }
}

fn lasted(report: &Report) -> Option<String> {
    let impact = &report.impact;
    let (failed, total) = (impact.failed?, impact.looks?);
    let rate = impact.error_rate.map_or_else(|| "-".to_owned(), words::percent);
    let baseline = impact.baseline_error_rate.map_or_else(|| "not measured".to_owned(), words::percent);
    let outage = impact.longest_outage_ms.filter(|long| *long > 0.0);
    let outage = outage.map_or_else(|| "no outage".to_owned(), |long| format!("longest outage {}", ms(long)));
    let span = report.phases.iter().find(|span| span.phase == Phase::Faults).and_then(|span| span.lasted_ms);
    let span = span.map_or_else(String::new, |span| format!(" in {}", ms(span)));
    Some(format!(
        "{outage}; {} of {} looks failed{span}: {rate} (baseline {baseline}){}",
        words::grouped(failed),
        words::grouped(total),
        words::failed_after(impact)
    ))
}
