//! Floor 1: what the host is and has: processes, sockets, networks, targets, names, users, rights, folders, terminals,
//! netlink, a fine timer.

pub mod apart;
pub mod container;
pub mod cpu;
pub mod datagram;
pub mod disk;
pub mod folder;
pub mod guarded;
pub mod interface;
pub mod limit;
pub mod lookup;
pub mod mark;
pub mod memory;
pub mod mounts;
pub mod names;
pub mod netlink;
pub mod network;
pub mod ping;
pub mod pressure;
pub mod process;
pub mod rights;
pub mod socket;
pub mod standpoint;
pub mod target;
pub mod terminal;
pub mod timer;
pub mod user;
