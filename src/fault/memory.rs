//! `memory`: the host runs short of memory, by a process of ours that holds it.

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::{Bytes, Percent};
use crate::hands::balloon::{Balloon, burst, holders};
use crate::host::memory::available;
use crate::host::rights::{Capability, Rights};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Takes memory of the host.
    ///
    /// What a leak, a large batch or too many programs on one host do: the page cache shrinks, and what needs more
    /// memory waits or fails. By a process of ours that ends when we do. It asks the out-of-memory killer to be
    /// its first victim, so that the target is not; where it may, it locks the memory, so that it is not swapped out.
    ///
    /// Say one of `size`, `percent` and `leave`; they count what is available (MemAvailable in /proc/meminfo). Some
    /// is given back whenever less than `floor` is.
    pub struct Memory("memory") {
        /// Take so much.
        size: Bytes = optional,
        /// Take so much of what is available.
        percent: Percent = optional,
        /// Take all but so much of what is available.
        leave: Bytes = optional,
        /// Never leave less than this available, whatever else is said: it protects the host.
        floor: Bytes = "256MiB",
    }
}

/// What is held, and the mark of who holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hoarded {
    bytes: u64,
    available_before: u64,
    mark: String,
}

impl Fault for Memory {
    type Owed = Hoarded;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Nothing;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.short-of-memory.memory]
leave = "512MiB"                 # take all but this
for   = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Hoarded, Refusal> {
        let available = available()
            .map_err(|why| site.refuse(format!("what is available is not known: {why}"), "mount /proc"))?;
        let bytes = match (self.size, self.percent, self.leave) {
            (Some(size), None, None) => size.0,
            (None, Some(percent), None) => (available as f64 * percent.share()) as u64,
            (None, None, Some(leave)) => available.saturating_sub(leave.0),
            _ => {
                return Err(site.refuse(
                    "how much is not said, or said twice".to_owned(),
                    "give one of `size`, `percent`, `leave`",
                ));
            }
        };
        if bytes == 0 || bytes > available.saturating_sub(self.floor.0) {
            return Err(site.refuse(
                format!(
                    "{} of the {} available would leave less than the floor of {}, or nothing would be taken",
                    Bytes(bytes),
                    Bytes(available),
                    self.floor
                ),
                "ask for less, or lower `floor`",
            ));
        }
        Ok(Hoarded { bytes, available_before: available, mark: site.mark() })
    }

    async fn inject(&self, _: &Site, owed: &Hoarded, held: &mut Held) -> Result<(), FaultError> {
        let (bytes, floor, mark) = (owed.bytes, self.floor.0, owed.mark.clone());
        // Gigabytes take seconds.
        let balloon = tokio::task::spawn_blocking(move || Balloon::inflate(bytes, floor, &mark)).await;
        let balloon = balloon.map_err(|why| FaultError(why.to_string()))?;
        held.hold(balloon.map_err(|why| FaultError(why.to_string()))?);
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Hoarded, held: &Held) -> Effect {
        let Some((balloon, resident)) =
            held.get::<Balloon>().and_then(|balloon| Some((balloon, balloon.resident()?)))
        else {
            return Effect::Mismatch("the process that held the memory was killed".to_owned());
        };
        let fell = available().map_or_else(
            |_| "is unknown".to_owned(),
            |now| format!("fell by {}", Bytes(owed.available_before.saturating_sub(now))),
        );
        let figures = format!(
            "asked {}, holds {}{}; what is available {fell} from {}",
            Bytes(owed.bytes),
            Bytes(resident),
            if balloon.is_locked() { "" } else { ", which may be swapped out" },
            Bytes(owed.available_before),
        );
        if resident as f64 >= 0.95 * owed.bytes as f64 {
            Effect::Confirmed(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }

    fn harm(&self, _: &Site) -> String {
        match (self.size, self.percent, self.leave) {
            (Some(size), ..) => format!("takes {size} of memory"),
            (_, Some(percent), _) => format!("takes {percent} of the available memory"),
            (.., Some(leave)) => format!("leaves {leave} of memory available"),
            _ => "takes memory".to_owned(),
        }
    }

    fn ability(rights: &Rights) -> Ability {
        let tier = Some(Tier::Kernel);
        match available() {
            Err(why) => Ability::no(format!("what is available is not known: {why}"), "mount /proc"),
            Ok(_) if rights.has(Capability::IpcLock) => {
                Ability::yes("locked, so that it is not swapped out", tier)
            }
            Ok(_) => Ability::limited(
                "where there is swap it may be swapped out",
                tier,
                "root (CAP_IPC_LOCK) locks it; or raise RLIMIT_MEMLOCK (`ulimit -l`)",
            ),
        }
    }
}

impl Owed for Hoarded {
    async fn undo(&self) -> Result<(), UndoError> {
        // The kernel has ended the holder by now, unless something is odd about it.
        match burst(&self.mark).await.as_slice() {
            [] => Ok(()),
            [one, ..] => Err(UndoError(format!("process {} was killed and is still there", one.pid))),
        }
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(!holders(&self.mark).is_empty())
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        // Two runs that take all but some would both find less than they counted on.
        vec![Claim::exclusive(host, "memory")]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("pkill -KILL -f 'balloon {}'", self.mark)
    }
}
