//! The other undo log: a user's debts may be seen by root, and root's by a user, but each pays its own.

use std::path::{Path, PathBuf};

use crate::fault::Entry;
use crate::host::user::User;
use crate::undo::{Found, Record, Tier, found};

/// The state folder of whoever else may have left something here: root's, or that of the user who called
/// sudo; `None` when there is nobody else, or it is ours.
pub(super) fn other_state(ours: &Path) -> Option<PathBuf> {
    let root = nix::unistd::geteuid().is_root();
    beside(ours, root, std::env::var("SUDO_UID").ok().as_deref())
}

fn beside(ours: &Path, root: bool, sudo_uid: Option<&str>) -> Option<PathBuf> {
    let other = if root {
        User::find(sudo_uid?).ok()??.home.join(".local/state/brownout")
    } else {
        PathBuf::from("/var/lib/brownout")
    };
    (other != ours).then_some(other)
}

/// What a log owes that can and must be undone: what was over when it was done is no debt.
pub(super) fn debts(log: &Found<Entry>) -> Vec<&Entry> {
    log.owed.iter().map(|(_, entry)| entry).filter(|entry| entry.tier() != Tier::NotReversible).collect()
}

/// What the dead runs of a state folder owe, a sentence each.
///
/// # Errors
/// Why it cannot be seen.
pub(super) fn owed_in(state: &Path) -> Result<Vec<String>, String> {
    let logs = found::<Entry>(state).map_err(|why| why.to_string())?;
    let mut owed = Vec::new();
    for log in logs.iter().filter(|log| !log.alive) {
        let of = format!("of run {} ({})", log.header.run, log.header.title);
        owed.extend(debts(log).iter().map(|entry| format!("{} {of}", entry.fault)));
    }
    Ok(owed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_looks_at_the_user_behind_sudo_and_a_user_at_root() {
        let (ours, roots) = (Path::new("/home/me/state"), Path::new("/var/lib/brownout"));
        assert_eq!(beside(ours, false, None).as_deref(), Some(roots));
        assert_eq!(beside(roots, false, None), None, "it is ours");
        assert_eq!(beside(roots, true, None), None, "nobody called sudo");
        assert_eq!(beside(roots, true, Some("0")), Some("/root/.local/state/brownout".into()));
        assert_eq!(beside(roots, true, Some("nobody-here")), None);
    }
}
