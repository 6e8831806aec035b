//! When a packet is due: how long it waits, whose it is, and not before its elders.

use std::time::Duration;

use super::spread::{Distribution, Drawn};
use super::{LONGEST, Latency};
use crate::base::Dice;
use crate::fault::traffic::paths::times;
use crate::fault::traffic::{Direction, Lanes, Meant, Reach};
use crate::hands::queue::{Fate, Packet};
use crate::host::socket::Protocol;

/// How long packets wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    delay: Duration,
    jitter: Duration,
    distribution: Distribution,
    alike: f64,
}

impl Waits {
    pub(super) fn of(latency: &Latency) -> Self {
        let Latency { delay, jitter, distribution, .. } = *latency;
        Self { delay, jitter, distribution, alike: latency.correlation.share() }
    }

    /// The wait at a standard normal number.
    pub(super) fn at(&self, z: f64) -> Duration {
        let wait = self.delay.as_secs_f64() + self.jitter.as_secs_f64() * self.distribution.at(z);
        Duration::from_secs_f64(wait.clamp(0.0, LONGEST.as_secs_f64()))
    }

    pub(super) fn next(&self, drawn: &mut Drawn) -> Duration {
        if self.jitter.is_zero() { self.delay } else { self.at(drawn.next(self.alike)) }
    }
}

/// Decides when each packet is due. The wait of a packet depends on the seed, on the fault, on which flow it is of and
/// on its number in it.
#[derive(Debug)]
pub(super) struct Pace {
    waits: Waits,
    direction: Direction,
    in_order: bool,
    flows: Lanes<Turn>,
    meant: Meant,
}

/// A flow: its numbers, and when its last packet is due.
#[derive(Debug)]
struct Turn {
    drawn: Drawn,
    last: Duration,
}

impl Pace {
    pub(super) fn new(latency: &Latency, dice: Dice, decision: String, meant: Meant, target: Reach) -> Self {
        Self {
            waits: Waits::of(latency),
            direction: latency.direction,
            in_order: latency.in_order,
            flows: Lanes::new(dice, decision, target),
            meant,
        }
    }

    /// Whether packets fall due in the order in which they come, whatever flow they are of.
    pub(super) fn in_turn(&self) -> bool {
        self.waits.jitter.is_zero() && self.direction != Direction::Both
    }

    /// What becomes of a packet that came now.
    pub(super) fn fate(&mut self, packet: &Packet<'_>, now: Duration) -> Fate {
        let (meant, seen) = self.meant.flow(packet, now);
        if !meant {
            return Fate::Pass;
        }
        let protocol = seen.map_or(Protocol::Udp, |flow| flow.protocol);
        let times = times(self.direction, packet.hook, packet.loopback, protocol);
        if self.waits.jitter.is_zero() {
            return Fate::Hold(now + self.waits.delay * times);
        }
        let begin = |chance| Turn { drawn: Drawn::new(chance), last: Duration::ZERO };
        let turn = self.flows.of(seen, |turn| turn.last <= now, begin);
        let due = (0..times).fold(now, |due, _| due + self.waits.next(&mut turn.drawn));
        if !self.in_order {
            return Fate::Hold(due);
        }
        turn.last = due.max(turn.last);
        Fate::Hold(turn.last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::base::Percent;
    use crate::fault::latency::Engine;
    use crate::hands::rules::Hook;

    fn packet(port: u16) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0x18, 0xeb, 0, 8, 0, 0]);
        bytes
    }

    fn pace(delay: u64, jitter: u64, in_order: bool) -> Pace {
        let latency = Latency {
            delay: Duration::from_micros(delay),
            jitter: Duration::from_micros(jitter),
            distribution: Distribution::Uniform,
            correlation: Percent::from_share(0.0),
            in_order,
            direction: Direction::To,
            engine: Engine::Queue,
            listen: None,
        };
        Pace::new(&latency, Dice::new(1), "pace".to_owned(), Meant::all(), Reach::of_nobody())
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds_and_never_reorders_a_flow(
            delay in 1_u64..50_000, share in 0.0_f64..=1.0, gaps in proptest::collection::vec((0_u64..2_000, 0_u16..4), 1..200),
        ) {
            let jitter = (delay as f64 * share) as u64;
            let (mut pace, mut now) = (pace(delay, jitter, true), Duration::from_secs(1));
            let mut last: HashMap<u16, Duration> = HashMap::new();
            for (gap, port) in gaps {
                now += Duration::from_micros(gap);
                let bytes = packet(port);
                let came = Packet { hook: Hook::Input, loopback: true, shown: &bytes, whole: true, bytes: 28 };
                let Fate::Hold(due) = pace.fate(&came, now) else { panic!("it is held") };
                let (low, high) = (Duration::from_micros(delay - jitter), Duration::from_micros(delay + jitter));
                let turn = last.get(&port).copied().unwrap_or_default();
                prop_assert!(due >= turn, "a packet overtook its elder");
                prop_assert!(due >= now + low && (due <= now + high || due == turn));
                last.insert(port, due);
            }
        }
    }

    #[test]
    fn without_jitter_every_packet_waits_exactly_the_delay_even_one_that_shows_no_flow() {
        let mut pace = pace(100, 0, true);
        for shown in [&packet(1)[..], &[], &[0x45; 10]] {
            let came = Packet { hook: Hook::Input, loopback: false, shown, whole: true, bytes: 28 };
            let now = Duration::from_secs(5);
            assert_eq!(pace.fate(&came, now), Fate::Hold(now + Duration::from_micros(100)));
        }
        assert!(pace.in_turn());
    }

    /// When each of some packets of a flow is due that come together, while others do or do not come between.
    fn dues(pace: &mut Pace, others: bool) -> Vec<Duration> {
        let now = Duration::from_secs(1);
        let mut due = |port| {
            let bytes = packet(port);
            let came = Packet { hook: Hook::Input, loopback: true, shown: &bytes, whole: true, bytes: 28 };
            let Fate::Hold(due) = pace.fate(&came, now) else { panic!("it is held") };
            due
        };
        (0..100)
            .map(|number| {
                let due_then = due(1);
                if others && number > 0 {
                    due(number + 1);
                }
                due_then
            })
            .collect()
    }

    #[test]
    fn a_packets_wait_is_that_of_its_number_in_its_flow_and_may_overtake_where_asked() {
        let free = dues(&mut pace(5000, 4000, false), false);
        assert_eq!(free, dues(&mut pace(5000, 4000, false), true), "others do not change it");
        assert!(!free.is_sorted(), "they overtake one another");
        let mut highest = Duration::ZERO;
        let kept = free.iter().map(|due| {
            highest = highest.max(*due);
            highest
        });
        assert_eq!(
            dues(&mut pace(5000, 4000, true), false),
            kept.collect::<Vec<_>>(),
            "or wait for their elders"
        );
    }
}
