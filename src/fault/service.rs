//! The undo record of a service: harm without a fault, since what we start must be stopped.

use super::{Owed, UndoError};
use crate::hands::service::{Started, stop};
use crate::undo::{Claim, Tier};

impl Owed for Started {
    async fn undo(&self) -> Result<(), UndoError> {
        stop(self).await.map_err(|why| UndoError(why.to_string()))
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        Ok(Started::remains(self))
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        let port = self.port().map(|port| Claim::exclusive(host, format!("port {port}")));
        let dir = self.dir().map(|dir| Claim::exclusive(host, format!("folder {}", dir.display())));
        port.into_iter().chain(dir).collect()
    }

    fn tier(&self) -> Tier {
        // A parent-death signal would reach the main process alone, and a second SIGTERM means "at once" to many.
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        Started::by_hand(self)
    }
}
