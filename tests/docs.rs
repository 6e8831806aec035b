//! The pages under `docs/` are made of the code; a stale page is a failure. To make them anew:
//! `BROWNOUT_UPDATE_DOCS=1 cargo test --test docs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use brownout::cli::Exit;
use brownout::experiment::{Draft, Section, Surroundings, Topic, schema, topics};
use brownout::file::{FieldDoc, paragraphs};
use brownout::report::live::{State, frame};
use brownout::report::{Paint, journal};

const MADE: &str = "<!-- Made by tests/docs.rs from the code: change it there. -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text in one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn fields(text: &mut String, fields: &[FieldDoc]) {
    text.push_str("\n| field | | meaning |\n|---|---|---|\n");
    for field in fields {
        let _ = writeln!(text, "| `{}` | {} | {} |", field.name, cell(&field.need()), cell(&field.meaning()));
    }
}

fn about(text: &mut String, topic: &Topic, groups: usize) {
    let _ = write!(text, "\n## `{}`\n", topic.word);
    for paragraph in paragraphs(topic.about) {
        let _ = write!(text, "\n{paragraph}\n");
    }
    if let Some(tier) = topic.tier {
        let _ = write!(text, "\nIf brownout is killed: {tier}.\n");
    }
    if !topic.example.is_empty() {
        let _ = write!(text, "\n```toml\n{}```\n", topic.example);
    }
    for (nth, (title, group)) in topic.fields.iter().take(groups).enumerate() {
        if nth > 0 {
            let _ = write!(text, "\n**{title}**\n");
        }
        if !group.is_empty() {
            fields(text, group);
        }
    }
}

/// A page about all kinds of one section; what they share is told once.
fn kinds(section: Section, title: &str, intro: &str, shared: &str) -> String {
    let all = topics();
    let mut text = format!("{MADE}# {title}\n\n{intro}\n");
    for topic in all.iter().filter(|topic| topic.section == section) {
        about(&mut text, topic, 1);
    }
    let common = all.iter().find(|topic| topic.section == Section::Table && topic.word == shared).unwrap();
    let _ = write!(text, "\n## Every {shared}\n\n{}\n", paragraphs(common.about).join("\n\n"));
    fields(&mut text, &common.fields[0].1);
    text
}

fn file_page() -> String {
    let mut text = format!(
        "{MADE}# The experiment file\n\nTOML, one experiment a file. Every number has its unit in its value: `\"200ms\"`, `\"30%\"`, \
         `\"2GiB\"`, `\"500/s\"`. Unknown keys are mistakes. The kinds have pages of their own: [faults](faults.md), \
         [probes](probes.md). [experiment.schema.json](experiment.schema.json) is for editors.\n"
    );
    for topic in topics().iter().filter(|topic| topic.section == Section::Table) {
        about(&mut text, topic, usize::MAX);
    }
    text
}

fn prints(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brownout"));
    // With no terminal anywhere, the width is what COLUMNS says.
    command.args(arguments).env("COLUMNS", "100").env("NO_COLOR", "1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that are shown.
fn commands() -> Vec<String> {
    let help = prints(&["--help"]);
    let named = help.lines().filter(|line| line.starts_with("  ") && !line.starts_with("  -"));
    named.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn command_page() -> String {
    let mut text = format!("{MADE}# Commands\n\n```\n{}```\n", prints(&["--help"]));
    for command in commands() {
        let _ = write!(text, "\n## `brownout {command}`\n\n```\n{}```\n", prints(&[&command, "--help"]));
    }
    text
}

fn exit_table() -> String {
    let mut text = "| code | meaning |\n|---|---|\n".to_owned();
    for (exit, meaning) in Exit::ALL {
        let _ = writeln!(text, "| {} | {meaning} |", *exit as u8);
    }
    text
}

fn fault_table() -> String {
    let mut text = "| fault | what it does | if brownout is killed |\n|---|---|---|\n".to_owned();
    for topic in topics().iter().filter(|topic| topic.section == Section::Fault) {
        let tier = topic.tier.unwrap();
        let _ = writeln!(text, "| [`{0}`](docs/faults.md#{0}) | {1} | {tier} |", topic.word, topic.gist());
    }
    text
}

fn pages() -> Vec<(&'static str, String)> {
    let faults = "What is done to the system: `[fault.NAME.KIND]`. `brownout explain KIND` says the same.";
    let probes =
        "How the system is watched: `[probe.NAME.KIND]`. `brownout explain probe.KIND` says the same.";
    let exits = format!(
        "{MADE}# Exit codes\n\n{}\nWhere several apply, the first of these counts: 5, 70, 130 and 143, 3, 4 (our own probes could not \
         keep up), 1, 4 (everything else), 0.\n",
        exit_table()
    );
    vec![
        ("docs/faults.md", kinds(Section::Fault, "Faults", faults, "fault")),
        ("docs/probes.md", kinds(Section::Probe, "Probes", probes, "probe")),
        ("docs/experiment-file.md", file_page()),
        ("docs/commands.md", command_page()),
        ("docs/exit-codes.md", exits),
        ("docs/experiment.schema.json", serde_json::to_string_pretty(&schema()).unwrap() + "\n"),
    ]
}

/// README.md with its generated sections made anew: each stands between `<!-- NAME -->` and `<!-- end -->`.
fn readme(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, made) in [("faults", fault_table()), ("exit codes", exit_table())] {
        let begin = format!("<!-- {name}, made by tests/docs.rs -->\n");
        let at = text.find(&begin).unwrap_or_else(|| panic!("README.md has no section {name}")) + begin.len();
        let end = at + text[at..].find("<!-- end -->").unwrap();
        text.replace_range(at..end, &made);
    }
    text
}

fn update() -> bool {
    std::env::var_os("BROWNOUT_UPDATE_DOCS").is_some()
}

#[test]
fn the_generated_pages_are_fresh() {
    let path = root().join("README.md");
    let readme = readme(&std::fs::read_to_string(path).unwrap());
    let mut stale = Vec::new();
    for (name, text) in pages().into_iter().chain([("README.md", readme)]) {
        let path = root().join(name);
        if std::fs::read_to_string(&path).unwrap_or_default() == text {
            continue;
        }
        if update() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        } else {
            stale.push(name);
        }
    }
    assert_eq!(stale, Vec::<&str>::new(), "make them anew: BROWNOUT_UPDATE_DOCS=1 cargo test --test docs");
}

fn documents() -> Vec<(PathBuf, String)> {
    let names = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    let ours = names.iter().map(|name| root().join(name));
    let made = pages()
        .into_iter()
        .map(|(name, _)| root().join(name))
        .filter(|path| path.extension().is_some_and(|e| e == "md"));
    ours.chain(made).map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn what_the_documents_point_at_is_there() {
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            if !file.is_empty() && !file.starts_with("http") {
                assert!(path.parent().unwrap().join(file).exists(), "{}: {link}", path.display());
            }
        }
        for named in text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.starts_with("src/") && !word.contains("KIND"))
        {
            let named = named.split([' ', ':', '*']).next().unwrap();
            assert!(root().join(named).exists(), "{} names {named}", path.display());
        }
    }
}

/// The blocks of a language in a document, without their fences.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let rest = text.split(&begin).skip(1);
    rest.filter_map(|rest| rest.split("```").next().map(str::to_owned)).collect()
}

#[test]
fn every_command_in_the_documents_exists() {
    let known: BTreeSet<String> = commands().into_iter().collect();
    for (path, text) in documents() {
        for block in ["", "sh"].iter().flat_map(|language| blocks(&text, language)) {
            for line in block.lines().filter_map(|line| line.trim_start().strip_prefix("brownout ")) {
                let word = line.split_whitespace().next().unwrap();
                assert!(word.starts_with('-') || known.contains(word), "{}: brownout {line}", path.display());
            }
        }
    }
}

fn first_experiment() -> String {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    blocks(&text, "toml").into_iter().next().unwrap()
}

#[test]
fn the_first_experiment_of_the_readme_has_fifteen_lines_and_is_good() {
    let text = first_experiment();
    let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(lines, 15, "{text}");
    let checked = Draft::from_text("first.toml".as_ref(), &text).check(&mut Surroundings::pretended());
    let checked = checked.unwrap_or_else(|why| panic!("{}", why.mistakes.render(&why.sources, false)));
    assert_eq!(checked.warnings.counts(), (0, 0));
}

#[test]
fn the_first_experiment_of_the_readme_passes() {
    let world = support::World::new();
    let file = world.folder.path().join("first.toml");
    std::fs::write(&file, first_experiment()).unwrap();
    let mut command = support::brownout(&world.state());
    let output = command.current_dir(world.folder.path()).args(["run", "first.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", support::said(&output));
    world.nothing_left();
}

/// Not a test: prints the live view at a moment of a journal, for the picture in README.md:
/// `BROWNOUT_JOURNAL=RUN/journal.ndjson BROWNOUT_AT=9.5 cargo test --test docs picture -- --ignored --nocapture`.
#[test]
#[ignore = "it makes a picture, and checks nothing"]
fn picture() {
    let events = journal::read(std::env::var("BROWNOUT_JOURNAL").unwrap().as_ref()).unwrap();
    let at: f64 = std::env::var("BROWNOUT_AT").unwrap().parse().unwrap();
    let lines = frame(&State::at(&events, at * 1e3), 100, 40, Paint { colour: false });
    println!("{}", lines.join("\n"));
}
