//! `brownout inject KIND ...`: one fault, no file: the arguments are written as a file and read like one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Exit;
use super::launch::{Asked, How, launch, load, surroundings};
use crate::base::{RunId, unit};
use crate::experiment::Draft;
use crate::fault::{Aim, AnyFault};
use crate::file::nearest;

#[derive(clap::Args)]
pub(super) struct Inject {
    /// The kind of fault; `brownout explain` lists them
    kind: String,
    /// The kind's own fields, as in a file: `size=1GiB`, `signal=TERM`, `'undo=["rm", "x"]'`
    #[arg(value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// How long it lasts, for example 1m; 30s unless said
    #[arg(long = "for", value_name = "DURATION", value_parser = unit::duration)]
    hold: Option<Duration>,
    /// The delay of `latency`
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    #[command(flatten)]
    target: Target,
    /// All traffic of this network namespace, or with `--to` only that in it: its name in /run/netns, a path, or
    /// "container:NAME"
    #[arg(long, value_name = "NETNS")]
    netns: Option<String>,
    /// Only traffic from processes that run this program
    #[arg(long, value_name = "PROGRAM")]
    from_exe: Option<String>,
    /// How many of the processes found; drawn from the seed
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Look at this URL (`http://...`) or address (`tcp://host:port`) meanwhile, and stop when it suffers too much
    #[arg(long, value_name = "URL")]
    probe: Option<String>,
    /// Looks a second
    #[arg(long, value_name = "RATE", default_value = "20/s", requires = "probe")]
    rate: String,
    /// So many looks must be good
    #[arg(long, value_name = "PERCENTAGE", default_value = "95%", requires = "probe")]
    availability: String,
    #[command(flatten)]
    how: How,
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
    cmdline: Option<String>,
    /// The process that listens on this TCP port
    #[arg(long, value_name = "PORT")]
    listen: Option<u16>,
    /// This unit of systemd, and its processes
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
    /// Processes of this cgroup, as /proc/PID/cgroup writes it
    #[arg(long, value_name = "CGROUP")]
    cgroup: Option<String>,
    /// A container of Docker, podman or containerd: its name, the beginning of its id, or "label KEY=VALUE"
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// This place: a directory
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Traffic to this address, or to this port
    #[arg(long, value_name = "ADDRESS[:PORT]|:PORT")]
    to: Option<String>,
}

impl Inject {
    pub(super) async fn run(self) -> Exit {
        let Some(aim) = AnyFault::aims_at(&self.kind) else {
            let known = AnyFault::KINDS;
            let remedy = nearest(&self.kind, known.iter().copied()).map_or_else(
                || format!("known: {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            eprintln!("error: there is no fault `{}`: {remedy}", self.kind);
            return Exit::Usage;
        };
        let run = RunId::fresh();
        let draft = Draft::from_text(Path::new("arguments"), &self.document(aim));
        // That nothing watches is what was asked for when no probe was given.
        match load(draft, &mut surroundings(run), self.probe.is_some()) {
            Ok(checked) => launch(checked, Asked { run, file: typed(), dry: false }, self.how).await,
            Err(exit) => exit,
        }
    }

    /// The experiment that the arguments stand for.
    fn document(&self, aim: Aim) -> String {
        let mut text = format!("title = \"inject {0}\"\n[fault.{0}.{0}]\n", self.kind);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "{}", assignment(name, value));
        };
        for field in &self.fields {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            line(name, value);
        }
        if let Some(delay) = &self.delay {
            line("delay", delay);
        }
        let usual = match AnyFault::lasts_by_fields(&self.kind) {
            Some(true) => None, // Whether it takes one, its fields say: the loader judges.
            _ => Some(Duration::from_secs(30)),
        };
        if AnyFault::lasts(&self.kind) == Some(true)
            && let Some(hold) = self.hold.or(usual)
        {
            line("for", &format!("{}ms", hold.as_secs_f64() * 1e3));
        }
        let netns = self.netns.as_ref().map(|netns| quoted("netns", netns));
        let target: Vec<String> = netns.into_iter().chain(self.target.selector()).collect();
        if !target.is_empty() {
            let target = target.join(", ");
            let pick = match aim {
                Aim::Process | Aim::Container => format!(", pick = {{ count = {} }}", self.count),
                _ => String::new(),
            };
            let key = if aim == Aim::Traffic { "to" } else { "target" };
            line(key, &format!("{{ {target}{pick} }}"));
        }
        if let Some(program) = &self.from_exe {
            line("from", &format!("{{ {} }}", assignment("exe", program)));
        }
        // Without a probe nothing is promised, and nothing has to be proved.
        if let Some(url) = &self.probe {
            {
                let (kind, field) = match url.strip_prefix("tcp://") {
                    Some(address) => ("tcp", assignment("address", address)),
                    None => ("http", assignment("url", url)),
                };
                let _ = write!(
                    text,
                    "[steady_state]\nfor = \"3s\"\n[probe.probe.{kind}]\n{field}\n{}\n[slo.probe]\nprobe = \"probe\"\n{}\n",
                    assignment("rate", &self.rate),
                    assignment("availability", &self.availability),
                );
            }
        }
        text
    }
}

impl Target {
    /// As it would be written in a file.
    fn selector(&self) -> Option<String> {
        let text = |name: &str, value: &dyn std::fmt::Display| quoted(name, &value.to_string());
        if let Some(to) = &self.to {
            return Some(match to.strip_prefix(':') {
                Some(port) => format!("port = {port}"),
                None => quoted("address", to),
            });
        }
        (self.pid_file.as_ref().map(|path| text("pid_file", &path.display())))
            .or_else(|| self.exe.as_ref().map(|exe| text("exe", exe)))
            .or_else(|| self.cmdline.as_ref().map(|pattern| text("cmdline", pattern)))
            .or_else(|| self.container.as_ref().map(|name| text("container", name)))
            .or_else(|| self.listen.map(|port| format!("listen = {port}")))
            .or_else(|| self.unit.as_ref().map(|unit| text("unit", unit)))
            .or_else(|| self.cgroup.as_ref().map(|cgroup| text("cgroup", cgroup)))
            .or_else(|| self.path.as_ref().map(|path| text("path", &path.display())))
    }
}

/// The command as it was typed, without a seed: the report names the one that was drawn.
fn typed() -> String {
    let mut words = std::env::args().skip(1);
    let mut typed = "brownout".to_owned();
    while let Some(word) = words.next() {
        if word == "--seed" {
            words.next();
        } else if !word.starts_with("--seed=") {
            typed = typed + " " + &crate::report::quoted(&word);
        }
    }
    typed
}

fn quoted(name: &str, value: &str) -> String {
    format!("{name} = \"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// `size=1GiB` as a line of TOML; a value that is TOML by itself (a list, true, 5) stands as it is.
fn assignment(name: &str, value: &str) -> String {
    let bare = format!("{name} = {value}");
    if toml::de::DeTable::parse(&bare).is_ok() { bare } else { quoted(name, value) }
}
