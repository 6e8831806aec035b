//! `unit` against a real systemd: process 1 of namespaces of the test's own, with units of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Owned, World, brownout, children, eventually, said, skip};

/// The units there are; `HERE` is the world's folder.
const UNITS: &[(&str, &str)] = &[
    (
        "default.target",
        "[Unit]\nDefaultDependencies=no\nWants=web.service needs.service broken.service idle.service\nRequires=dbus.socket dbus.service\n",
    ),
    ("dbus.socket", "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n"),
    (
        "dbus.service",
        "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\nNotifyAccess=main\n\
         ExecStart=@/usr/bin/dbus-daemon @dbus-daemon --system --address=systemd: --nofork --nopidfile \
         --systemd-activation --syslog-only\n",
    ),
    (
        "web.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 3601\nRestart=on-failure\nRestartSec=50ms\n",
    ),
    ("db.service", "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 3602\n"),
    (
        "needs.service",
        "[Unit]\nDefaultDependencies=no\nRequires=db.service\nAfter=db.service\n[Service]\nExecStart=/bin/sleep 3603\n",
    ),
    (
        "broken.service",
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStartPre=/bin/mkdir HERE/once\nExecStart=/bin/sleep 3604\n",
    ),
    (
        "idle.service",
        "[Unit]\nDefaultDependencies=no\nConditionPathExists=/nowhere\n[Service]\nExecStart=/bin/sleep 3605\n",
    ),
];

/// A shell that becomes systemd, once the namespaces it is in look like a machine of its own.
const BOOT: &str = "set -e
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
umount -R -l /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=other SYSTEMD_UNIT_PATH=\"$1\" PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --log-target=null --show-status=no";

/// A systemd of the test's own; all it runs ends with it.
struct Machine {
    world: World,
    holder: Owned,
    group: PathBuf,
}

impl Machine {
    /// `None`, loudly, where it cannot be had.
    fn new() -> Option<Self> {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists());
        let have =
            ["/lib/systemd/systemd", "/usr/bin/dbus-daemon"].iter().all(|file| Path::new(file).exists());
        if !nix::unistd::geteuid().is_root() || !have || root.is_none() {
            skip("a systemd of our own needs root, the packages systemd and dbus, and cgroup v2");
            return None;
        }
        let world = World::new();
        let units = world.folder.path().join("units");
        std::fs::create_dir(&units).unwrap();
        for (name, text) in UNITS {
            let text = text.replace("HERE", &world.folder.path().display().to_string());
            std::fs::write(units.join(name), text).unwrap();
        }
        let name =
            world.folder.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        let group = root.unwrap().join(format!("brownout-test-{name}"));
        std::fs::create_dir(&group).unwrap();
        let enter = "echo $$ > \"$1/cgroup.procs\" && exec unshare --pid --fork --kill-child --mount --net --ipc --uts \
                     --cgroup sh -c \"$2\" sh \"$3\"";
        let holder = Owned::start(
            Command::new("sh")
                .args(["-c", enter, "sh"])
                .arg(&group)
                .arg(BOOT)
                .arg(&units)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        );
        let machine = Self { world, holder, group };
        eventually("systemd is up", || machine.systemctl(&["is-active", "needs.service"]).trim() == "active");
        eventually("systemd is on the bus", || {
            let arguments = ["call", "org.freedesktop.systemd1", "/", "org.freedesktop.DBus.Peer", "Ping"];
            machine.command("busctl").args(arguments).output().unwrap().status.success()
        });
        eventually("web is up", || machine.show("web.service", "ActiveState") == "active");
        eventually("broken is up", || machine.show("broken.service", "ActiveState") == "active");
        Some(machine)
    }

    /// A command that runs inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let inside = children(self.holder.pid()).first().cloned().unwrap_or_else(|| "0".to_owned());
        command.args(["-m", "-p", "-n", "-i", "-u", "-C", "-t", &inside, program]).stdin(Stdio::null());
        command
    }

    fn systemctl(&self, arguments: &[&str]) -> String {
        let output = self.command("systemctl").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn show(&self, unit: &str, property: &str) -> String {
        self.systemctl(&["show", "-P", property, unit]).trim().to_owned()
    }

    fn is(&self, unit: &str, state: &str) -> bool {
        self.show(unit, "ActiveState") == state
    }

    fn brownout(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_brownout"));
        command.env("BROWNOUT_STATE", self.world.state()).env_remove("DBUS_SYSTEM_BUS_ADDRESS");
        command.env("BROWNOUT_RUNS", self.world.folder.path().join("runs")).args(arguments);
        command
    }

    fn inject(&self, arguments: &[&str]) -> Command {
        let mut command = self.brownout(&["inject"]);
        command.args(arguments).arg("--yes").stderr(Stdio::piped());
        command
    }

    /// A runner whose harm is live: it, and what entered the namespaces for it.
    fn start(&self, arguments: &[&str]) -> (Owned, String) {
        let mut entered = Owned::start(&mut self.inject(arguments));
        entered.took_hold();
        let inside = children(entered.pid()).first().cloned().unwrap();
        (entered, inside)
    }

    /// Lets the runner die in three ways while its harm is live: killed; hanging; killed with its watchdog.
    fn gone_whichever_way_it_dies(&self, arguments: &[&str], harmed: impl Fn() -> bool) {
        assert!(!harmed(), "{arguments:?} is there before anything was done");
        for how in ["killed", "hanging", "alone"] {
            let (mut entered, runner) = self.start(arguments);
            assert!(harmed(), "{arguments:?} took hold, and is not there");
            match how {
                "killed" => signal(&runner, "-KILL"),
                "hanging" => signal(&runner, "-STOP"),
                _ => {
                    signal(&runner, "-STOP");
                    let watchdogs = children(runner.parse().unwrap());
                    assert_eq!(watchdogs.len(), 1, "one watchdog");
                    signal(&watchdogs[0], "-KILL");
                    signal(&runner, "-KILL");
                    // Who entered for it stopped with it.
                    entered.kill();
                    eventually("it is gone", || !Path::new("/proc").join(&runner).exists());
                    assert!(harmed(), "nobody was left to undo it");
                    let recovered = self.brownout(&["recover"]).output().unwrap();
                    assert_eq!(recovered.status.code(), Some(0), "{}", said(&recovered));
                    assert!(!harmed(), "{arguments:?} is there after recover");
                }
            }
            eventually(how, || !harmed());
            self.world.nothing_left();
        }
    }

    /// What `inject` says when it refuses.
    fn refused(&self, arguments: &[&str], words: &[&str]) {
        let output = self.inject(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(6), "{arguments:?}: {}", said(&output));
        for word in words.iter().chain(&["nothing was touched"]) {
            assert!(said(&output).contains(word), "{arguments:?} lacks `{word}`: {}", said(&output));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.0.kill();
        let _ = self.holder.0.wait();
        // The groups are empty a moment after the last process was reaped.
        for _ in 0..500 {
            let _ = Command::new("find")
                .arg(&self.group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .stderr(Stdio::null())
                .status();
            if !self.group.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[test]
fn a_stopped_unit_runs_again_whichever_way_the_runner_dies() {
    let Some(machine) = Machine::new() else { return };
    machine.gone_whichever_way_it_dies(&["unit", "action=stop", "--unit", "web", "--for", "60s"], || {
        !machine.is("web.service", "active")
    });
    // All that goes down with it comes back with it.
    machine.gone_whichever_way_it_dies(
        &["unit", "action=stop", "with=['needs.service']", "--unit", "db.service", "--for", "60s"],
        || !machine.is("db.service", "active") || !machine.is("needs.service", "active"),
    );
}

#[test]
fn a_frozen_unit_goes_on_whichever_way_the_runner_dies() {
    let Some(machine) = Machine::new() else { return };
    let frozen = || machine.show("web.service", "FreezerState") != "running";
    machine.gone_whichever_way_it_dies(
        &["unit", "action=freeze", "--unit", "web.service", "--for", "60s"],
        frozen,
    );
    let events = machine.group.join("system.slice/web.service/cgroup.events");
    machine.gone_whichever_way_it_dies(&["freeze", "--unit", "web.service", "--for", "60s"], || {
        std::fs::read_to_string(&events).unwrap().contains("frozen 1")
    });
}

#[test]
fn what_is_stopped_restarted_and_killed_is_measured() {
    let Some(machine) = Machine::new() else { return };
    let ran = |arguments: &[&str], words: &[&str]| {
        let output = machine.inject(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        for word in words {
            assert!(said(&output).contains(word), "{arguments:?} lacks `{word}`: {}", said(&output));
        }
        machine.world.nothing_left();
    };
    let main = |unit: &str| machine.show(unit, "MainPID");
    let pid = main("web.service");
    ran(
        &["unit", "action=stop", "--unit", "web.service", "--for", "200ms"],
        &[&format!("web.service was active with process {pid}, is inactive; 1 of 1 processes gone")],
    );
    assert!(machine.is("web.service", "active"));
    let pid = main("web.service");
    ran(
        &["unit", "action=restart", "--unit", "web.service"],
        &[&format!("with process {pid}, is active with process")],
    );
    assert_ne!(main("web.service"), pid);
    let pid = main("web.service");
    ran(&["unit", "action=kill", "--unit", "web.service"], &["1 of 1 processes gone"]);
    eventually("systemd restarts it", || machine.is("web.service", "active") && main("web.service") != pid);
    // A process fault finds a unit's processes without the bus.
    let pid = main("web.service");
    ran(&["kill", "--unit", "web"], &["1 of 1 processes gone"]);
    eventually("systemd restarts it", || machine.is("web.service", "active") && main("web.service") != pid);
}

#[test]
fn a_unit_that_somebody_stopped_meanwhile_stays_stopped() {
    let Some(machine) = Machine::new() else { return };
    let (mut entered, runner) =
        machine.start(&["unit", "action=stop", "--unit", "web.service", "--for", "60s"]);
    machine.systemctl(&["start", "web.service"]);
    machine.systemctl(&["stop", "web.service"]);
    signal(&runner, "-INT");
    assert_eq!(entered.0.wait().unwrap().code(), Some(130));
    machine.world.nothing_left();
    assert!(machine.is("web.service", "inactive"));
}

#[test]
fn a_unit_that_does_not_come_back_is_told_with_what_to_type() {
    let Some(machine) = Machine::new() else { return };
    let output = machine
        .inject(&["unit", "action=stop", "--unit", "broken.service", "--for", "100ms"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    for words in ["broken.service was started and is failed", "systemctl start broken.service"] {
        assert!(said(&output).contains(words), "lacks `{words}`: {}", said(&output));
    }
    std::fs::remove_dir(machine.world.folder.path().join("once")).unwrap();
    // The watchdog may still be at it, and holds the log as long as it is.
    eventually("it is up again", || {
        let recovered = machine.brownout(&["recover"]).output().unwrap();
        recovered.status.code() == Some(0) && machine.is("broken.service", "active")
    });
    machine.world.nothing_left();
}

#[test]
fn a_unit_that_could_not_come_back_is_refused_with_the_remedy() {
    let Some(machine) = Machine::new() else { return };
    let stop = |unit: &'static str| ["unit", "action=stop", "--for", "1s", "--unit", unit];
    machine.refused(
        &stop("idle.service"),
        &["idle.service is inactive, so there is nothing to take away", "start it first"],
    );
    machine
        .refused(&stop("nowhere.service"), &["there is no unit nowhere.service to be had here (not-found)"]);
    machine.refused(
        &stop("db.service"),
        &["needs.service would go down with db.service, which it requires", "with = [\"needs.service\"]"],
    );
    machine.refused(&stop("init.scope"), &["init.scope is left alone: it belongs to the init system"]);
    machine.systemctl(&["freeze", "web.service"]);
    machine.refused(&stop("web.service"), &["web.service is frozen already", "systemctl thaw"]);
    machine.refused(&["freeze", "--unit", "web.service"], &["is frozen already", "thaw it first"]);
    machine.systemctl(&["thaw", "web.service"]);
    let made = machine
        .command("systemd-run")
        .args(["--unit", "fly", "-p", "DefaultDependencies=no", "--quiet", "sleep", "3606"])
        .status();
    assert!(made.unwrap().success());
    machine.refused(&stop("fly.service"), &["fly.service could not be started again once it is stopped"]);
}

/// What `inject` says where systemd is spoken to at this address.
fn asked_at(address: &str) -> String {
    let world = World::new();
    let mut command = brownout(&world.state());
    command.env("DBUS_SYSTEM_BUS_ADDRESS", address);
    let stop = ["inject", "unit", "action=stop", "--unit", "web.service", "--for", "1s", "--yes"];
    let output = command.args(stop).output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("nothing was touched"), "{}", said(&output));
    world.nothing_left();
    said(&output)
}

/// A bus that does with whoever connects what it is told.
fn bus(folder: &Path, behave: fn(std::os::unix::net::UnixStream)) -> String {
    let path = folder.join("bus");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || listener.incoming().flatten().for_each(behave));
    format!("unix:path={}", path.display())
}

#[test]
fn a_bus_that_is_not_there_or_mute_or_mad_is_refused_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:path={}/none", folder.path().display());
    assert!(asked_at(&nowhere).contains(&format!("systemd does not answer at {nowhere}")));
    assert!(asked_at("no address").contains("systemd does not answer at no address"));

    let folder = tempfile::tempdir().unwrap();
    let text = asked_at(&bus(folder.path(), drop));
    assert!(text.contains("systemd does not answer at"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let text = asked_at(&bus(folder.path(), std::mem::forget));
    assert!(text.contains("no greeting within 5 s"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let text = asked_at(&bus(folder.path(), |mut stream| {
        let mut line = String::new();
        let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
        let _ = stream.write_all(b"REJECTED EXTERNAL\r\n");
    }));
    assert!(text.contains("systemd does not answer at"), "{text}");
}

#[test]
fn where_there_is_no_systemd_that_is_said_with_what_to_do_instead() {
    let world = World::new();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_brownout"))
        .args(["inject", "unit", "action=restart", "--unit", "web.service", "--yes"])
        .env("BROWNOUT_STATE", world.state())
        .env_remove("DBUS_SYSTEM_BUS_ADDRESS")
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    if !nix::unistd::geteuid().is_root() {
        return skip("a mount namespace of our own needs root");
    }
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    for words in ["systemd does not run this host: there is no /run/systemd/system", "use `kill` or `pause`"]
    {
        assert!(said(&output).contains(words), "lacks `{words}`: {}", said(&output));
    }
}
