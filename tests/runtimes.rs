//! Containers of a real podman and a real containerd, in namespaces of the tests' own. Those of dockerd: `container.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use support::eventually;
use support::inside::{Inside, kill_runner, there};

/// podman as it is started here: nothing of it outside of its folder and `/run`.
const PODMAN: &str = "podman --root \"$1/root\" --runroot /run/podman-root --storage-driver vfs --runtime runc \
                      --cgroup-manager cgroupfs";

/// A podman of the test's own, that answers its API.
struct Podman(Inside);

impl Podman {
    fn new() -> Option<Self> {
        if !there(&["podman", "runc", "busybox", "unshare"]) {
            return None;
        }
        let script = format!(
            "mkdir -p /run/podman; exec {PODMAN} system service --time 0 unix:///run/podman/podman.sock"
        );
        let podman = Self(Inside::begin(&script, "/run/podman/podman.sock")?);
        let image = podman.0.busybox();
        podman.says(&format!("tar -C {} -c . | {PODMAN} import - tiny", image.display()));
        Some(podman)
    }

    fn says(&self, script: &str) -> String {
        let folder = self.0.world.folder.path().join("inside");
        self.0.prints(&["sh", "-c", script, "sh", folder.to_str().unwrap()])
    }

    fn web(&self, name: &str, options: &str) {
        self.says(&format!(
            "{PODMAN} run -d --name {name} --network none --cgroup-parent /{} {options} tiny /bin/httpd -f -p 8080",
            self.0.group()
        ));
    }

    fn stands(&self, name: &str) -> String {
        self.says(&format!("{PODMAN} inspect --format '{{{{.State.Status}}}}' {name}"))
    }
}

#[test]
fn a_container_of_podman_is_paused_stopped_restarted_crashed_and_slowed_and_stands_again() {
    let Some(podman) = Podman::new() else { return };
    podman.web("web", "--restart always --label app=shop");
    for (arguments, figures) in [
        (
            &["container", "action=pause", "--for", "500ms", "--container", "label app=shop"][..],
            "pauses container web of podman; 1 of 1 containers paused; their 1 processes used 0 s",
        ),
        (
            &["container", "action=stop", "grace=0s", "--for", "500ms", "--container", "web"],
            "1 of 1 containers stopped; web ended with code 137, 1 of 1 processes gone",
        ),
        (
            &["container", "action=restart", "grace=0s", "--container", "web"],
            "1 of 1 containers started anew; 1 of 1 processes gone",
        ),
        (
            &["container", "action=kill", "--container", "web"],
            "1 of 1 main processes gone; restart policy `always`",
        ),
    ] {
        let text = podman.0.done(arguments);
        assert!(text.contains(figures), "{text}");
        eventually("it runs again", || podman.stands("web") == "running");
    }
    let text = podman.0.done(&["latency", "--delay", "50ms", "--for", "1s", "--container", "web"]);
    assert!(text.contains("in the network of container web: asked 50 ms, a TCP handshake with"), "{text}");
    let refused = podman.0.refused(&["pause", "--for", "1s", "--container", "wbe"]);
    assert!(refused.ends_with("there is no container `wbe`; there are: web"), "{refused}");
}

#[test]
fn a_container_of_podman_is_given_back_when_the_runner_is_killed() {
    let Some(podman) = Podman::new() else { return };
    podman.web("web", "");
    for action in [&["action=pause"][..], &["action=stop", "grace=0s"]] {
        let arguments = [&["container"], action, &["--for", "60s", "--container", "web"]].concat();
        let runner = podman.0.begin_fault(&arguments);
        assert_ne!(podman.stands("web"), "running");
        kill_runner(&runner);
        eventually("it runs again", || podman.stands("web") == "running");
        podman.0.nothing_owed();
    }
}

#[test]
fn a_container_of_containerd_is_found_by_its_records_and_hurt_in_its_namespaces() {
    const CONFIG: &str = r#"
version = 2
root = "FOLDER/root"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
"#;
    if !there(&["containerd", "ctr", "runc", "busybox", "unshare"]) {
        return;
    }
    let script = format!(
        "printf '%s' '{CONFIG}' | sed \"s|FOLDER|$1|\" >\"$1/config.toml\"; exec containerd -c \"$1/config.toml\""
    );
    let Some(inside) = Inside::begin(&script, "/run/containerd/containerd.sock") else { return };
    let root = inside.busybox();
    let group = format!("/{}/web", inside.group());
    let run = ["ctr", "run", "--detach", "--cgroup", &group, "--label", "app=shop", "--rootfs"];
    inside.prints(&[&run[..], &[root.to_str().unwrap(), "web", "/bin/httpd", "-f", "-p", "8080"]].concat());
    let running = || inside.prints(&["ctr", "task", "list"]).contains("RUNNING");
    for (arguments, figures) in [
        (
            &["latency", "--delay", "50ms", "--for", "1s", "--container", "web"][..],
            "in the network of container web: asked 50 ms, a TCP handshake with",
        ),
        (&["pause", "--for", "500ms", "--container", "label app=shop"], "1 of 1 processes stand still"),
    ] {
        let text = inside.done(arguments);
        assert!(text.contains(figures), "{text}");
        assert!(running());
    }
    let refused = inside.refused(&["container", "action=stop", "--for", "1s", "--container", "web"]);
    assert!(refused.contains("container web is known by the records of containerd alone; only"), "{refused}");
    let text = inside.done(&["container", "action=kill", "--container", "web"]);
    assert!(text.contains("1 of 1 main processes gone"), "{text}");
    eventually("it has ended", || !running());
}
