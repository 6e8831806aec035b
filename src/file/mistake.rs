//! What is wrong with a file: where, why, and what would be right.

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::node::{Place, Sources};

/// One mistake, or one warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where, when it stands at a place.
    pub place: Option<Place>,
    /// What is wrong, in one sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// A warning does not refuse the file.
    pub warning: bool,
}

/// Everything wrong with a file, gathered while reading it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes {
    found: Vec<Mistake>,
}

impl Mistakes {
    /// Adds an error.
    pub fn error(&mut self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Some(place), what.into(), remedy.into(), false);
    }

    /// Adds an error that concerns the file as a whole.
    pub fn whole(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(None, what.into(), remedy.into(), false);
    }

    /// Adds a warning: it is shown, and the file still counts.
    pub fn warn(&mut self, place: Place, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(Some(place), what.into(), remedy.into(), true);
    }

    fn add(&mut self, place: Option<Place>, what: String, remedy: String, warning: bool) {
        let remedy = (!remedy.is_empty()).then_some(remedy);
        self.found.push(Mistake { place, what, remedy, warning });
    }

    /// Whether anything refuses the file.
    #[must_use]
    pub fn refuse(&self) -> bool {
        self.found.iter().any(|mistake| !mistake.warning)
    }

    /// All of them, in the order of the file.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Mistake> {
        let mut all: Vec<&Mistake> = self.found.iter().collect();
        all.sort_by_key(|mistake| (mistake.warning, mistake.place));
        all
    }

    /// How many errors and how many warnings.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let warnings = self.found.iter().filter(|mistake| mistake.warning).count();
        (self.found.len() - warnings, warnings)
    }

    /// Writes them the way a compiler does: the line, the words in question, why, and the remedy.
    #[must_use]
    pub fn render(&self, sources: &Sources, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut shown = String::new();
        for mistake in self.sorted() {
            let level = if mistake.warning { Level::WARNING } else { Level::ERROR };
            let title = level.primary_title(mistake.what.as_str());
            let group = match mistake.place {
                Some(place) => {
                    let (path, text) = sources.get(place);
                    let marked = AnnotationKind::Primary.span(place.start..place.end.max(place.start));
                    title.element(Snippet::source(text).path(path).annotation(marked))
                }
                None => title.elements(std::iter::empty::<annotate_snippets::Element<'_>>()),
            };
            let group = match &mistake.remedy {
                Some(remedy) => group.element(Level::HELP.message(remedy.as_str())),
                None => group,
            };
            shown.push_str(&renderer.render(&[group]));
            shown.push_str("\n\n");
        }
        shown
    }

    /// One line a mistake, for tests and for `--format json`: `file:line: what (remedy)`.
    #[must_use]
    pub fn lines(&self, sources: &Sources) -> Vec<String> {
        self.sorted()
            .iter()
            .map(|mistake| {
                let at = mistake.place.map_or_else(String::new, |place| format!("{}: ", sources.line(place)));
                let kind = if mistake.warning { "warning: " } else { "" };
                let remedy =
                    mistake.remedy.as_ref().map_or_else(String::new, |remedy| format!(" ({remedy})"));
                format!("{at}{kind}{}{remedy}", mistake.what)
            })
            .collect()
    }
}
