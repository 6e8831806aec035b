//! When which fault is due: pure, all moments counted from t = 0.

use std::time::Duration;

use crate::experiment::model::{Experiment, Moment};

/// The faults of a run and how far each has come.
#[derive(Debug)]
pub(super) struct Timeline {
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    at: Moment,
    every: Duration,
    times: u32,
    /// Injections begun, and injections that are over.
    begun: u32,
    over: u32,
    /// The first verified effect.
    begin: Option<Duration>,
    /// The last verified undo, once all injections are over.
    end: Option<Duration>,
    /// When a person let it begin.
    went: Option<Duration>,
}

impl Timeline {
    pub(super) fn of(experiment: &Experiment) -> Self {
        let steps = experiment.faults.iter().map(|fault| {
            let (every, times) = fault.every.unwrap_or((Duration::ZERO, 1));
            Step { at: fault.at.clone(), every, times, begun: 0, over: 0, begin: None, end: None, went: None }
        });
        Self { steps: steps.collect() }
    }

    /// The fault that is due first, and when; `None` while nothing more is known to come.
    pub(super) fn next(&self) -> Option<(Duration, usize)> {
        (0..self.steps.len()).filter_map(|fault| Some((self.due(fault)?, fault))).min()
    }

    fn due(&self, fault: usize) -> Option<Duration> {
        let step = &self.steps[fault];
        let first = match step.at {
            Moment::Zero(after) => Some(after),
            Moment::Begin(other, after) => self.steps.get(other)?.begin.map(|begin| begin + after),
            Moment::End(other, after) => self.steps.get(other)?.end.map(|end| end + after),
            Moment::Operator => step.went,
        }?;
        (step.begun < step.times).then(|| first + step.every * step.begun)
    }

    /// A fault's injection was begun; which of its times it is, from 0.
    pub(super) fn injecting(&mut self, fault: usize) -> u32 {
        self.steps[fault].begun += 1;
        self.steps[fault].begun - 1
    }

    /// A fault's effect was measured.
    pub(super) fn took_hold(&mut self, fault: usize, at: Duration) {
        self.steps[fault].begin.get_or_insert(at);
    }

    /// One of a fault's injections is over, and that was checked.
    pub(super) fn ended(&mut self, fault: usize, at: Duration) {
        let step = &mut self.steps[fault];
        step.over += 1;
        if step.over == step.times {
            step.end = Some(at);
        }
    }

    /// A person lets the first waiting fault begin; which it is.
    pub(super) fn go(&mut self, now: Duration) -> Option<usize> {
        let fault = self.waiting()?;
        self.steps[fault].went = Some(now);
        Some(fault)
    }

    /// The first fault that waits for a person.
    pub(super) fn waiting(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.at == Moment::Operator && step.went.is_none())
    }

    /// When a moment was, as far as it has come.
    pub(super) fn moment(&self, moment: &Moment) -> Option<Duration> {
        match moment {
            Moment::Zero(after) => Some(*after),
            Moment::Begin(fault, after) => Some(self.steps.get(*fault)?.begin? + *after),
            Moment::End(fault, after) => Some(self.steps.get(*fault)?.end? + *after),
            Moment::Operator => None,
        }
    }

    /// Whether everything has been done and undone.
    pub(super) fn over(&self) -> bool {
        self.steps.iter().all(|step| step.over == step.times)
    }
}

/// The timeline as it will be if everything goes by plan: what waits for a person is counted as if they came
/// at once, undoing as if it took no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// When each fault begins first; `None` when a person decides, or what it waits for does.
    pub begins: Vec<Option<Duration>>,
    /// From t = 0 to the last undo.
    pub takes: Duration,
}

/// Plays an experiment's timeline through.
#[must_use]
pub fn foresee(experiment: &Experiment) -> Foreseen {
    let mut timeline = Timeline::of(experiment);
    let mut foreseen = Foreseen { begins: vec![None; experiment.faults.len()], takes: Duration::ZERO };
    let mut by_hand = false;
    loop {
        // Each turn ends one injection, or lets one waiting fault go: so this ends.
        let Some((at, fault)) = timeline.next() else {
            by_hand = true;
            if timeline.go(foreseen.takes).is_none() {
                return foreseen;
            }
            continue;
        };
        let end = at + experiment.faults[fault].hold.unwrap_or_default();
        timeline.injecting(fault);
        timeline.took_hold(fault, at);
        timeline.ended(fault, end);
        if !by_hand {
            foreseen.begins[fault].get_or_insert(at);
        }
        foreseen.takes = foreseen.takes.max(end);
    }
}
