//! `disk-fill`: a file system runs full, by a file that has no name.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::beneath::Beneath;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError, asked};
use crate::base::{Bytes, Percent};
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Takes space on the file system of a place.
    ///
    /// By a file that has no name (O_TMPFILE, open(2)): the space is free again when its holder dies,
    /// whatever kills it.
    ///
    /// Say one of `size`, `percent` and `leave`. At least `floor` always stays free.
    pub struct DiskFill("disk-fill") {
        /// Take so much.
        size: Bytes = optional,
        /// Take so much of what is free.
        percent: Percent = optional,
        /// Take all but so much.
        leave: Bytes = optional,
        /// Never leave less than this free, whatever else is said: it protects the host.
        floor: Bytes = "16MiB",
    }
}

/// What was taken, where, and by whom it is held.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filled {
    path: PathBuf,
    device: u64,
    bytes: u64,
    free_before: u64,
    holder: Identity,
}

impl Fault for DiskFill {
    type Owed = Filled;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Place;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.full.disk-fill]
target = { path = "/var/lib/app" }
leave  = "64MiB"                 # take all but this
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Filled, Refusal> {
        let (path, device) = site.place_to_fill()?;
        let free = free_bytes(&path).map_err(|why| site.unreadable(&path, &why))?;
        let Some(bytes) =
            asked(free, self.size.map(|size| size.0), self.percent, self.leave.map(|leave| leave.0))
        else {
            return Err(site.refuse(
                "how much is not said, or said twice".to_owned(),
                "give one of `size`, `percent`, `leave`",
            ));
        };
        let most = free.saturating_sub(self.floor.0);
        if bytes == 0 || bytes > most {
            return Err(site.refuse(
                format!(
                    "{} of the {} free on {} would leave less than the floor of {}, or nothing would be taken",
                    Bytes(bytes), Bytes(free), path.display(), self.floor
                ),
                "ask for less, or lower `floor`",
            ));
        }
        Ok(Filled { path, device, bytes, free_before: free, holder: site.holder.clone() })
    }

    async fn inject(&self, _: &Site, owed: &Filled, held: &mut Held) -> Result<(), FaultError> {
        if let Some(beneath) = Beneath::of(&owed.path) {
            held.hold(beneath);
        }
        let owed = owed.clone();
        // Reserving blocks is milliseconds on ext4 and xfs, but may be seconds where they must be zeroed.
        let filled = tokio::task::spawn_blocking(move || fill(&owed)).await;
        held.hold(filled.map_err(|why| FaultError(why.to_string()))??);
        Ok(())
    }

    async fn verify(&self, _: &Site, owed: &Filled, _: &Held) -> Effect {
        match free_bytes(&owed.path) {
            Ok(free) => {
                let taken = owed.free_before.saturating_sub(free);
                let figures = format!("asked {}, free space fell by {}", Bytes(owed.bytes), Bytes(taken));
                // Others use the file system too: half of what was asked is proof enough that it took hold.
                if taken >= owed.bytes / 2 { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
            }
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, owed: &Filled, held: &Held) -> Option<Effect> {
        Some(held.get::<Beneath>()?.spared(owed.bytes))
    }

    fn harm(&self, site: &Site) -> String {
        let place = site.target.place.as_ref().map_or_else(String::new, |path| path.display().to_string());
        match (self.size, self.percent, self.leave) {
            (Some(size), ..) => format!("takes {size} on {place}"),
            (_, Some(percent), _) => format!("takes {percent} of what is free on {place}"),
            (.., Some(leave)) => format!("leaves {leave} free on {place}"),
            _ => format!("fills {place}"),
        }
    }

    fn ability(rights: &Rights) -> Ability {
        match rights.can_hold_nameless_file() {
            Ok(()) => Ability::yes("where you may write", Some(Tier::Kernel)),
            Err(why) => Ability::limited(
                format!("not in {} ({why})", rights.place.display()),
                Some(Tier::Kernel),
                "it takes a folder you may write on a file system that has O_TMPFILE (ext4, xfs, btrfs, tmpfs)",
            ),
        }
    }
}

/// Bytes that a user may still take there.
pub(super) fn free_bytes(path: &std::path::Path) -> nix::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

fn fill(owed: &Filled) -> Result<OwnedFd, FaultError> {
    let say = |what: &str, why: nix::Error| FaultError(format!("{what} on {}: {why}", owed.path.display()));
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = open(&owed.path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|why| say("opening a file without a name", why))?;
    fallocate(&file, FallocateFlags::empty(), 0, owed.bytes as i64)
        .map_err(|why| say("reserving the space", why))?;
    Ok(file)
}

impl Owed for Filled {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(()) // Closing the file is the undo, and the holder does it before this is called.
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        if crate::host::process::Process::open(&self.holder).is_err() {
            return Ok(false);
        }
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.holder.pid)) else {
            return Ok(false);
        };
        Ok(entries.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok()).any(|file| {
            file.is_file() && file.dev() == self.device && file.nlink() == 0 && file.size() == self.bytes
        }))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        // By the device alone: a path may be written in many ways.
        let (major, minor) = (nix::sys::stat::major(self.device), nix::sys::stat::minor(self.device));
        vec![Claim::exclusive(host, format!("file system {major}:{minor}"))]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: the space is freed with it", self.holder.pid)
    }
}
