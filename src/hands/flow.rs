//! Whose packet it is: addresses and ports out of its first bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::host::socket::Protocol;

/// One way of one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What carries it.
    pub protocol: Protocol,
    /// Whence.
    pub from: SocketAddr,
    /// Whither.
    pub to: SocketAddr,
}

/// The flow of a packet, and whether it opens a TCP conversation (SYN). `None` when the bytes do not show
/// it: another protocol, a later fragment, too short.
#[must_use]
pub fn of(packet: &[u8]) -> Option<(Flow, bool)> {
    let (source, destination, protocol, transport, _) = split(packet)?;
    let port = |at: usize| Some(u16::from_be_bytes(transport.get(at..at + 2)?.try_into().ok()?));
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
    // The flags of a TCP header (RFC 9293) are its fourteenth byte; SYN is the second bit.
    let opens = protocol == Protocol::Tcp && transport.get(13).is_some_and(|flags| flags & 2 != 0);
    let flow = Flow {
        protocol,
        from: SocketAddr::new(source, port(0)?),
        to: SocketAddr::new(destination, port(2)?),
    };
    Some((flow, opens))
}

/// Source, destination, protocol, what follows the IP header as far as it is shown, and how long that is in truth.
type Split<'a> = (IpAddr, IpAddr, u8, &'a [u8], usize);

/// Takes a packet apart; `None` for a fragment other than the first, and for what is no IP.
pub(super) fn split(packet: &[u8]) -> Option<Split<'_>> {
    match packet.first()? >> 4 {
        4 => v4(packet),
        6 => v6(packet),
        _ => None,
    }
}

/// RFC 791. A fragment other than the first has no ports.
fn v4(packet: &[u8]) -> Option<Split<'_>> {
    let header = packet.get(..20)?;
    if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let length = (usize::from(header[0] & 15) * 4).max(20);
    let whole = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Some((address(12)?, address(16)?, header[9], packet.get(length..)?, whole.saturating_sub(length)))
}

/// RFC 8200, with the extension headers that may stand before the transport's.
fn v6(packet: &[u8]) -> Option<Split<'_>> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let header = packet.get(..40)?;
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let whole = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (mut next, mut rest) = (header[6], packet.get(40..)?);
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => usize::from(*rest.get(1)?) * 8 + 8,
            FRAGMENT if u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]) & 0xfff8 == 0 => 8,
            FRAGMENT => return None,
            _ => {
                let extensions = packet.len() - 40 - rest.len();
                return Some((address(8)?, address(24)?, next, rest, whole.saturating_sub(extensions)));
            }
        };
        next = *rest.first()?;
        rest = rest.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0; 20];
        header[..4].copy_from_slice(&[0x18, 0xeb, 0x00, 0x50]); // 6379 to 80
        header[13] = flags;
        header
    }

    fn v4_packet(protocol: u8, options: usize, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20 + options];
        packet[0] = 0x45 + (options / 4) as u8;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
        packet[16..20].copy_from_slice(&[10, 0, 0, 2]);
        packet.extend(transport);
        packet
    }

    fn v6_packet(extensions: &[&[u8]], first: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = first;
        packet[23] = 1;
        packet[39] = 2;
        packet.extend(extensions.concat());
        packet.extend(transport);
        packet
    }

    #[test]
    fn both_versions_show_their_flow_behind_options_and_extensions() {
        let four = Flow {
            protocol: Protocol::Tcp,
            from: "10.0.0.1:6379".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
        };
        assert_eq!(of(&v4_packet(6, 0, &tcp(2))), Some((four, true)));
        assert_eq!(of(&v4_packet(6, 8, &tcp(16))), Some((four, false)));
        let udp = Flow { protocol: Protocol::Udp, ..four };
        assert_eq!(of(&v4_packet(17, 0, &tcp(2)[..8])), Some((udp, false)));

        let six = Flow { from: "[::1]:6379".parse().unwrap(), to: "[::2]:80".parse().unwrap(), ..four };
        assert_eq!(of(&v6_packet(&[], 6, &tcp(18))), Some((six, true)));
        let (hop, fragment) = ([44, 0, 0, 0, 0, 0, 0, 0], [6, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(of(&v6_packet(&[&hop, &fragment], 0, &tcp(2))), Some((six, true)));
    }

    #[test]
    fn what_shows_no_flow_is_none() {
        let mut fragment = v4_packet(6, 0, &tcp(2));
        fragment[7] = 1;
        let later = [6, 0, 0, 8, 0, 0, 0, 0];
        let cases =
            [vec![], v4_packet(1, 0, &tcp(0)), fragment, v6_packet(&[&later], 44, &tcp(0)), vec![0x45; 19]];
        for packet in cases {
            assert_eq!(of(&packet), None, "{packet:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), six: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { *first & 0x0f | 0x40 };
            }
            let _ = of(&bytes);
        }
    }
}
