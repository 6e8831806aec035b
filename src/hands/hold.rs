//! Held traffic: rules that lead it to a queue, the queue that holds it, and the lease that ends both.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Heartbeat;
use super::queue::{Holding, Judge, Queue, QueueError, Tally};
use super::rules::{QueueBy, RulesError, Table, Traffic};

/// How often the lease is renewed, and how long whoever decides may be silent before it is not.
const RENEWAL: Duration = Duration::from_millis(200);
/// Together with the lease itself (one second) two seconds pass at most.
const SILENCE: Duration = Duration::from_millis(800);

/// Why traffic cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No thread for the lease.
    #[error("starting the thread that renews the lease: {0}")]
    Thread(std::io::Error),
}

/// What is asked.
#[derive(Debug)]
pub struct Order<'a> {
    /// The name of the rule table.
    pub table: &'a str,
    /// The number of the queue.
    pub queue: u16,
    /// How packets get there.
    pub by: QueueBy,
    /// Which.
    pub traffic: &'a [Traffic],
    /// Whether packets fall due in the order in which they come.
    pub in_turn: bool,
}

/// Traffic being held. Dropping it ends that without losing a packet.
#[derive(Debug)]
pub struct Hold {
    holding: Holding,
    lease: Option<Lease>,
}

impl Hold {
    /// Begins, in the network namespace of this thread.
    ///
    /// # Errors
    /// When it cannot; nothing is left then.
    pub fn begin(order: &Order<'_>, judge: Judge, heartbeat: Heartbeat) -> Result<Self, HoldError> {
        // The queue comes first: a rule that leads to no queue lets everything pass.
        let holding = Queue::bind(order.queue)?.serve(judge, order.in_turn)?;
        let table = Table::queueing(order.table, order.queue, order.by, order.traffic)?;
        Ok(Self { holding, lease: Some(Lease::keep(table, heartbeat)?) })
    }

    /// What was held until now.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        self.holding.tally()
    }
}

impl Drop for Hold {
    /// First everything is given back and passes, which is the end of the harm. Then no rule leads here
    /// any more, then what came meanwhile is given back, and only then the hooks go: the kernel drops
    /// what is queued when they do.
    fn drop(&mut self) {
        self.holding.let_pass();
        if let Some(table) = self.lease.take().and_then(Lease::end) {
            let _ = table.clear();
            self.holding.let_pass();
        }
    }
}

/// The thread that renews a table's lease. It is not the packets' own: a transaction may wait for other
/// users of nf_tables, and packets must not.
#[derive(Debug)]
struct Lease {
    end: Sender<()>,
    thread: JoinHandle<Table>,
}

impl Lease {
    fn keep(table: Table, heartbeat: Heartbeat) -> Result<Self, HoldError> {
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
        Ok(Self { end, thread: thread.map_err(HoldError::Thread)? })
    }

    fn end(self) -> Option<Table> {
        let _ = self.end.send(());
        self.thread.join().ok()
    }
}
