//! Echo requests of ICMP: by a ping socket, which needs no rights where `net.ipv4.ping_group_range` names our group
//! (icmp(7)), else by a raw one, which needs CAP_NET_RAW (raw(7)).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, connect,
    recv, recvmsg, send, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The head of an echo: type, code, checksum, identifier, sequence (RFC 792, RFC 4443).
const HEAD: usize = 8;
/// Types of messages: a request and its reply.
const FOUR: [u8; 2] = [8, 0];
const SIX: [u8; 2] = [128, 129];

/// What came of an echo request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Echo {
    /// It came back.
    Back,
    /// It came back with other bytes.
    Changed,
    /// A host on the way says that it goes no further.
    Stopped {
        /// Who says so.
        by: Option<IpAddr>,
        /// The type of its message.
        kind: u8,
        /// The code of its message.
        code: u8,
    },
}

/// A socket that asks one host.
#[derive(Debug)]
pub struct Ping {
    socket: AsyncFd<OwnedFd>,
    to: IpAddr,
    raw: bool,
    id: u16,
}

impl Ping {
    /// Opens one; packets live for `ttl` hops, or as long as the host lets them.
    ///
    /// # Errors
    /// When we may have neither socket (`PermissionDenied`), or the host is out of descriptors or routes.
    pub fn open(to: IpAddr, ttl: Option<u8>) -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let (fd, raw) = match socket(family, SockType::Datagram, flags, protocol) {
            Err(Errno::EACCES | Errno::EPERM | Errno::EPROTONOSUPPORT) => {
                (socket(family, SockType::Raw, flags, protocol)?, true)
            }
            other => (other?, false),
        };
        // Errors of hosts on the way are queued, with who said them (ip(7), IP_RECVERR).
        if to.is_ipv4() {
            setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
        } else {
            setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
        }
        match (to, ttl.map(i32::from)) {
            (IpAddr::V4(_), Some(ttl)) => setsockopt(&fd, sockopt::Ipv4Ttl, &ttl)?,
            (IpAddr::V6(_), Some(ttl)) => setsockopt(&fd, sockopt::Ipv6Ttl, &ttl)?,
            (_, None) => {}
        }
        // From others it hears nothing then.
        connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, 0)))?;
        // A ping socket gets its identifier from the kernel; raw ones of one process must differ, and those of two should.
        let id = (std::process::id() as u16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // SAFETY: the descriptor is owned by the AsyncFd itself, so it is open for as long as it is watched.
        let socket = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE | Interest::ERROR) }?;
        Ok(Self { socket, to, raw, id })
    }

    /// Whether it is a raw one.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        self.raw
    }

    /// Sends a request with this payload, and waits for what comes of it.
    ///
    /// # Errors
    /// When it cannot be sent, or our own host knows no way.
    pub async fn echo(&self, sequence: u16, payload: &[u8]) -> io::Result<Echo> {
        let [request, reply] = if self.to.is_ipv4() { FOUR } else { SIX };
        let mut sent = vec![request, 0, 0, 0];
        sent.extend(self.id.to_be_bytes());
        sent.extend(sequence.to_be_bytes());
        sent.extend(payload);
        if self.to.is_ipv4() {
            let sum = checksum(&sent);
            sent[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        send(self.socket.as_raw_fd(), &sent, MsgFlags::empty())?;
        let mut heard = vec![0; 65_536];
        loop {
            let heard = self
                .socket
                .async_io(Interest::READABLE | Interest::ERROR, |fd| {
                    match recv(fd.as_raw_fd(), &mut heard, MsgFlags::empty()) {
                        Ok(length) => Ok(Ok(length)),
                        Err(Errno::EAGAIN) => match stopped(fd) {
                            // The error may have been taken by the call before; what was said about it is queued.
                            Some(stopped) => Ok(Err(stopped)),
                            None => Err(io::ErrorKind::WouldBlock.into()),
                        },
                        Err(why) => stopped(fd).map_or_else(|| Err(why.into()), |stopped| Ok(Err(stopped))),
                    }
                })
                .await?
                .map(|length| &heard[..length]);
            let message = match heard {
                Err(stopped) => return Ok(stopped),
                Ok(message) if self.raw && self.to.is_ipv4() => past_ip_head(message),
                Ok(message) => message,
            };
            let Some((head, back)) = message.split_at_checked(HEAD) else { continue };
            let ours = !self.raw || head[4..6] == self.id.to_be_bytes();
            if head[0] == reply && ours && head[6..8] == sequence.to_be_bytes() {
                return Ok(if back == payload { Echo::Back } else { Echo::Changed });
            }
        }
    }
}

/// What a host on the way said, if one did: taken from the queue of errors.
fn stopped(fd: &OwnedFd) -> Option<Echo> {
    let mut room = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut [], Some(&mut room), MsgFlags::MSG_ERRQUEUE).ok()?;
    message.cmsgs().ok()?.find_map(|said| {
        let (error, by): (_, Option<IpAddr>) = match said {
            ControlMessageOwned::Ipv4RecvErr(error, by) => {
                (error, by.map(|by| IpAddr::from(by.sin_addr.s_addr.to_ne_bytes())))
            }
            ControlMessageOwned::Ipv6RecvErr(error, by) => {
                (error, by.map(|by| IpAddr::from(by.sin6_addr.s6_addr)))
            }
            _ => return None,
        };
        let from_the_way = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(&error.ee_origin);
        from_the_way.then_some(Echo::Stopped { by, kind: error.ee_type, code: error.ee_code })
    })
}

/// The message behind the head that a raw socket of IPv4 shows: its length is in the first byte (RFC 791).
fn past_ip_head(packet: &[u8]) -> &[u8] {
    let words = packet.first().map_or(0, |first| usize::from(first & 0x0f));
    packet.get(words * 4..).unwrap_or_default()
}

/// The checksum of the Internet (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 1071, section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0xff]), !0xff00);
        assert_eq!(checksum(&[]), 0xffff);
    }

    #[test]
    fn the_head_of_ip_is_skipped_whatever_its_length() {
        let packet: Vec<u8> = std::iter::once(0x46).chain(1..30).collect();
        assert_eq!(past_ip_head(&packet)[0], 24);
        assert_eq!(past_ip_head(&[0x45, 0]), b"");
        assert_eq!(past_ip_head(&[]), b"");
    }
}
