//! What must be seen in time.

use std::time::Duration;

use super::{Conductor, PULSE, Said};
use crate::base::unit;
use crate::event::What;
use crate::experiment::model::Sees;
use crate::slo::{Outcome, Sample};

/// An expectation on its way.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::engine) struct Expected {
    /// Whether it was met; `None` while that is open.
    pub(in crate::engine) met: Option<bool>,
    /// In a sentence.
    pub(in crate::engine) why: String,
    /// The moment from which it counts, once that has come.
    from: Option<Duration>,
}

impl Conductor<'_> {
    /// Starts those whose moment has come, and ends those whose time is over.
    pub(super) fn expect(&mut self, now: Duration) {
        let (Some(zero), experiment) = (self.zero, self.experiment()) else { return };
        for (n, asked) in experiment.expects.iter().enumerate() {
            if self.expected[n].met.is_some() {
                continue;
            }
            if self.expected[n].from.is_none() {
                let Some(moment) = self.timeline.moment(&asked.of).filter(|at| zero + *at <= now) else {
                    continue;
                };
                self.expected[n].from = Some(zero + moment);
                if let Sees::Back { fault } = asked.sees {
                    self.watch_back(n, fault, zero + moment + asked.within);
                }
            }
            // A look that ended in time may still be on its way to us.
            let late = self.expected[n].from.is_some_and(|from| now > from + asked.within + PULSE);
            if late && matches!(asked.sees, Sees::Probe { .. }) {
                self.decide(n, false, format!("not within {}", unit::say(asked.within)));
            }
        }
    }

    /// A bad look counts when it ended after the moment; a good one only when it was also begun after it: what was seen
    /// before says nothing.
    pub(super) fn expect_look(&mut self, probe: usize, sample: &Sample) {
        let experiment = self.experiment();
        for (n, asked) in experiment.expects.iter().enumerate() {
            let Sees::Probe { probe: wanted, good } = asked.sees else { continue };
            let (None, Some(from)) = (self.expected[n].met, self.expected[n].from) else { continue };
            let (outcome, since) =
                if good { (Outcome::Good, sample.intended) } else { (Outcome::Bad, sample.ended) };
            let in_time = since >= from && sample.ended <= from + asked.within;
            if wanted == probe && sample.outcome == outcome && in_time {
                let after = unit::say(sample.ended.saturating_sub(from));
                self.decide(n, true, format!("seen after {after}"));
            }
        }
    }

    fn watch_back(&mut self, expect: usize, fault: usize, until: Duration) {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let (world, clock, experiment) = (self.world.clone(), self.clock, self.experiment());
        let hit = self.hit.get(&fault).cloned().unwrap_or_default();
        let step = async move {
            while clock.now() <= until {
                let (looker, asked, hit) = (world.clone(), experiment.clone(), hit.clone());
                let back = tokio::task::spawn_blocking(move || {
                    looker.is_back(&asked.faults[fault], &hit.who, hit.most)
                });
                if back.await.unwrap_or(false) {
                    return Said::Back { expect, met: Some(clock.now()) };
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Said::Back { expect, met: None }
        };
        self.watchers.spawn_on(step, &self.workers);
    }

    pub(super) fn back(&mut self, expect: usize, met: Option<Duration>) {
        let within = self.experiment().expects[expect].within;
        let from = self.expected[expect].from.unwrap_or_default();
        match met {
            Some(at) => {
                self.decide(expect, true, format!("back after {}", unit::say(at.saturating_sub(from))));
            }
            None => self.decide(expect, false, format!("not back within {}", unit::say(within))),
        }
    }

    fn decide(&mut self, expect: usize, met: bool, why: String) {
        let name = self.experiment().expects[expect].name.clone();
        self.expected[expect].met = Some(met);
        self.expected[expect].why.clone_from(&why);
        self.tell(What::Expectation { name, met, why });
    }
}
