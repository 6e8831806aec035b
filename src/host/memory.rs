//! The host's memory.

use std::fs;
use std::io;

/// How many bytes programs can still have without the host swapping (MemAvailable, proc_meminfo(5)).
///
/// # Errors
/// When /proc is not mounted, or the kernel is older than 3.14 and does not say it.
pub fn available() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).and_then(|rest| {
        let number = rest.trim().strip_suffix(" kB")?;
        number.parse::<u64>().ok()
    });
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/meminfo has no MemAvailable"))
}

/// How many bytes of its own, not of files, a process has in memory (RssAnon, proc_pid_status(5)); `None` when it
/// is gone.
#[must_use]
pub fn of_process(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
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
    }
}
