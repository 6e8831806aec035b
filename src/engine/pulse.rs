//! The heartbeat that tells the watchdog that whoever decides still lives.

use std::time::Duration;

/// How often it beats: several times within the silence the watchdog allows.
pub(super) const PULSE: Duration = Duration::from_millis(500);

/// Does work that may take long, beating meanwhile: slow is not hung. The work is never dropped half done.
pub(super) async fn while_beating<W: Future>(work: W, mut beat: impl FnMut()) -> W::Output {
    tokio::pin!(work);
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = pulse.tick() => beat(),
        }
    }
}
