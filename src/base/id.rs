//! Names that tie everything a run leaves on a host to that run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A run: eight lower-case hexadecimal digits, part of every name the run gives to a table, file,
/// mark or cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(u32);

impl RunId {
    /// A new run's id. Not drawn from the experiment's seed: two runs of one seed must not share it.
    #[must_use]
    pub fn fresh() -> Self {
        Self(rand::random())
    }

    /// The id as a number, for places that hold only 32 bits (packet marks, queue numbers).
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The text is not eight hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a run id: eight hexadecimal digits, as in `brownout recover --list`")]
pub struct NotARunId(String);

impl FromStr for RunId {
    type Err = NotARunId;

    fn from_str(text: &str) -> Result<Self, NotARunId> {
        match u32::from_str_radix(text, 16) {
            Ok(number) if text.len() == 8 => Ok(Self(number)),
            _ => Err(NotARunId(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = NotARunId;

    fn try_from(text: String) -> Result<Self, NotARunId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}
