//! `brownout doctor`: what this machine and these rights can do.
//!
//! It must run before any thread is started, since it tries to make namespaces.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Exit;
use super::elsewhere::{other_state, owed_in};
use crate::fault::AnyFault;
use crate::fault::ability::{Ability, Extent, containers, services};
use crate::hands::namespace;
use crate::host::rights::{Rights, kernel, setting};
use crate::host::user::User;
use crate::undo::{Tier, state_dir};

#[derive(clap::Args)]
pub(super) struct Doctor {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Where undo logs are kept; /var/lib/brownout for root, ~/.local/state/brownout otherwise, when absent
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The settings that decide what an ordinary user may do.
const SETTINGS: [&str; 4] = [
    "kernel.yama.ptrace_scope",
    "user.max_user_namespaces",
    "kernel.unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns",
];

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    kernel: String,
    user: String,
    faults: Vec<Named>,
    ground: Vec<Named>,
    settings: Vec<(&'static str, Option<String>)>,
    state: PathBuf,
    /// Why the state folder cannot be written, if so: then nothing may be hurt.
    state_trouble: Option<String>,
    owed: Vec<String>,
    /// Where something may be owed that we cannot see.
    unseen: Vec<String>,
}

#[derive(Serialize)]
struct Named {
    name: &'static str,
    #[serde(flatten)]
    ability: Ability,
}

impl Doctor {
    pub(super) fn run(self) -> Exit {
        let findings = examine(self.state.unwrap_or_else(state_dir));
        match self.format {
            Format::Text => print!("{}", text(&findings)),
            Format::Json => match serde_json::to_string_pretty(&findings) {
                Ok(json) => println!("{json}"),
                Err(why) => {
                    eprintln!("error: {why}");
                    return Exit::Bug;
                }
            },
        }
        if !findings.owed.is_empty() {
            Exit::NotUndone
        } else if findings.state_trouble.is_some() {
            Exit::Refused
        } else {
            Exit::Passed
        }
    }
}

fn examine(state: PathBuf) -> Findings {
    let rights = Rights::ours(&state);
    let named = |(name, ability)| Named { name, ability };
    let network = match namespace::attempt() {
        Ok(namespace::Way::Root) => {
            Ability::yes("one of our own, with the rights of root (`run --own-network`)", Some(Tier::Kernel))
        }
        Ok(namespace::Way::User) => {
            Ability::yes("one of our own, in a user namespace (`run --own-network`)", Some(Tier::Kernel))
        }
        Err(why) => Ability::no(
            format!("{}: {}", why.step, why.why),
            why.remedy.unwrap_or_else(|| "run as root, outside a container".to_owned()),
        ),
    };
    let mut owed = Vec::new();
    let mut unseen = Vec::new();
    look_for_debts(&state, &mut owed, &mut unseen);
    if let Some(other) = other_state(&state) {
        look_for_debts(&other, &mut owed, &mut unseen);
    }
    let name = User::find(&rights.uid.to_string()).ok().flatten().map(|user| user.name);
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel(),
        user: name.map_or_else(|| format!("user {}", rights.uid), |name| format!("{name} ({})", rights.uid)),
        faults: AnyFault::abilities(&rights).into_iter().map(named).collect(),
        ground: [
            ("services", services(&rights)),
            ("network", network),
            ("containers", containers(Some(Tier::Watchdog))),
        ]
        .into_iter()
        .map(named)
        .collect(),
        settings: SETTINGS.map(|name| (name, setting(name))).to_vec(),
        state_trouble: rights.can_write().err().map(|why| format!("{}: {why}", rights.place.display())),
        state,
        owed,
        unseen,
    }
}

fn look_for_debts(state: &Path, owed: &mut Vec<String>, unseen: &mut Vec<String>) {
    match owed_in(state) {
        Ok(debts) => owed.extend(debts),
        Err(why) => unseen.push(why),
    }
}

fn text(findings: &Findings) -> String {
    use std::fmt::Write as _;

    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(format!("brownout {} as {} on Linux {}", findings.version, findings.user, findings.kernel));
    let all = || findings.faults.iter().chain(&findings.ground);
    let wide = |width: fn(&Named) -> usize| all().map(width).max().unwrap_or(0);
    let (names, hows) = (wide(|one| one.name.len()), wide(|one| one.ability.how.chars().count()).min(48));
    for (title, group) in [("faults", &findings.faults), ("around them", &findings.ground)] {
        line(format!("\n{title}"));
        for Named { name, ability } in group {
            let extent = match ability.extent {
                Extent::Yes => "yes",
                Extent::Limited => "limited",
                Extent::No => "no",
            };
            let undone = match (ability.extent, ability.tier) {
                (Extent::No, _) => String::new(),
                (_, None) => "not reversible".to_owned(),
                (_, Some(tier)) => tier.to_string(),
            };
            line(format!("  {name:names$}  {extent:7}  {:hows$}  {undone}", ability.how));
        }
    }
    line("\nundo log".to_owned());
    line(match &findings.state_trouble {
        None => format!("  {} can be written", findings.state.display()),
        Some(why) => format!(
            "  {} CANNOT be written ({why}), so nothing can be hurt; give --state DIR",
            findings.state.display()
        ),
    });
    match findings.owed.as_slice() {
        [] => line("  nothing is owed".to_owned()),
        owed => {
            for one in owed {
                line(format!("  OWED {one}"));
            }
            line("  run `brownout recover`".to_owned());
        }
    }
    for why in &findings.unseen {
        line(format!("  not seen: {why}"));
    }
    let remedies: Vec<(&str, &String)> =
        all().filter_map(|one| Some((one.name, one.ability.remedy.as_ref()?))).collect();
    if !remedies.is_empty() {
        line("\nfor more".to_owned());
        for (name, remedy) in remedies {
            line(format!("  {name:names$}  {remedy}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_line_and_what_is_not_there_has_its_remedy() {
        let state = tempfile::tempdir().unwrap();
        let findings = examine(state.path().join("not/yet"));
        let shown = text(&findings);
        for kind in AnyFault::KINDS {
            assert!(shown.lines().any(|line| line.trim_start().starts_with(kind)), "{kind}\n{shown}");
        }
        assert!(shown.contains("can be written") && findings.state_trouble.is_none());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 0, "a look leaves nothing");
        for one in findings.faults.iter().chain(&findings.ground) {
            assert_eq!(one.ability.remedy.is_some(), one.ability.extent != Extent::Yes);
        }
    }

    #[test]
    fn the_lines_of_an_ordinary_user_are_aligned_and_end_with_the_remedies() {
        let limited = Ability::limited("your own processes", None, "root reaches everybody's");
        let findings = Findings {
            version: "1.2.3",
            kernel: "6.1.0".to_owned(),
            user: "me (1000)".to_owned(),
            faults: vec![
                Named { name: "kill", ability: limited },
                Named { name: "disk-fill", ability: Ability::yes("where you may write", Some(Tier::Kernel)) },
            ],
            ground: vec![Named {
                name: "network",
                ability: Ability::no(
                    "making the namespace: EPERM",
                    "kernel.unprivileged_userns_clone is 0: set it to 1",
                ),
            }],
            settings: Vec::new(),
            state: "/home/me/.local/state/brownout".into(),
            state_trouble: Some("/home/me: Read-only file system (os error 30)".to_owned()),
            owed: vec!["slow of run 00000001 (orders)".to_owned()],
            unseen: Vec::new(),
        };
        insta::assert_snapshot!(text(&findings));
    }
}
