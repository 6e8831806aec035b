//! The hooks of our rule tables: where they stand, and that they stay while others hold packets.
//!
//! A packet that is held remembers by its number which hook has it, and goes on with the next (nf_reinject,
//! net/netfilter/nfnetlink_queue.c). A hook that is put before that one would let it be held twice, and be overtaken; the
//! kernel puts a new hook before others of its priority (nf_hook_entries_grow, net/netfilter/core.c). So each table of ours
//! stands behind those that were made before it.
//!
//! When a hook goes, the kernel drops all packets that are queued in its network namespace, whosever they are
//! (nf_queue_nf_hook_drop, net/netfilter/nf_queue.c). So where a table of ours ends and another fault of ours holds
//! packets, only the rules go; the hooks, which then let everything pass, go with the last of those faults, or with us.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::rules::Bare;
use crate::host::socket::Namespace;

/// So many ended tables are kept in a namespace: the kernel takes 1024 at one hook (MAX_HOOK_COUNT,
/// net/netfilter/core.c), and each packet passes them all. With one more they go together, and what is held then is lost:
/// it takes a ramp of so many steps beside another fault.
const MOST: usize = 256;

/// The namespaces where packets are held.
static KEPT: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

struct Kept {
    namespace: Namespace,
    holds: usize,
    /// How many tables were made meanwhile.
    made: i32,
    ended: Option<Bare>,
}

/// While one of these lives, no hook of ours goes in its network namespace.
#[derive(Debug)]
pub struct Stay(Namespace);

impl Stay {
    /// From now on, in the network namespace of this thread.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn begin() -> io::Result<Self> {
        let namespace = Namespace::ours()?;
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.iter_mut().find(|kept| kept.namespace == namespace) {
            Some(kept) => kept.holds += 1,
            None => kept.push(Kept { namespace, holds: 1, made: 0, ended: None }),
        }
        Ok(Self(namespace))
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // The lock is held until the hooks are gone, so that nobody begins to hold packets meanwhile.
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain_mut(|kept| {
            kept.holds -= usize::from(kept.namespace == self.0);
            kept.holds > 0
        });
    }
}

/// How many tables were made in a namespace since packets are held there; this is one more.
pub(super) fn place(namespace: Namespace) -> i32 {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    kept.iter_mut().find(|kept| kept.namespace == namespace).map_or(0, |kept| {
        kept.made = kept.made.saturating_add(1);
        kept.made - 1
    })
}

/// Ends a table that has no rules any more: now, or when nobody holds packets there.
pub(super) fn end(namespace: Namespace, table: Bare) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = kept.iter_mut().find(|kept| kept.namespace == namespace) {
        match &mut kept.ended {
            Some(ended) if ended.count() < MOST => ended.join(table),
            ended => *ended = Some(table),
        }
    }
}
