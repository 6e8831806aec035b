//! The file system that a place's own one is mounted on: near by, and not named.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Effect;
use super::disk_fill::free_bytes;
use crate::base::Bytes;

/// What was free there before.
#[derive(Debug)]
pub struct Beneath {
    path: PathBuf,
    free_before: u64,
}

impl Beneath {
    /// Looks at it; `None` where a place is on the root file system.
    #[must_use]
    pub fn of(place: &Path) -> Option<Self> {
        let place = place.canonicalize().ok()?;
        let device = std::fs::metadata(&place).ok()?.dev();
        let other = |path: &&Path| std::fs::metadata(path).is_ok_and(|entry| entry.dev() != device);
        let path = place.ancestors().find(other)?.to_owned();
        Some(Self { free_before: free_bytes(&path).ok()?, path })
    }

    /// Whether less than half of what was taken elsewhere is missing here: others write too.
    #[must_use]
    pub fn spared(&self, taken: u64) -> Effect {
        match free_bytes(&self.path) {
            Ok(free) => {
                let fell = self.free_before.saturating_sub(free);
                let figures = format!("free space of {} fell by {}", self.path.display(), Bytes(fell));
                if fell < taken.div_ceil(2) { Effect::Confirmed(figures) } else { Effect::Mismatch(figures) }
            }
            Err(why) => Effect::Unverifiable(format!("{}: {why}", self.path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_stands_on_is_found_and_seen_to_move() {
        assert!(Beneath::of(Path::new("/")).is_none());
        let proc = Beneath::of(Path::new("/proc/self")).unwrap();
        assert_eq!(proc.path, Path::new("/"));
        let moved = Beneath { path: "/".into(), free_before: u64::MAX };
        assert!(matches!(moved.spared(1 << 30), Effect::Mismatch(_)));
        let still = Beneath { path: "/".into(), free_before: 0 };
        assert_eq!(still.spared(1), Effect::Confirmed("free space of / fell by 0 B".to_owned()));
    }
}
