//! What the kinds that ask a database share: why there is no answer, and how an answer is judged.

use std::io;
use std::net::SocketAddr;

use super::dial::{broken, ended};
use super::expect::Expect;
use super::{Miss, Trace};

/// Why there is no answer.
pub(super) enum Failed {
    /// The connection broke.
    Io(io::Error),
    /// What no server of this protocol says.
    Odd(String),
    /// The server's own words, or ours.
    Refused(String),
}

impl From<io::Error> for Failed {
    fn from(why: io::Error) -> Self {
        Self::Io(why)
    }
}

impl Failed {
    /// As the reason of a look: what was being done with whom, and whose protocol it should be.
    pub(super) fn miss(self, doing: &str, peer: SocketAddr, whose: &str) -> Miss {
        match self {
            Self::Io(why) if why.kind() == io::ErrorKind::UnexpectedEof => ended(peer, false),
            Self::Io(why) => broken(peer, &why),
            Self::Odd(what) => Miss::new(format!("{peer} does not speak {whose}'s protocol: {what}")),
            Self::Refused(why) => Miss::new(format!("the {doing} is refused: {why}")),
        }
    }
}

/// Judges the first column of the first of some rows.
pub(super) fn judge(expect: &Expect, answer: &[u8], rows: u64, trace: &mut Trace) -> Result<(), Miss> {
    trace.measure("rows", rows as f64, || rows.to_string());
    expect.wrong("the answer", answer, trace).map_or(Ok(()), |why| Err(Miss::new(why)))
}
