//! Packets of our own making: what the other end of a conversation might have sent, in answer to one that a queue
//! shows us (raw sockets with the header included, raw(7); IPv6 since Linux 4.5).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto, socket,
};

use super::flow::{self, Flow};
use crate::host::socket::Protocol;

/// The flags of a TCP header (RFC 9293, section 3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A TCP segment or a UDP datagram that was shown to us.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Whose it is.
    pub flow: Flow,
    /// What it carries, as far as it was shown.
    pub payload: &'a [u8],
    tcp: Option<Tcp>,
}

#[derive(Debug, Clone, Copy)]
struct Tcp {
    flags: u8,
    sequence: u32,
    acknowledged: u32,
    /// How much of the sequence space the segment takes.
    length: u32,
    /// The sender's and the receiver's clock, if they tell them (RFC 7323).
    clocks: Option<[[u8; 4]; 2]>,
}

impl<'a> Seen<'a> {
    /// Reads a packet from its IP header on; `None` when it shows no segment or datagram.
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        let (source, destination, protocol, transport, length) = flow::split(packet)?;
        let word = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_be_bytes(transport.get(at..at + 4)?.try_into().ok()?));
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
        let flow = Flow {
            protocol,
            from: SocketAddr::new(source, word(0)?),
            to: SocketAddr::new(destination, word(2)?),
        };
        let (header, tcp) = match protocol {
            Protocol::Udp => (8, None),
            Protocol::Tcp => {
                let header = usize::from(transport.get(12)? >> 4) * 4;
                let flags = *transport.get(13)?;
                let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                let options = transport.get(20..header).unwrap_or_default();
                let tcp = Tcp {
                    flags,
                    sequence: long(4)?,
                    acknowledged: long(8)?,
                    length: (length.saturating_sub(header) as u32).wrapping_add(counted),
                    clocks: clocks(options),
                };
                (header, Some(tcp))
            }
        };
        Some(Self { flow, payload: transport.get(header..)?, tcp })
    }

    /// Whether it asks for a connection.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.flags & (SYN | ACK | RST) == SYN)
    }

    /// Where it stands in its way of the conversation; the same when it is sent again.
    #[must_use]
    pub fn place(&self) -> u32 {
        self.tcp.map_or(0, |tcp| tcp.sequence)
    }

    /// Whether it is a reset.
    #[must_use]
    pub fn resets(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.flags & RST != 0)
    }

    /// Whether it ends its way of the connection.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.flags & FIN != 0)
    }

    /// The reset that its receiver would answer with, if it knew no such connection (RFC 9293, section 3.10.7.1).
    #[must_use]
    pub fn refused(&self) -> Option<Forged> {
        let tcp = self.tcp?;
        let reset = if tcp.flags & ACK == 0 {
            Tcp {
                flags: RST | ACK,
                sequence: 0,
                acknowledged: tcp.sequence.wrapping_add(tcp.length),
                length: 0,
                clocks: None,
            }
        } else {
            Tcp { flags: RST, sequence: tcp.acknowledged, acknowledged: 0, length: 0, clocks: None }
        };
        Some(self.back(&reset, &[]))
    }

    /// The reset that its sender might have sent in its stead.
    #[must_use]
    pub fn aborted(&self) -> Option<Forged> {
        let tcp = self.tcp?;
        let reset = Tcp { flags: RST | ACK, clocks: None, ..tcp };
        Some(Forged::segment(self.flow, &reset, &[]))
    }

    /// An answer to a segment or datagram. A segment acknowledges what it answers, and ends the connection.
    #[must_use]
    pub fn answered(&self, payload: &[u8]) -> Forged {
        let Some(tcp) = self.tcp else {
            return Forged::datagram(Flow { from: self.flow.to, to: self.flow.from, ..self.flow }, payload);
        };
        let flags = if payload.is_empty() { ACK } else { PSH | ACK | FIN };
        let sequence = tcp.acknowledged;
        let acknowledged = tcp.sequence.wrapping_add(tcp.length);
        // Both clocks have been seen by the other end: they are neither from the past nor the future.
        let clocks = tcp.clocks.map(|[ours, theirs]| [theirs, ours]);
        self.back(&Tcp { flags, sequence, acknowledged, length: 0, clocks }, payload)
    }

    fn back(&self, tcp: &Tcp, payload: &[u8]) -> Forged {
        Forged::segment(Flow { from: self.flow.to, to: self.flow.from, ..self.flow }, tcp, payload)
    }
}

/// The option with the clocks (kind 8, ten bytes), behind others that say their length.
fn clocks(mut options: &[u8]) -> Option<[[u8; 4]; 2]> {
    loop {
        match *options {
            [8, 10, ref times @ ..] => {
                let one = |at: usize| times.get(at..at + 4)?.try_into().ok();
                return Some([one(0)?, one(4)?]);
            }
            [1, ref rest @ ..] => options = rest,
            [kind, length, ..] if kind > 1 && length > 1 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// A packet ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forged {
    to: IpAddr,
    bytes: Vec<u8>,
}

impl Forged {
    fn segment(flow: Flow, tcp: &Tcp, payload: &[u8]) -> Self {
        let options = match tcp.clocks {
            Some([first, second]) => [&[1, 1, 8, 10][..], &first, &second].concat(),
            None => Vec::new(),
        };
        let mut bytes = [flow.from.port().to_be_bytes(), flow.to.port().to_be_bytes()].concat();
        bytes.extend(tcp.sequence.to_be_bytes());
        bytes.extend(tcp.acknowledged.to_be_bytes());
        let window = 0xffff_u16.to_be_bytes();
        bytes.extend([((20 + options.len()) as u8 / 4) << 4, tcp.flags, window[0], window[1], 0, 0, 0, 0]);
        bytes.extend(options);
        bytes.extend(payload);
        Self::packet(flow, bytes, 16)
    }

    fn datagram(flow: Flow, payload: &[u8]) -> Self {
        let mut bytes = [flow.from.port().to_be_bytes(), flow.to.port().to_be_bytes()].concat();
        bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        Self::packet(flow, bytes, 6)
    }

    /// Puts the checksum at its place, and the IP header in front.
    fn packet(flow: Flow, mut transport: Vec<u8>, checksum_at: usize) -> Self {
        let (from, to) = (flow.from.ip().to_canonical(), flow.to.ip().to_canonical());
        let (length, protocol) = (transport.len() as u16, flow.protocol.number());
        let (mut header, addresses) = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // RFC 791; the kernel adds the checksum of this header (raw(7)).
                let [high, low] = (20 + length).to_be_bytes();
                let header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                (header, [from.octets(), to.octets()].concat())
            }
            (from, to) => {
                // RFC 8200.
                let [high, low] = length.to_be_bytes();
                let six = |ip: IpAddr| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                (vec![0x60, 0, 0, 0, high, low, protocol, 64], [six(from), six(to)].concat())
            }
        };
        // The pseudo header of either version adds up to this.
        let words = [&addresses[..], &length.to_be_bytes(), &[0, protocol], &transport].concat();
        let mut sum = checksum(&words);
        if sum == 0 && flow.protocol == Protocol::Udp {
            sum = 0xffff; // Zero would say that there is none (RFC 768).
        }
        transport[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        header.extend(addresses);
        header.extend(transport);
        Self { to, bytes: header }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high, ..] => u32::from(high) << 8,
        [] => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends packets of our own making, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Forge {
    v4: OwnedFd,
    /// A kernel without IPv6 has no use for it.
    v6: Option<OwnedFd>,
}

impl Forge {
    /// Opens the raw sockets.
    ///
    /// # Errors
    /// When we may not (CAP_NET_RAW).
    pub fn open() -> io::Result<Self> {
        let raw = |family| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            socket(family, SockType::Raw, flags, SockProtocol::Raw)
        };
        Ok(Self { v4: raw(AddressFamily::Inet)?, v6: raw(AddressFamily::Inet6).ok() })
    }

    /// Sends one. What cannot be sent is lost, as packets are.
    pub fn send(&self, packet: &Forged) {
        let sent = match (SocketAddr::new(packet.to, 0), &self.v6) {
            (SocketAddr::V4(to), _) => {
                sendto(self.v4.as_raw_fd(), &packet.bytes, &SockaddrIn::from(to), MsgFlags::empty())
            }
            (SocketAddr::V6(to), Some(v6)) => {
                sendto(v6.as_raw_fd(), &packet.bytes, &SockaddrIn6::from(to), MsgFlags::empty())
            }
            (SocketAddr::V6(_), None) => return,
        };
        let _ = sent;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a receiver does: the sum over pseudo header and all, the checksum included, is nought.
    fn adds_up(packet: &[u8]) -> bool {
        let (from, to, protocol, transport, _) = flow::split(packet).unwrap();
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let length = (transport.len() as u16).to_be_bytes();
        checksum(&[&octets(from)[..], &octets(to), &length, &[0, protocol], transport].concat()) == 0
    }

    fn flow(protocol: Protocol, six: bool) -> Flow {
        let (from, to) =
            if six { ("[fd09::1]:40000", "[fd09::2]:53") } else { ("10.0.0.1:40000", "10.0.0.2:53") };
        Flow { protocol, from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    fn segment(flags: u8, payload: &[u8], six: bool) -> Vec<u8> {
        let clocks = Some([[0, 0, 0, 7], [0, 0, 0, 9]]);
        let tcp = Tcp { flags, sequence: 1000, acknowledged: 5000, length: 0, clocks };
        Forged::segment(flow(Protocol::Tcp, six), &tcp, payload).bytes
    }

    #[test]
    fn a_connection_that_is_asked_for_is_refused_as_its_peer_would() {
        for six in [false, true] {
            let asked = segment(SYN, &[], six);
            let asked = Seen::of(&asked).unwrap();
            assert!(asked.opens() && !asked.resets() && !asked.ends());
            let refused = asked.refused().unwrap().bytes;
            assert!(adds_up(&refused));
            let seen = Seen::of(&refused).unwrap();
            assert!(seen.resets() && !seen.opens());
            assert_eq!((seen.flow.from, seen.flow.to), (asked.flow.to, asked.flow.from));
            let tcp = seen.tcp.unwrap();
            assert_eq!((tcp.flags, tcp.acknowledged), (RST | ACK, 1001), "the SYN counts for one");
        }
    }

    #[test]
    fn both_ends_of_a_connection_are_reset_exactly_where_they_stand() {
        let sent = segment(ACK | PSH, b"PING", false);
        let sent = Seen::of(&sent).unwrap();
        let (back, on) = (sent.refused().unwrap().bytes, sent.aborted().unwrap().bytes);
        let (back, on) = (Seen::of(&back).unwrap(), Seen::of(&on).unwrap());
        assert_eq!((back.tcp.unwrap().sequence, back.tcp.unwrap().flags), (5000, RST));
        assert_eq!((on.tcp.unwrap().sequence, on.flow), (1000, sent.flow));
        assert!(on.resets());
    }

    #[test]
    fn an_answer_acknowledges_what_it_answers_and_gives_the_clocks_back() {
        let asked = segment(ACK | PSH, b"question", true);
        let answer = Seen::of(&asked).unwrap().answered(b"answer").bytes;
        assert!(adds_up(&answer));
        let answer = Seen::of(&answer).unwrap();
        let tcp = answer.tcp.unwrap();
        assert_eq!((answer.payload, tcp.sequence, tcp.acknowledged), (&b"answer"[..], 5000, 1008));
        assert_eq!(tcp.clocks, Some([[0, 0, 0, 9], [0, 0, 0, 7]]));
        assert!(answer.ends());

        let asked = Forged::datagram(flow(Protocol::Udp, false), b"odd").bytes;
        let answer = Seen::of(&asked).unwrap().answered(b"answer").bytes;
        assert!(adds_up(&asked) && adds_up(&answer));
        assert_eq!(Seen::of(&answer).unwrap().payload, b"answer");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), six: bool, tcp: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { *first & 0x0f | 0x40 };
            }
            if let Some(protocol) = bytes.get_mut(if six { 6 } else { 9 }) {
                *protocol = if tcp { 6 } else { 17 };
            }
            if let Some(seen) = Seen::of(&bytes) {
                let _ = (seen.refused(), seen.aborted());
                prop_assert!(adds_up(&seen.answered(b"x").bytes));
            }
        }
    }
}
