//! `journal.ndjson`: every event, one JSON object a line, and a bounded record of the looks.
//!
//! Kept in full: everything but looks and budgets. Of each probe's good looks the first 2,000 are kept, then one
//! in 2 until as many again are kept, then one in 4, and so on; the same for bad and missed looks from
//! 10,000, and for each objective's budget from 4,000. So a journal grows with the logarithm of a run's length.
//! Of each probe the next 100 looks after a fault began or ended are kept too, so that these moments can be seen.
//! A line says so whenever it gets thinner, and the tallies at the end count every look.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::aside::{Aside, Face, Ledger};
use crate::event::{Event, Listener, Losses, What};
use crate::host::folder::Folder;
use crate::slo::Outcome;

/// The file's name in the run's folder.
pub const NAME: &str = "journal.ndjson";

const FLUSH: Duration = Duration::from_millis(200);
const GOOD_IN_FULL: u64 = 2_000;
const BAD_IN_FULL: u64 = 10_000;
const NEAR_A_FAULT: u64 = 100;
const BUDGETS_IN_FULL: u64 = 4_000;
/// Lines kept for another try while the disk is full.
const HELD_BACK: usize = 10_000;
/// A batch is written at the latest when it has grown to this.
const BATCH: usize = 256 * 1024;

/// Writes the journal, on a thread of its own.
#[derive(Debug)]
pub struct Journal {
    aside: Aside,
    thinning: Thinning,
}

impl Journal {
    /// Makes the journal of a run in its folder.
    ///
    /// # Errors
    /// When the file cannot be made. Later troubles are told by [`Journal::finish`].
    pub fn create(folder: &Folder) -> io::Result<Self> {
        Self::on(folder.file(NAME)?)
    }

    fn on(file: File) -> io::Result<Self> {
        let ledger = Arc::<Ledger>::default();
        let paper = Paper { file, good: 0, lines: Vec::new(), size: 0, last: None, ledger: ledger.clone() };
        Ok(Self {
            aside: Aside::with_ledger("journal", paper, FLUSH, ledger)?,
            thinning: Thinning::default(),
        })
    }

    /// Ends the journal, giving the disk so long; what is missing in it.
    #[must_use = "what is missing should be told"]
    pub fn finish(self, within: Duration) -> Losses {
        self.aside.finish(within)
    }
}

impl Listener for Journal {
    fn hear(&mut self, event: &Event) {
        let kept = self.thinning.keeps(&event.what);
        if let Kept::Thinner { of, one_in } = &kept {
            let what = What::Thinned { of: of.clone(), one_in: *one_in };
            self.aside.hear(&Event { at_ms: event.at_ms, wall: event.wall.clone(), what });
        }
        if kept != Kept::No {
            self.aside.hear(event);
        }
    }
}

/// Which events are kept.
#[derive(Debug, Default)]
struct Thinning {
    good: BTreeMap<String, Sieve>,
    bad: BTreeMap<String, Sieve>,
    budgets: BTreeMap<String, Sieve>,
    /// How often a fault began or ended.
    turns: u64,
}

/// Whether an event is kept.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Yes,
    No,
    /// Yes, and from here on only one in so many.
    Thinner {
        of: String,
        one_in: u64,
    },
}

impl Thinning {
    fn keeps(&mut self, what: &What) -> Kept {
        match what {
            What::Sample { probe, outcome: Outcome::Good, .. } => {
                sift(&mut self.good, probe, GOOD_IN_FULL, self.turns, "good looks")
            }
            What::Sample { probe, .. } => {
                sift(&mut self.bad, probe, BAD_IN_FULL, self.turns, "bad and missed looks")
            }
            What::Budget { objective, .. } => {
                sift(&mut self.budgets, objective, BUDGETS_IN_FULL, 0, "budgets")
            }
            What::Injecting { .. } | What::Undone { .. } => {
                self.turns += 1;
                Kept::Yes
            }
            _ => Kept::Yes,
        }
    }
}

fn sift(sieves: &mut BTreeMap<String, Sieve>, name: &str, in_full: u64, turns: u64, things: &str) -> Kept {
    let sieve = match sieves.get_mut(name) {
        Some(sieve) => sieve,
        None => sieves.entry(name.to_owned()).or_default(),
    };
    if sieve.turns != turns {
        (sieve.turns, sieve.near) = (turns, NEAR_A_FAULT);
    }
    if sieve.near > 0 {
        sieve.near -= 1;
        return Kept::Yes;
    }
    let one_in = 1 << (sieve.kept / in_full).min(63);
    let kept = sieve.seen.is_multiple_of(one_in);
    sieve.seen += 1;
    if !kept {
        return Kept::No;
    }
    sieve.kept += 1;
    if sieve.kept.is_multiple_of(in_full) {
        Kept::Thinner { of: format!("{things} of {name}"), one_in: one_in * 2 }
    } else {
        Kept::Yes
    }
}

#[derive(Debug, Default)]
struct Sieve {
    seen: u64,
    kept: u64,
    /// The turn it last heard of, and the looks left of those kept after it.
    turns: u64,
    near: u64,
}

/// The file, as its thread sees it.
struct Paper {
    file: File,
    /// How long the file is as far as its lines are whole.
    good: u64,
    /// Not yet written; whether each is a look.
    lines: Vec<(String, bool)>,
    size: usize,
    /// The last event's moment, for what the journal says itself.
    last: Option<(f64, String)>,
    ledger: Arc<Ledger>,
}

impl Paper {
    fn add(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_string(event)?;
        line.push('\n');
        self.size += line.len();
        self.lines.push((line, matches!(event.what, What::Sample { .. })));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let batch: String = self.lines.iter().map(|(line, _)| line.as_str()).collect();
        let written = self.file.write_all(batch.as_bytes());
        if written.is_ok() {
            self.good += batch.len() as u64;
            self.lines.clear();
        } else {
            // A half-written line would spoil the next one.
            let _ = self.file.set_len(self.good).and_then(|()| self.file.seek(SeekFrom::Start(self.good)));
            let (ledger, mut left) = (&self.ledger, HELD_BACK);
            self.lines.retain(|(_, sample)| {
                let kept = !sample && left > 0;
                left -= usize::from(kept);
                if !kept {
                    ledger.lose(*sample);
                }
                kept
            });
        }
        self.size = self.lines.iter().map(|(line, _)| line.len()).sum();
        written
    }
}

impl Face for Paper {
    fn hear(&mut self, event: Event) -> io::Result<()> {
        self.add(&event)?;
        self.last = Some((event.at_ms, event.wall));
        // While the disk fails, a try at every tick is enough.
        if self.size >= BATCH && self.ledger.losses().error.is_none() { self.flush() } else { Ok(()) }
    }

    fn tick(&mut self) -> io::Result<()> {
        self.flush()
    }

    fn end(&mut self, lost: &Losses) -> io::Result<()> {
        let written = self.flush();
        let still_held = self.lines.len();
        if let (false, Some((at_ms, wall))) = (lost.none(), self.last.clone()) {
            self.add(&Event { at_ms, wall, what: What::Lost { losses: self.ledger.losses() } })?;
            self.flush()?;
        }
        for _ in 0..still_held.min(self.lines.len()) {
            self.ledger.lose(false);
        }
        written
    }
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("the journal {}: {why}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// A whole line that is no event.
    #[error("the journal {}, line {line}, is not an event: {why}; was it written by a newer brownout?", .path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        why: serde_json::Error,
    },
}

/// Reads a journal back. A torn last line is what a killed run leaves: it is left out.
///
/// # Errors
/// When the file cannot be read, or a whole line is no event.
pub fn read(path: &Path) -> Result<Vec<Event>, JournalError> {
    let bytes = std::fs::read(path).map_err(|why| JournalError::File { path: path.to_owned(), why })?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Event>, JournalError> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    bytes[..whole]
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| {
            serde_json::from_slice(line).map_err(|why| JournalError::Line {
                path: path.to_owned(),
                line: number + 1,
                why,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::report::stories;

    const LONG: Duration = Duration::from_mins(1);

    fn written(events: &[Event]) -> (tempfile::TempDir, PathBuf, Losses) {
        let place = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(&Folder::open(place.path()).unwrap()).unwrap();
        for event in events {
            journal.hear(event);
        }
        let lost = journal.finish(LONG);
        let path = place.path().join(NAME);
        (place, path, lost)
    }

    #[test]
    fn what_was_heard_is_read_back() {
        let events = stories::broken_promise();
        let (_place, path, lost) = written(&events);
        assert!(lost.none(), "{lost:?}");
        assert_eq!(read(&path).unwrap(), events);
    }

    #[test]
    fn a_journal_torn_at_any_byte_keeps_its_whole_lines() {
        let events: Vec<Event> = stories::broken_promise().into_iter().take(6).collect();
        let (_place, path, _) = written(&events);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            let lines = whole[..end].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(parse(&path, &whole[..end]).unwrap(), events[..lines], "torn at {end}");
        }
    }

    #[test]
    fn a_whole_line_that_is_no_event_is_an_error_with_its_number() {
        let (_place, path, _) = written(&stories::broken_promise());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"event\":\"from-the-future\",\"at_ms\":1,\"wall\":\"\"}\n").unwrap();
        let said = read(&path).unwrap_err().to_string();
        let lines = stories::broken_promise().len() + 1;
        assert!(said.contains(&format!("line {lines}, is not an event")), "{said}");
    }

    #[test]
    fn good_looks_are_thinned_by_doubling_and_the_journal_says_so() {
        let mut thinning = Thinning::default();
        let mut thinner = Vec::new();
        let mut kept = 0_u64;
        let look = stories::look("order", 0.0, None).what;
        for _ in 0..1_000_000 {
            match thinning.keeps(&look) {
                Kept::No => continue,
                Kept::Yes => {}
                Kept::Thinner { of, one_in } => thinner.push((of, one_in)),
            }
            kept += 1;
        }
        // 2,000 at 1 in 1, then at 1 in 2, 4, ... 256: 2,000 * 511 = 1,022,000 looks.
        assert!((17_000..=18_100).contains(&kept), "{kept}");
        assert_eq!(thinner[0], ("good looks of order".to_owned(), 2));
        assert_eq!(thinner.last().unwrap().1, 256);
        let bad = stories::look("order", 0.0, Some("refused")).what;
        assert!((0..9_999).all(|_| thinning.keeps(&bad) == Kept::Yes), "bad looks have their own bound");
        assert_eq!(thinning.keeps(&stories::look("other", 0.0, None).what), Kept::Yes);
        thinning.keeps(&What::Undone { fault: "slow".to_owned(), took_ms: 1.0 });
        assert!((0..100).all(|_| thinning.keeps(&look) == Kept::Yes), "all looks near a fault's end");
        assert!((0..1000).any(|_| thinning.keeps(&look) == Kept::No));
    }

    #[test]
    fn a_full_disk_stops_nobody_and_is_told() {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut journal = Journal::on(full).unwrap();
        let events = stories::broken_promise();
        for event in &events {
            journal.hear(event);
        }
        let lost = journal.finish(LONG);
        let looks = events.iter().filter(|event| matches!(event.what, What::Sample { .. })).count();
        assert_eq!(lost.samples as usize, looks);
        assert_eq!(lost.events as usize, events.len() - looks);
        assert!(lost.error.unwrap().contains("No space left"));
    }

    #[test]
    fn once_a_full_disk_has_room_again_only_looks_are_missing() {
        let Some(disk) = stories::small_disk() else { return };
        let ballast = disk.path().join("ballast");
        let fill = || {
            let mut file = File::create(&ballast).unwrap();
            while file.write_all(&[0; 4096]).is_ok() {}
        };
        let mut file = File::create(disk.path().join(NAME)).unwrap();
        file.write_all(b"").unwrap();
        fill();
        let mut paper =
            Paper { file, good: 0, lines: Vec::new(), size: 0, last: None, ledger: Arc::default() };
        let events = stories::broken_promise();
        let half = events.len() / 2;
        for event in &events[..half] {
            paper.hear(event.clone()).unwrap();
        }
        assert!(paper.tick().is_err(), "the disk is full");
        std::fs::remove_file(&ballast).unwrap();
        for event in &events[half..] {
            paper.hear(event.clone()).unwrap();
        }
        paper.tick().unwrap();
        paper.end(&paper.ledger.losses()).unwrap();
        let looks = |events: &[Event]| {
            events.iter().filter(|event| matches!(event.what, What::Sample { .. })).count()
        };
        assert_eq!(paper.ledger.losses().samples as usize, looks(&events[..half]));
        assert_eq!(paper.ledger.losses().events, 0);
        let back = read(&disk.path().join(NAME)).unwrap();
        assert_eq!(looks(&back), looks(&events[half..]));
        assert_eq!(back.len() - looks(&back), events.len() - looks(&events) + 1, "and one line about it");
        assert!(matches!(back.last().unwrap().what, What::Lost { .. }));
    }
}
