//! `brownout inject KIND ...`: one fault, no file.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rand::seq::IndexedRandom;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::Exit;
use crate::base::{Clock, Dice, RunId, unit};
use crate::engine::{self, Ended, Harm, Stop};
use crate::fault::{AnyFault, Effect, Site};
use crate::file::{Fields, Mistakes, Sources, nearest};
use crate::hands::Heartbeat;
use crate::host::process::{Process, Wanted, find, ourselves};
use crate::host::socket::listening;
use crate::host::target::{Endpoint, Found};
use crate::undo::state_dir;

#[derive(clap::Args)]
pub(super) struct Inject {
    /// The kind of fault; `brownout explain` lists them
    kind: String,
    /// The kind's own fields, as in a file: `size=1GiB`, `signal=TERM`, `'undo=["rm", "x"]'`
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// How long it lasts, for example 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = unit::duration, default_value = "30s")]
    hold: Duration,
    #[command(flatten)]
    target: Target,
    /// Only traffic from processes that run this program
    #[arg(long, value_name = "PROGRAM")]
    from_exe: Option<String>,
    /// How many of the processes found; drawn from the seed
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Repeats what an earlier run drew
    #[arg(long)]
    seed: Option<u64>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Where undo logs are kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(clap::Args)]
#[group(multiple = false)]
struct Target {
    /// The process whose number is in this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Processes that run this program: its path, or the last part of it
    #[arg(long, value_name = "PROGRAM")]
    exe: Option<String>,
    /// Processes whose command line matches this regular expression
    #[arg(long, value_name = "REGEX")]
    cmdline: Option<regex::Regex>,
    /// The process that listens on this TCP port
    #[arg(long, value_name = "PORT")]
    listen: Option<u16>,
    /// This place: a directory
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Traffic to this address, or to this port
    #[arg(long, value_name = "ADDRESS[:PORT]|:PORT", value_parser = endpoint)]
    to: Option<Endpoint>,
}

/// `10.0.0.7:6379`, `[::1]:6379`, `10.0.0.7`, `::1` or `:6379`.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Ok(at) = text.parse::<SocketAddr>() {
        return Ok(at.into());
    }
    if let Ok(address) = text.parse() {
        return Ok(Endpoint { address: Some(address), port: None });
    }
    match text.strip_prefix(':').map(str::parse) {
        Some(Ok(port)) => Ok(Endpoint { address: None, port: Some(port) }),
        _ => Err("write 10.0.0.7:6379, [::1]:6379, 10.0.0.7 or :6379".to_owned()),
    }
}

impl Target {
    fn wanted(&self) -> Option<Wanted> {
        (self.pid_file.clone().map(Wanted::PidFile))
            .or_else(|| self.exe.clone().map(Wanted::Exe))
            .or_else(|| self.cmdline.clone().map(Wanted::Cmdline))
            .or_else(|| self.listen.map(Wanted::Listen))
    }
}

impl Inject {
    pub(super) async fn run(self) -> Exit {
        let fault = match self.fault() {
            Ok(fault) => fault,
            Err(mistakes) => {
                eprint!("{mistakes}");
                return Exit::Usage;
            }
        };
        let harm = match self.harm(fault) {
            Ok(harm) => harm,
            Err(why) => {
                eprintln!("error: {why}");
                return Exit::Refused;
            }
        };
        eprintln!("run {}, seed {}: {}", harm.site.run, harm.site.dice.seed(), harm.fault.harm(&harm.site));
        if harm.fault.lasting() {
            eprintln!("for {}; Ctrl-C ends it early", unit::say(harm.hold));
        }
        if !self.yes && !confirmed() {
            eprintln!("error: not confirmed, nothing was touched; answer yes, or give --yes");
            return Exit::Refused;
        }
        let clock = Clock::start();
        let ended =
            engine::run(&harm, &clock, stop_on_signals(), |effect| eprintln!("{}", say(effect))).await;
        match ended {
            Ok(ended) => conclude(&ended),
            Err(why) => {
                eprintln!("error: {why}\nnothing was touched");
                Exit::Refused
            }
        }
    }

    /// Reads the fields exactly as a file's would be; the mistakes, rendered, when there are any.
    fn fault(&self) -> Result<AnyFault, String> {
        if !AnyFault::KINDS.contains(&self.kind.as_str()) {
            let near = nearest(&self.kind, AnyFault::KINDS.iter().copied());
            let remedy = near.map_or_else(
                || format!("known: {}", AnyFault::KINDS.join(", ")),
                |k| format!("did you mean `{k}`?"),
            );
            return Err(format!("error: there is no fault `{}`: {remedy}\n", self.kind));
        }
        let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
        let node = sources.parse("arguments", &document(&self.fields), &mut mistakes);
        let read = Fields::open(&node, self.kind.clone(), &mut mistakes).and_then(|mut fields| {
            let fault = AnyFault::take(&self.kind, &mut fields, &mut mistakes);
            fields.close(&mut mistakes);
            fault
        });
        match read {
            Some(fault) if !mistakes.refuse() => Ok(fault),
            _ => Err(mistakes.render(&sources, std::io::stderr().is_terminal())),
        }
    }

    fn harm(&self, fault: AnyFault) -> Result<Harm, String> {
        let dice = self.seed.map_or_else(Dice::drawn, Dice::new);
        let mut processes = match self.target.wanted() {
            Some(wanted) => find(&wanted).map_err(|why| format!("the target: {why}"))?,
            None => Vec::new(),
        };
        if processes.len() > self.count {
            let mut rng = dice.stream("inject.pick");
            let all: Vec<usize> = (0..processes.len()).collect();
            let drawn: Vec<usize> = all.choose_multiple(&mut rng, self.count).copied().collect();
            let mut at = 0;
            processes.retain(|_: &Process| {
                at += 1;
                drawn.contains(&(at - 1))
            });
        }
        let from = self.from_exe.as_ref().map(|program| -> Result<Found, String> {
            let clients = find(&Wanted::Exe(program.clone())).map_err(|why| format!("its clients: {why}"))?;
            Ok(Found { said: format!("exe {program}"), processes: clients, ..Found::default() })
        });
        let pids: Vec<i32> = processes.iter().map(|process| process.identity().pid).collect();
        let endpoints = self.target.to.map_or_else(|| listening(&pids), |to| vec![to]);
        let said = self.target.to.map_or_else(|| "what was named".to_owned(), |to| to.to_string());
        let holder = ourselves().map_err(|why| why.to_string())?.identity().clone();
        Ok(Harm {
            title: format!("inject {}", self.kind),
            site: Site {
                run: RunId::fresh(),
                fault: self.kind.clone(),
                dice,
                host: "this machine".to_owned(),
                target: Found { said, processes, endpoints, place: self.target.path.clone() },
                from: from.transpose()?,
                hold: self.hold,
                holder,
                heartbeat: Heartbeat::default(),
                directory: std::env::current_dir().map_err(|why| format!("the working directory: {why}"))?,
            },
            fault,
            hold: self.hold,
            state: self.state.clone().unwrap_or_else(state_dir),
        })
    }
}

/// `size=1GiB` as a line of TOML; a value that is TOML by itself (a list, true, 5) stands as it is.
fn document(fields: &[String]) -> String {
    let line = |field: &String| {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let bare = format!("{name} = {value}\n");
        if toml::de::DeTable::parse(&bare).is_ok() {
            return bare;
        }
        let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{name} = \"{quoted}\"\n")
    };
    fields.iter().map(line).collect()
}

fn confirmed() -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("type yes to go on: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim() == "yes"
}

/// A watch that turns when we are asked to stop. SIGHUP counts: the terminal is gone, the harm must be too;
/// and so does Ctrl-Z, since a stopped runner could not end what it holds.
fn stop_on_signals() -> watch::Receiver<Stop> {
    let (turn, stop) = watch::channel(Stop::No);
    for (kind, what) in [
        (SignalKind::interrupt(), Stop::Interrupt),
        (SignalKind::hangup(), Stop::Interrupt),
        (SignalKind::quit(), Stop::Interrupt),
        (SignalKind::from_raw(libc::SIGTSTP), Stop::Interrupt),
        (SignalKind::terminate(), Stop::Terminate),
    ] {
        if let Ok(mut signals) = signal(kind) {
            let turn = turn.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    turn.send_replace(what);
                }
            });
        }
    }
    stop
}

fn say(effect: &Effect) -> String {
    match effect {
        Effect::Confirmed(figures) => format!("took hold: {figures}"),
        Effect::Mismatch(figures) => format!("DID NOT TAKE HOLD: {figures}"),
        Effect::Unverifiable(why) => format!("whether it took hold cannot be measured: {why}"),
    }
}

/// The end in words and as an exit code; "not undone" outranks everything.
fn conclude(ended: &Ended) -> Exit {
    for harm in &ended.unpaid {
        eprintln!("NOT UNDONE {}: {}; by hand: {}", harm.fault, harm.why, harm.by_hand);
    }
    if !ended.unpaid.is_empty() {
        return Exit::NotUndone;
    }
    eprintln!("undone and checked in {}", unit::say(ended.undo_took));
    if let Some(why) = &ended.failed {
        eprintln!("error: the injection failed: {why}");
        return Exit::Inconclusive;
    }
    if ended.watchdog_lost {
        eprintln!("error: the watchdog was lost, so the harm was ended early");
        return Exit::Inconclusive;
    }
    match (ended.stop, &ended.effect) {
        (Stop::Interrupt, _) => Exit::Interrupted,
        (Stop::Terminate, _) => Exit::Terminated,
        (Stop::No, Some(Effect::Mismatch(_))) => Exit::Inconclusive,
        (Stop::No, _) => Exit::Passed,
    }
}
