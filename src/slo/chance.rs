//! Counting and chance: what a promise allows, how often chance alone breaks it, what a count proves.

use libm::lgamma;

/// The most bad looks among `n` that keep a promise of at most `p0`: floor(p0 * n).
///
/// `1.0 - 0.9` is a little less than a tenth; that must not cost a look, hence the allowance.
#[must_use]
pub fn tolerated(p0: f64, n: u64) -> u64 {
    (p0 * n as f64 + 1e-6).floor() as u64
}

/// The looks from which a count says something: 1 / `p0`, rounded up. With fewer, one bad look would break
/// any promise.
#[must_use]
pub fn countable(p0: f64) -> u64 {
    (1.0 / p0 - 1e-6).ceil() as u64
}

/// The chance that at least `k` of `n` independent looks are bad when each is with chance `p`: the binomial
/// tail, summed term by term outwards from `k`, which is exact enough at any size and never takes longer
/// than a few times the square root of `n`.
#[must_use]
pub fn at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return if k <= n { 1.0 } else { 0.0 };
    }
    if k > n || p.is_nan() || p <= 0.0 {
        return 0.0;
    }
    let odds = p / (1.0 - p);
    let term = |i: u64| {
        let (n, i) = (n as f64, i as f64);
        (lgamma(n + 1.0) - lgamma(i + 1.0) - lgamma(n - i + 1.0) + i * p.ln() + (n - i) * (-p).ln_1p()).exp()
    };
    let above_the_mean = k as f64 > n as f64 * p;
    let mut i = if above_the_mean { k } else { k - 1 };
    let mut one = term(i);
    let mut sum = one;
    while one > sum * 1e-17 {
        if above_the_mean && i < n {
            one *= (n - i) as f64 / (i + 1) as f64 * odds;
            i += 1;
        } else if !above_the_mean && i > 0 {
            one *= i as f64 / ((n - i + 1) as f64 * odds);
            i -= 1;
        } else {
            break;
        }
        sum += one;
    }
    if above_the_mean { sum.min(1.0) } else { (1.0 - sum).max(0.0) }
}

/// The bad ratios that a count does not speak against, assuming that the rate was constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The interval around `bad` of `n` looks at level 1 - `alpha`.
///
/// It holds whenever the run ends, also when the guard ends it because of what was seen: a
/// confidence sequence, the set of `p` against which the Beta(1/2, 1/2) mixture of likelihoods stays
/// below `1 / alpha` times the likelihood of `p` (Ville 1939; Robbins 1970, Ann. Math. Statist. 41:1397). An
/// ordinary (Jeffreys) interval would be narrower, and wrong for a run that may stop at any moment.
#[must_use]
pub fn interval(bad: f64, n: f64, alpha: f64) -> Interval {
    if n.is_nan() || n <= 0.0 {
        return Interval { low: 0.0, high: 1.0 };
    }
    let bad = bad.clamp(0.0, n);
    let good = n - bad;
    let ln_pi = std::f64::consts::PI.ln(); // ln B(1/2, 1/2)
    let mixed = lgamma(bad + 0.5) + lgamma(good + 0.5) - lgamma(n + 1.0) - ln_pi;
    // 0 * ln 0 is 0 here.
    let part = |count: f64, ln: f64| if count > 0.0 { count * ln } else { 0.0 };
    let against = |p: f64| mixed - part(bad, p.ln()) - part(good, (-p).ln_1p());
    let limit = (1.0 / alpha).ln();
    let seen = bad / n;
    // `against` rises on both sides of what was seen, so halving finds the two ends.
    let end = |mut inside: f64, mut outside: f64| {
        for _ in 0..60 {
            let middle = f64::midpoint(inside, outside);
            if against(middle) < limit { inside = middle } else { outside = middle }
        }
        outside
    };
    Interval {
        low: if bad > 0.0 { end(seen, 0.0) } else { 0.0 },
        high: if good > 0.0 { end(seen, 1.0) } else { 1.0 },
    }
}

/// How many looks with the bad ratio `seen` bring the interval's upper end below `target`; `None` when no
/// number does.
#[must_use]
pub fn enough(seen: f64, target: f64, alpha: f64) -> Option<u64> {
    const MOST: f64 = 1e12;
    if seen.is_nan() || seen >= target {
        return None;
    }
    let below = |n: f64| interval(seen * n, n, alpha).high < target;
    let mut high = 1.0;
    while !below(high) {
        high *= 2.0;
        if high > MOST {
            return None;
        }
    }
    let mut low = (high / 2.0).floor();
    while high - low > 1.0 {
        let middle = f64::midpoint(low, high).floor();
        if below(middle) { high = middle } else { low = middle }
    }
    Some(high as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp, reason = "where nothing is rounded, the exact value is expected")]

    use super::*;

    #[test]
    fn the_binomial_tail_agrees_with_counting() {
        assert!((at_least(1, 10, 0.1) - (1.0 - 0.9_f64.powi(10))).abs() < 1e-12);
        assert!((at_least(2, 2, 0.5) - 0.25).abs() < 1e-12);
        assert!((at_least(5, 9, 0.5) - 0.5).abs() < 1e-12);
        assert_eq!(at_least(0, 0, 0.3), 1.0);
        assert_eq!(at_least(3, 2, 1.0), 0.0);
        assert_eq!(at_least(1, 10, 0.0), 0.0);
        // Far from the mean, and far larger than a table: half of a symmetric million, and beyond it.
        assert!((at_least(500_000, 1_000_000, 0.5) - 0.5).abs() < 1e-3);
        assert!(at_least(600_000, 1_000_000, 0.5) < 1e-300);
        assert!(at_least(400_000, 1_000_000, 0.5) > 1.0 - 1e-12);
    }

    #[test]
    fn the_binomial_tail_falls_with_k_and_rises_with_p() {
        for n in [1_u64, 7, 300, 3_000] {
            for p in [0.001, 0.01, 0.3, 0.9] {
                let tails: Vec<f64> = (0..=n.min(60)).map(|k| at_least(k, n, p)).collect();
                assert!(tails.windows(2).all(|pair| pair[0] >= pair[1] - 1e-12), "{n} {p} {tails:?}");
                assert!(at_least(n.min(3), n, p) <= at_least(n.min(3), n, p + 0.05) + 1e-12);
            }
        }
    }

    #[test]
    fn a_tenth_of_ten_is_one_also_in_binary() {
        assert_eq!(tolerated(1.0 - 0.9, 10), 1);
        assert_eq!(tolerated(1.0 - 0.99, 100), 1);
        assert_eq!(tolerated(1.0 - 0.99, 99), 0);
        assert_eq!(tolerated(1.0 - 0.999, 1_000), 1);
        assert_eq!(countable(1.0 - 0.9), 10);
        assert_eq!(countable(1.0 - 0.99), 100);
        assert_eq!(countable(1.0 - 0.95), 20);
        assert_eq!(countable(0.3), 4);
    }

    #[test]
    fn the_interval_contains_what_was_seen_and_narrows() {
        let ten = interval(1.0, 10.0, 0.01);
        let thousand = interval(100.0, 1_000.0, 0.01);
        assert!(ten.low < 0.1 && 0.1 < ten.high);
        assert!(thousand.low > ten.low && thousand.high < ten.high);
        assert_eq!(interval(0.0, 0.0, 0.01), Interval { low: 0.0, high: 1.0 });
        assert_eq!(interval(5.0, 5.0, 0.01).high, 1.0);
        assert_eq!(interval(0.0, 5.0, 0.01).low, 0.0);
    }

    /// Ville: the chance that the truth is *ever* outside, at any of the first 14 looks, enumerated exactly.
    #[test]
    fn the_interval_never_leaves_the_truth_more_often_than_it_says() {
        for p in [0.05, 0.3, 0.5] {
            for alpha in [0.3, 0.1, 0.05] {
                // Chance of each bad count among runs in which the truth has always been inside.
                let mut inside = vec![1.0_f64];
                for n in 1..=14_u32 {
                    let mut next = vec![0.0; n as usize + 1];
                    for (bad, chance) in inside.iter().enumerate() {
                        next[bad] += chance * (1.0 - p);
                        next[bad + 1] += chance * p;
                    }
                    for (bad, chance) in next.iter_mut().enumerate() {
                        let at = interval(bad as f64, f64::from(n), alpha);
                        if p < at.low || p > at.high {
                            *chance = 0.0;
                        }
                    }
                    inside = next;
                }
                let left = 1.0 - inside.iter().sum::<f64>();
                assert!(left <= alpha + 1e-9, "p {p} alpha {alpha}: outside in {left}");
            }
        }
    }

    /// The plan's figures: about 407 faultless looks at 99 %, 4,701 at 99.9 % (twice the tolerated ratio, 1 %).
    #[test]
    fn faultless_looks_that_suffice_are_the_known_figures() {
        assert_eq!(enough(0.0, 0.02, 0.01), Some(405));
        assert_eq!(enough(0.0, 0.002, 0.01), Some(4_698));
        assert_eq!(enough(0.02, 0.02, 0.01), None);
    }
}
