//! The live view as lines of text: a pure function of what is known.

use super::state::{LiveFault, State, Window};
use crate::event::{Phase, Verdict};
use crate::fault::Effect;
use crate::report::facts::FaultState;
use crate::report::paint::{Mood, Paint, fit, wrapped};
use crate::report::words::{self, ms};

const NARROWEST: usize = 40;

/// Draws the present, in lines of at most `width` characters (at least 40), and in at most so many rows, as far as
/// the header and the verdict fit: what matters least is left out first.
#[must_use]
pub fn frame(state: &State, width: usize, rows: usize, paint: Paint) -> Vec<String> {
    let section = |draw: fn(&State, &mut Page)| {
        let mut page = Page { width: width.max(NARROWEST), paint, lines: Vec::new() };
        draw(state, &mut page);
        page.lines
    };
    let mut sections = [header, timeline, probes, budgets, news, end].map(section);
    for least in [4, 3, 1, 2] {
        let too_many = sections.iter().map(Vec::len).sum::<usize>().saturating_sub(rows);
        let left = sections[least].len().saturating_sub(too_many);
        // A heading without anything below it says nothing.
        sections[least].truncate(if left > 2 {
            left
        } else if too_many == 0 {
            usize::MAX
        } else {
            0
        });
    }
    sections.concat()
}

struct Page {
    width: usize,
    paint: Paint,
    lines: Vec<String>,
}

impl Page {
    /// A line of parts, each with its mood, cut to the page's width.
    fn line(&mut self, parts: &[(Mood, String)]) {
        let mut left = self.width;
        let mut line = String::new();
        for (mood, text) in parts {
            let text = text.replace('\n', " ");
            let length = text.chars().count().min(left);
            let text = if text.chars().count() > left { fit(&text, left) } else { text };
            line.push_str(&self.paint.mood(*mood, text));
            left -= length;
            if left == 0 {
                break;
            }
        }
        self.lines.push(line);
    }

    /// A text on as many lines as it needs.
    fn wrapped(&mut self, mood: Mood, text: &str) {
        for line in wrapped(text, self.width) {
            self.line(&[(mood, line)]);
        }
    }

    fn heading(&mut self, text: &str, columns: &str) {
        let gap = self.width.saturating_sub(text.chars().count() + columns.chars().count());
        let text = fit(&format!("{text}{}{columns}", " ".repeat(gap)), self.width);
        self.lines.push(String::new());
        self.lines.push(self.paint.dim(text.trim_end()));
    }
}

fn header(state: &State, page: &mut Page) {
    let right = format!("run {}, seed {}", state.run, state.seed);
    let room = page.width.saturating_sub(right.chars().count() + 2);
    let title = fit(&state.title, room);
    page.lines.push(format!("{}  {}", page.paint.bold(title), page.paint.dim(right)));
    let (phase, mood) = phase(state);
    page.wrapped(mood, &phase);
}

/// Where the run is, in words.
fn phase(state: &State) -> (String, Mood) {
    let Some((phase, since)) = state.phase else { return ("starting".to_owned(), Mood::Calm) };
    let passed = state.now_ms - since;
    let of = |all: f64| {
        if all > 0.0 { format!("{} of {}", ms_coarse(passed), ms_coarse(all)) } else { ms_coarse(passed) }
    };
    match phase {
        Phase::Preflight => ("preflight: nothing is touched yet".to_owned(), Mood::Calm),
        Phase::Steady => (format!("steady state: proving it, {}", of(state.plan.steady_for_ms)), Mood::Calm),
        Phase::Faults => {
            let t = ms_coarse(state.now_ms - state.zero_ms.unwrap_or(since));
            match (&state.stopping, &state.waiting) {
                (Some(why), _) => (format!("STOPPING at t = {t}: {why}"), Mood::Bad),
                (None, Some(fault)) => {
                    (format!("faults, t = {t}: {fault} waits for you, press Enter"), Mood::Doubt)
                }
                (None, None) => (format!("faults, t = {t}"), Mood::Calm),
            }
        }
        Phase::Unwind => match &state.stopping {
            Some(why) => (format!("STOPPING, undoing everything: {why}"), Mood::Bad),
            None => ("unwind: undoing everything".to_owned(), Mood::Calm),
        },
        Phase::Recovery => {
            (format!("recovery: watching until it is steady again, {}", ms_coarse(passed)), Mood::Calm)
        }
        Phase::Over => ("over".to_owned(), Mood::Calm),
    }
}

/// Seconds with one digit, so that a running figure does not jump about.
fn ms_coarse(value: f64) -> String {
    let value = value.max(0.0);
    if value < 60_000.0 { format!("{:.1} s", value / 1e3) } else { ms((value / 1e3).round() * 1e3) }
}

fn timeline(state: &State, page: &mut Page) {
    if state.faults.is_empty() {
        return;
    }
    let names = column(state.faults.iter().map(|fault| fault.name.as_str()), page.width / 4);
    let kinds = column(state.faults.iter().map(|fault| fault.kind.as_str()), 10);
    let bar = (page.width - names - kinds - 5)
        .min(if page.width < 100 { page.width / 4 } else { page.width / 3 })
        .max(8);
    let (zero, now) = (state.zero_ms, state.now_ms);
    let span = span_ms(state);
    page.heading(&format!("{} {}  {}", fit("faults", names), fit("kind", kinds), scale(span, bar)), "");
    for fault in &state.faults {
        let track = track(fault, zero, now, span, bar);
        let (mood, text) = standing(fault, state);
        page.line(&[
            (Mood::Calm, format!("{} {}  ", fit(&fault.name, names), fit(&fault.kind, kinds))),
            (mood, track),
            (mood, format!("  {text}")),
        ]);
    }
}

/// `0 s ----- 45 s` over a bar.
fn scale(span: f64, bar: usize) -> String {
    let end = ms_coarse(span);
    let gap = bar.saturating_sub(3 + end.chars().count());
    format!("0 s{}{end}", " ".repeat(gap))
}

fn column<'a>(names: impl Iterator<Item = &'a str>, most: usize) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0).clamp(6, most.max(6))
}

/// What the bars stand for: from t = 0 to the planned end, and longer when the run is.
fn span_ms(state: &State) -> f64 {
    let zero = state.zero_ms.unwrap_or(state.now_ms);
    let planned =
        state.faults.iter().map(|fault| fault.begins_ms.unwrap_or(0.0) + fault.hold_ms.unwrap_or(0.0));
    let seen = state
        .faults
        .iter()
        .filter(|fault| fault.state.is_some())
        .map(|fault| fault.until_ms.or(fault.ended_ms).unwrap_or(state.now_ms) - zero);
    planned.chain(seen).fold(1_000.0, f64::max)
}

/// A fault's bar: `·` nothing, `░` planned, `█` live, `│` now.
fn track(fault: &LiveFault, zero: Option<f64>, now: f64, span: f64, bar: usize) -> String {
    let place = |ms: f64| ((ms / span * bar as f64) as usize).min(bar - 1);
    let mut cells = vec!['·'; bar];
    let zero_ms = zero.unwrap_or(now);
    let (from, to) = if fault.state.is_some() {
        let end = fault.until_ms.unwrap_or(now).max(now);
        (fault.began_ms - zero_ms, fault.ended_ms.unwrap_or(end) - zero_ms)
    } else {
        let begins = fault.begins_ms.unwrap_or(-1.0);
        (begins, begins + fault.hold_ms.unwrap_or(0.0))
    };
    if from >= 0.0 {
        cells[place(from)..=place(to.max(from))].fill('░');
    }
    if fault.state.is_some() {
        let lived = (fault.ended_ms.unwrap_or(now) - zero_ms).max(from);
        cells[place(from.max(0.0))..=place(lived.max(0.0))].fill('█');
    }
    if zero.is_some() && now - zero_ms < span {
        let here = place(now - zero_ms);
        if cells[here] != '█' {
            cells[here] = '│';
        }
    }
    cells.into_iter().collect()
}

/// How a fault stands, in a few words.
fn standing(fault: &LiveFault, state: &State) -> (Mood, String) {
    let figures = match &fault.effect {
        Some(Effect::Confirmed(figures)) => figures.clone(),
        Some(Effect::Mismatch(figures)) => format!("DID NOT TAKE HOLD: {figures}"),
        Some(Effect::Unverifiable(_)) => "effect not measurable".to_owned(),
        None => String::new(),
    };
    let missed = matches!(fault.effect, Some(Effect::Mismatch(_)));
    let why = fault.why.as_deref().unwrap_or("no reason was told");
    let (mood, text) = match fault.state {
        None if state.waiting.as_ref() == Some(&fault.name) => (Mood::Doubt, "waits for you".to_owned()),
        None if state.stopping.is_some() || state.ended.is_some() => (Mood::Calm, "not begun".to_owned()),
        None => (Mood::Calm, format!("planned at {}", fault.at)),
        Some(FaultState::Injecting) => (Mood::Doubt, "begins".to_owned()),
        Some(FaultState::Live) => {
            let left = fault
                .until_ms
                .map_or_else(String::new, |until| format!(", undo in {}", ms_coarse(until - state.now_ms)));
            (Mood::Doubt, format!("live{left}  {figures}"))
        }
        Some(FaultState::Failed) => (Mood::Bad, format!("not injected: {why}")),
        Some(FaultState::Undone) => {
            let took = fault.undo_ms.map_or_else(String::new, |took| format!(" in {}", ms(took)));
            let word = if fault.hold_ms.is_some() { format!("undone{took}") } else { "done".to_owned() };
            (Mood::Good, format!("{word}  {figures}"))
        }
        Some(FaultState::NotUndone) => (Mood::Bad, format!("NOT UNDONE: {why}")),
    };
    if missed { (Mood::Bad, figures) } else { (mood, text.trim_end().to_owned()) }
}

fn probes(state: &State, page: &mut Page) {
    if state.probes.is_empty() {
        return;
    }
    let columns = ["rate", "p50", "p95", "p99", "good", "bad", "missed"];
    let wide = if page.width >= 100 { 10 } else { 8 };
    let row = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>wide$}")).collect();
        cells.concat()
    };
    let names = page.width.saturating_sub(columns.len() * wide).max(8);
    page.heading("probes, last 10 s", &row(&columns.map(str::to_owned)));
    for probe in &state.probes {
        let window = probe.window(state.now_ms);
        let name = if probe.observe_only { format!("{} (observed)", probe.name) } else { probe.name.clone() };
        let latency = |ms: Option<f64>| words::latency(ms);
        let calm = row(&[
            rate(&window),
            latency(window.p50_ms),
            latency(window.p95_ms),
            latency(window.p99_ms),
            words::grouped(window.good),
        ]);
        let alarm = |n: u64, mood| if n > 0 { mood } else { Mood::Calm };
        let bad_mood = if probe.observe_only { Mood::Calm } else { Mood::Bad };
        page.line(&[
            (Mood::Calm, fit(&name, names)),
            (Mood::Calm, calm),
            (alarm(window.bad, bad_mood), row(&[words::grouped(window.bad)])),
            (alarm(window.missed, Mood::Doubt), row(&[words::grouped(window.missed)])),
        ]);
    }
}

fn rate(window: &Window) -> String {
    if window.rate >= 10.0 { format!("{:.0}/s", window.rate) } else { format!("{:.1}/s", window.rate) }
}

fn budgets(state: &State, page: &mut Page) {
    if state.budgets.is_empty() {
        return;
    }
    page.heading("error budget left", "");
    let names = column(state.budgets.iter().map(|budget| budget.0.as_str()), page.width * 2 / 5);
    let bar = page.width / 5;
    for (objective, spent, budget, one_in) in &state.budgets {
        let left = if *budget > 0.0 { (1.0 - spent / budget).clamp(0.0, 1.0) } else { 0.0 };
        let filled = (left * bar as f64).ceil() as usize;
        let mood = if left > 0.5 {
            Mood::Good
        } else if left > 0.2 {
            Mood::Doubt
        } else {
            Mood::Bad
        };
        page.line(&[
            (Mood::Calm, format!("{} ", fit(&words::clean(objective), names))),
            (mood, format!("{}{}", "█".repeat(filled), "░".repeat(bar - filled))),
            (Mood::Calm, format!("  {spent:.1} of {budget:.1} s spent{}", chance(*one_in))),
        ]);
    }
}

/// How likely it is that a system which keeps its promise looks like this.
fn chance(one_in: f64) -> String {
    if one_in < 2.0 {
        String::new()
    } else if one_in < 1e6 {
        format!(", 1 in {} by chance", words::grouped(one_in as u64))
    } else {
        ", 1 in 1,000,000 or more by chance".to_owned()
    }
}

fn news(state: &State, page: &mut Page) {
    if state.news.is_empty() {
        return;
    }
    page.heading("lately", "");
    for (at, text) in &state.news {
        page.line(&[(Mood::Calm, format!("{:>9}  {text}", words::seconds(*at)))]);
    }
}

fn end(state: &State, page: &mut Page) {
    let Some((verdict, why)) = &state.ended else { return };
    let mood = match verdict {
        Verdict::Passed => Mood::Good,
        Verdict::Failed | Verdict::Aborted | Verdict::NotUndone => Mood::Bad,
        Verdict::Inconclusive | Verdict::Interrupted | Verdict::Refused => Mood::Doubt,
    };
    page.lines.push(String::new());
    page.wrapped(mood, &format!("{}: {why}", words::verdict(*verdict)));
}
