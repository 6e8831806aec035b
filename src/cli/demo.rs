//! `brownout demo`: the newcomer's first command: a small shop, hurt on purpose, in a network of its own.

use std::path::Path;

use super::Exit;
use super::launch::{Asked, How, launch, load, surroundings};
use crate::base::RunId;
use crate::experiment::Draft;
use crate::fault::{AnyFault, Extent};
use crate::hands::namespace;
use crate::host::rights::Rights;
use crate::shop;

#[derive(clap::Args)]
pub(super) struct Demo {
    /// Print the experiment file instead of running it
    #[arg(long)]
    print: bool,
    #[command(flatten)]
    how: How,
}

/// Where the demo runs.
pub(super) enum Stage {
    /// In a network of its own.
    Own,
    /// In this machine's network, since no own could be had: why.
    Shared(String),
}

/// Enters a network of our own where we may. To be called before there are threads.
pub(super) fn stage() -> Stage {
    match namespace::enter() {
        Ok(_) => Stage::Own,
        Err(why) => Stage::Shared(why.to_string()),
    }
}

impl Demo {
    pub(super) async fn run(self, stage: Stage) -> Exit {
        // Traffic is delayed only in a network of our own: a demo must not touch anybody else's.
        let rights = Rights::ours(&self.how.state_dir());
        let delays = AnyFault::abilities(&rights)
            .iter()
            .any(|(kind, ability)| *kind == "latency" && ability.extent == Extent::Yes);
        let text = match &stage {
            Stage::Own if delays => shop::EXPERIMENT,
            _ => shop::WITHOUT_LATENCY,
        };
        if self.print {
            print!("{text}");
            return Exit::Passed;
        }
        match &stage {
            Stage::Own if delays => eprintln!(
                "A small shop of four processes, in a network of its own. Nothing else is touched.\n"
            ),
            Stage::Own => eprintln!(
                "A small shop of four processes, in a network of its own. The kernel lends us no packet queue here, so the \
                 store stands still for moments instead of answering late; `brownout doctor` says what is missing.\n"
            ),
            Stage::Shared(why) => eprintln!(
                "A small shop of four processes, on this machine's loopback ({why}). Without a network of its own the store \
                 stands still for moments instead of answering late: root would delay its traffic.\n"
            ),
        }
        let run = RunId::fresh();
        let exit = match load(Draft::from_text(Path::new("demo.toml"), text), &mut surroundings(run), true) {
            Ok(checked) => {
                launch(checked, Asked { run, file: "demo.toml".to_owned(), dry: false }, self.how).await
            }
            Err(exit) => exit,
        };
        if exit == Exit::Passed {
            eprintln!(
                "\nWhat to try next:\n  \
                 brownout demo --print > demo.toml    # read it, lower the store's patience, run it: brownout run demo.toml\n  \
                 brownout init http://localhost:8080  # a first experiment on a service of yours\n  \
                 brownout doctor                      # what this machine and these rights can do"
            );
        }
        exit
    }
}
