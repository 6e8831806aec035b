//! The phases of a run below the line: each takes what comes in, turn by turn, until it is over.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;

use super::conduct::{Conductor, with_log};
use super::judge::Recovery;
use super::looks::{self, Looking, Probers};
use super::pay::{Unpaid, settle};
use super::run::Report;
use super::verdict::{Finding, Findings, SEVERE, judge};
use crate::base::unit;
use crate::event::{Phase, What};
use crate::experiment::model::Once;
use crate::fault::{AnyOwed, Effect};
use crate::hands::service::Told;
use crate::probe::Canary;
use crate::probe::schedule::{Look, News};
use crate::slo::Outcome;

/// How far ahead a turn waits at most when nothing is due.
const IDLE: Duration = Duration::from_millis(100);
/// How much longer than its time the steady state may take to show: the last looks must settle.
const SETTLING: Duration = Duration::from_secs(2);

impl Conductor<'_> {
    /// Does something on the workers, taking turns meanwhile; `None` when it failed, or is not wanted any more
    /// before it is done: then it is dropped.
    async fn meanwhile<T: Send + 'static>(
        &mut self,
        work: impl Future<Output = T> + Send + 'static,
        wanted: impl Fn(&Self) -> bool,
    ) -> Option<T> {
        let mut work = self.workers.spawn(work);
        loop {
            let until = self.clock.now() + IDLE;
            tokio::select! {
                biased;
                done = &mut work => return done.ok(),
                () = self.turn(until) => if !wanted(self) {
                    work.abort();
                    return work.await.ok();
                }
            }
        }
    }

    fn undisturbed(&self) -> bool {
        self.stop.is_none()
    }

    async fn turns_until(&mut self, over: impl Fn(&mut Self) -> bool) {
        while !over(self) {
            self.turn(self.clock.now() + IDLE).await;
        }
    }

    /// Services up, then healthy for as long as the steady state asks: else nothing is injected. Whether it
    /// was; looks go on.
    pub(super) async fn start_and_prove(
        &mut self,
        probers: Probers,
        news: &mpsc::Sender<News>,
        told: &mpsc::Sender<Told>,
        folder: &Path,
    ) -> bool {
        let experiment = self.experiment();
        self.tell(What::Phase { phase: Phase::Steady });
        let services = self.world.services.clone();
        let (run, log, told) = (self.world.run, self.log.clone(), told.clone());
        let (asked, directory, folder) =
            (experiment.services.clone(), experiment.directory.clone(), folder.to_owned());
        let starting = async move { services.start(run, asked, directory, folder, log, told).await };
        match self.meanwhile(starting, Self::undisturbed).await {
            Some(Ok(())) => {}
            Some(Err(why)) => return self.unhealthy(&why),
            None => return false,
        }
        match self.checks(&probers, Once::Before, Self::undisturbed).await {
            Some(Ok(())) => {}
            Some(Err(why)) => return self.unhealthy(&why),
            None => return false,
        }
        let canary = Canary::start(self.clock, &self.workers);
        let looking =
            Looking::start(&experiment, &probers, self.world.dice, self.clock, news, &self.workers, &canary);
        self.judge.trusts(canary);
        self.looking = Some((looking, probers));
        let begun = self.clock.now();
        self.judge.steady_begins(begun);
        let give_up = begun + self.judge.steady_takes() + looks::longest(&experiment) + SETTLING;
        loop {
            let now = self.clock.now();
            if self.stop.is_some() {
                return false;
            }
            if let Some(why) = self.judge.steady(now) {
                self.tell(What::Steady { yes: true, why });
                return true;
            }
            if now >= give_up {
                let why = self.judge.not_steady_because();
                return self.unhealthy(&why);
            }
            self.turn(now + IDLE).await;
        }
    }

    fn unhealthy(&mut self, why: &str) -> bool {
        let why = format!("the system was not healthy, so nothing was injected: {why}");
        self.tell(What::Steady { yes: false, why: why.clone() });
        self.findings.unhealthy = Some(why);
        false
    }

    /// The checks of one moment: whether they are good, and why not; `None` when they were not made to their end.
    async fn checks(
        &mut self,
        probers: &Probers,
        once: Once,
        wanted: impl Fn(&Self) -> bool,
    ) -> Option<Result<(), String>> {
        let experiment = self.experiment();
        if !experiment.probes.iter().any(|probe| probe.once == Some(once)) {
            return Some(Ok(()));
        }
        let checking = looks::check(experiment.clone(), probers.clone(), once, self.clock);
        let looks = self.meanwhile(checking, wanted).await?;
        let mut wrong = Ok(());
        for look in looks {
            self.heard_look(&look);
            let probe = &experiment.probes[look.probe];
            if probe.observe_only {
                continue;
            }
            // A check is judged by one look, which is worth a line of its own.
            let good = look.sample.outcome == Outcome::Good;
            self.tell(What::Expectation {
                name: format!("check {}", probe.name),
                met: good,
                why: if good { format!("good {}", moment(once)) } else { said(&look).to_owned() },
            });
            if good {
                self.findings.met += 1;
            } else {
                wrong = wrong.and_then(|()| Err(format!("check `{}`: {}", probe.name, said(&look))));
            }
        }
        Some(wrong)
    }

    /// Faults by their timeline, until all is done and undone, or the run is stopped.
    pub(super) async fn conduct(&mut self) {
        self.tell(What::Phase { phase: Phase::Faults });
        self.start_judging();
        self.turns_until(|run| run.stop.is_some() || run.finished()).await;
    }

    /// Lets go of everything, waits until it is gone, and pays whatever is still owed, except for services.
    pub(super) async fn unwind(&mut self) {
        self.tell(What::Phase { phase: Phase::Unwind });
        self.release_all();
        self.turns_until(|run| run.idle()).await;
        let owed = with_log(&self.log, |log| {
            log.owed().map(|(number, entry)| (number, entry.clone())).collect::<Vec<_>>()
        });
        for (number, entry) in owed.await.unwrap_or_default() {
            let tried = self.unpaid.iter().any(|unpaid| unpaid.fault == entry.fault);
            if tried || matches!(entry.owed, AnyOwed::Service(_)) {
                continue;
            }
            let (log, again) = (self.log.clone(), entry.clone());
            let paying = async move {
                settle(&again, || {}).await?;
                with_log(&log, move |log| log.undone(number).map_err(|why| why.to_string())).await?
            };
            // Never dropped half done: a stop changes nothing any more.
            let mut paying = self.hands.spawn(paying);
            let result = loop {
                let until = self.clock.now() + IDLE;
                tokio::select! {
                    biased;
                    done = &mut paying => break done.map_err(|why| why.to_string()).and_then(|result| result),
                    () = self.turn(until) => {}
                }
            };
            if let Err(why) = result {
                self.not_undone(Unpaid::of(&entry, why));
            }
        }
        self.unwound = true;
        self.judge.last_undo(self.clock.now());
    }

    /// Watches until the system is as it was, at most so long. A person in a hurry skips it.
    pub(super) async fn watch_recovery(&mut self) {
        let experiment = self.experiment();
        self.tell(What::Phase { phase: Phase::Recovery });
        let begun = self.clock.now();
        let give_up = begun
            + experiment.recovery_within
            + self.judge.steady_takes()
            + looks::longest(&experiment)
            + SETTLING;
        let mut recovered = self.judge.recovery(begun);
        while !self.hurried() && recovered.is_none() && self.clock.now() < give_up {
            self.turn(self.clock.now() + IDLE).await;
            recovered = self.judge.recovery(self.clock.now());
        }
        let waited = self.clock.now().saturating_sub(begun);
        let (yes, took, why) = match recovered {
            Some(Recovery::Nothing) => {
                (true, Duration::ZERO, "nothing is promised, so nothing had to recover".to_owned())
            }
            Some(Recovery::Since(began)) => {
                let took = began.saturating_sub(begun);
                (true, took, format!("every promise held again {} after the last undo", unit::say(took)))
            }
            Some(Recovery::Not(why)) => (false, waited, why),
            None if self.hurried() => {
                (false, waited, "recovery was not watched to its end: stopped".to_owned())
            }
            None => (false, waited, format!("no recovery within {}", unit::say(experiment.recovery_within))),
        };
        if !(yes || self.hurried()) {
            self.findings.failed.push(Finding { severity: SEVERE, why: why.clone() });
        }
        self.tell(What::Recovered { yes, took_ms: took.as_secs_f64() * 1e3, why });
        if let (Some((_, probers)), false) = (&self.looking, self.hurried()) {
            let probers = probers.clone();
            let filled =
                looks::filled(&experiment, &probers, self.world.run, |probe| self.judge.counts(probe));
            if let Some(Err(why)) = self.checks(&filled, Once::After, |run| !run.hurried()).await {
                self.findings.failed.push(Finding { severity: SEVERE, why });
            }
        }
    }

    /// Ends the looks, and stops what we started, those that others need last.
    pub(super) async fn stop_services(&mut self) {
        if let Some((looking, _)) = &self.looking {
            looking.stop();
            let limit = self.clock.now() + looks::longest(&self.experiment()) + SETTLING;
            self.turns_until(|run| {
                run.looking.as_ref().is_none_or(|(looking, _)| looking.over()) || run.clock.now() >= limit
            })
            .await;
        }
        let (services, log) = (self.world.services.clone(), self.log.clone());
        let mut stopping = self.workers.spawn(async move { services.stop(log).await });
        let unpaid = loop {
            let until = self.clock.now() + IDLE;
            tokio::select! {
                biased;
                done = &mut stopping => break done.unwrap_or_default(),
                () = self.turn(until) => {}
            }
        };
        for one in unpaid {
            self.not_undone(one);
        }
    }

    /// The judgement, from all that was seen.
    pub(super) fn conclude(&mut self) -> Report {
        let experiment = self.experiment();
        let mut findings: Findings = std::mem::take(&mut self.findings);
        findings.stop.clone_from(&self.stop);
        findings.not_undone = self.unpaid.iter().map(|one| format!("{}: {}", one.fault, one.why)).collect();
        for tally in self.judge.tallies() {
            self.tell(tally);
        }
        if findings.unhealthy.is_none() && self.judging() {
            for (fault, fared) in experiment.faults.iter().zip(&self.fared) {
                match &fared.effect {
                    Some(Effect::Mismatch(figures)) => {
                        findings.open.push(format!("fault `{}` did not take hold: {figures}", fault.name));
                    }
                    None if fared.unmeasured => findings.open.push(format!(
                        "fault `{}` was over before its effect was measured: let it last longer",
                        fault.name
                    )),
                    _ => {}
                }
            }
            for (asked, expected) in experiment.expects.iter().zip(&self.expected) {
                let sentence = format!("expectation `{}`: {}", asked.name, expected.why);
                match expected.met {
                    Some(true) => findings.met += 1,
                    Some(false) => findings.failed.push(Finding { severity: SEVERE, why: sentence }),
                    None => findings.open.push(format!("expectation `{}` was not decided", asked.name)),
                }
            }
            self.judge.conclude(&mut findings).into_iter().for_each(|judged| self.tell(judged));
        }
        let judgement = judge(&findings);
        self.tell(What::Phase { phase: Phase::Over });
        self.tell(What::Ended {
            verdict: judgement.verdict,
            why: judgement.why.clone(),
            exit: judgement.exit,
        });
        Report { judgement, unpaid: std::mem::take(&mut self.unpaid) }
    }
}

fn said(look: &Look) -> &str {
    look.sample.why.as_deref().unwrap_or("it was not good")
}

fn moment(once: Once) -> &'static str {
    match once {
        Once::Before => "before the faults",
        Once::After => "after the faults",
    }
}
