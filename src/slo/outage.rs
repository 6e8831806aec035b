//! Unbroken stretches of bad looks.
//!
//! A stretch is a matter of the order in which looks were *intended*, but looks settle in another order: one
//! that times out settles after many later ones. So begun looks stand in a line, and pass
//! from its front once they have settled.

use std::collections::VecDeque;
use std::time::Duration;

/// Looks that may stand in line at once. Beyond it the oldest passes as one that says nothing: memory stays
/// bounded (2.5 MiB a line) even when looks that began are never heard of again.
const LINE: usize = 1 << 16;

/// The longest stretch of bad looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// The intended start of its first bad look.
    pub began: Duration,
    /// As long as it was seen: to the end of its last bad look, or to the intended start of the
    /// next good one if that came first. It may have begun up to a look earlier and ended up to a look later.
    pub lasted: Duration,
    /// The bad looks in it.
    pub looks: u64,
}

impl Outage {
    /// When it was last seen.
    #[must_use]
    pub fn ended(&self) -> Duration {
        self.began.saturating_add(self.lasted)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Waiting,
    Good,
    Bad { ended: Duration },
    SaysNothing,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    intended: Duration,
    fate: Fate,
}

#[derive(Debug, Clone, Copy)]
struct Stretch {
    began: Duration,
    until: Duration,
    looks: u64,
}

impl Stretch {
    fn outage(&self, good: Option<Duration>) -> Outage {
        let until = good.map_or(self.until, |good| self.until.min(good));
        Outage { began: self.began, lasted: until.saturating_sub(self.began), looks: self.looks }
    }
}

/// Finds the current and the longest outage in a stream of looks. O(log looks in flight) a look.
#[derive(Debug, Clone, Default)]
pub struct Outages {
    line: VecDeque<Look>,
    /// The earliest good look in the line.
    first_good: Option<Duration>,
    current: Option<Stretch>,
    longest: Option<Outage>,
    /// The last moment at which the system is known to have been well, or the first look.
    well: Option<Duration>,
    last: Duration,
    at_most: Duration,
}

impl Outages {
    /// Nothing seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A look began. Looks whose beginning is not told are taken in the order in which they settle.
    pub fn begun(&mut self, intended: Duration) {
        self.stand(Look { intended, fate: Fate::Waiting });
        if self.line.len() > LINE {
            if let Some(oldest) = self.line.front_mut().filter(|look| look.fate == Fate::Waiting) {
                oldest.fate = Fate::SaysNothing;
            }
            self.pass();
        }
    }

    /// A look settled; `bad` is `None` when it says nothing.
    pub fn settled(&mut self, intended: Duration, ended: Duration, bad: Option<bool>) {
        let fate = match bad {
            None => Fate::SaysNothing,
            Some(true) => Fate::Bad { ended: ended.max(intended) },
            Some(false) => Fate::Good,
        };
        // Most looks settle in the order in which they began.
        if fate != Fate::Good
            || self.first_good.is_some_and(|good| good <= intended)
            || self.line.front().is_none_or(|front| front.intended != intended || front.fate != Fate::Waiting)
        {
            self.settle_in_line(intended, fate);
        } else {
            self.line.pop_front();
            self.take(Look { intended, fate });
        }
        self.pass();
    }

    fn settle_in_line(&mut self, intended: Duration, fate: Fate) {
        let from = self.line.partition_point(|look| look.intended < intended);
        let same = |look: &&mut Look| look.intended == intended;
        match self.line.range_mut(from..).take_while(same).find(|look| look.fate == Fate::Waiting) {
            Some(look) => look.fate = fate,
            None => self.stand(Look { intended, fate }),
        }
        if fate == Fate::Good && self.first_good.is_none_or(|good| intended < good) {
            self.first_good = Some(intended);
        }
    }

    /// Nothing is looked at for a while: what is unbroken now ends here, and what has begun is forgotten.
    pub fn suspend(&mut self) {
        for look in &mut self.line {
            if look.fate == Fate::Waiting {
                look.fate = Fate::SaysNothing;
            }
        }
        self.pass();
        self.end(None);
        self.at_most = self.at_most();
        self.well = None;
    }

    /// The stretch that no good look has ended yet.
    #[must_use]
    pub fn current(&self) -> Option<Outage> {
        // A good look that waits behind one in flight ends the stretch already.
        self.current.map(|stretch| stretch.outage(self.first_good))
    }

    /// Whether a good look after the current stretch is known.
    #[must_use]
    pub fn over(&self) -> bool {
        self.first_good.is_some()
    }

    /// The longest stretch so far, the current one included.
    #[must_use]
    pub fn longest(&self) -> Option<Outage> {
        [self.longest, self.current()]
            .into_iter()
            .flatten()
            .reduce(|a, b| if b.lasted > a.lasted { b } else { a })
    }

    /// No outage can have been longer than this: the widest gap between good looks that
    /// follow one another (at the edges, between the first or last look and a good one).
    #[must_use]
    pub fn at_most(&self) -> Duration {
        self.well.map_or(self.at_most, |well| self.at_most.max(self.last.saturating_sub(well)))
    }

    fn stand(&mut self, look: Look) {
        if self.line.back().is_none_or(|back| back.intended <= look.intended) {
            self.line.push_back(look);
        } else {
            let at = self.line.partition_point(|other| other.intended <= look.intended);
            self.line.insert(at, look);
        }
    }

    fn pass(&mut self) {
        while let Some(look) = self.line.front().copied().filter(|look| look.fate != Fate::Waiting) {
            self.line.pop_front();
            self.take(look);
            if look.fate == Fate::Good && self.first_good == Some(look.intended) {
                // Each look is walked over once for each good one that passes before it, and stops at the next.
                self.first_good =
                    self.line.iter().find(|look| look.fate == Fate::Good).map(|look| look.intended);
            }
        }
    }

    fn take(&mut self, look: Look) {
        if matches!(look.fate, Fate::Good | Fate::Bad { .. }) {
            self.well.get_or_insert(look.intended);
            self.last = self.last.max(look.intended);
        }
        match look.fate {
            Fate::Bad { ended } => {
                self.last = self.last.max(ended);
                let fresh = Stretch { began: look.intended, until: ended, looks: 0 };
                let stretch = self.current.get_or_insert(fresh);
                stretch.until = stretch.until.max(ended);
                stretch.looks += 1;
            }
            Fate::Good => {
                if self.current.is_some_and(|stretch| look.intended >= stretch.began) {
                    self.end(Some(look.intended));
                }
                if let Some(well) = self.well.filter(|well| look.intended >= *well) {
                    self.at_most = self.at_most.max(look.intended.saturating_sub(well));
                    self.well = Some(look.intended);
                    // A look that was bad until later is overtaken by one that was good.
                    self.last = look.intended;
                }
            }
            Fate::Waiting | Fate::SaysNothing => {}
        }
    }

    fn end(&mut self, good: Option<Duration>) {
        if let Some(stretch) = self.current.take() {
            let ended = stretch.outage(good);
            if self.longest.is_none_or(|longest| ended.lasted > longest.lasted) {
                self.longest = Some(ended);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_refused_stretch_lasts_from_its_first_to_its_last_bad_look() {
        let mut outages = Outages::new();
        for tick in 0..100_u32 {
            let at = Duration::from_millis(100) * tick;
            outages.begun(at);
            outages.settled(at, at + Duration::from_millis(1), Some((30..50).contains(&tick)));
        }
        let longest = outages.longest().unwrap();
        assert_eq!((longest.began, longest.lasted, longest.looks), (s(3.0), s(1.901), 20));
        assert_eq!(outages.at_most(), s(2.1));
        assert_eq!(outages.current(), None);
    }

    #[test]
    fn looks_that_time_out_while_later_ones_are_good_do_not_lengthen_it() {
        let mut outages = Outages::new();
        let looks: Vec<(Duration, Duration, bool)> = (0..60_u32)
            .map(|tick| {
                let at = Duration::from_millis(100) * tick;
                let bad = (10..30).contains(&tick);
                (at, at + if bad { s(1.0) } else { s(0.002) }, bad)
            })
            .collect();
        let mut settling = looks.clone();
        settling.sort_by_key(|look| look.1);
        for look in &looks {
            outages.begun(look.0);
        }
        for (at, ended, bad) in settling {
            outages.settled(at, ended, Some(bad));
            if ended > s(3.1) {
                assert!(
                    outages.current().is_none_or(|now| now.lasted <= s(2.0)),
                    "over at 3 s, as is known by now"
                );
            }
        }
        assert_eq!(outages.longest().unwrap().lasted, s(2.0));
    }

    #[test]
    fn a_pause_in_looking_breaks_a_stretch_and_is_not_an_outage() {
        let mut outages = Outages::new();
        outages.settled(s(1.0), s(1.1), Some(true));
        outages.begun(s(1.2));
        outages.suspend();
        outages.settled(s(100.0), s(100.1), Some(true));
        outages.settled(s(100.2), s(100.3), Some(false));
        assert_eq!(outages.longest().unwrap().lasted, s(0.1));
        assert!(outages.at_most() <= s(0.2), "{:?}", outages.at_most());
    }

    #[test]
    fn a_missed_look_neither_ends_nor_lengthens() {
        let mut outages = Outages::new();
        outages.settled(s(1.0), s(1.0), Some(true));
        outages.settled(s(2.0), s(2.0), None);
        outages.settled(s(3.0), s(3.0), Some(true));
        outages.settled(s(4.0), s(4.0), None);
        assert_eq!(outages.current().unwrap().lasted, s(2.0));
    }

    #[test]
    fn looks_never_heard_of_again_do_not_fill_the_memory() {
        let mut outages = Outages::new();
        for tick in 0..200_000_u64 {
            outages.begun(Duration::from_millis(tick));
        }
        assert!(outages.line.len() <= LINE);
    }

    /// The same by sorting everything first.
    fn plainly(looks: &[(u64, u64, Option<bool>)]) -> Option<(Duration, u64)> {
        let mut sorted: Vec<_> = looks.iter().filter(|look| look.2.is_some()).collect();
        sorted.sort_by_key(|look| look.0);
        let mut found: Vec<(Duration, u64)> = Vec::new();
        let mut current: Option<(u64, u64, u64)> = None;
        for (at, ended, bad) in sorted {
            if *bad == Some(true) {
                let (began, until, n) = current.unwrap_or((*at, 0, 0));
                current = Some((began, until.max(*ended), n + 1));
            } else if let Some((began, until, n)) = current.take() {
                found.push((Duration::from_millis(until.min(*at) - began), n));
            }
        }
        found.extend(current.map(|(began, until, n)| (Duration::from_millis(until - began), n)));
        found.into_iter().reduce(|a, b| if b.0 > a.0 { b } else { a })
    }

    proptest! {
        #[test]
        fn in_whatever_order_looks_settle_the_longest_outage_is_the_same(
            fates in proptest::collection::vec((1_u64..3_000, prop::option::weighted(0.95, any::<bool>())), 1..120)
        ) {
            let looks: Vec<(u64, u64, Option<bool>)> =
                fates.iter().enumerate().map(|(n, (took, bad))| (n as u64 * 100, n as u64 * 100 + took, *bad)).collect();
            let mut outages = Outages::new();
            for look in &looks {
                outages.begun(Duration::from_millis(look.0));
            }
            let mut settling = looks.clone();
            settling.sort_by_key(|look| look.1);
            for (at, ended, bad) in settling {
                outages.settled(Duration::from_millis(at), Duration::from_millis(ended), bad);
            }
            let found = outages.longest();
            prop_assert_eq!(found.map(|found| (found.lasted, found.looks)), plainly(&looks));
            if let Some(found) = found {
                prop_assert!(found.lasted <= outages.at_most(), "{:?} {:?}", found, outages.at_most());
            }
        }

        #[test]
        fn nothing_that_can_be_told_makes_it_panic(
            told in proptest::collection::vec((0_u8..4, any::<u64>(), any::<u32>(), any::<u64>()), 0..200)
        ) {
            let mut outages = Outages::new();
            for (what, seconds, nanos, ended) in told {
                let at = Duration::new(seconds, nanos % 1_000_000_000);
                match what {
                    0 => outages.begun(at),
                    1 => outages.settled(at, Duration::from_secs(ended), Some(true)),
                    2 => outages.settled(at, Duration::from_secs(ended), Some(false)),
                    _ => outages.suspend(),
                }
                let _ = (outages.current(), outages.longest(), outages.at_most());
            }
        }
    }
}
