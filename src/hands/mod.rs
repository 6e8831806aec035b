//! Floor 2: what holds harm: the kernel objects whose death ends a fault, and the services an experiment starts.

pub mod command;
pub mod heartbeat;
pub mod namespace;
pub mod service;
pub mod tracer;

pub use heartbeat::Heartbeat;
