//! `pause`: processes stand still, all threads, and go on when we end.

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::hands::tracer;
use crate::host::process::{Identity, Process};
use crate::host::rights::{Capability, Dummy, Rights, Traceable, traceable};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Holds processes still, all threads.
    ///
    /// What a long garbage collection, a hung disk or a stopped virtual machine looks like from outside.
    /// The kernel lets the process go on the moment its tracer dies (ptrace(2)), which SIGSTOP does not.
    /// A process that is already being traced is refused.
    pub struct Pause("pause") {}
}

/// Who stands still, and who holds them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stopped {
    targets: Vec<Identity>,
    holder: Identity,
}

impl Fault for Pause {
    type Owed = Stopped;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.freeze.pause]
target = { listen = 8080 }       # the process that listens there
at     = "5s"
for    = "2s"
"#;

    async fn survey(&self, site: &Site) -> Result<Stopped, Refusal> {
        site.some_processes()?;
        for process in &site.target.processes {
            let pid = process.identity().pid;
            if let Some(tracer) = tracer_of(pid).filter(|tracer| *tracer != 0) {
                return Err(site.refuse(
                    format!("process {pid} is already traced by process {tracer}"),
                    "detach the debugger first",
                ));
            }
        }
        Ok(Stopped { targets: site.identities(), holder: site.holder.clone() })
    }

    async fn inject(&self, site: &Site, _: &Stopped, held: &mut Held) -> Result<(), FaultError> {
        for process in &site.target.processes {
            held.hold(tracer::pause(process).map_err(|why| FaultError(why.to_string()))?);
        }
        Ok(())
    }

    async fn verify(&self, site: &Site, owed: &Stopped, _: &Held) -> Effect {
        let still = owed.targets.iter().filter(|target| held_still(target, &owed.holder)).count();
        let figures = format!("{still} of {} processes stand still", site.target.processes.len());
        if still == site.target.processes.len() {
            Effect::Confirmed(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }

    fn harm(&self, site: &Site) -> String {
        format!("holds still {}", site.who())
    }

    fn ability(rights: &Rights) -> Ability {
        let tried = Dummy::start().map_err(|why| why.to_string()).and_then(|dummy| {
            let process = dummy.process().map_err(|why| why.to_string())?;
            tracer::pause(&process).map(drop).map_err(|why| why.to_string())
        });
        let tier = Some(Tier::Kernel);
        match (tried, traceable()) {
            (Err(why), Traceable::Nothing) => {
                Ability::no(why, "kernel.yama.ptrace_scope is 3, which lasts until the next boot")
            }
            (Err(why), Traceable::WithCapability) => {
                Ability::no(why, "kernel.yama.ptrace_scope is 2: set it to 0, or run as root")
            }
            (Err(why), _) => {
                Ability::no(why, "something filters ptrace (a container's seccomp profile?): allow it")
            }
            (Ok(()), _) if rights.has(Capability::SysPtrace) => Ability::yes("any process", tier),
            (Ok(()), Traceable::Descendants) => Ability::limited(
                "the experiment's own services",
                tier,
                "kernel.yama.ptrace_scope is 1: set it to 0 for your other processes, or run as root",
            ),
            (Ok(()), _) => {
                Ability::limited("your own processes", tier, "root (CAP_SYS_PTRACE) reaches everybody's")
            }
        }
    }
}

impl Owed for Stopped {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(()) // The tracer's death is the undo, and the holder drops it before this is called.
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(self.targets.iter().any(|target| held_still(target, &self.holder)))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        super::process_claims(host, &self.targets)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: the kernel then lets its targets go on", self.holder.pid)
    }
}

/// Whether `target` is traced by a thread of `holder`, each being still the process it was.
fn held_still(target: &Identity, holder: &Identity) -> bool {
    Process::open(target).is_ok()
        && Process::open(holder).is_ok()
        && tracer_of(target.pid) == Some(holder.pid)
}

/// The process that traces a process, 0 for none. TracerPid names the tracing *thread*
/// (proc_pid_status(5)); Tgid of that is its process.
pub(super) fn tracer_of(pid: i32) -> Option<i32> {
    match status(pid, "TracerPid:")? {
        0 => Some(0),
        thread => status(thread, "Tgid:"),
    }
}

fn status(pid: i32, field: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}
