//! What a record holds against other faults and runs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing on one host that a record holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    host: String,
    thing: String,
    exclusive: bool,
}

impl Claim {
    /// Nobody else may touch the thing meanwhile.
    pub fn exclusive(host: impl Into<String>, thing: impl Into<String>) -> Self {
        Self { host: host.into(), thing: thing.into(), exclusive: true }
    }

    /// Others may share the thing, but none may have it for itself.
    pub fn shared(host: impl Into<String>, thing: impl Into<String>) -> Self {
        Self { host: host.into(), thing: thing.into(), exclusive: false }
    }

    /// Whether both cannot be held at one time.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        self.host == other.host && self.thing == other.thing && (self.exclusive || other.exclusive)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_str() {
            "" => f.write_str(&self.thing), // This machine.
            host => write!(f, "{} on {host}", self.thing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Claim;

    #[test]
    fn only_sharing_is_compatible_and_only_on_one_thing_and_host() {
        let (ours, theirs) = (Claim::exclusive("a", "disk"), Claim::exclusive("a", "disk"));
        assert!(ours.clashes(&theirs));
        assert!(ours.clashes(&Claim::shared("a", "disk")) && Claim::shared("a", "disk").clashes(&ours));
        assert!(!Claim::shared("a", "disk").clashes(&Claim::shared("a", "disk")));
        assert!(
            !ours.clashes(&Claim::exclusive("b", "disk")) && !ours.clashes(&Claim::exclusive("a", "net"))
        );
    }
}
