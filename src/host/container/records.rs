//! What containerd, crun and runc write down of their containers: read where no API is asked.
//!
//! containerd keeps a folder a task (`/run/containerd/io.containerd.runtime.v2.task/NAMESPACE/ID`, with `init.pid` and the
//! bundle's config.json); crun a file `status`, runc a file `state.json`. Names that Kubernetes and nerdctl give are
//! annotations of the bundle (config.json of the OCI runtime specification).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Container, Keeper, Runtime, State, short};

/// Where each keeps its records below /run, and how many folders deep.
const PLACES: [(Keeper, &str, usize); 3] = [
    (Keeper::Containerd, "containerd/io.containerd.runtime.v2.task", 2),
    (Keeper::Crun, "crun", 1),
    (Keeper::Runc, "runc", 1),
];

/// All containers that run, by the records below a folder, which is /run.
pub(super) fn containers(run: &Path) -> Vec<Container> {
    let users = inside(&run.join("user"));
    let roots: Vec<PathBuf> = std::iter::once(run.to_owned()).chain(users).collect();
    let mut found = Vec::new();
    for (keeper, place, depth) in PLACES {
        let mut folders: Vec<PathBuf> = roots.iter().map(|root| root.join(place)).collect();
        for _ in 0..depth {
            folders = folders.iter().flat_map(|folder| inside(folder)).collect();
        }
        found.extend(folders.iter().filter_map(|folder| container(keeper, folder)));
    }
    found
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths
}

fn container(keeper: Keeper, folder: &Path) -> Option<Container> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let json = |name: &str| serde_json::from_str::<Value>(&read(name)?).ok();
    let (pid, bundle) = match keeper {
        Keeper::Containerd => (read("init.pid")?.trim().parse().ok()?, Some(folder.to_owned())),
        Keeper::Crun => {
            let status = json("status")?;
            (status["pid"].as_i64()?, status["bundle"].as_str().map(PathBuf::from))
        }
        Keeper::Runc => {
            let state = json("state.json")?;
            let labels = state["config"]["labels"].as_array();
            let bundle =
                labels.into_iter().flatten().find_map(|label| label.as_str()?.strip_prefix("bundle="));
            (state["init_process_pid"].as_i64()?, bundle.map(PathBuf::from))
        }
    };
    let id = folder.file_name()?.to_str()?.to_owned();
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
    Path::new(&format!("/proc/{pid}")).exists().then_some(())?;
    let labels = bundle.map(|bundle| annotations(&bundle)).unwrap_or_default();
    let name = named(&labels).unwrap_or_else(|| short(&id).to_owned());
    Some(Container { runtime: Runtime::Records(keeper), id, name, labels, state: State::Running, pid })
}

fn annotations(bundle: &Path) -> BTreeMap<String, String> {
    let read = || {
        let config = std::fs::read_to_string(bundle.join("config.json")).ok()?;
        let mut config: Value = serde_json::from_str(&config).ok()?;
        serde_json::from_value(config["annotations"].take()).ok()
    };
    read().unwrap_or_default()
}

/// POD/CONTAINER as Kubernetes calls it, by containerd's or CRI-O's annotations, or the name nerdctl gave.
fn named(labels: &BTreeMap<String, String>) -> Option<String> {
    let either = |one: &str, other: &str| labels.get(one).or_else(|| labels.get(other));
    let pod = either("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name");
    let own = either("io.kubernetes.cri.container-name", "io.kubernetes.container.name");
    match (pod, own) {
        (Some(pod), Some(own)) => Some(format!("{pod}/{own}")),
        (Some(pod), None) => Some(pod.clone()),
        _ => labels.get("nerdctl/name").cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_of_each_runtime_name_its_containers() {
        let run = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = run.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let us = std::process::id();
        let tasks = "containerd/io.containerd.runtime.v2.task/k8s.io";
        write(&format!("{tasks}/aaa1/init.pid"), &format!("{us}\n"));
        write(
            &format!("{tasks}/aaa1/config.json"),
            r#"{"annotations": {"io.kubernetes.cri.sandbox-name": "shop-7f", "io.kubernetes.cri.container-name": "web"}}"#,
        );
        write(&format!("{tasks}/gone/init.pid"), "2147483647");
        write(&format!("{tasks}/torn/init.pid"), "");
        write("user/1000/crun/bbb2/status", &format!(r#"{{"pid": {us}, "bundle": "/nowhere"}}"#));
        write(
            "runc/ccc3/state.json",
            &format!(r#"{{"init_process_pid": {us}, "config": {{"labels": ["bundle=/nowhere"]}}}}"#),
        );
        write("runc/ddd4/state.json", "{");
        let found: Vec<(String, String)> =
            containers(run.path()).into_iter().map(|one| (one.id, one.name)).collect();
        let expected = [("aaa1", "shop-7f/web"), ("bbb2", "bbb2"), ("ccc3", "ccc3")];
        assert_eq!(found, expected.map(|(id, name)| (id.to_owned(), name.to_owned())));
    }
}
