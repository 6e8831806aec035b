//! Networks of this host beside ours: the way into a network namespace, and doing something inside.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use super::apart::apart;
use super::process::{self, Identity, Process};
use super::socket::Namespace;

/// A network namespace, and how to get into it. As it is written down it can be found again by whoever undoes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Network {
    namespace: Namespace,
    /// What leads into it.
    #[serde(default)]
    door: Door,
    /// As a sentence has it: `the network of container web`.
    #[serde(default)]
    said: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Door {
    /// We were in it when it was written down.
    #[default]
    Ours,
    /// This process is.
    Process(Identity),
    /// This file, to which it is bound (`ip netns`, ip-netns(8)).
    Path(PathBuf),
}

impl Network {
    /// The one this thread is in.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn ours() -> io::Result<Self> {
        let said = "our own network".to_owned();
        Ok(Self { namespace: Namespace::ours()?, door: Door::Ours, said })
    }

    /// The one a process is in.
    ///
    /// # Errors
    /// When it is gone or somebody else's.
    pub fn of(process: &Process, whose: &str) -> io::Result<Self> {
        let identity = process.identity().clone();
        let said = format!("the network of {whose}");
        Ok(Self { namespace: Namespace::of(identity.pid)?, door: Door::Process(identity), said })
    }

    /// The one that is bound to a file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn at(path: &Path, said: String) -> io::Result<Self> {
        Ok(Self {
            namespace: Namespace(std::fs::metadata(path)?.ino()),
            door: Door::Path(path.to_owned()),
            said,
        })
    }

    /// Which it is.
    #[must_use]
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// As a sentence has it.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Whether this thread is in it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        Namespace::ours().is_ok_and(|ours| ours == self.namespace)
    }

    /// Whether people come to this host by it: we are in it, or the first process is.
    #[must_use]
    pub fn is_the_hosts(&self) -> bool {
        self.is_ours() || Namespace::of(1).is_ok_and(|first| first == self.namespace)
    }

    /// Does something inside, on a thread of its own unless we are there. Sockets stay in the network they were made in,
    /// and so do the threads that are started there.
    ///
    /// # Errors
    /// When it is gone, or the kernel does not let us in (CAP_SYS_ADMIN over it, setns(2)).
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_ours() { Ok(work()) } else { inside(&self.door()?, work) }
    }

    /// Does something inside, wherever it is still to be had: by its door, or by any process in it. `None` when nobody
    /// whom we may look at has it any more: it has ended, and all that was in it.
    ///
    /// # Errors
    /// When the kernel does not let us in.
    pub fn if_there<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<Option<T>> {
        if self.is_ours() {
            return Ok(Some(work()));
        }
        self.door().ok().or_else(|| self.search()).map(|file| inside(&file, work)).transpose()
    }

    /// A TCP socket in it that can connect to an address.
    ///
    /// # Errors
    /// As [`Network::within`], and as the kernel says.
    pub fn tcp(&self, to: SocketAddr) -> io::Result<TcpSocket> {
        self.within(|| if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?
    }

    /// Its addresses by which others reach it.
    ///
    /// # Errors
    /// As [`Network::within`], and as the kernel says.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let ip = |address: nix::sys::socket::SockaddrStorage| {
            let four = address.as_sockaddr_in().map(|four| IpAddr::V4(four.ip()));
            four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::V6(six.ip())))
        };
        let all = || -> io::Result<Vec<IpAddr>> {
            Ok(nix::ifaddrs::getifaddrs()?.filter_map(|one| ip(one.address?)).collect())
        };
        let mut addresses = self.within(all)??;
        addresses.retain(|ip| !ip.is_loopback());
        Ok(addresses)
    }

    /// The process by which one comes in, if it is one.
    #[must_use]
    pub fn process(&self) -> Option<i32> {
        match &self.door {
            Door::Process(identity) => Some(identity.pid),
            Door::Ours | Door::Path(_) => None,
        }
    }

    /// Its file, by its door and no other way: a number that was freed is given to the next namespace.
    ///
    /// # Errors
    /// When the door leads nowhere, or elsewhere.
    pub fn door(&self) -> io::Result<File> {
        let file = match &self.door {
            Door::Ours => return Err(io::Error::new(io::ErrorKind::NotFound, "we have left it")),
            Door::Path(path) => File::open(path)?,
            Door::Process(identity) => {
                let file = File::open(format!("/proc/{}/ns/net", identity.pid))?;
                Process::open(identity)
                    .map_err(|why| io::Error::new(io::ErrorKind::NotFound, why.to_string()))?;
                file
            }
        };
        if file.metadata()?.ino() == self.namespace.0 {
            Ok(file)
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another network is there now"))
        }
    }

    /// Its file, by any process that is in it.
    fn search(&self) -> Option<File> {
        let theirs = |pid: i32| Namespace::of(pid).is_ok_and(|theirs| theirs == self.namespace);
        let pid = process::all().into_iter().find(|pid| theirs(*pid))?;
        File::open(format!("/proc/{pid}/ns/net")).ok()
    }
}

/// Does something in the namespace of a file.
fn inside<T: Send>(file: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    apart("elsewhere", || Ok(setns(file, CloneFlags::CLONE_NEWNET)?), |()| work())
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process in a network of its own; `None`, loudly, where there can be none.
    struct Elsewhere(Child);

    impl Elsewhere {
        fn start() -> Option<Self> {
            let ours = Namespace::ours().unwrap();
            let child = Command::new("unshare").args(["--net", "sleep", "60"]).stderr(Stdio::null()).spawn();
            let mut child = Self(child.ok()?);
            while Namespace::of(child.0.id() as i32).is_ok_and(|theirs| theirs == ours) {
                if child.0.try_wait().unwrap().is_some() {
                    assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"));
                    eprintln!("SKIPPED: a network namespace needs root and unshare");
                    return None;
                }
                std::thread::yield_now();
            }
            Some(child)
        }

        fn network(&self) -> Network {
            Network::of(&Process::of_pid(self.0.id() as i32).unwrap(), "a test").unwrap()
        }
    }

    impl Drop for Elsewhere {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_is_done_in_another_network_happens_there_and_leaves_us_where_we_are() {
        let Some(child) = Elsewhere::start() else { return };
        let (network, before) = (child.network(), Namespace::ours().unwrap());
        assert!(!network.is_ours() && !network.is_the_hosts());
        assert_eq!(network.within(|| Namespace::ours().unwrap()).unwrap(), network.namespace());
        assert_eq!(network.addresses().unwrap(), Vec::<IpAddr>::new(), "its loopback is down");
        assert_eq!(Namespace::ours().unwrap(), before);
        assert!(Network::ours().unwrap().is_ours());
    }

    #[test]
    fn it_is_found_again_by_whoever_is_in_it_and_is_gone_with_the_last() {
        let Some(mut child) = Elsewhere::start() else { return };
        let network = child.network();
        // The process by which it was found ends, and another is in it still.
        let path = format!("/proc/{}/ns/net", child.0.id());
        let mut other =
            Command::new("nsenter").arg(format!("--net={path}")).args(["sleep", "60"]).spawn().unwrap();
        while Namespace::of(other.id() as i32).is_ok_and(|theirs| theirs != network.namespace()) {
            std::thread::yield_now();
        }
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert!(network.within(|| ()).is_err(), "nothing new is done by another door");
        let there = network.if_there(|| Namespace::ours().unwrap());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(there.unwrap(), Some(network.namespace()));
        assert_eq!(network.if_there(|| ()).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_no_network_lets_nobody_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let network = Network::at(file.path(), "nothing".to_owned()).unwrap();
        assert!(network.within(|| ()).is_err());
        assert!(Network::at(Path::new("/run/netns/brownout-is-not-there"), String::new()).is_err());
    }
}
