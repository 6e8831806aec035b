//! The renderings of whole runs.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use super::*;
use crate::event::{Event, Listener, Losses, What};

fn all() -> [(&'static str, Vec<Event>); 7] {
    [
        ("broken_promise", stories::broken_promise()),
        ("kept_promise", stories::kept_promise()),
        ("guard_abort", stories::guard_abort()),
        ("not_undone", stories::not_undone()),
        ("inconclusive", stories::inconclusive()),
        ("unhealthy_before", stories::unhealthy_before()),
        ("killed", stories::killed()),
    ]
}

fn told(events: &[Event]) -> Report {
    Story::of(events).report(&Losses::default())
}

#[test]
fn every_run_has_its_markdown() {
    for (name, events) in all() {
        insta::assert_snapshot!(format!("{name}.md"), markdown(&told(&events)));
    }
}

#[test]
fn every_run_has_its_junit() {
    for (name, events) in all() {
        insta::assert_snapshot!(format!("{name}.junit"), junit(&told(&events)));
    }
}

#[test]
fn every_run_has_its_summary_of_at_most_100_columns() {
    for (name, events) in all() {
        let place = Path::new("brownout-runs/20260302T140200Z-orders-53c51b72/report.md");
        let text = summary(&told(&events), Some(place), 100, Paint { colour: false });
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        insta::assert_snapshot!(format!("{name}.summary"), text);
    }
}

#[test]
fn every_run_has_its_plain_lines() {
    for (name, events) in all() {
        let lines: Vec<String> = events.iter().filter_map(plain).collect();
        insta::assert_snapshot!(format!("{name}.plain"), lines.join("\n"));
    }
}

#[test]
fn the_facts_of_a_run_are_those_that_happened() {
    insta::assert_snapshot!("broken_promise.json", json(&told(&stories::broken_promise())));
}

fn validator() -> &'static jsonschema::Validator {
    static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let schema: serde_json::Value = serde_json::from_str(SCHEMA).unwrap();
        jsonschema::validator_for(&schema).unwrap()
    });
    &VALIDATOR
}

#[test]
fn every_report_fits_the_published_schema() {
    let validator = validator();
    for (name, events) in all() {
        for end in [1, events.len() / 3, events.len() / 2, events.len()] {
            let report = serde_json::from_str(&json(&told(&events[..end]))).unwrap();
            let wrong: Vec<String> =
                validator.iter_errors(&report).map(|why| format!("{}: {why}", why.instance_path())).collect();
            assert_eq!(wrong, Vec::<String>::new(), "{name} after {end} events");
        }
    }
}

#[test]
fn the_schema_knows_every_field_there_is() {
    let validator = validator();
    let mut report: serde_json::Value =
        serde_json::from_str(&json(&told(&stories::broken_promise()))).unwrap();
    report["faults"][0]["surprise"] = 1.into();
    assert!(!validator.is_valid(&report), "an unknown field must not pass, or this test proves nothing");
}

#[test]
fn a_report_from_the_journal_is_the_report_of_the_run() {
    for (name, events) in all() {
        let place = tempfile::tempdir().unwrap();
        let folder = crate::host::folder::Folder::open(place.path()).unwrap();
        let (mut journal, mut story) = (Journal::create(&folder).unwrap(), Story::default());
        for event in &events {
            journal.hear(event);
            story.hear(event);
        }
        assert!(journal.finish(std::time::Duration::from_mins(1)).none());
        let back = journal::read(&place.path().join(journal::NAME)).unwrap();
        assert_eq!(told(&back), story.report(&Losses::default()), "{name}");
    }
}

#[test]
fn a_report_reads_back() {
    for (_, events) in all() {
        let report = told(&events);
        assert_eq!(serde_json::from_str::<Report>(&json(&report)).unwrap(), report);
    }
}

/// What hostile text could break, in every place where text comes from outside.
fn hostile() -> Report {
    let text = "</failure>\"'&<script>alert(1)</script>|`x`\u{1b}[31m\u{0}\n# head\u{fffe}]]>";
    let mut events = stories::broken_promise();
    for event in &mut events {
        match &mut event.what {
            What::Began { title, host, file, .. } => {
                (*title, *host, *file) = (text.to_owned(), text.to_owned(), text.to_owned());
            }
            What::Judged { judged } => judged.why = text.to_owned(),
            What::Injecting { harm, .. } => *harm = text.to_owned(),
            What::Sample { why: Some(why), .. } => *why = text.to_owned(),
            What::Tally { totals, .. } => {
                for reason in &mut totals.reasons {
                    reason.why = text.to_owned();
                }
            }
            _ => {}
        }
    }
    told(&events)
}

#[test]
fn hostile_text_breaks_neither_a_table_nor_a_terminal() {
    let report = hostile();
    let text = markdown(&report);
    assert!(!text.contains("\n# head") && !text.contains('\u{1b}'));
    let unescaped = |line: &str| {
        let bars = line.chars().zip(std::iter::once(' ').chain(line.chars()));
        bars.filter(|(c, before)| *c == '|' && *before != '\\').count()
    };
    let tables: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    for table in tables.windows(2).filter(|pair| pair[0].starts_with("| +") == pair[1].starts_with("| +")) {
        assert!(matches!(unescaped(table[0]), 4 | 8 | 14), "{}", table[0]);
    }
    let shown = summary(&report, None, 100, Paint { colour: false });
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
}

#[test]
fn junit_is_xml_that_another_program_reads() {
    const READ: &str = "import sys, xml.dom.minidom as m
for text in sys.stdin.buffer.read().split(b'\\0'):
    d = m.parseString(text).documentElement
    for tag, count in [('testcase', 'tests'), ('failure', 'failures'), ('error', 'errors'), ('skipped', 'skipped')]:
        assert int(d.getAttribute(count)) == len(d.getElementsByTagName(tag)), (tag, text)
print('read')";
    let mut texts: Vec<String> = all().iter().map(|(_, events)| junit(&told(events))).collect();
    texts.push(junit(&hostile()));
    let spawned =
        Command::new("python3").args(["-c", READ]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = spawned else {
        assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"), "python3 is missing");
        eprintln!("SKIPPED: there is no python3 to read the XML");
        return;
    };
    python.stdin.take().unwrap().write_all(texts.join("\0").as_bytes()).unwrap();
    assert_eq!(python.wait_with_output().unwrap().stdout, b"read\n", "python's own words are above");
}

#[test]
fn a_fault_answers_for_the_bad_looks_that_were_under_way_while_it_was_live() {
    let fault = |name: &str| What::Injecting {
        fault: name.to_owned(),
        kind: "pause".to_owned(),
        harm: String::new(),
        tier: crate::undo::Tier::Kernel,
        mechanism: None,
    };
    let undone = |name: &str| What::Undone { fault: name.to_owned(), took_ms: 1.0 };
    let bad = |at_ms: f64, took: f64| {
        let mut event = stories::look("order", at_ms, Some("refused"));
        if let What::Sample { intended_ms, .. } = &mut event.what {
            *intended_ms = at_ms - took;
        }
        event
    };
    let report = told(&[
        bad(50.0, 10.0), // before anything: nobody's
        stories::event(100.0, fault("a")),
        bad(120.0, 30.0), // began before a, ended during it
        stories::event(200.0, undone("a")),
        bad(250.0, 60.0), // was under way when a ended
        bad(400.0, 10.0), // after a, before b: still a's
        stories::event(500.0, fault("b")),
        bad(600.0, 10.0), // b's alone
        stories::event(700.0, undone("b")),
    ]);
    let counts: Vec<(&str, u64, f64)> = report
        .faults
        .iter()
        .map(|fault| (fault.name.as_str(), fault.bad_looks, fault.noticed.as_ref().unwrap().after_ms))
        .collect();
    assert_eq!(counts, [("a", 3, 20.0), ("b", 1, 100.0)]);
    assert_eq!(report.faults[0].hurt_ms, Some(310.0));
}

#[test]
fn a_story_does_not_grow_with_a_run() {
    let mut story = Story::default();
    for n in 0..20_000 {
        let fault = "again".to_owned();
        let at = f64::from(n);
        story.hear(&stories::event(
            at,
            What::Injecting {
                fault: fault.clone(),
                kind: "kill".to_owned(),
                harm: String::new(),
                tier: crate::undo::Tier::Kernel,
                mechanism: None,
            },
        ));
        story.hear(&stories::event(at, What::Undone { fault, took_ms: 1.0 }));
    }
    let report = story.report(&Losses::default());
    assert_eq!((report.faults.len(), report.timeline.len()), (2_000, 2_000));
    assert_eq!(report.timeline_left_out, 38_000);
    assert!(report.faults.last().unwrap().began.ms > 19_998.0, "the last one is kept");
}

mod any_order {
    use proptest::prelude::*;

    use super::*;
    use crate::report::live::{State, frame};

    /// Events of some runs, mixed up, some of them left out, some at impossible times.
    fn muddle() -> impl Strategy<Value = Vec<Event>> {
        let events: Vec<Event> = all()
            .into_iter()
            .flat_map(|(_, events)| events)
            .filter(|event| !matches!(event.what, What::Sample { .. }) || event.at_ms.rem_euclid(1e3) < 50.0)
            .collect();
        let moment = prop_oneof![4 => 0.0..60_000.0, 1 => prop::sample::select(vec![0.0, -5.0, 1e18, 1e300])];
        prop::collection::vec((prop::sample::select(events), moment), 0..60)
            .prop_map(|events| events.into_iter().map(|(event, at_ms)| Event { at_ms, ..event }).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn every_face_bears_events_in_any_order(events in muddle(), width in 0_usize..150, rows in 0_usize..60) {
            let report = told(&events);
            let json = serde_json::to_value(&report).unwrap();
            let wrong = validator().validate(&json);
            prop_assert!(wrong.is_ok(), "{:?}", wrong);
            prop_assert!(markdown(&report).contains("## Action items"));
            prop_assert!(junit(&report).ends_with("</testsuites>\n"));
            let text = summary(&report, None, width, Paint { colour: false });
            prop_assert!(text.lines().all(|line| line.chars().count() <= width.clamp(60, 100)));
            let mut state = State::default();
            for event in &events {
                state.take(event);
                let _ = plain(event);
                let lines = frame(&state, width, rows, Paint { colour: false });
                prop_assert!(lines.iter().all(|line| line.chars().count() <= width.max(40)));
            }
        }
    }
}

#[test]
fn what_a_kill_breaks_after_the_last_undo_is_counted_too() {
    let mut events = stories::kept_promise();
    for event in &mut events {
        if let What::Tally { phase: crate::event::Phase::Recovery, totals, .. } = &mut event.what {
            (totals.good, totals.bad, totals.longest_outage_ms) = (136, 64, 2_650.0);
        }
    }
    let report = told(&events);
    assert_eq!((report.impact.failed, report.impact.failed_after), (Some(0), Some(64)));
    let text = summary(&report, None, 100, Paint { colour: false });
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("lasted longest outage 2.65 s; 0 of 608 looks failed"), "{text}");
    assert!(text.contains(", and 64 more while it recovered"), "{text}");
    let text = markdown(&report);
    assert!(
        text.contains("**Requests failed:** 64 ") && text.contains("**Longest outage:** 2.65 s"),
        "{text}"
    );
}
