//! Floor 4: what is asked: from a file to a checked experiment.

pub mod model;

pub use model::Experiment;
