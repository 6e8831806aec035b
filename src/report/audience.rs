//! All faces of one run together.

use std::time::Duration;

use super::aside::Aside;
use super::facts::Report;
use super::folder::RunFolder;
use super::journal::Journal;
use super::story::Story;
use crate::event::{Event, Listener, Losses};

/// A screen that has not caught up by then is left to itself.
const SCREEN: Duration = Duration::from_secs(1);
/// So long may a slow disk take for what is still waiting for the journal.
const DISK: Duration = Duration::from_secs(5);

/// Who hears a run: its journal, its screen, and the story its reports are made of.
#[derive(Debug, Default)]
pub struct Audience {
    /// The journal, if there is one.
    pub journal: Option<Journal>,
    /// The screen, if there is one: [`super::live::screen`].
    pub screen: Option<Aside>,
    /// The facts as far as they have been heard.
    pub story: Story,
}

impl Listener for Audience {
    fn hear(&mut self, event: &Event) {
        if let Some(journal) = &mut self.journal {
            journal.hear(event);
        }
        if let Some(screen) = &mut self.screen {
            screen.hear(event);
        }
        self.story.hear(event);
    }
}

impl Audience {
    /// Ends the faces and leaves the reports; the facts, and what did not work, in sentences. It takes at most a few
    /// seconds, whatever is stuck.
    #[must_use]
    pub fn leave(self, folder: Option<&RunFolder>) -> (Report, Vec<String>) {
        if let Some(screen) = self.screen {
            // What a screen missed is in the journal.
            let _ = screen.finish(SCREEN);
        }
        let losses = self.journal.map_or_else(Losses::default, |journal| journal.finish(DISK));
        let report = self.story.report(&losses);
        let troubles = folder.map_or_else(Vec::new, |folder| folder.leave(&report));
        (report, troubles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict;
    use crate::report::{journal, stories};

    #[test]
    fn a_run_that_was_heard_leaves_its_journal_and_its_reports() {
        let place = tempfile::tempdir().unwrap();
        let started = "2026-03-02T14:02:00Z".parse().unwrap();
        let folder = RunFolder::create(place.path(), started, "Slow Redis", "53c51b72").unwrap();
        let journal = Journal::create(folder.folder()).unwrap();
        let mut audience = Audience { journal: Some(journal), ..Audience::default() };
        let events = stories::broken_promise();
        for event in &events {
            audience.hear(event);
        }
        let (report, troubles) = audience.leave(Some(&folder));
        assert_eq!(troubles, Vec::<String>::new());
        assert_eq!(report.ending.unwrap().verdict, Verdict::Failed);
        assert_eq!(journal::read(&folder.path().join(journal::NAME)).unwrap(), events);
        assert!(folder.path().join("report.md").exists());
    }
}
