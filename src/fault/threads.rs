//! `threads`: processes can start few more threads and processes.

use super::fenced::{self, Fenced};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::hands::fence::{Controller, Fence, FenceError, Ground};
use crate::host::rights::Rights;
use crate::undo::Tier;

/// The file of the limit, in both versions of cgroups (Linux' Documentation/admin-guide/cgroup-v2.rst).
const LIMIT: &str = "pids.max";

crate::kind! {
    /// Lets processes start few more threads and processes: fork and clone then fail with EAGAIN.
    ///
    /// What a thread leak, a fork bomb or a tight container limit does. By the task limit of a cgroup: the
    /// processes go into one of their own where that is possible (cgroup v1), else their own cgroup gets the
    /// limit, which must then hold nobody else (cgroup v2). What runs goes on. (RLIMIT_NPROC would count all of
    /// a user's processes, and not hold root's.)
    pub struct Threads("threads") {
        /// So many can still be started, by all of them together.
        leave: u32 = "0",
    }
}

impl Fault for Threads {
    type Owed = Fenced;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.no-more-threads.threads]
target = { listen = 8080 }       # the process that listens there
leave  = 4
for    = "20s"
"#;

    async fn survey(&self, site: &Site) -> Result<Fenced, Refusal> {
        site.some_processes()?;
        let refuse = |why: FenceError| fenced::refusal(site, &why);
        let name = format!("brownout-pids-{}", site.mark());
        let ground = Ground::find(Controller::Pids, &site.target.pids(), &name).map_err(refuse)?;
        let there: usize = site.target.processes.iter().map(|process| process.threads().len()).sum();
        let most = there as u64 + u64::from(self.leave);
        let fence = Fence::plan_one(ground, LIMIT, most.to_string()).map_err(refuse)?;
        let before = fence.before().and_then(|before| before.parse::<u64>().ok());
        if let Some(before) = before.filter(|before| *before <= most) {
            return Err(site.refuse(
                format!("its cgroup lets {} have {before} threads as it is, and it has {there}", site.who()),
                "leave fewer",
            ));
        }
        Ok(Fenced::of(fence, site))
    }

    async fn inject(&self, site: &Site, owed: &Fenced, _: &mut Held) -> Result<(), FaultError> {
        owed.put_up(site)
    }

    async fn verify(&self, _: &Site, owed: &Fenced, _: &Held) -> Effect {
        let ground = owed.ground();
        let number = |file: &str| ground.read(file).ok().flatten().and_then(|text| text.parse::<u64>().ok());
        let (Some(most), Some(now)) = (number(LIMIT), number("pids.current")) else {
            return Effect::Unverifiable("the limit of the cgroup cannot be read".to_owned());
        };
        let left = most.saturating_sub(now);
        let figures =
            format!("asked to leave {}; {now} threads of at most {most}, so {left} left", self.leave);
        if let Some(out) = owed.outside() {
            Effect::Mismatch(format!("process {out} is not in the cgroup that has the limit; {figures}"))
        } else if left <= u64::from(self.leave) {
            Effect::Confirmed(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }

    fn mechanism(&self, owed: &Fenced) -> Option<String> {
        Some(owed.ground().said())
    }

    fn harm(&self, site: &Site) -> String {
        format!("lets {} start {} more threads", site.who(), self.leave)
    }

    fn ability(_: &Rights) -> Ability {
        fenced::ability(Controller::Pids)
    }
}
