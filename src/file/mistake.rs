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
    /// The other place it takes two for: where, and what is there.
    pub also: Option<(Place, String)>,
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

    /// Adds an error that takes two places: `also` is the other, `there` what stands there.
    pub fn clash(
        &mut self,
        place: Place,
        what: impl Into<String>,
        remedy: impl Into<String>,
        also: Place,
        there: impl Into<String>,
    ) {
        self.add(Some(place), what.into(), remedy.into(), false);
        if let Some(mistake) = self.found.last_mut() {
            mistake.also = Some((also, there.into()));
        }
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
        self.found.push(Mistake { place, what, remedy, also: None, warning });
    }

    /// Whether anything refuses the file.
    #[must_use]
    pub fn refuse(&self) -> bool {
        self.found.iter().any(|mistake| !mistake.warning)
    }

    /// How many were told so far, for whoever wants to know whether more came.
    #[must_use]
    pub fn told(&self) -> usize {
        self.found.len()
    }

    /// Looks through those told since [`Mistakes::told`] was `since`: `keep` may change one, or drop it.
    pub fn revise(&mut self, since: usize, mut keep: impl FnMut(&mut Mistake) -> bool) {
        let later = self.found.split_off(since.min(self.found.len()));
        self.found.extend(later.into_iter().filter_map(|mut mistake| keep(&mut mistake).then_some(mistake)));
    }

    /// All of them, errors first, in the order of the file. What was read several times over (a default, a
    /// probe multiplied by `each`) is told once.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Mistake> {
        let mut all: Vec<&Mistake> = self.found.iter().collect();
        all.sort_by_key(|mistake| (mistake.warning, mistake.place, mistake.what.as_str()));
        all.dedup();
        all
    }

    /// How many errors and how many warnings.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let all = self.sorted();
        let warnings = all.iter().filter(|mistake| mistake.warning).count();
        (all.len() - warnings, warnings)
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
            let group = match &mistake.also {
                Some((also, there)) => {
                    let (path, text) = sources.get(*also);
                    let marked = AnnotationKind::Context.span(also.start..also.end.max(also.start));
                    group.element(Snippet::source(text).path(path).annotation(marked.label(there.as_str())))
                }
                None => group,
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
                let also = mistake.also.as_ref().map_or_else(String::new, |(place, there)| {
                    format!("; {there}: {}", sources.line(*place))
                });
                format!("{at}{kind}{}{also}{remedy}", mistake.what)
            })
            .collect()
    }
}
