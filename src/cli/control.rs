//! `brownout halt`, `go`, `note`: a word to a living run, from another terminal.

use std::path::{Path, PathBuf};

use super::Exit;
use crate::base::RunId;
use crate::engine::{Order, say};
use crate::fault::Entry;
use crate::host::user;
use crate::undo::{Found, found, socket_of, state_dir};

#[derive(clap::Args)]
pub(super) struct Halt {
    /// The run; the only one that lives when absent
    run: Option<RunId>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
pub(super) struct Go {
    /// The run; the only one that lives when absent
    run: Option<RunId>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
pub(super) struct Note {
    /// The run it concerns
    run: RunId,
    /// What is known
    #[arg(required = true, num_args = 1..)]
    text: Vec<String>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Place {
    /// Where undo logs are kept; /var/lib/brownout for root, ~/.local/state/brownout otherwise, when absent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Halt {
    pub(super) fn run(self) -> Exit {
        tell(self.run, &self.place, &Order::Halt { who: user::caller() }, "is undoing everything and stops")
    }
}

impl Go {
    pub(super) fn run(self) -> Exit {
        tell(self.run, &self.place, &Order::Go { who: user::caller() }, "goes on")
    }
}

impl Note {
    pub(super) fn run(self) -> Exit {
        let note = Order::Note { who: user::caller(), text: self.text.join(" ") };
        tell(Some(self.run), &self.place, &note, "has it in its journal")
    }
}

fn tell(run: Option<RunId>, place: &Place, order: &Order, done: &str) -> Exit {
    let state = place.state.clone().unwrap_or_else(state_dir);
    match living(&state, run).and_then(|(run, socket)| {
        say(&socket, order).map(|()| run).map_err(|why| format!("run {run} did not take it: {why}"))
    }) {
        Ok(run) => {
            println!("run {run} {done}");
            Exit::Passed
        }
        Err(why) => {
            eprintln!("error: {why}");
            Exit::Refused
        }
    }
}

/// The living run that is meant, and its socket.
fn living(state: &Path, run: Option<RunId>) -> Result<(RunId, PathBuf), String> {
    let logs = found::<Entry>(state).map_err(|why| why.to_string())?;
    let alive: Vec<&Found<Entry>> = logs.iter().filter(|log| log.alive).collect();
    let names = || {
        let lines = alive.iter().map(|log| format!("\n  {} {}", log.header.run, log.header.title));
        lines.collect::<String>()
    };
    let chosen = match (run, alive.as_slice()) {
        (Some(run), alive) => alive
            .iter()
            .find(|log| log.header.run == run)
            .ok_or_else(|| format!("no run {run} lives in {}; living:{}", state.display(), names()))?,
        (None, [only]) => only,
        (None, []) => {
            return Err(format!(
                "no run lives in {}; name another place by --state, or use sudo for root's runs",
                state.display()
            ));
        }
        (None, _) => return Err(format!("several runs live, say which:{}", names())),
    };
    Ok((chosen.header.run, socket_of(&chosen.path)))
}
