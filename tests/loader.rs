//! The experiment files of `tests/cases`, through the loader.
//!
//! A case ends with what is said about it, a line each: `#! file:line: message`. A case with kinds that are
//! not built says so, `#? fault.latency`, and is skipped without them. `{probes}` and `{faults}` stand for the kinds
//! there are. `BROWNOUT_BLESS=1` writes what is said into the cases, to be looked through by a person.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use brownout::experiment::model::{Budget, Moment, Proof, Ready};
use brownout::experiment::{Checked, Count, Draft, Experiment, Refused, Surroundings, schema};
use brownout::fault::AnyFault;
use brownout::host::target::Selector;
use brownout::probe::AnyProbe;

fn surroundings() -> Surroundings {
    let mut next = 7000;
    Surroundings {
        env: Box::new(|name| match name {
            "REGION" => Some("eu".to_owned()),
            "TOKEN" => Some("hunter22".to_owned()),
            "RATE" => Some("25/s".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }),
        port: Box::new(move |_| {
            next += 1;
            next
        }),
        services_dir: PathBuf::from("/srv"),
    }
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(folder);
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    paths.sort();
    paths
}

/// Whether the kinds a case needs are built; says so where they are not.
fn has_its_kinds(path: &Path, text: &str) -> bool {
    let needs = text.lines().filter_map(|line| line.strip_prefix("#? ")).flat_map(str::split_whitespace);
    let missing: Vec<&str> = needs
        .filter(|need| match need.split_once('.') {
            Some(("fault", kind)) => !AnyFault::KINDS.contains(&kind),
            Some(("probe", kind)) => !AnyProbe::KINDS.contains(&kind),
            _ => panic!("{}: `{need}` is no kind", path.display()),
        })
        .collect();
    if missing.is_empty() {
        return true;
    }
    println!("SKIPPED: {} needs {}", path.display(), missing.join(", "));
    assert!(
        std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"),
        "{} needs {missing:?}",
        path.display()
    );
    false
}

fn check(path: &Path) -> Result<Checked, Refused> {
    Draft::read(path).check(&mut surroundings())
}

/// What is said about a file, without the folder.
fn said(path: &Path) -> (bool, Vec<String>) {
    let folder = format!("{}/", path.parent().unwrap().display());
    let (good, lines) = match check(path) {
        Ok(checked) => (true, checked.warnings.lines(&checked.sources)),
        Err(refused) => (false, refused.mistakes.lines(&refused.sources)),
    };
    (good, lines.into_iter().map(|line| line.replace(&folder, "").replace('\n', "\\n")).collect())
}

/// Compares what is said about every case of a folder with what the cases say.
fn walk(folder: &str, good: bool) -> usize {
    let mut wrong = Vec::new();
    let mut count = 0;
    for path in cases(folder) {
        let text = std::fs::read_to_string(&path).unwrap();
        if !has_its_kinds(&path, &text) {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let (found_good, found) = said(&path);
        let kinds = |line: &str| {
            line.replace("{probes}", &AnyProbe::KINDS.join(", "))
                .replace("{faults}", &AnyFault::KINDS.join(", "))
        };
        let expected: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("#! ")).map(kinds).collect();
        if std::env::var_os("BROWNOUT_BLESS").is_some() && found != expected {
            let body: Vec<&str> = text.lines().filter(|line| !line.starts_with("#! ")).collect();
            let hide = |line: &str, kinds: &[&str], word: &str| {
                line.replace(&format!("kinds: {})", kinds.join(", ")), &format!("kinds: {word})"))
            };
            let mut said = String::new();
            for line in &found {
                let line = hide(&hide(line, AnyProbe::KINDS, "{probes}"), AnyFault::KINDS, "{faults}");
                said.extend(["#! ", &line, "\n"]);
            }
            std::fs::write(&path, format!("{}\n\n{said}", body.join("\n").trim_end())).unwrap();
        }
        if found_good != good {
            wrong.push(format!(
                "{name} is {}, and says {found:#?}",
                if found_good { "good" } else { "refused" }
            ));
        } else if found != expected {
            wrong.push(format!("{name} says {found:#?}, and should say {expected:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    count
}

fn experiment(path: &str) -> Option<Experiment> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(path);
    has_its_kinds(&path, &std::fs::read_to_string(&path).unwrap()).then(|| check(&path).unwrap().experiment)
}

#[test]
fn good_files_are_read_and_only_warned_of_what_they_expect() {
    assert!(walk("good", true) >= 10);
}

#[test]
fn refused_files_are_refused_with_every_mistake_at_its_place() {
    assert!(walk("refused", false) >= 40);
}

#[test]
fn example_a_is_read_into_the_model_word_by_word() {
    let Some(a) = experiment("good/example-a.toml") else { return };
    assert_eq!(a.title, "Orders API survives a slow Redis and a Postgres crash");
    assert_eq!(
        (a.seed, a.owner.as_deref(), a.tags.as_slice()),
        (Some(42), Some("orders"), &["ci".to_owned()][..])
    );
    let services: Vec<&str> = a.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(services, ["postgres", "redis", "api"]);
    let postgres = &a.services[0];
    assert_eq!(postgres.dir.as_deref(), Some(Path::new("/srv/postgres")));
    assert_eq!(
        (postgres.user.as_deref(), postgres.restart_after),
        (Some("postgres"), Some(Duration::from_secs(1)))
    );
    let port = postgres.port.unwrap().to_string();
    assert_eq!(postgres.run, ["postgres", "-D", "/srv/postgres", "-p", &port, "-k", "/srv/postgres"]);
    assert_eq!(postgres.ready_within, Duration::from_secs(30));
    assert!(matches!(&postgres.ready, Some(Ready::Exec(words)) if words[4] == port));
    let (redis, api) = (&a.services[1], &a.services[2]);
    let there = format!("127.0.0.1:{}", redis.port.unwrap());
    assert!(matches!(&redis.ready, Some(Ready::Tcp(address)) if *address == there));
    assert_eq!((api.env["REDIS"].as_str(), api.needs.len()), (there.as_str(), 2));

    assert_eq!(a.probes[0].rhythm.unwrap().to_string(), "20/s");
    assert_eq!(a.probes[1].once, Some(brownout::experiment::model::Once::After));
    let slo = &a.slos[0];
    assert_eq!(slo.promises.availability.unwrap().to_string(), "99%");
    assert_eq!(slo.promises.latency, [(0.95, Duration::from_millis(300))]);
    assert_eq!(slo.during[0].0, 1);
    assert_eq!(slo.during[0].1.longest_outage, Some(Duration::from_secs(10)));
    assert_eq!((a.steady_for, a.recovery_within), (Duration::from_secs(10), Duration::from_secs(30)));
    assert_eq!((a.guard.budget, a.proof), (Some(Budget::Seconds(20.0)), Proof::Observed));
    let (slow, crash) = (&a.faults[0], &a.faults[1]);
    assert_eq!((slow.at.clone(), slow.hold), (Moment::Zero(Duration::ZERO), Some(Duration::from_secs(30))));
    assert!(matches!(&slow.target.as_ref().unwrap().selector, Selector::Service(name) if name == "redis"));
    assert!(matches!(&slow.from.as_ref().unwrap().selector, Selector::Service(name) if name == "api"));
    assert_eq!((crash.at.clone(), crash.hold), (Moment::End(0, Duration::from_secs(5)), None));
    assert_eq!(slow.ttl(), Duration::from_mins(1));

    let late = a.probes[1].late.as_ref().unwrap();
    let asked = std::cell::RefCell::new(Vec::new());
    let look = late.look(|probe, count| {
        asked.borrow_mut().push((probe.to_owned(), count));
        777
    });
    assert!(format!("{look:?}").contains("777"), "{look:?}");
    assert_eq!(asked.into_inner(), [("order".to_owned(), Count::Good)]);
}

#[test]
fn every_good_file_fits_the_schema() {
    let schema = schema();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for path in cases("good") {
        let text = std::fs::read_to_string(&path).unwrap();
        if has_its_kinds(&path, &text) {
            let errors: Vec<String> =
                validator.iter_errors(&json(&text)).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        }
    }
}

/// A TOML text as JSON.
fn json(text: &str) -> serde_json::Value {
    use brownout::file::{Mistakes, Read, Sources};
    let mut mistakes = Mistakes::default();
    let node = Sources::default().parse("x.toml", text, &mut mistakes);
    assert!(!mistakes.refuse());
    serde_json::Value::read(&node, &mut mistakes).unwrap()
}

#[test]
fn broken_types_do_not_fit_the_schema() {
    let schema = schema();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "the schema itself is one of draft 2020-12");
    for text in [
        "title = 1",
        "tags = 'ci'",
        "seed = -1",
        "seed = '7'",
        "max_duration = 30",
        "max_duration = '30'",
        "colour = 'blue'",
        "[service.a]\nrun = 'redis-server'",
        "[service.a]\nneeds = []",
        "[service.a]\nrun = ['x']\nrestart = 'always'",
        "[service.a]\nrun = ['x']\nready = { tcp = 1 }",
        "[probe.a]\nrate = '20/s'",
        "[probe.a.tcp]\naddress = 'x:1'\nrate = 20",
        "[probe.a.tcp]\naddress = 'x:1'\nonce = 'sometimes'",
        "[probe.a.tcp]\naddress = 'x:1'\nin_flight = 0",
        "[probe.a.tcp]\nrate = '20/s'",
        "[probe.a.nosuch]\nrate = '20/s'",
        "[slo.a]\navailability = '99%'",
        "[slo.a]\nprobe = 'a'\navailability = 99",
        "[slo.a]\nprobe = 'a'\nlatency = [{ percentile = 'p30', below = '1s' }]",
        "[slo.a.during.x]\nlongest = '1s'",
        "[guard]\nbudget = 20",
        "[guard]\nbudget = 'some'",
        "[fault.a.kill]\ntarget = 3",
        "[fault.a.kill]\ntarget = { listen = 70000 }",
        "[fault.a.kill]\ntarget = { service = 'x', pick = 'some' }",
        "[fault.a.pause]\ntarget = { service = 'x' }",
        "[fault.a.kill]\nto = { service = 'x' }",
        "[fault.a.kill]\ntarget = 'x'\nat = 'later'",
        "[fault.a.kill]\ntarget = 'x'\ntimes = 0",
        "[blast_radius]\nmax_targets = 0",
        "[blast_radius]\nwindow = 'always'",
        "[verdict]\nproof = 'certain'",
        "[defaults.probe.tcp]\nrate = 5",
        "[defaults.probe.nosuch]\nrate = '5/s'",
    ] {
        assert!(!validator.is_valid(&json(text)), "{text}");
    }
}

/// How the mistakes of a refused case are shown to a person.
fn shown(case: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/refused").join(case);
    let folder = format!("{}/", path.parent().unwrap().display());
    let refused = check(&path).unwrap_err();
    refused.mistakes.render(&refused.sources, false).replace(&folder, "")
}

#[test]
fn mistakes_of_one_file_are_shown_as_a_compiler_would() {
    insta::assert_snapshot!(shown("unknown-keys.toml"));
}

#[test]
fn what_takes_two_places_is_shown_at_both_also_across_files() {
    insta::assert_snapshot!(shown("include-defines-again.toml"));
}

#[test]
fn impossible_combinations_are_shown_with_their_reason() {
    insta::assert_snapshot!(shown("faults-clash.toml") + &shown("steady-too-short.toml"));
}
