//! Floor 1: what the host is and has: processes, sockets, targets, netlink.

pub mod netlink;
pub mod process;
pub mod socket;
pub mod target;
