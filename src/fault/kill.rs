//! `kill`: a signal that ends processes.

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::file::{Mistakes, Node, Read, Value};
use crate::host::process::Identity;
use crate::host::rights::{Capability, Dummy, Rights};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Sends a signal to processes, by pidfd, so that a reused process id is never hit.
    ///
    /// Not reversible: what restarts the process (systemd, a supervisor, the experiment's own
    /// `restart`) is part of what is being tested.
    pub struct Kill("kill") {
        /// The signal.
        signal: Signal = "KILL",
    }
}

/// A signal by its name, with or without SIG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub(super) nix::sys::signal::Signal);

impl Read for Signal {
    const NAME: &'static str = "signal";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::Text(text) = &node.value else {
            mistakes.error(node.place, "a signal is a string", "for example \"KILL\" or \"TERM\"");
            return None;
        };
        let name = format!("SIG{}", text.to_ascii_uppercase().trim_start_matches("SIG"));
        match name.as_str() {
            "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => {
                mistakes.error(
                    node.place,
                    format!("`{text}` would leave the process stopped when we are killed"),
                    "use the fault `pause`: it ends with us",
                );
                None
            }
            _ => name
                .parse()
                .map(Self)
                .map_err(|_| {
                    mistakes.error(node.place, format!("`{text}` is no signal"), "see `kill -l`");
                })
                .ok(),
        }
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string"})
    }
}

/// Nothing can be taken back; the record says who was hit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Killed {
    targets: Vec<Identity>,
}

impl Fault for Kill {
    type Owed = Killed;
    const LASTING: bool = false;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::NotReversible;
    const EXAMPLE: &'static str = r#"[fault.lose-one.kill]
target = { exe = "my-server" }   # one of them, drawn from the seed
signal = "KILL"
at     = "10s"
"#;

    async fn survey(&self, site: &Site) -> Result<Killed, Refusal> {
        site.some_processes()?;
        Ok(Killed { targets: site.identities() })
    }

    async fn inject(&self, site: &Site, _: &Killed, _: &mut Held) -> Result<(), FaultError> {
        for process in &site.target.processes {
            process.signal(self.signal.0).map_err(|why| FaultError(why.to_string()))?;
        }
        Ok(())
    }

    async fn verify(&self, site: &Site, _: &Killed, _: &Held) -> Effect {
        if self.signal.0 != nix::sys::signal::Signal::SIGKILL {
            return Effect::Unverifiable(format!(
                "{} sent; a process may handle it as it likes",
                self.signal.0
            ));
        }
        let mut gone = 0;
        for process in &site.target.processes {
            gone += usize::from(process.wait_gone(std::time::Duration::from_secs(1)).await);
        }
        let figures = format!("{gone} of {} processes gone", site.target.processes.len());
        if gone == site.target.processes.len() {
            Effect::Confirmed(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }

    fn harm(&self, site: &Site) -> String {
        format!("sends {} to {}", self.signal.0, site.who())
    }

    fn ability(rights: &Rights) -> Ability {
        let ours = match Dummy::start()
            .map(|dummy| dummy.process().and_then(|p| p.signal(nix::sys::signal::Signal::SIGTERM)))
        {
            Ok(Ok(())) => rights.has(Capability::Kill),
            Ok(Err(why)) => {
                return Ability::no(why.to_string(), "it takes pidfds: Linux 5.3, and no filter on them");
            }
            Err(why) => {
                return Ability::no(format!("no process can be had: {why}"), "raise the limit on processes");
            }
        };
        if ours {
            Ability::yes("any process", None)
        } else {
            Ability::limited("your own processes", None, "root (CAP_KILL) reaches everybody's")
        }
    }
}

impl Owed for Killed {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(false)
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        super::process_claims(host, &self.targets)
    }

    fn tier(&self) -> Tier {
        Tier::NotReversible
    }

    fn by_hand(&self) -> String {
        "not reversible: restarted by whatever supervises it".to_owned()
    }
}
