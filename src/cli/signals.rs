//! Signals that ask a run to stop.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::event::StopReason;

/// A watch that turns whenever we are asked to stop. SIGHUP counts: the terminal is gone, the harm must be
/// too; and so does Ctrl-Z, since a stopped runner could not end what it holds. To be called inside a
/// runtime.
pub(super) fn asked_to_stop() -> watch::Receiver<Option<StopReason>> {
    let (turn, stop) = watch::channel(None);
    for (kind, reason) in [
        (SignalKind::interrupt(), StopReason::Interrupt),
        (SignalKind::hangup(), StopReason::Interrupt),
        (SignalKind::quit(), StopReason::Interrupt),
        (SignalKind::from_raw(libc::SIGTSTP), StopReason::Interrupt),
        (SignalKind::terminate(), StopReason::Terminate),
    ] {
        if let Ok(mut signals) = signal(kind) {
            let turn = turn.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    turn.send_replace(Some(reason));
                }
            });
        }
    }
    stop
}
