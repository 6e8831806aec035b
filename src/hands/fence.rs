//! A limit on a group of processes, by a control group of Linux (cgroups(7)), and the way back.
//!
//! Where groups may be nested at will (version 1, and the root of version 2) the processes go into a group of our
//! own, and back where they came from: nobody else is limited. In version 2 a group that has processes cannot have
//! limited groups inside (Linux' Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"): there
//! the limit of the processes' own group is set, if it holds nobody else, and the old one brought back.
//!
//! Nothing of this ends with its holder: somebody has to take it down.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};

/// What can be limited, by the kernel's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// The number of processes and threads.
    Pids,
}

impl Controller {
    fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// How often the members of a group are moved away before it is given up: they may fork meanwhile.
const ROUNDS: u32 = 100;

/// Why there can be no fence.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// Something stands in the way.
    #[error("{why}")]
    Refused {
        /// What.
        why: String,
        /// What would help.
        remedy: &'static str,
    },
    /// The kernel said no.
    #[error("{}: {why}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// What it said.
        why: io::Error,
    },
}

pub(super) fn refused(why: String, remedy: &'static str) -> FenceError {
    FenceError::Refused { why, remedy }
}

pub(super) fn system(path: &Path) -> impl FnOnce(io::Error) -> FenceError + '_ {
    |why| FenceError::System { path: path.to_owned(), why }
}

/// Where the limit of some processes is set: looked up, not touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// The group that gets the limit.
    group: PathBuf,
    /// Where its members came from, when the group is ours.
    from: Option<PathBuf>,
    /// Whether it is of version 2.
    unified: bool,
}

impl Ground {
    /// Finds it for processes, which must share one group. `name` is what a group of ours would be called.
    ///
    /// # Errors
    /// When the kernel has no such controller, or the limit would hit others too.
    pub fn find(controller: Controller, pids: &[i32], name: &str) -> Result<Self, FenceError> {
        let mut places = pids.iter().map(|pid| place(controller, *pid)).collect::<Result<Vec<_>, _>>()?;
        places.dedup();
        let Some(Place { group, root, unified }) = places.pop() else {
            return Err(refused("there is no process to limit".to_owned(), "is the service running?"));
        };
        if !places.is_empty() {
            return Err(refused(
                "its processes are in several cgroups".to_owned(),
                "aim at those of one cgroup, or at one process",
            ));
        }
        if !unified || root {
            if unified && !has_word(&group.join("cgroup.subtree_control"), controller.word()) {
                let why = format!("groups in {} may not limit {}", group.display(), controller.word());
                return Err(refused(why, "write `+cpu +pids` to the cgroup.subtree_control there"));
            }
            writable(&group)?;
            return Ok(Self { group: group.join(name), from: Some(group), unified });
        }
        let strangers: BTreeSet<i32> = members(&group)
            .map_err(system(&group))?
            .difference(&pids.iter().copied().collect())
            .copied()
            .collect();
        if let Some(stranger) = strangers.first() {
            return Err(refused(
                format!(
                    "{} holds {} more processes, such as {stranger}, that would be limited too",
                    group.display(),
                    strangers.len()
                ),
                "aim at all of them: target = { cgroup = \"...\", pick = \"all\" }",
            ));
        }
        writable(&group)?;
        Ok(Self { group, from: None, unified })
    }

    /// Whether we may limit at all here, and whether any process (true), or only those that have a group to
    /// themselves; tried on our own group, without touching it.
    ///
    /// # Errors
    /// When the kernel has no such controller, or the groups are not ours to change.
    pub fn attempt(controller: Controller) -> Result<bool, FenceError> {
        let Place { group, unified, .. } = place(controller, std::process::id() as i32)?;
        writable(&group)?;
        Ok(!unified)
    }

    /// What one of the group's files says; `None` where the group is ours and not there yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<String>, FenceError> {
        let path = self.group.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(why) if why.kind() == io::ErrorKind::NotFound && self.from.is_some() => Ok(None),
            Err(why) => Err(system(&path)(why)),
        }
    }

    /// Whether it is of version 2.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Who is inside.
    #[must_use]
    pub fn inside(&self) -> BTreeSet<i32> {
        members(&self.group).unwrap_or_default()
    }

    /// How it is done, for people.
    #[must_use]
    pub fn said(&self) -> String {
        let version = if self.unified { 2 } else { 1 };
        match &self.from {
            Some(from) => format!("a cgroup v{version} of its own in {}", from.display()),
            None => format!("the limit of its own cgroup v{version}, {}", self.group.display()),
        }
    }
}

/// A limit, and all that taking it back needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Where.
    pub ground: Ground,
    /// The file of the limit.
    pub file: String,
    /// What it said before; `None` when the group is ours.
    pub before: Option<String>,
    /// What it says meanwhile.
    pub during: String,
}

impl Fence {
    /// Plans a limit; nothing is touched.
    ///
    /// # Errors
    /// When the old limit cannot be read.
    pub fn plan(ground: Ground, file: &str, during: String) -> Result<Self, FenceError> {
        let before = ground.read(file)?;
        Ok(Self { ground, file: file.to_owned(), before, during })
    }

    /// Puts it up around processes.
    ///
    /// # Errors
    /// When the kernel says no; what was done until then is taken back by [`Fence::take_down`].
    pub fn put_up(&self, pids: &[i32]) -> Result<(), FenceError> {
        let group = &self.ground.group;
        if self.ground.from.is_some() {
            fs::create_dir(group).map_err(system(group))?;
        }
        self.write(&self.file, &self.during)?;
        if self.ground.from.is_some() {
            for pid in pids {
                self.write("cgroup.procs", &pid.to_string())?;
            }
        }
        Ok(())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), FenceError> {
        let path = self.ground.group.join(file);
        fs::write(&path, text).map_err(system(&path))
    }

    /// Takes it down: its members go back and our group goes, or the old limit is written, unless somebody wrote
    /// another meanwhile. Harmless when there is none.
    ///
    /// # Errors
    /// When the kernel says no.
    pub fn take_down(&self) -> Result<(), FenceError> {
        let group = &self.ground.group;
        let Some(from) = &self.ground.from else {
            return match &self.before {
                Some(before) if self.stands()? => self.write(&self.file, before),
                _ => Ok(()),
            };
        };
        for _ in 0..ROUNDS {
            match fs::remove_dir(group) {
                Ok(()) => return Ok(()),
                Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(why) if why.kind() == io::ErrorKind::ResourceBusy => {}
                Err(why) => return Err(system(group)(why)),
            }
            let back = from.join("cgroup.procs");
            for pid in self.ground.inside() {
                match fs::write(&back, pid.to_string()) {
                    Err(why) if why.raw_os_error() != Some(libc::ESRCH) => return Err(system(&back)(why)),
                    _ => {}
                }
            }
        }
        Err(refused(format!("{} fills again and again", group.display()), "stop what starts processes in it"))
    }

    /// Whether it is up.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn stands(&self) -> Result<bool, FenceError> {
        if self.ground.from.is_some() {
            return Ok(self.ground.group.exists());
        }
        match self.ground.read(&self.file) {
            Ok(now) => Ok(now.as_ref() == Some(&self.during)),
            // Their group went, and the limit with it.
            Err(FenceError::System { why, .. })
                if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) =>
            {
                Ok(false)
            }
            Err(why) => Err(why),
        }
    }

    /// What no other may limit meanwhile.
    #[must_use]
    pub fn claims(&self) -> String {
        let group = self.ground.from.as_ref().unwrap_or(&self.ground.group);
        format!("{} of cgroup {}", self.file, group.display())
    }

    /// The commands that take it down.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let group = self.ground.group.display();
        match (&self.ground.from, &self.before) {
            (Some(from), _) => format!(
                "for p in $(cat {group}/cgroup.procs); do echo $p > {}/cgroup.procs; done; rmdir {group}",
                from.display()
            ),
            (None, before) => {
                format!("echo '{}' > {group}/{}", before.as_deref().unwrap_or("max"), self.file)
            }
        }
    }
}

/// Where a process is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: PathBuf,
    pub(super) root: bool,
    pub(super) unified: bool,
}

/// The group of a process in the hierarchy that has a controller: version 1 where it has it, else version 2.
fn place(controller: Controller, pid: i32) -> Result<Place, FenceError> {
    let read = |path: &str| fs::read_to_string(path).map_err(system(Path::new(path)));
    let (mounts, groups) = (read("/proc/self/mounts")?, read(&format!("/proc/{pid}/cgroup"))?);
    find(controller.word(), &mounts, &groups).filter(|place| {
        // Seen from inside a container, the paths may lead elsewhere.
        members(&place.group).is_ok_and(|members| members.contains(&pid))
            && (!place.unified || has_word(&place.group.join("cgroup.controllers"), controller.word()))
    })
    .ok_or_else(|| {
        refused(
            format!("process {pid} is in no cgroup here that may limit {}", controller.word()),
            "mount the cgroups of the host with that controller; with systemd, `CPUAccounting=` and `TasksAccounting=` of the unit turn it on",
        )
    })
}

fn find(word: &str, mounts: &str, groups: &str) -> Option<Place> {
    match mounted(mounts, &|kind, options| kind == "cgroup" && has(options, word)) {
        Some(_) => legacy(word, mounts, groups),
        None => unified(mounts, groups),
    }
}

/// The group in the hierarchy of version 1 that has a controller.
pub(super) fn legacy(word: &str, mounts: &str, groups: &str) -> Option<Place> {
    let at = mounted(mounts, &|kind, options| kind == "cgroup" && has(options, word))?;
    Some(Place::below(at, path(groups, &|controllers| has(controllers, word))?, false))
}

/// The group in the hierarchy of version 2.
pub(super) fn unified(mounts: &str, groups: &str) -> Option<Place> {
    let at = mounted(mounts, &|kind, _| kind == "cgroup2")?;
    Some(Place::below(at, path(groups, &str::is_empty)?, true))
}

impl Place {
    fn below(at: PathBuf, path: &str, unified: bool) -> Self {
        let inner = path.trim_start_matches('/');
        Self { group: if inner.is_empty() { at } else { at.join(inner) }, root: inner.is_empty(), unified }
    }
}

fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|one| one == word)
}

/// Where something is mounted: device, mount point, type, options (fstab(5)).
fn mounted(mounts: &str, fits: &dyn Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = words[..] else { return None };
        fits(kind, options).then(|| PathBuf::from(at))
    })
}

/// A process's path in a hierarchy: its number, controllers, path (cgroups(7)).
fn path<'a>(groups: &'a str, fits: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        fits(controllers).then_some(path)
    })
}

pub(super) fn members(group: &Path) -> io::Result<BTreeSet<i32>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

fn has_word(file: &Path, word: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.split_whitespace().any(|one| one == word))
}

pub(super) fn writable(group: &Path) -> Result<(), FenceError> {
    let file = group.join("cgroup.procs");
    eaccess(&file, AccessFlags::W_OK).and_then(|()| eaccess(group, AccessFlags::W_OK)).map_err(|why| {
        refused(format!("{} is not ours to change ({})", group.display(), why.desc()), "run as root")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
                          cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn a_process_is_found_in_version_1_where_that_has_the_controller_else_in_version_2() {
        let groups = "4:cpu,cpuacct:/app\n1:name=systemd:/app\n0::/app.slice/app.service\n";
        let place = |group: &str, root, unified| Some(Place { group: group.into(), root, unified });
        assert_eq!(find("cpu", HYBRID, groups), place("/sys/fs/cgroup/cpu,cpuacct/app", false, false));
        assert_eq!(
            find("pids", HYBRID, groups),
            place("/sys/fs/cgroup/unified/app.slice/app.service", false, true)
        );
        assert_eq!(find("pids", HYBRID, "0::/\n"), place("/sys/fs/cgroup/unified", true, true));
        assert_eq!(find("cpu", "proc /proc proc rw 0 0\n", groups), None);
    }

    #[test]
    fn the_limit_of_their_own_group_is_brought_back_only_if_it_is_still_ours() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground { group: folder.path().to_owned(), from: None, unified: true };
        let limit = folder.path().join("cpu.max");
        fs::write(&limit, "max 100000\n").unwrap();
        let fence = Fence::plan(ground, "cpu.max", "20000 100000".to_owned()).unwrap();
        fence.take_down().unwrap();
        assert_eq!(fs::read_to_string(&limit).unwrap(), "max 100000\n", "undone before it was done");
        fence.put_up(&[]).unwrap();
        assert!(fence.stands().unwrap());
        fence.take_down().unwrap();
        assert_eq!(fs::read_to_string(&limit).unwrap(), "max 100000");
        fence.put_up(&[]).unwrap();
        fs::write(&limit, "5000 100000\n").unwrap();
        assert!(!fence.stands().unwrap());
        fence.take_down().unwrap();
        assert_eq!(fs::read_to_string(&limit).unwrap(), "5000 100000\n", "somebody else's decision");
        drop(folder);
        assert!(!fence.stands().unwrap(), "the group went, and the limit with it");
        fence.take_down().unwrap();
    }
}
