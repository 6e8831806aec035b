//! What a machine looks like to whoever looks for leftovers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

use brownout::host::netlink::{Attributes, Messages, Socket, attributes, messages};
use nix::sched::{CloneFlags, setns};

use super::Netns;

/// So long may a file be written and read on a disk that nobody slows down.
const HEALTHY: Duration = Duration::from_secs(2);

/// Each line is one thing, and two equal states have equal lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineState(pub Vec<String>);

impl MachineState {
    /// The world that lies around a state folder: what is set up in its network namespace, what is mounted, locked
    /// or lies about in its folders, its control groups (those named as its folder, in each hierarchy), the space
    /// and the health of its disk, how the watched processes stand, and who still runs that a run started.
    pub fn of(netns: &Netns, state: &Path, disk: &Path, watched: &[u32]) -> Self {
        let mut lines = Lines::default();
        let world = state.parent().unwrap();
        lines.network(netns);
        lines.mounts(world, disk, watched);
        lines.folders(state, disk);
        lines.devices(world);
        lines.groups(world);
        lines.disk(disk);
        for pid in watched {
            lines.process(*pid);
        }
        lines.left_running(netns, state);
        lines.0.sort();
        Self(lines.0)
    }

    /// What is here and was not there, and the other way round.
    pub fn differs_from(&self, before: &Self) -> Vec<String> {
        let count = |state: &Self| {
            let mut count = BTreeMap::<String, i32>::new();
            state.0.iter().for_each(|line| *count.entry(line.clone()).or_default() += 1);
            count
        };
        let (now, then) = (count(self), count(before));
        let beyond = |these: &BTreeMap<String, i32>, those: &BTreeMap<String, i32>, sign: &str| {
            let beyond = |(line, n): (&String, &i32)| {
                let more = n - those.get(line).copied().unwrap_or(0);
                (0..more).map(|_| format!("{sign} {line}")).collect::<Vec<_>>()
            };
            these.iter().flat_map(beyond).collect::<Vec<_>>()
        };
        [beyond(&now, &then, "+"), beyond(&then, &now, "-")].concat()
    }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn entries(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, what: &str, text: impl AsRef<str>) {
        self.0.extend(text.as_ref().lines().map(|line| format!("{what}: {}", line.trim())));
    }

    /// Rules, queueing disciplines, links, addresses, routes, sockets, packet queues and settings of a namespace.
    fn network(&mut self, netns: &Netns) {
        let file = fs::File::open(format!("/proc/{}/ns/net", netns.holder())).unwrap();
        let lines = std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                let mut lines = Self::default();
                lines.rules();
                lines.routing();
                lines.sockets();
                lines.settings();
                lines.0
            });
            inside.join().unwrap()
        });
        self.0.extend(lines);
    }

    /// nf_tables: tables, chains, rules, sets with their elements, objects, flow tables; and legacy iptables.
    fn rules(&mut self) {
        const HEADER: [u8; 4] = [0; 4];
        let Ok(socket) = Socket::open(libc::NETLINK_NETFILTER) else { return };
        let mut sets = Vec::new();
        for (what, kind, named_by) in [
            ("table", libc::NFT_MSG_GETTABLE, &[1][..]),
            ("chain", libc::NFT_MSG_GETCHAIN, &[1, 3]),
            ("rule", libc::NFT_MSG_GETRULE, &[1, 2, 3]),
            ("set", libc::NFT_MSG_GETSET, &[1, 2]),
            ("object", libc::NFT_MSG_GETOBJ, &[1, 2, 3]),
        ] {
            for body in dump(&socket, libc::NFNL_SUBSYS_NFTABLES << 8 | kind, &HEADER, &Attributes::new()) {
                let found: BTreeMap<i32, &[u8]> = attributes(&body[4..]).collect();
                let names: Vec<String> = named_by.iter().map(|kind| text(found.get(kind))).collect();
                self.add(&format!("nft {what}"), format!("{} {}", family(body[0]), names.join(" ")));
                if what == "set" {
                    sets.push((body[0], names));
                }
            }
        }
        for (family, names) in sets {
            let asked = Attributes::new().text(1, &names[0]).text(2, &names[1]);
            let kind = libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETSETELEM;
            let elements = dump(&socket, kind, &[family, 0, 0, 0], &asked);
            let count: usize = elements
                .iter()
                .flat_map(|body| attributes(&body[4..]).filter(|(kind, _)| *kind == 3))
                .map(|(_, list)| attributes(list).count())
                .sum();
            self.add("nft elements", format!("{count} in {}", names.join(" ")));
        }
        for legacy in ["ip_tables_names", "ip6_tables_names", "arp_tables_names"] {
            self.add(legacy, read(format!("/proc/thread-self/net/{legacy}")));
        }
    }

    fn routing(&mut self) {
        let socket = Socket::open(libc::NETLINK_ROUTE).unwrap();
        // The header's length; and what changes by itself: caches, statistics, counters.
        for (what, kind, header, kept) in [
            ("qdisc", libc::RTM_GETQDISC, 20, &[1][..]),
            ("link", libc::RTM_GETLINK, 16, &[3, 4, 10, 13]),
            ("address", libc::RTM_GETADDR, 8, &[1, 2, 3]),
            ("route", libc::RTM_GETROUTE, 12, &[1, 2, 4, 5, 6, 15]),
            ("routing rule", libc::RTM_GETRULE, 12, &[1, 2, 6, 10, 15, 16]),
        ] {
            for body in dump(&socket, i32::from(kind), &[0; 20][..header], &Attributes::new()) {
                let mut line = match what {
                    "qdisc" => format!("interface {} handle {}", number(&body[4..8]), number(&body[8..12])),
                    // Flags, but not whether an interface was seen running just now.
                    "link" => format!("flags {:#x}", number(&body[8..12]) & 0xffff & !0x40),
                    _ => hex(&body[..8]),
                };
                for (kind, value) in attributes(&body[header..]).filter(|(kind, _)| kept.contains(kind)) {
                    let _ = match (what, kind) {
                        ("qdisc", 1) | ("link", 3) => write!(line, " {}", text(Some(&value))),
                        _ => write!(line, " {kind}={}", hex(value)),
                    };
                }
                self.add(what, line);
            }
        }
    }

    /// Who listens, in this namespace; and netlink queues that are bound.
    fn sockets(&mut self) {
        for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
            for line in read(format!("/proc/thread-self/net/{protocol}")).lines().skip(1) {
                let words: Vec<&str> = line.split_whitespace().collect();
                if words.len() > 3 && (!protocol.starts_with("tcp") || words[3] == "0A") {
                    self.add("listener", format!("{protocol} {}", words[1]));
                }
            }
        }
        for line in read("/proc/thread-self/net/netfilter/nfnetlink_queue").lines() {
            self.add("packet queue", line.split_whitespace().next().unwrap_or_default());
        }
        for line in read("/proc/thread-self/net/packet").lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            self.add("packet socket", words.get(3..5).map_or_else(String::new, |of| of.join(" ")));
        }
    }

    /// Settings of the kernel that somebody who hurts a machine might change.
    fn settings(&mut self) {
        let net = "/proc/sys/net/ipv4";
        let mut files: Vec<PathBuf> = ["ip_forward", "ip_local_port_range", "tcp_retries2", "tcp_mem"]
            .iter()
            .map(|file| Path::new(net).join(file))
            .collect();
        for interface in entries(format!("{net}/conf")) {
            files.extend(["route_localnet", "rp_filter", "forwarding"].map(|file| interface.join(file)));
        }
        for file in
            ["kernel/core_pattern", "kernel/pid_max", "kernel/threads-max", "kernel/yama/ptrace_scope"]
        {
            files.push(Path::new("/proc/sys").join(file));
        }
        for file in ["fs/file-max", "vm/max_map_count", "vm/overcommit_memory", "vm/swappiness"] {
            files.push(Path::new("/proc/sys").join(file));
        }
        for file in files.iter().filter(|file| file.exists()) {
            self.add("setting", format!("{} = {}", file.display(), read(file).trim()));
        }
    }

    /// Others mount and unmount meanwhile: what lies in this world is ours. Who has mounts of its own is seen whole.
    fn mounts(&mut self, world: &Path, disk: &Path, watched: &[u32]) {
        let (world, disk) = (world.display().to_string(), disk.display().to_string());
        let here = fs::read_link("/proc/self/ns/mnt").ok();
        let ours = |line: &&str| line.contains(&world) || line.contains(&disk) || line.contains("brownout");
        for line in read("/proc/self/mounts").lines().filter(ours) {
            self.add("mount", line);
        }
        for pid in watched {
            if fs::read_link(format!("/proc/{pid}/ns/mnt")).ok() != here {
                for line in read(format!("/proc/{pid}/mounts")).lines() {
                    self.add(&format!("mount of {pid}"), line);
                }
            }
        }
        for named in entries("/run/netns").iter().map(|path| name(path)) {
            if named.contains("brownout") {
                self.add("network namespace", named);
            }
        }
    }

    /// Files of the state folder (its lock excepted) and of the world's temporary folder, and who locks them.
    fn folders(&mut self, state: &Path, disk: &Path) {
        let undo = state.join("undo");
        for entry in entries(&undo).iter().filter(|path| name(path) != "lock") {
            self.add("state", name(entry));
        }
        for entry in entries(state.with_file_name("tmp")) {
            self.add("temp", name(&entry));
        }
        for entry in entries(disk) {
            self.add("on the disk", name(&entry));
        }
        let files = [entries(&undo), entries(disk)].concat();
        let locks = read("/proc/locks");
        for (file, entry) in files.iter().filter_map(|path| Some((path, fs::metadata(path).ok()?))) {
            // MAJOR:MINOR:INODE, the first two in hexadecimal (proc_locks(5)).
            let device = entry.dev();
            let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
            let place = format!(" {major:02x}:{minor:02x}:{} ", entry.ino());
            for lock in locks.lines().filter(|line| line.contains(&place)) {
                let kind = lock.split_whitespace().nth(1).unwrap_or_default();
                self.add("lock", format!("{kind} {}", file.display()));
            }
        }
    }

    fn devices(&mut self, world: &Path) {
        let world = world.display().to_string();
        for device in entries("/sys/block") {
            let file = read(device.join("loop/backing_file"));
            if file.contains(&world) || file.contains("brownout") {
                self.add("loop device", format!("{} {file}", name(&device)));
            }
            let mapped = read(device.join("dm/name"));
            if mapped.contains("brownout") {
                self.add("mapped device", mapped);
            }
        }
    }

    /// Control groups below those that bear the world's name, and what they limit.
    fn groups(&mut self, world: &Path) {
        for mount in read("/proc/self/mounts").lines() {
            let words: Vec<&str> = mount.split(' ').collect();
            if matches!(words[2], "cgroup" | "cgroup2") {
                self.group(&Path::new(words[1]).join(name(world)));
            }
        }
    }

    fn group(&mut self, group: &Path) {
        if !group.is_dir() {
            return;
        }
        self.add("cgroup", group.display().to_string());
        for file in [
            "cpu.cfs_quota_us",
            "cpu.max",
            "cpu.weight",
            "cpu.shares",
            "cpuset.cpus",
            "pids.max",
            "memory.limit_in_bytes",
            "memory.max",
            "memory.high",
            "io.max",
            "io.weight",
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
            "freezer.state",
            "cgroup.freeze",
        ] {
            if group.join(file).exists() {
                let says = read(group.join(file)).trim().replace('\n', "; ");
                self.add("cgroup limit", format!("{}/{file} = {says}", group.display()));
            }
        }
        for inner in entries(group).iter().filter(|path| path.is_dir()) {
            self.group(inner);
        }
    }

    /// Its space, how it is mounted, and whether a file can be written and read on it in good time.
    fn disk(&mut self, disk: &Path) {
        let stat = nix::sys::statvfs::statvfs(disk).unwrap();
        self.add("free blocks", stat.blocks_available().to_string());
        self.add("free inodes", stat.files_free().to_string());
        let (said, says) = channel();
        let file = disk.join(format!("looked-at-{}", std::process::id()));
        // A thread of its own, which stays behind where the disk hangs.
        std::thread::spawn(move || {
            let tried = (|| {
                let mut new = fs::File::create(&file)?;
                new.write_all(b"written")?;
                new.sync_all()?;
                fs::read(&file)
            })();
            let _ = fs::remove_file(&file);
            let _ = said.send(tried.map_or_else(|why| why.to_string(), |bytes| format!("{bytes:?}")));
        });
        self.add("disk", says.recv_timeout(HEALTHY).unwrap_or_else(|_| "hangs".to_owned()));
    }

    /// Whether it stands still or is traced, its limits, groups, namespaces, priorities and code.
    fn process(&mut self, pid: u32) {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let mut add = |what: &str, text: String| {
            for line in text.lines() {
                self.add("process", format!("{pid} {what} {}", line.trim()));
            }
        };
        if !proc.exists() {
            return add("is", "gone".to_owned());
        }
        for task in entries(proc.join("task")) {
            let status = read(task.join("status"));
            let tells = |line: &&str| {
                (line.starts_with("TracerPid") && !line.ends_with("\t0"))
                    || line.starts_with("State:\tT")
                    || line.starts_with("State:\tt")
            };
            for line in status.lines().filter(tells) {
                add("thread", line.to_owned());
            }
        }
        let status = read(proc.join("status"));
        let kept =
            ["Cpus_allowed_list:", "Seccomp:", "NoNewPrivs:", "Threads:", "SigBlk:", "Uid:", "CapEff:"];
        for line in status.lines().filter(|line| kept.iter().any(|kept| line.starts_with(kept))) {
            add("has", line.to_owned());
        }
        add("limit", read(proc.join("limits")));
        add("in cgroup", read(proc.join("cgroup")));
        add("oom_score_adj", read(proc.join("oom_score_adj")));
        add("timens", read(proc.join("timens_offsets")));
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
            let place = fs::read_link(proc.join("ns").join(kind)).unwrap_or_default();
            add("namespace", place.display().to_string());
        }
        let stat = read(proc.join("stat"));
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // Fields 19 and 41 of proc_pid_stat(5), counted after the name.
        add("nice, policy", format!("{:?} {:?}", fields.get(16), fields.get(38)));
        let maps = read(proc.join("maps"));
        let code = maps.lines().filter(|line| line.contains("r-xp") || line.contains("rwxp"));
        add("code", format!("{} mappings", code.count()));
        let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
            let (from, to) = line.split(' ').next()?.split_once('-')?;
            let at = |text| u64::from_str_radix(text, 16).ok();
            let (from, to) = (at(from)?, at(to)?);
            let mut bytes = vec![0; (to - from) as usize];
            fs::File::open(proc.join("mem")).ok()?.read_exact_at(&mut bytes, from).ok()?;
            bytes.truncate(image(&bytes));
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            Some(hasher.finish())
        });
        add("vdso", format!("{vdso:x?}"));
    }

    /// Processes that were started by a run of this state folder, or bear a mark, or are brownout's own.
    fn left_running(&mut self, netns: &Netns, state: &Path) {
        let word = format!("BROWNOUT_STATE={}", state.display());
        let world = state.parent().unwrap().display().to_string();
        let network = netns.file();
        for entry in entries("/proc").iter().filter(|path| name(path).parse::<u32>().is_ok()) {
            let environ = read(entry.join("environ"));
            let inside = fs::read_link(entry.join("ns/net")).is_ok_and(|file| file == network);
            let command = read(entry.join("cmdline")).replace('\0', " ");
            let started_by_us = environ.split('\0').any(|one| one == word);
            let of_this_world = || inside || command.contains(&world);
            let marked = || {
                // A mark is some 2^62 microseconds of real time.
                let limits = read(entry.join("limits"));
                let limit = limits.lines().find_map(|line| line.strip_prefix("Max realtime timeout"));
                limit
                    .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                    .is_some_and(|limit| limit >= 1 << 62)
            };
            let ours = || command.contains("brownout") || environ.contains("BROWNOUT_SERVICE=") || marked();
            if started_by_us || of_this_world() && ours() {
                self.add("left running", command);
            }
        }
    }
}

/// The bodies of all messages that a dump brings; none where the kernel knows no such thing.
fn dump(socket: &Socket, kind: i32, header: &[u8], asked: &Attributes) -> Vec<Vec<u8>> {
    let mut request = Messages::new();
    request.push(kind, libc::NLM_F_DUMP, header, asked);
    socket.send(request.bytes()).unwrap();
    let (mut bodies, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let received = socket.receive(&mut buffer, Duration::from_secs(5)).unwrap();
        for message in messages(received) {
            match message.kind {
                libc::NLMSG_DONE | libc::NLMSG_ERROR => return bodies,
                _ => bodies.push(message.body.to_vec()),
            }
        }
    }
}

/// Where an ELF image ends: with its section headers. What lies in the padding behind it is run by nobody: code that
/// was jumped to once stays there, since a thread may be about to return into it.
pub fn image(bytes: &[u8]) -> usize {
    let short = |at: usize| usize::from(u16::from_ne_bytes([bytes[at], bytes[at + 1]]));
    let offset = u64::from_ne_bytes(bytes[40..48].try_into().unwrap()) as usize;
    (offset + short(58) * short(60)).min(bytes.len())
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes(bytes.try_into().unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A name, or else the bytes.
fn text(value: Option<&&[u8]>) -> String {
    let Some(value) = value else { return String::new() };
    match value.strip_suffix(&[0]) {
        Some(name) if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) => {
            String::from_utf8_lossy(name).into_owned()
        }
        _ => hex(value),
    }
}

fn family(number: u8) -> String {
    match i32::from(number) {
        1 => "inet".to_owned(),
        libc::AF_INET => "ip".to_owned(),
        libc::AF_INET6 => "ip6".to_owned(),
        other => format!("family {other}"),
    }
}
