//! The facts of a run, as `report.json` holds them and as every rendering tells them.

use serde::{Deserialize, Serialize};

use crate::event::{Judged, Losses, Phase, Plan, PlannedProbe, StopReason, Totals, Verdict};
use crate::fault::Effect;
use crate::undo::Tier;

/// The version of `report.json`; raised when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// The JSON Schema of `report.json`.
pub const SCHEMA: &str = include_str!("report.schema.json");

/// All that is known about a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Which run.
    pub run: Run,
    /// How it ended; absent when its journal ends before it did.
    pub ending: Option<Ending>,
    /// What it meant to do; absent when it did not come so far.
    pub plan: Option<Plan>,
    /// Its phases, in order.
    pub phases: Vec<Span>,
    /// t = 0, the first moment of judgement.
    pub zero: Option<Moment>,
    /// Whether the steady state was proved.
    pub steady: Option<Finding>,
    /// Every fault that was begun, in order; a repeated one has an entry each time.
    pub faults: Vec<FaultStory>,
    /// Every probe, with its figures by phase.
    pub probes: Vec<ProbeStory>,
    /// What it did to the users of the system, as far as the judged probes stand for them.
    pub impact: Impact,
    /// How each promise came out.
    pub objectives: Vec<Judged>,
    /// How each expectation came out.
    pub expectations: Vec<Expected>,
    /// The last view of each objective's budget.
    pub budgets: Vec<Spent>,
    /// Why it was stopped early, if it was: the worst reason, the first time.
    pub stopped: Option<Stopped>,
    /// Whether the system was steady again.
    pub recovery: Option<Recovery>,
    /// What is not undone, and what a person would type.
    pub not_undone: Vec<Unpaid>,
    /// What people should know, that stopped nothing.
    pub warnings: Vec<String>,
    /// What people said during the run.
    pub notes: Vec<Note>,
    /// What happened, for people.
    pub timeline: Vec<Line>,
    /// Lines of the timeline that were left out because there were too many.
    pub timeline_left_out: u64,
    /// What the journal could not keep.
    pub journal: Losses,
}

/// Which run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// The experiment's title.
    pub title: String,
    /// The file, as given.
    pub file: String,
    /// SHA-256 of all the text read, hexadecimal.
    pub file_hash: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// Who ran it.
    pub user: String,
    /// Who called sudo, if it was used.
    pub sudo_user: Option<String>,
    /// The host it ran on.
    pub host: String,
    /// The version of the program.
    pub brownout: String,
    /// The command that repeats it.
    pub repeat: String,
    /// When it began.
    pub began: Moment,
    /// When the last event was.
    pub ended: Moment,
}

/// A moment of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Monotonic milliseconds since the run's clock started.
    pub ms: f64,
    /// The same moment on the wall, UTC, RFC 3339.
    pub utc: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// The judgement.
    pub verdict: Verdict,
    /// In a sentence with numbers.
    pub why: String,
    /// The process's exit code.
    pub exit: u8,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// Which.
    pub phase: Phase,
    /// When it began.
    pub began: Moment,
    /// How long it lasted, milliseconds; absent while it lasts.
    pub lasted_ms: Option<f64>,
}

/// A yes or no, with its reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Which.
    pub yes: bool,
    /// In a sentence with numbers.
    pub why: String,
}

/// What became of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultState {
    /// Its injection has begun, and has not been seen to take effect.
    Injecting,
    /// It is live.
    Live,
    /// It could not be injected; nothing of it is left.
    Failed,
    /// It is gone, and that was checked.
    Undone,
    /// It is not gone.
    NotUndone,
}

/// One fault, from its injection to its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultStory {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Whom it hurt and how, in a sentence.
    pub harm: String,
    /// Who would have undone it.
    pub tier: Tier,
    /// By which mechanism it was held.
    pub mechanism: Option<String>,
    /// Whether it lasts until undone; one that does not (a kill) cannot be taken back.
    pub lasting: bool,
    /// What became of it.
    pub state: FaultState,
    /// When its injection began.
    pub began: Moment,
    /// When its effect had been measured.
    pub live: Option<Moment>,
    /// Whether it took hold, with figures.
    pub effect: Option<Effect>,
    /// When it ends at the latest by plan, monotonic milliseconds since the run's clock started.
    pub until_ms: Option<f64>,
    /// When it was gone, or given up on.
    pub ended: Option<Moment>,
    /// From the decision to its checked absence, milliseconds.
    pub undo_ms: Option<f64>,
    /// Why it failed or is not undone.
    pub why: Option<String>,
    /// The first look after it began that broke a promise.
    pub noticed: Option<Noticed>,
    /// Looks that broke a promise, by failing or by being slower than an objective's threshold, while it was
    /// live, or after it until the next fault; as far as they were heard of.
    pub bad_looks: u64,
    /// From the intended start of the first of these to the end of the last, milliseconds.
    pub hurt_ms: Option<f64>,
}

/// The first look after a fault began that broke a promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Noticed {
    /// The probe that saw it.
    pub probe: String,
    /// From the beginning of the injection until it was known, milliseconds.
    pub after_ms: f64,
    /// What it saw.
    pub why: Option<String>,
}

/// One probe with its figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeStory {
    /// What it is.
    #[serde(flatten)]
    pub probe: PlannedProbe,
    /// Its figures by phase.
    pub phases: Vec<PhaseTotals>,
}

impl ProbeStory {
    /// Its figures in a phase.
    #[must_use]
    pub fn totals(&self, phase: Phase) -> Option<&Totals> {
        self.phases.iter().find(|figures| figures.phase == phase).map(|figures| &figures.totals)
    }
}

/// The figures of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseTotals {
    /// Which phase.
    pub phase: Phase,
    /// The figures.
    pub totals: Totals,
}

/// What a run did to the users of the system, as far as the judged probes stand for them. Sums of looks
/// over all judged probes; absent figures were not measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Impact {
    /// The share of bad looks in the steady state, 0 to 1.
    pub baseline_error_rate: Option<f64>,
    /// The same from t = 0 to the last undo.
    pub error_rate: Option<f64>,
    /// Looks from t = 0 to the last undo.
    pub looks: Option<u64>,
    /// The bad ones among them: requests that failed.
    pub failed: Option<u64>,
    /// Bad looks after the last undo, while the system recovered: what cannot be taken back (a kill) hurts here.
    #[serde(default)]
    pub failed_after: Option<u64>,
    /// The longest unbroken stretch of bad looks of one probe within a phase, from t = 0 on, milliseconds.
    pub longest_outage_ms: Option<f64>,
    /// From the first fault's injection to the first bad look, milliseconds.
    pub noticed_after_ms: Option<f64>,
    /// From the first fault's injection to the guard's decision, milliseconds.
    pub guard_after_ms: Option<f64>,
}

/// How an expectation came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Its name.
    pub name: String,
    /// Whether it was met in time.
    pub met: bool,
    /// In a sentence.
    pub why: String,
    /// When it was decided.
    pub at: Moment,
}

/// The last view of a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// The objective.
    pub objective: String,
    /// Bad seconds spent.
    pub spent_s: f64,
    /// Bad seconds the run might spend.
    pub budget_s: f64,
    /// Under the promise, the chance of seeing this is at most 1 in so many; absent when that is endless.
    pub one_in: Option<f64>,
}

/// Why a run was stopped early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stopped {
    /// By whom or what.
    pub because: StopReason,
    /// In a sentence with numbers.
    pub why: String,
    /// When.
    pub at: Moment,
}

/// Whether the system was steady again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Whether.
    pub yes: bool,
    /// From the last undo to the beginning of the steady stretch, milliseconds.
    pub took_ms: f64,
    /// In a sentence.
    pub why: String,
}

/// What is not undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unpaid {
    /// The fault's name.
    pub fault: String,
    /// Why.
    pub why: String,
    /// What a person would type.
    pub by_hand: String,
}

/// What a person said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Who.
    pub who: String,
    /// What.
    pub text: String,
    /// When.
    pub at: Moment,
}

/// One line of the timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When.
    #[serde(flatten)]
    pub at: Moment,
    /// What.
    pub text: String,
}
