//! `brownout explain [WORD]`: a kind of fault, a kind of probe, or a table of the file.

use std::fmt::Write as _;
use std::io::Write as _;

use super::Exit;
use super::prose::fold;
use crate::experiment::{Section, Topic, topics};
use crate::file::{nearest, paragraphs};

#[derive(clap::Args)]
pub(super) struct Explain {
    /// A kind of fault or probe (`latency`, `probe.exec`), or a table (`slo`); all are listed when absent
    word: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> Exit {
        let all = topics();
        let Some(word) = self.word else {
            return say(&list(&all));
        };
        let meant: Vec<&Topic> = all.iter().filter(|topic| called(topic, &word)).collect();
        if meant.is_empty() {
            let known = || all.iter().map(|topic| topic.word);
            let remedy = nearest(&word, known()).map_or_else(
                || "`brownout explain` lists all there is".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            eprintln!("error: there is nothing called `{word}`: {remedy}");
            return Exit::Usage;
        }
        say(&meant.into_iter().map(explained).collect::<Vec<_>>().join("\n\n"))
    }
}

/// To a pipe that closes early, such as `head`, nothing more needs to be said.
fn say(text: &str) -> Exit {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Exit::Passed
}

/// Whether a word means a topic: by itself, or with its section where two share a word.
fn called(topic: &Topic, word: &str) -> bool {
    let section = match topic.section {
        Section::Fault => "fault",
        Section::Probe => "probe",
        Section::Table => "table",
    };
    word == topic.word
        || word.split_once('.').is_some_and(|(before, after)| before == section && after == topic.word)
}

fn list(all: &[Topic]) -> String {
    let mut text = String::new();
    let wide = all.iter().map(|topic| topic.word.len()).max().unwrap_or(0);
    for (title, section) in [
        ("Faults: what is done to the system", Section::Fault),
        ("Probes: how it is watched", Section::Probe),
        ("Tables of the file", Section::Table),
    ] {
        let _ = writeln!(text, "{title}");
        for topic in all.iter().filter(|topic| topic.section == section) {
            let first = format!("  {:wide$}  ", topic.word);
            text.push_str(&fold(&topic.gist(), &first, wide + 4));
        }
        text.push('\n');
    }
    text.push_str("`brownout explain WORD` says more about one of them.\n");
    text
}

fn explained(topic: &Topic) -> String {
    let mut text = format!("{}\n", topic.head);
    for paragraph in paragraphs(topic.about) {
        text.push('\n');
        text.push_str(&fold(&paragraph, "", 0));
    }
    if let Some(tier) = topic.tier {
        text.push('\n');
        text.push_str(&fold(&format!("If brownout is killed: {tier}."), "", 0));
    }
    if !topic.example.is_empty() {
        text.push_str("\nexample\n");
        for line in topic.example.lines() {
            let _ = writeln!(text, "{}", format!("  {line}").trim_end());
        }
    }
    let names = topic.fields.iter().flat_map(|(_, fields)| fields).map(|field| field.name.len());
    let wide = names.max().unwrap_or(0);
    for (title, fields) in topic.fields.iter().filter(|(_, fields)| !fields.is_empty()) {
        let _ = writeln!(text, "\n{title}");
        for field in fields {
            let _ = writeln!(text, "  {:wide$}  {}", field.name, field.need());
            let margin = " ".repeat(wide + 4);
            text.push_str(&fold(&field.meaning(), &margin, wide + 4));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_wider_than_80_columns_and_every_field_is_there() {
        let all = topics();
        for text in all.iter().map(explained).chain([list(&all)]) {
            let wide: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
            assert_eq!(wide, Vec::<&str>::new());
        }
        for topic in &all {
            let text = explained(topic);
            for field in topic.fields.iter().flat_map(|(_, fields)| fields) {
                let line = |line: &str| line.split_whitespace().next() == Some(field.name);
                assert!(text.lines().any(line), "{} {}", topic.word, field.name);
            }
        }
    }

    #[test]
    fn a_word_that_two_share_means_both_and_can_be_narrowed() {
        let heads = |word: &str| -> Vec<String> {
            topics().iter().filter(|topic| called(topic, word)).map(|topic| topic.head.clone()).collect()
        };
        assert_eq!(heads("exec"), ["[fault.NAME.exec]", "[probe.NAME.exec]"]);
        assert_eq!(heads("probe.exec"), ["[probe.NAME.exec]"]);
        assert_eq!(heads("slo"), ["[slo.NAME]"]);
        assert_eq!(heads("slo.exec"), Vec::<String>::new());
    }

    #[test]
    fn a_kind_is_explained_like_this() {
        let all = topics();
        let pause = all.iter().find(|topic| topic.word == "pause").map(explained);
        insta::assert_snapshot!(pause.unwrap());
    }
}
