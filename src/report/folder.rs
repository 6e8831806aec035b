//! What a run leaves behind: its folder, and the reports in it.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::facts::Report;
use super::{junit, markdown};
use crate::host::folder::{Folder, Owner};

/// The folder of one run.
#[derive(Debug)]
pub struct RunFolder {
    folder: Folder,
    /// Folders made on the way, outermost first: they belong to the caller too.
    made: Vec<Folder>,
}

/// A folder or file that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}; name another place with --runs", .path.display())]
pub struct FolderError {
    /// Which.
    pub path: PathBuf,
    /// What the system said.
    pub why: io::Error,
}

impl RunFolder {
    /// Makes `<runs>/<UTC time>-<slug of the title>-<run id>/`, ignored by git.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(runs: &Path, started: Timestamp, title: &str, run: &str) -> Result<Self, FolderError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| FolderError { path, why }
        };
        let (above, made) = Folder::open_or_make(runs).map_err(failed(runs))?;
        if !runs.join(".gitignore").exists() {
            // Somebody else may make it at the same moment, and it is a courtesy only.
            let _ = above.write(".gitignore", b"*\n");
        }
        let name = format!("{}-{}-{run}", started.strftime("%Y%m%dT%H%M%SZ"), slug(title));
        let folder = above.make(&name).map_err(failed(&runs.join(&name)))?;
        Ok(Self { folder, made })
    }

    /// The open folder, for the journal and service logs.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Its path, for people and for child processes.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes `report.json`, `report.md` and `junit.xml`, and gives everything to whoever called sudo; what did not
    /// work, in sentences. Nothing stops the rest.
    #[must_use = "what did not work should be told"]
    pub fn leave(&self, report: &Report) -> Vec<String> {
        let mut troubles = write_all(&self.folder, report);
        if let Some(owner) = Owner::behind_sudo() {
            let mut gave = |folder: io::Result<()>, path: &Path| {
                if let Err(why) = folder {
                    troubles.push(format!("{}: it still belongs to root: {why}", path.display()));
                }
            };
            gave(self.folder.give(owner), self.path());
            for made in &self.made {
                gave(made.give_itself(owner), made.path());
            }
        }
        troubles
    }
}

/// Writes every rendering into a folder; what did not work.
fn write_all(folder: &Folder, report: &Report) -> Vec<String> {
    let json = json(report);
    let texts = [
        ("report.json", json),
        ("report.md", markdown::markdown(report)),
        ("junit.xml", junit::junit(report)),
    ];
    let write = |(name, text): (&str, String)| {
        let failed = folder.write(name, text.as_bytes()).err()?;
        Some(format!("{} could not be written: {failed}", folder.path().join(name).display()))
    };
    texts.into_iter().filter_map(write).collect()
}

/// Renders `report.json`.
#[must_use]
pub fn json(report: &Report) -> String {
    // Every figure is a plain number or text, so there is nothing that could fail.
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

/// A title as a part of a file name: lower-case letters, digits and single dashes, at most 40 of them.
fn slug(title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(40);
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "run".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Losses;
    use crate::report::{Story, stories};

    #[test]
    fn titles_become_file_names() {
        for (title, name) in [
            ("Orders API survives a slow Redis", "orders-api-survives-a-slow-redis"),
            ("../../etc/passwd", "etc-passwd"),
            ("日本", "run"),
            ("a title that is much longer than forty characters", "a-title-that-is-much-longer-than-forty-c"),
        ] {
            assert_eq!(slug(title), name);
        }
    }

    #[test]
    fn a_run_leaves_its_reports_in_a_folder_that_git_ignores() {
        let place = tempfile::tempdir().unwrap();
        let runs = place.path().join("deep/brownout-runs");
        let started = "2026-03-02T14:02:00Z".parse().unwrap();
        let run = RunFolder::create(&runs, started, "Slow Redis!", "53c51b72").unwrap();
        let report = Story::of(&stories::broken_promise()).report(&Losses::default());
        assert_eq!(run.leave(&report), Vec::<String>::new());
        assert_eq!(run.path(), runs.join("20260302T140200Z-slow-redis-53c51b72"));
        for name in ["report.json", "report.md", "junit.xml"] {
            assert!(run.path().join(name).exists(), "{name}");
        }
        assert_eq!(std::fs::read_to_string(runs.join(".gitignore")).unwrap(), "*\n");
        let again = RunFolder::create(&runs, started, "Slow Redis!", "53c51b72").unwrap_err().to_string();
        assert!(again.contains("File exists"), "{again}");
    }

    #[test]
    fn a_disk_that_is_full_is_told_and_leaves_no_half_report() {
        let Some(disk) = stories::small_disk() else { return };
        let folder = Folder::open(disk.path()).unwrap();
        let mut ballast = folder.file("ballast").unwrap();
        while io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
        let report = Story::of(&stories::broken_promise()).report(&Losses::default());
        let troubles = write_all(&folder, &report);
        assert_eq!(troubles.len(), 3, "{troubles:?}");
        assert!(troubles[0].contains("report.json could not be written: No space left"), "{troubles:?}");
        assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 1, "only the ballast");
    }
}
