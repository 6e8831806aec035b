//! `brownout run FILE` and `brownout plan FILE`.

use std::path::PathBuf;

use super::Exit;
use super::faces::Format;
use super::launch::{Asked, How, launch, load, surroundings};
use crate::base::RunId;
use crate::experiment::{Draft, Surroundings};

#[derive(clap::Args)]
pub(super) struct Run {
    /// The experiment file
    file: PathBuf,
    /// Show the plan, touch nothing
    #[arg(long = "dry-run")]
    only_plan: bool,
    /// In a network of its own, where only the experiment's own services are: nobody else is met, and an ordinary user,
    /// too, may hurt traffic there
    #[arg(long)]
    pub(super) own_network: bool,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
pub(super) struct ShowPlan {
    /// The experiment file
    file: PathBuf,
    /// Draw the same targets as a run with this seed
    #[arg(long)]
    seed: Option<u64>,
    /// As it would be in a network of its own
    #[arg(long)]
    pub(super) own_network: bool,
    /// What standard output gets
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

impl Run {
    pub(super) async fn run(self) -> Exit {
        go(self.file, self.only_plan, self.how).await
    }
}

impl ShowPlan {
    pub(super) async fn run(self) -> Exit {
        go(self.file, true, How::to_plan(self.seed, self.format)).await
    }
}

async fn go(file: PathBuf, dry: bool, how: How) -> Exit {
    let run = RunId::fresh();
    let mut around = if dry { Surroundings::pretended() } else { surroundings(run) };
    match load(Draft::read(&file), &mut around, true) {
        Ok(checked) => launch(checked, Asked { run, file: file.display().to_string(), dry }, how).await,
        Err(exit) => exit,
    }
}
