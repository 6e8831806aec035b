//! Floor 1: what the host is and has: processes, targets, users, rights.

pub mod mark;
pub mod process;
pub mod rights;
pub mod target;
pub mod user;
