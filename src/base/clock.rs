//! The one clock. Nothing else in the project asks what time it is.
//!
//! Measuring uses monotonic time since the clock was started; wall time is for people only, and is
//! derived from one reading at the start, so that a jump of the host's clock cannot bend a run.
//! Under a paused tokio runtime the clock is virtual, which is how the engine is tested in
//! milliseconds.

use std::time::Duration;

use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Monotonic time since [`Clock::start`], and what it is called on the wall.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    epoch: tokio::time::Instant,
    wall: Timestamp,
}

impl Clock {
    /// Starts counting now.
    #[must_use]
    pub fn start() -> Self {
        Self { epoch: tokio::time::Instant::now(), wall: Timestamp::now() }
    }

    /// Monotonic time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The wall time at which this clock started.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.wall
    }

    /// What a moment of this clock is called on the wall.
    #[must_use]
    pub fn wall(&self, at: Duration) -> Timestamp {
        self.wall + at
    }

    /// Sleeps until a moment of this clock; at once when it has passed. Precise to tokio's timer
    /// (one millisecond): probes use the finer `probe::schedule`.
    pub async fn sleep_until(&self, at: Duration) {
        tokio::time::sleep_until(self.epoch + at).await;
    }

    /// The instant a moment of this clock stands for.
    #[must_use]
    pub fn instant(&self, at: Duration) -> tokio::time::Instant {
        self.epoch + at
    }

    /// The moment of this clock an instant stands for; zero when it lies before the start.
    #[must_use]
    pub fn at(&self, instant: tokio::time::Instant) -> Duration {
        instant.saturating_duration_since(self.epoch)
    }
}

/// Time since boot, suspended time included (`CLOCK_BOOTTIME`, clock_gettime(2)): the only clock two
/// processes share that neither an administrator nor a suspend can bend. Deadlines of undo records
/// are written in it.
#[must_use]
pub fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The processor time that this thread has used (`CLOCK_THREAD_CPUTIME_ID`, clock_gettime(2)).
#[must_use]
pub fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
