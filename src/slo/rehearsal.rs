//! What a guard will do, foretold by letting it judge made-up runs: the closed forms hold for simpler guards than this.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Guard, GuardSettings, Promise, Watched};
use crate::base::Dice;

/// How a guard did in made-up runs of independent looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rehearsal {
    /// The runs of each sort.
    pub runs: u32,
    /// The share of runs stopped although looks were bad only half as often as tolerated.
    pub false_aborts: f64,
    /// The share of runs stopped when, from a third of the run on, looks were bad five times as often as tolerated.
    pub found: f64,
    /// Of those, how long it took: median and 95th percentile.
    pub after: Option<(Duration, Duration)>,
}

/// Lets the guard that will run, for one ratio objective of `objectives`, judge so many made-up runs of each sort.
/// Costs about 20 us a run for 3,000 looks, in proportion to bad looks. `None` for an outage objective, which has no chance in it.
#[must_use]
pub fn rehearse(
    settings: &GuardSettings,
    watched: &Watched,
    objectives: usize,
    runs: u32,
    dice: Dice,
) -> Option<Rehearsal> {
    let Promise::Ratio { p0, .. } = watched.objective.promise else { return None };
    let alpha = settings.alpha / objectives.max(1) as f64;
    let settings = GuardSettings { alpha, ..*settings };
    let watched = Watched { start: Duration::ZERO, ..watched.clone() };
    let third = settings.planned / 3;
    let mut rng = dice.stream("guard.rehearsal");
    let mut stopped = 0;
    let mut delays = Vec::new();
    for _ in 0..runs {
        stopped += u32::from(run(&settings, &watched, &mut rng, |_| p0 / 2.0).is_some());
        let breach = |at| if at < third { p0 / 2.0 } else { 5.0 * p0 };
        delays.extend(run(&settings, &watched, &mut rng, breach).map(|at| at.saturating_sub(third)));
    }
    delays.sort_unstable();
    let at = |share: f64| delays.get((delays.len().saturating_sub(1) as f64 * share) as usize).copied();
    let all = f64::from(runs.max(1));
    Some(Rehearsal {
        runs,
        false_aborts: f64::from(stopped) / all,
        found: delays.len() as f64 / all,
        after: at(0.5).zip(at(0.95)),
    })
}

/// When the guard stops a made-up run. Looks come and settle at once, slice by slice; only bad ones are drawn.
fn run(
    settings: &GuardSettings,
    watched: &Watched,
    rng: &mut ChaCha8Rng,
    bad: impl Fn(Duration) -> f64,
) -> Option<Duration> {
    let mut guard = Guard::new(*settings, vec![watched.clone()]);
    let slice = settings.slice.max(Duration::from_millis(1));
    let mut from = Duration::ZERO;
    while from < settings.planned {
        let until = from.saturating_add(slice).min(settings.planned);
        let looks = (until.saturating_sub(from).as_secs_f64() * watched.rate).round() as u64;
        let chance = bad(from).min(1.0);
        guard.all_good(0, from, looks);
        let mut look = until_next(rng, chance);
        while look < looks {
            let at = from + until.saturating_sub(from).mul_f64(look as f64 / looks as f64);
            guard.turned_bad(0, at);
            if guard.judge(at).is_some() {
                return Some(at);
            }
            look = look.saturating_add(1).saturating_add(until_next(rng, chance));
        }
        from = until;
        let closed = until.saturating_add(settings.tick);
        if guard.judge(closed).is_some() {
            return Some(closed);
        }
    }
    None
}

/// Looks until the next bad one, when each is bad with chance `p` (the geometric distribution, by inversion).
fn until_next(rng: &mut ChaCha8Rng, p: f64) -> u64 {
    ((1.0 - rng.random::<f64>()).ln() / (-p).ln_1p()) as u64
}

#[cfg(test)]
mod tests {
    use super::super::Objective;
    use super::*;

    #[test]
    fn a_rehearsal_foretells_what_the_simulations_measure_and_repeats() {
        let settings = GuardSettings {
            alpha: 0.01,
            planned: Duration::from_mins(5),
            undo: Duration::from_secs(2),
            tick: Duration::ZERO,
            slice: Duration::from_secs(1),
        };
        let promise = Promise::Ratio { p0: 0.01, below: None };
        let watched = Watched {
            objective: Objective { name: "order availability 99%".into(), probe: 0, promise },
            rate: 10.0,
            budget_looks: 30.0,
            start: Duration::from_secs(77),
        };
        let foretold = rehearse(&settings, &watched, 1, 150, Dice::new(1)).unwrap();
        let (p50, p95) = foretold.after.unwrap();
        assert!(foretold.false_aborts <= 0.01 && foretold.found >= 0.99, "{foretold:?}");
        assert!(
            (18.0..34.0).contains(&p50.as_secs_f64()) && (38.0..66.0).contains(&p95.as_secs_f64()),
            "{foretold:?}"
        );
        assert_eq!(rehearse(&settings, &watched, 1, 150, Dice::new(1)), Some(foretold));
        // Fifteen bad looks are to be expected at half of what is tolerated.
        let tiny = Watched { budget_looks: 10.0, ..watched };
        assert!(rehearse(&settings, &tiny, 1, 50, Dice::new(1)).unwrap().false_aborts > 0.8);
    }
}
