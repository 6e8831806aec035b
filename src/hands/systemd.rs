//! What systemd is asked to do with its units, and what it says of them, by its own bus interface
//! (org.freedesktop.systemd1(5)).
//!
//! It is reached by the message bus of the system. Its private socket, which `systemctl` uses as root, would need no
//! bus; but there systemd signs its answers with a name that the D-Bus specification forbids, and our library with it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zbus::{Connection, OwnedVariant, Variant};

use crate::base::clock::since_boot;

const NAME: &str = "org.freedesktop.systemd1";
const SYSTEMD: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// The message bus of the system (D-Bus specification, "Well-known Message Bus Instances").
const BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// There wherever systemd is the init system (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// One answer may take so long.
const ANSWER: Duration = Duration::from_secs(5);
/// A unit may take so long until nothing is on its way with it.
const SETTLING: Duration = Duration::from_secs(25);
/// How long apart a unit is looked at meanwhile.
const BETWEEN: Duration = Duration::from_millis(10);

/// Why systemd did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Another init system, or none, as in most containers.
    #[error("systemd does not run this host: there is no {BOOTED}")]
    NotHere,
    /// It cannot be spoken to.
    #[error("systemd does not answer at {at}: {why}")]
    Silent {
        /// Where.
        at: String,
        /// What was said.
        why: String,
    },
    /// It said no.
    #[error("systemd, asked for {asked}: {why}")]
    Refused {
        /// What for.
        asked: String,
        /// What it said.
        why: String,
    },
    /// It takes too long.
    #[error("{unit} is still {state} after {} s", SETTLING.as_secs())]
    Unsettled {
        /// Which unit.
        unit: String,
        /// How it stands.
        state: String,
    },
}

/// Where systemd is spoken to; written down, so that whoever undoes speaks to the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address(String);

impl Address {
    /// Where it is to be found here: at `DBUS_SYSTEM_BUS_ADDRESS`, or the usual place of the bus.
    ///
    /// # Errors
    /// When it does not run here.
    pub fn here() -> Result<Self, SystemdError> {
        if let Ok(address) = std::env::var("DBUS_SYSTEM_BUS_ADDRESS") {
            return Ok(Self(address));
        }
        if Path::new(BOOTED).is_dir() { Ok(Self(BUS.to_owned())) } else { Err(SystemdError::NotHere) }
    }
}

/// How a unit stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether its file was understood: `loaded`, `not-found`, `masked`.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active: String,
    /// `running`, `frozen`, or on the way to either; empty where systemd knows no freezer (before version 246).
    pub freezer: String,
    /// Which of its lives this is, as systemd numbers them; empty before the first, and once systemd forgot it.
    pub invocation: String,
    /// The process that it stands and falls with; 0 when there is none.
    pub main_pid: u32,
    /// The job that is on its way with it; 0 when there is none.
    pub job: u32,
    /// Whether somebody may ask for a start and a stop.
    pub by_hand: bool,
    /// Whether it was made on the fly, and is forgotten once it stops.
    pub transient: bool,
    /// Whether its file changed since systemd read it.
    pub stale: bool,
    /// The units that start it when something happens: sockets, timers, paths.
    pub triggered_by: Vec<String>,
    /// The units that stop when it stops (systemd.unit(5): Requires=, BindsTo=, PartOf=, PropagatesStopTo=).
    pub takes_along: Vec<String>,
}

impl Standing {
    /// Whether it runs.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading" | "refreshing")
    }

    /// Whether it stands still, or soon will.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(self.freezer.as_str(), "frozen" | "freezing" | "frozen-by-parent" | "freezing-by-parent")
    }

    /// Whether nothing is on its way with it.
    fn is_settled(&self) -> bool {
        self.job == 0 && !matches!(self.active.as_str(), "activating" | "deactivating")
    }
}

/// systemd, spoken to.
#[derive(Debug)]
pub struct Systemd {
    bus: Connection,
}

impl Systemd {
    /// Reaches it.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn at(address: &Address) -> Result<Self, SystemdError> {
        let silent = |why: String| SystemdError::Silent { at: address.0.clone(), why };
        let builder = zbus::connection::Builder::address(address.0.as_str());
        match tokio::time::timeout(ANSWER, builder.method_timeout(ANSWER).build()).await {
            Ok(Ok(bus)) => Ok(Self { bus }),
            Ok(Err(why)) => Err(silent(why.to_string())),
            Err(_) => Err(silent(format!("no greeting within {} s", ANSWER.as_secs()))),
        }
    }

    async fn ask<A, R>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        asked: &str,
        arguments: &A,
    ) -> Result<R, SystemdError>
    where
        A: Serialize + zbus::DynamicType,
        R: serde::de::DeserializeOwned + zbus::Type,
    {
        let refused = |why: String| SystemdError::Refused { asked: format!("{method} {asked}"), why };
        let answer = self.bus.call_method(Some(NAME), path, Some(interface), method, arguments).await;
        let answer = answer.map_err(|why| refused(why.to_string()))?;
        answer.body().deserialize().map_err(|why| refused(format!("an answer nobody understands: {why}")))
    }

    async fn order(&self, method: &str, unit: &str, mode: &str) -> Result<(), SystemdError> {
        let job = self.ask(SYSTEMD, MANAGER, method, unit, &(unit, mode)).await;
        job.map(|_: zbus::OwnedObjectPath| ())
    }

    /// How a unit stands.
    ///
    /// # Errors
    /// When systemd cannot say.
    pub async fn look(&self, unit: &str) -> Result<Standing, SystemdError> {
        let path: zbus::OwnedObjectPath = self.ask(SYSTEMD, MANAGER, "LoadUnit", unit, &(unit,)).await?;
        let all: HashMap<String, OwnedVariant> =
            self.ask(path.as_str(), PROPERTIES, "GetAll", unit, &(UNIT,)).await?;
        let mut standing = Standing {
            load: text(&all, "LoadState"),
            active: text(&all, "ActiveState"),
            freezer: text(&all, "FreezerState"),
            invocation: hex(&all, "InvocationID"),
            main_pid: 0,
            job: job(&all),
            by_hand: truth(&all, "CanStart") && truth(&all, "CanStop"),
            transient: truth(&all, "Transient"),
            stale: truth(&all, "NeedDaemonReload"),
            triggered_by: names(&all, "TriggeredBy"),
            takes_along: ["RequiredBy", "BoundBy", "ConsistsOf", "PropagatesStopTo"]
                .iter()
                .flat_map(|property| names(&all, property))
                .collect(),
        };
        standing.takes_along.sort_unstable();
        standing.takes_along.dedup();
        if unit.ends_with(".service") && standing.load == "loaded" {
            let pid: OwnedVariant =
                self.ask(path.as_str(), PROPERTIES, "Get", unit, &(SERVICE, "MainPID")).await?;
            standing.main_pid = if let Variant::U32(pid) = *pid { pid } else { 0 };
        }
        Ok(standing)
    }

    /// How a unit stands once nothing is on its way with it.
    ///
    /// # Errors
    /// When systemd cannot say, or it takes too long.
    pub async fn settled(&self, unit: &str) -> Result<Standing, SystemdError> {
        let since = since_boot();
        loop {
            let standing = self.look(unit).await?;
            if standing.is_settled() {
                return Ok(standing);
            }
            if since_boot().saturating_sub(since) > SETTLING {
                return Err(SystemdError::Unsettled { unit: unit.to_owned(), state: standing.active });
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    /// Asks for a stop, unless another job is on its way with the unit.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn stop(&self, unit: &str) -> Result<(), SystemdError> {
        self.order("StopUnit", unit, "fail").await
    }

    /// Asks for a start, unless another job is on its way with the unit.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn start(&self, unit: &str) -> Result<(), SystemdError> {
        self.order("StartUnit", unit, "fail").await
    }

    /// Asks for a restart, if it runs: one that somebody stopped meanwhile stays stopped.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn restart(&self, unit: &str) -> Result<(), SystemdError> {
        self.order("TryRestartUnit", unit, "fail").await
    }

    /// Sends a signal to the unit's main process, or to all of them.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn kill(&self, unit: &str, all: bool, signal: i32) -> Result<(), SystemdError> {
        let whom = if all { "all" } else { "main" };
        self.ask(SYSTEMD, MANAGER, "KillUnit", unit, &(unit, whom, signal)).await
    }

    /// Freezes the unit: its processes stand still.
    ///
    /// # Errors
    /// When systemd refuses, as it does where there is no cgroup v2.
    pub async fn freeze(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(SYSTEMD, MANAGER, "FreezeUnit", unit, &(unit,)).await
    }

    /// Thaws the unit.
    ///
    /// # Errors
    /// When systemd refuses.
    pub async fn thaw(&self, unit: &str) -> Result<(), SystemdError> {
        self.ask(SYSTEMD, MANAGER, "ThawUnit", unit, &(unit,)).await
    }
}

type Properties = HashMap<String, OwnedVariant>;

fn text(all: &Properties, name: &str) -> String {
    match all.get(name).map(|value| &**value) {
        Some(Variant::Str(text)) => text.as_str().to_owned(),
        _ => String::new(),
    }
}

fn truth(all: &Properties, name: &str) -> bool {
    matches!(all.get(name).map(|value| &**value), Some(Variant::Bool(true)))
}

fn names(all: &Properties, name: &str) -> Vec<String> {
    let list = all.get(name).and_then(|value| value.try_clone().ok());
    list.and_then(|value| Vec::<String>::try_from(value).ok()).unwrap_or_default()
}

fn hex(all: &Properties, name: &str) -> String {
    let bytes = all.get(name).and_then(|value| value.try_clone().ok());
    let bytes = bytes.and_then(|value| Vec::<u8>::try_from(value).ok()).unwrap_or_default();
    // Sixteen noughts stand for none.
    match <[u8; 16]>::try_from(bytes).map(u128::from_be_bytes) {
        Ok(number) if number != 0 => format!("{number:032x}"),
        _ => String::new(),
    }
}

fn job(all: &Properties) -> u32 {
    match all.get("Job").map(|value| &**value) {
        Some(Variant::Structure(pair)) => match pair.fields().first() {
            Some(Variant::U32(number)) => *number,
            _ => 0,
        },
        _ => 0,
    }
}
