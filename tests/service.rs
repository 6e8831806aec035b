//! Services against real servers: started, found ready, killed and started again, and always stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brownout::base::RunId;
use brownout::fault::{AnyOwed, Entry};
use brownout::hands::service::{self, Change, Ready, Running, Spec, Started, Told};
use brownout::hands::tracer;
use brownout::host::process::{self, Process};
use brownout::undo::{Claim, Header, Record, Tier, UndoLog};
use nix::sys::signal::Signal;
use tokio::sync::mpsc::{Receiver, channel};

const LIMIT: Duration = Duration::from_mins(1);

/// Skips loudly, or fails where nothing may be skipped.
fn skipped(why: &str) {
    assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"), "required: {why}");
    eprintln!("SKIPPED: {why}");
}

fn installed(program: &str) -> bool {
    let found = program.starts_with('/') && Path::new(program).exists()
        || std::env::var("PATH").unwrap().split(':').any(|dir| Path::new(dir).join(program).exists());
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skipped("only root can start a service as another user");
    }
    root
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A service of a test's own; whatever happens to the test, it is stopped.
struct World {
    folder: tempfile::TempDir,
    run: RunId,
    name: &'static str,
}

impl World {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Servers that become another user must reach their own folder.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        Self { folder, run: RunId::fresh(), name }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn spec(&self, command: &[&str]) -> Spec {
        Spec {
            run: self.run,
            name: self.name.to_owned(),
            setup: None,
            command: argv(command),
            env: BTreeMap::new(),
            user: None,
            directory: self.folder.path().to_owned(),
            dir: None,
            port: None,
            log: self.path("log"),
            restart_after: None,
            ready: None,
            ready_within: LIMIT,
        }
    }

    fn sh(&self, script: &str) -> Spec {
        self.spec(&["sh", "-c", script])
    }

    fn members(&self) -> Vec<Process> {
        self.spec(&["x"]).record().members()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Twice nothing: what is forked while the list is read may escape one reading.
        let mut empty = 0;
        while empty < 2 {
            let members = self.members();
            empty = if members.is_empty() { empty + 1 } else { 0 };
            for member in members {
                let _ = member.signal(Signal::SIGKILL);
            }
        }
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many have become the `sleep` they were to become.
fn asleep(members: &[Process]) -> usize {
    let comm = |one: &Process| std::fs::read_to_string(format!("/proc/{}/comm", one.identity().pid));
    members.iter().filter(|one| comm(one).is_ok_and(|comm| comm == "sleep\n")).count()
}

async fn start(spec: Spec) -> (Running, Receiver<Told>) {
    let (teller, told) = channel(64);
    (service::start(spec, teller).await.unwrap(), told)
}

/// The next change, in time.
async fn next(told: &mut Receiver<Told>) -> Change {
    tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap().change
}

async fn started_and_ready(told: &mut Receiver<Told>) {
    assert!(matches!(next(told).await, Change::Started { .. }));
    assert!(matches!(next(told).await, Change::Ready(_)));
}

fn zombies_of_ours() -> Vec<i32> {
    let me = std::process::id() as i32;
    process::all()
        .into_iter()
        .filter(|pid| process::parent(*pid) == Some(me))
        .filter(|pid| Process::of_pid(*pid).is_ok_and(|process| !process.is_alive()))
        .collect()
}

/// The walk every server takes: ready, main killed, started again with all that it left gone, stopped whole.
async fn lives_dies_lives_and_stops(world: &World, mut spec: Spec, at_least: usize) {
    spec.restart_after = Some(Duration::from_millis(200));
    let port = spec.port.unwrap();
    let (running, mut told) = start(spec).await;
    started_and_ready(&mut told).await;
    let first = running.main().unwrap();
    let before = running.members();
    assert!(before.len() >= at_least, "{} processes: {}", before.len(), world.log());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

    first.signal(Signal::SIGKILL).unwrap();
    let Change::Died(how) = next(&mut told).await else { panic!("its death was not told") };
    assert!(how.contains("signal: 9"), "{how}");
    started_and_ready(&mut told).await;
    let second = running.main().unwrap();
    assert_ne!(first.identity(), second.identity());
    for process in &before {
        assert!(!process.is_alive(), "process {} outlived its main process", process.identity().pid);
    }

    let all = running.members();
    running.stop().await.unwrap();
    assert_eq!(next(&mut told).await, Change::Stopped);
    assert!(all.iter().all(|process| !process.is_alive()));
    assert!(world.members().is_empty());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(
        zombies_of_ours().iter().all(|pid| *pid != first.identity().pid && *pid != second.identity().pid)
    );
}

fn redis(world: &World) -> Spec {
    let port = free_port();
    let shown = port.to_string();
    Spec {
        port: Some(port),
        ready: Some(Ready::Tcp(format!("127.0.0.1:{port}"))),
        ..world.spec(&[
            "redis-server",
            "--port",
            &shown,
            "--save",
            "",
            "--dir",
            &world.folder.path().display().to_string(),
        ])
    }
}

fn nginx(world: &World, daemon: &str) -> Spec {
    let port = free_port();
    let folder = world.folder.path().display().to_string();
    let conf = format!(
        "daemon {daemon};\nworker_processes 2;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log;\nevents {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;\n\
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }} }}\n"
    );
    std::fs::write(world.path("nginx.conf"), conf).unwrap();
    let conf = world.path("nginx.conf").display().to_string();
    Spec {
        port: Some(port),
        ready: Some(Ready::Http(format!("http://127.0.0.1:{port}/"))),
        ..world.spec(&["nginx", "-e", "stderr", "-p", &folder, "-c", &conf])
    }
}

fn postgres_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut bins: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    bins.sort();
    bins.pop().filter(|bin| bin.join("postgres").exists())
}

fn postgres(world: &World, bin: &Path) -> Spec {
    let port = free_port();
    let shown = port.to_string();
    let dir = world.path("pg");
    let data = dir.display().to_string();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    Spec {
        setup: Some(argv(&["initdb", "-D", &data, "-A", "trust", "--no-sync"])),
        env: BTreeMap::from([("PATH".to_owned(), path)]),
        user: Some("postgres".to_owned()),
        dir: Some(dir),
        port: Some(port),
        ready: Some(Ready::Exec(argv(&["pg_isready", "-q", "-h", "127.0.0.1", "-p", &shown]))),
        ..world.spec(&["postgres", "-D", &data, "-p", &shown, "-k", &data, "-c", "fsync=off"])
    }
}

#[tokio::test]
async fn redis_lives_dies_lives_and_stops() {
    let world = World::new("redis");
    if installed("redis-server") {
        lives_dies_lives_and_stops(&world, redis(&world), 1).await;
    }
}

#[tokio::test]
async fn redis_that_is_saving_leaves_no_saver() {
    let world = World::new("saving");
    if !installed("redis-server") {
        return;
    }
    let mut spec = redis(&world);
    // One key takes the saver ten minutes.
    spec.command.extend(argv(&["--rdb-key-save-delay", "600000000"]));
    let port = spec.port.unwrap();
    let (running, _told) = start(spec).await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(b"SET a b\r\nBGSAVE\r\n").unwrap();
    eventually("it saves", || running.members().len() == 2).await;
    let all = running.members();
    running.main().unwrap().signal(Signal::SIGKILL).unwrap();
    assert!(all[0].wait_gone(LIMIT).await);
    assert!(all[1].is_alive(), "the saver is an orphan now");
    running.stop().await.unwrap();
    assert!(!all[1].is_alive());
}

#[tokio::test]
async fn nginx_whose_master_is_killed_leaves_no_worker_in_the_way() {
    let world = World::new("nginx");
    if installed("nginx") {
        lives_dies_lives_and_stops(&world, nginx(&world, "off"), 3).await;
    }
}

#[tokio::test]
async fn postgres_is_set_up_as_its_user_and_stops_with_all_its_sessions() {
    let world = World::new("postgres");
    let Some(bin) = postgres_bin() else { return skipped("PostgreSQL is not installed") };
    if !root() {
        return;
    }
    let spec = postgres(&world, &bin);
    let port = spec.port.unwrap().to_string();
    let dir = spec.dir.clone().unwrap();
    // A client with an open transaction keeps PostgreSQL's own smart shutdown waiting for ever.
    let (running, _told) = start(spec.clone()).await;
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap());
    assert_ne!(owner(&dir), 0);
    assert_eq!(owner(&dir), owner(&dir.join("PG_VERSION")));
    let mut client = Command::new(bin.join("psql"))
        .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-c", "select pg_sleep(600)"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let session = |member: &Process| {
        let line = std::fs::read(format!("/proc/{}/cmdline", member.identity().pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("SELECT")
    };
    eventually("the session shows up", || running.members().iter().any(session)).await;
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < service::GRACE, "it needed to be killed");
    client.wait().unwrap();
    assert!(world.members().is_empty());
    // Stopped by SIGTERM, it starts without a recovery; and the whole walk once more.
    let again = Spec { setup: None, ..spec };
    lives_dies_lives_and_stops(&world, again, 4).await;
    assert!(world.log().contains("database system was shut down at"), "{}", world.log());
}

#[tokio::test]
async fn a_server_that_goes_to_the_background_is_followed_there() {
    let world = World::new("daemon");
    if !installed("nginx") {
        return;
    }
    let spec = Spec { restart_after: Some(Duration::from_millis(100)), ..nginx(&world, "on") };
    let (running, mut told) = start(spec).await;
    started_and_ready(&mut told).await;
    let pid = || std::fs::read_to_string(world.path("nginx.pid")).unwrap_or_default().trim().to_owned();
    let main = || running.main().map(|main| main.identity().pid.to_string()).unwrap_or_default();
    eventually("the daemon becomes the main process", || !pid().is_empty() && main() == pid()).await;
    // Later than a double fork takes: now its end is the service's end, whatever workers it leaves.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    running.main().unwrap().signal(Signal::SIGKILL).unwrap();
    assert!(matches!(next(&mut told).await, Change::Died(_)));
    started_and_ready(&mut told).await;
    running.stop().await.unwrap();
    assert!(world.members().is_empty());
}

/// A grandchild that has done all it can to get lost: double fork, own session, no environment, no open
/// files, deaf to SIGTERM, and a main process that is killed.
const LOST: &str =
    "(setsid sh -c 'trap \"\" TERM; cd /; exec env -i sleep 600.5 <&- >&- 2>&-' &) ; exec sleep 600.25";

#[tokio::test]
async fn nothing_a_descendant_does_gets_it_lost() {
    let world = World::new("lost");
    let (running, _told) = start(world.sh(LOST)).await;
    eventually("both run", || asleep(&running.members()) == 2).await;
    let main = running.main().unwrap();
    main.signal(Signal::SIGKILL).unwrap();
    assert!(main.wait_gone(LIMIT).await);
    let lost = running.members();
    assert_eq!(lost.len(), 1);
    let environ = format!("/proc/{}/environ", lost[0].identity().pid);
    eventually("it keeps no environment", || std::fs::read(&environ).is_ok_and(|left| left.is_empty())).await;
    // Deaf to SIGTERM: killed after the grace, by nothing but the record.
    let record: Started = serde_json::from_str(&serde_json::to_string(&running.record()).unwrap()).unwrap();
    drop(running);
    let since = Instant::now();
    service::stop(&record).await.unwrap();
    assert!(since.elapsed() >= service::GRACE);
    assert!(!lost[0].is_alive() && record.members().is_empty());
    service::stop(&record).await.unwrap(); // once more is harmless
}

#[tokio::test]
async fn a_stopped_process_is_stopped_too() {
    let world = World::new("frozen");
    let (running, _told) = start(world.sh("exec sleep 600.75")).await;
    running.main().unwrap().signal(Signal::SIGSTOP).unwrap();
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < service::GRACE, "SIGCONT lets it hear SIGTERM");
}

#[tokio::test]
async fn what_keeps_forking_is_stopped() {
    let world = World::new("forks");
    let (running, _told) =
        start(world.sh("trap '' TERM; f() { sleep 0.01; (f &) ; }; f & f & f & f; sleep 600")).await;
    eventually("it forks", || running.members().len() >= 4).await;
    running.stop().await.unwrap();
    for _ in 0..20 {
        assert!(world.members().is_empty());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_service_that_dies_before_it_is_ready_shows_its_last_words_at_once() {
    let world = World::new("early");
    let spec = Spec {
        ready: Some(Ready::Tcp(format!("127.0.0.1:{}", free_port()))),
        ..world.sh("echo one; echo the disk is on fire >&2; exit 7")
    };
    let (teller, _told) = channel(8);
    let since = Instant::now();
    let why = service::start(spec, teller).await.unwrap_err().to_string();
    assert!(since.elapsed() < LIMIT);
    assert!(why.starts_with("service `early`: it ended before it was ready: exit status: 7"), "{why}");
    assert!(why.ends_with("\n  one\n  the disk is on fire"), "{why}");
}

#[tokio::test]
async fn a_service_that_is_not_ready_in_time_says_what_was_seen_last() {
    let world = World::new("late");
    let port = free_port();
    let spec = Spec {
        ready: Some(Ready::Http(format!("http://127.0.0.1:{port}/"))),
        ready_within: Duration::from_millis(300),
        ..world.sh("exec sleep 600.1")
    };
    let record = spec.record();
    let (teller, _told) = channel(8);
    let why = service::start(spec, teller).await.unwrap_err().to_string();
    assert!(why.contains("not ready within 300 ms") && why.contains("refused"), "{why}");
    assert!(!record.members().is_empty(), "its record is what stops it");
    service::stop(&record).await.unwrap();
}

#[tokio::test]
async fn a_port_somebody_listens_on_is_refused() {
    let world = World::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (teller, _told) = channel(8);
    let spec = Spec { port: Some(port), ..world.sh("exec sleep 600.2") };
    let why = service::start(spec, teller).await.unwrap_err().to_string();
    assert!(why.contains(&format!("port {port} is in use")), "{why}");
    assert!(world.members().is_empty());
}

#[tokio::test]
async fn wrong_commands_users_and_setups_are_told_apart() {
    let world = World::new("wrong");
    let cases = [
        (world.spec(&["/no/such/server"]), "cannot be started: No such file"),
        (world.spec(&[]), "the command is empty"),
        (
            Spec { user: Some("no-such-user".to_owned()), ..world.sh("true") },
            "there is no user `no-such-user`",
        ),
        (
            Spec { setup: Some(argv(&["sh", "-c", "echo no space; exit 3"])), ..world.sh("true") },
            "exit status: 3",
        ),
        (Spec { log: "/no/such/folder/log".into(), ..world.sh("true") }, "its log /no/such/folder/log"),
        (
            Spec {
                ready: Some(Ready::Http("https://x/".to_owned())),
                ready_within: Duration::from_millis(50),
                ..world.sh("exec sleep 600.3")
            },
            "only http:// can be asked here",
        ),
    ];
    for (spec, expected) in cases {
        let record = spec.record();
        let (teller, _told) = channel(8);
        let why = service::start(spec, teller).await.unwrap_err().to_string();
        assert!(why.contains(expected), "{why}");
        service::stop(&record).await.unwrap();
    }
}

#[tokio::test]
async fn it_inherits_nothing_but_what_it_was_given() {
    let world = World::new("inherits");
    let leaked = std::fs::File::open("/dev/null").unwrap();
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let spec = Spec {
        env: BTreeMap::from([("COLOUR".to_owned(), "green".to_owned())]),
        ..world.sh("ls -m /proc/$$/fd; pwd; echo $COLOUR $BROWNOUT_SERVICE; exec sleep 600.4")
    };
    let (running, _told) = start(spec).await;
    eventually("it has spoken", || world.log().lines().count() >= 3).await;
    let log = world.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0].trim(), "0, 1, 2", "{log}");
    assert_eq!(Path::new(lines[1]).canonicalize().unwrap(), world.folder.path().canonicalize().unwrap());
    assert_eq!(lines[2], format!("green {}/inherits", world.run));
    let pid = running.main().unwrap().identity().pid;
    assert_eq!(nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap().as_raw(), pid);
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_service_that_was_let_go_is_not_started_again() {
    let world = World::new("let-go");
    let spec = Spec { restart_after: Some(Duration::ZERO), ..world.sh("exec sleep 600.6") };
    let (running, mut told) = start(spec).await;
    started_and_ready(&mut told).await;
    let main = running.main().unwrap();
    running.let_go();
    main.signal(Signal::SIGKILL).unwrap();
    // The teller is gone with the supervisor and its owner; nothing else was told.
    drop(running);
    assert!(tokio::time::timeout(LIMIT, told.recv()).await.unwrap().is_none());
    assert!(world.members().is_empty());
}

#[tokio::test]
async fn two_services_of_one_run_do_not_touch_each_other() {
    let world = World::new("a");
    let (a, _) = start(world.sh("exec sleep 600.7")).await;
    let (b, _) = start(Spec { name: "b".to_owned(), ..world.sh("exec sleep 600.8") }).await;
    a.stop().await.unwrap();
    assert_eq!(b.members().len(), 1);
    b.stop().await.unwrap();
}

#[test]
fn a_record_claims_its_port_and_folder_and_says_how_to_stop_it_by_hand() {
    let world = World::new("claims");
    let spec = Spec { port: Some(6379), dir: Some("/srv/x".into()), ..world.sh("true") };
    let entry = Entry {
        fault: "service claims".to_owned(),
        host: "here".to_owned(),
        deadline: None,
        owed: AnyOwed::Service(spec.record()),
    };
    let text = serde_json::to_string(&entry).unwrap();
    assert!(text.contains(r#""kind":"service""#), "{text}");
    let entry: Entry = serde_json::from_str(&text).unwrap();
    assert_eq!(
        entry.claims(),
        [Claim::exclusive("here", "port 6379"), Claim::exclusive("here", "folder /srv/x")]
    );
    assert_eq!(entry.tier(), Tier::Watchdog);
}

#[tokio::test]
async fn the_command_for_a_person_stops_it() {
    let world = World::new("by-hand");
    let (running, _told) = start(world.sh("(setsid env -i sleep 600.9 &); exec sleep 600.95")).await;
    eventually("both run", || asleep(&running.members()) == 2).await;
    // A person whom `kill` tells that a process has just gone types it again.
    let type_it = || Command::new("sh").args(["-c", &running.record().by_hand()]).status().unwrap();
    eventually("both are gone", || {
        type_it();
        running.members().is_empty()
    })
    .await;
}

/// Not a test by itself: the runner that is killed below. It does what a run does: first the record, then
/// the service.
#[test]
fn the_starter_that_is_killed() {
    let Some(folder) = std::env::var_os("BROWNOUT_TEST_STARTER").map(PathBuf::from) else { return };
    let run: RunId = std::env::var("BROWNOUT_TEST_RUN").unwrap().parse().unwrap();
    // Within the folder of the test that kills us, which is cleaned up.
    let world = World { folder: tempfile::tempdir_in(&folder).unwrap(), run, name: "orphan" };
    let spec = Spec { log: folder.join("log"), ..world.sh(LOST) };
    let _log = owing(&folder.join("state"), &spec);
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let (_running, _told) = start(spec).await;
        std::fs::write(folder.join("up"), "").unwrap();
        tokio::time::sleep(LIMIT).await;
    });
}

/// A run's log that owes one service.
fn owing(state: &Path, spec: &Spec) -> UndoLog<Entry> {
    let header = Header {
        version: 1,
        run: spec.run,
        boot: process::boot_id(),
        pid: std::process::id() as i32,
        title: "a run of a test".to_owned(),
        started: String::new(),
        folder: PathBuf::new(),
    };
    let entry = Entry {
        fault: format!("service {}", spec.name),
        host: "this machine".to_owned(),
        deadline: None,
        owed: AnyOwed::Service(spec.record()),
    };
    let mut log = UndoLog::create(state, header, &entry.claims()).unwrap();
    log.append(entry).unwrap();
    log
}

struct Starter(Child);

impl Drop for Starter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn starter(world: &World) -> Starter {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_starter_that_is_killed", "--nocapture"]);
    command.env("BROWNOUT_TEST_STARTER", world.folder.path()).env("BROWNOUT_TEST_RUN", world.run.to_string());
    Starter(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn kill_all(record: &Started) {
    for member in record.members() {
        let _ = member.signal(Signal::SIGKILL);
    }
}

#[tokio::test]
async fn the_record_alone_stops_what_a_killed_starter_left() {
    let world = World::new("orphan");
    let mut killed = starter(&world);
    eventually("it is up", || world.path("up").exists()).await;
    let record = world.sh("").record();
    eventually("both run", || asleep(&record.members()) == 2).await;
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    assert_eq!(record.members().len(), 2);
    service::stop(&record).await.unwrap();
    assert!(record.members().is_empty());
}

#[tokio::test]
async fn a_starter_killed_at_any_moment_leaves_nothing_the_record_does_not_find() {
    let begun = Instant::now();
    {
        let world = World::new("orphan");
        let _whole = starter(&world);
        eventually("it is up", || world.path("up").exists()).await;
    }
    // From before its first instruction to after all is up.
    let step = begun.elapsed() * 3 / 2 / 40;
    for n in 0..40 {
        let world = World::new("orphan");
        let mut killed = starter(&world);
        tokio::time::sleep(step * n).await;
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
        let record = world.sh("").record();
        // What can be found now is all there ever will be: nothing appears after a reading that found none.
        while !record.members().is_empty() {
            kill_all(&record);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(record.members().is_empty(), "after {:?}", step * n);
    }
}

#[tokio::test]
async fn the_watchdog_stops_what_a_killed_run_started() {
    let world = World::new("orphan");
    let mut killed = starter(&world);
    eventually("it is up", || world.path("up").exists()).await;
    let record = world.sh("").record();
    eventually("both run", || asleep(&record.members()) == 2).await;
    let runner = Process::of_pid(killed.0.id() as i32).unwrap().identity().clone();
    let log = std::fs::read_dir(world.path("state/undo")).unwrap().flatten().map(|entry| entry.path());
    let log = log.into_iter().find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
    let mut watchdog = Command::new(env!("CARGO_BIN_EXE_brownout"))
        .arg("watchdog")
        .arg(&log)
        .args([runner.pid.to_string(), runner.start.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    watchdog.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    drop(watchdog.stdin.take()); // In a run the pipe ends with the runner.
    let since = Instant::now();
    assert!(watchdog.wait().unwrap().success());
    assert!(since.elapsed() < service::GRACE * 2);
    assert!(record.members().is_empty() && !log.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stands_still_is_not_taken_for_dead_and_can_be_killed_then() {
    let world = World::new("still");
    let script = "sleep 602.1 & sleep 602.2";
    let (running, mut told) = start(Spec { restart_after: Some(Duration::ZERO), ..world.sh(script) }).await;
    started_and_ready(&mut told).await;
    eventually("all run", || asleep(&running.members()) == 2).await;
    let hold = || -> Vec<_> { running.members().iter().map(|one| tracer::pause(one).unwrap()).collect() };
    let held = hold();
    let silence = tokio::time::timeout(Duration::from_millis(300), told.recv()).await;
    assert!(silence.is_err(), "{silence:?}");
    drop(held);
    let held = hold();
    running.main().unwrap().signal(Signal::SIGKILL).unwrap();
    drop(held);
    assert!(matches!(next(&mut told).await, Change::Died(how) if how.contains("signal: 9")));
    started_and_ready(&mut told).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_descendant_that_sheds_the_mark_is_found_by_its_parent() {
    let world = World::new("shed");
    let (running, _told) = start(world.sh("prlimit --rttime=unlimited sleep 604.1 & wait")).await;
    let shed = || {
        let unlimited = |pid: i32| {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
            limits.lines().any(|line| line.starts_with("Max realtime timeout      unlimited"))
        };
        running.members().into_iter().find(|one| unlimited(one.identity().pid))
    };
    eventually("it has shed the mark", || shed().is_some()).await;
    let shed = shed().unwrap();
    running.stop().await.unwrap();
    assert!(!shed.is_alive());
}

/// As a run would: the record in a log, the service up, the run gone.
#[tokio::test]
async fn recover_stops_what_a_dead_run_left() {
    let world = World::new("owed");
    let state = world.path("state");
    let spec = world.sh("(setsid env -i sleep 601.1 &); exec sleep 601.2");
    let log = owing(&state, &spec);
    let (running, _told) = start(spec).await;
    eventually("both run", || asleep(&running.members()) == 2).await;
    drop(running);
    drop(log);
    let brownout = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brownout"));
        command.env("BROWNOUT_STATE", &state).stdin(Stdio::null());
        command
    };
    let doctor = brownout().arg("doctor").output().unwrap();
    assert_eq!(doctor.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("OWED service owed of run"));
    let recover = brownout().arg("recover").output().unwrap();
    assert_eq!(recover.status.code(), Some(0), "{}", String::from_utf8_lossy(&recover.stdout));
    assert!(world.members().is_empty());
    assert_eq!(brownout().arg("doctor").output().unwrap().status.code(), Some(0));
}

fn shop(world: &World, name: &str, port: u16, arguments: &[&str]) -> Spec {
    let shown = port.to_string();
    let mut command = vec![env!("CARGO_BIN_EXE_brownout"), "shop"];
    command.extend(arguments);
    command.extend(["--port", &shown]);
    Spec {
        name: name.to_owned(),
        port: Some(port),
        ready: Some(Ready::Http(format!("http://127.0.0.1:{port}/healthz"))),
        restart_after: Some(Duration::from_millis(300)),
        ..world.spec(&command)
    }
}

/// The status of one order at the front, or nothing.
fn order(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"POST /orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.get(9..12).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_loses_a_replica_and_nobody_notices() {
    let world = World::new("store");
    let [s, a, b, f] = [free_port(), free_port(), free_port(), free_port()];
    let (teller, _told) = channel(64);
    let store_port = s.to_string();
    let both = format!("{a},{b}");
    let specs = [
        // The store has no /healthz: it counts whatever it is asked to.
        Spec { ready: Some(Ready::Tcp(format!("localhost:{s}"))), ..shop(&world, "store", s, &["store"]) },
        shop(&world, "a", a, &["replica", "--name", "a", "--store-port", &store_port]),
        shop(&world, "b", b, &["replica", "--name", "b", "--store-port", &store_port]),
        shop(&world, "front", f, &["front", "--replica-ports", &both]),
    ];
    let mut parts = Vec::new();
    for spec in specs {
        parts.push(service::start(spec, teller.clone()).await.unwrap());
    }
    for n in 0..200 {
        if n == 50 {
            parts[1].main().unwrap().signal(Signal::SIGKILL).unwrap();
        }
        assert_eq!(order(f).as_deref(), Some("200"), "order {n}");
    }
    eventually("replica a is back", || TcpStream::connect(("127.0.0.1", a)).is_ok()).await;
    for part in parts.into_iter().rev() {
        let since = Instant::now();
        part.stop().await.unwrap();
        assert!(since.elapsed() < service::GRACE, "it needed to be killed");
    }
    assert_eq!(order(f), None);
}
