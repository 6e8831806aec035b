//! `inode-fill`: a file system runs out of inodes, by files that have no names.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError, asked};
use crate::base::{Bytes, Percent};
use crate::hands::parked::{Parked, is_there};
use crate::host::memory;
use crate::host::process::Identity;
use crate::host::rights::{Capability, Rights};
use crate::undo::{Claim, Tier};

/// What one held inode costs in the kernel's own memory, at most: ext4's inode is 1.1 KiB, its name cache
/// entry and the open file 0.4 KiB together (slabinfo(5)).
const COST: u64 = 2048;
/// So much memory stays available, whatever the inodes cost.
const MEMORY_FLOOR: Bytes = Bytes(256 << 20);

crate::kind! {
    /// Takes inodes of the file system of a place: no new file can be made, though there is space.
    ///
    /// What millions of small files (sessions, mails, caches) do. By empty files that have no names
    /// (O_TMPFILE, open(2)), which are gone when their holder dies, whatever kills it.
    ///
    /// Say one of `count`, `percent` and `leave`. At least `floor` always stay free. Each one taken also
    /// takes up to 2 KiB of memory.
    pub struct InodeFill("inode-fill") {
        /// Take so many.
        count: u64 = optional,
        /// Take so much of those that are free.
        percent: Percent = optional,
        /// Take all but so many.
        leave: u64 = optional,
        /// Never leave fewer than these free, whatever else is said: it protects the host.
        floor: u64 = "100",
    }
}

/// How many were taken, where, and by whom they are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    path: PathBuf,
    device: u64,
    count: u64,
    free_before: u64,
    holder: Identity,
    name: String,
}

impl Fault for InodeFill {
    type Owed = Taken;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Place;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.no-inodes.inode-fill]
target = { path = "/var/lib/app" }
leave  = 100                     # take all but this many
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Taken, Refusal> {
        let (path, device) = site.place_to_fill()?;
        let Inodes { all, free } = inodes(&path).map_err(|why| site.unreadable(&path, &why))?;
        if all == 0 {
            return Err(site.refuse(
                format!("the file system of {} makes inodes as they are needed", path.display()),
                "use `disk-fill`: it runs out of files only when it runs out of space",
            ));
        }
        let Some(count) = asked(free, self.count, self.percent, self.leave) else {
            return Err(site.refuse(
                "how many is not said, or said twice".to_owned(),
                "give one of `count`, `percent`, `leave`",
            ));
        };
        if count == 0 || count > free.saturating_sub(self.floor) {
            return Err(site.refuse(
                format!(
                    "{count} of the {free} inodes free on {} would leave fewer than the floor of {}, or none would be taken",
                    path.display(), self.floor
                ),
                "ask for fewer, or lower `floor`",
            ));
        }
        affordable(count, &path).map_err(|(why, remedy)| site.refuse(why, remedy))?;
        let name = format!("brownout-inodes-{}", site.mark());
        Ok(Taken { path, device, count, free_before: free, holder: site.holder.clone(), name })
    }

    async fn inject(&self, _: &Site, owed: &Taken, held: &mut Held) -> Result<(), FaultError> {
        let owed = owed.clone();
        // About 6 us each.
        let parked = tokio::task::spawn_blocking(move || {
            Parked::files(&owed.path, owed.count, &owed.name)
                .map_err(|why| FaultError(format!("{}: {why}", owed.path.display())))
        });
        held.hold(parked.await.map_err(|why| FaultError(why.to_string()))??);
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Taken, _: &Held) -> Effect {
        match inodes(&owed.path) {
            Ok(Inodes { free, .. }) => {
                let taken = owed.free_before.saturating_sub(free);
                let figures = format!("asked {} inodes, free ones fell by {taken} to {free}", owed.count);
                // Others use the file system too: half of what was asked is proof enough that it took hold.
                if taken >= owed.count / 2 { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
            }
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    fn harm(&self, site: &Site) -> String {
        let place = site.target.place.as_ref().map_or_else(String::new, |path| path.display().to_string());
        match (self.count, self.percent, self.leave) {
            (Some(count), ..) => format!("takes {count} inodes on {place}"),
            (_, Some(percent), _) => format!("takes {percent} of the free inodes on {place}"),
            (.., Some(leave)) => format!("leaves {leave} inodes free on {place}"),
            _ => format!("takes inodes on {place}"),
        }
    }

    fn ability(rights: &Rights) -> Ability {
        let tier = Some(Tier::Kernel);
        match (rights.can_hold_nameless_file(), unlimited(rights)) {
            (Ok(()), true) => Ability::yes("any number, where you may write", tier),
            (Ok(()), false) => Ability::limited(
                format!("{} at a time, where you may write", descriptors()),
                tier,
                "raise RLIMIT_NOFILE (`ulimit -n`); root holds any number",
            ),
            (Err(why), _) => Ability::limited(
                format!("not in {} ({why})", rights.place.display()),
                tier,
                "it takes a folder you may write on a file system that has O_TMPFILE (ext4, xfs, tmpfs)",
            ),
        }
    }
}

/// Whether so many can be held here, and are worth their memory; else why not, and what to do.
fn affordable(count: u64, path: &Path) -> Result<(), (String, &'static str)> {
    let most = descriptors();
    if count > most && !unlimited(&Rights::ours(path)) {
        let why = format!("{count} inodes are more than the {most} you may hold at a time");
        return Err((why, "raise RLIMIT_NOFILE (`ulimit -n`), or run as root"));
    }
    let available = memory::available().map_err(|why| (why.to_string(), "mount /proc"))?;
    if available.saturating_sub(count.saturating_mul(COST)) < MEMORY_FLOOR.0 {
        let why = format!(
            "holding {count} inodes may take {} of memory, and of the {} available {MEMORY_FLOOR} stay untouched",
            Bytes(count.saturating_mul(COST)),
            Bytes(available)
        );
        return Err((why, "ask for fewer, or aim at a smaller file system"));
    }
    Ok(())
}

/// What a user who is not privileged may park: as much as RLIMIT_NOFILE says (unix(7), ETOOMANYREFS).
fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

fn unlimited(rights: &Rights) -> bool {
    rights.has(Capability::SysAdmin) || rights.has(Capability::SysResource)
}

struct Inodes {
    all: u64,
    free: u64,
}

fn inodes(path: &Path) -> nix::Result<Inodes> {
    let stat = statvfs(path)?;
    Ok(Inodes { all: stat.files(), free: stat.files_available() })
}

impl Owed for Taken {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(()) // Closing the sockets is the undo, and the holder does it before this is called.
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(is_there(&self.holder, &self.name))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        vec![Claim::exclusive(host, format!("inodes of file system {}", self.device))]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: the inodes are free again with it", self.holder.pid)
    }
}
