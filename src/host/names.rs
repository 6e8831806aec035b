//! Names to addresses without the C library's name service, which a static binary does not have.
//!
//! Which address a look goes to is never left to chance or to a race: a literal is itself; then the first
//! fitting line of /etc/hosts; then `localhost` and `*.localhost` are loopback, whatever the host says
//! (RFC 6761, section 6.3); then the name servers of /etc/resolv.conf, one after the other in their order.
//! Of several addresses the first IPv4 one counts, and an IPv6 one only where there is no IPv4 one, unless the
//! caller says which [`Family`] it wants.
//!
//! Nothing is kept between two lookups, so that each sees what a program started now would see, also when
//! a fault has changed those files or the servers' answers.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{
    LookupIpStrategy, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::standpoint::{Nowhere, Place};

/// So long a name server is waited for over TCP, where resolv.conf does not say.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where name servers listen (RFC 1035, section 4.2).
pub const PORT: u16 = 53;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// The servers know no such name, or no address of it.
    #[error("the name `{0}` has no address")]
    NoAddress(String),
    /// There is none of the family that was asked for.
    #[error("the name `{name}` has no {family} address")]
    NoneOf {
        /// The name.
        name: String,
        /// The family.
        family: &'static str,
    },
    /// The servers did not answer, or with an error.
    #[error("the name `{name}` cannot be looked up: {why}")]
    NoAnswer {
        /// The name.
        name: String,
        /// What came instead.
        why: String,
    },
    /// It is looked up from elsewhere, and we cannot get there.
    #[error(transparent)]
    Nowhere(#[from] Nowhere),
    /// This host does not say whom to ask.
    #[error("the name `{name}` cannot be looked up: {}: {why}; name a server there, or use an address", .file.display())]
    NoServer {
        /// The name.
        name: String,
        /// The file that should say.
        file: PathBuf,
        /// What is wrong with it.
        why: io::Error,
    },
}

/// Which addresses of a name are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 ones; IPv6 ones only where there is none.
    Any,
    /// IPv4 ones.
    V4,
    /// IPv6 ones.
    V6,
    /// All, IPv4 ones first.
    Both,
}

impl Family {
    fn fitting(self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let (mut four, six): (Vec<IpAddr>, Vec<IpAddr>) = addresses.partition(IpAddr::is_ipv4);
        match self {
            Self::Any if four.is_empty() => six,
            Self::Any | Self::V4 => four,
            Self::V6 => six,
            Self::Both => {
                four.extend(six);
                four
            }
        }
    }

    fn strategy(self) -> LookupIpStrategy {
        match self {
            Self::Any => LookupIpStrategy::Ipv4thenIpv6,
            Self::V4 => LookupIpStrategy::Ipv4Only,
            Self::V6 => LookupIpStrategy::Ipv6Only,
            Self::Both => LookupIpStrategy::Ipv4AndIpv6,
        }
    }

    fn none(self, name: &str) -> NameError {
        let family = match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Any | Self::Both => return NameError::NoAddress(name.to_owned()),
        };
        NameError::NoneOf { name: name.to_owned(), family }
    }
}

/// Where names are looked up, and from where their addresses are reached.
#[derive(Debug, Clone)]
pub struct Names {
    /// Another place than ours.
    place: Option<Place>,
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// Another port than 53, for a server of the tests.
    port: Option<u16>,
}

impl Names {
    /// As programs of this host know them, or of another place.
    #[must_use]
    pub fn of(place: Option<Place>) -> Self {
        Self { place, hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: None }
    }

    /// Does something where names are looked up: opens a socket.
    ///
    /// # Errors
    /// When we cannot get there.
    pub async fn within<T: Send>(&self, work: impl Fn() -> T + Send + Sync) -> Result<T, Nowhere> {
        match &self.place {
            None => Ok(work()),
            Some(place) => place.within(work).await,
        }
    }

    /// What a command enters to reach their addresses.
    ///
    /// # Errors
    /// When we cannot get there.
    pub async fn door(&self) -> Result<Option<File>, Nowhere> {
        match &self.place {
            None => Ok(None),
            Some(place) => place.door().await.map(Some),
        }
    }

    /// The address of a name, looked up anew. How long it may take is the caller's to say.
    ///
    /// # Errors
    /// When there is none; the sentence names the name.
    pub async fn look_up(&self, name: &str) -> Result<IpAddr, NameError> {
        let all = self.all(name, Family::Any).await?;
        all.first().copied().ok_or_else(|| NameError::NoAddress(name.to_owned()))
    }

    /// All addresses of a name, looked up anew, at least one; a literal address is itself, whatever is asked for. How
    /// long it may take is the caller's to say.
    ///
    /// # Errors
    /// When there is none; the sentence names the name.
    pub async fn all(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, NameError> {
        if let Ok(literal) = name.parse() {
            return Ok(vec![literal]);
        }
        let plain = name.trim_end_matches('.').to_ascii_lowercase();
        // A host without the file has no names of its own.
        let hosts = match &self.place {
            None => std::fs::read(&self.hosts),
            Some(place) => place.configuration("hosts").await,
        };
        let hosts =
            hosts.map_or_else(|_| String::new(), |hosts| String::from_utf8_lossy(&hosts).into_owned());
        let mut found = family.fitting(of_hosts(&hosts, &plain));
        if found.is_empty() && (plain == "localhost" || plain.ends_with(".localhost")) {
            found = family.fitting([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].into_iter());
        }
        if found.is_empty() {
            let asked = self.resolver(name, family).await?.lookup_ip(name).await;
            let asked = asked.map_err(|why| match unanswered(name, &why) {
                NameError::NoAddress(_) => family.none(name),
                other => other,
            })?;
            found = family.fitting(asked.iter());
        }
        if found.is_empty() { Err(family.none(name)) } else { Ok(found) }
    }

    /// The name servers that are asked, in their order.
    ///
    /// # Errors
    /// When this host does not say whom to ask.
    pub fn servers(&self) -> io::Result<Vec<SocketAddr>> {
        let (_, _, servers) = read_resolv_conf(std::fs::read(&self.resolv_conf))?.0.into_parts();
        Ok(servers.iter().map(|server| SocketAddr::new(server.ip, self.port.unwrap_or(PORT))).collect())
    }

    async fn resolver(&self, name: &str, family: Family) -> Result<Resolver<Sockets>, NameError> {
        let no_server =
            |why| NameError::NoServer { name: name.to_owned(), file: self.resolv_conf.clone(), why };
        let said = match &self.place {
            None => std::fs::read(&self.resolv_conf),
            Some(place) => place.configuration("resolv.conf").await,
        };
        let (config, mut options) = read_resolv_conf(said).map_err(no_server)?;
        options.ip_strategy = family.strategy();
        options.use_hosts_file = ResolveHosts::Never;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        options.num_concurrent_reqs = 1;
        options.cache_size = 0;
        let (domain, search, mut servers) = config.into_parts();
        for connection in servers.iter_mut().flat_map(|server| &mut server.connections) {
            connection.port = self.port.unwrap_or(connection.port);
        }
        let config = ResolverConfig::from_parts(domain, search, servers);
        let mut builder = Resolver::builder_with_config(config, Sockets::of(self.place.clone()));
        *builder.options_mut() = options;
        builder.build().map_err(|why| unanswered(name, &why))
    }
}

fn read_resolv_conf(said: io::Result<Vec<u8>>) -> io::Result<(ResolverConfig, ResolverOpts)> {
    parse_resolv_conf(said?).map_err(io::Error::other)
}

/// The sockets of the resolver, opened where names are looked up.
#[derive(Clone)]
struct Sockets {
    place: Option<Place>,
    ours: TokioRuntimeProvider,
}

impl Sockets {
    fn of(place: Option<Place>) -> Self {
        Self { place, ours: TokioRuntimeProvider::default() }
    }
}

impl RuntimeProvider for Sockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.ours.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        from: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let Some(place) = self.place.clone() else { return self.ours.connect_tcp(server, from, within) };
        Box::pin(async move {
            let socket = place.within(|| tcp_socket(server)).await.map_err(io::Error::other)??;
            let stream = tokio::time::timeout(within.unwrap_or(PATIENCE), socket.connect(server)).await??;
            stream.set_nodelay(true)?;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let Some(place) = self.place.clone() else { return self.ours.bind_udp(local, server) };
        Box::pin(async move { place.within(|| udp_socket(local)).await.map_err(io::Error::other)? })
    }
}

/// A socket that can connect to an address, in the network of this thread.
///
/// # Errors
/// As the kernel says.
pub fn tcp_socket(to: SocketAddr) -> io::Result<TcpSocket> {
    if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// A socket of a local address, in the network of this thread, which must know a runtime.
///
/// # Errors
/// As the kernel says.
pub fn udp_socket(local: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(local)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// The addresses that hosts(5) gives a name.
fn of_hosts<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    text.lines().filter_map(move |line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    })
}

/// The resolver's errors hold query numbers and times; equal troubles must read alike.
fn unanswered(name: &str, why: &NetError) -> NameError {
    let why = match why {
        NetError::Dns(DnsError::NoRecordsFound(_)) => return NameError::NoAddress(name.to_owned()),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the name server said: {code}"),
        NetError::Timeout => "no name server answered".to_owned(),
        other => other.to_string(),
    };
    NameError::NoAnswer { name: name.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn names(folder: &Path, hosts: &str, resolv_conf: &str) -> Names {
        let names = Names {
            place: None,
            hosts: folder.join("hosts"),
            resolv_conf: folder.join("resolv.conf"),
            port: None,
        };
        std::fs::write(&names.hosts, hosts).unwrap();
        std::fs::write(&names.resolv_conf, resolv_conf).unwrap();
        names
    }

    /// Answers every question: A with 192.0.2.7, AAAA with nothing, names that begin with `no` not at all.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut packet).await.unwrap();
                let question_ends =
                    12 + packet[12..length].iter().position(|byte| *byte == 0).unwrap() + 1 + 4;
                let kind = packet[question_ends - 3];
                let known = kind == 1 && packet[13..15] != *b"no";
                let mut answer = packet[..question_ends].to_vec();
                answer[2] = 0x81;
                answer[3] = if known { 0x80 } else { 0x83 };
                answer[6..12].copy_from_slice(&[0, u8::from(known), 0, 0, 0, 0]);
                if known {
                    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
                }
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn literals_the_hosts_file_and_localhost_need_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = "# mine\n::1 six both # tail\n10.1.2.3 Both other\n10.9.9.9 both\nnonsense both\n";
        let names = names(folder.path(), hosts, "");
        for (name, address) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("both", "10.1.2.3"),
            ("OTHER.", "10.1.2.3"),
            ("six", "::1"),
            ("localhost", "127.0.0.1"),
            ("a.b.localhost", "127.0.0.1"),
        ] {
            assert_eq!(names.look_up(name).await.unwrap(), address.parse::<IpAddr>().unwrap(), "{name}");
        }
        for (name, family, addresses) in [
            ("both", Family::Any, "10.1.2.3 10.9.9.9"),
            ("both", Family::V6, "::1"),
            ("both", Family::Both, "10.1.2.3 10.9.9.9 ::1"),
            ("a.localhost", Family::V6, "::1"),
            ("192.0.2.1", Family::V6, "192.0.2.1"),
        ] {
            let found: Vec<String> =
                names.all(name, family).await.unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), addresses, "{name} {family:?}");
        }
        std::fs::write(&names.hosts, "10.7.7.7 both").unwrap();
        assert_eq!(names.look_up("both").await.unwrap().to_string(), "10.7.7.7", "read anew");
        let nobody = Names {
            place: None,
            hosts: "/no/hosts".into(),
            resolv_conf: "/no/resolv.conf".into(),
            port: None,
        };
        assert_eq!(nobody.look_up("localhost").await.unwrap().to_string(), "127.0.0.1");
        assert_eq!(
            nobody.look_up("example.com").await.unwrap_err().to_string(),
            "the name `example.com` cannot be looked up: /no/resolv.conf: No such file or directory (os error 2); name a server there, or use an address"
        );
    }

    #[tokio::test]
    async fn a_name_server_is_asked_and_its_no_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut names = names(folder.path(), "", "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n");
        names.port = Some(server().await.port());
        assert_eq!(names.look_up("shop.example").await.unwrap().to_string(), "192.0.2.7");
        let why = names.look_up("nothing.example").await.unwrap_err().to_string();
        assert_eq!(why, "the name `nothing.example` has no address");
        let why = names.all("shop.example", Family::V6).await.unwrap_err().to_string();
        assert_eq!(why, "the name `shop.example` has no IPv6 address");
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_one_is_an_error_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let names = names(folder.path(), "", "nameserver 127.0.0.1\n");
        assert!(names.look_up(&"x".repeat(300)).await.is_err());
        assert!(names.look_up("a..b").await.is_err());
    }
}
