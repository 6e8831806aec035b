//! A timer finer than the runtime's millisecond.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// Sleeps to within the time a wake-up takes, some 50 us on an idle machine.
///
/// It is a timerfd (timerfd_create(2)): a high-resolution timer of the kernel that, unlike the timeout of
/// epoll_wait(2), is neither rounded to milliseconds nor subject to timer slack, and wakes the runtime's
/// own poller, so that there is no further thread and no spinning.
#[derive(Debug)]
pub struct Timer {
    /// `None`: the runtime's own timer.
    fine: Option<AsyncFd<Kernel>>,
}

impl Timer {
    /// A timer for the clock the runtime has now: while tokio's clock is paused (`tokio::time::pause`) it
    /// follows that clock, which the kernel knows nothing of. Without a descriptor to be had it is no
    /// finer than the runtime's. To be called inside a runtime.
    #[must_use]
    pub fn start() -> Self {
        let fine = (!runtime_clock_stands_still()).then(fine).and_then(Result::ok);
        Self { fine }
    }

    /// Sleeps until then; not at all when that has passed. May be dropped and called anew.
    pub async fn sleep_until(&mut self, then: Instant) {
        let Some(fine) = &self.fine else { return tokio::time::sleep_until(then).await };
        loop {
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A caller that is late all the time must not keep others from running.
                return tokio::task::consume_budget().await;
            }
            if sleep(fine, left).await.is_err() {
                return tokio::time::sleep_until(then).await;
            }
        }
    }
}

#[derive(Debug)]
struct Kernel(TimerFd);

impl AsRawFd for Kernel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn fine() -> io::Result<AsyncFd<Kernel>> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    // SAFETY: the descriptor is owned by the AsyncFd itself, so it is open for as long as it is watched.
    unsafe { AsyncFd::register(Kernel(timer)) }.map_err(Into::into)
}

async fn sleep(fine: &AsyncFd<Kernel>, length: Duration) -> io::Result<()> {
    let expiration = Expiration::OneShot(TimeSpec::from_duration(length));
    fine.get_ref().0.set(expiration, TimerSetTimeFlags::empty())?;
    loop {
        let mut ready = fine.readable().await?;
        if let Ok(fired) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
            return fired;
        }
    }
}

/// Tokio does not tell whether its clock is paused; a paused one stands while real time passes.
fn runtime_clock_stands_still() -> bool {
    let (virtual_before, real_before) = (Instant::now(), std::time::Instant::now());
    while real_before.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
    Instant::now() == virtual_before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_finer_than_a_millisecond_and_never_early() {
        let mut timer = Timer::start();
        assert!(timer.fine.is_some());
        let mut late: Vec<Duration> = Vec::new();
        for _ in 0..200 {
            let then = Instant::now() + Duration::from_micros(300);
            timer.sleep_until(then).await;
            assert!(Instant::now() >= then);
            late.push(then.elapsed());
        }
        late.sort_unstable();
        // The runtime's own timer could never be here: it rounds 300 us up to 1 ms. A busy machine may be late
        // often, but not always.
        assert!(late[20] < Duration::from_micros(600), "{:?}", late[20]);
    }

    #[tokio::test]
    async fn a_sleep_that_was_dropped_leaves_nothing_behind() {
        let mut timer = Timer::start();
        let short = Instant::now() + Duration::from_millis(1);
        tokio::select! {
            biased;
            () = timer.sleep_until(short) => panic!("1 ms is not over"),
            () = std::future::ready(()) => {}
        }
        std::thread::sleep(Duration::from_millis(3));
        let then = Instant::now() + Duration::from_millis(20);
        timer.sleep_until(then).await;
        assert!(Instant::now() >= then);
        timer.sleep_until(short).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_a_paused_clock() {
        let real = std::time::Instant::now();
        let then = Instant::now() + Duration::from_hours(1);
        Timer::start().sleep_until(then).await;
        assert!(Instant::now() >= then && real.elapsed() < Duration::from_mins(1));
    }
}
