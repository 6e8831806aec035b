//! Files without names, parked: held open in any number, for as long as we live.
//!
//! A file in a message that nobody has received (SCM_RIGHTS, unix(7)) is held by the socket the message waits in,
//! and takes no descriptor and no mapping. When we die the sockets go, and with them messages, files, and
//! what the files held.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, sendmsg, socketpair,
};
use nix::sys::stat::Mode;

use crate::host::process::{Identity, Process};

/// So many files go in one message (SCM_MAX_FD, linux/net/scm.h).
const IN_A_MESSAGE: u64 = 253;

/// Why files cannot be parked.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// One could not be made.
    #[error("making file {nth} without a name: {why}")]
    File {
        /// Which.
        nth: u64,
        /// What the kernel said.
        why: Errno,
    },
    /// They could not be put into a socket.
    #[error("parking files in a socket: {why}{}", if *.why == Errno::ETOOMANYREFS {
        "; a user may park as many as RLIMIT_NOFILE says: raise it (`ulimit -n`), or run as root"
    } else { "" })]
    Socket {
        /// What the kernel said.
        why: Errno,
    },
}

/// Files that are parked until this is dropped, or we die.
#[derive(Debug)]
pub struct Parked {
    sockets: Vec<(OwnedFd, OwnedFd)>,
}

impl Parked {
    /// Makes so many empty files without names in a folder and parks them in sockets that bear `name`, so that
    /// [`is_there`] finds them.
    ///
    /// # Errors
    /// When the file system or a limit says no; then none is held.
    pub fn files(folder: &Path, count: u64, name: &str) -> Result<Self, ParkError> {
        let mut parked = Self { sockets: Vec::new() };
        parked.open_one_more(name)?;
        let mut held = 0;
        while held < count {
            let some = (held..count.min(held + IN_A_MESSAGE))
                .map(|nth| nameless(folder).map_err(|why| ParkError::File { nth: nth + 1, why }))
                .collect::<Result<Vec<_>, _>>()?;
            parked.put(&some, name)?;
            held += some.len() as u64;
        }
        Ok(parked)
    }

    /// Puts files into the newest socket, or into one more when that is full.
    fn put(&mut self, files: &[OwnedFd], name: &str) -> Result<(), ParkError> {
        let descriptors: Vec<i32> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let send = |into: &OwnedFd| {
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let byte = [IoSlice::new(b".")];
            sendmsg::<()>(into.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
        };
        let sent = match self.sockets.last() {
            Some((into, _)) => send(into),
            None => Err(Errno::EAGAIN),
        };
        let sent = match sent {
            Err(Errno::EAGAIN) => send(self.open_one_more(name)?),
            other => other,
        };
        sent.map_err(|why| ParkError::Socket { why })
    }

    fn open_one_more(&mut self, name: &str) -> Result<&OwnedFd, ParkError> {
        let fail = |why| ParkError::Socket { why };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (into, from) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags).map_err(fail)?;
        let called = format!("{name}-{}", self.sockets.len());
        bind(from.as_raw_fd(), &UnixAddr::new_abstract(called.as_bytes()).map_err(fail)?).map_err(fail)?;
        self.sockets.push((into, from));
        Ok(&self.sockets[self.sockets.len() - 1].0)
    }
}

fn nameless(folder: &Path) -> nix::Result<OwnedFd> {
    open(folder, OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::S_IRUSR | Mode::S_IWUSR)
}

/// Whether `holder` lives and has sockets of this name (proc_net_unix(5) shows them, abstract ones with an `@`).
#[must_use]
pub fn is_there(holder: &Identity, name: &str) -> bool {
    let first = format!(" @{name}-0");
    Process::open(holder).is_ok()
        && fs::read_to_string(format!("/proc/{}/net/unix", holder.pid))
            .is_ok_and(|text| text.lines().any(|line| line.ends_with(&first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Identity {
        Process::of_pid(std::process::id() as i32).unwrap().identity().clone()
    }

    #[test]
    fn parked_files_take_no_descriptors_and_are_seen_by_their_name_until_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("brownout-test-{}", std::process::id());
        assert!(!is_there(&us(), &name));
        let parked = Parked::files(folder.path(), 1000, &name).unwrap();
        assert!(is_there(&us(), &name));
        assert!(!is_there(&us(), &name[..name.len() - 1]), "a name is not found by its beginning");
        let (_, from) = &parked.sockets[0];
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", from.as_raw_fd())).unwrap();
        // The kernel tells it since 5.10.
        assert!(about.contains("scm_fds:\t1000\n") || about.contains("scm_fds: 1000\n"), "{about}");
        drop(parked);
        assert!(!is_there(&us(), &name));
    }

    #[test]
    fn a_folder_that_takes_no_files_is_an_error_that_names_the_first() {
        let refused = Parked::files(Path::new("/proc/self"), 3, "brownout-test-refused").unwrap_err();
        assert!(refused.to_string().starts_with("making file 1 without a name"), "{refused}");
        assert!(!is_there(&us(), "brownout-test-refused"));
    }
}
