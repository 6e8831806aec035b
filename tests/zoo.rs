//! The zoo: servers that do wrong, each judged by the real binary, rightly and for the right reason, in bounded memory; and by
//! `prometheus-blackbox-exporter`, for a table of where the two agree. To make that table anew:
//! `BROWNOUT_UPDATE_DOCS=1 cargo test --test zoo`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod beasts;
mod looking;
mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use beasts::Beast;
use looking::{Authority, LONG};
use regex::Regex;
use support::{Owned, skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// What no look may take beyond, in bytes: the largest body that is taken is 16 MiB.
const MEMORY: u64 = 96 << 20;
/// So many look at a time.
const AT_A_TIME: usize = 6;
const PAGE: &str = "docs/agreement.md";

/// All beasts, awake.
struct Zoo {
    authority: Authority,
    beasts: Vec<(Beast, u16)>,
}

impl Zoo {
    async fn open() -> Self {
        let authority = Authority::new();
        let mut beasts = Vec::new();
        for beast in beasts::all() {
            let port = beast.wake(&authority).await;
            beasts.push((beast, port));
        }
        let names: BTreeSet<&str> = beasts.iter().map(|(beast, _)| beast.name).collect();
        assert_eq!(names.len(), beasts.len(), "two beasts of one name");
        Self { authority, beasts }
    }
}

/// Does something for each, a few at a time; what came of it, in their order.
async fn each<T, R, F>(all: Vec<T>, work: fn(T) -> F) -> Vec<R>
where
    T: Send + 'static,
    R: Send + 'static,
    F: Future<Output = R> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let working = all.into_iter().map(|one| {
        let turns = turns.clone();
        tokio::spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            work(one).await
        })
    });
    let working: Vec<_> = working.collect();
    let mut done = Vec::new();
    for work in working {
        done.push(work.await.unwrap());
    }
    done
}

/// A sentence with what differs from run to run replaced.
fn without_chance(text: &str, port: u16) -> String {
    let peer = format!(r"(?:127\.0\.0\.1|\[::1\]|localhost):{port}\b");
    let text = Regex::new(&peer).unwrap().replace_all(text, "PEER");
    let text = Regex::new(r"127\.0\.0\.1:\d+").unwrap().replace_all(&text, "US");
    let date = Regex::new(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d)(:\d\d)?( UTC|Z)").unwrap();
    date.replace_all(&text, "DATE").into_owned()
}

// ---------------------------------------------------------------------------------------------- ours

/// How a look of ours came out.
#[derive(Debug)]
struct Ours {
    outcome: String,
    why: String,
    /// The most memory that it had, in bytes.
    memory: u64,
}

/// Runs a command to its end: what it prints, and the most memory it had, in bytes.
#[allow(clippy::zombie_processes, reason = "wait4 waits for it, and tells what it used")]
fn measured(command: &mut Command) -> (String, u64) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut printed = String::new();
    child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    // SAFETY: a rusage is numbers only; the child is ours and nobody has waited for it (wait4(2)).
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let pid = child.id() as libc::pid_t;
    let waited = unsafe { libc::wait4(pid, std::ptr::null_mut(), 0, &raw mut usage) };
    assert_eq!(waited, pid);
    (printed, usage.ru_maxrss as u64 * 1024)
}

async fn ours((folder, name, port): (PathBuf, &'static str, u16)) -> Ours {
    let looking = move || {
        let mut command = support::brownout(&folder.join("state"));
        measured(command.arg("probe").arg(folder.join("zoo.toml")).args([name, "--format", "json"]))
    };
    let (printed, memory) = tokio::task::spawn_blocking(looking).await.unwrap();
    let look: serde_json::Value =
        serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{name}: {why}: {printed}"));
    let said = |key: &str| look[key].as_str().unwrap_or_default().to_owned();
    Ours { outcome: said("outcome"), why: without_chance(&said("why"), port), memory }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_beast_comes_out_right_for_the_right_reason_in_bounded_memory() {
    let zoo = Zoo::open().await;
    let folder = zoo.authority.folder.path().to_owned();
    let file: String = zoo.beasts.iter().map(|(beast, port)| beast.probe(*port)).collect();
    std::fs::write(folder.join("zoo.toml"), file).unwrap();
    let asked = zoo.beasts.iter().map(|(beast, port)| (folder.clone(), beast.name, *port)).collect();
    let (mut wrong, mut most) = (String::new(), (0, ""));
    for ((beast, _), seen) in zoo.beasts.iter().zip(each(asked, ours).await) {
        let expected = (if beast.why.is_some() { "bad" } else { "good" }, beast.why.unwrap_or_default());
        if (seen.outcome.as_str(), seen.why.as_str()) != expected {
            let _ = writeln!(wrong, "{}: {expected:?}\n  but {} `{}`", beast.name, seen.outcome, seen.why);
        }
        if seen.memory > MEMORY {
            let _ = writeln!(wrong, "{}: {} bytes of memory", beast.name, seen.memory);
        }
        most = most.max((seen.memory, beast.name));
    }
    println!("{} beasts, at most {} MiB of memory ({})", zoo.beasts.len(), most.0 >> 20, most.1);
    assert_eq!(wrong, "");
}

// -------------------------------------------------------------------------------------------- theirs

/// How the exporter's look came out.
struct Theirs {
    good: bool,
    /// Its own words, where it was bad.
    why: String,
}

/// A page, in a few lines of HTTP/1.0, so that nothing of ours reads it.
async fn page(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn theirs((exporter, name, target, port): (u16, &'static str, Option<String>, u16)) -> Option<Theirs> {
    let target = target?;
    let path = format!("/probe?debug=true&module={name}&target={target}");
    // Some of its looks have no limit of their own, whatever its file says.
    let Ok(answer) = tokio::time::timeout(LONG, page(exporter, &path)).await else {
        return Some(Theirs { good: false, why: "(the look does not end)".to_owned() });
    };
    let answer = answer.unwrap();
    let good = answer.lines().any(|line| line == "probe_success 1");
    assert!(good || answer.lines().any(|line| line == "probe_success 0"), "{name}: {answer}");
    // Of what it logged of its look, the last line that is an error holds the reason.
    let an_error = |line: &&str| line.contains("level=error") && !line.contains("Probe failed");
    let last = answer.lines().rfind(an_error);
    let fields = Regex::new(r#"\b(msg|err)=("(?:[^"\\]|\\.)*"|\S+)"#).unwrap();
    let words = fields.captures_iter(last.unwrap_or_default()).map(|field| {
        let word = field[2].to_owned();
        serde_json::from_str(&word).unwrap_or(word)
    });
    let why = words.collect::<Vec<String>>().join(": ");
    Some(Theirs { good, why: without_chance(&why, port) })
}

/// The exporter, ended with the test, and its version; `None`, loudly, where there is none.
async fn exporter(zoo: &Zoo) -> Option<(Owned, u16, String)> {
    const PROGRAM: &str = "prometheus-blackbox-exporter";
    let Ok(version) = Command::new(PROGRAM).arg("--version").output() else {
        skip("prometheus-blackbox-exporter is not installed");
        return None;
    };
    let version = support::said(&version).split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned();
    let modules = zoo.beasts.iter().filter_map(|(beast, port)| beast.module(*port, &zoo.authority));
    let text = modules.map(|(module, _)| module).fold("modules:\n".to_owned(), |text, module| text + &module);
    let file = zoo.authority.folder.path().join("blackbox.yml");
    std::fs::write(&file, text).unwrap();
    let port = looking::nobody().await.port();
    let mut command = Command::new(PROGRAM);
    command.arg("--config.file").arg(&file).arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let log = std::fs::File::create(file.with_extension("log")).unwrap();
    let mut exporter = Owned::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
    let begun = Instant::now();
    while page(port, "/-/healthy").await.is_err() {
        let ended = exporter.0.try_wait().unwrap().is_some();
        let log = std::fs::read_to_string(file.with_extension("log")).unwrap();
        assert!(!ended && begun.elapsed() < 3 * LONG, "the exporter did not start: {log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Some((exporter, port, version))
}

/// A text in one cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn verdict(good: bool, why: &str) -> String {
    match (good, why) {
        (true, _) => "good".to_owned(),
        (false, "") => "bad".to_owned(),
        (false, why) => format!("bad: {}", cell(why)),
    }
}

/// The table of agreement, and what it must not lack.
fn table(zoo: &Zoo, version: &str, seen: &[Option<Theirs>]) -> (String, String) {
    let (mut rows, mut wrong, mut counts) = (String::new(), String::new(), [0; 3]);
    for ((beast, _), theirs) in zoo.beasts.iter().zip(seen) {
        let (good, why) = (beast.why.is_none(), beast.why.unwrap_or_default());
        let (which, judged, meaning) = match theirs {
            None => (2, "-".to_owned(), "it has no probe for this"),
            Some(theirs) if theirs.good == good => (0, verdict(theirs.good, &theirs.why), ""),
            Some(theirs) => (1, verdict(theirs.good, &theirs.why), beast.differs.unwrap_or_default()),
        };
        counts[which] += 1;
        if (which == 1) != beast.differs.is_some() {
            let explained = if which == 1 {
                "no explanation of the disagreement"
            } else {
                "they agree, and a disagreement is explained"
            };
            let _ = writeln!(wrong, "{}: {explained}: {} / {judged}", beast.name, verdict(good, why));
        }
        let mark = ["agree", "differ: ", ""][which];
        let _ = writeln!(
            rows,
            "| {} | {} | {} | {judged} | {mark}{} |",
            beast.name,
            cell(beast.does),
            verdict(good, why),
            cell(meaning)
        );
    }
    let [agree, differ, not_asked] = counts;
    let text = format!(
        "<!-- Made by tests/zoo.rs: change it there. -->\n\
         # Agreement with blackbox_exporter\n\n\
         {} small servers do wrong, or right in an odd way. What an honest prober must say of each follows from its protocol's \
         specification; `tests/zoo.rs` holds our real binary to outcome and reason, word for word, and to {} MiB of memory. \
         Debian's `prometheus-blackbox-exporter` {version} looks at the same servers, by a module that means the same, for its own \
         words: the last error that it logs.\n\n\
         They agree on {agree}, differ on {differ}, and {not_asked} the exporter has no probe for. PEER is the server, US our end of the \
         connection, DATE a moment.\n\n\
         | server | what it does | brownout | blackbox_exporter | |\n|---|---|---|---|---|\n{rows}",
        zoo.beasts.len(),
        MEMORY >> 20,
    );
    (text, wrong)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exporter_agrees_or_the_table_says_why_not() {
    let zoo = Zoo::open().await;
    let Some((_exporter, port, version)) = exporter(&zoo).await else { return };
    let asked = zoo.beasts.iter().map(|(beast, at)| {
        let target = beast.module(*at, &zoo.authority).map(|(_, target)| target);
        (port, beast.name, target, *at)
    });
    let seen = each(asked.collect(), theirs).await;
    let (text, wrong) = table(&zoo, &version, &seen);
    assert_eq!(wrong, "");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("BROWNOUT_UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    } else {
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        let differs: Vec<_> = text.lines().zip(page.lines()).filter(|(new, old)| new != old).collect();
        assert!(page == text, "make {PAGE} anew: BROWNOUT_UPDATE_DOCS=1 cargo test --test zoo; {differs:#?}");
    }
}
