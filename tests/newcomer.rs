//! What a newcomer types, with the real binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use support::{Owned, World, brownout, eventually, said};

/// Answers 200 on a free port until dropped; a process of its own, so that it can stand still.
const SERVER: &str = "
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200 if self.path == '/' else 404)
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Answer)
print(server.server_port, flush=True)
server.serve_forever()
";

fn server() -> (Owned, u16) {
    let mut server = Owned::start(Command::new("python3").args(["-c", SERVER]).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().parse().unwrap())
}

#[test]
fn a_first_experiment_is_written_and_it_passes() {
    let world = World::new();
    let (_server, port) = server();
    let command = |arguments: &[&str]| {
        let output =
            brownout(&world.state()).current_dir(world.folder.path()).args(arguments).output().unwrap();
        (output.status.code(), said(&output))
    };
    let url = format!("http://localhost:{port}/");
    let (code, text) = command(&["init", &url]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("20 looks, all good") && text.contains("python3"), "{text}");
    assert!(text.contains("brownout run brownout.toml --confirm yes"), "{text}");

    let (code, text) = command(&["init", &url]);
    assert!(code == Some(6) && text.contains("is there already"), "{code:?} {text}");
    assert_eq!(command(&["check", "brownout.toml"]), (Some(0), "brownout.toml: good\n".to_owned()));
    let (code, text) = command(&["run", "brownout.toml"]);
    assert!(code == Some(6) && text.contains("--confirm yes"), "nobody agreed: {text}");
    let (code, text) = command(&["run", "brownout.toml", "--confirm", "yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 of 1 processes stand still"), "{text}");
    world.nothing_left();
}

#[test]
fn a_url_that_cannot_pass_gets_no_file() {
    let world = World::new();
    let (_server, port) = server();
    let out = world.folder.path().join("first.toml");
    for (url, code, words) in [
        (format!("http://localhost:{port}/nothing"), 6, "status 404"),
        ("http://localhost:1/".to_owned(), 6, "refused"),
        ("localhost".to_owned(), 2, "http://"),
    ] {
        let output = brownout(&world.state()).args(["init", &url, "--out"]).arg(&out).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    assert!(!out.exists());
}

/// What a command writes to a terminal.
fn on_a_terminal(arguments: &[&str], no_colour: bool) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_brownout"));
    command.args(arguments).env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null());
    if no_colour {
        command.env("NO_COLOR", "1");
    }
    command.stdout(pty.slave.try_clone().unwrap()).stderr(pty.slave);
    let mut child = Owned::start(&mut command);
    drop(command); // Its copies of the terminal are closed: then reading ends with the child.
    let mut text = Vec::new();
    // Linux ends a terminal's last read with EIO.
    let _ = std::fs::File::from(pty.master).read_to_end(&mut text);
    eventually("it ends", || child.0.try_wait().unwrap().is_some());
    String::from_utf8(text).unwrap()
}

#[test]
fn no_color_is_honoured_everywhere() {
    let wrong = std::env::temp_dir().join(format!("brownout-newcomer-{}.toml", std::process::id()));
    std::fs::write(&wrong, "titel = \"x\"\n").unwrap();
    let path = wrong.to_str().unwrap();
    for arguments in [&["--help"][..], &[], &["run"], &["run", path], &["check", path]] {
        let (colour, plain) = (on_a_terminal(arguments, false), on_a_terminal(arguments, true));
        assert!(colour.contains("\u{1b}["), "{arguments:?} could be coloured: {colour}");
        assert!(!plain.contains('\u{1b}'), "{arguments:?}: {plain}");
    }
    std::fs::remove_file(wrong).unwrap();
}

#[test]
fn without_arguments_it_shows_the_demo_first() {
    let output = Command::new(env!("CARGO_BIN_EXE_brownout")).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    let first = text.lines().find(|line| line.starts_with("  ")).unwrap();
    assert!(first.trim_start().starts_with("demo"), "{text}");
    let version = Command::new(env!("CARGO_BIN_EXE_brownout")).arg("--version").output().unwrap();
    assert_eq!(said(&version), format!("brownout {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn recover_tells_programs_too() {
    let world = World::new();
    let socket = world.state().join("undo/00000001.sock");
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    std::fs::write(&socket, "").unwrap();
    let output = brownout(&world.state())
        .args(["recover", "--format", "json"])
        .env_remove("SUDO_UID")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["runs"], serde_json::json!([]));
    assert!(!socket.exists(), "a socket without a log is swept away");
}

#[test]
fn an_ordinary_user_hurts_traffic_in_a_network_of_its_own() {
    let world = World::new();
    let file = world.folder.path().join("slow.toml");
    let library =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/network/slow-redis.toml");
    std::fs::copy(library, &file).unwrap();
    std::fs::set_permissions(world.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let nobody = |more: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
        command
            .arg(env!("CARGO_BIN_EXE_brownout"))
            .arg("run")
            .arg(&file)
            .args(["--yes", "--seed", "1"])
            .args(more);
        command.env("BROWNOUT_STATE", world.folder.path().join("own"));
        command.env("BROWNOUT_RUNS", world.folder.path().join("runs"));
        command.stdin(Stdio::null()).output().unwrap()
    };
    let ran = nobody(&["--own-network"]);
    let told = said(&ran);
    if told.contains("no network of our own") || told.contains("ermission denied") {
        return support::skip(&format!("an ordinary user gets no network of its own here: {told}"));
    }
    assert_eq!(ran.status.code(), Some(0), "{told}");
    assert!(told.contains("asked 30 ms"), "the delay took hold: {told}");

    let refused = nobody(&[]);
    assert_ne!(refused.status.code(), Some(0), "{}", said(&refused));
    assert!(said(&refused).contains("CAP_NET_ADMIN"), "{}", said(&refused));
}
