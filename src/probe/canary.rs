//! Whether it was us: our own side looked at by itself, so that its trouble is not taken for the system's.
//!
//! A byte goes back and forth between two tasks on the runtime on which the looks run, over a pair of unix sockets, twenty
//! times a second, on a grid of its own. What keeps a look from being made or heard in time keeps this byte
//! too: starved workers, a stopped process, a machine that stands still. What is done to the network does not: a unix
//! socket meets no packet filter, queue or interface (unix(7)), so a fault on the loopback interface of this very host is
//! never taken for our own trouble. A fault that starves this host (`cpu`, `memory`) may stall us as well; while it does,
//! we cannot tell what the system would have done, and say so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use super::schedule::STALLED;
use crate::base::Clock;
use crate::host::cpu::Idleness;
use crate::slo::Sample;

/// Between two pings. One costs two wake-ups.
const PERIOD: Duration = Duration::from_millis(50);
/// Between two readings of what the hypervisor took.
const READING: Duration = Duration::from_millis(500);
/// The hypervisor may take this share of our processors' time (`steal` in proc_stat(5)) before a look is doubted:
/// what runs takes twice as long then.
const STOLEN: f64 = 0.5;
/// Stalls and readings that are kept: those of a minute of readings, as long as looks may last.
const KEPT: usize = 128;

/// Tells whether our own side was in trouble. Clones share one; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Canary {
    seen: Arc<Seen>,
}

/// What was seen of ourselves.
#[derive(Debug)]
struct Seen {
    /// When the ping that has not come back yet is or was due, in nanoseconds of the run's clock.
    due: AtomicU64,
    /// From when to when nothing came back.
    stalls: Mutex<VecDeque<(Duration, Duration)>>,
    /// What processors did, and when that was read.
    readings: Mutex<VecDeque<(Duration, Idleness)>>,
}

/// Nothing is due: there is no ping to wait for.
const NEVER: u64 = u64::MAX;

impl Canary {
    /// Lets one go on these workers. Without a descriptor to be had it sees nothing but how late looks begin.
    #[must_use]
    pub fn start(clock: Clock, workers: &Handle) -> Self {
        let seen = Arc::new(Seen::new());
        let _within = workers.enter();
        if let Ok((ours, mut other)) = UnixStream::pair() {
            workers.spawn(ping(ours, clock, Arc::downgrade(&seen)));
            workers.spawn(async move {
                let mut byte = [0];
                while other.read_exact(&mut byte).await.is_ok() && other.write_all(&byte).await.is_ok() {}
            });
        }
        Self { seen }
    }

    /// What our own side suffered while a look was made, if anything: then what speaks against the system
    /// may be our doing.
    #[must_use]
    pub fn trouble(&self, sample: &Sample) -> Option<&'static str> {
        if sample.slip() > STALLED {
            return Some("our own side began it late, by over 250 ms");
        }
        self.stalled(sample.intended, sample.ended)
    }

    /// What our own side suffered between two moments, the second of which has just passed.
    #[must_use]
    pub fn stalled(&self, from: Duration, to: Duration) -> Option<&'static str> {
        let due = self.seen.due.load(Ordering::Acquire);
        // What has not come back yet counts from when it was due: a look may be heard before the ping is.
        let waits = due != NEVER && to.saturating_sub(Duration::from_nanos(due)) > STALLED;
        if waits || locked(&self.seen.stalls).iter().any(|(began, ended)| *began <= to && *ended >= from) {
            return Some("our own side stalled for over 250 ms");
        }
        let readings = locked(&self.seen.readings);
        let (before, after) = around(&readings, from, to)?;
        (after.stolen_since(before)? > STOLEN)
            .then_some("the hypervisor took over half of our processors' time")
    }
}

impl Seen {
    fn new() -> Self {
        Self { due: AtomicU64::new(NEVER), stalls: Mutex::default(), readings: Mutex::default() }
    }

    fn is_due(&self, at: Duration) {
        self.due.store(u64::try_from(at.as_nanos()).unwrap_or(NEVER), Ordering::Release);
    }

    fn came_back(&self, due: Duration, at: Duration) {
        if at.saturating_sub(due) > STALLED {
            keep(&mut locked(&self.stalls), (due, at));
        }
    }
}

/// The readings that enclose a stretch most closely; where it is younger than the last one, the last two.
fn around(
    readings: &VecDeque<(Duration, Idleness)>,
    from: Duration,
    to: Duration,
) -> Option<(&Idleness, &Idleness)> {
    let after = readings.partition_point(|(at, _)| *at < to).min(readings.len().checked_sub(1)?);
    let before = readings.partition_point(|(at, _)| *at <= from).saturating_sub(1).min(after.checked_sub(1)?);
    Some((&readings[before].1, &readings[after].1))
}

async fn ping(mut socket: UnixStream, clock: Clock, seen: Weak<Seen>) {
    let (mut due, mut read) = (clock.now(), Duration::ZERO);
    loop {
        match seen.upgrade() {
            Some(seen) => seen.is_due(due),
            None => return,
        }
        clock.sleep_until(due).await;
        let mut byte = [0];
        let came_back = socket.write_all(&byte).await.is_ok() && socket.read_exact(&mut byte).await.is_ok();
        let Some(seen) = seen.upgrade().filter(|_| came_back) else { return };
        let now = clock.now();
        // First the stall, then the next ping: whoever asks between the two must see one of them.
        seen.came_back(due, now);
        due = (due + PERIOD).max(now);
        seen.is_due(due);
        if now >= read + READING {
            read = now;
            if let Ok(reading) = Idleness::now() {
                keep(&mut locked(&seen.readings), (now, reading));
            }
        }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slo::Outcome;

    const MS: Duration = Duration::from_millis(1);

    fn canary(due: Option<Duration>, stalls: &[(Duration, Duration)]) -> Canary {
        let seen = Seen::new();
        for (due, at) in stalls {
            seen.came_back(*due, *at);
        }
        if let Some(due) = due {
            seen.is_due(due);
        }
        Canary { seen: Arc::new(seen) }
    }

    #[test]
    fn only_what_overlaps_a_stall_beyond_the_bound_is_doubted() {
        let canary = canary(Some(2_000 * MS), &[(500 * MS, 740 * MS), (1_000 * MS, 1_300 * MS)]);
        for (from, to, doubted) in [
            (400, 999, false),
            (999, 1_000, true),
            (1_100, 1_200, true),
            (1_300, 1_400, true),
            (1_301, 1_400, false),
            (1_990, 2_250, false),
            (1_990, 2_251, true),
        ] {
            assert_eq!(canary.stalled(from * MS, to * MS).is_some(), doubted, "{from} to {to}");
        }
    }

    #[test]
    fn a_look_that_began_late_is_doubted_also_where_there_is_no_canary() {
        let canary = canary(None, &[]);
        let sample = |slip| Sample {
            intended: MS,
            started: MS + slip,
            ended: MS + slip,
            outcome: Outcome::Bad,
            why: None,
        };
        assert_eq!(canary.trouble(&sample(STALLED)), None);
        assert_eq!(canary.trouble(&sample(STALLED + MS)), Some("our own side began it late, by over 250 ms"));
    }

    #[test]
    fn time_that_the_hypervisor_took_is_counted_around_the_look() {
        let canary = canary(None, &[]);
        for (at, all, stolen) in [(0, 0, 0), (500, 100, 10), (1_000, 200, 90), (1_500, 300, 90)] {
            locked(&canary.seen.readings).push_back((at * MS, Idleness::of(all, 0, stolen)));
        }
        for (from, to, doubted) in [
            (0, 400, false),
            (600, 900, true),
            (1_100, 1_400, false),
            (600, 1_400, false),
            (1_600, 1_700, false),
        ] {
            assert_eq!(canary.stalled(from * MS, to * MS).is_some(), doubted, "{from} to {to}");
        }
    }

    #[test]
    fn workers_that_stand_still_are_seen_and_those_that_run_are_not_doubted() {
        let workers =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock = Clock::start();
        let canary = Canary::start(clock, workers.handle());
        let stalled = workers.block_on(workers.spawn(async move {
            // The first ping is back when the next one is due later than now.
            clock.sleep_until(clock.now() + 2 * PERIOD).await;
            let from = clock.now();
            // What a look that never yields, or a machine that stands still, does to all others.
            std::thread::sleep(STALLED + 2 * PERIOD);
            (from, clock.now())
        }));
        let (from, to) = stalled.unwrap();
        // Heard at once, though the ping is not back yet.
        assert!(canary.stalled(from, to).is_some());
        // And afterwards, when it is.
        let deadline = std::time::Instant::now() + 60 * STALLED;
        while locked(&canary.seen.stalls).is_empty() {
            assert!(std::time::Instant::now() < deadline, "the stall was never kept");
            std::thread::yield_now();
        }
        assert!(canary.stalled(from, to).is_some());
    }
}
