//! Floor 1: the spanned document behind every TOML file people write.
//!
//! A derived deserialiser stops at the first mistake. Here a file is read into [`Node`]s that remember
//! their place, values are taken out of [`Fields`], and every mistake is collected in [`Mistakes`], so
//! that one look at the output mends the whole file.

mod fields;
mod kind;
mod mistake;
mod node;

pub use fields::{
    FieldDoc, Fields, Placed, Read, nearest, no_pattern, object_schema, paragraphs, plain, read_text, some,
    some_schema, word,
};
pub use mistake::{Mistake, Mistakes};
pub use node::{Key, Node, Place, Sources, Value};

/// A field's default, read exactly as if it stood in the file. `None` is a mistake in the declaration,
/// which the contract test of every kind finds.
#[must_use]
pub fn default_value<T: Read>(text: &str) -> Option<T> {
    let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
    let quoted = format!("value = {text}");
    let bare = format!("value = \"{text}\"");
    // Quantities are declared without quotes ("0s"); everything else as TOML.
    let document = if toml::de::DeTable::parse(&quoted).is_ok() { quoted } else { bare };
    let node = sources.parse("default", &document, &mut mistakes);
    let mut fields = Fields::open(&node, "default", &mut mistakes)?;
    fields.required("value", &mut mistakes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::Percent;

    crate::kind! {
        /// A kind for the tests.
        pub struct Slow("slow") {
            /// How long.
            delay: Duration = required,
            /// How much it varies.
            jitter: Duration = "5ms",
            /// How often.
            share: Percent = optional,
            /// Whom.
            names: Vec<String> = "[]",
        }
    }

    fn read(text: &str) -> (Option<Slow>, Vec<String>) {
        let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
        let node = sources.parse("x.toml", text, &mut mistakes);
        let mut fields = Fields::open(&node, "[slow]", &mut mistakes).unwrap();
        let slow = Slow::take(&mut fields, &mut mistakes);
        fields.close(&mut mistakes);
        (slow, mistakes.lines(&sources))
    }

    #[test]
    fn defaults_stand_in_for_what_is_not_said() {
        assert_eq!(
            (Slow::KIND, Slow::ABOUT, Slow::fields()[1].default),
            ("slow", " A kind for the tests.\n", "5ms")
        );
        let (slow, mistakes) = read("delay = '1s'");
        assert_eq!(mistakes, Vec::<String>::new());
        let slow = slow.unwrap();
        assert_eq!((slow.delay, slow.jitter), (Duration::from_secs(1), Duration::from_millis(5)));
        assert!(slow.share.is_none() && slow.names.is_empty());
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_lines() {
        let (slow, mistakes) = read("dealy = '1s'\njitter = 5\nshare = '120%'\nnames = ['a', 3]\n");
        assert!(slow.is_none());
        assert_eq!(
            mistakes,
            [
                "x.toml:1: [slow] lacks `delay` (add `delay = ...` (a duration))",
                "x.toml:1: [slow] has no field `dealy` (did you mean `delay`?)",
                "x.toml:2: a duration needs its unit in the value (write it as a string with its unit, such as \"200ms\", \"30%\", \"2GiB\" or \"500/s\")",
                "x.toml:3: `120%` is not a percentage such as \"30%\" or \"99.9%\": it exceeds 100 %",
                "x.toml:4: expected a string, found an integer",
            ]
        );
    }

    #[test]
    fn a_mistake_is_shown_with_its_line_and_the_remedy() {
        let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
        let node = sources.parse("x.toml", "title = 'x'\ndealy = '1s'\n", &mut mistakes);
        let mut fields = Fields::open(&node, "[slow]", &mut mistakes).unwrap();
        let _ = fields.node("title");
        let _ = fields.node("delay");
        fields.close(&mut mistakes);
        insta::assert_snapshot!(mistakes.render(&sources, false));
    }

    #[test]
    fn broken_toml_is_a_mistake_not_a_panic() {
        for text in [
            "[",
            "a = ",
            "a = 99999999999999999999999",
            "a = nan",
            "\u{0}",
            "[a]\n[a]",
            "a = 1\na = 2",
            "\"\"\"",
        ] {
            let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
            let _ = sources.parse("x.toml", text, &mut mistakes);
            let _ = mistakes.render(&sources, false);
        }
    }
}
