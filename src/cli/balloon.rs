//! `brownout balloon`: holds memory for a run. Started by the run, not by people.

use super::Exit;
use crate::hands::balloon::hold;

#[derive(clap::Args)]
pub(super) struct Balloon {
    /// What it is found by
    mark: String,
    /// How much it holds
    bytes: u64,
    /// What it leaves to others
    floor: u64,
}

impl Balloon {
    pub(super) fn run(self) -> Exit {
        match hold(self.bytes, self.floor) {
            Ok(()) => Exit::Passed,
            Err(_) => Exit::Bug, // Nobody reads what it says.
        }
    }
}
