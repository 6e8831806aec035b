//! One harm, from its record to its checked end: the walk every fault of every run takes.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use super::pay::{Unpaid, pay};
use super::pulse::{PULSE, while_beating};
use super::watchdog::{Watchdog, WatchdogError};
use crate::base::Clock;
use crate::base::clock::since_boot;
use crate::fault::{AnyFault, Effect, Entry, Held, Refusal, Site};
use crate::host::process::boot_id;
use crate::undo::{Header, LogError, Record, UndoLog};

/// A harm's own time to live beyond its `for`, after which the watchdog ends it.
const GRACE: Duration = Duration::from_secs(30);

/// One fault and what it finds at hand.
#[derive(Debug)]
pub struct Harm {
    /// What is done.
    pub fault: AnyFault,
    /// To whom.
    pub site: Site,
    /// How long; ignored by kinds that do not last.
    pub hold: Duration,
    /// The title others see when they ask who holds a claim.
    pub title: String,
    /// The folder of undo logs.
    pub state: PathBuf,
}

/// Whether somebody wants it to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Nobody.
    No,
    /// SIGINT or SIGHUP.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether it took hold; `None` when the injection failed.
    pub effect: Option<Effect>,
    /// Why the injection failed, if it did.
    pub failed: Option<String>,
    /// Why it ended early, if it did.
    pub stop: Stop,
    /// Whether the watchdog was lost, which ends a harm.
    pub watchdog_lost: bool,
    /// From the decision to end it to its checked absence.
    pub undo_took: Duration,
    /// What could not be undone.
    pub unpaid: Vec<Unpaid>,
}

/// Why nothing was hurt.
#[derive(Debug, thiserror::Error)]
pub enum HarmError {
    /// The fault's own survey.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log, or somebody else's claim.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The watchdog.
    #[error(transparent)]
    Watchdog(#[from] WatchdogError),
}

/// Does one harm and takes it back. `told` hears about the effect as soon as it is measured.
///
/// # Errors
/// Only before the harm: afterwards everything is told in [`Ended`].
pub async fn run(
    harm: &Harm,
    clock: &Clock,
    mut stop: watch::Receiver<Stop>,
    told: impl FnOnce(&Effect),
) -> Result<Ended, HarmError> {
    let owed = harm.fault.survey(&harm.site).await?;
    let lasting = harm.fault.lasting();
    let entry = Entry {
        fault: harm.site.fault.clone(),
        host: harm.site.host.clone(),
        deadline: lasting.then(|| since_boot() + harm.hold + GRACE),
        owed: owed.clone(),
    };
    let header = Header {
        version: 1,
        run: harm.site.run,
        boot: boot_id(),
        pid: harm.site.holder.pid,
        title: harm.title.clone(),
        started: clock.started().to_string(),
        folder: PathBuf::new(),
    };
    let mut log = UndoLog::create(&harm.state, header, &entry.claims())?;
    let mut watchdog = match Watchdog::post(log.path(), &harm.site.holder) {
        Ok(watchdog) => watchdog,
        Err(why) => {
            log.close()?; // Nothing was hurt and nothing is owed.
            return Err(why.into());
        }
    };
    if let Err(why) = log.append(entry) {
        watchdog.dismiss();
        return Err(why.into());
    }
    // ---------------------------- the line: no `?` below ----------------------------
    let mut held = Held::default();
    let mut watchdog_lost = false;
    let mut beat = || {
        harm.site.heartbeat.beat();
        watchdog_lost |= watchdog.beat().is_err();
    };
    let injected = while_beating(harm.fault.inject(&harm.site, &owed, &mut held), &mut beat).await;
    let (effect, failed) = match injected {
        Ok(()) => (Some(while_beating(harm.fault.verify(&harm.site, &owed, &held), &mut beat).await), None),
        Err(why) => (None, Some(why.to_string())),
    };
    if let Some(effect) = &effect {
        told(effect);
        if lasting && !watchdog_lost {
            watchdog_lost = hold(harm, &mut stop, &mut watchdog).await;
        }
    }
    let decided = clock.now();
    drop(held);
    let unpaid = pay(&mut log, || drop(watchdog.beat())).await;
    let undo_took = clock.now().saturating_sub(decided);
    if unpaid.is_empty() {
        watchdog.dismiss();
    } // Else it lives on past us, and tries once more when we are gone.
    let _ = log.close(); // A file that stays owes nothing, and `recover` removes it.
    let stop = *stop.borrow();
    Ok(Ended { effect, failed, stop, watchdog_lost, undo_took, unpaid })
}

/// Waits out the harm's time; whether it ended because the watchdog was lost.
async fn hold(harm: &Harm, stop: &mut watch::Receiver<Stop>, watchdog: &mut Watchdog) -> bool {
    let over = tokio::time::sleep(harm.hold);
    tokio::pin!(over);
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        tokio::select! {
            biased;
            stopped = stop.wait_for(|stop| *stop != Stop::No) => {
                drop(stopped);
                return false;
            }
            () = &mut over => return false,
            _ = pulse.tick() => {
                harm.site.heartbeat.beat();
                if watchdog.beat().is_err() {
                    return true;
                }
            }
        }
    }
}
