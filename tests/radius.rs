//! Whom a host cannot do without: left alone by the real binary, unless somebody says otherwise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};

use support::{Owned, World, brownout, said};

/// A process whose program is called like the ssh daemon's.
fn daemon(world: &World) -> (Owned, PathBuf) {
    let program = world.folder.path().join("sshd");
    support::copy_program("/bin/sleep", &program);
    let sleeper = Owned::start(Command::new(&program).arg("60"));
    support::eventually("it is its own program", || {
        std::fs::read_link(format!("/proc/{}/exe", sleeper.pid())).is_ok_and(|exe| exe == program)
    });
    (sleeper, program)
}

fn plan(world: &World, ssh: Option<&str>, text: &str) -> Output {
    let file = world.folder.path().join("experiment.toml");
    std::fs::write(&file, format!("title = 'a test'\n{text}")).unwrap();
    let mut command = brownout(&world.state());
    command.env_remove("SSH_CONNECTION").envs(ssh.map(|ssh| ("SSH_CONNECTION", ssh)));
    command.arg("plan").arg(file).output().unwrap()
}

#[test]
fn the_ssh_daemon_is_left_alone_unless_it_is_named_in_also() {
    let world = World::new();
    let (daemon, program) = daemon(&world);
    let fault = format!("[fault.stop.pause]\ntarget = {{ exe = '{}' }}\nfor = '5s'\n", program.display());

    let refused = plan(&world, None, &fault);
    assert_eq!(refused.status.code(), Some(6), "{}", said(&refused));
    let words = format!(
        "nobody fits its target but whom a host cannot do without (process {}: people come in by it)",
        daemon.pid()
    );
    assert!(said(&refused).contains(&words), "{}", said(&refused));

    let agreed =
        plan(&world, None, &format!("[blast_radius]\nalso = ['exe {}']\n{fault}", program.display()));
    assert_eq!(agreed.status.code(), Some(0), "{}", said(&agreed));
    assert!(said(&agreed).contains(&format!("process {}", daemon.pid())), "{}", said(&agreed));
}

#[test]
fn the_ssh_connection_we_came_by_is_spared_unless_it_is_named_in_also() {
    let world = World::new();
    let ssh = Some("192.0.2.9 50122 192.0.2.2 22");
    let fault = |to: &str, more: &str| {
        format!("{more}\n[fault.slow.latency]\nto = {to}\ndelay = '100ms'\nfor = '5s'\n")
    };
    for to in ["{ port = 22 }", "{ address = '192.0.2.9' }", "{ address = '192.0.2.2:22' }"] {
        let refused = plan(&world, ssh, &fault(to, ""));
        assert_eq!(refused.status.code(), Some(6), "{to}: {}", said(&refused));
        let words = "is the ssh connection you came by, from 192.0.2.9:50122 to 192.0.2.2:22";
        assert!(said(&refused).contains(words), "{to}: {}", said(&refused));
    }
    // Without rights for latency the plan is refused for another reason: that is not what is asked here.
    for (ssh, to, more) in [
        (ssh, "{ port = 6379 }", ""),
        (None, "{ port = 22 }", ""),
        (ssh, "{ port = 22 }", "[blast_radius]\nalso = ['port 22']"),
        (ssh, "{ address = '192.0.2.2:22' }\nfrom = { address = '192.0.2.77' }", ""),
    ] {
        let planned = plan(&world, ssh, &fault(to, more));
        assert!(!said(&planned).contains("you came by"), "{to}: {}", said(&planned));
    }
}
