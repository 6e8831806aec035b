//! What one series of looks was like, in figures: kept while looking, in memory that does not grow.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

use super::outage::{Outage, Outages};
use super::{Outcome, Sample};

/// Different reasons that are counted by name.
const REASONS: usize = 32;

/// Where reasons beyond that are counted.
const OTHER: &str = "other";

/// Seconds the live figures look back.
const LIVE: u64 = 10;

/// A histogram of durations from 1 us to 1 h; what lies outside counts as the nearer end.
///
/// Percentiles are read from it, never averaged: to join two series, join their histograms.
#[derive(Debug, Clone)]
pub struct Latencies<C: Counter = u64> {
    histogram: Histogram<C>,
}

impl Default for Latencies<u64> {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies<u64> {
    /// Three significant digits.
    #[must_use]
    pub fn new() -> Self {
        Self { histogram: histogram(3) }
    }

    /// Adds all of another series' durations.
    pub fn join(&mut self, other: &Self) {
        // Both have the same bounds, so nothing can fail to fit.
        let _ = self.histogram.add(&other.histogram);
    }
}

impl<C: Counter> Latencies<C> {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        self.histogram.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The duration that the share `quantile` (0.95 for p95) does not exceed; `None` when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        (!self.histogram.is_empty())
            .then(|| Duration::from_micros(self.histogram.value_at_quantile(quantile)))
    }

    /// The longest, to three significant digits.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (!self.histogram.is_empty()).then(|| Duration::from_micros(self.histogram.max()))
    }
}

#[allow(clippy::expect_used, reason = "the bounds are constants that fit, and every test would tell")]
fn histogram<C: Counter>(digits: u8) -> Histogram<C> {
    Histogram::new_with_bounds(1, 3_600_000_000, digits).expect("constant bounds")
}

/// Figures of a while, for a live view.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Looks that settled a second, missed ones not counted.
    pub rate: f64,
    /// Of them bad, a second.
    pub bad_rate: f64,
    /// The median latency.
    pub p50: Option<Duration>,
    /// The 95th percentile.
    pub p95: Option<Duration>,
    /// The 99th percentile.
    pub p99: Option<Duration>,
}

/// Statistics of one series, in about half a MiB. Latencies are of all looks that ran, good and bad: what a client waited.
#[derive(Debug, Clone)]
pub struct Tally {
    good: u64,
    bad: u64,
    missed: u64,
    retried: u64,
    latency: Latencies,
    slip: Latencies,
    outages: Outages,
    reasons: BTreeMap<Arc<str>, u64>,
    live: VecDeque<Second>,
    first: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Second {
    number: u64,
    bad: u64,
    latency: Latencies<u32>,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            good: 0,
            bad: 0,
            missed: 0,
            retried: 0,
            latency: Latencies::new(),
            slip: Latencies::new(),
            outages: Outages::new(),
            reasons: BTreeMap::new(),
            live: VecDeque::new(),
            first: None,
        }
    }

    /// A look began: needed to see outages right when looks settle out of order.
    pub fn begun(&mut self, intended: Duration) {
        self.outages.begun(intended);
    }

    /// A look settled.
    pub fn settled(&mut self, sample: &Sample) {
        self.first = Some(self.first.map_or(sample.ended, |first| first.min(sample.ended)));
        match sample.outcome {
            Outcome::Good => self.good += 1,
            Outcome::Bad => self.bad += 1,
            Outcome::Missed => self.missed += 1,
        }
        if let Some(why) = &sample.why {
            self.reason(why);
        }
        let bad = match sample.outcome {
            Outcome::Missed => None,
            Outcome::Bad => Some(true),
            Outcome::Good => Some(false),
        };
        self.outages.settled(sample.intended, sample.ended, bad);
        // Of missed looks too: those that were too late to begin are the latest of all.
        self.slip.record(sample.slip());
        if let Some(bad) = bad {
            self.latency.record(sample.latency());
            if let Some(second) = self.second(sample.ended.as_secs()) {
                second.latency.record(sample.latency());
                second.bad += u64::from(bad);
            }
        }
    }

    /// The look that settled last was good only after a retry.
    pub fn retried(&mut self) {
        self.retried += 1;
    }

    /// The series is not looked at for a while.
    pub fn suspend(&mut self) {
        self.outages.suspend();
    }

    /// Looks that were good only after a retry; they are among the good ones.
    #[must_use]
    pub fn good_after_retry(&self) -> u64 {
        self.retried
    }

    /// Looks that were good.
    #[must_use]
    pub fn good(&self) -> u64 {
        self.good
    }

    /// Looks that were bad.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// Looks that our own side could not start in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Bad of all that ran; `None` when none ran: no data is neither good nor bad.
    #[must_use]
    pub fn bad_ratio(&self) -> Option<f64> {
        let ran = self.good + self.bad;
        (ran > 0).then(|| self.bad as f64 / ran as f64)
    }

    /// From intended start to end, of all looks that ran.
    #[must_use]
    pub fn latency(&self) -> &Latencies {
        &self.latency
    }

    /// How late our own side started looks, or gave them up.
    #[must_use]
    pub fn slip(&self) -> &Latencies {
        &self.slip
    }

    /// The longest unbroken stretch of bad looks.
    #[must_use]
    pub fn longest_outage(&self) -> Option<Outage> {
        self.outages.longest()
    }

    /// The outage that no good look has ended yet.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.outages.current().filter(|_| !self.outages.over())
    }

    /// Why looks were bad or missed and how often, most often first; beyond 32 different ones as `other`.
    #[must_use]
    pub fn reasons(&self) -> Vec<(Arc<str>, u64)> {
        let mut reasons: Vec<_> = self.reasons.iter().map(|(why, count)| (Arc::clone(why), *count)).collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.1));
        reasons
    }

    /// Figures of the last ten seconds before `now`, or of as much as there was. For a live view, about once a
    /// second: it joins ten small histograms.
    #[must_use]
    pub fn live(&self, now: Duration) -> Figures {
        let second = now.as_secs();
        let mut joined = histogram::<u32>(2);
        let (mut looks, mut bad) = (0, 0);
        for part in self.live.iter().filter(|part| part.number <= second && second - part.number <= LIVE) {
            looks += part.latency.count();
            bad += part.bad;
            let _ = joined.add(&part.latency.histogram);
        }
        let joined = Latencies { histogram: joined };
        let oldest = Duration::from_secs(second.saturating_sub(LIVE)).max(self.first.unwrap_or(now));
        let length = now.saturating_sub(oldest).as_secs_f64().max(1.0);
        Figures {
            rate: looks as f64 / length,
            bad_rate: bad as f64 / length,
            p50: joined.quantile(0.5),
            p95: joined.quantile(0.95),
            p99: joined.quantile(0.99),
        }
    }

    fn reason(&mut self, why: &Arc<str>) {
        if let Some(count) = self.reasons.get_mut(why) {
            *count += 1;
        } else if self.reasons.len() < REASONS {
            self.reasons.insert(Arc::clone(why), 1);
        } else {
            *self.reasons.entry(Arc::from(OTHER)).or_default() += 1;
        }
    }

    /// The part of the live figures for a second; `None` when it is too long ago.
    fn second(&mut self, number: u64) -> Option<&mut Second> {
        if self.live.back().is_none_or(|newest| newest.number < number) {
            // The oldest part's memory is used again.
            let mut fresh = if self.live.len() as u64 > LIVE { self.live.pop_front() } else { None }
                .unwrap_or_else(|| Second { number, bad: 0, latency: Latencies { histogram: histogram(2) } });
            fresh.number = number;
            fresh.bad = 0;
            fresh.latency.histogram.reset();
            self.live.push_back(fresh);
        }
        self.live.iter_mut().rev().find(|part| part.number == number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(at_ms: u64, took_ms: u64, outcome: Outcome, why: Option<&str>) -> Sample {
        Sample {
            intended: Duration::from_millis(at_ms),
            started: Duration::from_millis(at_ms + 1),
            ended: Duration::from_millis(at_ms + took_ms),
            outcome,
            why: why.map(Arc::from),
        }
    }

    #[test]
    fn percentiles_come_from_the_histogram_to_three_digits() {
        let mut tally = Tally::new();
        for n in 1..=1_000 {
            tally.settled(&look(n * 10, n, Outcome::Good, None));
        }
        for (quantile, expected) in [(0.5, 500.0), (0.9, 900.0), (0.95, 950.0), (0.99, 990.0), (0.999, 999.0)]
        {
            let found = tally.latency().quantile(quantile).unwrap().as_secs_f64() * 1e3;
            assert!((found / expected - 1.0).abs() < 2e-3, "{quantile}: {found}");
        }
        assert_eq!(tally.slip().count(), 1_000);
        assert!(tally.slip().max().unwrap() < Duration::from_micros(1_002));
    }

    #[test]
    fn two_series_are_joined_by_their_histograms() {
        let (mut fast, mut slow) = (Latencies::new(), Latencies::new());
        for _ in 0..90 {
            fast.record(Duration::from_millis(1));
        }
        for _ in 0..10 {
            slow.record(Duration::from_secs(1));
        }
        fast.join(&slow);
        assert!(
            fast.quantile(0.89).unwrap() < Duration::from_millis(2),
            "the average of two p89 would be half a second"
        );
        assert!(fast.quantile(0.95).unwrap() > Duration::from_millis(990));
    }

    #[test]
    fn what_is_out_of_bounds_counts_as_the_nearer_end() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantile(0.5), None);
        latencies.record(Duration::ZERO);
        latencies.record(Duration::MAX);
        assert_eq!(latencies.count(), 2);
        assert_eq!(latencies.quantile(0.0).unwrap(), Duration::from_micros(1));
        assert!(latencies.max().unwrap() >= Duration::from_hours(1));
    }

    #[test]
    fn reasons_beyond_a_number_are_other() {
        let mut tally = Tally::new();
        for n in 0..100 {
            let why = format!("reason {n}");
            tally.settled(&look(n, 1, Outcome::Bad, Some(&why)));
            tally.settled(&look(n, 1, Outcome::Bad, Some("reason 7")));
        }
        let reasons = tally.reasons();
        assert_eq!(reasons.len(), REASONS + 1);
        assert_eq!((&*reasons[0].0, reasons[0].1), ("reason 7", 101));
        assert_eq!((&*reasons[1].0, reasons[1].1), (OTHER, 68));
        assert_eq!(tally.bad(), 200);
        assert_eq!(tally.bad_ratio(), Some(1.0));
    }

    #[test]
    fn live_figures_forget_after_ten_seconds() {
        let mut tally = Tally::new();
        for n in 0..200 {
            tally.settled(&look(n * 100, 5, Outcome::Good, None));
        }
        for n in 200..400 {
            tally.settled(&look(n * 100, 50, Outcome::Bad, Some("refused")));
        }
        let live = tally.live(Duration::from_secs(40));
        assert!((live.rate - 10.0).abs() < 0.6 && (live.bad_rate - 10.0).abs() < 0.6, "{live:?}");
        assert!(live.p50.unwrap() > Duration::from_millis(49), "{live:?}");
        assert!(tally.live.len() <= LIVE as usize + 1);
        assert_eq!(tally.live(Duration::from_secs(400)), Figures::default());
        let start = Tally::new().live(Duration::ZERO);
        assert_eq!(start, Figures::default());
    }

    #[test]
    fn missed_looks_have_no_latency_and_no_ratio() {
        let mut tally = Tally::new();
        tally.settled(&look(0, 900, Outcome::Missed, Some("too many under way")));
        assert_eq!((tally.missed(), tally.bad_ratio(), tally.latency().count()), (1, None, 0));
        assert_eq!(tally.longest_outage(), None);
    }

    proptest! {
        #[test]
        fn no_sample_makes_it_panic(
            looks in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), 0_u8..3), 0..100)
        ) {
            let mut tally = Tally::new();
            for (intended, started, ended, outcome) in looks {
                tally.settled(&Sample {
                    intended: Duration::from_nanos(intended),
                    started: Duration::from_secs(started),
                    ended: Duration::from_secs(ended),
                    outcome: [Outcome::Good, Outcome::Bad, Outcome::Missed][outcome as usize],
                    why: None,
                });
                let _ = tally.live(Duration::from_secs(ended));
            }
            let _ = (tally.longest_outage(), tally.live(Duration::MAX));
        }
    }
}
