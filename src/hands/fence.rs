//! A limit on a group of processes, by a control group of Linux (cgroups(7)), and the way back.
//!
//! Where groups may be nested at will (version 1, and the root of version 2) the processes go into a group of our
//! own, and back where they came from: nobody else is limited. In version 2 a group that has processes cannot have
//! limited groups inside (Linux' Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint"): there
//! the limit of the processes' own group is set, if it holds nobody else, and the old one brought back.
//!
//! Memory stays charged to the group in which it was taken ("Memory Ownership", the same; version 1 could move charges
//! until Linux 6.12). A group of our own would count new memory only, so there their own is the first choice in both versions.
//!
//! Nothing of this ends with its holder: somebody has to take it down.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};
use serde::{Deserialize, Serialize};

use crate::host::process::{Process, age};

/// What can be limited, by the kernel's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// The number of processes and threads.
    Pids,
    /// What is read from disks, and written.
    Io,
    /// Memory, the page cache included.
    Memory,
}

impl Controller {
    /// In version 1, and in version 2.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Cpu => ("cpu", "cpu"),
            Self::Pids => ("pids", "pids"),
            Self::Io => ("blkio", "io"),
            Self::Memory => ("memory", "memory"),
        }
    }
}

/// Groups may be nested so deep before they are no longer followed.
const DEEPEST: u32 = 64;
/// Who is so young may have been started after the processes were found, and is no stranger: whoever is started in their
/// group later is held back with them too.
const LATELY: Duration = Duration::from_secs(1);
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
        let mut places = Vec::new();
        for pid in pids {
            match place(controller, *pid) {
                // It has ended since it was found.
                Err(_) if Process::of_pid(*pid).map_or(true, |process| !process.is_alive()) => {}
                place => places.push(place?),
            }
        }
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
        let strangers = || -> Result<BTreeSet<i32>, FenceError> {
            let mut strangers = members_below(&group)?;
            strangers.retain(|pid| !pids.contains(pid) && age(*pid).is_some_and(|age| age > LATELY));
            Ok(strangers)
        };
        let counts_old = controller == Controller::Memory && !root && strangers()?.is_empty();
        if root || !unified && !counts_old {
            let (_, word) = controller.words();
            if unified && !has_word(&group.join("cgroup.subtree_control"), word) {
                let why = format!("groups in {} may not limit {word}", group.display());
                return Err(refused(
                    why,
                    "write `+cpu +io +memory +pids` to the cgroup.subtree_control there",
                ));
            }
            writable(&group)?;
            return Ok(Self { group: group.join(name), from: Some(group), unified });
        }
        let strangers = strangers()?;
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

    /// What one of the files says of the group in which the processes are as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_as_it_is(&self, file: &str) -> Result<String, FenceError> {
        let path = self.from.as_ref().unwrap_or(&self.group).join(file);
        match fs::read_to_string(&path) {
            // The root of version 2 has no limits.
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(system(&path)),
        }
    }

    /// Whether it is of version 2.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// Whether it is a group of our own, into which the processes are moved.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.from.is_some()
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

/// One limit of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Its file.
    pub file: String,
    /// Of which device, where the file speaks of each by itself, on a line that begins with it.
    pub device: Option<String>,
    /// What it says meanwhile.
    pub during: String,
    /// What it says where there is none.
    pub without: String,
}

impl Limit {
    /// What a file says of it.
    #[must_use]
    pub fn said_in(&self, text: &str) -> String {
        let Some(device) = &self.device else { return text.trim_end().to_owned() };
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(device.as_str())?.strip_prefix(' '));
        lines.next().unwrap_or(&self.without).to_owned()
    }

    /// How it is written.
    fn line(&self, says: &str) -> String {
        self.device.as_ref().map_or_else(|| says.to_owned(), |device| format!("{device} {says}"))
    }
}

/// Limits of one group, and all that taking them back needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Where.
    pub ground: Ground,
    /// Each with what it said before; `None` when the group is ours.
    pub limits: Vec<(Limit, Option<String>)>,
}

impl Fence {
    /// Plans limits; nothing is touched.
    ///
    /// # Errors
    /// When the old limits cannot be read.
    pub fn plan(ground: Ground, limits: Vec<Limit>) -> Result<Self, FenceError> {
        let before = |limit: Limit| {
            let before = ground.read(&limit.file)?.map(|text| limit.said_in(&text));
            Ok((limit, before))
        };
        let limits = limits.into_iter().map(before).collect::<Result<_, _>>()?;
        Ok(Self { ground, limits })
    }

    /// Plans a single limit that is all its file says.
    ///
    /// # Errors
    /// As [`Fence::plan`].
    pub fn plan_one(ground: Ground, file: &str, during: String) -> Result<Self, FenceError> {
        let limit = Limit { file: file.to_owned(), device: None, during, without: "max".to_owned() };
        Self::plan(ground, vec![limit])
    }

    /// What its only limit said before.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.limits.first().and_then(|(_, before)| before.as_deref())
    }

    /// Whether it would change anything.
    #[must_use]
    pub fn limits_more(&self) -> bool {
        self.limits.iter().any(|(limit, before)| before.as_ref() != Some(&limit.during))
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
        for (limit, _) in &self.limits {
            self.write(&limit.file, &limit.line(&limit.during))?;
        }
        if self.ground.from.is_some() {
            for pid in pids {
                match self.write("cgroup.procs", &pid.to_string()) {
                    // It has ended since it was found.
                    Err(FenceError::System { why, .. }) if why.raw_os_error() == Some(libc::ESRCH) => {}
                    written => written?,
                }
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
            for (limit, before) in &self.limits {
                if let Some(before) = before.as_ref().filter(|before| **before != limit.during)
                    && self.holds(limit)?
                {
                    self.write(&limit.file, &limit.line(before))?;
                }
            }
            return Ok(());
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
        for (limit, before) in &self.limits {
            if before.as_ref() != Some(&limit.during) && self.holds(limit)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether all of its limits are as we set them.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn is_in_force(&self) -> Result<bool, FenceError> {
        for (limit, _) in &self.limits {
            if !self.holds(limit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a limit is as we set it.
    fn holds(&self, limit: &Limit) -> Result<bool, FenceError> {
        match self.ground.read(&limit.file) {
            Ok(now) => Ok(now.is_some_and(|text| limit.said_in(&text) == limit.during)),
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
        let files: Vec<&str> = self.limits.iter().map(|(limit, _)| limit.file.as_str()).collect();
        format!("{} of cgroup {}", files.join(", "), group.display())
    }

    /// The commands that take it down.
    #[must_use]
    pub fn by_hand(&self) -> String {
        let group = self.ground.group.display();
        if let Some(from) = &self.ground.from {
            return format!(
                "for p in $(cat {group}/cgroup.procs); do echo $p > {}/cgroup.procs; done; rmdir {group}",
                from.display()
            );
        }
        let back = |(limit, before): &(Limit, Option<String>)| {
            let says = limit.line(before.as_ref().unwrap_or(&limit.without));
            format!("echo '{says}' > {group}/{}", limit.file)
        };
        self.limits.iter().map(back).collect::<Vec<_>>().join("; ")
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
    let (_, word) = controller.words();
    find(controller, &mounts, &groups).filter(|place| {
        // Seen from inside a container, the paths may lead elsewhere.
        members(&place.group).is_ok_and(|members| members.contains(&pid))
            && (!place.unified || has_word(&place.group.join("cgroup.controllers"), word))
    })
    .ok_or_else(|| {
        refused(
            format!("process {pid} is in no cgroup here that may limit {word}"),
            "mount the cgroups of the host with that controller; with systemd, `CPUAccounting=`, `IOAccounting=`, `MemoryAccounting=` and `TasksAccounting=` of the unit turn it on",
        )
    })
}

fn find(controller: Controller, mounts: &str, groups: &str) -> Option<Place> {
    let (word, _) = controller.words();
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

fn members(group: &Path) -> io::Result<BTreeSet<i32>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// Who is in a group and in those below it.
pub(super) fn members_below(group: &Path) -> Result<BTreeSet<i32>, FenceError> {
    fn gather(group: &Path, deep: u32, found: &mut BTreeSet<i32>) -> io::Result<()> {
        found.extend(members(group)?);
        if deep == 0 {
            return Err(io::Error::other("its groups are nested too deep"));
        }
        for entry in fs::read_dir(group)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                match gather(&entry.path(), deep - 1, found) {
                    // It was removed meanwhile.
                    Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }
    let mut found = BTreeSet::new();
    gather(group, DEEPEST, &mut found).map_err(system(group))?;
    Ok(found)
}

/// The number behind a word in a file that has one on each line, such as `cpu.stat`.
#[must_use]
pub fn number_of(text: &str, word: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))?;
    number.trim().parse().ok()
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
        assert_eq!(
            find(Controller::Cpu, HYBRID, groups),
            place("/sys/fs/cgroup/cpu,cpuacct/app", false, false)
        );
        assert_eq!(
            find(Controller::Pids, HYBRID, groups),
            place("/sys/fs/cgroup/unified/app.slice/app.service", false, true)
        );
        assert_eq!(find(Controller::Io, HYBRID, "0::/\n"), place("/sys/fs/cgroup/unified", true, true));
        assert_eq!(find(Controller::Cpu, "proc /proc proc rw 0 0\n", groups), None);
    }

    #[test]
    fn the_limit_of_their_own_group_is_brought_back_only_if_it_is_still_ours() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground { group: folder.path().to_owned(), from: None, unified: true };
        let limit = folder.path().join("cpu.max");
        fs::write(&limit, "max 100000\n").unwrap();
        let fence = Fence::plan_one(ground, "cpu.max", "20000 100000".to_owned()).unwrap();
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

    #[test]
    fn of_a_file_that_speaks_of_several_devices_one_line_is_meant() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Ground { group: folder.path().to_owned(), from: None, unified: true };
        let file = folder.path().join("io.max");
        let limit = || Limit {
            file: "io.max".to_owned(),
            device: Some("8:0".to_owned()),
            during: "rbps=1 wbps=max".to_owned(),
            without: "rbps=max wbps=max".to_owned(),
        };
        fs::write(&file, "8:0 rbps=max wbps=7\n8:01 rbps=1 wbps=max\n").unwrap();
        let fence = Fence::plan(ground.clone(), vec![limit()]).unwrap();
        assert_eq!(fence.before(), Some("rbps=max wbps=7"));
        assert!(!fence.stands().unwrap(), "another device has that limit");
        fence.put_up(&[]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "8:0 rbps=1 wbps=max");
        assert!(fence.stands().unwrap());
        fence.take_down().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "8:0 rbps=max wbps=7");
        fs::write(&file, "").unwrap();
        let fence = Fence::plan(ground, vec![limit()]).unwrap();
        fence.put_up(&[]).unwrap();
        assert!(fence.by_hand().starts_with("echo '8:0 rbps=max wbps=max' > /"), "{}", fence.by_hand());
        fence.take_down().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "8:0 rbps=max wbps=max");
    }
}
