//! Sends a packet once more as it is: raw sockets that take the IP header from us (raw(7), ipv6(7)).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// What the marks of our copies have in common; the rest is the number of the queue they come from.
const COPY: u32 = 0x6471_0000;

/// The mark that copies of a queue's packets bear, so that its rules know them and let them pass.
#[must_use]
pub fn mark(queue: u16) -> u32 {
    COPY | u32::from(queue)
}

/// The way back into the network, in the network namespace of the thread that opened it. A copy starts on this host,
/// also one of a packet that came in: it passes the hooks for outgoing packets and comes in again over loopback.
#[derive(Debug)]
pub struct Resend {
    four: OwnedFd,
    six: Option<OwnedFd>,
}

impl Resend {
    /// Opens it; copies bear the [`mark`] of that queue.
    ///
    /// # Errors
    /// When we may not (CAP_NET_RAW, CAP_NET_ADMIN). Without IPv6 on this host, only IPv4 is sent.
    pub fn open(queue: u16) -> io::Result<Self> {
        Ok(Self { four: raw(libc::AF_INET, queue)?, six: raw(libc::AF_INET6, queue).ok() })
    }

    /// Sends it to where its header says.
    ///
    /// # Errors
    /// As the kernel says; a link-local destination of IPv6 cannot be reached, since the header does not name its link.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        let short = || io::Error::from(io::ErrorKind::InvalidInput);
        match (packet.first().map(|first| first >> 4), &self.six) {
            (Some(4), _) => {
                let to: [u8; 4] = packet.get(16..20).and_then(|to| to.try_into().ok()).ok_or_else(short)?;
                // SAFETY: a sockaddr_in of integers, for which zeros are a value.
                let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
                address.sin_family = libc::AF_INET as libc::sa_family_t;
                address.sin_addr.s_addr = u32::from_ne_bytes(to);
                send(&self.four, packet, &address)
            }
            (Some(6), Some(six)) => {
                let to: [u8; 16] = packet.get(24..40).and_then(|to| to.try_into().ok()).ok_or_else(short)?;
                // SAFETY: a sockaddr_in6 of integers, for which zeros are a value; its port must be zero.
                let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
                address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                address.sin6_addr.s6_addr = to;
                send(six, packet, &address)
            }
            _ => Err(short()),
        }
    }
}

fn raw(family: i32, queue: u16) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes three integers and returns a new descriptor, which is ours alone.
    let socket = unsafe {
        let fd = libc::socket(
            family,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            libc::IPPROTO_RAW,
        );
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mark = mark(queue);
    // SAFETY: the value is read during the call only.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MARK,
            (&raw const mark).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn send<A>(socket: &OwnedFd, packet: &[u8], address: &A) -> io::Result<()> {
    // SAFETY: the bytes and the address, a struct of exactly that size, are read during the call only.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            libc::MSG_NOSIGNAL,
            std::ptr::from_ref(address).cast(),
            size_of::<A>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
