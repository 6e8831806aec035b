//! Traffic led to a packet queue by a rule table of ours: the names, and the record of a fault that has no other way.

use std::fmt;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::super::{Ability, Effect, FaultError, Held, Owed, Refusal, Site, UndoError};
use super::odds::{Fates, Odds, Seen};
use super::{Direction, Nearby, PATIENCE, Reach, clients, is_here, paths};
use crate::base::RunId;
use crate::base::clock::since_boot;
use crate::base::dice::fnv1a;
use crate::hands::hold::{Hold, Order};
use crate::hands::lease::Lease;
use crate::hands::queue::{Abyss, Fate, Judge, Manner, Packet, Queue, QueueError, Tally};
use crate::hands::rules::{self, QueueBy, Table, Traffic};
use crate::undo::{Claim, Tier};

/// A packet queue, fed by a rule table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Feed {
    /// The table's name.
    table: String,
    /// The queue's number.
    queue: u16,
    /// How packets get from one to the other.
    by: QueueBy,
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "packet queue {} with rule table {}", self.queue, self.table)
    }
}

impl Feed {
    /// Names for a fault, which are free now where it acts; `remedy` says what else would do.
    pub(in crate::fault) fn choose(site: &Site, reach: &Reach, remedy: &str) -> Result<Self, Refusal> {
        let refuse = |why: &dyn fmt::Display| site.refuse(why.to_string(), remedy);
        let begin = fnv1a(format!("{} {}", site.run, site.fault).as_bytes());
        let probed = reach.within(|| (rules::probe(), free_queue(begin))).map_err(|why| refuse(&why))?;
        let (by, queue) = (probed.0.map_err(|why| refuse(&why))?, probed.1.map_err(|why| refuse(&why))?);
        Ok(Self { table: table_name(site.run, queue), queue, by })
    }

    /// Whether packets can be queued here, and how.
    pub(in crate::fault) fn ability() -> Result<String, String> {
        let by = rules::probe().map_err(|why| why.to_string())?;
        free_queue(fnv1a(b"abilities")).map_err(|why| why.to_string())?;
        Ok(match by {
            QueueBy::Expression => "nf_tables hands packets to a queue".to_owned(),
            QueueBy::Target => "nf_tables hands packets to a queue by the target NFQUEUE".to_owned(),
        })
    }

    /// Begins to judge that traffic.
    pub(in crate::fault) fn hold(
        &self,
        site: &Site,
        reach: &Reach,
        traffic: &[Traffic],
        manner: Manner,
        judge: Judge,
    ) -> Result<Hold, FaultError> {
        let order = Order { table: &self.table, queue: self.queue, by: self.by, traffic, manner };
        let heartbeat = site.heartbeat.clone();
        reach.within(|| Hold::begin(&order, judge, heartbeat))?.map_err(|why| FaultError(why.to_string()))
    }

    /// Lets nothing of that traffic through.
    pub(in crate::fault) fn cut(
        &self,
        site: &Site,
        reach: &Reach,
        traffic: &[Traffic],
    ) -> Result<Cut, FaultError> {
        let failed = |why: &dyn fmt::Display| FaultError(why.to_string());
        reach.within(|| {
            let abyss = Abyss::open(self.queue).map_err(|why| failed(&why))?;
            let table =
                Table::cutting(&self.table, (self.queue, self.by), traffic).map_err(|why| failed(&why))?;
            let lease = Lease::keep(table, site.heartbeat.clone()).map_err(|why| failed(&why))?;
            Ok(Cut { lease: Some(lease), _abyss: abyss })
        })?
    }

    /// Whether the table is still there, in the network of this thread.
    pub(in crate::fault) fn stands(&self) -> Result<bool, UndoError> {
        rules::stands(&self.table).map_err(|why| UndoError(why.to_string()))
    }
}

/// Traffic that is cut until this is dropped: the kernel's rules do it, and nobody has to look at a packet.
#[derive(Debug)]
pub(in crate::fault) struct Cut {
    lease: Option<Lease>,
    _abyss: Abyss,
}

impl Drop for Cut {
    fn drop(&mut self) {
        // The rules go before the queue that what they take falls into.
        drop(self.lease.take().map(Lease::end));
    }
}

/// The name of the table that feeds a queue of a run.
fn table_name(run: RunId, queue: u16) -> String {
    format!("brownout_{run}_{queue}")
}

/// A queue number that nobody has now. It is taken for a moment, which touches no traffic.
fn free_queue(begin: u64) -> Result<u16, QueueError> {
    const FIRST: u64 = 0x1000;
    const TRIES: u64 = 16;
    let numbers = (0..TRIES).map(|n| (FIRST + begin.wrapping_add(n) % (0x1_0000 - FIRST)) as u16);
    let mut last = None;
    for number in numbers {
        match Queue::bind(number) {
            Ok(_) => return Ok(number),
            Err(why) => last = Some(why),
        }
    }
    Err(last.unwrap_or(QueueError::Taken(0)))
}

/// The undo record of a fault that only the packet queue can do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queued {
    pub(in crate::fault) reach: Reach,
    pub(in crate::fault) feed: Feed,
}

impl Queued {
    /// Finds what is meant, and names that are free.
    pub(in crate::fault) fn survey(site: &Site) -> Result<Self, Refusal> {
        let reach = Reach::survey(site)?;
        let feed = Feed::choose(site, &reach, "`brownout doctor` says what this host can do")?;
        Ok(Self { reach, feed })
    }

    /// What such a kind can do here.
    pub(in crate::fault) fn ability() -> Ability {
        match Feed::ability() {
            Ok(how) => Ability::yes(how, Some(Tier::Kernel)),
            Err(why) => Ability::no(why, "run as root, or in a network namespace of your own"),
        }
    }

    /// Begins to hit packets that go that way: `fate` says what becomes of one that is hit, with its own chance.
    pub(in crate::fault) async fn hit(
        &self,
        site: &Site,
        held: &mut Held,
        (odds, direction, manner): (Odds, Direction, Manner),
        mut fate: impl FnMut(&Packet<'_>, Duration, &mut ChaCha8Rng) -> Fate + Send + 'static,
    ) -> Result<(), FaultError> {
        if let Some(nearby) = Nearby::begin(&self.reach).await {
            held.hold(nearby);
        }
        let traffic = paths::going(direction, self.reach.endpoints(), is_here(site), &clients(site));
        let mut meant = self.reach.meant(site)?;
        let decision = format!("fault.{}.fate", site.fault);
        let mut fates = Fates::new(odds, site.dice, decision, self.reach.clone());
        held.hold(fates.seen());
        let judge = Box::new(move |packet: &Packet<'_>, now| {
            let (meant, flow) = meant.flow(packet, now);
            if !meant {
                return Fate::Pass;
            }
            fates.hit(flow).map_or(Fate::Pass, |chance| fate(packet, now, chance))
        });
        held.hold(self.feed.hold(site, &self.reach, &traffic, manner, judge)?);
        Ok(())
    }

    /// Holds what was asked against what was done to the first packets that came by; `done` counts those that were hit, and
    /// `what` says what they were.
    pub(in crate::fault) async fn hits(
        held: &Held,
        odds: &Odds,
        done: fn(&Tally) -> u64,
        what: &str,
    ) -> Effect {
        const ENOUGH: u64 = 500;
        let (Some(seen), Some(hold)) = (held.get::<Seen>(), held.get::<Hold>()) else {
            return Effect::Unverifiable("nothing is held".to_owned());
        };
        let until = since_boot() + PATIENCE;
        while seen.count() < ENOUGH && since_boot() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Counted before those seen, so that a hit that is not yet seen cannot be.
        let hits = done(hold.tally());
        odds.judged(seen.count(), hits, what)
    }

    /// Whether traffic that nobody named stayed as it was.
    pub(in crate::fault) async fn spared(held: &Held) -> Option<Effect> {
        Some(held.get::<Nearby>()?.spared().await)
    }
}

impl Owed for Queued {
    /// Nobody but its holder can take it away, and it does so before this is called; after its death the
    /// kernel does.
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        self.reach.remains(|| self.feed.stands()).await
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        self.reach.claims(host)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        self.reach.by_hand(&self.feed)
    }
}
