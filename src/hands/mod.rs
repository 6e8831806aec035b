//! Floor 2: what holds harm: the kernel objects whose death ends a fault, and the services an experiment starts.

pub mod command;
pub mod flow;
pub mod heartbeat;
<<<<<<< HEAD
pub mod namespace;
pub mod service;
=======
pub mod hold;
pub mod proxy;
pub mod queue;
pub mod rules;
>>>>>>> net
pub mod tracer;

pub use heartbeat::Heartbeat;
