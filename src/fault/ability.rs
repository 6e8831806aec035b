//! What each kind can do here, with these rights.

use serde::Serialize;

use crate::host::container::{Runtimes, runtimes};
use crate::host::rights::Rights;
use crate::undo::Tier;

/// How much of something is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// All of it.
    Yes,
    /// Some of it.
    Limited,
    /// Nothing.
    No,
}

/// What one kind can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// How much.
    pub extent: Extent,
    /// What it can do, or why it cannot, in a few words.
    pub how: String,
    /// Who undoes it if we are killed; `None` for what is not reversible.
    pub tier: Option<Tier>,
    /// What would make more of it possible.
    pub remedy: Option<String>,
}

impl Ability {
    /// All of it.
    pub fn yes(how: impl Into<String>, tier: Option<Tier>) -> Self {
        Self { extent: Extent::Yes, how: how.into(), tier, remedy: None }
    }

    /// Some of it, and what would make it more.
    pub fn limited(how: impl Into<String>, tier: Option<Tier>, remedy: impl Into<String>) -> Self {
        Self { extent: Extent::Limited, how: how.into(), tier, remedy: Some(remedy.into()) }
    }

    /// Nothing, and what would change that.
    pub fn no(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { extent: Extent::No, how: why.into(), tier: None, remedy: Some(remedy.into()) }
    }
}

/// What services can do here: they are no fault, but are started and undone like one.
#[must_use]
pub fn services(rights: &Rights) -> Ability {
    use crate::host::mark;
    use crate::host::rights::Capability;

    let tier = Some(Tier::Watchdog);
    if !mark::can_be_set() {
        return Ability::limited(
            "a descendant that wipes its environment and leaves its parent would not be found",
            tier,
            "the hard limit RLIMIT_RTTIME is set: raise it (`ulimit -R unlimited`)",
        );
    }
    if rights.has(Capability::SetUid) {
        Ability::yes("as any user", tier)
    } else {
        Ability::limited("as yourself", tier, "root also starts them as other users")
    }
}

/// Which container runtimes are here; `tier` says who undoes what is done through them.
#[must_use]
pub fn containers(tier: Option<Tier>) -> Ability {
    let Runtimes { daemons, records, troubles } = runtimes();
    let trouble = troubles.into_iter().next();
    let found = [daemons.as_slice(), records.as_slice()].concat().join(", ");
    match (daemons.is_empty(), records.is_empty(), trouble) {
        (false, _, None) => Ability::yes(found, tier),
        (false, _, Some(trouble)) => Ability::limited(found, tier, trouble.to_string()),
        (true, false, trouble) => Ability::limited(
            format!("{found}: processes and networks, `kill`"),
            None,
            trouble.map_or_else(
                || "only Docker and podman can be asked to pause and stop".to_owned(),
                |t| t.to_string(),
            ),
        ),
        (true, true, Some(trouble)) => Ability::no(trouble.why, trouble.remedy),
        (true, true, None) => Ability::no(
            "no container runtime was found",
            "start Docker or podman's API; DOCKER_HOST=unix:///PATH says where it listens",
        ),
    }
}
