//! How much a run may spend, and what a plan should say about it beforehand.

use std::time::Duration;

use super::chance::{at_least, enough};
use super::{Objective, Promise, Proof, Terms, countable};
use crate::base::unit;

/// The default budget of an objective, in bad looks: the larger of 10 and twice what is tolerated of the
/// `looks` a run makes.
#[must_use]
pub fn default_budget(p0: f64, looks: f64) -> f64 {
    (2.0 * p0 * looks).max(10.0)
}

/// The shortest slice of the evidence.
pub const SHORTEST_SLICE: Duration = Duration::from_secs(5);

/// The slice of the evidence for a system whose longest burst of bad looks in its steady state, or in earlier
/// runs, was `burst`: five times as long, at least [`SHORTEST_SLICE`].
#[must_use]
pub fn slice_for(burst: Duration) -> Duration {
    burst.saturating_mul(5).max(SHORTEST_SLICE)
}

/// The average length of bursts up to which the promised chance of a false abort holds for a slice. Measured: with
/// total outages of a fifth of a slice on average, in all half of what is tolerated, evidence stopped 0.3 % of 300 s
/// runs where 1 % are promised (`simulation.rs` repeats it).
#[must_use]
pub fn bursts_borne(slice: Duration) -> Duration {
    slice / 5
}

/// About how likely the hard budget (rule A) alone stops a run whose looks are independently bad with chance
/// `p`: the binomial tail from the count at which the budget, less the usual cost of getting out, is spent.
///
/// The cost of getting out is taken as the bad rate `p` during undo and tick; a cluster of bad looks just before the
/// end makes it larger, so the true chance is somewhat higher (within a factor of two in the simulations
/// beside the guard).
#[must_use]
pub fn hard_budget_chance(p: f64, looks: f64, budget_looks: f64, rate: f64, getting_out: Duration) -> f64 {
    let left = budget_looks - p * rate * getting_out.as_secs_f64();
    at_least(left.ceil().max(1.0) as u64, looks.max(0.0) as u64, p)
}

/// Whether a budget would be spent by a system that merely keeps its promise: at or below `p0 * looks`, the
/// guard stops about every second such run.
#[must_use]
pub fn budget_below_promise(p0: f64, looks: f64, budget_looks: f64) -> bool {
    budget_looks <= p0 * looks
}

/// What a plan should warn of, one sentence each: `looks` are what the run will make for this objective at
/// `rate` a second, `budget_looks` what it may spend, `undo` how long undoing takes.
#[must_use]
pub fn plan_warnings(
    objective: &Objective,
    looks: f64,
    rate: f64,
    budget_looks: f64,
    undo: Duration,
    terms: &Terms,
) -> Vec<String> {
    let name = &objective.name;
    let mut warnings = Vec::new();
    match objective.promise {
        Promise::Ratio { p0, .. } => {
            let least = countable(p0);
            if looks < least as f64 {
                warnings.push(format!(
                    "{name}: the run makes about {looks:.0} looks, and below {least} even one bad look breaks the promise: \
                     look more often, or for longer"
                ));
            }
            let target = match terms.proof {
                Proof::Observed => None,
                Proof::Likely => Some(2.0 * p0),
                Proof::Proven => Some(p0),
            };
            let needed = target.and_then(|target| enough(0.0, target, terms.level()));
            if let Some(needed) = needed.filter(|needed| looks < *needed as f64) {
                warnings.push(format!(
                    "{name}: even {looks:.0} faultless looks cannot pass as {}: that takes {needed}; look more often, \
                     for longer, or ask for less proof",
                    terms.proof
                ));
            }
            if budget_below_promise(p0, looks, budget_looks) {
                warnings.push(format!(
                    "{name}: the budget of {budget_looks:.0} looks is no more than the promise tolerates ({:.1} of \
                     {looks:.0}): the guard will stop about every second run that keeps it",
                    p0 * looks
                ));
            }
        }
        Promise::Outage { longest } => {
            let apart = Duration::try_from_secs_f64(1.0 / rate).unwrap_or(Duration::MAX);
            if apart.saturating_mul(2) > longest {
                warnings.push(format!(
                    "{name}: looks {} apart cannot tell an outage of {}: look at least twice as often as it lasts",
                    unit::say(apart),
                    unit::say(longest)
                ));
            }
            if undo > longest / 2 {
                warnings.push(format!(
                    "{name}: undoing takes {}, more than half of what an outage may last: the guard stops at half, \
                     which may be too late",
                    unit::say(undo)
                ));
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "where nothing is rounded, the exact value is expected")]

    use super::*;

    fn availability(p0: f64) -> Objective {
        Objective { name: "order availability".into(), probe: 0, promise: Promise::Ratio { p0, below: None } }
    }

    #[test]
    fn the_default_budget_is_ten_looks_or_twice_what_is_tolerated() {
        assert_eq!(default_budget(0.01, 300.0), 10.0);
        assert_eq!(default_budget(0.01, 3_000.0), 60.0);
    }

    #[test]
    fn a_slice_is_five_bursts_long() {
        assert_eq!(slice_for(Duration::ZERO), Duration::from_secs(5));
        assert_eq!(slice_for(Duration::from_secs(2)), Duration::from_secs(10));
        assert_eq!(bursts_borne(slice_for(Duration::from_secs(2))), Duration::from_secs(2));
        assert_eq!(slice_for(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn a_budget_of_what_is_tolerated_stops_every_second_run() {
        assert!(budget_below_promise(0.01, 3_000.0, 30.0));
        assert!(!budget_below_promise(0.01, 3_000.0, 31.0));
        let chance = hard_budget_chance(0.01, 3_000.0, 30.0, 10.0, Duration::from_secs(2));
        assert!((0.4..0.6).contains(&chance), "{chance}");
        assert!(hard_budget_chance(0.002, 3_000.0, 30.0, 10.0, Duration::from_secs(2)) < 1e-9);
        assert!(hard_budget_chance(0.005, 3_000.0, 30.0, 10.0, Duration::from_secs(2)) < 1e-3);
    }

    #[test]
    fn plans_are_warned_of_what_they_cannot_show() {
        let likely = Terms { proof: Proof::Likely, alpha: 0.01, objectives: 1 };
        let warned = |looks: f64, budget: f64, terms: &Terms| {
            plan_warnings(&availability(0.01), looks, 10.0, budget, Duration::from_secs(2), terms)
        };
        assert_eq!(warned(3_000.0, 60.0, &likely), Vec::<String>::new());
        assert!(
            warned(400.0, 60.0, &likely)[0]
                .contains("even 400 faultless looks cannot pass as likely: that takes 405")
        );
        assert!(warned(3_000.0, 30.0, &likely)[0].contains("every second run"));
        let observed = Terms { proof: Proof::Observed, ..likely };
        assert!(warned(60.0, 10.0, &observed)[0].contains("below 100 even one bad look"));
        let outage =
            Objective { promise: Promise::Outage { longest: Duration::from_secs(10) }, ..availability(0.01) };
        let sparse = plan_warnings(&outage, 10.0, 1.0 / 60.0, 10.0, Duration::from_secs(2), &observed);
        assert!(sparse[0].contains("looks 1 m apart"), "{sparse:?}");
        let slow = plan_warnings(&outage, 10.0, 10.0, 10.0, Duration::from_secs(8), &observed);
        assert!(slow[0].contains("undoing takes 8 s"), "{slow:?}");
    }
}
