//! Brownout runs TOML-defined chaos experiments on real hosts: it proves a system healthy, injects
//! faults, measures with synthetic probes against SLOs, stops when the error budget is threatened,
//! undoes everything, checks recovery, and reports.
//!
//! The rooms stand on floors; a room uses the floors below it, never its own floor's other rooms.

pub mod base;

pub mod file;
pub mod host;
pub mod slo;
pub mod undo;

pub mod hands;
pub mod shop;

pub mod fault;
pub mod probe;

pub mod event;
pub mod experiment;

pub mod engine;

pub mod report;

pub mod cli;
