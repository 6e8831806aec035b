//! The socket that owns all rule tables of ours in a network namespace, and dies with us.
//!
//! A table with an owner answers only to the socket that made it (nft_table_lookup, net/netfilter/nf_tables_api.c), so what
//! is done to several of them in one transaction goes over one socket. There is another reason to have only one: each
//! netlink socket of netfilter that closes holds up all rule tables of its namespace until what was deleted before is freed
//! (nft_rcv_nl_event waits for nf_tables_trans_destroy_work), which takes tens of milliseconds.

use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::rules::RulesError;
use crate::host::netlink::Socket;
use crate::host::socket::Namespace;

/// Those that are open.
static OPEN: Mutex<Vec<Weak<Owner>>> = Mutex::new(Vec::new());

/// One socket in one network namespace. It stays where it was opened.
#[derive(Debug)]
pub(super) struct Owner {
    socket: Mutex<Socket>,
    namespace: Namespace,
}

impl Owner {
    /// That of the network namespace of this thread; it is opened if it is not, and closes when nobody has it any more.
    pub(super) fn here() -> Result<Arc<Self>, RulesError> {
        let namespace =
            Namespace::ours().map_err(|why| RulesError::Refused("finding our network namespace", why))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|owner| owner.strong_count() > 0);
        if let Some(owner) = open.iter().filter_map(Weak::upgrade).find(|owner| owner.namespace == namespace)
        {
            return Ok(owner);
        }
        let socket = Socket::open(libc::NETLINK_NETFILTER)
            .map_err(RulesError::of("opening its socket", "do nf_tables (CONFIG_NF_TABLES is needed)"))?;
        socket.buffer(1 << 20); // Every message of a transaction is acknowledged at once.
        let owner = Arc::new(Self { socket: Mutex::new(socket), namespace });
        open.push(Arc::downgrade(&owner));
        Ok(owner)
    }

    /// The socket, for one question and its answers.
    pub(super) fn socket(&self) -> MutexGuard<'_, Socket> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // What came too late for whoever asked before.
        while socket.receive(&mut [0; 64], Duration::ZERO).is_ok() {}
        socket
    }

    /// Where it is.
    pub(super) fn namespace(&self) -> Namespace {
        self.namespace
    }

    /// Its number.
    pub(super) fn descriptor(&self) -> RawFd {
        self.socket().as_fd().as_raw_fd()
    }
}
