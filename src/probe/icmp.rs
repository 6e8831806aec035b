//! `icmp`: does a host answer an echo request?

use std::io;
use std::net::IpAddr;

use super::dial::look_up;
use super::{Miss, Probe, Prober, Setting, Trace, timed};
use crate::base::Bytes;
use crate::host::names::Names;
use crate::host::ping::{Echo, Ping};

/// As much as a packet of IPv4 holds beside its head and that of the request.
const LARGEST: u64 = 65_507;

crate::kind! {
    /// Sends an echo request (a ping) and waits for the reply.
    ///
    /// It needs no rights where `net.ipv4.ping_group_range` names our group, else CAP_NET_RAW. A host on the way
    /// that stops the request is told.
    pub struct Icmp("icmp") {
        /// Whom: a name or an address.
        host: String = required,
        /// How much is sent, at most 65507 bytes. More than fits into one packet on the way goes in pieces.
        size: Bytes = "56B",
        /// How many hops it may go; as many as this host lets packets go when absent.
        ttl: u16 = optional,
    }
}

/// Asks, again and again.
pub struct IcmpProber {
    icmp: Icmp,
    ttl: Option<u8>,
    payload: Vec<u8>,
    names: Names,
}

impl Probe for Icmp {
    type Prober = IcmpProber;
    const EXAMPLE: &'static str = r#"[probe.gateway.icmp]
host  = "192.0.2.1"
every = "1s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let odd = |c: char| c.is_whitespace() || c.is_control() || "/[]@?#".contains(c);
        let wrong = if self.host.is_empty() || self.host.contains(odd) {
            Some((format!("`{}` is not a host", self.host), "give a name or an address, without a port"))
        } else if self.size.0 > LARGEST {
            Some((format!("{} do not fit into a packet", self.size), "use at most 65507B"))
        } else if self.ttl.is_some_and(|ttl| !(1..=255).contains(&ttl)) {
            Some(("`ttl` is out of range".to_owned(), "use 1 to 255"))
        } else {
            None
        };
        wrong.map_or(Ok(()), |(what, remedy)| Err((what, remedy.to_owned())))
    }

    fn prober(&self, setting: &Setting) -> Result<IcmpProber, String> {
        let payload = (0..self.size.0).map(|n| n as u8).collect();
        let ttl = self.ttl.and_then(|ttl| u8::try_from(ttl).ok());
        Ok(IcmpProber { icmp: self.clone(), ttl, payload, names: setting.names() })
    }

    fn looks_at(&self) -> String {
        self.host.clone()
    }
}

impl Prober for IcmpProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let to = look_up(&self.icmp.host, &self.names, trace).await?;
        trace.note("peer", || to.to_string());
        let ping = self.names.within(|| Ping::open(to, self.ttl)).await;
        let ping = ping.map_err(|why| Miss::ours(why.to_string()))?.map_err(|why| not_sent(to, &why))?;
        trace.note("socket", || if ping.is_raw() { "raw" } else { "ping" }.to_owned());
        let echo = timed(&mut trace.first_byte, ping.echo(1, &self.payload)).await;
        match echo.map_err(|why| not_sent(to, &why))? {
            Echo::Back => Ok(()),
            Echo::Changed => Err(Miss::new(format!("{to} sends back other bytes than it was sent"))),
            Echo::Stopped { by, kind, code } => {
                let by = by.map_or_else(String::new, |by| format!(", says {by}"));
                Err(Miss::new(format!("{to}: {}{by}", said(to, kind, code))))
            }
        }
    }
}

fn not_sent(to: IpAddr, why: &io::Error) -> Miss {
    match (why.kind(), why.raw_os_error()) {
        (io::ErrorKind::PermissionDenied, _) => Miss::ours(
            "we may not send echo requests; set net.ipv4.ping_group_range, or run as root (CAP_NET_RAW)",
        ),
        (_, Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)) => {
            Miss::ours(format!("we could not ask {to}: {why}"))
        }
        _ => Miss::new(format!("{to}: {why}")),
    }
}

/// What a host on the way means (RFC 792, RFC 1812, RFC 4443).
fn said(to: IpAddr, kind: u8, code: u8) -> String {
    let words = match (to, kind, code) {
        (IpAddr::V4(_), 11, _) | (IpAddr::V6(_), 3, _) => "its time to live is over",
        (IpAddr::V4(_), 3, 0) | (IpAddr::V6(_), 1, 0) => "there is no route",
        (IpAddr::V4(_), 3, 1) | (IpAddr::V6(_), 1, 3) => "the host cannot be reached",
        (IpAddr::V4(_), 3, 4) | (IpAddr::V6(_), 2, _) => "the packet is too large",
        (IpAddr::V4(_), 3, 9 | 10 | 13) | (IpAddr::V6(_), 1, 1) => "it is forbidden",
        _ => return format!("stopped by ICMP type {kind}, code {code}"),
    };
    words.to_owned()
}
