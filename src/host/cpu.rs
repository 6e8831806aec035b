//! The host's processors: how many are ours to use, and how idle they are.

use std::fs;
use std::io;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// How many processors this process may run on (sched_getaffinity(2)); at least one.
#[must_use]
pub fn processors() -> usize {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::count()).filter(|n| set.is_set(*n).unwrap_or(false)).count().max(1)
}

/// How much time all processors have had since boot, and how much of it they were idle, in clock ticks
/// (proc_stat(5)). Two readings tell how idle they were between.
#[derive(Debug, Clone, Copy)]
pub struct Idleness {
    all: u64,
    idle: u64,
    stolen: u64,
}

impl Idleness {
    /// Reads it now.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guests are in user already.
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|n| n.parse().ok()).collect();
        let idle = ticks.iter().skip(3).take(2).sum();
        Ok(Self { all: ticks.iter().sum(), idle, stolen: ticks.get(7).copied().unwrap_or(0) })
    }

    /// The share of the time since an earlier reading in which processors were idle; `None` when no tick passed.
    #[must_use]
    pub fn share_since(&self, earlier: &Self) -> Option<f64> {
        self.share(earlier, self.idle.saturating_sub(earlier.idle))
    }

    /// The share of that time in which a hypervisor had others run where we could have; `None` when no tick passed.
    #[must_use]
    pub fn stolen_since(&self, earlier: &Self) -> Option<f64> {
        self.share(earlier, self.stolen.saturating_sub(earlier.stolen))
    }

    fn share(&self, earlier: &Self, part: u64) -> Option<f64> {
        let all = self.all.saturating_sub(earlier.all);
        (all > 0).then(|| part as f64 / all as f64)
    }

    /// A reading of these ticks.
    #[cfg(test)]
    pub(crate) fn of(all: u64, idle: u64, stolen: u64) -> Self {
        Self { all, idle, stolen }
    }
}

/// How many tasks ran or waited for a processor or a disk, on average over the last minute (proc_loadavg(5)).
///
/// # Errors
/// When /proc is not mounted.
pub fn load() -> io::Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let load = text.split_whitespace().next().and_then(|word| word.parse().ok());
    load.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/loadavg tells no load"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idleness_is_a_share_of_the_time_between_two_readings() {
        let (earlier, later) = (Idleness::of(100, 10, 0), Idleness::of(300, 60, 50));
        assert_eq!((later.share_since(&earlier), later.stolen_since(&earlier)), (Some(0.25), Some(0.25)));
        assert_eq!(later.share_since(&later), None);
        let now = Idleness::now().unwrap();
        assert!(now.all > 0 && now.idle <= now.all && processors() >= 1);
        assert!(load().unwrap() >= 0.0);
    }
}
