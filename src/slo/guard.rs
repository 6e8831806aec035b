//! The judge that may stop a run, per objective:
//!
//! - **A, the hard budget** (accounting): stop when what is spent, and what getting out will cost at the
//!   present bad rate, reach the budget.
//! - **B, the evidence**: stop when a promise is being broken beyond reasonable doubt, and a fifth of the budget is spent.
//! - **C, the outage**, for objectives that bound one: stop when the present outage, should it last until everything
//!   is undone, would be too long.
//!
//! Rule C counts only what was seen: from the intended start of the first bad look to the end of the last, at least
//! two in a row, ended by any good look. Undoing is allowed for, but never more than half of what an
//! outage may last: a guard whose undo takes longer than the limit would otherwise stop at the first bad look,
//! although it could not keep the promise anyhow. A plan warns of that.
//!
//! An objective may be in force for part of a run only. Looks that are not fed cost nothing: rule A counts what it is
//! given, its bad rate empties with time, rule B takes slices without looks as silence. Say [`Guard::suspend`]
//! when feeding stops, so that no outage is taken to span the gap, and looks under way are not waited for.

use std::collections::VecDeque;
use std::time::Duration;

use super::evidence::Evidence;
use super::outage::Outages;
use super::{Objective, Promise, Sample};
use crate::base::unit;

/// What a guard needs to know about a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuardSettings {
    /// The chance, over the run and all its objectives, of stopping by evidence although every promise is kept.
    pub alpha: f64,
    /// From t = 0 to the last undo, by plan.
    pub planned: Duration,
    /// How long undoing everything takes.
    pub undo: Duration,
    /// How long until the next judgement.
    pub tick: Duration,
    /// The slice of the evidence: see [`super::slice_for`].
    pub slice: Duration,
}

/// One objective under guard.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// The promise.
    pub objective: Objective,
    /// Looks a second.
    pub rate: f64,
    /// Bad looks it may spend: the budget in bad seconds times the rate. Not used for outages.
    pub budget_looks: f64,
    /// From when on it is judged: t = 0. Earlier looks, when fed, count as made then.
    pub start: Duration,
}

/// Which rule stopped a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A: the budget is spent, or would be by the time everything is undone.
    Budget,
    /// B: the promise is being broken beyond reasonable doubt.
    Evidence,
    /// C: the present outage would last too long.
    Outage,
}

/// The guard wants the run stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Abort {
    /// By which rule.
    pub rule: Rule,
    /// For which objective: its place among the watched.
    pub objective: usize,
    /// The reason in a sentence with numbers.
    pub why: String,
}

/// How one objective stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BudgetView {
    /// Bad seconds of looks that have settled; for an outage objective, the seconds of the present outage.
    pub spent: f64,
    /// Bad seconds that may be spent; for an outage objective, the seconds one may last.
    pub budget: f64,
    /// Were the promise kept, the chance of evidence such as has been seen would be at most 1 in so many; 1 says
    /// nothing. The strongest so far in this run.
    pub one_in: f64,
    /// When the budget will be spent at the present bad rate, from now; `None` while nothing is bad.
    pub exhaustion: Option<Duration>,
}

/// See the module's text. O(1) a look in the number of looks, bounded memory.
#[derive(Debug, Clone)]
pub struct Guard {
    settings: GuardSettings,
    watched: Vec<(Watched, Watch)>,
    /// E must reach this, as a logarithm: the number of objectives judged by evidence over alpha.
    ln_limit: f64,
}

#[derive(Debug, Clone)]
enum Watch {
    // A ratio has much state, an outage little; there are few of either.
    Ratio(Box<Ratio>),
    Outage(Outages),
}

impl Guard {
    /// A guard that has seen nothing. At least one slice is planned, and a slice lasts at least a millisecond.
    #[must_use]
    pub fn new(settings: GuardSettings, watched: Vec<Watched>) -> Self {
        let settings = GuardSettings { slice: settings.slice.max(Duration::from_millis(1)), ..settings };
        let ratios = watched
            .iter()
            .filter(|watched| matches!(watched.objective.promise, Promise::Ratio { .. }))
            .count();
        let watched = watched
            .into_iter()
            .map(|watched| {
                let watch = match watched.objective.promise {
                    Promise::Ratio { p0, .. } => Watch::Ratio(Box::new(Ratio::new(p0, &settings))),
                    Promise::Outage { .. } => Watch::Outage(Outages::new()),
                };
                (watched, watch)
            })
            .collect();
        Self { settings, watched, ln_limit: (ratios as f64 / settings.alpha).ln() }
    }

    /// A look that an objective will judge began. Tell it for every look that will be settled: the evidence of a slice
    /// is read only when all its looks have settled, or slow ones would count for less.
    pub fn begun(&mut self, objective: usize, intended: Duration) {
        match self.watched.get_mut(objective) {
            Some((watched, Watch::Ratio(ratio))) => {
                if let Some(slice) =
                    ratio.slices.at(intended.saturating_sub(watched.start), &mut ratio.evidence)
                {
                    slice.begun += 1;
                }
            }
            Some((_, Watch::Outage(outages))) => outages.begun(intended),
            None => {}
        }
    }

    /// A look settled. A missed one closes its look without evidence.
    pub fn settled(&mut self, objective: usize, sample: &Sample) {
        let Some((watched, watch)) = self.watched.get_mut(objective) else { return };
        let bad = watched.objective.bad(sample);
        match watch {
            Watch::Ratio(ratio) => ratio.settled(sample, bad, watched.start),
            Watch::Outage(outages) => outages.settled(sample.intended, sample.ended, bad),
        }
    }

    /// So many looks are in flight and certain to be bad by now: past their timeout, or past the threshold of a
    /// latency objective. Said right before [`Self::judge`]; holds until they settle or the next judgement is made.
    pub fn late(&mut self, objective: usize, count: u64) {
        if let Some((_, Watch::Ratio(ratio))) = self.watched.get_mut(objective) {
            ratio.late = count;
        }
    }

    /// An objective is not fed for a while: the looks that have begun will not settle for it, and what comes
    /// later does not continue what was. Feeding it again is all it takes to resume.
    pub fn suspend(&mut self, objective: usize) {
        match self.watched.get_mut(objective) {
            Some((_, Watch::Ratio(ratio))) => {
                ratio.late = 0;
                ratio.slices.close_all(&mut ratio.evidence);
            }
            Some((_, Watch::Outage(outages))) => outages.suspend(),
            None => {}
        }
    }

    /// The judgement now; the first objective that wants the run stopped, in the order given.
    pub fn judge(&mut self, now: Duration) -> Option<Abort> {
        let mut abort = None;
        for (objective, (watched, watch)) in self.watched.iter_mut().enumerate() {
            let found = match watch {
                Watch::Ratio(ratio) => ratio.judge(watched, now, &self.settings, self.ln_limit),
                Watch::Outage(outages) => {
                    judge_outage(watched, outages, &self.settings).map(|why| (Rule::Outage, why))
                }
            };
            if abort.is_none() {
                abort = found.map(|(rule, why)| Abort { rule, objective, why });
            }
        }
        abort
    }

    /// So many good looks settled at once: for rehearsals, where good ones need not be told apart.
    pub(super) fn all_good(&mut self, objective: usize, at: Duration, looks: u64) {
        if let Some((watched, Watch::Ratio(ratio))) = self.watched.get_mut(objective) {
            ratio.looks += looks;
            if let Some(slice) = ratio.slices.at(at.saturating_sub(watched.start), &mut ratio.evidence) {
                slice.good += looks;
            }
        }
    }

    /// One of them was bad after all.
    pub(super) fn turned_bad(&mut self, objective: usize, at: Duration) {
        if let Some((watched, Watch::Ratio(ratio))) = self.watched.get_mut(objective) {
            ratio.bad += 1;
            ratio.recent.add(at);
            if let Some(slice) = ratio.slices.at(at.saturating_sub(watched.start), &mut ratio.evidence) {
                slice.good = slice.good.saturating_sub(1);
                slice.bad += 1;
            }
        }
    }

    /// How every objective stands, in the order given, as of the last judgement.
    #[must_use]
    pub fn views(&self) -> Vec<BudgetView> {
        self.watched
            .iter()
            .map(|(watched, watch)| match (watch, watched.objective.promise) {
                (Watch::Outage(outages), Promise::Outage { longest }) => {
                    let present = outages.current().filter(|_| !outages.over()).map(|outage| outage.lasted);
                    BudgetView {
                        spent: present.unwrap_or_default().as_secs_f64(),
                        budget: longest.as_secs_f64(),
                        one_in: 1.0,
                        exhaustion: present.map(|present| longest.saturating_sub(present)),
                    }
                }
                (Watch::Ratio(ratio), _) => ratio.view(watched),
                (Watch::Outage(_), Promise::Ratio { .. }) => {
                    BudgetView { spent: 0.0, budget: 0.0, one_in: 1.0, exhaustion: None }
                }
            })
            .collect()
    }
}

fn judge_outage(watched: &Watched, outages: &Outages, settings: &GuardSettings) -> Option<String> {
    let Promise::Outage { longest } = watched.objective.promise else { return None };
    let present = outages.current().filter(|_| !outages.over())?;
    let getting_out = settings.undo.saturating_add(settings.tick);
    let certain = present.looks >= 1 && present.lasted > longest;
    let threatens =
        present.looks >= 2 && present.lasted >= longest.saturating_sub(getting_out).max(longest / 2);
    (certain || threatens).then(|| {
        format!(
            "{}: down for {} ({} looks in a row), and getting out takes about {}; at most {} are allowed",
            watched.objective.name,
            unit::say(present.lasted),
            present.looks,
            unit::say(getting_out),
            unit::say(longest)
        )
    })
}

#[derive(Debug, Clone)]
struct Ratio {
    p0: f64,
    looks: u64,
    bad: u64,
    late: u64,
    recent: Recent,
    slices: Slices,
    evidence: Evidence,
}

impl Ratio {
    fn new(p0: f64, settings: &GuardSettings) -> Self {
        // Outside, the promise could not be judged; whoever reads experiments refuses it.
        let p0 = if p0 > 0.0 { p0.clamp(1e-9, 0.5) } else { 1e-9 };
        let slices = Slices { width: nanos(settings.slice), next: 0, open: VecDeque::new() };
        let planned = nanos(settings.planned).div_ceil(slices.width);
        Self {
            p0,
            looks: 0,
            bad: 0,
            late: 0,
            recent: Recent::over(settings.undo.max(Duration::from_secs(5))),
            slices,
            evidence: Evidence::new(p0, planned),
        }
    }

    fn settled(&mut self, sample: &Sample, bad: Option<bool>, start: Duration) {
        if let Some(bad) = bad {
            self.looks += 1;
            if bad {
                self.bad += 1;
                self.late = self.late.saturating_sub(1);
                self.recent.add(sample.ended);
            }
        }
        if let Some(slice) = self.slices.at(sample.intended.saturating_sub(start), &mut self.evidence) {
            match bad {
                None => slice.missed += 1,
                Some(false) => slice.good += 1,
                Some(true) => slice.bad += 1,
            }
        }
    }

    fn spent(&self) -> u64 {
        self.bad + self.late
    }

    /// Bad looks a second at present; none while only one is bad.
    fn bad_rate(&self) -> f64 {
        let recently = self.recent.total + self.late;
        if recently < 2 { 0.0 } else { recently as f64 / self.recent.length() }
    }

    fn judge(
        &mut self,
        watched: &Watched,
        now: Duration,
        settings: &GuardSettings,
        ln_limit: f64,
    ) -> Option<(Rule, String)> {
        self.recent.turn(now);
        self.slices
            .close(now.saturating_sub(watched.start).saturating_sub(settings.tick), &mut self.evidence);
        let (name, budget, spent) = (&watched.objective.name, watched.budget_looks, self.spent());
        let getting_out = self.bad_rate() * settings.undo.saturating_add(settings.tick).as_secs_f64();
        let found = if spent > 0 && spent as f64 + getting_out >= budget {
            let out = match getting_out {
                out if out >= 0.5 => format!(", and getting out takes about {out:.0} more"),
                _ => String::new(),
            };
            let chance = match self.evidence.most() {
                most if most >= 2.0 => format!("; by chance less than 1 in {}", about(most)),
                _ => String::new(),
            };
            Some((
                Rule::Budget,
                format!("{name}: {spent} of {} bad looks are spent{out}{chance}", round(budget)),
            ))
        } else if self.evidence.reaches(ln_limit) && spent as f64 >= 0.2 * budget {
            let looks = self.looks + self.late;
            Some((
                Rule::Evidence,
                format!(
                    "{name}: {spent} of {looks} looks were bad ({:.2} %) where at most {} % are promised; by chance \
                     less than 1 in {}",
                    spent as f64 / looks.max(1) as f64 * 100.0,
                    round(self.p0 * 100.0),
                    about(self.evidence.now())
                ),
            ))
        } else {
            None
        };
        self.late = 0;
        found
    }

    fn view(&self, watched: &Watched) -> BudgetView {
        let (spent, rate) = (self.spent() as f64, self.bad_rate());
        let exhaustion = (rate > 0.0).then(|| (watched.budget_looks - spent).max(0.0) / rate);
        BudgetView {
            spent: spent / watched.rate,
            budget: watched.budget_looks / watched.rate,
            one_in: self.evidence.most().clamp(1.0, SUREST),
            exhaustion: exhaustion.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        }
    }
}

/// The most that is said of evidence in figures: JSON has no infinity.
const SUREST: f64 = 1e15;

/// Two significant figures, a million at most: nobody needs to be surer.
fn about(one_in: f64) -> String {
    if one_in >= 1e6 {
        return "a million".to_owned();
    }
    let step = 10_f64.powf((one_in.log10().floor() - 1.0).max(0.0));
    format!("{:.0}", (one_in / step).floor() * step)
}

fn round(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Parts into which the time of the bad rate is cut.
const PARTS: usize = 50;

/// Bad looks of the last while, by the time they became known. One part more than the while is held, so that it
/// is always covered.
#[derive(Debug, Clone)]
struct Recent {
    /// Of one part, nanoseconds.
    width: u64,
    counts: [u64; PARTS + 1],
    newest: u64,
    total: u64,
}

impl Recent {
    fn over(length: Duration) -> Self {
        Self { width: (nanos(length) / PARTS as u64).max(1), counts: [0; PARTS + 1], newest: 0, total: 0 }
    }

    /// Seconds.
    fn length(&self) -> f64 {
        self.width as f64 * PARTS as f64 / 1e9
    }

    fn turn(&mut self, now: Duration) {
        let part = nanos(now) / self.width;
        let new = part.saturating_sub(self.newest).min(self.counts.len() as u64);
        for i in 1..=new {
            let slot = (self.newest.saturating_add(i) % self.counts.len() as u64) as usize;
            self.total -= std::mem::take(&mut self.counts[slot]);
        }
        self.newest = self.newest.max(part);
    }

    fn add(&mut self, at: Duration) {
        self.turn(at);
        let part = nanos(at) / self.width;
        if self.newest - part < self.counts.len() as u64 {
            self.counts[(part % self.counts.len() as u64) as usize] += 1;
            self.total += 1;
        }
    }
}

/// Slices that may be open at once: at five seconds each, looks of five minutes.
const OPEN: usize = 64;

/// Slices of intended time whose looks have not all settled, oldest first.
#[derive(Debug, Clone)]
struct Slices {
    width: u64,
    /// The first that may still be opened.
    next: u64,
    open: VecDeque<Slice>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    number: u64,
    begun: u64,
    good: u64,
    bad: u64,
    missed: u64,
}

impl Slice {
    /// What has not settled counts as good: it speaks for nobody's guilt.
    fn bad_fraction(&self) -> Option<f64> {
        let looks = self.begun.max(self.good + self.bad + self.missed) - self.missed;
        (self.good + self.bad > 0).then(|| self.bad as f64 / looks as f64)
    }

    fn settled(&self) -> bool {
        self.good + self.bad + self.missed >= self.begun
    }
}

impl Slices {
    /// The slice of a moment since the start; `None` when it is closed, and the look too late to be evidence.
    fn at(&mut self, since: Duration, evidence: &mut Evidence) -> Option<&mut Slice> {
        let number = nanos(since) / self.width;
        if number < self.next {
            return None;
        }
        // Nearly always the newest.
        let newest = self.open.len().saturating_sub(1);
        if self.open.get(newest).is_some_and(|slice| slice.number == number) {
            return self.open.get_mut(newest);
        }
        let mut place = self.open.partition_point(|slice| slice.number < number);
        if self.open.get(place).is_none_or(|slice| slice.number != number) {
            self.open.insert(place, Slice { number, ..Slice::default() });
            if self.open.len() > OPEN {
                self.close_oldest(evidence);
                place = place.checked_sub(1)?;
            }
        }
        self.open.get_mut(place)
    }

    /// Closes, oldest first, what lies wholly before a moment since the start and has settled.
    fn close(&mut self, since: Duration, evidence: &mut Evidence) {
        let number = nanos(since) / self.width;
        while self.open.front().is_some_and(|slice| slice.number < number && slice.settled()) {
            self.close_oldest(evidence);
        }
    }

    fn close_all(&mut self, evidence: &mut Evidence) {
        while !self.open.is_empty() {
            self.close_oldest(evidence);
        }
    }

    fn close_oldest(&mut self, evidence: &mut Evidence) {
        if let Some(slice) = self.open.pop_front() {
            self.next = slice.number.saturating_add(1);
            if let Some(bad) = slice.bad_fraction() {
                evidence.slice(slice.number, bad);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "where nothing is rounded, the exact value is expected")]

    use proptest::prelude::*;

    use super::super::Outcome;
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    const SETTINGS: GuardSettings = GuardSettings {
        alpha: 0.01,
        planned: Duration::from_mins(1),
        undo: Duration::from_secs(2),
        tick: Duration::from_millis(100),
        slice: Duration::from_secs(5),
    };

    fn ratio(below: Option<Duration>) -> Watched {
        let name = "order availability 99%".into();
        let objective = Objective { name, probe: 0, promise: Promise::Ratio { p0: 0.01, below } };
        Watched { objective, rate: 10.0, budget_looks: 30.0, start: s(0.0) }
    }

    fn outage(longest: f64) -> Watched {
        let promise = Promise::Outage { longest: s(longest) };
        let objective = Objective { name: "order outage".into(), probe: 0, promise };
        Watched { objective, ..ratio(None) }
    }

    fn sample(at: Duration, took: Duration, outcome: Outcome) -> Sample {
        Sample { intended: at, started: at, ended: at.saturating_add(took), outcome, why: None }
    }

    /// Ten looks a second; those `down` take `took`. Judged every 100 ms.
    fn run(
        guard: &mut Guard,
        seconds: u64,
        down: impl Fn(u64) -> bool,
        took: Duration,
    ) -> Option<(Duration, Abort)> {
        let mut happening: Vec<(Duration, Duration, Option<Outcome>)> = Vec::new();
        for tick in 0..seconds * 10 {
            let at = Duration::from_millis(tick * 100);
            let (outcome, took) = if down(tick * 100) {
                (Outcome::Bad, took)
            } else {
                (Outcome::Good, Duration::from_millis(1))
            };
            happening.extend([(at, at, None), (at + took, at, Some(outcome))]);
        }
        happening.sort_by_key(|what| what.0);
        for (now, at, outcome) in happening {
            match outcome {
                None => guard.begun(0, at),
                Some(outcome) => guard.settled(0, &sample(at, now.saturating_sub(at), outcome)),
            }
            if let Some(abort) = guard.judge(now) {
                return Some((now, abort));
            }
        }
        None
    }

    #[test]
    fn a_hang_is_known_from_the_looks_that_are_late() {
        let mut guard = Guard::new(SETTINGS, vec![ratio(None)]);
        guard.late(0, 29);
        assert_eq!(guard.judge(s(3.0)).map(|abort| abort.rule), Some(Rule::Budget));
        assert_eq!(guard.judge(s(3.1)), None, "what was late is asked anew each time");
        guard.late(0, 5);
        for look in 0..5 {
            guard.settled(0, &sample(s(f64::from(look) / 10.0), s(1.0), Outcome::Bad));
        }
        assert_eq!(guard.judge(s(3.2)), None);
        assert_eq!(guard.views()[0].spent, 0.5, "a late look that settles is not counted twice");
    }

    #[test]
    fn one_bad_look_has_no_rate_and_an_old_one_is_forgotten() {
        let mut guard = Guard::new(SETTINGS, vec![ratio(None)]);
        guard.settled(0, &sample(s(1.0), s(0.0), Outcome::Bad));
        guard.judge(s(1.0));
        assert_eq!(guard.views()[0].exhaustion, None);
        guard.settled(0, &sample(s(2.0), s(0.0), Outcome::Bad));
        guard.judge(s(2.0));
        // 28 looks left, two in five seconds.
        assert_eq!(guard.views()[0].exhaustion, Some(s(70.0)));
        guard.judge(s(30.0));
        assert_eq!(guard.views()[0].exhaustion, None);
        assert_eq!((guard.views()[0].spent, guard.views()[0].budget), (0.2, 3.0));
    }

    #[test]
    fn slow_looks_break_a_latency_promise_and_reasons_have_numbers() {
        let mut guard = Guard::new(SETTINGS, vec![Watched { budget_looks: 100.0, ..ratio(Some(s(0.3))) }]);
        // A fifth is slow: the budget lasts for a while, the evidence is clear before.
        let mut stopped = None;
        for look in 0..600_u64 {
            let at = Duration::from_millis(look * 100);
            guard.begun(0, at);
            guard.settled(0, &sample(at, if look % 5 == 0 { s(0.4) } else { s(0.01) }, Outcome::Good));
            stopped = stopped.or_else(|| guard.judge(at + s(0.4)));
        }
        let abort = stopped.unwrap();
        assert_eq!(abort.rule, Rule::Evidence);
        assert_eq!(
            abort.why,
            "order availability 99%: 30 of 148 looks were bad (20.27 %) where at most 1 % are promised; by chance less \
             than 1 in 600"
        );
    }

    #[test]
    fn evidence_is_read_only_when_all_looks_of_a_slice_have_settled() {
        let mut guard = Guard::new(SETTINGS, vec![Watched { budget_looks: 1e6, ..ratio(None) }]);
        for look in 0..50_u64 {
            guard.begun(0, Duration::from_millis(look * 100));
        }
        for look in 0..49_u64 {
            guard.settled(0, &sample(Duration::from_millis(look * 100), s(0.1), Outcome::Bad));
        }
        guard.judge(s(20.0));
        assert_eq!(guard.views()[0].one_in, 1.0);
        guard.settled(0, &sample(s(4.9), s(15.0), Outcome::Missed));
        guard.judge(s(20.0));
        assert!(guard.views()[0].one_in > 10.0);
    }

    #[test]
    fn what_never_settles_counts_for_the_system_once_feeding_stops() {
        let mut guard = Guard::new(SETTINGS, vec![ratio(None)]);
        for look in 0..100_u64 {
            guard.begun(0, Duration::from_millis(look));
        }
        guard.settled(0, &sample(s(0.0), s(0.0), Outcome::Bad));
        guard.suspend(0);
        guard.judge(s(10.0));
        assert_eq!(guard.views()[0].one_in, 1.0, "one bad of a hundred is as promised");
    }

    #[test]
    fn an_outage_is_stopped_in_time_to_undo_it() {
        for (longest, undo, took, expected) in [
            (10.0, 2.0, 0.001, 7.9),
            // Looks that time out after a second are known to be bad then, and last till then.
            (10.0, 2.0, 1.0, 7.9),
            // Undoing takes longer than an outage may last: half of it is waited for.
            (10.0, 30.0, 0.001, 5.0),
        ] {
            let settings = GuardSettings { undo: s(undo), ..SETTINGS };
            let mut guard = Guard::new(settings, vec![outage(longest)]);
            let (at, abort) = run(&mut guard, 60, |ms| ms >= 20_000, s(took)).unwrap();
            let after = at.as_secs_f64() - 20.0;
            assert_eq!(abort.rule, Rule::Outage);
            assert!((after - expected).abs() < 0.15, "{longest} {undo} {took}: after {after}: {}", abort.why);
        }
    }

    #[test]
    fn an_outage_that_is_over_stops_nothing_though_its_looks_still_hang() {
        let settings = GuardSettings { undo: s(0.5), ..SETTINGS };
        let mut guard = Guard::new(settings, vec![outage(10.0)]);
        assert_eq!(run(&mut guard, 60, |ms| (20_000..29_000).contains(&ms), s(1.0)), None);
        assert_eq!(run(&mut guard, 60, |ms| ms % 1_000 == 0, s(1.0)), None, "single bad looks are no outage");
    }

    #[test]
    fn a_gap_in_force_is_neither_outage_nor_evidence() {
        let mut guard = Guard::new(SETTINGS, vec![outage(10.0)]);
        for (at, suspend) in [(1.0, false), (2.0, true), (60.0, false), (61.0, false)] {
            guard.settled(0, &sample(s(at), s(0.0), Outcome::Bad));
            if suspend {
                guard.suspend(0);
            }
            assert_eq!(guard.judge(s(at)), None);
        }
        assert_eq!(guard.views()[0].spent, 1.0);
    }

    #[test]
    fn no_objective_is_not_a_reason_to_stop() {
        let mut guard = Guard::new(SETTINGS, vec![]);
        guard.begun(3, s(1.0));
        guard.settled(3, &sample(s(1.0), s(0.0), Outcome::Bad));
        guard.late(3, 7);
        guard.suspend(3);
        assert_eq!(guard.judge(s(1.0)), None);
        assert_eq!(guard.views(), []);
    }

    #[test]
    fn chances_are_said_in_two_figures() {
        for (one_in, said) in
            [(2.4, "2"), (99.9, "99"), (247.0, "240"), (98_765.0, "98000"), (1e9, "a million")]
        {
            assert_eq!(about(one_in), said);
        }
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            4 => (0_u64..120_000).prop_map(Duration::from_millis),
            1 => any::<u64>().prop_map(Duration::from_nanos),
            1 => (any::<u64>(), 0_u32..1_000_000_000).prop_map(|(secs, nanos)| Duration::new(secs, nanos)),
        ]
    }

    #[derive(Debug, Clone)]
    enum Told {
        Begun(Duration),
        Settled(Duration, Duration, u8),
        Late(u64),
        Suspend,
        Judge(Duration),
    }

    fn told() -> impl Strategy<Value = Told> {
        prop_oneof![
            any_duration().prop_map(Told::Begun),
            (any_duration(), any_duration(), 0_u8..3)
                .prop_map(|(at, ended, fate)| Told::Settled(at, ended, fate)),
            (0_u64..100).prop_map(Told::Late),
            Just(Told::Suspend),
            any_duration().prop_map(Told::Judge),
        ]
    }

    const FATES: [Outcome; 3] = [Outcome::Good, Outcome::Missed, Outcome::Bad];

    fn tell(guard: &mut Guard, told: &Told, fates: u8) -> Option<Abort> {
        for objective in 0..2 {
            match told {
                Told::Begun(at) => guard.begun(objective, *at),
                Told::Settled(at, ended, fate) => {
                    let outcome = FATES[(fate % fates) as usize];
                    let look = Sample { intended: *at, started: *at, ended: *ended, outcome, why: None };
                    guard.settled(objective, &look);
                }
                Told::Late(count) if fates > 2 => guard.late(objective, *count),
                Told::Late(_) => {}
                Told::Suspend => guard.suspend(objective),
                Told::Judge(now) => return guard.judge(*now),
            }
        }
        None
    }

    proptest! {
        #[test]
        fn nothing_that_can_be_told_makes_it_panic(
            told in proptest::collection::vec(told(), 0..150), slice in any_duration(), undo in any_duration(),
            planned in any_duration(), start in any_duration(), budget in prop::sample::select(vec![0.0, 1.0, 1e300, f64::NAN])
        ) {
            let settings = GuardSettings { planned, undo, slice, ..SETTINGS };
            let first = Watched { budget_looks: budget, start, ..ratio(None) };
            let mut guard = Guard::new(settings, vec![first, outage(1.0)]);
            for told in &told {
                tell(&mut guard, told, 3);
                let views = guard.views();
                prop_assert!(views.iter().all(|view| view.one_in >= 1.0 && view.spent >= 0.0), "{:?}", views);
            }
        }

        #[test]
        fn without_a_bad_look_it_never_stops_a_run(
            told in proptest::collection::vec(told(), 0..150), budget in prop::sample::select(vec![0.0, 1.0, 30.0])
        ) {
            let mut guard = Guard::new(SETTINGS, vec![Watched { budget_looks: budget, ..ratio(None) }, outage(0.0)]);
            for told in &told {
                prop_assert_eq!(tell(&mut guard, told, 2), None);
            }
        }

        #[test]
        fn one_more_bad_look_never_stops_a_run_later(
            bad in proptest::collection::vec(prop::bool::weighted(0.05), 600), more in 0_usize..600
        ) {
            let mut worse = bad.clone();
            worse[more] = true;
            let at = |bad: &[bool]| {
                let mut guard = Guard::new(SETTINGS, vec![ratio(None)]);
                run(&mut guard, 60, |ms| bad[(ms / 100) as usize], s(0.001)).map_or(Duration::MAX, |(at, _)| at)
            };
            prop_assert!(at(&worse) <= at(&bad));
        }

        #[test]
        fn the_order_in_which_looks_settle_within_a_slice_is_no_evidence(
            bad in proptest::collection::vec(prop::bool::weighted(0.1), 50), seed in any::<u64>()
        ) {
            let evidence = |order: &[usize]| {
                let mut guard = Guard::new(SETTINGS, vec![ratio(None)]);
                (0..50).for_each(|look| guard.begun(0, Duration::from_millis(look * 100)));
                for look in order {
                    let outcome = if bad[*look] { Outcome::Bad } else { Outcome::Good };
                    guard.settled(0, &sample(Duration::from_millis(*look as u64 * 100), s(1.0), outcome));
                }
                guard.judge(s(6.0));
                guard.views()[0].one_in
            };
            let straight: Vec<usize> = (0..50).collect();
            let mut mixed = straight.clone();
            mixed.sort_by_key(|look| (*look as u64 + 1).wrapping_mul(seed | 1));
            prop_assert_eq!(evidence(&straight), evidence(&mixed));
        }
    }
}
