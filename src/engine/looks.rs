//! The probes of a run: made before the line, looking until they are told to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::run::RunError;
use crate::base::{Clock, Dice, RunId};
use crate::experiment::model::{Once, Probe};
use crate::experiment::{Count, Experiment};
use crate::probe::schedule::{self, Look, News, Schedule};
use crate::probe::{AnyProber, Beats, Canary, Setting, Whom};

/// The probers of an experiment, by their place.
pub(super) type Probers = Vec<Arc<AnyProber>>;

/// Makes all probers: reads files, touches nothing.
pub(super) fn probers(experiment: &Experiment, run: RunId) -> Result<Probers, RunError> {
    let prober = |probe: &Probe| {
        let named = |why| RunError::Probe { probe: probe.name.clone(), why };
        probe.look.prober(&setting(experiment, probe, run)).map(Arc::new).map_err(named)
    };
    experiment.probes.iter().map(prober).collect()
}

fn setting(experiment: &Experiment, probe: &Probe, run: RunId) -> Setting {
    Setting {
        directory: experiment.directory.clone(),
        timeout: probe.timeout,
        facts: false,
        whom: probe.target.clone().map(|target| Whom { target, run: Some(run) }),
        from: probe.from.clone(),
    }
}

/// Probes under way.
#[derive(Debug)]
pub(super) struct Looking {
    stop: watch::Sender<bool>,
    zero: watch::Sender<Option<Duration>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Looking {
    /// Starts all probes that look again and again.
    pub(super) fn start(
        experiment: &Experiment,
        probers: &Probers,
        dice: Dice,
        clock: Clock,
        news: &mpsc::Sender<News>,
        workers: &tokio::runtime::Handle,
        canary: &Canary,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (zero, known) = watch::channel(None);
        let tasks = experiment.probes.iter().enumerate().filter_map(|(n, probe)| {
            let schedule = Schedule {
                beats: Beats::of(probe.rhythm?, &dice, &probe.name),
                zero: known.clone(),
                most: None,
                in_flight: probe.in_flight,
                limits: probe.limits(),
                canary: Some(canary.clone()),
            };
            let (prober, news, mut stopped) = (probers[n].clone(), news.clone(), stopped.clone());
            let until = async move { drop(stopped.wait_for(|stop| *stop).await) };
            Some(workers.spawn(async move { schedule::watch(n, prober, schedule, clock, news, until).await }))
        });
        Self { tasks: tasks.collect(), stop, zero }
    }

    /// t = 0 was then: ramps begin.
    pub(super) fn zero(&self, at: Duration) {
        self.zero.send_replace(Some(at));
    }

    /// No new looks; those under way settle.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether all have settled.
    pub(super) fn over(&self) -> bool {
        self.tasks.iter().all(JoinHandle::is_finished)
    }
}

/// Makes the checks of one moment, one look each.
pub(super) async fn check(
    experiment: Arc<Experiment>,
    probers: Probers,
    once: Once,
    clock: Clock,
) -> Vec<Look> {
    let mut looks = Vec::new();
    for (n, probe) in experiment.probes.iter().enumerate().filter(|(_, probe)| probe.once == Some(once)) {
        looks.push(schedule::look_once(n, &*probers[n], &clock, probe.limits()).await);
    }
    looks
}

/// The probers of checks after a run, with the counts of other probes filled in: `${probe.order.good}`.
pub(super) fn filled(
    experiment: &Experiment,
    probers: &Probers,
    run: RunId,
    counts: impl Fn(usize) -> (u64, u64, u64),
) -> Probers {
    // A name that `each` multiplied stands for all of its probes.
    let all = |name: &str, what: Count| -> u64 {
        let multiplied = format!("{name}.");
        let named = experiment.probes.iter().enumerate();
        let named = named.filter(|(_, probe)| probe.name == name || probe.name.starts_with(&multiplied));
        named
            .map(|(n, _)| match (what, counts(n)) {
                (Count::Good, (good, ..)) => good,
                (Count::Bad, (_, bad, _)) => bad,
                (Count::Total, (.., total)) => total,
            })
            .sum()
    };
    let filled = |probe: &Probe| {
        probe.late.as_ref()?.look(all)?.prober(&setting(experiment, probe, run)).ok().map(Arc::new)
    };
    let with = |(probe, prober): (&Probe, &Arc<AnyProber>)| filled(probe).unwrap_or_else(|| prober.clone());
    experiment.probes.iter().zip(probers).map(with).collect()
}

/// The longest any look may take to settle.
pub(super) fn longest(experiment: &Experiment) -> Duration {
    experiment.probes.iter().map(|probe| probe.timeout).max().unwrap_or_default()
}
