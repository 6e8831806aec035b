//! `starve`: processes get little processor time, whatever the host has to spare.

use std::time::Duration;

use super::cpu::Load;
use super::fenced::{self, Fenced};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::clock::since_boot;
use crate::hands::fence::{Controller, Fence, FenceError, Ground, number_of};
use crate::host::cpu::processors;
use crate::host::process::cpu_time;
use crate::host::rights::Rights;
use crate::undo::Tier;

/// What the processes use is measured over so long.
const MEASURING: Duration = Duration::from_secs(1);
/// The period of a quota, in microseconds: the kernel's default
/// (Linux' Documentation/scheduler/sched-bwc.rst).
const PERIOD: f64 = 100_000.0;
/// The least quota that the kernel takes, in microseconds.
const LEAST: f64 = 1000.0;

crate::kind! {
    /// Lets processes have little processor time, whatever the host has to spare.
    ///
    /// What a throttled container, a small instance or an overbooked hypervisor does. By the quota of a cgroup: the
    /// processes go into one of their own where that is possible (cgroup v1), else their own cgroup gets the quota,
    /// which must then hold nobody else (cgroup v2). Children that they start meanwhile are held back with them.
    pub struct Starve("starve") {
        /// What all of them together may use: `"0.2 cores"`, or `"10%"` of what all processors give.
        quota: Load = required,
    }
}

impl Starve {
    /// The quota, in processors.
    fn cores(&self) -> f64 {
        match self.quota {
            Load::Each(percent) => percent.share() * processors() as f64,
            Load::Cores(cores) => cores,
        }
    }
}

impl Fault for Starve {
    type Owed = Fenced;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.throttled.starve]
target = { listen = 8080 }       # the process that listens there
quota  = "0.2 cores"
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Fenced, Refusal> {
        site.some_processes()?;
        let cores = self.cores();
        let quota = (cores * PERIOD).round();
        if quota < LEAST || cores >= processors() as f64 {
            return Err(site.refuse(
                format!("a quota of {} is no limit the kernel knows, or none at all", self.quota),
                "ask for at least 0.01 cores, and less than all processors",
            ));
        }
        let refuse = |why: FenceError| fenced::refusal(site, &why);
        let pids = site.target.pids();
        let ground =
            Ground::find(Controller::Cpu, &pids, &format!("brownout-cpu-{}", site.mark())).map_err(refuse)?;
        let (file, during) = if ground.is_unified() {
            ("cpu.max", format!("{quota} {PERIOD}"))
        } else {
            ("cpu.cfs_quota_us", quota.to_string())
        };
        let fence = Fence::plan_one(ground, file, during).map_err(refuse)?;
        if !fence.limits_more() {
            return Err(site.refuse("that is its quota as it is".to_owned(), "ask for less"));
        }
        Ok(Fenced::of(fence, site))
    }

    async fn inject(&self, site: &Site, owed: &Fenced, _: &mut Held) -> Result<(), FaultError> {
        owed.put_up(site)
    }

    async fn verify(&self, _: &Site, owed: &Fenced, _: &Held) -> Effect {
        let (ground, asked) = (owed.ground(), self.cores());
        let used = || ground.inside().into_iter().filter_map(cpu_time).sum::<Duration>();
        if let Some(out) = owed.outside() {
            return Effect::Mismatch(format!("process {out} is not in the cgroup that has the quota"));
        }
        let (before, begun, held_before) = (used(), since_boot(), held_back(ground));
        tokio::time::sleep(MEASURING).await;
        let took = since_boot().saturating_sub(begun).as_secs_f64();
        let cores = used().saturating_sub(before).as_secs_f64() / took;
        let held = held_back(ground).saturating_sub(held_before);
        let figures = format!(
            "asked for at most {asked:.2} cores' worth, used {cores:.2}, held back {held} times in {took:.1} s"
        );
        // Times are counted in ticks of 10 ms, and a period may begin before the measuring.
        if cores <= asked * 1.15 + 0.1 { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
    }

    fn mechanism(&self, owed: &Fenced) -> Option<String> {
        Some(owed.ground().said())
    }

    fn harm(&self, site: &Site) -> String {
        format!("lets {} have at most {} of processor time", site.who(), self.quota)
    }

    fn ability(_: &Rights) -> Ability {
        fenced::ability(Controller::Cpu)
    }
}

/// How often processes of a group had to wait for their next period (nr_throttled of cpu.stat).
fn held_back(ground: &Ground) -> u64 {
    let text = ground.read("cpu.stat").ok().flatten().unwrap_or_default();
    number_of(&text, "nr_throttled").unwrap_or(0)
}
