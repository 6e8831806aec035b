//! Floor 1: system calls, netlink and processes: what the kernel offers, with types.

pub mod process;
