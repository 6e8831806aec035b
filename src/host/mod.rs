//! Floor 1: what the host is and has: processes, targets.

pub mod process;
pub mod target;
