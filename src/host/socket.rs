//! Sockets of this host: who listens where, and whose a connection is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::netlink::{Attributes, Messages, PATIENCE, Socket, messages};
use super::process::{Identity, Process};
use super::target::Endpoint;

/// The transport protocols that faults know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// Its number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => libc::IPPROTO_TCP as u8,
            Self::Udp => libc::IPPROTO_UDP as u8,
        }
    }
}

/// A network namespace: the inode of its file, which no other has while it exists (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace(pub u64);

impl Namespace {
    /// The one this thread is in.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn ours() -> io::Result<Self> {
        fs::metadata("/proc/thread-self/ns/net").map(|file| Self(file.ino()))
    }

    /// The one a process is in.
    ///
    /// # Errors
    /// When it is gone or somebody else's.
    pub fn of(pid: i32) -> io::Result<Self> {
        fs::metadata(format!("/proc/{pid}/ns/net")).map(|file| Self(file.ino()))
    }
}

/// A socket that waits for others: a listening TCP socket, or a UDP socket that is connected to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it waits.
    pub at: SocketAddr,
    /// Its inode.
    pub inode: u64,
}

/// Whether an address is one of this host's, in the network namespace of this thread: only then can a socket be
/// bound to it (EADDRNOTAVAIL otherwise, bind(2)).
#[must_use]
pub fn is_ours(address: IpAddr) -> bool {
    !address.is_unspecified() && std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// How long the handshake of a new connection took, by the kernel's own clock: our threads may be late to hear of its end.
/// Until data was sent, the smoothed round trip is that of the SYN (tcp_rtt_estimator, net/ipv4/tcp_input.c). `None` when
/// the SYN was sent more than once, since it is not known then which was answered.
#[must_use]
pub fn handshake(connection: BorrowedFd<'_>) -> Option<Duration> {
    // SAFETY: a struct of integers, all of which may be 0; a kernel that knows fewer of them fills in fewer.
    let mut facts: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&facts) as libc::socklen_t;
    let (fd, into) = (connection.as_raw_fd(), (&raw mut facts).cast());
    // SAFETY: the kernel writes at most `length` bytes, and to what lives through the call.
    let got = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length) };
    (got == 0 && facts.tcpi_total_retrans == 0 && facts.tcpi_rtt > 0)
        .then(|| Duration::from_micros(facts.tcpi_rtt.into()))
}

/// All that listen in the network namespace of this thread.
#[must_use]
pub fn listeners() -> Vec<Listener> {
    tables("/proc/thread-self/net")
}

/// The endpoints on which these processes listen, in their own network namespace.
#[must_use]
pub fn listening(pids: &[i32]) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for pid in pids {
        let theirs = inodes(*pid);
        if theirs.is_empty() {
            continue; // The tables of a namespace take milliseconds to read.
        }
        for listener in tables(&format!("/proc/{pid}/net")).iter().filter(|l| theirs.contains(&l.inode)) {
            let ip = listener.at.ip().to_canonical();
            let address = (!ip.is_unspecified()).then_some(ip);
            let endpoint = Endpoint { address, port: Some(listener.at.port()) };
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
    }
    endpoints
}

fn tables(folder: &str) -> Vec<Listener> {
    // The states of include/net/tcp_states.h: 0A is LISTEN; an unconnected UDP socket is in 07, CLOSE.
    [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ]
    .into_iter()
    .flat_map(|(name, protocol, state)| {
        let text = fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| waiting(line, protocol, state)).collect::<Vec<_>>()
    })
    .collect()
}

/// One line of /proc/net/tcp and its like (proc_net(5)), if its socket is in the state.
fn waiting(line: &str, protocol: Protocol, state: &str) -> Option<Listener> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    if *columns.get(3)? != state {
        return None;
    }
    let (address, port) = columns.get(1)?.split_once(':')?;
    let at = SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?);
    Some(Listener { protocol, at, inode: columns.get(9)?.parse().ok()? })
}

/// An address as the kernel prints it: words of 32 bits, each in the host's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    if !hex.is_ascii() {
        return None;
    }
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|n| u32::from_str_radix(&hex[n * 8..n * 8 + 8], 16).ok().map(u32::to_ne_bytes))
        .collect();
    match words?.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The inodes of all sockets a process holds. Empty when it is gone or somebody else's.
#[must_use]
pub fn inodes(pid: i32) -> BTreeSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Whether a socket is held by one of some processes that live.
#[must_use]
pub fn is_of(inode: u64, processes: &[Identity]) -> bool {
    processes.iter().any(|process| Process::open(process).is_ok() && inodes(process.pid).contains(&inode))
}

/// Any port of ours from which a peer can be reached.
#[must_use]
pub fn any(peer: SocketAddr) -> SocketAddr {
    if peer.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { SocketAddr::from(([0; 16], 0)) }
}

/// Asks the kernel whose a connection is (sock_diag(7)).
#[derive(Debug)]
pub struct Owners(Socket);

impl Owners {
    /// Opens the way to ask, in the network namespace of this thread.
    ///
    /// # Errors
    /// When the kernel has no sock_diag.
    pub fn open() -> io::Result<Self> {
        Socket::open(libc::NETLINK_SOCK_DIAG).map(Self)
    }

    /// The inode of the socket with this local and this remote end; `None` when there is none.
    #[must_use]
    pub fn inode(&self, protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
        // An exact look for UDP takes source and destination the other way round (udp_dump_one,
        // net/ipv4/udp_diag.c). Which socket was found is told by its own port.
        let asked = [(local, remote), (remote, local)];
        let ways = if protocol == Protocol::Udp { &asked[..] } else { &asked[..1] };
        ways.iter()
            .filter_map(|(source, destination)| self.exact(protocol, *source, *destination))
            .find(|found| found.port == local.port())
            .map(|found| found.inode)
    }

    fn exact(&self, protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Option<Found> {
        let family = if source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let mut request = request(family, protocol, u32::MAX); // any state
        request.extend(source.port().to_be_bytes());
        request.extend(destination.port().to_be_bytes());
        request.extend(sixteen(source.ip()));
        request.extend(sixteen(destination.ip()));
        request.extend([0; 4]); // any interface
        request.extend([0xff; 8]); // no cookie
        let mut asked = Messages::new();
        asked.push(SOCK_DIAG_BY_FAMILY, 0, &request, &Attributes::new());
        self.0.send(asked.bytes()).ok()?;
        let mut buffer = [0; 4096];
        let answer = self.0.receive(&mut buffer, PATIENCE).ok()?;
        let found = messages(answer).find(|message| message.kind == SOCK_DIAG_BY_FAMILY)?;
        let (port, inode) = (found.body.get(4..6)?.try_into().ok()?, inode(found.body)?);
        Some(Found { port: u16::from_be_bytes(port), inode })
    }

    /// All established TCP connections of this host, each once per end that is here.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn established(&self) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut request = request(family, Protocol::Tcp, 1 << TCP_ESTABLISHED);
            request.resize(request.len() + ID, 0); // no matter which
            let mut asked = Messages::new();
            asked.push(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, &request, &Attributes::new());
            self.0.send(asked.bytes())?;
            'dump: loop {
                for message in messages(self.0.receive(&mut buffer, PATIENCE)?) {
                    match message.kind {
                        SOCK_DIAG_BY_FAMILY => found.extend(connection(message.body)),
                        libc::NLMSG_DONE => break 'dump,
                        _ => match message.error() {
                            // A kernel without IPv6 has none of its connections.
                            Some(libc::ENOENT | libc::EOPNOTSUPP) => break 'dump,
                            Some(why) if why != 0 => return Err(io::Error::from_raw_os_error(why)),
                            _ => {}
                        },
                    }
                }
            }
        }
        Ok(found)
    }
}

struct Found {
    port: u16,
    inode: u64,
}

/// One end of an established TCP connection, as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// This end.
    pub local: SocketAddr,
    /// The other.
    pub remote: SocketAddr,
    /// The inode of its socket.
    pub inode: u64,
    family: u8,
    id: [u8; ID],
}

impl Connection {
    /// The request that means exactly this one (struct inet_diag_req_v2): its cookie is no other socket's, not even
    /// that of a later one with the same addresses.
    #[must_use]
    pub fn exactly(&self) -> Vec<u8> {
        let mut request = request(i32::from(self.family), Protocol::Tcp, 1 << TCP_ESTABLISHED);
        request.extend(self.id);
        request
    }
}

/// struct inet_diag_msg (include/uapi/linux/inet_diag.h): family, state, two bytes, then the id.
fn connection(body: &[u8]) -> Option<Connection> {
    let family = *body.first()?;
    let id: [u8; ID] = body.get(4..4 + ID)?.try_into().ok()?;
    let end = |port: usize, address: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(id.get(port..port + 2)?.try_into().ok()?);
        let ip: IpAddr = if i32::from(family) == libc::AF_INET {
            <[u8; 4]>::try_from(id.get(address..address + 4)?).ok()?.into()
        } else {
            <[u8; 16]>::try_from(id.get(address..address + 16)?).ok()?.into()
        };
        Some(SocketAddr::new(ip.to_canonical(), port))
    };
    Some(Connection { local: end(0, 4)?, remote: end(2, 20)?, inode: inode(body)?, family, id })
}

/// The inode is the last word of a struct inet_diag_msg.
fn inode(body: &[u8]) -> Option<u64> {
    Some(u64::from(u32::from_ne_bytes(body.get(68..72)?.try_into().ok()?)))
}

/// The beginning of a struct inet_diag_req_v2; a struct inet_diag_sockid follows
/// (include/uapi/linux/inet_diag.h).
fn request(family: i32, protocol: Protocol, states: u32) -> Vec<u8> {
    let mut request = vec![family as u8, protocol.number(), 0, 0];
    request.extend(states.to_ne_bytes());
    request
}

/// The bytes of a struct inet_diag_sockid: ports, addresses, interface, cookie.
const ID: usize = 48;
/// include/net/tcp_states.h
const TCP_ESTABLISHED: u32 = 1;
/// include/uapi/linux/sock_diag.h
const SOCK_DIAG_BY_FAMILY: i32 = 20;

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd as _;

    use super::*;

    fn us() -> i32 {
        std::process::id() as i32
    }

    #[test]
    fn the_kernel_knows_how_long_a_handshake_took_however_late_we_ask() {
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let begun = std::time::Instant::now();
        let connection = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let connected = begun.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        let took = handshake(connection.as_fd()).unwrap();
        // It counts in microseconds, at least one.
        assert!(took <= connected + Duration::from_micros(1), "{took:?} of {connected:?}");
        assert_eq!(handshake(server.as_fd()), None, "nothing was shaken");
    }

    #[test]
    fn a_process_is_found_where_it_listens() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!listening(&[us()]).contains(&Endpoint::from(tcp)), "it was closed");
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::]:0").unwrap());
        let found = listening(&[us()]);
        let port = Some(udp.local_addr().unwrap().port());
        assert!(found.contains(&Endpoint::from(tcp.local_addr().unwrap())), "{found:?}");
        assert!(found.contains(&Endpoint { address: None, port }), "{found:?}");
        assert_eq!(listening(&[i32::MAX]), []);
    }

    #[test]
    fn an_address_is_ours_or_somebody_elses() {
        assert!(is_ours("127.0.0.1".parse().unwrap()));
        // TEST-NET-1 (RFC 5737): nobody has it.
        assert!(!is_ours("192.0.2.1".parse().unwrap()) && !is_ours("0.0.0.0".parse().unwrap()));
    }

    #[test]
    fn a_connection_belongs_to_the_process_that_made_it() {
        let owners = Owners::open().unwrap();
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
            let (near, far) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let inode = owners.inode(Protocol::Tcp, near, far).unwrap();
            assert!(inodes(us()).contains(&inode));
            assert_ne!(owners.inode(Protocol::Tcp, far, near), Some(inode), "that is the other end");
            drop(client);
            assert!(!inodes(us()).contains(&inode));

            let (server, client) = (UdpSocket::bind(bind).unwrap(), UdpSocket::bind(bind).unwrap());
            let (near, far) = (client.local_addr().unwrap(), server.local_addr().unwrap());
            let inode = owners.inode(Protocol::Udp, near, far).unwrap();
            assert!(inodes(us()).contains(&inode));
            assert_ne!(owners.inode(Protocol::Udp, far, near), Some(inode));
        }
    }

    #[test]
    fn established_connections_are_listed_by_both_their_ends_and_listeners_are_not() {
        let owners = Owners::open().unwrap();
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(bind).unwrap();
            let at = server.local_addr().unwrap();
            let of_it = |c: &Connection| c.local == at || c.remote == at;
            assert!(!owners.established().unwrap().iter().any(of_it));
            let client = TcpStream::connect(at).unwrap();
            let (near, far) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let found = owners.established().unwrap();
            let ours = found.iter().find(|c| (c.local, c.remote) == (near, far)).unwrap();
            assert!(inodes(us()).contains(&ours.inode));
            assert_eq!(found.iter().filter(|c| of_it(c)).count(), 2);
        }
    }

    #[test]
    fn lines_that_are_no_listener_are_passed_over() {
        let line = "  0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1";
        let found = waiting(line, Protocol::Tcp, "0A").unwrap();
        assert_eq!((found.at, found.inode), ("127.0.0.1:6379".parse().unwrap(), 4711));
        for torn in ["", "0: 0100007F:18EB", "0: XX:18EB x 0A a b c d e 1", &line.replace("0A", "01")] {
            assert_eq!(waiting(torn, Protocol::Tcp, "0A"), None, "{torn}");
        }
    }
}
