//! The disk on which a file lies, and what it does.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// A whole disk, as the kernel counts them: never one of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its device, as `MAJOR:MINOR`.
    pub device: String,
    /// Its name.
    pub name: String,
}

/// What a disk has done since the boot, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
}

impl Disk {
    /// The disk below a directory or file, or of a block device; `None` where the file system has none of its own:
    /// in memory, over a network, or on several (btrfs).
    ///
    /// # Errors
    /// When there is no such file.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let entry = fs::metadata(path)?;
        let device = if entry.file_type().is_block_device() { entry.rdev() } else { entry.dev() };
        let link = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
        let Ok(folder) = link.canonicalize() else { return Ok(None) };
        // The folder of a partition lies in that of its disk.
        let folder = match folder.parent() {
            Some(disk) if folder.join("partition").exists() => disk,
            _ => &folder,
        };
        let device = fs::read_to_string(folder.join("dev"))?.trim().to_owned();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Some(Self { device, name }))
    }

    /// What it has done (Linux' Documentation/block/stat.rst: sectors are of 512 bytes); `None` when that cannot be read.
    #[must_use]
    pub fn done(&self) -> Option<Done> {
        let text = fs::read_to_string(format!("/sys/dev/block/{}/stat", self.device)).ok()?;
        let mut words = text.split_whitespace();
        let mut sectors = |skipped| words.nth(skipped)?.parse::<u64>().ok().map(|sectors| sectors * 512);
        Some(Done { read: sectors(2)?, written: sectors(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_memory_has_no_disk_and_a_disk_says_what_it_did() {
        assert_eq!(Disk::of(Path::new("/proc")).unwrap(), None);
        assert!(Disk::of(Path::new("/nowhere")).is_err());
        let Some(name) = fs::read_dir("/sys/block").into_iter().flatten().flatten().next() else { return };
        let device = fs::read_to_string(name.path().join("dev")).unwrap();
        let disk = Disk { device: device.trim().to_owned(), name: String::new() };
        assert!(disk.done().is_some());
    }
}
