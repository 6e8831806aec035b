//! `log`: how many lines of a file say what they should, or should not?

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::expect::Pattern;
use super::figure::Expect;
use super::{Miss, Probe, Prober, Setting, Trace, is_nowhere, reach, timed, unreadable};
use crate::host::standpoint::Place;

/// A longer line is taken for several.
const LINE: usize = 64 * 1024;

crate::kind! {
    /// Counts the lines that were written to a file since the look before, or since the start, and match.
    ///
    /// A file that is moved away and begun anew is read to its end and the new one from its beginning; of one that is cut
    /// to nothing, too, if it is shorter then than it was. Of several files between two looks the last is read. A line
    /// counts once it is ended, or its file is; one of more than 64 KiB is taken for several.
    pub struct Log("log") {
        /// Where it is, from the experiment file's directory on.
        path: PathBuf = required,
        /// A regular expression that is found in the lines that count.
        regex: Pattern = required,
        /// What is judged: how many lines match in a second, the `rate`, or the `count` of them since the look before.
        of: Of = "rate",
        /// What it must be: `above` and `below`.
        expect: Expect = required,
    }
}

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Lines a second.
    Rate,
    /// Lines.
    Count,
}

crate::words!(Of, "word", "rate" => Of::Rate, "count" => Of::Count);

/// Reads on, again and again.
pub struct LogProber {
    log: Log,
    path: PathBuf,
    place: Option<Place>,
    tail: Arc<Mutex<Tail>>,
}

impl Probe for Log {
    type Prober = LogProber;
    const EXAMPLE: &'static str = r#"[probe.errors.log]
path   = "/var/log/shop/app.log"
regex  = "\\b(ERROR|FATAL)\\b"
expect = { below = 0.5 }
every  = "5s"
"#;

    fn prober(&self, setting: &Setting) -> Result<LogProber, String> {
        let (path, place) = (setting.path(&self.path), setting.place());
        let open = match open(place.as_ref(), &path) {
            Ok(file) => {
                let at = file.metadata().map_err(|why| format!("{}: {why}", path.display()))?.len();
                Some(Open { file, at })
            }
            // A program, or a container, that is yet to start begins it.
            Err(why) if why.kind() == io::ErrorKind::NotFound || is_nowhere(&why) => None,
            Err(why) => return Err(format!("{}: {why}", path.display())),
        };
        let tail = Tail { open, line: Vec::new(), matched: 0, since: Instant::now() };
        Ok(LogProber { log: self.clone(), path, place, tail: Arc::new(Mutex::new(tail)) })
    }

    fn looks_at(&self) -> String {
        format!("lines with `{}` in {}", self.regex, self.path.display())
    }
}

impl Prober for LogProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let mut tail = self.tail.clone().lock_owned().await;
        let (path, place, pattern) = (self.path.clone(), self.place.clone(), self.log.regex.clone());
        // A file system may hang; that must delay no other look. What a look that is over has read counts in the next.
        let reading = tokio::task::spawn_blocking(move || {
            let read = tail.read(place.as_ref(), &path, &pattern);
            (tail, read)
        });
        let (mut tail, read) =
            timed(&mut trace.first_byte, reading).await.map_err(|why| Miss::ours(why.to_string()))?;
        let called = self.path.display();
        read.map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => Miss::new(format!("{called} is not there")),
            _ => unreadable(&self.path, &why),
        })?;
        let (matched, took) = (tail.matched as f64, tail.since.elapsed().as_secs_f64());
        (tail.matched, tail.since) = (0, Instant::now());
        drop(tail);
        let (what, figure) = match self.log.of {
            Of::Rate => ("lines a second", matched / took),
            Of::Count => ("lines", matched),
        };
        self.log.expect.judge(&format!("the number of {what} with `{}`", self.log.regex), figure, trace)
    }
}

/// The end of a file, wherever it is going.
struct Tail {
    open: Option<Open>,
    /// What is not yet a whole line.
    line: Vec<u8>,
    /// Lines that matched since then.
    matched: u64,
    since: Instant,
}

struct Open {
    file: File,
    /// So much of it has been read.
    at: u64,
}

fn open(place: Option<&Place>, path: &Path) -> io::Result<File> {
    let reached = reach(place, path)?;
    let path = reached.path();
    // A pipe would be waited for.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(path)
}

impl Tail {
    /// Reads on to the end of what there is now.
    fn read(&mut self, place: Option<&Place>, path: &Path, pattern: &Pattern) -> io::Result<()> {
        // What was written before the file was moved away.
        let before = self.rest(pattern)?;
        match (reach(place, path).and_then(|reached| fs::metadata(reached.path())), before) {
            // It is moved away, and the new one not begun.
            (Err(why), Some(_)) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
            (Err(why), _) => return Err(why),
            (Ok(now), Some(before)) if (now.dev(), now.ino()) == (before.dev(), before.ino()) => {
                return Ok(());
            }
            (Ok(_), _) => {}
        }
        self.end_line(pattern);
        self.open = Some(Open { file: open(place, path)?, at: 0 });
        self.rest(pattern).map(drop)
    }

    /// Reads the open file, as long as it is now; what it is.
    fn rest(&mut self, pattern: &Pattern) -> io::Result<Option<Metadata>> {
        let Some(about) = self.open.as_ref().map(|open| open.file.metadata()).transpose()? else {
            return Ok(None);
        };
        if self.open.as_ref().is_some_and(|open| about.len() < open.at) {
            self.end_line(pattern);
            self.open.as_mut().into_iter().for_each(|open| open.at = 0);
        }
        let mut part = vec![0; LINE];
        while let Some(open) = self.open.as_mut().filter(|open| open.at < about.len()) {
            let length = open.file.read_at(&mut part, open.at)?;
            if length == 0 {
                break;
            }
            open.at += length as u64;
            self.take(&part[..length], pattern);
        }
        Ok(Some(about))
    }

    fn take(&mut self, part: &[u8], pattern: &Pattern) {
        for piece in part.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() >= LINE {
                self.end_line(pattern);
            }
        }
    }

    fn end_line(&mut self, pattern: &Pattern) {
        if self.line.is_empty() {
            return;
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        self.matched += u64::from(pattern.is_match(line));
        self.line.clear();
    }
}
