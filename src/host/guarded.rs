//! What a host, and whoever works on it, cannot do without: left alone unless somebody says otherwise.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::process::parent;
use super::target::Endpoint;

/// Programs whose end or stillness locks people out, or takes more along than was named.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("people come in by it", &["sshd", "sshd-session", "sshd-auth", "dropbear", "login", "mosh-server"]),
    (
        "it belongs to the init system",
        &[
            "systemd",
            "systemd-journald",
            "systemd-logind",
            "systemd-udevd",
            "systemd-networkd",
            "systemd-resolved",
            "init",
            "openrc-init",
            "runit",
            "runsvdir",
            "s6-svscan",
            "dbus-daemon",
            "dbus-broker",
            "dbus-broker-launch",
        ],
    ),
    (
        "it runs containers",
        &[
            "dockerd",
            "containerd",
            "containerd-shim",
            "containerd-shim-runc-v2",
            "docker-proxy",
            "runc",
            "crun",
            "conmon",
            "conmonrs",
            "podman",
            "crio",
            "kubelet",
        ],
    ),
];

/// Why a process is left alone, if it is: by the program that it runs.
#[must_use]
pub fn guarded(pid: i32) -> Option<&'static str> {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    why(&exe)
}

fn why(exe: &Path) -> Option<&'static str> {
    // The kernel marks a program whose file was replaced, as an update does (proc_pid_exe(5)).
    let name = exe.file_name()?.to_str()?.trim_end_matches(" (deleted)");
    PROGRAMS.iter().find(|(_, programs)| programs.contains(&name)).map(|(why, _)| *why)
}

/// One connection by which somebody came to this host: their end and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CameBy {
    /// Their end.
    pub theirs: SocketAddr,
    /// Ours.
    pub ours: SocketAddr,
}

impl CameBy {
    /// Whether traffic to an endpoint, or from it, is this connection's.
    #[must_use]
    pub fn meets(&self, endpoint: &Endpoint) -> bool {
        [self.theirs, self.ours].iter().any(|end| {
            endpoint.address.is_none_or(|address| address.to_canonical() == end.ip())
                && endpoint.port.is_none_or(|port| port == end.port())
        })
    }
}

/// The ssh connections by which we came: from SSH_CONNECTION (ssh(1)) in our environment and, because sudo
/// clears it, in our ancestors'.
#[must_use]
pub fn came_by() -> BTreeSet<CameBy> {
    let ours = std::env::var("SSH_CONNECTION").ok();
    let mut found: BTreeSet<CameBy> = ours.iter().filter_map(|text| connection(text)).collect();
    let mut next = parent(std::process::id() as i32);
    while let Some(pid) = next.filter(|pid| *pid > 1) {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let variables =
            environment.split(|byte| *byte == 0).filter_map(|line| std::str::from_utf8(line).ok());
        let said = variables.filter_map(|line| line.strip_prefix("SSH_CONNECTION="));
        found.extend(said.filter_map(connection));
        next = parent(pid);
    }
    found
}

/// `CLIENT PORT SERVER PORT`.
fn connection(text: &str) -> Option<CameBy> {
    let mut words = text.split_whitespace();
    let mut end = || -> Option<SocketAddr> {
        let address: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), words.next()?.parse().ok()?))
    };
    Some(CameBy { theirs: end()?, ours: end()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_people_and_containers_need_are_known_by_their_names() {
        for (exe, kept) in [
            ("/usr/sbin/sshd", true),
            ("/usr/lib/systemd/systemd-logind", true),
            ("/usr/bin/dockerd (deleted)", true),
            ("/usr/bin/containerd-shim-runc-v2", true),
            ("/usr/bin/redis-server", false),
            ("/opt/sshd-exporter", false),
        ] {
            assert_eq!(why(Path::new(exe)).is_some(), kept, "{exe}");
        }
        assert_eq!(guarded(std::process::id() as i32), None);
    }

    #[test]
    fn the_connection_we_came_by_is_met_by_its_ports_and_addresses_only() {
        let came = connection("10.0.0.9 50122 ::ffff:10.0.0.2 22").unwrap();
        let endpoint = |address: Option<&str>, port| Endpoint {
            address: address.map(|address| address.parse().unwrap()),
            port,
        };
        for (address, port, meets) in [
            (None, Some(22), true),
            (None, Some(50122), true),
            (Some("10.0.0.9"), None, true),
            (Some("10.0.0.2"), None, true),
            (Some("10.0.0.2"), Some(22), true),
            (None, None, true),
            (None, Some(6379), false),
            (Some("10.0.0.2"), Some(80), false),
            (Some("10.0.0.3"), None, false),
        ] {
            assert_eq!(came.meets(&endpoint(address, port)), meets, "{address:?} {port:?}");
        }
        for text in ["", "10.0.0.9 50122", "somewhere 1 10.0.0.2 22", "10.0.0.9 x 10.0.0.2 22"] {
            assert_eq!(connection(text), None);
        }
    }
}
