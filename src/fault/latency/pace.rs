//! When a packet is due: how long it waits, whose it is, and never before its elders.

use std::collections::HashMap;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::fault::traffic::paths::times;
use crate::fault::traffic::{Direction, MOST_FLOWS, Meant};
use crate::hands::flow::Flow;
use crate::hands::queue::{Fate, Packet};
use crate::host::socket::Protocol;

/// Decides when each packet is due.
#[derive(Debug)]
pub(super) struct Pace {
    delay: Duration,
    jitter: Duration,
    direction: Direction,
    chance: ChaCha8Rng,
    /// When the last packet of each flow is due; kept only with jitter.
    turns: HashMap<Flow, Duration>,
    meant: Meant,
}

impl Pace {
    pub(super) fn new(
        (delay, jitter): (Duration, Duration),
        direction: Direction,
        chance: ChaCha8Rng,
        meant: Meant,
    ) -> Self {
        Self { delay, jitter, direction, chance, turns: HashMap::new(), meant }
    }

    /// Whether packets fall due in the order in which they come, whatever flow they are of.
    pub(super) fn in_turn(&self) -> bool {
        self.jitter.is_zero() && self.direction != Direction::Both
    }

    /// What becomes of a packet that came now.
    pub(super) fn fate(&mut self, packet: &Packet<'_>, now: Duration) -> Fate {
        let (meant, seen) = self.meant.flow(packet, now);
        if !meant {
            return Fate::Pass;
        }
        let protocol = seen.map_or(Protocol::Udp, |flow| flow.protocol);
        let mut wait = Duration::ZERO;
        for _ in 0..times(self.direction, packet.hook, packet.loopback, protocol) {
            wait += self.one_wait();
        }
        let due = now + wait;
        match seen {
            Some(flow) if !self.jitter.is_zero() => Fate::Hold(self.after_its_elders(flow, due, now)),
            _ => Fate::Hold(due),
        }
    }

    /// Uniform over `delay` plus and minus `jitter`.
    pub(super) fn one_wait(&mut self) -> Duration {
        if self.jitter.is_zero() {
            return self.delay;
        }
        let low = self.delay.saturating_sub(self.jitter);
        low + (self.jitter * 2).mul_f64(self.chance.random::<f64>())
    }

    fn after_its_elders(&mut self, flow: Flow, due: Duration, now: Duration) -> Duration {
        if self.turns.len() >= MOST_FLOWS {
            self.turns.retain(|_, last| *last > now);
            if self.turns.len() >= MOST_FLOWS {
                self.turns.clear();
            }
        }
        let last = self.turns.entry(flow).or_default();
        *last = due.max(*last);
        *last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::Dice;
    use crate::hands::rules::Hook;

    fn packet(port: u16) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0x18, 0xeb, 0, 8, 0, 0]);
        bytes
    }

    fn pace(delay: u64, jitter: u64) -> Pace {
        let times = (Duration::from_micros(delay), Duration::from_micros(jitter));
        Pace::new(times, Direction::To, Dice::new(1).stream("pace"), Meant::all())
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds_and_never_reorders_a_flow(
            delay in 1_u64..50_000, share in 0.0_f64..=1.0, gaps in proptest::collection::vec((0_u64..2_000, 0_u16..4), 1..200),
        ) {
            let jitter = (delay as f64 * share) as u64;
            let (mut pace, mut now) = (pace(delay, jitter), Duration::from_secs(1));
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
        let mut pace = pace(100, 0);
        for shown in [&packet(1)[..], &[], &[0x45; 10]] {
            let came = Packet { hook: Hook::Input, loopback: false, shown, whole: true, bytes: 28 };
            let now = Duration::from_secs(5);
            assert_eq!(pace.fate(&came, now), Fate::Hold(now + Duration::from_micros(100)));
        }
        assert!(pace.in_turn());
    }
}
