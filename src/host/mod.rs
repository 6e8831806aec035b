//! Floor 1: what the host is and has: processes, targets, names, a fine timer.

pub mod names;
pub mod process;
pub mod target;
pub mod timer;
