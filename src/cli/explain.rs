//! `brownout explain [KIND]`: what a kind of fault is, and its fields.

use super::Exit;
use crate::fault::AnyFault;
use crate::file::nearest;

#[derive(clap::Args)]
pub(super) struct Explain {
    /// The kind; all are listed when absent
    kind: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> Exit {
        let Some(kind) = self.kind else {
            for kind in AnyFault::KINDS {
                let about = AnyFault::explain(kind).map_or("", |(about, _)| about);
                println!("{kind:10} {}", about.trim().lines().next().unwrap_or_default());
            }
            return Exit::Passed;
        };
        let Some((about, fields)) = AnyFault::explain(&kind) else {
            let known = AnyFault::KINDS;
            let remedy = nearest(&kind, known.iter().copied()).map_or_else(
                || format!("known: {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            eprintln!("error: there is no fault `{kind}`: {remedy}");
            return Exit::Usage;
        };
        println!("{kind}\n");
        about.lines().for_each(|line| println!("{}", line.trim()));
        for field in fields {
            let need = match (field.required, field.default) {
                (true, _) => "required".to_owned(),
                (false, "") => "optional".to_owned(),
                (false, default) => format!("default {default}"),
            };
            println!("\n  {} ({}, {need})", field.name, field.type_name);
            field.doc.lines().for_each(|line| println!("      {}", line.trim()));
        }
        Exit::Passed
    }
}
