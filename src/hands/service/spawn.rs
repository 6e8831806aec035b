//! Starting one process of a service.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{Spec, Trouble, home};
use crate::host::mark::{self, Mark};
use crate::host::process::{self, Wanted};
use crate::host::user::User;

/// So much of a log is shown in an error.
const TAIL_LINES: usize = 10;
const TAIL_BYTES: u64 = 4096;

/// Whom the service becomes: `None` when it stays what we are.
pub(super) fn user_of(spec: &Spec) -> Result<Option<User>, Trouble> {
    let Some(name) = &spec.user else { return Ok(None) };
    let user = User::find(name)
        .map_err(|why| Trouble::System { doing: "reading /etc/passwd".to_owned(), why })?
        .ok_or_else(|| Trouble::NoUser(name.clone()))?;
    let we = nix::unistd::geteuid();
    if user.uid == we.as_raw() {
        return Ok(None);
    }
    if we.is_root() { Ok(Some(user)) } else { Err(Trouble::NotRoot(name.clone())) }
}

/// Refuses a port on which somebody listens: a stranger's answer would be taken for the service's.
pub(super) fn port_is_free(spec: &Spec) -> Result<(), Trouble> {
    let Some(port) = spec.port else { return Ok(()) };
    match std::net::TcpListener::bind(("0.0.0.0", port)) {
        Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
            let listener =
                process::find(&Wanted::Listen(port)).ok().and_then(|found| found.into_iter().next());
            let by = listener.map_or_else(String::new, |process| {
                let pid = process.identity().pid;
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                format!(" by process {pid} ({})", name.trim())
            });
            Err(Trouble::PortTaken { port, by })
        }
        _ => Ok(()), // Whatever else is wrong, the service itself will say it better.
    }
}

/// Makes the service's own folder, if it is not there, and gives it to its user.
pub(super) fn make_dir(spec: &Spec, user: Option<&User>) -> Result<(), Trouble> {
    let Some(dir) = spec.dir.as_ref().filter(|dir| !dir.exists()) else { return Ok(()) };
    let system = |why| Trouble::System { doing: format!("making its folder {}", dir.display()), why };
    if let Some(folder) = home::run_folder(dir, spec.run) {
        home::make(folder).map_err(system)?;
    } else if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(system)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(system)?;
    match user {
        Some(user) => std::os::unix::fs::lchown(dir, Some(user.uid), Some(user.gid)).map_err(system),
        None => Ok(()),
    }
}

/// A command as a process of the service: its session, mark, user, environment, directory; its output goes
/// to the log, or nowhere.
pub(super) fn command(
    spec: &Spec,
    argv: &[String],
    user: Option<&User>,
    logged: bool,
) -> Result<Command, Trouble> {
    let mark = Mark::of(spec.run, &spec.name);
    let [program, arguments @ ..] = argv else {
        let why = io::Error::new(io::ErrorKind::InvalidInput, "the command is empty");
        return Err(Trouble::System { doing: "starting it".to_owned(), why });
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&spec.directory).stdin(Stdio::null());
    if logged {
        let log = open_log(&spec.log, user)?;
        let copy = log.try_clone();
        let copy = copy.map_err(|why| Trouble::System { doing: "its log".to_owned(), why })?;
        command.stdout(log).stderr(copy);
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    if let Some(user) = user {
        command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
    }
    let (variable, word) = mark.variable();
    command.envs(&spec.env).env(variable, word);
    let (limit, runner) = (mark.limit(), std::process::id());
    let whom = user.map(|user| (user.uid, user.gid, user.groups.clone()));
    // SAFETY: between fork and exec only system calls are made; what they read was allocated before.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            // Where it cannot be set, the environment's mark stands in.
            let _ = mark::put_on_ourselves(limit);
            // Marked, and only now: if we were killed before, nobody would look for this process any more.
            // If we are killed later, whoever stops the service finds the mark.
            if std::os::unix::process::parent_id() != runner {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // Nothing of ours beyond the standard three (close_range(2), Linux 5.11): what holds a harm must die
            // with us. Everything of ours is close-on-exec anyway, so an older kernel's refusal is no matter.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            match &whom {
                Some((uid, gid, groups)) => become_user(*uid, *gid, groups),
                None => Ok(()),
            }
        });
    }
    Ok(command)
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: system calls on our own process, which has one thread and is about to execute.
    let done = unsafe {
        libc::setgroups(groups.len(), groups.as_ptr()) == 0
            && libc::setresgid(gid, gid, gid) == 0
            && libc::setresuid(uid, uid, uid) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn open_log(path: &Path, user: Option<&User>) -> Result<std::fs::File, Trouble> {
    let system = |why| Trouble::System { doing: format!("its log {}", path.display()), why };
    let mut open = OpenOptions::new();
    let file = open.create(true).append(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path);
    let file = file.map_err(system)?;
    if let Some(user) = user {
        // Servers open /dev/stderr anew, which asks for the file's own rights.
        std::os::unix::fs::fchown(&file, Some(user.uid), None).map_err(system)?;
    }
    Ok(file)
}

/// The last lines of a log, as the end of an error; nothing when it says nothing.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() {
        return format!("; it wrote nothing to {}", log.display());
    }
    format!("; the end of {}:\n  {}", log.display(), last.join("\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_last_lines_of_a_long_log_and_says_when_there_are_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(tail(file.path()).starts_with("; it wrote nothing to "));
        let long: Vec<String> = (0..2000).map(|n| format!("line {n} \u{e9}")).collect();
        std::fs::write(file.path(), long.join("\n\n")).unwrap();
        let shown = tail(file.path());
        assert!(shown.ends_with("line 1998 \u{e9}\n  line 1999 \u{e9}"), "{shown}");
        assert_eq!(shown.lines().count(), 1 + TAIL_LINES);
        assert!(tail(Path::new("/no/such/log")).contains("wrote nothing"));
    }
}
