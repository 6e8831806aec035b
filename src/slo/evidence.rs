//! The betting e-process: evidence against "at most `p0` of the looks are bad" that may be read at any
//! moment, as often as one likes (Ville 1939; Waudby-Smith and Ramdas 2020, arXiv:2010.09686).

/// Bets at once, each on one bad ratio above the tolerated one.
const BETS: usize = 12;

/// Capital that grows when more is bad than promised, and cannot be expected to grow otherwise.
///
/// Were the promise kept, the chance that it ever reaches `1 / alpha` would be at most `alpha`, as
/// long as each slice's expected bad ratio, given the past, is at most `p0`.
#[derive(Debug, Clone)]
pub(super) struct Evidence {
    p0: f64,
    /// lambda of each bet.
    bets: [f64; BETS],
    /// The capital of each bet, as a logarithm: a long outage would overflow it.
    ln_capital: [f64; BETS],
    /// What each bet gets in each planned slice.
    drip: f64,
    planned: u64,
    /// Slices whose capital was handed out.
    dripped: u64,
    ln_now: f64,
    ln_most: f64,
}

impl Evidence {
    /// Half the capital at once, half over `planned` slices.
    pub fn new(p0: f64, planned: u64) -> Self {
        let planned = planned.max(1);
        let (lowest, highest) = (1.25 * p0, 0.999_f64);
        let bets = std::array::from_fn(|i| {
            let p = lowest * (highest / lowest).powf(i as f64 / (BETS - 1) as f64);
            (p - p0) / (p0 * (1.0 - p0))
        });
        let share = 0.5 / BETS as f64;
        Self {
            p0,
            bets,
            ln_capital: [share.ln(); BETS],
            drip: share / planned as f64,
            planned,
            dripped: 0,
            ln_now: 0.5_f64.ln(),
            ln_most: 0.5_f64.ln(),
        }
    }

    /// Slice number `slice` had the bad fraction `bad`. Slices come in ascending order; those left out had no
    /// looks, and only their capital is handed out.
    pub fn slice(&mut self, slice: u64, bad: f64) {
        let due = slice.saturating_add(1).min(self.planned);
        let handed = due.saturating_sub(self.dripped) as f64 * self.drip;
        self.dripped = self.dripped.max(due);
        for (ln_capital, bet) in self.ln_capital.iter_mut().zip(self.bets) {
            if handed > 0.0 {
                *ln_capital = ln_of_sum(*ln_capital, handed.ln());
            }
            *ln_capital += (bet * (bad - self.p0)).ln_1p();
        }
        self.ln_now = self.ln_capital.iter().copied().fold(f64::NEG_INFINITY, ln_of_sum);
        self.ln_most = self.ln_most.max(self.ln_now);
    }

    /// E now; infinite when it is too large for a number.
    pub fn now(&self) -> f64 {
        self.ln_now.exp()
    }

    /// Whether E is at least so much now.
    pub fn reaches(&self, ln_limit: f64) -> bool {
        self.ln_now >= ln_limit
    }

    /// The most E has ever been: by Ville's inequality the chance of ever seeing so much is at most its inverse.
    pub fn most(&self) -> f64 {
        self.ln_most.exp()
    }
}

fn ln_of_sum(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sequence of slice outcomes, with its exact chance when each of `looks` looks of a slice is bad with
    /// chance `p`: the expected capital, and the chance that it ever reaches `1 / alpha`.
    fn enumerate(p0: f64, p: f64, looks: u32, slices: u64, alpha: f64) -> (f64, f64) {
        let chances: Vec<f64> = (0..=looks)
            .map(|bad| {
                let ways = (0..bad).fold(1.0, |ways, i| ways * f64::from(looks - i) / f64::from(i + 1));
                ways * p.powi(bad as i32) * (1.0 - p).powi((looks - bad) as i32)
            })
            .collect();
        let (mut expected, mut crossed) = (0.0, 0.0);
        let mut open = vec![(Evidence::new(p0, slices), 1.0, 0)];
        while let Some((evidence, chance, slice)) = open.pop() {
            if slice == slices {
                expected += chance * evidence.now();
                crossed += if evidence.most() >= 1.0 / alpha { chance } else { 0.0 };
                continue;
            }
            for (bad, one) in chances.iter().enumerate() {
                let mut next = evidence.clone();
                next.slice(slice, bad as f64 / f64::from(looks));
                open.push((next, chance * one, slice + 1));
            }
        }
        (expected, crossed)
    }

    #[test]
    fn under_the_promise_capital_is_not_expected_to_grow_and_rarely_reaches_the_limit() {
        for (p0, looks, slices) in [(0.01, 1, 12), (0.1, 1, 12), (0.5, 1, 11), (0.05, 3, 6), (0.2, 2, 7)] {
            for alpha in [0.5, 0.2, 0.05, 0.01] {
                let (expected, crossed) = enumerate(p0, p0, looks, slices, alpha);
                // All capital is handed out, so at exactly p0 it is a fair game: the expectation is 1.
                assert!((expected - 1.0).abs() < 1e-9, "{p0} {looks} {slices}: {expected}");
                assert!(crossed <= alpha, "{p0} {looks} {slices}: {crossed} of {alpha}");
                let (below, _) = enumerate(p0, p0 / 2.0, looks, slices, alpha);
                assert!(below < 1.0, "{below}");
            }
        }
    }

    #[test]
    fn a_broken_promise_makes_it_grow() {
        let (expected, crossed) = enumerate(0.1, 0.6, 1, 12, 0.01);
        assert!(expected > 100.0 && crossed > 0.5, "{expected} {crossed}");
    }

    #[test]
    fn slices_without_looks_cost_nothing_and_are_walked_in_no_time() {
        let mut steady = Evidence::new(0.01, 60);
        let mut gap = Evidence::new(0.01, 60);
        for slice in 0..59 {
            steady.slice(slice, 0.01);
        }
        steady.slice(59, 1.0);
        gap.slice(59, 1.0);
        assert!(
            (steady.now() / gap.now() - 1.0).abs() < 1e-9,
            "an exactly tolerated slice is worth as much as none"
        );
        gap.slice(u64::MAX, 0.01);
        assert!(gap.now().is_finite());
        for slice in 0..10_000 {
            gap.slice(slice, 1.0);
        }
        assert!(gap.ln_now.is_finite() && gap.most() > 1e300, "a long outage does not overflow");
    }
}
