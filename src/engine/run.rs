//! The spine: one experiment from its armed plan to its report.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::conduct::{Conductor, Inputs, Threads};
use super::control;
use super::pay::Unpaid;
use super::plan::Armed;
use super::verdict::Judgement;
use super::watchdog::{Watchdog, WatchdogError};
use super::world::World;
use crate::base::Clock;
use crate::event::{Listener, StopReason, What};
use crate::fault::Entry;
use crate::hands::turn::settle;
use crate::host::process::boot_id;
use crate::probe::schedule::News;
use crate::undo::{Header, LogError, UndoLog};

/// Looks wait in a queue of this length; a flood beyond it waits in the probes, who count it as their own lateness.
const QUEUE: usize = 16_384;

/// After the end, answers that go through us and are under way get so long.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Where a run is kept, and what it runs on.
pub struct Setting {
    /// The folder of undo logs.
    pub state: PathBuf,
    /// The run's own folder.
    pub folder: PathBuf,
    /// The run's clock.
    pub clock: Clock,
    /// The runtime on which probes look, and services are started.
    pub workers: tokio::runtime::Handle,
    /// The runtime on which faults are injected and undone: nothing else runs there, so that undoing never waits.
    pub hands: tokio::runtime::Handle,
    /// Turns when a signal asks us to stop.
    pub signals: watch::Receiver<Option<StopReason>>,
    /// Orders from this terminal (Enter), beside those from other ones.
    pub orders: (mpsc::Sender<control::Order>, mpsc::Receiver<control::Order>),
    /// Looks from elsewhere, beside those of the experiment's own probes.
    pub looks: (mpsc::Sender<News>, mpsc::Receiver<News>),
}

/// Why nothing was hurt.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log, or somebody else's claim.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The watchdog.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
    /// A probe that cannot look.
    #[error("probe `{probe}`: {why}")]
    Probe {
        /// Its name.
        probe: String,
        /// Why, and what to do.
        why: String,
    },
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The judgement.
    pub judgement: Judgement,
    /// What could not be undone.
    pub unpaid: Vec<Unpaid>,
}

/// A queue for orders, as [`Setting::orders`] wants it.
#[must_use]
pub fn orders() -> (mpsc::Sender<control::Order>, mpsc::Receiver<control::Order>) {
    mpsc::channel(16)
}

/// A queue for looks, as [`Setting::looks`] wants it.
#[must_use]
pub fn looks() -> (mpsc::Sender<News>, mpsc::Receiver<News>) {
    mpsc::channel(QUEUE)
}

/// Runs an armed experiment. Above the line anything may refuse; below it every step returns a value, so
/// that nothing can jump over the undo.
///
/// # Errors
/// Only before any harm: afterwards everything is told in [`Report`].
pub async fn run(
    armed: Armed,
    world: World,
    setting: Setting,
    listener: &mut dyn Listener,
) -> Result<Report, RunError> {
    let Setting { state, folder, clock, workers, hands, signals, orders, looks } = setting;
    let experiment = armed.experiment().clone();
    let probers = super::looks::probers(&experiment, world.run)?;
    let header = Header {
        version: 1,
        run: world.run,
        boot: boot_id(),
        pid: world.holder.pid,
        title: experiment.title.clone(),
        started: clock.started().to_string(),
        folder: folder.clone(),
    };
    let undo_log = UndoLog::<Entry>::create(&state, header, armed.claims())?;
    let watchdog = match Watchdog::post(undo_log.path(), &world.holder) {
        Ok(watchdog) => watchdog,
        Err(why) => {
            undo_log.close()?; // Nothing was hurt and nothing is owed.
            return Err(why.into());
        }
    };
    let spoken_to = control::listen(&undo_log.socket(), orders.0.clone());
    let services = mpsc::channel(256);
    let inputs = Inputs { looks: looks.1, orders: orders.1, signals, services: services.1 };
    let undo_log = Arc::new(Mutex::new(undo_log));
    let threads = Threads { workers, hands };
    let mut run = Conductor::new(armed, world, clock, undo_log.clone(), watchdog, threads, listener, inputs);
    // ------------------------------ the line: no `?` below ------------------------------
    if let Err(why) = spoken_to {
        // It is still a run: signals reach it.
        let text = format!("`brownout halt`, `go` and `note` cannot reach this run: its socket: {why}");
        run.tell(What::Warning { text });
    }
    let healthy = run.start_and_prove(probers, &looks.0, &services.0, &folder).await;
    if healthy {
        run.conduct().await;
    }
    run.unwind().await;
    if healthy {
        run.watch_recovery().await;
    }
    run.stop_services().await;
    let report = run.conclude();
    run.part_with_watchdog(!report.unpaid.is_empty());
    drop(run);
    if let Some(log) = Arc::into_inner(undo_log).and_then(|log| log.into_inner().ok()) {
        let _ = log.close(); // A file that stays owes nothing, and `recover` removes it.
    }
    settle(UNDER_WAY);
    Ok(report)
}
