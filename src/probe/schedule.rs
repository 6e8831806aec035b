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

use super::{Fact, Phases, Prober, Step, Trace};
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
#[allow(clippy::large_enum_variant, reason = "of two news one is a look, and both are gone at once")]
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
    /// What it met on the way, for whoever asked.
    pub facts: Vec<Fact>,
    /// The steps it had, of a scenario.
    pub steps: Box<[Step]>,
}

impl Look {
    /// One with neither parts nor steps.
    #[must_use]
    pub fn bare(probe: usize, sample: Sample) -> Self {
        Self { probe, sample, phases: Phases::default(), facts: Vec::new(), steps: Box::default() }
    }
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
            let _ = news.send(News::Settled(Look::bare(probe, sample))).await;
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
    let told = |ended, outcome, why: Option<Arc<str>>, trace: Trace| Look {
        probe,
        sample: Sample { intended, started, ended, outcome, why },
        phases: trace.phases,
        facts: trace.facts,
        steps: trace.steps.into(),
    };
    if started >= deadline {
        return told(started, Outcome::Missed, Some(late(timeout)), Trace::default());
    }
    let mut trace = Trace::new(prober.keeps_facts());
    let seen = timeout_at(clock.instant(deadline), prober.look(&mut trace)).await;
    let ended = clock.now();
    let (outcome, why) = match seen {
        _ if ended >= deadline + STALLED => (Outcome::Missed, Some("our own side stalled".into())),
        Ok(Err(miss)) if miss.ours => (Outcome::Missed, Some(miss.why.into())),
        Ok(Err(miss)) => (Outcome::Bad, Some(miss.why.into())),
        Ok(Ok(())) if ended < deadline => (Outcome::Good, None),
        Ok(Ok(())) | Err(_) => (Outcome::Bad, Some(trace.unanswered(&unit::say(timeout)).into())),
    };
    told(ended, outcome, why, trace)
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

#[cfg(test)]
mod tests {
    use std::future::{Future, pending};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc::{Receiver, channel};
    use tokio::time::sleep;

    use super::*;
    use crate::probe::Miss;

    /// A prober that does what a test says.
    struct Acted<F>(F);

    impl<F, R> Prober for Acted<F>
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = Result<(), Miss>> + Send,
    {
        async fn look(&self, _: &mut Trace) -> Result<(), Miss> {
            (self.0)().await
        }
    }

    fn schedule(rate: f64, timeout: Duration, in_flight: u32) -> Schedule {
        Schedule { rate: Rate::per_second(rate).unwrap(), timeout, in_flight, offset: Duration::ZERO }
    }

    async fn drained(mut news: Receiver<News>) -> (Vec<Duration>, Vec<Look>) {
        let (mut begun, mut settled) = (Vec::new(), Vec::new());
        while let Some(news) = news.recv().await {
            match news {
                News::Begun { intended, .. } => begun.push(intended),
                News::Settled(look) => settled.push(look),
            }
        }
        settled.sort_by_key(|look| look.sample.intended);
        (begun, settled)
    }

    async fn watched<P: Prober + 'static>(
        prober: P,
        schedule: Schedule,
        clock: Clock,
        length: Duration,
    ) -> (Vec<Duration>, Vec<Look>) {
        let (news, heard) = channel(16);
        let watching =
            tokio::spawn(watch(7, Arc::new(prober), schedule, clock, news, reached(clock, length)));
        let drained = drained(heard).await;
        watching.await.unwrap();
        drained
    }

    async fn reached(clock: Clock, at: Duration) {
        clock.sleep_until(at).await;
    }

    const S: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn apart(one: Duration, other: Duration) -> Duration {
        one.max(other).saturating_sub(one.min(other))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_seen_by_all_the_looks_it_delayed() {
        let clock = Clock::start();
        let (stall, until) = (S, 2 * S);
        let prober = Acted(move || async move {
            if clock.now() >= stall {
                clock.sleep_until(until).await;
            }
            Ok(())
        });
        let (begun, looks) = watched(prober, schedule(200.0, 3 * S, 1000), clock, 3 * S).await;
        assert_eq!(looks.len(), begun.len());
        assert!((599..=600).contains(&looks.len()), "{}", looks.len());
        for look in &looks {
            let sample = &look.sample;
            let analytic =
                if sample.intended >= stall { until.saturating_sub(sample.intended) } else { Duration::ZERO };
            assert_eq!((look.probe, sample.outcome), (7, Outcome::Good));
            assert!(apart(sample.latency(), analytic) <= 2 * MS, "{sample:?}, expected {analytic:?}");
            assert!(sample.slip() <= MS, "{sample:?}");
        }
        // A closed loop would have seen one slow look of these two hundred.
        let slow = looks.iter().filter(|look| look.sample.latency() > S / 10).count();
        assert!((178..=181).contains(&slow), "{slow}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_beyond_the_limit_is_missed_and_one_without_an_answer_is_bad() {
        let clock = Clock::start();
        let (begun, looks) = watched(Acted(pending), schedule(100.0, S, 10), clock, 495 * MS).await;
        assert_eq!((begun.len(), looks.len()), (10, 50));
        for (nth, look) in looks.iter().enumerate() {
            let sample = &look.sample;
            let (outcome, why) = if nth < 10 {
                (Outcome::Bad, "no answer within 1 s")
            } else {
                (Outcome::Missed, "10 looks were under way already")
            };
            assert_eq!((sample.outcome, sample.why.as_deref()), (outcome, Some(why)), "{nth}");
            assert!(nth >= 10 || apart(sample.latency(), S) <= 2 * MS);
        }
        assert!(
            apart(clock.now(), S + 90 * MS) < 5 * MS,
            "what was under way was waited for: {:?}",
            clock.now()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_we_are_starved_looks_are_late_or_missed_and_their_figures_say_so() {
        let clock = Clock::start();
        let prober = Acted(|| async { Ok(()) });
        let (news, heard) = channel(1000);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let watching =
            tokio::spawn(watch(0, Arc::new(prober), schedule(10.0, S, 1000), clock, news, async {
                let _ = stopped.await;
            }));
        tokio::task::yield_now().await;
        // Time goes on and nobody runs: what a stopped process sees.
        tokio::time::advance(5 * S).await;
        sleep(S / 20).await;
        stop.send(()).unwrap();
        watching.await.unwrap();
        let (_, looks) = drained(heard).await;
        assert_eq!(looks.len(), 51);
        for look in looks.iter().skip(1) {
            let sample = &look.sample;
            let lost = (5 * S).saturating_sub(sample.intended);
            assert!(apart(sample.slip(), lost) <= 3 * MS, "{sample:?}");
            let missed = sample.outcome == Outcome::Missed;
            assert_eq!(missed, lost >= S, "{sample:?}");
            assert!(!missed || sample.why.as_deref() == Some("our own side was later than 1 s"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_counts_from_the_intended_moment_however_late_the_look_began() {
        let clock = Clock::start();
        let (news, heard) = channel(1000);
        let watching = tokio::spawn(watch(
            0,
            Arc::new(Acted(pending)),
            schedule(10.0, S, 1000),
            clock,
            news,
            reached(clock, S),
        ));
        tokio::task::yield_now().await;
        tokio::time::advance(S / 2).await;
        watching.await.unwrap();
        let (_, looks) = drained(heard).await;
        assert!(looks.iter().any(|look| look.sample.slip() >= 300 * MS));
        for look in &looks {
            assert_eq!(look.sample.outcome, Outcome::Bad);
            assert!(apart(look.sample.latency(), S) <= 3 * MS, "{:?}", look.sample);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_itself_came_late_is_our_own_trouble() {
        let clock = Clock::start();
        let prober = Acted(pending);
        let looking = look_once(0, &prober, &clock, S);
        let stalling = async {
            tokio::task::yield_now().await;
            tokio::time::advance(9 * S).await;
        };
        let (look, ()) = tokio::join!(looking, stalling);
        assert_eq!(
            (look.sample.outcome, look.sample.why.as_deref()),
            (Outcome::Missed, Some("our own side stalled"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_listener_makes_looks_late_not_lost() {
        let clock = Clock::start();
        let (news, mut heard) = channel(1);
        let prober = Acted(|| async { Ok(()) });
        let watching = tokio::spawn(watch(
            0,
            Arc::new(prober),
            schedule(100.0, S, 5),
            clock,
            news,
            reached(clock, 3 * S),
        ));
        let mut looks = Vec::new();
        // At first nobody listens.
        clock.sleep_until(2 * S).await;
        while let Some(news) = heard.recv().await {
            if let News::Settled(look) = news {
                looks.push(look);
            }
        }
        watching.await.unwrap();
        looks.sort_by_key(|look| look.sample.intended);
        assert!(
            (299..=301).contains(&looks.len()),
            "every look of the grid is accounted for: {}",
            looks.len()
        );
        assert!(looks.iter().any(|look| look.sample.outcome == Outcome::Missed));
        assert!(looks.iter().all(|look| look.sample.outcome != Outcome::Bad));
        assert_eq!(looks.last().unwrap().sample.outcome, Outcome::Good);
    }

    /// Looks under way in the one test that counts them.
    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_nobody_listens_and_takes_its_looks_along_when_dropped() {
        let clock = Clock::start();
        let (news, heard) = channel(16);
        drop(heard);
        watch(0, Arc::new(Acted(pending)), schedule(100.0, S, 5), clock, news, pending()).await;

        let prober = Acted(|| async {
            UNDER_WAY.fetch_add(1, Ordering::SeqCst);
            let _counted = Counted;
            pending().await
        });
        let (news, _heard) = channel(16);
        let watching =
            tokio::spawn(watch(0, Arc::new(prober), schedule(100.0, 9 * S, 5), clock, news, pending()));
        sleep(S).await;
        assert_eq!(UNDER_WAY.load(Ordering::SeqCst), 5);
        watching.abort();
        assert!(watching.await.unwrap_err().is_cancelled());
        sleep(S).await;
        assert_eq!(UNDER_WAY.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_prober_is_not_taken_for_a_look() {
        let (news, heard) = channel(16);
        let prober = Acted(|| async { panic!("a bug") });
        let watching =
            tokio::spawn(watch(0, Arc::new(prober), schedule(10.0, S, 5), Clock::start(), news, pending()));
        let (_, looks) = drained(heard).await;
        assert!(looks.is_empty());
        assert!(watching.await.unwrap_err().is_panic());
    }

    #[test]
    fn the_grid_does_not_drift() {
        let schedule = Schedule { offset: MS, ..schedule(3.0, S, 1) };
        assert_eq!(schedule.intended(0), MS);
        for thirds in [3_u64, 3_000_000, 300_000_000] {
            let exact = MS + Duration::from_secs(thirds / 3);
            assert!(apart(schedule.intended(thirds), exact) < Duration::from_micros(1), "{thirds}");
        }
    }

    #[test]
    fn probes_are_staggered_by_name_and_seed_within_an_interval_and_a_second() {
        let offset = |rate: f64, seed, name: &str| {
            let rate = Rate::per_second(rate).unwrap();
            Schedule::staggered(rate, S, 1, &Dice::new(seed), name).offset
        };
        assert_eq!(offset(20.0, 1, "a"), offset(20.0, 1, "a"));
        assert_ne!(offset(20.0, 1, "a"), offset(20.0, 1, "b"));
        assert_ne!(offset(20.0, 1, "a"), offset(20.0, 2, "a"));
        for seed in 0..200 {
            assert!(offset(20.0, seed, "a") < S / 20);
            assert!(offset(0.01, seed, "a") < S);
        }
    }
}
