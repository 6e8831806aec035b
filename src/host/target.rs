//! Who or what may be hurt, and finding it on this host.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rand::seq::IndexedRandom;
use regex::Regex;

use super::container::{self, Container, Trouble, Which};
use super::network::Network;
use super::process::{self, Process, ProcessError, Wanted};
use super::socket::listening;
use crate::base::{Dice, Percent};

/// How a target is named in a file.
#[derive(Debug, Clone)]
pub enum Selector {
    /// The process whose number is in this file.
    PidFile(PathBuf),
    /// Processes running this program: a path, or the last part of one.
    Exe(String),
    /// Processes whose command line matches.
    Cmdline(Regex),
    /// The process that listens on this TCP port.
    Listen(u16),
    /// Processes of this cgroup, as /proc/PID/cgroup writes it.
    Cgroup(String),
    /// Processes of this user.
    Uid(u32),
    /// A unit of systemd and its processes, by its full name.
    Unit(String),
    /// A service that the experiment itself starts, by its name.
    Service(String),
    /// Traffic to this address; every port when none is said.
    Address(IpAddr, Option<u16>),
    /// Traffic to this port, wherever.
    Port(u16),
    /// A directory: the file system it is on.
    Path(PathBuf),
    /// Containers: the processes in them.
    Container(Which),
    /// A directory of a container: the file system it is on.
    Inside(Which, PathBuf),
    /// Traffic to an endpoint in another network than ours; all that goes in and out of it when it is everywhere.
    Netns(Netns, Endpoint),
}

/// How a network namespace is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Netns {
    /// By the file it is bound to: a path, or a name in /run/netns (ip-netns(8)).
    Bound(String),
    /// By the container whose it is.
    Of(Which),
}

impl Netns {
    /// Reads `blue`, `/run/docker/netns/3f2a` or `container:web`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(container) = text.strip_prefix("container:") {
            return Which::parse(container).map(Self::Of);
        }
        if text.is_empty() || text.contains(char::is_whitespace) {
            return Err(format!("`{text}` is no name of a network namespace"));
        }
        Ok(Self::Bound(text.to_owned()))
    }

    /// Finds it on this host. Blocks for as long as container runtimes take to answer.
    ///
    /// # Errors
    /// When it is not there, or several fit.
    pub fn find(&self) -> Result<Network, NotFound> {
        match self {
            Self::Bound(name) => {
                let path =
                    if name.contains('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
                Network::at(&path, self.to_string()).map_err(|why| NotFound {
                    why: format!("{}: {why}", path.display()),
                    remedy: "`ip netns` lists the named ones; or give a path such as /proc/PID/ns/net"
                        .to_owned(),
                })
            }
            Self::Of(which) => match container::find(which)?.as_slice() {
                [one] => network_of(
                    &Process::of_pid(one.pid).map_err(|why| gone(&why))?,
                    &format!("container {}", one.name),
                ),
                several => Err(NotFound {
                    why: format!("{} containers fit {which}, each with a network of its own", several.len()),
                    remedy: "name one of them".to_owned(),
                }),
            },
        }
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bound(name) => write!(f, "netns {name}"),
            Self::Of(which) => write!(f, "the network of container {which}"),
        }
    }
}

fn gone(why: &ProcessError) -> NotFound {
    NotFound { why: why.to_string(), remedy: "is the target there?".to_owned() }
}

fn network_of(process: &Process, whose: &str) -> Result<Network, NotFound> {
    Network::of(process, whose).map_err(|why| NotFound {
        why: format!("the network of {whose}: {why}"),
        remedy: "run as root".to_owned(),
    })
}

/// How many of the processes found are hurt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pick {
    /// So many, drawn from the seed.
    Count(u32),
    /// Such a share, drawn from the seed, rounded up.
    Share(Percent),
    /// The one that started first.
    Oldest,
    /// All of them.
    All,
}

/// A target as it is asked for.
#[derive(Debug, Clone)]
pub struct Target {
    /// How it is found.
    pub selector: Selector,
    /// How many of those found.
    pub pick: Pick,
    /// The host it is on; the empty name is this machine.
    pub host: String,
}

/// Some traffic: where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// The address; any when absent.
    pub address: Option<IpAddr>,
    /// The port; any when absent.
    pub port: Option<u16>,
}

impl Endpoint {
    /// Any traffic.
    pub const ANYWHERE: Self = Self { address: None, port: None };

    /// Whether an end of a connection is one of these.
    #[must_use]
    pub fn has(&self, end: SocketAddr) -> bool {
        self.address.is_none_or(|address| address == end.ip())
            && self.port.is_none_or(|port| port == end.port())
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        Self { address: Some(at.ip().to_canonical()), port: Some(at.port()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.port) {
            (Some(address), Some(port)) => write!(f, "{}", SocketAddr::new(address, port)),
            (Some(address), None) => write!(f, "{address}"),
            (None, Some(port)) => write!(f, ":{port}"),
            (None, None) => f.write_str("everywhere"),
        }
    }
}

/// A target as it was found on this host.
#[derive(Debug, Default)]
pub struct Found {
    /// What a person calls it.
    pub said: String,
    /// The processes, drawn and pinned; empty for endpoints and places.
    pub processes: Vec<Process>,
    /// The endpoints: those named, or those on which the processes listen.
    pub endpoints: Vec<Endpoint>,
    /// The place.
    pub place: Option<PathBuf>,
    /// The unit of systemd.
    pub unit: Option<String>,
    /// The network, when one was asked for.
    pub netns: Option<Network>,
    /// The containers drawn, when containers were asked for.
    pub containers: Vec<Container>,
    /// Who fits and is left alone, in a few words each.
    pub left_alone: Vec<String>,
}

impl Found {
    /// The numbers of its processes, each pinned.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(|process| process.identity().pid).collect()
    }

    /// How many targets they are: a container is one, whatever it consists of.
    #[must_use]
    pub fn count(&self) -> usize {
        if self.containers.is_empty() { self.processes.len() } else { self.containers.len() }
    }

    /// The network it is in: the one that was asked for, or that of its processes; that of a container's main process
    /// is the container's. `None` for endpoints and places, which are in whichever.
    ///
    /// # Errors
    /// When its processes are in several.
    pub fn network(&self) -> Result<Option<Network>, NotFound> {
        let mains: Vec<i32> = self.containers.iter().map(|container| container.pid).collect();
        let mut found = self.netns.clone();
        for process in &self.processes {
            let pid = process.identity().pid;
            if !mains.is_empty() && !mains.contains(&pid) {
                continue;
            }
            let whose = if mains.is_empty() { format!("process {pid}") } else { self.said.clone() };
            // One that we may not look at is nowhere we could go.
            let Ok(network) = Network::of(process, &whose) else { continue };
            match &found {
                Some(first) if first.namespace() != network.namespace() => {
                    return Err(NotFound {
                        why: format!("{} is in several networks", self.said),
                        remedy: "name one of them, and give each a fault of its own".to_owned(),
                    });
                }
                Some(_) => {}
                None => found = Some(network),
            }
        }
        Ok(found)
    }

    /// Leaves only the main processes of its containers, if it is containers: one is killed by its main process.
    pub fn only_main(&mut self) {
        let mains: Vec<i32> = self.containers.iter().map(|container| container.pid).collect();
        if !mains.is_empty() {
            self.processes.retain(|process| mains.contains(&process.identity().pid));
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PidFile(path) => write!(f, "pid_file {}", path.display()),
            Self::Exe(name) => write!(f, "exe {name}"),
            Self::Cmdline(pattern) => write!(f, "cmdline {pattern}"),
            Self::Listen(port) => write!(f, "listen {port}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Unit(name) => write!(f, "unit {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Address(address, Some(port)) => {
                write!(f, "address {}", std::net::SocketAddr::new(*address, *port))
            }
            Self::Address(address, None) => write!(f, "address {address}"),
            Self::Port(port) => write!(f, "port {port}"),
            Self::Path(path) => write!(f, "path {}", path.display()),
            Self::Container(which) => write!(f, "container {which}"),
            Self::Inside(which, path) => write!(f, "path {} of container {which}", path.display()),
            Self::Netns(netns, Endpoint::ANYWHERE) => netns.fmt(f),
            Self::Netns(netns, endpoint) => write!(f, "{endpoint} in {netns}"),
        }
    }
}

impl Selector {
    /// Whether it names processes: not an endpoint, nor a place.
    #[must_use]
    pub fn finds_processes(&self) -> bool {
        self.wanted().is_some() || matches!(self, Self::Service(_) | Self::Container(_))
    }

    fn wanted(&self) -> Option<Wanted> {
        Some(match self {
            Self::PidFile(path) => Wanted::PidFile(path.clone()),
            Self::Exe(name) => Wanted::Exe(name.clone()),
            Self::Cmdline(pattern) => Wanted::Cmdline(pattern.clone()),
            Self::Listen(port) => Wanted::Listen(*port),
            Self::Cgroup(path) => Wanted::Cgroup(path.clone()),
            Self::Uid(uid) => Wanted::Uid(*uid),
            Self::Unit(name) => Wanted::Unit(name.clone()),
            Self::Service(_)
            | Self::Address(..)
            | Self::Port(_)
            | Self::Path(_)
            | Self::Container(_)
            | Self::Inside(..)
            | Self::Netns(..) => return None,
        })
    }
}

/// Draws from those found, which are processes oldest first, or containers by name.
#[must_use]
pub fn pick<T>(mut found: Vec<T>, pick: Pick, dice: &Dice, decision: &str) -> Vec<T> {
    let count = match pick {
        Pick::All => return found,
        Pick::Oldest => {
            found.truncate(1);
            return found;
        }
        Pick::Count(count) => count as usize,
        Pick::Share(share) => (found.len() as f64 * share.share()).ceil() as usize,
    };
    let all: Vec<usize> = (0..found.len()).collect();
    let drawn: Vec<usize> = all.choose_multiple(&mut dice.stream(decision), count).copied().collect();
    let mut at = 0;
    found.retain(|_| {
        at += 1;
        drawn.contains(&(at - 1))
    });
    found
}

/// Why a target cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {remedy}")]
pub struct NotFound {
    /// Why.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<Trouble> for NotFound {
    fn from(Trouble { why, remedy }: Trouble) -> Self {
        Self { why, remedy }
    }
}

/// All processes that fit now, oldest first, or container by container; none for endpoints, places, and services of the
/// experiment, which are found by whoever started them.
///
/// # Errors
/// When a pid file cannot be read, or a container cannot be had.
pub fn processes(selector: &Selector) -> Result<Vec<Process>, NotFound> {
    if let Selector::Container(which) = selector {
        let mut found = Vec::new();
        for one in container::find(which)? {
            found.extend(one.processes()?);
        }
        return Ok(found);
    }
    let Some(wanted) = selector.wanted() else { return Ok(Vec::new()) };
    process::find(&wanted).map_err(|why| NotFound {
        why: format!("{selector}: {why}"),
        remedy: "is the target there?".to_owned(),
    })
}

/// Finds a target on this host. A service of the experiment is found by whoever started it: here it has
/// no processes. `guarded` says why a process is left alone, if it is.
///
/// # Errors
/// When a pid file cannot be read, or a container cannot be had.
pub fn find(
    target: &Target,
    dice: &Dice,
    decision: &str,
    guarded: &dyn Fn(&Process) -> Option<&'static str>,
) -> Result<Found, NotFound> {
    let mut found = Found { said: target.selector.to_string(), ..Found::default() };
    if let Selector::Unit(name) = &target.selector {
        found.unit = Some(name.clone());
    }
    match &target.selector {
        Selector::Address(address, port) => {
            found.endpoints.push(Endpoint { address: Some(*address), port: *port });
        }
        Selector::Port(port) => found.endpoints.push(Endpoint { address: None, port: Some(*port) }),
        Selector::Netns(netns, endpoint) => {
            found.endpoints.push(*endpoint);
            found.netns = Some(netns.find()?);
        }
        Selector::Path(path) => found.place = Some(path.clone()),
        Selector::Container(which) => {
            found.containers = pick(container::find(which)?, target.pick, dice, decision);
            for one in &found.containers {
                found.processes.extend(one.processes()?);
            }
            found.endpoints = listening(&found.pids());
        }
        Selector::Inside(which, path) => {
            found.containers = pick(container::find(which)?, target.pick, dice, decision);
            for one in &found.containers {
                one.processes()?;
                found.place = Some(one.place(path)?);
            }
        }
        other => {
            let mut fit = Vec::new();
            for process in processes(other)? {
                match guarded(&process) {
                    None => fit.push(process),
                    Some(why) => {
                        found.left_alone.push(format!("process {}: {why}", process.identity().pid));
                    }
                }
            }
            found.processes = pick(fit, target.pick, dice, decision);
            found.endpoints = listening(&found.pids());
        }
    }
    Ok(found)
}
