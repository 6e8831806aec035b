//! The socket that owns all rule tables of ours in a network namespace, and dies with us.
//!
//! A table with an owner answers only to the socket that made it (nft_table_lookup, net/netfilter/nf_tables_api.c), so what
//! is done to several of them in one transaction goes over one socket. There is another reason to have only one: each
//! netlink socket of netfilter that closes holds up all rule tables of its namespace until what was deleted before is freed
//! (nft_rcv_nl_event waits for nf_tables_trans_destroy_work), which takes tens of milliseconds.

//!
//! And one socket can do in one transaction what many ask for at the same time. That matters where two hundred faults end
//! together: a transaction that deletes takes ten milliseconds or more, however little it deletes.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::rules::RulesError;
use crate::host::netlink::{Attributes, Messages, Socket};
use crate::host::socket::Namespace;

/// Those that are open.
static OPEN: Mutex<Vec<Weak<Owner>>> = Mutex::new(Vec::new());

/// So many messages of a transaction are acknowledged, each by itself and all at once: they must fit the socket's buffer, also
/// where it is as small as an ordinary user may have it.
pub(super) const MOST_ACKS: usize = 192;

/// One socket in one network namespace. It stays where it was opened.
#[derive(Debug)]
pub(super) struct Owner {
    socket: Mutex<Socket>,
    /// What is asked for and not yet done, the first first.
    waiting: Mutex<Vec<Waiting>>,
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
        let owner = Arc::new(Self { socket: Mutex::new(socket), waiting: Mutex::default(), namespace });
        open.push(Arc::downgrade(&owner));
        Ok(owner)
    }

    /// Does all of these messages, or none. Those that others ask for meanwhile are done in the same transaction.
    ///
    /// # Errors
    /// As the kernel says. One that is refused takes no other along.
    pub(super) fn commit(&self, messages: Messages) -> io::Result<()> {
        let (answer, heard) = channel();
        self.waiting().push(Waiting { messages, answer });
        let socket = self.socket();
        // Whoever has the socket does what was asked for by then.
        let mut waiting = std::mem::take(&mut *self.waiting()).into_iter().peekable();
        while let Some(first) = waiting.next() {
            let (mut acks, mut group) = (first.messages.acks(), vec![first]);
            while let Some(next) = waiting.next_if(|next| acks + next.messages.acks() <= MOST_ACKS) {
                acks += next.messages.acks();
                group.push(next);
            }
            done(&socket, group);
        }
        drop(socket);
        heard.recv().unwrap_or_else(|_| Err(io::Error::other("whoever was to do it did not")))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A transaction that somebody waits for.
#[derive(Debug)]
struct Waiting {
    messages: Messages,
    answer: Sender<io::Result<()>>,
}

/// Does them together; if that is refused, one by one.
fn done(socket: &Socket, group: Vec<Waiting>) {
    let together = group.len() > 1 && transaction(socket, group.iter().map(|one| &one.messages)).is_ok();
    for Waiting { messages, answer } in group {
        let result = if together { Ok(()) } else { transaction(socket, [&messages]) };
        let _ = answer.send(result); // Whoever asked waits for it.
    }
}

/// One atomic transaction of nf_tables: the messages between its begin and its end.
///
/// # Errors
/// The first that is refused; nothing is done then.
pub(super) fn transaction<'m>(
    socket: &Socket,
    parts: impl IntoIterator<Item = &'m Messages>,
) -> io::Result<()> {
    let mut whole = Messages::new();
    edge(&mut whole, libc::NFNL_MSG_BATCH_BEGIN);
    for part in parts {
        whole.extend(part);
    }
    edge(&mut whole, libc::NFNL_MSG_BATCH_END);
    socket.ask(&whole)
}

/// The begin or the end of a transaction names its subsystem in res_id.
fn edge(whole: &mut Messages, kind: i32) {
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    whole.push(kind, 0, &[libc::AF_UNSPEC as u8, 0, high, low], &Attributes::new());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hands::namespace;
    use crate::hands::rules::{self, Table};

    #[test]
    fn what_many_ask_for_at_once_is_answered_to_each_and_one_that_is_refused_takes_no_other_along() {
        if !nix::unistd::geteuid().is_root() || namespace::attempt().is_err() {
            assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"));
            eprintln!("SKIPPED: a thread of a process of several can enter a namespace only as root");
            return;
        }
        let here = std::thread::spawn(|| {
            namespace::enter().unwrap();
            let by = rules::probe().unwrap();
            let owner = Owner::here().unwrap();
            let names: Vec<String> = (0..60).map(|n| format!("t{}", n % 59)).collect();
            // The socket is busy until all have asked.
            let busy = owner.socket();
            let asking: Vec<_> = (names.iter().cloned())
                .map(|name| std::thread::spawn(move || Table::queueing(&name, (7, by), &[], None)))
                .collect();
            while owner.waiting().len() < names.len() {
                std::thread::yield_now();
            }
            drop(busy);
            let (made, refused): (Vec<_>, Vec<_>) =
                asking.into_iter().map(|asked| asked.join().unwrap()).partition(Result::is_ok);
            assert_eq!((made.len(), refused.len()), (59, 1), "one name was asked for twice");
            let all = |are| names.iter().all(|name| rules::stands(name).unwrap() == are);
            assert!(all(true));
            drop(made);
            assert!(all(false));
        });
        here.join().unwrap();
    }
}
