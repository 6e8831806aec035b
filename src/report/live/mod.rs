//! The live view, and what takes its place where nothing can be drawn.

mod frame;
mod state;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

pub use frame::frame;
pub use state::State;

use super::aside::{Aside, Face};
use super::paint::Paint;
use super::words;
use crate::event::{Event, Losses, What};
use crate::host::terminal;

/// How often the live view is drawn.
pub const REDRAW: Duration = Duration::from_millis(100);

/// What a run shows while it goes on: every event as JSON on stdout when asked for that; else the live view where
/// stderr is a terminal that can be drawn on, and lines of text on stderr where it is not.
///
/// # Errors
/// When that output is closed, or the system gives no thread: then the run shows nothing.
pub fn screen(json: bool) -> io::Result<Aside> {
    if json {
        return Aside::start("json", JsonLines::on(terminal::own_handle(io::stdout())?), REDRAW);
    }
    let stderr = terminal::own_handle(io::stderr())?;
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if stderr.is_terminal() && !dumb {
        Aside::start("live", Live::on(stderr, Paint::for_terminal(true)), REDRAW)
    } else {
        Aside::start("plain", PlainLines::on(stderr), REDRAW)
    }
}

/// Used where a terminal does not say how large it is.
const USUAL: (u16, u16) = (80, 24);

/// The view that is drawn over and over.
pub struct Live {
    state: State,
    paint: Paint,
    screen: File,
    bar: ProgressBar,
    /// When the last event was heard, and its moment: the run's time goes on from there.
    heard: Option<(Instant, f64)>,
}

impl Live {
    /// Draws on a terminal.
    #[must_use]
    pub fn on(screen: File, paint: Paint) -> Self {
        let target = match screen.try_clone() {
            Ok(file) => {
                ProgressDrawTarget::term_like_with_hz(Box::new(Screen { file, frame: Mutex::default() }), 20)
            }
            Err(_) => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self { state: State::default(), paint, screen, bar, heard: None }
    }

    fn draw(&self) {
        let (columns, rows) = terminal::size(&self.screen).unwrap_or(USUAL);
        // The last column stays free: some terminals break the line when it is filled.
        let (columns, rows) = (usize::from(columns).saturating_sub(1), usize::from(rows).saturating_sub(1));
        let lines = frame(&self.state, columns, rows, self.paint);
        self.bar.set_message(lines.join("\n"));
    }
}

impl Face for Live {
    fn hear(&mut self, event: Event) -> io::Result<()> {
        self.heard = Some((Instant::now(), event.at_ms));
        self.state.take(&event);
        Ok(())
    }

    fn tick(&mut self) -> io::Result<()> {
        if let Some((when, at_ms)) = self.heard {
            self.state.pass(at_ms + when.elapsed().as_secs_f64() * 1e3);
        }
        self.draw();
        Ok(())
    }

    fn end(&mut self, _: &Losses) -> io::Result<()> {
        self.draw();
        self.bar.abandon();
        self.screen.write_all(b"\n")
    }
}

/// A terminal that is written to through a descriptor of its own, a whole frame at a time, so that it does not
/// flicker.
#[derive(Debug)]
struct Screen {
    file: File,
    frame: Mutex<String>,
}

impl Screen {
    fn say(&self, text: &str) {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a terminal's movements return")]
    fn go(&self, n: usize, direction: char) -> io::Result<()> {
        if n > 0 {
            self.say(&format!("\u{1b}[{n}{direction}"));
        }
        Ok(())
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        terminal::size(&self.file).unwrap_or(USUAL).0
    }

    fn height(&self) -> u16 {
        terminal::size(&self.file).unwrap_or(USUAL).1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.say(text);
        self.say("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.say(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.say("\r\u{1b}[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let frame = std::mem::take(&mut *self.frame.lock().unwrap_or_else(PoisonError::into_inner));
        (&self.file).write_all(frame.as_bytes())
    }
}

/// One line for each event that matters to people: where nothing can be drawn.
pub struct PlainLines {
    out: File,
}

impl PlainLines {
    /// Writes to an output.
    #[must_use]
    pub fn on(out: File) -> Self {
        Self { out }
    }
}

impl Face for PlainLines {
    fn hear(&mut self, event: Event) -> io::Result<()> {
        words::plain(&event).map_or(Ok(()), |line| self.out.write_all(format!("{line}\n").as_bytes()))
    }

    fn tick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &Losses) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a last text, giving whoever reads it so long: a terminal that is stopped must not keep us from ending.
/// Whether it was written.
#[must_use]
pub fn say_at_last(mut out: File, text: String, within: Duration) -> bool {
    let (done, written) = sync_channel(1);
    let wrote = std::thread::Builder::new().name("last-words".to_owned()).spawn(move || {
        let _ = done.send(out.write_all(text.as_bytes()).is_ok());
    });
    wrote.is_ok() && written.recv_timeout(within).unwrap_or(false)
}

/// Every event as a JSON object on a line of its own, for programs. Looks are among them.
pub struct JsonLines {
    out: File,
    batch: Vec<u8>,
    last: Option<(f64, String)>,
}

impl JsonLines {
    /// Writes to an output.
    #[must_use]
    pub fn on(out: File) -> Self {
        Self { out, batch: Vec::new(), last: None }
    }

    fn add(&mut self, event: &Event) -> io::Result<()> {
        serde_json::to_writer(&mut self.batch, event)?;
        self.batch.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.out.write_all(&self.batch);
        self.batch.clear();
        written
    }
}

impl Face for JsonLines {
    fn hear(&mut self, event: Event) -> io::Result<()> {
        self.add(&event)?;
        let look = matches!(event.what, What::Sample { .. });
        self.last = Some((event.at_ms, event.wall));
        // Looks may wait for the next tick; everything else is told at once.
        if !look || self.batch.len() > 64 * 1024 { self.flush() } else { Ok(()) }
    }

    fn tick(&mut self) -> io::Result<()> {
        self.flush()
    }

    fn end(&mut self, lost: &Losses) -> io::Result<()> {
        if let (false, Some((at_ms, wall))) = (lost.none(), self.last.take()) {
            self.add(&Event { at_ms, wall, what: What::Lost { losses: lost.clone() } })?;
        }
        self.flush()
    }
}

#[cfg(test)]
mod tests;
