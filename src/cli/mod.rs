//! Floor 7: the doors: arguments in, exit code out; one file per command.

mod check;
mod completions;
mod control;
mod demo;
mod doctor;
mod explain;
mod faces;
mod inject;
mod launch;
mod plan;
mod prose;
mod recover;
mod run;
mod schema;
mod shop;
mod signals;
mod watchdog;

use clap::{Parser, Subcommand};

/// What the process ends with; the meanings are in the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything as it should be, everything undone.
    Passed = 0,
    /// A promise was broken, an expectation missed, or the system did not recover; everything undone.
    Failed = 1,
    /// The file or the arguments are wrong.
    Usage = 2,
    /// Aborted by the guard, everything undone.
    Aborted = 3,
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

impl Exit {
    /// The exit of a judgement's code.
    fn of(code: u8) -> Self {
        [Self::Passed, Self::Failed, Self::Usage, Self::Aborted, Self::Inconclusive, Self::NotUndone]
            .into_iter()
            .chain([Self::Refused, Self::Interrupted, Self::Terminated])
            .find(|exit| *exit as u8 == code)
            .unwrap_or(Self::Bug)
    }
}

#[derive(Parser)]
#[command(version, about = "Chaos experiments that leave nothing behind", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in the life of a process")]
enum Command {
    /// See it work: a small shop is started, hurt and judged, in under a minute
    Demo(demo::Demo),
    /// Run an experiment: prove it healthy, hurt it, judge it, undo everything, report
    Run(run::Run),
    /// Show what an experiment would hurt, when, how, and who undoes it; touch nothing
    Plan(run::ShowPlan),
    /// Find every mistake in experiment files
    Check(check::Check),
    /// Do one kind of harm for a while, without a file
    Inject(inject::Inject),
    /// Stop a living run: everything is undone
    Halt(control::Halt),
    /// Let the waiting step of a living run begin
    Go(control::Go),
    /// Write into a living run's journal what you know
    Note(control::Note),
    /// Undo what dead runs still owe
    Recover(recover::Recover),
    /// Explain a kind of fault, or list them
    Explain(explain::Explain),
    /// Show what this machine and these rights can do
    Doctor(doctor::Doctor),
    /// Print the JSON Schema of experiment files, for editors
    Schema(schema::Schema),
    /// Print what a shell needs to complete our commands
    Completions(completions::Completions),
    /// One process of the shop that the demo hurts
    #[command(hide = true)]
    Shop(shop::Shop),
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
    // Namespaces can be tried only before there are threads.
    if let Command::Doctor(doctor) = arguments.command {
        return doctor.run();
    }
    let stage = matches!(arguments.command, Command::Demo(_)).then(demo::stage);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("error: the system gave us no threads: {why}");
            return Exit::Bug;
        }
    };
    runtime.block_on(async {
        match arguments.command {
            Command::Demo(demo) => {
                demo.run(stage.unwrap_or_else(|| demo::Stage::Shared(String::new()))).await
            }
            Command::Run(run) => run.run().await,
            Command::Plan(plan) => plan.run().await,
            Command::Check(check) => check.run(),
            Command::Inject(inject) => inject.run().await,
            Command::Schema(schema) => schema.run(),
            Command::Halt(halt) => halt.run(),
            Command::Go(go) => go.run(),
            Command::Note(note) => note.run(),
            Command::Recover(recover) => recover.run().await,
            Command::Explain(explain) => explain.run(),
            Command::Completions(completions) => completions.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Shop(shop) => shop.run().await,
            Command::Watchdog(watchdog) => watchdog.run().await,
        }
    })
}
