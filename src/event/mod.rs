//! Floor 4: what happened, as one enum. The engine speaks it; journal, live view and reports hear it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::Clock;
use crate::fault::Effect;
use crate::probe::Phases;
use crate::slo::Outcome;
use crate::undo::Tier;

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

/// What became of a service that the experiment starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Its process was started.
    Started,
    /// It answered as its `ready` says.
    Ready,
    /// It was stopped by us, with all its descendants.
    Stopped,
    /// It ended by itself, or was killed.
    Died,
}

/// Why a run stops before its plan has ended; the worst wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Its plan has come to its end.
    Finished,
    /// `max_duration`.
    Deadline,
    /// Our own side failed: the watchdog was lost, an injection failed.
    Trouble,
    /// The guard: the error budget was threatened, or the kill switch was pulled.
    Guard,
    /// SIGINT, SIGHUP, or `brownout halt`.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// The judgement on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every promise was kept.
    Passed,
    /// A promise was broken, an expectation missed, or the system did not recover.
    Failed,
    /// Stopped by the guard.
    Aborted,
    /// Nothing can be concluded.
    Inconclusive,
    /// Stopped by a person.
    Interrupted,
    /// Unhealthy or refused before any harm.
    Refused,
    /// Something is not undone: outranks all others.
    NotUndone,
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
        /// SHA-256 of all the text read, hexadecimal.
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
        /// What became of it.
        state: ServiceState,
        /// More, for people.
        detail: String,
    },
    /// The steady state was proved, or was not.
    Steady {
        /// Whether.
        yes: bool,
        /// In a sentence with numbers.
        why: String,
    },
    /// The first moment of judgement: t = 0.
    Zero,
    /// A step waits for a person: Enter, or `brownout go RUN`.
    Waiting {
        /// The fault that waits.
        fault: String,
    },
    /// A fault's injection was begun.
    Injecting {
        /// Its name.
        fault: String,
        /// Its kind.
        kind: String,
        /// Whom it hurts and how, in a sentence.
        harm: String,
        /// Who undoes it if we are killed.
        tier: Tier,
        /// By which mechanism it is held, when a kind has several: `packet queue`, `netem`, `proxy`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mechanism: Option<String>,
    },
    /// A fault is live, and its effect was measured.
    Live {
        /// Its name.
        fault: String,
        /// Whether it took hold, with the figures asked and measured.
        #[serde(flatten)]
        effect: Effect,
        /// When it ends at the latest by plan, monotonic milliseconds since the run's clock started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<f64>,
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
        /// How late our own side started it, milliseconds.
        slip_ms: f64,
        /// Why it was bad or missed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The parts it had.
        #[serde(default)]
        phases: Phases,
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
        /// By whom or what.
        because: StopReason,
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
    /// An expectation was met in time, or missed.
    Expectation {
        /// Its name.
        name: String,
        /// Whether it was met.
        met: bool,
        /// In a sentence.
        why: String,
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
        /// The judgement.
        verdict: Verdict,
        /// The reason in a sentence with numbers.
        why: String,
        /// The process's exit code.
        exit: u8,
    },
}

impl Event {
    /// An event at a moment of the run's clock.
    #[must_use]
    pub fn new(clock: &Clock, at: Duration, what: What) -> Self {
        Self { at_ms: at.as_secs_f64() * 1e3, wall: clock.wall(at).to_string(), what }
    }
}
