//! From events to facts.

use std::collections::BTreeMap;

use super::facts::{
    Ending, Expected, FaultState, FaultStory, Finding, Impact, Line, Moment, Note, Noticed, PhaseTotals,
    ProbeStory, Recovery, Report, Run, Span, Spent, Stopped, Unpaid, VERSION,
};
use super::words;
use crate::event::{Event, Listener, Losses, Phase, PlannedProbe, StopReason, What};
use crate::slo::Outcome;

/// Lines of the timeline that are kept; beyond it they are counted.
const LINES: usize = 2_000;
/// Faults that are kept one by one (a repeated one counts each time); beyond it the last is written over.
const FAULTS: usize = 2_000;

/// Folds events into a [`Report`]. Pure: the same events give the same report, live or from a journal. Its
/// memory does not grow with the length of a run.
#[derive(Debug, Default)]
pub struct Story {
    report: Report,
    hurts: BTreeMap<usize, Hurt>,
}

/// From the intended start of the first bad look to the end of the last, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Hurt {
    from: f64,
    to: f64,
}

impl Story {
    /// The story of events that are already there.
    #[must_use]
    pub fn of(events: &[Event]) -> Self {
        let mut story = Self::default();
        for event in events {
            story.hear(event);
        }
        story
    }

    /// Whether the run's end has been heard.
    #[must_use]
    pub fn over(&self) -> bool {
        self.report.ending.is_some()
    }

    /// The facts as far as they have been heard; `journal` is what the journal lost.
    #[must_use]
    pub fn report(&self, journal: &Losses) -> Report {
        let mut report = self.report.clone();
        report.version = VERSION;
        for (place, hurt) in &self.hurts {
            if let Some(fault) = report.faults.get_mut(*place) {
                fault.hurt_ms = Some(to_the_microsecond(hurt.to - hurt.from));
            }
        }
        if !journal.none() {
            report.journal = journal.clone();
        }
        report.impact = impact(&report);
        report
    }

    /// The youngest fault of that name, since a repeated one is told each time.
    fn fault(&mut self, name: &str) -> Option<&mut FaultStory> {
        self.report.faults.iter_mut().rev().find(|fault| fault.name == name)
    }

    /// A probe's place; one that was not planned is added.
    fn probe(&mut self, name: &str) -> &mut ProbeStory {
        let probes = &mut self.report.probes;
        let place = probes.iter().position(|probe| probe.probe.name == name).unwrap_or_else(|| {
            let probe = PlannedProbe {
                name: name.to_owned(),
                kind: String::new(),
                looks_at: String::new(),
                rate: None,
                rhythm: None,
                retries: 0,
                observe_only: false,
            };
            probes.push(ProbeStory { probe, phases: Vec::new() });
            probes.len() - 1
        });
        &mut probes[place]
    }

    fn judged(&self, probe: &str) -> bool {
        self.report
            .probes
            .iter()
            .find(|known| known.probe.name == probe)
            .is_none_or(|known| !known.probe.observe_only && known.probe.rate.is_some())
    }

    /// The strictest latency threshold promised of a probe.
    fn below(&self, probe: &str) -> Option<f64> {
        let objectives = self.report.plan.iter().flat_map(|plan| &plan.objectives);
        objectives
            .filter(|objective| objective.probe == probe)
            .filter_map(|objective| objective.below_ms)
            .min_by(f64::total_cmp)
    }

    /// Lays a bad look at the feet of the faults that were live during it; if none was, of the one that ended
    /// last.
    fn bad_look(&mut self, at_ms: f64, intended_ms: f64, probe: &str, why: Option<&str>) {
        let live = |fault: &FaultStory| {
            fault.began.ms <= at_ms && fault.ended.as_ref().is_none_or(|ended| ended.ms >= intended_ms)
        };
        let faults = &mut self.report.faults;
        let mut to_blame: Vec<usize> = (0..faults.len()).filter(|place| live(&faults[*place])).collect();
        if to_blame.is_empty() {
            let ended = |place: &usize| faults[*place].ended.as_ref().map_or(0.0, |ended| ended.ms);
            let last = (0..faults.len()).max_by(|a, b| ended(a).total_cmp(&ended(b)));
            to_blame.extend(last);
        }
        for place in to_blame {
            let fault = &mut faults[place];
            fault.bad_looks += 1;
            fault.noticed.get_or_insert_with(|| Noticed {
                probe: probe.to_owned(),
                after_ms: to_the_microsecond(at_ms - fault.began.ms),
                why: why.map(str::to_owned),
            });
            let hurt = self.hurts.entry(place).or_insert(Hurt { from: intended_ms, to: at_ms });
            hurt.from = hurt.from.min(intended_ms);
            hurt.to = hurt.to.max(at_ms);
        }
    }

    /// Whether a fault lasts until undone, by its plan.
    fn lasts(&self, name: &str) -> bool {
        let mut planned = self.report.plan.iter().flat_map(|plan| &plan.faults);
        planned.find(|fault| fault.name == name).is_none_or(|fault| fault.hold_ms.is_some())
    }

    fn begin(&mut self, fault: FaultStory) {
        let faults = &mut self.report.faults;
        if faults.len() >= FAULTS {
            faults.pop();
            self.hurts.remove(&faults.len());
        }
        faults.push(fault);
    }

    fn tell(&mut self, at: &Moment, what: &What) {
        let Some(text) = words::said(what) else { return };
        if self.report.timeline.len() < LINES || matches!(what, What::Ended { .. } | What::NotUndone { .. }) {
            self.report.timeline.push(Line { at: at.clone(), text });
        } else {
            self.report.timeline_left_out += 1;
        }
    }
}

impl Listener for Story {
    #[expect(clippy::too_many_lines, reason = "one arm for each thing that can happen")]
    fn hear(&mut self, event: &Event) {
        let at = Moment { ms: event.at_ms, utc: event.wall.clone() };
        self.report.run.ended = at.clone();
        match &event.what {
            What::Sample { probe, intended_ms, outcome, latency_ms, why, .. } => {
                if self.report.faults.is_empty() || !self.judged(probe) {
                    return;
                }
                match outcome {
                    Outcome::Bad => self.bad_look(at.ms, *intended_ms, probe, why.as_deref()),
                    Outcome::Good => {
                        if let Some(below) = self.below(probe).filter(|below| latency_ms >= below) {
                            let why = format!("slower than {}", words::ms(below));
                            self.bad_look(at.ms, *intended_ms, probe, Some(&why));
                        }
                    }
                    Outcome::Missed => {}
                }
                return;
            }
            What::Thinned { .. } => return,
            What::Began { run, title, file, file_hash, seed, user, sudo_user, host, version } => {
                self.report.run = Run {
                    id: run.clone(),
                    title: title.clone(),
                    file: file.clone(),
                    file_hash: file_hash.clone(),
                    seed: *seed,
                    user: user.clone(),
                    sudo_user: sudo_user.clone(),
                    host: host.clone(),
                    brownout: version.clone(),
                    // No file, but a whole command, where there is none.
                    repeat: if file.starts_with("brownout ") {
                        format!("{file} --seed {seed}")
                    } else {
                        format!("brownout run {} --seed {seed}", words::quoted(file))
                    },
                    began: at.clone(),
                    ended: at.clone(),
                };
            }
            What::Planned { plan } => {
                for probe in &plan.probes {
                    self.probe(&probe.name).probe = probe.clone();
                }
                self.report.plan = Some(plan.clone());
            }
            What::Warning { text } => self.report.warnings.push(text.clone()),
            What::Phase { phase } => {
                if let Some(last) = self.report.phases.last_mut() {
                    last.lasted_ms = Some(to_the_microsecond(at.ms - last.began.ms));
                }
                self.report.phases.push(Span { phase: *phase, began: at.clone(), lasted_ms: None });
            }
            What::Steady { yes, why } => {
                self.report.steady = Some(Finding { yes: *yes, why: why.clone() });
            }
            What::Zero => self.report.zero = Some(at.clone()),
            What::Injecting { fault, kind, harm, tier, mechanism } => self.begin(FaultStory {
                name: fault.clone(),
                kind: kind.clone(),
                harm: harm.clone(),
                tier: *tier,
                mechanism: mechanism.clone(),
                lasting: self.lasts(fault),
                state: FaultState::Injecting,
                began: at.clone(),
                live: None,
                effect: None,
                until_ms: None,
                ended: None,
                undo_ms: None,
                why: None,
                noticed: None,
                bad_looks: 0,
                hurt_ms: None,
            }),
            What::Live { fault, effect, until_ms } => {
                if let Some(fault) = self.fault(fault) {
                    fault.state = FaultState::Live;
                    fault.live = Some(at.clone());
                    fault.effect = Some(effect.clone());
                    fault.until_ms = *until_ms;
                }
            }
            What::InjectFailed { fault, why } => {
                if let Some(fault) = self.fault(fault) {
                    fault.state = FaultState::Failed;
                    fault.ended = Some(at.clone());
                    fault.why = Some(why.clone());
                }
            }
            What::Undone { fault, took_ms } => {
                self.report.not_undone.retain(|unpaid| unpaid.fault != *fault);
                if let Some(fault) = self.fault(fault) {
                    // One that failed is undone too; that it failed is the more important word.
                    if fault.state != FaultState::Failed {
                        fault.state = FaultState::Undone;
                    }
                    fault.ended = Some(at.clone());
                    fault.undo_ms = Some(*took_ms);
                }
            }
            What::NotUndone { fault: name, why, by_hand } => {
                if let Some(fault) = self.fault(name) {
                    fault.state = FaultState::NotUndone;
                    fault.why = Some(why.clone());
                }
                self.report.not_undone.retain(|unpaid| unpaid.fault != *name);
                self.report.not_undone.push(Unpaid {
                    fault: name.clone(),
                    why: why.clone(),
                    by_hand: by_hand.clone(),
                });
            }
            What::Budget { objective, spent_s, budget_s, one_in } => {
                let spent = Spent {
                    objective: objective.clone(),
                    spent_s: *spent_s,
                    budget_s: *budget_s,
                    one_in: one_in.is_finite().then_some(*one_in),
                };
                match self.report.budgets.iter_mut().find(|known| known.objective == *objective) {
                    Some(known) => *known = spent,
                    None => self.report.budgets.push(spent),
                }
            }
            What::Stopping { because, why } => {
                if self.report.stopped.as_ref().is_none_or(|known| known.because < *because) {
                    let stopped = Stopped { because: *because, why: why.clone(), at: at.clone() };
                    self.report.stopped = Some(stopped);
                }
            }
            What::Note { who, text } => {
                self.report.notes.push(Note { who: who.clone(), text: text.clone(), at: at.clone() });
            }
            What::Expectation { name, met, why } => self.report.expectations.push(Expected {
                name: name.clone(),
                met: *met,
                why: why.clone(),
                at: at.clone(),
            }),
            What::Tally { probe, phase, totals } => {
                let phases = &mut self.probe(probe).phases;
                phases.retain(|known| known.phase != *phase);
                phases.push(PhaseTotals { phase: *phase, totals: totals.clone() });
            }
            What::Judged { judged } => {
                self.report.objectives.retain(|known| known.objective != judged.objective);
                self.report.objectives.push(judged.clone());
            }
            What::Recovered { yes, took_ms, why } => {
                self.report.recovery = Some(Recovery { yes: *yes, took_ms: *took_ms, why: why.clone() });
            }
            What::Ended { verdict, why, exit } => {
                self.report.ending = Some(Ending { verdict: *verdict, why: why.clone(), exit: *exit });
            }
            What::Lost { losses } => self.report.journal = losses.clone(),
            What::Service { .. } | What::Waiting { .. } => {}
        }
        self.tell(&at, &event.what);
    }
}

/// Without the noise that a difference of floating-point milliseconds leaves.
fn to_the_microsecond(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

fn impact(report: &Report) -> Impact {
    let judged =
        || report.probes.iter().filter(|probe| !probe.probe.observe_only && probe.probe.rate.is_some());
    let sum = |phase: Phase| {
        judged()
            .filter_map(|probe| probe.totals(phase))
            .map(|totals| (totals.looks(), totals.bad))
            .reduce(|a, b| (a.0 + b.0, a.1 + b.1))
    };
    let rate = |(looks, bad): (u64, u64)| (looks > 0).then(|| bad as f64 / looks as f64);
    let (steady, faults, after) = (sum(Phase::Steady), sum(Phase::Faults), sum(Phase::Recovery));
    let began = report.faults.first().map(|fault| fault.began.ms);
    let since = |ms: f64| began.map(|began| to_the_microsecond(ms - began));
    let noticed = report
        .faults
        .iter()
        .filter_map(|fault| fault.noticed.as_ref().map(|noticed| fault.began.ms + noticed.after_ms))
        .min_by(f64::total_cmp);
    let guard = report.stopped.as_ref().filter(|stopped| stopped.because == StopReason::Guard);
    Impact {
        baseline_error_rate: steady.and_then(rate),
        error_rate: faults.and_then(rate),
        looks: faults.map(|(looks, _)| looks),
        failed: faults.map(|(_, bad)| bad),
        failed_after: after.map(|(_, bad)| bad),
        longest_outage_ms: judged()
            .flat_map(|probe| [probe.totals(Phase::Faults), probe.totals(Phase::Recovery)])
            .flatten()
            .map(|totals| totals.longest_outage_ms)
            .max_by(f64::total_cmp),
        noticed_after_ms: noticed.and_then(since),
        guard_after_ms: guard.and_then(|stopped| since(stopped.at.ms)),
    }
}
