//! `memory-limit`: processes get little memory, whatever the host has to spare.

use std::time::Duration;

use super::fenced::{self, Fenced};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::Bytes;
use crate::hands::fence::{Controller, Fence, FenceError, Ground, number_of};
use crate::host::memory::{of_process, page};
use crate::host::rights::Rights;
use crate::undo::Tier;

/// What the processes do about the limit is watched for so long.
const MEASURING: Duration = Duration::from_secs(1);

crate::kind! {
    /// Lets processes have little memory, whatever the host has to spare.
    ///
    /// What a container with a tight limit or a leak gets. Near the limit the kernel takes the page cache of these
    /// processes, then swaps where there is swap; when that is not enough it kills one of them, by its out-of-memory killer,
    /// or all where `memory.oom.group` says so: never anybody else.
    ///
    /// By the limit of a cgroup (`memory.max`, as systemd's `MemoryMax=` and `docker run --memory` set it, or
    /// `memory.limit_in_bytes`). Where their own cgroup holds nobody else, as that of a container or a unit, it gets the
    /// limit, and what they have counts. Else, with cgroup v1, they go into one of their own: what they have stays charged
    /// where it was, and only what they take from then on is limited. With cgroup v2 that is refused. Children that they
    /// start meanwhile are held back with them. `plan` says which it is.
    ///
    /// Say one of `limit` and `leave`; the page cache, which the kernel can take back, is not counted as theirs. What
    /// takes memory of the whole host is `memory`.
    pub struct MemoryLimit("memory-limit") {
        /// All of them together may have at most so much.
        limit: Bytes = optional,
        /// All of them together may have so much more than they have.
        leave: Bytes = optional,
        /// Who needs more is `killed`, or only `slowed`: stopped again and again for up to 2 s, while the kernel reclaims what
        /// it can (`memory.high`, cgroup v2). Those may have more than the limit already.
        beyond: Beyond = "killed",
    }
}

/// What happens to who needs more than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// The kernel kills.
    Killed,
    /// The kernel lets them wait.
    Slowed,
}

crate::words!(Beyond, "fate", "killed" => Self::Killed, "slowed" => Self::Slowed);

impl MemoryLimit {
    /// The file of the limit (Linux' Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst).
    fn file(&self, ground: &Ground) -> &'static str {
        match (ground.is_unified(), self.beyond) {
            (false, _) => "memory.limit_in_bytes",
            (true, Beyond::Killed) => "memory.max",
            (true, Beyond::Slowed) => "memory.high",
        }
    }

    /// What the limit of a group has to be, in bytes, when its processes have so much; `None` when they have too much.
    /// A group of ours counts only what is new.
    fn limit_for(&self, has: u64, new_only: bool) -> Option<u64> {
        let limit = match (self.limit, self.leave) {
            (Some(limit), _) if new_only => limit.0.checked_sub(has)?,
            (Some(limit), _) if limit.0 < has && self.beyond == Beyond::Killed => return None,
            (Some(limit), _) => limit.0,
            (None, leave) => leave.map_or(0, |leave| leave.0).saturating_add(if new_only { 0 } else { has }),
        };
        // The kernel counts pages, and says the limit so.
        Some(limit / page() * page())
    }

    fn said(&self) -> String {
        match (self.limit, self.leave) {
            (Some(limit), _) => format!("at most {limit}"),
            (None, leave) => format!("at most {} more", leave.unwrap_or(Bytes(0))),
        }
    }

    /// How often a group has met its limit, and how many of it the kernel has killed for that.
    fn met(&self, ground: &Ground) -> Met {
        let number = |file: &str, word: &str| {
            let text = ground.read(file).ok().flatten()?;
            if word.is_empty() { text.parse().ok() } else { number_of(&text, word) }
        };
        let (times, killed) = match (ground.is_unified(), self.beyond) {
            (false, _) => (number("memory.failcnt", ""), number("memory.oom_control", "oom_kill")),
            (true, Beyond::Killed) => (number("memory.events", "max"), number("memory.events", "oom_kill")),
            (true, Beyond::Slowed) => (number("memory.events", "high"), number("memory.events", "oom_kill")),
        };
        Met { times: times.unwrap_or(0), killed: killed.unwrap_or(0) }
    }
}

/// What came of the limit.
struct Met {
    times: u64,
    killed: u64,
}

impl Fault for MemoryLimit {
    type Owed = Fenced;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Process;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.tight.memory-limit]
target = { container = "web" }   # all its processes
leave  = "16MiB"                 # beyond what it has
for    = "30s"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        match (self.limit, self.leave) {
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err((
                "how much is not said, or said twice".to_owned(),
                "give one of `limit = \"256MiB\"` and `leave`".to_owned(),
            )),
        }
    }

    async fn survey(&self, site: &Site) -> Result<Fenced, Refusal> {
        site.some_processes()?;
        let refuse = |why: FenceError| fenced::refusal(site, &why);
        let pids = site.target.pids();
        let name = format!("brownout-memory-{}", site.mark());
        let ground = Ground::find(Controller::Memory, &pids, &name).map_err(refuse)?;
        if self.beyond == Beyond::Slowed && !ground.is_unified() {
            return Err(site.refuse(
                "the memory of its cgroup is of version 1, which slows nobody down".to_owned(),
                "leave out `beyond`, or start the host with cgroup v2 alone",
            ));
        }
        let has = if ground.is_ours() {
            pids.iter().filter_map(|pid| of_process(*pid)).sum()
        } else {
            has(&ground).map_err(refuse)?.ok_or_else(|| {
                site.refuse("what its cgroup has is not known".to_owned(), "mount the cgroups of the host")
            })?
        };
        let Some(limit) = self.limit_for(has, ground.is_ours()) else {
            let why = format!("{} has {} already, beside the page cache", site.who(), Bytes(has));
            return Err(site.refuse(why, "ask for a `limit` above that, or for `leave`"));
        };
        let file = self.file(&ground);
        let fence = Fence::plan_one(ground, file, limit.to_string()).map_err(refuse)?;
        // What is killed at a lower limit is never slowed at a higher one.
        let hard = fence.ground.read_as_it_is("memory.max").map_err(refuse)?;
        let now = [fence.before().unwrap_or_default(), hard.trim_end()];
        if let Some(before) = now.iter().find_map(|now| now.parse().ok().filter(|now: &u64| *now <= limit)) {
            let why = format!("its cgroup lets {} have {} as it is", site.who(), Bytes(before));
            return Err(site.refuse(why, "ask for less"));
        }
        Ok(Fenced::of(fence, site))
    }

    async fn inject(&self, site: &Site, owed: &Fenced, held: &mut Held) -> Result<(), FaultError> {
        held.hold(self.met(owed.ground()));
        owed.put_up(site)
    }

    async fn verify(&self, _: &Site, owed: &Fenced, held: &Held) -> Effect {
        tokio::time::sleep(MEASURING).await;
        let ground = owed.ground();
        let limit = ground.read(self.file(ground)).ok().flatten();
        let (Some(limit), Ok(Some(has))) = (limit, has(ground)) else {
            return Effect::Mismatch("its cgroup is gone, and the limit with it".to_owned());
        };
        let met = self.met(ground);
        let before = held.get::<Met>().map_or((0, 0), |before| (before.times, before.killed));
        let figures = format!(
            "asked for {}; has {}{} of {}, met the limit {} times, {} killed for it in {} s",
            self.said(),
            Bytes(has),
            if ground.is_ours() { ", taken since," } else { "" },
            limit.parse().map_or_else(|_| limit.clone(), |limit| Bytes(limit).to_string()),
            met.times.saturating_sub(before.0),
            met.killed.saturating_sub(before.1),
            MEASURING.as_secs()
        );
        if let Some(out) = owed.outside() {
            Effect::Mismatch(format!("process {out} is not in the cgroup that has the limit; {figures}"))
        } else if owed.fence.is_in_force().unwrap_or(false) {
            Effect::Confirmed(figures)
        } else {
            Effect::Mismatch(figures)
        }
    }

    fn mechanism(&self, owed: &Fenced) -> Option<String> {
        let ground = owed.ground();
        let says = |file: &str| ground.read_as_it_is(file).unwrap_or_default();
        let counts = if ground.is_ours() {
            "; what they have stays charged where it was, and only what they take from then on counts"
        } else {
            ""
        };
        let beyond = if self.beyond == Beyond::Slowed {
            "who needs more is stopped again and again by the kernel"
        } else if ground.is_unified() && says("memory.oom.group").trim_end() == "1" {
            "when one needs more the kernel kills all in that cgroup (memory.oom.group)"
        } else if number_of(&says("memory.oom_control"), "oom_kill_disable") == Some(1) {
            "who needs more waits until there is some (oom_kill_disable)"
        } else {
            "when one needs more the kernel kills one in that cgroup"
        };
        Some(format!("{}{counts}; {beyond}", ground.said()))
    }

    fn harm(&self, site: &Site) -> String {
        let beyond = match self.beyond {
            Beyond::Killed => "killed",
            Beyond::Slowed => "slowed down",
        };
        format!("lets {} have {} of memory; who needs more is {beyond}", site.who(), self.said())
    }

    fn ability(_: &Rights) -> Ability {
        fenced::ability(Controller::Memory)
    }
}

/// What the group has in which the processes are, in bytes, beside the page cache, which the kernel takes back first;
/// `None` when the kernel does not say it.
fn has(ground: &Ground) -> Result<Option<u64>, FenceError> {
    // In version 1 the plain words are of the group without those below it.
    let (file, words) = if ground.is_unified() {
        ("memory.current", ["active_file", "inactive_file"])
    } else {
        ("memory.usage_in_bytes", ["total_active_file", "total_inactive_file"])
    };
    let Some(usage) = ground.read(file)?.and_then(|text| text.parse::<u64>().ok()) else { return Ok(None) };
    let stat = ground.read("memory.stat")?.unwrap_or_default();
    let cache: u64 = words.into_iter().filter_map(|word| number_of(&stat, word)).sum();
    Ok(Some(usage.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn fault(limit: Option<u64>, leave: Option<u64>, beyond: Beyond) -> MemoryLimit {
        MemoryLimit { limit: limit.map(Bytes), leave: leave.map(Bytes), beyond }
    }

    #[test]
    fn what_they_have_counts_in_their_own_group_and_not_in_a_new_one() {
        let limit =
            |limit, leave, has, new_only| fault(limit, leave, Beyond::Killed).limit_for(has, new_only);
        assert_eq!(limit(Some(100 * MIB), None, 60 * MIB, false), Some(100 * MIB));
        assert_eq!(limit(Some(100 * MIB), None, 60 * MIB, true), Some(40 * MIB));
        assert_eq!(limit(None, Some(16 * MIB), 60 * MIB, false), Some(76 * MIB));
        assert_eq!(limit(None, Some(16 * MIB), 60 * MIB, true), Some(16 * MIB));
        assert_eq!(limit(Some(50 * MIB), None, 60 * MIB, false), None, "it would be killed at once");
        assert_eq!(limit(Some(50 * MIB), None, 60 * MIB, true), None);
        assert_eq!(limit(None, Some(MIB + 1), 60 * MIB, false), Some(61 * MIB), "the kernel counts pages");
        let slowed = fault(Some(50 * MIB), None, Beyond::Slowed);
        assert_eq!(slowed.limit_for(60 * MIB, false), Some(50 * MIB), "they give back what they can");
    }

    #[test]
    fn the_page_cache_is_not_theirs_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        let ground = |unified: bool| -> Ground {
            let ground = serde_json::json!({"group": folder.path(), "from": null, "unified": unified});
            serde_json::from_value(ground).unwrap()
        };
        write("memory.current", "1000\n");
        write("memory.stat", "anon 7\nfile 300\nactive_file 100\ninactive_file 150\n");
        assert_eq!(has(&ground(true)).unwrap(), Some(750));
        write("memory.events", "low 0\nhigh 4\nmax 9\noom 2\noom_kill 1\n");
        let met = |beyond, unified| fault(None, Some(1), beyond).met(&ground(unified));
        assert_eq!((met(Beyond::Killed, true).times, met(Beyond::Slowed, true).times), (9, 4));
        assert_eq!(met(Beyond::Killed, true).killed, 1);
        write("memory.usage_in_bytes", "2000\n");
        write(
            "memory.stat",
            "active_file 1\ninactive_file 1\ntotal_active_file 300\ntotal_inactive_file 200\n",
        );
        assert_eq!(has(&ground(false)).unwrap(), Some(1500));
        write("memory.failcnt", "82\n");
        write("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        let met = met(Beyond::Killed, false);
        assert_eq!((met.times, met.killed), (82, 3));
        write("memory.usage_in_bytes", "nonsense\n");
        assert_eq!(has(&ground(false)).unwrap(), None);
    }
}
