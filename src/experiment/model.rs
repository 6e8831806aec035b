//! A checked experiment: every value typed, every name resolved, every time placed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::fill::{Count, fill_counts};
use super::window::Window;
use rand::Rng;

use crate::base::{Dice, Percent};
use crate::fault::AnyFault;
use crate::file::{Fields, Mistakes, Node, Place};
use crate::host::standpoint::Standpoint;
use crate::host::target::{Selector, Target};
use crate::probe::{AnyProbe, Limits, Rhythm};
pub use crate::slo::Proof;

/// No fault outlives this, whatever is asked: the watchdog ends it.
pub const MOST_TTL: Duration = Duration::from_mins(15);

/// A fault may outlive its `for` by this before the watchdog ends it: time for an orderly undo.
pub const TTL_MARGIN: Duration = Duration::from_secs(30);

/// One experiment: a steady state, faults on a timeline, probes, SLOs, a guard.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// What a person calls it.
    pub title: String,
    /// What is believed, and is being tested.
    pub hypothesis: Option<String>,
    /// Whom to ask.
    pub owner: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The seed, when the file names one.
    pub seed: Option<u64>,
    /// What the experiment itself starts, in an order in which `needs` come first.
    pub services: Vec<Service>,
    /// How it is watched.
    pub probes: Vec<Probe>,
    /// What is promised.
    pub slos: Vec<Slo>,
    /// What must happen in time.
    pub expects: Vec<Expect>,
    /// How long the healthy condition must hold beforehand, and again at recovery.
    pub steady_for: Duration,
    /// The judge that may abort.
    pub guard: Guard,
    /// What is done to the system.
    pub faults: Vec<Fault>,
    /// Recovery must begin within this after the last undo.
    pub recovery_within: Duration,
    /// How much proof a pass needs.
    pub proof: Proof,
    /// The limits on who may be hurt.
    pub blast_radius: BlastRadius,
    /// From t = 0 to the last undo, at most.
    pub max_duration: Option<Duration>,
    /// The directory of the file: commands run in it, relative paths start from it.
    pub directory: PathBuf,
}

/// Something the experiment starts and always stops.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Names of services that must be ready first.
    pub needs: Vec<String>,
    /// Run to its end before `run`.
    pub setup: Option<Vec<String>>,
    /// The service's own command.
    pub run: Vec<String>,
    /// Its extra environment.
    pub env: BTreeMap<String, String>,
    /// The user it runs as.
    pub user: Option<String>,
    /// Its port, when `${self.port}` was used.
    pub port: Option<u16>,
    /// Its own folder, when `${self.dir}` was used.
    pub dir: Option<PathBuf>,
    /// Started again this long after it died; never when absent.
    pub restart_after: Option<Duration>,
    /// How it is known to be ready.
    pub ready: Option<Ready>,
    /// It must be ready within this.
    pub ready_within: Duration,
}

/// How a service is known to be ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// This `host:port` accepts a connection.
    Tcp(String),
    /// This URL answers 2xx.
    Http(String),
    /// This command exits 0.
    Exec(Vec<String>),
}

/// One way of looking.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Its name; `NAME.KEY` when `each` made it.
    pub name: String,
    /// Where it stands in the file, for refusals.
    pub place: Place,
    /// The kind's own part.
    pub look: AnyProbe,
    /// Whose processes it looks at, for kinds that look at some.
    pub target: Option<Target>,
    /// Set when its command asks for what other probes have counted: then, once the run is over, it looks
    /// with [`Late::look`] instead.
    pub late: Option<Late>,
    /// When it looks; `None` for a check that is made once.
    pub rhythm: Option<Rhythm>,
    /// When a check is made.
    pub once: Option<Once>,
    /// From the intended start; a look that takes longer is bad.
    pub timeout: Duration,
    /// Looks under way at one time; a look beyond it is missed.
    pub in_flight: u32,
    /// A bad look is tried again so many times.
    pub retries: u32,
    /// Judged by SLOs, or only recorded.
    pub observe_only: bool,
    /// Where it looks from, when that is not here.
    pub from: Option<Standpoint>,
}

impl Probe {
    /// What limits each of its looks.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { timeout: self.timeout, retries: self.retries }
    }
}

/// A check whose command holds `${probe.NAME.good|bad|total}`: known only when the run is over.
#[derive(Debug, Clone)]
pub struct Late {
    pub(super) kind: String,
    pub(super) table: Node,
}

impl Late {
    /// The check with its counts filled in. `count` is asked by the probe's name and what of it; a name that
    /// `each` multiplied stands for all of its probes, so it is for the caller to add up.
    ///
    /// `None` when the kind refuses what came out, which it did not do when the file was checked.
    #[must_use]
    pub fn look(&self, mut count: impl FnMut(&str, Count) -> u64) -> Option<AnyProbe> {
        let mut table = self.table.clone();
        fill_counts(&mut table, &mut count);
        let mut mistakes = Mistakes::default();
        let mut fields = Fields::open(&table, "", &mut mistakes)?;
        AnyProbe::take(&self.kind, &mut fields, &mut mistakes)
    }
}

/// When a probe that is a check is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// In the steady state.
    Before,
    /// After recovery.
    After,
}

/// What is promised about one probe.
#[derive(Debug, Clone)]
pub struct Slo {
    /// Its name.
    pub name: String,
    /// The probe's place in [`Experiment::probes`].
    pub probe: usize,
    /// What holds in general.
    pub promises: Promises,
    /// What holds instead while a fault (its place in [`Experiment::faults`]) is live and until recovered.
    pub during: Vec<(usize, Promises)>,
}

/// Promises about one probe; absent ones are not made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Promises {
    /// The share of looks that are good.
    pub availability: Option<Percent>,
    /// Percentile (share below 1) and threshold.
    pub latency: Vec<(f64, Duration)>,
    /// The longest unbroken stretch of bad looks.
    pub longest_outage: Option<Duration>,
}

/// Something that must be seen in time.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Its name.
    pub name: String,
    /// What must be seen.
    pub sees: Sees,
    /// Within this ...
    pub within: Duration,
    /// ... of this moment.
    pub of: Moment,
}

/// What an expectation wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// A look of this probe (its place in [`Experiment::probes`]) that is good, or bad.
    Probe {
        /// Which probe.
        probe: usize,
        /// Whether it must be good.
        good: bool,
    },
    /// What this fault (its place in [`Experiment::faults`]) hit is back: a service of ours is ready again,
    /// another target is found again by its selector with as many processes as before.
    Back {
        /// Which fault.
        fault: usize,
    },
}

/// The judge that may abort the run.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Bad seconds, looks, or a share of a month; the default when absent.
    pub budget: Option<Budget>,
    /// The chance, over the run, of aborting although every promise is kept.
    pub false_abort: Percent,
    /// The run stops when this file appears.
    pub kill_switch: Option<PathBuf>,
}

/// What a run may spend, per objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bad seconds.
    Seconds(f64),
    /// Bad looks.
    Looks(u64),
    /// A share of the budget of a period.
    Share(f64, Duration),
}

/// One kind of harm on the timeline.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Its name.
    pub name: String,
    /// The kind's own part; of a ramp, its first level.
    pub harm: AnyFault,
    /// The levels of a ramp after the first, one for each further time; else empty.
    pub ramp: Vec<AnyFault>,
    /// Where it stands in the file, for refusals.
    pub place: Place,
    /// Who is hurt; for network faults (`to`), where the traffic goes.
    pub target: Option<Target>,
    /// For network faults: only traffic from here.
    pub from: Option<Target>,
    /// When it begins.
    pub at: Moment,
    /// How long it lasts, each time; required for lasting kinds.
    pub hold: Option<Duration>,
    /// Repeated this often, so many times in all.
    pub every: Option<(Duration, u32)>,
    /// Each time it happens only with this chance; always when absent.
    pub chance: Option<Percent>,
}

impl Fault {
    /// How long after its injection the watchdog ends it, whatever the runner does. The reader refuses a
    /// `for` for which this would be shorter than `for` and the margin.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        (self.hold.unwrap_or_default() + TTL_MARGIN).min(MOST_TTL)
    }

    /// The kind's own part for the `nth` time, counted from 0.
    #[must_use]
    pub fn harm_of(&self, nth: u32) -> &AnyFault {
        let later = nth.checked_sub(1).and_then(|later| self.ramp.get(later as usize));
        later.unwrap_or(&self.harm)
    }

    /// What names the draw of its targets for the `nth` time: all levels of a ramp hurt the same.
    #[must_use]
    pub fn pick_of(&self, nth: u32) -> String {
        format!("fault.{}.pick.{}", self.name, if self.ramp.is_empty() { nth } else { 0 })
    }

    /// Which of its times happen, counted from 0.
    #[must_use]
    pub fn drawn(&self, dice: &Dice) -> Vec<u32> {
        let times = self.every.map_or(1, |(_, times)| times);
        let mut stream = dice.stream(&format!("fault.{}.chance", self.name));
        let mut happens = || self.chance.is_none_or(|chance| stream.random::<f64>() < chance.share());
        (0..times).filter(|_| happens()).collect()
    }

    /// What it is called the `nth` time, counted from 0: `dies`, then `dies#2`.
    #[must_use]
    pub fn name_of(&self, nth: u32) -> String {
        if nth == 0 { self.name.clone() } else { format!("{}#{}", self.name, nth + 1) }
    }
}

/// A moment on the timeline.
#[derive(Debug, Clone, PartialEq)]
pub enum Moment {
    /// After t = 0.
    Zero(Duration),
    /// After a fault's verified effect.
    Begin(usize, Duration),
    /// After a fault's verified undo.
    End(usize, Duration),
    /// When a person says so.
    Operator,
}

/// The limits on who may be hurt.
#[derive(Debug, Clone, Default)]
pub struct BlastRadius {
    /// Nobody but these, when not empty.
    pub only: Vec<Limit>,
    /// Never these.
    pub never: Vec<Limit>,
    /// These too, although a host cannot do without them.
    pub also: Vec<Limit>,
    /// At most so many targets.
    pub max_targets: Option<u32>,
    /// Only at these times.
    pub window: Option<Window>,
    /// The word a person types before anything is hurt.
    pub confirm: Option<String>,
}

impl Limit {
    /// Whether it counts on this host.
    #[must_use]
    pub fn is_on(&self, host: &str) -> bool {
        self.host.as_ref().is_none_or(|own| own == host)
    }
}

/// Somebody named by a limit of the blast radius.
#[derive(Debug, Clone)]
pub struct Limit {
    /// On this host; on every host when absent.
    pub host: Option<String>,
    /// Who.
    pub selector: Selector,
}
