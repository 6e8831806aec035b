//! What a network interface has carried.

use std::fs;
use std::io;

/// What an interface has done since it is there (proc_pid_net(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Bytes that came in.
    pub received: u64,
    /// Bytes that went out.
    pub sent: u64,
    /// Packets that were wrong, either way.
    pub errors: u64,
    /// Packets that were dropped, either way.
    pub drops: u64,
}

impl Carried {
    /// What the interface of this name has done in the network of a process; in ours when none is named.
    ///
    /// # Errors
    /// When the process is gone, or there is no such interface in its network.
    pub fn by(interface: &str, pid: Option<i32>) -> io::Result<Self> {
        let pid = pid.map_or_else(|| "thread-self".to_owned(), |pid| pid.to_string());
        let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
        parse(&text, interface).ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("there is no interface `{interface}`"))
        })
    }
}

fn parse(text: &str, interface: &str) -> Option<Carried> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let figures: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // In: bytes packets errs drop fifo frame compressed multicast; out: bytes packets errs drop and others.
    let at = |n: usize| figures.get(n).copied();
    Some(Carried { received: at(0)?, sent: at(8)?, errors: at(2)? + at(10)?, drops: at(3)? + at(11)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n  eth1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\neth10:100 0 0 0\n";
        let carried = Carried { received: 1, sent: 9, errors: 14, drops: 16 };
        assert_eq!(parse(text, "eth1"), Some(carried));
        assert_eq!((parse(text, "eth10"), parse(text, "eth"), parse(text, "")), (None, None, None));
        assert!(Carried::by("lo", None).is_ok() && Carried::by("none such", Some(1)).is_err());
    }
}
