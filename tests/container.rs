//! Containers of a real dockerd, in namespaces of the tests' own, and of a daemon that is none.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::inside::{Inside, kill_runner, there};
use support::{Owned, World, brownout, eventually, logs, said};

/// A dockerd of the test's own.
struct Docker(Inside);

impl Deref for Docker {
    type Target = Inside;

    fn deref(&self) -> &Inside {
        &self.0
    }
}

impl Docker {
    /// `None`, loudly, where it cannot be had.
    fn new() -> Option<Self> {
        const BEGIN: &str = "exec dockerd --data-root \"$1/lib\" --exec-root /run/docker --pidfile /run/docker.pid \
             -H unix:///run/docker.sock --iptables=false --ip6tables=false --bridge=none --storage-driver vfs \
             --cgroup-parent \"/$2\"";
        if !there(&["dockerd", "docker", "unshare", "busybox"]) {
            return None;
        }
        let docker = Self(Inside::begin(BEGIN, "/run/docker.sock")?);
        let image = docker.busybox();
        docker.prints(&["sh", "-c", &format!("tar -C {} -c . | docker import - tiny", image.display())]);
        Some(docker)
    }

    fn docker(&self, arguments: &[&str]) -> String {
        self.prints(&[&["docker"], arguments].concat())
    }

    /// A web server in a container, with more options.
    fn web(&self, name: &str, options: &[&str]) {
        let arguments = [&["run", "-d", "--name", name, "--network", "none"], options].concat();
        self.docker(&[&arguments[..], &["tiny", "/bin/httpd", "-f", "-p", "8080"]].concat());
    }

    /// Status, time of start.
    fn stands(&self, name: &str) -> (String, String) {
        let line = self.docker(&["inspect", "-f", "{{.State.Status}} {{.State.StartedAt}}", name]);
        let (status, started) = line.split_once(' ').unwrap();
        (status.to_owned(), started.to_owned())
    }
}

#[test]
fn a_container_is_paused_stopped_restarted_and_crashed_and_stands_again() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &["--label", "app=web"]);
    let first = docker.stands("web");
    for (arguments, figures) in [
        (
            &["action=pause", "--for", "500ms", "--container", "label app=web"][..],
            "1 of 1 containers paused; their 1 processes used 0 s",
        ),
        (
            &["action=stop", "grace=0s", "--for", "500ms", "--container", "web"],
            "1 of 1 containers stopped; web ended with code 137, 1 of 1 processes gone",
        ),
        (
            &["action=restart", "grace=0s", "--container", "web"],
            "1 of 1 containers started anew; 1 of 1 processes gone",
        ),
        (&["action=kill", "--container", "web"], "1 of 1 main processes gone; restart policy `no`"),
    ] {
        let output = docker.inject(&[&["container"], arguments].concat()).output().unwrap();
        let text = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success() && text.contains(figures), "{text}");
        docker.nothing_owed();
    }
    let (status, started) = docker.stands("web");
    assert_eq!(status, "exited", "nobody starts again what crashed without a policy");
    assert_ne!(started, first.1);
    docker.web("phoenix", &["--restart", "always"]);
    let before = docker.stands("phoenix");
    let output = docker.inject(&["container", "action=kill", "--container", "phoenix"]).output().unwrap();
    assert!(output.status.success() && said(&output).contains("restart policy"), "{}", said(&output));
    eventually("the runtime starts it again", || {
        let now = docker.stands("phoenix");
        now.0 == "running" && now.1 != before.1
    });
}

#[test]
fn a_container_is_given_back_whichever_moment_its_runner_is_killed_at() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &[]);
    for action in [&["action=pause"][..], &["action=stop", "grace=0s"]] {
        let arguments = [&["container"], action, &["--for", "60s", "--container", "web"]].concat();
        let runner = docker.begin_fault(&arguments);
        assert_ne!(docker.stands("web").0, "running");
        kill_runner(&runner);
        eventually("it runs again", || docker.stands("web").0 == "running");
        docker.nothing_owed();
    }
    // While the daemon waits for the end of a process that ignores SIGTERM: it goes on without the one who asked.
    let started = docker.stands("web").1;
    let runner = Owned::start(
        docker
            .inject(&["container", "action=stop", "grace=2s", "--for", "60s", "--container", "web"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let owes = || {
        logs(&docker.world.state())
            .iter()
            .any(|log| std::fs::read_to_string(log).unwrap_or_default().contains("\"action\":\"stop\""))
    };
    eventually("it is about to be stopped", owes);
    kill_runner(&runner);
    docker.nothing_owed();
    assert_eq!(docker.stands("web").0, "running", "since {started}");
}

#[test]
fn what_a_person_did_meanwhile_is_left_alone() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &[]);
    let mut runner =
        docker.begin_fault(&["container", "action=stop", "grace=0s", "--for", "2s", "--container", "web"]);
    docker.docker(&["start", "web"]);
    docker.docker(&["pause", "web"]);
    let by_hand = docker.stands("web");
    assert!(runner.0.wait().unwrap().success());
    assert_eq!(docker.stands("web"), by_hand);
    docker.docker(&["unpause", "web"]);
    let mut runner = docker.begin_fault(&["container", "action=pause", "--for", "2s", "--container", "web"]);
    docker.docker(&["rm", "-f", "web"]);
    assert!(runner.0.wait().unwrap().success());
    docker.nothing_owed();
}

#[test]
fn what_must_not_be_hurt_is_refused_with_its_remedy() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &[]);
    docker.web("brief", &["--rm"]);
    docker.web("precious", &["--label", "brownout.protect=true"]);
    docker.docker(&["create", "--name", "idle", "tiny", "/bin/sleep", "60"]);
    let pause =
        |name: &str| docker.refused(&["container", "action=pause", "--for", "1s", "--container", name]);
    let begin = |rest: &str| format!("error: fault `container` is refused: {rest}");
    assert_eq!(pause("wbe"), begin("there is no container `wbe`; there are: brief, idle, precious, web"));
    assert_eq!(
        pause("idle"),
        begin("container idle does not run (it is created); first do `docker start idle`")
    );
    assert_eq!(
        pause("precious"),
        begin(
            "container precious bears the label brownout.protect=true; aim at another one, or make it again without that label"
        )
    );
    assert_eq!(
        docker.refused(&["container", "action=stop", "--for", "1s", "--container", "brief"]),
        begin(
            "container brief is removed when it ends (--rm), and could not be started again; start it without --rm, or say `action = \"pause\"`"
        )
    );
    docker.docker(&["pause", "web"]);
    assert_eq!(pause("web"), begin("container web is paused; first do `docker unpause web`"));
    docker.docker(&["unpause", "web"]);
    assert_eq!(docker.docker(&["ps", "-q"]).lines().count(), 3);
}

#[test]
fn the_faults_of_processes_and_places_reach_into_a_container() {
    let Some(docker) = Docker::new() else { return };
    docker.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        "--tmpfs",
        "/data:size=64m",
        "tiny",
        "/bin/sh",
        "-c",
        "sleep 600 & exec httpd -f -p 8080",
    ]);
    let settled = || docker.docker(&["top", "web"]).lines().count() == 3;
    eventually("both of its processes run", settled);
    for arguments in [
        &["pause", "--for", "500ms", "--container", "web"][..],
        &["starve", "quota=0.1 cores", "--for", "3s", "--container", "web"],
        &["threads", "leave=2", "--for", "500ms", "--container", "web"],
        &["memory-limit", "leave=16MiB", "--for", "2s", "--container", "web"],
    ] {
        let output = docker.inject(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        docker.nothing_owed();
    }
    for (kind, fields, proof) in [
        ("disk-fill", "size = '20MiB'", "free space fell by 20"),
        ("disk-error", "errno = 'EPERM'\noperations = 'open'", "asked EPERM, measured: opening got EPERM"),
        ("disk-readonly", "", "asked EROFS, making a file got EROFS"),
    ] {
        let file = docker.world.folder.path().join("x.toml");
        let target = "target = { container = 'web', path = '/data' }";
        std::fs::write(&file, format!("title = 'x'\n[fault.a.{kind}]\n{target}\n{fields}\nfor = '500ms'\n"))
            .unwrap();
        let output = docker.brownout(&["run", "--yes", &file.display().to_string()]).output().unwrap();
        assert!(said(&output).contains(proof), "{kind}: {}", said(&output));
        docker.nothing_owed();
    }
    let output = docker.inject(&["kill", "--container", "web"]).output().unwrap();
    assert!(said(&output).contains("1 of 1 processes gone"), "{}", said(&output));
    assert_eq!(docker.stands("web").0, "exited", "killed by its main process");
}

/// Joins a container (10.8.0.2) by a cable with the network that the daemon and brownout are in (10.8.0.1).
fn wired(docker: &Docker, name: &str) {
    let pid = docker.docker(&["inspect", "-f", "{{.State.Pid}}", name]);
    let script = format!(
        "set -e; ip link add cable type veth peer name eth0 netns {pid}; ip addr add 10.8.0.1/24 dev cable; \
         ip link set cable up; exec nsenter -t {pid} -n sh -c \
         'ip addr add 10.8.0.2/24 dev eth0; ip link set eth0 up; ip link set lo up'"
    );
    let done = docker.command("sh").args(["-c", &script]).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
}

#[test]
fn traffic_of_a_container_is_hurt_in_its_own_network_and_that_of_the_host_is_spared() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &[]);
    wired(&docker, "web");
    let busybox = docker.command("busybox").args(["httpd", "-f", "-p", "8080"]).spawn().unwrap();
    let _our_server = Owned(busybox);
    let network = std::fs::File::open(format!("/proc/{}/ns/net", docker.first())).unwrap();
    // How long a connection takes, made beside the daemon; `None` when there is none within a second.
    let connects = |to: [u8; 4]| {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(&network, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let begun = std::time::Instant::now();
                let made = std::net::TcpStream::connect_timeout(&(to, 8080).into(), Duration::from_secs(1));
                made.ok().map(|_| begun.elapsed())
            });
            inside.join().unwrap()
        })
    };
    let (host, container) = ([10, 8, 0, 1], [10, 8, 0, 2]);
    eventually("both serve", || connects(host).is_some() && connects(container).is_some());
    let tables = || {
        let pid = docker.docker(&["inspect", "-f", "{{.State.Pid}}", "web"]);
        let mut nft = docker.command("nsenter");
        String::from_utf8(nft.args(["-t", &pid, "-n", "nft", "list", "tables"]).output().unwrap().stdout)
            .unwrap()
    };
    let delay = Duration::from_millis(400);
    for whom in [&["--container", "web"][..], &["--netns", "container:web"]] {
        let runner = docker.begin_fault(&[&["latency", "delay=400ms", "--for", "60s"], whom].concat());
        let (there, here) = (connects(container).unwrap(), connects(host).unwrap());
        assert!(there >= delay && here < delay, "{whom:?}: {there:?} into it, {here:?} to the host");
        if whom[0] == "--container" {
            // From within: a handshake and a request.
            let begun = std::time::Instant::now();
            let mut wget = docker.command("docker");
            let _ = wget.args(["exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]).output();
            assert!(begun.elapsed() >= 2 * delay, "{:?}", begun.elapsed());
        }
        kill_runner(&runner);
        eventually("it is gone", || tables().is_empty());
        docker.nothing_owed();
        assert!(connects(container).unwrap() < delay);
    }
    let output =
        docker.inject(&["latency", "delay=50ms", "--for", "3s", "--container", "web"]).output().unwrap();
    let text = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(output.status.success(), "{text}");
    for words in [
        "in the network of container web",
        "in the network of container web: asked 50 ms, a TCP handshake with 127.0.0.1:8080 took",
        "not named: a TCP handshake with a port nobody named took",
    ] {
        assert!(text.contains(words), "lacks `{words}`: {text}");
    }
    let runner = docker.begin_fault(&["partition", "--for", "60s", "--container", "web"]);
    assert_eq!(connects(container), None);
    assert!(connects(host).is_some());
    kill_runner(&runner);
    eventually("it is reached again", || connects(container).is_some());
    docker.nothing_owed();
    // What is lost is counted; without a fault there is always an answer.
    let runner = Owned::start(
        docker
            .inject(&["loss", "percent=100%", "--for", "60s", "--container", "web"])
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    eventually("nothing comes through", || connects(container).is_none());
    // A container that is started anew has another network, and the harm went with the old one.
    docker.docker(&["restart", "-t", "0", "web"]);
    kill_runner(&runner);
    docker.nothing_owed();
    assert_eq!(tables(), "");
}

#[test]
fn who_needs_more_memory_in_a_container_is_killed_in_it_and_its_old_limit_comes_back() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &["--memory", "128m"]);
    docker.web("other", &[]);
    let id = docker.docker(&["inspect", "-f", "{{.Id}}", "web"]);
    let limit = || {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| format!("-path '*/{id}/{file}'"));
        docker.prints(&["sh", "-c", &format!("cat $(find /sys/fs/cgroup {})", files.join(" -o "))])
    };
    // A program in a container that takes 48 MiB; its exit code.
    let takes = |name: &str| {
        let mut docker = docker.command("docker");
        docker.args(["exec", name, "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=48M", "count=1"]);
        docker.output().unwrap().status.code()
    };
    assert_eq!((limit().as_str(), takes("web")), ("134217728", Some(0)));
    let runner = docker.begin_fault(&["memory-limit", "limit=32MiB", "--for", "60s", "--container", "web"]);
    assert_eq!((limit().as_str(), takes("web"), takes("other")), ("33554432", Some(137), Some(0)));
    kill_runner(&runner);
    eventually("its limit is what it was", || limit() == "134217728");
    docker.nothing_owed();
    assert_eq!(takes("web"), Some(0));
    for name in ["web", "other"] {
        assert_eq!(docker.stands(name).0, "running", "{name}");
    }
}

#[test]
fn the_experiments_on_containers_end_as_they_say() {
    let Some(docker) = Docker::new() else { return };
    docker.docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        "--restart",
        "always",
        "tiny",
        "/bin/sh",
        "-c",
        r#"busybox mkdir -p /data/cgi-bin; cd /data; echo hello >index.html
        echo '#!/bin/sh
        busybox dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null || exit 1
        printf "Content-type: text/plain\r\n\r\ndone"' >cgi-bin/work
        busybox chmod +x cgi-bin/work; exec httpd -f -p 8080 -h /data"#,
    ]);
    for name in ["slow", "stands-still", "short-of-memory", "crashes"] {
        let file = format!("{}/experiments/container/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let mut run = docker.brownout(&["run", "--yes", &file]);
        let output = run.env("STEADY", "7s").env("WORK", "cgi-bin/work").output().unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
        docker.nothing_owed();
    }
}

/// A daemon that answers every question with the same words, until the test ends.
fn daemon(folder: &Path, answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> PathBuf {
    let socket = folder.join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            if reader.read_line(&mut asked).is_err() || asked.is_empty() {
                continue; // Only connected, to see who listens.
            }
            let path = asked.split(' ').nth(1).unwrap().to_owned();
            let (status, body) = answer(&path);
            let head =
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = reader.read_to_string(&mut String::new());
        }
    });
    socket
}

/// What is refused of a container `web`, where `DOCKER_HOST` and, if it is set, `CONTAINER_HOST` say this.
fn asks(world: &World, docker: &str, podman: Option<&str>) -> String {
    let output = brownout(&world.state())
        .env_remove("CONTAINER_HOST")
        .envs(podman.map(|podman| ("CONTAINER_HOST", podman)))
        .args(["inject", "container", "action=pause", "--for", "1s", "--container", "web", "--yes"])
        .env("DOCKER_HOST", docker)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    said(&output).lines().next().unwrap().replace(&world.folder.path().display().to_string(), "HERE")
}

#[test]
fn a_daemon_that_is_absent_refuses_or_talks_nonsense_is_told_as_it_is() {
    let none = |rest: &str| {
        format!(
            "error: fault `container` is refused: there is no container `web` where we could look, and {rest}"
        )
    };
    let world = World::new();
    let elsewhere = "CONTAINER_HOST is tcp://podman-is-elsewhere, whose containers may be on another machine; run brownout there, or set CONTAINER_HOST=unix:///PATH";
    assert_eq!(
        asks(&world, "tcp://10.0.0.7:2375", None),
        none(
            "DOCKER_HOST is tcp://10.0.0.7:2375, whose containers may be on another machine; run brownout there, or set DOCKER_HOST=unix:///PATH"
        )
    );
    for (status, body, podman, told) in [
        (
            500,
            r#"{"message": "out of order"}"#,
            None,
            "Docker at HERE/docker.sock: it answers 500: out of order; see what `docker ps` says",
        ),
        (
            200,
            "nonsense",
            None,
            "Docker at HERE/docker.sock: its answer is not what Docker's API says: expected ident at line 1 column 2; see what `docker ps` says",
        ),
        (200, "[]", Some("tcp://podman-is-elsewhere"), elsewhere),
    ] {
        let world = World::new();
        let socket = daemon(world.folder.path(), move |_| (status, body.to_owned()));
        assert_eq!(asks(&world, &format!("unix://{}", socket.display()), podman), none(told));
    }
}

#[test]
fn a_process_that_the_daemon_counts_otherwise_is_not_hurt() {
    let world = World::new();
    let id = "ab".repeat(32);
    let other = Owned::start(Command::new("sleep").arg("60"));
    let us = other.pid();
    let socket = daemon(world.folder.path(), move |path| {
        if path.contains("all=1") {
            (200, format!(r#"[{{"Id": "{id}", "Names": ["/web"], "State": "running"}}]"#))
        } else {
            (200, format!(r#"{{"State": {{"Running": true, "Pid": {us}, "StartedAt": "now"}}}}"#))
        }
    });
    let told = asks(&world, &format!("unix://{}", socket.display()), None);
    assert_eq!(
        told,
        format!(
            "error: fault `container` is refused: process {us} here is none of container web; brownout must see the processes that Docker sees: run it outside, or with `--pid=host`"
        )
    );
}

#[test]
fn a_probe_looks_from_a_container_at_its_network_its_names_and_its_files() {
    let Some(docker) = Docker::new() else { return };
    docker.web("web", &["--add-host", "shop:127.0.0.1"]);
    let script = "echo inside > /data/page; busybox ln -s /data/page /data/link";
    docker.docker(&["exec", "web", "/bin/sh", "-c", script]);
    let file = docker.world.folder.path().join("looks.toml");
    let looks = |from: &str| {
        format!(
            "[probe.page.http]\nurl = 'http://shop:8080/data/page'\nexpect = {{ body = 'inside' }}\n{from}
[probe.command.exec]\nrun = ['busybox', 'wget', '-q', '-O', '-', 'http://127.0.0.1:8080/data/page']\nexpect = {{ stdout = 'inside' }}\n{from}
[probe.file.file]\npath = '/data/link'\nexpect = {{ contains = 'inside' }}\n{from}"
        )
    };
    let look = |from: &str| {
        std::fs::write(&file, looks(&format!("{from}\nrate = '1/s'\ntimeout = '20s'\n"))).unwrap();
        said(&docker.brownout(&["probe", file.to_str().unwrap()]).output().unwrap())
    };
    let there = look("container = 'web'");
    assert_eq!(there.matches("\ngood after").count(), 3, "{there}");
    assert!(there.contains("/data/link, from container web"), "{there}");
    let here = look("");
    assert_eq!(here.matches("\nbad after").count(), 3, "{here}");
    docker.docker(&["rm", "-f", "web"]);
    let gone = look("container = 'web'");
    assert_eq!(gone.matches("\nmissed after").count(), 3, "{gone}");
}
