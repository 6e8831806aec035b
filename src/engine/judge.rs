//! What the looks of a run mean: which promise each one is held against, and what the pure judges in `slo`
//! say to it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::timeline::foresee;
use super::verdict::{Finding, Findings};
use crate::base::{Rate, unit};
use crate::event::{Interval, Judged, Judgement, Percentiles, Phase, Reason, Totals, What};
use crate::experiment::Experiment;
use crate::experiment::model::{Budget, Promises};
use crate::probe::schedule::Look;
use crate::slo::{
    Guard, GuardSettings, Objective, Outcome, Progress, Promise, Ruling, Sample, Score, Steady, Tally, Terms,
    Watched, bursts_borne, default_budget, slice_for,
};

/// One promise, and when it is in force.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) objective: Objective,
    /// The SLO it belongs to.
    slo: usize,
    /// The fault during which it stands instead of the SLO's general promises.
    pub(super) during: Option<usize>,
}

/// All promises of an experiment, one by one, in the order of the file.
pub(super) fn rules(experiment: &Experiment) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (n, slo) in experiment.slos.iter().enumerate() {
        let mut add = |promises: &Promises, during: Option<usize>| {
            let when = during
                .and_then(|fault| experiment.faults.get(fault))
                .map_or_else(String::new, |fault| format!(" during {}", fault.name));
            let mut promise = |promise: Promise| {
                let mut objective = Objective { name: String::new(), probe: slo.probe, promise };
                objective.name = format!("{} {}{when}", slo.name, objective.promised());
                rules.push(Rule { objective, slo: n, during });
            };
            if let Some(availability) = promises.availability {
                promise(Promise::Ratio { p0: 1.0 - availability.share(), below: None });
            }
            for (percentile, below) in &promises.latency {
                promise(Promise::Ratio { p0: 1.0 - percentile, below: Some(*below) });
            }
            if let Some(longest) = promises.longest_outage {
                promise(Promise::Outage { longest });
            }
        };
        add(&slo.promises, None);
        for (fault, promises) in &slo.during {
            add(promises, Some(*fault));
        }
    }
    rules
}

/// When a fault was felt: each time from its injection until the system has recovered from it.
#[derive(Debug, Clone, Default)]
struct Scope {
    /// Since when it is felt.
    since: Option<Duration>,
    /// When it was felt before, in order.
    past: Vec<(Duration, Duration)>,
    /// Looks for the recovery, once the fault has ended.
    recovery: Option<Steady>,
}

impl Scope {
    /// Whether it was felt at some moment between a look's intended start and its end.
    fn overlaps(&self, sample: &Sample) -> bool {
        let mut late = self.past.iter().rev().take_while(|(_, to)| *to >= sample.intended);
        self.since.is_some_and(|from| from <= sample.ended) || late.any(|(from, _)| *from <= sample.ended)
    }

    fn felt(&self) -> bool {
        self.since.is_some() || !self.past.is_empty()
    }

    fn ends(&mut self, at: Duration) {
        self.recovery = None;
        if let Some(since) = self.since.take() {
            self.past.push((since, at.max(since)));
        }
    }
}

/// Whether the system is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Nobody can tell: nothing is promised.
    Nothing,
    /// Since then.
    Since(Duration),
    /// It is not, and too late: why.
    Not(String),
}

/// The looks of one probe in one phase, and whether it was looked at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Steady,
    Faults,
    Recovery,
}

const PARTS: [(Part, Phase); 3] =
    [(Part::Steady, Phase::Steady), (Part::Faults, Phase::Faults), (Part::Recovery, Phase::Recovery)];

/// How long undoing is taken to take before any was measured.
const UNDO: Duration = Duration::from_secs(1);
/// How long after a look has settled it is judged at the latest.
const TICK: Duration = Duration::from_millis(100);

/// Looks that may wait to be scored; beyond it the oldest are scored by what stands now.
const MOST_DEFERRED: usize = 100_000;

/// All judges of a run.
pub(super) struct Judge {
    experiment: Arc<Experiment>,
    rules: Vec<Rule>,
    scores: Vec<Score>,
    scopes: Vec<Scope>,
    tallies: Vec<[Tally; 3]>,
    in_flight: Vec<BTreeSet<Duration>>,
    zero: Option<Duration>,
    last_undo: Option<Duration>,
    steady: Option<Steady>,
    recovery: Option<Steady>,
    guard: Option<Guard>,
    bounds: Option<String>,
    /// Looks that wait to be scored.
    deferred: VecDeque<(usize, Sample)>,
}

impl Judge {
    pub(super) fn new(experiment: &Arc<Experiment>) -> Self {
        let rules = rules(experiment);
        Self {
            experiment: experiment.clone(),
            scores: rules.iter().map(|rule| Score::new(rule.objective.clone())).collect(),
            rules,
            scopes: vec![Scope::default(); experiment.faults.len()],
            tallies: experiment.probes.iter().map(|_| std::array::from_fn(|_| Tally::new())).collect(),
            in_flight: vec![BTreeSet::new(); experiment.probes.len()],
            zero: None,
            last_undo: None,
            steady: None,
            recovery: None,
            guard: None,
            bounds: None,
            deferred: VecDeque::new(),
        }
    }

    fn rate(&self, probe: usize) -> f64 {
        rate(&self.experiment, probe)
    }

    /// How long a steady state takes at least to be seen: the time asked for, or until the slowest probe has looked
    /// often enough.
    pub(super) fn steady_takes(&self) -> Duration {
        self.tracker(Duration::ZERO, None).map_or(self.experiment.steady_for, |steady| steady.takes())
    }

    /// The general promises with their looks a second: what the steady state and recovery are held against.
    fn general(&self) -> Vec<(Objective, f64)> {
        let general = self.rules.iter().filter(|rule| rule.during.is_none());
        general.map(|rule| (rule.objective.clone(), self.rate(rule.objective.probe))).collect()
    }

    fn tracker(&self, origin: Duration, within: Option<Duration>) -> Option<Steady> {
        let general = self.general();
        let hold = self.experiment.steady_for;
        (!general.is_empty()).then(|| Steady::new(&general, hold, origin, within))
    }

    pub(super) fn steady_begins(&mut self, now: Duration) {
        self.steady = self.tracker(now, None);
    }

    /// Whether the system is steady, in a sentence; `None` while that is open.
    pub(super) fn steady(&mut self, now: Duration) -> Option<String> {
        match &mut self.steady {
            None => Some("nothing is promised, so nothing had to be proved".to_owned()),
            Some(steady) => matches!(steady.judge(now), Progress::Held(_)).then(|| steady.why().to_owned()),
        }
    }

    /// What was in the way of a steady state.
    pub(super) fn not_steady_because(&self) -> String {
        self.steady.as_ref().map_or_else(String::new, |steady| steady.why().to_owned())
    }

    /// t = 0: from here on the guard watches.
    pub(super) fn zero(&mut self, now: Duration) {
        self.zero = Some(now);
        let slice = slice_for(self.steady.as_ref().map(Steady::longest_burst).unwrap_or_default());
        let settings = guard_settings(&self.experiment, slice);
        let watched = self.rules.iter().map(|rule| watched(&self.experiment, rule, settings.planned, now));
        self.guard = Some(Guard::new(settings, watched.collect()));
        self.bounds = (!self.rules.is_empty()).then(|| {
            format!(
                "the chance of a false abort by evidence is at most {} for bursts of bad looks up to {}",
                self.experiment.guard.false_abort,
                unit::say(bursts_borne(slice))
            )
        });
    }

    /// Under which conditions the guard's promise holds.
    pub(super) fn bounds(&self) -> Option<&str> {
        self.bounds.as_deref()
    }

    pub(super) fn begun(&mut self, probe: usize, intended: Duration) {
        self.in_flight[probe].insert(intended);
        let part = self.part(intended) as usize;
        self.tallies[probe][part].begun(intended);
        for tracker in self.steady.iter_mut().chain(&mut self.recovery) {
            tracker.begun(probe, intended);
        }
        for scope in &mut self.scopes {
            if let Some(recovery) = &mut scope.recovery {
                recovery.begun(probe, intended);
            }
        }
        if self.zero.is_some_and(|zero| intended >= zero) {
            for (n, _) in self.rules.iter().enumerate().filter(|(_, rule)| rule.objective.probe == probe) {
                self.scores[n].begun(intended);
                if let Some(guard) = &mut self.guard {
                    guard.begun(n, intended);
                }
            }
        }
    }

    pub(super) fn settled(&mut self, look: &Look) {
        let Look { probe, sample, .. } = look;
        let probe = *probe;
        // A look that could not begin was never told to have: every judge wants both.
        if !self.in_flight[probe].contains(&sample.intended) {
            self.begun(probe, sample.intended);
        }
        self.in_flight[probe].remove(&sample.intended);
        let part = self.part(sample.intended) as usize;
        self.tallies[probe][part].settled(sample);
        for tracker in self.steady.iter_mut().chain(&mut self.recovery) {
            tracker.settled(probe, sample);
        }
        for scope in &mut self.scopes {
            if let Some(recovery) = &mut scope.recovery {
                recovery.settled(probe, sample);
            }
        }
        if self.zero.is_none_or(|zero| sample.intended < zero) {
            return;
        }
        let silent = Sample { outcome: Outcome::Missed, ..sample.clone() };
        for n in 0..self.rules.len() {
            if self.rules[n].objective.probe == probe {
                let in_force = self.in_force(n, sample);
                if let Some(guard) = &mut self.guard {
                    // What was told to begin must be told to have ended, also where it is held against nothing.
                    guard.settled(n, if in_force { sample } else { &silent });
                }
            }
        }
        self.deferred.push_back((probe, sample.clone()));
        self.score();
    }

    /// Scores looks in the order in which they settled. While it is open when the system will have recovered from
    /// a fault, it is open which promises its looks are held against: they wait for that. The guard does not: it
    /// holds them against what stands until recovery is proved.
    fn score(&mut self) {
        let open = self.scopes.iter().any(|scope| scope.recovery.is_some());
        let most = if open { MOST_DEFERRED } else { 0 };
        while self.deferred.len() > most {
            let Some((probe, sample)) = self.deferred.pop_front() else { return };
            for n in 0..self.rules.len() {
                if self.rules[n].objective.probe != probe {
                    continue;
                }
                if self.in_force(n, &sample) {
                    self.scores[n].settled(&sample);
                } else {
                    self.scores[n].passed_over(&sample);
                }
            }
        }
    }

    /// Whether a look is held against a rule. A look belongs to the faults that were felt between its intended
    /// start and its end. The general promises stand up to the last undo, and on while a fault that is over
    /// when done (a kill) is still felt: nobody undoes it but the system itself.
    fn in_force(&self, n: usize, sample: &Sample) -> bool {
        let rule = &self.rules[n];
        if let Some(fault) = rule.during {
            return self.scopes[fault].overlaps(sample);
        }
        let instead = self.experiment.slos[rule.slo].during.iter();
        if instead.clone().any(|(fault, _)| self.scopes[*fault].overlaps(sample)) {
            return false;
        }
        let felt = self.experiment.faults.iter().zip(&self.scopes);
        self.last_undo.is_none_or(|end| sample.intended < end)
            || felt.clone().any(|(fault, scope)| !fault.harm.lasting() && scope.overlaps(sample))
    }

    fn part(&self, intended: Duration) -> Part {
        match (self.zero, self.last_undo) {
            (Some(zero), _) if intended < zero => Part::Steady,
            (None, _) => Part::Steady,
            (_, Some(end)) if intended >= end => Part::Recovery,
            _ => Part::Faults,
        }
    }

    pub(super) fn fault_begins(&mut self, fault: usize, now: Duration) {
        let scope = &mut self.scopes[fault];
        scope.since.get_or_insert(now);
        scope.recovery = None;
    }

    pub(super) fn fault_ended(&mut self, fault: usize, now: Duration) {
        if self.scopes[fault].since.is_some() {
            match self.tracker(now, None) {
                Some(recovery) => self.scopes[fault].recovery = Some(recovery),
                None => self.scopes[fault].ends(now),
            }
        }
    }

    /// Whether the run must be stopped, and why.
    pub(super) fn abort(&mut self, now: Duration) -> Option<String> {
        self.recoveries(now);
        let guard = self.guard.as_mut()?;
        for (n, rule) in self.rules.iter().enumerate() {
            let probe = &self.experiment.probes[rule.objective.probe];
            let certain = match rule.objective.promise {
                Promise::Ratio { below: Some(below), .. } => below.min(probe.timeout),
                _ => probe.timeout,
            };
            // A look in flight that is past what it may take is bad, whatever it will say.
            let asks = Sample {
                intended: now.saturating_sub(certain),
                started: now,
                ended: now,
                outcome: Outcome::Bad,
                why: None,
            };
            let since = self.zero.unwrap_or_default();
            let late = match now.checked_sub(certain).filter(|until| *until >= since) {
                Some(until) => self.in_flight[rule.objective.probe].range(since..=until).count(),
                None => 0,
            };
            let general_over = rule.during.is_none()
                && self.experiment.slos[rule.slo].during.iter().any(|(f, _)| self.scopes[*f].overlaps(&asks));
            let stands = match rule.during {
                Some(fault) => self.scopes[fault].overlaps(&asks),
                None => !general_over,
            };
            guard.late(n, if stands { late as u64 } else { 0 });
        }
        guard.judge(now).map(|abort| abort.why)
    }

    /// Ends the scopes of faults from which the system has recovered.
    fn recoveries(&mut self, now: Duration) {
        for scope in &mut self.scopes {
            if let Some(recovery) = &mut scope.recovery
                && let Progress::Held(stretch) = recovery.judge(now)
            {
                scope.ends(stretch.began);
            }
        }
        self.score();
    }

    pub(super) fn last_undo(&mut self, now: Duration) {
        self.last_undo = Some(now);
        self.recovery = self.tracker(now, Some(self.experiment.recovery_within));
    }

    /// Since when the system is as it was, or why it is not; `None` while that is open.
    pub(super) fn recovery(&mut self, now: Duration) -> Option<Recovery> {
        self.recoveries(now);
        let Some(recovery) = &mut self.recovery else { return Some(Recovery::Nothing) };
        match recovery.judge(now) {
            Progress::Watching { .. } => None,
            Progress::Held(stretch) => Some(Recovery::Since(stretch.began)),
            Progress::TooLate => {
                let within = unit::say(self.experiment.recovery_within);
                Some(Recovery::Not(format!("no recovery within {within}: {}", recovery.why())))
            }
        }
    }

    /// The guard's view of every objective, as events.
    pub(super) fn views(&self) -> Vec<What> {
        let views = self.guard.iter().flat_map(Guard::views);
        views
            .zip(&self.rules)
            .map(|(view, rule)| What::Budget {
                objective: rule.objective.name.clone(),
                spent_s: view.spent,
                budget_s: view.budget,
                one_in: view.one_in,
            })
            .collect()
    }

    /// Good, bad and all looks of a probe from t = 0 on: what a check after the run may ask for.
    pub(super) fn counts(&self, probe: usize) -> (u64, u64, u64) {
        let [_, faults, recovery] = &self.tallies[probe];
        let (good, bad) = (faults.good() + recovery.good(), faults.bad() + recovery.bad());
        (good, bad, good + bad + faults.missed() + recovery.missed())
    }

    /// All looks of every probe in every phase, as events.
    pub(super) fn tallies(&self) -> Vec<What> {
        let mut events = Vec::new();
        for (probe, tallies) in self.experiment.probes.iter().zip(&self.tallies) {
            for (part, phase) in PARTS {
                let tally = &tallies[part as usize];
                if tally.good() + tally.bad() + tally.missed() > 0 {
                    let (probe, totals) = (probe.name.clone(), totals(tally));
                    events.push(What::Tally { probe, phase, totals });
                }
            }
        }
        events
    }

    /// The end of every objective, told and taken into the findings.
    pub(super) fn conclude(&mut self, findings: &mut Findings) -> Vec<What> {
        // From what the system has not recovered by now, it has not recovered.
        self.scopes.iter_mut().for_each(|scope| scope.recovery = None);
        self.score();
        let terms = terms(&self.experiment, &self.rules);
        let mut events = Vec::new();
        for (rule, score) in self.rules.iter().zip(&self.scores) {
            let never = rule.during.is_some_and(|fault| !self.scopes[fault].felt());
            if never {
                continue; // Its fault never came, which is told elsewhere.
            }
            let finding = score.judge(&terms);
            let (good, bad, _) = score.counts();
            let found = Finding { severity: finding.used, why: finding.brief.clone() };
            let judgement = match finding.ruling {
                Ruling::Passed => {
                    findings.held.push(found);
                    Judgement::Passed
                }
                Ruling::Failed => {
                    findings.failed.push(found);
                    Judgement::Failed
                }
                Ruling::Inconclusive => {
                    findings.open.push(found.why);
                    Judgement::Inconclusive
                }
            };
            if finding.starved {
                findings.starved.get_or_insert(finding.why.clone());
            }
            let level = 1.0 - terms.level();
            let interval = finding.interval.map(|range| Interval { low: range.low, high: range.high, level });
            let name = &rule.objective.name;
            let why = finding.why.strip_prefix(&format!("{name}: ")).unwrap_or(&finding.why).to_owned();
            events.push(What::Judged {
                judged: Judged { objective: name.clone(), judgement, why, looks: good + bad, bad, interval },
            });
        }
        events
    }
}

/// Looks a second of a probe.
fn rate(experiment: &Experiment, probe: usize) -> f64 {
    experiment.probes[probe].rate.map_or(1.0, Rate::hertz)
}

/// What the guard of an experiment goes by.
pub(super) fn guard_settings(experiment: &Experiment, slice: Duration) -> GuardSettings {
    let planned = foresee(experiment).takes;
    GuardSettings { alpha: experiment.guard.false_abort.share(), planned, undo: UNDO, tick: TICK, slice }
}

/// One promise as the guard watches it over a run of the `planned` length.
pub(super) fn watched(experiment: &Experiment, rule: &Rule, planned: Duration, start: Duration) -> Watched {
    let rate = rate(experiment, rule.objective.probe);
    let looks = rate * planned.as_secs_f64();
    let budget_looks = budget_looks(experiment.guard.budget, &rule.objective, rate, looks);
    Watched { objective: rule.objective.clone(), rate, budget_looks, start }
}

/// The terms of the judgement on a run.
pub(super) fn terms(experiment: &Experiment, rules: &[Rule]) -> Terms {
    let ratios = rules.iter().filter(|rule| matches!(rule.objective.promise, Promise::Ratio { .. }));
    Terms { proof: experiment.proof, alpha: experiment.guard.false_abort.share(), objectives: ratios.count() }
}

/// What an objective may spend in this run, in bad looks.
fn budget_looks(budget: Option<Budget>, objective: &Objective, rate: f64, looks: f64) -> f64 {
    let Promise::Ratio { p0, .. } = objective.promise else { return f64::INFINITY };
    match budget {
        None => default_budget(p0, looks),
        Some(Budget::Seconds(seconds)) => seconds * rate,
        Some(Budget::Looks(count)) => count as f64,
        Some(Budget::Share(share, period)) => share * p0 * period.as_secs_f64() * rate,
    }
}

fn totals(tally: &Tally) -> Totals {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let at = |quantile: f64| tally.latency().quantile(quantile).map(ms);
    let latency = at(0.5).map(|p50_ms| Percentiles {
        p50_ms,
        p95_ms: at(0.95).unwrap_or(p50_ms),
        p99_ms: at(0.99).unwrap_or(p50_ms),
        p999_ms: at(0.999).unwrap_or(p50_ms),
        max_ms: tally.latency().max().map_or(p50_ms, ms),
    });
    Totals {
        good: tally.good(),
        bad: tally.bad(),
        missed: tally.missed(),
        latency,
        slip_p99_ms: tally.slip().quantile(0.99).map_or(0.0, ms),
        longest_outage_ms: tally.longest_outage().map_or(0.0, |outage| ms(outage.lasted)),
        reasons: tally
            .reasons()
            .into_iter()
            .take(8)
            .map(|(why, count)| Reason { why: why.to_string(), count })
            .collect(),
    }
}
