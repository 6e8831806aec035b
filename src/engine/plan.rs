//! What will be hurt, when, by which mechanism, and who undoes it if we are killed: found out by looking,
//! before anything is touched.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::judge::{guard_settings, rules, terms, watched};
use super::timeline::foresee;
use super::world::{World, is_one};
use crate::base::{Dice, RunId, unit};
use crate::event::{self, PlannedExpectation, PlannedFault, PlannedObjective, PlannedProbe};
use crate::experiment::Experiment;
use crate::experiment::model::{Fault, Moment, Sees};
use crate::fault::{Entry, Refusal, Site};
use crate::host::target::Selector;
use crate::slo::{Objective, Promise, Rehearsal, SHORTEST_SLICE, plan_warnings, rehearse};
use crate::undo::{Claim, Record};

/// A plan: printable, and the same again from the same seed.
#[derive(Debug, Clone)]
pub struct Plan {
    experiment: Arc<Experiment>,
    /// The seed everything was drawn from.
    pub dice: Dice,
    /// The run it will be.
    pub run: RunId,
    /// The faults, in the order of the file.
    pub faults: Vec<PlannedFault>,
    /// Those that hurt something the experiment did not start itself.
    pub foreign: Vec<String>,
    /// What stands in the way: then the plan cannot be armed.
    pub refusals: Vec<String>,
    /// From t = 0 to the last undo.
    pub takes: Duration,
    claims: Vec<Claim>,
}

/// A plan that nothing stands in the way of, and that a person (or a flag) agreed to.
#[derive(Debug, Clone)]
pub struct Armed {
    plan: Plan,
}

impl Plan {
    /// Looks at every target, touches nothing. `now` is the wall time that the window of the blast radius is held against.
    pub async fn make(world: &World, now: Timestamp) -> Self {
        let experiment = world.experiment.clone();
        let (mut faults, mut refusals, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        let mut targets = 0;
        if let Some(window) = experiment.blast_radius.window.as_ref().filter(|window| !window.holds(now)) {
            refusals.push(format!("it is outside of the [blast_radius] window `{window}`; come back then"));
        }
        if let Some(switch) =
            experiment.guard.kill_switch.as_ref().filter(|path| path.symlink_metadata().is_ok())
        {
            refusals.push(format!("the kill switch {} is pulled: remove that file first", switch.display()));
        }
        let foreseen = foresee(&experiment, world.dice);
        for (fault, begins) in experiment.faults.iter().zip(&foreseen.begins) {
            match look(world, &experiment, fault, *begins).await {
                Ok((planned, theirs, count)) => {
                    faults.push(planned);
                    claims.extend(theirs);
                    targets += count;
                }
                Err(refusal) => refusals.push(refusal.to_string()),
            }
        }
        if let Some(most) = experiment.blast_radius.max_targets.filter(|most| targets > *most) {
            refusals.push(format!(
                "{targets} targets would be hurt, and [blast_radius] max_targets is {most}; pick fewer, or raise it"
            ));
        }
        let foreign = experiment.faults.iter().filter(|fault| !is_ours(fault));
        let foreign = foreign.map(|fault| fault.name.clone()).collect();
        let (dice, run, takes) = (world.dice, world.run, foreseen.takes);
        Self { experiment, dice, run, faults, foreign, refusals, takes, claims }
    }

    /// What is asked.
    #[must_use]
    pub fn experiment(&self) -> &Arc<Experiment> {
        &self.experiment
    }

    /// The plan in the form in which it is told.
    #[must_use]
    pub fn told(&self) -> event::Plan {
        let experiment = &self.experiment;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let probe = |n: usize| experiment.probes.get(n).map_or_else(String::new, |probe| probe.name.clone());
        let fault = |n: usize| experiment.faults.get(n).map_or_else(String::new, |fault| fault.name.clone());
        event::Plan {
            hypothesis: experiment.hypothesis.clone(),
            owner: experiment.owner.clone(),
            tags: experiment.tags.clone(),
            steady_for_ms: ms(experiment.steady_for),
            recovery_within_ms: ms(experiment.recovery_within),
            max_duration_ms: experiment.max_duration.map(ms),
            faults: self.faults.clone(),
            probes: experiment
                .probes
                .iter()
                .map(|probe| PlannedProbe {
                    name: probe.name.clone(),
                    kind: probe.look.kind().to_owned(),
                    looks_at: probe.look.looks_at_from(probe.from.as_ref()),
                    rate: probe.rhythm.map(|rhythm| rhythm.rate.hertz()),
                    rhythm: probe.rhythm.map(|rhythm| rhythm.to_string()),
                    retries: probe.retries,
                    observe_only: probe.observe_only,
                })
                .collect(),
            objectives: rules(experiment)
                .into_iter()
                .map(|rule| PlannedObjective {
                    promise: rule.objective.promised(),
                    probe: probe(rule.objective.probe),
                    below_ms: match rule.objective.promise {
                        Promise::Ratio { below, .. } => below.map(ms),
                        Promise::Outage { .. } => None,
                    },
                    tolerated: match rule.objective.promise {
                        Promise::Ratio { p0, .. } => Some(p0),
                        Promise::Outage { .. } => None,
                    },
                    during: rule.during.map(fault),
                    name: rule.objective.name,
                })
                .collect(),
            expectations: experiment
                .expects
                .iter()
                .map(|expect| {
                    let sees = match expect.sees {
                        Sees::Probe { probe: n, good } => {
                            format!("probe {} {}", probe(n), if good { "good" } else { "bad" })
                        }
                        Sees::Back { fault: n } => format!("what {} hit is back", fault(n)),
                    };
                    let (within, of) = (unit::say(expect.within), said(experiment, &expect.of));
                    PlannedExpectation {
                        name: expect.name.clone(),
                        wants: format!("{sees} within {within} of {of}"),
                    }
                })
                .collect(),
        }
    }

    /// What a person should know beforehand, one sentence each: what cannot be shown, what may be stopped by chance,
    /// and what the guard would find how soon. Rehearses the guard: some milliseconds an objective.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let (experiment, rules) = (&self.experiment, rules(&self.experiment));
        if rules.is_empty() {
            return vec![
                "no SLO is judged: nothing can abort this run but a person or its max_duration".to_owned(),
            ];
        }
        let (settings, terms) =
            (guard_settings(experiment, self.takes, SHORTEST_SLICE), terms(experiment, &rules));
        let mut warnings = Vec::new();
        for rule in &rules {
            let watched = watched(experiment, rule, self.takes, Duration::ZERO);
            let looks = watched.rate * self.takes.as_secs_f64();
            if rule.during.is_none() {
                let budget = watched.budget_looks;
                let found =
                    plan_warnings(&rule.objective, looks, watched.rate, budget, settings.undo, &terms);
                warnings.extend(found);
            }
            if looks < MOST_REHEARSED
                && let Some(foretold) = rehearse(&settings, &watched, terms.objectives, REHEARSALS, self.dice)
            {
                warnings.push(say_rehearsal(&rule.objective, &foretold));
            }
        }
        warnings
    }

    /// Whether a person must agree first: something is hurt that the experiment did not start.
    #[must_use]
    pub fn needs_consent(&self) -> bool {
        self.experiment.blast_radius.confirm.is_some() || !self.foreign.is_empty()
    }

    /// The word that agrees: what `[blast_radius] confirm` says, else `yes`.
    #[must_use]
    pub fn consent(&self) -> &str {
        self.experiment.blast_radius.confirm.as_deref().unwrap_or("yes")
    }

    /// Arms the plan with the word that was given, if any.
    ///
    /// # Errors
    /// Everything that stands in the way, one sentence each.
    pub fn arm(self, word: Option<&str>) -> Result<Armed, Vec<String>> {
        if !self.refusals.is_empty() {
            return Err(self.refusals);
        }
        if self.needs_consent() && word != Some(self.consent()) {
            let why = if self.foreign.is_empty() {
                "[blast_radius] asks that somebody confirms it, and nobody did"
            } else {
                "it hurts what it did not start, and nobody agreed to that"
            };
            return Err(vec![format!(
                "{why}; type `{0}` when asked, or give `--confirm {0}`",
                self.consent()
            )]);
        }
        Ok(Armed { plan: self })
    }
}

impl Armed {
    /// What is asked.
    #[must_use]
    pub fn experiment(&self) -> &Arc<Experiment> {
        &self.plan.experiment
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the run holds against others from its first moment.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.plan.claims
    }
}

/// Made-up runs of each sort.
const REHEARSALS: u32 = 50;
/// A plan of more looks is not rehearsed: that would take seconds.
const MOST_REHEARSED: f64 = 200_000.0;

fn say_rehearsal(objective: &Objective, foretold: &Rehearsal) -> String {
    let Promise::Ratio { p0, .. } = objective.promise else { return String::new() };
    let (name, runs, percent) =
        (&objective.name, foretold.runs, |share: f64| (share * 1000.0).round() / 10.0);
    let breach = percent((5.0 * p0).min(1.0));
    let found = match foretold.after {
        Some((p50, _)) => format!(
            "the guard stops {} % of {runs} rehearsed runs when {breach} % of looks turn bad, half of them within {}",
            percent(foretold.found),
            unit::say(p50)
        ),
        None => format!("the guard stops none of {runs} rehearsed runs when {breach} % of looks turn bad"),
    };
    format!("{name}: {found}; falsely, at half of what is tolerated, {} %", percent(foretold.false_aborts))
}

async fn look(
    world: &World,
    experiment: &Experiment,
    fault: &Fault,
    begins: Option<Duration>,
) -> Result<(PlannedFault, Vec<Claim>, u32), Refusal> {
    let service = [&fault.target, &fault.from].into_iter().flatten().any(|t| waits(experiment, &t.selector));
    let site = world.site(fault, 0)?;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let drawn = fault.drawn(&world.dice);
    let mut planned = PlannedFault {
        name: fault.name.clone(),
        kind: fault.harm.kind().to_owned(),
        harm: harm(fault, &site),
        at: format!("{}{}", said(experiment, &fault.at), again(fault, &drawn)),
        begins_ms: begins.map(ms),
        hold_ms: fault.hold.filter(|_| fault.harm.lasting()).map(ms),
        times: drawn.len() as u32,
        tier: fault.harm.tier(),
        mechanism: None,
    };
    // A service and its files are there only once it was started: they are surveyed when their time comes.
    if service {
        return Ok((planned, Vec::new(), 1));
    }
    let owed = fault.harm.survey(&site).await?;
    planned.mechanism = fault.harm.mechanism(&owed);
    if let Some(last) = fault.ramp.last() {
        last.survey(&site).await?; // What its last level asks too much for is refused before its first.
    }
    let entry = Entry { fault: fault.name.clone(), host: site.host.clone(), deadline: None, owed };
    planned.tier = entry.tier();
    let count = if is_one(fault) { 1 } else { site.target.count().max(1) as u32 };
    Ok((planned, entry.claims(), count))
}

/// The harm in a sentence; of a ramp, from its first to its last level.
fn harm(fault: &Fault, site: &Site) -> String {
    let first = fault.harm.harm(site);
    match fault.ramp.last() {
        None => first,
        Some(last) => format!("{first}; in {} steps to: {}", fault.ramp.len() + 1, last.harm(site)),
    }
}

/// How it goes on after its first time: repeated, and drawn by chance. A ramp goes on without a pause.
fn again(fault: &Fault, drawn: &[u32]) -> String {
    let every = fault.every.filter(|_| fault.ramp.is_empty());
    let mut said = every.map_or_else(String::new, |(every, _)| format!(", then every {}", unit::say(every)));
    if let Some(chance) = fault.chance {
        let nth = |n: &u32| (n + 1).to_string();
        let which = match (drawn, every) {
            ([], _) => "it does not happen".to_owned(),
            (_, None) => "it happens".to_owned(),
            (drawn, Some((_, times))) => {
                let shown: Vec<String> = drawn.iter().take(MOST_SHOWN).map(nth).collect();
                let more = if drawn.len() > MOST_SHOWN { ", ..." } else { "" };
                format!("of {times} times these happen: {}{more}", shown.join(", "))
            }
        };
        let _ = write!(said, ", each with a chance of {chance}; by this seed {which}");
    }
    said
}

/// Drawn times that are listed.
const MOST_SHOWN: usize = 12;

/// Whether what is selected comes with a service that the experiment starts.
fn waits(experiment: &Experiment, selector: &Selector) -> bool {
    match selector {
        Selector::Service(_) => true,
        Selector::Path(path) | Selector::PidFile(path) => experiment
            .services
            .iter()
            .filter_map(|service| service.dir.as_ref())
            .any(|dir| path.starts_with(dir)),
        _ => false,
    }
}

/// Whether everything a fault hurts was started by the experiment itself.
fn is_ours(fault: &Fault) -> bool {
    matches!(&fault.target, Some(target) if matches!(target.selector, Selector::Service(_)))
}

/// A moment as a person reads it.
#[must_use]
pub fn said(experiment: &Experiment, moment: &Moment) -> String {
    let name = |fault: &usize| experiment.faults.get(*fault).map_or("?", |fault| fault.name.as_str());
    let plus = |after: &Duration| {
        if after.is_zero() { String::new() } else { format!(" + {}", unit::say(*after)) }
    };
    match moment {
        Moment::Zero(after) => unit::say(*after),
        Moment::Begin(fault, after) => format!("{}.begin{}", name(fault), plus(after)),
        Moment::End(fault, after) => format!("{}.end{}", name(fault), plus(after)),
        Moment::Operator => "operator".to_owned(),
    }
}
