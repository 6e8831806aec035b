//! `disk-readonly`: nothing can be written to a folder.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::gated::vital;
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::hands::cover::{self, Cover, CoverError};
use crate::host::mounts::{Worker, namespace_of, workers};
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

/// So many are named who are not hit.
const MOST_NAMED: usize = 3;

crate::kind! {
    /// Lets nothing be written to a folder: who tries gets EROFS.
    ///
    /// What a disk does that the kernel no longer trusts, or a volume that came back read-only. The folder is mounted
    /// over itself, read-only: making, opening for writing, renaming, removing and changing anything in it and below
    /// fails, and reading goes on. Moving a file in or out fails with EXDEV.
    ///
    /// Who was there before is not hit: a file that is open for writing already goes on being written, and a process
    /// whose working directory is in the folder goes on by relative paths. Plan and proof name them, and where such
    /// a file is open the effect is not as asked. (The kernel makes no mount and no file system read-only of which a file is
    /// open for writing.) Who enters the folder meanwhile can write
    /// there afterwards, as everybody can; a container that is started meanwhile with this folder as its volume cannot, and
    /// has to be started anew.
    ///
    /// With `from`, only processes that have mounts of their own are hit.
    pub struct DiskReadonly("disk-readonly") {}
}

/// The cover, and what lies beside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Readonly {
    cover: Cover,
    /// The folder that it lies in, where that could be written to.
    beside: Option<PathBuf>,
    whose: String,
}

impl Fault for DiskReadonly {
    type Owed = Readonly;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Files;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.read-only.disk-readonly]
target = { path = "/var/lib/app" }
for    = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Readonly, Refusal> {
        let Some(place) = &site.target.place else {
            return Err(
                site.refuse("it has no place".to_owned(), "give it `target = { path = \"/var/lib/app\" }`")
            );
        };
        let (pid, path, whose) = whose(site, place)?;
        // Mounts of their own are not what the host lives on.
        let vital = match path.canonicalize() {
            Ok(path) if whose.is_empty() => vital(&path).or_else(|| in_use(&path)),
            _ => (path == Path::new("/")).then(|| "is all there is".to_owned()),
        };
        if let Some(what) = vital {
            return Err(site.refuse(
                format!("{} {what}, which may never be read-only", path.display()),
                "name a directory of the application's own",
            ));
        }
        let cover = Cover::plan(pid, &path).map_err(|why| refusal(site, &why))?;
        let beside =
            cover.path.parent().filter(|beside| cover.attempt_in(beside).is_ok_and(|went| went.is_ok()));
        Ok(Readonly { beside: beside.map(Path::to_owned), whose, cover })
    }

    async fn inject(&self, _: &Site, owed: &Readonly, _: &mut Held) -> Result<(), FaultError> {
        // Our report may have been begun there since.
        if owed.whose.is_empty()
            && let Some(what) = in_use(&owed.cover.path)
        {
            return Err(FaultError(format!("{} {what}", owed.cover.path.display())));
        }
        owed.cover.put_up().map_err(|why| FaultError(why.to_string()))
    }

    async fn verify(&self, _: &Site, owed: &Readonly, _: &Held) -> Effect {
        let others = not_hit(&owed.cover);
        match owed.cover.attempt_in(&owed.cover.path) {
            // Who has a file open goes on writing: that is not shut.
            Ok(Err(Errno::EROFS))
                if workers(owed.cover.beneath, &owed.cover.path).iter().any(|w| w.writes > 0) =>
            {
                Effect::Mismatch(format!("asked EROFS, making a file got EROFS; {others}"))
            }
            Ok(Err(Errno::EROFS)) => {
                Effect::Confirmed(format!("asked EROFS, making a file got EROFS; {others}"))
            }
            Ok(went) => Effect::Mismatch(format!("asked EROFS, making a file got {}; {others}", said(went))),
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    async fn spared(&self, _: &Site, owed: &Readonly, _: &Held) -> Option<Effect> {
        let beside = owed.beside.as_ref()?;
        Some(match owed.cover.attempt_in(beside) {
            Ok(Ok(())) => Effect::Confirmed(format!("a file can be made in {}", beside.display())),
            Ok(went) => Effect::Mismatch(format!("making a file in {} got {}", beside.display(), said(went))),
            Err(why) => Effect::Unverifiable(why.to_string()),
        })
    }

    fn mechanism(&self, owed: &Readonly) -> Option<String> {
        let whose = if owed.whose.is_empty() { String::new() } else { format!(", for {} only", owed.whose) };
        Some(format!("a read-only mount over it{whose}; {}", not_hit(&owed.cover)))
    }

    fn harm(&self, site: &Site) -> String {
        let place = site.target.place.as_ref().map_or_else(String::new, |path| path.display().to_string());
        format!("makes {place} read-only")
    }

    fn ability(rights: &Rights) -> Ability {
        match cover::attempt(&rights.place) {
            Ok(()) => Ability::yes("for whoever comes by its path", Some(Tier::Watchdog)),
            Err(why) if why.raw_os_error() == Some(libc::EPERM) => {
                Ability::no("only root may mount", "run as root (CAP_SYS_ADMIN)")
            }
            Err(why) => Ability::no(format!("mount_setattr: {why}"), "it takes Linux 5.12"),
        }
    }
}

/// Through whose mounts a place is meant, how they call it, and whose they are: nobody's in particular where it is the
/// host.
fn whose(site: &Site, place: &Path) -> Result<(i32, PathBuf, String), Refusal> {
    if let Some(container) = site.target.containers.first() {
        let root = format!("/proc/{}/root", container.pid);
        let inner = place.strip_prefix(&root).unwrap_or(place);
        return Ok((container.pid, Path::new("/").join(inner), format!("container {}", container.name)));
    }
    let Some(from) = &site.from else {
        return Ok((std::process::id() as i32, place.to_owned(), String::new()));
    };
    let pids = from.pids();
    let Some(pid) = pids.first() else {
        return Err(site.refuse("no process fits its `from`".to_owned(), "is the service running?"));
    };
    let remedy = "leave out `from`; a service has mounts of its own with `PrivateMounts=yes` (systemd.exec(5)) or by unshare(1)";
    if pids.iter().any(|one| is_ours(*one)) {
        return Err(
            site.refuse(format!("{} has the mounts of the host: everybody would be hit", from.said), remedy)
        );
    }
    if pids.iter().any(|one| namespace_of(*one) != namespace_of(*pid)) {
        return Err(site
            .refuse(format!("{} has several mount namespaces", from.said), "name processes that share one"));
    }
    Ok((*pid, place.to_owned(), from.said.clone()))
}

fn is_ours(pid: i32) -> bool {
    namespace_of(pid) == namespace_of(std::process::id() as i32)
}

/// What we have open in a folder: our own report may be there, or what we say.
fn in_use(folder: &Path) -> Option<String> {
    let mut open = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
    let ours =
        open.find_map(|fd| std::fs::read_link(fd.path()).ok().filter(|file| file.starts_with(folder)))?;
    Some(format!("holds {}, which is ours", ours.display()))
}

fn refusal(site: &Site, why: &CoverError) -> Refusal {
    match why {
        CoverError::Refused { why, remedy } => site.refuse(why.clone(), remedy),
        CoverError::System { .. } => {
            site.refuse(why.to_string(), "name an existing directory, and run as root")
        }
    }
}

fn said(went: Result<(), Errno>) -> String {
    went.map_or_else(|why| format!("{why:?}"), |()| "no error".to_owned())
}

/// Who was there before, and so goes on writing.
fn not_hit(cover: &Cover) -> String {
    let all = workers(cover.beneath, &cover.path);
    let named: Vec<String> = all.iter().take(MOST_NAMED).map(named).collect();
    let more = all.len().saturating_sub(MOST_NAMED);
    match (named.as_slice(), more) {
        ([], _) => "nobody was writing or standing there before".to_owned(),
        (some, 0) => format!("not hit, as they were there before: {}", some.join(", ")),
        (some, more) => format!("not hit, as they were there before: {} and {more} more", some.join(", ")),
    }
}

fn named(worker: &Worker) -> String {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", worker.pid)).unwrap_or_default();
    let writes = match worker.writes {
        0 => None,
        1 => Some("writes to 1 open file".to_owned()),
        some => Some(format!("writes to {some} open files")),
    };
    let does = [worker.stands_in.then(|| "works in it".to_owned()), writes];
    let does: Vec<String> = does.into_iter().flatten().collect();
    format!("{} {} ({})", name.trim(), worker.pid, does.join(", "))
}

impl Owed for Readonly {
    async fn undo(&self) -> Result<(), UndoError> {
        self.cover.take_down().map_err(|why| UndoError(why.to_string()))
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.cover.stands().map_err(|why| UndoError(why.to_string()))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        vec![Claim::exclusive(
            host,
            format!("mount over {} on {}", self.cover.path.display(), self.cover.beneath),
        )]
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        self.cover.by_hand()
    }
}
