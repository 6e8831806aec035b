//! When to look: the open model.
//!
//! Each look has an intended moment on a fixed grid that no answer moves, and its latency counts from
//! there. A system that stalls for a second is therefore seen to stall by all the looks of that second,
//! not by the one that happened to wait (Tene's "coordinated omission").
//!
//! One task a probe sleeps from moment to moment on a [`Timer`], which is finer than the runtime's, and
//! spawns each look as a task of its own, so that looks run on all cores and a slow one delays no other.
//! The task itself waits for nothing else: neither for a look nor, as long as it starts looks, for whoever
//! reads the news. When our own side is starved, looks are started late and their slip says so; those too
//! late to be judged fairly are missed, which is evidence about us and never about the system.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc::Sender;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout_at;

use super::{Phases, Prober};
use crate::base::{Clock, Dice, Rate, unit};
use crate::host::timer::Timer;
use crate::slo::{Outcome, Sample};

/// So much later than its deadline may a look settle before we must have been starved: then the deadline
/// itself came late, and the answer may have been there all the time.
const STALLED: Duration = Duration::from_millis(250);

/// How often a probe looks, and what limits it.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// How often.
    pub rate: Rate,
    /// A look is bad when it has not settled so long after its intended moment.
    pub timeout: Duration,
    /// So many looks may be under way; one beyond it is missed.
    pub in_flight: u32,
    /// From the beginning of the watch to the first intended moment.
    pub offset: Duration,
}

/// What a watch tells.
#[derive(Debug, Clone)]
pub enum News {
    /// A look was begun. It is settled by exactly one [`News::Settled`] of the same `intended`.
    Begun {
        /// The probe's place in the experiment.
        probe: usize,
        /// When it was to start.
        intended: Duration,
    },
    /// A look has come out. One that could not be begun in time is missed, and comes without a `Begun`.
    Settled(Look),
}

/// One look, as it came out.
#[derive(Debug, Clone)]
pub struct Look {
    /// The probe's place in the experiment.
    pub probe: usize,
    /// When, how late, and how it came out.
    pub sample: Sample,
    /// The parts it had.
    pub phases: Phases,
}

impl Schedule {
    /// A schedule whose first look is drawn from the seed, within one interval and at most a second, so
    /// that probes of equal rate do not all look at the same instant.
    #[must_use]
    pub fn staggered(rate: Rate, timeout: Duration, in_flight: u32, dice: &Dice, probe: &str) -> Self {
        let widest = rate.interval().min(Duration::from_secs(1));
        let share: f64 = dice.stream(&format!("probe.{probe}.offset")).random();
        Self { rate, timeout, in_flight, offset: widest.mul_f64(share) }
    }

    /// The intended moment of the nth look, from the beginning of the watch. Counted from there anew each
    /// time, so that no rounding adds up.
    #[must_use]
    pub fn intended(&self, nth: u64) -> Duration {
        self.offset + Duration::from_secs_f64(nth as f64 / self.rate.hertz())
    }
}

/// Looks on a schedule until told to stop, then lets the looks under way settle (their timeout bounds
/// that) and returns. It also ends when nobody receives any more. Dropping it drops its looks.
///
/// Whoever receives must go on receiving until it has returned: while the queue is full, looks are begun
/// late, and in the end missed.
///
/// Under a paused tokio clock (`tokio::time::pause` before this begins) the schedule follows that clock.
///
/// # Panics
/// When a prober panics: that is a bug of ours, and must not pass for a look.
pub async fn watch<P: Prober + 'static>(
    probe: usize,
    prober: Arc<P>,
    schedule: Schedule,
    clock: Clock,
    news: Sender<News>,
    stop: impl Future<Output = ()>,
) {
    let Schedule { timeout, in_flight, .. } = schedule;
    let begun = clock.now();
    let mut timer = Timer::start();
    let mut looks = JoinSet::new();
    let closed = news.closed();
    tokio::pin!(stop, closed);
    for nth in 0.. {
        let intended = begun + schedule.intended(nth);
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = &mut closed => break,
            () = timer.sleep_until(clock.instant(intended)) => {}
        }
        while let Some(ended) = looks.try_join_next() {
            pass_on_panic(ended);
        }
        let under_way = looks.len();
        if clock.now() < intended + timeout && under_way < in_flight as usize {
            let (prober, news) = (prober.clone(), news.clone());
            looks.spawn(async move {
                if news.send(News::Begun { probe, intended }).await.is_ok() {
                    let look = settle(probe, &*prober, &clock, intended, timeout).await;
                    let _ = news.send(News::Settled(look)).await;
                }
            });
        } else {
            let why = if under_way < in_flight as usize {
                late(timeout)
            } else {
                format!("{in_flight} looks were under way already").into()
            };
            let now = clock.now();
            let sample =
                Sample { intended, started: now, ended: now, outcome: Outcome::Missed, why: Some(why) };
            let _ = news.send(News::Settled(Look { probe, sample, phases: Phases::default() })).await;
        }
    }
    while let Some(ended) = looks.join_next().await {
        pass_on_panic(ended);
    }
}

/// One look, now.
pub async fn look_once<P: Prober>(probe: usize, prober: &P, clock: &Clock, timeout: Duration) -> Look {
    settle(probe, prober, clock, clock.now(), timeout).await
}

/// One look from its start to its end or its deadline.
async fn settle<P: Prober>(
    probe: usize,
    prober: &P,
    clock: &Clock,
    intended: Duration,
    timeout: Duration,
) -> Look {
    let started = clock.now();
    let deadline = intended + timeout;
    let told = |ended, outcome, why: Option<Arc<str>>, phases| Look {
        probe,
        sample: Sample { intended, started, ended, outcome, why },
        phases,
    };
    if started >= deadline {
        return told(started, Outcome::Missed, Some(late(timeout)), Phases::default());
    }
    let seen = timeout_at(clock.instant(deadline), prober.look()).await;
    let ended = clock.now();
    let phases = match &seen {
        Ok(Ok(seen)) => seen.phases,
        Ok(Err(miss)) => miss.phases,
        Err(_) => Phases::default(),
    };
    let (outcome, why) = match seen {
        _ if ended >= deadline + STALLED => (Outcome::Missed, Some("our own side stalled".into())),
        Ok(Err(miss)) if miss.ours => (Outcome::Missed, Some(miss.why.into())),
        Ok(Err(miss)) => (Outcome::Bad, Some(miss.why.into())),
        Ok(Ok(_)) if ended < deadline => (Outcome::Good, None),
        Ok(Ok(_)) | Err(_) => (Outcome::Bad, Some(format!("no answer within {}", unit::say(timeout)).into())),
    };
    told(ended, outcome, why, phases)
}

fn late(timeout: Duration) -> Arc<str> {
    format!("our own side was later than {}", unit::say(timeout)).into()
}

fn pass_on_panic(ended: Result<(), JoinError>) {
    if let Err(why) = ended
        && why.is_panic()
    {
        std::panic::resume_unwind(why.into_panic());
    }
}
