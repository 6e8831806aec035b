//! What a run means to do, and what it saw, in the form in which events carry them.

use serde::{Deserialize, Serialize};

use super::Phase;
use crate::undo::Tier;

/// All that a run means to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// What is believed, and is being tested.
    pub hypothesis: Option<String>,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// How long the steady state must hold, milliseconds.
    pub steady_for_ms: f64,
    /// Recovery must begin within so long of the last undo, milliseconds.
    pub recovery_within_ms: f64,
    /// From t = 0 to the last undo, at most, milliseconds.
    pub max_duration_ms: Option<f64>,
    /// What is done to the system, in the file's order.
    pub faults: Vec<PlannedFault>,
    /// How it is watched.
    pub probes: Vec<PlannedProbe>,
    /// What is promised.
    pub objectives: Vec<PlannedObjective>,
    /// What must be seen in time.
    pub expectations: Vec<PlannedExpectation>,
}

/// One fault of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Whom it hurts and how, in a sentence.
    pub harm: String,
    /// When it begins, as people read it: `5 s`, `slow.end + 5 s`, `operator`.
    pub at: String,
    /// When it is expected to begin, milliseconds after t = 0; absent when a person decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_ms: Option<f64>,
    /// How long it lasts, milliseconds; absent for kinds that are over when done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<f64>,
    /// How often it is done in all.
    pub times: u32,
    /// Who undoes it if we are killed.
    pub tier: Tier,
    /// By which mechanism it is held, when a kind has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<String>,
}

/// One probe of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedProbe {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// What it looks at, in a few words.
    pub looks_at: String,
    /// Looks a second, of a ramp before it begins; absent for a check that is made once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// When it looks, in words: `10/s to 200/s in 10 steps over 1 m, poisson`; absent as `rate` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rhythm: Option<String>,
    /// How often a bad look is tried again.
    #[serde(default)]
    pub retries: u32,
    /// Recorded only: a bad look of it is no harm.
    #[serde(default)]
    pub observe_only: bool,
}

/// One promise of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedObjective {
    /// Its name.
    pub name: String,
    /// The probe it is about.
    pub probe: String,
    /// The promise in words: `availability 99%`.
    pub promise: String,
    /// The tolerated ratio of bad looks; absent for the longest outage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerated: Option<f64>,
    /// For latency: a look that takes longer breaks it, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below_ms: Option<f64>,
    /// The fault during which it stands instead of the general one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<String>,
}

/// One expectation of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedExpectation {
    /// Its name.
    pub name: String,
    /// What must be seen, in words: `probe alert good within 2 m of stop-api.begin`.
    pub wants: String,
}

/// All looks of one probe in one phase, counted; percentiles come from a histogram of the whole phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Looks that met the probe's expectations in time.
    pub good: u64,
    /// Looks that did not.
    pub bad: u64,
    /// Looks our own side could not start in time.
    pub missed: u64,
    /// Looks that were good only after a retry; they are among the good ones.
    #[serde(default)]
    pub good_after_retry: u64,
    /// Latencies from the intended start, milliseconds; absent without a look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Percentiles>,
    /// The median of how late our own side started looks, milliseconds.
    #[serde(default)]
    pub slip_p50_ms: f64,
    /// The 99th percentile of it.
    pub slip_p99_ms: f64,
    /// The latest.
    #[serde(default)]
    pub slip_max_ms: f64,
    /// The longest unbroken stretch of bad looks, by intended time, milliseconds.
    pub longest_outage_ms: f64,
    /// Why looks were bad or missed, most frequent first, at most a few.
    #[serde(default)]
    pub reasons: Vec<Reason>,
}

impl Totals {
    /// Looks that say something: good and bad.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.good + self.bad
    }

    /// The share of bad looks, 0 to 1; `None` without a look.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        (self.looks() > 0).then(|| self.bad as f64 / self.looks() as f64)
    }
}

/// A distribution of latencies, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The 99.9th percentile.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// One sentence looks gave, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The sentence.
    pub why: String,
    /// How often.
    pub count: u64,
}

/// The judgement on one objective.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judgement {
    /// The promise was kept.
    Passed,
    /// It was broken.
    Failed,
    /// Nothing can be concluded.
    Inconclusive,
}

/// Where the true bad ratio lies, if the rate is constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The lower end, a ratio.
    pub low: f64,
    /// The upper end, a ratio.
    pub high: f64,
    /// The confidence, below 1.
    pub level: f64,
}

/// The end of one objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Its name.
    pub objective: String,
    /// How it came out.
    pub judgement: Judgement,
    /// In a sentence with numbers.
    pub why: String,
    /// The looks it was judged by.
    pub looks: u64,
    /// The bad ones among them.
    pub bad: u64,
    /// Where the true bad ratio lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// What a journal left out of itself, so that it stays small or because it could not be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Looks dropped because the queue was full or the disk failed (not those thinned out on purpose).
    pub samples: u64,
    /// Other events dropped for the same reason.
    pub events: u64,
    /// The first error that was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Losses {
    /// Whether nothing was lost.
    #[must_use]
    pub fn none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Preflight => "preflight",
            Self::Steady => "steady",
            Self::Faults => "faults",
            Self::Unwind => "unwind",
            Self::Recovery => "recovery",
            Self::Over => "over",
        })
    }
}
