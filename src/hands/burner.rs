//! Processor time, burnt: threads of ours that compute for a share of the time, and end with us.

use std::fs;
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Heartbeat;
use crate::base::clock::{since_boot, thread_time};
use crate::host::process::{Identity, Process};

/// Burning and resting alternate in it: short beside what schedulers and people call load.
const PERIOD: Duration = Duration::from_millis(10);
/// What a burner could not get is made up for, up to so much: else it would burn more than asked for long after
/// others have stopped competing.
const MOST_DEBT: Duration = Duration::from_millis(100);
/// When whoever decides is silent for so long, burners rest.
const SILENCE: Duration = Duration::from_millis(1500);

/// Threads that burn until this is dropped, or we die.
#[derive(Debug)]
pub struct Burners {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    stop: AtomicBool,
    /// What all have burnt, in nanoseconds.
    burnt: AtomicU64,
}

impl Burners {
    /// Starts so many threads, each computing for such a share (0 to 1) of the time. They bear `name`, at most 15
    /// bytes of it (pthread_setname_np(3)), so that [`is_there`] finds them.
    ///
    /// # Errors
    /// When no thread can be had; then none burns.
    pub fn start(count: usize, share: f64, name: &str, heartbeat: &Heartbeat) -> io::Result<Self> {
        let mut burners = Self { state: Arc::new(State::default()), threads: Vec::new() };
        for _ in 0..count {
            let (state, heartbeat) = (burners.state.clone(), heartbeat.clone());
            let thread = std::thread::Builder::new().name(name.to_owned());
            burners.threads.push(thread.spawn(move || burn(share, &state, &heartbeat))?);
        }
        Ok(burners)
    }

    /// The processor time they have used together.
    #[must_use]
    pub fn burnt(&self) -> Duration {
        Duration::from_nanos(self.state.burnt.load(Ordering::Relaxed))
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Keeps this thread's processor time at its share of the time gone by.
fn burn(share: f64, state: &State, heartbeat: &Heartbeat) {
    let (mut since, mut used_before) = (since_boot(), thread_time());
    let mut told = used_before;
    while !state.stop.load(Ordering::Relaxed) {
        let end = since_boot() + PERIOD;
        if heartbeat.silence() > SILENCE {
            std::thread::sleep(PERIOD);
            (since, used_before) = (since_boot(), thread_time());
            continue;
        }
        let due = end.saturating_sub(since).mul_f64(share);
        while since_boot() < end && thread_time().saturating_sub(used_before) < due {
            compute();
        }
        let used = thread_time();
        state.burnt.fetch_add(used.saturating_sub(told).as_nanos() as u64, Ordering::Relaxed);
        told = used;
        if due.saturating_sub(used.saturating_sub(used_before)) > MOST_DEBT {
            (since, used_before) = (end, used);
        }
        std::thread::sleep(end.saturating_sub(since_boot()));
    }
}

/// Some ten microseconds of integer arithmetic.
fn compute() {
    let mut x = black_box(1_u64);
    for _ in 0..4096 {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// Whether `holder` lives and has threads of this name.
#[must_use]
pub fn is_there(holder: &Identity, name: &str) -> bool {
    Process::open(holder).is_ok_and(|process| {
        process.threads().iter().any(|thread| {
            fs::read_to_string(format!("/proc/{}/task/{thread}/comm", holder.pid))
                .is_ok_and(|comm| comm.trim_end() == name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Identity {
        Process::of_pid(std::process::id() as i32).unwrap().identity().clone()
    }

    #[test]
    fn burners_use_their_share_of_the_time_and_no_more() {
        let heartbeat = Heartbeat::default();
        let begun = since_boot();
        let burners = Burners::start(2, 0.1, "burn-test-share", &heartbeat).unwrap();
        assert!(is_there(&us(), "burn-test-share"));
        // Their share of half a second, however long others keep them from it.
        while burners.burnt() < Duration::from_millis(100) {
            heartbeat.beat();
            std::thread::sleep(Duration::from_millis(5));
        }
        let (burnt, took) = (burners.burnt(), since_boot().saturating_sub(begun));
        assert!(took > Duration::from_millis(400), "{burnt:?} burnt in {took:?}");
        drop(burners);
        assert!(!is_there(&us(), "burn-test-share"));
    }

    #[test]
    fn burners_rest_while_nobody_decides() {
        let heartbeat = Heartbeat::default();
        let burners = Burners::start(1, 0.5, "burn-test-rest", &heartbeat).unwrap();
        while heartbeat.silence() < SILENCE + 20 * PERIOD {
            std::thread::sleep(PERIOD);
        }
        let rested = burners.burnt();
        std::thread::sleep(10 * PERIOD);
        assert_eq!(burners.burnt(), rested);
        heartbeat.beat();
        let begun = since_boot();
        while burners.burnt() == rested {
            heartbeat.beat();
            std::thread::sleep(PERIOD);
            assert!(since_boot() < begun + Duration::from_secs(30), "they did not go on");
        }
    }
}
