//! `bandwidth`: a thin line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::traffic::{Direction, Nearby, Queued, between, clients, is_here, paths};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::clock::since_boot;
use crate::base::unit::say;
use crate::base::{Bitrate, Bytes};
use crate::hands::hold::Hold;
use crate::hands::queue::{Fate, Manner, Packet};
use crate::host::rights::Rights;
use crate::undo::Tier;

crate::kind! {
    /// Lets traffic through at a rate, as a thin or a crowded line does, TCP and UDP, existing connections included.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. What comes faster waits its turn, in order; what would wait longer than `queue` for its
    /// turn is lost, as in any router. Bytes are counted with their IP headers. Each way has the rate for itself.
    ///
    /// Large segments are cut up as they go over a wire, up to 500 Mbit/s; above that they count and wait in one piece.
    pub struct Bandwidth("bandwidth") {
        /// So much goes through: `"10Mbit/s"`, `"500kbit/s"`, or in bytes `"2MB/s"`.
        rate: Bitrate = required,
        /// So much may go at once after a silence.
        burst: Bytes = "32KiB",
        /// The longest a packet waits for its turn; beyond it is lost.
        queue: Duration = "200ms",
        /// `to` the target, `from` it, or `both`.
        direction: Direction = "both",
    }
}

/// Below this a kilobyte takes a second; above it the packet queue is slower than what is asked.
const SLOWEST: f64 = 8e3;
const FASTEST: f64 = 40e9;
/// Above this, cutting large segments up would cost more than it shows.
const CUT_UP: f64 = 500e6;
/// How long the rate is measured.
const MEASURING: Duration = Duration::from_secs(1);

/// One way of the line: when all that was let in will have gone through (a virtual clock; ITU-T I.371, annex A, the
/// generic cell rate algorithm).
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    clear: Duration,
}

impl Line {
    /// What becomes of a packet of so many bytes.
    fn fate(&mut self, bytes: u32, now: Duration, asked: &Bandwidth) -> Fate {
        let turn = self.clear.max(now);
        let burst = asked.rate.takes(asked.burst.0);
        // It waits for those before it; its own bytes go through behind it, within the burst.
        if turn.saturating_sub(now) > asked.queue.saturating_add(burst) {
            return Fate::Drop;
        }
        self.clear = turn + asked.rate.takes(u64::from(bytes));
        let due = self.clear.saturating_sub(burst);
        if due <= now { Fate::Pass } else { Fate::Hold(due) }
    }
}

/// Bytes let in, both ways.
#[derive(Debug, Clone, Default)]
struct LetIn(Arc<AtomicU64>);

impl Fault for Bandwidth {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.thin-line.bandwidth]
to   = { address = "10.0.0.7" }
rate = "10Mbit/s"
at   = "5s"
for  = "30s"
"#;

    fn ability(_: &Rights) -> Ability {
        Queued::ability()
    }

    async fn survey(&self, site: &Site) -> Result<Queued, Refusal> {
        if !(SLOWEST..=FASTEST).contains(&self.rate.bits()) {
            let why = format!("a rate of {} is no line", self.rate);
            return Err(site.refuse(why, "ask for 8kbit/s to 40Gbit/s; `partition` lets nothing through"));
        }
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        if let Some(nearby) = Nearby::begin(&owed.reach).await {
            held.hold(nearby);
        }
        let traffic = paths::going(self.direction, owed.reach.endpoints(), is_here(site), &clients(site));
        let (mut meant, target, asked) = (owed.reach.meant(site)?, owed.reach.clone(), self.clone());
        let (let_in, mut lines) = (LetIn::default(), [Line::default(); 2]);
        held.hold(let_in.clone());
        let judge = Box::new(move |packet: &Packet<'_>, now| {
            let (meant, flow) = meant.flow(packet, now);
            if !meant {
                return Fate::Pass;
            }
            let back = !target.is_to(packet, flow);
            let fate = lines[usize::from(back)].fate(packet.bytes, now, &asked);
            if fate != Fate::Drop {
                let_in.0.fetch_add(u64::from(packet.bytes), Ordering::Relaxed);
            }
            fate
        });
        let manner = if self.rate.bits() <= CUT_UP { Manner::each() } else { Manner::bulk(false) };
        held.hold(owed.feed.hold(site, &owed.reach, &traffic, manner, judge)?);
        Ok(())
    }

    async fn verify(&self, _: &Site, _: &Queued, held: &Held) -> Effect {
        let (Some(hold), Some(LetIn(bytes))) = (held.get::<Hold>(), held.get::<LetIn>()) else {
            return Effect::Unverifiable("nothing is held".to_owned());
        };
        let (begun, before) = (since_boot(), bytes.load(Ordering::Relaxed));
        tokio::time::sleep(MEASURING).await;
        let took = since_boot().saturating_sub(begun);
        let seen = bytes.load(Ordering::Relaxed) - before;
        let (waited, lost) = (hold.tally().held(), hold.tally().dropped());
        let ways = if self.direction == Direction::Both { 2.0 } else { 1.0 };
        let figures = format!(
            "asked {}{}, {} went through in {}; {waited} packets waited for {} (median), {lost} were lost",
            self.rate,
            if ways > 1.0 { " each way" } else { "" },
            Bitrate::of(seen, took),
            say(took),
            hold.tally().median().map_or_else(|| "no time".to_owned(), say),
        );
        // What waits is let in before it goes through, at most `queue` and `burst` too early.
        let spare = self.rate.takes(self.burst.0) + self.queue;
        let most = ways * self.rate.bits() / 8.0 * (took + spare).as_secs_f64() * 1.05 + 65_536.0;
        if seen as f64 > most {
            Effect::Mismatch(figures)
        } else if waited + lost == 0 {
            Effect::Unverifiable(format!("{figures}: there was never more than the line bears"))
        } else {
            Effect::Confirmed(figures)
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let ways = if self.direction == Direction::Both { ", each way" } else { "" };
        format!("lets traffic {} {whom} through at {}{ways}{only}", self.direction.said(), self.rate)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(rate: &str, burst: u64, queue: u64) -> Bandwidth {
        Bandwidth {
            rate: rate.parse().unwrap(),
            burst: Bytes(burst),
            queue: Duration::from_millis(queue),
            direction: Direction::Both,
        }
    }

    /// Packets of a size, so far apart, for so long: bytes let through, when the last is through, and how many are lost.
    fn offered(asked: &Bandwidth, bytes: u32, gap: Duration, length: Duration) -> (u64, Duration, u32) {
        let (mut line, mut through, mut last, mut lost) = (Line::default(), 0, Duration::ZERO, 0);
        let mut now = Duration::from_secs(1000);
        let end = now + length;
        while now < end {
            match line.fate(bytes, now, asked) {
                Fate::Drop => lost += 1,
                fate => {
                    let due = if let Fate::Hold(due) = fate { due } else { now };
                    assert!(due >= last, "a packet overtook another");
                    last = due;
                    through += u64::from(bytes);
                }
            }
            now += gap;
        }
        (through, last.saturating_sub(Duration::from_secs(1000)), lost)
    }

    #[test]
    fn the_rate_is_kept_whatever_is_offered() {
        for (rate, bits) in [("1Mbit/s", 1e6), ("10Mbit/s", 1e7), ("100Mbit/s", 1e8), ("1MB/s", 8e6)] {
            let asked = asked(rate, 32 << 10, 200);
            // Three times as much as the line bears.
            let gap = Duration::from_secs_f64(1500.0 * 8.0 / bits / 3.0);
            let length = Duration::from_mins(1);
            let (through, last, lost) = offered(&asked, 1500, gap, length);
            let rate = (through as f64 - f64::from(32 << 10)) * 8.0 / last.as_secs_f64();
            assert!((rate / bits - 1.0).abs() < 0.01, "{rate} instead of {bits}");
            assert!(lost > 0 && last <= length + Duration::from_millis(250), "{lost} {last:?}");
        }
    }

    #[test]
    fn what_the_line_bears_neither_waits_nor_is_lost_and_a_burst_goes_at_once() {
        let asked = asked("10Mbit/s", 32 << 10, 200);
        let mut line = Line::default();
        let now = Duration::from_secs(1);
        let fates: Vec<Fate> = (0..30).map(|_| line.fate(1500, now, &asked)).collect();
        // 32 KiB are 21 packets of 1500 bytes, and a part of one.
        assert!(fates[..21].iter().all(|fate| *fate == Fate::Pass), "{fates:?}");
        assert!(fates[21..].iter().all(|fate| matches!(fate, Fate::Hold(_))), "{fates:?}");
        let (_, _, lost) = offered(&asked, 1500, Duration::from_micros(1300), Duration::from_secs(5));
        assert_eq!(lost, 0);
    }

    proptest! {
        #[test]
        fn nothing_waits_longer_than_the_queue_and_its_own_length(
            bytes in 40_u32..65_536, gap in 0_u64..5_000, rate in 1_u32..1000, queue in 0_u64..500,
        ) {
            let asked = asked(&format!("{rate}Mbit/s"), 0, queue);
            let (mut line, mut now) = (Line::default(), Duration::from_secs(1));
            for _ in 0..200 {
                if let Fate::Hold(due) = line.fate(bytes, now, &asked) {
                    prop_assert!(due.saturating_sub(now) <= asked.queue + asked.rate.takes(u64::from(bytes)) + Duration::from_nanos(2));
                }
                now += Duration::from_micros(gap);
            }
        }
    }
}
