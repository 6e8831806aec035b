//! `tcp`: does a port accept a connection?

use std::time::Instant;

use tokio::net::TcpStream;

use super::{Miss, Phases, Probe, Prober, Seen, Setting};

crate::kind! {
    /// Connects to a TCP port and closes.
    pub struct Tcp("tcp") {
        /// Where: `host:port`.
        address: String = required,
    }
}

/// Connects, again and again.
pub struct TcpProber {
    address: String,
}

impl Probe for Tcp {
    type Prober = TcpProber;

    fn prober(&self, _: &Setting) -> Result<TcpProber, String> {
        Ok(TcpProber { address: self.address.clone() })
    }

    fn looks_at(&self) -> String {
        self.address.clone()
    }
}

impl Prober for TcpProber {
    async fn look(&self) -> Result<Seen, Miss> {
        let begun = Instant::now();
        match TcpStream::connect(&self.address).await {
            Ok(_) => Ok(Seen { phases: Phases { connect: Some(begun.elapsed()), ..Phases::default() } }),
            Err(why) => Err(Miss::new(format!("{}: {why}", self.address))),
        }
    }
}
