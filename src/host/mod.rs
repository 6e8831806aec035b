//! Floor 1: what the host is and has: processes, targets, folders, terminals.

pub mod folder;
pub mod process;
pub mod target;
pub mod terminal;
