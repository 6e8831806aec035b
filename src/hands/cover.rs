//! A cover: a folder, mounted over itself and read-only. Below it nothing is changed, so that lifting it is all.
//!
//! Whoever comes by its path then meets EROFS, in every mount namespace that the kernel passes the mount on to
//! (mount_namespaces(7)). It is made whole before it is put there (open_tree(2), mount_setattr(2), move_mount(2)), so
//! that it never stands there half made. What was open before, or is reached from a working directory that was, goes
//! another way. A whole file system or mount could be made read-only only while nobody has a file of it open for
//! writing: else the kernel says EBUSY.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::host::apart::apart;
use crate::host::mounts::{Mount, namespace_of, namespaces, number_at, parse};
use crate::host::process::boot_id;

/// Why a folder cannot be covered, or uncovered.
#[derive(Debug, thiserror::Error)]
pub enum CoverError {
    /// Something stands in the way.
    #[error("{why}")]
    Refused {
        /// What.
        why: String,
        /// What would help.
        remedy: &'static str,
    },
    /// The kernel said no.
    #[error("{doing}: {why}")]
    System {
        /// What was tried.
        doing: String,
        /// What it said.
        why: io::Error,
    },
}

fn refused(why: String, remedy: &'static str) -> CoverError {
    CoverError::Refused { why, remedy }
}

fn system<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> CoverError {
    let doing = doing.into();
    |why| CoverError::System { doing, why: why.into() }
}

/// A cover, and all that lifting it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// The folder, as its mount namespace calls it, without links.
    pub path: PathBuf,
    /// The mount on which the folder lies.
    pub beneath: u64,
    /// The mount namespace.
    namespace: String,
    device: String,
    /// The folder, as its file system calls it.
    root: PathBuf,
    boot: String,
}

impl Cover {
    /// Plans one for a folder in the mount namespace of a process; nothing is touched.
    ///
    /// # Errors
    /// When there is no such folder, it is read-only as it is, or other mounts lie in it.
    pub fn plan(pid: i32, folder: &Path) -> Result<Self, CoverError> {
        let said = folder.display().to_string();
        let namespace = namespace_of(pid).ok_or_else(|| {
            refused(format!("the mount namespace of process {pid} cannot be seen"), "run as root")
        })?;
        within(pid, |here| {
            let path = folder.canonicalize().map_err(system(said.clone()))?;
            if !path.is_dir() {
                return Err(refused(format!("{said} is no directory"), "name a directory"));
            }
            let beneath = number_at(&path).map_err(system(format!("the mount of {said}")))?;
            let mounts = here.mounts()?;
            let Some((device, root)) = mounts.iter().find(|mount| mount.id == beneath).and_then(|mount| {
                Some((mount.device.clone(), mount.root.join(path.strip_prefix(&mount.point).ok()?)))
            }) else {
                return Err(refused(
                    format!("the mount that {said} lies on cannot be seen from here"),
                    "run brownout where /proc/self/mountinfo tells of it",
                ));
            };
            let cover = Self { path, beneath, namespace, device, root, boot: boot_id() };
            cover.may_be_put_up(&mounts)?;
            if try_to_write(&cover.path) == Err(Errno::EROFS) {
                return Err(refused(format!("{said} is read-only as it is"), "name a folder that is not"));
            }
            Ok(cover)
        })
    }

    /// What is mounted in the folder would be hidden by it.
    fn may_be_put_up(&self, mounts: &[Mount]) -> Result<(), CoverError> {
        let inner =
            mounts.iter().find(|mount| mount.point != self.path && mount.point.starts_with(&self.path));
        match inner {
            None => Ok(()),
            Some(inner) => Err(refused(
                format!(
                    "{} is mounted in {}, and would be hidden",
                    inner.point.display(),
                    self.path.display()
                ),
                "name that mount, or a folder without mounts",
            )),
        }
    }

    /// Puts it up.
    ///
    /// # Errors
    /// When the kernel says no; then it is not there.
    pub fn put_up(&self) -> Result<(), CoverError> {
        let said = self.path.display();
        self.inside(|here| {
            self.may_be_put_up(&here.mounts()?)?;
            if number_at(&self.path).ok() != Some(self.beneath) {
                return Err(refused(
                    format!("{said} is another mount than it was"),
                    "let nobody mount there meanwhile",
                ));
            }
            let name = c_path(&self.path).map_err(system(said.to_string()))?;
            let copy = readonly_copy(&name).map_err(system(format!("copying the mount of {said}")))?;
            put(&copy, &name).map_err(system(format!("mounting over {said}")))
        })
    }

    /// Lifts it, and what the kernel passed on of it to other mount namespaces. Whoever went in meanwhile stays where it
    /// is and can write. Harmless when there is none.
    ///
    /// # Errors
    /// When somebody mounted something on it, or the kernel says no.
    pub fn take_down(&self) -> Result<(), CoverError> {
        let Some((pid, ours)) = self.find()? else { return Ok(()) };
        let is_copy = |mount: &&Mount| {
            mount.id != ours.id && mount.groups.iter().any(|group| ours.groups.contains(group))
        };
        // Others first: as long as ours is there, theirs can be told by it. What cannot be lifted there, because it belongs
        // to a user namespace, goes with ours.
        for pid in namespaces().into_values() {
            let _ = within(pid, |there| {
                let mounts = there.mounts()?;
                mounts.iter().filter(is_copy).try_for_each(|copy| lift(copy, &mounts))
            });
        }
        within(pid, |here| lift(&ours, &here.mounts()?))
    }

    /// Whether it is there.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn stands(&self) -> Result<bool, CoverError> {
        Ok(self.find()?.is_some())
    }

    /// It, and somebody who lives in its namespace. On one folder of one mount stands at most one other.
    fn find(&self) -> Result<Option<(i32, Mount)>, CoverError> {
        // A boot lifts everything, and so does the end of the last who lives in a namespace.
        let Some(pid) = self.dweller().filter(|_| self.boot == boot_id()) else { return Ok(None) };
        let ours = |mount: &Mount| {
            mount.parent == self.beneath
                && mount.point == self.path
                && mount.root == self.root
                && mount.device == self.device
        };
        let found = within(pid, |here| Ok(here.mounts()?.into_iter().find(ours)))?;
        Ok(found.map(|mount| (pid, mount)))
    }

    fn inside<T: Send>(
        &self,
        work: impl FnOnce(&Here) -> Result<T, CoverError> + Send,
    ) -> Result<T, CoverError> {
        let gone = || {
            let why = format!("who had the mounts of {} has ended", self.path.display());
            refused(why, "is the target running?")
        };
        within(self.dweller().ok_or_else(gone)?, work)
    }

    /// Somebody who lives in its namespace.
    fn dweller(&self) -> Option<i32> {
        namespaces().remove(&self.namespace)
    }

    /// What the kernel says to whoever would make a file in a folder of that namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn attempt_in(&self, folder: &Path) -> Result<Result<(), Errno>, CoverError> {
        self.inside(|_| Ok(try_to_write(folder)))
    }

    /// The command that lifts it.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let path = self.path.display();
        let lift = format!("mount -o remount,bind,rw {path} && umount -l {path}");
        match self.dweller() {
            Some(pid) if namespace_of(std::process::id() as i32).as_ref() != Some(&self.namespace) => {
                format!("nsenter -t {pid} -m sh -c '{lift}'")
            }
            _ => lift,
        }
    }
}

/// Whether folders can be covered here: one is copied, and not put anywhere.
///
/// # Errors
/// What the kernel says.
pub fn attempt(folder: &Path) -> io::Result<()> {
    readonly_copy(&c_path(folder)?).map(drop)
}

/// Makes a file that never gets a name. Where a file system has none such, the kernel has looked first whether it may be
/// written to (do_tmpfile in Linux' fs/namei.c).
fn try_to_write(folder: &Path) -> Result<(), Errno> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    match open(folder, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EISDIR) => Ok(()),
        Err(why) => Err(why),
    }
}

/// A copy of a folder's mount, mounted nowhere yet: it ends with its descriptor. It shares nothing with the original, so
/// that what is mounted in one does not appear in the other.
fn readonly_copy(folder: &CString) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: open_tree(2) reads a path that ends with a NUL, and returns a descriptor of ours or -1.
    let copy = unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, folder.as_ptr(), flags))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    let private = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    change(copy.as_raw_fd(), c"", libc::AT_EMPTY_PATH, &private)?;
    Ok(copy)
}

/// Mounts a copy at a path.
fn put(copy: &OwnedFd, at: &CStr) -> io::Result<()> {
    let (from, flags) = (copy.as_raw_fd(), libc::MOVE_MOUNT_F_EMPTY_PATH);
    // SAFETY: move_mount(2) reads two paths that end with a NUL, and takes a descriptor of ours.
    let done = unsafe {
        libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), libc::AT_FDCWD, at.as_ptr(), flags)
    };
    Ok(Errno::result(done).map(drop)?)
}

fn change(at: i32, path: &CStr, flags: i32, how: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: mount_setattr(2) reads a path that ends with a NUL, and a struct whose length is said.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(how),
            size_of::<libc::mount_attr>(),
        )
    };
    Ok(Errno::result(done).map(drop)?)
}

/// Lifts a mount of this namespace. Writing is allowed first: whoever stands in it keeps it, out of sight.
fn lift(mount: &Mount, all: &[Mount]) -> Result<(), CoverError> {
    let said = mount.point.display();
    if let Some(upon) = all.iter().find(|other| other.parent == mount.id) {
        return Err(refused(format!("{} is mounted on it", upon.point.display()), "unmount that first"));
    }
    if number_at(&mount.point).ok() != Some(mount.id) {
        return Err(refused(format!("another mount hides the one at {said}"), "unmount that first"));
    }
    let writable =
        libc::mount_attr { attr_set: 0, attr_clr: libc::MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
    c_path(&mount.point)
        .and_then(|path| change(libc::AT_FDCWD, &path, libc::AT_SYMLINK_NOFOLLOW, &writable))
        .map_err(system(format!("letting {said} be written to")))?;
    umount2(&mount.point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(system(format!("unmounting {said}")))
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A look at the mounts from where a thread is.
struct Here(OwnedFd);

impl Here {
    fn mounts(&self) -> Result<Vec<Mount>, CoverError> {
        let mut text = Vec::new();
        openat(&self.0, "mountinfo", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|fd| File::from(fd).read_to_end(&mut text))
            .map_err(system("what is mounted"))?;
        Ok(parse(&text))
    }
}

/// Does something in the mount namespace of a process: on a thread, which has it for itself and ends with it.
fn within<T: Send>(
    pid: i32,
    work: impl FnOnce(&Here) -> Result<T, CoverError> + Send,
) -> Result<T, CoverError> {
    let doing = format!("entering the mount namespace of process {pid}");
    let enter = move || -> io::Result<Here> {
        // Opened before: over there, /proc may be another or none.
        let ours =
            open("/proc/thread-self", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        if namespace_of(pid) != namespace_of(std::process::id() as i32) {
            let theirs = File::open(format!("/proc/{pid}/ns/mnt"))?;
            // The kernel asks that root and working directory are nobody else's (setns(2)).
            unshare(CloneFlags::CLONE_FS)?;
            setns(theirs, CloneFlags::CLONE_NEWNS)?;
        }
        Ok(Here(ours))
    };
    apart("mounts", enter, |here| work(&here)).unwrap_or_else(|why| Err(system(doing)(why)))
}
