//! `container`: a container as its runtime knows it: crashed, paused, stopped, restarted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::kill::Signal;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::file::{Mistakes, Node, Read, Value, nearest};
use crate::host::container::{Container as Found, Daemon, Runtime, Standing};
use crate::host::process::{Identity, cpu_time};
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// How long a container may take to stop before it is killed, unless said: Docker's own.
const GRACE: Duration = Duration::from_secs(10);
/// More would outlast the time that an undo may be late.
const MOST_GRACE: Duration = Duration::from_secs(15);
/// A daemon takes so long to carry out what it was asked, its grace aside.
const CARRYING_OUT: Duration = Duration::from_secs(3);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Whether something stands still is seen over so long.
const MEASURING: Duration = Duration::from_millis(300);

crate::kind! {
    /// Crashes, pauses, stops or restarts a container.
    ///
    /// `kill` sends a signal to its main process, as a crash does, and the runtime's restart policy is what is being
    /// tested. (Docker's own `kill` counts as stopped by hand, and then no policy starts it again.) `pause` freezes
    /// it and `stop` shuts it down, for as long as `for` says, and `restart` does it once: these through the API of
    /// Docker or podman, so that the runtime knows. They are taken back only where the container still stands as
    /// we left it: what a person started, resumed or removed meanwhile is left alone.
    ///
    /// A container that bears the label `brownout.protect=true` is refused, by every kind.
    pub struct Container("container") {
        /// `kill`, `pause`, `stop` or `restart`.
        action: Action = required,
        /// The signal of `kill`; KILL unless said.
        signal: Signal = optional,
        /// How long `stop` and `restart` wait for it to end by itself; 10s unless said, at most 15s.
        grace: Duration = optional,
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A signal to its main process.
    Kill,
    /// Frozen, until resumed.
    Pause,
    /// Shut down, until started.
    Stop,
    /// Shut down and started.
    Restart,
}

const ACTIONS: [(&str, Action); 4] =
    [("kill", Action::Kill), ("pause", Action::Pause), ("stop", Action::Stop), ("restart", Action::Restart)];

impl Read for Action {
    const NAME: &'static str = "action";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let known = || ACTIONS.iter().map(|(word, _)| *word);
        let said = if let Value::Text(text) = &node.value { text.as_str() } else { "" };
        if let Some((_, action)) = ACTIONS.iter().find(|(word, _)| *word == said) {
            return Some(*action);
        }
        let remedy = nearest(said, known()).map_or_else(
            || format!("use one of: {}", known().collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean `{near}`?"),
        );
        mistakes.error(node.place, format!("`{said}` is nothing that is done to a container"), remedy);
        None
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"enum": ACTIONS.map(|(word, _)| word)})
    }
}

/// What is done to which containers, and how each stood before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contained {
    action: Action,
    grace: Duration,
    containers: Vec<One>,
    targets: Vec<Identity>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct One {
    /// Who is asked; nobody for a `kill` of what no daemon runs.
    daemon: Option<Daemon>,
    id: String,
    name: String,
    /// When it was started, as the daemon writes it: started again, it is not as we left it.
    started: String,
    policy: String,
}

/// How one of them stands, seen from its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// Not hurt, or not yet.
    Whole,
    /// As we left it.
    Hurt,
    /// Removed or started again: no affair of ours any more.
    Another,
}

impl Container {
    fn check(&self, site: &Site) -> Result<Duration, Refusal> {
        if self.signal.is_some() && self.action != Action::Kill {
            return Err(site.refuse(
                "only `kill` sends a signal of your choice".to_owned(),
                "leave `signal` out, or say `action = \"kill\"`",
            ));
        }
        if self.grace.is_some() && !matches!(self.action, Action::Stop | Action::Restart) {
            return Err(site.refuse(
                "only `stop` and `restart` give a container time to end".to_owned(),
                "leave `grace` out",
            ));
        }
        let grace = self.grace.unwrap_or(GRACE);
        if grace > MOST_GRACE {
            return Err(site.refuse(
                format!("a grace of {} is too long", say(grace)),
                &format!("say at most {}", say(MOST_GRACE)),
            ));
        }
        Ok(grace)
    }

    fn signal(&self) -> nix::sys::signal::Signal {
        self.signal.map_or(nix::sys::signal::Signal::SIGKILL, |signal| signal.0)
    }

    async fn look_at(&self, site: &Site, found: &Found) -> Result<One, Refusal> {
        let mut one = One {
            daemon: None,
            id: found.id.clone(),
            name: found.name.clone(),
            started: String::new(),
            policy: "whatever its runtime does".to_owned(),
        };
        let Runtime::Daemon(daemon) = &found.runtime else {
            return if self.action == Action::Kill {
                Ok(one)
            } else {
                Err(site.refuse(
                    format!("container {} is known by the records of {} alone", one.name, found.runtime),
                    "only Docker and podman can be asked: turn their API on, or use `action = \"kill\"` or the fault `pause`",
                ))
            };
        };
        let standing = daemon
            .inspect(&found.id)
            .await
            .map_err(|trouble| site.refuse(trouble.why, &trouble.remedy))?
            .filter(|standing| standing.running && !standing.paused)
            .ok_or_else(|| {
                site.refuse(format!("container {} has ended", one.name), "is it being restarted?")
            })?;
        if standing.auto_remove && matches!(self.action, Action::Stop | Action::Restart) {
            return Err(site.refuse(
                format!(
                    "container {} is removed when it ends (--rm), and could not be started again",
                    one.name
                ),
                "start it without --rm, or say `action = \"pause\"`",
            ));
        }
        one.daemon = Some(daemon.clone());
        one.started = standing.started;
        one.policy = format!("restart policy `{}`", standing.policy);
        Ok(one)
    }
}

impl Fault for Container {
    type Owed = Contained;
    const LASTING: bool = true;
    const BY_FIELDS: bool = true;
    const AIM: Aim = Aim::Container;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.database-stops.container]
target = { container = "db" }    # or an id, or "label app=db"
action = "stop"
grace  = "2s"
for    = "20s"
"#;

    fn lasts(&self) -> bool {
        matches!(self.action, Action::Pause | Action::Stop)
    }

    async fn survey(&self, site: &Site) -> Result<Contained, Refusal> {
        let grace = self.check(site)?;
        site.some_processes()?;
        let mut containers = Vec::new();
        for found in &site.target.containers {
            containers.push(self.look_at(site, found).await?);
        }
        Ok(Contained { action: self.action, grace, containers, targets: site.identities() })
    }

    async fn inject(&self, site: &Site, owed: &Contained, _: &mut Held) -> Result<(), FaultError> {
        if self.action == Action::Kill {
            for process in &site.target.processes {
                process.signal(self.signal()).map_err(|why| FaultError(why.to_string()))?;
            }
            return Ok(());
        }
        let seconds = owed.grace.as_secs_f64().ceil();
        let verb = match self.action {
            Action::Pause | Action::Kill => "pause".to_owned(),
            Action::Stop => format!("stop?t={seconds}"),
            Action::Restart => format!("restart?t={seconds}"),
        };
        for one in &owed.containers {
            if let Some(daemon) = &one.daemon {
                let done = daemon.act(&one.id, &verb, owed.grace).await;
                done.map_err(|why| FaultError(why.to_string()))?;
            }
        }
        Ok(())
    }

    async fn verify(&self, site: &Site, owed: &Contained, _: &Held) -> Effect {
        if self.action == Action::Kill {
            return self.verify_kill(site, owed).await;
        }
        let of = owed.containers.len();
        let (mut as_asked, mut figures) = (0, Vec::new());
        for one in &owed.containers {
            let standing = match one.standing().await {
                Ok(Some(standing)) => standing,
                Ok(None) => return Effect::Mismatch(format!("{} was removed", one.name)),
                Err(why) => return Effect::Unverifiable(why.to_string()),
            };
            let (right, said) = match self.action {
                Action::Pause => (standing.paused, "paused"),
                Action::Stop => (!standing.running, "stopped"),
                Action::Restart | Action::Kill => {
                    (standing.running && standing.started != one.started, "started anew")
                }
            };
            as_asked += usize::from(right);
            if right && self.action == Action::Stop {
                figures.push(format!("{} ended with code {}", one.name, standing.exit_code));
            }
            if !right {
                figures.push(format!("{} is not {said}", one.name));
            }
        }
        // The daemon's word is not enough where the processes can be looked at.
        let pids: Vec<i32> = owed.targets.iter().map(|target| target.pid).collect();
        let still = if self.action == Action::Pause {
            let used = || pids.iter().copied().filter_map(cpu_time).sum::<Duration>();
            let before = used();
            tokio::time::sleep(MEASURING).await;
            let more = used().saturating_sub(before);
            figures.push(format!("their {} processes used {} in {}", pids.len(), say(more), say(MEASURING)));
            more.is_zero()
        } else {
            let mut gone = 0;
            for process in &site.target.processes {
                gone += usize::from(process.wait_gone(Duration::from_secs(1)).await);
            }
            figures.push(format!("{gone} of {} processes gone", site.target.processes.len()));
            gone == site.target.processes.len()
        };
        let figures = format!("{as_asked} of {of} containers {}; {}", self.action.done(), figures.join(", "));
        if as_asked == of && still { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }

    fn mechanism(&self, owed: &Contained) -> Option<String> {
        let daemon = owed.containers.iter().find_map(|one| one.daemon.as_ref());
        Some(match (self.action, daemon) {
            (Action::Kill, _) => {
                let policies: Vec<&str> = owed.containers.iter().map(|one| one.policy.as_str()).collect();
                format!("a signal to the main process, as in a crash; {}", policies.join(", "))
            }
            (_, Some(daemon)) => format!("by {} at {}", daemon.brand, daemon.socket.display()),
            (_, None) => return None,
        })
    }

    fn harm(&self, site: &Site) -> String {
        let names: Vec<String> =
            site.target.containers.iter().map(|one| format!("{} of {}", one.name, one.runtime)).collect();
        let whom = format!("container{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "));
        match self.action {
            Action::Kill => format!("sends {} to the main process of {whom}", self.signal()),
            Action::Pause => format!("pauses {whom}"),
            Action::Stop => format!("stops {whom}, and starts it again afterwards"),
            Action::Restart => format!("restarts {whom}"),
        }
    }

    fn ability(_: &Rights) -> Ability {
        super::ability::containers(Some(Tier::Watchdog))
    }
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Pause => "paused",
            Self::Stop => "stopped",
            Self::Restart => "started anew",
        }
    }
}

impl Container {
    async fn verify_kill(&self, site: &Site, owed: &Contained) -> Effect {
        if self.signal() != nix::sys::signal::Signal::SIGKILL {
            return Effect::Unverifiable(format!(
                "{} sent; the main process of a container ignores what it does not handle",
                self.signal()
            ));
        }
        let mut gone = 0;
        for process in &site.target.processes {
            gone += usize::from(process.wait_gone(Duration::from_secs(2)).await);
        }
        let policies: Vec<&str> = owed.containers.iter().map(|one| one.policy.as_str()).collect();
        let of = site.target.processes.len();
        let figures = format!("{gone} of {of} main processes gone; {}", policies.join(", "));
        if gone == of { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }
}

impl One {
    async fn standing(&self) -> Result<Option<Standing>, UndoError> {
        match &self.daemon {
            Some(daemon) => daemon.inspect(&self.id).await.map_err(|why| UndoError(why.to_string())),
            None => Ok(None),
        }
    }

    async fn now(&self, action: Action) -> Result<Now, UndoError> {
        Ok(match self.standing().await? {
            None => Now::Another,
            Some(standing) if standing.started != self.started => Now::Another,
            Some(standing) => match action {
                Action::Pause if standing.paused => Now::Hurt,
                Action::Stop | Action::Restart if !standing.running => Now::Hurt,
                _ => Now::Whole,
            },
        })
    }

    /// Takes it back. One that is not hurt, though not started again either, may be about to be: a runner that was
    /// killed had perhaps just asked for it, and a daemon carries out what it was asked by the dead too. So it is
    /// watched for as long as that takes.
    async fn take_back(&self, action: Action, patience: Duration) -> Result<(), UndoError> {
        let Some(daemon) = &self.daemon else { return Ok(()) };
        let until = since_boot() + patience;
        loop {
            match self.now(action).await? {
                Now::Another => return Ok(()),
                Now::Hurt => {
                    let verb = if action == Action::Pause { "unpause" } else { "start" };
                    let done = daemon.act(&self.id, verb, GRACE).await;
                    return match done {
                        // Somebody else was faster.
                        Err(_) if self.now(action).await? != Now::Hurt => Ok(()),
                        done => done.map_err(|why| UndoError(why.to_string())),
                    };
                }
                Now::Whole if since_boot() > until => return Ok(()),
                Now::Whole => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

impl Owed for Contained {
    async fn undo(&self) -> Result<(), UndoError> {
        let patience = match self.action {
            Action::Kill => return Ok(()),
            Action::Pause => CARRYING_OUT,
            Action::Stop | Action::Restart => self.grace + CARRYING_OUT,
        };
        let mut result = Ok(());
        for one in &self.containers {
            let taken_back = one.take_back(self.action, patience).await;
            result = result.and(taken_back);
        }
        result
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        if self.action == Action::Kill {
            return Ok(false);
        }
        for one in &self.containers {
            if one.now(self.action).await? == Now::Hurt {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let containers =
            self.containers.iter().map(|one| Claim::exclusive(host, format!("container {}", one.id)));
        containers.chain(super::process_claims(host, &self.targets)).collect()
    }

    fn tier(&self) -> Tier {
        if self.action == Action::Kill { Tier::NotReversible } else { Tier::Watchdog }
    }

    fn by_hand(&self) -> String {
        let verb = match self.action {
            Action::Kill => {
                return "not reversible: the runtime's restart policy brings it back, or nobody".to_owned();
            }
            Action::Pause => "unpause",
            Action::Stop | Action::Restart => "start",
        };
        let command = |one: &One| {
            let daemon = one.daemon.as_ref()?;
            let option = if daemon.brand.program() == "docker" { "-H" } else { "--url" };
            let (program, socket) = (daemon.brand.program(), daemon.socket.display());
            Some(format!("{program} {option} unix://{socket} {verb} {}", one.name))
        };
        self.containers.iter().filter_map(command).collect::<Vec<_>>().join("; ")
    }
}
