//! Colour, only when asked.

use std::fmt::Display;

/// Puts colour on words, or leaves them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// Whether.
    pub colour: bool,
}

impl Paint {
    /// Colour for a terminal, unless `NO_COLOR` is set (<https://no-color.org>) or it is a dumb one.
    #[must_use]
    pub fn for_terminal(is_terminal: bool) -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colour: is_terminal && !set("NO_COLOR") && !dumb }
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    pub(super) fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    pub(super) fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    pub(super) fn mood(self, mood: Mood, text: impl Display) -> String {
        match mood {
            Mood::Good => self.wrap("32", text),
            Mood::Bad => self.wrap("1;31", text),
            Mood::Doubt => self.wrap("33", text),
            Mood::Calm => text.to_string(),
        }
    }
}

/// How something is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    Bad,
    Doubt,
    Calm,
}

/// A text cut or filled to a width in characters; a cut shows.
pub(super) fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text}{}", " ".repeat(width - length));
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    if width == 0 { kept } else { format!("{kept}…") }
}

/// A text cut to a width in characters; a cut shows.
pub(super) fn cut(text: &str, width: usize) -> String {
    fit(text, width.min(text.chars().count()))
}

/// Breaks a text at spaces into lines of at most so many characters; a longer word is cut.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let line = lines.last().map_or(0, |line| line.chars().count());
            let gap = usize::from(line > 0);
            if line + gap + word.len() <= width {
                if let Some(last) = lines.last_mut() {
                    last.extend(std::iter::repeat_n(' ', gap).chain(word.iter().copied()));
                }
                break;
            }
            if line == 0
                && let Some(last) = lines.last_mut()
            {
                last.extend(word.drain(..width));
            }
            lines.push(String::new());
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn wrapped_lines_fit_and_lose_no_character(text in "[a-zé ]{0,200}", width in 1_usize..40) {
            let lines = wrapped(&text, width);
            prop_assert!(lines.iter().all(|line| line.chars().count() <= width));
            let letters = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }

        #[test]
        fn what_is_fitted_has_exactly_its_width(text in ".{0,60}", width in 0_usize..40) {
            prop_assert_eq!(fit(&text, width).chars().count(), width);
        }
    }
}
