//! A folder held open, so that what is written lands in it, whatever its path leads to by then.
//!
//! A run under sudo writes as root into a place that belongs to the caller. Everything here goes through the
//! folder's own descriptor (openat(2), renameat(2), fchownat(2)) and follows no symbolic link, so that
//! the caller cannot turn a report into a write elsewhere.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, geteuid, unlinkat};

/// How folders are opened.
const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// The folders below a folder that are given away with it.
const DEPTH: usize = 4;

/// One directory.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder. The path is taken as it is meant: links in it are followed.
    ///
    /// # Errors
    /// When it is absent, not a folder, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = openat(nix::fcntl::AT_FDCWD, here(path), FOLDER, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens a folder, making it and those above it where they are missing; also those that were made, outermost
    /// first.
    ///
    /// # Errors
    /// When one cannot be made or opened.
    pub fn open_or_make(path: &Path) -> io::Result<(Self, Vec<Self>)> {
        let there = path.ancestors().find(|above| here(above).is_dir()).unwrap_or(Path::new(""));
        let missing = path.strip_prefix(there).unwrap_or(path);
        let (mut folder, mut made) = (Self::open(there)?, Vec::new());
        for name in missing {
            let inner = match folder.make(name) {
                // Another run was faster.
                Err(why) if why.kind() == io::ErrorKind::AlreadyExists => folder.inner(name)?,
                Err(why) => return Err(why),
                Ok(new) => {
                    made.push(Self { fd: new.fd.try_clone()?, path: new.path.clone() });
                    new
                }
            };
            folder = inner;
        }
        Ok((folder, made))
    }

    /// Opens a folder in this one, if it really is one.
    fn inner(&self, name: &OsStr) -> io::Result<Self> {
        let fd = openat(&self.fd, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Makes a folder inside this one; it must not exist.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn make(&self, name: impl AsRef<OsStr>) -> io::Result<Self> {
        mkdirat(&self.fd, name.as_ref(), Mode::from_bits_truncate(0o755))?;
        self.inner(name.as_ref())
    }

    /// Its path when it was opened, for people and for child processes.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a new file in it, for writing.
    ///
    /// # Errors
    /// When it exists or cannot be made.
    pub fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(File::from(openat(&self.fd, name, flags, Mode::from_bits_truncate(0o644))?))
    }

    /// Writes a file as a whole: whoever reads it sees the old one or the new one, never half of it.
    ///
    /// # Errors
    /// When it could not be written; then nothing of it is left.
    pub fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let half = format!(".{name}.half");
        let _ = unlinkat(&self.fd, half.as_str(), UnlinkatFlags::NoRemoveDir); // Left by one that was killed.
        let written = self
            .file(&half)
            .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
            .and_then(|()| Ok(renameat(&self.fd, half.as_str(), &self.fd, name)?));
        if written.is_err() {
            let _ = unlinkat(&self.fd, half.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Gives the folder and what we own in it to somebody. The folder itself goes last: until then nobody
    /// else can put anything in.
    ///
    /// # Errors
    /// The first thing that could not be given; the rest is given nevertheless.
    pub fn give(&self, owner: Owner) -> io::Result<()> {
        give(&self.fd, owner, DEPTH)
    }

    /// Gives the folder alone, and nothing in it.
    ///
    /// # Errors
    /// When it could not be given.
    pub fn give_itself(&self, owner: Owner) -> io::Result<()> {
        Ok(fchown(&self.fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?)
    }
}

/// The empty path is the working directory.
fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn give(folder: &OwnedFd, owner: Owner, depth: usize) -> io::Result<()> {
    let mut first = Ok(());
    let mut note = |outcome: io::Result<()>| {
        if first.is_ok() {
            first = outcome;
        }
    };
    let (uid, gid, us) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)), geteuid());
    let mut listing = Dir::from_fd(folder.try_clone()?)?;
    for entry in listing.iter().flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let ours = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|found| found.st_uid == us.as_raw() && (found.st_nlink == 1 || is_folder(&found)));
        // What belongs to somebody else (a database's own files) stays theirs; a second hard link would
        // give away a file that is elsewhere too.
        if !ours {
            continue;
        }
        if entry.file_type() == Some(Type::Directory) {
            if depth > 0 {
                let inner = openat(folder, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty());
                note(inner.map_err(io::Error::from).and_then(|inner| give(&inner, owner, depth - 1)));
            }
        } else {
            note(fchownat(folder, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(io::Error::from));
        }
    }
    note(fchown(folder, uid, gid).map_err(io::Error::from));
    first
}

fn is_folder(found: &nix::sys::stat::FileStat) -> bool {
    found.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Whose the files of a run shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Owner {
    /// Who called us by sudo (sudo(8), `SUDO_UID` and `SUDO_GID`); `None` when nobody did, and then files are ours
    /// already.
    #[must_use]
    pub fn behind_sudo() -> Option<Self> {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
        // Only root's word counts: anybody can set a variable, but only root can give files away.
        geteuid().is_root().then_some(())?;
        let owner = Self { uid: number("SUDO_UID")?, gid: number("SUDO_GID")? };
        (owner.uid != 0).then_some(owner)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_written_as_a_whole_and_replaced_as_a_whole() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        folder.write("report.md", b"one").unwrap();
        folder.write("report.md", b"two").unwrap();
        assert_eq!(std::fs::read(place.path().join("report.md")).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1, "no half file stays");
    }

    #[test]
    fn a_link_put_in_the_way_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let outside = place.path().join("outside");
        std::fs::write(&outside, "precious").unwrap();
        std::fs::create_dir(place.path().join("run")).unwrap();
        let folder = Folder::open(&place.path().join("run")).unwrap();
        symlink(&outside, place.path().join("run/report.md")).unwrap();
        symlink(&outside, place.path().join("run/journal.ndjson")).unwrap();
        folder.write("report.md", b"report").unwrap();
        assert!(folder.file("journal.ndjson").is_err(), "a link counts as a file that exists");
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_was_swapped_for_a_link_still_gets_the_file() {
        let place = tempfile::tempdir().unwrap();
        let (run, moved, trap) =
            (place.path().join("run"), place.path().join("moved"), place.path().join("trap"));
        std::fs::create_dir(&run).unwrap();
        std::fs::create_dir(&trap).unwrap();
        let folder = Folder::open(&run).unwrap();
        std::fs::rename(&run, &moved).unwrap();
        symlink(&trap, &run).unwrap();
        folder.write("report.md", b"report").unwrap();
        assert!(moved.join("report.md").exists());
        assert_eq!(std::fs::read_dir(&trap).unwrap().count(), 0);
    }

    #[test]
    fn what_we_own_is_given_away_and_what_others_own_is_not() {
        if !geteuid().is_root() {
            assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"), "this test needs root");
            eprintln!("SKIPPED: only root can give files away");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        folder.write("report.md", b"report").unwrap();
        let inner = folder.make("services").unwrap();
        inner.write("redis.log", b"log").unwrap();
        inner.write("theirs", b"database").unwrap();
        std::os::unix::fs::chown(place.path().join("services/theirs"), Some(77), Some(77)).unwrap();
        inner.write("twice", b"also elsewhere").unwrap();
        std::fs::hard_link(place.path().join("services/twice"), place.path().join("services/second"))
            .unwrap();
        folder.give(Owner { uid: 4321, gid: 4322 }).unwrap();
        let uid = |path: &str| std::fs::symlink_metadata(place.path().join(path)).unwrap().uid();
        assert_eq!(
            ["", "report.md", "services", "services/redis.log", "services/theirs", "services/twice"].map(uid),
            [4321, 4321, 4321, 4321, 77, 0]
        );
    }

    #[test]
    fn only_the_folders_that_were_missing_are_made_and_told() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("a/b");
        let (folder, made) = Folder::open_or_make(&deep).unwrap();
        assert_eq!(folder.path(), deep);
        assert_eq!(made.iter().map(Folder::path).collect::<Vec<_>>(), [place.path().join("a"), deep.clone()]);
        let (folder, made) = Folder::open_or_make(&deep).unwrap();
        assert!(made.is_empty() && folder.path() == deep);
        std::fs::write(place.path().join("file"), "").unwrap();
        assert!(Folder::open_or_make(&place.path().join("file/c")).is_err());
    }
}
