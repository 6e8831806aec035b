//! Floor 3: the kinds of harm, one file each. Adding one is: its file, its line in `kinds!` below, its
//! cases. Records without a fault stand in its second section.

pub mod ability;
mod bandwidth;
mod beneath;
mod clock;
mod container;
mod corrupt;
mod cpu;
mod disk_error;
mod disk_fill;
mod disk_readonly;
mod disk_slow;
mod dns;
mod duplicate;
mod exec;
mod fds;
mod fenced;
mod freeze;
mod gated;
mod hits;
mod http;
mod inode_fill;
mod io;
mod io_limit;
mod kill;
mod latency;
mod loss;
mod memory;
mod memory_limit;
mod partition;
mod pause;
mod reorder;
mod reset;
mod service;
mod starve;
mod threads;
mod traffic;
mod unit;

use std::any::Any;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use ability::{Ability, Extent};

use crate::base::dice::fnv1a;
use crate::base::{Dice, Percent, RunId};
use crate::file::{FieldDoc, Fields, Mistakes};
use crate::hands::Heartbeat;
use crate::host::network::Network;
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::host::socket::Namespace;
use crate::host::target::Found;
use crate::undo::{Claim, Record, Tier};
pub use latency::abilities as latency_abilities;

/// What a fault finds at hand: its targets, already resolved, and what it is called.
#[derive(Debug)]
pub struct Site {
    /// The run: part of every name the fault gives.
    pub run: RunId,
    /// The fault's name in the file.
    pub fault: String,
    /// Chance, seeded.
    pub dice: Dice,
    /// The host it happens on.
    pub host: String,
    /// Whom to hurt, already drawn; processes are pinned by pidfd.
    pub target: Found,
    /// For network faults: only traffic from here.
    pub from: Option<Found>,
    /// For network faults: where it acts; `None` is where we are.
    pub network: Option<Network>,
    /// How long it lasts by plan.
    pub hold: Duration,
    /// The process that will hold the harm: us.
    pub holder: Identity,
    /// The heartbeat of whoever decides: what is held on a lease is renewed only while it beats.
    pub heartbeat: Heartbeat,
    /// The directory in which commands run: the experiment file's.
    pub directory: PathBuf,
}

impl Site {
    /// The targets, as they are written down.
    fn identities(&self) -> Vec<Identity> {
        self.target.processes.iter().map(|process| process.identity().clone()).collect()
    }

    /// The targets, as people read them.
    fn who(&self) -> String {
        let pids: Vec<String> = self.target.processes.iter().map(|p| p.identity().pid.to_string()).collect();
        match pids.as_slice() {
            [] => self.target.said.clone(),
            [one] => format!("process {one}"),
            several => format!("processes {}", several.join(", ")),
        }
    }

    /// The network the target is in, when that is another than the one in which the fault acts.
    fn target_elsewhere(&self) -> Option<Network> {
        let theirs = self.target.network().ok()??;
        let acts = self.network.as_ref().map(Network::namespace).or_else(|| Namespace::ours().ok())?;
        (theirs.namespace() != acts).then_some(theirs)
    }

    /// What the names that the fault gives have in common: eight hexadecimal digits, its own in this run and
    /// among runs.
    fn mark(&self) -> String {
        format!("{:08x}", fnv1a(format!("{} {}", self.run, self.fault).as_bytes()) as u32)
    }

    fn some_processes(&self) -> Result<(), Refusal> {
        match (self.target.processes.as_slice(), self.target.left_alone.as_slice()) {
            ([], []) => Err(self.refuse("no process fits its target".to_owned(), "is the service running?")),
            ([], left) => Err(self.refuse(
                format!("nobody fits its target but whom a host cannot do without ({})", left.join("; ")),
                "name another target, or name them in [blast_radius] `also`",
            )),
            _ => Ok(()),
        }
    }

    /// The place to fill, and the device its file system is on.
    fn place_to_fill(&self) -> Result<(PathBuf, u64), Refusal> {
        let Some(path) = self.target.place.clone() else {
            return Err(self.refuse(
                "it has no place to fill".to_owned(),
                "give it `target = { path = \"/var/lib/app\" }`",
            ));
        };
        match std::fs::metadata(&path) {
            Ok(entry) => Ok((path, entry.dev())),
            Err(why) => Err(self.unreadable(&path, &why)),
        }
    }

    fn unreadable(&self, path: &Path, why: &dyn std::fmt::Display) -> Refusal {
        self.refuse(format!("{}: {why}", path.display()), "name an existing directory")
    }

    fn refuse(&self, why: String, remedy: &str) -> Refusal {
        Refusal { fault: self.fault.clone(), why, remedy: remedy.to_owned() }
    }
}

/// How much of what is free is asked for: exactly so much, a share of it, or all but so much; `None` unless
/// exactly one of them is said.
fn asked(free: u64, exact: Option<u64>, percent: Option<Percent>, leave: Option<u64>) -> Option<u64> {
    match (exact, percent, leave) {
        (Some(exact), None, None) => Some(exact),
        (None, Some(percent), None) => Some((free as f64 * percent.share()) as u64),
        (None, None, Some(leave)) => Some(free.saturating_sub(leave)),
        _ => None,
    }
}

/// A process is claimed by what it is, so that a reused number is another process.
fn process_claims(host: &str, targets: &[Identity]) -> Vec<Claim> {
    targets.iter().map(|t| Claim::exclusive(host, format!("process {}@{}", t.pid, t.start))).collect()
}

/// A survey that found a reason not to hurt anything.
#[derive(Debug, thiserror::Error)]
#[error("fault `{fault}` is refused: {why}; {remedy}")]
pub struct Refusal {
    /// The fault's name.
    pub fault: String,
    /// Why.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// An injection that failed. What it did until then is held and gets undone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FaultError(pub String);

/// An undo that failed; it is tried again, and what stays is reported with the command for a person.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UndoError(pub String);

/// Whether the fault really took hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", content = "figures", rename_all = "kebab-case")]
pub enum Effect {
    /// Measured, and as asked.
    Confirmed(String),
    /// Measured, and not as asked.
    Mismatch(String),
    /// It cannot be measured here.
    Unverifiable(String),
}

impl Effect {
    /// Joined with what was measured of those who were not named: when they moved, that is not as asked.
    fn and_spared(self, spared: Option<Self>) -> Self {
        let Some(spared) = spared else { return self };
        let joined = format!("{}; not named: {}", self.figures(), spared.figures());
        match (self, spared) {
            (Self::Mismatch(_), _) | (_, Self::Mismatch(_)) => Self::Mismatch(joined),
            (Self::Confirmed(_), _) => Self::Confirmed(joined),
            (Self::Unverifiable(_), _) => Self::Unverifiable(joined),
        }
    }

    /// Says where it was measured, when that is not where we are.
    fn seen_in(mut self, network: Option<&Network>) -> Self {
        let (Self::Confirmed(figures) | Self::Mismatch(figures) | Self::Unverifiable(figures)) = &mut self;
        if let Some(network) = network.filter(|network| !network.is_ours()) {
            *figures = format!("in {}: {figures}", network.said());
        }
        self
    }

    /// What was measured.
    #[must_use]
    pub fn figures(&self) -> &str {
        match self {
            Self::Confirmed(figures) | Self::Mismatch(figures) | Self::Unverifiable(figures) => figures,
        }
    }
}

/// The kernel objects whose death ends a fault. Filled while injecting, so that a half-done injection
/// is held too; dropped newest first.
#[derive(Default)]
pub struct Held {
    things: Vec<Box<dyn Any + Send + Sync>>,
}

impl Held {
    /// Holds one thing more.
    pub fn hold(&mut self, thing: impl Any + Send + Sync) {
        self.things.push(Box::new(thing));
    }

    /// The newest thing of a type that is held, for whoever wants to measure it.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.things.iter().rev().find_map(|thing| thing.downcast_ref())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        while let Some(thing) = self.things.pop() {
            drop(thing);
        }
    }
}

/// What a kind of harm is aimed at: which words of the file say whom it hurts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// Processes: `target`.
    Process,
    /// Containers: `target = { container = ... }`.
    Container,
    /// Traffic: `to`, and optionally `from`.
    Traffic,
    /// Lookups of names: optionally `from`, whose.
    Lookups,
    /// A directory: `target = { path = ... }`.
    Place,
    /// What is done to files: `target = { path = ... }`, and optionally `from`, by whom.
    Files,
    /// All of a group of processes: `target`, by cgroup, unit or service.
    Group,
    /// A unit of systemd: `target = { unit = ... }`.
    Unit,
    /// Its own fields say it all.
    Nothing,
}

impl Aim {
    /// Whether it is processes, one way or the other, that are hurt, which are found by `target` and counted.
    #[must_use]
    pub fn is_processes(self) -> bool {
        matches!(self, Self::Process | Self::Group | Self::Unit | Self::Container)
    }

    /// Whether all of what is named is hurt, so that nothing is picked from it.
    #[must_use]
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Group | Self::Unit)
    }
}

/// One kind of harm: the struct read from the file.
trait Fault {
    /// All that undoing it needs.
    type Owed: Owed;
    /// Whether it lasts until undone (and so takes `for`), or is over when done.
    const LASTING: bool;
    /// Whether its fields decide over that: it takes `for` or does not, as [`Fault::lasts`] says.
    const BY_FIELDS: bool = false;
    /// What it is aimed at.
    const AIM: Aim;
    /// Who undoes it if we are killed, as far as the kind alone tells.
    const TIER: Tier;
    /// Its table in a file, for the docs: a good one, with what it refers to.
    const EXAMPLE: &'static str;

    /// Whether fields that are right one by one make sense together: what is wrong, and the remedy.
    fn check(&self) -> Result<(), (String, String)> {
        Ok(())
    }
    /// What this one and another of its kind would both do to the same, if they were live at one time, so that one of them
    /// did nothing. For kinds whose fields say what they hurt.
    fn clash(&self, _: &Self) -> Option<String> {
        None
    }
    /// Looks, touches nothing; says what undoing will need.
    async fn survey(&self, site: &Site) -> Result<Self::Owed, Refusal>;
    /// Does the harm. Called only once the record is on disk.
    async fn inject(&self, site: &Site, owed: &Self::Owed, held: &mut Held) -> Result<(), FaultError>;
    /// Measures whether it took hold.
    async fn verify(&self, site: &Site, owed: &Self::Owed, held: &Held) -> Effect;
    /// Measures that what was not named did not move: a second look, at something near by. `Mismatch` when it
    /// did; `None` for a kind that has nothing near by to look at.
    async fn spared(&self, _: &Site, _: &Self::Owed, _: &Held) -> Option<Effect> {
        None
    }
    /// Whether this one lasts until undone.
    fn lasts(&self) -> bool {
        Self::LASTING
    }
    /// By which of several ways it is done and why, for the plan; `None` for a kind that has only one.
    fn mechanism(&self, _: &Self::Owed) -> Option<String> {
        None
    }
    /// The harm in a sentence, for the plan.
    fn harm(&self, site: &Site) -> String;
    /// What this kind can do here, really tried where that harms nobody.
    fn ability(rights: &Rights) -> Ability;
}

/// All that undoing a fault needs: nothing else survives a crash.
trait Owed: Serialize + for<'de> Deserialize<'de> {
    /// Takes the harm back. Idempotent, harmless before the injection, removes ours and only ours.
    async fn undo(&self) -> Result<(), UndoError>;
    /// Whether any of the harm is still there.
    async fn remains(&self) -> Result<bool, UndoError>;
    /// What no other fault or run may touch meanwhile.
    fn claims(&self, host: &str) -> Vec<Claim>;
    /// Who undoes it if we are killed.
    fn tier(&self) -> Tier;
    /// The command a person would type.
    fn by_hand(&self) -> String;
}

/// One undo record of the log: whose it is, when it ends at the latest, and the kind's own part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The fault's name in the file.
    pub fault: String,
    /// The host it is on.
    pub host: String,
    /// The time since boot by which the watchdog ends it, whatever the runner does.
    pub deadline: Option<Duration>,
    /// The kind's own part.
    pub owed: AnyOwed,
}

impl Entry {
    /// Takes the harm back.
    ///
    /// # Errors
    /// When it could not be; see [`UndoError`].
    pub async fn undo(&self) -> Result<(), UndoError> {
        self.owed.undo().await
    }

    /// Whether any of the harm is still there.
    ///
    /// # Errors
    /// When that could not be seen.
    pub async fn remains(&self) -> Result<bool, UndoError> {
        self.owed.remains().await
    }
}

impl Record for Entry {
    fn claims(&self) -> Vec<Claim> {
        self.owed.claims(&self.host)
    }

    fn tier(&self) -> Tier {
        self.owed.tier()
    }

    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    fn by_hand(&self) -> String {
        self.owed.by_hand()
    }
}

macro_rules! kinds {
    ($($variant:ident: $fault:ty, $owed:ty;)* + records { $($record:ident: $kept:ty;)* }) => {
        /// Any fault.
        #[derive(Debug, Clone)]
        pub enum AnyFault {
            $(#[doc = concat!("See [`", stringify!($fault), "`].")] $variant($fault),)*
        }

        /// Any undo record.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "kebab-case")]
        pub enum AnyOwed {
            $(#[doc = concat!("See [`", stringify!($owed), "`].")] $variant($owed),)*
            $(#[doc = concat!("See [`", stringify!($kept), "`].")] $record($kept),)*
        }

        impl AnyFault {
            /// The words that name the kinds.
            pub const KINDS: &'static [&'static str] = &[$(<$fault>::KIND),*];

            /// Takes a kind's fields out of its table; `None` on mistakes or an unknown kind.
            pub fn take(kind: &str, fields: &mut Fields<'_>, mistakes: &mut Mistakes) -> Option<Self> {
                $(if kind == <$fault>::KIND {
                    return <$fault>::take(fields, mistakes).map(Self::$variant);
                })*
                None
            }

            /// What the docs say about a kind: what it is, and its fields.
            #[must_use]
            pub fn explain(kind: &str) -> Option<(&'static str, Vec<FieldDoc>)> {
                $(if kind == <$fault>::KIND {
                    return Some((<$fault>::ABOUT, <$fault>::fields()));
                })*
                None
            }

            /// A kind's table in a file, for the docs; `None` for an unknown kind.
            #[must_use]
            pub fn example(kind: &str) -> Option<&'static str> {
                $(if kind == <$fault>::KIND { return Some(<$fault as Fault>::EXAMPLE); })*
                None
            }

            /// Who undoes a kind if we are killed, as far as the kind alone tells; `None` for an unknown kind.
            #[must_use]
            pub fn undone_by(kind: &str) -> Option<Tier> {
                $(if kind == <$fault>::KIND { return Some(<$fault as Fault>::TIER); })*
                None
            }

            /// What each kind can do here, by its word.
            #[must_use]
            pub fn abilities(rights: &Rights) -> Vec<(&'static str, Ability)> {
                vec![$((<$fault>::KIND, <$fault as Fault>::ability(rights))),*]
            }

            /// The word that names this kind.
            #[must_use]
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => <$fault>::KIND,)* }
            }

            /// What a kind is aimed at; `None` for an unknown kind.
            #[must_use]
            pub fn aims_at(kind: &str) -> Option<Aim> {
                $(if kind == <$fault>::KIND { return Some(<$fault as Fault>::AIM); })*
                None
            }

            /// What this one is aimed at.
            #[must_use]
            pub fn aim(&self) -> Aim {
                match self { $(Self::$variant(_) => <$fault as Fault>::AIM,)* }
            }

            /// Whether a kind lasts until undone; `None` for an unknown kind.
            #[must_use]
            pub fn lasts(kind: &str) -> Option<bool> {
                $(if kind == <$fault>::KIND { return Some(<$fault as Fault>::LASTING); })*
                None
            }

            /// Whether the fields of a kind decide if it lasts; `None` for an unknown kind.
            #[must_use]
            pub fn lasts_by_fields(kind: &str) -> Option<bool> {
                $(if kind == <$fault>::KIND { return Some(<$fault as Fault>::BY_FIELDS); })*
                None
            }

            /// Who undoes it if we are killed, as far as the kind alone tells.
            #[must_use]
            pub fn tier(&self) -> Tier {
                match self { $(Self::$variant(_) => <$fault as Fault>::TIER,)* }
            }

            /// Whether it lasts until undone, and so takes `for`.
            #[must_use]
            pub fn lasting(&self) -> bool {
                match self { $(Self::$variant(fault) => fault.lasts(),)* }
            }

            /// Whether fields that are right one by one make sense together.
            ///
            /// # Errors
            /// What is wrong, and the remedy.
            pub fn check(&self) -> Result<(), (String, String)> {
                match self { $(Self::$variant(fault) => fault.check(),)* }
            }

            /// What this one and another would both do to the same, though only one of them can.
            #[must_use]
            pub fn clash(&self, other: &Self) -> Option<String> {
                match (self, other) {
                    $((Self::$variant(one), Self::$variant(other)) => one.clash(other),)*
                    _ => None,
                }
            }

            /// The harm in a sentence.
            #[must_use]
            pub fn harm(&self, site: &Site) -> String {
                match self { $(Self::$variant(fault) => fault.harm(site),)* }
            }

            /// Looks, touches nothing; says what undoing will need.
            ///
            /// # Errors
            /// When it cannot or must not be done here.
            pub async fn survey(&self, site: &Site) -> Result<AnyOwed, Refusal> {
                match self { $(Self::$variant(fault) => fault.survey(site).await.map(AnyOwed::$variant),)* }
            }

            /// Does the harm. The record must be on disk before.
            ///
            /// # Errors
            /// When it failed; what was done until then is in `held` and in the record.
            pub async fn inject(&self, site: &Site, owed: &AnyOwed, held: &mut Held) -> Result<(), FaultError> {
                match (self, owed) {
                    $((Self::$variant(fault), AnyOwed::$variant(owed)) => fault.inject(site, owed, held).await,)*
                    #[allow(unreachable_patterns, reason = "reachable as soon as there are two kinds")]
                    _ => Err(FaultError("the undo record is of another kind".to_owned())),
                }
            }

            /// By which of several ways it is done and why; `None` for a kind that has only one.
            #[must_use]
            pub fn mechanism(&self, owed: &AnyOwed) -> Option<String> {
                match (self, owed) {
                    $((Self::$variant(fault), AnyOwed::$variant(owed)) => fault.mechanism(owed),)*
                    _ => None,
                }
            }

            /// Measures whether it took hold, and that what was not named did not move; `held` is what the
            /// injection filled.
            pub async fn verify(&self, site: &Site, owed: &AnyOwed, held: &Held) -> Effect {
                match (self, owed) {
                    $((Self::$variant(fault), AnyOwed::$variant(owed)) => {
                        let effect = fault.verify(site, owed, held).await;
                        effect.and_spared(fault.spared(site, owed, held).await).seen_in(site.network.as_ref())
                    })*
                    #[allow(unreachable_patterns, reason = "reachable as soon as there are two kinds")]
                    _ => Effect::Unverifiable("the undo record is of another kind".to_owned()),
                }
            }
        }

        impl AnyOwed {
            async fn undo(&self) -> Result<(), UndoError> {
                match self {
                    $(Self::$variant(owed) => owed.undo().await,)*
                    $(Self::$record(owed) => Owed::undo(owed).await,)*
                }
            }

            async fn remains(&self) -> Result<bool, UndoError> {
                match self {
                    $(Self::$variant(owed) => owed.remains().await,)*
                    $(Self::$record(owed) => Owed::remains(owed).await,)*
                }
            }

            fn claims(&self, host: &str) -> Vec<Claim> {
                match self {
                    $(Self::$variant(owed) => owed.claims(host),)*
                    $(Self::$record(owed) => Owed::claims(owed, host),)*
                }
            }

            fn tier(&self) -> Tier {
                match self {
                    $(Self::$variant(owed) => owed.tier(),)*
                    $(Self::$record(owed) => Owed::tier(owed),)*
                }
            }

            fn by_hand(&self) -> String {
                match self {
                    $(Self::$variant(owed) => owed.by_hand(),)*
                    $(Self::$record(owed) => Owed::by_hand(owed),)*
                }
            }
        }
    };
}

kinds! {
    Kill: kill::Kill, kill::Killed;
    Pause: pause::Pause, pause::Stopped;
    Container: container::Container, container::Contained;
    DiskFill: disk_fill::DiskFill, disk_fill::Filled;
    InodeFill: inode_fill::InodeFill, inode_fill::Taken;
    DiskSlow: disk_slow::DiskSlow, gated::Gated;
    DiskError: disk_error::DiskError, gated::Gated;
    DiskReadonly: disk_readonly::DiskReadonly, disk_readonly::Readonly;
    Io: io::Io, io::Churning;
    IoLimit: io_limit::IoLimit, fenced::Fenced;
    Cpu: cpu::Cpu, cpu::Burning;
    Memory: memory::Memory, memory::Hoarded;
    MemoryLimit: memory_limit::MemoryLimit, fenced::Fenced;
    Fds: fds::Fds, fds::Lowered;
    Starve: starve::Starve, fenced::Fenced;
    Threads: threads::Threads, fenced::Fenced;
    Clock: clock::Clock, clock::Mistold;
    Freeze: freeze::Freeze, freeze::Frozen;
    Unit: unit::Unit, unit::Handled;
    Exec: exec::Exec, exec::Ran;
    Latency: latency::Latency, latency::Slowed;
    Partition: partition::Partition, traffic::Queued;
    Loss: loss::Loss, traffic::Queued;
    Duplicate: duplicate::Duplicate, traffic::Queued;
    Corrupt: corrupt::Corrupt, traffic::Queued;
    Reorder: reorder::Reorder, traffic::Queued;
    Reset: reset::Reset, reset::Cut;
    Http: http::Http, http::Intercepted;
    Dns: dns::Dns, dns::Misled;
    Bandwidth: bandwidth::Bandwidth, traffic::Queued;
    + records {
        Service: crate::hands::service::Started;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_named_and_moved_makes_an_effect_a_mismatch() {
        let said = |effect: fn(String) -> Effect| effect("delayed".to_owned());
        let seen = |effect: fn(String) -> Effect| effect("still".to_owned());
        let joined = "delayed; not named: still".to_owned();
        let (confirmed, mismatch, unknown) = (Effect::Confirmed, Effect::Mismatch, Effect::Unverifiable);
        assert_eq!(said(confirmed).and_spared(None), Effect::Confirmed("delayed".to_owned()));
        assert_eq!(said(confirmed).and_spared(Some(seen(confirmed))), Effect::Confirmed(joined.clone()));
        assert_eq!(said(confirmed).and_spared(Some(seen(mismatch))), Effect::Mismatch(joined.clone()));
        assert_eq!(said(confirmed).and_spared(Some(seen(unknown))), Effect::Confirmed(joined.clone()));
        assert_eq!(said(mismatch).and_spared(Some(seen(confirmed))), Effect::Mismatch(joined.clone()));
        assert_eq!(said(unknown).and_spared(Some(seen(confirmed))), Effect::Unverifiable(joined));
    }
}
