//! `brownout check FILE...`: every mistake of every file, nothing touched.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use serde_json::json;

use super::Exit;
use super::faces::Format;
use crate::experiment::{Draft, Refused, Surroundings};
use crate::report::Paint;

#[derive(clap::Args)]
pub(super) struct Check {
    /// The experiment files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How the outcome is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Check {
    pub(super) fn run(self) -> Exit {
        let colour = Paint::for_terminal(std::io::stderr().is_terminal()).colour;
        let (mut out, mut errors) = (std::io::stdout().lock(), std::io::stderr().lock());
        let mut wrong = false;
        for file in &self.files {
            let checked = Draft::read(file).check(&mut Surroundings::pretended());
            let (fine, mistakes, sources) = match &checked {
                Ok(checked) => (true, &checked.warnings, &checked.sources),
                Err(Refused { mistakes, sources }) => (false, mistakes, sources),
            };
            wrong |= !fine;
            let (count, warnings) = mistakes.counts();
            if self.format == Format::Json {
                let lines = mistakes.lines(sources);
                let _ = writeln!(out, "{}", json!({"file": file, "good": fine, "mistakes": lines}));
                continue;
            }
            let _ = write!(errors, "{}", mistakes.render(sources, colour));
            let many = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
            let said = match (count, warnings) {
                (0, 0) => "good".to_owned(),
                (0, warnings) => format!("good, with {}", many(warnings, "warning")),
                (count, _) => many(count, "mistake"),
            };
            let _ = writeln!(out, "{}: {said}", file.display());
        }
        if wrong { Exit::Usage } else { Exit::Passed }
    }
}
