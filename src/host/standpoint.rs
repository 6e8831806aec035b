//! Where one looks from: another network of this host, or a container.
//!
//! A socket belongs to the network namespace of the thread that opened it. So sockets are opened there and used from
//! here; names are looked up as they are known there, by sockets that are opened there too.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::container::Which;
use super::network::Network;
use super::target::Netns;

/// A place that one may look from, as a file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standpoint {
    /// A network.
    Network(Netns),
    /// A container: its network and its files.
    Container(Which),
}

impl fmt::Display for Standpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(netns) => netns.fmt(f),
            Self::Container(which) => write!(f, "container {which}"),
        }
    }
}

/// Why one cannot look from there.
#[derive(Debug, thiserror::Error)]
#[error("we cannot look from {from}: {why}")]
pub struct Nowhere {
    from: String,
    why: String,
}

/// A place to look from: found when it is first needed, and again when another has come in its stead, as with a container
/// that was started again.
#[derive(Debug, Clone)]
pub struct Place {
    standpoint: Standpoint,
    found: Arc<Mutex<Option<Network>>>,
}

/// No file of /etc is read further.
const LONGEST: u64 = 1024 * 1024;

impl Place {
    /// The place that is named so. Nothing is looked for yet.
    #[must_use]
    pub fn new(standpoint: Standpoint) -> Self {
        Self { standpoint, found: Arc::default() }
    }

    /// Whether it has files of its own.
    #[must_use]
    pub fn has_files(&self) -> bool {
        matches!(self.standpoint, Standpoint::Container(_))
    }

    /// Does something in its network, on a thread of its own that knows our runtime.
    ///
    /// # Errors
    /// When it is not there, or we may not enter it.
    pub async fn within<T: Send>(&self, work: impl Fn() -> T + Send + Sync) -> Result<T, Nowhere> {
        let runtime = tokio::runtime::Handle::current();
        let work = || {
            let _known = runtime.enter();
            work()
        };
        let known = self.known();
        if let Some(network) = known
            && let Ok(done) = network.within(work)
        {
            return Ok(done);
        }
        self.find().await?.within(work).map_err(|why| self.nowhere(&why))
    }

    /// What leads into its network.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn door(&self) -> Result<File, Nowhere> {
        match self.known().map(|network| network.door()) {
            Some(Ok(door)) => Ok(door),
            _ => self.find().await?.door().map_err(|why| self.nowhere(&why)),
        }
    }

    /// What a file of the folder /etc says there (`ip netns` keeps those of a named network in /etc/netns, ip-netns(8)).
    ///
    /// # Errors
    /// As the kernel says, and when the place is not there.
    pub async fn configuration(&self, name: &str) -> io::Result<Vec<u8>> {
        let ours = Path::new("/etc").join(name);
        if let Standpoint::Network(Netns::Bound(network)) = &self.standpoint {
            let theirs = Path::new("/etc/netns").join(network).join(name);
            let kept = if network.contains('/') { None } else { std::fs::read(theirs).ok() };
            return kept.map_or_else(|| std::fs::read(ours), Ok);
        }
        let network = match self.known() {
            Some(network) if network.door().is_ok() => network,
            _ => self.find().await.map_err(io::Error::other)?,
        };
        let reached = reach(&network, &ours)?;
        // It is the container's own: a pipe would be waited for, a device need not end.
        if !std::fs::metadata(reached.path())?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut said = Vec::new();
        File::open(reached.path())?.take(LONGEST).read_to_end(&mut said)?;
        Ok(said)
    }

    /// A file of a container, as its own processes reach it: no link leads out of it. Blocks.
    ///
    /// # Errors
    /// As the kernel says, and when the container is not there.
    pub fn file(&self, path: &Path) -> io::Result<Reached> {
        if !self.has_files() {
            return Ok(Reached { path: path.to_owned(), _held: None });
        }
        let network = match self.known() {
            Some(network) if network.door().is_ok() => network,
            _ => self.find_now().map_err(io::Error::other)?,
        };
        reach(&network, path)
    }

    fn known(&self) -> Option<Network> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asking a container runtime may take its time.
    async fn find(&self) -> Result<Network, Nowhere> {
        let place = self.clone();
        let finding = tokio::task::spawn_blocking(move || place.find_now());
        finding.await.map_err(|why| self.nowhere(&why))?
    }

    fn find_now(&self) -> Result<Network, Nowhere> {
        let found = match &self.standpoint {
            Standpoint::Network(netns) => netns.find(),
            Standpoint::Container(which) => Netns::Of(which.clone()).find(),
        };
        let network = found.map_err(|why| self.nowhere(&format!("{}; {}", why.why, why.remedy)))?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(network.clone());
        Ok(network)
    }

    fn nowhere(&self, why: &dyn fmt::Display) -> Nowhere {
        Nowhere { from: self.standpoint.to_string(), why: why.to_string() }
    }
}

/// A file that was reached.
#[derive(Debug)]
pub struct Reached {
    path: PathBuf,
    /// What the path leads to, for as long as this is kept.
    _held: Option<OwnedFd>,
}

impl Reached {
    /// The file itself when it is of our own files.
    #[must_use]
    pub fn here(path: &Path) -> Self {
        Self { path: path.to_owned(), _held: None }
    }

    /// Where it is found from here.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A file below the root of a process in a network, by openat2(2).
fn reach(network: &Network, path: &Path) -> io::Result<Reached> {
    // Not `NotFound`, which would be said of the file.
    let gone = |why: &dyn fmt::Display| io::Error::other(format!("its container has ended: {why}"));
    let pid = network.process().ok_or_else(|| gone(&"no process is known there"))?;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{pid}/root").as_str(), flags | OFlag::O_DIRECTORY, Mode::empty());
    let root = root.map_err(|why| gone(&why))?;
    // The process was the right one when its root was opened.
    network.door().map_err(|why| gone(&why))?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let held = openat2(&root, path, how)?;
    Ok(Reached { path: format!("/proc/self/fd/{}", held.as_raw_fd()).into(), _held: Some(held) })
}
