//! What the live view knows: events folded into the present.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

use crate::event::{Event, Phase, Plan, Verdict, What};
use crate::fault::Effect;
use crate::report::facts::FaultState;
use crate::report::words;
use crate::slo::Outcome;

/// The looks of so many seconds are shown.
const WINDOW_S: usize = 10;
/// So many of the last happenings are shown.
pub(super) const NEWS: usize = 4;

/// The present of a run.
#[derive(Debug, Default)]
pub struct State {
    /// The experiment's title.
    pub(super) title: String,
    /// The run's id.
    pub(super) run: String,
    /// The seed.
    pub(super) seed: u64,
    /// What is planned; absent before.
    pub(super) plan: Plan,
    /// The phase, and when it began.
    pub(super) phase: Option<(Phase, f64)>,
    /// t = 0.
    pub(super) zero_ms: Option<f64>,
    /// The moment that is shown.
    pub(super) now_ms: f64,
    /// Faults by name, in order of the plan.
    pub(super) faults: Vec<LiveFault>,
    /// Probes, in order of the plan.
    pub(super) probes: Vec<LiveProbe>,
    /// Budgets: objective, spent, budget, one in.
    pub(super) budgets: Vec<(String, f64, f64, f64)>,
    /// The fault that waits for a person.
    pub(super) waiting: Option<String>,
    /// Why it is being stopped.
    pub(super) stopping: Option<String>,
    /// The end.
    pub(super) ended: Option<(Verdict, String)>,
    /// The last happenings, oldest first: when, and what.
    pub(super) news: VecDeque<(f64, String)>,
}

/// A fault in the live view.
#[derive(Debug)]
pub(super) struct LiveFault {
    pub name: String,
    pub kind: String,
    /// As planned: when, as people read it.
    pub at: String,
    /// As planned, after t = 0.
    pub begins_ms: Option<f64>,
    pub hold_ms: Option<f64>,
    /// `None` while it is only planned.
    pub state: Option<FaultState>,
    pub began_ms: f64,
    pub until_ms: Option<f64>,
    pub ended_ms: Option<f64>,
    pub effect: Option<Effect>,
    pub undo_ms: Option<f64>,
    pub why: Option<String>,
}

/// A probe in the live view: its last seconds.
#[derive(Debug)]
pub(super) struct LiveProbe {
    pub name: String,
    pub observe_only: bool,
    seconds: VecDeque<Second>,
}

/// The looks that came in within one second.
#[derive(Debug)]
struct Second {
    number: u64,
    /// The moment of its first look.
    from_ms: f64,
    good: u64,
    bad: u64,
    missed: u64,
    /// Microseconds.
    latencies: Option<Histogram<u32>>,
}

/// The figures of a probe's last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Window {
    pub good: u64,
    pub bad: u64,
    pub missed: u64,
    /// Good and bad looks a second.
    pub rate: f64,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
    pub p99_ms: Option<f64>,
}

/// From 1 us to 10 minutes, to two figures: a few kilobytes.
fn histogram() -> Option<Histogram<u32>> {
    Histogram::new_with_bounds(1, 600_000_000, 2).ok()
}

impl LiveProbe {
    fn new(name: &str, observe_only: bool) -> Self {
        Self { name: name.to_owned(), observe_only, seconds: VecDeque::new() }
    }

    fn add(&mut self, at_ms: f64, outcome: Outcome, latency_ms: f64) {
        let number = (at_ms / 1e3) as u64;
        // The clock of looks may stand a little back when several come in at once: they count as now.
        if self.seconds.back().is_none_or(|last| last.number < number) {
            while self.seconds.len() > WINDOW_S {
                self.seconds.pop_front();
            }
            self.seconds.push_back(Second {
                number,
                from_ms: at_ms,
                good: 0,
                bad: 0,
                missed: 0,
                latencies: histogram(),
            });
        }
        let Some(second) = self.seconds.back_mut() else { return };
        match outcome {
            Outcome::Good => second.good += 1,
            Outcome::Bad => second.bad += 1,
            Outcome::Missed => second.missed += 1,
        }
        if outcome != Outcome::Missed
            && let Some(latencies) = &mut second.latencies
        {
            latencies.saturating_record((latency_ms * 1e3) as u64);
        }
    }

    /// Its figures at a moment: of the second that runs and those before it.
    pub(super) fn window(&self, now_ms: f64) -> Window {
        let now = (now_ms / 1e3) as u64;
        let mut window = Window::default();
        let mut all = histogram();
        let mut first = None;
        for second in self.seconds.iter().filter(|second| second.number.saturating_add(WINDOW_S as u64) > now)
        {
            first.get_or_insert(second.from_ms);
            window.good += second.good;
            window.bad += second.bad;
            window.missed += second.missed;
            if let (Some(all), Some(latencies)) = (&mut all, &second.latencies) {
                let _ = all.add(latencies);
            }
        }
        if let Some(first) = first {
            let span = ((now_ms - first) / 1e3).max(1.0);
            window.rate = (window.good + window.bad) as f64 / span;
        }
        if let Some(all) = all.filter(|all| !all.is_empty()) {
            let at = |quantile: f64| Some(all.value_at_quantile(quantile) as f64 / 1e3);
            (window.p50_ms, window.p95_ms, window.p99_ms) = (at(0.5), at(0.95), at(0.99));
        }
        window
    }
}

impl State {
    /// Takes an event in.
    pub fn take(&mut self, event: &Event) {
        self.now_ms = self.now_ms.max(event.at_ms);
        let at = event.at_ms;
        match &event.what {
            What::Began { run, title, seed, .. } => {
                (self.run, self.title, self.seed) = (run.clone(), words::clean(title), *seed);
            }
            What::Planned { plan } => self.planned(plan),
            What::Phase { phase } => self.phase = Some((*phase, at)),
            What::Zero => self.zero_ms = Some(at),
            What::Waiting { fault } => self.waiting = Some(fault.clone()),
            What::Injecting { fault, kind, .. } => {
                if self.waiting.as_ref() == Some(fault) {
                    self.waiting = None;
                }
                let fault = self.fault(fault, kind);
                (fault.state, fault.began_ms) = (Some(FaultState::Injecting), at);
                (fault.ended_ms, fault.undo_ms, fault.until_ms) = (None, None, None);
                (fault.effect, fault.why) = (None, None);
            }
            What::Live { fault, effect, until_ms } => {
                let fault = self.fault(fault, "");
                fault.state = Some(FaultState::Live);
                (fault.effect, fault.until_ms) = (Some(effect.clone()), *until_ms);
            }
            What::InjectFailed { fault, why } => {
                let fault = self.fault(fault, "");
                (fault.state, fault.ended_ms) = (Some(FaultState::Failed), Some(at));
                fault.why = Some(words::clean(why));
            }
            What::Undone { fault, took_ms } => {
                let fault = self.fault(fault, "");
                if fault.state != Some(FaultState::Failed) {
                    fault.state = Some(FaultState::Undone);
                }
                (fault.ended_ms, fault.undo_ms) = (Some(at), Some(*took_ms));
            }
            What::NotUndone { fault, why, by_hand } => {
                let fault = self.fault(fault, "");
                fault.state = Some(FaultState::NotUndone);
                fault.why = Some(words::clean(&format!("{why}; by hand: {by_hand}")));
            }
            What::Sample { probe, outcome, latency_ms, .. } => {
                self.probe(probe).add(at, *outcome, *latency_ms);
            }
            What::Budget { objective, spent_s, budget_s, one_in } => {
                let known = self.budgets.iter_mut().find(|known| known.0 == *objective);
                let new = (objective.clone(), *spent_s, *budget_s, *one_in);
                match known {
                    Some(known) => *known = new,
                    None => self.budgets.push(new),
                }
            }
            What::Stopping { why, .. } => self.stopping = Some(words::clean(why)),
            What::Ended { verdict, why, .. } => self.ended = Some((*verdict, words::clean(why))),
            _ => {}
        }
        // The verdict has a line of its own, and phases are in the header.
        let elsewhere = matches!(event.what, What::Ended { .. } | What::Phase { .. });
        if let Some(said) = words::said(&event.what).filter(|_| !elsewhere) {
            if self.news.len() == NEWS {
                self.news.pop_front();
            }
            self.news.push_back((at, words::clean(&said)));
        }
    }

    /// Lets time pass without an event, until the run has ended.
    pub fn pass(&mut self, now_ms: f64) {
        if self.ended.is_none() {
            self.now_ms = self.now_ms.max(now_ms);
        }
    }

    /// The present at a moment of a run that was written down: a picture of it.
    #[must_use]
    pub fn at(events: &[Event], ms: f64) -> Self {
        let mut state = Self::default();
        for event in events.iter().filter(|event| event.at_ms <= ms) {
            state.take(event);
        }
        state.pass(ms);
        state
    }

    fn planned(&mut self, plan: &Plan) {
        self.plan = plan.clone();
        for planned in &plan.faults {
            let fault = self.fault(&planned.name, &planned.kind);
            fault.at = words::clean(&planned.at);
            (fault.begins_ms, fault.hold_ms) = (planned.begins_ms, planned.hold_ms);
        }
        for planned in plan.probes.iter().filter(|probe| probe.rate.is_some()) {
            self.probe(&planned.name).observe_only = planned.observe_only;
        }
    }

    fn fault(&mut self, name: &str, kind: &str) -> &mut LiveFault {
        let place = self.faults.iter().position(|fault| fault.name == name).unwrap_or_else(|| {
            self.faults.push(LiveFault {
                name: name.to_owned(),
                kind: kind.to_owned(),
                at: String::new(),
                begins_ms: None,
                hold_ms: None,
                state: None,
                began_ms: 0.0,
                until_ms: None,
                ended_ms: None,
                effect: None,
                undo_ms: None,
                why: None,
            });
            self.faults.len() - 1
        });
        &mut self.faults[place]
    }

    fn probe(&mut self, name: &str) -> &mut LiveProbe {
        let place = self.probes.iter().position(|probe| probe.name == name).unwrap_or_else(|| {
            self.probes.push(LiveProbe::new(name, false));
            self.probes.len() - 1
        });
        &mut self.probes[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_last_ten_seconds_and_forgets_the_rest() {
        let mut probe = LiveProbe::new("order", false);
        for n in 0..600_u32 {
            let at_ms = f64::from(n) * 100.0;
            let bad = n < 300;
            probe.add(at_ms, if bad { Outcome::Bad } else { Outcome::Good }, if bad { 900.0 } else { 4.0 });
        }
        let window = probe.window(59_900.0);
        assert_eq!((window.good, window.bad, window.missed), (100, 0, 0));
        assert!((9.0..=11.0).contains(&window.rate), "{}", window.rate);
        assert!((3.9..=4.1).contains(&window.p99_ms.unwrap()), "{window:?}");
        assert!(probe.seconds.len() <= WINDOW_S + 1);
        assert_eq!(probe.window(90_000.0), Window::default(), "silence is no figure");
    }

    #[test]
    fn a_missed_look_counts_but_has_no_latency() {
        let mut probe = LiveProbe::new("order", false);
        probe.add(100.0, Outcome::Missed, 0.0);
        let window = probe.window(200.0);
        assert_eq!((window.missed, window.p50_ms), (1, None));
    }
}
