//! Floor 6: the faces of a run: journal, live view, reports. They hear events; they never act.
//!
//! Everything is told from the events alone, so that a report can be rendered again from its journal.

mod aside;
mod audience;
mod facts;
mod folder;
pub mod journal;
mod junit;
pub mod live;
mod markdown;
mod paint;
mod story;
mod summary;
mod words;

#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;

pub use aside::{Aside, Face};
pub use audience::Audience;
pub use facts::*;
pub use folder::{FolderError, RunFolder, json};
pub use journal::Journal;
pub use junit::junit;
pub use markdown::markdown;
pub use paint::Paint;
pub use story::Story;
pub use summary::summary;
pub use words::{plain, quoted};
