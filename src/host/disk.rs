//! The disk on which a file lies, and what it does.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::sys::statvfs::statvfs;

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

/// What is free on a file system for whoever is not root (statvfs(3)).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// The same as a share of all that is not root's alone; 1 where there is no such bound.
    pub share: f64,
    /// Inodes.
    pub inodes: u64,
    /// The same as a share of all; 1 where there is no such bound.
    pub inodes_share: f64,
}

impl Room {
    /// On the file system of a directory or file.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn on(path: &Path) -> io::Result<Self> {
        let told = statvfs(path)?;
        let share = |free: u64, used: u64| match free + used {
            0 => 1.0,
            all => free as f64 / all as f64,
        };
        let used = told.blocks().saturating_sub(told.blocks_free());
        let files = told.files().saturating_sub(told.files_free());
        Ok(Self {
            bytes: told.blocks_available() * told.fragment_size(),
            share: share(told.blocks_available(), used),
            inodes: told.files_available(),
            inodes_share: share(told.files_available(), files),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_bounds_has_all_of_its_room() {
        let room = Room::on(Path::new("/proc")).unwrap();
        assert_eq!((room.bytes, room.share, room.inodes_share), (0, 1.0, 1.0));
        assert!(
            (0.0..=1.0).contains(&Room::on(Path::new("/")).unwrap().share)
                && Room::on(Path::new("/no")).is_err()
        );
    }

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
