//! Whether a system is steady: every promise held over a whole stretch of time.
//!
//! One judge for the proof before a run, for the recovery from one fault, and for the recovery at the end. It looks
//! for the earliest stretch of the asked length, with at least 20 looks of each objective, none missed, in
//! which every promise held. Time is cut into cells, a stretch is a row of them, so memory does not grow with
//! looks; where the looks before a stretch were bad, its beginning is exact to the look.
//!
//! A stretch begins where most looks are good: the tail of an outage is not part of a recovery merely because
//! a promise would tolerate it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::outage::{Outage, Outages};
use super::tally::Latencies;
use super::{Objective, Outcome, Promise, Sample, tolerated};
use crate::base::unit;

/// Looks that each objective must have had.
const LEAST: u64 = 20;

/// Cells in the asked length. A stretch has one more, so that it is never shorter.
const CELLS: u64 = 128;

/// Cells with looks that may wait for slow ones; then the oldest is closed, and what has not settled is missed.
const WAITING: usize = 4_096;

/// A stretch of time over which every promise held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its beginning: exact to the look where the looks before were bad, else to a 128th of its length.
    pub began: Duration,
    /// Up to when it was judged.
    pub until: Duration,
    /// The looks in it, of all probes.
    pub looks: u64,
}

/// How far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Neither yet. The present stretch without a bad or missed look began then; none when the last look was one.
    Watching {
        /// The intended start of its first look.
        since: Option<Duration>,
    },
    /// Every promise held over this stretch, the earliest there was.
    Held(Stretch),
    /// No stretch can begin in time any more.
    TooLate,
}

/// What one probe was like.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    /// Looks that were good.
    pub good: u64,
    /// Looks that were bad.
    pub bad: u64,
    /// Looks that our own side could not start in time.
    pub missed: u64,
    /// Of all looks that ran.
    pub latency: Latencies,
}

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Steady {
    judged: Vec<Judged>,
    origin: Duration,
    length: Duration,
    /// The last moment at which a stretch may begin.
    latest: Option<Duration>,
    cell: u64,
    cells: VecDeque<Cell>,
    /// Cells before this one are closed.
    closed: u64,
    /// The last look that no stretch tolerates, or the end of an outage that was too long.
    barrier: Option<Duration>,
    trouble: Option<Duration>,
    since: Option<Duration>,
    progress: Option<Progress>,
    why: String,
    baselines: BTreeMap<usize, Baseline>,
}

#[derive(Debug, Clone)]
struct Judged {
    objective: Objective,
    outages: Outages,
    /// The last outage that was longer than promised.
    too_long: Option<Outage>,
    /// A single bad look breaks it whatever else is in the stretch.
    strict: bool,
}

#[derive(Debug, Clone, Default)]
struct Cell {
    number: u64,
    begun: u64,
    settled: u64,
    missed: u64,
    /// Good and bad looks of each objective.
    counts: Vec<(u64, u64)>,
    /// Its last bad or missed look, and the first look after it.
    trouble: Option<Duration>,
    after: Option<Duration>,
}

impl Steady {
    /// Looks for a stretch of `hold` (longer where a probe needs longer for 20 looks), of looks intended from
    /// `origin` on, that begins within `within` of it. Objectives come with their looks a second.
    #[must_use]
    pub fn new(
        objectives: &[(Objective, f64)],
        hold: Duration,
        origin: Duration,
        within: Option<Duration>,
    ) -> Self {
        // One interval more, so that 20 looks fit wherever the stretch begins.
        let slowest = objectives
            .iter()
            .filter_map(|(_, rate)| Duration::try_from_secs_f64((LEAST + 1) as f64 / rate).ok())
            .max()
            .unwrap_or_default();
        let length = hold.max(slowest);
        let cell = (nanos(length) / CELLS).max(1_000);
        let judged = objectives
            .iter()
            .map(|(objective, rate)| {
                let most_looks = rate * length.as_secs_f64() * (1.0 + 2.0 / CELLS as f64) + 2.0;
                let strict = match objective.promise {
                    Promise::Ratio { p0, .. } => tolerated(p0, most_looks.ceil() as u64) == 0,
                    Promise::Outage { .. } => false,
                };
                Judged { objective: objective.clone(), outages: Outages::new(), too_long: None, strict }
            })
            .collect();
        Self {
            judged,
            origin,
            length,
            latest: within.map(|within| origin.saturating_add(within)),
            cell,
            cells: VecDeque::new(),
            closed: 0,
            barrier: None,
            trouble: None,
            since: None,
            progress: None,
            why: "nothing was seen yet".to_owned(),
            baselines: objectives
                .iter()
                .map(|(objective, _)| (objective.probe, Baseline::default()))
                .collect(),
        }
    }

    /// A look of a probe began: a stretch is judged only when all its looks have settled.
    pub fn begun(&mut self, probe: usize, intended: Duration) {
        for judged in self.judged.iter_mut().filter(|judged| judged.objective.probe == probe) {
            judged.outages.begun(intended);
        }
        if self.baselines.contains_key(&probe)
            && let Some(place) = self.cell_at(intended)
            && let Some(cell) = self.cells.get_mut(place)
        {
            cell.begun += 1;
        }
    }

    /// A look of a probe settled. Looks intended before the origin only count for the baseline and for bursts.
    pub fn settled(&mut self, probe: usize, sample: &Sample) {
        let Some(baseline) = self.baselines.get_mut(&probe) else { return };
        match sample.outcome {
            Outcome::Good => baseline.good += 1,
            Outcome::Bad => baseline.bad += 1,
            Outcome::Missed => baseline.missed += 1,
        }
        let missed = sample.outcome == Outcome::Missed;
        if !missed {
            baseline.latency.record(sample.latency());
        }
        let at = sample.intended;
        let mut unplaced = Cell::default();
        let place = self.cell_at(at);
        let cell = place.and_then(|place| self.cells.get_mut(place)).unwrap_or(&mut unplaced);
        let mut trouble = missed;
        let mut fatal = missed;
        let mine = self.judged.iter_mut().enumerate().filter(|(_, judged)| judged.objective.probe == probe);
        for (objective, judged) in mine {
            let bad = judged.objective.bad(sample);
            judged.outages.settled(at, sample.ended, bad);
            if let (Some(bad), Some(count)) = (bad, cell.counts.get_mut(objective)) {
                *(if bad { &mut count.1 } else { &mut count.0 }) += 1;
                trouble |= bad;
                fatal |= bad && judged.strict;
            }
        }
        cell.settled += 1;
        cell.missed += u64::from(missed);
        if trouble && cell.trouble.is_none_or(|last| at > last) {
            cell.trouble = Some(at);
            cell.after = cell.after.filter(|after| *after > at);
        } else if !trouble && cell.trouble.is_none_or(|last| at > last) {
            cell.after = Some(cell.after.map_or(at, |after| after.min(at)));
        }
        if at < self.origin {
            return;
        }
        if fatal {
            self.barrier = self.barrier.max(Some(at));
        }
        if trouble && self.trouble.is_none_or(|last| at > last) {
            self.trouble = Some(at);
            self.since = self.since.filter(|since| *since > at);
        } else if !trouble && self.trouble.is_none_or(|last| at > last) {
            self.since = Some(self.since.map_or(at, |since| since.min(at)));
        }
    }

    /// How far it has come. Once held or too late, it stays so. Tell all beginnings and endings known by `now` before: a
    /// stretch is judged by the looks it is known to have.
    pub fn judge(&mut self, now: Duration) -> Progress {
        let full = self.number(now.max(self.origin));
        while self.progress.is_none() && self.closed < full {
            let front = self.cells.partition_point(|cell| cell.number < self.closed);
            match self.cells.get(front) {
                Some(cell) if cell.number == self.closed && cell.settled < cell.begun => break,
                // Nothing is left of the past, and nothing was looked at until the next cell.
                next if self.cells.front().is_none_or(|cell| cell.number >= self.closed) => {
                    let skip_to = next.map_or(full, |cell| cell.number.min(full));
                    self.closed = skip_to.max(self.closed + 1);
                }
                _ => self.closed += 1,
            }
            while self.cells.front().is_some_and(|cell| cell.number + CELLS + 2 < self.closed) {
                self.cells.pop_front();
            }
            self.outages_bar();
            self.weigh();
        }
        self.foresee();
        self.progress.clone().unwrap_or(Progress::Watching { since: self.since })
    }

    /// How long a stretch takes: its length, and one cell more.
    #[must_use]
    pub fn takes(&self) -> Duration {
        self.length.saturating_add(Duration::from_nanos(self.cell))
    }

    /// What is in the way, or what was found, in a sentence with numbers.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// The longest unbroken stretch of bad looks of any objective: what [`super::slice_for`] wants to know.
    #[must_use]
    pub fn longest_burst(&self) -> Duration {
        self.judged
            .iter()
            .filter_map(|judged| judged.outages.longest())
            .map(|burst| burst.lasted)
            .max()
            .unwrap_or_default()
    }

    /// What a probe was like since watching began.
    #[must_use]
    pub fn baseline(&self, probe: usize) -> Option<&Baseline> {
        self.baselines.get(&probe)
    }

    /// Too late before all is over: nothing tolerates a look that was later than a stretch may begin, and no stretch
    /// that had ended by then is still to be judged.
    fn foresee(&mut self) {
        let (None, Some(barrier), Some(latest)) = (&self.progress, self.barrier, self.latest) else { return };
        let cell = self.number(barrier);
        if barrier >= latest && (cell <= self.closed || cell <= CELLS) {
            self.progress = Some(Progress::TooLate);
            self.why = format!(
                "looks were still bad or missed after {}, and a steady stretch had to begin within {}",
                unit::say(barrier.saturating_sub(self.origin)),
                unit::say(latest.saturating_sub(self.origin))
            );
        }
    }

    fn number(&self, at: Duration) -> u64 {
        nanos(at.saturating_sub(self.origin)) / self.cell
    }

    fn start_of(&self, number: u64) -> Duration {
        self.origin.saturating_add(Duration::from_nanos(number.saturating_mul(self.cell)))
    }

    /// Where the cell of a moment is; `None` before the origin, and when it is long over.
    fn cell_at(&mut self, at: Duration) -> Option<usize> {
        if at < self.origin {
            return None;
        }
        let number = self.number(at);
        if number + CELLS + 2 < self.closed {
            return None;
        }
        let mut place = self.cells.partition_point(|cell| cell.number < number);
        if self.cells.get(place).is_none_or(|cell| cell.number != number) {
            let counts = vec![(0, 0); self.judged.len()];
            self.cells.insert(place, Cell { number, counts, ..Cell::default() });
            if self.cells.len() > WAITING
                && let Some(oldest) = self.cells.front_mut()
            {
                let lost = oldest.begun.saturating_sub(oldest.settled);
                oldest.missed += lost;
                let (oldest, lost) = (oldest.number, lost > 0);
                self.closed = self.closed.max(oldest + 1);
                if lost {
                    self.barrier = self.barrier.max(Some(self.start_of(oldest)));
                }
                self.cells.pop_front();
                place = place.checked_sub(1)?;
            }
        }
        Some(place)
    }

    /// Remembers outages that were too long: a stretch with less than all of one would not show it.
    fn outages_bar(&mut self) {
        for judged in &mut self.judged {
            let Promise::Outage { longest } = judged.objective.promise else { continue };
            let found = [judged.outages.longest(), judged.outages.current()];
            let too_long = found.into_iter().flatten().filter(|outage| outage.lasted > longest);
            judged.too_long = judged.too_long.into_iter().chain(too_long).max_by_key(Outage::ended);
            if let Some(outage) = judged.too_long {
                self.barrier = self.barrier.max(Some(outage.ended()));
            }
        }
    }

    /// Judges the stretch that ends where the closed cells end.
    fn weigh(&mut self) {
        let Some(first) = self.closed.checked_sub(CELLS + 1) else { return };
        if self.latest.is_some_and(|latest| first > self.number(latest) + 1) {
            self.progress = Some(Progress::TooLate);
            return;
        }
        if let Some(why) = self.objection(first) {
            self.why = why;
            return;
        }
        let began = self.beginning(first);
        let until = self.start_of(self.closed);
        let overlaps = |outage: Outage| outage.began < until && began <= outage.ended();
        if let Some(barred) = self.judged.iter().find(|judged| judged.too_long.is_some_and(overlaps)) {
            self.why = format!("{}: its outage was too long", barred.objective.name);
            return;
        }
        if self.latest.is_some_and(|latest| began > latest) {
            self.progress = Some(Progress::TooLate);
            return;
        }
        let looks = self.stretch(first).map(|cell| cell.settled).sum();
        self.why =
            format!("every promise held over {} and {looks} looks", unit::say(until.saturating_sub(began)));
        self.progress = Some(Progress::Held(Stretch { began, until, looks }));
    }

    fn stretch(&self, first: u64) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| (first..self.closed).contains(&cell.number))
    }

    /// Why the stretch of cells from `first` on is not one over which everything held.
    fn objection(&self, first: u64) -> Option<String> {
        let missed: u64 = self.stretch(first).map(|cell| cell.missed).sum();
        if missed > 0 {
            return Some(format!("{missed} looks could not be made in time: our own side was starved"));
        }
        let length = unit::say(self.length);
        for (place, judged) in self.judged.iter().enumerate() {
            let name = &judged.objective.name;
            let sum = |cells: &mut dyn Iterator<Item = &Cell>| {
                cells.map(|cell| cell.counts[place]).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
            };
            let (good, bad) = sum(&mut self.stretch(first));
            let n = good + bad;
            if n < LEAST {
                return Some(format!("{name}: {n} looks in {length}, at least {LEAST} are needed"));
            }
            if let Promise::Ratio { p0, .. } = judged.objective.promise
                && bad > tolerated(p0, n)
            {
                let most = tolerated(p0, n);
                return Some(format!(
                    "{name}: {bad} of {n} looks bad in {length}, at most {most} are tolerated"
                ));
            }
            let (good, bad) = sum(&mut self.stretch(first).take_while(|cell| cell.number == first));
            if bad > good {
                return Some(format!("{name}: {bad} of {} looks bad at first", good + bad));
            }
        }
        None
    }

    /// Where the stretch of cells from `first` on begins, as exactly as is known.
    fn beginning(&self, first: u64) -> Duration {
        let cell = |number: u64| self.cells.iter().find(|cell| cell.number == number);
        let next_look =
            || self.stretch(first + 1).find_map(|cell| cell.after).unwrap_or(self.start_of(first + 1));
        if let Some(troubled) = cell(first).filter(|cell| cell.trouble.is_some()) {
            return troubled.after.unwrap_or_else(next_look);
        }
        let before = first.checked_sub(1).and_then(cell).filter(|cell| cell.trouble.is_some());
        match before {
            Some(before) => {
                before.after.or_else(|| cell(first).and_then(|cell| cell.after)).unwrap_or_else(next_look)
            }
            None => self.start_of(first),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ratio(p0: f64) -> Objective {
        Objective { name: "order availability".into(), probe: 0, promise: Promise::Ratio { p0, below: None } }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Feeds looks every 100 ms from `origin` with the fate and duration given, settles them in the order of their ends,
    /// judges after each, and says how and when it was decided.
    fn watch(
        steady: &mut Steady,
        origin: u64,
        seconds: u64,
        fate: impl Fn(u64) -> (Outcome, u64),
    ) -> (Progress, Duration) {
        let mut happening: Vec<(u64, u64, Option<Outcome>)> = Vec::new();
        for at in (origin..origin + seconds * 1_000).step_by(100) {
            let (outcome, took) = fate(at);
            happening.push((at, at, None));
            happening.push((at + took, at, Some(outcome)));
        }
        happening.sort_by_key(|what| what.0);
        for (now, at, outcome) in happening {
            match outcome {
                None => steady.begun(0, ms(at)),
                Some(outcome) => steady.settled(
                    0,
                    &Sample { intended: ms(at), started: ms(at), ended: ms(now), outcome, why: None },
                ),
            }
            let progress = steady.judge(ms(now));
            if !matches!(progress, Progress::Watching { .. }) {
                return (progress, ms(now));
            }
        }
        (steady.judge(ms(origin + seconds * 1_000)), ms(origin + seconds * 1_000))
    }

    fn held(progress: &Progress) -> Stretch {
        match progress {
            Progress::Held(stretch) => *stretch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_healthy_system_is_steady_as_soon_as_it_has_been_so_for_long_enough() {
        let mut steady = Steady::new(&[(ratio(0.01), 10.0)], ms(10_000), ms(500), None);
        let (progress, decided) = watch(&mut steady, 500, 60, |_| (Outcome::Good, 3));
        let stretch = held(&progress);
        assert_eq!(stretch.began, ms(500));
        assert!(decided >= ms(10_500) && decided <= ms(10_800), "{decided:?}");
        let baseline = steady.baseline(0).unwrap();
        assert!(baseline.good >= 100 && baseline.bad == 0 && baseline.latency.quantile(0.5).unwrap() < ms(4));
        assert_eq!(steady.longest_burst(), Duration::ZERO);
        assert_eq!(steady.why(), "every promise held over 10.1 s and 101 looks");
    }

    #[test]
    fn recovery_begins_at_the_first_good_look_after_the_last_bad_one() {
        for (down_ms, took) in [(3_700, 2), (3_700, 1_000), (100, 1), (9_950, 1_000)] {
            let mut steady = Steady::new(&[(ratio(0.001), 10.0)], ms(10_000), ms(1_000), Some(ms(10_000)));
            let (progress, _) = watch(&mut steady, 1_000, 60, |at| {
                if at < 1_000 + down_ms { (Outcome::Bad, took) } else { (Outcome::Good, 2) }
            });
            let good = 1_000 + down_ms.div_ceil(100) * 100;
            assert_eq!(held(&progress).began, ms(good), "down for {down_ms} ms, looks took {took}");
        }
    }

    #[test]
    fn a_tolerant_promise_does_not_take_the_tail_of_an_outage_for_recovery() {
        let outage = Objective { promise: Promise::Outage { longest: ms(20_000) }, ..ratio(0.5) };
        for objective in [ratio(0.4), ratio(0.05), outage] {
            let mut steady = Steady::new(&[(objective.clone(), 10.0)], ms(30_000), ms(0), Some(ms(60_000)));
            let (progress, _) =
                watch(
                    &mut steady,
                    0,
                    120,
                    |at| if at < 7_300 { (Outcome::Bad, 1) } else { (Outcome::Good, 1) },
                );
            let began = held(&progress).began;
            assert!(began >= ms(7_300) && began <= ms(7_600), "{}: {began:?}", objective.name);
        }
    }

    #[test]
    fn a_system_as_bad_as_promised_is_steady() {
        let mut steady = Steady::new(&[(ratio(0.3), 10.0)], ms(10_000), ms(0), None);
        let (progress, _) =
            watch(&mut steady, 0, 60, |at| (if at % 1_000 < 200 { Outcome::Bad } else { Outcome::Good }, 1));
        held(&progress);
        assert_eq!(steady.longest_burst(), ms(101));
    }

    #[test]
    fn it_is_too_late_as_soon_as_no_stretch_can_begin_in_time() {
        let mut steady = Steady::new(&[(ratio(0.01), 10.0)], ms(5_000), ms(0), Some(ms(3_000)));
        let (progress, decided) =
            watch(&mut steady, 0, 60, |at| (if at <= 3_400 { Outcome::Bad } else { Outcome::Good }, 1));
        assert_eq!(progress, Progress::TooLate);
        assert!(decided <= ms(3_100), "known with the first bad look past the limit: {decided:?}");
        // A tolerant promise has to wait for the stretches that might still hold.
        let mut steady = Steady::new(&[(ratio(0.2), 10.0)], ms(5_000), ms(0), Some(ms(3_000)));
        let (progress, decided) =
            watch(&mut steady, 0, 60, |at| (if at <= 9_000 { Outcome::Bad } else { Outcome::Good }, 1));
        assert_eq!(progress, Progress::TooLate);
        assert!(decided <= ms(8_500), "{decided:?}");
        // A good stretch that only waits for a slow look is waited for, whatever happens after it.
        let mut steady = Steady::new(&[(ratio(0.01), 10.0)], ms(5_000), ms(0), Some(ms(3_000)));
        let (progress, _) = watch(&mut steady, 0, 60, |at| match at {
            6_900 => (Outcome::Good, 5_000),
            _ => (if (2_000..8_500).contains(&at) { Outcome::Good } else { Outcome::Bad }, 1),
        });
        assert_eq!(held(&progress).began, ms(2_000));
        // Silence never recovers.
        let mut steady = Steady::new(&[(ratio(0.2), 10.0)], ms(5_000), ms(0), Some(ms(3_000)));
        assert_eq!(steady.judge(ms(60_000)), Progress::TooLate);
    }

    #[test]
    fn the_end_of_an_outage_that_was_too_long_is_not_a_recovery() {
        let outage = Objective { promise: Promise::Outage { longest: ms(3_000) }, ..ratio(0.5) };
        let mut steady = Steady::new(&[(outage, 10.0)], ms(5_000), ms(0), None);
        // Down from the second to the eighth second, with a good look among the last ones.
        let (progress, _) = watch(&mut steady, 0, 60, |at| {
            (if (1_000..8_000).contains(&at) && at != 7_500 { Outcome::Bad } else { Outcome::Good }, 1)
        });
        assert_eq!(held(&progress).began, ms(7_500));
    }

    #[test]
    fn a_missed_look_breaks_a_stretch() {
        let mut steady = Steady::new(&[(ratio(0.5), 10.0)], ms(5_000), ms(0), None);
        let (progress, _) =
            watch(&mut steady, 0, 60, |at| (if at == 3_000 { Outcome::Missed } else { Outcome::Good }, 1));
        assert_eq!(held(&progress).began, ms(3_100));
    }

    #[test]
    fn slow_probes_are_waited_for_until_they_have_made_twenty_looks() {
        let mut steady = Steady::new(&[(ratio(0.01), 0.5)], ms(5_000), ms(0), None);
        for look in 0..40_u64 {
            let at = ms(look * 2_000);
            steady.begun(0, at);
            steady.settled(
                0,
                &Sample { intended: at, started: at, ended: at, outcome: Outcome::Good, why: None },
            );
            if let Progress::Held(stretch) = steady.judge(at) {
                assert!(stretch.looks >= 20 && look <= 23, "{stretch:?} {look}");
                return;
            }
        }
        panic!("never steady: {}", steady.why());
    }

    #[test]
    fn every_objective_must_hold_at_once() {
        let fast = Objective {
            name: "order p95 below 50 ms".into(),
            probe: 0,
            promise: Promise::Ratio { p0: 0.05, below: Some(ms(50)) },
        };
        let mut steady =
            Steady::new(&[(ratio(0.01), 10.0), (fast, 10.0)], ms(10_000), ms(0), Some(ms(30_000)));
        let (progress, _) = watch(&mut steady, 0, 60, |at| (Outcome::Good, if at < 6_000 { 200 } else { 5 }));
        assert!(held(&progress).began >= ms(6_000));
        assert!(steady.longest_burst() >= ms(5_900));
    }

    /// The definition itself, over all looks: the earliest look from which everything held for the length.
    fn plainly(bad: &[bool], window: usize, p0: f64) -> Option<usize> {
        (0..(bad.len() + 1).saturating_sub(window)).find(|start| {
            let stretch = &bad[*start..*start + window];
            !stretch[0] && stretch.iter().filter(|bad| **bad).count() as u64 <= tolerated(p0, window as u64)
        })
    }

    proptest! {
        #[test]
        fn the_earliest_stretch_is_found(
            bad in proptest::collection::vec(prop::bool::weighted(0.01), 100..500), p0 in prop::sample::select(vec![0.001, 0.005])
        ) {
            let bad = &bad[..bad.len() / 10 * 10];
            // One cell more than the length is judged: about 51 looks.
            let mut steady = Steady::new(&[(ratio(p0), 10.0)], ms(5_000), ms(0), None);
            let (progress, _) = watch(&mut steady, 0, bad.len() as u64 / 10, |at| {
                (if bad[(at / 100) as usize] { Outcome::Bad } else { Outcome::Good }, 1)
            });
            match (progress, plainly(bad, 50, p0)) {
                (Progress::Held(stretch), Some(start)) => {
                    let began = stretch.began.as_millis() as usize / 100;
                    prop_assert!(began >= start && began <= plainly(bad, 53, p0).unwrap_or(usize::MAX), "{} {}", began, start);
                }
                (Progress::Held(stretch), None) => prop_assert!(false, "held though nothing held: {:?}", stretch),
                (_, Some(_)) => prop_assert!(plainly(bad, 53, p0).is_none(), "not found"),
                (_, None) => {}
            }
        }

        #[test]
        fn nothing_that_can_be_told_makes_it_panic(
            told in proptest::collection::vec((0_u8..4, any::<u64>(), any::<u64>(), 0_usize..3), 0..200),
            hold in any::<u64>(), rate in prop::sample::select(vec![0.0, 1e-9, 1.0, 1e6, f64::NAN, f64::INFINITY])
        ) {
            let mut steady = Steady::new(&[(ratio(0.01), rate)], Duration::from_secs(hold), ms(5), Some(ms(hold)));
            for (what, intended, ended, probe) in told {
                let at = Duration::from_millis(intended);
                let outcome = [Outcome::Good, Outcome::Bad, Outcome::Missed][(what % 3) as usize];
                if what == 3 {
                    steady.begun(probe, at);
                } else {
                    let ended = Duration::from_secs(ended);
                    steady.settled(probe, &Sample { intended: at, started: at, ended, outcome, why: None });
                }
                steady.judge(Duration::from_millis(ended));
            }
            prop_assert!(steady.cells.len() <= WAITING + 1);
        }
    }
}
