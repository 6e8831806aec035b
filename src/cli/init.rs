//! `brownout init URL`: a first experiment that passes, and teaches the format.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use super::Exit;
use super::prose::fold;
use crate::base::{Clock, unit};
use crate::host::names::Names;
use crate::host::process::{self, Wanted};
use crate::host::rights::{Capability, Rights, Traceable, traceable};
use crate::host::socket::is_ours;
use crate::probe::{AnyProbe, Setting, look_once};
use crate::slo::Outcome;
use crate::undo::state_dir;

#[derive(clap::Args)]
pub(super) struct Init {
    /// What to look at: `http://...`, `https://...` or `tcp://host:port`
    url: String,
    /// The file to write; one that is there is never overwritten
    #[arg(long, value_name = "FILE", default_value = "brownout.toml")]
    out: PathBuf,
}

/// So many looks are made first, so far apart.
const LOOKS: usize = 20;
const APART: Duration = Duration::from_millis(50);
/// A look that takes longer is bad.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many bad ones are enough to know that nothing can pass there.
const ENOUGH: usize = 3;
/// A promise below this would be about the noise of a busy machine.
const LEAST: Duration = Duration::from_millis(50);

impl Init {
    pub(super) async fn run(self) -> Exit {
        let probe = match AnyProbe::of_url(&self.url) {
            Ok(probe) => probe,
            Err(why) => {
                eprintln!("error: {why}");
                return Exit::Usage;
            }
        };
        if self.out.exists() {
            return refused(&format!("{} is there already; name another by --out", self.out.display()));
        }
        let seen = match look(&probe).await {
            Ok(seen) => seen,
            Err(why) => return refused(&why),
        };
        println!("{}: {}", probe.looks_at(), seen.said());
        let harm = Harm::at(&self.url).await;
        print!("{}", fold(&harm.said(), "", 0));
        let text = experiment(&self.url, &probe, &seen, &harm);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.out)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(why) = written {
            return refused(&format!("{}: {why}", self.out.display()));
        }
        let name = self.out.display().to_string();
        let out = if name.contains(char::is_whitespace) { format!("'{name}'") } else { name };
        println!(
            "wrote {out}; try next:\n  \
             brownout plan {out}               # what it will do; touches nothing\n  \
             brownout run {out} --confirm yes  # do it, in about 25 s"
        );
        Exit::Passed
    }
}

fn refused(why: &str) -> Exit {
    eprintln!("error: {why}\nnothing was written");
    Exit::Refused
}

/// What the looks saw.
struct Seen {
    looks: usize,
    median: Duration,
    slowest: Duration,
}

impl Seen {
    fn said(&self) -> String {
        let (median, slowest) = (unit::say(self.median), unit::say(self.slowest));
        format!("{} looks, all good, median {median}, slowest {slowest}", self.looks)
    }

    /// A threshold that it keeps unless something happens: twice the slowest look, in steps of 1, 2 and 5.
    fn threshold(&self) -> Duration {
        let wanted = (self.slowest * 2).max(LEAST).as_millis() as u64;
        let steps = (0..9).flat_map(|power| [1, 2, 5].map(|step| step * 10_u64.pow(power)));
        Duration::from_millis(steps.into_iter().find(|step| *step >= wanted).unwrap_or(wanted))
    }
}

/// Looks a few times. What was seen, or why nothing could pass there.
async fn look(probe: &AnyProbe) -> Result<Seen, String> {
    let clock = Clock::start();
    let setting =
        Setting { directory: PathBuf::from("."), timeout: PATIENCE, facts: false, whom: None, from: None };
    let prober = probe.prober(&setting)?;
    let (mut times, mut bad) = (Vec::new(), Vec::new());
    for _ in 0..LOOKS {
        let look = look_once(0, &prober, &clock, PATIENCE).await;
        match look.sample.outcome {
            Outcome::Good => times.push(look.sample.latency()),
            _ => bad.push(look.sample.why.map_or_else(String::new, |why| why.to_string())),
        }
        if bad.len() == ENOUGH {
            break;
        }
        clock.sleep_until(clock.now() + APART).await;
    }
    times.sort();
    match (times.last(), times.get(times.len() / 2), bad.first()) {
        (Some(slowest), Some(median), None) => {
            Ok(Seen { looks: times.len(), median: *median, slowest: *slowest })
        }
        (_, _, why) => Err(format!(
            "{}: {} of {} looks were bad ({}); give a URL that answers 2xx, again and again",
            probe.looks_at(),
            bad.len(),
            bad.len() + times.len(),
            why.map_or("", String::as_str)
        )),
    }
}

/// What the first experiment does to it.
enum Harm {
    /// The processes that listen on a port stand still for a moment.
    Pause {
        port: u16,
        /// The program and the number of the first of them.
        who: String,
        count: usize,
    },
    /// Nothing yet, with the reason: a place for the user's own commands.
    Nothing(String),
}

impl Harm {
    async fn at(url: &str) -> Self {
        let Ok(uri) = url.parse::<hyper::Uri>() else { return Self::Nothing("it has no host".to_owned()) };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        if !Names::of(None).look_up(&host).await.is_ok_and(is_ours) {
            return Self::Nothing(format!("{host} is not this machine"));
        }
        let processes = process::find(&Wanted::Listen(port)).unwrap_or_default();
        let Some(first) = processes.first() else {
            return Self::Nothing(format!(
                "no process that you may see listens on port {port} (root sees all)"
            ));
        };
        let may = Rights::ours(&state_dir()).has(Capability::SysPtrace) || traceable() == Traceable::OurUser;
        if !may {
            let why = "kernel.yama.ptrace_scope keeps you from holding processes that you did not start";
            return Self::Nothing(why.to_owned());
        }
        let pid = first.identity().pid;
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self::Pause { port, who: format!("{} ({pid})", program.trim()), count: processes.len() }
    }

    fn said(&self) -> String {
        match self {
            Self::Pause { port, who, count: 1 } => {
                format!("{who} listens on port {port} here: it will stand still for 200 ms")
            }
            Self::Pause { port, who, count } => {
                format!(
                    "{who} and {} more share port {port} here: they will stand still for 200 ms",
                    count - 1
                )
            }
            Self::Nothing(why) => {
                format!("{why}: the experiment does no harm until you replace its two placeholder commands")
            }
        }
    }
}

/// The file.
fn experiment(url: &str, probe: &AnyProbe, seen: &Seen, harm: &Harm) -> String {
    // A JSON string is a TOML basic string; `${` would begin a variable.
    let quoted = |text: &str| serde_json::Value::from(text.replace("${", "$${")).to_string();
    let (kind, field) = match url.strip_prefix("tcp://") {
        Some(address) => ("tcp", format!("address = {}", quoted(address))),
        None => ("http", format!("url     = {}", quoted(url))),
    };
    let below = seen.threshold();
    // A look must be able to take longer than the promise.
    let timeout = unit::say((below * 2).max(Duration::from_secs(1))).replace(' ', "");
    let what = probe.looks_at();
    let (title, fault) = match harm {
        Harm::Pause { port, who, count } => {
            let pick = if *count > 1 { ", pick = \"all\"" } else { "" };
            let title = format!("A pause of 200 ms on port {port} breaks no promise");
            let target = format!("target = {{ listen = {port}{pick} }}");
            let fault = format!(
                "# What is done to it. t = 0 is the end of the steady state. Other kinds: `brownout explain`.\n\
                 [fault.freeze.pause]\n\
                 {target:32} # whoever listens there: it was {who}\n\
                 at     = \"10s\"\n\
                 for    = \"200ms\"                 # then the kernel lets it go on, whatever happens to brownout\n"
            );
            (title, fault)
        }
        Harm::Nothing(_) => (
            "A first look, with nothing done yet".to_owned(),
            "# What is done to it. t = 0 is the end of the steady state. Other kinds: `brownout explain`.\n\
             # REPLACE both commands, which do nothing yet, by your own: undo must take back what inject does,\n\
             # and be harmless when there is nothing to take back.\n\
             [fault.placeholder.exec]\n\
             inject = [\"true\"]  # REPLACE, such as [\"ssh\", \"app-7\", \"sudo systemctl stop web\"]\n\
             undo   = [\"true\"]  # REPLACE, such as [\"ssh\", \"app-7\", \"sudo systemctl start web\"]\n\
             at     = \"10s\"\n\
             for    = \"2s\"\n"
                .to_owned(),
        ),
    };
    format!(
        "# A first experiment, by `brownout init`. It passes as it is; then ask more of the system.\n\
         # Every number has a unit. `brownout explain` lists what a file can say; `brownout check` finds mistakes.\n\
         title      = {title}\n\
         hypothesis = {hypothesis}\n\
         \n\
         # How it is watched. Each look has its intended time, and a late answer counts from there.\n\
         [probe.site.{kind}]\n\
         {field}\n\
         rate    = \"20/s\"\n\
         timeout = \"{timeout}\"\n\
         \n\
         # What is promised, judged from t = 0 to the last undo.\n\
         # Before, there were {seen}.\n\
         [slo.site]\n\
         probe        = \"site\"\n\
         availability = \"99%\"             # of the looks are good: 2xx, in time\n\
         latency      = [{{ percentile = \"p95\", below = \"{below}ms\" }}]\n\
         \n\
         # This must hold for so long before anything is hurt, and again at the end.\n\
         [steady_state]\n\
         for = \"5s\"\n\
         \n\
         {fault}\n\
         # After the last undo it must be healthy again within this.\n\
         [recovery]\n\
         within = \"30s\"\n",
        title = quoted(&title),
        hypothesis =
            quoted(&format!("{what}: 99 of 100 looks are good, 95 of 100 within {}", unit::say(below))),
        seen = seen.said(),
        below = below.as_millis(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Draft, Refused, Surroundings};

    fn seen(slowest_ms: u64) -> Seen {
        Seen { looks: 20, median: Duration::from_millis(1), slowest: Duration::from_millis(slowest_ms) }
    }

    #[test]
    fn the_threshold_is_twice_the_slowest_look_rounded_up() {
        for (slowest, below) in [(0, 50), (25, 50), (26, 100), (60, 200), (400, 1000), (4999, 10_000)] {
            assert_eq!(seen(slowest).threshold(), Duration::from_millis(below), "{slowest}");
        }
    }

    #[test]
    fn whatever_is_written_is_a_good_file_with_few_comments() {
        let pause = |count| Harm::Pause { port: 8080, who: "web (7)".to_owned(), count };
        for harm in [pause(1), pause(4), Harm::Nothing("it is elsewhere".to_owned())] {
            for url in ["http://localhost:8080/a?b=${c}", "https://shop.example", "tcp://localhost:6379"] {
                for slowest in [1, 700] {
                    let probe = AnyProbe::of_url(url).unwrap();
                    let text = experiment(url, &probe, &seen(slowest), &harm);
                    let draft = Draft::from_text("brownout.toml".as_ref(), &text);
                    match draft.check(&mut Surroundings::pretended()) {
                        Ok(checked) => assert_eq!(checked.warnings.counts(), (0, 0), "{text}"),
                        Err(Refused { mistakes, sources }) => {
                            panic!("{}\n{text}", mistakes.render(&sources, false))
                        }
                    }
                    assert!(text.lines().filter(|line| line.contains('#')).count() <= 30);
                    assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
                }
            }
        }
    }
}
