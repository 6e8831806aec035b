//! What the looks of a run mean: which promise each one is held against, and what the pure judges in `slo`
//! say to it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::timeline::foresee;
use super::verdict::{Finding, Findings};
use crate::base::{Dice, unit};
use crate::event::{Interval, Judged, Judgement, Percentiles, Phase, Reason, Totals, What};
use crate::experiment::Experiment;
use crate::experiment::model::{Budget, Promises};
use crate::probe::Canary;
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
    /// From t = 0 to the last undo, by plan.
    planned: Duration,
    /// Looks that wait to be scored.
    deferred: VecDeque<(usize, Sample)>,
    /// What tells our own trouble from the system's.
    canary: Option<Canary>,
}

impl Judge {
    pub(super) fn new(experiment: &Arc<Experiment>, dice: Dice) -> Self {
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
            planned: foresee(experiment, dice).takes,
            deferred: VecDeque::new(),
            canary: None,
        }
    }

    /// From here on this tells our own trouble from the system's.
    pub(super) fn trusts(&mut self, canary: Canary) {
        self.canary = Some(canary);
    }

    /// A look that breaks any promise while our own side was in trouble is missed. One that keeps them all in
    /// spite of that is as good as any: trouble of ours makes no look better.
    pub(super) fn excuse(&self, look: &mut Look) {
        let mut mine = self.rules.iter().filter(|rule| rule.objective.probe == look.probe);
        if look.sample.outcome == Outcome::Bad
            || mine.any(|rule| rule.objective.bad(&look.sample) == Some(true))
        {
            look.excuse();
        }
    }

    /// How long a steady state takes at least to be seen: the time asked for, or until the slowest probe has looked
    /// often enough.
    pub(super) fn steady_takes(&self) -> Duration {
        self.tracker(Duration::ZERO, None).map_or(self.experiment.steady_for, |steady| steady.takes())
    }

    /// The general promises with their looks a second: what the steady state and recovery are held against.
    fn general(&self) -> Vec<(Objective, f64)> {
        let general = self.rules.iter().filter(|rule| rule.during.is_none());
        general.map(|rule| (rule.objective.clone(), lowest(&self.experiment, rule.objective.probe))).collect()
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
        let settings = guard_settings(&self.experiment, self.planned, slice);
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
        let tally = &mut self.tallies[probe][part];
        tally.settled(sample);
        if sample.outcome == Outcome::Good && !look.retried.is_empty() {
            tally.retried();
        }
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
                // What our own side may be keeping waits until it has been heard.
                Some(until) if self.canary.as_ref().is_some_and(|own| own.stalled(until, now).is_some()) => 0,
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

/// Looks a second of a probe, at its slowest.
fn lowest(experiment: &Experiment, probe: usize) -> f64 {
    experiment.probes[probe].rhythm.map_or(1.0, |rhythm| rhythm.lowest().hertz())
}

/// What the guard of an experiment goes by.
pub(super) fn guard_settings(experiment: &Experiment, planned: Duration, slice: Duration) -> GuardSettings {
    GuardSettings { alpha: experiment.guard.false_abort.share(), planned, undo: UNDO, tick: TICK, slice }
}

/// One promise as the guard watches it over a run of the `planned` length.
pub(super) fn watched(experiment: &Experiment, rule: &Rule, planned: Duration, start: Duration) -> Watched {
    let rhythm = experiment.probes[rule.objective.probe].rhythm;
    let rate = rhythm.map_or(1.0, |rhythm| rhythm.mean(planned));
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
        good_after_retry: tally.good_after_retry(),
        latency,
        slip_p50_ms: tally.slip().quantile(0.5).map_or(0.0, ms),
        slip_p99_ms: tally.slip().quantile(0.99).map_or(0.0, ms),
        slip_max_ms: tally.slip().max().map_or(0.0, ms),
        longest_outage_ms: tally.longest_outage().map_or(0.0, |outage| ms(outage.lasted)),
        reasons: tally
            .reasons()
            .into_iter()
            .take(8)
            .map(|(why, count)| Reason { why: why.to_string(), count })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::written;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One probe, promised 90 % and 95 % below 50 ms; instead, during `lasting`, 50 % and no outage longer than 2 s.
    const TEXT: &str = r#"
title = "t"
[steady_state]
for = "1s"
[probe.p.tcp]
address = "127.0.0.1:9"
rate = "100/s"
[probe.other.tcp]
address = "127.0.0.1:9"
rate = "100/s"
[slo.s]
probe = "p"
availability = "90%"
latency = [{ percentile = "p95", below = "50ms" }]
[slo.s.during.lasting]
availability = "50%"
longest_outage = "2s"
[fault.lasting.exec]
inject = ["true"]
undo = ["true"]
at = "1s"
for = "1s"
[fault.other.exec]
inject = ["true"]
undo = ["true", "other"]
at = "5s"
for = "1s"
"#;

    fn judge_of(text: &str) -> Judge {
        Judge::new(&Arc::new(written(text)), Dice::new(1))
    }

    fn look(probe: usize, intended: Duration, took: Duration, outcome: Outcome) -> Look {
        let sample = Sample { intended, started: intended, ended: intended + took, outcome, why: None };
        Look::bare(probe, sample)
    }

    fn feed(judge: &mut Judge, look: &Look) {
        judge.begun(look.probe, look.sample.intended);
        judge.settled(look);
    }

    /// Good looks of the first probe every 10 ms.
    fn good(judge: &mut Judge, from: u32, to: u32) {
        for n in from..to {
            feed(judge, &look(0, n * 10 * MS, MS, Outcome::Good));
        }
    }

    /// How many looks each rule was judged by.
    fn counted(judge: &mut Judge) -> Vec<u64> {
        judge.conclude(&mut Findings::default());
        judge.scores.iter().map(Score::counts).map(|(good, bad, missed)| good + bad + missed).collect()
    }

    #[test]
    fn rules_are_named_by_what_they_promise_and_when() {
        let names: Vec<String> = rules(&written(TEXT)).into_iter().map(|rule| rule.objective.name).collect();
        assert_eq!(
            names,
            [
                "s availability 90%",
                "s p95 below 50 ms",
                "s availability 50% during lasting",
                "s no outage longer than 2 s during lasting"
            ]
        );
    }

    #[test]
    fn a_look_is_held_against_what_stands_while_a_fault_is_felt_and_until_the_system_has_recovered() {
        let mut judge = judge_of(TEXT);
        judge.steady_begins(Duration::ZERO);
        good(&mut judge, 0, 200);
        assert!(judge.steady(2_000 * MS).is_some());
        judge.zero(2_000 * MS);
        good(&mut judge, 200, 300);
        judge.fault_begins(0, 3_000 * MS);
        (300..400).for_each(|n| feed(&mut judge, &look(0, n * 10 * MS, MS, Outcome::Bad)));
        judge.fault_ended(0, 4_000 * MS);
        // It takes half a second more until it is well again.
        (400..450).for_each(|n| feed(&mut judge, &look(0, n * 10 * MS, MS, Outcome::Bad)));
        good(&mut judge, 450, 700);
        let _ = judge.abort(7_000 * MS);
        judge.last_undo(7_000 * MS);
        good(&mut judge, 700, 800);
        // 2 to 3 s and 4.5 to 7 s in general; 3 to 4.5 s, the first good look included, during the fault.
        assert_eq!(counted(&mut judge), [349, 349, 151, 151]);
        assert!(
            judge.tallies().len() == 3,
            "steady, faults and recovery of the one probe that was looked with"
        );
    }

    #[test]
    fn a_fault_that_is_over_when_done_is_judged_until_it_is_not_felt_any_more() {
        let text = TEXT
            .replace(
                "[fault.other.exec]\ninject = [\"true\"]\nundo = [\"true\", \"other\"]",
                "[fault.other.kill]\ntarget = { listen = 9 }",
            )
            .replace("at = \"5s\"\nfor = \"1s\"", "at = \"5s\"");
        let mut judge = judge_of(&text);
        judge.steady_begins(Duration::ZERO);
        good(&mut judge, 0, 200);
        judge.zero(2_000 * MS);
        judge.fault_begins(1, 2_000 * MS);
        judge.fault_ended(1, 2_010 * MS);
        judge.last_undo(2_010 * MS);
        (201..300).for_each(|n| feed(&mut judge, &look(0, n * 10 * MS, MS, Outcome::Bad)));
        good(&mut judge, 300, 500);
        assert_eq!(judge.recovery(5_000 * MS), Some(Recovery::Since(3_000 * MS)));
        let mut findings = Findings::default();
        judge.conclude(&mut findings);
        assert_eq!(judge.scores[0].counts(), (1, 99, 0));
        assert!(
            findings.failed[0].why.starts_with("s availability 90%: 99 of 100 looks bad (99 %)"),
            "{findings:?}"
        );
        assert!(findings.failed[0].severity > 9.0);
    }

    #[test]
    fn a_fault_felt_twice_leaves_the_time_between_to_the_general_promises() {
        let mut judge = judge_of(TEXT);
        judge.steady_begins(Duration::ZERO);
        judge.zero(Duration::ZERO);
        for began in [1_000, 4_000] {
            judge.fault_begins(0, began * MS);
            good(&mut judge, began / 10, began / 10 + 100);
            judge.fault_ended(0, (began + 1_000) * MS);
            good(&mut judge, began / 10 + 100, began / 10 + 300);
            let _ = judge.abort((began + 3_000) * MS);
        }
        assert_eq!(judge.scopes[0].past.len(), 2);
        let between = look(0, 3_500 * MS, MS, Outcome::Good).sample;
        assert!(judge.in_force(0, &between) && !judge.in_force(2, &between));
        for during in [1_500, 4_500] {
            let during = look(0, during * MS, MS, Outcome::Good).sample;
            assert!(!judge.in_force(0, &during) && judge.in_force(2, &during));
        }
    }

    #[test]
    fn a_slow_look_counts_before_it_has_settled() {
        let mut judge = judge_of(
            &TEXT.replace("for = \"1s\"\n[probe", "for = \"1s\"\n[guard]\nbudget = \"5 looks\"\n[probe"),
        );
        judge.steady_begins(Duration::ZERO);
        judge.zero(Duration::ZERO);
        (0..5).for_each(|n| judge.begun(0, n * 10 * MS));
        assert_eq!(judge.abort(60 * MS), None);
        let why = judge.abort(100 * MS).unwrap();
        assert!(why.starts_with("s p95 below 50 ms: 5 of 5 bad looks are spent"), "{why}");
    }

    #[test]
    fn looks_of_a_probe_nothing_is_promised_of_are_tallied_and_judged_by_nobody() {
        let mut judge = judge_of(TEXT);
        judge.steady_begins(Duration::ZERO);
        for n in 0..300 {
            feed(&mut judge, &look(1, n * 10 * MS, MS, Outcome::Bad));
            feed(&mut judge, &look(0, n * 10 * MS, MS, Outcome::Good));
        }
        assert!(judge.steady(3_000 * MS).is_some());
        judge.zero(3_000 * MS);
        (300..400).for_each(|n| feed(&mut judge, &look(1, n * 10 * MS, MS, Outcome::Missed)));
        assert_eq!(judge.abort(4_000 * MS), None);
        assert_eq!(judge.counts(1), (0, 0, 100));
        assert_eq!(counted(&mut judge), [0; 4]);
    }

    #[test]
    fn missed_looks_over_one_percent_are_our_own_fault() {
        for (missed, starved) in [(10, false), (11, true)] {
            let mut judge = judge_of(TEXT);
            judge.steady_begins(Duration::ZERO);
            judge.zero(Duration::ZERO);
            good(&mut judge, 0, 1_000 - missed);
            (1_000 - missed..1_000).for_each(|n| judge.settled(&look(0, n * 10 * MS, MS, Outcome::Missed)));
            let mut findings = Findings::default();
            judge.conclude(&mut findings);
            assert_eq!(findings.starved.is_some(), starved, "{findings:?}");
        }
    }

    #[test]
    fn what_breaks_a_promise_while_we_were_in_trouble_is_missed_and_what_keeps_it_counts() {
        let judge = judge_of(TEXT);
        let came_out = |took: u32, outcome: Outcome, trouble| {
            let mut look = Look { trouble, ..look(0, Duration::ZERO, took * MS, outcome) };
            judge.excuse(&mut look);
            (look.sample.outcome, look.sample.why)
        };
        let stalled = Some("our own side stalled");
        let missed = (Outcome::Missed, stalled.map(Arc::from));
        assert_eq!(came_out(1, Outcome::Bad, stalled), missed);
        assert_eq!(came_out(300, Outcome::Good, stalled), missed, "it breaks the promise about p95");
        assert_eq!(came_out(1, Outcome::Good, stalled), (Outcome::Good, None));
        assert_eq!(came_out(300, Outcome::Good, None), (Outcome::Good, None));
        assert_eq!(came_out(1, Outcome::Bad, None), (Outcome::Bad, None));
    }

    #[test]
    fn a_steady_state_takes_as_long_as_its_slowest_probe_needs() {
        let slow = TEXT
            .replace("rate = \"100/s\"", "every = \"10s\"")
            .replace("for = \"1s\"\n[probe", "for = \"200s\"\n[probe");
        let takes = judge_of(&slow).steady_takes();
        assert!(takes > Duration::from_secs(210), "{takes:?}");
        assert!(judge_of(TEXT).steady_takes() < Duration::from_millis(1_100));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        // Whatever happens when: every look from t = 0 on is judged once by each promise in force, by no other.
        #[test]
        fn every_look_is_counted_once_by_the_promises_in_force(
            outcomes in proptest::collection::vec(0_u8..10, 800),
            under_way in 0_usize..60,
            began in 210_u32..400,
            lasted in 1_u32..150,
            again in prop::option::of(1_u32..300),
        ) {
            let mut judge = judge_of(TEXT);
            judge.steady_begins(Duration::ZERO);
            good(&mut judge, 0, 200);
            judge.zero(2_000 * MS);
            let ended = began + lasted;
            let second = again.map(|again| (ended + again, ended + again + lasted));
            // Each look takes until so many later ones have begun.
            let took = 10 * MS * under_way as u32;
            let looks: Vec<Look> = (200_u32..).zip(outcomes).map(|(n, outcome)| {
                let outcome = match outcome { 0 => Outcome::Missed, 1 => Outcome::Bad, _ => Outcome::Good };
                look(0, n * 10 * MS, took, outcome)
            }).collect();
            for step in 0..looks.len() + under_way {
                let n = step as u32 + 200;
                let now = n * 10 * MS;
                if n == began || second.is_some_and(|(began, _)| n == began) { judge.fault_begins(0, now); }
                if n == ended || second.is_some_and(|(_, ended)| n == ended) { judge.fault_ended(0, now); }
                if let Some(look) = looks.get(step) { judge.begun(0, look.sample.intended); }
                if let Some(look) = step.checked_sub(under_way).and_then(|step| looks.get(step)) {
                    judge.settled(look);
                }
                let _ = judge.abort(now);
            }
            judge.last_undo(20_000 * MS);
            let totals = counted(&mut judge);
            let felt = |look: &&Look| judge.scopes[0].overlaps(&look.sample);
            let during = looks.iter().filter(felt).count() as u64;
            prop_assert_eq!(&totals, &[800 - during, 800 - during, during, during]);
            for (score, during) in judge.scores.iter().zip([false, false, true, true]) {
                let mine = looks.iter().filter(|look| felt(look) == during);
                let missed = mine.filter(|look| look.sample.outcome == Outcome::Missed).count() as u64;
                prop_assert_eq!(score.counts().2, missed);
            }
            let tally = &judge.tallies[0][Part::Faults as usize];
            prop_assert_eq!(tally.good() + tally.bad() + tally.missed(), 800);
        }
    }
}
