//! The user's library: every file in it is checked, and run on real servers wherever it can be.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use support::{
    MachineState, Mounted, Netns, Owned, World, block_disk, eventually, said, skip, small_disk, tracer,
};

/// Servers that the library starts, each by a name under which it is looked for.
const SERVERS: &[&str] =
    &["nginx", "redis-server", "redis-cli", "haproxy", "psql", "python3", "dnsmasq", "dig"];

fn files(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                // What others include is no experiment by itself.
                if path.file_name().is_some_and(|name| name != "parts") {
                    walk(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut found);
    found.sort();
    found
}

fn check(file: &Path) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_brownout"))
        .arg("check")
        .arg(file)
        .env("DISK", "/tmp")
        .output()
        .unwrap();
    (output.status.success(), said(&output))
}

#[test]
fn every_experiment_and_example_is_good_without_a_warning() {
    let all = [files("experiments"), files("examples")].concat();
    assert!(all.len() >= 14, "{all:?}");
    for file in all {
        let (good, said) = check(&file);
        assert!(good, "{}: {said}", file.display());
        // A budget below the promise is the very point of the one the guard stops.
        let meant = file.ends_with("nginx-out-of-budget.toml");
        assert!(meant || !said.contains("warning"), "{}: {said}", file.display());
    }
}

/// The name of the only probe of a file.
fn name_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("[probe.").nth(1).unwrap().split('.').next().unwrap().to_owned()
}

#[test]
fn every_way_to_look_can_be_included() {
    let all = files("probes");
    assert_eq!(all.len(), 5, "{all:?}");
    let folder = tempfile::tempdir().unwrap();
    for file in all {
        let name = name_of(&file);
        std::fs::copy(&file, folder.path().join("included.toml")).unwrap();
        let whole = folder.path().join("whole.toml");
        let text = format!(
            "title = \"x\"\ninclude = [\"included.toml\"]\n[slo.x]\nprobe = \"{name}\"\navailability = \"90%\"\n\
             [fault.a.exec]\ninject = [\"true\"]\nundo = [\"true\"]\nfor = \"20s\"\n"
        );
        std::fs::write(&whole, text).unwrap();
        let (good, said) = check(&whole);
        assert!(good && !said.contains("warning"), "{}: {said}", file.display());
    }
}

/// The exit code a file's header promises; `None` when it cannot be run without a person.
fn promised(file: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(file).unwrap();
    let header = text.lines().find_map(|line| line.strip_prefix("# exit: ")).unwrap();
    header.parse().ok()
}

/// Whether all servers are there; says loudly which is not.
fn servers_are_there() -> bool {
    for server in SERVERS {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {server}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            skip(&format!("the library needs {server}"));
            return false;
        }
    }
    true
}

#[test]
fn every_experiment_and_example_runs_and_ends_as_its_header_says() {
    if !servers_are_there() {
        return;
    }
    let runnable = [files("experiments"), files("examples")].concat();
    let runnable: Vec<PathBuf> = runnable.into_iter().filter(|file| promised(file).is_some()).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(file) = runnable.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = unless_too_busy(|| run(file)) {
                        wrong.lock().unwrap().push(format!("{}: {why}", file.display()));
                    }
                }
            });
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), Vec::<String>::new());
}

/// Tries up to three times where the machine was too busy to look in time, or to be healthy before anything was hurt: that
/// says nothing about the file.
fn unless_too_busy(run: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let busy = |why: &String| why.contains("our own side was starved") || why.contains("NOT STEADY");
    let mut ended = run();
    for _ in 0..2 {
        if ended.as_ref().is_err_and(busy) {
            ended = run();
        }
    }
    ended
}

/// Runs one in a network, with a disk and in folders of its own; what is wrong with how it ended.
fn run(file: &Path) -> Result<(), String> {
    let Some(place) = Place::new() else { return Ok(()) };
    let since = Instant::now();
    let output = place.brownout(&["run", "--yes"]).arg(file).output().unwrap();
    println!("{}: exit {:?} after {:.1?}", file.display(), output.status.code(), since.elapsed());
    place.ended(&output, promised(file))
}

/// Where one experiment runs: a network, a disk and folders of its own.
struct Place {
    netns: Netns,
    disk: Mounted,
    world: World,
    before: MachineState,
}

impl Place {
    /// `None`, loudly, where there cannot be one.
    fn new() -> Option<Self> {
        let (netns, disk, world) = (Netns::new()?, small_disk()?, World::new());
        // Servers that run as other users must find their way to their folders.
        for path in [world.folder.path(), disk.0.path()] {
            Command::new("chmod").arg("755").arg(path).status().unwrap();
        }
        let before = MachineState::of(&netns, &world.state(), disk.0.path(), &[]);
        Some(Self { netns, disk, world, before })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.folder.path().join(name)
    }

    fn brownout(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.brownout(&self.world.state());
        command
            .args(arguments)
            .env("TMPDIR", self.world.folder.path())
            .env("DISK", self.disk.0.path())
            .env("BROWNOUT_RUNS", self.path("runs"));
        command
    }

    /// The folder of the only run so far.
    fn run_folder(&self) -> Option<PathBuf> {
        let runs = std::fs::read_dir(self.path("runs")).ok()?.flatten();
        runs.map(|entry| entry.path()).find(|path| path.is_dir())
    }

    /// What is wrong with how a run ended: its exit code, what it left behind, its reports.
    fn ended(&self, output: &Output, promised: Option<i32>) -> Result<(), String> {
        let code = output.status.code();
        if code != promised {
            return Err(format!("exit {code:?} instead of {promised:?}:\n{}", said(output)));
        }
        let now = MachineState::of(&self.netns, &self.world.state(), self.disk.0.path(), &[]);
        // What the servers themselves wrote to the disk is theirs.
        let left = now
            .differs_from(&self.before)
            .into_iter()
            .filter(|line| !line.contains("free ") && !line.contains("on the disk: "));
        let left: Vec<String> = left.chain(self.netns.others()).collect();
        if !left.is_empty() {
            return Err(format!("left: {left:?}"));
        }
        reports(&self.run_folder().ok_or("no run folder")?)
    }
}

#[test]
fn a_redis_on_a_throttled_volume_ends_as_its_file_says() {
    let Some(disk) = block_disk() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/disk/redis-throttled.toml");
    let ended = unless_too_busy(|| {
        let Some(place) = Place::new() else { return Ok(()) };
        let output =
            place.brownout(&["run", "--yes"]).arg(&file).env("DISK", disk.0.path()).output().unwrap();
        place.ended(&output, Some(0))
    });
    assert_eq!(ended, Ok(()));
}

/// Whether what a run leaves can be read by whoever it is for.
fn reports(folder: &Path) -> Result<(), String> {
    let read =
        |name: &str| std::fs::read_to_string(folder.join(name)).map_err(|why| format!("{name}: {why}"));
    for (number, line) in read("journal.ndjson")?.lines().enumerate() {
        serde_json::from_str::<serde_json::Value>(line)
            .map_err(|why| format!("journal line {number}: {why}"))?;
    }
    let report: serde_json::Value =
        serde_json::from_str(&read("report.json")?).map_err(|why| format!("report.json: {why}"))?;
    let schema: serde_json::Value = serde_json::from_str(brownout::report::SCHEMA).unwrap();
    jsonschema::validate(&schema, &report).map_err(|why| format!("report.json: {why}"))?;
    let parse = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
    let parsed = Command::new("python3").args(["-c", parse]).arg(folder.join("junit.xml")).status().unwrap();
    if !parsed.success() {
        return Err("junit.xml is not XML".to_owned());
    }
    let text = read("report.md")?;
    match ["{}", "${"].iter().find(|gap| text.contains(**gap)) {
        Some(gap) => Err(format!("report.md has an unfilled {gap}:\n{text}")),
        None => Ok(()),
    }
}

/// A single process on port 8080, as whoever runs a game day finds it; ends with the test.
fn nginx_of_somebody_else(place: &Place) -> (Owned, PathBuf) {
    let (folder, pid) = (place.path("theirs"), place.path("theirs/nginx.pid"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/parts/nginx.sh");
    assert!(Command::new("sh").arg(script).arg(&folder).arg("8080").status().unwrap().success());
    let mut nginx = place.netns.command("nginx");
    nginx.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).args(["-g", "master_process off;"]);
    let nginx = Owned::start(nginx.stderr(Stdio::null()));
    eventually("nginx answers", || place.netns.prints("ss", &["-Hltn"]).contains(":8080"));
    (nginx, pid)
}

#[test]
fn a_game_day_begins_when_a_person_says_so_and_hurts_only_by_their_word() {
    if !servers_are_there() {
        return;
    }
    let Some(place) = Place::new() else { return };
    let (nginx, pid_file) = nginx_of_somebody_else(&place);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/gameday/one-host-stops.toml");
    let run = |word: Option<&str>| {
        let mut command = place.brownout(&["run"]);
        command.args(word.iter().flat_map(|word| ["--confirm", word])).arg(&file);
        command.env("PID_FILE", &pid_file).env("KILL_SWITCH", place.path("stop"));
        // Whenever the test is run, and not for as long as with people.
        command.env("WINDOW", "Mon-Sun 00:00-24:00 UTC").env("STEADY", "2s").env("HOLD", "2s");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    for word in [None, Some("yes")] {
        let output = run(word).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{word:?}: {}", said(&output));
        assert!(said(&output).contains("stand still"), "it says which word is wanted: {}", said(&output));
    }
    let elsewhere = run(Some("stand still")).env("WINDOW", "Mon-Sun 00:00-00:01 UTC").output().unwrap();
    assert_eq!(elsewhere.status.code(), Some(6), "{}", said(&elsewhere));

    std::fs::remove_dir_all(place.path("runs")).unwrap_or_default();
    let child = run(Some("stand still")).spawn().unwrap();
    let heard = |what: &str| {
        let journal = place.run_folder().map(|folder| folder.join("journal.ndjson"));
        let text = journal.and_then(|journal| std::fs::read_to_string(journal).ok()).unwrap_or_default();
        text.lines().filter(|line| line.contains(&format!("\"event\":\"{what}\""))).count()
    };
    eventually("it waits for a person", || heard("waiting") == 1);
    // The promise of 99 % takes a hundred looks, beside those of the steady state and of the fault.
    eventually("it has looked long enough", || heard("sample") > 160);
    assert_eq!(heard("injecting"), 0, "nobody has said so");
    assert!(place.brownout(&["go"]).output().unwrap().status.success());
    let output = child.wait_with_output().unwrap();
    println!("{}: exit {:?}", file.display(), output.status.code());
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(heard("undone") == 1 && tracer(nginx.pid()) == "0", "{}", said(&output));
    drop(nginx);
    place.ended(&output, Some(0)).unwrap();
}

/// The servers that the ready probes look at unless told otherwise, and what they look at.
fn servers_at_their_own_ports(place: &Place) -> String {
    let folder = place.path("servers");
    std::fs::create_dir(&folder).unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(place.path("ca.pem"), made.cert.pem()).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let inside = folder.display();
    let certificate = place.path("ca.pem");
    let conf = format!(
        "daemon off;\nuser root;\npid {inside}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n\
         server {{ listen 127.0.0.1:8080; location / {{ return 200 '{{\"status\":\"ok\"}}'; }} }}\n\
         server {{ listen 127.0.0.1:8443 ssl; ssl_certificate {}; ssl_certificate_key {inside}/key.pem;\n\
         location / {{ return 200 'ok'; }} }}\n}}\n",
        certificate.display()
    );
    std::fs::write(folder.join("nginx.conf"), conf).unwrap();
    let postgres = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/parts/postgres.sh");
    let postgres = postgres.display();
    format!(
        "[service.nginx]\nrun = ['nginx', '-p', '{inside}', '-c', '{inside}/nginx.conf', '-e', '{inside}/error.log']\n\
         ready = {{ tcp = '127.0.0.1:8443' }}\n\
         [service.redis]\nrun = ['redis-server', '--bind', '127.0.0.1', '--save', '', '--dir', '{inside}']\n\
         ready = {{ tcp = '127.0.0.1:6379' }}\n\
         [service.postgres]\nuser = 'postgres'\n\
         setup = ['sh', '{postgres}', 'initdb', '-D', '${{self.dir}}/db', '-A', 'trust', '--no-sync']\n\
         run = ['sh', '{postgres}', 'postgres', '-D', '${{self.dir}}/db', '-k', '${{self.dir}}']\n\
         ready = {{ exec = ['sh', '{postgres}', 'pg_isready', '-h', '127.0.0.1'] }}\n"
    )
}

#[test]
fn every_way_to_look_is_good_on_a_living_server_and_bad_on_none() {
    if !servers_are_there() {
        return;
    }
    let probes = files("probes");
    let look = |place: &Place, probes: &[PathBuf], rest: &str| {
        let include: Vec<String> = probes.iter().map(|probe| format!("'{}'", probe.display())).collect();
        let flag = place.path("flag");
        let flag = flag.display();
        let text = format!(
            "title = 'looks'\ninclude = [{}]\n[steady_state]\nfor = '10s'\n{rest}\
             [fault.none.exec]\ninject = ['touch', '{flag}']\nundo = ['rm', '-f', '{flag}']\nfor = '6s'\n",
            include.join(", ")
        );
        std::fs::write(place.path("looks.toml"), text).unwrap();
        let mut command = place.brownout(&["run", "--yes"]);
        command.arg(place.path("looks.toml")).env("CA_FILE", place.path("ca.pem")).output().unwrap()
    };
    let promise = |probe: &PathBuf| {
        let name = name_of(probe);
        format!("[slo.{name}]\nprobe = '{name}'\navailability = '90%'\n")
    };
    std::thread::scope(|scope| {
        for probe in &probes {
            scope.spawn(|| {
                let Some(dead) = Place::new() else { return };
                let _ = servers_at_their_own_ports(&dead); // Whom to trust is there all the same.
                let output = look(&dead, std::slice::from_ref(probe), &promise(probe));
                println!("{}: exit {:?} without its server", probe.display(), output.status.code());
                assert!(said(&output).contains("not healthy"), "{}", said(&output));
                dead.ended(&output, Some(6)).unwrap();
            });
        }
    });
    let promises: String = probes.iter().map(promise).collect();
    unless_too_busy(|| {
        let Some(alive) = Place::new() else { return Ok(()) };
        let servers = servers_at_their_own_ports(&alive);
        let output = look(&alive, &probes, &(promises.clone() + &servers));
        println!("all probes: exit {:?} with their servers", output.status.code());
        alive.ended(&output, Some(0))
    })
    .unwrap();
}
