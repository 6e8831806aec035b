//! Floor 3: the ways of looking, one file each. Adding one is: its file, its line in `kinds!` below, its
//! cases.
//!
//! A kind only looks. When to look, how late a look is, and what came of it is the business of
//! `schedule`, so that every kind is measured alike.

mod canary;
mod certificates;
mod database;
mod dial;
mod dns;
mod exec;
mod expect;
mod figure;
mod file;
mod grpc;
mod host;
mod http;
mod icmp;
mod log;
mod metric;
mod mysql;
mod payload;
mod postgres;
mod promql;
mod redis;
pub mod rhythm;
mod scenario;
pub mod schedule;
mod security;
mod starttls;
mod stream;
mod tcp;
mod tls;
mod udp;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::RunId;
use crate::file::{FieldDoc, Fields, Mistakes, Node, Read, Sources, Value, read_text};
use crate::host::mark::Mark;
use crate::host::names::Names;
use crate::host::process::Process;
use crate::host::standpoint::{Nowhere, Place, Reached, Standpoint};
use crate::host::target::{self, NotFound, Selector, Target};

pub use canary::Canary;
pub use rhythm::{Beats, Ramp, Rhythm, Spread};
pub use schedule::{Limits, Look, News, Schedule, look_once, watch};

/// What a probe finds at hand.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The directory commands run in and relative files are read from: the experiment file's.
    pub directory: PathBuf,
    /// A look is over when this has passed since its intended start.
    pub timeout: Duration,
    /// Whether each look also keeps what it met on the way: addresses, status, certificates.
    pub facts: bool,
    /// Whose processes are looked at, by kinds that look at some.
    pub whom: Option<Whom>,
    /// Where it looks from, when that is not here.
    pub from: Option<Standpoint>,
}

impl Setting {
    /// Names as they are known there, and the way to their addresses.
    fn names(&self) -> Names {
        Names::of(self.place())
    }

    fn place(&self) -> Option<Place> {
        self.from.clone().map(Place::new)
    }

    /// A file that is looked at: of the container's, or from the experiment file's directory on.
    fn path(&self, path: &Path) -> PathBuf {
        let from = match self.from {
            Some(Standpoint::Container(_)) => Path::new("/"),
            _ => &self.directory,
        };
        from.join(path)
    }
}

/// What is said of a file that cannot be read; that we cannot look where it is says nothing about it.
fn unreadable(path: &Path, why: &std::io::Error) -> Miss {
    Miss { ours: is_nowhere(why), why: format!("{}: {why}", path.display()) }
}

fn is_nowhere(why: &std::io::Error) -> bool {
    why.get_ref().and_then(|inner| inner.downcast_ref::<Nowhere>()).is_some()
}

/// A file where one looks from. Blocks.
fn reach(place: Option<&Place>, path: &Path) -> std::io::Result<Reached> {
    place.map_or_else(|| Ok(Reached::here(path)), |place| place.file(path))
}

/// Whose processes are looked at.
#[derive(Debug, Clone)]
pub struct Whom {
    /// How they are found.
    pub target: Target,
    /// The run that started them, if they are a service of its.
    pub run: Option<RunId>,
}

impl Whom {
    /// All there are now, whatever the target says of picking.
    fn processes(&self) -> Result<Vec<Process>, Miss> {
        match (&self.target.selector, self.run) {
            (Selector::Service(name), Some(run)) => Ok(Mark::of(run, name).bearers()),
            (Selector::Service(name), None) => {
                Err(Miss::ours(format!("service {name} is started by a run only")))
            }
            (selector, _) => target::processes(selector).map_err(|NotFound { why, .. }| Miss::new(why)),
        }
    }
}

/// Whether a look is at processes of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// It takes no target.
    Nothing,
    /// It takes one, or is at the whole machine.
    Either,
    /// It takes one.
    Processes,
}

/// How long each part of a look took, as far as the kind has such a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases {
    /// Looking up the name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lookup: Option<Duration>,
    /// Connecting.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connect: Option<Duration>,
    /// What the protocol says before TLS: its greeting, and the agreement to begin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub greeting: Option<Duration>,
    /// The TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<Duration>,
    /// Telling who we are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub login: Option<Duration>,
    /// From the request sent to the first byte of the answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte: Option<Duration>,
    /// From the first byte to the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub transfer: Option<Duration>,
}

/// Times a part of a look, in addition to what it took before. One that is still going on when the look is dropped is timed until then: it is what
/// the look was waiting for.
async fn timed<T>(part: &mut Option<Duration>, work: impl Future<Output = T>) -> T {
    struct Timing<'a>(&'a mut Option<Duration>, Instant);
    impl Drop for Timing<'_> {
        fn drop(&mut self) {
            *self.0 = Some(self.0.unwrap_or_default() + self.1.elapsed());
        }
    }
    let _timing = Timing(part, Instant::now());
    work.await
}

/// Something that a look met on the way: what it is, and what was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// What it is: `peer`, `status`, `certificate`.
    pub name: &'static str,
    /// What was seen.
    pub said: String,
    /// The same as a number, where there is one: a status, bytes, an expiry in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
}

/// What a look leaves behind: the parts it had and, for whoever asked, what it met on the way.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The parts it had.
    pub phases: Phases,
    /// What it met, in order.
    pub facts: Vec<Fact>,
    /// The steps it had, of a scenario.
    pub steps: Vec<Step>,
    /// Whether an answer has begun.
    begun: bool,
    /// What came and was not heard, in a few words that follow `what came`.
    not_heard: Option<&'static str>,
    keeps: bool,
    /// Whether somebody wants what was answered, and that.
    keeps_answer: bool,
    answer: Option<Vec<u8>>,
}

/// A step of a look that has several.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// Whether it was good.
    pub good: bool,
}

impl Trace {
    /// An empty one, that keeps facts or does not.
    #[must_use]
    pub fn new(keeps: bool) -> Self {
        Self { keeps, ..Self::default() }
    }

    /// Why a look is bad that was not done in time, by what it was waiting for.
    fn unanswered(&self, within: &str) -> String {
        let Phases { connect, greeting, tls, login, first_byte, transfer, lookup } = self.phases;
        // The last part that was begun is the one that was waited for.
        let mut why = if transfer.is_some() || self.begun {
            format!("no whole answer within {within}")
        } else if first_byte.is_some() {
            format!("no answer within {within}")
        } else if login.is_some() {
            format!("no answer within {within} to the login")
        } else if tls.is_some() {
            format!("no answer within {within} in the TLS handshake")
        } else if greeting.is_some() {
            format!("no answer within {within} before TLS")
        } else if connect.is_some() {
            format!("no connection within {within}")
        } else if lookup.is_some() {
            format!("no address for the name within {within}")
        } else {
            format!("no answer within {within}")
        };
        if let Some(came) = self.not_heard {
            why.push_str(": what came ");
            why.push_str(came);
        }
        why
    }

    /// Keeps a fact, if anybody asked; only then it is put into words.
    pub fn note(&mut self, name: &'static str, said: impl FnOnce() -> String) {
        if self.keeps {
            self.facts.push(Fact { name, said: said(), figure: None });
        }
    }

    /// Keeps what was answered, if anybody wants it.
    fn answered(&mut self, answer: &[u8]) {
        if self.keeps_answer {
            self.answer = Some(answer.to_vec());
        }
    }

    /// As [`Trace::note`], with the figure.
    pub fn measure(&mut self, name: &'static str, figure: impl Into<f64>, said: impl FnOnce() -> String) {
        if self.keeps {
            self.facts.push(Fact { name, said: said(), figure: Some(figure.into()) });
        }
    }
}

impl std::ops::Deref for Trace {
    type Target = Phases;

    fn deref(&self) -> &Phases {
        &self.phases
    }
}

impl std::ops::DerefMut for Trace {
    fn deref_mut(&mut self) -> &mut Phases {
        &mut self.phases
    }
}

/// A look that did not see what was expected: data, never an error.
#[derive(Debug, Clone)]
pub struct Miss {
    /// Why, with the evidence, in one sentence: groups of equal sentences are counted, so it holds no time
    /// and no number that differs each time.
    pub why: String,
    /// Whether only our own side can be to blame (no free port, no descriptor, no such command): such a
    /// look is missed, for it says nothing about the system.
    pub ours: bool,
}

impl Miss {
    /// A miss of the system's.
    #[must_use]
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), ours: false }
    }

    /// A miss that only our own side is to blame for.
    #[must_use]
    pub fn ours(why: impl Into<String>) -> Self {
        Self { why: why.into(), ours: true }
    }
}

/// The beginning of what was received, for a sentence: at most 60 characters of its first line.
fn beginning(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
    let mut shown = String::new();
    for (nth, c) in text.trim_start().chars().take_while(|c| !matches!(c, '\n' | '\r')).enumerate() {
        if nth == SHOWN {
            shown.push_str("...");
            break;
        }
        shown.push(if c.is_control() { '?' } else { c });
    }
    shown
}

/// A string that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

impl Read for Secret {
    const NAME: &'static str = "string";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.is_empty() => {
                mistakes.error(node.place, "the secret is empty", "is its variable set?");
                None
            }
            _ => String::read(node, mistakes).map(Self),
        }
    }
    fn schema() -> serde_json::Value {
        String::schema()
    }
}

/// That a secret is given once: as it is, or in a file.
fn one_secret(said: Option<&Secret>, file: Option<&PathBuf>) -> Result<(), (String, String)> {
    if said.is_some() && file.is_some() {
        let what = "both `password` and `password_file` are given";
        return Err((what.to_owned(), "give one of them".to_owned()));
    }
    Ok(())
}

/// A secret that is given as it is or in a file; the field says which file in messages.
fn secret(
    said: Option<&Secret>,
    file: Option<&PathBuf>,
    field: &str,
    setting: &Setting,
) -> Result<Option<String>, String> {
    match (said, file) {
        (Some(Secret(said)), _) => Ok(Some(said.clone())),
        (None, Some(file)) => {
            let bytes = read_file(field, &setting.directory.join(file))?;
            let text = String::from_utf8(bytes).map_err(|_| format!("{field}: it is not text"))?;
            Ok(Some(text.trim_end().to_owned()))
        }
        (None, None) => Ok(None),
    }
}

fn read_file(field: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|why| format!("{field} {}: {why}", file.display()))
}

/// One way of looking: the struct read from the file.
trait Probe {
    /// What is kept between looks: connections, TLS settings.
    type Prober: Prober;
    /// Its table in a file, for the docs: a good one, with what it refers to.
    const EXAMPLE: &'static str;
    /// Whether it may be aimed at a target.
    const AIMS: bool = false;

    /// Whether these fields want a target.
    fn aim(&self) -> Aim {
        Aim::Nothing
    }

    /// Whether fields that are right one by one make sense together: what is wrong, and the remedy.
    fn check(&self) -> Result<(), (String, String)> {
        Ok(())
    }

    /// Gets ready to look; reads files, touches nothing.
    ///
    /// # Errors
    /// A sentence saying what cannot be had (a file, an address).
    fn prober(&self, setting: &Setting) -> Result<Self::Prober, String>;

    /// What it looks at, in a few words.
    fn looks_at(&self) -> String;
}

/// Looks, again and again, also several times at once.
pub trait Prober: Send + Sync {
    /// One look, which leaves its trace. The caller owns the deadline and drops the future when it has passed; that
    /// leaves neither a connection nor a process behind.
    ///
    /// # Errors
    /// What was seen instead of what was expected: data, not an error.
    fn look(&self, trace: &mut Trace) -> impl Future<Output = Result<(), Miss>> + Send;

    /// Whether a look also keeps what it met on the way.
    fn keeps_facts(&self) -> bool {
        false
    }
}

macro_rules! kinds {
    ($($variant:ident: $probe:ty, $prober:ty;)*) => {
        /// Any probe.
        #[derive(Debug, Clone)]
        #[allow(clippy::large_enum_variant, reason = "an experiment has a few probes, not thousands")]
        pub enum AnyProbe {
            $(#[doc = concat!("See [`", stringify!($probe), "`].")] $variant($probe),)*
        }

        /// Any prober.
        pub struct AnyProber {
            inner: Inner,
            facts: bool,
        }

        #[allow(clippy::large_enum_variant, reason = "an experiment has a few probes, not thousands")]
        enum Inner {
            $($variant($prober),)*
        }

        impl AnyProbe {
            /// The words that name the kinds.
            pub const KINDS: &'static [&'static str] = &[$(<$probe>::KIND),*];

            /// Takes a kind's fields out of its table; `None` on mistakes or an unknown kind.
            pub fn take(kind: &str, fields: &mut Fields<'_>, mistakes: &mut Mistakes) -> Option<Self> {
                $(if kind == <$probe>::KIND {
                    let place = fields.place();
                    let probe = <$probe>::take(fields, mistakes)?;
                    if let Err((what, remedy)) = probe.check() {
                        mistakes.error(place, what, remedy);
                    }
                    return Some(Self::$variant(probe));
                })*
                None
            }

            /// What the docs say about a kind: what it is, and its fields.
            #[must_use]
            pub fn explain(kind: &str) -> Option<(&'static str, Vec<FieldDoc>)> {
                $(if kind == <$probe>::KIND {
                    return Some((<$probe>::ABOUT, <$probe>::fields()));
                })*
                None
            }

            /// A kind's table in a file, for the docs; `None` for an unknown kind.
            #[must_use]
            pub fn example(kind: &str) -> Option<&'static str> {
                $(if kind == <$probe>::KIND { return Some(<$probe as Probe>::EXAMPLE); })*
                None
            }

            /// Whether a kind may be aimed at a target.
            #[must_use]
            pub fn aims(kind: &str) -> bool {
                $(if kind == <$probe>::KIND { return <$probe as Probe>::AIMS; })*
                false
            }

            /// Whether its fields want a target.
            #[must_use]
            pub fn aim(&self) -> Aim {
                match self { $(Self::$variant(probe) => probe.aim(),)* }
            }

            /// The word that names this kind.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$probe>::KIND,)* }
            }

            /// What it looks at, in a few words.
            #[must_use]
            pub fn looks_at(&self) -> String {
                match self { $(Self::$variant(probe) => probe.looks_at(),)* }
            }

            /// Gets ready to look; reads files, touches nothing.
            ///
            /// # Errors
            /// A sentence saying what cannot be had.
            pub fn prober(&self, setting: &Setting) -> Result<AnyProber, String> {
                let inner = match self { $(Self::$variant(probe) => Inner::$variant(probe.prober(setting)?),)* };
                Ok(AnyProber { inner, facts: setting.facts })
            }
        }

        impl Prober for AnyProber {
            async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
                match &self.inner { $(Inner::$variant(prober) => prober.look(trace).await,)* }
            }

            fn keeps_facts(&self) -> bool {
                self.facts
            }
        }
    };
}

kinds! {
    Http: http::Http, http::HttpProber;
    Tcp: tcp::Tcp, tcp::TcpProber;
    Exec: exec::Exec, exec::ExecProber;
    Tls: tls::Tls, tls::TlsProber;
    Redis: redis::Redis, redis::RedisProber;
    Postgres: postgres::Postgres, postgres::PostgresProber;
    Grpc: grpc::Grpc, grpc::GrpcProber;
    Udp: udp::Udp, udp::UdpProber;
    Icmp: icmp::Icmp, icmp::IcmpProber;
    File: file::File, file::FileProber;
    Dns: dns::Dns, dns::DnsProber;
    Metric: metric::Metric, metric::MetricProber;
    Log: log::Log, log::LogProber;
    Scenario: scenario::Scenario, scenario::ScenarioProber;
    Host: host::Host, host::HostProber;
    Promql: promql::Promql, promql::PromqlProber;
    Mysql: mysql::Mysql, mysql::MysqlProber;
}

impl AnyProbe {
    /// What it looks at, and from where, in a few words.
    #[must_use]
    pub fn looks_at_from(&self, from: Option<&Standpoint>) -> String {
        let looks_at = self.looks_at();
        from.map_or(looks_at.clone(), |from| format!("{looks_at}, from {from}"))
    }

    /// A probe from its kind's fields written as TOML, for looks that no file describes.
    ///
    /// # Errors
    /// Every mistake, one a line.
    pub fn from_toml(kind: &str, text: &str) -> Result<Self, String> {
        let (mut sources, mut mistakes) = (Sources::default(), Mistakes::default());
        let node = sources.parse(kind, text, &mut mistakes);
        let probe = Fields::open(&node, format!("probe {kind}"), &mut mistakes).and_then(|mut fields| {
            let probe = Self::take(kind, &mut fields, &mut mistakes);
            fields.close(&mut mistakes);
            probe
        });
        match probe {
            Some(probe) if !mistakes.refuse() => Ok(probe),
            None if !mistakes.refuse() => Err(format!("there is no probe kind `{kind}`")),
            _ => Err(mistakes.lines(&sources).join("\n")),
        }
    }

    /// The probe that an address on a command line means: `http://...`, `https://...`, `tcp://host:port`,
    /// `tls://host:port`, `icmp://host`.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_url(url: &str) -> Result<Self, String> {
        // A JSON string is a TOML basic string (both escape alike; toml.io, "String").
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match url.split_once("://") {
            Some((kind @ ("tcp" | "tls"), address)) => {
                Self::from_toml(kind, &format!("address = {}", quoted(address)))
            }
            Some(("icmp", host)) => Self::from_toml("icmp", &format!("host = {}", quoted(host))),
            _ => Self::from_toml("http", &format!("url = {}", quoted(url))),
        }
    }

    /// The probe that a command is.
    ///
    /// # Errors
    /// When it is empty.
    pub fn of_command(run: &[String]) -> Result<Self, String> {
        Self::from_toml("exec", &format!("run = {}", serde_json::Value::from(run)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_is_over_says_what_it_was_waiting_for() {
        let mut trace = Trace::default();
        let mut says = |begins: fn(&mut Trace)| {
            begins(&mut trace);
            trace.unanswered("1 s")
        };
        assert_eq!(says(|_| {}), "no answer within 1 s");
        assert_eq!(says(|trace| trace.lookup = Some(Duration::ZERO)), "no address for the name within 1 s");
        assert_eq!(says(|trace| trace.connect = Some(Duration::ZERO)), "no connection within 1 s");
        assert_eq!(says(|trace| trace.greeting = Some(Duration::ZERO)), "no answer within 1 s before TLS");
        assert_eq!(
            says(|trace| trace.tls = Some(Duration::ZERO)),
            "no answer within 1 s in the TLS handshake"
        );
        assert_eq!(says(|trace| trace.login = Some(Duration::ZERO)), "no answer within 1 s to the login");
        assert_eq!(says(|trace| trace.first_byte = Some(Duration::ZERO)), "no answer within 1 s");
        assert_eq!(
            says(|trace| trace.not_heard = Some("has another id")),
            "no answer within 1 s: what came has another id"
        );
        assert_eq!(says(|trace| (trace.begun, trace.not_heard) = (true, None)), "no whole answer within 1 s");
    }

    #[test]
    fn what_was_received_is_shown_shortly_and_safely() {
        assert_eq!(beginning(b"ok"), "ok");
        assert_eq!(beginning(b"\n  first\r\nsecond"), "first");
        assert_eq!(beginning(b"\x1b[31mred\xff"), "?[31mred\u{fffd}");
        assert_eq!(beginning("é".repeat(100).as_bytes()), format!("{}...", "é".repeat(60)));
        assert_eq!(beginning(b""), "");
    }

    #[test]
    fn addresses_of_a_command_line_are_probes() {
        for (url, kind, looks_at) in [
            ("tcp://localhost:6379", "tcp", "localhost:6379"),
            ("tls://localhost:443", "tls", "localhost:443"),
            ("icmp://::1", "icmp", "::1"),
            ("http://localhost:8080/a?b=c", "http", "GET http://localhost:8080/a?b=c"),
            ("https://shop.example", "http", "GET https://shop.example/"),
        ] {
            let probe = AnyProbe::of_url(url).unwrap();
            assert_eq!((probe.kind(), probe.looks_at().as_str()), (kind, looks_at));
        }
        for url in ["", "localhost", "ftp://a/", "tcp://a", "http://", "http://a b/", "http://\"\n"] {
            assert!(AnyProbe::of_url(url).is_err(), "{url}");
        }
        let probe =
            AnyProbe::of_command(&["sh".to_owned(), "-c".to_owned(), "echo \"a\"".to_owned()]).unwrap();
        assert_eq!(probe.looks_at(), "sh -c echo \"a\"");
        assert!(AnyProbe::of_command(&[]).is_err());
    }
}
