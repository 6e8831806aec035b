//! What becomes of each packet that may hold a lookup.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Dns;
use super::message::{Lookup, Reply, framed, messages};
use crate::base::Dice;
use crate::fault::traffic::{MOST_FLOWS, Meant};
use crate::hands::flow::Flow;
use crate::hands::forge::Seen;
use crate::hands::queue::{Fate, Packet};
use crate::host::socket::Protocol;

/// A question that comes in pieces is put together up to this length; none is so long.
const LONGEST: usize = 4096;

/// What is done to a lookup that is hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// It goes on when its time has come.
    Late,
    /// Nobody hears of it.
    Silence,
    /// This is said instead.
    Say(Reply),
}

/// The ports from which we ask, and what came by: what both the packets' thread and whoever wants proof know.
#[derive(Debug, Default)]
pub(super) struct Watch {
    own: Mutex<HashSet<u16>>,
    named: AtomicU64,
    hit: AtomicU64,
}

impl Watch {
    /// What comes from this port is asked by us: it is hit, whoever is meant and whatever is drawn.
    pub(super) fn is_own(&self, port: u16) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }

    /// No port is ours any more.
    pub(super) fn is_done(&self) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many lookups of others were of the names that are meant, and how many of these were hit.
    pub(super) fn counted(&self) -> (u64, u64) {
        let hit = self.hit.load(Ordering::Relaxed); // First, so that none is hit that is not counted.
        (self.named.load(Ordering::Relaxed), hit)
    }

    fn owns(&self, port: u16) -> bool {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
    }
}

/// Decides packet by packet.
pub(super) struct Fates {
    pub fault: Dns,
    pub deed: Deed,
    /// Whose lookups.
    pub meant: Meant,
    pub drawn: Drawn,
    pub watch: Arc<Watch>,
    pub streams: Streams,
}

/// Which of the lookups are hit. The n-th one of a name has the same fate under the same seed, whatever else is looked up
/// meanwhile, and those for addresses of either version, which are made together, have it in common.
#[derive(Debug)]
pub(super) struct Drawn {
    dice: Dice,
    decision: String,
    share: f64,
    lanes: HashMap<(Name, RecordType), ChaCha8Rng>,
}

impl Drawn {
    pub(super) fn new(dice: Dice, decision: String, share: f64) -> Self {
        Self { dice, decision, share, lanes: HashMap::new() }
    }

    fn hits(&mut self, name: &Name, kind: RecordType) -> bool {
        if self.share >= 1.0 {
            return true;
        }
        if self.lanes.len() >= MOST_FLOWS {
            self.lanes.clear();
        }
        let name = name.to_lowercase();
        let decision = format!("{} {name}", self.decision);
        let lane = self.lanes.entry((name, kind)).or_insert_with(|| self.dice.stream(&decision));
        lane.random::<f64>() < self.share
    }
}

/// What is known of connections: only of those on which a lookup is under way in pieces, or was judged.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Where the rest of a question will stand, and its beginning.
    begun: HashMap<Flow, (u32, Vec<u8>)>,
    settled: HashMap<Flow, Settled>,
}

/// What was decided of the last segment that had a lookup in it: the same goes for it when it is sent again.
#[derive(Debug)]
struct Settled {
    place: u32,
    fate: Verdict,
}

#[derive(Debug)]
enum Verdict {
    Passed,
    Silenced,
    Held(Duration),
    /// From then on the connection is over: the client has its answer and the end, the server a reset.
    Answered(Duration, Vec<u8>),
}

impl Fates {
    pub(super) fn of(&mut self, packet: &Packet<'_>, now: Duration) -> Fate {
        match Seen::of(packet.shown).filter(|_| packet.whole) {
            Some(seen) if seen.flow.protocol == Protocol::Udp => self.datagram(packet, &seen, now),
            Some(seen) => self.segment(packet, &seen, now),
            None => Fate::Pass,
        }
    }

    /// Whether a lookup is one that is hit.
    fn falls_on(&mut self, lookup: &Lookup, packet: &Packet<'_>, seen: &Seen<'_>, now: Duration) -> bool {
        if !self.fault.means(lookup) {
            return false;
        }
        if self.watch.owns(seen.flow.from.port()) {
            return true;
        }
        if !self.meant.flow(packet, now).0 {
            return false;
        }
        self.watch.named.fetch_add(1, Ordering::Relaxed);
        let hit = self.drawn.hits(&lookup.query().name, lookup.query().query_type);
        self.watch.hit.fetch_add(u64::from(hit), Ordering::Relaxed);
        hit
    }

    fn datagram(&mut self, packet: &Packet<'_>, seen: &Seen<'_>, now: Duration) -> Fate {
        let Some(lookup) = Lookup::read(seen.payload) else { return Fate::Pass };
        if !self.falls_on(&lookup, packet, seen, now) {
            return Fate::Pass;
        }
        let due = now + self.fault.delay;
        match &self.deed {
            Deed::Late => Fate::Hold(due),
            Deed::Silence => Fate::Drop,
            Deed::Say(reply) => match lookup.answered(reply) {
                Some(answer) => Fate::Answer(due, vec![seen.answered(&answer)]),
                None => Fate::Pass,
            },
        }
    }

    fn segment(&mut self, packet: &Packet<'_>, seen: &Seen<'_>, now: Duration) -> Fate {
        if seen.opens() || seen.resets() {
            self.streams.begun.remove(&seen.flow);
            self.streams.settled.remove(&seen.flow);
            return Fate::Pass;
        }
        if let Some(fate) = self.streams.settled.get(&seen.flow).and_then(|settled| settled.of(seen, now)) {
            return fate;
        }
        if seen.payload.is_empty() {
            return Fate::Pass;
        }
        let bytes = self.streams.read(seen);
        let (whole, rest) = messages(&bytes);
        let lookups: Vec<Lookup> = whole.into_iter().filter_map(Lookup::read).collect();
        let hit: Vec<&Lookup> =
            lookups.iter().filter(|lookup| self.falls_on(lookup, packet, seen, now)).collect();
        let due = now + self.fault.delay;
        let verdict = match &self.deed {
            _ if hit.is_empty() => Verdict::Passed,
            Deed::Late => Verdict::Held(due),
            Deed::Silence => Verdict::Silenced,
            Deed::Say(reply) => {
                let answers = hit.iter().filter_map(|lookup| lookup.answered(reply));
                Verdict::Answered(due, answers.flat_map(|answer| framed(&answer)).collect())
            }
        };
        if hit.is_empty() && !rest.is_empty() && rest.len() <= LONGEST {
            self.streams.begins(seen, rest);
        }
        let fate = verdict.first(seen);
        if !lookups.is_empty() {
            self.streams.settles(seen, verdict);
        }
        fate
    }
}

impl Streams {
    /// What a segment shows, behind what came before it of the same question.
    fn read(&mut self, seen: &Seen<'_>) -> Vec<u8> {
        let before = self.begun.remove(&seen.flow).filter(|(next, _)| *next == seen.place());
        [before.map_or_else(Vec::new, |(_, bytes)| bytes).as_slice(), seen.payload].concat()
    }

    fn begins(&mut self, seen: &Seen<'_>, rest: &[u8]) {
        if self.begun.len() >= MOST_FLOWS {
            self.begun.clear();
        }
        let next = seen.place().wrapping_add(seen.payload.len() as u32);
        self.begun.insert(seen.flow, (next, rest.to_vec()));
    }

    fn settles(&mut self, seen: &Seen<'_>, fate: Verdict) {
        if self.settled.len() >= MOST_FLOWS {
            self.settled.clear();
        }
        self.settled.insert(seen.flow, Settled { place: seen.place(), fate });
    }
}

impl Verdict {
    /// What becomes of the segment that is judged.
    fn first(&self, seen: &Seen<'_>) -> Fate {
        match self {
            Self::Passed => Fate::Pass,
            Self::Silenced => Fate::Drop,
            Self::Held(due) => Fate::Hold(*due),
            // The server must not wait for what never comes: some serve few connections at a time.
            Self::Answered(due, bytes) => {
                Fate::Answer(*due, seen.aborted().into_iter().chain([seen.answered(bytes)]).collect())
            }
        }
    }
}

impl Settled {
    /// What becomes of a later segment; `None` when that is still to be judged.
    fn of(&self, seen: &Seen<'_>, now: Duration) -> Option<Fate> {
        let again = seen.place() == self.place && !seen.payload.is_empty();
        match &self.fate {
            Verdict::Answered(due, bytes) if *due <= now => Some(match (again, seen.payload.is_empty()) {
                (true, _) => Fate::Answer(now, vec![seen.answered(bytes)]),
                (false, true) if seen.ends() => Fate::Answer(now, vec![seen.answered(&[])]),
                (false, true) => Fate::Drop,
                // It is too late for another question here: the client asks it elsewhere.
                (false, false) => Fate::Answer(now, seen.refused().into_iter().collect()),
            }),
            _ if !again => None,
            Verdict::Passed => Some(Fate::Pass),
            Verdict::Held(due) => Some(Fate::Hold(*due)),
            Verdict::Silenced | Verdict::Answered(..) => Some(Fate::Drop),
        }
    }
}
