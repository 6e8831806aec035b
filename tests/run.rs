//! Whole runs of the real binary: against a server of the test's own, hurt by commands that leave a file. No
//! rights are needed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Owned, World, brownout, children, eventually, logs, said};

/// A web server that answers 200; while there is a file `down`, 500; while there is a file `hang`, nothing.
struct Server {
    port: u16,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let folder = folder.clone();
                std::thread::spawn(move || serve(&stream, &folder));
            }
        });
        Self { port }
    }
}

fn serve(stream: &TcpStream, folder: &Path) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(line)) = lines.next() {
        if !line.is_empty() {
            continue;
        }
        while folder.join("hang").exists() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = if folder.join("down").exists() { "500 Broken" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A world with a server in it, in which one experiment is run.
struct Lab {
    world: World,
    server: Server,
}

impl Lab {
    fn new() -> Self {
        let world = World::new();
        let server = Server::start(world.folder.path());
        Self { world, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    /// A fault that makes a file for so long.
    fn makes(&self, name: &str, file: &str, timing: &str) -> String {
        let file = self.path(file).display().to_string();
        format!(
            "[fault.{name}.exec]\ninject = ['touch', '{file}']\nundo = ['rm', '-f', '{file}']\n\
             remains = ['test', '-e', '{file}']\n{timing}\n"
        )
    }

    /// What most experiments here share: a probe with 90 % promised, a short steady state.
    fn watched(&self) -> String {
        format!(
            "[steady_state]\nfor = '600ms'\n[recovery]\nwithin = '10s'\n\
             [probe.page.http]\nurl = 'http://127.0.0.1:{}/'\nrate = '50/s'\n\
             [slo.page]\nprobe = 'page'\navailability = '90%'\n",
            self.server.port
        )
    }

    fn file(&self, text: &str) -> PathBuf {
        let file = self.path("experiment.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    fn command(&self, text: &str) -> Command {
        let file = self.file(&format!("title = 'a test'\n{text}"));
        let mut command = brownout(&self.world.state());
        command.arg("run").arg(file).args(["--yes", "--runs"]).arg(self.path("runs"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, text: &str) -> Ran {
        Ran { output: self.command(text).output().unwrap(), journal: self.journal() }
    }

    /// The journals of all runs here.
    fn journal(&self) -> Vec<Value> {
        let runs = std::fs::read_dir(self.path("runs")).into_iter().flatten().flatten();
        let text =
            runs.map(|run| std::fs::read_to_string(run.path().join("journal.ndjson")).unwrap_or_default());
        text.collect::<String>().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn heard(&self, event: &str) -> bool {
        self.journal().iter().any(|heard| heard["event"] == event)
    }

    /// Nothing is owed, and no harm is there.
    fn clean(&self) {
        assert_eq!(logs(&self.world.state()), Vec::<PathBuf>::new());
        for file in ["down", "hang", "harmless"] {
            assert!(!self.path(file).exists(), "`{file}` is still there");
        }
    }
}

struct Ran {
    output: Output,
    journal: Vec<Value>,
}

impl Ran {
    fn ends(&self, exit: i32, words: &str) -> &Self {
        let why = self.event("ended").map(|event| event["why"].as_str().unwrap_or_default().to_owned());
        assert_eq!(self.output.status.code(), Some(exit), "{why:?}\n{}", said(&self.output));
        let why = why.unwrap_or_else(|| said(&self.output));
        assert!(why.contains(words), "{why}");
        self
    }

    fn event(&self, event: &str) -> Option<&Value> {
        self.journal.iter().find(|heard| heard["event"] == event)
    }
}

fn signal(child: &Child, signal: &str) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

/// Milliseconds of the run at which something happened.
fn at(event: &Value) -> f64 {
    event["at_ms"].as_f64().unwrap()
}

#[test]
fn a_system_that_bears_its_fault_passes_in_a_short_sentence() {
    let lab = Lab::new();
    let ran = lab.run(&(lab.watched() + &lab.makes("bearable", "harmless", "at = '100ms'\nfor = '600ms'")));
    ran.ends(0, "kept: page availability 90%: 0 of ");
    lab.clean();
    let events: Vec<&str> = ran.journal.iter().filter_map(|event| event["event"].as_str()).collect();
    let mut order =
        ["began", "planned", "steady", "zero", "injecting", "live", "undone", "recovered", "judged", "ended"]
            .iter();
    let mut next = order.next();
    for event in events {
        if next == Some(&event) {
            next = order.next();
        }
    }
    assert_eq!(next, None, "each was told, in this order");
    let (live, undone) = (ran.event("live").unwrap(), ran.event("undone").unwrap());
    assert!(at(undone) - at(ran.event("injecting").unwrap()) >= 600.0, "{live} {undone}");
    assert_eq!(live["effect"], "confirmed");
    let mut runs = std::fs::read_dir(lab.path("runs")).unwrap().flatten().map(|entry| entry.path());
    let left = runs.find(|path| path.is_dir()).unwrap();
    for name in ["journal.ndjson", "report.json", "report.md", "junit.xml"] {
        assert!(left.join(name).exists(), "{name}");
    }
}

#[test]
fn a_broken_promise_fails_and_the_worst_comes_first() {
    let lab = Lab::new();
    let guard = "[guard]\nbudget = '1000 looks'\n[slo.never-down]\nprobe = 'page'\nlongest_outage = '10s'\n";
    let ran = lab.run(&(lab.watched() + guard + &lab.makes("break", "down", "at = '0s'\nfor = '800ms'")));
    ran.ends(1, "page availability 90%: ");
    assert!(ran.event("recovered").unwrap()["yes"] == true);
    lab.clean();
}

#[test]
fn a_wrong_file_is_refused_with_all_its_mistakes_and_touches_nothing() {
    let lab = Lab::new();
    let ran = lab.run("[fault.x.exec]\ninject = ['true']\nat = 'y.end'\n[probe.p.http]\nurl = 5\n");
    assert_eq!(ran.output.status.code(), Some(2));
    let text = said(&ran.output);
    for words in ["lacks `undo`", "no fault `y`", "nothing was touched"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!lab.path("runs").exists() && logs(&lab.world.state()).is_empty());
}

#[test]
fn the_guard_ends_a_fault_long_before_its_time() {
    let lab = Lab::new();
    let since = Instant::now();
    let ran = lab.run(
        &(lab.watched()
            + "[guard]\nbudget = '20 looks'\n"
            + &lab.makes("break", "down", "at = '0s'\nfor = '5m'")),
    );
    ran.ends(3, " of 20 bad looks are spent");
    assert!(since.elapsed() < Duration::from_mins(1));
    assert_eq!(ran.event("stopping").unwrap()["because"], "guard");
    assert!(ran.event("recovered").unwrap()["yes"] == true, "recovery is watched after an abort too");
    lab.clean();
}

#[test]
fn a_fault_that_did_not_take_hold_concludes_nothing() {
    let lab = Lab::new();
    let fault = lab
        .makes("nothing", "harmless", "at = '0s'\nfor = '700ms'")
        .replace("'test', '-e'", "'test', '!', '-d'");
    let ran = lab.run(&(lab.watched() + &fault.replace("'test', '!', '-d', ", "'sh', '-c', 'exit 1', ")));
    ran.ends(4, "fault `nothing` did not take hold");
    lab.clean();
}

#[test]
fn a_fault_that_is_over_before_its_effect_was_measured_says_so_and_holds_up_nobody() {
    let lab = Lab::new();
    let file = lab.path("harmless").display().to_string();
    // Whether it is there takes two seconds to see; the next fault waits for its effect.
    let slow = format!(
        "[fault.brief.exec]\ninject = ['touch', '{file}']\nundo = ['rm', '-f', '{file}']\n\
         remains = ['sh', '-c', 'sleep 1; test -e {file}']\nat = '0s'\nfor = '300ms'\n"
    );
    let ran = lab.run(
        &(lab.watched() + &slow + &lab.makes("next", "down2", "at = 'brief.begin + 100ms'\nfor = '300ms'")),
    );
    ran.ends(4, "fault `brief` was over before its effect was measured");
    assert_eq!(ran.journal.iter().filter(|event| event["event"] == "undone").count(), 2);
    lab.clean();
}

#[test]
fn too_few_looks_conclude_nothing() {
    let lab = Lab::new();
    let text =
        lab.watched().replace("90%", "99.9%") + &lab.makes("short", "harmless", "at = '0s'\nfor = '500ms'");
    lab.run(&text).ends(4, "too few to count; 1000 such looks would have sufficed");
    lab.clean();
}

#[test]
fn a_run_longer_than_it_may_be_is_stopped_and_undone() {
    let lab = Lab::new();
    let file = lab.path("harmless").display().to_string();
    let slow = format!(
        "max_duration = '1s'\n[fault.slow.exec]\ninject = ['sh', '-c', 'sleep 2; touch {file}']\n\
         undo = ['rm', '-f', '{file}']\nat = '0s'\nfor = '500ms'\n"
    );
    let ran = lab.run(&format!("{slow}{}", lab.watched()));
    ran.ends(4, "max_duration of 1 s is over");
    lab.clean();
    assert!(ran.event("undone").is_some(), "what had been done by then is undone");
}

#[test]
fn our_own_starved_probes_outrank_what_they_saw() {
    let lab = Lab::new();
    let text = lab.watched().replace("rate = '50/s'", "rate = '50/s'\ntimeout = '400ms'\nin_flight = 1")
        + "[guard]\nbudget = '1000 looks'\n"
        + &lab.makes("stall", "hang", "at = '0s'\nfor = '900ms'");
    lab.run(&text).ends(4, "our own side was starved");
    lab.clean();
}

#[test]
fn an_unhealthy_system_is_not_hurt() {
    let lab = Lab::new();
    std::fs::write(lab.path("down"), "").unwrap();
    let ran = lab.run(&(lab.watched() + &lab.makes("more", "harmless", "at = '0s'\nfor = '500ms'")));
    ran.ends(6, "the system was not healthy, so nothing was injected: page availability 90%");
    assert!(ran.event("injecting").is_none() && ran.event("zero").is_none());
    assert!(logs(&lab.world.state()).is_empty());
}

#[test]
fn a_check_that_fails_before_or_after_says_so() {
    let lab = Lab::new();
    let check = |when: &str, words: &str| {
        format!("[probe.check.exec]\nrun = ['sh', '-c', '{words}']\nonce = '{when}'\n")
    };
    let fault = lab.makes("bearable", "harmless", "at = '0s'\nfor = '700ms'");
    let ran = lab.run(&(lab.watched() + &check("before", "exit 1") + &fault));
    ran.ends(6, "check `check`");
    assert!(ran.event("injecting").is_none());
    std::fs::remove_dir_all(lab.path("runs")).unwrap();
    lab.run(&(lab.watched() + &check("after", "exit 1") + &fault)).ends(1, "check `check`");
    std::fs::remove_dir_all(lab.path("runs")).unwrap();
    // It is told what the probe has counted.
    let counted = check("after", "test ${probe.page.good} -gt 20 -a ${probe.page.bad} -lt 20");
    let ran = lab.run(&(lab.watched() + &counted + &fault));
    ran.ends(0, "the expectation was met");
    assert!(said(&ran.output).contains("met check check: good after the faults"), "{}", said(&ran.output));
    lab.clean();
}

#[test]
fn what_a_living_run_holds_is_refused_to_another() {
    let lab = Lab::new();
    let text = lab.watched() + &lab.makes("held", "harmless", "at = 'operator'\nfor = '500ms'");
    let mut first = Owned::start(&mut lab.command(&text));
    eventually("it waits for a person", || lab.heard("waiting"));
    let second = lab.command(&text).output().unwrap();
    assert_eq!(second.status.code(), Some(6), "{}", said(&second));
    assert!(said(&second).contains("is held by run") && said(&second).contains("nothing was touched"));
    signal(&first.0, "-INT");
    assert_eq!(first.0.wait().unwrap().code(), Some(130));
    lab.clean();
}

#[test]
fn signals_end_the_harm_and_a_second_one_the_watch_of_the_recovery() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let lab = Lab::new();
        // Nothing recovers: the server stays down after the fault.
        let file = lab.path("down").display().to_string();
        let fault = format!(
            "[fault.break.exec]\ninject = ['touch', '{file}']\nundo = ['true']\nat = '0s'\nfor = '5m'\n\
             [guard]\nbudget = '100000 looks'\n"
        );
        let text = lab.watched().replace("within = '10s'", "within = '5m'") + &fault;
        let mut run = Owned::start(&mut lab.command(&text));
        eventually("the fault is live", || lab.heard("live"));
        signal(&run.0, name);
        if code == 130 {
            eventually("it is undone, and its recovery is watched", || {
                lab.journal().iter().any(|event| event["event"] == "phase" && event["phase"] == "recovery")
            });
            signal(&run.0, name);
        }
        assert_eq!(run.0.wait().unwrap().code(), Some(code));
        assert!(lab.heard("undone") && logs(&lab.world.state()).is_empty());
    }
}

#[test]
fn a_person_lets_a_step_begin_and_writes_notes_from_another_terminal() {
    let lab = Lab::new();
    let text = lab.watched() + &lab.makes("manual", "harmless", "at = 'operator'\nfor = '600ms'");
    let mut run = Owned::start(&mut lab.command(&text));
    eventually("it waits for a person", || lab.heard("waiting"));
    let id = lab.journal()[0]["run"].as_str().unwrap().to_owned();
    let say = |arguments: &[&str]| brownout(&lab.world.state()).args(arguments).output().unwrap();
    assert!(say(&["note", &id, "the", "pager", "rang"]).status.success());
    assert!(say(&["go"]).status.success());
    let again = say(&["go", "00000000"]);
    assert_eq!(again.status.code(), Some(6), "{}", said(&again));
    assert_eq!(run.0.wait().unwrap().code(), Some(0));
    let journal = lab.journal();
    let notes: Vec<&str> =
        journal.iter().filter(|e| e["event"] == "note").filter_map(|e| e["text"].as_str()).collect();
    assert!(notes.contains(&"the pager rang") && notes.contains(&"go: manual"), "{notes:?}");
    lab.clean();
}

#[test]
fn a_run_is_halted_from_another_terminal() {
    let lab = Lab::new();
    let text = lab.watched() + &lab.makes("long", "harmless", "at = '0s'\nfor = '5m'");
    let mut run = Owned::start(&mut lab.command(&text));
    eventually("the fault is live", || lab.heard("live"));
    assert!(brownout(&lab.world.state()).arg("halt").output().unwrap().status.success());
    assert_eq!(run.0.wait().unwrap().code(), Some(130));
    lab.clean();
}

#[test]
fn a_kill_switch_stops_a_run_and_refuses_the_next() {
    let lab = Lab::new();
    let switch = lab.path("stop");
    let text = lab.watched()
        + &format!("[guard]\nkill_switch = '{}'\n", switch.display())
        + &lab.makes("long", "harmless", "at = '0s'\nfor = '5m'");
    let mut run = Owned::start(&mut lab.command(&text));
    eventually("the fault is live", || lab.heard("live"));
    std::fs::write(&switch, "").unwrap();
    assert_eq!(run.0.wait().unwrap().code(), Some(3));
    lab.clean();
    let next = lab.command(&text).output().unwrap();
    assert_eq!(next.status.code(), Some(6), "{}", said(&next));
    assert!(said(&next).contains("kill switch"), "{}", said(&next));
}

#[test]
fn expectations_are_met_or_missed_in_time() {
    let lab = Lab::new();
    let guard = "[guard]\nbudget = '1000 looks'\n[slo.page.during.break]\nlongest_outage = '30s'\n";
    let expect = |is: &str, within: &str, of: &str| {
        format!("[expect.seen]\nprobe = 'page'\nis = '{is}'\nwithin = '{within}'\nof = '{of}'\n")
    };
    let fault = lab.makes("break", "down", "at = '300ms'\nfor = '400ms'");
    let general = lab.watched() + guard + &fault;
    let ran = lab.run(&(general.clone() + &expect("bad", "5s", "break.begin")));
    let met = ran.event("expectation").unwrap();
    assert!(met["met"] == true && met["why"].as_str().unwrap().starts_with("seen after"), "{met}");
    std::fs::remove_dir_all(lab.path("runs")).unwrap();
    let missed = lab.run(&(general.clone() + &expect("good", "200ms", "break.begin")));
    missed.ends(1, "expectation `seen`: not within 200 ms");
    std::fs::remove_dir_all(lab.path("runs")).unwrap();
    let after = lab.run(&(general + &expect("good", "5s", "break.end")));
    assert!(after.event("expectation").unwrap()["met"] == true);
    lab.clean();
}

/// A store of the shop, as a service.
fn store(restart: &str) -> String {
    format!(
        "[service.store]\nrun = ['{}', 'shop', 'store', '--port', '${{self.port}}']\nrestart = '{restart}'\n\
         ready = {{ tcp = '127.0.0.1:${{self.port}}' }}\n\
         [fault.crash.kill]\ntarget = {{ service = 'store' }}\nat = '0s'\n\
         [expect.store-is-back]\nfault = 'crash'\nis = 'back'\nwithin = '3s'\n",
        env!("CARGO_BIN_EXE_brownout")
    )
}

#[test]
fn a_killed_service_is_back_or_was_expected_to_be() {
    let lab = Lab::new();
    let ran = lab.run(&store("after 300ms"));
    ran.ends(0, "the expectation was met");
    assert!(ran.event("expectation").unwrap()["why"].as_str().unwrap().starts_with("back after"));
    std::fs::remove_dir_all(lab.path("runs")).unwrap();
    lab.run(&store("never")).ends(1, "expectation `store-is-back`: not back within 3 s");
    lab.clean();
}

#[test]
fn a_service_that_does_not_get_ready_is_not_left_running() {
    let lab = Lab::new();
    let pid = lab.path("pid").display().to_string();
    let text = format!(
        "[service.sulks]\nrun = ['sh', '-c', 'echo $$ > {pid}; exec sleep 64.5']\n\
         ready = {{ tcp = '127.0.0.1:9', within = '1s' }}\n"
    );
    let ran = lab.run(&(text.clone() + &lab.makes("never", "harmless", "at = '0s'\nfor = '500ms'")));
    ran.ends(6, "it is not ready within 1 s");
    let gone = |pid: &str| !Path::new(&format!("/proc/{pid}")).exists();
    assert!(gone(std::fs::read_to_string(&pid).unwrap().trim()), "it is still running");
    lab.clean();

    // Nor when the run is stopped while it starts.
    std::fs::remove_file(&pid).unwrap();
    let patient = text.replace("within = '1s'", "within = '5m'");
    let fault = lab.makes("never", "harmless", "at = '0s'\nfor = '500ms'");
    let mut run = Owned::start(&mut lab.command(&(patient + &fault)));
    eventually("it runs", || std::fs::read_to_string(&pid).is_ok_and(|pid| !pid.trim().is_empty()));
    signal(&run.0, "-INT");
    assert_eq!(run.0.wait().unwrap().code(), Some(130));
    assert!(gone(std::fs::read_to_string(&pid).unwrap().trim()), "it is still running");
    lab.clean();
}

#[test]
fn a_fault_repeated_faster_than_it_can_be_is_done_as_often_as_asked() {
    let lab = Lab::new();
    let file = lab.path("harmless").display().to_string();
    let slow = format!(
        "[fault.again.exec]\ninject = ['sh', '-c', 'test ! -e {file} && sleep 0.3 && touch {file}']\n\
         undo = ['rm', '-f', '{file}']\nat = '0s'\nfor = '200ms'\nevery = '250ms'\ntimes = 3\n"
    );
    let ran = lab.run(&(lab.watched() + &slow));
    ran.ends(0, "kept");
    // Each time by its own name, so that whoever reads it sees which is gone.
    for event in ["injecting", "live", "undone"] {
        let told = ran.journal.iter().filter(|heard| heard["event"] == event);
        let names: Vec<&str> = told.map(|heard| heard["fault"].as_str().unwrap()).collect();
        assert_eq!(names, ["again", "again#2", "again#3"], "{event}");
    }
    let told = said(&ran.output);
    assert!(!told.contains("its undo was not seen"), "{told}");
    lab.clean();
}

#[test]
fn a_ramp_rises_step_by_step_each_measured_and_undone_before_the_next() {
    let Some(disk) = support::disk("size=64m") else { return };
    let lab = Lab::new();
    let fault = format!(
        "[fault.fills.disk-fill]\ntarget = {{ path = '{}' }}\nsize = {{ from = '4MiB', to = '16MiB', steps = 4 }}\n\
         for = '2400ms'\n",
        disk.0.path().display()
    );
    let ran = lab.run(&(lab.watched() + &fault));
    ran.ends(0, "kept");
    let told = |event: &str| ran.journal.iter().filter(|heard| heard["event"] == event).collect::<Vec<_>>();
    let sizes: Vec<String> =
        told("live").iter().map(|live| live["figures"].as_str().unwrap().to_owned()).collect();
    for (figures, size) in sizes.iter().zip(["4 MiB", "8 MiB", "12 MiB", "16 MiB"]) {
        assert!(figures.contains(&format!("asked {size}, free space fell by {size}")), "{sizes:?}");
    }
    let order: Vec<&str> = ran.journal.iter().filter_map(|heard| heard["event"].as_str()).collect();
    let steps: Vec<&&str> = order.iter().filter(|event| ["injecting", "undone"].contains(event)).collect();
    assert_eq!(steps, ["injecting", "undone"].repeat(4).iter().collect::<Vec<_>>());
    lab.clean();
}

#[test]
fn the_same_seed_draws_the_same_times_and_the_plan_says_which() {
    let lab = Lab::new();
    let fault =
        lab.makes("luck", "harmless", "for = '50ms'\nevery = '100ms'\ntimes = 12\nchance = '40%'\nat = '0s'");
    let plan = |seed: &str| {
        let file = lab.file(&format!("title = 'a test'\n{}{fault}", lab.watched()));
        let plan =
            brownout(&lab.world.state()).arg("plan").arg(file).args(["--seed", seed]).output().unwrap();
        let told = said(&plan);
        let at = told.find("these happen: ").unwrap_or_else(|| panic!("{told}"));
        told[at + 14..].split(", each").next().unwrap().lines().next().unwrap().to_owned()
    };
    assert_eq!(plan("1"), plan("1"));
    assert!((2..=6).any(|seed| plan(&seed.to_string()) != plan("1")), "every seed draws the same");

    let mut command = lab.command(&(lab.watched() + &fault));
    let output = command.args(["--seed", "3"]).output().unwrap();
    let ran = Ran { output, journal: lab.journal() };
    ran.ends(0, "kept");
    let done: Vec<String> = ran
        .journal
        .iter()
        .filter(|heard| heard["event"] == "injecting")
        .map(|heard| {
            heard["fault"].as_str().unwrap().trim_start_matches("luck").trim_start_matches('#').to_owned()
        })
        .map(|nth| if nth.is_empty() { "1".to_owned() } else { nth })
        .collect();
    let planned = plan("3");
    assert!(planned.starts_with(&done.join(", ")), "{planned}: {done:?}");
    lab.clean();
}

#[test]
fn a_file_may_be_in_parts() {
    let lab = Lab::new();
    std::fs::write(lab.path("watched.toml"), lab.watched()).unwrap();
    let fault = lab.makes("bearable", "harmless", "at = '0s'\nfor = '700ms'");
    lab.run(&format!("include = ['watched.toml']\n{fault}")).ends(0, "kept: page availability 90%");
    lab.clean();
}

#[test]
fn json_is_one_object_a_line_and_ends_with_the_verdict() {
    let lab = Lab::new();
    let text = lab.watched() + &lab.makes("bearable", "harmless", "at = '0s'\nfor = '700ms'");
    let output = lab.command(&text).args(["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let lines: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 50 && lines[0]["event"] == "began");
    let last = lines.last().unwrap();
    assert!(last["event"] == "ended" && last["verdict"] == "passed" && last["exit"] == 0, "{last}");
}

#[test]
fn a_seed_repeats_its_picks_and_the_run_hurts_whom_the_plan_names() {
    let lab = Lab::new();
    let mark = format!("65.{}", std::process::id());
    let sleeps: Vec<Owned> = (0..6).map(|_| Owned::start(Command::new("sleep").arg(&mark))).collect();
    let text = format!(
        "title = 'picks'\n[fault.some.kill]\ntarget = {{ cmdline = '^sleep {mark}$', pick = {{ count = 2 }} }}\nat = '0s'\n"
    );
    let file = lab.file(&text);
    let plan = |seed: &str| {
        let output = brownout(&lab.world.state())
            .arg("plan")
            .arg(&file)
            .args(["--seed", seed, "--format", "json"])
            .output()
            .unwrap();
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        plan["faults"][0]["harm"].as_str().unwrap().to_owned()
    };
    let foretold = plan("7");
    assert_eq!(foretold, plan("7"));
    assert!((8..40).any(|seed| plan(&seed.to_string()) != foretold), "another seed picks others");
    let mut command = brownout(&lab.world.state());
    command.arg("run").arg(&file).args(["--yes", "--seed", "7", "--runs"]).arg(lab.path("runs"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let picked: Vec<u32> =
        foretold.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    for mut sleep in sleeps {
        let dead = sleep.0.try_wait().unwrap().is_some();
        assert_eq!(dead, picked.contains(&sleep.pid()), "{foretold}");
    }
}

#[test]
fn a_terminal_that_is_not_read_does_not_delay_an_abort() {
    for more in [&["--format", "json"][..], &["-vv"]] {
        let lab = Lab::new();
        // Four fifths of a second fill a pipe with looks.
        let text = lab.watched().replace("rate = '50/s'", "rate = '500/s'")
            + "[guard]\nbudget = '10 looks'\n"
            + &lab.makes("break", "down", "at = '1s'\nfor = '5m'");
        let mut run = Owned::start(lab.command(&text).args(more));
        eventually("the harm is done", || lab.path("down").exists());
        let since = Instant::now();
        eventually("the harm is gone", || !lab.path("down").exists());
        let took = since.elapsed();
        println!("{more:?}: harm gone {took:?} after it was done");
        assert!(took < Duration::from_secs(5), "{took:?}");
        eventually("it ends, although nobody reads", || run.0.try_wait().unwrap().is_some());
        assert_eq!(run.0.wait().unwrap().code(), Some(3));
        lab.clean();
    }
}

#[test]
fn a_lost_watchdog_ends_the_run() {
    let lab = Lab::new();
    let text = lab.watched() + &lab.makes("long", "harmless", "at = '0s'\nfor = '5m'");
    let mut run = Owned::start(&mut lab.command(&text));
    eventually("the fault is live", || lab.heard("live"));
    let watchdogs: Vec<String> = children(run.pid());
    assert!(!watchdogs.is_empty());
    assert!(Command::new("kill").arg("-KILL").args(&watchdogs).status().unwrap().success());
    assert_eq!(run.0.wait().unwrap().code(), Some(4));
    assert!(
        lab.journal().iter().any(|e| e["why"].as_str().is_some_and(|why| why.contains("watchdog was lost")))
    );
    lab.clean();
}

#[test]
fn what_cannot_be_undone_outranks_everything_and_is_paid_later() {
    let lab = Lab::new();
    let (flag, fixed) = (lab.path("harmless").display().to_string(), lab.path("fixed").display().to_string());
    let stuck = format!(
        "[fault.stuck.exec]\ninject = ['touch', '{flag}']\nundo = ['sh', '-c', 'test -e {fixed} && rm -f {flag}']\n\
         remains = ['test', '-e', '{flag}']\nat = '0s'\nfor = '300ms'\n"
    );
    let ran = lab.run(&(lab.watched() + &stuck));
    ran.ends(5, "NOT UNDONE: stuck");
    assert!(ran.event("not-undone").unwrap()["by_hand"].as_str().unwrap().contains("rm -f"));
    std::fs::write(&fixed, "").unwrap();
    // The watchdog tries once more too, when the run is gone: whoever is first.
    eventually("it is paid", || {
        brownout(&lab.world.state()).arg("recover").output().unwrap().status.success()
            && logs(&lab.world.state()).is_empty()
    });
    lab.clean();
}
