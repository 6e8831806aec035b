//! Which packets are hit: by chance, each alone, in bursts, or alike with the one before; and the same ones for the same
//! seed.
//!
//! A flow is in one of two states, and each packet may change it (Gilbert 1960, Elliott 1963: "Capacity of a Burst-Noise
//! Channel", "Estimates of Error Rates for Codes on Burst-Noise Channels"). With `enter` and `leave` the chances to
//! change it, the share of packets met in the bad state is enter / (enter + leave), a stay in it lasts 1 / leave packets
//! in the mean, and the states of packets that follow one another correlate by 1 - enter - leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::{Effect, Refusal, Site};
use super::Reach;
use super::lanes::Lanes;
use crate::base::{Dice, Percent};
use crate::file::{Mistakes, Node, Read, Value};
use crate::hands::flow::Flow;

/// The mean length of a burst, in packets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst(pub f64);

impl Read for Burst {
    const NAME: &'static str = "number of packets";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let number = match &node.value {
            Value::Text(text) => {
                text.trim().strip_suffix("packets").and_then(|text| text.trim().parse().ok())
            }
            _ => None,
        };
        if let Some(number) = number.filter(|number| (1.0..=1e6).contains(number)) {
            return Some(Self(number));
        }
        mistakes.error(
            node.place,
            "it is not a number of packets from 1 to 1000000",
            "such as \"5 packets\"",
        );
        None
    }

    fn schema() -> serde_json::Value {
        serde_json::json!({"type": "string", "pattern": r"^\s*[0-9.]+\s*packets\s*$"})
    }
}

/// How likely each packet is hit.
#[derive(Debug, Clone, Copy)]
pub(in crate::fault) struct Odds {
    /// Chance of the good state to become bad, and of the bad one to become good.
    enter: f64,
    leave: f64,
    /// Chance to be hit in the bad state, and in the good one.
    bad: f64,
    good: f64,
    /// The share that is hit.
    share: f64,
}

/// What a file says of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::fault) struct Said {
    /// The share that is hit.
    pub percent: Percent,
    /// The mean length of a burst.
    pub burst: Option<Burst>,
    /// How much a packet's fate is like that of the one before.
    pub correlation: Option<Percent>,
    /// The share hit within a burst, and between bursts.
    pub bad: f64,
    /// See above.
    pub good: f64,
}

impl Odds {
    /// Works out the chances, and says what cannot be.
    pub(in crate::fault) fn of(site: &Site, said: Said) -> Result<Self, Refusal> {
        let Said { burst, correlation, bad, good, .. } = said;
        let share = said.percent.share();
        let refuse = |why: &str, remedy: &str| Err(site.refuse(why.to_owned(), remedy));
        if share <= 0.0 {
            return refuse("0 % of packets is none", "ask for a `percent` above 0 %");
        }
        if burst.is_some() && correlation.is_some() {
            return refuse(
                "`burst` and `correlation` both say how hits come together",
                "leave one of them out",
            );
        }
        if !(good <= share && share <= bad) || good >= bad {
            return refuse(
                "`percent` is the mean of `in_burst` and `between`, and not between the two",
                "raise `in_burst`, or lower `between`",
            );
        }
        let met = (share - good) / (bad - good);
        let (enter, leave) = match (burst, correlation) {
            (Some(Burst(length)), _) if met < 1.0 => (met / (length * (1.0 - met)), 1.0 / length),
            (_, Some(alike)) => ((1.0 - alike.share()) * met, (1.0 - alike.share()) * (1.0 - met)),
            _ => (met, 1.0 - met),
        };
        if enter > 1.0 {
            return refuse(
                "bursts so short leave no room between them for what is spared",
                "ask for longer bursts, or for less",
            );
        }
        if correlation.is_some_and(|alike| alike.share() >= 1.0) {
            return refuse("a correlation of 100 % means that nothing ever changes", "ask for less");
        }
        Ok(Self { enter, leave, bad, good, share })
    }

    /// How much the fates of packets that follow one another have in common.
    fn alike(&self) -> f64 {
        let met = self.enter / (self.enter + self.leave);
        let of_states = 1.0 - self.enter - self.leave;
        let spread = (self.bad - self.good).powi(2) * met * (1.0 - met);
        let whole = self.share * (1.0 - self.share);
        if whole > 0.0 { of_states * spread / whole } else { 0.0 }
    }

    /// Whether so many hits of so many packets are what was asked: within 99.9 % of what chance does, by the normal
    /// approximation of the binomial distribution, wider where packets share their fate. What is too few to tell is said.
    pub(in crate::fault) fn judged(&self, seen: u64, hits: u64, what: &str) -> Effect {
        const SIGMAS: f64 = 3.29;
        let (n, k) = (seen as f64, hits as f64);
        let percent = |share: f64| (share * 10_000.0).round() / 100.0;
        let asked = percent(self.share);
        if seen == 0 {
            return Effect::Unverifiable(format!("asked {asked} % {what}, no traffic to it came by"));
        }
        let figures = format!("asked {asked} % {what}, {hits} of {seen} packets were ({} %)", percent(k / n));
        let alike = self.alike().max(0.0);
        let widen = if alike < 1.0 { (1.0 + alike) / (1.0 - alike) } else { n };
        let spread = SIGMAS * (n * self.share * (1.0 - self.share) * widen).sqrt();
        if (k - n * self.share).abs() > spread + 1.0 {
            Effect::Mismatch(figures)
        } else if hits == 0 {
            Effect::Unverifiable(format!("{figures}: too few to tell"))
        } else {
            Effect::Confirmed(figures)
        }
    }
}

/// How many packets were judged.
#[derive(Debug, Clone, Default)]
pub(in crate::fault) struct Seen(Arc<AtomicU64>);

impl Seen {
    /// So many.
    pub(in crate::fault) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Decides packet by packet. The fate of a packet depends on the seed, on the fault, on which flow it is of and on its
/// number in it, and on nothing else.
#[derive(Debug)]
pub(in crate::fault) struct Fates {
    odds: Odds,
    flows: Lanes<State>,
    seen: Seen,
}

#[derive(Debug)]
struct State {
    chance: ChaCha8Rng,
    bad: bool,
}

impl Fates {
    pub(in crate::fault) fn new(odds: Odds, dice: Dice, decision: String, target: Reach) -> Self {
        let flows = Lanes::new(dice, decision, target);
        Self { odds, flows, seen: Seen::default() }
    }

    pub(in crate::fault) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Whether the next packet of a flow is hit; its own chance for whatever else is to be drawn, if so.
    pub(in crate::fault) fn hit(&mut self, flow: Option<Flow>) -> Option<&mut ChaCha8Rng> {
        self.seen.0.fetch_add(1, Ordering::Relaxed);
        let odds = &self.odds;
        let begin = |mut chance: ChaCha8Rng| {
            let bad = chance.random::<f64>() * (odds.enter + odds.leave) < odds.enter;
            State { chance, bad }
        };
        let state = self.flows.of(flow, |_| true, begin);
        // Always two draws a packet, whatever they decide, and the state after them is the next packet's.
        let (hit, change) = (state.chance.random::<f64>(), state.chance.random::<f64>());
        let hit = hit < if state.bad { odds.bad } else { odds.good };
        state.bad = if state.bad { change >= odds.leave } else { change < odds.enter };
        hit.then_some(&mut state.chance)
    }
}
