//! What is mounted where, as the thread that asks sees it (proc_pid_mountinfo(5)); and who works in a folder.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::process;

/// Asks statx(2) for the number of a mount (linux/stat.h; Linux 5.8).
const STATX_MNT_ID: u32 = 0x1000;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, which no other mount of the host has at this time.
    pub id: u64,
    /// The mount on which it stands.
    pub parent: u64,
    /// The device of its file system, as `MAJOR:MINOR`.
    pub device: String,
    /// What of its file system is to be seen there.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The groups of mounts that share what is mounted on them: it gives to and takes from them, or only takes.
    pub groups: Vec<u64>,
}

/// Reads a list of mounts.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(one).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [shared:N] [master:N] - TYPE SOURCE OPTIONS`.
fn one(line: &[u8]) -> Option<Mount> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [id, parent, device, root, point, _, more @ ..] = words.as_slice() else { return None };
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
    let tags = more.iter().take_while(|word| **word != b"-");
    let group = |tag: &&[u8]| {
        let (name, group) = std::str::from_utf8(tag).ok()?.split_once(':')?;
        matches!(name, "shared" | "master").then(|| group.parse().ok()).flatten()
    };
    Some(Mount {
        id: number(id)?,
        parent: number(parent)?,
        device: String::from_utf8_lossy(device).into_owned(),
        root: path(root),
        point: path(point),
        groups: tags.filter_map(group).collect(),
    })
}

/// Blanks, line ends and backslashes are written as `\` and three octal digits.
fn path(word: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), word);
    while let [first, tail @ ..] = rest {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        let hidden = tail.get(..3).and_then(octal).filter(|_| *first == b'\\');
        bytes.push(hidden.unwrap_or(*first));
        rest = if hidden.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes).into()
}

/// The number of the mount that a path lies on: the one mounted last, where several are.
///
/// # Errors
/// When there is no such file, or the kernel does not tell (before Linux 5.8).
pub fn number_at(path: &Path) -> io::Result<u64> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: statx(2) reads a path that ends with a NUL and fills a struct of integers, which zeros are one of.
    let found = unsafe {
        Errno::result(libc::statx(libc::AT_FDCWD, name.as_ptr(), 0, STATX_MNT_ID, found.as_mut_ptr()))?;
        found.assume_init()
    };
    if found.stx_mask & STATX_MNT_ID == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(found.stx_mnt_id)
}

/// The mount namespace of a process; `None` when it is gone, or not ours to look at.
#[must_use]
pub fn namespace_of(pid: i32) -> Option<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// All mount namespaces in which somebody lives, each with one who does.
#[must_use]
pub fn namespaces() -> BTreeMap<String, i32> {
    process::all().into_iter().filter_map(|pid| Some((namespace_of(pid)?, pid))).collect()
}

/// Somebody who works in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its number.
    pub pid: i32,
    /// Whether its working directory is there.
    pub stands_in: bool,
    /// How many files there it has open for writing.
    pub writes: usize,
}

/// Who stands in a folder or has files there open for writing, by way of this mount.
#[must_use]
pub fn workers(mount: u64, folder: &Path) -> Vec<Worker> {
    let there = |link: &Path| {
        fs::read_link(link).is_ok_and(|target| target.starts_with(folder))
            && number_at(link).is_ok_and(|number| number == mount)
    };
    let worker = |pid: i32| {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let files = fs::read_dir(proc.join("fd")).into_iter().flatten().flatten();
        let writes = files.filter(|file| there(&file.path()) && may_write(&proc, &file.file_name())).count();
        Worker { pid, stands_in: there(&proc.join("cwd")), writes }
    };
    let all = process::all().into_iter().map(worker);
    all.filter(|worker| worker.stands_in || worker.writes > 0).collect()
}

/// By the flags of a descriptor, in octal (proc_pid_fdinfo(5)).
fn may_write(proc: &Path, fd: &std::ffi::OsStr) -> bool {
    let text = fs::read_to_string(proc.join("fdinfo").join(fd)).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
    flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_what_its_path_hides_and_whom_it_shares_with() {
        let text = b"36 35 98:0 /mnt1 /mnt2/a\\040b\\134 rw,noatime shared:3 master:1 - ext3 /dev/root rw\n\
                     bad line\n22 27 0:21 / /proc ro - proc proc rw\n";
        let [first, second] = &parse(text)[..] else { panic!() };
        assert_eq!((first.id, first.parent, first.device.as_str()), (36, 35, "98:0"));
        assert_eq!(
            (first.root.as_path(), first.point.as_path()),
            (Path::new("/mnt1"), Path::new("/mnt2/a b\\"))
        );
        assert_eq!((first.groups.as_slice(), second.groups.as_slice()), (&[3, 1][..], &[][..]));
    }

    #[test]
    fn who_has_a_file_open_for_writing_is_found_by_the_mount_it_lies_on() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap();
        let mount = number_at(&place).unwrap();
        let us = |workers: Vec<Worker>| workers.into_iter().find(|one| one.pid == std::process::id() as i32);
        fs::write(place.join("read"), "").unwrap();
        let _read = fs::File::open(place.join("read")).unwrap();
        assert_eq!(us(workers(mount, &place)), None);
        let _written = fs::File::create(place.join("written")).unwrap();
        assert_eq!(us(workers(mount, &place)).unwrap().writes, 1);
        assert_eq!(us(workers(mount + 1, &place)), None);
        assert!(namespaces().contains_key(&namespace_of(std::process::id() as i32).unwrap()));
    }
}
