//! When to look: the open model.
//!
//! Each look has an intended moment that no answer moves (see `rhythm`), and its latency counts from
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

use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout_at;

use super::canary::Canary;
use super::rhythm::Beats;
use super::{Fact, Phases, Prober, Step, Trace};
use crate::base::{Clock, unit};
use crate::host::timer::Timer;
use crate::slo::{Outcome, Sample};

/// So much later than its deadline may a look settle before we must have been starved: then the deadline
/// itself came late, and the answer may have been there all the time. So late may our own canary be, and the
/// beginning of a look. On two busy processors what we do is late by some ten milliseconds at the worst.
pub(super) const STALLED: Duration = Duration::from_millis(250);

/// When a probe looks, and what limits it.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// The moments, from the beginning of the watch.
    pub beats: Beats,
    /// The run's t = 0 by its clock, once it is known: ramps begin there.
    pub zero: Receiver<Option<Duration>>,
    /// So many looks and no more; without an end when absent.
    pub most: Option<u64>,
    /// So many looks may be under way; one beyond it is missed.
    pub in_flight: u32,
    /// What limits each look.
    pub limits: Limits,
    /// What tells our own trouble from the system's.
    pub canary: Option<Canary>,
}

/// What limits a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// It is bad when it has not settled so long after its intended moment.
    pub timeout: Duration,
    /// One that is bad before that is tried again, so many times, each a tenth of the timeout after the try before it.
    pub retries: u32,
}

/// The share of the timeout, one in so many, that passes before another try: at once it would meet what the
/// last one met.
const PAUSE: u32 = 10;

impl From<Duration> for Limits {
    /// One try, so long.
    fn from(timeout: Duration) -> Self {
        Self { timeout, retries: 0 }
    }
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
    /// Why each earlier try was bad, when it was tried again.
    pub retried: Vec<Arc<str>>,
    /// What our own side suffered while it was made: then it cannot speak against the system.
    pub trouble: Option<&'static str>,
    /// The steps it had, of a scenario.
    pub steps: Box<[Step]>,
}

impl Schedule {
    /// A schedule of which t = 0 is now.
    #[must_use]
    pub fn now(beats: Beats, limits: Limits, in_flight: u32, clock: &Clock) -> Self {
        let (_, zero) = tokio::sync::watch::channel(Some(clock.now()));
        Self { beats, zero, most: None, in_flight, limits, canary: None }
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
    let Schedule { mut beats, mut zero, most, in_flight, limits, canary } = schedule;
    let timeout = limits.timeout;
    let begun = clock.now();
    let mut timer = Timer::start();
    let mut looks = JoinSet::new();
    let closed = news.closed();
    tokio::pin!(stop, closed);
    while most.is_none_or(|most| beats.before() < most) {
        let known = *zero.borrow();
        let known_here = known.map(|zero| zero.saturating_sub(begun));
        let intended = begun + beats.at(known_here);
        tokio::select! {
            biased;
            () = &mut stop => break,
            () = &mut closed => break,
            () = timer.sleep_until(clock.instant(intended)) => {}
            // A rate that begins to climb makes this look due earlier.
            Ok(_) = zero.wait_for(Option::is_some), if known.is_none() => continue,
        }
        beats.advance(known_here);
        while let Some(ended) = looks.try_join_next() {
            pass_on_panic(ended);
        }
        let under_way = looks.len();
        if clock.now() < intended + timeout && under_way < in_flight as usize {
            let (prober, news, canary) = (prober.clone(), news.clone(), canary.clone());
            looks.spawn(async move {
                if news.send(News::Begun { probe, intended }).await.is_ok() {
                    let mut look = settle(probe, &*prober, &clock, intended, limits).await;
                    look.trouble = canary.and_then(|canary| canary.trouble(&look.sample));
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
pub async fn look_once<P: Prober>(
    probe: usize,
    prober: &P,
    clock: &Clock,
    limits: impl Into<Limits>,
) -> Look {
    settle(probe, prober, clock, clock.now(), limits.into()).await
}

/// One look from its start to its end or its deadline.
async fn settle<P: Prober>(
    probe: usize,
    prober: &P,
    clock: &Clock,
    intended: Duration,
    Limits { timeout, retries }: Limits,
) -> Look {
    let started = clock.now();
    let deadline = intended + timeout;
    if started >= deadline {
        let (outcome, why) = (Outcome::Missed, Some(late(timeout)));
        return Look::bare(probe, Sample { intended, started, ended: started, outcome, why });
    }
    let mut trace = Trace::new(prober.keeps_facts());
    let mut retried: Vec<Arc<str>> = Vec::new();
    let tries = async {
        loop {
            match prober.look(&mut trace).await {
                Err(miss)
                    if !miss.ours
                        && retried.len() < retries as usize
                        && clock.now() + timeout / PAUSE < deadline =>
                {
                    retried.push(miss.why.into());
                    tokio::time::sleep(timeout / PAUSE).await;
                    trace = Trace::new(prober.keeps_facts());
                }
                seen => return seen,
            }
        }
    };
    let seen = timeout_at(clock.instant(deadline), tries).await;
    let ended = clock.now();
    let (outcome, why) = match seen {
        _ if ended >= deadline + STALLED => (Outcome::Missed, Some("our own side stalled".into())),
        Ok(Err(miss)) if miss.ours => (Outcome::Missed, Some(miss.why.into())),
        Ok(Err(miss)) => (Outcome::Bad, Some(miss.why.into())),
        Ok(Ok(())) if ended < deadline => (Outcome::Good, None),
        Ok(Ok(())) | Err(_) => (Outcome::Bad, Some(trace.unanswered(&unit::say(timeout)).into())),
    };
    Look { retried, ..Look::of(probe, Sample { intended, started, ended, outcome, why }, trace) }
}

impl Look {
    /// Makes a look that speaks against the system one that was missed, if our own side was in trouble meanwhile.
    pub fn excuse(&mut self) {
        if let Some(trouble) = self.trouble {
            self.sample.outcome = Outcome::Missed;
            self.sample.why = Some(trouble.into());
        }
    }

    /// One with neither parts nor steps.
    #[must_use]
    pub fn bare(probe: usize, sample: Sample) -> Self {
        Self::of(probe, sample, Trace::default())
    }

    /// A look of one try.
    fn of(probe: usize, sample: Sample, trace: Trace) -> Self {
        Self {
            probe,
            sample,
            phases: trace.phases,
            facts: trace.facts,
            steps: trace.steps.into(),
            retried: Vec::new(),
            trouble: None,
        }
    }
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
    use crate::base::{Dice, Rate};
    use crate::probe::Miss;
    use crate::probe::rhythm::{Ramp, Rhythm};

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
        let rhythm = Rhythm::even(Rate::per_second(rate).unwrap());
        let beats = Beats::begun(rhythm, &Dice::new(1), "p");
        Schedule::now(beats, timeout.into(), in_flight, &Clock::start())
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

    #[tokio::test(start_paused = true)]
    async fn a_ramp_begins_at_t_0_whenever_that_is() {
        let clock = Clock::start();
        let (zero, known) = tokio::sync::watch::channel(None);
        let ramp = Ramp { to: Rate::per_second(100.0).unwrap(), steps: 2, lasts: 4 * S };
        let rhythm = Rhythm { ramp: Some(ramp), ..Rhythm::even(Rate::per_second(0.1).unwrap()) };
        let schedule = Schedule {
            beats: Beats::begun(rhythm, &Dice::new(1), "p"),
            zero: known,
            ..schedule(1.0, S, 1000)
        };
        let (news, heard) = channel(1000);
        let prober = Acted(|| async { Ok(()) });
        let watching =
            tokio::spawn(watch(0, Arc::new(prober), schedule, clock, news, reached(clock, 10 * S)));
        let drained = tokio::spawn(drained(heard));
        clock.sleep_until(3 * S).await;
        zero.send(Some(clock.now())).unwrap();
        watching.await.unwrap();
        let (begun, _) = drained.await.unwrap();
        let between =
            |from: u32, to: u32| begun.iter().filter(|at| **at >= from * S && **at < to * S).count();
        // Half of its time at 0.1/s, which makes no look here, then 100/s, though the next look was due at 10 s.
        assert_eq!(between(0, 5), 1);
        assert!(between(5, 10).abs_diff(500) <= 51, "{}", between(5, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_tried_again_only_when_asked_and_its_latency_counts_from_its_first_moment() {
        let clock = Clock::start();
        let tries = AtomicUsize::new(0);
        let third = Acted(|| async {
            if tries.fetch_add(1, Ordering::SeqCst) % 3 == 2 { Ok(()) } else { Err(Miss::new("refused")) }
        });
        let looked = |retries| look_once(0, &third, &clock, Limits { timeout: S, retries });
        let bad = looked(0).await;
        assert_eq!((bad.sample.outcome, bad.retried.len()), (Outcome::Bad, 0));
        tries.store(0, Ordering::SeqCst);
        let good = looked(2).await;
        assert_eq!(good.sample.outcome, Outcome::Good);
        assert_eq!(good.retried.iter().map(|why| &**why).collect::<Vec<_>>(), ["refused"; 2]);
        assert!(apart(good.sample.latency(), S / 5) <= 2 * MS, "{:?}", good.sample);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_do_not_outlast_the_timeout_and_what_is_our_own_is_not_tried_again() {
        let clock = Clock::start();
        let refused = Acted(|| async { Err(Miss::new("refused")) });
        let limits = Limits { timeout: S, retries: 1000 };
        let look = look_once(0, &refused, &clock, limits).await;
        assert_eq!(look.sample.outcome, Outcome::Bad);
        assert_eq!(look.sample.why.as_deref(), Some("refused"), "its own reason, not that time was up");
        assert!((8..=10).contains(&look.retried.len()), "{}", look.retried.len());
        assert!(look.sample.latency() <= S, "{:?}", look.sample);
        let ours = Acted(|| async { Err(Miss::ours("no port is left")) });
        let look = look_once(0, &ours, &clock, limits).await;
        assert_eq!((look.sample.outcome, look.retried.len()), (Outcome::Missed, 0));
    }
}
