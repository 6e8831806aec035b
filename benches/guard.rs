//! What judging costs: nanoseconds a sample with ten objectives on one probe. `cargo bench --bench guard`

use std::hint::black_box;
use std::time::{Duration, Instant};

use brownout::base::Dice;
use brownout::slo::{
    Guard, GuardSettings, Objective, Outcome, Promise, Sample, Score, Steady, Tally, Watched, rehearse,
};

const RATE: u64 = 1_000;
const LOOKS: u64 = 300 * RATE;
/// Looks under way at any time: each takes as long as so many later ones need to begin.
const UNDER_WAY: u64 = 200;

fn objectives() -> Vec<Objective> {
    (0..10)
        .map(|n| {
            let promise = match n {
                0..5 => Promise::Ratio { p0: 0.01, below: None },
                5..8 => Promise::Ratio { p0: 0.05, below: Some(Duration::from_millis(300)) },
                _ => Promise::Outage { longest: Duration::from_secs(10) },
            };
            Objective { name: format!("objective {n}"), probe: 0, promise }
        })
        .collect()
}

/// Feeds a whole run, one look in 500 bad, and prints what one look cost.
fn measure(what: &str, mut begun: impl FnMut(Duration), mut settled: impl FnMut(&Sample)) {
    let moment = |look: u64| Duration::from_nanos(look * 1_000_000_000 / RATE);
    let from = Instant::now();
    for look in 0..LOOKS + UNDER_WAY {
        if look < LOOKS {
            begun(moment(look));
        }
        if let Some(look) = look.checked_sub(UNDER_WAY) {
            let outcome = if look % 500 == 0 { Outcome::Bad } else { Outcome::Good };
            let intended = moment(look);
            settled(&Sample {
                intended,
                started: intended,
                ended: moment(look + UNDER_WAY),
                outcome,
                why: None,
            });
        }
    }
    println!("{what}: {} ns a sample", from.elapsed().as_nanos() / u128::from(LOOKS));
}

fn main() {
    let settings = GuardSettings {
        alpha: 0.01,
        planned: Duration::from_mins(5),
        undo: Duration::from_secs(2),
        tick: Duration::from_millis(1),
        slice: Duration::from_secs(5),
    };
    let watched = objectives().into_iter().map(|objective| Watched {
        objective,
        rate: RATE as f64,
        budget_looks: 1e9,
        start: Duration::ZERO,
    });
    let guard = std::cell::RefCell::new(Guard::new(settings, watched.collect()));
    measure(
        "guard, ten objectives, judged after every sample",
        |at| (0..10).for_each(|objective| guard.borrow_mut().begun(objective, at)),
        |sample| {
            let mut guard = guard.borrow_mut();
            (0..10).for_each(|objective| guard.settled(objective, sample));
            black_box(guard.judge(sample.ended));
        },
    );

    let one =
        Watched { objective: objectives().remove(0), rate: 10.0, budget_looks: 60.0, start: Duration::ZERO };
    let from = Instant::now();
    let foretold = rehearse(&settings, &one, 1, 100, Dice::new(1));
    println!("rehearsal of 200 runs of 3,000 looks: {} us: {foretold:?}", from.elapsed().as_micros());

    let rated: Vec<_> = objectives().into_iter().map(|objective| (objective, RATE as f64)).collect();
    // Nothing recovers within no time, so it goes on looking.
    let steady = std::cell::RefCell::new(Steady::new(&rated, Duration::from_secs(400), Duration::ZERO, None));
    measure(
        "steady, ten objectives, judged after every sample",
        |at| steady.borrow_mut().begun(0, at),
        |sample| {
            let mut steady = steady.borrow_mut();
            steady.settled(0, sample);
            black_box(steady.judge(sample.ended));
        },
    );

    let tally = std::cell::RefCell::new(Tally::new());
    measure("tally", |at| tally.borrow_mut().begun(at), |sample| tally.borrow_mut().settled(sample));

    let scores = std::cell::RefCell::new(objectives().into_iter().map(Score::new).collect::<Vec<_>>());
    measure(
        "scores, ten objectives",
        |at| scores.borrow_mut().iter_mut().for_each(|score| score.begun(at)),
        |sample| scores.borrow_mut().iter_mut().for_each(|score| score.settled(sample)),
    );
}
