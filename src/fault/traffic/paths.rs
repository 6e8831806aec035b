//! Where packets are met: whichever end of the traffic is on this host, each way of it is met once.

use serde::{Deserialize, Serialize};

use crate::hands::rules::{Hook, Traffic};
use crate::host::socket::Protocol;
use crate::host::target::Endpoint;

/// Which way traffic is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Towards the target.
    To,
    /// From the target.
    From,
    /// Each way.
    Both,
}

impl Direction {
    /// As it stands in a sentence about packets.
    pub(in crate::fault) fn said(self) -> &'static str {
        match self {
            Self::To => "to",
            Self::From => "from",
            Self::Both => "to and from",
        }
    }
}

crate::words!(Direction, "direction", "to" => Self::To, "from" => Self::From, "both" => Self::Both);

/// Whose traffic to the target is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fault) enum Clients {
    /// Everybody's.
    Anyone,
    /// That from these endpoints.
    At(Vec<Endpoint>),
    /// That of everybody in this network.
    Here,
    /// That of processes in this network.
    Processes,
}

/// The rules for traffic to `target` and back, for what packets wait for. `here` says that the target is on this host,
/// being processes that listen: traffic to others on the same port is then left alone.
///
/// A packet on its way in is nobody's any more and can wait. A TCP segment held on its way *out* stays
/// charged to its sender, who then sends no more than about a millisecond's worth (TCP small queues,
/// tcp_small_queue_check in net/ipv4/tcp_output.c): 5 Mbit/s at 25 ms. So where only one end is on this
/// host, TCP is held on the way in, whichever way was asked: each round trip has exactly one such packet.
/// UDP is held the way that was asked, since it may have only that one.
pub(in crate::fault) fn waiting(
    direction: Direction,
    target: &[Endpoint],
    here: bool,
    clients: &Clients,
) -> Vec<Traffic> {
    rules(direction, target, here, clients, true)
}

/// The rules for traffic to `target` and back, each packet met on the way it goes: for what is no wait.
pub(in crate::fault) fn going(
    direction: Direction,
    target: &[Endpoint],
    here: bool,
    clients: &Clients,
) -> Vec<Traffic> {
    rules(direction, target, here, clients, false)
}

/// The rules for what asks `target` for a connection, each request met once.
pub(in crate::fault) fn opening(target: &[Endpoint], here: bool, clients: &Clients) -> Vec<Traffic> {
    // Of a whole network, both those that are asked for in it and those that it asks for.
    let direction = if target.contains(&Endpoint::ANYWHERE) { Direction::Both } else { Direction::To };
    let mut rules = going(direction, target, here, clients);
    rules.retain_mut(|rule| {
        rule.opens = true;
        rule.protocol == Protocol::Tcp
    });
    rules
}

fn rules(
    direction: Direction,
    target: &[Endpoint],
    here: bool,
    clients: &Clients,
    waits: bool,
) -> Vec<Traffic> {
    let from = match clients {
        Clients::At(endpoints) => endpoints.as_slice(),
        Clients::Anyone | Clients::Here | Clients::Processes => &[Endpoint::ANYWHERE],
    };
    let mut rules = Vec::new();
    for protocol in Protocol::ALL {
        for (target, client) in target.iter().flat_map(|target| from.iter().map(move |from| (*target, *from)))
        {
            let way = |hook, loopback, from, to| Traffic { hook, protocol, loopback, from, to, opens: false };
            let request = |hook, loopback| way(hook, loopback, client, target);
            let reply = |hook, loopback| way(hook, loopback, target, client);
            let (there, back) = (direction != Direction::From, direction != Direction::To);
            let inside = waits && protocol == Protocol::Tcp;
            // A network as a whole is the one end of all that goes in and out of it.
            let whole = target == Endpoint::ANYWHERE;
            let server_may_be_here = !matches!(clients, Clients::Here | Clients::Processes);
            let client_may_be_here = !here && !whole;
            if !whole {
                // Both ends are on this host: both ways come in over loopback.
                rules.extend(there.then(|| request(Hook::Input, Some(true))));
                rules.extend(back.then(|| reply(Hook::Input, Some(true))));
            }
            if server_may_be_here {
                rules.extend((there || inside).then(|| request(Hook::Input, Some(false))));
                rules.extend((back && !inside).then(|| reply(Hook::Output, Some(false))));
            }
            if client_may_be_here {
                rules.extend((back || inside).then(|| reply(Hook::Input, Some(false))));
                rules.extend((there && !inside).then(|| request(Hook::Output, Some(false))));
            }
            // Neither is: it passes through, to a container here or a network behind. A port alone is no reason
            // to touch what is others' business.
            if server_may_be_here && client_may_be_here && target.address.is_some() {
                rules.extend(there.then(|| request(Hook::Forward, None)));
                rules.extend(back.then(|| reply(Hook::Forward, None)));
            }
        }
    }
    rules
}

/// How often the delay is added to a packet that is held: a TCP packet coming in from elsewhere stands for
/// both ways when both were asked.
pub(in crate::fault) fn times(direction: Direction, hook: Hook, loopback: bool, protocol: Protocol) -> u32 {
    let stands_for_both = protocol == Protocol::Tcp && hook == Hook::Input && !loopback;
    if direction == Direction::Both && stands_for_both { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn at(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    fn within(rule: Endpoint, packet: Endpoint) -> bool {
        (rule.address.is_none() || rule.address == packet.address)
            && (rule.port.is_none() || rule.port == packet.port)
    }

    /// How often a packet's delay is added where it is met, the first rule that fits deciding.
    fn held(rules: &[Traffic], direction: Direction, met: &[(Hook, bool)], packet: &Traffic) -> u32 {
        met.iter()
            .filter(|(hook, loopback)| {
                rules.iter().any(|rule| {
                    rule.hook == *hook
                        && rule.protocol == packet.protocol
                        && rule.loopback.is_none_or(|wanted| wanted == *loopback)
                        && within(rule.from, packet.from)
                        && within(rule.to, packet.to)
                })
            })
            .map(|(hook, loopback)| times(direction, *hook, *loopback, packet.protocol))
            .sum()
    }

    /// One place two ends can be in, and where the kernel meets the request and the reply.
    struct Place {
        name: &'static str,
        request: &'static [(Hook, bool)],
        reply: &'static [(Hook, bool)],
    }

    const PLACES: [Place; 4] = [
        Place {
            name: "both here",
            request: &[(Hook::Output, true), (Hook::Input, true)],
            reply: &[(Hook::Output, true), (Hook::Input, true)],
        },
        Place { name: "server here", request: &[(Hook::Input, false)], reply: &[(Hook::Output, false)] },
        Place { name: "client here", request: &[(Hook::Output, false)], reply: &[(Hook::Input, false)] },
        Place { name: "passing", request: &[(Hook::Forward, false)], reply: &[(Hook::Forward, false)] },
    ];

    fn gains(
        rules: &[Traffic],
        direction: Direction,
        place: &Place,
        protocol: Protocol,
        server: &str,
    ) -> (u32, u32) {
        let (client, server) = (at("10.0.0.9:40000"), at(server));
        let packet =
            |from, to| Traffic { hook: Hook::Input, protocol, loopback: None, from, to, opens: false };
        (
            held(rules, direction, place.request, &packet(client, server)),
            held(rules, direction, place.reply, &packet(server, client)),
        )
    }

    #[test]
    fn a_round_trip_gains_the_delay_once_wherever_its_ends_are() {
        let port = Endpoint { address: None, port: Some(6379) };
        for target in [at("10.0.0.1:6379"), port, Endpoint { port: None, ..at("10.0.0.1:1") }] {
            for direction in [Direction::To, Direction::From, Direction::Both] {
                let rules = waiting(direction, &[target], false, &Clients::Anyone);
                for place in &PLACES {
                    if place.name == "passing" && target.address.is_none() {
                        continue;
                    }
                    for protocol in Protocol::ALL {
                        let (there, back) = gains(&rules, direction, place, protocol, "10.0.0.1:6379");
                        let wanted = if direction == Direction::Both { 2 } else { 1 };
                        let what = format!("{protocol:?} {direction:?} {target} {}", place.name);
                        assert_eq!(there + back, wanted, "{what}");
                        if protocol == Protocol::Udp {
                            let asked = (
                                u32::from(direction != Direction::From),
                                u32::from(direction != Direction::To),
                            );
                            assert_eq!((there, back), asked, "UDP has only the way it goes: {what}");
                        }
                        // TCP never waits on its way out.
                        let out = rules
                            .iter()
                            .any(|rule| rule.hook == Hook::Output && rule.protocol == Protocol::Tcp);
                        assert!(!out, "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_wait_is_met_once_on_its_own_way_whatever_carries_it() {
        for direction in [Direction::To, Direction::From, Direction::Both] {
            let rules = going(direction, &[at("10.0.0.1:6379")], false, &Clients::Anyone);
            for place in &PLACES {
                for protocol in Protocol::ALL {
                    let (client, server) = (at("10.0.0.9:40000"), at("10.0.0.1:6379"));
                    let packet = |from, to| Traffic {
                        hook: Hook::Input,
                        protocol,
                        loopback: None,
                        from,
                        to,
                        opens: false,
                    };
                    let met = |hooks, packet: &Traffic| held(&rules, Direction::To, hooks, packet);
                    let way = (
                        met(place.request, &packet(client, server)),
                        met(place.reply, &packet(server, client)),
                    );
                    let asked =
                        (u32::from(direction != Direction::From), u32::from(direction != Direction::To));
                    assert_eq!(way, asked, "{protocol:?} {direction:?} {}", place.name);
                }
            }
        }
    }

    #[test]
    fn all_of_a_network_is_met_once_as_it_goes_in_or_out_and_never_as_it_goes_round() {
        for direction in [Direction::To, Direction::From, Direction::Both] {
            let rules = waiting(direction, &[Endpoint::ANYWHERE], false, &Clients::Anyone);
            for place in &PLACES {
                let wanted = match (place.name, direction) {
                    ("both here" | "passing", _) => 0,
                    (_, Direction::Both) => 2,
                    _ => 1,
                };
                for protocol in Protocol::ALL {
                    let (there, back) = gains(&rules, direction, place, protocol, "10.0.0.1:6379");
                    assert_eq!(there + back, wanted, "{protocol:?} {direction:?} {}", place.name);
                }
            }
        }
    }

    #[test]
    fn other_traffic_gains_nothing() {
        let every = |rules: &[Traffic], direction, server: &str, wanted: u32, places: &[&str]| {
            for place in PLACES.iter().filter(|place| places.contains(&place.name)) {
                for protocol in Protocol::ALL {
                    let (there, back) = gains(rules, direction, place, protocol, server);
                    assert_eq!(there + back, wanted, "{} {protocol:?} {server}", place.name);
                }
            }
        };
        let all = ["both here", "server here", "client here", "passing"];
        let named = waiting(Direction::To, &[at("10.0.0.1:6379")], false, &Clients::Anyone);
        every(&named, Direction::To, "10.0.0.1:6380", 0, &all);
        every(&named, Direction::To, "10.0.0.2:6379", 0, &all);
        let port = Endpoint { address: None, port: Some(6379) };
        // What passes through is not touched for a port alone.
        every(
            &waiting(Direction::To, &[port], false, &Clients::Anyone),
            Direction::To,
            "10.0.0.1:6379",
            0,
            &["passing"],
        );
        // A process here is not its namesake elsewhere.
        let process = waiting(Direction::To, &[port], true, &Clients::Anyone);
        every(&process, Direction::To, "10.0.0.1:6379", 0, &["client here", "passing"]);
        every(&process, Direction::To, "10.0.0.1:6379", 1, &["both here", "server here"]);
        // Clients that are processes here cannot be elsewhere.
        let ours = waiting(Direction::To, &[port], false, &Clients::Processes);
        every(&ours, Direction::To, "10.0.0.1:6379", 0, &["server here", "passing"]);
        every(&ours, Direction::To, "10.0.0.1:6379", 1, &["both here", "client here"]);
        // Clients elsewhere, by address.
        for (client, gained) in [("10.0.0.9", 1), ("10.0.0.8", 0)] {
            let from = Endpoint { port: None, ..at(&format!("{client}:1")) };
            let rules = waiting(Direction::To, &[port], false, &Clients::At(vec![from]));
            every(
                &rules,
                Direction::To,
                "10.0.0.1:6379",
                gained,
                &["both here", "server here", "client here"],
            );
        }
    }
}
