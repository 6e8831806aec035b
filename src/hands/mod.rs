//! Floor 2: what holds harm: the kernel objects whose death ends a fault, and the services an experiment starts.

pub mod balloon;
pub mod burner;
pub mod churn;
pub mod command;
pub mod cover;
pub mod cut;
pub mod fence;
pub mod flow;
pub mod forge;
pub mod freezer;
pub mod gate;
pub mod heartbeat;
pub mod hold;
pub mod hooks;
pub mod http;
pub mod lease;
pub mod namespace;
mod owner;
pub mod parked;
pub mod proxy;
pub mod queue;
pub mod resend;
pub mod rules;
pub mod service;
pub mod systemd;
pub mod tracer;
pub mod turn;
pub mod vdso;

pub use heartbeat::Heartbeat;
