//! What the faults on file operations have in common: where they may stand, and their undo record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disk_fill::free_bytes;
use super::{Ability, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::file::{Mistakes, Node, Read, Value, word};
use crate::hands::burner::is_there;
use crate::hands::gate::{Gate, Measured, Meter, Operation, Order, Powers, folders};
use crate::host::process::Identity;
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier, state_dir};

/// What a host needs to live: nothing in there waits for us.
const VITAL: [&str; 9] = ["/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/sbin", "/sys", "/usr"];
/// Beside them, what may have an application's own folders inside, and is not to be hurt as a whole.
const SHARED: [&str; 6] = ["/home", "/run", "/tmp", "/var", "/var/lib", "/var/log"];

/// Some operations on files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operations(pub Vec<Operation>);

const WORDS: [(&str, Operation); 3] =
    [("open", Operation::Open), ("read", Operation::Read), ("write", Operation::Write)];

impl Read for Operations {
    const NAME: &'static str = "list of operations";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let nodes = match &node.value {
            Value::Array(nodes) if !nodes.is_empty() => nodes.as_slice(),
            Value::Text(_) => std::slice::from_ref(node),
            _ => {
                mistakes.error(
                    node.place,
                    "operations are a list of words",
                    "for example [\"read\", \"write\"]",
                );
                return None;
            }
        };
        // Each is read, so that all mistakes are told.
        let read: Vec<Option<Operation>> = nodes.iter().map(|one| word(one, mistakes, &WORDS)).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(Self)
    }

    fn schema() -> serde_json::Value {
        let one = serde_json::json!({"enum": WORDS.map(|(word, _)| word)});
        serde_json::json!({"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]})
    }
}

/// What stands in the way of whom, and who holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gated {
    /// The file or directory, without links.
    pub path: PathBuf,
    /// Which operations.
    pub operations: Vec<Operation>,
    /// How many directories are watched; none for a file.
    folders: usize,
    /// Why writes are not among them, though nobody left them out.
    no_writes: Option<String>,
    holder: Identity,
    name: String,
}

/// Says what would stand in whose way. `operations`: all that can be had when not said.
pub(super) fn survey(site: &Site, operations: Option<&Operations>) -> Result<(Gated, Powers), Refusal> {
    let Some(place) = &site.target.place else {
        return Err(
            site.refuse("it has no place".to_owned(), "give it `target = { path = \"/var/lib/app\" }`")
        );
    };
    // Through /proc/PID/root, links would lead back to the host: the place of a container has none (proc_pid_root(5)).
    let inside = !site.target.containers.is_empty();
    let path = if inside { Ok(place.clone()) } else { place.canonicalize() };
    let path = path.map_err(|why| site.unreadable(place, &why))?;
    let entry = fs::metadata(&path).map_err(|why| site.unreadable(&path, &why))?;
    if !entry.is_dir() && !entry.is_file() {
        return Err(site.unreadable(&path, &"it is neither a directory nor a file"));
    }
    if let Some(what) = vital(&path).filter(|_| !inside) {
        return Err(site.refuse(
            format!("{} {what}, which may never wait", path.display()),
            "name a directory of the application's own",
        ));
    }
    if site.from.as_ref().is_some_and(|from| from.processes.is_empty()) {
        return Err(site.refuse("no process fits its `from`".to_owned(), "is the service running?"));
    }
    let powers = Powers::at(&path).map_err(|why| match why.raw_os_error() {
        Some(libc::EPERM) => site.refuse(
            "only root may be asked before files are used".to_owned(),
            "run as root (it takes CAP_SYS_ADMIN)",
        ),
        _ => site.refuse(
            format!("the kernel lets nobody ask before files of {} are used: {why}", path.display()),
            "it takes Linux 4.20 with fanotify, and a file system that has files of its own",
        ),
    })?;
    let no_writes = (!powers.writes).then(|| unwritten(powers));
    let (operations, no_writes) = match (operations, no_writes) {
        (Some(Operations(asked)), Some(why)) if asked.contains(&Operation::Write) => {
            return Err(site.refuse(
                format!("writes cannot be held at {}: {why}", path.display()),
                "ask for `operations = [\"open\", \"read\"]`",
            ));
        }
        (Some(Operations(asked)), _) => (asked.clone(), None),
        (None, None) => (Operation::ALL.to_vec(), None),
        (None, no_writes) => (vec![Operation::Open, Operation::Read], no_writes),
    };
    let folders = folders(&path).map_err(|why| site.unreadable(&path, &why))?.len();
    let name = format!("gate-{}", site.mark());
    Ok((Gated { path, operations, folders, no_writes, holder: site.holder.clone(), name }, powers))
}

fn unwritten(powers: Powers) -> String {
    if powers.errors {
        "its file system does not let us (ext4, xfs and btrfs do)".to_owned()
    } else {
        "that takes Linux 6.14".to_owned()
    }
}

/// What vital a path is, is inside of or holds.
pub(super) fn vital(path: &Path) -> Option<String> {
    let within = VITAL.iter().map(Path::new).find(|one| path.starts_with(one));
    if let Some(one) = within {
        return Some(format!("belongs to {}", one.display()));
    }
    if let Some(one) = VITAL.iter().chain(&SHARED).map(Path::new).find(|one| one.starts_with(path)) {
        let holds =
            if one == path { "is everybody's".to_owned() } else { format!("holds {}", one.display()) };
        return Some(holds);
    }
    let ours = [state_dir().canonicalize().unwrap_or_else(|_| state_dir())].into_iter();
    let ours = ours.chain(std::env::current_exe().ok());
    ours.into_iter()
        .find(|one| one.starts_with(path) || path.starts_with(one))
        .map(|one| format!("holds {}, which is ours", one.display()))
}

/// Puts it up, on another thread: there may be thousands of directories.
pub(super) async fn inject(
    site: &Site,
    owed: &Gated,
    order: Order,
    held: &mut Held,
) -> Result<(), FaultError> {
    let (name, heartbeat) = (owed.name.clone(), site.heartbeat.clone());
    let gate = tokio::task::spawn_blocking(move || Gate::stand(order, &name, heartbeat)).await;
    let gate = gate.map_err(|why| FaultError(why.to_string()))?;
    held.hold(gate.map_err(|why| FaultError(format!("standing before {}: {why}", owed.path.display())))?);
    Ok(())
}

/// The order for it, without the harm itself: everything is hit, and passes.
pub(super) fn order(site: &Site, owed: &Gated) -> Order {
    let from = site.from.iter().flat_map(|from| &from.processes);
    Order {
        path: owed.path.clone(),
        operations: owed.operations.clone(),
        whose: from.map(|process| process.identity().clone()).collect(),
        delay: std::time::Duration::ZERO,
        error: None,
        share: 1.0,
        after: 0,
        first: u64::MAX,
        dice: site.dice.stream(&format!("fault.{}.operations", site.fault)),
    }
}

/// How operations of ours go there, each at the same time; and what came by until now.
pub(super) async fn measure(owed: &Gated, held: &Held) -> Result<Vec<(Operation, Measured)>, String> {
    let Some(gate) = held.get::<Gate>() else { return Err("nothing stands there".to_owned()) };
    all(gate.meter(), &owed.path, &owed.operations).await.map_err(|why| why.to_string())
}

/// The same in the directory that the place itself is in, which was not named; `None` where that has none.
pub(super) async fn beside(owed: &Gated, held: &Held) -> Option<(PathBuf, Vec<(Operation, Measured)>)> {
    let (gate, outside) = (held.get::<Gate>()?, owed.path.parent()?.to_owned());
    free_bytes(&outside).ok()?;
    // Where no file without a name can be had there is nothing to look at.
    let went = all(gate.meter(), &outside, &owed.operations).await.ok()?;
    Some((outside, went))
}

async fn all(meter: Meter, place: &Path, operations: &[Operation]) -> io::Result<Vec<(Operation, Measured)>> {
    let went: Vec<_> = operations
        .iter()
        .map(|operation| {
            let (meter, place, operation) = (meter.clone(), place.to_owned(), *operation);
            tokio::task::spawn_blocking(move || {
                meter.measure(&place, operation).map(|went| (operation, went))
            })
        })
        .collect();
    let mut all = Vec::new();
    for one in went {
        all.push(one.await.map_err(io::Error::other)??);
    }
    Ok(all)
}

/// What came by of others' operations, for the figures.
pub(super) fn came_by(held: &Held) -> String {
    let Some(tally) = held.get::<Gate>().map(Gate::tally) else { return String::new() };
    let past = match tally.let_past {
        0 => String::new(),
        past => format!(", {past} more passed since too many waited"),
    };
    format!("of {} others until now {} were hit{past}", tally.meant, tally.hit)
}

pub(super) fn said(operations: &[Operation]) -> String {
    let words: Vec<&str> = operations.iter().map(|operation| named(*operation)).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

pub(super) fn named(operation: Operation) -> &'static str {
    match operation {
        Operation::Open => "opening",
        Operation::Read => "reading",
        Operation::Write => "writing",
    }
}

/// Whose operations, and where, for the plan.
pub(super) fn whose(site: &Site) -> String {
    let place = site.target.place.as_ref().map_or_else(String::new, |path| path.display().to_string());
    match &site.from {
        Some(from) => format!("{place}, by {}", from.said),
        None => place,
    }
}

pub(super) fn mechanism(owed: &Gated) -> String {
    let place = match owed.folders {
        0 => "a file".to_owned(),
        1 => "1 directory".to_owned(),
        some => format!("{some} directories"),
    };
    let covered = format!("fanotify at {place}, before {}", said(&owed.operations));
    match &owed.no_writes {
        Some(why) => format!("{covered}; not before writing: {why}"),
        None => covered,
    }
}

pub(super) fn ability(rights: &Rights) -> Ability {
    let tier = Some(Tier::Kernel);
    match Powers::at(&rights.place) {
        Ok(Powers { writes: true, .. }) => Ability::yes("opening, reading and writing", tier),
        Ok(powers) => Ability::limited(
            format!("opening and reading; writing not in {}", rights.place.display()),
            tier,
            unwritten(powers),
        ),
        Err(why) if why.raw_os_error() == Some(libc::EPERM) => {
            Ability::no("only root may be asked before files are used", "run as root (CAP_SYS_ADMIN)")
        }
        Err(why) => Ability::no(
            format!("fanotify: {why}"),
            "it takes a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS",
        ),
    }
}

impl Owed for Gated {
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(()) // The end of who answers is the undo, and the holder waits for it before this is called.
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(is_there(&self.holder, &self.name))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        // Several may stand in one place: each is asked.
        vec![Claim::shared(host, format!("files of {}", self.path.display()))]
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        format!("end process {} of brownout: what waits then goes on", self.holder.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_needs_to_live_is_never_in_the_way_of() {
        for path in ["/", "/etc", "/etc/app", "/usr/local/app", "/var", "/var/lib", "/proc/self", "/tmp"] {
            assert!(vital(Path::new(path)).is_some(), "{path}");
        }
        for path in ["/var/lib/app", "/srv", "/data", "/tmp/app", "/home/app", "/opt/app"] {
            assert_eq!(vital(Path::new(path)), None, "{path}");
        }
        let us = std::env::current_exe().unwrap();
        assert!(vital(us.parent().unwrap()).unwrap().ends_with("which is ours"));
    }
}
