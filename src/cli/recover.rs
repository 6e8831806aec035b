//! `brownout recover`: pays what dead runs owe.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::Exit;
use super::elsewhere::{debts, other_state, owed_in};
use super::faces::Format;
use crate::base::clock::since_boot;
use crate::engine::pay;
use crate::fault::Entry;
use crate::undo::{Found, LogError, Record, Tier, UndoLog, found, state_dir, sweep};

/// So long somebody else who pays is waited for.
const BUSY: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Recover {
    /// Show what is owed and by whom; undo nothing
    #[arg(long)]
    list: bool,
    /// How the outcome is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where undo logs are kept; /var/lib/brownout for root, ~/.local/state/brownout otherwise, when absent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What was found in one log, and what came of it.
#[derive(Debug, Serialize)]
struct Told {
    run: String,
    title: String,
    process: i32,
    started: String,
    /// Faults that must be undone.
    owes: Vec<Debt>,
    /// Faults that were over when they were done: nothing of them can be undone.
    past: Vec<String>,
    outcome: Outcome,
    /// What could not be undone, or seen.
    troubles: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Debt {
    fault: String,
    undone_by: Tier,
    by_hand: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// Its run lives.
    Running,
    /// Only listed.
    Owed,
    /// Nothing is left.
    Undone,
    /// Somebody else is paying.
    Busy,
    /// Something is left.
    NotUndone,
}

/// What there is beside our own log.
#[derive(Debug, Serialize)]
struct Elsewhere {
    state: PathBuf,
    owes: Vec<String>,
    /// Why it cannot be seen.
    unseen: Option<String>,
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
        let json = self.format == Format::Json;
        let mut runs = Vec::new();
        for log in logs {
            let mut told = Told::of(&log);
            if !self.list && !log.alive {
                recover(&log.path, &mut told).await;
            }
            if !json {
                say(&told.text());
            }
            runs.push(told);
        }
        let elsewhere = other_state(&state).map(look_elsewhere);
        if json {
            say(&format!("{}\n", serde_json::json!({"state": state, "runs": runs, "elsewhere": elsewhere})));
        } else {
            if runs.is_empty() {
                say(&format!("nothing is owed in {}\n", state.display()));
            }
            if let Some(elsewhere) = &elsewhere {
                say(&elsewhere.text());
            }
        }
        let left = runs.iter().any(|told| match told.outcome {
            Outcome::Owed => !told.owes.is_empty(),
            // Who pays it is not done after all this time.
            Outcome::NotUndone | Outcome::Busy => true,
            Outcome::Running | Outcome::Undone => false,
        });
        if left { Exit::NotUndone } else { Exit::Passed }
    }
}

/// To a pipe that closed, nothing more needs to be said; the undo goes on.
fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

impl Told {
    fn of(log: &Found<Entry>) -> Self {
        let owes = debts(log);
        let over = |entry: &&(u64, Entry)| entry.1.tier() == Tier::NotReversible;
        Self {
            run: log.header.run.to_string(),
            title: log.header.title.clone(),
            process: log.header.pid,
            started: log.header.started.clone(),
            owes: owes
                .iter()
                .map(|entry| Debt {
                    fault: entry.fault.clone(),
                    undone_by: entry.tier(),
                    by_hand: entry.by_hand(),
                })
                .collect(),
            past: log.owed.iter().filter(over).map(|(_, entry)| entry.fault.clone()).collect(),
            outcome: if log.alive { Outcome::Running } else { Outcome::Owed },
            troubles: Vec::new(),
        }
    }

    fn text(&self) -> String {
        use std::fmt::Write as _;

        let life = if self.outcome == Outcome::Running { "running" } else { "dead" };
        let mut text = format!(
            "run {} ({life}, process {}, since {}): {}\n",
            self.run, self.process, self.started, self.title
        );
        let holds = if self.outcome == Outcome::Running { "holds" } else { "owes" };
        for debt in &self.owes {
            let _ = writeln!(text, "  {holds} {}; by hand: {}", debt.fault, debt.by_hand);
        }
        for fault in &self.past {
            let _ = writeln!(text, "  did {fault}, which cannot be taken back and owes nothing");
        }
        for trouble in &self.troubles {
            let _ = writeln!(text, "  NOT UNDONE {trouble}");
        }
        let _ = match self.outcome {
            Outcome::Undone if self.owes.is_empty() => writeln!(text, "  nothing was left of it"),
            Outcome::Undone => writeln!(text, "  undone"),
            Outcome::Busy => writeln!(text, "  is being recovered by somebody else"),
            Outcome::Running | Outcome::Owed | Outcome::NotUndone => Ok(()),
        };
        text
    }
}

impl Elsewhere {
    fn text(&self) -> String {
        use std::fmt::Write as _;

        let (place, mut text) = (self.state.display(), String::new());
        let with = if nix::unistd::geteuid().is_root() { "as that user, without sudo" } else { "with sudo" };
        for one in &self.owes {
            let _ = writeln!(text, "{place} owes {one}");
        }
        if !self.owes.is_empty() {
            let _ = writeln!(text, "run `brownout recover` {with}");
        }
        if let Some(why) = &self.unseen {
            let _ = writeln!(text, "what is owed in {place} cannot be seen ({why}); look {with}");
        }
        text
    }
}

fn look_elsewhere(state: PathBuf) -> Elsewhere {
    match owed_in(&state) {
        Ok(owes) => Elsewhere { state, owes, unseen: None },
        Err(why) => Elsewhere { state, owes: Vec::new(), unseen: Some(why) },
    }
}

/// Pays one log.
async fn recover(path: &Path, told: &mut Told) {
    match paid(path).await {
        Ok(troubles) if troubles.is_empty() => told.outcome = Outcome::Undone,
        Ok(troubles) => {
            told.outcome = Outcome::NotUndone;
            told.troubles = troubles;
        }
        Err(LogError::Busy { .. }) => told.outcome = Outcome::Busy,
        Err(why) => {
            told.outcome = Outcome::NotUndone;
            told.troubles.push(why.to_string());
        }
    }
}

/// Pays one log; what could not be paid.
async fn paid(path: &Path) -> Result<Vec<String>, LogError> {
    let begun = since_boot();
    let mut log = loop {
        match UndoLog::<Entry>::adopt(path) {
            // Somebody looks at it, or pays: then it is gone in a moment.
            Err(LogError::Busy { .. }) if since_boot() < begun + BUSY => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(LogError::Io { why, .. }) if why.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Vec::new());
            }
            other => break other?,
        }
    };
    let unpaid = pay(&mut log, || {}).await;
    log.close()?;
    let said =
        |harm: crate::engine::Unpaid| format!("{}: {}; by hand: {}", harm.fault, harm.why, harm.by_hand);
    Ok(unpaid.into_iter().map(said).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: Outcome) -> Told {
        Told {
            run: "53c51b72".to_owned(),
            title: "orders".to_owned(),
            process: 7,
            started: "2026-01-02T03:04:05Z".to_owned(),
            owes: vec![Debt {
                fault: "slow".to_owned(),
                undone_by: Tier::Watchdog,
                by_hand: "rm -f /run/x".to_owned(),
            }],
            past: vec!["lose-one".to_owned()],
            outcome,
            troubles: Vec::new(),
        }
    }

    #[test]
    fn a_kill_is_told_but_owes_nothing() {
        let text = told(Outcome::Owed).text();
        assert_eq!(
            text,
            "run 53c51b72 (dead, process 7, since 2026-01-02T03:04:05Z): orders\n  \
             owes slow; by hand: rm -f /run/x\n  \
             did lose-one, which cannot be taken back and owes nothing\n"
        );
        let text = told(Outcome::Running).text();
        assert!(text.contains("holds slow") && !text.contains("owes slow"), "{text}");
    }

    #[test]
    fn what_is_owed_elsewhere_is_told_with_who_can_pay_it() {
        let state = PathBuf::from("/elsewhere");
        let owes = vec!["slow of run 00000001 (orders)".to_owned()];
        let text = Elsewhere { state: state.clone(), owes, unseen: None }.text();
        assert!(text.starts_with("/elsewhere owes slow of run 00000001 (orders)\nrun `brownout recover`"));
        let unseen = Some("permission denied".to_owned());
        let text = Elsewhere { state, owes: Vec::new(), unseen }.text();
        assert!(text.contains("cannot be seen (permission denied)"), "{text}");
    }

    #[test]
    fn a_folder_that_is_not_there_owes_nothing_and_one_that_cannot_be_read_is_told() {
        let place = tempfile::tempdir().unwrap();
        let none = look_elsewhere(place.path().join("none"));
        assert!(none.owes.is_empty() && none.unseen.is_none() && none.text().is_empty());
        std::fs::create_dir(place.path().join("undo")).unwrap();
        std::fs::write(place.path().join("undo/0.log"), "not a log\nat all\n").unwrap();
        assert!(look_elsewhere(place.path().to_owned()).unseen.is_some());
    }
}
