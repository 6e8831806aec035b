//! The house rules that the compiler does not keep: floors, and what may stand in a file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floors, lowest first. A room uses the floors below it, never its own floor's other rooms.
const FLOORS: &[&[&str]] = &[
    &["base"],
    &["file", "host", "slo", "store", "undo"],
    &["hands", "shop"],
    &["fault", "notify", "probe"],
    &["event", "experiment"],
    &["engine", "watch"],
    &["report", "web"],
    &["cli"],
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file with the room it is in and its text without its tests.
fn rooms() -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    paths
        .into_iter()
        .filter_map(|path| {
            let inside = path.strip_prefix(&root).unwrap().to_owned();
            let in_a_room = inside.components().count() > 1;
            let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
            in_a_room.then_some((inside, room, code))
        })
        .collect()
}

/// What a room may not import: `(file, the room it imports)`.
fn wrong_imports(rooms: &[(PathBuf, String, String)]) -> Vec<(PathBuf, String)> {
    let floor: BTreeMap<&str, usize> =
        FLOORS.iter().enumerate().flat_map(|(n, names)| names.iter().map(move |name| (*name, n))).collect();
    let mut wrong = Vec::new();
    for (path, room, code) in rooms {
        for part in code.split("crate::").skip(1) {
            let other: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let (Some(here), Some(there)) = (floor.get(room.as_str()), floor.get(other.as_str())) else {
                continue;
            };
            if other != *room && there >= here {
                wrong.push((path.clone(), other));
            }
        }
    }
    wrong
}

#[test]
fn rooms_use_only_the_floors_below() {
    let rooms = rooms();
    assert!(
        rooms.iter().all(|(_, room, _)| FLOORS.concat().contains(&room.as_str())),
        "a room without a floor"
    );
    assert_eq!(wrong_imports(&rooms), []);
}

#[test]
fn an_import_of_an_upper_or_equal_floor_is_found() {
    let planted = |room: &str, code: &str| vec![(PathBuf::from("x.rs"), room.to_owned(), code.to_owned())];
    assert_eq!(wrong_imports(&planted("undo", "use crate::fault::Entry;")).len(), 1);
    assert_eq!(wrong_imports(&planted("undo", "use crate::host::process;")).len(), 1);
    assert_eq!(wrong_imports(&planted("undo", "use crate::base::RunId; use crate::undo::Claim;")), []);
}

#[test]
fn only_host_and_hands_are_unsafe() {
    for (path, room, code) in rooms() {
        let unsafe_here =
            code.lines().any(|line| !line.trim_start().starts_with("//") && line.contains("unsafe {"));
        assert!(
            !unsafe_here || ["host", "hands"].contains(&room.as_str()),
            "{} has unsafe code",
            path.display()
        );
    }
}
