//! The engine's hands and eyes: finds targets, and prepares what a fault finds at hand.

use std::path::PathBuf;
use std::sync::Arc;

use super::services::Services;
use crate::base::{Dice, RunId};
use crate::experiment::Experiment;
use crate::experiment::model::{BlastRadius, Fault, Limit};
use crate::fault::{Aim, Refusal, Site};
use crate::hands::Heartbeat;
use crate::host::guarded::{self, CameBy};
use crate::host::network::Network;
use crate::host::process::{Identity, Process};
use crate::host::socket::Namespace;
use crate::host::target::{self, Endpoint, Found, NotFound, Pick, Selector, Target};

/// What a file means that does not say how many.
const ONE: Pick = Pick::Count(1);

/// This machine, as a run sees it.
#[derive(Clone)]
pub struct World {
    /// The run.
    pub run: RunId,
    /// Chance, seeded.
    pub dice: Dice,
    /// Us.
    pub holder: Identity,
    /// The heartbeat of whoever decides.
    pub heartbeat: Heartbeat,
    /// What the experiment itself started.
    pub services: Services,
    /// What is asked.
    pub experiment: Arc<Experiment>,
}

impl World {
    /// What a fault finds at hand for its `nth` injection, targets drawn anew.
    ///
    /// # Errors
    /// When a target cannot be looked for, or lies outside the blast radius.
    pub fn site(&self, fault: &Fault, nth: u32) -> Result<Site, Refusal> {
        let refuse =
            |why: String, remedy: &str| Refusal { fault: fault.name.clone(), why, remedy: remedy.to_owned() };
        let decision = fault.pick_of(nth);
        let whole = fault.harm.aim().is_whole();
        let find = |target: &Option<Target>, decision: &str| -> Result<Option<Found>, Refusal> {
            let Some(target) = target else { return Ok(None) };
            let pick = if whole { Pick::All } else { target.pick };
            let target = &Target { pick, ..target.clone() };
            let found =
                self.find(target, decision).map_err(|NotFound { why, remedy }| refuse(why, &remedy))?;
            allowed(&self.experiment.blast_radius, target, &found, self)
                .map_err(|why| refuse(why, "change [blast_radius], or the target"))?;
            Ok(Some(found))
        };
        let mut target = find(&fault.target, &decision)?;
        if let (Some(found), Some(Target { selector: Selector::Unit(_), pick: ONE, .. })) =
            (&mut target, &fault.target)
            && !fault.harm.lasting()
            && !whole
        {
            // A unit is killed by its main process: the oldest, as a rule.
            found.processes.truncate(1);
        }
        if let (Some(found), Some(Target { selector: Selector::Service(name), pick: ONE, .. })) =
            (&mut target, &fault.target)
            && !fault.harm.lasting()
        {
            // A service is killed by its main process, and it is its own affair what becomes of the others.
            found.processes = self.services.main(name).into_iter().collect();
        }
        if let (Some(found), false) = (&mut target, fault.harm.lasting()) {
            found.only_main();
        }
        // Counted again each time: there may be more of them than when the plan was made.
        if let (Some(found), Some(most)) = (&target, self.experiment.blast_radius.max_targets)
            && !is_one(fault)
            && found.count() > most as usize
        {
            let why = format!("{} targets fit, and [blast_radius] max_targets is {most}", found.count());
            return Err(refuse(why, "pick fewer, or raise it"));
        }
        let from = find(&fault.from, &format!("{decision}.from"))?;
        // It is met where those are whose traffic it is, else where the target is.
        let place = |found: &Found| found.network().map_err(|NotFound { why, remedy }| refuse(why, &remedy));
        let mut network = None;
        if matches!(fault.harm.aim(), Aim::Traffic | Aim::Lookups) {
            network = from.as_ref().map(place).transpose()?.flatten();
        }
        if let (Some(asked), Some(found)) = (&fault.target, &target)
            && fault.harm.aim() == Aim::Traffic
        {
            if network.is_none() {
                network = place(found)?;
            }
            // Elsewhere nobody came by it.
            if network.as_ref().is_none_or(Network::is_the_hosts) {
                spares_us(&self.experiment.blast_radius, asked, found, from.as_ref()).map_err(|why| {
                    refuse(why, "narrow it by an address or by `from`, or name it in [blast_radius] `also`, such as \"port 22\"")
                })?;
            }
        }
        Ok(Site {
            run: self.run,
            fault: fault.name_of(nth),
            dice: self.dice,
            host: fault.target.as_ref().map(|target| target.host.clone()).unwrap_or_default(),
            target: target.unwrap_or_default(),
            from,
            network,
            hold: fault.hold.unwrap_or_default(),
            holder: self.holder.clone(),
            heartbeat: self.heartbeat.clone(),
            directory: self.experiment.directory.clone(),
        })
    }

    /// Whether what a fault hit is there again: a service of ours is ready with another main process; of others
    /// `most` processes, as many as were hit at one time, are found by the selector, none of them one of the `hit`.
    #[must_use]
    pub fn is_back(&self, fault: &Fault, hit: &[Identity], most: usize) -> bool {
        let Some(target) = &fault.target else { return false };
        if let Selector::Service(name) = &target.selector {
            return self.services.is_back(name, hit);
        }
        let all = Target { pick: Pick::All, ..target.clone() };
        self.find(&all, "back").is_ok_and(|found| {
            let fresh = found.processes.iter().filter(|process| !hit.contains(process.identity()));
            fresh.count() >= most
        })
    }

    /// Finds a target; a service of ours is found among what we started.
    ///
    /// # Errors
    /// When a pid file cannot be read, or a container cannot be had.
    pub fn find(&self, target: &Target, decision: &str) -> Result<Found, NotFound> {
        if let Selector::Service(name) = &target.selector {
            let mut found = Found { said: format!("service {name}"), ..Found::default() };
            // A service is one target, whatever it consists of: unless said otherwise, all of it.
            let pick = if target.pick == ONE { Pick::All } else { target.pick };
            found.processes = target::pick(self.services.members(name), pick, &self.dice, decision);
            found.endpoints = self.services.endpoints(name);
            return Ok(found);
        }
        let also = self.also(&target.host)?;
        let left_alone = |process: &Process| match guarded::guarded(process.identity().pid) {
            Some(why) if !also.contains(process.identity()) => Some(why),
            _ => None,
        };
        let whole = target.pick == ONE && matches!(target.selector, Selector::Unit(_)); // As a service is.
        let pick = if whole { Pick::All } else { target.pick };
        target::find(&Target { pick, ..target.clone() }, &self.dice, decision, &left_alone)
    }

    /// The processes that may be hurt although a host cannot do without them.
    fn also(&self, host: &str) -> Result<Vec<Identity>, NotFound> {
        let mut also = Vec::new();
        for limit in self.experiment.blast_radius.also.iter().filter(|limit| limit.is_on(host)) {
            let whole = Target { selector: limit.selector.clone(), pick: Pick::All, host: host.to_owned() };
            let found = target::find(&whole, &self.dice, "also", &|_| None)?;
            also.extend(found.processes.iter().map(|process| process.identity().clone()));
        }
        Ok(also)
    }
}

/// Whether what a fault hurts counts as one target, however many processes it has: a service, a unit, a cgroup that
/// is hurt as a whole.
pub(super) fn is_one(fault: &Fault) -> bool {
    matches!(fault.target, Some(Target { selector: Selector::Service(_) | Selector::Unit(_), .. }))
        || fault.harm.aim().is_whole()
}

/// Whether a network fault spares the connections by which we came to this host; why not, if not.
fn spares_us(
    radius: &BlastRadius,
    target: &Target,
    found: &Found,
    from: Option<&Found>,
) -> Result<(), String> {
    // Processes that it is narrowed to are none of ours: who leads to us is never found.
    if from.is_some_and(|from| !from.processes.is_empty()) {
        return Ok(());
    }
    let meets = |found: &Found, came: &CameBy| found.endpoints.iter().any(|endpoint| came.meets(endpoint));
    let agreed = |came: &CameBy| {
        radius.also.iter().filter(|limit| limit.is_on(&target.host)).any(|limit| match limit.selector {
            Selector::Port(port) => port == came.ours.port() || port == came.theirs.port(),
            Selector::Address(address, port) => came.meets(&Endpoint { address: Some(address), port }),
            _ => false,
        })
    };
    let hit = guarded::came_by()
        .into_iter()
        .find(|came| meets(found, came) && from.is_none_or(|from| meets(from, came)) && !agreed(came));
    match hit {
        Some(CameBy { theirs, ours }) => {
            Err(format!("{} is the ssh connection you came by, from {theirs} to {ours}", found.said))
        }
        None => Ok(()),
    }
}

/// Whether a target lies within the blast radius; why not, if not. Processes are compared one by one, with
/// all that the limits name; endpoints and places by what they are.
fn allowed(radius: &BlastRadius, target: &Target, found: &Found, world: &World) -> Result<(), String> {
    let on_its_host = |limit: &&Limit| limit.is_on(&target.host);
    let names = |limit: &Limit| -> Result<Named, String> {
        let whole = Target { selector: limit.selector.clone(), pick: Pick::All, host: target.host.clone() };
        let found = world.find(&whole, "limit").map_err(|why| why.why)?;
        let processes = found.processes.iter().map(|process| process.identity().clone()).collect();
        let network = network_of(&found)?;
        Ok(Named { selector: limit.selector.to_string(), processes, network, found })
    };
    let all = |limits: &[Limit]| limits.iter().filter(on_its_host).map(names).collect::<Result<Vec<_>, _>>();
    let (only, never) = (all(&radius.only)?, all(&radius.never)?);
    let network = network_of(found)?;
    let things = things(target, found, network);
    // Who hurts a process hurts the traffic to it, and the other way round.
    let traffic = found.endpoints.iter().map(|endpoint| Thing::Traffic(*endpoint, network));
    let traffic = traffic.filter(|_| !found.processes.is_empty());
    for thing in things.iter().chain(&traffic.collect::<Vec<_>>()) {
        if let Some(limit) = never.iter().find(|limit| limit.touches(thing)) {
            return Err(format!("{} is never to be hurt ({})", thing.said(), limit.selector));
        }
    }
    for thing in &things {
        if !radius.only.is_empty() && !only.iter().any(|limit| limit.covers(thing)) {
            return Err(format!("{} is outside of what may be hurt", thing.said()));
        }
    }
    Ok(())
}

/// The network namespace that something is in, if it is in one.
fn network_of(found: &Found) -> Result<Option<Namespace>, String> {
    Ok(found.network().map_err(|why| why.why)?.map(|network| network.namespace()))
}

/// What a limit of the blast radius names.
struct Named {
    selector: String,
    processes: Vec<Identity>,
    network: Option<Namespace>,
    found: Found,
}

/// One thing that would be hurt.
enum Thing {
    Process(Identity),
    /// To an endpoint, in that network; in whichever when it is not said.
    Traffic(Endpoint, Option<Namespace>),
    Place(PathBuf),
    /// A service that is not there yet, or a unit that has no process.
    Named(String),
}

fn things(target: &Target, found: &Found, network: Option<Namespace>) -> Vec<Thing> {
    if let (Selector::Service(_) | Selector::Unit(_), true) = (&target.selector, found.processes.is_empty()) {
        return vec![Thing::Named(target.selector.to_string())];
    }
    if !found.processes.is_empty() {
        return found.processes.iter().map(|process| Thing::Process(process.identity().clone())).collect();
    }
    let places = found.place.iter().cloned().map(Thing::Place);
    let traffic = found.endpoints.iter().map(|endpoint| Thing::Traffic(*endpoint, network));
    traffic.chain(places).collect()
}

impl Thing {
    fn said(&self) -> String {
        match self {
            Self::Process(identity) => format!("process {}", identity.pid),
            Self::Traffic(endpoint, _) => format!("traffic to {endpoint}"),
            Self::Place(path) => path.display().to_string(),
            Self::Named(name) => name.clone(),
        }
    }
}

impl Named {
    /// Whether the network of some traffic may be that of this. What names a network means that alone.
    fn may_be_in(&self, network: Option<Namespace>) -> bool {
        match (self.network, network) {
            (Some(limit), Some(network)) => limit == network,
            (Some(_), None) => self.found.netns.is_none(),
            (None, _) => true,
        }
    }

    /// Whether hurting the thing may hurt something of this.
    fn touches(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Place(path) => {
                let limit = self.found.place.as_ref();
                limit.is_some_and(|limit| path.starts_with(limit) || limit.starts_with(path))
            }
            Thing::Traffic(wanted, network) => {
                self.may_be_in(*network)
                    && self.found.endpoints.iter().any(|limit| {
                        // Who listens everywhere listens on every address.
                        let one = |endpoint: &Endpoint| {
                            endpoint.address.filter(|address| !address.is_unspecified())
                        };
                        let address =
                            one(limit).zip(one(wanted)).is_none_or(|(limit, wanted)| limit == wanted);
                        address && limit.port.zip(wanted.port).is_none_or(|(limit, wanted)| limit == wanted)
                    })
            }
            Thing::Process(_) | Thing::Named(_) => self.covers(thing),
        }
    }

    /// Whether the thing lies wholly within this.
    fn covers(&self, thing: &Thing) -> bool {
        match thing {
            Thing::Process(identity) => self.processes.contains(identity),
            Thing::Named(name) => self.selector == *name,
            Thing::Place(path) => self.found.place.as_ref().is_some_and(|limit| path.starts_with(limit)),
            Thing::Traffic(wanted, network) => {
                self.may_be_in(*network)
                    && self.found.endpoints.iter().any(|limit| {
                        limit.address.is_none_or(|address| wanted.address == Some(address))
                            && limit.port.is_none_or(|port| wanted.port == Some(port))
                    })
            }
        }
    }
}
