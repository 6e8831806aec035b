//! What benchmarks of probes share: looks on a schedule, a server in a process of its own, and figures.
#![allow(dead_code, reason = "no benchmark needs all of it")]

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use brownout::base::{Clock, Dice, Rate};
use brownout::probe::{AnyProbe, Beats, Look, News, Rhythm, Schedule, Setting, watch};
use brownout::slo::Outcome;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Looks that somebody watches for a while.
pub struct Looks {
    pub probe: AnyProbe,
    pub rate: f64,
    pub length: Duration,
    pub timeout: Duration,
    pub in_flight: u32,
}

impl Looks {
    pub fn new(kind: &str, text: &str, rate: f64, length: Duration) -> Self {
        let probe = AnyProbe::from_toml(kind, text).unwrap();
        Self { probe, rate, length, timeout: Duration::from_secs(1), in_flight: 1000 }
    }

    /// Does them; in the order in which they were intended.
    pub async fn done(&self, clock: Clock) -> Vec<Look> {
        let setting =
            Setting { directory: "/".into(), timeout: self.timeout, facts: false, whom: None, from: None };
        let prober = Arc::new(self.probe.prober(&setting).unwrap());
        let rhythm = Rhythm::even(Rate::per_second(self.rate).unwrap());
        let beats = Beats::begun(rhythm, &Dice::new(1), "p");
        let schedule = Schedule::now(beats, self.timeout.into(), self.in_flight, &clock);
        let (news, mut heard) = tokio::sync::mpsc::channel(4096);
        let until = tokio::time::sleep(self.length);
        let watching = tokio::spawn(watch(0, prober, schedule, clock, news, until));
        let mut looks = Vec::new();
        while let Some(news) = heard.recv().await {
            if let News::Settled(look) = news {
                looks.push(look);
            }
        }
        watching.await.unwrap();
        looks.sort_by_key(|look| look.sample.intended);
        looks
    }
}

/// How many came out so.
pub fn count(looks: &[Look], outcome: Outcome) -> usize {
    looks.iter().filter(|look| look.sample.outcome == outcome).count()
}

/// Times of looks, the shortest first.
pub fn sorted(looks: &[Look], time: impl Fn(&Look) -> Duration) -> Vec<Duration> {
    let mut times: Vec<Duration> = looks.iter().map(time).collect();
    times.sort_unstable();
    times
}

/// A quantile in milliseconds.
pub fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[at].as_secs_f64() * 1e3
}

/// The processor time that we used until now (getrusage(2)).
pub fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
}

/// The load of the last minute.
pub fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().to_owned()
}

/// This program once more, as a server that prints its port; it ends with the benchmark.
pub struct Server(pub Child, pub u16);

impl Server {
    pub fn start(how: &str) -> Self {
        let mut child =
            Command::new(std::env::current_exe().unwrap()).arg(how).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self(child, port.trim().parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A runtime as a run has it for its looks.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
