//! `brownout schema`: the JSON Schema of experiment files.

use std::io::Write;

use super::Exit;
use crate::experiment::schema;

#[derive(clap::Args)]
pub(super) struct Schema {}

impl Schema {
    #[allow(clippy::unused_self, reason = "every command is run alike")]
    pub(super) fn run(self) -> Exit {
        let text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
        let _ = writeln!(std::io::stdout(), "{text}");
        Exit::Passed
    }
}
