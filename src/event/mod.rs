//! Floor 4: what happened, as one enum. The engine speaks it; journal, live view and reports hear it.

mod plan;
mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use plan::{
    Interval, Judged, Judgement, Losses, Percentiles, Plan, PlannedExpectation, PlannedFault,
    PlannedObjective, PlannedProbe, Reason, Totals,
};

use crate::base::Clock;
use crate::fault::Effect;
use crate::probe::schedule::Look;
use crate::probe::{Phases, Step};
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
    /// It was started again, and is not ready within its time.
    NotReady,
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
    /// What the run means to do, after preflight: who, what, when, by which mechanism.
    Planned {
        /// All of it.
        plan: Plan,
    },
    /// Something a person should know, that stops nothing.
    Warning {
        /// In a sentence.
        text: String,
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
        /// Why each earlier try was bad, when it was tried again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        retried: Vec<String>,
        /// The parts it had; in the journal as `connect_ms` and so on.
        #[serde(default, with = "wire::phases", skip_serializing_if = "wire::phases::none")]
        phases: Phases,
        /// The steps it had, of a scenario.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<StepTook>,
    },
    /// The guard's view of one objective, about once a second.
    Budget {
        /// The objective's name.
        objective: String,
        /// Bad seconds spent.
        spent_s: f64,
        /// Bad seconds this run may spend.
        budget_s: f64,
        /// Under the promise, the chance of seeing this is at most 1 in so many; may be infinite.
        #[serde(with = "wire::endless")]
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
    /// All looks of one probe in one phase, told once the phase is over: `steady`; `faults`, which goes from
    /// t = 0 to the last undo; `recovery`.
    Tally {
        /// The probe's name.
        probe: String,
        /// The phase.
        phase: Phase,
        /// The figures.
        totals: Totals,
    },
    /// The end of one objective.
    Judged {
        /// The judgement, with its figures.
        judged: Judged,
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
    /// From here on a journal keeps only one in so many of these, so that it stays small.
    Thinned {
        /// Of what: `good looks of order`.
        of: String,
        /// One in so many.
        one_in: u64,
    },
    /// A journal's last line, when it could not keep all it wanted.
    Lost {
        /// What is missing, and why.
        losses: Losses,
    },
}

impl What {
    /// A look of the probe of this name.
    #[must_use]
    pub fn sample(probe: String, look: &Look) -> Self {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Self::Sample {
            probe,
            intended_ms: ms(look.sample.intended),
            outcome: look.sample.outcome,
            latency_ms: ms(look.sample.latency()),
            slip_ms: ms(look.sample.slip()),
            why: look.sample.why.as_deref().map(str::to_owned),
            retried: look.retried.iter().map(ToString::to_string).collect(),
            phases: look.phases,
            steps: look.steps.iter().map(StepTook::of).collect(),
        }
    }
}

/// A step of a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTook {
    /// Its name.
    pub name: String,
    /// How long it took, milliseconds.
    pub took_ms: f64,
    /// Whether it was good.
    pub good: bool,
}

impl StepTook {
    fn of(step: &Step) -> Self {
        Self { name: step.name.clone(), took_ms: step.took.as_secs_f64() * 1e3, good: step.good }
    }
}

/// Who hears what happens. A face never acts.
pub trait Listener: Send {
    /// Hears one event. Returns at once: it never waits, not for a disk, a terminal or a lock, and cannot
    /// fail.
    fn hear(&mut self, event: &Event);
}

/// Remembers all it hears.
impl Listener for Vec<Event> {
    fn hear(&mut self, event: &Event) {
        self.push(event.clone());
    }
}

impl Event {
    /// An event at a moment of the run's clock, to the microsecond.
    #[must_use]
    pub fn new(clock: &Clock, at: Duration, what: What) -> Self {
        Self { at_ms: at.as_micros() as f64 / 1e3, wall: clock.wall(at).to_string(), what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back_and_forth(what: What) -> (String, Event) {
        let event = Event { at_ms: 1.5, wall: "2026-01-02T03:04:05Z".to_owned(), what };
        let line = serde_json::to_string(&event).unwrap();
        let read: Event = serde_json::from_str(&line).unwrap();
        assert_eq!(read, event, "{line}");
        (line, read)
    }

    #[test]
    fn an_event_is_one_flat_object_and_reads_back() {
        let (line, _) = back_and_forth(What::Live {
            fault: "slow".to_owned(),
            effect: Effect::Confirmed("asked 25 ms, measured 25.1 ms".to_owned()),
            until_ms: None,
        });
        assert_eq!(
            line,
            "{\"at_ms\":1.5,\"wall\":\"2026-01-02T03:04:05Z\",\"event\":\"live\",\"fault\":\"slow\",\
             \"effect\":\"confirmed\",\"figures\":\"asked 25 ms, measured 25.1 ms\"}"
        );
    }

    #[test]
    fn the_parts_of_a_look_are_milliseconds() {
        let sample = |phases| What::Sample {
            probe: "order".to_owned(),
            intended_ms: 1.0,
            outcome: Outcome::Good,
            latency_ms: 2.0,
            slip_ms: 0.0,
            why: None,
            retried: Vec::new(),
            phases,
            steps: Vec::new(),
        };
        let connect = Phases { connect: Some(Duration::from_micros(1250)), ..Phases::default() };
        let (line, _) = back_and_forth(sample(connect));
        assert!(line.ends_with("\"phases\":{\"connect_ms\":1.25}}"), "{line}");
        let (line, _) = back_and_forth(sample(Phases::default()));
        assert!(!line.contains("phases"), "{line}");
    }

    #[test]
    fn an_endless_chance_survives_json_which_has_no_infinity() {
        for one_in in [1.0, 250.5, f64::INFINITY] {
            back_and_forth(What::Budget {
                objective: "order".to_owned(),
                spent_s: 0.0,
                budget_s: 1.0,
                one_in,
            });
        }
    }
}
