//! Who hears a run: its journal, its story for the reports, and whoever sits before the terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::launch::CATCH_UP;
use crate::event::{Event, Listener, Losses};
use crate::report::{Aside, Face, Journal, Paint, RunFolder, Story, plain, summary};

/// How the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// What is told, and how.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Wanted {
    /// How the outcome is written to standard output: for people, or every event as JSON, one a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Log every event on standard error instead of the live view; twice: every look too
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How -v logs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

impl Wanted {
    pub(super) fn json(&self) -> bool {
        self.format == Format::Json
    }
}

/// All faces of a run.
pub(super) struct Faces {
    journal: io::Result<Journal>,
    story: Story,
    aside: Vec<Aside>,
    json: bool,
}

impl Faces {
    /// Opens them; a face that cannot be had is told at the end, and stops nothing.
    pub(super) fn open(wanted: &Wanted, folder: &RunFolder) -> Self {
        let journal = Journal::create(folder.folder());
        let mut aside = Vec::new();
        let mut start = |name: &str, face: io::Result<Aside>| match face {
            Ok(face) => aside.push(face),
            Err(why) => eprintln!("warning: {name}: {why}"),
        };
        if wanted.json() {
            let lines = Lines { out: io::stdout(), format: Format::Json, looks: true };
            start("the events on standard output", Aside::start("events", lines, TICK));
        }
        if wanted.verbose > 0 {
            let looks = wanted.verbose > 1;
            let lines = Lines { out: io::stderr(), format: wanted.log_format, looks };
            start("the log", Aside::start("log", lines, TICK));
        } else if !wanted.json() {
            let lines = Lines { out: io::stderr(), format: Format::Text, looks: false };
            start("the view", Aside::start("view", lines, TICK));
        }
        Self { journal, story: Story::default(), aside, json: wanted.json() }
    }

    /// Ends them: the journal is complete, the reports are written, the summary is told.
    pub(super) fn close(self, folder: &RunFolder) {
        let losses = match self.journal {
            Ok(journal) => journal.finish(CATCH_UP),
            Err(why) => Losses { error: Some(why.to_string()), ..Losses::default() },
        };
        for face in self.aside {
            // A terminal that is stuck misses its view; nothing else depends on it.
            let _ = face.finish(CATCH_UP);
        }
        let report = self.story.report(&losses);
        for trouble in folder.leave(&report) {
            let _ = writeln!(io::stderr(), "warning: {trouble}");
        }
        if !self.json {
            let paint = Paint::for_terminal(io::stdout().is_terminal());
            let _ = write!(io::stdout(), "{}", summary(&report, Some(folder.path()), paint));
        }
    }
}

impl Listener for Faces {
    fn hear(&mut self, event: &Event) {
        if let Ok(journal) = &mut self.journal {
            journal.hear(event);
        }
        self.story.hear(event);
        for face in &mut self.aside {
            face.hear(event);
        }
    }
}

const TICK: Duration = Duration::from_millis(100);

/// One line an event.
struct Lines<W> {
    out: W,
    format: Format,
    looks: bool,
}

impl<W: Write + Send + 'static> Face for Lines<W> {
    fn hear(&mut self, event: Event) -> io::Result<()> {
        let look = matches!(event.what, crate::event::What::Sample { .. });
        if look && !self.looks {
            return Ok(());
        }
        match self.format {
            Format::Json => {
                serde_json::to_writer(&mut self.out, &event)?;
                writeln!(self.out)
            }
            Format::Text => match plain(&event) {
                Some(line) => writeln!(self.out, "{line}"),
                None => Ok(()),
            },
        }
    }

    fn tick(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn end(&mut self, _: &Losses) -> io::Result<()> {
        self.out.flush()
    }
}
