//! The faults on resources, through the real binary: each takes hold, is measured, and is gone whichever way its
//! runner dies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{
    Last, Owned, Target, World, block_disk, brownout, disk, eventually, figures, gone_whichever_way_it_dies,
    inject, refused, said, signal, skip,
};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn inodes_that_were_taken_are_free_again_whichever_way_the_runner_dies() {
    let Some(disk) = disk("size=64m,nr_inodes=90000") else { return };
    let before = disk.free_inodes();
    let place = text(disk.0.path()).to_owned();
    // More than a process may have descriptors, or one socket takes.
    let arguments = ["leave=200", "--path", &place];
    gone_whichever_way_it_dies("inode-fill", &arguments, Last::Kernel, |_| {
        assert_eq!(std::fs::read_dir(disk.0.path()).unwrap().count(), 0, "the files have no names");
        disk.free_inodes() != before
    });
}

#[test]
fn a_file_system_without_inodes_makes_no_file_though_it_has_space() {
    let Some(disk) = disk("size=64m,nr_inodes=1000") else { return };
    let world = World::new();
    let mut runner = Owned::start(&mut inject(
        &world,
        "inode-fill",
        &["leave=0", "floor=0", "--path", text(disk.0.path())],
    ));
    runner.took_hold();
    let made = std::fs::write(disk.0.path().join("new"), "");
    assert_eq!(made.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(disk.free() > 60 << 20);
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    std::fs::write(disk.0.path().join("new"), "").unwrap();
}

#[test]
fn inodes_are_never_taken_below_the_floor_nor_beyond_what_there_is() {
    let Some(disk) = disk("size=64m,nr_inodes=1000") else { return };
    let place = ["--path", text(disk.0.path())];
    let with = |one: &'static str| [&[one], &place[..]].concat();
    refused("inode-fill", &with("leave=50"), &["would leave fewer than the floor of 100"]);
    refused("inode-fill", &with("count=0"), &["none would be taken"]);
    refused("inode-fill", &[&["count=1", "leave=1"], &place[..]].concat(), &["said twice"]);
    refused("inode-fill", &with("count=500000000"), &["of the 999 inodes free"]);
    let said = figures("inode-fill", "300ms", &with("percent=50%"));
    assert!(said.contains("asked 499 inodes, free ones fell by 499 to 500"), "{said}");
    assert_eq!(disk.free_inodes(), 999);
}

/// Whether a process other than a test's own, started with this state folder, has threads whose names begin so.
fn has_threads(state: &Path, name: &str) -> bool {
    let runner = |entry: &std::fs::DirEntry| {
        let state = format!("BROWNOUT_STATE={}", state.display());
        std::fs::read(entry.path().join("environ"))
            .is_ok_and(|text| text.split(|byte| *byte == 0).any(|one| one == state.as_bytes()))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().filter(runner);
    let threads =
        processes.flat_map(|entry| std::fs::read_dir(entry.path().join("task")).into_iter().flatten());
    threads.flatten().any(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name))
    })
}

#[test]
fn burners_are_gone_whichever_way_the_runner_dies() {
    gone_whichever_way_it_dies("cpu", &["load=5%"], Last::Kernel, |world| {
        has_threads(&world.state(), "burn-")
    });
}

#[test]
fn what_was_burnt_is_measured_and_said() {
    let said = figures("cpu", "1500ms", &["load=0.2 cores"]);
    assert!(said.contains("asked 0.2, burnt 0.") && said.contains("cores' worth"), "{said}");
    refused("cpu", &["load=4000 cores"], &["4000 cores are asked, and there are"]);
}

/// The processes that hold memory for a runner with this state folder, with what they hold, in bytes.
fn balloons(state: &Path) -> Vec<(u32, u64)> {
    let word = format!("BROWNOUT_STATE={}", state.display());
    let ours = |entry: &std::fs::DirEntry| {
        let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
        read("cmdline").split(|byte| *byte == 0).nth(1) == Some(b"balloon")
            && read("environ").split(|byte| *byte == 0).any(|one| one == word.as_bytes())
    };
    let held = |entry: std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, kib << 10))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(ours).filter_map(held).collect()
}

#[test]
fn memory_is_free_again_whichever_way_the_runner_dies() {
    gone_whichever_way_it_dies("memory", &["size=64MiB"], Last::Kernel, |world| {
        let held = balloons(&world.state());
        assert!(held.len() <= 1);
        // While it goes it holds less and less.
        held.iter().any(|(_, bytes)| *bytes > 0)
    });
}

#[test]
fn what_memory_is_held_is_measured_and_said_and_never_below_the_floor() {
    let said = figures("memory", "300ms", &["size=64MiB"]);
    // The kernel counts resident pages in batches.
    assert!(said.contains("asked 64 MiB, holds 6"), "{said}");
    refused("memory", &["leave=255MiB"], &["would leave less than the floor of 256 MiB"]);
    refused("memory", &["size=1MiB", "floor=1000TiB"], &["would leave less than the floor"]);
    refused("memory", &["size=1MiB", "percent=1%"], &["said twice"]);
}

#[test]
fn the_holder_of_the_memory_is_the_first_to_be_killed_and_the_run_stands_it() {
    let world = World::new();
    let mut runner = Owned::start(&mut inject(&world, "memory", &["size=32MiB"]));
    runner.took_hold();
    let [(holder, _)] = balloons(&world.state())[..] else { panic!("one process holds it") };
    let score = std::fs::read_to_string(format!("/proc/{holder}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "1000");
    signal(holder, "-KILL");
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
}

/// Opens files until it cannot, says how many it could and why no more, and closes them.
const OPENS: &str = "held=[]\ntry:\n  while len(held)<50: held.append(os.open('/dev/null',0))\n  why=0\nexcept OSError as e: why=e.errno\nprint(len(held),why,flush=True)\nfor fd in held: os.close(fd)";

#[test]
fn a_process_has_few_descriptors_left_until_its_limit_is_what_it_was() {
    let mut target = Target::start(OPENS);
    let before = target.limit("Max open files");
    assert_eq!(target.ask(), "50 0");
    let world = World::new();
    let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
    let mut runner = Owned::start(&mut inject(&world, "fds", &["leave=2", "--pid-file", &pid_file]));
    runner.took_hold();
    assert_eq!(target.ask(), format!("2 {}", nix::errno::Errno::EMFILE as i32));
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(target.limit("Max open files"), before);
    assert_eq!(target.ask(), "50 0");
    let said = figures("fds", "500ms", &["leave=3", "--pid-file", &pid_file]);
    assert!(
        said.contains("asked to leave 3; process") && said.contains("has 3 left of 6, before of"),
        "{said}"
    );
    refused("fds", &["leave=4000000000", "--pid-file", &pid_file], &["left of", "as it is"]);
}

#[test]
fn limits_are_brought_back_whichever_way_the_runner_dies() {
    let target = Target::start("pass");
    let before = target.limit("Max open files");
    let pid_file = target.pid_file.path().to_str().unwrap();
    gone_whichever_way_it_dies("fds", &["leave=1", "--pid-file", pid_file], Last::Recover, |_| {
        target.limit("Max open files") != before
    });
}

#[test]
fn a_limit_that_somebody_changed_meanwhile_is_left_alone() {
    let target = Target::start("pass");
    let world = World::new();
    let pid_file = target.pid_file.path().to_str().unwrap();
    let mut runner = Owned::start(&mut inject(&world, "fds", &["--pid-file", pid_file]));
    runner.took_hold();
    let pid = target.process.pid().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--nofile=77:"]).status().unwrap().success());
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert!(target.limit("Max open files").contains(" 77 "));
}

/// Drops capabilities on the way to a program.
fn without(capabilities: &str, command: &Command) -> Command {
    let mut dropping = Command::new("setpriv");
    let drop: Vec<String> = capabilities.split(',').map(|name| format!("-{name}")).collect();
    dropping.args(["--bounding-set", &drop.join(","), "--inh-caps", &drop.join(",")]).arg("--");
    dropping.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        dropping.env(name, value.unwrap());
    }
    dropping
}

#[test]
fn another_users_process_needs_its_user_to_be_taken_on_where_the_right_to_change_limits_is_missing() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can start a process as somebody else");
    }
    let target = Owned::start(Command::new("sleep").arg("64").uid(65534).gid(65534));
    let limit = || {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", target.pid())).unwrap();
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned()
    };
    let before = limit();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), target.pid().to_string()).unwrap();
    let world = World::new();
    let with = |capabilities: &str| {
        without(capabilities, &inject(&world, "fds", &["--pid-file", text(file.path())]))
    };
    let mut runner = Owned::start(with("sys_resource").stderr(Stdio::piped()));
    runner.took_hold();
    assert_ne!(limit(), before);
    runner.kill();
    eventually("the watchdog brings it back", || limit() == before);
    let output = with("sys_resource,setuid").output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    for words in ["are not ours to change", "it takes root (CAP_SYS_RESOURCE, or CAP_SETUID and CAP_SETGID)"]
    {
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    assert_eq!(limit(), before);
}

/// Where processes are limited here: in cgroups of version 1 anywhere, in version 2 in a group of their own.
struct Group {
    /// The group that the target was put into, if it was.
    own: Option<std::path::PathBuf>,
}

impl Group {
    /// `None`, loudly, where nothing can be limited by a controller, which has one name in each version.
    fn of(target: &Target, words: [&str; 2]) -> Option<Self> {
        if legacy(words[0]).is_some() { Some(Self { own: None }) } else { Self::own(target, words) }
    }

    /// Puts the target into a group of its own, in whichever version; `None`, loudly, where it cannot.
    fn own(target: &Target, [legacy_word, controller]: [&str; 2]) -> Option<Self> {
        let name = format!("brownout-test-{}", target.process.pid());
        let (above, may) = if let Some(hierarchy) = legacy(legacy_word) {
            let groups = target.groups();
            let has = |line: &&str| line.split(':').nth(1).unwrap().split(',').any(|one| one == legacy_word);
            let path = groups.lines().find(has).unwrap().splitn(3, ':').nth(2).unwrap();
            (hierarchy.join(path.trim_start_matches('/')), true)
        } else {
            let root = mount(&|kind, _| kind == "cgroup2").unwrap_or_default();
            let subtree = std::fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
            (root, subtree.split_whitespace().any(|one| one == controller))
        };
        let own = above.join(name);
        let made = may
            && std::fs::create_dir(&own).is_ok()
            && std::fs::write(own.join("cgroup.procs"), target.process.pid().to_string()).is_ok();
        if !made {
            skip(&format!("no cgroup of our own here may limit {controller}"));
            return None;
        }
        Some(Self { own: Some(own) })
    }

    /// Whether a target is limited, by the file of the limit in its own group.
    fn limits(&self, target: &Target, file: &str) -> bool {
        if self.own.is_some() {
            let says = self.says(file);
            // Version 1 says without limit what no machine has.
            return !says.is_empty()
                && !says.starts_with("max")
                && says.parse::<u64>().map_or(true, |limit| limit < 1 << 60);
        }
        target.groups().contains("/brownout-")
    }

    /// What a file of the target's own group says.
    fn says(&self, file: &str) -> String {
        std::fs::read_to_string(self.own.as_ref().unwrap().join(file)).unwrap().trim_end().to_owned()
    }
}

fn mount(fits: &dyn Fn(&str, &str) -> bool) -> Option<std::path::PathBuf> {
    std::fs::read_to_string("/proc/self/mounts").unwrap().lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        fits(words[2], words[3]).then(|| std::path::PathBuf::from(words[1]))
    })
}

/// The hierarchy of version 1 that has a controller.
fn legacy(word: &str) -> Option<std::path::PathBuf> {
    mount(&|kind, with| kind == "cgroup" && with.split(',').any(|one| one == word))
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            let root = own.parent().unwrap().join("cgroup.procs");
            for pid in std::fs::read_to_string(own.join("cgroup.procs")).unwrap_or_default().lines() {
                let _ = std::fs::write(&root, pid);
            }
            let _ = std::fs::remove_dir(own);
        }
    }
}

#[test]
fn a_disk_is_busy_until_the_runner_dies_whichever_way_and_nothing_lies_on_it() {
    let Some(disk) = block_disk() else { return };
    let (place, before) = (text(disk.0.path()).to_owned(), disk.free());
    for arguments in
        [["write=100kB/s", "size=4MiB", "--path", &place], ["read=100kB/s", "size=4MiB", "--path", &place]]
    {
        gone_whichever_way_it_dies("io", &arguments, Last::Kernel, |world| {
            has_threads(&world.state(), "io-")
        });
        eventually("the space is free again", || disk.free() == before);
    }
    assert_eq!(std::fs::read_dir(disk.0.path()).unwrap().count(), 1, "lost+found");
}

#[test]
fn what_was_read_and_written_is_measured_and_the_disk_agrees() {
    let Some(disk) = block_disk() else { return };
    let place = ["size=16MiB", "--path", text(disk.0.path())];
    let said =
        figures("io", "1500ms", &[&["read=1MiB/s", "write=500kB/s", "workers=2"], &place[..]].concat());
    for words in
        ["asked to read 1 MiB/s, read ", "asked to write 488.3 KiB/s, wrote ", "; disk loop", " in all"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    // No disk gives so much: then all that it gives is what is asked.
    let said = figures("io", "1500ms", &[&["write=900GiB/s", "workers=4"], &place[..]].concat());
    assert!(said.contains("asked to write 900 GiB/s, wrote"), "{said}");
    let huge = ["read=1MiB/s", "size=1GiB", "--path", text(disk.0.path())];
    refused("io", &huge, &["a file of 1 GiB would leave less than the floor of 16 MiB"]);
    refused("io", &["read=1MiB/s", "--path", "/nowhere"], &["/nowhere", "name an existing directory"]);
}

/// Writes past the page cache for half a second and says how many KiB a second it were.
const WRITES: &str = "import mmap\nf=os.open('PLACE/'+str(os.getpid()),os.O_RDWR|os.O_CREAT|os.O_DIRECT); b=mmap.mmap(-1,16384)\nbegun,n=time.monotonic(),0\nwhile time.monotonic()<begun+.5: n+=os.pwrite(f,b,0)\nos.close(f); print(round(n/1024/(time.monotonic()-begun)),flush=True)";

#[test]
fn a_limited_process_writes_as_slowly_as_asked_and_its_neighbour_does_not() {
    let Some(disk) = block_disk() else { return };
    let place = text(disk.0.path()).to_owned();
    let (mut target, mut other) =
        (Target::start(&WRITES.replace("PLACE", &place)), Target::start(&WRITES.replace("PLACE", &place)));
    let Some(_group) = Group::of(&target, ["blkio", "io"]) else { return };
    let world = World::new();
    let (pid_file, on) = (target.pid_file.path().to_str().unwrap().to_owned(), format!("disk={place}"));
    let before = target.groups();
    let arguments = [&on, "write=256KiB/s", "--pid-file", &pid_file];
    let mut runner = Owned::start(&mut inject(&world, "io-limit", &arguments));
    runner.took_hold();
    let kib: u32 = target.ask().parse().unwrap();
    println!("asked 256 KiB/s, wrote {kib} KiB/s");
    // What was let through before, and one write under way.
    assert!(kib <= 400, "{kib}");
    eventually("the neighbour is faster", || other.ask().parse::<u32>().unwrap() > 1000);
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(target.groups(), before);
    eventually("it is fast again", || target.ask().parse::<u32>().unwrap() > 1000);
    let arguments = [&on, "write=1MiB/s", "read_iops=10", "--pid-file", &pid_file];
    let said = figures("io-limit", "2500ms", &arguments);
    for words in [
        "asked to write at most 1 MiB/s, wrote 0 B/s",
        "asked to read at most 10 times a second, read 0.0 on disk loop",
        "; not named: writing 4 times 256 KiB took ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    refused(
        "io-limit",
        &["disk=/proc", "read=1MiB/s", "--pid-file", &pid_file],
        &["no disk is known", "/dev/sda"],
    );
}

#[test]
fn a_limit_on_a_disk_is_gone_whichever_way_the_runner_dies() {
    let Some(disk) = block_disk() else { return };
    let target = Target::start("pass");
    let Some(group) = Group::of(&target, ["blkio", "io"]) else { return };
    let (pid_file, on) = (target.pid_file.path().to_str().unwrap(), format!("disk={}", text(disk.0.path())));
    let arguments = [&on, "read=1MiB/s", "--pid-file", pid_file];
    gone_whichever_way_it_dies("io-limit", &arguments, Last::Recover, |_| group.limits(&target, "io.max"));
}

/// Takes 4 MiB more, and says how often it has.
const HOARDS: &str =
    "held=globals().setdefault('held',[]); held.append(b'x'*(4<<20)); print(len(held),flush=True)";

/// The file of a hard limit on memory.
fn memory_file() -> &'static str {
    if legacy("memory").is_some() { "memory.limit_in_bytes" } else { "memory.max" }
}

#[test]
fn who_needs_more_memory_than_its_limit_is_killed_and_its_neighbour_is_not() {
    let (mut target, mut other) = (Target::start(HOARDS), Target::start(HOARDS));
    let Some(_group) = Group::of(&target, ["memory"; 2]) else { return };
    let world = World::new();
    let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
    let mut runner =
        Owned::start(&mut inject(&world, "memory-limit", &["leave=32MiB", "--pid-file", &pid_file]));
    runner.took_hold();
    let took = (0..20).take_while(|_| !target.ask().is_empty()).count();
    println!("32 MiB left: took 4 MiB {took} times");
    assert!((6..8).contains(&took), "{took}");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&target.process.0.wait().unwrap()), Some(9));
    for times in 1..=20 {
        assert_eq!(other.ask(), times.to_string(), "nobody else is limited");
    }
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
}

#[test]
fn that_somebody_met_the_limit_on_memory_and_was_killed_is_measured() {
    let told = || {
        let mut target = Target::start(HOARDS);
        let group = Group::of(&target, ["memory"; 2])?;
        let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
        Some(std::thread::scope(|scope| {
            let run =
                scope.spawn(|| figures("memory-limit", "1500ms", &["leave=8MiB", "--pid-file", &pid_file]));
            eventually("it is limited", || group.limits(&target, memory_file()));
            while !target.ask().is_empty() {}
            run.join().unwrap()
        }))
    };
    // A busy machine may let it come to that only when the second of measuring is over.
    for _ in 0..5 {
        let Some(said) = told() else { return };
        if said.contains("1 killed for it in 1 s") {
            return assert!(!said.contains("met the limit 0 times"), "{said}");
        }
    }
    panic!("nobody saw it");
}

#[test]
fn a_limit_on_memory_is_gone_whichever_way_the_runner_dies() {
    let target = Target::start("pass");
    let pid_file = target.pid_file.path().to_str().unwrap();
    let arguments = ["leave=64MiB", "--pid-file", pid_file];
    for make in [Group::of, Group::own] {
        let Some(group) = make(&target, ["memory"; 2]) else { return };
        gone_whichever_way_it_dies("memory-limit", &arguments, Last::Recover, |_| {
            group.limits(&target, memory_file())
        });
    }
}

#[test]
fn in_a_group_of_their_own_what_they_have_counts_and_the_old_limit_is_brought_back() {
    let mut target = Target::start(HOARDS);
    let Some(group) = Group::own(&target, ["memory"; 2]) else { return };
    let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
    for _ in 0..4 {
        target.ask();
    }
    let own = group.own.clone().unwrap().join(memory_file());
    let limited = |arguments: &[&str]| {
        let world = World::new();
        let arguments = [arguments, &["--pid-file", &pid_file]].concat();
        let mut runner = Owned::start(&mut inject(&world, "memory-limit", &arguments));
        runner.took_hold();
        (world, runner)
    };
    let mib = |count: u64| (count << 20).to_string();
    refused(
        "memory-limit",
        &["limit=8MiB", "--pid-file", &pid_file],
        &["MiB already, beside the page cache"],
    );
    std::fs::write(&own, mib(128)).unwrap();
    let (world, mut runner) = limited(&["limit=64MiB"]);
    assert_eq!(group.says(memory_file()), mib(64));
    assert_eq!(target.ask(), "5");
    runner.kill();
    eventually("the watchdog brings it back", || group.says(memory_file()) == mib(128));
    world.nothing_left();
    let (world, mut runner) = limited(&["limit=64MiB"]);
    std::fs::write(&own, mib(96)).unwrap();
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(group.says(memory_file()), mib(96), "somebody else's decision");
    refused("memory-limit", &["limit=100MiB", "--pid-file", &pid_file], &["have 96 MiB as it is"]);
    let said = figures("memory-limit", "1500ms", &["leave=8MiB", "--pid-file", &pid_file]);
    for words in ["asked for at most 8 MiB more; has 2", "met the limit 0 times, 0 killed for it in 1 s"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let slowly = ["leave=4MiB", "beyond=slowed", "--pid-file", &pid_file];
    if legacy("memory").is_some() {
        return refused("memory-limit", &slowly, &["of version 1, which slows nobody down"]);
    }
    let (world, mut runner) = limited(&slowly[..2]);
    assert_eq!([target.ask(), target.ask(), target.ask()], ["6", "7", "8"], "it is slowed, and not killed");
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(group.says("memory.high"), "max");
}

/// Computes for half a second and says which percentage of it it got.
const COMPUTES: &str = "begun,used=time.monotonic(),time.process_time()\nwhile time.monotonic()<begun+.5: pass\nprint(round(100*(time.process_time()-used)/(time.monotonic()-begun)),flush=True)";

#[test]
fn a_starved_process_gets_its_quota_and_no_more() {
    let mut target = Target::start(COMPUTES);
    let Some(_group) = Group::of(&target, ["cpu"; 2]) else { return };
    let world = World::new();
    let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
    let before = target.groups();
    let mut runner =
        Owned::start(&mut inject(&world, "starve", &["quota=0.1 cores", "--pid-file", &pid_file]));
    runner.took_hold();
    let percent: u32 = target.ask().parse().unwrap();
    println!("asked 10% of a core, got {percent}%");
    // A busy host gives less; a first period that had begun, more.
    assert!(percent <= 20, "{percent}");
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(target.groups(), before);
    let said = figures("starve", "1500ms", &["quota=5%", "--pid-file", &pid_file]);
    assert!(said.contains("asked for at most 0.") && said.contains("cores' worth, used 0."), "{said}");
    refused("starve", &["quota=100%", "--pid-file", &pid_file], &["or none at all"]);
}

#[test]
fn a_quota_is_gone_whichever_way_the_runner_dies() {
    let target = Target::start("pass");
    let Some(group) = Group::of(&target, ["cpu"; 2]) else { return };
    let pid_file = target.pid_file.path().to_str().unwrap();
    gone_whichever_way_it_dies("starve", &["quota=50%", "--pid-file", pid_file], Last::Recover, |_| {
        group.limits(&target, "cpu.max")
    });
}

/// Starts threads until it cannot, says how many it could, and ends them.
const THREADS: &str = "end,started=threading.Event(),[]\ntry:\n  while len(started)<20:\n    t=threading.Thread(target=end.wait); t.start(); started.append(t)\nexcept RuntimeError: pass\nprint(len(started),flush=True)\nend.set()\nfor t in started: t.join()";

/// A Python that says how far its time of day is from ours, in seconds, when it is asked.
struct Teller {
    python: Owned,
    answers: BufReader<std::process::ChildStdout>,
}

impl Teller {
    fn start() -> Self {
        let tell = "import sys,time\nprint('here',flush=True)\nfor line in sys.stdin: print(time.time()-float(line),flush=True)";
        let mut python = Owned::start(
            Command::new("python3").args(["-c", tell]).stdin(Stdio::piped()).stdout(Stdio::piped()),
        );
        let mut answers = BufReader::new(python.0.stdout.take().unwrap());
        answers.read_line(&mut String::new()).unwrap();
        Self { python, answers }
    }

    fn ahead(&mut self) -> f64 {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        writeln!(self.python.0.stdin.as_mut().unwrap(), "{now}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Its number, in a file of its own.
    fn pid_file(&self, world: &World) -> String {
        let file = world.folder.path().join("teller.pid");
        std::fs::write(&file, self.python.pid().to_string()).unwrap();
        file.display().to_string()
    }
}

#[test]
fn the_true_time_is_told_again_whichever_way_the_runner_dies() {
    let files = World::new();
    let teller = std::cell::RefCell::new(Teller::start());
    let file = teller.borrow().pid_file(&files);
    gone_whichever_way_it_dies("clock", &["offset=1h", "--pid-file", &file], Last::Recover, |_| {
        teller.borrow_mut().ahead() > 1800.0
    });
}

#[test]
fn a_clock_is_set_back_drifts_and_is_right_again_and_the_figures_say_so() {
    let (world, mut teller) = (World::new(), Teller::start());
    let file = teller.pid_file(&world);
    let said = figures("clock", "500ms", &["offset=-1d", "--pid-file", &file]);
    assert!(said.contains("asked 1 d behind, 1 of 1 processes are told 1 d behind"), "{said}");
    assert!(said.contains("not named: 0 processes are told another time"), "{said}");
    let said = figures("clock", "500ms", &["drift=50%", "--pid-file", &file]);
    assert!(said.contains("gaining 500 ms each second"), "{said}");
    assert!(teller.ahead().abs() < 5.0, "it is right again");
    refused("clock", &["--pid-file", &file], &["its clock would stay right"]);
    refused("clock", &["offset=-9d", "drift=-5%", "--exe", "no-such-program"], &["no process fits"]);
}

#[test]
fn a_process_can_start_few_threads_until_its_limit_is_gone() {
    let mut target = Target::start(THREADS);
    let Some(_group) = Group::of(&target, ["pids"; 2]) else { return };
    assert_eq!(target.ask(), "20");
    let world = World::new();
    let pid_file = target.pid_file.path().to_str().unwrap().to_owned();
    let mut runner = Owned::start(&mut inject(&world, "threads", &["leave=3", "--pid-file", &pid_file]));
    runner.took_hold();
    assert_eq!(target.ask(), "3");
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    assert_eq!(target.ask(), "20");
    let said = figures("threads", "500ms", &["leave=2", "--pid-file", &pid_file]);
    assert!(said.contains("asked to leave 2; 1 threads of at most 3, so 2 left"), "{said}");
}

#[test]
fn a_limit_on_threads_is_gone_whichever_way_the_runner_dies() {
    let target = Target::start("pass");
    let Some(group) = Group::of(&target, ["pids"; 2]) else { return };
    let pid_file = target.pid_file.path().to_str().unwrap();
    gone_whichever_way_it_dies("threads", &["--pid-file", pid_file], Last::Recover, |_| {
        group.limits(&target, "pids.max")
    });
}

#[test]
fn a_runner_killed_at_any_moment_leaves_limits_and_groups_as_they_were() {
    let target = Target::start("pass");
    if Group::of(&target, ["cpu"; 2]).is_none_or(|group| group.own.is_some()) {
        return; // Said already, or one group for all of the test: the limits of version 2 have tests of their own.
    }
    let pid_file = target.pid_file.path().to_str().unwrap();
    let state = || (target.groups(), target.limit("Max open files"));
    let before = state();
    for (kind, argument) in
        [("fds", "leave=0"), ("threads", "leave=0"), ("starve", "quota=50%"), ("memory-limit", "leave=64MiB")]
    {
        // From before the log exists to well after the harm; spread, not random, so that every run covers them.
        for step in 0..15_u64 {
            let world = World::new();
            let mut runner = Owned::start(&mut inject(&world, kind, &[argument, "--pid-file", pid_file]));
            std::thread::sleep(std::time::Duration::from_millis(step * 3));
            runner.kill();
            eventually("the watchdog or the next start pays", || {
                brownout(&world.state()).arg("recover").output().unwrap().status.success()
                    && support::logs(&world.state()).is_empty()
            });
            assert_eq!(state(), before, "{kind} killed after {} ms", step * 3);
        }
    }
}

/// A cgroup of a test's own that can be frozen.
struct Icebox(PathBuf);

impl Icebox {
    /// In the hierarchy that has this file in its groups; `None`, loudly, where there is none, or it may not be made.
    fn new(roots: &[&str], file: &str) -> Option<Self> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("brownout-test-{}-{nth}", std::process::id());
        for root in roots {
            let group = Self(Path::new(root).join(&name));
            if std::fs::create_dir(&group.0).is_ok() && group.0.join(file).exists() {
                return Some(group);
            }
        }
        skip(&format!("a cgroup of our own with {file} needs root, and one of {}", roots.join(", ")));
        None
    }

    /// A process that never rests, inside.
    fn busy(&self) -> Owned {
        let enter = "echo $$ > \"$1/cgroup.procs\" && while :; do :; done";
        let child = Owned::start(Command::new("sh").args(["-c", enter, "sh"]).arg(&self.0));
        let inside = || std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        eventually("it is inside", || inside().lines().any(|pid| pid == child.pid().to_string()));
        child
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Icebox {
    fn drop(&mut self) {
        for file in ["cgroup.freeze", "freezer.state"] {
            if self.0.join(file).exists() {
                let _ =
                    std::fs::write(self.0.join(file), if file == "cgroup.freeze" { "0" } else { "THAWED" });
            }
        }
        for _ in 0..500 {
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn a_frozen_cgroup_goes_on_whichever_way_the_runner_dies() {
    let unified = Icebox::new(&["/sys/fs/cgroup/unified", "/sys/fs/cgroup"], "cgroup.freeze");
    // Version 1 is going away: where it is mounted, it is tried too.
    let legacy = Path::new("/sys/fs/cgroup/freezer")
        .exists()
        .then(|| Icebox::new(&["/sys/fs/cgroup/freezer"], "freezer.state"))
        .flatten();
    for (group, file, word) in
        [(unified, "cgroup.events", "frozen 1"), (legacy, "freezer.self_freezing", "1")]
    {
        let Some(group) = group else { continue };
        let _busy = group.busy();
        let state = group.0.join(file);
        gone_whichever_way_it_dies("freeze", &["--cgroup", &group.name()], Last::Recover, |_| {
            std::fs::read_to_string(&state).unwrap().contains(word)
        });
        let told = figures("freeze", "1s", &["--cgroup", &group.name()]);
        let cut = told.contains("it was over before its effect was measured");
        assert!(cut || told.contains("the kernel says frozen; its 1 processes used 0 ms"), "{told}");
    }
}

#[test]
fn a_cgroup_that_holds_others_is_not_frozen() {
    let Some(group) = Icebox::new(&["/sys/fs/cgroup/unified", "/sys/fs/cgroup"], "cgroup.freeze") else {
        return;
    };
    let busy = group.busy();
    std::fs::write(group.0.join("cgroup.freeze"), "1").unwrap();
    refused("freeze", &["--cgroup", &group.name()], &["is frozen already", "thaw it first"]);
    std::fs::write(group.0.join("cgroup.freeze"), "0").unwrap();
    drop(busy);
    refused("freeze", &["--cgroup", &group.name()], &["no process fits its target"]);
}
