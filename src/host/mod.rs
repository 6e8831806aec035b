<<<<<<< HEAD
<<<<<<< HEAD
//! Floor 1: what the host is and has: processes, targets, names, users, rights, a fine timer.

pub mod mark;
pub mod names;
=======
//! Floor 1: what the host is and has: processes, targets, folders, terminals.

pub mod folder;
>>>>>>> report
pub mod process;
pub mod rights;
=======
//! Floor 1: what the host is and has: processes, sockets, targets, netlink.

pub mod netlink;
pub mod process;
pub mod socket;
>>>>>>> net
pub mod target;
<<<<<<< HEAD
pub mod timer;
pub mod user;
=======
pub mod terminal;
>>>>>>> report
