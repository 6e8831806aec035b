//! The judgement on a whole run, and the exit code: pure.

use serde::{Deserialize, Serialize};

use super::stop::Stop;
use crate::event::{StopReason, Verdict};

/// Worse than any number.
pub(super) const SEVERE: f64 = f64::INFINITY;

/// One thing found, with its sentence.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    /// How many times what is allowed; the worst is told first.
    pub(super) severity: f64,
    /// In a sentence.
    pub(super) why: String,
}

/// What the judgement is made of, each with its sentence.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Faults that are not undone.
    pub(super) not_undone: Vec<String>,
    /// What we did wrong ourselves.
    pub(super) bug: Option<String>,
    /// Why the run stopped early, if it did.
    pub(super) stop: Option<Stop>,
    /// Why nothing was injected, when the system was unhealthy before.
    pub(super) unhealthy: Option<String>,
    /// Our own side could not look as planned.
    pub(super) starved: Option<String>,
    /// Promises broken, expectations missed, checks failed, no recovery.
    pub(super) failed: Vec<Finding>,
    /// What could not be concluded: faults that did not take hold, too few looks.
    pub(super) open: Vec<String>,
    /// Promises that were kept.
    pub(super) held: Vec<Finding>,
    /// Expectations that were met, and checks that were good.
    pub(super) met: usize,
}

/// The judgement, its reason in a sentence, and the process's exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The judgement.
    pub verdict: Verdict,
    /// The reason, with numbers.
    pub why: String,
    /// The exit code.
    pub exit: u8,
}

/// Sentences of each sort that a verdict holds; the rest is counted, and told one by one elsewhere.
const TOLD: usize = 2;

/// Where several apply: not undone, a bug, stopped by a person, aborted, unhealthy, starved, failed, inconclusive, passed.
pub(super) fn judge(findings: &Findings) -> Judgement {
    let judgement = |verdict, exit, why: String| Judgement { verdict, why, exit };
    if !findings.not_undone.is_empty() {
        let all = findings.not_undone.join("; ");
        return judgement(Verdict::NotUndone, 5, format!("NOT UNDONE: {all}"));
    }
    if let Some(why) = &findings.bug {
        return judgement(Verdict::Inconclusive, 70, why.clone());
    }
    match &findings.stop {
        Some(Stop { because: StopReason::Terminate, why }) => {
            return judgement(Verdict::Interrupted, 143, why.clone());
        }
        Some(Stop { because: StopReason::Interrupt, why }) => {
            return judgement(Verdict::Interrupted, 130, why.clone());
        }
        Some(Stop { because: StopReason::Guard, why }) => {
            return judgement(Verdict::Aborted, 3, why.clone());
        }
        _ => {}
    }
    if let Some(why) = &findings.unhealthy {
        return judgement(Verdict::Refused, 6, why.clone());
    }
    if let Some(why) = &findings.starved {
        return judgement(Verdict::Inconclusive, 4, why.clone());
    }
    let stopped = findings.stop.iter().map(|stop| stop.why.clone());
    if !findings.failed.is_empty() {
        let worst = sorted(&findings.failed).into_iter().map(|finding| finding.why);
        return judgement(Verdict::Failed, 1, first(worst.chain(stopped).collect()));
    }
    let open: Vec<String> = stopped.chain(findings.open.iter().cloned()).collect();
    if !open.is_empty() {
        return judgement(Verdict::Inconclusive, 4, first(open));
    }
    judgement(Verdict::Passed, 0, passed(findings))
}

/// The worst first.
fn sorted(findings: &[Finding]) -> Vec<Finding> {
    let mut sorted = findings.to_vec();
    sorted.sort_by(|a, b| b.severity.total_cmp(&a.severity));
    sorted
}

/// The first sentences, and how many there are more.
fn first(mut sentences: Vec<String>) -> String {
    let more = sentences.len().saturating_sub(TOLD);
    sentences.truncate(TOLD);
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    sentences.join("; ")
}

/// How close it was, and what else went well.
fn passed(findings: &Findings) -> String {
    let mut parts = Vec::new();
    if let Some(closest) = sorted(&findings.held).into_iter().next() {
        parts.push(match findings.held.len() {
            1 => format!("kept: {}", closest.why),
            kept => format!("all {kept} promises kept, the closest: {}", closest.why),
        });
    }
    match findings.met {
        0 => {}
        1 => parts.push("the expectation was met".to_owned()),
        met => parts.push(format!("all {met} expectations were met")),
    }
    if parts.is_empty() {
        "nothing was promised, and everything is undone".to_owned()
    } else {
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(severity: f64, why: &str) -> Vec<Finding> {
        vec![Finding { severity, why: why.to_owned() }]
    }

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let stopped = |because| Some(Stop { because, why: "stopped".to_owned() });
        let one = || vec!["x".to_owned()];
        // Each row adds something worse to all rows before it.
        let mut findings = Findings { held: found(0.5, "x"), ..Findings::default() };
        assert_eq!(judge(&findings).exit, 0);
        findings.open = one();
        assert_eq!(judge(&findings).exit, 4);
        for because in [StopReason::Deadline, StopReason::Trouble] {
            findings.stop = stopped(because);
            assert_eq!((judge(&findings).exit, judge(&findings).why.as_str()), (4, "stopped; x"));
        }
        findings.failed = found(2.0, "broken");
        assert_eq!((judge(&findings).exit, judge(&findings).verdict), (1, Verdict::Failed));
        assert_eq!(judge(&findings).why, "broken; stopped");
        findings.starved = Some("starved".to_owned());
        assert_eq!(judge(&findings).exit, 4);
        findings.unhealthy = Some("ill".to_owned());
        assert_eq!(judge(&findings).exit, 6);
        for (because, exit) in
            [(StopReason::Guard, 3), (StopReason::Interrupt, 130), (StopReason::Terminate, 143)]
        {
            findings.stop = stopped(because);
            assert_eq!(judge(&findings).exit, exit);
        }
        findings.bug = Some("a bug".to_owned());
        assert_eq!(judge(&findings).exit, 70);
        findings.not_undone = one();
        assert_eq!((judge(&findings).exit, judge(&findings).verdict), (5, Verdict::NotUndone));
    }

    #[test]
    fn a_verdict_is_one_short_sentence() {
        let why = |findings: &Findings| judge(findings).why;
        assert_eq!(why(&Findings::default()), "nothing was promised, and everything is undone");
        let one = Findings { held: found(0.2, "order: 2 of 1000 looks bad"), ..Findings::default() };
        assert_eq!(why(&one), "kept: order: 2 of 1000 looks bad");
        let mut held = found(0.2, "a");
        held.extend(found(0.9, "b"));
        held.extend(found(0.1, "c"));
        let several = Findings { held, met: 2, ..Findings::default() };
        assert_eq!(why(&several), "all 3 promises kept, the closest: b; all 2 expectations were met");
        let mut failed = found(1.5, "a little");
        failed.extend(found(7.0, "much"));
        failed.extend(found(SEVERE, "no recovery"));
        failed.extend(found(2.0, "more"));
        let worst_first = Findings { failed, ..Findings::default() };
        assert_eq!(why(&worst_first), "no recovery; much; and 2 more");
    }
}
