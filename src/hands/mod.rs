//! Floor 2: what holds harm: the kernel objects whose death ends a fault.

pub mod command;
pub mod flow;
pub mod heartbeat;
pub mod hold;
pub mod proxy;
pub mod queue;
pub mod rules;
pub mod tracer;

pub use heartbeat::Heartbeat;
