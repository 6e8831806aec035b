//! What is promised about one probe, in the form in which it is judged.

use std::time::Duration;

use super::{Outcome, Sample};
use crate::base::unit;

/// One objective: one promise about one probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// What people call it, for example `order availability 99%` or `order p95 below 300 ms`.
    pub name: String,
    /// The probe's place in the experiment.
    pub probe: usize,
    /// What is promised.
    pub promise: Promise,
}

/// The form of a promise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Promise {
    /// At most this ratio of looks may be bad: 0 < `p0` <= 0.5. For availability `p0` is 1 minus the SLO; for
    /// a latency objective it is 1 minus the percentile, and a look is bad when it failed or was
    /// slower than `below`: the same test, no estimate of a percentile needed.
    Ratio {
        /// The tolerated bad ratio.
        p0: f64,
        /// For latency objectives, the threshold.
        below: Option<Duration>,
    },
    /// The longest unbroken stretch of bad looks.
    Outage {
        /// May last at most so long.
        longest: Duration,
    },
}

impl Promise {
    /// Why such a promise cannot be judged, if so.
    #[must_use]
    pub fn unjudgeable(&self) -> Option<&'static str> {
        match self {
            Self::Ratio { p0, .. } if *p0 > 0.0 && *p0 <= 0.5 => None,
            Self::Ratio { p0, .. } if *p0 <= 0.0 => Some(
                "it tolerates no bad look at all, which no number of looks can show; promise 99.9 %, for example",
            ),
            Self::Ratio { .. } => {
                Some("it tolerates more than half of all looks to be bad; promise at least 50 %")
            }
            Self::Outage { longest } if longest.is_zero() => Some(
                "it allows an outage of no length, and a single bad look would break it; allow at least some looks",
            ),
            Self::Outage { .. } => None,
        }
    }
}

impl Objective {
    /// Whether a look broke this promise; `None` for a missed look, which says nothing.
    #[must_use]
    pub fn bad(&self, sample: &Sample) -> Option<bool> {
        match (sample.outcome, self.promise) {
            (Outcome::Missed, _) => None,
            (Outcome::Bad, _) => Some(true),
            (Outcome::Good, Promise::Ratio { below: Some(below), .. }) => Some(sample.latency() >= below),
            (Outcome::Good, _) => Some(false),
        }
    }

    /// The promise in words, without the probe's name.
    #[must_use]
    pub fn promised(&self) -> String {
        match self.promise {
            Promise::Ratio { p0, below: None } => format!("availability {}%", round((1.0 - p0) * 100.0)),
            Promise::Ratio { p0, below: Some(below) } => {
                format!("p{} below {}", round((1.0 - p0) * 100.0), unit::say(below))
            }
            Promise::Outage { longest } => format!("no outage longer than {}", unit::say(longest)),
        }
    }
}

/// Without the noise that 1 - 0.999 leaves.
fn round(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_promises_that_looks_can_show_are_judged() {
        for (p0, judged) in
            [(0.01, true), (0.5, true), (0.0, false), (0.51, false), (-1.0, false), (f64::NAN, false)]
        {
            assert_eq!(Promise::Ratio { p0, below: None }.unjudgeable().is_none(), judged, "{p0}");
        }
        assert!(Promise::Outage { longest: Duration::ZERO }.unjudgeable().is_some());
        assert!(Promise::Outage { longest: Duration::from_secs(1) }.unjudgeable().is_none());
    }
}
