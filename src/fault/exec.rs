//! `exec`: your own harm, with your own way back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::hands::command::{end_group, group_of, run, session};
use crate::host::mark::Mark;
use crate::host::process::boot_id;
use crate::host::rights::Rights;
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Runs your own command to do harm, and your own command to take it back.
    ///
    /// Both are required. `undo` may be run before `inject` has finished, and more than once, so it must
    /// be harmless when there is nothing to undo. Commands are run without a shell.
    pub struct Exec("exec") {
        /// Does the harm; must end by itself.
        inject: Vec<String> = required,
        /// Takes it back; run by us, by the watchdog, or by `brownout recover`.
        undo: Vec<String> = required,
        /// Exits 0 while the harm is there; proves both the effect and its end.
        remains: Vec<String> = "[]",
        /// `inject` may take so long.
        inject_within: Duration = "10s",
        /// `undo` may take so long.
        undo_within: Duration = "30s",
    }
}

/// The way back.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ran {
    mark: Mark,
    session: i32,
    boot: String,
    undo: Vec<String>,
    remains: Vec<String>,
    undo_within: Duration,
    directory: std::path::PathBuf,
}

impl Fault for Exec {
    type Owed = Ran;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Nothing;
    const TIER: Tier = Tier::Watchdog;
    const EXAMPLE: &'static str = r#"[fault.maintenance.exec]
inject  = ["touch", "/run/maintenance"]
undo    = ["rm", "-f", "/run/maintenance"]
remains = ["test", "-e", "/run/maintenance"]
for     = "30s"
"#;

    async fn survey(&self, site: &Site) -> Result<Ran, Refusal> {
        if self.inject.is_empty() || self.undo.is_empty() {
            return Err(site.refuse("`inject` or `undo` is empty".to_owned(), "give both commands"));
        }
        Ok(Ran {
            mark: Mark::of(site.run, &format!("fault {}", site.fault)),
            session: session(),
            boot: boot_id(),
            undo: self.undo.clone(),
            remains: self.remains.clone(),
            undo_within: self.undo_within,
            directory: site.directory.clone(),
        })
    }

    async fn inject(&self, _: &Site, owed: &Ran, _: &mut Held) -> Result<(), FaultError> {
        match run(&self.inject, self.inject_within, &owed.directory, Some(&owed.mark)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(FaultError(format!("`{}` failed", self.inject.join(" ")))),
            Err(why) => Err(FaultError(why)),
        }
    }

    async fn verify(&self, _: &Site, owed: &Ran, _: &Held) -> Effect {
        if owed.remains.is_empty() {
            return Effect::Unverifiable("no `remains` command was given".to_owned());
        }
        match owed.sees().await {
            Ok(true) => Effect::Confirmed(format!("`{}` sees it", owed.remains.join(" "))),
            Ok(false) => Effect::Mismatch(format!("`{}` does not see it", owed.remains.join(" "))),
            Err(why) => Effect::Unverifiable(why.to_string()),
        }
    }

    fn harm(&self, _: &Site) -> String {
        format!("runs `{}`", self.inject.join(" "))
    }

    fn ability(rights: &Rights) -> Ability {
        let whose = if rights.uid == 0 { "as root" } else { "as yourself" };
        Ability::yes(format!("your own commands, {whose}"), Some(Tier::Watchdog))
    }
}

impl Ran {
    async fn sees(&self) -> Result<bool, UndoError> {
        run(&self.remains, self.undo_within, &self.directory, None).await.map_err(UndoError)
    }

    async fn take_back(&self) -> Result<(), UndoError> {
        match run(&self.undo, self.undo_within, &self.directory, None).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(UndoError(format!("`{}` failed", self.undo.join(" ")))),
            Err(why) => Err(UndoError(why)),
        }
    }
}

impl Owed for Ran {
    async fn undo(&self) -> Result<(), UndoError> {
        let first = self.take_back().await;
        // What the injection started is the command's to stop, and it may need it alive to do so. What is there
        // all the same may do the harm again: it is ended, and the harm taken back once more.
        if self.boot == boot_id() && end_group(&self.mark, self.session).await.map_err(UndoError)? {
            return self.take_back().await;
        }
        first
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        if self.boot == boot_id() && !group_of(&self.mark, self.session).is_empty() {
            return Ok(true);
        }
        if self.remains.is_empty() { Ok(false) } else { self.sees().await }
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        vec![Claim::exclusive(host, format!("command {}", self.undo.join(" ")))]
    }

    fn tier(&self) -> Tier {
        Tier::Watchdog
    }

    fn by_hand(&self) -> String {
        self.undo.join(" ")
    }
}
