//! The steps of a fault: survey, record, inject, measure, let go, undo. Each runs on threads that have nothing else to do,
//! neither looks nor decisions, and comes back as [`Said`].

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::super::pay::{Unpaid, settle};
use super::super::world::World;
use super::{Conductor, Said, SharedLog, with_log};
use crate::base::clock::since_boot;
use crate::event::{StopReason, What};
use crate::experiment::Experiment;
use crate::fault::{AnyOwed, Effect, Entry, Held, Site};
use crate::host::process::Identity;
use crate::undo::{Number, Record};

/// A kind that is over when done is taken to be over when its effect was measured, or after this.
const MEASURING: Duration = Duration::from_secs(10);

/// A fault on its way: what it needs, and its place in the log.
pub(super) struct Recorded {
    nth: u32,
    site: Arc<Site>,
    owed: AnyOwed,
    number: Number,
    entry: Entry,
}

/// A live fault.
pub(super) struct Live {
    recorded: Recorded,
    held: Arc<Held>,
    /// Measures its effect; shares what is held, so it is ended before that is let go.
    verifying: JoinHandle<()>,
    measured: bool,
    /// When it ends by plan.
    pub(super) until: Duration,
}

/// The effect of one of a fault's times, measured.
pub(super) struct Measured {
    fault: usize,
    nth: u32,
    effect: Effect,
}

/// Whom a fault has hit.
#[derive(Debug, Clone, Default)]
pub(super) struct Hit {
    /// All, over all its times.
    pub(super) who: Vec<Identity>,
    /// The most at one time.
    pub(super) most: usize,
}

/// How a fault fared, for the verdict.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct Fared {
    /// The worst effect that was measured.
    pub(in crate::engine) effect: Option<Effect>,
    /// One of its times was over before its effect was measured.
    pub(in crate::engine) unmeasured: bool,
}

impl Conductor<'_> {
    pub(super) fn survey(&mut self, fault: usize) {
        let nth = self.timeline.injecting(fault);
        let (world, log, experiment) = (self.world.clone(), self.log.clone(), self.experiment());
        let step = async move {
            match record(&world, &log, &experiment, fault, nth).await {
                Ok(recorded) => Said::Recorded(fault, Box::new(recorded)),
                Err(why) => Said::Refused(fault, nth, why),
            }
        };
        self.steps.spawn_on(step, &self.hands);
    }

    pub(super) fn inject(&mut self, fault: usize, recorded: Box<Recorded>) {
        let experiment = self.experiment();
        let asked = &experiment.faults[fault];
        self.tell(What::Injecting {
            fault: recorded.site.fault.clone(),
            kind: asked.harm.kind().to_owned(),
            harm: asked.harm_of(recorded.nth).harm(&recorded.site),
            tier: recorded.entry.tier(),
            mechanism: asked.harm_of(recorded.nth).mechanism(&recorded.owed),
        });
        self.judge.fault_begins(fault, self.clock.now());
        let hit = self.hit.entry(fault).or_default();
        let now = recorded.site.target.processes.iter().map(|process| process.identity().clone());
        hit.who.extend(now);
        hit.most = hit.most.max(recorded.site.target.processes.len());
        let step = async move {
            let mut held = Held::default();
            let harm = experiment.faults[fault].harm_of(recorded.nth);
            let result = harm.inject(&recorded.site, &recorded.owed, &mut held).await;
            Said::Injected(fault, recorded, held, result.map_err(|why| why.to_string()))
        };
        self.steps.spawn_on(step, &self.hands);
    }

    pub(super) fn injected(
        &mut self,
        fault: usize,
        recorded: Recorded,
        held: Held,
        result: Result<(), String>,
    ) {
        if let Err(why) = result {
            // What was done until then is held, and gets undone like everything.
            let name = recorded.site.fault.clone();
            self.undo(fault, recorded, held.into(), None);
            self.inject_failed(name, &why);
            return;
        }
        let (experiment, held, now) = (self.experiment(), Arc::new(held), self.clock.now());
        let asked = &experiment.faults[fault];
        let (nth, site, owed, whole) =
            (recorded.nth, recorded.site.clone(), recorded.owed.clone(), held.clone());
        let (measured, planned) = (self.effects.0.clone(), experiment.clone());
        let verifying = self.hands.spawn(async move {
            let effect = planned.faults[fault].harm_of(nth).verify(&site, &owed, &whole).await;
            drop(whole);
            let _ = measured.send(Measured { fault, nth, effect }).await;
        });
        // `for` counts from the moment the harm was there, not from when we had measured it. A kind that is over
        // when done ends when it was measured.
        let lasts = if asked.harm.lasting() { asked.hold.unwrap_or_default() } else { MEASURING };
        self.timeline.harmed(fault, self.since_zero(now));
        self.live.insert(fault, Live { recorded, held, verifying, measured: false, until: now + lasts });
        if !self.injecting {
            self.release(fault);
        }
    }

    pub(super) fn verified(&mut self, Measured { fault, nth, effect }: Measured) {
        let experiment = self.experiment();
        let lasting = experiment.faults[fault].harm.lasting();
        let Some(live) = self.live.get_mut(&fault).filter(|live| live.recorded.nth == nth) else {
            return; // Let go meanwhile: what was measured is not the fault.
        };
        live.measured = true;
        if !lasting {
            live.until = self.clock.now();
        }
        let until_ms = lasting.then_some(live.until.as_secs_f64() * 1e3);
        let name = live.recorded.site.fault.clone();
        self.timeline.measured(fault);
        let worst = self.fared[fault].effect.take();
        self.fared[fault].effect = Some(match worst {
            Some(mismatch @ Effect::Mismatch(_)) => mismatch,
            _ => effect.clone(),
        });
        self.tell(What::Live { fault: name, effect, until_ms });
    }

    /// Lets a fault go, and takes it back.
    pub(super) fn release(&mut self, fault: usize) {
        let Some(live) = self.live.remove(&fault) else { return };
        live.verifying.abort();
        let name = live.recorded.site.fault.clone();
        self.undo(fault, live.recorded, live.held, Some(live.verifying));
        if !live.measured {
            self.fared[fault].unmeasured = true;
            let effect = Effect::Unverifiable("it was over before its effect was measured".to_owned());
            self.tell(What::Live { fault: name, effect, until_ms: None });
        }
    }

    /// Lets go what is held, takes back the rest, sees that it is gone, and only then writes.
    pub(super) fn undo(
        &mut self,
        fault: usize,
        recorded: Recorded,
        held: Arc<Held>,
        verifying: Option<JoinHandle<()>>,
    ) {
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
            let at = clock.now();
            let written = match settled {
                Ok(()) => with_log(&log, move |log| log.undone(number).map_err(|why| why.to_string()))
                    .await
                    .and_then(|result| result),
                Err(why) => Err(why),
            };
            let unpaid = written.err().map(|why| Unpaid::of(&entry, why));
            Said::Gone { fault, name: entry.fault, at, took: at.saturating_sub(decided), unpaid }
        };
        self.steps.spawn_on(step, &self.hands);
    }

    pub(super) fn gone(
        &mut self,
        fault: usize,
        name: String,
        at: Duration,
        took: Duration,
        unpaid: Option<Unpaid>,
    ) {
        self.timeline.ended(fault, self.since_zero(at));
        self.judge.fault_ended(fault, at);
        match unpaid {
            None => self.tell(What::Undone { fault: name, took_ms: took.as_secs_f64() * 1e3 }),
            Some(unpaid) => {
                self.not_undone(unpaid);
                self.stop_for(StopReason::Trouble, "a fault could not be undone");
            }
        }
    }

    /// Tells of a harm that stays, and remembers it.
    pub(in crate::engine) fn not_undone(&mut self, unpaid: Unpaid) {
        self.tell(What::NotUndone {
            fault: unpaid.fault.clone(),
            why: unpaid.why.clone(),
            by_hand: unpaid.by_hand.clone(),
        });
        self.unpaid.push(unpaid);
    }

    pub(super) fn refused(&mut self, fault: usize, nth: u32, why: &str) {
        self.timeline.ended(fault, self.since_zero(self.clock.now()));
        self.inject_failed(self.experiment().faults[fault].name_of(nth), why);
    }

    fn inject_failed(&mut self, name: String, why: &str) {
        self.stop_for(StopReason::Trouble, format!("fault `{name}` could not be injected: {why}"));
        self.tell(What::InjectFailed { fault: name, why: why.to_owned() });
    }

    fn since_zero(&self, at: Duration) -> Duration {
        at.saturating_sub(self.zero.unwrap_or(at))
    }
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
    let owed = asked.harm_of(nth).survey(&site).await.map_err(|why| why.to_string())?;
    let entry = Entry {
        fault: site.fault.clone(),
        host: site.host.clone(),
        deadline: Some(since_boot() + asked.ttl()),
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
