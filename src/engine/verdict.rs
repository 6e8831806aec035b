//! The judgement on a whole run, and the exit code: pure.

use serde::{Deserialize, Serialize};

use super::stop::Stop;
use crate::event::{StopReason, Verdict};

/// What the judgement is made of, each with its sentence.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Faults that are not undone.
    pub(super) not_undone: Vec<String>,
    /// Why the run stopped early, if it did.
    pub(super) stop: Option<Stop>,
    /// Why nothing was injected, when the system was unhealthy before.
    pub(super) unhealthy: Option<String>,
    /// Our own side could not look as planned.
    pub(super) starved: Option<String>,
    /// Promises broken, expectations missed, checks failed, no recovery.
    pub(super) failed: Vec<String>,
    /// What could not be concluded: faults that did not take hold, too few looks.
    pub(super) open: Vec<String>,
    /// What held.
    pub(super) held: Vec<String>,
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

/// Where several apply: not undone, stopped by a person, aborted, starved, failed, inconclusive, passed.
pub(super) fn judge(findings: &Findings) -> Judgement {
    let judgement = |verdict, exit, why: String| Judgement { verdict, why, exit };
    let all = |sentences: &[String]| sentences.join("; ");
    if !findings.not_undone.is_empty() {
        return judgement(Verdict::NotUndone, 5, format!("NOT UNDONE: {}", all(&findings.not_undone)));
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
    if !findings.failed.is_empty() {
        return judgement(Verdict::Failed, 1, all(&findings.failed));
    }
    let mut open = findings.open.clone();
    if let Some(stop) = &findings.stop {
        open.insert(0, stop.why.clone());
    }
    if !open.is_empty() {
        return judgement(Verdict::Inconclusive, 4, all(&open));
    }
    let why = if findings.held.is_empty() {
        "nothing was promised, and everything is undone".to_owned()
    } else {
        all(&findings.held)
    };
    judgement(Verdict::Passed, 0, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides_the_exit_code() {
        let stopped = |because| Some(Stop { because, why: "stopped".to_owned() });
        let one = || vec!["x".to_owned()];
        // Each row adds something worse to all rows before it.
        let mut findings = Findings { held: one(), ..Findings::default() };
        assert_eq!(judge(&findings).exit, 0);
        findings.open = one();
        assert_eq!(judge(&findings).exit, 4);
        findings.stop = stopped(StopReason::Deadline);
        assert_eq!(judge(&findings).why, "stopped; x");
        findings.failed = one();
        assert_eq!((judge(&findings).exit, judge(&findings).verdict), (1, Verdict::Failed));
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
        findings.not_undone = one();
        assert_eq!((judge(&findings).exit, judge(&findings).verdict), (5, Verdict::NotUndone));
    }
}
