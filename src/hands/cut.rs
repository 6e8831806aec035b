//! Cutting connections that are open on this host: the kernel aborts a socket on request (SOCK_DESTROY,
//! include/uapi/linux/sock_diag.h; CONFIG_INET_DIAG_DESTROY). Whoever holds it gets ECONNABORTED, the other end a
//! reset.

use std::io;

use crate::host::netlink::{Attributes, Messages, Socket};
use crate::host::socket::Connection;

const SOCK_DESTROY: i32 = 21;

/// Aborts one connection, and none but it: a listener, or a later connection with the same addresses, has
/// another cookie. `false` when it had ended before.
///
/// # Errors
/// When we may not (CAP_NET_ADMIN), or the kernel cannot.
pub fn cut(connection: &Connection) -> io::Result<bool> {
    match destroy(&connection.exactly()) {
        Ok(()) => Ok(true),
        Err(why) if matches!(why.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => Ok(false),
        Err(why) => Err(why),
    }
}

/// Whether the kernel can: asked of a socket that cannot be, of no port and no address.
///
/// # Errors
/// When it cannot.
pub fn ability() -> io::Result<()> {
    let mut nobody = vec![libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0];
    nobody.resize(56, 0);
    match destroy(&nobody) {
        Err(why) if why.raw_os_error() != Some(libc::ENOENT) => Err(why),
        _ => Ok(()),
    }
}

fn destroy(request: &[u8]) -> io::Result<()> {
    let mut asked = Messages::new();
    asked.push(SOCK_DESTROY, libc::NLM_F_ACK, request, &Attributes::new());
    Socket::open(libc::NETLINK_SOCK_DIAG)?.ask(&asked)
}
