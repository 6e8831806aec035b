//! What a terminal is like, and a way to write to it that holds no lock.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// A second descriptor of an output. Whoever is stuck writing to it holds nothing that `eprintln!` elsewhere
/// would wait for, as a locked `std::io::Stderr` would be.
///
/// # Errors
/// When the process has no descriptor left.
pub fn own_handle(output: impl AsFd) -> io::Result<File> {
    Ok(File::from(output.as_fd().try_clone_to_owned()?))
}

/// Columns and rows (TIOCGWINSZ, ioctl_tty(2)); `None` when it is no terminal or says nothing.
#[must_use]
pub fn size(output: impl AsFd) -> Option<(u16, u16)> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the descriptor is borrowed for the call, and TIOCGWINSZ fills one winsize.
    let size = unsafe {
        if libc::ioctl(output.as_fd().as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
            return None;
        }
        size.assume_init()
    };
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_a_size_and_a_file_has_none() {
        let wanted = nix::pty::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = nix::pty::openpty(Some(&wanted), None).unwrap();
        assert_eq!(size(&pty.slave), Some((80, 24)));
        assert_eq!(size(File::open("/dev/null").unwrap()), None);
    }
}
