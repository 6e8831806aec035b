//! Frames at moments of whole runs, and terminals that do not behave.

use std::io::Read;
use std::os::fd::AsFd;

use super::*;
use crate::event::Listener;
use crate::report::stories;

const PLAIN: Paint = Paint { colour: false };
const LONG: Duration = Duration::from_mins(1);

#[test]
fn the_view_at_the_moments_of_a_run() {
    let moments = [
        ("steady", stories::broken_promise(), 6_000.0),
        ("slow", stories::broken_promise(), 18_250.0),
        ("crashed", stories::broken_promise(), 41_500.0),
        ("recovery", stories::broken_promise(), 49_000.0),
        ("failed", stories::broken_promise(), 99_000.0),
        ("passed", stories::kept_promise(), 99_000.0),
        ("aborted", stories::guard_abort(), 25_950.0),
        ("not_undone", stories::not_undone(), 99_000.0),
        ("inconclusive", stories::inconclusive(), 99_000.0),
        ("unhealthy", stories::unhealthy_before(), 99_000.0),
    ];
    for (name, events, ms) in moments {
        for width in [80, 120] {
            let lines = frame(&State::at(&events, ms), width, 50, PLAIN);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{}", lines.join("\n"));
            insta::assert_snapshot!(format!("{name}.{width}"), lines.join("\n"));
        }
    }
}

#[test]
fn every_moment_of_every_run_fits_any_width_with_and_without_colour() {
    for events in [
        stories::broken_promise(),
        stories::guard_abort(),
        stories::not_undone(),
        stories::inconclusive(),
        stories::unhealthy_before(),
        stories::killed(),
    ] {
        let mut state = State::default();
        for (n, event) in events.iter().enumerate() {
            state.take(event);
            if n % 200 != 0 && matches!(event.what, What::Sample { .. }) {
                continue;
            }
            for width in [0, 40, 61, 80, 200] {
                let plain = frame(&state, width, 50, PLAIN);
                assert!(plain.iter().all(|line| line.chars().count() <= width.max(40)));
                let coloured = frame(&state, width, 50, Paint { colour: true });
                let bare: Vec<String> = coloured.iter().map(|line| without_colour(line)).collect();
                assert_eq!(bare, plain, "colour changes nothing but colour");
            }
        }
    }
}

#[test]
fn a_low_terminal_loses_what_matters_least_and_never_the_verdict() {
    let state = State::at(&stories::broken_promise(), 99_000.0);
    let whole = frame(&state, 100, 50, PLAIN).len();
    for rows in 0..=whole {
        let lines = frame(&state, 100, rows, PLAIN);
        assert!(lines.len() <= rows.max(5), "{rows} rows:\n{}", lines.join("\n"));
        assert!(lines.iter().any(|line| line.starts_with("FAILED: 2 of 3")), "{rows} rows");
        assert!(lines[0].starts_with("Orders survive"));
        assert_eq!(rows == whole, lines.len() == whole);
    }
}

#[test]
fn last_words_to_a_terminal_that_is_stopped_are_given_up() {
    let (reader, writer) = pipe();
    let long = "x".repeat(1 << 20); // More than a pipe holds.
    assert!(!say_at_last(writer, long, Duration::from_millis(20)));
    drop(reader);
    let (mut reader, writer) = pipe();
    assert!(say_at_last(writer, "bye\n".to_owned(), LONG));
    let mut heard = String::new();
    reader.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "bye\n");
}

fn without_colour(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |bare, part| bare + part.split_once('m').unwrap().1)
}

/// Speaks to a face about a whole run, many times over; whether that was fast does not depend on the face.
fn speak(aside: &mut Aside) {
    for _ in 0..40 {
        for event in &stories::broken_promise() {
            aside.hear(event);
        }
    }
}

fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    (File::from(reader), File::from(writer))
}

#[test]
fn a_pipe_nobody_reads_stops_nobody() {
    let (_reader, writer) = pipe();
    let mut aside = Aside::start("json", JsonLines::on(writer), REDRAW).unwrap();
    speak(&mut aside); // Some 40,000 events: far more than pipe and queue hold. It returns, or the test never ends.
    let lost = aside.finish(Duration::from_millis(50));
    assert!(lost.samples > 0, "{lost:?}");
    assert_eq!(lost.error.as_deref(), Some("not done within 50 ms"));
}

#[test]
fn a_pipe_whose_reader_is_gone_stops_nobody() {
    for name in ["json", "plain"] {
        let (reader, writer) = pipe();
        drop(reader);
        let mut aside = if name == "json" {
            Aside::start(name, JsonLines::on(writer), REDRAW).unwrap()
        } else {
            Aside::start(name, PlainLines::on(writer), REDRAW).unwrap()
        };
        speak(&mut aside);
        let lost = aside.finish(LONG);
        assert!(lost.error.as_deref().is_some_and(|why| why.contains("Broken pipe")), "{lost:?}");
    }
}

#[test]
fn a_terminal_that_is_stopped_or_gone_stops_nobody() {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    for gone in [false, true] {
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let live = Live::on(File::from(pty.slave), PLAIN);
        let mut aside = Aside::start("live", live, Duration::from_millis(1)).unwrap();
        let master = if gone { None } else { Some(pty.master) }; // Never read from.
        speak(&mut aside);
        let _ = aside.finish(Duration::from_millis(300));
        drop(master);
    }
}

#[test]
fn the_last_frame_stays_on_the_terminal() {
    let size = nix::pty::Winsize { ws_row: 40, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).unwrap();
    let slave = File::from(pty.slave.as_fd().try_clone_to_owned().unwrap());
    let mut master = File::from(pty.master);
    let reader = std::thread::spawn(move || {
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = master.read(&mut some) {
            seen.extend_from_slice(&some[..n]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    let mut aside = Aside::start("live", Live::on(slave, PLAIN), REDRAW).unwrap();
    for event in &stories::broken_promise() {
        aside.hear(event);
    }
    assert_eq!(aside.finish(LONG).error, None);
    drop(pty.slave);
    let seen = reader.join().unwrap();
    assert!(seen.contains("FAILED: 2 of 3 objectives were broken"), "{seen}");
    assert!(seen.ends_with('\n'));
}

#[test]
fn json_lines_are_the_events_again() {
    let (mut reader, writer) = pipe();
    let events = stories::guard_abort();
    let mut aside = Aside::start("json", JsonLines::on(writer), REDRAW).unwrap();
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    for event in &events {
        aside.hear(event);
    }
    assert!(aside.finish(LONG).none());
    let text = read.join().unwrap();
    let back: Vec<Event> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(back, events);
}
