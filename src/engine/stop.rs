//! Why a run stops before its plan has ended: the worst reason wins and keeps its words.

use crate::event::StopReason;

/// The reason so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// By whom or what.
    pub because: StopReason,
    /// In a sentence.
    pub why: String,
}

impl Stop {
    /// Takes a reason in; whether it is the worst yet.
    pub(super) fn worse(held: &mut Option<Self>, because: StopReason, why: impl Into<String>) -> bool {
        if held.as_ref().is_some_and(|held| held.because >= because) {
            return false;
        }
        *held = Some(Self { because, why: why.into() });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_reason_wins_whatever_the_order() {
        let mut held = None;
        assert!(Stop::worse(&mut held, StopReason::Deadline, "late"));
        assert!(Stop::worse(&mut held, StopReason::Guard, "bad"));
        assert!(!Stop::worse(&mut held, StopReason::Guard, "worse"));
        assert!(!Stop::worse(&mut held, StopReason::Deadline, "later"));
        assert_eq!(held.map(|stop| stop.why), Some("bad".to_owned()));
    }
}
