//! At which moments a probe is to look: pure, and the same for the same seed.
//!
//! Moments are counted in looks and turned into times by the inverse of the rate's integral. Evenly, the nth look
//! is due when the integral reaches n; as a Poisson process, when it reaches the sum of n draws of the exponential
//! distribution with mean 1 (time change of an inhomogeneous Poisson process: Çınlar, "Introduction to Stochastic
//! Processes", 1975, ch. 4.7). So a ramp makes as many looks as its integral says, either way.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::base::{Dice, Rate, unit};

/// How often a probe is to look, and how regularly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rhythm {
    /// Looks a second; of a ramp, before it begins.
    pub rate: Rate,
    /// How that changes.
    pub ramp: Option<Ramp>,
    /// How looks lie between one another.
    pub spread: Spread,
}

/// A rate that changes in equal steps from t = 0 on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    /// The rate of the last step, and from then on.
    pub to: Rate,
    /// How many steps, with those of both ends; at least 2.
    pub steps: u32,
    /// How long all of them take.
    pub lasts: Duration,
}

/// How looks lie between one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// On a grid; each up to so much later, which must not exceed the grid's shortest interval.
    Even(Duration),
    /// Independently of one another: exponential gaps, with the rate as their mean.
    Poisson,
}

impl Rhythm {
    /// A grid.
    #[must_use]
    pub fn even(rate: Rate) -> Self {
        Self { rate, ramp: None, spread: Spread::Even(Duration::ZERO) }
    }

    /// The lowest rate it ever has.
    #[must_use]
    pub fn lowest(&self) -> Rate {
        self.ramp.map(|ramp| ramp.to).filter(|to| to.hertz() < self.rate.hertz()).unwrap_or(self.rate)
    }

    /// The highest rate it ever has.
    #[must_use]
    pub fn highest(&self) -> Rate {
        self.ramp.map(|ramp| ramp.to).filter(|to| to.hertz() > self.rate.hertz()).unwrap_or(self.rate)
    }

    /// Looks expected between t = 0 and so long after it.
    #[must_use]
    pub fn looks(&self, until: Duration) -> f64 {
        let mut left = until.as_secs_f64();
        let mut looks = 0.0;
        for (hertz, lasts) in self.levels() {
            let here = left.min(lasts);
            looks += hertz * here;
            left -= here;
        }
        looks
    }

    /// The mean rate, looks a second, between t = 0 and so long after it.
    #[must_use]
    pub fn mean(&self, until: Duration) -> f64 {
        if self.ramp.is_none() || until.is_zero() {
            return self.rate.hertz();
        }
        self.looks(until) / until.as_secs_f64()
    }

    /// Looks a second and for how many seconds, from t = 0 on; the last has no end.
    fn levels(&self) -> impl Iterator<Item = (f64, f64)> {
        let from = self.rate.hertz();
        let steps = self.ramp.into_iter().flat_map(move |ramp| {
            let (way, last) = (ramp.to.hertz() - from, f64::from(ramp.steps.max(2) - 1));
            let lasts = ramp.lasts.as_secs_f64() / (last + 1.0);
            (0..ramp.steps.max(2)).map(move |step| (from + way * f64::from(step) / last, lasts))
        });
        let end = self.ramp.map_or(from, |ramp| ramp.to.hertz());
        steps.chain([(end, f64::INFINITY)])
    }

    /// When the integral of the rate reaches `due`, from the beginning; the ramp begins at `zero`.
    fn reaches(&self, due: f64, zero: Option<Duration>) -> Duration {
        let Some(zero) = zero.filter(|_| self.ramp.is_some()) else {
            return Duration::from_secs_f64(due / self.rate.hertz());
        };
        let before = self.rate.hertz() * zero.as_secs_f64();
        if due <= before {
            return Duration::from_secs_f64(due / self.rate.hertz());
        }
        let (mut left, mut at) = (due - before, 0.0);
        for (hertz, lasts) in self.levels() {
            if left <= hertz * lasts {
                at += left / hertz;
                break;
            }
            left -= hertz * lasts;
            at += lasts;
        }
        zero + Duration::from_secs_f64(at)
    }
}

impl fmt::Display for Rhythm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rate)?;
        if let Some(Ramp { to, steps, lasts }) = self.ramp {
            write!(f, " to {to} in {steps} steps over {}", unit::say(lasts))?;
        }
        match self.spread {
            Spread::Even(jitter) if jitter.is_zero() => Ok(()),
            Spread::Even(jitter) => write!(f, ", jitter {}", unit::say(jitter)),
            Spread::Poisson => f.write_str(", poisson"),
        }
    }
}

/// The moments of one probe, one after another.
#[derive(Debug, Clone)]
pub struct Beats {
    rhythm: Rhythm,
    offset: Duration,
    chance: ChaCha8Rng,
    /// So many looks are before this one, by the integral of the rate.
    due: f64,
    /// How many were drawn.
    nth: u64,
    late: Duration,
    last: Option<Duration>,
}

impl Beats {
    /// At the first look. On a grid it is drawn from the seed within one interval and at most a second, so that
    /// probes of equal rate do not all look at the same instant.
    #[must_use]
    pub fn of(rhythm: Rhythm, dice: &Dice, probe: &str) -> Self {
        let offset = match rhythm.spread {
            Spread::Poisson => Duration::ZERO,
            Spread::Even(_) => {
                let widest = rhythm.rate.interval().min(Duration::from_secs(1));
                widest.mul_f64(dice.stream(&format!("probe.{probe}.offset")).random())
            }
        };
        Self { offset, ..Self::begun(rhythm, dice, probe) }
    }

    /// As [`Beats::of`], but the first look of a grid is due at once.
    #[must_use]
    pub fn begun(rhythm: Rhythm, dice: &Dice, probe: &str) -> Self {
        let chance = dice.stream(&format!("probe.{probe}.arrivals"));
        let offset = Duration::ZERO;
        let mut beats = Self { rhythm, offset, chance, due: 0.0, nth: 0, late: Duration::ZERO, last: None };
        beats.draw();
        beats
    }

    /// When the present look is due, from the beginning of the watch, later than the one before it. t = 0 is so
    /// long after the beginning; while it is not known, the rate stays what it is before a ramp.
    #[must_use]
    pub fn at(&self, zero: Option<Duration>) -> Duration {
        let zero = zero.map(|zero| zero.saturating_sub(self.offset));
        let due = self.offset + self.rhythm.reaches(self.due, zero) + self.late;
        // Two looks of one instant could not be told apart.
        self.last.map_or(due, |last| due.max(last + Duration::from_nanos(1)))
    }

    /// How many looks were before the present one.
    #[must_use]
    pub fn before(&self) -> u64 {
        self.nth
    }

    /// Goes on to the next look.
    pub fn advance(&mut self, zero: Option<Duration>) {
        self.last = Some(self.at(zero));
        self.nth += 1;
        self.draw();
    }

    fn draw(&mut self) {
        match self.rhythm.spread {
            Spread::Poisson => self.due -= (1.0 - self.chance.random::<f64>()).ln(),
            Spread::Even(jitter) => {
                // Counted anew each time, so that no rounding adds up.
                self.due = self.nth as f64;
                if !jitter.is_zero() {
                    self.late = jitter.mul_f64(self.chance.random());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn per_second(hertz: f64) -> Rate {
        Rate::per_second(hertz).unwrap()
    }

    fn ramp(from: f64, to: f64, steps: u32, lasts: Duration) -> Rhythm {
        let ramp = Some(Ramp { to: per_second(to), steps, lasts });
        Rhythm { ramp, ..Rhythm::even(per_second(from)) }
    }

    fn moments(rhythm: Rhythm, seed: u64, zero: Option<Duration>, until: Duration) -> Vec<Duration> {
        let mut beats = Beats::of(rhythm, &Dice::new(seed), "p");
        let mut moments = Vec::new();
        while beats.at(zero) < until {
            moments.push(beats.at(zero));
            beats.advance(zero);
        }
        moments
    }

    /// Mean and variance of the counts in windows of a length.
    fn spread_of(moments: &[Duration], window: Duration, windows: u32) -> (f64, f64) {
        let mut counts = vec![0.0; windows as usize];
        for moment in moments {
            counts[(moment.as_nanos() / window.as_nanos()) as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / f64::from(windows);
        let squares = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>();
        (mean, squares / f64::from(windows - 1))
    }

    #[test]
    fn the_grid_does_not_drift() {
        let mut beats = Beats::begun(Rhythm::even(per_second(3.0)), &Dice::new(1), "p");
        for thirds in [3_u64, 3_000_000, 300_000_000] {
            beats.due = thirds as f64;
            let exact = Duration::from_secs(thirds / 3);
            assert!(beats.at(None).abs_diff(exact) < Duration::from_micros(1), "{thirds}");
        }
    }

    #[test]
    fn probes_are_staggered_by_name_and_seed_within_an_interval_and_a_second() {
        let offset = |rate: f64, seed, name: &str| {
            Beats::of(Rhythm::even(per_second(rate)), &Dice::new(seed), name).at(None)
        };
        assert_eq!(offset(20.0, 1, "a"), offset(20.0, 1, "a"));
        assert_ne!(offset(20.0, 1, "a"), offset(20.0, 1, "b"));
        assert_ne!(offset(20.0, 1, "a"), offset(20.0, 2, "a"));
        for seed in 0..200 {
            assert!(offset(20.0, seed, "a") < S / 20);
            assert!(offset(0.01, seed, "a") < S);
        }
    }

    #[test]
    fn arrivals_by_chance_have_the_mean_and_the_variance_of_a_poisson_process() {
        let poisson = Rhythm { spread: Spread::Poisson, ..Rhythm::even(per_second(50.0)) };
        let found = moments(poisson, 7, None, 4_000 * S);
        let (mean, variance) = spread_of(&found, S, 4_000);
        // Both are 50. Standard errors: sqrt(50 / 4000) = 0.11, and 50 sqrt(2 / 4000) = 1.12; bounds of four.
        assert!((mean - 50.0).abs() < 0.45, "{mean}");
        assert!((variance - 50.0).abs() < 4.5, "{variance}");
        // Gaps longer than twice the mean: e^-2 = 13.53 %, of 200,000 within 0.31 % by four standard errors.
        let long = found.windows(2).filter(|pair| pair[1] > pair[0] + S / 25).count();
        assert!((long as f64 / found.len() as f64 - 0.135_335).abs() < 0.003_1, "{long}");
        let (_, even) = spread_of(&moments(Rhythm::even(per_second(50.0)), 7, None, 400 * S), S, 400);
        assert!(even < 0.1, "a grid has next to no variance: {even}");
    }

    #[test]
    fn a_ramp_goes_from_one_rate_to_the_other_in_its_steps_and_stays_there() {
        let found = moments(ramp(10.0, 40.0, 4, 8 * S), 3, Some(2 * S), 12 * S);
        let count = |from: u32, to: u32| found.iter().filter(|at| **at >= from * S && **at < to * S).count();
        let counts = [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 12)].map(|(from, to)| count(from, to));
        for (count, exact) in counts.into_iter().zip([20_usize, 20, 40, 60, 80, 80]) {
            assert!(count.abs_diff(exact) <= 1, "{counts:?}");
        }
        assert!((ramp(10.0, 40.0, 4, 8 * S).looks(10 * S) - 280.0).abs() < 1e-9);
    }

    #[test]
    fn a_rate_is_said_as_people_write_it() {
        assert_eq!(Rhythm::even(per_second(20.0)).to_string(), "20/s");
        let climbing = Rhythm { spread: Spread::Poisson, ..ramp(10.0, 200.0, 5, 30 * S) };
        assert_eq!(climbing.to_string(), "10/s to 200/s in 5 steps over 30 s, poisson");
        let even = Rhythm { spread: Spread::Even(S / 100), ..Rhythm::even(per_second(20.0)) };
        assert_eq!(even.to_string(), "20/s, jitter 10 ms");
    }

    proptest! {
        #[test]
        fn the_same_seed_gives_the_same_moments_each_later_than_the_one_before(
            seed in any::<u64>(),
            from in 0.5_f64..500.0,
            to in 0.5_f64..500.0,
            steps in 2_u32..20,
            zero in prop::option::of(0_u64..5_000),
            kind in 0..3,
        ) {
            let shortest = Duration::from_secs_f64(1.0 / from.max(to));
            let spread = [Spread::Even(Duration::ZERO), Spread::Even(shortest), Spread::Poisson][kind as usize];
            let rhythm = Rhythm { spread, ..ramp(from, to, steps, 4 * S) };
            let zero = zero.map(Duration::from_millis);
            let found = moments(rhythm, seed, zero, 10 * S);
            prop_assert_eq!(&found, &moments(rhythm, seed, zero, 10 * S));
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn a_ramp_makes_as_many_looks_as_its_integral_and_only_those_after_t_0_know_of_it(
            seed in any::<u64>(),
            from in 1.0_f64..500.0,
            to in 1.0_f64..500.0,
            steps in 2_u32..20,
            lasts in 1_u64..8_000,
            zero in 0_u64..3_000,
            jitter in 0.0_f64..1.0,
        ) {
            let mut rhythm = ramp(from, to, steps, Duration::from_millis(lasts));
            rhythm.spread = Spread::Even(Duration::from_secs_f64(jitter / from.max(to)));
            let zero = Duration::from_millis(zero);
            let found = moments(rhythm, seed, Some(zero), zero + 10 * S);
            let exact = rhythm.rate.hertz() * zero.as_secs_f64() + rhythm.looks(10 * S);
            // The first may be up to one interval after the beginning, the last up to a jitter late.
            let behind = from.max(to) / from + 2.0;
            prop_assert!((found.len() as f64 - exact).abs() <= behind, "{} {exact}", found.len());
            let before = |moments: &[Duration]| -> Vec<Duration> {
                moments.iter().copied().filter(|at| *at < zero).collect()
            };
            prop_assert_eq!(before(&found), before(&moments(rhythm, seed, None, zero)));
        }
    }
}
