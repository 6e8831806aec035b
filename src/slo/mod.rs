//! Floor 1: pure judgement: samples in, opinion out.
//!
//! No clock and no I/O: time arrives inside the samples, so every decision can be replayed from the
//! journal. The mathematics and its sources stand beside each rule.

mod objective;
mod sample;

pub use objective::{Objective, Promise};
pub use sample::{Outcome, Sample};
