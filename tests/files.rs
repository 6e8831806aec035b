//! The faults on what is done to files, through the real binary, on small file systems of the tests' own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::cell::RefCell;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{
    Last, Mounted, Owned, Target, World, block_disk, brownout, disk, figures, refused, said, signal, skip,
};
use support::{eventually, gone_whichever_way_it_dies, inject};

/// Opens a file, writes to it and reads from it, and says how each went and how many milliseconds it took.
const USES: &str = "\
def do(what):
  begun=time.monotonic()
  try: r,why=what(),'ok'
  except OSError as e: r,why=None,os.strerror(e.errno)
  said.append(why+' %d' % round(1000*(time.monotonic()-begun)))
  return r
said=[]
f=do(lambda: os.open(PLACE+'/file',os.O_RDWR|os.O_CREAT))
if f is None: f=os.open('/dev/null',os.O_RDWR)
do(lambda: os.write(f,b'x'))
do(lambda: os.pread(f,1,0))
os.close(f)
print(', '.join(said),flush=True)";

/// Somebody who uses a file there whenever asked.
fn user_of(place: &Path) -> Target {
    Target::start(&USES.replace("PLACE", &format!("'{}'", place.display())))
}

/// What it says, without the times, and the times.
fn uses(user: &mut Target) -> (String, Vec<u64>) {
    let said = user.ask();
    let (how, times) =
        said.split(", ").map(|one| one.rsplit_once(' ').unwrap()).unzip::<_, _, Vec<_>, Vec<_>>();
    (how.join(", "), times.iter().map(|time| time.parse().unwrap()).collect())
}

/// Whether the kernel asks before writes: Linux 6.14.
fn writes_can_be_held() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let held = (numbers.next(), numbers.next()) >= (Some(6), Some(14));
    if !held {
        skip("writes can be held, and fail with EIO, since Linux 6.14");
    }
    held
}

fn place(disk: &Mounted) -> &str {
    disk.0.path().to_str().unwrap()
}

#[test]
fn what_is_done_to_files_fails_until_the_runner_dies_whichever_way() {
    let Some(disk) = block_disk().filter(|_| writes_can_be_held()) else { return };
    let user = RefCell::new(user_of(disk.0.path()));
    gone_whichever_way_it_dies("disk-error", &["--path", place(&disk)], Last::Kernel, |_| {
        let (how, _) = uses(&mut user.borrow_mut());
        assert!(how == "ok, ok, ok" || how.starts_with("Input/output error, "), "{how}");
        how != "ok, ok, ok"
    });
}

#[test]
fn what_is_done_to_files_is_late_until_the_runner_dies_whichever_way() {
    let Some(disk) = block_disk() else { return };
    let user = RefCell::new(user_of(disk.0.path()));
    let arguments = ["delay=400ms", "operations=open", "--path", place(&disk)];
    gone_whichever_way_it_dies("disk-slow", &arguments, Last::Kernel, |_| {
        let (how, times) = uses(&mut user.borrow_mut());
        assert_eq!(how, "ok, ok, ok");
        times[0] >= 400
    });
}

#[test]
fn who_waits_for_a_slow_disk_goes_on_when_the_runner_is_killed() {
    let Some(disk) = block_disk() else { return };
    let world = World::new();
    let mut user = user_of(disk.0.path());
    uses(&mut user);
    let mut runner = Owned::start(&mut inject(
        &world,
        "disk-slow",
        &["delay=30s", "operations=[\"open\"]", "--path", place(&disk)],
    ));
    // It measures one operation of its own, which takes as long: so no word is waited for.
    support::eventually("it stands there", || {
        threads(runner.pid()).iter().any(|name| name.starts_with("gate-"))
    });
    let pid = user.process.pid();
    let waiting = std::thread::spawn(move || {
        let since = Instant::now();
        let (how, _) = uses(&mut user);
        (how, since.elapsed())
    });
    support::eventually("somebody waits", || {
        let wchan = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        wchan.contains("fanotify")
    });
    let since = Instant::now();
    runner.kill();
    let (how, _) = waiting.join().unwrap();
    println!("who waited went on {:?} after SIGKILL", since.elapsed());
    assert_eq!(how, "ok, ok, ok");
    assert!(since.elapsed() < Duration::from_secs(10));
    world.nothing_left();
}

fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
}

#[test]
fn opening_reading_and_writing_each_take_longer_and_elsewhere_nothing_does() {
    let Some((disk, other)) = block_disk().zip(block_disk()).filter(|_| writes_can_be_held()) else { return };
    std::fs::create_dir_all(disk.0.path().join("a/b")).unwrap();
    let world = World::new();
    let mut users = [disk.0.path().to_owned(), disk.0.path().join("a/b"), other.0.path().to_owned()]
        .map(|at| user_of(&at));
    let mut runner = Owned::start(&mut inject(&world, "disk-slow", &["delay=300ms", "--path", place(&disk)]));
    runner.took_hold();
    let [at, below, elsewhere] = users.each_mut().map(|user| uses(user).1);
    println!("asked 300 ms, got {at:?} and {below:?}; elsewhere {elsewhere:?}");
    assert!(at.iter().chain(&below).all(|time| *time >= 300), "{at:?} {below:?}");
    assert!(elsewhere.iter().all(|time| *time < 300), "{elsewhere:?}");
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    let said = figures("disk-slow", "300ms", &["delay=20ms", "--path", place(&disk)]);
    for words in ["asked 20 ms, measured: opening took 2", "reading took 2", "writing took 2", "not named: /"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn so_many_pass_so_many_fail_and_then_all_pass_again() {
    let Some(disk) = disk("size=4m") else { return };
    let world = World::new();
    let mut user = user_of(disk.0.path());
    let mut runner = Owned::start(&mut inject(
        &world,
        "disk-error",
        &["errno=EPERM", "operations=open", "after=2", "first=3", "--path", place(&disk)],
    ));
    runner.took_hold();
    let went: Vec<bool> = (0..8).map(|_| uses(&mut user).0.starts_with("ok")).collect();
    assert_eq!(went, [true, true, false, false, false, true, true, true]);
}

#[test]
fn the_same_seed_hits_the_same_operations() {
    let Some(disk) = disk("size=4m") else { return };
    let mut user = user_of(disk.0.path());
    let mut fates = |seed: &str| {
        let world = World::new();
        let mut runner = Owned::start(&mut inject(
            &world,
            "disk-error",
            &["errno=EPERM", "operations=open", "percent=30%", "--seed", seed, "--path", place(&disk)],
        ));
        runner.took_hold();
        (0..60).map(|_| if uses(&mut user).0.starts_with("ok") { '.' } else { 'x' }).collect::<String>()
    };
    let (one, again, other) = (fates("1"), fates("1"), fates("2"));
    println!("{one}\n{other}");
    assert_eq!(one, again);
    assert_ne!(one, other);
    // 30 % of 60 is 18; beyond these bounds it is one in a million.
    let hit = one.matches('x').count();
    assert!((4..36).contains(&hit), "{hit}");
}

#[test]
fn only_the_operations_of_whom_it_is_from_fail_and_of_whom_they_start() {
    let Some(disk) = disk("size=4m") else { return };
    let world = World::new();
    let (mut named, mut other) = (user_of(disk.0.path()), user_of(disk.0.path()));
    let mut parent = Target::start(&format!(
        "print(os.system('cat {0} > /dev/null 2>&1'),flush=True)",
        disk.0.path().join("file").display()
    ));
    uses(&mut named);
    let run = |pid_file: &Path| {
        let file = world.folder.path().join("x.toml");
        let text = format!(
            "title='x'\n[fault.a.disk-error]\ntarget={{path='{}'}}\nfrom={{pid_file='{}'}}\nerrno='EPERM'\nfor='60s'\n",
            place(&disk),
            pid_file.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = brownout(&world.state());
        let mut runner = Owned::start(
            command.args(["run", "--yes"]).arg(file).stdout(Stdio::null()).stderr(Stdio::piped()),
        );
        runner.took_hold();
        runner
    };
    let first = run(named.pid_file.path());
    assert!(uses(&mut named).0.starts_with("Operation not permitted"));
    assert_eq!(uses(&mut other).0, "ok, ok, ok");
    drop(first);
    assert_eq!(parent.ask(), "0");
    let _second = run(parent.pid_file.path());
    assert_ne!(parent.ask(), "0", "what it starts is meant too");
    assert_eq!(uses(&mut named).0, "ok, ok, ok");
}

#[test]
fn both_faults_may_stand_in_one_place_and_each_ends_by_itself() {
    let Some(disk) = disk("size=4m") else { return };
    let (slow, bad) = (World::new(), World::new());
    let mut user = user_of(disk.0.path());
    let at = ["operations=open", "--path", place(&disk)];
    let mut slowing = Owned::start(&mut inject(&slow, "disk-slow", &[&["delay=100ms"], &at[..]].concat()));
    slowing.took_hold();
    let mut failing = Owned::start(&mut inject(&bad, "disk-error", &[&["errno=EPERM"], &at[..]].concat()));
    failing.took_hold();
    assert!(uses(&mut user).0.starts_with("Operation not permitted"));
    signal(failing.pid(), "-INT");
    assert_eq!(failing.0.wait().unwrap().code(), Some(130));
    let (how, times) = uses(&mut user);
    assert!(how == "ok, ok, ok" && times[0] >= 100, "{how} {times:?}");
}

#[test]
fn where_files_may_never_wait_it_is_refused_and_the_remedy_said() {
    let Some(disk) = disk("size=4m") else { return };
    for path in ["/", "/etc", "/usr/lib", "/var/lib", "/dev/shm"] {
        let words = ["which may never wait", "name a directory of the application's own"];
        refused("disk-slow", &["delay=1ms", "--path", path], &words);
    }
    let here = ["--path", place(&disk)];
    let with = |one: &'static str| [&[one], &here[..]].concat();
    refused("disk-slow", &with("delay=61s"), &["1 m 1 s for 100% of all operations", "at most a minute"]);
    refused("disk-slow", &with("delay=0s"), &["at most a minute"]);
    refused("disk-error", &with("first=0"), &["nothing would fail"]);
    refused("disk-error", &with("operations=write"), &["writes cannot be held at", "[\"open\", \"read\"]"]);
    refused("disk-error", &["--path", "/nowhere"], &["/nowhere", "name an existing directory"]);
    refused("disk-error", &["--path", "/dev/null"], &["neither a directory nor a file"]);
    let world = World::new();
    let output =
        inject(&world, "disk-error", &["--path", world.folder.path().to_str().unwrap()]).output().unwrap();
    assert!(said(&output).contains("which is ours, which may never wait"), "{}", said(&output));
}

#[test]
fn who_may_not_be_asked_is_told_so() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can become somebody else");
    }
    let world = World::new();
    Command::new("chmod").arg("777").arg(world.folder.path()).status().unwrap();
    let inner = world.folder.path().join("app");
    std::fs::create_dir(&inner).unwrap();
    let program = brownout(&world.state()).get_program().to_owned();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["inject", "disk-slow", "delay=1ms", "--yes", "--path"])
        .arg(&inner)
        .env("BROWNOUT_STATE", world.state())
        .env("BROWNOUT_RUNS", world.folder.path().join("runs"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("run as root (it takes CAP_SYS_ADMIN)"), "{}", said(&output));
}

/// Runs each line that it is sent; `tried` says how something went.
const OBEYS: &str = "\
def tried(what):
  try: what(); print('ok',flush=True)
  except OSError as e: print(os.strerror(e.errno),flush=True)
exec(line)";

fn told(target: &mut Target, line: &str) -> String {
    writeln!(target.process.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    target.hear()
}

/// Tries to make a file by its path, or by a path from where it stands.
fn makes(target: &mut Target, file: &str) -> String {
    told(target, &format!("tried(lambda: os.close(os.open('{file}',os.O_CREAT|os.O_WRONLY)))"))
}

const READONLY: &str = "Read-only file system";

/// A folder on a file system of the test's own, and one beside it.
fn folder() -> Option<(Mounted, String)> {
    let disk = disk("size=4m")?;
    std::fs::create_dir_all(disk.0.path().join("app/inner")).unwrap();
    let app = disk.0.path().join("app").to_str().unwrap().to_owned();
    Some((disk, app))
}

#[test]
fn a_folder_is_readonly_until_somebody_undoes_it_whichever_way_the_runner_dies() {
    let Some((disk, app)) = folder() else { return };
    std::fs::write(disk.0.path().join("app/old"), "old").unwrap();
    gone_whichever_way_it_dies("disk-readonly", &["--path", &app], Last::Recover, |_| {
        let error = |went: std::io::Result<()>| went.err().map(|why| why.kind());
        let tried = [
            error(std::fs::write(format!("{app}/new"), "new")),
            error(std::fs::write(format!("{app}/inner/new"), "new")),
            error(std::fs::OpenOptions::new().append(true).open(format!("{app}/old")).map(drop)),
            error(
                std::fs::create_dir(format!("{app}/dir"))
                    .and_then(|()| std::fs::remove_dir(format!("{app}/dir"))),
            ),
        ];
        std::fs::write(disk.0.path().join("beside"), "new").unwrap();
        assert_eq!(std::fs::read_to_string(format!("{app}/old")).unwrap(), "old");
        let readonly = Some(std::io::ErrorKind::ReadOnlyFilesystem);
        assert!(tried == [None; 4] || tried == [readonly; 4], "{tried:?}");
        tried == [readonly; 4]
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&app), "{mounts}");
}

#[test]
fn who_was_there_before_is_named_and_goes_on_and_who_came_meanwhile_can_write_again() {
    let Some((_disk, app)) = folder() else { return };
    let (mut before, mut meanwhile) = (Target::start(OBEYS), Target::start(OBEYS));
    told(&mut before, &format!("tried(lambda: os.chdir('{app}')); f=open('{app}/old','wb',0)"));
    let world = World::new();
    let mut runner = Owned::start(&mut inject(&world, "disk-readonly", &["--path", &app]));
    eventually("it is shut", || makes(&mut meanwhile, &format!("{app}/new")) == READONLY);
    assert_eq!(told(&mut before, "tried(lambda: f.write(b'x'))"), "ok");
    assert_eq!(makes(&mut before, "new"), "ok", "by a relative path");
    assert_eq!(makes(&mut before, &format!("{app}/new")), READONLY, "by its path");
    assert_eq!(told(&mut meanwhile, &format!("tried(lambda: os.chdir('{app}'))")), "ok");
    assert_eq!(makes(&mut meanwhile, "other"), READONLY);
    signal(runner.pid(), "-INT");
    assert_eq!(runner.0.wait().unwrap().code(), Some(130));
    world.nothing_left();
    for file in ["other", &format!("{app}/other")] {
        assert_eq!(makes(&mut meanwhile, file), "ok", "{file}");
    }
    let mut command = brownout(&world.state());
    let output =
        command.args(["inject", "disk-readonly", "--yes", "--for", "300ms", "--path", &app]).output();
    let (output, said) = output.map(|output| (output.status.code(), said(&output))).unwrap();
    assert_eq!(output, Some(4), "it is not shut for who has a file open: {said}");
    let named = format!(
        "not hit, as they were there before: python3 {} (works in it, writes to 1 open file)",
        before.process.pid()
    );
    for words in ["asked EROFS, making a file got EROFS", &named, "not named: a file can be made in /"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // Who only stands there does not write.
    assert_eq!(told(&mut before, "tried(f.close)"), "ok");
    let said = figures("disk-readonly", "300ms", &["--path", &app]);
    assert!(said.contains(&format!("python3 {} (works in it)", before.process.pid())), "{said}");
}

/// Gives the target mounts of its own, which take what the host's share, and give nothing.
fn apart(target: &mut Target) {
    let own = "import ctypes; c=ctypes.CDLL(None); \
               tried(lambda: (c.unshare(0x20000), c.mount(None, b'/', None, (1<<19)|(1<<14), None)))";
    assert_eq!(told(target, own), "ok");
}

#[test]
fn mounts_that_take_from_the_hosts_are_hit_with_them_and_whole_again_with_them() {
    let Some((disk, app)) = folder() else { return };
    assert!(Command::new("mount").arg("--make-shared").arg(disk.0.path()).status().unwrap().success());
    let mut slave = Target::start(OBEYS);
    apart(&mut slave);
    let world = World::new();
    let mut runner = Owned::start(&mut inject(&world, "disk-readonly", &["--path", &app]));
    runner.took_hold();
    assert_eq!(makes(&mut slave, &format!("{app}/new")), READONLY);
    assert_eq!(told(&mut slave, &format!("tried(lambda: os.chdir('{app}'))")), "ok");
    runner.kill();
    world.nothing_left();
    for file in ["new", &format!("{app}/new")] {
        assert_eq!(makes(&mut slave, file), "ok", "{file}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", slave.process.pid())).unwrap();
    assert!(!mounts.contains(&app), "{mounts}");
}

#[test]
fn only_the_mounts_of_whom_it_is_from_are_hit() {
    let Some((_disk, app)) = folder() else { return };
    let (mut named, mut other) = (Target::start(OBEYS), Target::start(OBEYS));
    let run = |world: &World| {
        let file = world.folder.path().join("x.toml");
        let from = named.pid_file.path().display();
        let text = format!(
            "title='x'\n[fault.a.disk-readonly]\ntarget={{path='{app}'}}\nfrom={{pid_file='{from}'}}\nfor='60s'\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = brownout(&world.state());
        command.args(["run", "--yes"]).arg(file).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let world = World::new();
    let output = run(&world).output().unwrap();
    assert!(
        said(&output).contains("has the mounts of the host: everybody would be hit"),
        "{}",
        said(&output)
    );
    let mut command = run(&world);
    apart(&mut named);
    let mut runner = Owned::start(&mut command);
    runner.took_hold();
    assert_eq!(makes(&mut named, &format!("{app}/new")), READONLY);
    assert_eq!(makes(&mut other, &format!("{app}/new")), "ok");
    runner.kill();
    world.nothing_left();
    assert_eq!(makes(&mut named, &format!("{app}/new")), "ok");
}

#[test]
fn what_may_never_be_readonly_is_refused_and_so_is_what_would_hide_a_mount() {
    let Some((disk, app)) = folder() else { return };
    for path in ["/", "/etc", "/var", "/tmp"] {
        refused(
            "disk-readonly",
            &["--path", path],
            &["which may never be read-only", "of the application's own"],
        );
    }
    refused("disk-readonly", &["--path", "/nowhere"], &["/nowhere", "name an existing directory"]);
    let world = World::new();
    let ours = world.folder.path().to_str().unwrap().to_owned();
    let output = inject(&world, "disk-readonly", &["--path", &ours]).output().unwrap();
    assert!(said(&output).contains("which is ours, which may never be read-only"), "{}", said(&output));
    let inner = format!("{app}/inner");
    let small = Mounted(tempfile::Builder::new().tempdir_in(&inner).unwrap());
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).status().unwrap().success());
    mount(&["-t", "tmpfs", "-o", "size=1m", "none", small.0.path().to_str().unwrap()]);
    refused(
        "disk-readonly",
        &["--path", &app],
        &["is mounted in", "would be hidden", "folder without mounts"],
    );
    mount(&["-o", "remount,ro", disk.0.path().to_str().unwrap()]);
    refused(
        "disk-readonly",
        &["--path", small.0.path().parent().unwrap().to_str().unwrap()],
        &["would be hidden"],
    );
    drop(small);
    refused("disk-readonly", &["--path", &app], &["is read-only as it is"]);
    mount(&["-o", "remount,rw", disk.0.path().to_str().unwrap()]);
}

#[test]
fn our_own_report_is_never_shut_in() {
    let Some((_disk, app)) = folder() else { return };
    let world = World::new();
    let mut command = inject(&world, "disk-readonly", &["--path", &app]);
    let output = command.env("BROWNOUT_RUNS", format!("{app}/runs")).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("which is ours"), "{}", said(&output));
    assert!(!said(&output).contains("took hold"), "{}", said(&output));
    world.nothing_left();
}
