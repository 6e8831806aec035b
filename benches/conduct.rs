//! From the decisive look to the release: whole runs that hear 10,000 looks a second, held against ten objectives, until
//! one bad look spends the budget. `cargo bench --bench conduct`
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on should say so and stop")]

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use brownout::base::{Clock, Dice, RunId};
use brownout::engine::{self, Plan, Services, Setting, World};
use brownout::event::{Event, Listener, What};
use brownout::experiment::{Draft, Surroundings};
use brownout::hands::Heartbeat;
use brownout::host::process::ourselves;
use brownout::probe::schedule::{Look, News};
use brownout::report::{Audience, Journal, RunFolder, Story};
use brownout::slo::{Outcome, Sample};
use tokio::runtime::{Builder, Runtime};

const RUNS: usize = 60;
const RATE: u32 = 10_000;
/// Each look takes as long as so many later ones need to begin.
const UNDER_WAY: u32 = 200;
/// Looks before the decisive one.
const BEFORE: u32 = 4_000;

fn experiment(port: u16) -> String {
    let latency: Vec<String> =
        (1..=8).map(|n| format!("{{ percentile = \"p9{n}\", below = \"{}ms\" }}", 100 * n)).collect();
    format!(
        "title = \"conduct\"\n[steady_state]\nfor = \"200ms\"\n[guard]\nbudget = \"1 looks\"\n\
         [probe.p.tcp]\naddress = \"127.0.0.1:{port}\"\nrate = \"200/s\"\n\
         [slo.p]\nprobe = \"p\"\navailability = \"99%\"\nlongest_outage = \"10s\"\nlatency = [{}]\n\
         [fault.f.exec]\ninject = [\"true\"]\nundo = [\"true\"]\nat = \"0s\"\nfor = \"1m\"\n",
        latency.join(", ")
    )
}

/// What the program itself would have listening, and who notes the moments.
struct Noting {
    audience: Audience,
    heard: Sender<(What, Instant)>,
    stopped: Arc<AtomicBool>,
}

impl Listener for Noting {
    fn hear(&mut self, event: &Event) {
        let now = Instant::now();
        if matches!(event.what, What::Stopping { .. }) {
            self.stopped.store(true, Ordering::Release);
        }
        if matches!(event.what, What::Live { .. } | What::Stopping { .. } | What::Undone { .. }) {
            let _ = self.heard.send((event.what.clone(), now));
        }
        self.audience.hear(event);
    }
}

fn threads(count: usize) -> Runtime {
    Builder::new_multi_thread().worker_threads(count).enable_all().build().unwrap()
}

/// Looks at a steady rate, until the run stops; when the decisive one was said.
fn flood(clock: Clock, looks: &tokio::sync::mpsc::Sender<News>, stopped: &AtomicBool) -> Instant {
    let begun = clock.now();
    let intended = |n: u32| begun + Duration::from_secs(1) * n / RATE;
    let look = |n: u32, outcome| {
        let (intended, ended) = (intended(n), clock.now());
        let sample = Sample { intended, started: intended, ended, outcome, why: None };
        News::Settled(Look::bare(0, sample))
    };
    let mut decisive = None;
    for n in 0.. {
        if stopped.load(Ordering::Acquire) {
            break;
        }
        std::thread::sleep(intended(n).saturating_sub(clock.now()));
        looks.blocking_send(News::Begun { probe: 0, intended: intended(n) }).unwrap();
        let Some(done) = n.checked_sub(UNDER_WAY) else { continue };
        let outcome = if done == BEFORE { Outcome::Bad } else { Outcome::Good };
        let said = look(done, outcome);
        if done == BEFORE {
            decisive = Some(Instant::now());
        }
        looks.blocking_send(said).unwrap();
    }
    decisive.unwrap()
}

/// One run: from the decisive look to the release, and from there to the checked undo.
fn measure(port: u16, place: &Path) -> (Duration, Duration) {
    let clock = Clock::start();
    let (workers, hands) = (threads(2), threads(2));
    let conduct = Builder::new_current_thread().enable_all().build().unwrap();
    let draft = Draft::from_text(Path::new("conduct.toml"), &experiment(port));
    let Ok(checked) = draft.check(&mut Surroundings::pretended()) else { panic!("its experiment is wrong") };
    let experiment = Arc::new(checked.experiment);
    let world = World {
        run: RunId::fresh(),
        dice: Dice::new(1),
        holder: ourselves().unwrap().identity().clone(),
        heartbeat: Heartbeat::default(),
        services: Services::default(),
        experiment,
    };
    let armed = conduct.block_on(Plan::make(&world, clock.started())).arm(Some("yes")).unwrap();
    let folder = RunFolder::create(place, clock.started(), "conduct", &world.run.to_string()).unwrap();
    let (heard, moments) = channel();
    let stopped = Arc::new(AtomicBool::new(false));
    let journal = Journal::create(folder.folder()).unwrap();
    let audience = Audience { journal: Some(journal), screen: None, story: Story::default() };
    let mut listener = Noting { audience, heard, stopped: stopped.clone() };
    let (_signal, signals) = tokio::sync::watch::channel(None);
    let looks = engine::looks();
    let sender = looks.0.clone();
    let setting = Setting {
        state: place.join("state"),
        folder: folder.path().to_owned(),
        clock,
        workers: workers.handle().clone(),
        hands: hands.handle().clone(),
        signals,
        orders: engine::orders(),
        looks,
    };
    let flooding = std::thread::spawn(move || {
        let live = moments.recv().unwrap();
        assert!(matches!(live.0, What::Live { .. }), "{live:?}");
        let decisive = flood(clock, &sender, &stopped);
        let (stopping, at) = moments.recv().unwrap();
        let What::Stopping { why, .. } = stopping else { panic!("{stopping:?}") };
        assert!(why.contains("1 of 1 bad looks are spent"), "{why}");
        let (_, undone) = moments.recv().unwrap();
        (at.saturating_duration_since(decisive), undone.saturating_duration_since(at))
    });
    let report = conduct.block_on(engine::run(armed, world, setting, &mut listener)).unwrap();
    assert_eq!(report.judgement.exit, 3, "{:?}", report.judgement);
    workers.shutdown_background();
    hands.shutdown_background();
    flooding.join().unwrap()
}

fn main() -> std::process::ExitCode {
    // A run's watchdog is this very program, executed anew.
    if std::env::args().nth(1).is_some_and(|word| word == "watchdog") {
        return std::process::ExitCode::from(brownout::cli::main() as u8);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let place = tempfile::tempdir().unwrap();
    let mut figures: Vec<_> = (0..RUNS).map(|_| measure(port, place.path())).collect();
    let at =
        |figures: &[(Duration, Duration)], share: f64| figures[((RUNS - 1) as f64 * share).round() as usize];
    figures.sort_unstable();
    println!(
        "decisive look to release, {RATE} looks/s, ten objectives, {RUNS} runs: p50 {:?}, p99 {:?}, longest {:?}",
        at(&figures, 0.5).0,
        at(&figures, 0.99).0,
        at(&figures, 1.0).0
    );
    figures.sort_unstable_by_key(|figure| figure.1);
    println!(
        "release to checked undo (one command, and the log's fsync): p50 {:?}, p99 {:?}",
        at(&figures, 0.5).1,
        at(&figures, 0.99).1
    );
    std::process::ExitCode::SUCCESS
}
