//! Reaching a port: the name, the connection, and what its failures are called.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde_json::{Value as Json, json};
use tokio::net::{TcpStream, UdpSocket};

use super::{Miss, Trace, read_text, security, timed};
use crate::file::{Mistakes, Node, Read};
use crate::host::names::{Family, NameError, Names, tcp_socket, udp_socket};
use crate::host::socket::any;

/// A `host:port`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    fn parse(text: &str) -> Result<Self, (String, &'static str)> {
        const REMEDY: &str = "write it as \"host:port\", \"192.0.2.7:80\" or \"[2001:db8::7]:80\"";
        let wrong = |why: &str| (format!("`{text}` is not an address: {why}"), REMEDY);
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = match port.parse() {
            Ok(0) | Err(_) => return Err(wrong("the port is not a number from 1 to 65535")),
            Ok(port) => port,
        };
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong("what stands in brackets is not an IPv6 address")),
            None => host,
        };
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        if host.is_empty() || host.contains(odd) || (host.contains(':') && !text.starts_with('[')) {
            return Err(wrong("the host is not a name or an address"));
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// Looks the name up and connects, noting both times. A literal address has no lookup.
    pub(super) async fn dial(&self, names: &Names, trace: &mut Trace) -> Result<Dialled, Miss> {
        let peer = SocketAddr::new(look_up(&self.host, names, trace).await?, self.port);
        connect(peer, names, trace).await
    }
}

/// Connects from where names are looked up, noting the time.
pub(super) async fn connect(peer: SocketAddr, names: &Names, trace: &mut Trace) -> Result<Dialled, Miss> {
    trace.note("peer", || peer.to_string());
    let socket = names.within(|| tcp_socket(peer)).await.map_err(|why| Miss::ours(why.to_string()))?;
    let socket = socket.map_err(|why| broken(peer, &why))?;
    let stream = timed(&mut trace.connect, socket.connect(peer)).await;
    let stream = stream.map_err(|why| broken(peer, &why))?;
    // Requests are small and waited for: Nagle's algorithm would only add the peer's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    Ok(Dialled { stream, peer })
}

/// The address of a host, noting the time of the lookup. A literal address has none.
pub(super) async fn look_up(host: &str, names: &Names, trace: &mut Trace) -> Result<IpAddr, Miss> {
    if let Ok(literal) = host.parse() {
        return Ok(literal);
    }
    timed(&mut trace.lookup, names.look_up(host)).await.map_err(|why| no_address(&why))
}

/// All addresses of a host, otherwise as [`look_up`].
pub(super) async fn look_up_all(
    host: &str,
    family: Family,
    names: &Names,
    trace: &mut Trace,
) -> Result<Vec<IpAddr>, Miss> {
    if let Ok(literal) = host.parse() {
        return Ok(vec![literal]);
    }
    timed(&mut trace.lookup, names.all(host, family)).await.map_err(|why| no_address(&why))
}

fn no_address(why: &NameError) -> Miss {
    let ours = matches!(why, NameError::NoServer { .. } | NameError::Nowhere(_));
    Miss { ours, why: why.to_string() }
}

/// A socket for datagrams to a peer, opened where names are looked up. Connected, it hears nobody else, and hears what the
/// host says about the port.
pub(super) async fn datagrams(peer: SocketAddr, names: &Names) -> Result<UdpSocket, Miss> {
    let socket = names.within(|| udp_socket(any(peer))).await.map_err(|why| Miss::ours(why.to_string()))?;
    let socket = socket.map_err(|why| broken(peer, &why))?;
    socket.connect(peer).await.map_err(|why| broken(peer, &why))?;
    Ok(socket)
}

/// An open connection.
pub(super) struct Dialled {
    pub stream: TcpStream,
    pub peer: SocketAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Read for Address {
    const NAME: &'static str = "host:port";
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        read_text(node, mistakes, Self::parse)
    }
    fn schema() -> Json {
        json!({"type": "string", "pattern": "^.+:[0-9]+$"})
    }
}

/// What a connection is called that the peer closed, before or after it had begun to answer.
pub(super) fn ended(peer: impl fmt::Display, begun: bool) -> Miss {
    Miss::new(if begun {
        format!("{peer} closed the connection in the middle of the answer")
    } else {
        format!("{peer} closed the connection without an answer")
    })
}

/// What a broken connection is called. What only we can be to blame for (connect(2), socket(2)) says
/// nothing about the system.
pub(super) fn broken(peer: impl fmt::Display, why: &io::Error) -> Miss {
    // With TLS 1.3 a server refuses us when its part of the handshake is long over.
    if let Some(why) = why.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Miss::new(format!("TLS with {peer}: {}", security::refused(why)));
    }
    match (why.kind(), why.raw_os_error()) {
        (io::ErrorKind::ConnectionRefused, _) => Miss::new(format!("connection refused by {peer}")),
        (io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _) => {
            Miss::new(format!("connection reset by {peer}"))
        }
        (io::ErrorKind::UnexpectedEof, _) => Miss::new(format!("connection closed by {peer}")),
        (
            _,
            Some(
                libc::EADDRNOTAVAIL
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EAGAIN,
            ),
        ) => Miss::ours(format!("we could not connect to {peer}: {why}")),
        _ => Miss::new(format!("{peer}: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_wrong_ones_refused_with_the_reason() {
        for text in ["localhost:80", "a.b-c_d:1", "192.0.2.7:65535", "[2001:db8::7]:80"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        for (text, why) in [
            ("localhost", "the port is missing"),
            ("localhost:", "the port is not a number from 1 to 65535"),
            ("localhost:0", "the port is not a number from 1 to 65535"),
            ("localhost:65536", "the port is not a number from 1 to 65535"),
            (":80", "the host is not a name or an address"),
            ("::1:80", "the host is not a name or an address"),
            ("a b:80", "the host is not a name or an address"),
            ("http://a:80", "the host is not a name or an address"),
            ("[a]:80", "what stands in brackets is not an IPv6 address"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err().0, format!("`{text}` is not an address: {why}"));
        }
    }

    #[test]
    fn what_is_our_own_fault_is_told_apart() {
        let ours = |errno| broken("127.0.0.1:80", &io::Error::from_raw_os_error(errno)).ours;
        assert!(ours(libc::EADDRNOTAVAIL) && ours(libc::EMFILE));
        assert!(!ours(libc::ECONNREFUSED) && !ours(libc::ENETUNREACH) && !ours(libc::ETIMEDOUT));
    }
}
