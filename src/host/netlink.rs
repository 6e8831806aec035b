//! Netlink: messages out, messages in (netlink(7), include/uapi/linux/netlink.h). What they mean is the
//! business of whoever sends them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// struct nlmsghdr.
const HEADER: usize = 16;
/// No answer of the kernel's takes so long: it is made within the send itself.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The attributes of one message (struct nlattr: length, kind, value, padded to four bytes).
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One with raw bytes.
    #[must_use]
    pub fn bytes(mut self, kind: i32, value: &[u8]) -> Self {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend((kind as u16).to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// One with a text, which ends in a NUL.
    #[must_use]
    pub fn text(self, kind: i32, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// One with a number in network order, as all of netfilter has them.
    #[must_use]
    pub fn be32(self, kind: i32, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// One with a long number in network order.
    #[must_use]
    pub fn be64(self, kind: i32, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// These, and others after them.
    #[must_use]
    pub fn and(mut self, others: &Self) -> Self {
        self.0.extend(&others.0);
        self
    }

    /// One that holds attributes.
    #[must_use]
    pub fn nest(self, kind: i32, inner: &Self) -> Self {
        self.bytes(kind | libc::NLA_F_NESTED, &inner.0)
    }
}

/// Messages that are sent in one go.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    sequence: u32,
    acks: usize,
}

impl Messages {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one: its kind, its flags (NLM_F_REQUEST is added), its own header, its attributes.
    pub fn push(&mut self, kind: i32, flags: i32, header: &[u8], attributes: &Attributes) {
        let length = HEADER + header.len() + attributes.0.len();
        self.sequence += 1;
        self.acks += usize::from(flags & libc::NLM_F_ACK != 0);
        self.bytes.extend((length as u32).to_ne_bytes());
        self.bytes.extend((kind as u16).to_ne_bytes());
        self.bytes.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(header);
        self.bytes.extend(&attributes.0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds those of another, after these.
    pub fn extend(&mut self, others: &Self) {
        self.bytes.extend(&others.bytes);
        self.acks += others.acks;
    }

    /// How many acknowledgements they ask for.
    #[must_use]
    pub fn acks(&self) -> usize {
        self.acks
    }

    /// The bytes as they are sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One message received.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Its kind.
    pub kind: i32,
    /// What follows its header.
    pub body: &'a [u8],
}

impl Message<'_> {
    /// The error an acknowledgement carries (struct nlmsgerr); 0 is success, `None` is no acknowledgement.
    #[must_use]
    pub fn error(&self) -> Option<i32> {
        (self.kind == libc::NLMSG_ERROR).then(|| number(self.body, 0).map_or(0, |n| -(n as i32)))
    }
}

/// A number in our own byte order at an offset, if it is there.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A short number in our own byte order at an offset, if it is there.
fn short(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes).map(usize::from)
}

/// The messages of one datagram; what is torn at its end is left out.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = number(bytes, 0)? as usize;
        let kind = short(bytes, 4)? as i32;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    })
}

/// The attributes of a body, kind and value; what is torn at its end is left out.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (i32, &[u8])> {
    std::iter::from_fn(move || {
        let length = short(bytes, 0)?;
        let kind = short(bytes, 2)? as i32 & libc::NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

const PORTS_TRIED: usize = 16;

/// A port number that no socket of this process had before. The kernel would give the same one again and again, our process's
/// number; and where a socket that had it closes late, since a child that was being started had a copy, all rule tables that are owned
/// by that number end, also those made meanwhile by its next owner (netlink_release tells of a port after it is free;
/// nft_rcv_nl_event, net/netfilter/nf_tables_api.c).
fn fresh() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let begin = std::process::id().wrapping_mul(0x9e37_79b9); // Other processes begin elsewhere.
    begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) | 1 << 31 // Below are numbers of processes.
}

/// A netlink socket, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens one for a protocol such as NETLINK_NETFILTER.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(protocol: i32) -> io::Result<Self> {
        // SAFETY: socket(2) takes three integers and returns a new descriptor, which is ours alone.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Self(OwnedFd::from_raw_fd(fd))
        };
        let mut bound = Ok(());
        // Another process may have a number just now.
        for _ in 0..PORTS_TRIED {
            bound = socket.bind(fresh());
            match &bound {
                Err(why) if why.raw_os_error() == Some(libc::EADDRINUSE) => {}
                _ => break,
            }
        }
        bound.map(|()| socket)
    }

    fn bind(&self, port: u32) -> io::Result<()> {
        // SAFETY: a sockaddr_nl of zeros, its family and a port; it is read during the call only.
        let bound = unsafe {
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            address.nl_family = libc::AF_NETLINK as u16;
            address.nl_pid = port;
            libc::bind(
                self.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Sets a socket option that is one integer; whether the kernel let us.
    #[must_use]
    pub fn prefer(&self, level: i32, option: i32, value: i32) -> bool {
        // SAFETY: the value is read during the call only.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        set == 0
    }

    /// Asks for a receive buffer of so many bytes, beyond the host's limit where we may.
    pub fn buffer(&self, bytes: i32) {
        let _ = self.prefer(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)
            || self.prefer(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }

    /// Sends bytes as one datagram.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the bytes are read during the call only.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one datagram within a time.
    ///
    /// # Errors
    /// When none came, or as the kernel says.
    pub fn receive<'a>(&self, into: &'a mut [u8], within: Duration) -> io::Result<&'a [u8]> {
        let mut watched = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut watched, PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX))? == 0 {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        // SAFETY: the kernel writes at most `len` bytes into a buffer that is ours for the call.
        let received = unsafe {
            libc::recv(self.0.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT)
        };
        usize::try_from(received).map_or_else(|_| Err(io::Error::last_os_error()), |n| Ok(&into[..n]))
    }

    /// Sends messages and waits for all the acknowledgements they asked for.
    ///
    /// # Errors
    /// The first error acknowledged.
    pub fn ask(&self, messages: &Messages) -> io::Result<()> {
        self.send(messages.bytes())?;
        let mut left = messages.acks;
        let mut buffer = vec![0; 16 << 10];
        while left > 0 {
            for error in self::messages(self.receive(&mut buffer, PATIENCE)?).filter_map(|m| m.error()) {
                if error != 0 {
                    // The rest may not come: of a transaction that is refused as a whole only one does.
                    while self.receive(&mut [0; 64], Duration::ZERO).is_ok() {}
                    return Err(io::Error::from_raw_os_error(error));
                }
                left = left.saturating_sub(1);
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_again_with_its_padding() {
        let inner = Attributes::new().text(1, "abc").be32(2, 7);
        let mut sent = Messages::new();
        sent.push(0x0a01, libc::NLM_F_ACK, &[1, 0, 0, 0], &Attributes::new().nest(3, &inner).be64(4, 9));
        sent.push(0x0a02, 0, &[2, 0, 0, 0], &Attributes::new());
        let read: Vec<Message> = messages(sent.bytes()).collect();
        assert_eq!(read.iter().map(|m| m.kind).collect::<Vec<_>>(), [0x0a01, 0x0a02]);
        let outer: Vec<(i32, &[u8])> = attributes(&read[0].body[4..]).collect();
        assert_eq!(outer[1], (4, &9_u64.to_be_bytes()[..]));
        let nested: Vec<(i32, &[u8])> = attributes(outer[0].1).collect();
        assert_eq!(nested, [(1, &b"abc\0"[..]), (2, &[0, 0, 0, 7])]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_fail_or_go_on_for_ever(bytes: Vec<u8>) {
            prop_assert!(messages(&bytes).take(bytes.len() + 1).count() <= bytes.len());
            prop_assert!(attributes(&bytes).take(bytes.len() + 1).count() <= bytes.len());
        }
    }
}
