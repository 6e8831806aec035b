//! `cpu`: the host's processors are busy, with threads of ours that do nothing useful.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::Percent;
use crate::base::clock::since_boot;
use crate::file::{Mistakes, Node, Read, Value};
use crate::hands::burner::{Burners, is_there};
use crate::host::cpu::{Idleness, processors};
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// What was burnt is measured over so long.
const MEASURING: Duration = Duration::from_secs(1);
/// Burners that get less than asked did take hold when the processors were this busy.
const HARDLY_IDLE: f64 = 0.05;

crate::kind! {
    /// Keeps the host's processors busy.
    ///
    /// What a noisy neighbour, a runaway job or a backup does. By threads of ours that compute at normal
    /// priority: they compete as any other program would, and end when we do. Where programs have
    /// cgroups with weights, ours counts as one of them; to slow one program whatever the others do,
    /// use `starve`.
    pub struct Cpu("cpu") {
        /// How much: `"50%"` keeps every processor that we may run on busy for half of the time;
        /// `"1.5 cores"` takes as much as one and a half processors give, on whichever the scheduler likes.
        load: Load = required,
    }
}

/// How much processor time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Such a share of every processor.
    Each(Percent),
    /// As much as so many processors have.
    Cores(f64),
}

impl Load {
    /// How many threads, and for which share of the time each burns.
    fn threads(self) -> (usize, f64) {
        match self {
            Self::Each(percent) => (processors(), percent.share()),
            Self::Cores(cores) => (cores.ceil() as usize, cores / cores.ceil()),
        }
    }
}

impl FromStr for Load {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let number = |unit: &str| text.strip_suffix(unit).map(|n| n.trim().parse::<f64>());
        match number("cores").or_else(|| number("core")) {
            Some(Ok(cores)) if cores > 0.0 && cores <= 4096.0 => Ok(Self::Cores(cores)),
            Some(_) => Err(format!("`{text}` is no number of cores above 0 and up to 4096")),
            None => match text.parse::<Percent>() {
                Ok(percent) if percent.share() > 0.0 => Ok(Self::Each(percent)),
                Ok(_) => Err(format!("`{text}` is no load")),
                Err(why) => Err(why.to_string()),
            },
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each(percent) => write!(f, "{percent} of every processor"),
            Self::Cores(cores) => write!(f, "{cores} {}", if *cores > 1.0 { "cores" } else { "core" }),
        }
    }
}

impl Read for Load {
    const NAME: &'static str = "load";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        const REMEDY: &str = "such as \"50%\" of every processor, or \"2 cores\"";
        let Value::Text(text) = &node.value else {
            mistakes.error(node.place, "a load is a string", REMEDY);
            return None;
        };
        text.parse().map_err(|why: String| mistakes.error(node.place, why, REMEDY)).ok()
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "pattern": r"^\s*[0-9.]+\s*(%|cores?)\s*$"})
    }
}

/// Who burns, by the name of the threads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Burning {
    holder: Identity,
    name: String,
}

impl Fault for Cpu {
    type Owed = Burning;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Nothing;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.noisy-neighbour.cpu]
load = "80%"                     # of every processor; or "2 cores"
for  = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Burning, Refusal> {
        let (threads, _) = self.load.threads();
        if threads > processors() {
            return Err(site.refuse(
                format!("{} are asked, and there are {} processors", self.load, processors()),
                "ask for no more than there are; \"100%\" takes all",
            ));
        }
        Ok(Burning { holder: site.holder.clone(), name: format!("burn-{}", site.mark()) })
    }

    async fn inject(&self, site: &Site, owed: &Burning, held: &mut Held) -> Result<(), FaultError> {
        let (threads, share) = self.load.threads();
        let burners = Burners::start(threads, share, &owed.name, &site.heartbeat)
            .map_err(|why| FaultError(format!("starting threads that burn: {why}")))?;
        held.hold(burners);
        Ok(())
    }

    async fn verify(&self, _: &Site, _: &Burning, held: &Held) -> Effect {
        let Some(burners) = held.get::<Burners>() else {
            return Effect::Mismatch("nothing burns".to_owned());
        };
        let (burnt, idle, begun) = (burners.burnt(), Idleness::now(), since_boot());
        tokio::time::sleep(MEASURING).await;
        let took = since_boot().saturating_sub(begun).as_secs_f64();
        let got = burners.burnt().saturating_sub(burnt).as_secs_f64() / took;
        let idle = idle.ok().and_then(|before| Idleness::now().ok()?.share_since(&before));
        judge(self.load, got, idle)
    }

    fn harm(&self, _: &Site) -> String {
        format!("burns {}", self.load)
    }

    fn ability(_: &Rights) -> Ability {
        Ability::yes(format!("up to {} processors", processors()), Some(Tier::Kernel))
    }
}

/// Whether the load took hold, by the cores' worth of time that was burnt and how idle all processors were.
fn judge(load: Load, got: f64, idle: Option<f64>) -> Effect {
    let (threads, share) = load.threads();
    let asked = threads as f64 * share;
    let of_each = |cores: f64| 100.0 * cores / threads as f64;
    let figures = match load {
        Load::Each(percent) => format!("asked {percent}, burnt {:.1}% of every processor", of_each(got)),
        Load::Cores(cores) => format!("asked {cores}, burnt {got:.2} cores' worth"),
    };
    let figures = match idle {
        Some(idle) => format!("{figures}; all were idle for {:.1}% of the time", 100.0 * idle),
        None => figures,
    };
    // On a host that others keep busy too, nothing left idle is all that a load can reach.
    if got >= 0.9 * asked || idle.is_some_and(|idle| idle < HARDLY_IDLE) {
        Effect::Confirmed(figures)
    } else {
        Effect::Mismatch(figures)
    }
}

impl Owed for Burning {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(()) // The threads' end is the undo, and the holder waits for it before this is called.
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(is_there(&self.holder, &self.name))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        // What two runs measured under one another's load would mean nothing.
        vec![Claim::exclusive(host, "processors")]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: its threads end with it", self.holder.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_a_share_of_every_processor_or_a_number_of_cores() {
        for (text, threads) in [
            ("50%", (processors(), 0.5)),
            ("100 %", (processors(), 1.0)),
            ("1 core", (1, 1.0)),
            ("1.5 cores", (2, 0.75)),
            ("0.25cores", (1, 0.25)),
        ] {
            assert_eq!(text.parse::<Load>().unwrap().threads(), threads, "{text}");
        }
        for text in ["200%", "0%", "2", "0 cores", "-1 core", "many cores", "nan cores", "1e9 cores", ""] {
            assert!(text.parse::<Load>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_burnt_is_held_against_what_was_asked_and_what_was_left() {
        let load = Load::Cores(2.0);
        assert_eq!(
            judge(load, 1.96, Some(0.3)),
            Effect::Confirmed(
                "asked 2, burnt 1.96 cores' worth; all were idle for 30.0% of the time".to_owned()
            )
        );
        assert!(matches!(judge(load, 1.0, Some(0.01)), Effect::Confirmed(_)), "others keep it busy");
        assert!(matches!(judge(load, 1.0, Some(0.5)), Effect::Mismatch(_)));
        assert!(matches!(judge(load, 1.0, None), Effect::Mismatch(_)));
    }
}
