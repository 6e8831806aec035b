//! What the faults that limit a control group have in common.

use serde::{Deserialize, Serialize};

use super::{Ability, FaultError, Owed, Refusal, Site, UndoError, process_claims};
use crate::hands::fence::{Controller, Fence, FenceError, Ground};
use crate::host::process::{Identity, Process};
use crate::undo::{Claim, Tier};

/// The limits of a group, and whose they are: the undo record of all these faults.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fenced {
    pub(super) fence: Fence,
    targets: Vec<Identity>,
}

impl Fenced {
    pub(super) fn of(fence: Fence, site: &Site) -> Self {
        Self { fence, targets: site.identities() }
    }

    pub(super) fn put_up(&self, site: &Site) -> Result<(), FaultError> {
        self.fence.put_up(&site.target.pids()).map_err(|why| FaultError(why.to_string()))
    }

    pub(super) fn ground(&self) -> &Ground {
        &self.fence.ground
    }

    /// A target that lives and is not in the group that is limited.
    pub(super) fn outside(&self) -> Option<i32> {
        let inside = self.ground().inside();
        // One that has ended is in no group, even while nobody has collected it.
        let lives = |target: &Identity| Process::open(target).is_ok_and(|process| process.is_alive());
        let out = self.targets.iter().find(|target| !inside.contains(&target.pid) && lives(target));
        out.map(|target| target.pid)
    }
}

impl Owed for Fenced {
    async fn undo(&self) -> Result<(), UndoError> {
        self.fence.take_down().map_err(|why| UndoError(why.to_string()))
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.fence.stands().map_err(|why| UndoError(why.to_string()))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let mut claims = process_claims(host, &self.targets);
        claims.push(Claim::shared(host, self.fence.claims()));
        claims
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        self.fence.by_hand()
    }
}

pub(super) fn refusal(site: &Site, why: &FenceError) -> Refusal {
    match why {
        FenceError::Refused { why, remedy } => site.refuse(why.clone(), remedy),
        FenceError::System { .. } => site.refuse(why.to_string(), "run as root, where cgroups are mounted"),
    }
}

pub(super) fn ability(controller: Controller) -> Ability {
    let tier = Some(Tier::Watchdog);
    match Ground::attempt(controller) {
        Ok(true) => Ability::yes("any process", tier),
        Ok(false) => Ability::limited(
            "what has a cgroup to itself, such as a service of systemd",
            tier,
            "give the target a cgroup of its own (`systemd-run --scope`)",
        ),
        Err(FenceError::Refused { why, remedy }) => Ability::no(why, remedy),
        Err(why) => Ability::no(why.to_string(), "run as root, where cgroups are mounted"),
    }
}
