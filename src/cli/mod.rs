//! Floor 7: the doors: arguments in, exit code out; one file per command.

mod explain;
mod inject;
mod recover;
mod watchdog;

use clap::{Parser, Subcommand};

/// What the process ends with; the meanings are in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything as it should be, everything undone.
    Passed = 0,
    /// The file or the arguments are wrong.
    Usage = 2,
    /// The fault did not take hold, so nothing can be concluded.
    Inconclusive = 4,
    /// Something is not undone.
    NotUndone = 5,
    /// Refused before any harm.
    Refused = 6,
    /// A bug of ours, or a system that fails us.
    Bug = 70,
    /// Stopped by SIGINT, everything undone.
    Interrupted = 130,
    /// Stopped by SIGTERM, everything undone.
    Terminated = 143,
}

#[derive(Parser)]
#[command(version, about = "Chaos experiments that leave nothing behind", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Do one kind of harm for a while, and take it back
    Inject(Box<inject::Inject>),
    /// Undo what dead runs still owe
    Recover(recover::Recover),
    /// Explain a kind of fault, or list them
    Explain(explain::Explain),
    /// Guards a run; started by it
    #[command(hide = true)]
    Watchdog(watchdog::Guard),
}

/// Reads the process's arguments and does what they say.
#[must_use]
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(why) => {
            let wrong = why.use_stderr();
            let _ = why.print();
            return if wrong { Exit::Usage } else { Exit::Passed };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("error: the system gave us no threads: {why}");
            return Exit::Bug;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Inject(inject) => inject.run().await,
            Command::Recover(recover) => recover.run().await,
            Command::Explain(explain) => explain.run(),
            Command::Watchdog(watchdog) => watchdog.run().await,
        }
    })
}
