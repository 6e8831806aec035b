//! The write-ahead log itself: one file a run, one JSON line an entry, each line with its checksum.
//!
//! A line is on disk before the harm it undoes is done. Owed is every record without its `undone`:
//! not "injected", not "succeeded". A torn last line is what a crash leaves and is ignored (its harm had
//! not begun); a whole line that cannot be read is an error that says so.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use serde::{Deserialize, Serialize};

use super::{Claim, Record};
use crate::base::RunId;
use crate::base::dice::fnv1a;

/// Blocks set aside when a log is made, so that a full disk cannot stop an append. A record is well
/// under a kilobyte; a run that needs more asks the file system again, before the harm.
const RESERVED: i64 = 256 * 1024;

/// Which of the run's records; counted from 0.
pub type Number = u64;

/// Whose log it is: enough to tell a person, and to tell a living run from a dead one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The log format's version.
    pub version: u32,
    /// The run.
    pub run: RunId,
    /// The boot it was written in: no kernel object survives a boot.
    pub boot: String,
    /// The runner's process id.
    pub pid: i32,
    /// The experiment's title.
    pub title: String,
    /// Wall time of the start, for people.
    pub started: String,
    /// The run's folder.
    pub folder: PathBuf,
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file system said no.
    #[error("the undo log {path}: {why}; nothing may be hurt without it: {remedy}", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A whole line cannot be read.
    #[error("the undo log {path}, line {line}, cannot be read: {why}; what it owed must be undone by hand, then remove the file", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Something else holds what this run would hurt.
    #[error(
        "{claim} is held by run {run} ({title}); wait for it to end, or run `brownout recover` if it is dead"
    )]
    Claimed {
        /// The claim both need.
        claim: Claim,
        /// The other run.
        run: RunId,
        /// The other run's title.
        title: String,
    },
    /// Its run still lives (or somebody else is paying).
    #[error("the undo log {path} is in use: its run still lives, or is being recovered", path = .path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// An entry that cannot follow those before it.
    #[error("the undo log says that record {0} is undone, which it never held or which was undone before")]
    OutOfOrder(Number),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line<R> {
    Header(Header),
    Claims(Vec<Claim>),
    Owed { n: Number, record: R },
    Undone { n: Number },
}

/// What a log says, as a pure state: every pair of state and entry that makes no sense is an error.
struct State<R> {
    header: Option<Header>,
    claims: Vec<Claim>,
    owed: BTreeMap<Number, R>,
    next: Number,
}

impl<R> State<R> {
    fn empty() -> Self {
        Self { header: None, claims: Vec::new(), owed: BTreeMap::new(), next: 0 }
    }

    fn apply(&mut self, line: Line<R>) -> Result<(), String> {
        match line {
            Line::Header(header) if self.header.is_none() => self.header = Some(header),
            Line::Header(_) => return Err("a second header".to_owned()),
            _ if self.header.is_none() => return Err("an entry before the header".to_owned()),
            Line::Claims(claims) => self.claims.extend(claims),
            Line::Owed { n, record } if n == self.next => {
                self.owed.insert(n, record);
                self.next += 1;
            }
            Line::Owed { n, .. } => return Err(format!("record {n} where {} was expected", self.next)),
            Line::Undone { n } => {
                self.owed.remove(&n).ok_or_else(|| LogError::OutOfOrder(n).to_string())?;
            }
        }
        Ok(())
    }
}

/// `checksum json\n`: the checksum is FNV-1a of the JSON, sixteen hexadecimal digits. It guards against
/// torn and rotten lines, not against malice: whoever can write here is root or the user already.
fn encode<R: Serialize>(line: &Line<R>) -> Result<Vec<u8>, io::Error> {
    let json = serde_json::to_string(line)?;
    Ok(format!("{:016x} {json}\n", fnv1a(json.as_bytes())).into_bytes())
}

fn decode<R: Record>(line: &[u8]) -> Result<Line<R>, String> {
    let text = std::str::from_utf8(line).map_err(|why| why.to_string())?;
    let (sum, json) = text.split_once(' ').ok_or("it has no checksum")?;
    if sum != format!("{:016x}", fnv1a(json.as_bytes())) {
        return Err("its checksum is wrong".to_owned());
    }
    serde_json::from_str(json).map_err(|why| why.to_string())
}

/// Reads a log's bytes: its state and how many bytes of whole lines there are.
fn decode_all<R: Record>(path: &Path, bytes: &[u8]) -> Result<(State<R>, usize), LogError> {
    let mut state = State::empty();
    let mut whole = 0;
    for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(body) = line.strip_suffix(b"\n") else { break };
        decode(body).and_then(|line| state.apply(line)).map_err(|why| LogError::Unreadable {
            path: path.to_owned(),
            line: number + 1,
            why,
        })?;
        whole += line.len();
    }
    Ok((state, whole))
}

/// Whose a log is, unless it was cut before that; and what it owes, newest first.
pub type Says<R> = (Option<Header>, Vec<(Number, R)>);

/// What the bytes of a log say. A torn last line is what a crash
/// leaves, and is ignored.
///
/// # Errors
/// [`LogError::Unreadable`] when a whole line cannot be read.
pub fn read_bytes<R: Record>(bytes: &[u8]) -> Result<Says<R>, LogError> {
    let (state, _) = decode_all(Path::new("the bytes given"), bytes)?;
    Ok((state.header, state.owed.into_iter().rev().collect()))
}

/// The durable log of one run, locked for as long as this value lives.
pub struct UndoLog<R> {
    path: PathBuf,
    file: Flock<File>,
    state: State<R>,
    records: PhantomData<R>,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> LogError + '_ {
    move |why| LogError::Io {
        path: path.to_owned(),
        why,
        remedy: "use a state folder that can be written, by --state or BROWNOUT_STATE",
    }
}

impl<R: Record> UndoLog<R> {
    /// Makes a run's log and takes its claims, under one lock with all other runs of this state folder.
    ///
    /// # Errors
    /// When the folder cannot be written, or another log still holds what is claimed.
    pub fn create(state: &Path, header: Header, claims: &[Claim]) -> Result<Self, LogError> {
        let folder = state.join("undo");
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let _gate = gate(&folder)?;
        sweep_all::<R>(&folder)?;
        refuse_clashes::<R>(state, header.run, claims)?;

        let path = folder.join(format!("{}.log", header.run));
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error(&path))?;
        // KEEP_SIZE: the blocks are there, the length is not, so that the file still ends with its last line.
        // A file system without fallocate (tmpfs on old kernels, NFS) keeps working without the reserve.
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVED);
        // Nobody can own it yet: who looks whether its run lives holds it for a moment only.
        let file =
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io_error(&path)(errno.into()))?;
        let mut log = Self { path, file, state: State::empty(), records: PhantomData };
        log.write(Line::Header(header))?;
        log.write(Line::Claims(claims.to_vec()))?;
        log.file.sync_all().map_err(io_error(&log.path))?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(io_error(&folder))?;
        Ok(log)
    }

    /// Takes over a dead run's log, to pay what it owes.
    ///
    /// # Errors
    /// [`LogError::Busy`] when its run still lives; otherwise when it cannot be read.
    pub fn adopt(path: &Path) -> Result<Self, LogError> {
        let file = OpenOptions::new().read(true).append(true).open(path).map_err(io_error(path))?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| LogError::Busy { path: path.to_owned() })?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io_error(path))?;
        let (state, whole) = decode_all(path, &bytes)?;
        if whole < bytes.len() {
            // What follows must not be glued to the torn line.
            file.set_len(whole as u64).map_err(io_error(path))?;
        }
        Ok(Self { path: path.to_owned(), file, state, records: PhantomData })
    }

    fn write(&mut self, line: Line<R>) -> Result<(), LogError> {
        let bytes = encode(&line).map_err(io_error(&self.path))?;
        self.file.write_all(&bytes).and_then(|()| self.file.sync_data()).map_err(io_error(&self.path))?;
        self.state.apply(line).map_err(|why| LogError::Unreadable { path: self.path.clone(), line: 0, why })
    }

    /// Takes more claims, for targets that were not there when the run began.
    ///
    /// # Errors
    /// When another log holds them, or they cannot be written.
    pub fn claim(&mut self, claims: &[Claim]) -> Result<(), LogError> {
        let (Some(header), Some(folder)) = (&self.state.header, self.path.parent()) else { return Ok(()) };
        let fresh: Vec<Claim> =
            claims.iter().filter(|claim| !self.state.claims.contains(claim)).cloned().collect();
        let Some(state) = folder.parent().filter(|_| !fresh.is_empty()) else { return Ok(()) };
        let _gate = gate(folder)?;
        refuse_clashes::<R>(state, header.run, &fresh)?;
        self.write(Line::Claims(fresh))
    }

    /// Where the run can be spoken to (`brownout halt`, `go`, `note`): a socket beside its log, which goes
    /// with the log, whoever ends it.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.path)
    }

    /// Writes a record down. Only when this has returned may the harm be done.
    ///
    /// # Errors
    /// When it is not safely on disk; then the harm must not be done.
    pub fn append(&mut self, record: R) -> Result<Number, LogError> {
        let n = self.state.next;
        self.write(Line::Owed { n, record })?;
        Ok(n)
    }

    /// Writes down that a record's harm is gone, which must have been checked.
    ///
    /// # Errors
    /// When it was never owed, or cannot be written: then it stays owed, and undoing it again is harmless.
    pub fn undone(&mut self, n: Number) -> Result<(), LogError> {
        if !self.state.owed.contains_key(&n) {
            return Err(LogError::OutOfOrder(n));
        }
        self.write(Line::Undone { n })
    }

    /// What is owed, newest first: the order in which it is undone.
    pub fn owed(&self) -> impl Iterator<Item = (Number, &R)> {
        self.state.owed.iter().rev().map(|(n, record)| (*n, record))
    }

    /// Whose log it is.
    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.state.header.as_ref()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends the log: the file goes when nothing is owed, and stays for `brownout recover` otherwise.
    ///
    /// # Errors
    /// When the file cannot be removed; harmless, `recover` removes it.
    pub fn close(self) -> Result<(), LogError> {
        // Nobody listens any more, whatever is owed. Usually it is gone already.
        let _ = fs::remove_file(self.socket());
        if self.state.owed.is_empty() {
            fs::remove_file(&self.path).map_err(io_error(&self.path))?;
        }
        Ok(())
    }
}

/// The socket beside a log.
#[must_use]
pub fn socket_of(log: &Path) -> PathBuf {
    log.with_extension("sock")
}

/// Whether another run holds, or a dead one still owes, what is claimed.
fn refuse_clashes<R: Record>(state: &Path, us: RunId, claims: &[Claim]) -> Result<(), LogError> {
    for other in found::<R>(state)?.into_iter().filter(|other| other.header.run != us) {
        let owed = other.owed.iter().flat_map(|(_, record)| record.claims());
        let mut theirs = other.claims.iter().cloned().chain(owed);
        if let Some(claim) = theirs.find(|theirs| claims.iter().any(|ours| ours.clashes(theirs))) {
            return Err(LogError::Claimed { claim, run: other.header.run, title: other.header.title });
        }
    }
    Ok(())
}

/// The one lock under which logs are made and swept.
fn gate(folder: &Path) -> Result<Flock<File>, LogError> {
    let path = folder.join("lock");
    let mut open = OpenOptions::new();
    let file =
        open.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io_error(&path))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io_error(&path)(errno.into()))
}

/// Removes logs of dead runs that owe nothing: of those that died before any harm, or right after the last. Sockets
/// whose log is gone are removed too.
///
/// # Errors
/// When the state folder cannot be written or a log cannot be read.
pub fn sweep<R: Record>(state: &Path) -> Result<(), LogError> {
    let folder = state.join("undo");
    if !folder.exists() {
        return Ok(());
    }
    // Under the gate, no living run is between making its file and locking it.
    let _gate = gate(&folder)?;
    sweep_all::<R>(&folder)
}

fn sweep_all<R: Record>(folder: &Path) -> Result<(), LogError> {
    for path in paths(folder, "log")? {
        // One that lives, or cannot be read, is not swept.
        if let Ok(log) = UndoLog::<R>::adopt(&path)
            && log.owed().next().is_none()
        {
            log.close()?;
        }
    }
    for socket in paths(folder, "sock")? {
        if !socket.with_extension("log").exists() {
            let _ = fs::remove_file(&socket); // Nobody listens there, and nobody looks for it.
        }
    }
    Ok(())
}

/// A log as somebody else sees it.
#[derive(Debug)]
pub struct Found<R> {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub header: Header,
    /// What its run holds for as long as it lives; nothing when the run is dead.
    pub claims: Vec<Claim>,
    /// What it owes, newest first.
    pub owed: Vec<(Number, R)>,
    /// Whether its run lives (or somebody is paying for it).
    pub alive: bool,
}

/// What one log owes, newest first, without asking whether its run lives: asking takes its lock for a moment,
/// in which nobody else gets it.
///
/// # Errors
/// When it cannot be read.
pub fn owed_in<R: Record>(path: &Path) -> Result<Vec<(Number, R)>, LogError> {
    let bytes = fs::read(path).map_err(io_error(path))?;
    let (state, _) = decode_all::<R>(path, &bytes)?;
    Ok(state.owed.into_iter().rev().collect())
}

/// All logs of a state folder. A folder that does not exist holds none.
///
/// # Errors
/// When one cannot be read: an unreadable log may owe anything.
pub fn found<R: Record>(state: &Path) -> Result<Vec<Found<R>>, LogError> {
    let folder = state.join("undo");
    let mut logs = Vec::new();
    for path in paths(&folder, "log")? {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(why) if why.kind() == io::ErrorKind::NotFound => continue, // closed just now
            Err(why) => return Err(io_error(&path)(why)),
        };
        let (state, _) = decode_all::<R>(&path, &bytes)?;
        // A log cut before its header was made by a run that died before it could hurt anything.
        let Some(header) = state.header else { continue };
        let alive = OpenOptions::new()
            .read(true)
            .open(&path)
            .is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err());
        let claims = if alive { state.claims } else { Vec::new() };
        logs.push(Found { path, header, claims, owed: state.owed.into_iter().rev().collect(), alive });
    }
    Ok(logs)
}

/// The files of a folder with an extension; none when it does not exist.
fn paths(folder: &Path, wanted: &str) -> Result<Vec<PathBuf>, LogError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(why) => return Err(io_error(folder)(why)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == wanted));
    paths.sort();
    Ok(paths)
}

/// Where logs are kept: `BROWNOUT_STATE`; else `/var/lib/brownout` for root; else
/// `$XDG_STATE_HOME/brownout` or `~/.local/state/brownout`. Never in a run's folder, so that `recover`
/// finds them from anywhere.
#[must_use]
pub fn state_dir() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BROWNOUT_STATE").unwrap_or_else(|| {
        if nix::unistd::geteuid().is_root() {
            return PathBuf::from("/var/lib/brownout");
        }
        set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(std::env::temp_dir)
            .join("brownout")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::undo::Tier;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Note(String);

    impl Record for Note {
        fn claims(&self) -> Vec<Claim> {
            vec![Claim::exclusive("here", self.0.clone())]
        }
        fn tier(&self) -> Tier {
            Tier::Watchdog
        }
        fn deadline(&self) -> Option<std::time::Duration> {
            None
        }
        fn by_hand(&self) -> String {
            String::new()
        }
    }

    fn header() -> Header {
        Header {
            version: 1,
            run: RunId::fresh(),
            boot: "b".to_owned(),
            pid: 1,
            title: "t".to_owned(),
            started: String::new(),
            folder: PathBuf::new(),
        }
    }

    fn note(text: &str) -> Note {
        Note(text.to_owned())
    }

    #[test]
    fn what_is_not_undone_is_owed_newest_first_also_after_a_crash() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::create(state.path(), header(), &[]).unwrap();
        for text in ["a", "b", "c"] {
            log.append(note(text)).unwrap();
        }
        log.undone(1).unwrap();
        let path = log.path().to_owned();
        drop(log); // the runner is gone, without a close
        let log = UndoLog::<Note>::adopt(&path).unwrap();
        assert_eq!(log.owed().map(|(n, r)| (n, r.0.as_str())).collect::<Vec<_>>(), [(2, "c"), (0, "a")]);
    }

    #[test]
    fn claims_taken_later_clash_like_those_taken_first() {
        let state = tempfile::tempdir().unwrap();
        let mut ours = UndoLog::<Note>::create(state.path(), header(), &[]).unwrap();
        let mut theirs = UndoLog::<Note>::create(state.path(), header(), &[]).unwrap();
        let disk = [Claim::exclusive("here", "disk")];
        ours.claim(&disk).unwrap();
        ours.claim(&disk).unwrap();
        assert!(matches!(theirs.claim(&disk), Err(LogError::Claimed { .. })));
        ours.close().unwrap();
        theirs.claim(&disk).unwrap();
    }

    #[test]
    fn a_living_run_cannot_be_adopted_and_a_closed_one_leaves_no_file() {
        let state = tempfile::tempdir().unwrap();
        let mut log = UndoLog::create(state.path(), header(), &[]).unwrap();
        let n = log.append(note("a")).unwrap();
        assert!(matches!(UndoLog::<Note>::adopt(log.path()), Err(LogError::Busy { .. })));
        log.undone(n).unwrap();
        assert!(matches!(log.undone(n), Err(LogError::OutOfOrder(0))));
        let path = log.path().to_owned();
        log.close().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_a_dead_run_owes_is_refused_to_others_and_what_it_only_claimed_is_free() {
        let state = tempfile::tempdir().unwrap();
        let claim = |thing: &str| vec![Claim::exclusive("here", thing)];
        let mut log = UndoLog::<Note>::create(state.path(), header(), &claim("x")).unwrap();
        log.append(note("y")).unwrap();
        let refused = |thing: &str| UndoLog::<Note>::create(state.path(), header(), &claim(thing)).is_err();
        assert!(refused("x") && refused("y"), "a living run holds both");
        drop(log);
        assert!(refused("y"), "a dead run still owes y");
        assert!(!refused("x"), "a dead run holds nothing it did not owe");
    }

    #[test]
    fn a_log_that_never_got_its_first_line_is_swept_and_one_that_owes_is_not() {
        let state = tempfile::tempdir().unwrap();
        let mut owing = UndoLog::create(state.path(), header(), &[]).unwrap();
        owing.append(note("a")).unwrap();
        let owing = owing.path().to_owned();
        let empty = state.path().join("undo/00000000.log");
        fs::write(&empty, "0123 {\"hea").unwrap();
        sweep::<Note>(state.path()).unwrap();
        assert!(!empty.exists() && owing.exists());
    }

    fn two_entries(state: &Path) -> (PathBuf, Vec<u8>) {
        let mut log = UndoLog::create(state, header(), &[]).unwrap();
        log.append(note("a")).unwrap();
        log.append(note("b")).unwrap();
        log.undone(0).unwrap();
        let bytes = fs::read(log.path()).unwrap();
        (log.path().to_owned(), bytes)
    }

    #[test]
    fn a_log_cut_at_any_byte_reads_as_what_it_said_before() {
        let state = tempfile::tempdir().unwrap();
        let (path, bytes) = two_entries(state.path());
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let mut log = UndoLog::<Note>::adopt(&path).unwrap();
            assert!(log.owed().count() <= 2);
            if log.header().is_some() {
                let n = log.append(note("after")).unwrap();
                drop(log);
                let again = UndoLog::<Note>::adopt(&path).unwrap();
                assert_eq!(again.owed().next(), Some((n, &note("after"))), "cut at {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_in_a_whole_line_is_an_error_never_a_panic(at in 0usize..10_000, flip in 1u8..=255) {
            let state = tempfile::tempdir().unwrap();
            let (path, mut bytes) = two_entries(state.path());
            let at = at % (bytes.len() - 1);
            bytes[at] ^= flip;
            let read = decode_all::<Note>(&path, &bytes);
            let unreadable = matches!(read, Err(LogError::Unreadable { .. }));
            prop_assert!(unreadable, "byte {}", at);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_all::<Note>(Path::new("x"), &bytes);
        }
    }
}
