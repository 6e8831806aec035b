//! Floor 7: the doors: arguments in, exit code out; one file per command.

mod balloon;
mod check;
mod completions;
mod control;
mod demo;
mod doctor;
mod elsewhere;
mod explain;
mod faces;
mod init;
mod inject;
mod launch;
mod plan;
mod probe;
mod prose;
mod recover;
mod run;
mod schema;
mod shop;
mod signals;
mod watchdog;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::hands::namespace;

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything as it should be.
    Passed = 0,
    /// A promise was broken, an expectation missed, or the system did not recover.
    Failed = 1,
    /// The file or the arguments are wrong.
    Usage = 2,
    /// The guard stopped it.
    Aborted = 3,
    /// Nothing can be concluded.
    Inconclusive = 4,
    /// Something is not undone.
    NotUndone = 5,
    /// Refused before any harm.
    Refused = 6,
    /// A bug of ours, or a system that fails us.
    Bug = 70,
    /// Stopped by SIGINT, a lost terminal, or `halt`.
    Interrupted = 130,
    /// Stopped by SIGTERM.
    Terminated = 143,
}

impl Exit {
    /// Every exit with its meaning, for help and docs.
    pub const ALL: &[(Self, &str)] = &[
        (Self::Passed, "passed; everything is undone"),
        (Self::Failed, "an SLO or an expectation failed, or no recovery; everything is undone"),
        (Self::Usage, "the file or the arguments are wrong; nothing was touched"),
        (Self::Aborted, "the guard stopped it; everything is undone"),
        (
            Self::Inconclusive,
            "inconclusive: too few looks, a fault that did not take hold, `max_duration`, or our own probes \
             could not keep up; everything is undone",
        ),
        (Self::NotUndone, "something is NOT undone: `brownout recover`"),
        (Self::Refused, "refused, or unhealthy before any harm; nothing was hurt"),
        (Self::Bug, "a bug of ours"),
        (Self::Interrupted, "stopped by Ctrl-C, a lost terminal or `brownout halt`; everything is undone"),
        (Self::Terminated, "stopped by SIGTERM; everything is undone"),
    ];

    /// The exit of a judgement's code.
    fn of(code: u8) -> Self {
        Self::ALL.iter().map(|(exit, _)| *exit).find(|exit| *exit as u8 == code).unwrap_or(Self::Bug)
    }
}

#[derive(Parser)]
#[command(
    version,
    about = "Hurts a system on purpose, judges how it stands it, and leaves nothing behind",
    max_term_width = 100,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The commands as they are listed, by what one wants to do.
const GROUPS: [(&str, &[&str]); 5] = [
    ("Begin here", &["demo", "init", "explain", "doctor"]),
    ("Experiment", &["probe", "check", "plan", "run", "inject"]),
    ("While one runs, from another terminal", &["go", "halt", "note"]),
    ("After a crash", &["recover"]),
    ("For editors and shells", &["schema", "completions"]),
];

/// The commands, with a help that lists them in their groups.
fn commands() -> clap::Command {
    use std::fmt::Write as _;

    let commands = Arguments::command();
    let (strong, plain) = (commands.get_styles().get_header(), commands.get_styles().get_literal());
    let mut help = "{about}\n\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        let _ = writeln!(help, "\n{strong}{title}:{strong:#}");
        for name in names {
            let about = commands.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map_or_else(String::new, ToString::to_string);
            let _ = writeln!(help, "  {plain}{name:11}{plain:#}  {about}");
        }
    }
    let _ = write!(
        help,
        "\n{strong}Options:{strong:#}\n{{options}}\n\n`brownout COMMAND --help` says more about a command."
    );
    commands.help_template(help)
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in the life of a process")]
enum Command {
    /// See it work: a small shop is hurt and judged, in half a minute
    Demo(demo::Demo),
    /// Write a first experiment, on a URL of yours, that passes
    Init(init::Init),
    /// Explain a kind of fault or probe, or a table of the file
    Explain(explain::Explain),
    /// Show what this machine and your rights can do
    Doctor(doctor::Doctor),
    /// Look once, or for a while, and show what each part of a look took
    Probe(probe::Probe),
    /// Find every mistake in experiment files; touch nothing
    Check(check::Check),
    /// Show what would be hurt, how, and who undoes it; touch nothing
    Plan(run::ShowPlan),
    /// Run an experiment: prove health, hurt, judge, undo, report
    Run(run::Run),
    /// Do one kind of harm for a while, without a file
    Inject(inject::Inject),
    /// Let the step that waits for a person begin
    Go(control::Go),
    /// Stop a run: everything is undone
    Halt(control::Halt),
    /// Write what you know into a run's journal
    Note(control::Note),
    /// Undo what dead runs still owe
    Recover(recover::Recover),
    /// Print the JSON Schema of experiment files
    Schema(schema::Schema),
    /// Print what a shell needs to complete our commands
    Completions(completions::Completions),
    /// One process of the shop that the demo hurts
    #[command(hide = true)]
    Shop(shop::Shop),
    /// Guards a run; started by it
    #[command(hide = true)]
    Watchdog(watchdog::Guard),
    /// Holds memory for a run; started by it
    #[command(hide = true)]
    Balloon(balloon::Balloon),
}

/// Reads the process's arguments and does what they say.
#[must_use]
pub fn main() -> Exit {
    let parsed = commands().try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(why) => {
            let wrong = why.use_stderr();
            let _ = why.print();
            return if wrong { Exit::Usage } else { Exit::Passed };
        }
    };
    let command = match arguments.command {
        // Namespaces can be tried only before there are threads.
        Command::Doctor(doctor) => return doctor.run(),
        // It holds memory, and nothing else.
        Command::Balloon(balloon) => return balloon.run(),
        other => other,
    };
    let own_network = match &command {
        Command::Run(run) => run.own_network,
        Command::Plan(plan) => plan.own_network,
        _ => false,
    };
    if own_network && let Err(why) = namespace::enter() {
        eprintln!("error: {why}\nnothing was touched");
        return Exit::Refused;
    }
    let stage = matches!(command, Command::Demo(_)).then(demo::stage);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("error: the system gave us no threads: {why}");
            return Exit::Bug;
        }
    };
    runtime.block_on(async {
        match command {
            Command::Demo(demo) => {
                demo.run(stage.unwrap_or_else(|| demo::Stage::Shared(String::new()))).await
            }
            Command::Init(init) => init.run().await,
            Command::Run(run) => run.run().await,
            Command::Plan(plan) => plan.run().await,
            Command::Check(check) => check.run(),
            Command::Probe(probe) => probe.run().await,
            Command::Inject(inject) => inject.run().await,
            Command::Schema(schema) => schema.run(),
            Command::Halt(halt) => halt.run(),
            Command::Go(go) => go.run(),
            Command::Note(note) => note.run(),
            Command::Recover(recover) => recover.run().await,
            Command::Explain(explain) => explain.run(),
            Command::Completions(completions) => completions.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Balloon(balloon) => balloon.run(),
            Command::Shop(shop) => shop.run().await,
            Command::Watchdog(watchdog) => watchdog.run().await,
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_that_is_not_hidden_is_listed_once_and_the_list_fits_80_columns() {
        let commands = commands();
        commands.clone().debug_assert();
        let shown = commands.get_subcommands().filter(|command| !command.is_hide_set());
        let shown: BTreeSet<&str> = shown.map(clap::Command::get_name).collect();
        let listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        assert_eq!(shown, listed.iter().copied().collect());
        assert_eq!(shown.len(), listed.len());
        assert_eq!(listed.first(), Some(&"demo"), "the newcomer's first");
        let help = commands.clone().render_help().to_string();
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }

    #[test]
    fn a_judgements_code_is_an_exit_of_its_own() {
        for (exit, _) in Exit::ALL {
            assert_eq!(Exit::of(*exit as u8), *exit);
        }
        assert_eq!(Exit::of(99), Exit::Bug);
    }
}
