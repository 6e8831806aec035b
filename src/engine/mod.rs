//! Floor 5: running an experiment: from its plan to its report, what is owed, and the watchdog.

mod conduct;
mod control;
mod judge;
mod looks;
mod pay;
mod phases;
mod plan;
mod pulse;
mod run;
mod services;
mod stop;
mod timeline;
mod verdict;
mod watchdog;
mod world;

pub use control::{Order, say};
pub use pay::{Unpaid, pay};
pub use plan::{Armed, Plan, said};
pub use run::{Report, RunError, Setting, looks, orders, run};
pub use services::Services;
pub use stop::Stop;
pub use timeline::{Foreseen, foresee};
pub use verdict::Judgement;
pub use watchdog::{Watchdog, WatchdogError, guard};
pub use world::World;

/// An experiment as a test writes it.
#[cfg(test)]
fn written(text: &str) -> crate::experiment::Experiment {
    use crate::experiment::{Draft, Surroundings};
    let draft = Draft::from_text("test.toml".as_ref(), text);
    match draft.check(&mut Surroundings::pretended()) {
        Ok(checked) => checked.experiment,
        Err(refused) => panic!("{}\n{text}", refused.mistakes.render(&refused.sources, false)),
    }
}
