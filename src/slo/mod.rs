//! Floor 1: pure judgement: samples in, opinion out.
//!
//! No clock and no I/O: time arrives inside the samples, so every decision can be replayed from the
//! journal. The mathematics and its sources stand beside each rule.

mod budget;
mod chance;
mod evidence;
mod guard;
mod objective;
mod outage;
mod rehearsal;
mod sample;
mod steady;
mod tally;
mod verdict;

#[cfg(test)]
mod simulation;

pub use budget::{
    SHORTEST_SLICE, budget_below_promise, bursts_borne, default_budget, hard_budget_chance, plan_warnings,
    slice_for,
};
pub use chance::{Interval, at_least, countable, enough, interval, tolerated};
pub use guard::{Abort, BudgetView, Guard, GuardSettings, Rule, Watched};
pub use objective::{Objective, Promise};
pub use outage::{Outage, Outages};
pub use rehearsal::{Rehearsal, rehearse};
pub use sample::{Outcome, Sample};
pub use steady::{Baseline, Progress, Steady, Stretch};
pub use tally::{Figures, Latencies, Tally};
pub use verdict::{Finding, Proof, Ruling, Score, Terms};
