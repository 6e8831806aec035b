//! `brownout probe URL|FILE`: looks now, as an experiment would, and shows what each part of a look took.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use super::Exit;
use super::launch::load;
use crate::base::{Clock, Dice, Rate, unit};
use crate::experiment::{Draft, Surroundings, environment};
use crate::probe::{
    AnyProbe, AnyProber, Beats, Canary, Limits, Look, News, Phases, Rhythm, Schedule, Setting, Spread, Whom,
    look_once, watch,
};
use crate::slo::{Outcome, Tally};

#[derive(clap::Args)]
pub(super) struct Probe {
    /// What to look at: `http://...`, `https://...`, `tcp://host:port`, `tls://host:port`, `icmp://host`, or a file with probes
    what: String,
    /// Of a file, only this probe; all of them when absent
    name: Option<String>,
    /// So many looks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "hold")]
    count: Option<u32>,
    /// Look for so long, for example 10s
    #[arg(long = "for", value_name = "DURATION", value_parser = unit::duration)]
    hold: Option<Duration>,
    /// Looks a second, on a grid that no answer moves; that of the file, or 1/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<Rate>,
    /// Looks come independently of one another, with exponential gaps whose mean is the rate
    #[arg(long)]
    poisson: bool,
    /// What gaps and jitter are drawn from; a new one each time when absent
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A bad look is tried again so many times, within its timeout; that of the file, or 0
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// A look that takes longer is bad; that of the file, or 1s
    #[arg(long, value_name = "DURATION", value_parser = unit::duration)]
    timeout: Option<Duration>,
    /// What standard output gets: text for people, an object a look, or the metrics that blackbox_exporter gives
    #[arg(long, value_enum, default_value_t = Told::Text)]
    format: Told,
    /// Tell every look, with all that it met
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Told {
    Text,
    Json,
    Prometheus,
}

fn rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|why: unit::NotAQuantity| why.to_string())
}

/// One probe that is asked to look.
struct Asked {
    name: String,
    probe: AnyProbe,
    looks_at: String,
    prober: Arc<AnyProber>,
    rhythm: Rhythm,
    limits: Limits,
    in_flight: u32,
}

impl Probe {
    pub(super) async fn run(self) -> Exit {
        let asked = match self.asked() {
            Ok(asked) => asked,
            Err(exit) => return exit,
        };
        let many = self.count.is_some_and(|count| count > 1) || self.hold.is_some();
        let mut worst = Exit::Passed;
        for (nth, asked) in asked.iter().enumerate() {
            if nth > 0 && self.format == Told::Text {
                println!();
            }
            let came_out = if many { self.series(asked).await } else { self.once(asked).await };
            worst = match (worst, came_out) {
                (Exit::Failed, _) | (_, Exit::Failed) => Exit::Failed,
                (Exit::Inconclusive, _) | (_, Exit::Inconclusive) => Exit::Inconclusive,
                _ => Exit::Passed,
            };
        }
        worst
    }

    fn asked(&self) -> Result<Vec<Asked>, Exit> {
        let path = Path::new(&self.what);
        let is_file = path.is_file() || path.extension().is_some_and(|extension| extension == "toml");
        let found = if is_file { self.of_file(path)? } else { vec![self.of_url()?] };
        let all: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        let known = all.join(", ");
        let mut asked = Vec::new();
        for Found { name, probe, setting, rhythm, retries, in_flight } in found {
            if self.name.as_ref().is_some_and(|only| *only != name) {
                continue;
            }
            let prober = probe.prober(&setting).map_err(|why| wrong(&format!("{name}: {why}")))?;
            let limits = Limits { timeout: setting.timeout, retries: self.retries.unwrap_or(retries) };
            let once = Rate::per_second(1.0).ok_or(Exit::Bug)?;
            let mut rhythm = self.rate.map(Rhythm::even).or(rhythm).unwrap_or(Rhythm::even(once));
            if self.poisson {
                rhythm.spread = Spread::Poisson;
            }
            let looks_at = probe.looks_at_from(setting.from.as_ref());
            asked.push(Asked { name, looks_at, probe, prober: Arc::new(prober), rhythm, limits, in_flight });
        }
        match (&self.name, asked.is_empty()) {
            (Some(only), true) => {
                Err(wrong(&format!("there is no probe `{only}` in {}; there are: {known}", self.what)))
            }
            (None, true) => Err(wrong(&format!("{} holds no probe", self.what))),
            _ => Ok(asked),
        }
    }

    fn setting(&self, directory: PathBuf, timeout: Duration) -> Setting {
        Setting { directory, timeout: self.timeout.unwrap_or(timeout), facts: true, whom: None, from: None }
    }

    fn of_url(&self) -> Result<Found, Exit> {
        if let Some(name) = &self.name {
            return Err(wrong(&format!("`{name}` is a probe of a file, and {} is none", self.what)));
        }
        let probe = AnyProbe::of_url(&self.what).map_err(|why| wrong(&why))?;
        let setting = self.setting(".".into(), Duration::from_secs(1));
        let (name, rhythm) = ("probe".to_owned(), None);
        Ok(Found { name, probe, setting, rhythm, retries: 0, in_flight: IN_FLIGHT })
    }

    /// All probes of an experiment, or of a file that holds only probes, as those to be included do.
    fn of_file(&self, path: &Path) -> Result<Vec<Found>, Exit> {
        let text =
            std::fs::read_to_string(path).map_err(|why| wrong(&format!("{}: {why}", path.display())))?;
        let titled = text.lines().any(|line| line.trim_start().starts_with("title"));
        let draft = if titled {
            Draft::read(path)
        } else {
            let file = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let including = format!("title = \"looks\"\ninclude = [{}]\n", json!(file));
            Draft::from_text(&path.with_file_name("(looks)"), &including)
        };
        let mut around = Surroundings { env: Box::new(environment), ..Surroundings::pretended() };
        let experiment = load(draft, &mut around, false)?.experiment;
        if !experiment.services.is_empty() && self.format == Told::Text {
            eprintln!("note: the services of {} are not started for a look", path.display());
        }
        let found = experiment.probes.iter().map(|probe| {
            let whom = probe.target.clone().map(|target| Whom { target, run: None });
            let setting = self.setting(experiment.directory.clone(), probe.timeout);
            let setting = Setting { whom, from: probe.from.clone(), ..setting };
            Found {
                name: probe.name.clone(),
                probe: probe.look.clone(),
                setting,
                rhythm: probe.rhythm,
                retries: probe.retries,
                in_flight: probe.in_flight,
            }
        });
        Ok(found.collect())
    }

    /// One look, shown whole.
    async fn once(&self, asked: &Asked) -> Exit {
        let look = look_once(0, &*asked.prober, &Clock::start(), asked.limits).await;
        let text = match self.format {
            Told::Text => shown(asked, &look, self.verbose),
            Told::Json => format!("{}\n", object(asked, &look)),
            Told::Prometheus => metrics(&look),
        };
        say(&text);
        exit(look.sample.outcome)
    }

    /// Many looks on their grid, each bad one told, and all of them counted.
    async fn series(&self, asked: &Asked) -> Exit {
        let dice = self.seed.map_or_else(Dice::drawn, Dice::new);
        let beats = Beats::begun(asked.rhythm, &dice, &asked.name);
        let most = self.hold.is_none().then(|| u64::from(self.count.unwrap_or(1)));
        let clock = Clock::start();
        let canary = Some(Canary::start(clock, &tokio::runtime::Handle::current()));
        let schedule =
            Schedule { most, canary, ..Schedule::now(beats, asked.limits, asked.in_flight, &clock) };
        let (news, mut heard) = mpsc::channel(4096);
        let hold = self.hold;
        let until = async move {
            match hold {
                Some(hold) => clock.sleep_until(clock.now() + hold).await,
                None => std::future::pending().await,
            }
        };
        let watching = tokio::spawn(watch(0, asked.prober.clone(), schedule, clock, news, until));
        let (mut tally, mut last) = (Tally::new(), None);
        while let Some(news) = heard.recv().await {
            match news {
                News::Begun { intended, .. } => tally.begun(intended),
                News::Settled(mut look) => {
                    if look.sample.outcome == Outcome::Bad {
                        look.excuse();
                    }
                    tally.settled(&look.sample);
                    if look.sample.outcome == Outcome::Good && !look.retried.is_empty() {
                        tally.retried();
                    }
                    match self.format {
                        Told::Json => say(&format!("{}\n", object(asked, &look))),
                        Told::Text if self.verbose || !is_plain(&look) => say(&line(&look)),
                        _ => {}
                    }
                    last = Some(look);
                }
            }
        }
        if watching.await.is_err() {
            eprintln!("error: a bug of ours ended the looks");
            return Exit::Bug;
        }
        match (self.format, &last) {
            (Told::Text, _) => say(&counted(asked, &tally, dice)),
            (Told::Prometheus, Some(last)) => say(&metrics(last)),
            _ => {}
        }
        if tally.bad() > 0 {
            Exit::Failed
        } else if tally.missed() > 0 || tally.good() == 0 {
            Exit::Inconclusive
        } else {
            Exit::Passed
        }
    }
}

/// A probe as it was found.
struct Found {
    name: String,
    probe: AnyProbe,
    setting: Setting,
    rhythm: Option<Rhythm>,
    retries: u32,
    in_flight: u32,
}

/// Whether a look came out well at its first try.
fn is_plain(look: &Look) -> bool {
    look.sample.outcome == Outcome::Good && look.retried.is_empty()
}

/// As in a file that does not say how many.
const IN_FLIGHT: u32 = 1000;

fn wrong(why: &str) -> Exit {
    eprintln!("error: {why}");
    Exit::Usage
}

fn say(text: &str) {
    // A reader that has gone away has heard enough.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Good => Exit::Passed,
        Outcome::Bad => Exit::Failed,
        Outcome::Missed => Exit::Inconclusive,
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Good => "good",
        Outcome::Bad => "bad",
        Outcome::Missed => "missed",
    }
}

/// The parts of a look in their order.
fn parts(phases: &Phases) -> Vec<(&'static str, Duration)> {
    let all = [
        ("lookup", phases.lookup),
        ("connect", phases.connect),
        ("greeting", phases.greeting),
        ("TLS", phases.tls),
        ("login", phases.login),
        ("first byte", phases.first_byte),
        ("transfer", phases.transfer),
    ];
    all.into_iter().filter_map(|(name, took)| Some((name, took?))).collect()
}

/// Columns of the waterfall.
const WIDE: f64 = 40.0;

/// A look as a waterfall, with what it met. Headers only when asked.
fn shown(asked: &Asked, look: &Look, verbose: bool) -> String {
    let sample = &look.sample;
    let mut text = format!("{} ({}): {}\n", asked.name, asked.probe.kind(), asked.looks_at);
    let why = sample.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let _ = writeln!(text, "{} after {}{why}", word(sample.outcome), unit::say(sample.latency()));
    for (nth, why) in look.retried.iter().enumerate() {
        let _ = writeln!(text, "  try {:<8}{why}", nth + 1);
    }
    let parts = parts(&look.phases);
    let whole: f64 = parts.iter().map(|(_, took)| took.as_secs_f64()).sum();
    let mut before = 0.0;
    for (name, took) in &parts {
        let took_s = took.as_secs_f64();
        let from = (before / whole.max(1e-9) * WIDE).floor();
        let to = ((before + took_s) / whole.max(1e-9) * WIDE).ceil().max(from + 1.0);
        let bar = format!("{}{}", " ".repeat(from as usize), "#".repeat((to - from) as usize));
        let _ = writeln!(text, "  {name:<12}{:>9}  {bar}", unit::say(*took));
        before += took_s;
    }
    for fact in look.facts.iter().filter(|fact| verbose || fact.name != "header") {
        let _ = writeln!(text, "  {:<12}{}", fact.name, fact.said);
    }
    text
}

/// A look in a line.
fn line(look: &Look) -> String {
    let sample = &look.sample;
    let why = sample.why.as_ref().map_or_else(String::new, |why| format!("  {why}"));
    let again = match look.retried.as_slice() {
        [] => String::new(),
        [.., last] => format!("  tried {} times: {last}", look.retried.len() + 1),
    };
    let parts = parts(&look.phases)
        .iter()
        .map(|(name, took)| format!("{name} {}", unit::say(*took)))
        .collect::<Vec<_>>();
    let parts = if parts.is_empty() { String::new() } else { format!("  ({})", parts.join(", ")) };
    let at = sample.intended.as_secs_f64();
    format!(
        "{at:>9.3} s  {:<6} {:>9}{parts}{why}{again}\n",
        word(sample.outcome),
        unit::say(sample.latency())
    )
}

/// All looks of a probe in a few lines.
fn counted(asked: &Asked, tally: &Tally, dice: Dice) -> String {
    let mut text = format!("{} ({}): {}\n", asked.name, asked.probe.kind(), asked.looks_at);
    let (good, bad, missed) = (tally.good(), tally.bad(), tally.missed());
    let rhythm = asked.rhythm;
    let seed = match rhythm.spread {
        Spread::Even(jitter) if jitter.is_zero() => String::new(),
        _ => format!(" (seed {})", dice.seed()),
    };
    let all = good + bad + missed;
    let _ = writeln!(text, "{all} looks at {rhythm}{seed}: {good} good, {bad} bad, {missed} missed");
    if tally.good_after_retry() > 0 {
        let _ = writeln!(text, "  {} of them good only after a retry", tally.good_after_retry());
    }
    let at = |quantile| tally.latency().quantile(quantile).map_or_else(|| "-".to_owned(), unit::say);
    let most = tally.latency().max().map_or_else(|| "-".to_owned(), unit::say);
    let _ = writeln!(text, "  latency     p50 {}, p95 {}, p99 {}, max {most}", at(0.5), at(0.95), at(0.99));
    let slip = tally.slip();
    if let (Some(p50), Some(p99), Some(max)) = (slip.quantile(0.5), slip.quantile(0.99), slip.max()) {
        let [p50, p99, max] = [p50, p99, max].map(unit::say);
        let _ = writeln!(text, "  our slip    p50 {p50}, p99 {p99}, max {max}");
    }
    if let Some(outage) = tally.longest_outage() {
        let _ = writeln!(text, "  longest outage {}", unit::say(outage.lasted));
    }
    for (why, times) in tally.reasons() {
        let _ = writeln!(text, "  {times} times {why}");
    }
    text
}

fn object(asked: &Asked, look: &Look) -> serde_json::Value {
    let sample = &look.sample;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let phases: serde_json::Map<String, serde_json::Value> =
        parts(&look.phases).into_iter().map(|(name, took)| (name.to_owned(), ms(took).into())).collect();
    let retried: Vec<&str> = look.retried.iter().map(|why| &**why).collect();
    json!({
        "probe": asked.name, "kind": asked.probe.kind(), "looks_at": asked.looks_at,
        "intended_ms": ms(sample.intended), "slip_ms": ms(sample.slip()), "latency_ms": ms(sample.latency()),
        "outcome": word(sample.outcome), "why": sample.why.as_deref(),
        "retried": retried, "phases_ms": phases, "facts": look.facts,
    })
}

/// A look in the Prometheus text format, by the names that blackbox_exporter gives (its prober/*.go).
fn metrics(look: &Look) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, values: &[(&str, f64)]| {
        if !values.is_empty() {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
    };
    let figure = |name: &str| look.facts.iter().find(|fact| fact.name == name).and_then(|fact| fact.figure);
    let seconds = |took: Option<Duration>| took.map(|took| took.as_secs_f64());
    let sample = &look.sample;
    let success = f64::from(u8::from(sample.outcome == Outcome::Good));
    metric("probe_success", "Whether the look was good", &[("", success)]);
    let took = sample.latency().as_secs_f64();
    metric("probe_duration_seconds", "What the look took, from its intended start", &[("", took)]);
    let lookup = seconds(look.phases.lookup).unwrap_or(0.0);
    metric("probe_dns_lookup_time_seconds", "What looking up the name took", &[("", lookup)]);
    if let Some(status) = figure("status") {
        metric("probe_http_status_code", "The status of the answer", &[("", status)]);
        let phases = [
            ("{phase=\"resolve\"}", look.phases.lookup),
            ("{phase=\"connect\"}", look.phases.connect),
            ("{phase=\"tls\"}", look.phases.tls),
            ("{phase=\"processing\"}", look.phases.first_byte),
            ("{phase=\"transfer\"}", look.phases.transfer),
        ];
        let phases: Vec<(&str, f64)> =
            phases.into_iter().map(|(label, took)| (label, seconds(took).unwrap_or(0.0))).collect();
        metric("probe_http_duration_seconds", "What each part of the look took", &phases);
        let tls = f64::from(u8::from(look.phases.tls.is_some()));
        if let Some(followed) = figure("redirects") {
            metric("probe_http_redirects", "How many redirects were followed", &[("", followed)]);
        }
        metric("probe_http_ssl", "Whether the answer came over TLS", &[("", tls)]);
    }
    if let Some(bytes) = figure("body") {
        let help = "Bytes of the body";
        metric("probe_http_uncompressed_body_length", help, &[("", bytes)]);
    }
    if let Some(seen) = figure("figure") {
        metric("probe_figure", "The figure that was judged", &[("", seen)]);
    }
    let expiries = look.facts.iter().filter(|fact| fact.name == "certificate").filter_map(|fact| fact.figure);
    if let Some(earliest) = expiries.reduce(f64::min) {
        metric(
            "probe_ssl_earliest_cert_expiry",
            "When the first certificate of the chain expires, in seconds since 1970",
            &[("", earliest)],
        );
    }
    text
}
