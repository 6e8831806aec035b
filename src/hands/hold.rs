//! Held traffic: rules that lead it to a queue, the queue that holds it, and the lease that ends both.

use std::sync::Arc;

use super::Heartbeat;
use super::hooks::Stay;
use super::lease::Lease;
use super::queue::{Holding, Judge, Manner, Queue, QueueError, Tally};
use super::resend;
use super::rules::{QueueBy, RulesError, Table, Traffic};

/// Why traffic cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// It cannot be told where we are.
    #[error("finding our network namespace: {0}")]
    Namespace(std::io::Error),
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
    /// How they are shown to the judge.
    pub manner: Manner,
}

/// Traffic being held. Dropping it ends that without losing a packet.
#[derive(Debug)]
pub struct Hold {
    holding: Holding,
    lease: Option<Lease>,
    stay: Option<Stay>,
}

impl Hold {
    /// Begins, in the network namespace of this thread.
    ///
    /// # Errors
    /// When it cannot; nothing is left then.
    pub fn begin(order: &Order<'_>, judge: Judge, heartbeat: Heartbeat) -> Result<Self, HoldError> {
        let stay = Stay::begin().map_err(HoldError::Namespace)?;
        // The queue comes first: a rule that leads to no queue lets everything pass.
        let holding = Queue::bind(order.queue)?.serve(judge, order.manner)?;
        let exempt = order.manner.resends().then(|| resend::mark(order.queue));
        let table = Table::queueing(order.table, (order.queue, order.by), order.traffic, exempt)?;
        let lease = Lease::keep(table, heartbeat).map_err(HoldError::Thread)?;
        Ok(Self { holding, lease: Some(lease), stay: Some(stay) })
    }

    /// What was held until now.
    #[must_use]
    pub fn tally(&self) -> &Arc<Tally> {
        self.holding.tally()
    }
}

impl Drop for Hold {
    /// First everything is given back and passes, which is the end of the harm. Then no rule leads here
    /// any more, then what came meanwhile is given back, and only then the hooks may go.
    fn drop(&mut self) {
        self.holding.let_pass();
        if let Some(table) = self.lease.take().map(Lease::end) {
            let _ = table.clear();
            self.holding.let_pass();
            drop(self.stay.take());
        }
    }
}
