//! The one owner of a run below the line: what comes in (looks, finished steps, signals, orders, changes of
//! services), and what goes out (injections, releases, events).
//!
//! It waits for nothing but its own inputs: steps of faults run on threads of their own and come back as
//! [`Said`], the log is written there too, and listeners never block. So an abort releases what is held
//! at once, however slow the terminal, the disk or fsync is.

mod expectations;
mod steps;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub(super) use expectations::Expected;
pub(super) use steps::Fared;
use steps::{Hit, Live, Measured, Recorded};

use super::control::Order;
use super::judge::Judge;
use super::looks::{Looking, Probers};
use super::pay::Unpaid;
use super::plan::Armed;
use super::stop::Stop;
use super::timeline::Timeline;
use super::verdict::Findings;
use super::watchdog::Watchdog;
use super::world::World;
use crate::base::{Clock, unit};
use crate::event::{Event, Listener, ServiceState, StopReason, What};
use crate::experiment::Experiment;
use crate::fault::{Entry, Held};
use crate::hands::service::{Change, Told};
use crate::probe::schedule::{Look, News};
use crate::undo::UndoLog;

/// How often whoever decides shows that it lives, and looks at what no event tells.
const PULSE: Duration = Duration::from_millis(100);
/// How often the guard's view is told to listeners.
const VIEW: Duration = Duration::from_secs(1);
/// Looks that are taken in before what they mean is decided.
const BATCH: usize = 256;

/// The log, shared with the workers that write it.
pub(super) type SharedLog = Arc<Mutex<UndoLog<Entry>>>;

/// Uses the shared log where waiting for a disk is allowed: on a blocking thread.
pub(super) async fn with_log<T: Send + 'static>(
    log: &SharedLog,
    work: impl FnOnce(&mut UndoLog<Entry>) -> T + Send + 'static,
) -> Result<T, String> {
    let log = log.clone();
    let work = move || work(&mut log.lock().unwrap_or_else(PoisonError::into_inner));
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|why| format!("a thread that wrote the undo log failed: {why}"))
}

/// What comes in from outside.
pub(super) struct Inputs {
    pub(super) looks: mpsc::Receiver<News>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) signals: watch::Receiver<Option<StopReason>>,
    pub(super) services: mpsc::Receiver<Told>,
}

/// The threads on which a run's own work is done.
#[derive(Debug, Clone)]
pub(super) struct Threads {
    /// For looks, services and whatever else may be slow.
    pub(super) workers: tokio::runtime::Handle,
    /// For the steps of faults alone: a release does not queue behind looks.
    pub(super) hands: tokio::runtime::Handle,
}

/// A finished step.
enum Said {
    /// Surveyed, claimed and recorded: the harm may be done.
    Recorded(usize, Box<Recorded>),
    /// Done; or half done, with why.
    Injected(usize, Box<Recorded>, Held, Result<(), String>),
    /// Taken back and seen to be gone, or not; when, and how long that took.
    Gone { fault: usize, name: String, at: Duration, took: Duration, unpaid: Option<Unpaid> },
    /// It cannot be done that time (counted from 0), and nothing was done.
    Refused(usize, u32, String),
    /// The file that stops a run has appeared.
    KillSwitch(PathBuf),
    /// What a fault hit is back (or never came within the time).
    Back { expect: usize, met: Option<Duration> },
}

/// The owner of a run.
pub(super) struct Conductor<'l> {
    pub(super) armed: Armed,
    pub(super) world: World,
    pub(super) clock: Clock,
    pub(super) log: SharedLog,
    pub(super) workers: tokio::runtime::Handle,
    pub(super) hands: tokio::runtime::Handle,
    pub(super) judge: Judge,
    pub(super) stop: Option<Stop>,
    pub(super) expected: Vec<Expected>,
    pub(super) fared: Vec<Fared>,
    pub(super) unpaid: Vec<Unpaid>,
    pub(super) findings: Findings,
    pub(super) looking: Option<(Looking, Probers)>,
    /// Somebody asked to stop when there was nothing left to stop: the recovery watch is skipped, never the undo.
    pub(super) impatient: bool,
    /// Everything was undone: from here on nobody needs to be stopped.
    pub(super) unwound: bool,
    watchdog: Option<Watchdog>,
    listener: &'l mut dyn Listener,
    inputs: Inputs,
    timeline: Timeline,
    zero: Option<Duration>,
    injecting: bool,
    live: BTreeMap<usize, Live>,
    steps: JoinSet<Said>,
    effects: (mpsc::Sender<Measured>, mpsc::Receiver<Measured>),
    /// Looking whether something is back, or a file there: reads only, and dropped when the run ends.
    watchers: JoinSet<Said>,
    hit: BTreeMap<usize, Hit>,
    next_pulse: Duration,
    next_view: Duration,
    batch: Vec<News>,
}

impl<'l> Conductor<'l> {
    #[allow(clippy::too_many_arguments, reason = "each is one part of a run, named where it is made")]
    pub(super) fn new(
        armed: Armed,
        world: World,
        clock: Clock,
        log: SharedLog,
        watchdog: Watchdog,
        threads: Threads,
        listener: &'l mut dyn Listener,
        inputs: Inputs,
    ) -> Self {
        let experiment = armed.experiment();
        let judge = Judge::new(experiment, world.dice);
        let timeline = Timeline::of(experiment, world.dice);
        let expected = vec![Expected::default(); experiment.expects.len()];
        let fared = vec![Fared::default(); experiment.faults.len()];
        let mut watchers = JoinSet::new();
        if let Some(path) = experiment.guard.kill_switch.clone() {
            watchers.spawn_on(kill_switch(path), &threads.workers);
        }
        Self {
            armed,
            world,
            clock,
            log,
            workers: threads.workers,
            hands: threads.hands,
            judge,
            stop: None,
            expected,
            fared,
            unpaid: Vec::new(),
            findings: Findings::default(),
            looking: None,
            impatient: false,
            unwound: false,
            watchdog: Some(watchdog),
            listener,
            inputs,
            timeline,
            zero: None,
            injecting: false,
            live: BTreeMap::new(),
            steps: JoinSet::new(),
            effects: mpsc::channel(64),
            watchers,
            hit: BTreeMap::new(),
            next_pulse: Duration::ZERO,
            next_view: Duration::ZERO,
            batch: Vec::new(),
        }
    }

    pub(super) fn experiment(&self) -> Arc<Experiment> {
        self.armed.experiment().clone()
    }

    pub(super) fn tell(&mut self, what: What) {
        let event = Event::new(&self.clock, self.clock.now(), what);
        self.listener.hear(&event);
    }

    /// Takes in a reason to stop; told when it is the worst yet.
    pub(super) fn stop_for(&mut self, because: StopReason, why: impl Into<String>) {
        let asked = matches!(because, StopReason::Interrupt | StopReason::Terminate);
        self.impatient |= asked && (self.stop.is_some() || self.unwound);
        if Stop::worse(&mut self.stop, because, why)
            && let Some(Stop { because, why }) = self.stop.clone()
        {
            // First the harm, then the words.
            self.release_all();
            self.tell(What::Stopping { because, why });
        }
    }

    /// Whether the recovery watch is to be skipped: a second request to stop, or one that gives no time.
    pub(super) fn hurried(&self) -> bool {
        self.impatient || self.stop.as_ref().is_some_and(|stop| stop.because == StopReason::Terminate)
    }

    /// t = 0: injections may begin.
    pub(super) fn start_judging(&mut self) {
        let now = self.clock.now();
        self.zero = Some(now);
        self.injecting = true;
        self.judge.zero(now);
        if let Some((looking, _)) = &self.looking {
            looking.zero(now);
        }
        self.tell(What::Zero);
        if let Some(text) = self.judge.bounds().map(str::to_owned) {
            self.tell(What::Note { who: "the guard".to_owned(), text });
        }
        if let Some(fault) = self.timeline.waiting() {
            self.tell(What::Waiting { fault: self.experiment().faults[fault].name.clone() });
        }
    }

    /// Whether no fault is live or on its way.
    pub(super) fn idle(&self) -> bool {
        self.live.is_empty() && self.steps.is_empty()
    }

    /// Whether the system was healthy, and judging began.
    pub(super) fn judging(&self) -> bool {
        self.zero.is_some()
    }

    /// Whether all faults have been done and undone, and all expectations are decided.
    pub(super) fn finished(&self) -> bool {
        self.timeline.over() && self.idle() && self.expected.iter().all(|expected| expected.met.is_some())
    }

    /// No injections any more, and everything that is live is let go.
    pub(super) fn release_all(&mut self) {
        self.injecting = false;
        let live: Vec<usize> = self.live.keys().copied().collect();
        for fault in live {
            self.release(fault);
        }
    }

    /// Waits for the next thing to come in, at most until a moment, and does what is due.
    pub(super) async fn turn(&mut self, until: Duration) {
        let wake = self.next_wake().min(until);
        let Inputs { looks, orders, signals, services } = &mut self.inputs;
        // Not biased: each is heard soon, however many looks there are.
        tokio::select! {
            Ok(()) = signals.changed() => {
                let reason = *signals.borrow_and_update();
                if let Some(reason) = reason {
                    let by = if reason == StopReason::Terminate { "SIGTERM" } else { "an interrupt" };
                    self.stop_for(reason, format!("stopped by {by}"));
                }
            }
            Some(said) = self.steps.join_next() => match said {
                Ok(said) => self.hear(said),
                Err(why) => {
                    // Whatever it held went with it; what it owed is paid from the log.
                    let why = format!("a bug of ours: a step failed: {why}");
                    self.findings.bug.get_or_insert(why.clone());
                    self.stop_for(StopReason::Trouble, why);
                }
            },
            Some(measured) = self.effects.1.recv() => self.verified(measured),
            Some(Ok(said)) = self.watchers.join_next() => self.hear(said),
            _ = looks.recv_many(&mut self.batch, BATCH) => self.look(),
            Some(order) = orders.recv() => self.obey(order),
            Some(change) = services.recv() => self.service_changed(change),
            () = self.clock.sleep_until(wake) => {}
        }
        self.act();
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Refused(fault, nth, why) => self.refused(fault, nth, &why),
            Said::Recorded(fault, recorded) if self.injecting => self.inject(fault, recorded),
            // Stopped meanwhile: it was never done, but it is owed until the log says otherwise.
            Said::Recorded(fault, recorded) => self.undo(fault, *recorded, Held::default().into(), None),
            Said::Injected(fault, recorded, held, result) => self.injected(fault, *recorded, held, result),
            Said::Gone { fault, name, at, took, unpaid } => self.gone(fault, name, at, took, unpaid),
            Said::Back { expect, met } => self.back(expect, met),
            Said::KillSwitch(path) => {
                self.stop_for(StopReason::Guard, format!("the kill switch {} was pulled", path.display()));
            }
        }
    }

    fn next_wake(&self) -> Duration {
        let due = self.timeline.next().filter(|_| self.injecting).and_then(|(at, _)| Some(self.zero? + at));
        let ends = self.live.values().map(|live| live.until);
        ends.chain(due).chain([self.next_pulse]).min().unwrap_or(self.next_pulse)
    }

    /// Does what is due now.
    fn act(&mut self) {
        let now = self.clock.now();
        self.guard(now);
        if now >= self.next_pulse {
            self.next_pulse = now + PULSE;
            self.pulse(now);
        }
        let over: Vec<usize> =
            self.live.iter().filter(|(_, live)| now >= live.until).map(|(f, _)| *f).collect();
        for fault in over {
            self.release(fault);
        }
        while self.injecting
            && let Some(zero) = self.zero
            && let Some((_, fault)) = self.timeline.next().filter(|(at, _)| now >= zero + *at)
        {
            self.survey(fault);
        }
        self.expect(now);
    }

    /// Asks the guard, while there is anything to stop.
    fn guard(&mut self, now: Duration) {
        if self.zero.is_some()
            && self.stop.is_none()
            && !self.unwound
            && let Some(why) = self.judge.abort(now)
        {
            self.stop_for(StopReason::Guard, why);
        }
    }

    /// What no event tells.
    fn pulse(&mut self, now: Duration) {
        self.world.heartbeat.beat();
        if self.watchdog.as_mut().is_some_and(|watchdog| watchdog.beat().is_err()) {
            self.watchdog = None;
            self.stop_for(StopReason::Trouble, "the watchdog was lost, and nobody would undo after us");
        }
        let experiment = self.experiment();
        if let (Some(longest), Some(zero), None) = (experiment.max_duration, self.zero, &self.stop)
            && now >= zero + longest
            && !self.unwound
            && !self.finished()
        {
            self.stop_for(StopReason::Deadline, format!("max_duration of {} is over", unit::say(longest)));
        }
        if now >= self.next_view && self.zero.is_some() {
            self.next_view = now + VIEW;
            for view in self.judge.views() {
                self.tell(view);
            }
        }
    }

    /// Takes in a batch of looks: first what they mean, then the words.
    fn look(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for heard in &mut batch {
            match heard {
                News::Begun { probe, intended } => self.judge.begun(*probe, *intended),
                News::Settled(look) => {
                    self.judge.excuse(look);
                    self.judge.settled(look);
                }
            }
        }
        self.guard(self.clock.now());
        for heard in batch.drain(..) {
            if let News::Settled(look) = heard {
                self.expect_look(look.probe, &look.sample);
                self.heard_look(&look);
            }
        }
        self.batch = batch;
    }

    pub(super) fn heard_look(&mut self, look: &Look) {
        let name = self.armed.experiment().probes[look.probe].name.clone();
        let event = Event::new(&self.clock, look.sample.ended, What::sample(name, look));
        self.listener.hear(&event);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Halt { who } => self.stop_for(StopReason::Interrupt, format!("halted by {who}")),
            Order::Note { who, text } => self.tell(What::Note { who, text }),
            Order::Go { who } => {
                let now = self.clock.now();
                let gone = self.zero.and_then(|zero| self.timeline.go(now.saturating_sub(zero)));
                let text = match gone {
                    Some(fault) => format!("go: {}", self.experiment().faults[fault].name),
                    None => "go: no step is waiting".to_owned(),
                };
                self.tell(What::Note { who, text });
                if let Some(fault) = self.timeline.waiting().filter(|_| gone.is_some()) {
                    self.tell(What::Waiting { fault: self.experiment().faults[fault].name.clone() });
                }
            }
        }
    }

    fn service_changed(&mut self, told: Told) {
        let Told { service: name, change } = told;
        let (state, detail) = match change {
            Change::Started { pid } => (ServiceState::Started, format!("process {pid}")),
            Change::Ready(after) => (ServiceState::Ready, format!("after {}", unit::say(after))),
            Change::NotReady(why) => (ServiceState::NotReady, why),
            Change::Died(how) => (ServiceState::Died, how),
            Change::Stopped => (ServiceState::Stopped, String::new()),
        };
        self.world.services.ready(&name, state == ServiceState::Ready);
        self.tell(What::Service { name, state, detail });
    }

    /// Sends the watchdog home when nothing is owed; else it outlives us, and tries once more when we are gone.
    pub(super) fn part_with_watchdog(&mut self, owed: bool) {
        match self.watchdog.take() {
            Some(watchdog) if owed => watchdog.leave(),
            Some(watchdog) => watchdog.dismiss(),
            None => {}
        }
    }
}

/// Waits until a file appears: anybody who may make it can stop the run.
async fn kill_switch(path: PathBuf) -> Said {
    while tokio::fs::symlink_metadata(&path).await.is_err() {
        tokio::time::sleep(PULSE).await;
    }
    Said::KillSwitch(path)
}
