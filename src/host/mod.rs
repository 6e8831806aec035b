<<<<<<< HEAD
//! Floor 1: what the host is and has: processes, targets, names, users, rights, a fine timer.

pub mod mark;
pub mod names;
pub mod process;
pub mod rights;
=======
//! Floor 1: what the host is and has: processes, sockets, targets, netlink.

pub mod netlink;
pub mod process;
pub mod socket;
>>>>>>> net
pub mod target;
pub mod timer;
pub mod user;
