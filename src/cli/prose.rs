//! Sentences for 80 columns.

const COLUMNS: usize = 80;

/// A paragraph broken at blanks: the first line begins with `first`, the others with so many blanks.
pub(super) fn fold(text: &str, first: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split_whitespace() {
        let wide = line.chars().count() + word.chars().count() + usize::from(!empty);
        if wide > COLUMNS && !empty {
            out.push_str(&line);
            out.push('\n');
            line = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_is_broken_at_blanks_and_a_longer_word_stands_alone() {
        let long = "x".repeat(90);
        assert_eq!(fold(&format!("a {long} b"), "- ", 2), format!("- a\n  {long}\n  b\n"));
        assert_eq!(fold(&"word ".repeat(17), "", 0).lines().count(), 2, "16 words are 79 columns");
        assert_eq!(fold("", "", 0), "\n");
    }
}
