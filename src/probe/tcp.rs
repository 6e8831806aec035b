//! `tcp`: does a port accept a connection, and say what it should?

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::{Address, Dialled, broken};
use super::{Miss, Probe, Prober, Seen, Setting, Trace, beginning};
use crate::host::names::Names;

/// So much of what is said is read while looking for what is expected.
const HEARD: usize = 64 * 1024;

crate::kind! {
    /// Connects to a TCP port and closes.
    ///
    /// With `send` and `expect` it also says something, and waits until the answer contains what is
    /// expected.
    pub struct Tcp("tcp") {
        /// Where: `host:port`.
        address: Address = required,
        /// Sent once connected, for example `"PING\r\n"`.
        send: String = optional,
        /// What the answer must contain, within its first 64 KiB, for example `"PONG"`.
        expect: String = optional,
    }
}

/// Connects, again and again.
pub struct TcpProber {
    tcp: Tcp,
    names: Names,
    facts: bool,
}

impl Probe for Tcp {
    type Prober = TcpProber;
    const EXAMPLE: &'static str = r#"[probe.redis.tcp]
address = "127.0.0.1:6379"
send    = "PING\r\n"
expect  = "PONG"
every   = "100ms"
"#;

    fn prober(&self, setting: &Setting) -> Result<TcpProber, String> {
        Ok(TcpProber { tcp: self.clone(), names: Names::default(), facts: setting.facts })
    }

    fn looks_at(&self) -> String {
        self.address.to_string()
    }
}

impl Prober for TcpProber {
    async fn look(&self) -> Result<Seen, Miss> {
        let mut trace = Trace::new(self.facts);
        match self.talk(&mut trace).await {
            Ok(()) => Ok(Seen { trace }),
            Err(miss) => Err(Miss { trace, ..miss }),
        }
    }
}

impl TcpProber {
    async fn talk(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Dialled { mut stream, peer } = self.tcp.address.dial(&self.names, trace).await?;
        let begun = Instant::now();
        if let Some(words) = &self.tcp.send {
            stream.write_all(words.as_bytes()).await.map_err(|why| broken(peer, &why))?;
        }
        let Some(expected) = &self.tcp.expect else { return Ok(()) };
        let (mut heard, mut part) = (Vec::new(), [0; 4096]);
        while !heard.windows(expected.len().max(1)).any(|words| words == expected.as_bytes()) {
            let length = match stream.read(&mut part).await {
                Ok(length) if length > 0 && heard.len() < HEARD => length,
                Err(why) if heard.is_empty() => return Err(broken(peer, &why)),
                _ if heard.is_empty() => {
                    return Err(Miss::new(format!("{peer} closed the connection without a word")));
                }
                _ => {
                    let said = beginning(&heard);
                    return Err(Miss::new(format!(
                        "the answer does not contain `{expected}`; it begins `{said}`"
                    )));
                }
            };
            trace.first_byte.get_or_insert_with(|| begun.elapsed());
            heard.extend_from_slice(&part[..length]);
        }
        trace.note("answer", || beginning(&heard));
        Ok(())
    }
}
