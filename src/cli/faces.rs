//! Who hears a run: its journal, its story for the reports, and whoever sits before the terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::event::{Event, Listener, Losses};
use crate::host::terminal;
use crate::report::{Aside, Audience, Face, Journal, Paint, RunFolder, Story, live, plain, summary};

/// How the outcome is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    // No docs here: with them, `--help` would take a screen for two words.
    Text,
    Json,
}

/// What is told, and how.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Wanted {
    /// What standard output gets: a summary for people, or every event as JSON, one a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Log every event on standard error instead of the live view; -vv: every look too
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// How -v logs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    log_format: Format,
}

impl Wanted {
    /// The outcome, and no log.
    pub(super) fn only(format: Format) -> Self {
        Self { format, verbose: 0, log_format: Format::Text }
    }

    pub(super) fn json(&self) -> bool {
        self.format == Format::Json
    }
}

/// All faces of a run.
pub(super) struct Faces {
    audience: Audience,
    log: Option<Aside>,
    json: bool,
}

impl Faces {
    /// Opens them; a face that cannot be had stops nothing.
    pub(super) fn open(wanted: &Wanted, folder: &RunFolder) -> Self {
        let log = (wanted.verbose > 0).then(|| {
            let out = terminal::own_handle(io::stderr())?;
            let lines = Lines { out, format: wanted.log_format, looks: wanted.verbose > 1 };
            Aside::start("log", lines, live::REDRAW)
        });
        // The log and a view that is drawn over and over would tear each other.
        let screen = (wanted.json() || log.is_none()).then(|| live::screen(wanted.json()));
        let audience = Audience {
            journal: Journal::create(folder.folder()).ok(),
            screen: screen.and_then(Result::ok),
            story: Story::default(),
        };
        Self { audience, log: log.and_then(Result::ok), json: wanted.json() }
    }

    /// Ends them: the journal is complete, the reports are written, the summary is told.
    pub(super) fn close(self, folder: &RunFolder) {
        if let Some(log) = self.log {
            // A terminal that is stuck misses its log; nothing else depends on it.
            let _ = log.finish(LAST_WORDS);
        }
        let (report, mut troubles) = self.audience.leave(Some(folder));
        if !self.json {
            let columns = terminal::size(io::stdout()).map_or(100, |(columns, _)| columns.into());
            let paint = Paint::for_terminal(io::stdout().is_terminal());
            let text = summary(&report, Some(&folder.path().join("report.md")), columns, paint);
            if let Ok(out) = terminal::own_handle(io::stdout()) {
                let _ = live::say_at_last(out, text, LAST_WORDS);
            }
        }
        troubles.dedup();
        if let (false, Ok(errors)) = (troubles.is_empty(), terminal::own_handle(io::stderr())) {
            let text = format!("warning: {}\n", troubles.join("\nwarning: "));
            let _ = live::say_at_last(errors, text, LAST_WORDS);
        }
    }
}

impl Listener for Faces {
    fn hear(&mut self, event: &Event) {
        self.audience.hear(event);
        if let Some(log) = &mut self.log {
            log.hear(event);
        }
    }
}

/// A stuck terminal is waited for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
