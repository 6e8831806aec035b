//! The host's memory.

use std::fs;
use std::io;

/// How many bytes programs can still have without the host swapping (MemAvailable, proc_meminfo(5)).
///
/// # Errors
/// When /proc is not mounted, or the kernel is older than 3.14 and does not say it.
pub fn available() -> io::Result<u64> {
    of_host("MemAvailable")
}

/// How many bytes are in use and could not be had without the host swapping: all but those that are available.
///
/// # Errors
/// As [`available`].
pub fn used() -> io::Result<u64> {
    Ok(of_host("MemTotal")?.saturating_sub(available()?))
}

fn of_host(word: &str) -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    told(&text, word)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/meminfo has no {word}")))
}

/// How many bytes of its own, not of files, a process has in memory (RssAnon, proc_pid_status(5)); `None` when it
/// is gone.
#[must_use]
pub fn of_process(pid: i32) -> Option<u64> {
    told(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "RssAnon")
}

/// How many bytes a process has in memory, also those that it shares with others (VmRSS, proc_pid_status(5)); `None`
/// when it is gone.
#[must_use]
pub fn resident(pid: i32) -> Option<u64> {
    told(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS")
}

/// The bytes that stand behind a word, in units of 1024.
fn told(text: &str, word: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(':'))?;
    Some(number.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// How many bytes the kernel counts as one page.
#[must_use]
pub fn page() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    #[test]
    fn some_memory_is_available_and_it_is_less_than_an_exabyte() {
        let bytes = super::available().unwrap();
        assert!(bytes > 1 << 20 && bytes < 1 << 60);
        assert!(super::used().unwrap() > 1 << 20);
        let us = std::process::id() as i32;
        assert!(super::resident(us) > super::of_process(us) && super::resident(0).is_none());
    }
}
