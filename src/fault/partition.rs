//! `partition`: nothing gets through.

use super::traffic::{
    Before, Direction, Nearby, PATIENCE, Queued, between, clients, connect_time, is_here, paths, reachable,
};
use super::{Ability, Aim, Effect, Fault, FaultError, Held, Refusal, Site};
use crate::base::unit::say;
use crate::hands::hold::Hold;
use crate::hands::queue::{Fate, Manner, Packet};
use crate::host::rights::Rights;
use crate::undo::Tier;

crate::kind! {
    /// Lets nothing through between two sides, TCP and UDP, existing connections included, as a cut cable does.
    ///
    /// `to` is a process (its listening sockets) or an endpoint, `from` narrows to the traffic of some processes or
    /// endpoints, as for `latency`. No sender on this host sees an error: whoever waits, waits for its own timeouts.
    /// Connections go on afterwards, if neither side gave up; TCP's next try may be a while away.
    ///
    /// One way only (`direction`) is what a wrong firewall rule or an asymmetric route does: the one hears, and is not
    /// heard.
    pub struct Partition("partition") {
        /// What is lost: `to` the target, `from` it, or `both`.
        direction: Direction = "both",
    }
}

impl Fault for Partition {
    type Owed = Queued;
    const LASTING: bool = true;
    const AIM: Aim = Aim::Traffic;
    const TIER: Tier = Tier::Kernel;
    const EXAMPLE: &'static str = r#"[fault.cut-off.partition]
to   = { address = "10.0.0.7" }
at   = "5s"
for  = "30s"
"#;

    fn ability(_: &Rights) -> Ability {
        Queued::ability()
    }

    async fn survey(&self, site: &Site) -> Result<Queued, Refusal> {
        Queued::survey(site)
    }

    async fn inject(&self, site: &Site, owed: &Queued, held: &mut Held) -> Result<(), FaultError> {
        if let Some(nearby) = Nearby::begin(&owed.reach).await {
            held.hold(nearby);
        }
        held.hold(Before::measure(site, &owed.reach).await);
        let clients = clients(site);
        let traffic = paths::going(self.direction, owed.reach.endpoints(), is_here(site), &clients);
        if clients != paths::Clients::Processes {
            // The kernel needs nobody to drop packets by their addresses.
            held.hold(owed.feed.cut(site, &owed.reach, &traffic)?);
            return Ok(());
        }
        let mut meant = owed.reach.meant(site)?;
        let judge = Box::new(move |packet: &Packet<'_>, now| match meant.flow(packet, now) {
            (true, _) => Fate::Drop,
            (false, _) => Fate::Pass,
        });
        held.hold(owed.feed.hold(site, &owed.reach, &traffic, Manner::bulk(false), judge)?);
        Ok(())
    }

    async fn verify(&self, site: &Site, owed: &Queued, held: &Held) -> Effect {
        if let Some(hold) = held.get::<Hold>() {
            tokio::time::sleep(PATIENCE).await;
            return match hold.tally().dropped() {
                0 => Effect::Unverifiable("no traffic of theirs came by".to_owned()),
                dropped => Effect::Confirmed(format!("{dropped} packets of theirs went no further")),
            };
        }
        let (Some(at), Some(Before(Some(before)))) = (reachable(site, &owed.reach), held.get::<Before>())
        else {
            return Effect::Unverifiable("there is nobody there whom we could try to reach".to_owned());
        };
        let figures = format!("a TCP handshake with {at} took {} before", say(*before));
        match connect_time(owed.reach.network(), at, PATIENCE).await {
            None => Effect::Confirmed(format!("{figures}, and none came about within {} now", say(PATIENCE))),
            Some(now) => Effect::Mismatch(format!("{figures} and {} now", say(now))),
        }
    }

    async fn spared(&self, _: &Site, _: &Queued, held: &Held) -> Option<Effect> {
        Queued::spared(held).await
    }

    fn harm(&self, site: &Site) -> String {
        let (whom, only) = between(site);
        format!("lets nothing {} {whom} through{only}", self.direction.said())
    }
}
