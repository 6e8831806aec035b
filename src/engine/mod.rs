//! Floor 5: doing it: one harm from its record to its checked end, what is owed, and the watchdog.

mod harm;
mod pay;
mod pulse;
mod watchdog;

pub use harm::{Ended, Harm, HarmError, Stop, run};
pub use pay::{Unpaid, pay};
pub use watchdog::{Watchdog, WatchdogError, guard};
