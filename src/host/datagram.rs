//! Datagrams to one peer.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// No datagram is longer (RFC 768).
pub const LONGEST: usize = 65_535;

/// The next datagram from whom a socket is connected to; its length.
///
/// # Errors
/// As the kernel says, also what the host says about the port (ICMP): that comes as an error alone, for which tokio's own
/// `recv` does not wake.
pub async fn hear(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    let heard = || Ok(recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?);
    socket.async_io(Interest::READABLE | Interest::ERROR, heard).await
}
