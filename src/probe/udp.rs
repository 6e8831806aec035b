//! `udp`: does a port answer a datagram?

use std::net::SocketAddr;

use super::dial::{Address, broken, datagrams, look_up};
use super::expect::Expect;
use super::payload::Payload;
use super::{Miss, Probe, Prober, Setting, Trace, timed};
use crate::host::datagram::{LONGEST, hear};
use crate::host::names::Names;

crate::kind! {
    /// Sends a datagram and judges the first one that comes back.
    ///
    /// Nothing tells a lost datagram from a port that does not answer: both are bad at the timeout. A port where
    /// nobody listens is told at once where the host says so (ICMP).
    pub struct Udp("udp") {
        /// Where: `host:port`.
        address: Address = required,
        /// What is sent: a string, or `{ hex = "00 ff" }`.
        send: Payload = required,
        /// What the answer must be: `is`, `contains`, `regex` (`(?-u)\xff` matches a byte), `json` (a table of JSON paths
        /// and values), `above` and `below` (of a number).
        expect: Expect = "{}",
    }
}

/// Sends, again and again.
pub struct UdpProber {
    udp: Udp,
    names: Names,
}

impl Probe for Udp {
    type Prober = UdpProber;
    const EXAMPLE: &'static str = r#"[probe.stun.udp]
address = "127.0.0.1:3478"
send    = { hex = "00010000 2112a442 00000000 00000000 00000000" }
expect  = { regex = "(?s-u)^\\x01\\x01" }   # a binding response (RFC 8489)
every   = "1s"
"#;

    fn prober(&self, setting: &Setting) -> Result<UdpProber, String> {
        Ok(UdpProber { udp: self.clone(), names: setting.names() })
    }

    fn looks_at(&self) -> String {
        self.address.to_string()
    }
}

impl Prober for UdpProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Udp { address, send: Payload(sent), expect } = &self.udp;
        let peer = SocketAddr::new(look_up(&address.host, &self.names, trace).await?, address.port);
        trace.note("peer", || peer.to_string());
        let socket = datagrams(peer, &self.names).await?;
        let asking = async {
            socket.send(sent).await?;
            let mut answer = vec![0; LONGEST];
            let length = hear(&socket, &mut answer).await?;
            answer.truncate(length);
            Ok(answer)
        };
        let answer = timed(&mut trace.first_byte, asking).await.map_err(|why| broken(peer, &why))?;
        expect.wrong("the answer", &answer, trace).map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}
