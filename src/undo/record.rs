//! What the log asks of the records it keeps.

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Claim;

/// Who undoes a harm if we are killed, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// The harm hangs on an object that dies with its holder.
    Kernel,
    /// Our watchdog process.
    Watchdog,
    /// `brownout recover`, or the next run.
    NextStart,
    /// A person, with the command we print.
    ByHand,
    /// Nobody: it is over when it is done.
    NotReversible,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "the kernel ends it when we die",
            Self::Watchdog => "the watchdog undoes it",
            Self::NextStart => "`brownout recover` or the next start undoes it",
            Self::ByHand => "a person undoes it, with the command we print",
            Self::NotReversible => "it cannot be taken back: whatever supervises the target brings it back",
        })
    }
}

/// All that undoing one harm needs.
pub trait Record: Serialize + DeserializeOwned {
    /// What no other fault or run may touch until it is undone.
    fn claims(&self) -> Vec<Claim>;
    /// Who undoes it if we are killed.
    fn tier(&self) -> Tier;
    /// The time since boot (`base::clock::since_boot`) by which it ends, whatever its runner does.
    fn deadline(&self) -> Option<Duration>;
    /// The command a person would type.
    fn by_hand(&self) -> String;
}
