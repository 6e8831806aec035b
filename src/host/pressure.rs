//! How long tasks stood still for want of something (Linux' Documentation/accounting/psi.rst).

use std::fs;
use std::io;
use std::time::Duration;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A processor.
    Cpu,
    /// Memory.
    Memory,
    /// A disk.
    Io,
}

/// For how long, since the boot, at least one task stood still for want of this; `full`: all at once did that had
/// something to do.
///
/// # Errors
/// When the kernel does not tell: it was built without (CONFIG_PSI), or it was not asked for (`psi=1`).
pub fn stood_still(want: Want, full: bool) -> io::Result<Duration> {
    let name = match want {
        Want::Cpu => "cpu",
        Want::Memory => "memory",
        Want::Io => "io",
    };
    let told = fs::read_to_string(format!("/proc/pressure/{name}"));
    told.ok().and_then(|text| parse(&text, full)).ok_or_else(|| {
        let why = format!("this kernel does not tell the pressure on {name} (boot it with `psi=1`)");
        io::Error::new(io::ErrorKind::Unsupported, why)
    })
}

fn parse(text: &str, full: bool) -> Option<Duration> {
    let begins = if full { "full " } else { "some " };
    let line = text.lines().find_map(|line| line.strip_prefix(begins))?;
    let total = line.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_and_full_are_told_apart() {
        let text = "some avg10=0.12 avg60=0.05 avg300=0.01 total=1500000\nfull avg10=0.00 total=7\n";
        assert_eq!(parse(text, false), Some(Duration::from_millis(1500)));
        assert_eq!(parse(text, true), Some(Duration::from_micros(7)));
        assert_eq!(parse("", true), None);
    }
}
