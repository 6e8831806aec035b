//! A face on a thread of its own: whoever speaks to it never waits, whatever it waits for.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::event::{Event, Listener, Losses, What};

/// Events that may wait for a face; beyond it they are dropped and counted.
const QUEUE: usize = 16_384;
/// Of these, the part that looks may fill: the rest is kept for what matters more.
const FOR_SAMPLES: usize = QUEUE * 3 / 4;

/// What is done with events, away from whoever speaks them. It may block, be slow, and fail.
pub trait Face: Send + 'static {
    /// Hears one event.
    ///
    /// # Errors
    /// The first error is kept for the end; events go on coming.
    fn hear(&mut self, event: Event) -> io::Result<()>;

    /// Does what is due regularly: draws, flushes.
    ///
    /// # Errors
    /// As for [`Face::hear`].
    fn tick(&mut self) -> io::Result<()>;

    /// Ends; `lost` is what did not come through until now.
    ///
    /// # Errors
    /// As for [`Face::hear`].
    fn end(&mut self, lost: &Losses) -> io::Result<()>;
}

/// What went wrong so far; shared, so that it can be told even while the face is stuck.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    samples: AtomicU64,
    events: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Ledger {
    /// Counts an event that was lost.
    pub(super) fn lose(&self, sample: bool) {
        let counter = if sample { &self.samples } else { &self.events };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeps the first error.
    pub(super) fn note(&self, outcome: io::Result<()>) {
        if let Err(why) = outcome {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.to_string());
        }
    }

    pub(super) fn losses(&self) -> Losses {
        Losses {
            samples: self.samples.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// A face's thread, as its speaker sees it.
#[derive(Debug)]
pub struct Aside {
    queue: SyncSender<Event>,
    waiting: Arc<AtomicUsize>,
    ledger: Arc<Ledger>,
    ended: Receiver<()>,
}

impl Aside {
    /// Starts a thread for a face, which ticks about so often.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: &str, face: impl Face, tick: Duration) -> io::Result<Self> {
        Self::with_ledger(name, face, tick, Arc::default())
    }

    pub(super) fn with_ledger(
        name: &str,
        face: impl Face,
        tick: Duration,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        let (queue, events) = sync_channel(QUEUE);
        let (end, ended) = sync_channel(1);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (theirs, book) = (waiting.clone(), ledger.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            listen(face, &events, &theirs, &book, tick);
            let _ = end.send(());
        })?;
        Ok(Self { queue, waiting, ledger, ended })
    }

    /// Ends the face, giving it so long to catch up; what was lost. A face that is stuck is left to itself.
    #[must_use = "what was lost should be told"]
    pub fn finish(self, within: Duration) -> Losses {
        drop(self.queue);
        if self.ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            let stuck = format!("not done within {}", crate::base::unit::say(within));
            self.ledger.note(Err(io::Error::new(io::ErrorKind::TimedOut, stuck)));
            let mut losses = self.ledger.losses();
            losses.events += self.waiting.load(Ordering::Relaxed) as u64;
            return losses;
        }
        self.ledger.losses()
    }
}

impl Listener for Aside {
    fn hear(&mut self, event: &Event) {
        let sample = matches!(event.what, What::Sample { .. });
        if sample && self.waiting.load(Ordering::Relaxed) >= FOR_SAMPLES {
            self.ledger.lose(true);
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(event.clone()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.ledger.lose(sample);
            }
        }
    }
}

fn listen(
    mut face: impl Face,
    events: &Receiver<Event>,
    waiting: &AtomicUsize,
    ledger: &Ledger,
    tick: Duration,
) {
    let mut due = Instant::now() + tick;
    loop {
        match events.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Ok(event) => {
                waiting.fetch_sub(1, Ordering::Relaxed);
                ledger.note(face.hear(event));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if Instant::now() >= due {
            ledger.note(face.tick());
            due = Instant::now() + tick;
        }
    }
    ledger.note(face.end(&ledger.losses()));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::report::stories;

    /// A face that stands still until it is let go, and counts what it heard.
    struct Stuck {
        gate: mpsc::Receiver<()>,
        heard: mpsc::Sender<Event>,
    }

    impl Face for Stuck {
        fn hear(&mut self, event: Event) -> io::Result<()> {
            let _ = self.gate.recv();
            let _ = self.heard.send(event);
            Ok(())
        }

        fn tick(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn end(&mut self, _: &Losses) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_face_never_stops_its_speaker_and_loses_looks_first() {
        let ((open, gate), (heard, ears)) = (mpsc::channel(), mpsc::channel());
        let mut aside = Aside::start("stuck", Stuck { gate, heard }, Duration::from_secs(1)).unwrap();
        let (look, other) = (stories::look("order", 0.0, None), stories::event(0.0, What::Zero));
        for _ in 0..3 * QUEUE {
            aside.hear(&look); // Returns, or this test never ends.
        }
        for _ in 0..100 {
            aside.hear(&other);
        }
        let lost = aside.ledger.losses();
        assert!(lost.samples as usize >= 3 * QUEUE - FOR_SAMPLES - 1, "{lost:?}");
        assert_eq!(lost.events, 0, "room was kept for what matters more");
        drop(open);
        let lost = aside.finish(Duration::from_mins(1));
        assert_eq!(lost.error, None);
        assert_eq!(ears.iter().filter(|event| event.what == What::Zero).count(), 100);
    }

    #[test]
    fn a_face_that_stays_stuck_is_left_to_itself_and_that_is_told() {
        let ((_open, gate), (heard, _ears)) = (mpsc::channel(), mpsc::channel());
        let mut aside = Aside::start("stuck", Stuck { gate, heard }, Duration::from_secs(1)).unwrap();
        for _ in 0..10 {
            aside.hear(&stories::event(0.0, What::Zero));
        }
        let lost = aside.finish(Duration::from_millis(20));
        assert!(lost.events >= 9, "{lost:?}");
        assert_eq!(lost.error.as_deref(), Some("not done within 20 ms"));
    }

    /// A face that fails at everything.
    struct Failing;

    impl Face for Failing {
        fn hear(&mut self, _: Event) -> io::Result<()> {
            Err(io::Error::other("the first"))
        }

        fn tick(&mut self) -> io::Result<()> {
            Err(io::Error::other("a later one"))
        }

        fn end(&mut self, _: &Losses) -> io::Result<()> {
            Err(io::Error::other("the last"))
        }
    }

    #[test]
    fn the_first_error_is_the_one_that_is_told() {
        let mut aside = Aside::start("failing", Failing, Duration::from_mins(1)).unwrap();
        aside.hear(&stories::event(0.0, What::Zero));
        let lost = aside.finish(Duration::from_mins(1));
        assert_eq!(lost.error.as_deref(), Some("the first"));
    }
}
