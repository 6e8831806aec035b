//! `file`: is a file there, as new, as large and with what it should hold?

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::expect::{Content, KEPT, Paths, Pattern};
use super::{Miss, Probe, Prober, Setting, Trace, reach, timed, unreadable};
use crate::base::{Bytes, Clock, unit};
use crate::host::standpoint::Place;

crate::kind! {
    /// Looks at a file: whether it is there, how old, how large, and what it holds.
    ///
    /// Backups, certificates that are renewed, files that a job leaves behind, a replica's heartbeat.
    pub struct File("file") {
        /// Where it is, from the experiment file's directory on.
        path: PathBuf = required,
        /// What must be seen: `younger_than` and `older_than` (since its content changed), `larger_than` and
        /// `smaller_than`, `contains`, `regex` and `json` (of its first MiB), or `absent = true`.
        expect: Expect = "{}",
    }
}

crate::kind! {
    /// What a file must be.
    pub struct Expect("expect") {
        /// Its content changed within this time.
        younger_than: Duration = optional,
        /// Its content did not change within this time.
        older_than: Duration = optional,
        /// It holds more than this.
        larger_than: Bytes = optional,
        /// It holds less than this.
        smaller_than: Bytes = optional,
        /// What it contains.
        contains: String = optional,
        /// A regular expression that is found in it.
        regex: Pattern = optional,
        /// It is JSON: paths (RFC 9535) and values.
        json: Paths = "{}",
        /// It is not there.
        absent: bool = "false",
    }
}

crate::table!(Expect, "`expect`");

/// Looks, again and again.
pub struct FileProber {
    path: PathBuf,
    place: Option<Place>,
    expect: Expect,
}

impl Probe for File {
    type Prober = FileProber;
    const EXAMPLE: &'static str = r#"[probe.backup.file]
path   = "/var/backups/shop.sql.gz"
expect = { younger_than = "1d", larger_than = "1MiB" }
every  = "1m"
"#;

    fn check(&self) -> Result<(), (String, String)> {
        let Expect { younger_than, older_than, larger_than, smaller_than, contains, regex, json, absent } =
            &self.expect;
        let others = younger_than.is_some()
            || older_than.is_some()
            || larger_than.is_some()
            || smaller_than.is_some()
            || Content { contains: contains.as_deref(), regex: regex.as_ref(), json }.any();
        if *absent && others {
            let what = "a file that is absent can be nothing else";
            return Err((what.to_owned(), "leave out `absent`, or the rest".to_owned()));
        }
        Ok(())
    }

    fn prober(&self, setting: &Setting) -> Result<FileProber, String> {
        Ok(FileProber { path: setting.path(&self.path), place: setting.place(), expect: self.expect.clone() })
    }

    fn looks_at(&self) -> String {
        self.path.display().to_string()
    }
}

/// What was found in place of a file.
struct Found {
    size: u64,
    changed: Option<Timestamp>,
    content: Vec<u8>,
}

impl Prober for FileProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let Expect { younger_than, older_than, larger_than, smaller_than, contains, regex, json, absent } =
            &self.expect;
        let content = Content { contains: contains.as_deref(), regex: regex.as_ref(), json };
        let (path, place, reads) = (self.path.clone(), self.place.clone(), content.any());
        // A file system may hang; that must delay no other look.
        let looking = tokio::task::spawn_blocking(move || found(reach(place.as_ref(), &path)?.path(), reads));
        let found = timed(&mut trace.first_byte, looking).await;
        let called = self.path.display();
        let found = match found.map_err(|why| Miss::ours(why.to_string()))? {
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                let miss = Miss::new(format!("{called} is not there"));
                return if *absent { Ok(()) } else { Err(miss) };
            }
            Err(why) => return Err(unreadable(&self.path, &why)),
            Ok(_) if *absent => return Err(Miss::new(format!("{called} is there"))),
            Ok(found) => found,
        };
        trace.measure("size", found.size as f64, || Bytes(found.size).to_string());
        let age = found.changed.map(|changed| Clock::start().started().duration_since(changed));
        // What changed in the future is as young as can be.
        let age = age.map(|age| Duration::try_from(age).unwrap_or_default());
        if let Some(age) = age {
            trace.measure("age", age.as_secs_f64(), || unit::say(age));
        }
        let too_old = younger_than.filter(|limit| age.is_none_or(|age| age >= *limit));
        let too_young = older_than.filter(|limit| age.is_none_or(|age| age <= *limit));
        let too_small = larger_than.filter(|limit| found.size <= limit.0);
        let too_large = smaller_than.filter(|limit| found.size >= limit.0);
        let wrong = (too_old.map(|limit| format!("{called} is older than {}", unit::say(limit))))
            .or_else(|| too_young.map(|limit| format!("{called} is younger than {}", unit::say(limit))))
            .or_else(|| too_small.map(|limit| format!("{called} is not larger than {limit}")))
            .or_else(|| too_large.map(|limit| format!("{called} is not smaller than {limit}")))
            .or_else(|| {
                let whole = found.size <= KEPT as u64;
                reads.then(|| content.wrong(&called.to_string(), &found.content, whole)).flatten()
            });
        wrong.map_or(Ok(()), |why| Err(Miss::new(why)))
    }
}

fn found(path: &Path, reads: bool) -> io::Result<Found> {
    let about = std::fs::metadata(path)?;
    let mut content = Vec::new();
    if reads {
        if !about.is_file() {
            // A pipe would be waited for, a device need not end.
            return Err(io::Error::other("it is no regular file, so its content is not read"));
        }
        std::fs::File::open(path)?.take(KEPT as u64).read_to_end(&mut content)?;
    }
    let changed = about.modified().ok().and_then(|changed| Timestamp::try_from(changed).ok());
    Ok(Found { size: about.len(), changed, content })
}
