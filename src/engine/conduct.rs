//! The one owner of a run below the line: what comes in (looks, finished steps, signals, orders, changes of
//! services), and what goes out (injections, releases, events).
//!
//! It waits for nothing but its own inputs: steps of faults run on the worker runtime and come back as
//! [`Said`], the log is written there too, and listeners never block. So an abort releases what is held
//! at once, however slow the terminal, the disk or fsync is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::control::Order;
use super::judge::Judge;
use super::looks::{Looking, Probers};
use super::pay::{Unpaid, settle};
use super::plan::Armed;
use super::stop::Stop;
use super::timeline::Timeline;
use super::verdict::Findings;
use super::watchdog::Watchdog;
use super::world::World;
use crate::base::clock::since_boot;
use crate::base::{Clock, unit};
use crate::event::{Event, Listener, ServiceState, StopReason, What};
use crate::experiment::Experiment;
use crate::experiment::model::Sees;
use crate::fault::{AnyOwed, Effect, Entry, Held, Site};
use crate::hands::service::{Change, Told};
use crate::host::process::Identity;
use crate::probe::schedule::{Look, News};
use crate::undo::{Number, Record, UndoLog};

/// A harm's own time to live beyond its `for`, after which the watchdog ends it.
const GRACE: Duration = Duration::from_secs(30);
/// How often whoever decides shows that it lives, and looks at what no event tells.
const PULSE: Duration = Duration::from_millis(100);
/// A kind that is over when done is taken to be over when its effect was measured, or after this.
const MEASURING: Duration = Duration::from_secs(10);
/// How often the guard's view is told to listeners.
const VIEW: Duration = Duration::from_secs(1);

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

/// A finished step of a fault.
enum Said {
    /// Surveyed, claimed and recorded: the harm may be done.
    Recorded(usize, Box<Recorded>),
    /// Done; or half done, with why.
    Injected(usize, Box<Recorded>, Held, Result<(), String>),
    /// Taken back and seen to be gone, or not.
    Gone { fault: usize, took: Duration, unpaid: Option<Unpaid> },
    /// It cannot be done, and nothing was done.
    Refused(usize, String),
    /// The file that stops a run has appeared.
    KillSwitch(PathBuf),
    /// What a fault hit is back (or never came within the time).
    Back { expect: usize, met: Option<Duration> },
}

/// The fault, which of its times, and its effect.
type Measured = (usize, u32, Effect);

/// A fault on its way: what it needs, and its place in the log.
struct Recorded {
    nth: u32,
    site: Arc<Site>,
    owed: AnyOwed,
    number: Number,
    entry: Entry,
}

/// A live fault.
struct Live {
    recorded: Recorded,
    held: Arc<Held>,
    /// Measures its effect; shares what is held, so it is ended before that is let go.
    verifying: JoinHandle<()>,
    since: Duration,
    /// When it ends by plan.
    until: Duration,
}

/// An expectation on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Expected {
    pub(super) met: Option<bool>,
    pub(super) why: String,
    from: Option<Duration>,
}

/// How a fault fared, for the verdict.
#[derive(Debug, Clone, Default)]
pub(super) struct Fared {
    pub(super) effect: Option<Effect>,
    pub(super) failed: Option<String>,
}

/// The owner of a run.
pub(super) struct Conductor<'l> {
    pub(super) armed: Armed,
    pub(super) world: World,
    pub(super) clock: Clock,
    pub(super) log: SharedLog,
    pub(super) workers: tokio::runtime::Handle,
    pub(super) judge: Judge,
    pub(super) stop: Option<Stop>,
    pub(super) expected: Vec<Expected>,
    pub(super) fared: Vec<Fared>,
    pub(super) unpaid: Vec<Unpaid>,
    pub(super) findings: Findings,
    pub(super) looking: Option<(Looking, Probers)>,
    /// Signals and orders after the first stop: the recovery watch is skipped, never the undo.
    pub(super) impatient: bool,
    watchdog: Option<Watchdog>,
    listener: &'l mut dyn Listener,
    inputs: Inputs,
    timeline: Timeline,
    zero: Option<Duration>,
    injecting: bool,
    live: BTreeMap<usize, Live>,
    steps: JoinSet<Said>,
    /// Effects measured: the fault, which of its times, and the effect.
    effects: (mpsc::Sender<Measured>, mpsc::Receiver<Measured>),
    /// Looking whether something is back: reads only, and dropped when the run ends.
    watchers: JoinSet<Said>,
    hit: BTreeMap<usize, Vec<Identity>>,
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
        workers: tokio::runtime::Handle,
        listener: &'l mut dyn Listener,
        inputs: Inputs,
    ) -> Self {
        let experiment = armed.experiment();
        let judge = Judge::new(experiment);
        let timeline = Timeline::of(experiment);
        let expected = experiment
            .expects
            .iter()
            .map(|_| Expected { met: None, why: String::new(), from: None })
            .collect();
        let fared = vec![Fared::default(); experiment.faults.len()];
        Self {
            armed,
            world,
            clock,
            log,
            workers,
            judge,
            stop: None,
            expected,
            fared,
            unpaid: Vec::new(),
            findings: Findings::default(),
            looking: None,
            impatient: false,
            watchdog: Some(watchdog),
            listener,
            inputs,
            timeline,
            zero: None,
            injecting: false,
            live: BTreeMap::new(),
            steps: JoinSet::new(),
            effects: mpsc::channel(64),
            watchers: JoinSet::new(),
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
        self.impatient |= asked && self.stop.is_some();
        if Stop::worse(&mut self.stop, because, why)
            && let Some(Stop { because, why }) = self.stop.clone()
        {
            // First the harm, then the words.
            self.release_all();
            self.tell(What::Stopping { because, why });
        }
    }

    /// t = 0: injections may begin.
    pub(super) fn start_judging(&mut self) {
        if let Some(path) = self.experiment().guard.kill_switch.clone() {
            self.watchers.spawn_on(kill_switch(path), &self.workers);
        }
        let now = self.clock.now();
        self.zero = Some(now);
        self.injecting = true;
        self.judge.zero(now);
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
                Err(why) => self.stop_for(StopReason::Trouble, format!("a bug of ours: a step failed: {why}")),
            },
            Some((fault, nth, effect)) = self.effects.1.recv() => self.verified(fault, nth, effect),
            Some(Ok(said)) = self.watchers.join_next() => self.hear(said),
            _ = looks.recv_many(&mut self.batch, 256) => self.look(),
            Some(order) = orders.recv() => self.obey(order),
            Some(change) = services.recv() => self.service_changed(change),
            () = self.clock.sleep_until(wake) => {}
        }
        self.act();
    }

    fn next_wake(&self) -> Duration {
        let due = self.timeline.next().filter(|_| self.injecting).and_then(|(at, _)| Some(self.zero? + at));
        let ends = self.live.values().map(|live| live.until);
        ends.chain(due).chain([self.next_pulse]).min().unwrap_or(self.next_pulse)
    }

    /// Does what is due now.
    fn act(&mut self) {
        let now = self.clock.now();
        if self.zero.is_some()
            && self.stop.is_none()
            && let Some(why) = self.judge.abort(now)
        {
            self.stop_for(StopReason::Guard, why);
        }
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

    fn look(&mut self) {
        for heard in std::mem::take(&mut self.batch) {
            match &heard {
                News::Begun { probe, intended } => self.judge.begun(*probe, *intended),
                News::Settled(look) => {
                    self.judge.settled(look);
                    self.expect_look(look.probe, &look.sample);
                    self.heard_look(look);
                }
            }
        }
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
}

/// The steps of a fault: survey, record, inject, verify, release.
impl Conductor<'_> {
    fn survey(&mut self, fault: usize) {
        let nth = self.timeline.injecting(fault);
        let (world, log, experiment) = (self.world.clone(), self.log.clone(), self.experiment());
        let step = async move {
            match record(&world, &log, &experiment, fault, nth).await {
                Ok(recorded) => Said::Recorded(fault, Box::new(recorded)),
                Err(why) => Said::Refused(fault, why),
            }
        };
        self.steps.spawn_on(step, &self.workers);
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Refused(fault, why) => {
                self.timeline.ended(fault, self.since_zero());
                self.inject_failed(fault, &why);
            }
            Said::Recorded(fault, recorded) if self.injecting => self.inject(fault, recorded),
            // Stopped meanwhile: it was never done, but it is owed until the log says otherwise.
            Said::Recorded(fault, recorded) => self.undo(fault, *recorded, Held::default().into(), None),
            Said::Injected(fault, recorded, held, result) => self.injected(fault, *recorded, held, result),
            Said::Gone { fault, took, unpaid } => self.gone(fault, took, unpaid),
            Said::Back { expect, met } => self.back(expect, met),
            Said::KillSwitch(path) => {
                self.stop_for(StopReason::Guard, format!("the kill switch {} was pulled", path.display()));
            }
        }
    }

    fn inject(&mut self, fault: usize, recorded: Box<Recorded>) {
        let experiment = self.experiment();
        let asked = &experiment.faults[fault];
        self.tell(What::Injecting {
            fault: recorded.site.fault.clone(),
            kind: asked.harm.kind().to_owned(),
            harm: asked.harm.harm(&recorded.site),
            tier: recorded.entry.tier(),
            mechanism: asked.harm.mechanism(&recorded.owed),
        });
        self.judge.fault_begins(fault, self.clock.now());
        let hit = recorded.site.target.processes.iter().map(|process| process.identity().clone());
        self.hit.entry(fault).or_default().extend(hit);
        let step = async move {
            let mut held = Held::default();
            let result =
                experiment.faults[fault].harm.inject(&recorded.site, &recorded.owed, &mut held).await;
            Said::Injected(fault, recorded, held, result.map_err(|why| why.to_string()))
        };
        self.steps.spawn_on(step, &self.workers);
    }

    fn injected(&mut self, fault: usize, recorded: Recorded, held: Held, result: Result<(), String>) {
        if let Err(why) = result {
            // What was done until then is held, and gets undone like everything.
            self.undo(fault, recorded, held.into(), None);
            self.inject_failed(fault, &why);
            return;
        }
        let (experiment, held, now) = (self.experiment(), Arc::new(held), self.clock.now());
        let asked = &experiment.faults[fault];
        let (nth, site, owed, whole) =
            (recorded.nth, recorded.site.clone(), recorded.owed.clone(), held.clone());
        let (measured, planned) = (self.effects.0.clone(), experiment.clone());
        let verifying = self.workers.spawn(async move {
            let effect = planned.faults[fault].harm.verify(&site, &owed, &whole).await;
            drop(whole);
            let _ = measured.send((fault, nth, effect)).await;
        });
        // `for` counts from the moment the harm was there, not from when we had measured it. A kind that is over
        // when done ends when it was measured.
        let lasts = if asked.harm.lasting() { asked.hold.unwrap_or_default() } else { MEASURING };
        self.live.insert(fault, Live { recorded, held, verifying, since: now, until: now + lasts });
        if self.stop.is_some() {
            self.release(fault);
        }
    }

    fn verified(&mut self, fault: usize, nth: u32, effect: Effect) {
        let now = self.clock.now();
        let experiment = self.experiment();
        let asked = &experiment.faults[fault];
        let Some(live) = self.live.get_mut(&fault).filter(|live| live.recorded.nth == nth) else {
            return; // Let go meanwhile: what was measured is not the fault.
        };
        if !asked.harm.lasting() {
            live.until = now;
        }
        let until = asked.harm.lasting().then_some(live.until);
        let (since, name) = (live.since, live.recorded.site.fault.clone());
        if let Some(zero) = self.zero {
            self.timeline.took_hold(fault, since.saturating_sub(zero));
        }
        let worst = self.fared[fault].effect.take();
        self.fared[fault].effect = Some(match worst {
            Some(mismatch @ Effect::Mismatch(_)) => mismatch,
            _ => effect.clone(),
        });
        let until_ms = until.map(|until| until.as_secs_f64() * 1e3);
        self.tell(What::Live { fault: name, effect, until_ms });
    }

    fn release(&mut self, fault: usize) {
        if let Some(live) = self.live.remove(&fault) {
            live.verifying.abort();
            self.undo(fault, live.recorded, live.held, Some(live.verifying));
        }
    }

    /// Lets go what is held, takes back the rest, sees that it is gone, and only then writes.
    fn undo(&mut self, fault: usize, recorded: Recorded, held: Arc<Held>, verifying: Option<JoinHandle<()>>) {
        let (log, clock) = (self.log.clone(), self.clock);
        let decided = clock.now();
        let step = async move {
            let Recorded { number, entry, .. } = recorded;
            if let Some(verifying) = verifying {
                let _ = verifying.await; // It was told to end; whatever it shares is let go now.
            }
            // Closing a large file or waiting for a tracer takes time: on a thread of its own, so that
            // several faults go at once.
            let _ = tokio::task::spawn_blocking(move || drop(held)).await;
            let settled = settle(&entry, || {}).await;
            let took = clock.now().saturating_sub(decided);
            let written = match settled {
                Ok(()) => with_log(&log, move |log| log.undone(number).map_err(|why| why.to_string()))
                    .await
                    .and_then(|result| result),
                Err(why) => Err(why),
            };
            Said::Gone { fault, took, unpaid: written.err().map(|why| Unpaid::of(&entry, why)) }
        };
        self.steps.spawn_on(step, &self.workers);
    }

    fn gone(&mut self, fault: usize, took: Duration, unpaid: Option<Unpaid>) {
        let now = self.clock.now();
        self.timeline.ended(fault, self.since_zero());
        let name = self.experiment().faults[fault].name.clone();
        self.judge.fault_ended(fault, now);
        match unpaid {
            None => self.tell(What::Undone { fault: name, took_ms: took.as_secs_f64() * 1e3 }),
            Some(unpaid) => {
                self.tell(What::NotUndone {
                    fault: name,
                    why: unpaid.why.clone(),
                    by_hand: unpaid.by_hand.clone(),
                });
                self.unpaid.push(unpaid);
                self.stop_for(StopReason::Trouble, "a fault could not be undone");
            }
        }
    }

    fn inject_failed(&mut self, fault: usize, why: &str) {
        let name = self.experiment().faults[fault].name.clone();
        self.fared[fault].failed = Some(why.to_owned());
        self.tell(What::InjectFailed { fault: name.clone(), why: why.to_owned() });
        self.stop_for(StopReason::Trouble, format!("fault `{name}` could not be injected: {why}"));
    }

    fn since_zero(&self) -> Duration {
        self.zero.map_or(Duration::ZERO, |zero| self.clock.now().saturating_sub(zero))
    }
}

/// Waits until a file appears: anybody who may make it can stop the run.
async fn kill_switch(path: PathBuf) -> Said {
    while tokio::fs::symlink_metadata(&path).await.is_err() {
        tokio::time::sleep(PULSE).await;
    }
    Said::KillSwitch(path)
}

/// Surveys a fault, claims its targets and writes its record: afterwards the harm may be done.
async fn record(
    world: &World,
    log: &SharedLog,
    experiment: &Arc<Experiment>,
    fault: usize,
    nth: u32,
) -> Result<Recorded, String> {
    let asked = &experiment.faults[fault];
    // Looking through /proc takes milliseconds on a busy host.
    let (looker, whom) = (world.clone(), experiment.clone());
    let site = tokio::task::spawn_blocking(move || looker.site(&whom.faults[fault], nth))
        .await
        .map_err(|why| why.to_string())?
        .map_err(|why| why.to_string())?;
    let owed = asked.harm.survey(&site).await.map_err(|why| why.to_string())?;
    let hold = if asked.harm.lasting() { asked.hold.unwrap_or_default() } else { Duration::ZERO };
    let entry = Entry {
        fault: site.fault.clone(),
        host: site.host.clone(),
        deadline: Some(since_boot() + hold + GRACE),
        owed: owed.clone(),
    };
    let written = entry.clone();
    let number = with_log(log, move |log| {
        log.claim(&written.claims())?;
        log.append(written)
    })
    .await?
    .map_err(|why| why.to_string())?;
    Ok(Recorded { nth, site: Arc::new(site), owed, number, entry })
}

/// Expectations.
impl Conductor<'_> {
    /// Starts those whose moment has come, and ends those whose time is over.
    fn expect(&mut self, now: Duration) {
        let (Some(zero), experiment) = (self.zero, self.experiment()) else { return };
        for (n, asked) in experiment.expects.iter().enumerate() {
            if self.expected[n].met.is_some() {
                continue;
            }
            if self.expected[n].from.is_none() {
                let Some(moment) = self.timeline.moment(&asked.of).filter(|at| zero + *at <= now) else {
                    continue;
                };
                self.expected[n].from = Some(zero + moment);
                if let Sees::Back { fault } = asked.sees {
                    self.watch_back(n, fault, zero + moment + asked.within);
                }
            }
            let late = self.expected[n].from.is_some_and(|from| now > from + asked.within);
            if late && matches!(asked.sees, Sees::Probe { .. }) {
                self.decide(n, false, format!("not within {}", unit::say(asked.within)));
            }
        }
    }

    fn expect_look(&mut self, probe: usize, sample: &crate::slo::Sample) {
        let experiment = self.experiment();
        for (n, asked) in experiment.expects.iter().enumerate() {
            let Sees::Probe { probe: wanted, good } = asked.sees else { continue };
            let (None, Some(from)) = (self.expected[n].met, self.expected[n].from) else { continue };
            let seen = if good { crate::slo::Outcome::Good } else { crate::slo::Outcome::Bad };
            if wanted == probe
                && sample.outcome == seen
                && sample.ended >= from
                && sample.ended <= from + asked.within
            {
                let after = unit::say(sample.ended.saturating_sub(from));
                self.decide(n, true, format!("seen after {after}"));
            }
        }
    }

    fn watch_back(&mut self, expect: usize, fault: usize, until: Duration) {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let (world, clock, experiment) = (self.world.clone(), self.clock, self.experiment());
        let hit = self.hit.get(&fault).cloned().unwrap_or_default();
        let step = async move {
            while clock.now() <= until {
                let (looker, asked, hit) = (world.clone(), experiment.clone(), hit.clone());
                let back = tokio::task::spawn_blocking(move || looker.is_back(&asked.faults[fault], &hit));
                if back.await.unwrap_or(false) {
                    return Said::Back { expect, met: Some(clock.now()) };
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Said::Back { expect, met: None }
        };
        self.watchers.spawn_on(step, &self.workers);
    }

    fn back(&mut self, expect: usize, met: Option<Duration>) {
        let within = self.experiment().expects[expect].within;
        let from = self.expected[expect].from.unwrap_or_default();
        match met {
            Some(at) => {
                self.decide(expect, true, format!("back after {}", unit::say(at.saturating_sub(from))));
            }
            None => self.decide(expect, false, format!("not back within {}", unit::say(within))),
        }
    }

    pub(super) fn decide(&mut self, expect: usize, met: bool, why: String) {
        let name = self.experiment().expects[expect].name.clone();
        self.expected[expect].met = Some(met);
        self.expected[expect].why.clone_from(&why);
        self.tell(What::Expectation { name, met, why });
    }

    /// Sends the watchdog home, when nothing is owed.
    pub(super) fn dismiss_watchdog(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.dismiss();
        }
    }
}
