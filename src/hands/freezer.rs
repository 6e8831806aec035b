//! A whole cgroup that stands still, by the kernel's freezer, and the way back.
//!
//! Version 2: `cgroup.freeze`, answered by `cgroup.events` (Linux' Documentation/admin-guide/cgroup-v2.rst). Version 1:
//! `freezer.state` (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst). No process is moved. Nothing of this ends
//! with its holder: somebody has to thaw.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fence::{FenceError, Place, legacy, members_below, refused, system, unified, writable};
use crate::base::clock::since_boot;
use crate::host::process::protected;

/// A group is looked at so far apart until it stands still.
const BETWEEN: Duration = Duration::from_millis(2);

/// A group that can be frozen: looked up, not touched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freezer {
    group: PathBuf,
    /// Which group of this name: one that is made anew is another.
    inode: u64,
    unified: bool,
}

impl Freezer {
    /// Finds the group that holds these processes and nobody else.
    ///
    /// # Errors
    /// When there is none, or it stands still already.
    pub fn find(pids: &[i32]) -> Result<Self, FenceError> {
        let mounts = read("/proc/self/mounts")?;
        let mut reason = None;
        // Version 2 first: it can be killed while it stands still.
        for version in [2, 1] {
            let mut places = Vec::new();
            for pid in pids {
                let groups = read(&format!("/proc/{pid}/cgroup"))?;
                let place = if version == 2 {
                    unified(&mounts, &groups)
                } else {
                    legacy("freezer", &mounts, &groups)
                };
                places.extend(place);
            }
            if places.is_empty() || places.len() < pids.len() {
                continue;
            }
            match Self::around(&places, pids) {
                Ok(found) => return Ok(found),
                Err(why) => reason = reason.or(Some(why)),
            }
        }
        Err(reason.unwrap_or_else(|| {
            refused(
                "its processes are in no cgroup that could be frozen".to_owned(),
                "use `pause`: it needs no cgroup",
            )
        }))
    }

    /// The innermost group around these, if it can be frozen.
    fn around(places: &[Place], pids: &[i32]) -> Result<Self, FenceError> {
        let mut group = places.first().map(|place| place.group.clone()).unwrap_or_default();
        while !places.iter().all(|place| place.group.starts_with(&group)) {
            group.pop();
        }
        let Some(first) = places.iter().find(|place| place.group == group || !place.root) else {
            return Err(refused(
                "its processes have no cgroup to themselves".to_owned(),
                "use `pause`: it needs no cgroup",
            ));
        };
        let found = Self {
            inode: fs::metadata(&group).map_err(system(&group))?.ino(),
            unified: first.unified,
            group,
        };
        // The root of a hierarchy has neither file: it cannot be frozen.
        if !found.group.join(found.file()).exists() {
            return Err(refused(
                "its processes have no cgroup to themselves".to_owned(),
                "use `pause`: it needs no cgroup",
            ));
        }
        let inside = found.inside()?;
        if let Some((pid, why)) = inside.iter().find_map(|pid| Some((pid, protected(*pid)?))) {
            return Err(refused(
                format!("{} also holds process {pid}, and {why}", found.group.display()),
                "use `pause`, which holds single processes still",
            ));
        }
        let strangers: Vec<i32> = inside.difference(&pids.iter().copied().collect()).copied().collect();
        if let [one, ..] = strangers.as_slice() {
            return Err(refused(
                format!(
                    "{} also holds {} that were not named, such as {one}",
                    found.group.display(),
                    strangers.len()
                ),
                "name the whole of it by `unit` or `cgroup`, or use `pause`",
            ));
        }
        if found.asked()? || found.still()? {
            return Err(refused(format!("{} is frozen already", found.group.display()), "thaw it first"));
        }
        writable(&found.group)?;
        Ok(found)
    }

    fn file(&self) -> &'static str {
        if self.unified { "cgroup.freeze" } else { "freezer.state" }
    }

    fn words(&self) -> (&'static str, &'static str) {
        if self.unified { ("1", "0") } else { ("FROZEN", "THAWED") }
    }

    /// The processes inside, also of the groups within.
    ///
    /// # Errors
    /// When they cannot be seen.
    pub fn inside(&self) -> Result<BTreeSet<i32>, FenceError> {
        members_below(&self.group)
    }

    /// Freezes it, and waits until all stand still, at most so long; whether they do.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn freeze(&self, within: Duration) -> Result<bool, FenceError> {
        self.write(self.words().0)?;
        let since = since_boot();
        while !self.still()? {
            if since_boot().saturating_sub(since) > within {
                return Ok(false);
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Ok(true)
    }

    /// Thaws it, if it is the group that we froze. Harmless when it is not frozen.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> Result<(), FenceError> {
        if self.asked()? { self.write(self.words().1) } else { Ok(()) }
    }

    /// Whether the group is still there and asked to stand still, by whomever.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn asked(&self) -> Result<bool, FenceError> {
        // In version 1 the state is FROZEN also below a frozen group; what was asked of this very one is told apart.
        let file = if self.unified { "cgroup.freeze" } else { "freezer.self_freezing" };
        Ok(self.there() && self.line(file)?.as_deref() == Some("1"))
    }

    /// Whether all inside stand still.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn still(&self) -> Result<bool, FenceError> {
        let (file, word) =
            if self.unified { ("cgroup.events", "frozen 1") } else { ("freezer.state", "FROZEN") };
        Ok(self.line(file)?.is_some_and(|text| text.lines().any(|line| line == word)))
    }

    fn there(&self) -> bool {
        fs::metadata(&self.group).is_ok_and(|entry| entry.ino() == self.inode)
    }

    /// What a file of the group says; `None` when the group is gone.
    fn line(&self, file: &str) -> Result<Option<String>, FenceError> {
        let path = self.group.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
            Err(why) => Err(system(&path)(why)),
        }
    }

    fn write(&self, word: &str) -> Result<(), FenceError> {
        let path = self.group.join(self.file());
        fs::write(&path, word).map_err(system(&path))
    }

    /// Whether any group can be frozen here.
    ///
    /// # Errors
    /// When none can.
    pub fn attempt() -> Result<(), FenceError> {
        let (mounts, groups) = (read("/proc/self/mounts")?, read("/proc/self/cgroup")?);
        match unified(&mounts, &groups).or_else(|| legacy("freezer", &mounts, &groups)) {
            Some(place) => writable(&place.group),
            None => Err(refused(
                "no cgroup with a freezer is mounted".to_owned(),
                "mount cgroup2 (Linux 5.2 or later)",
            )),
        }
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &Path {
        &self.group
    }

    /// How it is done, for people.
    #[must_use]
    pub fn said(&self) -> String {
        format!("the freezer of cgroup v{} {}", if self.unified { 2 } else { 1 }, self.group.display())
    }

    /// The command that thaws it.
    #[must_use]
    pub fn by_hand(&self) -> String {
        format!("echo {} > {}/{}", self.words().1, self.group.display(), self.file())
    }
}

fn read(path: &str) -> Result<String, FenceError> {
    fs::read_to_string(path).map_err(system(Path::new(path)))
}
