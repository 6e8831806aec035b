//! The judgement on one objective after a run: passed, failed, or nothing can be concluded; with numbers.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::outage::Outages;
use super::{Interval, Objective, Promise, Sample, countable, enough, interval, tolerated};
use crate::base::unit;

/// More missed looks than this share, and nothing can be concluded: our own side was starved, and what it did see may
/// be wrong too.
const MOST_MISSED: f64 = 0.01;

/// Different troubles of ours that are counted by name.
const TROUBLES: usize = 8;

/// How much proof a pass needs, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The promise was kept in this run.
    Observed,
    /// The interval's upper end is below twice the tolerated ratio; no outage can have hidden between looks.
    Likely,
    /// The interval's upper end is below the tolerated ratio.
    Proven,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observed => "observed",
            Self::Likely => "likely",
            Self::Proven => "proven",
        })
    }
}

/// The terms of a judgement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// How much proof a pass needs.
    pub proof: Proof,
    /// The chance that an interval of all those of the run misses the truth.
    pub alpha: f64,
    /// Ratio objectives judged together: they share `alpha`.
    pub objectives: usize,
}

impl Terms {
    /// The share of `alpha` that one objective gets.
    #[must_use]
    pub fn level(&self) -> f64 {
        self.alpha / self.objectives.max(1) as f64
    }
}

/// How a judgement came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// The promise was kept, with as much proof as was asked for.
    Passed,
    /// It was broken.
    Failed,
    /// Neither can be said.
    Inconclusive,
}

/// A judgement and its grounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// How it came out.
    pub ruling: Ruling,
    /// The reason in a sentence with numbers.
    pub why: String,
    /// The same in short: what was seen, and what is allowed.
    pub brief: String,
    /// The share of what is allowed that was used; above 1 the promise is broken.
    pub used: f64,
    /// The strongest proof of the promise that these looks give.
    pub proof: Option<Proof>,
    /// The bad ratios that the looks do not speak against, if the rate was constant.
    pub interval: Option<Interval>,
    /// Inconclusive for want of looks: how many would have sufficed had they been like these.
    pub enough: Option<u64>,
    /// Our own side was starved: this outranks a failure.
    pub starved: bool,
}

/// What one objective has seen. Feed it only looks made while the objective was in force.
#[derive(Debug, Clone)]
pub struct Score {
    objective: Objective,
    good: u64,
    bad: u64,
    missed: u64,
    /// Why looks were missed, and how often.
    ours: BTreeMap<Arc<str>, u64>,
    outages: Outages,
}

impl Score {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(objective: Objective) -> Self {
        Self { objective, good: 0, bad: 0, missed: 0, ours: BTreeMap::new(), outages: Outages::new() }
    }

    /// The promise.
    #[must_use]
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Good, bad and missed looks by this promise's measure.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.good, self.bad, self.missed)
    }

    /// A look began: needed to see outages right when looks settle out of order.
    pub fn begun(&mut self, intended: Duration) {
        if matches!(self.objective.promise, Promise::Outage { .. }) {
            self.outages.begun(intended);
        }
    }

    /// A look settled.
    pub fn settled(&mut self, sample: &Sample) {
        let bad = self.objective.bad(sample);
        match bad {
            None => {
                self.missed += 1;
                self.suffered(sample.why.as_ref());
            }
            Some(false) => self.good += 1,
            Some(true) => self.bad += 1,
        }
        if matches!(self.objective.promise, Promise::Outage { .. }) {
            self.outages.settled(sample.intended, sample.ended, bad);
        }
    }

    fn suffered(&mut self, why: Option<&Arc<str>>) {
        let Some(why) = why else { return };
        if self.ours.len() < TROUBLES || self.ours.contains_key(why) {
            *self.ours.entry(why.clone()).or_default() += 1;
        }
    }

    /// A look that began settled while the objective was not in force: it says nothing here.
    pub fn passed_over(&mut self, sample: &Sample) {
        if matches!(self.objective.promise, Promise::Outage { .. }) {
            self.outages.settled(sample.intended, sample.ended, None);
        }
    }

    /// The objective is not in force for a while.
    pub fn suspend(&mut self) {
        self.outages.suspend();
    }

    /// The judgement on what was seen so far. Whether the fault took hold is for the caller to know.
    #[must_use]
    pub fn judge(&self, terms: &Terms) -> Finding {
        let n = self.good + self.bad;
        let all = n + self.missed;
        let mut finding = match self.objective.promise {
            Promise::Ratio { p0, .. } => self.judge_ratio(p0, n, terms),
            Promise::Outage { longest } => self.judge_outage(longest, n, terms),
        };
        let name = &self.objective.name;
        if n == 0 {
            finding.ruling = Ruling::Inconclusive;
            finding.why = format!("{name}: nothing was seen; no data is not a pass");
            finding.brief.clone_from(&finding.why);
        }
        if self.missed as f64 > MOST_MISSED * all as f64 {
            finding.ruling = Ruling::Inconclusive;
            finding.starved = true;
            finding.why = format!(
                "{name}: {} of {all} looks could not be made in time ({:.1} %, over 1 %): our own side was starved",
                self.missed,
                self.missed as f64 / all as f64 * 100.0
            );
            if let Some((why, times)) = self.ours.iter().max_by_key(|(_, times)| **times) {
                let _ = write!(finding.why, " ({times} times: {why})");
            }
            finding.brief.clone_from(&finding.why);
        }
        finding
    }

    fn judge_ratio(&self, p0: f64, n: u64, terms: &Terms) -> Finding {
        let (name, bad, least) = (&self.objective.name, self.bad, countable(p0));
        let range = interval(bad as f64, n as f64, terms.level());
        let seen = bad as f64 / n.max(1) as f64;
        let kept = n >= least && bad <= tolerated(p0, n);
        let proof = match (kept, range.high) {
            (false, _) => None,
            (true, high) if high < p0 => Some(Proof::Proven),
            (true, high) if high < 2.0 * p0 => Some(Proof::Likely),
            (true, _) => Some(Proof::Observed),
        };
        let brief =
            format!("{name}: {bad} of {n} looks bad ({}) where {} is tolerated", percent(seen), percent(p0));
        let counted = format!(
            "{brief}; if the rate was constant, it was {} to {}",
            percent(range.low),
            percent(range.high)
        );
        // With fewer looks than can keep the promise it is broken all the same once good ones could not mend it.
        let broken = bad > tolerated(p0, n.max(least));
        let mut sufficient = None;
        let (ruling, why) = if broken {
            (Ruling::Failed, counted)
        } else if proof >= Some(terms.proof) {
            (Ruling::Passed, format!("{counted}: kept, {}", proof.unwrap_or(Proof::Observed)))
        } else {
            let target = match terms.proof {
                Proof::Observed => f64::INFINITY,
                Proof::Likely => 2.0 * p0,
                Proof::Proven => p0,
            };
            // One bad look among too few says nothing of what would come: then the promise's own count is named.
            let needed = if n < least || target.is_infinite() {
                Some(least)
            } else {
                enough(seen, target, terms.level())
            };
            sufficient = needed.map(|needed| needed.max(least));
            let short = match sufficient {
                Some(needed) => format!("{needed} such looks would have sufficed"),
                None => "no number of looks like these would suffice".to_owned(),
            };
            let missing = if n < least {
                "too few to count".to_owned()
            } else {
                format!("too little to call it {}", terms.proof)
            };
            (Ruling::Inconclusive, format!("{counted}: {missing}; {short}"))
        };
        let brief = if ruling == Ruling::Inconclusive { why.clone() } else { brief };
        let used = seen / p0.max(f64::MIN_POSITIVE);
        let interval = (n > 0).then_some(range);
        Finding { ruling, why, brief, used, proof, interval, enough: sufficient, starved: false }
    }

    fn judge_outage(&self, longest: Duration, n: u64, terms: &Terms) -> Finding {
        let name = &self.objective.name;
        let at_most = self.outages.at_most();
        let worst = self.outages.longest();
        let lasted = worst.map_or(Duration::ZERO, |worst| worst.lasted);
        let seen = match worst {
            Some(worst) => format!(
                "{name}: the longest outage lasted {} ({} looks, from {})",
                unit::say(worst.lasted),
                worst.looks,
                unit::say(worst.began)
            ),
            None => format!("{name}: no outage in {n} looks"),
        };
        let allowed = unit::say(longest);
        let hidden = at_most > longest;
        // A gap in looking that is wider than what an outage may last by more than the outage that was seen can hide one.
        let blind = at_most.saturating_sub(lasted) > longest;
        let (ruling, why) = if lasted > longest {
            (Ruling::Failed, format!("{seen}; at most {allowed} are allowed"))
        } else if blind || (hidden && terms.proof > Proof::Observed) {
            let why = format!(
                "{seen}; between good looks lay up to {}, so one longer than {allowed} may have been overlooked: look more \
                 often",
                unit::say(at_most)
            );
            (Ruling::Inconclusive, why)
        } else {
            (Ruling::Passed, format!("{seen}; at most {allowed} are allowed"))
        };
        let proof = match ruling {
            Ruling::Passed if hidden => Some(Proof::Observed),
            Ruling::Passed => Some(Proof::Proven),
            _ => None,
        };
        let (brief, used) =
            (why.clone(), lasted.as_secs_f64() / longest.as_secs_f64().max(f64::MIN_POSITIVE));
        Finding { ruling, why, brief, used, proof, interval: None, enough: None, starved: false }
    }
}

/// Three significant figures: `0.5 %`, `0.0123 %`.
fn percent(ratio: f64) -> String {
    let value = ratio * 100.0;
    if value <= 0.0 {
        return "0 %".to_owned();
    }
    let digits = (2.0 - value.log10().floor()).clamp(0.0, 8.0) as usize;
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} %")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Outcome;
    use super::*;

    fn ratio(p0: f64) -> Objective {
        Objective { name: "order availability".into(), probe: 0, promise: Promise::Ratio { p0, below: None } }
    }

    fn terms(proof: Proof) -> Terms {
        Terms { proof, alpha: 0.01, objectives: 1 }
    }

    fn sample(at: Duration, outcome: Outcome) -> Sample {
        Sample { intended: at, started: at, ended: at + Duration::from_millis(1), outcome, why: None }
    }

    fn score(objective: Objective, good: u64, bad: u64, missed: u64) -> Score {
        Score { good, bad, missed, ..Score::new(objective) }
    }

    #[test]
    fn a_promise_is_a_count() {
        for (p0, good, bad, missed, proof, ruling) in [
            (0.01, 99, 1, 0, Proof::Observed, Ruling::Passed),
            (0.01, 98, 2, 0, Proof::Observed, Ruling::Failed),
            (0.01, 99, 0, 0, Proof::Observed, Ruling::Inconclusive),
            (1.0 - 0.9, 9, 1, 0, Proof::Observed, Ruling::Passed),
            (0.01, 98, 1, 0, Proof::Observed, Ruling::Inconclusive),
            // Forty more good looks could not make ten bad ones tolerable.
            (0.01, 50, 10, 0, Proof::Observed, Ruling::Failed),
            (0.01, 404, 0, 0, Proof::Likely, Ruling::Inconclusive),
            (0.01, 405, 0, 0, Proof::Likely, Ruling::Passed),
            (0.001, 4_698, 0, 0, Proof::Likely, Ruling::Passed),
            (0.01, 851, 0, 0, Proof::Proven, Ruling::Passed),
            (0.01, 850, 0, 0, Proof::Proven, Ruling::Inconclusive),
            (0.01, 1_000, 0, 10, Proof::Observed, Ruling::Passed),
            (0.01, 1_000, 0, 11, Proof::Observed, Ruling::Inconclusive),
            (0.01, 500, 500, 11, Proof::Observed, Ruling::Inconclusive),
            (0.01, 0, 0, 0, Proof::Observed, Ruling::Inconclusive),
        ] {
            let finding = score(ratio(p0), good, bad, missed).judge(&terms(proof));
            assert_eq!(finding.ruling, ruling, "{good} {bad} {missed} {proof}: {}", finding.why);
        }
    }

    #[test]
    fn reasons_are_sentences_with_numbers() {
        let why = |good, bad, missed, proof| score(ratio(0.01), good, bad, missed).judge(&terms(proof)).why;
        insta::assert_snapshot!(
            [
                why(2_990, 10, 0, Proof::Observed),
                why(2_900, 100, 0, Proof::Observed),
                why(400, 0, 0, Proof::Likely),
                why(2_000, 20, 0, Proof::Proven),
                why(50, 0, 0, Proof::Observed),
                why(0, 0, 0, Proof::Observed),
                why(100, 0, 2, Proof::Observed),
            ]
            .join("\n"),
            @r"
        order availability: 10 of 3000 looks bad (0.333 %) where 1 % is tolerated; if the rate was constant, it was 0.0609 % to 0.988 %: kept, proven
        order availability: 100 of 3000 looks bad (3.33 %) where 1 % is tolerated; if the rate was constant, it was 2.13 % to 4.9 %
        order availability: 0 of 400 looks bad (0 %) where 1 % is tolerated; if the rate was constant, it was 0 % to 2.02 %: too little to call it likely; 405 such looks would have sufficed
        order availability: 20 of 2020 looks bad (0.99 %) where 1 % is tolerated; if the rate was constant, it was 0.331 % to 2.2 %: too little to call it proven; 26947871 such looks would have sufficed
        order availability: 0 of 50 looks bad (0 %) where 1 % is tolerated; if the rate was constant, it was 0 % to 13.3 %: too few to count; 100 such looks would have sufficed
        order availability: nothing was seen; no data is not a pass
        order availability: 2 of 102 looks could not be made in time (2.0 %, over 1 %): our own side was starved
        "
        );
    }

    #[test]
    fn the_number_that_would_have_sufficed_does_suffice() {
        for (good, bad) in [(300, 0), (199, 1), (995, 5)] {
            let finding = score(ratio(0.01), good, bad, 0).judge(&terms(Proof::Likely));
            let Some(needed) = finding.enough else { panic!("{}", finding.why) };
            let seen = bad as f64 / (good + bad) as f64;
            assert!(interval(seen * needed as f64, needed as f64, 0.01).high < 0.02);
            assert!(interval(seen * (needed - 1) as f64, (needed - 1) as f64, 0.01).high >= 0.02);
        }
    }

    #[test]
    fn several_objectives_share_the_level_and_need_more_looks() {
        let shared = Terms { objectives: 5, ..terms(Proof::Likely) };
        let finding = score(ratio(0.01), 405, 0, 0).judge(&shared);
        assert_eq!(finding.ruling, Ruling::Inconclusive);
        assert!(finding.enough > Some(405));
    }

    fn outage(longest: u64, apart_ms: u64, bad: std::ops::Range<u64>, proof: Proof) -> Finding {
        let promise = Promise::Outage { longest: Duration::from_secs(longest) };
        let mut score = Score::new(Objective { promise, name: "order outage".into(), probe: 0 });
        for n in 0..400 {
            let outcome = if bad.contains(&n) { Outcome::Bad } else { Outcome::Good };
            score.settled(&sample(Duration::from_millis(n * apart_ms), outcome));
        }
        score.judge(&terms(proof))
    }

    #[test]
    fn an_outage_is_judged_by_what_was_seen_and_by_what_could_have_hidden() {
        for (longest, apart, bad, proof, ruling) in [
            (10, 100, 0..0, Proof::Proven, Ruling::Passed),
            (10, 100, 100..150, Proof::Proven, Ruling::Passed),
            (10, 100, 100..250, Proof::Observed, Ruling::Failed),
            // Seen for 9.9 s, but it lasted somewhere between 9.8 and 10.1 s.
            (10, 100, 100..200, Proof::Observed, Ruling::Passed),
            (10, 100, 100..200, Proof::Likely, Ruling::Inconclusive),
            // One look a minute cannot see ten seconds, whether or not one was bad.
            (10, 60_000, 0..0, Proof::Observed, Ruling::Inconclusive),
            (10, 60_000, 7..8, Proof::Observed, Ruling::Inconclusive),
            (10, 60_000, 7..9, Proof::Observed, Ruling::Failed),
        ] {
            let finding = outage(longest, apart, bad.clone(), proof);
            assert_eq!(finding.ruling, ruling, "{longest} {apart} {bad:?} {proof}: {}", finding.why);
        }
        let nothing = Score::new(Objective {
            promise: Promise::Outage { longest: Duration::from_secs(1) },
            name: "order outage".into(),
            probe: 0,
        });
        assert_eq!(nothing.judge(&terms(Proof::Observed)).ruling, Ruling::Inconclusive);
    }

    proptest! {
        #[test]
        fn a_bad_look_more_never_turns_a_failure_into_a_pass(
            good in 0_u64..5_000, bad in 0_u64..300, p0 in 0.0005_f64..0.5,
            proof in prop::sample::select(vec![Proof::Observed, Proof::Likely, Proof::Proven])
        ) {
            let rank = |finding: Finding| match finding.ruling {
                Ruling::Passed => 2,
                Ruling::Inconclusive => 1,
                Ruling::Failed => 0,
            };
            let one = rank(score(ratio(p0), good + 1, bad, 0).judge(&terms(proof)));
            let worse = rank(score(ratio(p0), good, bad + 1, 0).judge(&terms(proof)));
            prop_assert!(worse <= one);
        }

        #[test]
        fn more_proof_asked_never_makes_a_pass(good in 0_u64..20_000, bad in 0_u64..50, p0 in 0.0005_f64..0.5) {
            let passed = |proof| score(ratio(p0), good, bad, 0).judge(&terms(proof)).ruling == Ruling::Passed;
            prop_assert!(passed(Proof::Observed) || !passed(Proof::Likely));
            prop_assert!(passed(Proof::Likely) || !passed(Proof::Proven));
        }
    }
}
