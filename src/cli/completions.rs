//! `brownout completions SHELL`: what a shell needs to complete our commands.

use clap_complete::Shell;

use super::{Exit, commands};

#[derive(clap::Args)]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Exit {
        clap_complete::generate(self.shell, &mut commands(), "brownout", &mut std::io::stdout());
        Exit::Passed
    }
}
