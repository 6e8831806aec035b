//! Every table of the file, declared once: what is read, what the schema says and what the docs say cannot
//! drift apart. Names are not resolved here, and nothing is judged that takes more than one value.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::draft::known_names;
use super::model::{Budget, Once};
use super::ramp;
use super::window::Window;
use super::words::{Arrivals, Is, Percentile, Port, Restart, Role, Some1, Uid, When};
use crate::base::{Percent, Rate};
use crate::fault::{Aim, AnyFault};
use crate::file::{FieldDoc, Fields, Key, Mistakes, Node, Place, Placed, Read, Value, object_schema};
use crate::host::container::Which;
use crate::host::target::{Netns, Pick};
use crate::probe::{AnyProbe, Ramp};
use crate::slo::Proof;

crate::kind! {
    /// An experiment: a steady state, faults on a timeline, probes, SLOs, a guard.
    pub struct File("file") {
        /// What a person calls it. Required, in the file or in what it includes.
        title: Placed<String> = optional,
        /// What is believed, and is being tested.
        hypothesis: Placed<String> = optional,
        /// Whom to ask.
        owner: Placed<String> = optional,
        /// Words to find it by.
        tags: Placed<Vec<String>> = "[]",
        /// Repeats a run: the same targets are drawn, the same packets hit. Drawn and printed when absent.
        seed: Placed<u64> = optional,
        /// Other files whose tables belong to this one; paths start from the file that says so.
        include: Placed<Vec<String>> = "[]",
        /// The run stops this long after t = 0, whatever its plan says.
        max_duration: Placed<Duration> = optional,
        /// What is filled into every table of a kind that does not say otherwise.
        defaults: Defaults = "{}",
        /// What the experiment itself starts, and always stops.
        service: Named<Service> = "{}",
        /// Other machines.
        host: Named<Host> = "{}",
        /// Who may be hurt, by name.
        target: Named<Target> = "{}",
        /// How the system is watched.
        probe: Named<Probe> = "{}",
        /// What is promised.
        slo: Named<Slo> = "{}",
        /// What must be seen in time.
        expect: Named<Expect> = "{}",
        /// What is done to the system.
        fault: Named<Fault> = "{}",
        /// The condition that is proved before anything is hurt.
        steady_state: Placed<SteadyState> = "{}",
        /// The judge that may abort the run.
        guard: Placed<Guard> = "{}",
        /// The condition that must come back.
        recovery: Placed<Recovery> = "{}",
        /// How the run is judged.
        verdict: Placed<Verdict> = "{}",
        /// The limits on who may be hurt.
        blast_radius: Placed<BlastRadius> = "{}",
    }
}

crate::kind! {
    /// Something the experiment starts and always stops.
    pub struct Service("service") {
        /// Services that must be ready first.
        needs: Vec<Placed<String>> = "[]",
        /// Run to its end before `run`.
        setup: Placed<Vec<String>> = optional,
        /// The service's own command; it stays in the foreground.
        run: Placed<Vec<String>> = required,
        /// Its extra environment.
        env: BTreeMap<String, String> = "{}",
        /// The user it runs as.
        user: String = optional,
        /// Whether it is started again when it dies: `"never"` or `"after 1s"`.
        restart: Restart = "never",
        /// How it is known to be ready.
        ready: Placed<Ready> = optional,
    }
}

crate::kind! {
    /// How a service is known to be ready: one of `tcp`, `http` and `exec`.
    pub struct Ready("ready") {
        /// This `host:port` accepts a connection.
        tcp: String = optional,
        /// This URL answers 2xx.
        http: String = optional,
        /// This command exits 0.
        exec: Vec<String> = optional,
        /// It must be ready within this.
        within: Duration = "30s",
    }
}
crate::table!(Ready, "`ready`");

crate::kind! {
    /// Another machine.
    pub struct Host("host") {
        /// How it is reached: a name of ssh's own configuration, or `user@host`.
        ssh: Placed<String> = required,
    }
}

crate::kind! {
    /// Who may be hurt: one way of finding it, how many of those found, and on which host.
    pub struct Target("target") {
        /// A service that the experiment starts.
        service: Placed<String> = optional,
        /// The process whose number is in this file.
        pid_file: Placed<PathBuf> = optional,
        /// Processes running this program: a path, or the last part of one.
        exe: Placed<String> = optional,
        /// Processes whose command line matches this regular expression.
        cmdline: Placed<String> = optional,
        /// The process that listens on this TCP port.
        listen: Placed<Port> = optional,
        /// Processes of this cgroup.
        cgroup: Placed<String> = optional,
        /// Processes of this user id.
        uid: Placed<Uid> = optional,
        /// A unit of systemd.
        unit: Placed<String> = optional,
        /// A container of Docker, podman or containerd: its name, its id or the beginning of that, or its compose
        /// service; or `"label app=web"`. With `path`: a directory in it.
        container: Placed<String> = optional,
        /// A network namespace: its name in /run/netns, a path such as `/proc/PID/ns/net`, or `"container:web"`. All
        /// that goes in and out of it; with `address` or `port`: only that, as it is met there.
        netns: Placed<String> = optional,
        /// Traffic to this address, with or without a port.
        address: Placed<String> = optional,
        /// Traffic to this port.
        port: Placed<Port> = optional,
        /// A directory: the file system it is on.
        path: Placed<PathBuf> = optional,
        /// The name of a [host]; this machine when absent.
        host: Placed<String> = optional,
        /// How many of those found: `{ count = 1 }`, `{ percent = "30%" }`, `"oldest"`, `"all"`. One, drawn from
        /// the seed, when absent.
        pick: Placed<Pick> = optional,
    }
}
crate::table!(Target, "the target");

crate::kind! {
    /// When and how one looks, whatever the kind.
    pub struct Looking("probe") {
        /// Looks a second, or a ramp such as `{ from = "10/s", to = "200/s", steps = 5, for = "60s" }`. Say one of
        /// `rate`, `every` and `once`.
        rate: Placed<Pace> = optional,
        /// The time between looks.
        every: Placed<Duration> = optional,
        /// `"even"`, when absent: on a grid; `"poisson"`: independently of one another, as many users come, with exponential gaps
        /// drawn from the seed whose mean is the rate.
        arrivals: Placed<Arrivals> = optional,
        /// Each look of a grid is due up to so much later, drawn from the seed.
        jitter: Placed<Duration> = optional,
        /// A check instead of a stream: made once, `"before"` the faults or `"after"` recovery.
        once: Placed<Once> = optional,
        /// From the intended start; a look that takes longer is bad.
        timeout: Placed<Duration> = "1s",
        /// Looks under way at one time; a look beyond it is missed.
        in_flight: Placed<Some1> = "1000",
        /// A bad look is tried again so many times within its `timeout`, each a tenth of that after the try before
        /// it. Its latency counts from its first intended moment, and the report says what was good only then.
        retries: u32 = "0",
        /// Looks from this network namespace: its name in /run/netns, a path such as `/proc/PID/ns/net`, or
        /// `"container:web"`. Names are looked up as they are known there (/etc/netns/NAME, or the container's files).
        netns: Placed<Netns> = optional,
        /// Looks from this container, by its name, the beginning of its id, or `"label KEY=VALUE"`: as `netns`, and
        /// files are those of the container.
        container: Placed<Which> = optional,
        /// `"observe"`: recorded, and judged by expectations alone.
        role: Placed<Role> = optional,
        /// The probe whose control path this is.
        control_of: Placed<String> = optional,
        /// For kinds that look at processes: whose, by the name of a [target] or by the selector itself.
        target: Placed<Aimed> = optional,
        /// Makes one probe of each entry, `NAME.KEY`, with its value for `${each}`.
        each: BTreeMap<String, String> = "{}",
    }
}

/// A rate, or a ramp of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Looks a second, before the ramp.
    pub rate: Rate,
    /// How that changes.
    pub ramp: Option<Ramp>,
}

crate::kind! {
    /// A rate that changes in equal steps from t = 0 on. Until then it is `from`, and when it is over `to`.
    pub struct Climb("rate") {
        /// The rate of the first step.
        from: Rate = required,
        /// The rate of the last step.
        to: Rate = required,
        /// How many steps, with those of both ends.
        steps: u32 = "10",
        /// How long all of them take.
        r#for: Duration = required,
    }
}
crate::table!(Climb, "the ramp of `rate`");

impl Read for Pace {
    const NAME: &'static str = "rate, or a ramp of it";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if !matches!(node.value, Value::Table(_)) {
            return Rate::read(node, mistakes).map(|rate| Self { rate, ramp: None });
        }
        let Climb { from: rate, to, steps, r#for: lasts } = Climb::read(node, mistakes)?;
        let (what, remedy) = if !(2..=ramp::MOST_STEPS).contains(&i64::from(steps)) {
            ("`steps` is no number of steps", format!("a whole number from 2 to {}", ramp::MOST_STEPS))
        } else if lasts.is_zero() {
            ("the ramp of `rate` takes no time", "give it a `for` above zero".to_owned())
        } else if rate == to {
            ("the ramp of `rate` goes nowhere", "another `to` than `from`".to_owned())
        } else {
            return Some(Self { rate, ramp: Some(Ramp { to, steps, lasts }) });
        };
        mistakes.error(node.place, what, remedy);
        None
    }

    fn schema() -> Json {
        json!({"anyOf": [Rate::schema(), Climb::schema()]})
    }
}

crate::kind! {
    /// A promise about latency.
    pub struct Latency("latency") {
        /// From `"p50"` to below `"p100"`.
        percentile: Placed<Percentile> = required,
        /// That percentile must be below this.
        below: Placed<Duration> = required,
    }
}
crate::table!(Latency, "`latency`");

crate::kind! {
    /// What is promised about one probe.
    pub struct Slo("slo") {
        /// The probe's name. One that `each` multiplied multiplies the SLO.
        probe: Placed<String> = required,
        /// The share of looks that are good: at least 50 %, below 100 %.
        availability: Placed<Percent> = optional,
        /// Percentiles and their thresholds.
        latency: Vec<Latency> = "[]",
        /// The longest unbroken stretch of bad looks.
        longest_outage: Placed<Duration> = optional,
        /// For `brownout watch`: the period of the error budget.
        window: Placed<String> = optional,
        /// What stands instead while a fault, by its name, is live and until recovered.
        during: Named<During> = "{}",
    }
}

crate::kind! {
    /// What stands instead while a fault is live and until recovered.
    pub struct During("slo.NAME.during") {
        /// The share of looks that are good: at least 50 %, below 100 %.
        availability: Placed<Percent> = optional,
        /// Percentiles and their thresholds.
        latency: Vec<Latency> = "[]",
        /// The longest unbroken stretch of bad looks.
        longest_outage: Placed<Duration> = optional,
    }
}

crate::kind! {
    /// Something that must be seen in time: a look of a `probe`, or that what a `fault` hit is back.
    pub struct Expect("expect") {
        /// The probe's name.
        probe: Placed<String> = optional,
        /// The fault's name.
        fault: Placed<String> = optional,
        /// `"good"` or `"bad"` for a probe, `"back"` for a fault.
        is: Placed<Is> = required,
        /// Within this ...
        within: Placed<Duration> = required,
        /// ... of this moment. Required for a probe; a fault's own begin otherwise.
        of: Placed<When> = optional,
    }
}

crate::kind! {
    /// When a fault happens, and to whom, whatever the kind.
    pub struct Timing("fault") {
        /// When it begins: `"10s"` after t = 0, `"FAULT.begin + 2s"`, `"FAULT.end + 5s"` or `"operator"`.
        at: Placed<When> = "0s",
        /// How long it lasts; required for kinds that last. Over it any quantity of the kind may change in steps, each
        /// undone before the next: `delay = { from = "10ms", to = "500ms", steps = 10 }`.
        r#for: Placed<Duration> = optional,
        /// Again and again, from one beginning to the next.
        every: Placed<Duration> = optional,
        /// How often in all, with `every`.
        times: Placed<Some1> = optional,
        /// Each time it happens only with this chance, drawn from the seed.
        chance: Placed<Percent> = optional,
        /// Who is hurt: the name of a [target], or the selector itself.
        target: Placed<Aimed> = optional,
        /// For traffic: where it goes. A process, unit, container or `netns` in a network of its own is met in that.
        to: Placed<Aimed> = optional,
        /// For traffic, lookups and files: only what comes from here. Traffic is met in the network of whoever is named here, and
        /// what `to` names then stands for its addresses.
        from: Placed<Aimed> = optional,
    }
}

crate::kind! {
    /// The condition that is proved before anything is hurt.
    pub struct SteadyState("steady_state") {
        /// It must hold for so long beforehand, and again at recovery.
        r#for: Placed<Duration> = "30s",
    }
}
crate::table!(SteadyState, "[steady_state]");

crate::kind! {
    /// The judge that may abort the run.
    pub struct Guard("guard") {
        /// What this run may spend, per objective: `"20s"`, `"30 looks"` or `"2% of 30d"`.
        budget: Placed<Budget> = optional,
        /// The chance, over the run, of aborting although every promise is kept.
        false_abort: Placed<Percent> = "1%",
        /// The run stops when this file appears.
        kill_switch: PathBuf = optional,
    }
}
crate::table!(Guard, "[guard]");

crate::kind! {
    /// The condition that must come back.
    pub struct Recovery("recovery") {
        /// It must begin within this after the last undo.
        within: Placed<Duration> = "30s",
    }
}
crate::table!(Recovery, "[recovery]");

crate::kind! {
    /// How the run is judged.
    pub struct Verdict("verdict") {
        /// How much proof a pass needs: `"observed"`, `"likely"` or `"proven"`.
        proof: Proof = "observed",
    }
}
crate::table!(Verdict, "[verdict]");

crate::kind! {
    /// The limits on who may be hurt.
    pub struct BlastRadius("blast_radius") {
        /// Nobody but these: `"HOST: SELECTOR VALUE"` or `"SELECTOR VALUE"`.
        only: Vec<Placed<String>> = "[]",
        /// Never these.
        never: Vec<Placed<String>> = "[]",
        /// These too, although a host cannot do without them: the ssh daemon and the ssh connection you came by, the
        /// init system, container runtimes.
        also: Vec<Placed<String>> = "[]",
        /// At most so many targets.
        max_targets: Placed<Some1> = optional,
        /// Only at these times: `"Mon-Thu 10:00-16:00 Europe/Berlin"`; UTC when no place is named.
        window: Window = optional,
        /// The word a person types, or hands to --confirm, before anything is hurt.
        confirm: String = optional,
    }
}
crate::table!(BlastRadius, "[blast_radius]");

/// A table whose keys are people's own names, in the order of the file. An entry that was wrong keeps its
/// name, so that whoever refers to it is not told that it does not exist.
#[derive(Debug, Clone)]
pub(super) struct Named<T>(pub Vec<(Key, Option<T>)>);

/// What stands under a name.
pub(super) trait Entry: Sized {
    /// The word before the name.
    const SECTION: &'static str;
    /// Reads it.
    fn entry(name: &Key, node: &Node, mistakes: &mut Mistakes) -> Option<Self>;
    /// Its JSON Schema.
    fn schema() -> Json;
}

impl<T: Entry> Read for Named<T> {
    const NAME: &'static str = "table of names";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut fields = Fields::open(node, format!("[{}]", T::SECTION), mistakes)?;
        let entries = fields.rest().into_iter();
        Some(Self(entries.map(|(name, node)| (name.clone(), T::entry(name, node, mistakes))).collect()))
    }

    fn schema() -> Json {
        json!({"type": "object", "additionalProperties": T::schema()})
    }
}

/// `[service.NAME]` and its like: one table, one set of fields.
macro_rules! entries {
    ($($type:ty),*) => {$(
        impl Entry for $type {
            const SECTION: &'static str = Self::KIND;

            fn entry(name: &Key, node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                let mut fields = Fields::open(node, format!("[{}.{}]", Self::KIND, name.text), mistakes)?;
                let entry = Self::take(&mut fields, mistakes);
                fields.close(mistakes);
                entry
            }

            fn schema() -> Json {
                object_schema(Self::ABOUT, &Self::fields())
            }
        }
    )*};
}

entries!(Service, Host, Target, Slo, During, Expect);

/// Which kind a `[fault.NAME.KIND]` or `[probe.NAME.KIND]` is, and its table.
fn one_kind<'a>(
    section: &str,
    kinds: &[&str],
    name: &Key,
    node: &'a Node,
    mistakes: &mut Mistakes,
) -> Option<(&'a Key, &'a Node)> {
    let name_text = &name.text;
    let Value::Table(entries) = &node.value else {
        mistakes.error(
            node.place,
            format!("[{section}.{name_text}] must be a table, not {}", node.value.called()),
            format!("begin it with [{section}.{name_text}.KIND]; kinds: {}", kinds.join(", ")),
        );
        return None;
    };
    let mut found: Option<(&Key, &Node)> = None;
    let mut wrong = false;
    for (key, table) in entries {
        if kinds.contains(&key.text.as_str()) {
            match found {
                None => found = Some((key, table)),
                Some((first, _)) => mistakes.clash(
                    key.place,
                    format!("{section} `{name_text}` has two kinds, `{}` and `{}`", first.text, key.text),
                    "give each its own name",
                    first.place,
                    format!("`{}` stands here", first.text),
                ),
            }
            continue;
        }
        wrong = true;
        if matches!(table.value, Value::Table(_)) {
            mistakes.error(
                key.place,
                format!("there is no {section} kind `{}` in this version", key.text),
                known_names(&key.text, kinds.iter().copied(), "kinds"),
            );
        } else {
            mistakes.error(
                key.place,
                format!("`{}` stands in [{section}.{name_text}], which names no kind", key.text),
                format!("begin the table with [{section}.{name_text}.KIND]; kinds: {}", kinds.join(", ")),
            );
        }
    }
    if found.is_none() && !wrong {
        mistakes.error(
            name.place,
            format!("{section} `{name_text}` has no kind"),
            format!("begin its table with [{section}.{name_text}.KIND]; kinds: {}", kinds.join(", ")),
        );
    }
    found
}

/// `{ KIND: table }`, one kind at a time.
fn kinds_schema(kinds: &[&str], table: impl Fn(&str) -> Json) -> Json {
    let tables: serde_json::Map<String, Json> =
        kinds.iter().map(|kind| ((*kind).to_owned(), table(kind))).collect();
    json!({
        "type": "object", "properties": tables, "additionalProperties": false,
        "minProperties": 1, "maxProperties": 1,
    })
}

/// The words of [`Looking`] that a kind takes.
pub(super) fn looking_fields(kind: &str) -> Vec<FieldDoc> {
    let mut fields = Looking::fields();
    fields.retain(|field| field.name != "target" || AnyProbe::aims(kind));
    fields
}

/// One probe.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// When and how it looks.
    pub looking: Looking,
    /// The kind's own part; `None` when it was wrong.
    pub look: Option<AnyProbe>,
    /// Its kind.
    pub kind: Key,
    /// Its table.
    pub node: Node,
}

impl Entry for Probe {
    const SECTION: &'static str = "probe";

    fn entry(name: &Key, node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let (kind, node) = one_kind("probe", AnyProbe::KINDS, name, node, mistakes)?;
        // A probe multiplied by `each` is called by the name in the file, so that its mistakes are told once.
        let written = name.text.split('.').next().unwrap_or_default();
        let mut fields = Fields::open(node, format!("[probe.{written}.{}]", kind.text), mistakes)?;
        let looking = Looking::take(&mut fields, mistakes);
        let look = AnyProbe::take(&kind.text, &mut fields, mistakes);
        fields.close(mistakes);
        Some(Self { looking: looking?, look, kind: kind.clone(), node: node.clone() })
    }

    fn schema() -> Json {
        kinds_schema(AnyProbe::KINDS, |kind| {
            object_schema(about_of("probe", kind), &fields_of("probe", kind))
        })
    }
}

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// When it happens, and to whom.
    pub timing: Timing,
    /// The kind's own part, on each step of its ramp; `None` when it was wrong.
    pub harms: Option<Vec<AnyFault>>,
    /// Where its ramp stands, if it has one.
    pub ramp: Option<Place>,
    /// Its kind.
    pub kind: Key,
    /// Whether it lasts until undone.
    pub lasting: bool,
    /// What the kind is aimed at.
    pub aim: Aim,
}

/// The words of [`Timing`] that a kind takes: its own fields may use the others (a search's `from`).
pub(super) fn timing_fields(kind: &str) -> Vec<FieldDoc> {
    let aim = AnyFault::aims_at(kind).unwrap_or(Aim::Nothing);
    let lasting = AnyFault::lasts(kind).unwrap_or(false);
    let targeted = aim.is_processes() || matches!(aim, Aim::Place | Aim::Files);
    let mut fields = Timing::fields();
    fields.retain(|field| match field.name {
        "target" => targeted,
        "to" => aim == Aim::Traffic,
        "from" => matches!(aim, Aim::Traffic | Aim::Files | Aim::Lookups),
        _ => true,
    });
    for field in &mut fields {
        field.required |= (field.name == "for" && lasting && AnyFault::lasts_by_fields(kind) != Some(true))
            || (field.name == "target" && targeted)
            || (field.name == "to" && aim == Aim::Traffic);
    }
    fields
}

impl Entry for Fault {
    const SECTION: &'static str = "fault";

    fn entry(name: &Key, node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let (kind, node) = one_kind("fault", AnyFault::KINDS, name, node, mistakes)?;
        let own = AnyFault::explain(&kind.text).map_or_else(Vec::new, |(_, fields)| fields);
        let levels = ramp::levels(&own, node, mistakes);
        let (mut timing, mut harms) = (None, Vec::new());
        for level in &levels.nodes {
            let mut fields = Fields::open(level, format!("[fault.{}.{}]", name.text, kind.text), mistakes)?;
            timing = Timing::take(&mut fields, mistakes);
            harms.push(AnyFault::take(&kind.text, &mut fields, mistakes));
            fields.close(mistakes);
        }
        let harms: Option<Vec<AnyFault>> = harms.into_iter().collect();
        // The levels of a ramp have their mistakes in common.
        if let Some((what, remedy)) = harms.iter().flatten().find_map(|harm| harm.check().err()) {
            mistakes.error(kind.place, what, remedy);
        }
        let lasting = match harms.as_ref().and_then(|harms| harms.first()) {
            Some(harm) => harm.lasting(),
            None => AnyFault::lasts(&kind.text)?,
        };
        Some(Self {
            timing: timing?,
            harms,
            ramp: levels.place,
            kind: kind.clone(),
            lasting,
            aim: AnyFault::aims_at(&kind.text)?,
        })
    }

    fn schema() -> Json {
        kinds_schema(AnyFault::KINDS, |kind| {
            let mut own = AnyFault::explain(kind).map_or_else(Vec::new, |(_, fields)| fields);
            if AnyFault::lasts(kind) == Some(true) {
                ramp::allow(&mut own);
            }
            let fields: Vec<FieldDoc> = timing_fields(kind).into_iter().chain(own).collect();
            object_schema(about_of("fault", kind), &fields)
        })
    }
}

/// Whom a fault is aimed at.
#[derive(Debug, Clone)]
pub(super) enum Aimed {
    /// The name of a [target].
    Named(String),
    /// The selector itself.
    Inline(Box<Target>),
}

impl Read for Aimed {
    const NAME: &'static str = "target";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(name) => Some(Self::Named(name.clone())),
            Value::Table(_) => Target::read(node, mistakes).map(|target| Self::Inline(Box::new(target))),
            other => {
                mistakes.error(
                    node.place,
                    format!("a target is a name or a table, not {}", other.called()),
                    "the name of a [target], or a selector such as { service = \"redis\" }",
                );
                None
            }
        }
    }

    fn schema() -> Json {
        json!({"anyOf": [{"type": "string"}, <Target as Read>::schema()]})
    }
}

/// `[defaults.probe.KIND]` and `[defaults.fault.KIND]`. They were filled in, and their keys judged, before
/// the tables are read; here they only have their shape.
#[derive(Debug, Clone)]
pub(super) struct Defaults;

impl Read for Defaults {
    const NAME: &'static str = "table";

    fn read(_: &Node, _: &mut Mistakes) -> Option<Self> {
        Some(Self)
    }

    fn schema() -> Json {
        let section = |word: &'static str, kinds: &[&str]| {
            let table = |kind: &&str| {
                let mut fields = fields_of(word, kind);
                for field in &mut fields {
                    field.required = false;
                }
                ((*kind).to_owned(), object_schema(about_of(word, kind), &fields))
            };
            let tables: serde_json::Map<String, Json> = kinds.iter().map(table).collect();
            json!({"type": "object", "properties": tables, "additionalProperties": false})
        };
        json!({
            "type": "object",
            "properties": {
                "probe": section("probe", AnyProbe::KINDS),
                "fault": section("fault", AnyFault::KINDS),
            },
            "additionalProperties": false,
        })
    }
}

/// What the docs say about a kind of `[probe]` or `[fault]`.
fn explain(section: &str, kind: &str) -> Option<(&'static str, Vec<FieldDoc>)> {
    if section == "probe" { AnyProbe::explain(kind) } else { AnyFault::explain(kind) }
}

fn about_of(section: &str, kind: &str) -> &'static str {
    explain(section, kind).map_or("", |(about, _)| about)
}

/// All fields of a `[probe.NAME.KIND]` or `[fault.NAME.KIND]`: those of every kind, and its own.
pub(super) fn fields_of(section: &str, kind: &str) -> Vec<FieldDoc> {
    let common = if section == "probe" { looking_fields(kind) } else { timing_fields(kind) };
    let own = explain(section, kind).map_or_else(Vec::new, |(_, fields)| fields);
    common.into_iter().chain(own).collect()
}
