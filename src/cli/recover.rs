//! `brownout recover`: pays what dead runs owe.

use std::path::PathBuf;
use std::time::Duration;

use super::Exit;
use crate::base::clock::since_boot;
use crate::engine::pay;
use crate::fault::Entry;
use crate::undo::{LogError, Record, UndoLog, found, state_dir, sweep};

/// So long somebody else who pays is waited for.
const BUSY: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Recover {
    /// Show what is owed and by whom; undo nothing
    #[arg(long)]
    list: bool,
    /// Where undo logs are kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Recover {
    pub(super) async fn run(self) -> Exit {
        let state = self.state.unwrap_or_else(state_dir);
        let swept = if self.list { Ok(()) } else { sweep::<Entry>(&state) };
        let logs = match swept.and_then(|()| found::<Entry>(&state)) {
            Ok(logs) => logs,
            Err(why) => {
                eprintln!("error: {why}");
                return Exit::NotUndone;
            }
        };
        if logs.is_empty() {
            println!("nothing is owed in {}", state.display());
        }
        let mut left = false;
        for log in logs {
            let life = if log.alive { "running" } else { "dead" };
            println!(
                "run {} ({life}, process {}, since {}): {}",
                log.header.run, log.header.pid, log.header.started, log.header.title
            );
            for (_, entry) in &log.owed {
                println!("  owes {}: {} (by hand: {})", entry.fault, entry.tier(), entry.by_hand());
            }
            if self.list || log.alive {
                left |= !log.alive && !log.owed.is_empty();
                continue;
            }
            match recover(&log.path).await {
                Ok(0) => println!("  undone"),
                Ok(_) => left = true,
                Err(why @ LogError::Busy { .. }) => {
                    left = true;
                    eprintln!("error: {why}: somebody else is paying, and is not done; try again");
                }
                Err(why) => {
                    left = true;
                    eprintln!("error: {why}");
                }
            }
        }
        if left { Exit::NotUndone } else { Exit::Passed }
    }
}

/// Pays one log; how much could not be paid.
async fn recover(path: &std::path::Path) -> Result<usize, LogError> {
    let begun = since_boot();
    let mut log = loop {
        match UndoLog::<Entry>::adopt(path) {
            // Somebody looks at it, or pays: then it is gone in a moment.
            Err(LogError::Busy { .. }) if since_boot() < begun + BUSY => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(LogError::Io { why, .. }) if why.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            other => break other?,
        }
    };
    let unpaid = pay(&mut log, || {}).await;
    for harm in &unpaid {
        eprintln!("NOT UNDONE {}: {}; by hand: {}", harm.fault, harm.why, harm.by_hand);
    }
    log.close()?;
    Ok(unpaid.len())
}
