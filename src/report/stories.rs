//! Runs as the engine would tell them, written by hand, for the tests of this room.

use jiff::Timestamp;

use crate::event::{
    Event, Interval, Judged, Judgement, Percentiles, Phase, Plan, PlannedExpectation, PlannedFault,
    PlannedObjective, PlannedProbe, Reason, ServiceState, StopReason, Totals, Verdict, What,
};
use crate::fault::Effect;
use crate::probe::Phases;
use crate::slo::Outcome;
use crate::undo::Tier;

/// An event at a moment of a run that began at a fixed time.
pub(super) fn event(at_ms: f64, what: What) -> Event {
    let began: Timestamp = "2026-03-02T14:02:00Z".parse().unwrap();
    let at_ms = (at_ms * 1e3).round() / 1e3;
    let wall = began + jiff::SignedDuration::from_micros((at_ms * 1e3) as i64);
    Event { at_ms, wall: format!("{wall:.3}"), what }
}

/// A look that ended at a moment: bad when it has a reason.
pub(super) fn look(probe: &str, at_ms: f64, why: Option<&str>) -> Event {
    slow_look(probe, at_ms, 4.0 + (at_ms / 50.0) % 5.0, why)
}

fn slow_look(probe: &str, at_ms: f64, latency_ms: f64, why: Option<&str>) -> Event {
    event(
        at_ms,
        What::Sample {
            probe: probe.to_owned(),
            intended_ms: at_ms - latency_ms,
            outcome: if why.is_some() { Outcome::Bad } else { Outcome::Good },
            latency_ms,
            slip_ms: 0.1,
            why: why.map(str::to_owned),
            retried: Vec::new(),
            phases: Phases::default(),
            steps: Vec::new(),
        },
    )
}

fn words(text: &str) -> String {
    text.to_owned()
}

fn began() -> What {
    What::Began {
        run: words("53c51b72"),
        title: words("Orders survive a slow Redis and a Postgres crash"),
        file: words("orders.toml"),
        file_hash: words("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
        seed: 42,
        user: words("root"),
        sudo_user: Some(words("ann")),
        host: words("app-07"),
        version: words("0.1.0"),
    }
}

fn plan() -> Plan {
    let objective = |name: &str, promise: &str, tolerated, below_ms, during: Option<&str>| PlannedObjective {
        below_ms,
        name: words(name),
        probe: words("order"),
        promise: words(promise),
        tolerated,
        during: during.map(words),
    };
    Plan {
        hypothesis: Some(words("Orders fail for at most 10 s after a database crash")),
        owner: Some(words("orders")),
        tags: vec![words("ci")],
        steady_for_ms: 10_000.0,
        recovery_within_ms: 30_000.0,
        max_duration_ms: None,
        faults: vec![
            PlannedFault {
                name: words("slow-redis"),
                kind: words("latency"),
                harm: words("adds 200 ms to traffic of process 412 towards 127.0.0.1:6379"),
                at: words("0 s"),
                begins_ms: Some(0.0),
                hold_ms: Some(20_000.0),
                times: 1,
                tier: Tier::Kernel,
                mechanism: Some(words("packet queue")),
            },
            PlannedFault {
                name: words("crash-pg"),
                kind: words("kill"),
                harm: words("sends SIGKILL to process 388"),
                at: words("slow-redis.end + 5 s"),
                begins_ms: Some(25_000.0),
                hold_ms: None,
                times: 1,
                tier: Tier::Kernel,
                mechanism: None,
            },
        ],
        probes: vec![
            PlannedProbe {
                name: words("order"),
                kind: words("http"),
                looks_at: words("POST http://127.0.0.1:8080/orders"),
                rate: Some(20.0),
                rhythm: Some(words("20/s")),
                retries: 0,
                observe_only: false,
            },
            PlannedProbe {
                name: words("alert"),
                kind: words("http"),
                looks_at: words("http://127.0.0.1:9093/alerts"),
                rate: Some(0.5),
                rhythm: Some(words("30/m")),
                retries: 2,
                observe_only: true,
            },
        ],
        objectives: vec![
            objective("order availability 99%", "availability 99%", Some(0.01), None, None),
            objective("order p95 below 300 ms", "p95 below 300 ms", Some(0.05), Some(300.0), None),
            objective(
                "order no outage longer than 10 s",
                "no outage longer than 10 s",
                None,
                None,
                Some("crash-pg"),
            ),
        ],
        expectations: vec![PlannedExpectation {
            name: words("monitoring-sees-it"),
            wants: words("probe alert good within 2 m of crash-pg.begin"),
        }],
    }
}

fn totals(good: u64, bad: u64, p50: f64, outage: f64, why: &str) -> Totals {
    let reason = Reason { why: words(why), count: bad };
    Totals {
        good,
        bad,
        missed: 0,
        good_after_retry: 0,
        latency: (good + bad > 0).then_some(Percentiles {
            p50_ms: p50,
            p95_ms: p50 * 1.5,
            p99_ms: p50 * 1.8,
            p999_ms: p50 * 2.5,
            max_ms: p50 * 3.0,
        }),
        slip_p50_ms: 0.1,
        slip_p99_ms: 0.4,
        slip_max_ms: 1.5,
        longest_outage_ms: outage,
        reasons: if bad > 0 { vec![reason] } else { Vec::new() },
    }
}

/// Events one after another.
struct Tape {
    events: Vec<Event>,
    now: f64,
}

impl Tape {
    fn new() -> Self {
        Self { events: Vec::new(), now: 0.0 }
    }

    fn say(&mut self, after_ms: f64, what: What) {
        self.now += after_ms;
        self.events.push(event(self.now, what));
    }

    fn phase(&mut self, phase: Phase) {
        self.say(0.1, What::Phase { phase });
    }

    /// Looks at 20/s, and the budget once a second, for so long.
    fn looks(&mut self, seconds: f64, latency_ms: f64, bad: Option<&str>) {
        let until = self.now + seconds * 1e3;
        let mut n = 0_u32;
        while self.now + 50.0 <= until {
            n += 1;
            self.now += 50.0;
            let wobble = f64::from(n % 7) * latency_ms / 20.0;
            self.events.push(slow_look("order", self.now, latency_ms + wobble, bad));
        }
        self.now = until;
    }

    fn budget(&mut self, objective: &str, spent_s: f64, one_in: f64) {
        let what = What::Budget { objective: words(objective), spent_s, budget_s: 20.0, one_in };
        self.say(0.0, what);
    }

    fn opening(&mut self) {
        self.say(0.0, began());
        self.phase(Phase::Preflight);
        self.say(35.0, What::Planned { plan: plan() });
        self.phase(Phase::Steady);
        let service = |name: &str, state, detail: &str| What::Service {
            name: words(name),
            state,
            detail: words(detail),
        };
        self.say(3.0, service("redis", ServiceState::Started, "process 371"));
        self.say(160.0, service("redis", ServiceState::Ready, ""));
        self.looks(10.0, 4.0, None);
    }

    fn steady(&mut self) {
        let why = words("every objective held over 10 s: 200 looks of order, none bad, none missed");
        self.say(1.0, What::Steady { yes: true, why });
        let steady = totals(200, 0, 4.4, 0.0, "");
        self.say(0.0, What::Tally { probe: words("order"), phase: Phase::Steady, totals: steady });
        self.phase(Phase::Faults);
        self.say(0.0, What::Zero);
    }

    fn slow_redis(&mut self) {
        self.say(
            0.5,
            What::Injecting {
                fault: words("slow-redis"),
                kind: words("latency"),
                harm: words("adds 200 ms to traffic of process 412 towards 127.0.0.1:6379"),
                tier: Tier::Kernel,
                mechanism: Some(words("packet queue")),
            },
        );
        let effect = Effect::Confirmed(words("asked 200 ms, measured 200.2 ms"));
        let until_ms = Some(self.now + 412.0 + 20_000.0);
        self.say(412.0, What::Live { fault: words("slow-redis"), effect, until_ms });
    }

    fn crash_pg(&mut self, effect: Effect) {
        self.say(
            0.5,
            What::Injecting {
                fault: words("crash-pg"),
                kind: words("kill"),
                harm: words("sends SIGKILL to process 388"),
                tier: Tier::Kernel,
                mechanism: None,
            },
        );
        self.say(1.2, What::Live { fault: words("crash-pg"), effect, until_ms: None });
        self.say(0.1, What::Undone { fault: words("crash-pg"), took_ms: 0.05 });
    }

    fn undone(&mut self, fault: &str) {
        self.say(1.4, What::Undone { fault: words(fault), took_ms: 1.4 });
    }

    fn tally(&mut self, phase: Phase, totals: Totals) {
        self.say(0.0, What::Tally { probe: words("order"), phase, totals });
    }

    fn judge(&mut self, objective: &str, judgement: Judgement, why: &str, looks: u64, bad: u64) {
        let rate = bad as f64 / looks.max(1) as f64;
        let interval =
            (looks > 0).then_some(Interval { low: rate * 0.7, high: rate * 1.4 + 0.005, level: 0.99 });
        let judged = Judged { objective: words(objective), judgement, why: words(why), looks, bad, interval };
        self.say(0.0, What::Judged { judged });
    }

    fn recovered(&mut self, yes: bool, took_ms: f64, why: &str) {
        self.say(0.0, What::Recovered { yes, took_ms, why: words(why) });
    }

    fn end(&mut self, verdict: Verdict, why: &str, exit: u8) -> Vec<Event> {
        self.phase(Phase::Over);
        self.say(0.2, What::Ended { verdict, why: words(why), exit });
        std::mem::take(&mut self.events)
    }
}

/// Both faults as planned; the availability promise is broken.
pub(super) fn broken_promise() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    tape.steady();
    tape.slow_redis();
    tape.looks(20.0, 210.0, None);
    tape.budget("order availability 99%", 0.0, 1.0);
    tape.undone("slow-redis");
    tape.looks(5.0, 4.0, None);
    tape.crash_pg(Effect::Confirmed(words("process 388 has ended")));
    let refused = "status 503, expected 2xx";
    tape.looks(6.2, 3.0, Some(refused));
    tape.budget("order availability 99%", 6.2, 340.0);
    tape.budget("order p95 below 300 ms", 6.2, 1.8);
    let who = words("ann");
    tape.say(10.0, What::Note { who, text: words("pager went off | on my phone") });
    tape.looks(3.0, 4.0, None);
    let why = words("probe alert was good 8.1 s after crash-pg.begin");
    tape.say(0.0, What::Expectation { name: words("monitoring-sees-it"), met: true, why });
    tape.phase(Phase::Unwind);
    tape.tally(Phase::Faults, totals(562, 124, 7.2, 6_200.0, refused));
    tape.phase(Phase::Recovery);
    tape.looks(10.0, 4.0, None);
    tape.tally(Phase::Recovery, totals(200, 0, 4.3, 0.0, ""));
    let lost = "124 of 686 looks were bad, 6 were allowed";
    tape.judge("order availability 99%", Judgement::Failed, lost, 686, 124);
    let slow = "124 of 686 looks were slower or bad, 34 were allowed";
    tape.judge("order p95 below 300 ms", Judgement::Failed, slow, 686, 124);
    let outage = "the longest outage was 6.2 s, 10 s were allowed";
    tape.judge("order no outage longer than 10 s", Judgement::Passed, outage, 184, 124);
    tape.recovered(true, 3_010.0, "steady again 3.01 s after the last undo, for 10 s");
    tape.end(
        Verdict::Failed,
        "2 of 3 objectives were broken: order availability 99%: 124 of 686 looks were bad, 6 were allowed",
        1,
    )
}

/// Every promise is kept.
pub(super) fn kept_promise() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    tape.steady();
    tape.slow_redis();
    tape.looks(20.0, 210.0, None);
    tape.budget("order availability 99%", 0.0, 1.0);
    tape.undone("slow-redis");
    tape.looks(5.0, 4.0, None);
    tape.crash_pg(Effect::Confirmed(words("process 388 has ended")));
    tape.looks(5.0, 4.0, None);
    tape.phase(Phase::Unwind);
    tape.tally(Phase::Faults, totals(608, 0, 7.2, 0.0, ""));
    tape.phase(Phase::Recovery);
    tape.looks(10.0, 4.0, None);
    tape.tally(Phase::Recovery, totals(200, 0, 4.3, 0.0, ""));
    let kept = "0 of 608 looks were bad, 6 were allowed";
    tape.judge("order availability 99%", Judgement::Passed, kept, 608, 0);
    tape.recovered(true, 0.0, "steady from the last undo on, for 10 s");
    tape.end(Verdict::Passed, "1 objective held, everything is undone", 0)
}

/// The guard stops it in the first fault.
pub(super) fn guard_abort() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    tape.steady();
    tape.slow_redis();
    tape.looks(1.0, 210.0, None);
    tape.looks(14.0, 1_000.0, Some("no answer within 1 s"));
    tape.budget("order availability 99%", 14.0, 1e6);
    let why = "order availability 99% would have spent 20 s of its 20 s bad seconds by the time everything is undone";
    tape.say(0.3, What::Stopping { because: StopReason::Guard, why: words(why) });
    tape.undone("slow-redis");
    tape.phase(Phase::Unwind);
    tape.tally(Phase::Faults, totals(28, 280, 990.0, 14_000.0, "no answer within 1 s"));
    tape.phase(Phase::Recovery);
    tape.looks(10.0, 4.0, None);
    tape.judge(
        "order availability 99%",
        Judgement::Failed,
        "280 of 308 looks were bad, 3 were allowed",
        308,
        280,
    );
    tape.recovered(true, 40.0, "steady again 40 ms after the last undo, for 10 s");
    tape.end(Verdict::Aborted, why, 3)
}

/// The first fault cannot be undone.
pub(super) fn not_undone() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    tape.steady();
    tape.slow_redis();
    tape.looks(20.0, 210.0, None);
    let not = What::NotUndone {
        fault: words("slow-redis"),
        why: words("nft: Operation not permitted, after 3 tries"),
        by_hand: words("nft delete table inet brownout_53c51b72"),
    };
    tape.say(3_000.0, not);
    tape.phase(Phase::Unwind);
    tape.recovered(false, 0.0, "p95 of order stayed above 300 ms for 30 s");
    tape.end(Verdict::NotUndone, "slow-redis is not undone", 5)
}

/// The second fault does not take hold.
pub(super) fn inconclusive() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    tape.steady();
    tape.slow_redis();
    tape.looks(20.0, 210.0, None);
    tape.undone("slow-redis");
    tape.crash_pg(Effect::Mismatch(words("process 388 still lives, as a zombie")));
    tape.phase(Phase::Unwind);
    tape.tally(Phase::Faults, Totals { missed: 9, good_after_retry: 3, ..totals(400, 0, 211.0, 0.0, "") });
    let few = "too few looks: 400, where 407 would have sufficed";
    tape.judge("order availability 99%", Judgement::Inconclusive, few, 400, 0);
    tape.recovered(true, 0.0, "steady from the last undo on, for 10 s");
    let why = "crash-pg did not take hold: process 388 still lives, as a zombie";
    tape.end(Verdict::Inconclusive, why, 4)
}

/// The system was unhealthy beforehand.
pub(super) fn unhealthy_before() -> Vec<Event> {
    let mut tape = Tape::new();
    tape.opening();
    let why = "order availability 99%: 31 of 200 looks were bad, 2 were allowed";
    tape.say(1.0, What::Steady { yes: false, why: words(why) });
    tape.tally(Phase::Steady, totals(169, 31, 4.4, 800.0, "status 502, expected 2xx"));
    tape.end(Verdict::Refused, "the system was not steady beforehand, so nothing was hurt", 6)
}

/// The runner was killed in the middle: the journal just ends.
pub(super) fn killed() -> Vec<Event> {
    let mut events = broken_promise();
    let undone = |event: &Event| matches!(&event.what, What::Undone { .. });
    let end = events.iter().position(undone).unwrap();
    events.truncate(end);
    events
}

/// A small disk of the test's own; `None`, said loudly, without the right to mount one.
pub(super) fn small_disk() -> Option<SmallDisk> {
    use nix::mount::{MsFlags, mount};
    let place = tempfile::tempdir().unwrap();
    let mounted =
        mount(Some("brownout-test"), place.path(), Some("tmpfs"), MsFlags::empty(), Some("size=1m"));
    if let Err(why) = mounted {
        assert_ne!(std::env::var("BROWNOUT_TESTS_REQUIRE").as_deref(), Ok("all"), "cannot mount: {why}");
        eprintln!("SKIPPED: a small disk cannot be mounted: {why}");
        return None;
    }
    Some(SmallDisk(place))
}

/// Unmounted when dropped.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(super) fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}
