//! A service's own folder, where it lies in the run's: made for it, and removed with it.
//!
//! The run's folder is named after the run, belongs to us and is closed to others, so nobody can put
//! anything else in the place of what lies directly in it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use nix::unistd::geteuid;

use crate::base::RunId;

/// The folder of a run's services above this one, if that is where it lies: `brownout-<run>`.
pub(super) fn run_folder(dir: &Path, run: RunId) -> Option<&Path> {
    let parent = dir.parent().filter(|_| dir.file_name().is_some())?;
    (parent.file_name()? == format!("brownout-{run}").as_str()).then_some(parent)
}

/// Makes the run's folder. Others may pass through, to the folder that is theirs, but not look around.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o711).create(folder) {
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => ours(folder).map(drop),
        made => made,
    }
}

/// Removes a service's own folder and, when it was the last, the run's. Links are removed, never followed.
///
/// # Errors
/// When the run's folder is not ours, something is mounted below, or the system says no.
pub(super) fn clear(dir: &Path, folder: &Path) -> io::Result<()> {
    if !ours(folder)? {
        return Ok(());
    }
    if let Some(mount) = mounted_below(dir)? {
        return Err(io::Error::other(format!("{mount} is mounted there: unmount it")));
    }
    // It removes through descriptors and follows no link (openat(2) with O_NOFOLLOW).
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    match fs::remove_dir(folder) {
        Err(why) if !matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Err(why)
        }
        _ => Ok(()),
    }
}

/// Whether the run's folder is there.
///
/// # Errors
/// When something else is in its place.
fn ours(folder: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() && found.uid() == geteuid().as_raw() => Ok(true),
        Ok(_) => {
            Err(io::Error::other("it is a link or belongs to somebody else: look at it, then remove it"))
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// What is mounted in a folder, if anything is: it is not ours to empty.
fn mounted_below(dir: &Path) -> io::Result<Option<String>> {
    // Mount points are the fifth word of a line (proc_pid_mountinfo(5)).
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.find(|point| Path::new(point).starts_with(dir)).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_goes_with_its_service_and_the_runs_with_the_last_of_them() {
        let place = tempfile::tempdir().unwrap();
        let run = RunId::fresh();
        let folder = place.path().join(format!("brownout-{run}"));
        let (one, two) = (folder.join("one"), folder.join("two"));
        make(&folder).unwrap();
        make(&folder).unwrap();
        for dir in [&one, &two] {
            assert_eq!(run_folder(dir, run), Some(folder.as_path()));
            fs::create_dir_all(dir.join("deep")).unwrap();
        }
        clear(&one, &folder).unwrap();
        assert!(!one.exists() && two.exists());
        clear(&two, &folder).unwrap();
        assert!(!folder.exists());
        clear(&two, &folder).unwrap();
    }

    #[test]
    fn links_lead_nowhere_and_other_folders_are_none_of_ours() {
        let place = tempfile::tempdir().unwrap();
        let (run, other) = (RunId::fresh(), place.path().join("precious"));
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "").unwrap();
        let folder = place.path().join(format!("brownout-{run}"));
        make(&folder).unwrap();
        symlink(&other, folder.join("linked")).unwrap();
        fs::create_dir(folder.join("own")).unwrap();
        symlink(&other, folder.join("own/inside")).unwrap();
        clear(&folder.join("linked"), &folder).unwrap();
        clear(&folder.join("own"), &folder).unwrap();
        assert!(other.join("kept").exists() && !folder.exists());

        symlink(place.path(), &folder).unwrap();
        assert!(clear(&folder.join("precious"), &folder).is_err(), "the run's folder is a link");
        assert!(make(&folder).is_err());
        assert!(other.join("kept").exists());

        for dir in [&other, &place.path().join(format!("brownout-{run}x/one")), Path::new("/")] {
            assert_eq!(run_folder(dir, run), None);
        }
        assert_eq!(run_folder(&place.path().join(format!("brownout-{run}/..")), run), None);
    }
}
