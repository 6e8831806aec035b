//! From a checked experiment to its exit code: the way every command that runs one takes.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::faces::{Faces, Format, Wanted};
use super::{Exit, plan, signals};
use crate::base::{Clock, Dice, RunId};
use crate::engine::{self, Armed, Order, Plan, Report, Services, Setting, World};
use crate::event::{Event, Listener, What};
use crate::experiment::model::Moment;
use crate::experiment::{Checked, Draft, Refused, Surroundings, environment};
use crate::hands::Heartbeat;
use crate::host::process::ourselves;
use crate::host::user;
use crate::report::{Paint, RunFolder};
use crate::undo::state_dir;

/// How an experiment is run.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct How {
    /// Draw the same targets as an earlier run, which printed its seed
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Agree to hurting what the experiment did not start itself: by `yes`, or the word its file asks for
    #[arg(long, value_name = "WORD")]
    pub(super) confirm: Option<String>,
    /// The same as --confirm yes
    #[arg(long, conflicts_with = "confirm")]
    pub(super) yes: bool,
    /// Where each run leaves its folder: reports, journal, logs of services
    #[arg(
        long,
        value_name = "DIR",
        env = "BROWNOUT_RUNS",
        hide_env_values = true,
        default_value = "brownout-runs"
    )]
    pub(super) runs: PathBuf,
    /// Where undo logs are kept; /var/lib/brownout for root, ~/.local/state/brownout otherwise, when absent
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    #[command(flatten)]
    pub(super) faces: Wanted,
}

impl How {
    /// Nothing is run, only planned.
    pub(super) fn to_plan(seed: Option<u64>, format: Format) -> Self {
        Self {
            seed,
            confirm: None,
            yes: false,
            runs: PathBuf::new(),
            state: None,
            faces: Wanted::only(format),
        }
    }

    /// Where undo logs are kept.
    pub(super) fn state_dir(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(state_dir)
    }
}

/// Reads and checks a file; what is wrong with it, and if wanted what is doubtful, goes to stderr.
pub(super) fn load(draft: Draft, surroundings: &mut Surroundings, warn: bool) -> Result<Checked, Exit> {
    let colour = Paint::for_terminal(std::io::stderr().is_terminal()).colour;
    let mut errors = std::io::stderr().lock();
    match draft.check(surroundings) {
        Ok(checked) => {
            if warn {
                let _ = write!(errors, "{}", checked.warnings.render(&checked.sources, colour));
            }
            Ok(checked)
        }
        Err(Refused { mistakes, sources }) => {
            let _ = write!(errors, "{}", mistakes.render(&sources, colour));
            let (count, _) = mistakes.counts();
            let _ = writeln!(
                errors,
                "{count} mistake{}{}; nothing was touched",
                if count == 1 { "" } else { "s" },
                sources.first().map_or_else(String::new, |file| format!(" in {file}"))
            );
            Err(Exit::Usage)
        }
    }
}

/// The surroundings of a real run: free ports, and folders of its services that nobody else has.
pub(super) fn surroundings(run: RunId) -> Surroundings {
    Surroundings {
        env: Box::new(environment),
        // The port is free now and will most likely still be in a moment; a service that finds it taken says so.
        port: Box::new(|_| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
            listener.and_then(|listener| listener.local_addr()).map_or(0, |address| address.port())
        }),
        services_dir: services_dir(run),
    }
}

/// Short, because a socket's path must be, and where a service's own user can reach it.
fn services_dir(run: RunId) -> PathBuf {
    std::env::temp_dir().join(format!("brownout-{run}"))
}

/// What was given, in the form in which a person repeats it.
pub(super) struct Asked {
    /// The run.
    pub(super) run: RunId,
    /// The file, or what stands for it.
    pub(super) file: String,
    /// Only show the plan.
    pub(super) dry: bool,
}

/// Runs a checked experiment.
pub(super) async fn launch(checked: Checked, asked: Asked, how: How) -> Exit {
    let clock = Clock::start();
    let Checked { experiment, sources, .. } = checked;
    let hash = Sha256::digest(sources.text()).iter().fold(String::new(), |mut hash, byte| {
        let _ = write!(hash, "{byte:02x}");
        hash
    });
    let experiment = Arc::new(experiment);
    let dice = how.seed.or(experiment.seed).map_or_else(Dice::drawn, Dice::new);
    let holder = match ourselves() {
        Ok(process) => process.identity().clone(),
        Err(why) => return refused(&[why.to_string()]),
    };
    let world = World {
        run: asked.run,
        dice,
        holder,
        heartbeat: Heartbeat::default(),
        services: Services::default(),
        experiment: experiment.clone(),
    };
    let plan = Plan::make(&world, clock.started()).await;
    let told = plan.told();
    if asked.dry {
        return plan::print(&plan, how.faces.json());
    }
    let armed = match consent(plan, &how) {
        Ok(armed) => armed,
        Err(refusals) => return refused(&refusals),
    };
    let folder =
        match RunFolder::create(&how.runs, clock.started(), &experiment.title, &asked.run.to_string()) {
            Ok(folder) => folder,
            Err(why) => return refused(&[why.to_string()]),
        };
    let mut faces = Faces::open(&how.faces, &folder);
    let mut tell = |what| faces.hear(&Event::new(&clock, clock.now(), what));
    tell(What::Began {
        run: asked.run.to_string(),
        title: experiment.title.clone(),
        file: asked.file,
        file_hash: hash,
        seed: dice.seed(),
        user: user::ourselves(),
        sudo_user: user::sudo_user(),
        host: nix::unistd::gethostname()
            .map_or_else(|_| String::new(), |name| name.to_string_lossy().into_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    tell(What::Planned { plan: told });
    let hands = match hands() {
        Ok(hands) => hands,
        Err(why) => return refused(&[format!("the system gave us no threads: {why}")]),
    };
    let orders = engine::orders();
    if experiment.faults.iter().any(|fault| fault.at == Moment::Operator) {
        listen_for_enter(orders.0.clone());
    }
    let setting = Setting {
        state: how.state_dir(),
        folder: folder.path().to_owned(),
        clock,
        workers: tokio::runtime::Handle::current(),
        hands: hands.handle().clone(),
        signals: signals::asked_to_stop(),
        orders,
        looks: engine::looks(),
    };
    let ended = on_a_thread_of_its_own(armed, world, setting, faces).await;
    hands.shutdown_background();
    match ended {
        Ok((faces, Ok(report))) => {
            faces.close(&folder);
            Exit::of(report.judgement.exit)
        }
        Ok((faces, Err(why))) => {
            drop(faces);
            let _ = std::fs::remove_dir_all(folder.path());
            refused(&[why.to_string()])
        }
        Err(why) => {
            eprintln!("error: a bug of ours: {why}; the watchdog is undoing what was done");
            Exit::Bug
        }
    }
}

/// Threads that inject and undo, and do nothing else.
fn hands() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("hands").enable_all().build()
}

type Ended = (Faces, Result<Report, engine::RunError>);

/// Whoever decides has a thread and a runtime of its own: nothing that looks, writes or waits is in its way.
async fn on_a_thread_of_its_own(
    armed: Armed,
    world: World,
    setting: Setting,
    mut faces: Faces,
) -> Result<Ended, String> {
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("conduct".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Ok(runtime) => Ok(runtime.block_on(engine::run(armed, world, setting, &mut faces))),
                Err(why) => Err(why.to_string()),
            };
            let _ = done.send(ended.map(|report| (faces, report)));
        })
        .map_err(|why| why.to_string())?;
    ended.await.map_err(|_| "the deciding thread failed".to_owned())?
}

fn refused(why: &[String]) -> Exit {
    for sentence in why {
        eprintln!("error: {sentence}");
    }
    eprintln!("nothing was touched");
    Exit::Refused
}

/// Shows the plan and asks, where something is hurt that the experiment did not start.
fn consent(plan: Plan, how: &How) -> Result<Armed, Vec<String>> {
    let mut word = if how.yes { Some("yes".to_owned()) } else { how.confirm.clone() };
    let asks = plan.needs_consent() && word.is_none() && plan.refusals.is_empty();
    if asks && std::io::stdin().is_terminal() {
        let mut errors = std::io::stderr();
        let wanted = plan.consent();
        let _ = write!(errors, "{}\ntype {wanted} to go on: ", plan::text(&plan));
        let _ = errors.flush();
        let mut answer = String::new();
        let _ = std::io::stdin().lock().read_line(&mut answer);
        word = Some(answer.trim().to_owned());
    }
    plan.arm(word.as_deref())
}

/// Enter lets the waiting step begin.
fn listen_for_enter(orders: tokio::sync::mpsc::Sender<Order>) {
    if std::io::stdin().is_terminal() {
        let listening = std::thread::Builder::new().name("enter".to_owned()).spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let order = Order::Go { who: user::caller() };
                if line.is_err() || orders.blocking_send(order).is_err() {
                    return;
                }
            }
        });
        // Without it, `brownout go` still works.
        drop(listening);
    }
}
