//! Two network namespaces joined by a cable, for the benchmarks that hold traffic. Needs root.
#![allow(dead_code, reason = "each benchmark uses its part of it")]

use std::fs::File;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// The two ends, by the names of their namespaces; 10.9.0.1 and 10.9.0.2.
pub const ONE: &str = "brownout-bench-1";
pub const TWO: &str = "brownout-bench-2";

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Gone with this. What an earlier benchmark left, being killed, goes first.
pub struct Pair;

impl Pair {
    /// `None`, with a word, where it may not be made.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPPED: network namespaces of our own need root");
            return None;
        }
        drop(Self);
        let pair = Self;
        for (net, n) in [(ONE, 1), (TWO, 2)] {
            ip(&format!("netns add {net}"));
            ip(&format!("-n {net} link set lo up"));
            if n == 2 {
                ip(&format!("-n {ONE} link add cable type veth peer name cable netns {TWO}"));
            }
        }
        for (net, n) in [(ONE, 1), (TWO, 2)] {
            ip(&format!("-n {net} addr add 10.9.0.{n}/24 dev cable"));
            ip(&format!("-n {net} link set cable up"));
        }
        Some(pair)
    }

    /// Whether what is sent in one piece is cut up into packets before it goes into the cable, so that each is one.
    pub fn cut_up(each: bool) {
        let most = if each { 1 } else { 65_535 };
        for net in [ONE, TWO] {
            ip(&format!("-n {net} link set cable gso_max_segs {most}"));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for net in [ONE, TWO] {
            let _ = Command::new("ip").args(["netns", "del", net]).stderr(Stdio::null()).status();
        }
    }
}

/// Puts this thread into a namespace for good.
pub fn enter(net: &str) {
    let file = File::open(format!("/run/netns/{net}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// Does some work inside a namespace.
pub fn within<T: Send>(net: &str, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(net);
            work()
        });
        inside.join().unwrap()
    })
}
