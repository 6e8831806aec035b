//! The leases of rule tables, renewed while whoever decides is alive: the kernel itself ends the harm of one that
//! hangs.
//!
//! One thread in each network namespace renews them all, many in one transaction: each transaction waits for the other
//! users of nf_tables, and two hundred threads that renew one each would keep one another waiting until leases run out.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Heartbeat;
use super::owner::Owner;
use super::rules::{self, Table};
use crate::host::socket::Namespace;

/// How often leases are renewed, and how long whoever decides may be silent before they are not.
const RENEWAL: Duration = Duration::from_millis(200);
/// Together with the lease itself (one second) two seconds pass at most.
pub const SILENCE: Duration = Duration::from_millis(800);

/// What is renewed, by namespace: where one has an entry, a thread renews.
static KEPT: Mutex<Vec<(Namespace, Vec<Kept>)>> = Mutex::new(Vec::new());

fn kept() -> MutexGuard<'static, Vec<(Namespace, Vec<Kept>)>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Kept {
    owner: Arc<Owner>,
    table: String,
    heartbeat: Heartbeat,
}

/// The lease of a table, which is renewed elsewhere than where the harm is done: a transaction may wait for other
/// users of nf_tables, and packets must not.
#[derive(Debug)]
pub struct Lease {
    renewing: Renewing,
    table: Table,
}

impl Lease {
    /// Renews from now on.
    ///
    /// # Errors
    /// When no thread can be started; the table is gone then.
    pub fn keep(table: Table, heartbeat: Heartbeat) -> io::Result<Self> {
        let owner = table.owner().clone();
        let namespace = owner.namespace();
        let renewing = Renewing { namespace, table: table.name().to_owned() };
        let new = Kept { owner, table: table.name().to_owned(), heartbeat };
        let mut kept = kept();
        if let Some((_, here)) = kept.iter_mut().find(|(there, _)| *there == namespace) {
            here.push(new);
        } else {
            let renew = move || while renewed(namespace) {};
            std::thread::Builder::new().name("lease".to_owned()).spawn(renew)?;
            kept.push((namespace, vec![new]));
        }
        drop(kept);
        Ok(Self { renewing, table })
    }

    /// Renews no more, and gives the table back.
    #[must_use]
    pub fn end(self) -> Table {
        drop(self.renewing);
        self.table
    }
}

/// While this lives, a lease is renewed.
#[derive(Debug)]
struct Renewing {
    namespace: Namespace,
    table: String,
}

impl Drop for Renewing {
    fn drop(&mut self) {
        for (_, here) in kept().iter_mut().filter(|(there, _)| *there == self.namespace) {
            here.retain(|kept| kept.table != self.table);
        }
    }
}

/// Waits, and renews all leases of a namespace whose hearts beat; `false` when it has none.
fn renewed(namespace: Namespace) -> bool {
    std::thread::sleep(RENEWAL);
    let owner = {
        let mut kept = kept();
        let Some(at) = kept.iter().position(|(there, _)| *there == namespace) else { return false };
        let Some(first) = kept[at].1.first() else {
            kept.swap_remove(at);
            return false;
        };
        first.owner.clone()
    };
    // Looked at when nothing else can be on its way any more: what has ended by then is not renewed after its end.
    rules::renew(&owner, || {
        let kept = kept();
        let here = kept.iter().filter(|(there, _)| *there == namespace).flat_map(|(_, here)| here);
        here.filter(|kept| kept.heartbeat.silence() < SILENCE).map(|kept| kept.table.clone()).collect()
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::since_boot;
    use crate::hands::namespace;
    use crate::hands::rules::{LEASE, leased};

    #[test]
    fn a_lease_that_cannot_be_renewed_leaves_the_others_alone_and_all_run_out_when_the_heart_stops() {
        if !nix::unistd::geteuid().is_root() || namespace::attempt().is_err() {
            assert!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref() != Ok("all"));
            eprintln!("SKIPPED: a thread of a process of several can enter a namespace only as root");
            return;
        }
        // The thread alone moves, and takes its namespace with it when it ends.
        std::thread::spawn(|| {
            namespace::enter().unwrap();
            let by = rules::probe().unwrap();
            let heart = Heartbeat::default();
            let lease = |name: &str| {
                let table = Table::queueing(name, (7, by), &[], None).unwrap();
                Lease::keep(table, heart.clone()).unwrap()
            };
            let (kept, broken) = (lease("kept"), lease("broken"));
            broken.table.clear().unwrap();
            let until = since_boot() + LEASE * 2;
            while since_boot() < until || !leased("kept").unwrap() {
                heart.beat();
                assert!(since_boot() < until + Duration::from_mins(1), "its lease is not renewed");
                std::thread::sleep(Duration::from_millis(10));
            }
            while leased("kept").unwrap() {
                assert!(since_boot() < until + Duration::from_mins(1), "nobody beats");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(rules::stands("kept").unwrap());
            drop((kept.end(), broken));
            assert!(!rules::stands("kept").unwrap());
        })
        .join()
        .unwrap();
    }
}
