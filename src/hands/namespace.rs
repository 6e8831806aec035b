//! A network of our own, in which nobody else can be hurt.
//!
//! Root makes a network namespace; an ordinary user makes one inside a user namespace (user_namespaces(7)),
//! in which it keeps its own name and number and has every right over that network. Both die with the last
//! process in them.

use std::io::{self, Read as _, Write as _};

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getegid, geteuid};

use crate::host::rights::what_forbids_user_namespaces;

/// How a namespace was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With the rights of root.
    Root,
    /// Inside a user namespace.
    User,
}

/// Why there is no namespace of our own.
#[derive(Debug, thiserror::Error)]
#[error("no network of our own: {step}: {why}{}", .remedy.as_ref().map_or_else(String::new, |remedy| format!("; {remedy}")))]
pub struct Denied {
    /// What was refused.
    pub step: &'static str,
    /// What the kernel said.
    pub why: io::Error,
    /// The setting that is in the way, if one is.
    pub remedy: Option<String>,
}

/// What can be refused; a child tells its place in this list to its parent.
const STEPS: [&str; 4] = [
    "starting a process",
    "making the namespace",
    "keeping our name in it",
    "switching its loopback interface on",
];
const STARTING: usize = 0;
const MAKING: usize = 1;
const NAMING: usize = 2;
const LOOPBACK: usize = 3;

/// Moves this process into a network namespace of its own, with `lo` up. Tried in a child first, so that a
/// refusal leaves us where we are.
///
/// To be called before any thread is started: a namespace belongs to a thread and its later children, and
/// the kernel lets no process of several threads make a user namespace (unshare(2), EINVAL).
///
/// # Errors
/// What is in the way, with the setting to change if there is one.
pub fn enter() -> Result<Way, Denied> {
    attempt()?;
    isolate().map_err(|(step, why)| denied(step, why))
}

/// Whether [`enter`] would succeed: a child does it and ends.
///
/// # Errors
/// As [`enter`].
pub fn attempt() -> Result<Way, Denied> {
    let failed = |why: io::Error| denied(STARTING, why);
    let (mut ours, mut theirs) = io::pipe().map_err(failed)?;
    // SAFETY: the child makes system calls and touches nothing that another thread may have been changing.
    match unsafe { fork() }.map_err(|why| failed(why.into()))? {
        ForkResult::Child => {
            let said = match isolate() {
                Ok(Way::Root) => [0, 0],
                Ok(Way::User) => [0, 1],
                // All error numbers fit a byte (errno(3)).
                Err((step, why)) => [step as u8, why.raw_os_error().unwrap_or(0) as u8],
            };
            let _ = theirs.write_all(&said);
            // SAFETY: ends this child alone, and runs nothing of its parent's on the way.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let mut said = [0; 2];
            let heard = ours.read_exact(&mut said);
            let _ = waitpid(child, None);
            heard.map_err(failed)?;
            match said {
                [0, 0] => Ok(Way::Root),
                [0, _] => Ok(Way::User),
                [step, errno] => {
                    Err(denied(usize::from(step), io::Error::from_raw_os_error(i32::from(errno))))
                }
            }
        }
    }
}

fn denied(step: usize, why: io::Error) -> Denied {
    let remedy = if geteuid().is_root() {
        (step == MAKING).then(|| "it takes CAP_SYS_ADMIN, which containers withhold".to_owned())
    } else {
        what_forbids_user_namespaces()
    };
    Denied { step: STEPS.get(step).copied().unwrap_or("doing it"), why, remedy }
}

fn isolate() -> Result<Way, (usize, io::Error)> {
    let at = |step: usize| move |why: nix::Error| (step, io::Error::from(why));
    let (uid, gid) = (geteuid(), getegid());
    let way = if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        Way::Root
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).map_err(at(MAKING))?;
        // Each number stands for itself. `setgroups` must be denied before a group may be named.
        for (file, text) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{uid} {uid} 1")),
            ("/proc/self/gid_map", format!("{gid} {gid} 1")),
        ] {
            std::fs::write(file, text).map_err(|why| (NAMING, why))?;
        }
        Way::User
    };
    loopback_up().map_err(at(LOOPBACK))?;
    Ok(way)
}

/// Switches `lo` on (netdevice(7)).
fn loopback_up() -> nix::Result<()> {
    use std::os::fd::AsRawFd as _;

    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a struct of integers and bytes, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (there, here) in request.ifr_name.iter_mut().zip(*b"lo") {
        *there = here as libc::c_char;
    }
    // SAFETY: both calls take a pointer to that struct, which lives through them; the flags are the member of
    // its union that SIOCGIFFLAGS fills.
    unsafe {
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        Errno::result(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_leaves_us_where_we_are() {
        let here = || std::fs::read_link("/proc/self/ns/net").unwrap();
        let before = here();
        match attempt() {
            Ok(way) => assert_eq!(way == Way::Root, geteuid().is_root()),
            Err(why) => assert!(why.to_string().starts_with("no network of our own: "), "{why}"),
        }
        assert_eq!(here(), before);
    }

    #[test]
    fn loopback_works_in_a_network_of_our_own_and_nothing_of_the_old_one_is_there() {
        if !geteuid().is_root() || attempt().is_err() {
            assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"));
            eprintln!("SKIPPED: a thread of a process of several can enter only as root");
            return;
        }
        let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let there = std::net::TcpListener::bind(outside).unwrap();
        // The thread alone moves, and takes its namespace with it when it ends.
        std::thread::spawn(move || {
            assert_eq!(enter().unwrap(), Way::Root);
            assert!(std::net::TcpStream::connect(outside).is_err());
            let here = std::net::TcpListener::bind(outside).unwrap();
            assert!(std::net::TcpStream::connect(here.local_addr().unwrap()).is_ok());
        })
        .join()
        .unwrap();
        drop(there);
    }
}
