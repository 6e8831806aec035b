//! The user's library: every file in it is checked, and run on real servers wherever it can be.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::{MachineState, Netns, World, said, skip, small_disk};

/// Servers that the library starts, each by a name under which it is looked for.
const SERVERS: &[&str] = &["nginx", "redis-server", "redis-cli", "haproxy", "psql", "python3"];

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
    assert!(all.len() >= 12, "{all:?}");
    for file in all {
        let (good, said) = check(&file);
        assert!(good, "{}: {said}", file.display());
        // A budget below the promise is the very point of the one the guard stops.
        let meant = file.ends_with("nginx-out-of-budget.toml");
        assert!(meant || !said.contains("warning"), "{}: {said}", file.display());
    }
}

#[test]
fn every_way_to_look_can_be_included() {
    let all = files("probes");
    assert_eq!(all.len(), 5, "{all:?}");
    let folder = tempfile::tempdir().unwrap();
    for file in all {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = text.split("[probe.").nth(1).unwrap().split('.').next().unwrap().to_owned();
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

#[test]
fn every_experiment_and_example_runs_and_ends_as_its_header_says() {
    for server in SERVERS {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {server}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return skip(&format!("the library needs {server}"));
        }
    }
    let runnable = [files("experiments"), files("examples")].concat();
    let runnable: Vec<PathBuf> = runnable.into_iter().filter(|file| promised(file).is_some()).collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(file) = runnable.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = run(file) {
                        wrong.lock().unwrap().push(format!("{}: {why}", file.display()));
                    }
                }
            });
        }
    });
    assert_eq!(wrong.into_inner().unwrap(), Vec::<String>::new());
}

/// Runs one in a network, with a disk and in folders of its own; what is wrong with how it ended.
fn run(file: &Path) -> Result<(), String> {
    let (Some(netns), Some(disk)) = (Netns::new(), small_disk()) else { return Ok(()) };
    let world = World::new();
    // Servers that run as other users must find their way to their folders.
    let temporary = world.folder.path();
    for path in [temporary, disk.0.path()] {
        Command::new("chmod").arg("755").arg(path).status().unwrap();
    }
    let before = MachineState::of(&netns, &world.state(), disk.0.path(), &[]);
    let output = netns
        .brownout(&world.state())
        .args(["run", "--yes"])
        .arg(file)
        .env("TMPDIR", temporary)
        .env("DISK", disk.0.path())
        .output()
        .unwrap();
    let (promised, code) = (promised(file), output.status.code());
    println!("{}: exit {code:?}", file.display());
    if code != promised {
        return Err(format!("exit {code:?} instead of {promised:?}:\n{}", said(&output)));
    }
    let left = MachineState::of(&netns, &world.state(), disk.0.path(), &[]).differs_from(&before);
    // What the servers themselves wrote to the disk is theirs.
    let left: Vec<String> = left.into_iter().filter(|line| !line.contains("free ")).collect();
    if !left.is_empty() {
        return Err(format!("left: {left:?}"));
    }
    let folder = std::fs::read_dir(world.folder.path().join("runs")).unwrap().flatten();
    let folder = folder.map(|entry| entry.path()).find(|path| path.is_dir()).ok_or("no run folder")?;
    reports(&folder)
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
    read("report.md").map(|_| ())
}
