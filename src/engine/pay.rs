//! Paying what is owed: the same walk for a run's own end, the watchdog and `brownout recover`.

use std::time::Duration;

use super::pulse::while_beating;
use crate::fault::Entry;
use crate::undo::{Record, UndoLog};

/// How often an undo is tried, and how long apart.
const TRIES: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(100);

/// A harm that is still there.
#[derive(Debug)]
pub struct Unpaid {
    /// The fault's name.
    pub fault: String,
    /// Why it is still there.
    pub why: String,
    /// What a person would type.
    pub by_hand: String,
}

impl Unpaid {
    pub(super) fn of(entry: &Entry, why: String) -> Self {
        Self { fault: entry.fault.clone(), why, by_hand: entry.by_hand() }
    }
}

/// Undoes all that a log owes, newest first. One that fails does not stop the rest; each is tried several
/// times, and counts as paid only when it has been seen to be gone.
///
/// `beat` is called all the while, so that whoever pays is seen to be alive.
pub async fn pay(log: &mut UndoLog<Entry>, mut beat: impl FnMut()) -> Vec<Unpaid> {
    let owed: Vec<(u64, Entry)> = log.owed().map(|(n, entry)| (n, entry.clone())).collect();
    let mut unpaid = Vec::new();
    for (n, entry) in owed {
        let result =
            settle(&entry, &mut beat).await.and_then(|()| log.undone(n).map_err(|why| why.to_string()));
        if let Err(why) = result {
            unpaid.push(Unpaid::of(&entry, why));
        }
    }
    unpaid
}

/// Undoes one harm, trying several times, until it has been seen to be gone.
pub(super) async fn settle(entry: &Entry, mut beat: impl FnMut()) -> Result<(), String> {
    let mut result = Err("it was not tried".to_owned());
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        result = while_beating(once(entry), &mut beat).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn once(entry: &Entry) -> Result<(), String> {
    entry.undo().await.map_err(|why| why.to_string())?;
    match entry.remains().await {
        Ok(false) => Ok(()),
        Ok(true) => Err("it is still there after its undo".to_owned()),
        Err(why) => Err(format!("whether it is gone cannot be seen: {why}")),
    }
}
