//! What the faults that limit a control group have in common.

use super::{Ability, Refusal, Site, process_claims};
use crate::hands::fence::{Controller, Fence, FenceError, Ground};
use crate::host::process::{Identity, Process};
use crate::undo::{Claim, Tier};

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

pub(super) fn claims(host: &str, fence: &Fence, targets: &[Identity]) -> Vec<Claim> {
    let mut claims = process_claims(host, targets);
    claims.push(Claim::shared(host, fence.claims()));
    claims
}

/// A target that lives and is not in the group that is limited.
pub(super) fn outside(ground: &Ground, targets: &[Identity]) -> Option<i32> {
    let inside = ground.inside();
    let out = targets.iter().find(|target| !inside.contains(&target.pid) && Process::open(target).is_ok());
    out.map(|target| target.pid)
}
