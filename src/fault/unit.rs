//! `unit`: what systemd does with a unit: stop, restart, kill or freeze it.

use serde::{Deserialize, Serialize};

use super::kill::Signal;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::file::{Mistakes, Node, Read, Value};
use crate::hands::systemd::{Address, Standing, Systemd, SystemdError};
use crate::host::process::{self, Identity};
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// Killed processes are waited for so long.
const DYING: std::time::Duration = std::time::Duration::from_secs(5);

crate::kind! {
    /// Has systemd stop, restart, kill or freeze a unit, as an operator would.
    ///
    /// `stop` lasts for `for`, and then the unit is started again; if somebody else starts, stops or masks it meanwhile, it is
    /// theirs and left alone. `freeze` lasts too: all its processes stand still, until it is thawed (cgroup v2). `restart`
    /// and `kill` are over when done: what systemd makes of them, by `Restart=` and its limits, is part of what is tested.
    ///
    /// Refused: a unit that is not active, one that could not be started again (transient, masked, changed on disk), the
    /// unit that brownout runs in, and systemd's own. A unit that would go down with it, because it requires it, must
    /// be named in `with`.
    pub struct Unit("unit") {
        /// `"stop"`, `"restart"`, `"kill"` or `"freeze"`.
        action: Action = required,
        /// For `kill`: the signal.
        signal: Signal = "KILL",
        /// For `kill`: `"main"`, the process that systemd watches, or `"all"` of them.
        whom: Whom = "main",
        /// The other units that go down with it: each must be named, and comes back with it.
        with: Vec<String> = optional,
    }
}

/// A word out of a few.
macro_rules! words {
    ($name:ident, $called:literal, $($variant:ident: $word:literal),*) => {
        #[doc = concat!("The value of a ", $called, ".")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`.")] $variant),*
        }

        impl Read for $name {
            const NAME: &'static str = $called;

            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                let known = [$($word),*].map(|word| format!("\"{word}\"")).join(", ");
                match &node.value {
                    $(Value::Text(text) if text == $word => return Some(Self::$variant),)*
                    Value::Text(text) => {
                        mistakes.error(node.place, format!("`{text}` is no {}", $called), format!("one of {known}"));
                    }
                    other => {
                        let what = format!("expected a {}, found {}", $called, other.called());
                        mistakes.error(node.place, what, format!("one of {known}"));
                    }
                }
                None
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"enum": [$($word),*]})
            }
        }
    };
}
words!(Action, "unit action", Stop: "stop", Restart: "restart", Kill: "kill", Freeze: "freeze");
words!(Whom, "choice of processes", Main: "main", All: "all");

/// What was asked of systemd, and how the units stood before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handled {
    at: Address,
    boot: String,
    action: Action,
    units: Vec<Was>,
    processes: Vec<Identity>,
    triggered_by: Vec<String>,
}

/// How a unit stood before: active, and in this life.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Was {
    name: String,
    active: String,
    main_pid: u32,
    invocation: String,
}

impl Was {
    fn of(name: &str, standing: &Standing) -> Self {
        Self {
            name: name.to_owned(),
            active: standing.active.clone(),
            main_pid: standing.main_pid,
            invocation: standing.invocation.clone(),
        }
    }

    /// Whether it is down as we left it: in the life that we ended, which systemd may have forgotten by now. In another
    /// life it was started by somebody; but if that failed, or our own start did, it is not back.
    fn is_down(&self, now: &Standing) -> bool {
        let ours = now.invocation.is_empty() || now.invocation == self.invocation;
        now.load == "loaded" && (now.active == "failed" || now.active == "inactive" && ours)
    }

    /// Whether it stands still, in the life that we froze.
    fn is_frozen(&self, now: &Standing) -> bool {
        now.is_frozen() && now.invocation == self.invocation
    }
}

impl Unit {
    async fn systemd(site: &Site) -> Result<(Address, Systemd), Refusal> {
        let refuse = |why: &SystemdError| site.refuse(why.to_string(), remedy(why));
        let at = Address::here().map_err(|why| refuse(&why))?;
        let systemd = Systemd::at(&at).await.map_err(|why| refuse(&why))?;
        Ok((at, systemd))
    }

    /// Whether this unit may be asked for: how it stands must leave a way back.
    fn judge(&self, site: &Site, name: &str, now: &Standing) -> Result<(), Refusal> {
        let refuse = |why: String, remedy: &str| Err(site.refuse(why, remedy));
        if let Some(why) = kept(name) {
            return refuse(
                format!("{name} is left alone: {why}"),
                "name another unit; if it must be this one, use `exec` with an undo of your own",
            );
        }
        if now.load != "loaded" {
            return refuse(
                format!("there is no unit {name} to be had here ({})", now.load),
                "`systemctl list-units` shows those there are",
            );
        }
        if now.job != 0 {
            return refuse(
                format!("systemd is busy with {name}: it is {}", now.active),
                "try again when `systemctl list-jobs` is empty",
            );
        }
        if !now.is_active() {
            return refuse(
                format!("{name} is {}, so there is nothing to take away", now.active),
                "start it first",
            );
        }
        if now.is_frozen() {
            return refuse(format!("{name} is frozen already"), "`systemctl thaw` it first");
        }
        if matches!(self.action, Action::Kill | Action::Freeze) {
            return Ok(());
        }
        if now.transient || !now.by_hand {
            return refuse(
                format!("{name} could not be started again once it is stopped"),
                "`kill` and `freeze` leave it there",
            );
        }
        if now.stale {
            return refuse(
                format!(
                    "the file of {name} has changed since systemd read it, so it would not come back as it was"
                ),
                "`systemctl daemon-reload`, and restart it",
            );
        }
        Ok(())
    }

    /// All that goes down with a unit, itself first; each looked at and judged.
    async fn all(
        &self,
        site: &Site,
        systemd: &Systemd,
        name: &str,
    ) -> Result<Vec<(String, Standing)>, Refusal> {
        let refuse = |why: &SystemdError| site.refuse(why.to_string(), remedy(why));
        let first = systemd.look(name).await.map_err(|why| refuse(&why))?;
        self.judge(site, name, &first)?;
        let mut all = vec![(name.to_owned(), first)];
        if matches!(self.action, Action::Kill | Action::Freeze) {
            return Ok(all);
        }
        let mut at = 0;
        while at < all.len() {
            let (because, next) = (all[at].0.clone(), all[at].1.takes_along.clone());
            at += 1;
            for other in next {
                if all.iter().any(|(known, _)| *known == other) {
                    continue;
                }
                let standing = systemd.look(&other).await.map_err(|why| refuse(&why))?;
                if !standing.is_active() {
                    continue;
                }
                if !self.with.iter().flatten().any(|named| *named == other) {
                    return Err(site.refuse(
                        format!("{other} would go down with {because}, which it requires"),
                        &format!("if that is meant, name it: `with = [\"{other}\"]`"),
                    ));
                }
                self.judge(site, &other, &standing)?;
                all.push((other, standing));
            }
        }
        Ok(all)
    }
}

fn remedy(why: &SystemdError) -> &'static str {
    match why {
        SystemdError::NotHere => "find its processes by `exe` or `listen`, and use `kill` or `pause`",
        _ => "run as root, where systemd can be reached",
    }
}

/// Why a unit is always left alone, if it is. Those whose processes a host cannot do without are known by these.
fn kept(name: &str) -> Option<&'static str> {
    if name.starts_with("systemd-") || name == "init.scope" {
        return Some("it belongs to the init system");
    }
    if matches!(name, "ssh.socket" | "sshd.socket" | "dbus.socket" | "docker.socket" | "containerd.service") {
        return Some("a host cannot do without it");
    }
    // Ourselves, and whoever started us: the login session, the service, and the slices that they are in.
    let mut next = Some(std::process::id() as i32);
    while let Some(pid) = next.filter(|pid| *pid > 1) {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if process::units(&groups).any(|unit| unit == name) {
            return Some("brownout itself runs in it");
        }
        next = process::parent(pid);
    }
    None
}

impl Fault for Unit {
    type Owed = Handled;
    const LASTING: bool = true;
    const BY_FIELDS: bool = true;
    const AIM: Aim = Aim::Unit;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.stop-api.unit]
target = { unit = "payments-api.service" }
action = "stop"                  # and started again after `for`
for    = "2m"
"#;

    async fn survey(&self, site: &Site) -> Result<Handled, Refusal> {
        let Some(name) = &site.target.unit else {
            return Err(site.refuse("it names no unit".to_owned(), "such as { unit = \"nginx.service\" }"));
        };
        if let [one, ..] = site.target.left_alone.as_slice() {
            return Err(site.refuse(
                format!("{name} has what a host cannot do without: {one}"),
                "name another unit, or name this one in [blast_radius] `also`",
            ));
        }
        let (at, systemd) = Self::systemd(site).await?;
        let all = self.all(site, &systemd, name).await?;
        Ok(Handled {
            at,
            boot: process::boot_id(),
            action: self.action,
            triggered_by: all.first().map(|(_, first)| first.triggered_by.clone()).unwrap_or_default(),
            units: all.iter().map(|(name, standing)| Was::of(name, standing)).collect(),
            processes: site.identities(),
        })
    }

    async fn inject(&self, _: &Site, owed: &Handled, _: &mut Held) -> Result<(), FaultError> {
        let failed = |why: SystemdError| FaultError(why.to_string());
        let Some(first) = owed.units.first() else { return Ok(()) };
        let systemd = Systemd::at(&owed.at).await.map_err(failed)?;
        match self.action {
            Action::Stop => {
                systemd.stop(&first.name).await.map_err(failed)?;
                for unit in &owed.units {
                    systemd.settled(&unit.name).await.map_err(failed)?;
                }
            }
            Action::Restart => {
                systemd.restart(&first.name).await.map_err(failed)?;
                systemd.settled(&first.name).await.map_err(failed)?;
            }
            Action::Kill => {
                let all = self.whom == Whom::All;
                systemd.kill(&first.name, all, self.signal.0 as i32).await.map_err(failed)?;
            }
            Action::Freeze => systemd.freeze(&first.name).await.map_err(failed)?,
        }
        Ok(())
    }

    async fn verify(&self, site: &Site, owed: &Handled, _: &Held) -> Effect {
        let Some(first) = owed.units.first() else { return Effect::Mismatch("it has no unit".to_owned()) };
        match self.seen(site, owed, first).await {
            Ok(effect) => effect,
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    fn lasts(&self) -> bool {
        matches!(self.action, Action::Stop | Action::Freeze)
    }

    fn mechanism(&self, owed: &Handled) -> Option<String> {
        let others: Vec<&str> = owed.units.iter().skip(1).map(|unit| unit.name.as_str()).collect();
        let mut said = match self.action {
            Action::Stop => "systemd, which also starts it again",
            Action::Freeze => "systemd and the freezer of its cgroup",
            Action::Restart | Action::Kill => "systemd",
        }
        .to_owned();
        if !others.is_empty() {
            said = format!("{said}; with it goes {}", others.join(", "));
        }
        if self.action == Action::Stop && !owed.triggered_by.is_empty() {
            said = format!("{said}; {} may start it earlier", owed.triggered_by.join(", "));
        }
        Some(said)
    }

    fn harm(&self, site: &Site) -> String {
        let name = site.target.unit.as_deref().unwrap_or("a unit");
        match (self.action, self.whom) {
            (Action::Stop, _) => format!("stops {name}"),
            (Action::Restart, _) => format!("restarts {name}"),
            (Action::Freeze, _) => format!("freezes {name}"),
            (Action::Kill, Whom::Main) => format!("sends {} to the main process of {name}", self.signal.0),
            (Action::Kill, Whom::All) => format!("sends {} to all processes of {name}", self.signal.0),
        }
    }

    fn ability(rights: &Rights) -> Ability {
        match Address::here() {
            Err(why) => Ability::no(why.to_string(), remedy(&why)),
            Ok(_) if rights.uid == 0 => Ability::yes("services, sockets, timers", Some(Tier::Watchdog)),
            Ok(_) => Ability::limited(
                "what polkit lets you, unasked",
                Some(Tier::Watchdog),
                "root may stop and start any unit",
            ),
        }
    }
}

impl Unit {
    /// What systemd and the processes say after the injection.
    async fn seen(&self, site: &Site, owed: &Handled, first: &Was) -> Result<Effect, SystemdError> {
        let systemd = Systemd::at(&owed.at).await?;
        let total = site.target.processes.len();
        let mut gone = 0;
        if self.action == Action::Kill && self.signal.0 == nix::sys::signal::Signal::SIGKILL {
            for process in &site.target.processes {
                let struck = self.whom == Whom::All || process.identity().pid == first.main_pid as i32;
                gone += usize::from(struck && process.wait_gone(DYING).await);
            }
        } else {
            gone = site.target.processes.iter().filter(|process| !process.is_alive()).count();
        }
        let now = systemd.look(&first.name).await?;
        let figures = format!(
            "{} was {} with process {}, is {}{}; {gone} of {total} processes gone",
            first.name,
            first.active,
            first.main_pid,
            if now.is_frozen() { now.freezer.as_str() } else { now.active.as_str() },
            if now.main_pid == 0 { String::new() } else { format!(" with process {}", now.main_pid) },
        );
        let as_asked = match self.action {
            Action::Stop => {
                let mut down = gone == total;
                for unit in &owed.units {
                    down &= unit.is_down(&systemd.look(&unit.name).await?);
                }
                down
            }
            Action::Restart => now.is_active() && now.invocation != first.invocation,
            Action::Freeze => first.is_frozen(&now),
            Action::Kill if self.signal.0 != nix::sys::signal::Signal::SIGKILL => {
                return Ok(Effect::Unverifiable(format!("{} sent; {figures}", self.signal.0)));
            }
            Action::Kill => gone == if self.whom == Whom::All { total } else { 1 },
        };
        Ok(if as_asked { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) })
    }
}

impl Handled {
    fn lasts(&self) -> bool {
        matches!(self.action, Action::Stop | Action::Freeze)
    }

    /// Whether there is something to take back: after another boot, what runs is what that boot started.
    fn is_owed(&self) -> bool {
        self.lasts() && self.boot == process::boot_id()
    }
}

impl Owed for Handled {
    async fn undo(&self) -> Result<(), UndoError> {
        if !self.is_owed() {
            return Ok(());
        }
        let failed = |why: SystemdError| UndoError(why.to_string());
        let systemd = Systemd::at(&self.at).await.map_err(failed)?;
        for unit in &self.units {
            if self.action == Action::Freeze {
                if unit.is_frozen(&systemd.look(&unit.name).await.map_err(failed)?) {
                    systemd.thaw(&unit.name).await.map_err(failed)?;
                }
                continue;
            }
            // Our stop may still be on its way: systemd serves in turn, and our greeting alone takes several.
            let now = systemd.settled(&unit.name).await.map_err(failed)?;
            if !unit.is_down(&now) {
                continue;
            }
            systemd.start(&unit.name).await.map_err(failed)?;
            let now = systemd.settled(&unit.name).await.map_err(failed)?;
            if !now.is_active() {
                return Err(UndoError(format!("{} was started and is {}", unit.name, now.active)));
            }
        }
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        if !self.is_owed() {
            return Ok(false);
        }
        let failed = |why: SystemdError| UndoError(why.to_string());
        let systemd = Systemd::at(&self.at).await.map_err(failed)?;
        for unit in &self.units {
            let harmed = if self.action == Action::Freeze {
                unit.is_frozen(&systemd.look(&unit.name).await.map_err(failed)?)
            } else {
                unit.is_down(&systemd.settled(&unit.name).await.map_err(failed)?)
            };
            if harmed {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let units = self.units.iter().map(|unit| Claim::exclusive(host, format!("unit {}", unit.name)));
        units.chain(super::process_claims(host, &self.processes)).collect()
    }

    fn tier(&self) -> Tier {
        if self.lasts() { Tier::Watchdog } else { Tier::NotReversible }
    }

    fn by_hand(&self) -> String {
        let names: Vec<&str> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        match self.action {
            Action::Stop => format!("systemctl start {}", names.join(" ")),
            Action::Freeze => format!("systemctl thaw {}", names.join(" ")),
            Action::Restart | Action::Kill => {
                "not reversible: systemd restarts it, if its `Restart=` says so".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(active: &str, invocation: &str) -> Standing {
        Standing {
            load: "loaded".to_owned(),
            active: active.to_owned(),
            invocation: invocation.to_owned(),
            ..Standing::default()
        }
    }

    #[test]
    fn a_unit_is_down_as_we_left_it_unless_somebody_started_it_since() {
        let was = Was {
            name: "a".to_owned(),
            active: "active".to_owned(),
            main_pid: 7,
            invocation: "1".to_owned(),
        };
        assert!(was.is_down(&now("inactive", "1")), "our stop");
        assert!(was.is_down(&now("inactive", "")), "our stop, and systemd forgot its past");
        assert!(was.is_down(&now("failed", "2")), "it was started, and did not come up");
        assert!(!was.is_down(&now("inactive", "2")), "somebody started it, and stopped it again");
        assert!(!was.is_down(&now("active", "1")) && !was.is_down(&now("active", "2")));
        assert!(!was.is_down(&Standing { load: "masked".to_owned(), ..now("inactive", "1") }));
    }

    #[test]
    fn only_the_life_that_was_frozen_is_thawed() {
        let was = Was {
            name: "a".to_owned(),
            active: "active".to_owned(),
            main_pid: 7,
            invocation: "1".to_owned(),
        };
        let frozen = |invocation| Standing { freezer: "frozen".to_owned(), ..now("active", invocation) };
        assert!(
            was.is_frozen(&frozen("1"))
                && !was.is_frozen(&frozen("2"))
                && !was.is_frozen(&now("active", "1"))
        );
    }

    #[test]
    fn systemd_itself_is_always_left_alone() {
        for name in ["systemd-logind.service", "init.scope", "ssh.socket"] {
            assert!(kept(name).is_some(), "{name}");
        }
        assert_eq!(kept("nginx.service"), None);
    }
}
