//! How waits are spread about their mean, and how much each is like the one before.
//!
//! A packet's place in its distribution comes from a standard normal number z: the wait is the quantile at Φ(z). The
//! numbers of a flow make an autoregression, z' = ρ z + √(1 - ρ²) ε, which leaves each of them standard normal (a
//! Gaussian copula). So the distribution is as asked whatever the correlation; netem mixes uniform numbers instead,
//! which narrows it (get_crandom in net/sched/sch_netem.c).

use std::f64::consts::{SQRT_2, TAU};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A shape. All but `Uniform` are netem's (tc-netem(8), netem/*.c of iproute2), brought to mean 0 and deviation 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Anything between the bounds.
    Uniform,
    /// The bell.
    Normal,
    /// Pareto's, of exponent 3: most packets are early, a few are very late.
    Pareto,
    /// A quarter normal and three quarters Pareto, said to look most like real networks.
    ParetoNormal,
}

crate::words!(
    Distribution, "distribution",
    "uniform" => Self::Uniform,
    "normal" => Self::Normal,
    "pareto" => Self::Pareto,
    "paretonormal" => Self::ParetoNormal
);

impl Distribution {
    /// The value at a standard normal number, in units of the jitter.
    pub(super) fn at(self, z: f64) -> f64 {
        /// √Var(N/4 + 3P/4), where both come from one z: their covariance is 0.678353.
        const MIXED: f64 = 0.937_754;
        match self {
            Self::Uniform => 1.0 - 2.0 * above(z),
            Self::Normal => z,
            Self::Pareto => pareto(z),
            Self::ParetoNormal => (0.25 * z + 0.75 * pareto(z)) / MIXED,
        }
    }

    /// The least of it. A bell has no end: what is beyond three deviations is one packet in 741.
    pub(super) fn least(self) -> f64 {
        self.at(match self {
            Self::Uniform | Self::Pareto => f64::NEG_INFINITY,
            Self::Normal | Self::ParetoNormal => -3.0,
        })
    }
}

/// How much of a standard normal distribution is above z.
fn above(z: f64) -> f64 {
    libm::erfc(z / SQRT_2) / 2.0
}

/// Pareto's distribution of exponent 3 has mean 3/2 and variance 3/4.
fn pareto(z: f64) -> f64 {
    (1.0 / libm::cbrt(above(z)) - 1.5) / 0.75_f64.sqrt()
}

/// The standard normal numbers of one flow.
#[derive(Debug)]
pub(super) struct Drawn {
    chance: ChaCha8Rng,
    last: Option<f64>,
}

impl Drawn {
    pub(super) fn new(chance: ChaCha8Rng) -> Self {
        Self { chance, last: None }
    }

    /// The next one, which correlates so with the one before it.
    pub(super) fn next(&mut self, alike: f64) -> f64 {
        let fresh = self.fresh();
        let next = self.last.map_or(fresh, |last| alike * last + (1.0 - alike * alike).sqrt() * fresh);
        self.last = Some(next);
        next
    }

    /// Box and Muller, "A Note on the Generation of Random Normal Deviates" (1958). Always two draws a packet.
    fn fresh(&mut self) -> f64 {
        let (far, way) = (1.0 - self.chance.random::<f64>(), self.chance.random::<f64>());
        (-2.0 * libm::log(far)).sqrt() * libm::cos(TAU * way)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Dice;

    const ALL: [Distribution; 4] =
        [Distribution::Uniform, Distribution::Normal, Distribution::Pareto, Distribution::ParetoNormal];
    const MANY: usize = 40_000;

    fn drawn(of: Distribution, seed: u64, alike: f64) -> Vec<f64> {
        let mut drawn = Drawn::new(Dice::new(seed).stream("spread"));
        (0..MANY).map(|_| of.at(drawn.next(alike))).collect()
    }

    fn mean(of: &[f64]) -> f64 {
        of.iter().sum::<f64>() / of.len() as f64
    }

    /// The share of values up to x, by the textbook; of the mixture only the median is known.
    fn up_to(of: Distribution, x: f64) -> f64 {
        match of {
            Distribution::Uniform => f64::midpoint(x, 1.0),
            Distribution::Normal => libm::erfc(-x / SQRT_2) / 2.0,
            Distribution::Pareto => 1.0 - (1.5 + x * 0.75_f64.sqrt()).powi(-3),
            Distribution::ParetoNormal => f64::NAN,
        }
    }

    #[test]
    fn each_quantile_is_the_textbooks() {
        for of in ALL {
            // p50, p90, p99, p99.9 of the standard normal distribution, from its tables.
            for (z, share) in [(0.0, 0.5), (1.281_551_6, 0.9), (2.326_347_9, 0.99), (3.090_232_3, 0.999)] {
                let got = up_to(of, of.at(z));
                assert!(got.is_nan() || (got - share).abs() < 1e-7, "{of:?} at {share}: {got}");
            }
        }
        // By hand: (0.01^(-1/3) - 3/2) / √(3/4) is 3.62759; and the mixture with 2.32635 is 3.52148.
        assert!((Distribution::Pareto.at(2.326_347_9) - 3.627_59).abs() < 1e-4);
        assert!((Distribution::ParetoNormal.at(2.326_347_9) - 3.521_48).abs() < 1e-4);
        assert!((Distribution::Pareto.least() + 0.577_35).abs() < 1e-4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Within 5 deviations of what a sample does, so that no seed fails by chance; a correlation widens that.
        #[test]
        fn mean_median_and_p99_are_the_formulas_whatever_the_correlation(
            seed: u64, alike in 0.0_f64..0.8, which in 0_usize..4,
        ) {
            let of = ALL[which];
            let mut values = drawn(of, seed, alike);
            let n = MANY as f64 * (1.0 - alike) / (1.0 + alike);
            let deviation = if of == Distribution::Uniform { 1.0 / 3.0_f64.sqrt() } else { 1.0 };
            prop_assert!(mean(&values).abs() < 5.0 * deviation / n.sqrt(), "{of:?}: mean {}", mean(&values));
            values.sort_unstable_by(f64::total_cmp);
            for (z, share) in [(0.0, 0.5), (2.326_347_9, 0.99)] {
                let below = values.partition_point(|value| *value <= of.at(z)) as f64 / MANY as f64;
                let spread = 5.0 * (share * (1.0 - share) / n).sqrt();
                prop_assert!((below - share).abs() < spread, "{of:?}: {below} of them up to the {share} quantile");
            }
            prop_assert!(of == Distribution::Normal || of == Distribution::ParetoNormal || values[0] >= of.least());
        }

        #[test]
        fn packets_that_follow_one_another_are_as_alike_as_asked(seed: u64, alike in 0.0_f64..0.95) {
            let z = drawn(Distribution::Normal, seed, alike);
            let products: Vec<f64> = z.windows(2).map(|pair| pair[0] * pair[1]).collect();
            let got = mean(&products);
            let spread = 5.0 * ((1.0 + alike * alike) / (1.0 - alike * alike) / MANY as f64).sqrt() * 1.5;
            prop_assert!((got - alike).abs() < spread, "asked {alike}, got {got}");
        }
    }
}
