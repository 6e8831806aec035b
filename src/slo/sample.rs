//! One look at a system, as the judges see it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How one look came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It met the probe's expectations in time.
    Good,
    /// It did not.
    Bad,
    /// Our own side could not start it in time: evidence about us, never about the system.
    Missed,
}

/// One look. All moments are of the run's clock (`base::Clock`).
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// When it was to start: what late looks are counted from, so that a stalled system cannot hide
    /// its own stall (coordinated omission).
    pub intended: Duration,
    /// When it really started; the difference is our own schedule slip.
    pub started: Duration,
    /// When it had settled.
    pub ended: Duration,
    /// How it came out.
    pub outcome: Outcome,
    /// Why it was bad or missed.
    pub why: Option<Arc<str>>,
}

impl Sample {
    /// From the intended start to the end.
    #[must_use]
    pub fn latency(&self) -> Duration {
        self.ended.saturating_sub(self.intended)
    }

    /// How late our own side started it.
    #[must_use]
    pub fn slip(&self) -> Duration {
        self.started.saturating_sub(self.intended)
    }
}
