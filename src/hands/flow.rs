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

/// Turns one bit over in what a TCP or UDP packet carries; which, `draw` decides. With `mends` the checksum is made to
/// fit (RFC 1624, equation 3). Whether there was such a bit.
pub fn turn_a_bit(packet: &mut [u8], draw: u64, mends: bool) -> bool {
    let Some((_, _, number, rest, _)) = split(packet) else { return false };
    let begin = packet.len() - rest.len();
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == number);
    // The length of a TCP header stands in its thirteenth byte, in words of 32 bits (RFC 9293); UDP's is 8 (RFC 768).
    let (header, checksum) = match protocol {
        Some(Protocol::Tcp) => (rest.get(12).map_or(usize::MAX, |byte| usize::from(byte >> 4) * 4), 16),
        Some(Protocol::Udp) => (8, 6),
        None => return false,
    };
    let carried = rest.len().saturating_sub(header);
    let (byte, bit) = (draw / 8, draw % 8);
    if carried == 0 || rest.len() < checksum + 2 {
        return false;
    }
    let at = header + (byte % carried as u64) as usize;
    packet[begin + at] ^= 1 << bit;
    let sum = u16::from_be_bytes([packet[begin + checksum], packet[begin + checksum + 1]]);
    // UDP may do without: a checksum of zero is none.
    if mends && !(protocol == Some(Protocol::Udp) && sum == 0) {
        let turned = if at.is_multiple_of(2) { 1_u16 << (bit + 8) } else { 1 << bit };
        let word = |at: usize| u16::from(packet.get(at).copied().unwrap_or_default());
        let even = begin + at - at % 2;
        let end = packet.len();
        let now = word(even) << 8 | if even + 1 < end { word(even + 1) } else { 0 };
        let mut new = u32::from(!sum) + u32::from(!(now ^ turned)) + u32::from(now);
        while new > 0xffff {
            new = (new & 0xffff) + (new >> 16);
        }
        let new = !(new as u16);
        let new = if new == 0 && protocol == Some(Protocol::Udp) { 0xffff } else { new };
        packet[begin + checksum..begin + checksum + 2].copy_from_slice(&new.to_be_bytes());
    }
    true
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

    /// The checksum of a packet's transport, with its pseudo header: zero when it fits (RFC 1071, RFC 793).
    fn misfit(packet: &[u8]) -> u16 {
        let rest = &packet[20..];
        let mut words: Vec<u8> = packet[12..20].to_vec();
        words.extend([0, packet[9]]);
        words.extend((rest.len() as u16).to_be_bytes());
        words.extend(rest);
        words.resize(words.len().next_multiple_of(2), 0);
        let mut sum: u32 =
            words.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn a_turned_bit_is_one_bit_and_its_checksum_fits_only_when_mended(
            payload in proptest::collection::vec(any::<u8>(), 1..64), draw: u64, udp: bool,
        ) {
            let mut transport = if udp { vec![0x18, 0xeb, 0, 80, 0, 0, 0, 0] } else { tcp(16) };
            if udp {
                transport[5] = (8 + payload.len()) as u8;
            } else {
                transport[12] = 5 << 4;
            }
            let header = transport.len();
            transport.extend(&payload);
            let mut packet = v4_packet(if udp { 17 } else { 6 }, 0, &transport);
            let checksum = 20 + if udp { 6 } else { 16 };
            let fit = misfit(&packet).to_be_bytes();
            packet[checksum..checksum + 2].copy_from_slice(&fit);
            prop_assume!(fit != [0, 0]);
            prop_assert_eq!(misfit(&packet), 0);
            let whole = packet.clone();

            let mut broken = whole.clone();
            prop_assert!(turn_a_bit(&mut broken, draw, false));
            let bits: u32 = whole.iter().zip(&broken).map(|(a, b)| (a ^ b).count_ones()).sum();
            prop_assert_eq!(bits, 1);
            prop_assert_eq!(&broken[..20 + header], &whole[..20 + header]);
            prop_assert_ne!(misfit(&broken), 0);

            let mut mended = whole.clone();
            prop_assert!(turn_a_bit(&mut mended, draw, true));
            prop_assert_eq!(&mended[20 + header..], &broken[20 + header..]);
            prop_assert_eq!(misfit(&mended), 0);
        }

        #[test]
        fn no_bytes_make_it_fail(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), six: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if six { 0x60 } else { *first & 0x0f | 0x40 };
            }
            let _ = of(&bytes);
            let _ = turn_a_bit(&mut bytes, 12_345, true);
        }
    }
}
