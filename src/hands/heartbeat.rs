//! The heartbeat of whoever decides: leases are renewed only while it beats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::since_boot;

/// Shared between the one who decides, who beats, and those who hold a harm, who look whether it still
/// does: a thread that lives on in a process whose judge hangs must not keep a harm alive.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        let heart = Self { last: Arc::new(AtomicU64::new(0)) };
        heart.beat();
        heart
    }
}

impl Heartbeat {
    /// Says that whoever decides lives.
    pub fn beat(&self) {
        self.last.store(since_boot().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long it has been silent.
    #[must_use]
    pub fn silence(&self) -> Duration {
        since_boot().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}
