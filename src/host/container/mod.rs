//! Containers of this host, and the processes in them: found by the API of Docker and podman, and by what containerd,
//! crun and runc write down.

mod daemon;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use daemon::{Brand, Daemon, Standing};

use super::process::{self, Process};

/// A container that bears this label with the value `true` is never hurt.
pub const PROTECTED: &str = "brownout.protect";
/// Compose writes the name of the service here, and that of its project beside it.
const SERVICE: &str = "com.docker.compose.service";

/// Why a container cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {remedy}")]
pub struct Trouble {
    /// Why.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl Trouble {
    fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: remedy.into() }
    }
}

/// How a container is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By its name, its id or the beginning of that, or the name of its compose service.
    Named(String),
    /// By its labels: all of them, each with this value, or with any.
    Labelled(Vec<(String, Option<String>)>),
}

impl Which {
    /// Reads `web`, `3f2a91`, `label app=web` or `label app=web,tier=front`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the container has no name".to_owned());
        }
        let Some(labels) = text.strip_prefix("label ") else {
            return if text.contains(char::is_whitespace) {
                Err(format!("`{text}` is no name of a container"))
            } else {
                Ok(Self::Named(text.to_owned()))
            };
        };
        let labels = labels.split(',').map(|label| match label.trim().split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (label.trim().to_owned(), None),
        });
        let labels: Vec<_> = labels.collect();
        if labels.iter().any(|(key, _)| key.is_empty()) {
            return Err(format!("`{text}` names no label"));
        }
        Ok(Self::Labelled(labels))
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Labelled(labels) => {
                let label = |(key, value): &(String, Option<String>)| match value {
                    Some(value) => format!("{key}={value}"),
                    None => key.clone(),
                };
                write!(f, "label {}", labels.iter().map(label).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// Who writes down where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// containerd.
    Containerd,
    /// crun.
    Crun,
    /// runc.
    Runc,
}

/// Who runs a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// A daemon that can be asked.
    Daemon(Daemon),
    /// Somebody whose records can be read.
    Records(Keeper),
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(daemon) => daemon.brand.fmt(f),
            Self::Records(Keeper::Containerd) => f.write_str("containerd"),
            Self::Records(Keeper::Crun) => f.write_str("crun"),
            Self::Records(Keeper::Runc) => f.write_str("runc"),
        }
    }
}

/// Whether a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// It does not, in the runtime's word (`exited`, `created`, `restarting`, ...).
    Down(String),
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Who runs it.
    pub runtime: Runtime,
    /// Its id, whole.
    pub id: String,
    /// Its name; the beginning of its id where the runtime tells none.
    pub name: String,
    /// Its labels, or annotations.
    pub labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub state: State,
    /// Its main process; 0 before it was asked for, or when it does not run.
    pub pid: i32,
}

impl Container {
    fn service(&self) -> Option<&String> {
        self.labels.get(SERVICE)
    }

    fn is_protected(&self) -> bool {
        self.labels.get(PROTECTED).is_some_and(|value| value == "true")
    }

    fn runs(&self) -> Result<(), Trouble> {
        let by_hand = |verb: &str| match &self.runtime {
            Runtime::Daemon(daemon) => format!("first do `{} {verb} {}`", daemon.brand.program(), self.name),
            Runtime::Records(_) => format!("{verb} it first"),
        };
        match &self.state {
            State::Running => Ok(()),
            State::Paused => {
                Err(Trouble::new(format!("container {} is paused", self.name), by_hand("unpause")))
            }
            State::Down(word) => Err(Trouble::new(
                format!("container {} does not run (it is {word})", self.name),
                by_hand("start"),
            )),
        }
    }

    /// All its processes, the main one first.
    ///
    /// They are those of its cgroup and of those inside; where that is hidden, those of its process namespace.
    ///
    /// # Errors
    /// When they cannot be seen from here, or brownout is one of them.
    pub fn processes(&self) -> Result<Vec<Process>, Trouble> {
        let gone = || {
            Trouble::new(
                format!("the main process {} of container {} has ended", self.pid, self.name),
                "is it being restarted?",
            )
        };
        let main = Process::of_pid(self.pid).map_err(|_| gone())?;
        if !belongs(self.pid, &self.id) {
            return Err(Trouble::new(
                format!("process {} here is none of container {}", self.pid, self.name),
                format!(
                    "brownout must see the processes that {} sees: run it outside, or with `--pid=host`",
                    self.runtime
                ),
            ));
        }
        let theirs = Inside::of(self.pid);
        let mut processes = vec![main];
        for pid in process::all() {
            if pid == self.pid || !theirs.holds(pid) {
                continue;
            }
            if let Some(why) = process::protected(pid) {
                return Err(Trouble::new(
                    format!("container {} holds process {pid}, which is never a target: {why}", self.name),
                    "run brownout outside of what it hurts",
                ));
            }
            processes.extend(Process::of_pid(pid));
        }
        match process::protected(self.pid) {
            Some(why) => Err(Trouble::new(
                format!("the main process {} of container {} is never a target: {why}", self.pid, self.name),
                "run brownout outside of what it hurts",
            )),
            None => Ok(processes),
        }
    }

    /// A directory of it, as seen from here. Its path must not lead over a symbolic link: that would be followed in
    /// our own file system.
    ///
    /// # Errors
    /// When it is no directory there, or led to by a link.
    pub fn place(&self, path: &Path) -> Result<PathBuf, Trouble> {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid));
        let mut place = root.clone();
        for part in path.components() {
            match part {
                Component::RootDir => continue,
                Component::Normal(name) => place.push(name),
                _ => {
                    return Err(Trouble::new(
                        format!("{} is no plain path in container {}", path.display(), self.name),
                        "write it from / and without `..`",
                    ));
                }
            }
            let inside = || Path::new("/").join(place.strip_prefix(&root).unwrap_or(&place));
            let here = format!("{} of container {}", inside().display(), self.name);
            let entry = fs::symlink_metadata(&place)
                .map_err(|why| Trouble::new(format!("{here}: {why}"), "name a directory that is there"))?;
            if entry.is_symlink() {
                let remedy =
                    format!("name what it leads to: `readlink -f {}` in it says", inside().display());
                return Err(Trouble::new(format!("{here} is a symbolic link"), remedy));
            }
            if !entry.is_dir() {
                return Err(Trouble::new(format!("{here} is no directory"), "name a directory"));
            }
        }
        Ok(place)
    }
}

/// The beginning of an id, as people write it.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether a process is of a container, by its id: it stands in the path of the cgroup, or in those of the files that the
/// runtime mounts for it (/etc/hosts and the like). A number that was told by somebody who counts processes
/// differently belongs to another process, or none.
fn belongs(pid: i32, id: &str) -> bool {
    ["cgroup", "mountinfo"]
        .iter()
        .any(|file| fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|text| text.contains(id)))
        // containerd's ids are any words, and may stand in neither.
        || id.len() < 32
}

/// What the processes of a container have in common.
enum Inside {
    /// A line of /proc/PID/cgroup up to its path, and the path.
    Cgroup(String, String),
    /// Their process namespace.
    Namespace(PathBuf),
    /// Nothing that can be told from others.
    Alone,
}

impl Inside {
    fn of(main: i32) -> Self {
        let text = fs::read_to_string(format!("/proc/{main}/cgroup")).unwrap_or_default();
        // A fault of ours may have moved it within one hierarchy of version 1: the one without controllers tells.
        let path_of = |wanted: &dyn Fn(&str) -> bool| {
            text.lines().find_map(|line| {
                let (hierarchy, path) = split(line)?;
                (wanted(hierarchy) && path != "/")
                    .then(|| Self::Cgroup(hierarchy.to_owned(), path.to_owned()))
            })
        };
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        path_of(&|hierarchy| hierarchy == "0::")
            .or_else(|| path_of(&|hierarchy| hierarchy.ends_with(":name=systemd:")))
            .or_else(|| path_of(&|_| true))
            .or_else(|| {
                let theirs = namespace(&main.to_string())?;
                (namespace("self")? != theirs).then_some(Self::Namespace(theirs))
            })
            .unwrap_or(Self::Alone)
    }

    fn holds(&self, pid: i32) -> bool {
        match self {
            Self::Cgroup(hierarchy, root) => {
                let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                text.lines().filter_map(split).any(|(theirs, path)| {
                    theirs == hierarchy
                        && path
                            .strip_prefix(root.as_str())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
            }
            Self::Namespace(wanted) => {
                fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|theirs| theirs == *wanted)
            }
            Self::Alone => false,
        }
    }
}

/// `N:CONTROLLERS:` and the path (cgroups(7)).
fn split(line: &str) -> Option<(&str, &str)> {
    line.split_at_checked(line.find(":/")? + 1)
}

/// What was found when all runtimes were asked.
#[derive(Debug, Default)]
pub struct Survey {
    /// All containers.
    pub containers: Vec<Container>,
    /// The daemons that answered.
    pub daemons: Vec<Daemon>,
    /// What stood in the way.
    pub troubles: Vec<Trouble>,
}

/// Asks all runtimes of this host for their containers. Blocks for as long as they take to answer.
#[must_use]
pub fn survey() -> Survey {
    let (daemons, troubles) = daemon::daemons(|name| std::env::var(name).ok());
    let mut survey = Survey { troubles, ..Survey::default() };
    waiting(async {
        for daemon in daemons {
            match daemon.containers().await {
                Ok(containers) => {
                    survey.containers.extend(containers);
                    survey.daemons.push(daemon);
                }
                Err(why) => survey.troubles.push(why),
            }
        }
    });
    for one in records::containers(Path::new("/run")) {
        // Docker and podman have theirs run by one of these.
        if survey.containers.iter().all(|known| known.id != one.id) {
            survey.containers.push(one);
        }
    }
    survey
}

/// Does what waits for answers from where nobody can wait: on a thread of its own.
fn waiting<T: Send>(work: impl Future<Output = T> + Send) -> Option<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            Some(runtime.block_on(work))
        });
        thread.join().ok().flatten()
    })
}

/// The containers that fit and run, in the order of their names, each with its main process. Blocks for as long as the
/// runtimes take to answer.
///
/// # Errors
/// When none fits, several do where one was meant, it does not run, or must not be hurt.
pub fn find(which: &Which) -> Result<Vec<Container>, Trouble> {
    let survey = survey();
    let mut found = survey.choose(which)?;
    waiting(async {
        for container in &mut found {
            look_closely(container).await?;
        }
        Ok(())
    })
    .unwrap_or_else(|| {
        Err(Trouble::new("no thread to ask the runtimes from", "raise the limit on threads"))
    })?;
    Ok(found)
}

/// Its main process; that the daemon itself is not inside.
async fn look_closely(container: &mut Container) -> Result<(), Trouble> {
    let Runtime::Daemon(daemon) = &container.runtime else { return Ok(()) };
    let standing = daemon.inspect(&container.id).await?;
    container.pid = standing.filter(|standing| standing.running).map_or(0, |standing| standing.pid);
    let name = &container.name;
    if container.pid == 0 {
        return Err(Trouble::new(format!("container {name} has ended"), "is it being restarted?"));
    }
    // Process 1 listens for a daemon that systemd starts when it is asked.
    let inside = |pid: i32| pid != 1 && Inside::of(container.pid).holds(pid);
    if belongs(container.pid, &container.id) && daemon.process().await.is_some_and(inside) {
        return Err(Trouble::new(
            format!("{} itself runs in container {name}", daemon.brand),
            "aim at the containers that it runs",
        ));
    }
    Ok(())
}

impl Survey {
    fn choose(&self, which: &Which) -> Result<Vec<Container>, Trouble> {
        let fitting = match which {
            Which::Named(name) => self.named(name)?,
            Which::Labelled(labels) => {
                let bears = |container: &&Container| {
                    labels.iter().all(|(key, value)| {
                        container
                            .labels
                            .get(key)
                            .is_some_and(|there| value.as_ref().is_none_or(|v| v == there))
                    })
                };
                self.containers.iter().filter(bears).collect()
            }
        };
        let (first, one) = match fitting.as_slice() {
            [] => return Err(self.unknown(which)),
            [first, rest @ ..] => (*first, rest.is_empty()),
        };
        if one {
            first.runs()?;
        }
        let mut found: Vec<Container> = fitting
            .into_iter()
            .filter(|one| one.state == State::Running && !one.is_protected())
            .cloned()
            .collect();
        if found.is_empty() {
            return Err(if first.is_protected() {
                Trouble::new(
                    format!("container {} bears the label {PROTECTED}=true", first.name),
                    "aim at another one, or make it again without that label",
                )
            } else {
                Trouble::new(format!("none of the containers of `{which}` runs"), "start one first")
            });
        }
        found.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(found)
    }

    /// By name, then by id, then by the beginning of the id, then by compose service.
    fn named(&self, wanted: &str) -> Result<Vec<&Container>, Trouble> {
        let fitting = |fits: &dyn Fn(&Container) -> bool| -> Vec<&Container> {
            self.containers.iter().filter(|one| fits(one)).collect()
        };
        let last = |name: &str| name.rsplit_once('/').is_some_and(|(_, own)| own == wanted);
        for found in [
            fitting(&|one| one.name == wanted),
            fitting(&|one| one.id == wanted),
            fitting(&|one| last(&one.name)),
            fitting(&|one| wanted.len() >= 2 && one.id.starts_with(wanted)),
        ] {
            match found.as_slice() {
                [] => {}
                [_] => return Ok(found),
                several => {
                    let all = several
                        .iter()
                        .map(|one| format!("{} ({} of {})", short(&one.id), one.name, one.runtime));
                    return Err(Trouble::new(
                        format!("`{wanted}` may be any of {}", all.collect::<Vec<_>>().join(", ")),
                        "say more of the id of the one you mean",
                    ));
                }
            }
        }
        let found = fitting(&|one| one.service().is_some_and(|service| service == wanted));
        let project =
            |one: &&Container| one.labels.get("com.docker.compose.project").cloned().unwrap_or_default();
        let projects: BTreeSet<String> = found.iter().map(project).collect();
        if projects.len() > 1 {
            let projects = projects.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Trouble::new(
                format!("there is a compose service `{wanted}` in each of the projects {projects}"),
                format!("say `label com.docker.compose.project=PROJECT,{SERVICE}={wanted}`"),
            ));
        }
        Ok(found)
    }

    fn unknown(&self, which: &Which) -> Trouble {
        let why = match which {
            Which::Named(name) => format!("there is no container `{name}`"),
            Which::Labelled(_) => format!("no container bears the {which}"),
        };
        if let Some(trouble) = self.troubles.first() {
            return Trouble::new(
                format!("{why} where we could look, and {}", trouble.why),
                trouble.remedy.clone(),
            );
        }
        if self.daemons.is_empty() && self.containers.is_empty() {
            return Trouble::new(
                format!("{why}: no Docker, podman or containerd was found here"),
                "start it, or say where its socket is: DOCKER_HOST=unix:///PATH",
            );
        }
        let mut names: Vec<&str> = self.containers.iter().map(|one| one.name.as_str()).collect();
        names.extend(self.containers.iter().filter_map(Container::service).map(String::as_str));
        names.sort_unstable();
        names.dedup();
        let near = match which {
            Which::Named(name) => names
                .iter()
                .map(|known| (strsim::jaro_winkler(name, known), known))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .map(|(_, known)| format!("did you mean `{known}`?")),
            Which::Labelled(_) => None,
        };
        let remedy = near.unwrap_or_else(|| match names.as_slice() {
            [] => "there are none at all".to_owned(),
            names if names.len() <= 8 => format!("there are: {}", names.join(", ")),
            names => format!("there are {}, such as {}", names.len(), names[..8].join(", ")),
        });
        Trouble::new(why, remedy)
    }
}

/// What runtimes are here.
#[derive(Debug, Default)]
pub struct Runtimes {
    /// The daemons that answer, a few words each.
    pub daemons: Vec<String>,
    /// Those whose records can be read, a few words each.
    pub records: Vec<String>,
    /// What stood in the way.
    pub troubles: Vec<Trouble>,
}

/// Looks what runtimes are here. Blocks for as long as they take to answer.
#[must_use]
pub fn runtimes() -> Runtimes {
    let survey = survey();
    let (mut daemons, mut records) = (Vec::new(), Vec::new());
    for daemon in &survey.daemons {
        let count =
            survey.containers.iter().filter(|one| one.runtime == Runtime::Daemon(daemon.clone())).count();
        let version = waiting(daemon.version()).and_then(Result::ok).unwrap_or_default();
        daemons.push(format!("{} {version}: {count}", daemon.brand));
    }
    for keeper in [Keeper::Containerd, Keeper::Crun, Keeper::Runc] {
        let runtime = Runtime::Records(keeper);
        let count = survey.containers.iter().filter(|one| one.runtime == runtime).count();
        if count > 0 {
            records.push(format!("{runtime}: {count}"));
        }
    }
    Runtimes { daemons, records, troubles: survey.troubles }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, id: &str, labels: &[(&str, &str)]) -> Container {
        Container {
            runtime: Runtime::Daemon(Daemon { brand: Brand::Docker, socket: "/s".into() }),
            id: id.to_owned(),
            name: name.to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            state: State::Running,
            pid: 0,
        }
    }

    fn survey(containers: Vec<Container>) -> Survey {
        let daemons = vec![Daemon { brand: Brand::Docker, socket: "/s".into() }];
        Survey { containers, daemons, troubles: Vec::new() }
    }

    fn chosen(survey: &Survey, text: &str) -> String {
        match survey.choose(&Which::parse(text).unwrap()) {
            Ok(found) => found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(" "),
            Err(why) => why.to_string(),
        }
    }

    #[test]
    fn a_container_is_asked_for_by_name_or_labels() {
        for text in ["web", "label app=web", "label app=web,tier", "label app="] {
            assert_eq!(Which::parse(text).unwrap().to_string(), text);
        }
        for (text, why) in [
            ("", "the container has no name"),
            ("my web", "`my web` is no name of a container"),
            ("label =web", "`label =web` names no label"),
            ("label a,,b", "`label a,,b` names no label"),
        ] {
            assert_eq!(Which::parse(text).unwrap_err(), why);
        }
    }

    #[test]
    fn a_name_goes_before_an_id_and_that_before_a_service() {
        let service = |project| [(SERVICE, "api"), ("com.docker.compose.project", project)];
        let all = survey(vec![
            container("f0", "aa11", &[]),
            container("db", "f0aa", &[]),
            container("cache", "f0bb", &[("app", "cache"), ("tier", "back")]),
            container("shop-7f/web", "cc22", &[]),
            container("x-api-2", "dd44", &service("x")),
            container("x-api-1", "dd33", &service("x")),
        ]);
        for (wanted, found) in [
            ("f0", "f0"),
            ("f0a", "db"),
            ("f0bb", "cache"),
            ("web", "shop-7f/web"),
            ("api", "x-api-1 x-api-2"),
            ("label app", "cache"),
            ("label app=cache,tier=back", "cache"),
            (
                "label app=cache,tier=front",
                "no container bears the label app=cache,tier=front; there are: api, cache, db, f0, shop-7f/web, x-api-1, x-api-2",
            ),
            (
                "dd",
                "`dd` may be any of dd44 (x-api-2 of Docker), dd33 (x-api-1 of Docker); say more of the id of the one you mean",
            ),
            ("cahce", "there is no container `cahce`; did you mean `cache`?"),
            ("q", "there is no container `q`; there are: api, cache, db, f0, shop-7f/web, x-api-1, x-api-2"),
        ] {
            assert_eq!(chosen(&all, wanted), found, "{wanted}");
        }
        let two = survey(vec![
            container("x-api-1", "dd33", &service("x")),
            container("y-api-1", "ee", &service("y")),
        ]);
        assert_eq!(
            chosen(&two, "api"),
            "there is a compose service `api` in each of the projects x, y; say `label com.docker.compose.project=PROJECT,com.docker.compose.service=api`"
        );
    }

    #[test]
    fn one_that_does_not_run_or_is_protected_is_refused_and_of_several_left_out() {
        let mut all = survey(vec![
            container("a", "11", &[("app", "x")]),
            container("b", "22", &[("app", "x")]),
            container("c", "33", &[("app", "x"), (PROTECTED, "true")]),
        ]);
        all.containers[0].state = State::Paused;
        all.containers[1].state = State::Down("exited".to_owned());
        for (wanted, found) in [
            ("a", "container a is paused; first do `docker unpause a`"),
            ("b", "container b does not run (it is exited); first do `docker start b`"),
            (
                "c",
                "container c bears the label brownout.protect=true; aim at another one, or make it again without that label",
            ),
            ("label app=x", "none of the containers of `label app=x` runs; start one first"),
        ] {
            assert_eq!(chosen(&all, wanted), found, "{wanted}");
        }
        all.containers[1].state = State::Running;
        assert_eq!(chosen(&all, "label app=x"), "b");
    }

    #[test]
    fn what_could_not_be_asked_is_told_when_nothing_fits() {
        let mut none = Survey::default();
        assert_eq!(
            chosen(&none, "web"),
            "there is no container `web`: no Docker, podman or containerd was found here; start it, or say where its socket is: DOCKER_HOST=unix:///PATH"
        );
        none.troubles.push(Trouble::new("Docker at /s: Permission denied", "run as root"));
        assert_eq!(
            chosen(&none, "web"),
            "there is no container `web` where we could look, and Docker at /s: Permission denied; run as root"
        );
    }

    #[test]
    fn the_processes_of_a_group_are_those_in_it_and_below() {
        assert_eq!(split("0::/docker/ab"), Some(("0::", "/docker/ab")));
        assert_eq!(split("9:name=systemd:/a:/b"), Some(("9:name=systemd:", "/a:/b")));
        assert_eq!(split("nonsense"), None);
        let ours = Inside::Cgroup("0::".to_owned(), "/nowhere".to_owned());
        assert!(!ours.holds(std::process::id() as i32));
    }
}
