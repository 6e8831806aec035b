//! When which fault is due: pure, all moments counted from t = 0.

use std::time::Duration;

use crate::base::Dice;
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
    /// Which of its times happen, counted from 0.
    drawn: Vec<u32>,
    /// Injections begun, and injections that are over.
    begun: u32,
    over: u32,
    /// When its harm was there first.
    harmed: Option<Duration>,
    /// Whether that was measured, or cannot be any more.
    measured: bool,
    /// The last verified undo, once all injections are over.
    end: Option<Duration>,
    /// When a person let it begin.
    went: Option<Duration>,
}

impl Timeline {
    pub(super) fn of(experiment: &Experiment, dice: Dice) -> Self {
        let steps = experiment.faults.iter().map(|fault| Step {
            at: fault.at.clone(),
            every: fault.every.map_or(Duration::ZERO, |(every, _)| every),
            drawn: fault.drawn(&dice),
            begun: 0,
            over: 0,
            harmed: None,
            measured: false,
            end: None,
            went: None,
        });
        Self { steps: steps.collect() }
    }

    /// The fault that is due first, and when; `None` while nothing more is known to come.
    pub(super) fn next(&self) -> Option<(Duration, usize)> {
        (0..self.steps.len()).filter_map(|fault| Some((self.due(fault)?, fault))).min()
    }

    fn due(&self, fault: usize) -> Option<Duration> {
        let step = &self.steps[fault];
        let first = self.first(fault)?;
        // One whose last time has not ended, because it began or ends late, is not begun again before.
        let next = step.drawn.get(step.begun as usize).filter(|_| step.begun == step.over)?;
        Some(first.saturating_add(step.every.saturating_mul(*next)))
    }

    /// The moment from which a fault's times are counted, once that is known.
    fn first(&self, fault: usize) -> Option<Duration> {
        match self.steps.get(fault)?.at {
            Moment::Zero(after) => Some(after),
            Moment::Begin(other, after) => Some(self.begin_of(other)?.saturating_add(after)),
            Moment::End(other, after) => Some(self.end_of(other)?.saturating_add(after)),
            Moment::Operator => self.steps[fault].went,
        }
    }

    /// When a fault began, once its effect was measured.
    fn begin_of(&self, fault: usize) -> Option<Duration> {
        let step = self.steps.get(fault)?;
        if step.drawn.is_empty() { self.first(fault) } else { step.harmed.filter(|_| step.measured) }
    }

    /// When a fault ended. One that chance did not draw is over when it would have begun.
    fn end_of(&self, fault: usize) -> Option<Duration> {
        let step = self.steps.get(fault)?;
        if step.drawn.is_empty() { self.first(fault) } else { step.end }
    }

    /// A fault's injection was begun; which of its times it is, from 0.
    pub(super) fn injecting(&mut self, fault: usize) -> u32 {
        let step = &mut self.steps[fault];
        step.begun += 1;
        step.drawn.get(step.begun as usize - 1).copied().unwrap_or_default()
    }

    /// A fault's harm is there; whether it took hold is being measured.
    pub(super) fn harmed(&mut self, fault: usize, at: Duration) {
        self.steps[fault].harmed.get_or_insert(at);
    }

    /// A fault's effect was measured: what begins after its `.begin` may.
    pub(super) fn measured(&mut self, fault: usize) {
        self.steps[fault].measured = true;
    }

    /// One of a fault's injections is over, and that was checked. If its effect was not measured until now, it will
    /// never be: nobody waits for that.
    pub(super) fn ended(&mut self, fault: usize, at: Duration) {
        let step = &mut self.steps[fault];
        step.measured = true;
        step.over += 1;
        if step.over as usize == step.drawn.len() {
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

    /// When a moment was, as far as it has come. A fault begins when its harm is there, also while that is being
    /// measured: what is expected of it is expected from then on.
    pub(super) fn moment(&self, moment: &Moment) -> Option<Duration> {
        match moment {
            Moment::Zero(after) => Some(*after),
            Moment::Begin(fault, after) => {
                let step = self.steps.get(*fault)?;
                Some(step.harmed.or_else(|| self.begin_of(*fault))? + *after)
            }
            Moment::End(fault, after) => Some(self.end_of(*fault)? + *after),
            Moment::Operator => None,
        }
    }

    /// Whether everything has been done and undone.
    pub(super) fn over(&self) -> bool {
        let done = |step: &Step| step.over as usize == step.drawn.len();
        self.steps.iter().all(done)
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
pub fn foresee(experiment: &Experiment, dice: Dice) -> Foreseen {
    let mut timeline = Timeline::of(experiment, dice);
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
        timeline.harmed(fault, at);
        timeline.measured(fault);
        timeline.ended(fault, end);
        if !by_hand {
            foreseen.begins[fault].get_or_insert(at);
        }
        foreseen.takes = foreseen.takes.max(end);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::written;
    use super::*;

    const S: Duration = Duration::from_secs(1);

    /// An experiment of such faults: `at`, how long each lasts, and how it is repeated.
    fn experiment(faults: &[(&str, &str)]) -> Experiment {
        let fault = |(n, (at, more)): (usize, &(&str, &str))| {
            format!(
                "[fault.f{n}.exec]\ninject = [\"true\"]\nundo = [\"true\", \"{n}\"]\nat = \"{at}\"\n{more}\n"
            )
        };
        let faults: Vec<String> = faults.iter().enumerate().map(fault).collect();
        written(&format!("title = \"t\"\n{}", faults.concat()))
    }

    /// Begins the fault that is due, with its harm there and measured at once.
    fn begin(timeline: &mut Timeline, expected: usize) -> Duration {
        let (at, fault) = timeline.next().unwrap();
        assert_eq!(fault, expected);
        timeline.injecting(fault);
        timeline.harmed(fault, at);
        timeline.measured(fault);
        at
    }

    #[test]
    fn a_timeline_is_foreseen_from_its_moments() {
        let for_ = "for = \"4s\"";
        let thrice = "for = \"4s\"\nevery = \"10s\"\ntimes = 3";
        let some = |seconds: u64| Some(S * seconds as u32);
        for (faults, begins, takes) in [
            (vec![("3s", for_)], vec![some(3)], 7),
            (vec![("3s", for_), ("f0.begin + 2s", for_)], vec![some(3), some(5)], 9),
            (vec![("f1.end + 1s", for_), ("2s", for_)], vec![some(7), some(2)], 11),
            (vec![("1s", thrice), ("f0.end", for_)], vec![some(1), some(25)], 29),
            (vec![("1s", thrice), ("f0.begin", for_)], vec![some(1), some(1)], 25),
            (vec![("operator", for_), ("f0.end + 1s", for_)], vec![None, None], 9),
            (vec![("5s", for_), ("operator", for_)], vec![some(5), None], 13),
        ] {
            let foreseen = foresee(&experiment(&faults), Dice::new(1));
            assert_eq!((foreseen.begins, foreseen.takes), (begins, S * takes), "{faults:?}");
        }
    }

    #[test]
    fn what_begins_after_a_fault_waits_until_its_effect_was_measured_but_counts_from_the_harm() {
        let lasts = "for = \"4s\"";
        let mut timeline =
            Timeline::of(&experiment(&[("0s", lasts), ("f0.begin + 1s", lasts)]), Dice::new(1));
        timeline.injecting(0);
        timeline.harmed(0, 2 * S);
        assert_eq!((timeline.next(), timeline.moment(&Moment::Begin(0, S))), (None, Some(3 * S)));
        timeline.measured(0);
        assert_eq!(timeline.next(), Some((3 * S, 1)));
    }

    #[test]
    fn a_fault_that_ends_before_its_effect_was_measured_holds_up_nobody() {
        let lasts = "for = \"4s\"";
        let mut timeline =
            Timeline::of(&experiment(&[("0s", lasts), ("f0.begin + 1s", lasts)]), Dice::new(1));
        timeline.injecting(0);
        timeline.harmed(0, S);
        timeline.ended(0, 5 * S);
        assert_eq!(timeline.next(), Some((2 * S, 1)));
    }

    #[test]
    fn a_repeated_fault_is_not_begun_again_while_its_last_time_goes_on() {
        let repeated = "for = \"4s\"\nevery = \"10s\"\ntimes = 2";
        let mut timeline = Timeline::of(&experiment(&[("0s", repeated)]), Dice::new(1));
        assert_eq!(begin(&mut timeline, 0), Duration::ZERO);
        assert_eq!(timeline.next(), None);
        timeline.ended(0, 13 * S); // Its undo took long.
        assert_eq!((timeline.next(), timeline.moment(&Moment::End(0, S))), (Some((10 * S, 0)), None));
        begin(&mut timeline, 0);
        timeline.ended(0, 17 * S);
        assert_eq!((timeline.next(), timeline.over()), (None, true));
        assert_eq!(timeline.moment(&Moment::End(0, S)), Some(18 * S));
    }

    #[test]
    fn what_chance_does_not_draw_is_left_out_and_holds_up_nobody() {
        let never = "for = \"4s\"\nchance = \"0.0001%\"";
        let foreseen = foresee(&experiment(&[("2s", never), ("f0.end + 1s", "for = \"4s\"")]), Dice::new(1));
        assert_eq!((foreseen.begins, foreseen.takes), (vec![None, Some(3 * S)], 7 * S));

        let often = experiment(&[("0s", "for = \"1s\"\nevery = \"10s\"\ntimes = 1000\nchance = \"30%\"")]);
        let drawn = |seed| often.faults[0].drawn(&Dice::new(seed));
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        // Binomial: 300 of 1000 with a standard deviation of 14.5.
        assert!((240..=360).contains(&drawn(7).len()), "{}", drawn(7).len());
        let mut timeline = Timeline::of(&often, Dice::new(7));
        for nth in drawn(7) {
            assert_eq!(timeline.next(), Some((10 * S * nth, 0)));
            assert_eq!(timeline.injecting(0), nth);
            timeline.ended(0, 10 * S * nth + S);
        }
        assert_eq!((timeline.next(), timeline.over()), (None, true));
    }

    #[test]
    fn a_ramp_goes_up_step_by_step_without_a_pause() {
        let ramp = "[fault.slow.latency]\nto = { port = 9 }\nfor = \"10s\"\nat = \"1s\"\n\
                    delay = { from = \"10ms\", to = \"50ms\", steps = 5 }\njitter = { from = \"0s\", to = \"4ms\", steps = 5 }";
        let experiment = written(&format!("title = \"t\"\n{ramp}"));
        let fault = &experiment.faults[0];
        assert_eq!((fault.hold, fault.every), (Some(2 * S), Some((2 * S, 5))));
        let delays = (0..5).map(|nth| match fault.harm_of(nth) {
            crate::fault::AnyFault::Latency(latency) => (latency.delay, latency.jitter),
            other => panic!("{other:?}"),
        });
        let ms = Duration::from_millis;
        let wanted =
            [(10, 0), (20, 1), (30, 2), (40, 3), (50, 4)].map(|(delay, jitter)| (ms(delay), ms(jitter)));
        assert_eq!(delays.collect::<Vec<_>>(), wanted);
        assert_eq!(fault.pick_of(0), fault.pick_of(4));
        assert_eq!(foresee(&experiment, Dice::new(1)).takes, 11 * S);
    }

    #[test]
    fn a_person_lets_waiting_faults_go_one_by_one() {
        let lasts = "for = \"4s\"";
        let mut timeline =
            Timeline::of(&experiment(&[("operator", lasts), ("operator", lasts)]), Dice::new(1));
        assert_eq!((timeline.next(), timeline.waiting()), (None, Some(0)));
        assert_eq!(
            (timeline.go(3 * S), timeline.next(), timeline.waiting()),
            (Some(0), Some((3 * S, 0)), Some(1))
        );
        assert_eq!((timeline.go(5 * S), timeline.go(6 * S), timeline.waiting()), (Some(1), None, None));
    }

    proptest! {
        // Faults that refer only to earlier ones, in a shuffled file, begun as they come due, ended in any order.
        #[test]
        fn every_fault_is_done_as_often_as_asked_and_never_before_what_it_waits_for(
            moments in proptest::collection::vec((0_u8..4, 0_usize..8, 0_u32..5, 1_u32..4), 1..8),
            choices in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let faults: Vec<(String, String)> = moments.iter().enumerate().map(|(n, (kind, of, after, times))| {
                let at = match kind {
                    0 if n > 0 => format!("f{}.begin + {after}s", of % n),
                    1 if n > 0 => format!("f{}.end + {after}s", of % n),
                    2 => "operator".to_owned(),
                    _ => format!("{after}s"),
                };
                (at, format!("for = \"1s\"\nevery = \"2s\"\ntimes = {times}"))
            }).collect();
            let faults: Vec<(&str, &str)> = faults.iter().map(|(at, more)| (at.as_str(), more.as_str())).collect();
            let experiment = experiment(&faults);
            let mut timeline = Timeline::of(&experiment, Dice::new(1));
            let (mut now, mut live, mut choices) = (Duration::ZERO, Vec::new(), choices.into_iter());
            while !timeline.over() {
                if let Some((at, fault)) = timeline.next()
                    && choices.next().unwrap_or(true)
                {
                    now = now.max(at);
                    match experiment.faults[fault].at {
                        Moment::Begin(other, after) => {
                            prop_assert!(now >= timeline.steps[other].harmed.unwrap() + after);
                        }
                        Moment::End(other, after) => prop_assert!(now >= timeline.steps[other].end.unwrap() + after),
                        Moment::Zero(after) => prop_assert!(now >= after),
                        Moment::Operator => prop_assert!(timeline.steps[fault].went.is_some()),
                    }
                    prop_assert!(!live.contains(&fault), "begun twice at one time");
                    timeline.injecting(fault);
                    timeline.harmed(fault, now);
                    live.push(fault);
                } else if let Some(fault) = live.pop() {
                    now += S;
                    timeline.ended(fault, now);
                } else {
                    // Nothing is live, and nothing is due: somebody must be waited for.
                    prop_assert!(timeline.next().is_some() || timeline.go(now).is_some());
                }
            }
            for (step, (_, _, _, times)) in timeline.steps.iter().zip(&moments) {
                prop_assert_eq!((step.begun, step.over), (*times, *times));
                prop_assert!(step.end.is_some());
            }
        }
    }
}
