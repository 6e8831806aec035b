//! Floor 1: the durable write-ahead log of undo records, claims, and what is owed.
//!
//! Generic over its record, so that it stands below the room that knows what a fault is.

mod claim;
mod log;
mod record;

pub use claim::Claim;
pub use log::{
    Found, Header, LogError, Number, Says, UndoLog, found, owed_in, read_bytes, socket_of, state_dir, sweep,
};
pub use record::{Record, Tier};
