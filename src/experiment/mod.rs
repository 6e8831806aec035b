//! Floor 4: what is asked: from a file to a checked experiment.
//!
//! ```no_run
//! use brownout::experiment::{Draft, Surroundings, environment};
//!
//! let draft = Draft::read("slow-redis.toml".as_ref());
//! match draft.check(&mut Surroundings::pretended()) {
//!     Ok(checked) => print!("{}", checked.warnings.render(&checked.sources, false)),
//!     Err(refused) => print!("{}", refused.mistakes.render(&refused.sources, false)),
//! }
//! ```
//!
//! The way of a file: `draft` joins it with what it includes, fills in defaults, multiplies probes and (with
//! `fill`) fills in variables; `tables` reads the one table that comes of it; `resolve`, `aims`, `timeline` and
//! `promises` turn names into places and judge what takes more than one value. Each collects its mistakes and
//! goes on.

mod aims;
mod draft;
mod fill;
pub mod model;
mod promises;
mod ramp;
mod resolve;
mod schema;
#[allow(dead_code, reason = "`include`, `defaults` and `each` are acted on before the tables are read")]
mod tables;
mod timeline;
mod topics;
pub mod window;
mod words;

pub use draft::{Checked, Draft, Refused};
pub use fill::{Count, Surroundings, environment};
pub use model::Experiment;
pub use schema::schema;
pub use topics::{Section, Topic, topics};
