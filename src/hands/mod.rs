//! Floor 2: what holds harm: the kernel objects whose death ends a fault.

pub mod command;
pub mod heartbeat;
pub mod tracer;

pub use heartbeat::Heartbeat;
