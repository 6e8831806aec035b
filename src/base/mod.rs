//! Floor 0: what every room may use: ids, units, the clock, the dice, names that others gave.
//!
//! Nothing here knows about experiments, hosts or faults.

pub mod clock;
pub mod dice;
pub mod grpc;
pub mod id;
pub mod unit;

pub use clock::Clock;
pub use dice::Dice;
pub use id::RunId;
pub use unit::{Bitrate, Bytes, Percent, Rate, Throughput};
