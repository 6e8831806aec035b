//! The functions of the fuzz targets, over seeded mutations of the cases: bounded, and the same on every run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;

mod mutated;

/// A small generator of its own: a test draws nothing from the experiment's dice.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap() % end.max(1)
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut paths: Vec<PathBuf> = ["good", "refused"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(cases.join(folder)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && std::fs::metadata(path).unwrap().len() < 8192)
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Words at which readers stumble.
const BAD: &[&str] = &[
    "\"\"",
    "-1",
    "0",
    "99999999999999999999",
    "1e308",
    "nan",
    "inf",
    "\"1e308s\"",
    "\"0s\"",
    "\"10y\"",
    "{}",
    "[]",
    "[[]]",
    "\"${\"",
    "\"${self.port}\"",
    "\"a.end\"",
    "\"\\u0000\"",
    "\"100%\"",
    "\"-5%\"",
    "\"0/s\"",
    "true",
    "1979-05-27",
    "\"\u{1F4A5}\"",
    "\"1000000/s\"",
    "\"3650d\"",
    "4294967295",
    "\"operator\"",
    "\"1 of 30d\"",
];

/// Changes a text in one to four ways: bytes, lines dropped, doubled or swapped, values replaced, texts joined.
fn mutate(text: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut text = text.to_vec();
    for _ in 0..=chance.below(4) {
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let (one, two) = (chance.below(lines.len()), chance.below(lines.len()));
        let mut lines: Vec<Vec<u8>> = lines.into_iter().map(<[u8]>::to_vec).collect();
        match chance.below(7) {
            0 if !lines.is_empty() => drop(lines.remove(one)),
            1 if !lines.is_empty() => lines.insert(two, lines[one].clone()),
            2 if !lines.is_empty() => lines.swap(one, two),
            3 | 4 if !lines.is_empty() => {
                if let Some(equals) = lines[one].iter().position(|byte| *byte == b'=') {
                    lines[one].truncate(equals + 1);
                    lines[one].extend(BAD[chance.below(BAD.len())].as_bytes());
                    lines[one].push(b'\n');
                }
            }
            5 => lines.push(other.to_vec()),
            _ => {
                let mut bytes = lines.concat();
                if !bytes.is_empty() {
                    let at = chance.below(bytes.len());
                    bytes[at] = u8::try_from(chance.below(128)).unwrap();
                }
                lines = vec![bytes];
            }
        }
        text = lines.concat();
    }
    text
}

#[test]
fn mutated_experiments_are_read_or_refused_and_never_panic() {
    let corpus = corpus();
    assert!(corpus.len() > 60, "the cases are there");
    for text in &corpus {
        mutated::load(text);
    }
    let mut chance = Chance(0x0B20_3107);
    let (begun, mut count) = (Instant::now(), 0);
    // At most 20,000, and as many of them as two seconds hold: a busy machine only looks at fewer.
    while count < 20_000 && begun.elapsed() < Duration::from_secs(2) {
        let text =
            mutate(&corpus[chance.below(corpus.len())], &corpus[chance.below(corpus.len())], &mut chance);
        mutated::load(&text);
        count += 1;
    }
    println!("{count} mutated experiments");
    assert!(count >= 20, "only {count} in two seconds");
}

#[test]
fn mutated_undo_logs_are_read_or_refused_and_never_panic() {
    let corpus = logs();
    let mut chance = Chance(0x0B20_3108);
    for log in &corpus {
        let (header, owed) = brownout::undo::read_bytes::<brownout::fault::Entry>(log).unwrap();
        assert!(header.is_some() && !owed.is_empty());
        for cut in 0..=log.len() {
            mutated::read_log(&log[..cut]);
        }
        for _ in 0..700 {
            let mut text = mutate(log, &corpus[chance.below(corpus.len())], &mut chance);
            mutated::read_log(&text);
            // Behind a right checksum, the record itself is reached.
            text = resealed(&text);
            mutated::read_log(&text);
        }
    }
}

/// Gives every line a right checksum.
fn resealed(log: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(log);
    let seal = |line: &str| {
        let json = line.split_once(' ').map_or("", |(_, json)| json);
        format!("{:016x} {json}\n", brownout::base::dice::fnv1a(json.as_bytes()))
    };
    text.lines().map(seal).collect::<Vec<_>>().concat().into_bytes()
}

/// Logs as runs write them, one of each kind of record.
fn logs() -> Vec<Vec<u8>> {
    let header = r#"{"header":{"version":1,"run":"00c0ffee","boot":"b","pid":1,"title":"t","started":"s","folder":"/f"}}"#;
    let identity = r#"{"pid":1,"start":2,"boot":"b"}"#;
    let owed = [
        format!(r#"{{"kind":"kill","targets":[{identity}]}}"#),
        format!(r#"{{"kind":"pause","targets":[{identity}],"holder":{identity}}}"#),
        format!(
            r#"{{"kind":"disk-fill","path":"/x","device":1,"bytes":2,"free_before":3,"holder":{identity}}}"#
        ),
        format!(
            r#"{{"kind":"inode-fill","path":"/x","device":1,"count":2,"free_before":3,"holder":{identity},"name":"n"}}"#
        ),
        format!(r#"{{"kind":"cpu","holder":{identity},"name":"n"}}"#),
        r#"{"kind":"memory","bytes":1,"available_before":2,"mark":"m"}"#.to_owned(),
        format!(r#"{{"kind":"fds","targets":[{{"process":{identity},"before":2,"during":1}}]}}"#),
        format!(
            r#"{{"kind":"starve","fence":{{"ground":{{"group":"/nowhere","from":null,"unified":true}},"limits":[[{{"file":"f","device":null,"during":"d","without":"max"}},"b"]]}},"targets":[{identity}]}}"#
        ),
        format!(
            r#"{{"kind":"threads","fence":{{"ground":{{"group":"/nowhere","from":null,"unified":true}},"limits":[[{{"file":"f","device":null,"during":"d","without":"max"}},"b"]]}},"targets":[{identity}]}}"#
        ),
        format!(
            r#"{{"kind":"memory-limit","fence":{{"ground":{{"group":"/nowhere","from":null,"unified":true}},"limits":[[{{"file":"f","device":null,"during":"d","without":"max"}},"b"]]}},"targets":[{identity}]}}"#
        ),
        format!(
            r#"{{"kind":"freeze","freezer":{{"group":"/nowhere","inode":1,"unified":true}},"boot":"b","targets":[{identity}]}}"#
        ),
        format!(
            r#"{{"kind":"unit","at":"unix:path=/x","boot":"b","action":"stop","units":[{{"name":"a.service","active":"active","main_pid":1,"invocation":"i"}}],"processes":[{identity}],"triggered_by":[]}}"#
        ),
        r#"{"kind":"exec","mark":{"limit":1,"word":"w","by_limit":true},"session":1,"boot":"b","undo":["a"],"remains":[],"undo_within":{"secs":1,"nanos":0},"directory":"/"}"#
            .to_owned(),
        r#"{"kind":"service","run":"00000001","name":"n","mark":{"limit":1,"word":"w","by_limit":false},"boot":"b","port":null,"dir":null}"#
            .to_owned(),
    ];
    owed.iter()
        .map(|owed| {
            let record =
                format!(r#"{{"fault":"f","host":"","deadline":{{"secs":9,"nanos":0}},"owed":{owed}}}"#);
            let lines = [
                header.to_owned(),
                r#"{"claims":[]}"#.to_owned(),
                format!(r#"{{"owed":{{"n":0,"record":{record}}}}}"#),
                format!(r#"{{"owed":{{"n":1,"record":{record}}}}}"#),
                r#"{"undone":{"n":0}}"#.to_owned(),
            ];
            // Any word before the first space: the checksum takes its place.
            resealed(lines.map(|line| format!("0 {line}")).join("\n").as_bytes())
        })
        .collect()
}

/// A line that looks like one of an experiment.
fn line() -> impl Strategy<Value = String> {
    let section = "(service|probe|fault|slo|expect|target|host|guard|blast_radius|steady_state|defaults|x)";
    let header =
        format!(r"\[{section}(\.[a-c]|\.a\.b)?(\.(tcp|http|exec|kill|pause|disk-fill|latency|during|x))?\]");
    let word = "(title|include|run|needs|env|ready|target|to|from|at|for|every|times|rate|once|timeout|in_flight|\
                probe|availability|latency|longest_outage|budget|window|only|never|each|address|is|of|within|fault|x)";
    let value = r#"(-?[0-9]{1,25}|"[0-9]{1,25}(\.[0-9]{1,9})?(ms|s|m|h|d|%|/s| looks)?"|"[a-c](\.(begin|end))?( \+ [0-9]s)?"|"\$\{[a-z.:-]{0,9}\}?"|\["[a-c]", "[a-z]?"\]|\{ [a-c] = "[a-z]{0,3}" \}|\{ (listen|uid|exe|path|service|address|count) = ("[a-z0-9.:/]{0,9}"|[0-9]{1,6}) \}|true|nan|"\PC{0,8}")"#;
    prop_oneof![
        proptest::string::string_regex(&header).unwrap(),
        (proptest::string::string_regex(word).unwrap(), proptest::string::string_regex(value).unwrap())
            .prop_map(|(word, value)| format!("{word} = {value}")),
        "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn texts_that_look_like_experiments_never_panic(lines in proptest::collection::vec(line(), 0..40)) {
        mutated::load(lines.join("\n").as_bytes());
    }

    #[test]
    fn any_text_never_panics(text in "\\PC{0,200}") {
        mutated::load(text.as_bytes());
    }
}
