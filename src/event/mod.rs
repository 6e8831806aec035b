//! Floor 4: what happened, as one enum. The engine speaks it; journal, live view and reports hear it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One thing that happened, with its moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Monotonic milliseconds since the run's clock started; fractional.
    pub at_ms: f64,
    /// The same moment on the wall, UTC, RFC 3339.
    pub wall: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// The phases of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reads only: rights, blast radius, what old runs owe.
    Preflight,
    /// Services start, and the steady state is proved.
    Steady,
    /// Faults are live or will be.
    Faults,
    /// Everything is being undone.
    Unwind,
    /// The system is watched until it is steady again.
    Recovery,
    /// The run has ended.
    Over,
}

/// How one look came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It met the probe's expectations in time.
    Good,
    /// It did not.
    Bad,
    /// Our own side could not start it in time.
    Missed,
}

/// What can happen in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum What {
    /// The run began: the audit line.
    Began {
        /// The run's id.
        run: String,
        /// The experiment's title.
        title: String,
        /// The file, as given.
        file: String,
        /// FNV-1a of all the text read, hexadecimal.
        file_hash: String,
        /// The seed that repeats the run.
        seed: u64,
        /// Who ran it.
        user: String,
        /// Who called sudo, if it was used.
        sudo_user: Option<String>,
        /// The host it ran on.
        host: String,
        /// This program's version.
        version: String,
    },
    /// A phase began.
    Phase {
        /// Which.
        phase: Phase,
    },
    /// A service that the experiment starts changed its state.
    Service {
        /// Its name.
        name: String,
        /// `started`, `ready`, `stopped`, `died`.
        state: String,
        /// More, for people.
        detail: String,
    },
    /// The first moment of judgement: t = 0.
    Zero,
    /// A fault's injection was begun.
    Injecting {
        /// Its name.
        fault: String,
        /// Its kind.
        kind: String,
        /// Whom it hurts and how, in a sentence.
        harm: String,
        /// Who undoes it if we are killed.
        tier: String,
    },
    /// A fault is live, and its effect was measured.
    Live {
        /// Its name.
        fault: String,
        /// `confirmed`, `mismatch` or `unverifiable`.
        effect: String,
        /// The figures asked and measured.
        figures: String,
    },
    /// An injection failed; what it left half done is undone.
    InjectFailed {
        /// Its name.
        fault: String,
        /// Why.
        why: String,
    },
    /// A fault is gone, and that was checked.
    Undone {
        /// Its name.
        fault: String,
        /// From the decision to the checked absence, in milliseconds.
        took_ms: f64,
    },
    /// A fault could not be undone: the worst there is.
    NotUndone {
        /// Its name.
        fault: String,
        /// Why.
        why: String,
        /// What a person would type.
        by_hand: String,
    },
    /// One look of a probe.
    Sample {
        /// The probe's name.
        probe: String,
        /// When it was to start, monotonic milliseconds since the run's clock started.
        intended_ms: f64,
        /// How it came out.
        outcome: Outcome,
        /// From the intended start to the end, milliseconds.
        latency_ms: f64,
        /// Why it was bad or missed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// The guard's view of one objective, about once a second.
    Budget {
        /// The objective's name.
        objective: String,
        /// Bad seconds spent.
        spent_s: f64,
        /// Bad seconds this run may spend.
        budget_s: f64,
        /// Under the promise, the chance of seeing this is at most 1 in so many.
        one_in: f64,
    },
    /// The run is being stopped before its plan ended.
    Stopping {
        /// `guard`, `deadline`, `interrupt`, `operator`.
        because: String,
        /// The reason in a sentence with numbers.
        why: String,
    },
    /// What a person knows, by `brownout note` or `go`.
    Note {
        /// Who said it.
        who: String,
        /// What they said.
        text: String,
    },
    /// Recovery was proved, or was not within its limit.
    Recovered {
        /// Whether.
        yes: bool,
        /// From the last undo to the beginning of the steady stretch, milliseconds.
        took_ms: f64,
        /// In a sentence.
        why: String,
    },
    /// The end.
    Ended {
        /// `passed`, `failed`, `inconclusive`, `aborted`, `not-undone`, `refused`, `interrupted`.
        verdict: String,
        /// The reason in a sentence with numbers.
        why: String,
        /// The process's exit code.
        exit: u8,
    },
}

impl Event {
    /// An event at a moment of the run's clock.
    #[must_use]
    pub fn new(clock: &crate::base::Clock, at: Duration, what: What) -> Self {
        Self { at_ms: at.as_secs_f64() * 1e3, wall: clock.wall(at).to_string(), what }
    }
}
