//! `freeze`: a whole cgroup stands still, by the kernel's freezer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fenced;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::hands::fence::FenceError;
use crate::hands::freezer::Freezer;
use crate::host::process::{Identity, boot_id, cpu_time};
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// All must stand still within this.
const STANDING: Duration = Duration::from_secs(5);
/// What they use meanwhile is measured over so long.
const MEASURING: Duration = Duration::from_millis(500);
/// Processor time is counted in ticks of this, and a count may be one too high for each process.
const TICK: Duration = Duration::from_millis(10);

crate::kind! {
    /// Freezes a whole service or cgroup: everything in it stands still at one instant.
    ///
    /// What a virtual machine that is moved, a snapshot or `docker pause` does. What the processes start meanwhile stands
    /// still with them, a debugger is no obstacle, and none of them is moved. The cgroup must hold nobody else: where
    /// it does, `pause` holds single processes still.
    pub struct Freeze("freeze") {}
}

/// What stands still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Frozen {
    freezer: Freezer,
    boot: String,
    targets: Vec<Identity>,
}

impl Fault for Freeze {
    type Owed = Frozen;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Group;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.stands-still.freeze]
target = { unit = "payments-api.service" }   # or a `cgroup`
for    = "5s"
"#;

    async fn survey(&self, site: &Site) -> Result<Frozen, Refusal> {
        site.some_processes()?;
        if let [one, ..] = site.target.left_alone.as_slice() {
            return Err(site.refuse(
                format!("it holds what a host cannot do without: {one}"),
                "name another target, or name it in [blast_radius] `also`",
            ));
        }
        let freezer = Freezer::find(&site.target.pids()).map_err(|why| fenced::refusal(site, &why))?;
        Ok(Frozen { freezer, boot: boot_id(), targets: site.identities() })
    }

    async fn inject(&self, _: &Site, owed: &Frozen, _: &mut Held) -> Result<(), FaultError> {
        // Whether all stand still is for the proof to say: one in the middle of a system call may take a while.
        owed.freezer.freeze(STANDING).await.map(drop).map_err(|why| FaultError(why.to_string()))
    }

    async fn verify(&self, _: &Site, owed: &Frozen, _: &Held) -> Effect {
        match moved(owed).await {
            Ok((still, inside, used)) => {
                let figures = format!(
                    "the kernel says {}; its {inside} processes used {} ms of processor time in {} ms",
                    if still { "frozen" } else { "not frozen" },
                    used.as_millis(),
                    MEASURING.as_millis(),
                );
                if still && used <= TICK * inside as u32 {
                    Effect::Confirmed(figures)
                } else {
                    Effect::Mismatch(figures)
                }
            }
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    fn mechanism(&self, owed: &Frozen) -> Option<String> {
        Some(owed.freezer.said())
    }

    fn harm(&self, site: &Site) -> String {
        format!("freezes {}", site.target.said)
    }

    fn ability(_: &Rights) -> Ability {
        match Freezer::attempt() {
            Ok(()) => {
                Ability::yes("what has a cgroup to itself, such as a unit of systemd", Some(Tier::Watchdog))
            }
            Err(FenceError::Refused { why, remedy }) => Ability::no(why, remedy),
            Err(why) => Ability::no(why.to_string(), "run as root, where cgroups are mounted"),
        }
    }
}

/// Whether the group stands still, how many are inside, and what they used for a while.
async fn moved(owed: &Frozen) -> Result<(bool, usize, Duration), FenceError> {
    let inside = owed.freezer.inside()?;
    let used = || inside.iter().filter_map(|pid| cpu_time(*pid)).sum::<Duration>();
    let before = used();
    tokio::time::sleep(MEASURING).await;
    Ok((owed.freezer.still()?, inside.len(), used().saturating_sub(before)))
}

impl Owed for Frozen {
    async fn undo(&self) -> Result<(), UndoError> {
        if self.boot != boot_id() {
            return Ok(()); // A boot thaws everything.
        }
        self.freezer.thaw().map_err(|why| UndoError(why.to_string()))
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(self.boot == boot_id() && self.freezer.asked().map_err(|why| UndoError(why.to_string()))?)
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let mut claims = super::process_claims(host, &self.targets);
        claims.push(Claim::exclusive(host, format!("freezer of cgroup {}", self.freezer.group().display())));
        claims
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        self.freezer.by_hand()
    }
}
