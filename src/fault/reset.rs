//! `reset`: connections break, and new ones are refused.

use std::collections::{BTreeSet, HashMap};
use std::io::ErrorKind;
use std::net::SocketAddr;

use rand::Rng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::traffic::{
    Clients, Feed, MOST_FLOWS, Nearby, PATIENCE, Reach, between, clients, is_here, paths, reachable,
};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Owed, Refusal, Site, UndoError};
use crate::base::Percent;
use crate::hands::cut;
use crate::hands::forge::{Forge, Seen};
use crate::hands::hold::Hold;
use crate::hands::queue::{Fate, Manner, Packet};
use crate::host::network::Network;
use crate::host::process::Process;
use crate::host::rights::Rights;
use crate::host::socket::{Connection, Owners, inodes};
use crate::undo::{Claim, Tier};

crate::kind! {
    /// Breaks open TCP connections, and refuses new ones for as long as it lasts.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the connections of some processes
    /// or endpoints, as for `latency`.
    ///
    /// Open connections are broken once, at the beginning, where one end at least is on this host. The kernel aborts
    /// the server's end if it is here, and the client sees ECONNRESET at once, also when it is idle; where only the
    /// client's end is here, the client sees ECONNABORTED and the server a reset. A listening socket is never touched.
    /// With `new = false` that is all: the fault is over when it is done, and takes no `for`.
    ///
    /// A connection that is asked for while the fault lasts is answered by a reset in the server's stead, and the
    /// client sees ECONNREFUSED; the server hears nothing of it. Connections are never broken later than that.
    ///
    /// The fate of a connection is drawn once. Of the open ones exactly the share is broken; each new one is refused with
    /// that chance.
    pub struct Reset("reset") {
        /// Whether connections that are open at the beginning are broken.
        existing: bool = "true",
        /// Whether connections that are asked for are refused.
        new: bool = "true",
        /// The share of connections that is hit.
        percent: Percent = "100%",
    }
}

/// Which connections, and by what new ones are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cut {
    reach: Reach,
    /// `None` when new connections are spared.
    feed: Option<Feed>,
}

/// What was done to the open connections.
#[derive(Debug)]
struct Broken {
    open: usize,
    chosen: Vec<Connection>,
}

impl Fault for Reset {
    type Owed = Cut;
    const LASTING: bool = true;
    const BY_FIELDS: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.broken.reset]
to      = { port = 6379 }
percent = "50%"
at      = "5s"
for     = "10s"
"#;

    fn ability(_: &Rights) -> Ability {
        const REMEDY: &str = "run as root, or in a network namespace of your own";
        let refuses =
            Feed::ability().and_then(|how| Forge::open().map(|_| how).map_err(|why| why.to_string()));
        let tier = Some(Tier::Kernel);
        match (refuses, cut::ability()) {
            (Ok(_), Ok(())) => Ability::yes("open connections, and new ones by packet queue", tier),
            (Ok(_), Err(why)) => Ability::limited(
                "new connections only",
                tier,
                format!("open ones need CONFIG_INET_DIAG_DESTROY: {why}"),
            ),
            (Err(why), _) => Ability::no(why, REMEDY),
        }
    }

    fn lasts(&self) -> bool {
        self.new
    }

    async fn survey(&self, site: &Site) -> Result<Cut, Refusal> {
        if !self.existing && !self.new {
            return Err(site.refuse(
                "it hits neither open connections nor new ones".to_owned(),
                "leave out `existing` or `new`",
            ));
        }
        if self.percent.share() <= 0.0 {
            return Err(site.refuse("0 % of connections is none".to_owned(), "ask for a `percent` above 0 %"));
        }
        if self.existing {
            cut::ability().map_err(|why| {
                let why = format!("this kernel aborts no connections (CONFIG_INET_DIAG_DESTROY): {why}");
                site.refuse(why, "leave open connections alone: `existing = false`")
            })?;
        }
        let reach = Reach::survey(site)?;
        let feed = if self.new {
            Forge::open().map_err(|why| {
                site.refuse(format!("a raw socket (CAP_NET_RAW is needed): {why}"), "run as root")
            })?;
            Some(Feed::choose(site, &reach, "`brownout doctor` says what this host can do")?)
        } else {
            None
        };
        Ok(Cut { reach, feed })
    }

    async fn inject(&self, site: &Site, owed: &Cut, held: &mut Held) -> Result<(), FaultError> {
        if let Some(nearby) = Nearby::begin(&owed.reach).await {
            held.hold(nearby);
        }
        // New ones first, so that nobody who was cut off is back before they are refused.
        if let Some(feed) = &owed.feed {
            held.hold(self.refuse(site, &owed.reach, feed)?);
        }
        if self.existing {
            let open = owed
                .reach
                .within(established)?
                .map_err(|why| FaultError(format!("listing connections: {why}")))?;
            let open = meant(site, &owed.reach, &open);
            let count = (open.len() as f64 * self.percent.share()).round() as usize;
            let mut chance = site.dice.stream(&format!("fault.{}.existing", site.fault));
            let chosen: Vec<Connection> = open.choose_multiple(&mut chance, count).cloned().collect();
            held.hold(Broken { open: open.len(), chosen: chosen.clone() });
            for connection in &chosen {
                owed.reach.within(|| cut::cut(connection))?.map_err(|why| {
                    let Connection { local, remote, .. } = connection;
                    FaultError(format!("aborting the connection between {local} and {remote}: {why}"))
                })?;
            }
        }
        Ok(())
    }

    async fn verify(&self, site: &Site, owed: &Cut, held: &Held) -> Effect {
        let mut figures = Vec::new();
        let mut right = true;
        if let Some(broken) = held.get::<Broken>() {
            let still = owed.reach.within(|| established().unwrap_or_default()).unwrap_or_default();
            let left = broken.chosen.iter().filter(|cut| still.contains(cut)).count();
            right &= left == 0;
            figures.push(match (broken.open, broken.chosen.len() - left) {
                (0, _) => "no connection was open".to_owned(),
                (open, gone) => format!("of {open} open connections {gone} were broken"),
            });
        }
        let mut seen = held.get::<Broken>().is_some_and(|broken| !broken.chosen.is_empty());
        if let Some(hold) = held.get::<Hold>() {
            if let Some(at) = reachable(site, &owed.reach) {
                let (tried, refused) = self.tries(owed.reach.network(), at).await;
                let expected = f64::from(tried) * self.percent.share();
                let spread = 4.0 * (expected * (1.0 - self.percent.share())).sqrt();
                right &= (f64::from(refused) - expected).abs() <= spread;
                seen |= refused > 0;
                figures.push(format!("{refused} of {tried} connections to {at} were refused"));
            } else {
                let refused = hold.tally().dropped();
                seen |= refused > 0;
                figures.push(format!("{refused} new connections were refused so far"));
            }
        }
        let figures = format!("asked {}, {}", self.percent, figures.join(", "));
        match (right, seen) {
            (false, _) => Effect::Mismatch(figures),
            (true, true) => Effect::Confirmed(figures),
            (true, false) => Effect::Unverifiable(figures),
        }
    }

    async fn spared(&self, _: &Site, _: &Cut, held: &Held) -> Option<Effect> {
        Some(held.get::<Nearby>()?.spared().await)
    }

    fn mechanism(&self, owed: &Cut) -> Option<String> {
        let open = self.existing.then(|| "the kernel aborts open ones (SOCK_DESTROY)".to_owned());
        let new =
            owed.feed.as_ref().map(|feed| format!("new ones are refused by a reset of ours, by {feed}"));
        Some([open, new].into_iter().flatten().collect::<Vec<_>>().join("; "))
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        let share = if self.percent.share() >= 1.0 { String::new() } else { format!("{} of ", self.percent) };
        match (self.existing, self.new) {
            (true, false) => format!("breaks {share}the open connections with {whom}{only}"),
            (false, _) => format!("refuses {share}new connections to {whom}{only}"),
            (true, true) => {
                format!("breaks {share}the open connections with {whom} and refuses {share}new ones{only}")
            }
        }
    }
}

impl Reset {
    /// Answers what asks for a connection by a reset, in the server's stead.
    fn refuse(&self, site: &Site, reach: &Reach, feed: &Feed) -> Result<Hold, FaultError> {
        let traffic = paths::opening(reach.endpoints(), is_here(site), &clients(site));
        let forge = reach.within(Forge::open)?.map_err(|why| FaultError(format!("a raw socket: {why}")))?;
        let mut meant = reach.meant(site)?;
        let mut chance = site.dice.stream(&format!("fault.{}.new", site.fault));
        let share = self.percent.share();
        // A request that is sent again is the same connection.
        let mut fates = HashMap::new();
        let judge = Box::new(move |packet: &Packet<'_>, now| {
            let Some(seen) = Seen::of(packet.shown).filter(Seen::opens) else { return Fate::Pass };
            if !meant.flow(packet, now).0 {
                return Fate::Pass;
            }
            if fates.len() >= MOST_FLOWS {
                fates.clear();
            }
            let hit =
                *fates.entry((seen.flow, seen.place())).or_insert_with(|| chance.random::<f64>() < share);
            match seen.refused().filter(|_| hit) {
                Some(reset) => {
                    forge.send(&reset);
                    Fate::Drop
                }
                None => Fate::Pass,
            }
        });
        feed.hold(site, reach, &traffic, Manner::each(), judge)
    }

    /// Connections of our own: how many were tried, and how many refused.
    async fn tries(&self, network: &Network, at: SocketAddr) -> (u32, u32) {
        let tries = if self.percent.share() >= 1.0 { 1 } else { 40 };
        let mut refused = 0;
        for _ in 0..tries {
            let Ok(socket) = network.tcp(at) else { continue };
            let tried = timeout(PATIENCE, socket.connect(at)).await;
            refused += u32::from(
                tried.is_ok_and(|tried| tried.is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused)),
            );
        }
        (tries, refused)
    }
}

fn established() -> std::io::Result<Vec<Connection>> {
    Owners::open()?.established()
}

/// The connections that are meant, each by one end: the server's if it is on this host.
fn meant(site: &Site, reach: &Reach, open: &[Connection]) -> Vec<Connection> {
    let ends: BTreeSet<(SocketAddr, SocketAddr)> = open.iter().map(|c| (c.local, c.remote)).collect();
    let clients = clients(site);
    let theirs: BTreeSet<u64> = match (&clients, &site.from) {
        (Clients::Processes, Some(from)) => {
            let alive = from.processes.iter().filter(|p| Process::open(p.identity()).is_ok());
            alive.flat_map(|process| inodes(process.identity().pid)).collect()
        }
        _ => BTreeSet::new(),
    };
    let is_client = |end: SocketAddr, other: SocketAddr| match &clients {
        Clients::Anyone => true,
        Clients::At(endpoints) => endpoints.iter().any(|endpoint| endpoint.has(end)),
        Clients::Here => ends.contains(&(end, other)),
        Clients::Processes => {
            open.iter().any(|c| (c.local, c.remote) == (end, other) && theirs.contains(&c.inode))
        }
    };
    let mut meant: Vec<Connection> = open
        .iter()
        .filter(|c| {
            let inside = ends.contains(&(c.remote, c.local));
            // What stays in a network does not go in and out of it.
            let serves =
                reach.has(c.local) && is_client(c.remote, c.local) && !(inside && reach.is_everything());
            let asks = !is_here(site) && reach.has(c.remote) && is_client(c.local, c.remote) && !inside;
            serves || asks
        })
        .cloned()
        .collect();
    meant.sort_unstable();
    meant
}

impl Owed for Cut {
    /// A connection that is broken stays so. Nobody but its holder can take the rules away, and it does so before
    /// this is called; after its death the kernel does.
    async fn undo(&self) -> Result<(), UndoError> {
        Ok(())
    }

    async fn remains(&self) -> Result<bool, UndoError> {
        match &self.feed {
            Some(feed) => self.reach.remains(|| feed.stands()).await,
            None => Ok(false),
        }
    }

    fn claims(&self, host: &str) -> Vec<Claim> {
        self.reach.claims(host)
    }

    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn by_hand(&self) -> String {
        match &self.feed {
            Some(feed) => self.reach.by_hand(feed),
            None => "nothing is left to undo: clients connect anew".to_owned(),
        }
    }
}
