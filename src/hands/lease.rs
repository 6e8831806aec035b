//! The lease of a rule table, renewed while whoever decides is alive: the kernel itself ends the harm of one that
//! hangs.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Heartbeat;
use super::rules::Table;

/// How often the lease is renewed, and how long whoever decides may be silent before it is not.
const RENEWAL: Duration = Duration::from_millis(200);
/// Together with the lease itself (one second) two seconds pass at most.
pub const SILENCE: Duration = Duration::from_millis(800);

/// The thread that renews a table's lease. It is not that of whoever does the harm: a transaction may wait for
/// other users of nf_tables, and packets must not.
#[derive(Debug)]
pub struct Lease {
    end: Sender<()>,
    thread: JoinHandle<Table>,
}

impl Lease {
    /// Renews from now on.
    ///
    /// # Errors
    /// When no thread can be started; the table is gone then.
    pub fn keep(table: Table, heartbeat: Heartbeat) -> io::Result<Self> {
        let (end, ended) = channel();
        let renew = move || {
            while ended.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                if heartbeat.silence() < SILENCE {
                    let _ = table.renew(); // If it fails it is tried again before the lease has run out.
                }
            }
            table
        };
        let thread = std::thread::Builder::new().name("lease".to_owned()).spawn(renew);
        Ok(Self { end, thread: thread? })
    }

    /// Renews no more, and gives the table back; `None` when its thread has failed.
    #[must_use]
    pub fn end(self) -> Option<Table> {
        let _ = self.end.send(());
        self.thread.join().ok()
    }
}
