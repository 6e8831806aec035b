//! Whom it may hurt: selectors, targets by name, the limits of the blast radius.

use std::net::{IpAddr, SocketAddr};

use regex::{Regex, RegexBuilder};

use super::draft::known_names;
use super::model::{BlastRadius, Limit};
use super::tables::{self, Aimed, Named};
use super::words::{CONTAINER, NETNS};
use crate::file::{Mistakes, Place, Placed, no_pattern};
use crate::host::container::Which;
use crate::host::target::{Endpoint, Netns, Pick, Selector, Target};
use crate::probe::{Aim as Look, AnyProbe};

/// A regular expression may take so much memory.
const MOST_PATTERN: usize = 1 << 20;

const SELECTORS: &[&str] = &[
    "service",
    "pid_file",
    "exe",
    "cmdline",
    "listen",
    "cgroup",
    "uid",
    "address",
    "port",
    "path",
    "unit",
    "container",
    "netns",
];

/// The names selectors may refer to.
pub(super) struct Names<'a> {
    pub services: Vec<&'a str>,
    pub hosts: Vec<&'a str>,
}

/// A target with the place of what says it.
#[derive(Debug, Clone)]
pub(super) struct Aim {
    pub target: Target,
    pub place: Place,
}

/// Reads what a fault says of its target: the selector itself, or the name of one.
pub(super) fn aimed(
    aimed: &Placed<Aimed>,
    targets: &Named<tables::Target>,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Aim> {
    let target = match aimed.value.as_ref()? {
        Aimed::Inline(table) => target(table, aimed.place, names, mistakes)?,
        Aimed::Named(name) => {
            let Some((key, table)) = targets.0.iter().find(|(key, _)| key.text == *name) else {
                let known = targets.0.iter().map(|(key, _)| key.text.as_str());
                let remedy = match known_names(name, known, "targets") {
                    remedy if targets.0.is_empty() => {
                        format!(
                            "{remedy}: write a [target.{name}], or a selector such as {{ service = \"{name}\" }}"
                        )
                    }
                    remedy => remedy,
                };
                mistakes.error(aimed.place, format!("there is no target `{name}`"), remedy);
                return None;
            };
            // Its own mistakes are told where it stands, once.
            target(table.as_ref()?, key.place, names, mistakes)?
        }
    };
    Some(Aim { target, place: aimed.place })
}

/// Reads whose processes a probe looks at, and whether its kind can.
pub(super) fn looked_at(
    probe: &tables::Probe,
    targets: &Named<tables::Target>,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Target> {
    const FINDS: &str =
        "find processes by service, unit, container, pid_file, exe, cmdline, listen, cgroup or uid";
    let kind = &probe.kind;
    let Some(said) = &probe.looking.target else {
        if probe.look.as_ref().is_some_and(|look| look.aim() == Look::Processes) {
            let what = "whose processes it looks at is not said";
            mistakes.error(
                kind.place,
                what,
                "add `target = { exe = \"redis-server\" }`, or the name of a [target]",
            );
        }
        return None;
    };
    let takes =
        probe.look.as_ref().map_or_else(|| AnyProbe::aims(&kind.text), |look| look.aim() != Look::Nothing);
    if !takes {
        mistakes.error(said.place, "what it looks at takes no `target`", "remove it");
        return None;
    }
    let target = aimed(said, targets, names, mistakes)?.target;
    if !target.selector.finds_processes() {
        let what = format!("it looks at processes, which `{}` does not name", target.selector);
        mistakes.error(said.place, what, FINDS);
        return None;
    }
    Some(target)
}

/// Reads a table that says who may be hurt.
pub(super) fn target(
    table: &tables::Target,
    place: Place,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Option<Target> {
    let before = mistakes.told();
    let mut said: Vec<(&str, Option<Selector>)> = Vec::new();
    let mut say = |word: &'static str, selector: Option<Selector>| said.push((word, selector));

    if let Some(service) = &table.service {
        say(
            "service",
            service.value.as_ref().and_then(|name| service_named(name, service.place, names, mistakes)),
        );
    }
    if let Some(path) = &table.pid_file {
        say("pid_file", path.value.clone().map(Selector::PidFile));
    }
    if let Some(exe) = &table.exe {
        say("exe", not_empty(exe, "program", mistakes).map(Selector::Exe));
    }
    if let Some(pattern) = &table.cmdline {
        say("cmdline", pattern.value.as_ref().and_then(|text| cmdline(text, pattern.place, mistakes)));
    }
    if let Some(port) = &table.listen {
        say("listen", port.value.map(|port| Selector::Listen(port.0)));
    }
    if let Some(cgroup) = &table.cgroup {
        say("cgroup", not_empty(cgroup, "cgroup", mistakes).map(Selector::Cgroup));
    }
    if let Some(uid) = &table.uid {
        say("uid", uid.value.map(|uid| Selector::Uid(uid.0)));
    }
    if let Some(unit) = &table.unit {
        say("unit", unit.value.as_ref().and_then(|name| unit_named(name, unit.place, mistakes)));
    }
    let which = table.container.as_ref().map(|text| container(text.value.as_ref()?, text.place, mistakes));
    match (which, &table.path) {
        (Some(which), Some(path)) => {
            say("path", which.zip(path.value.clone()).map(|(which, path)| Selector::Inside(which, path)));
        }
        (Some(which), None) => say("container", which.map(Selector::Container)),
        (None, Some(path)) => say("path", path.value.clone().map(Selector::Path)),
        (None, None) => {}
    }
    let netns = table.netns.as_ref().map(|text| netns(text.value.as_ref()?, text.place, mistakes));
    match (netns, endpoint(table, mistakes)) {
        (None, None) => {}
        (None, Some((word, end))) => say(
            word,
            end.and_then(|Endpoint { address, port }| match address {
                Some(address) => Some(Selector::Address(address, port)),
                None => port.map(Selector::Port),
            }),
        ),
        (Some(netns), end) => {
            let end = end.map_or(Some(Endpoint::ANYWHERE), |(_, end)| end);
            say("netns", netns.zip(end).map(|(netns, end)| Selector::Netns(netns, end)));
        }
    }

    let host = table.host.as_ref().map_or(Some(String::new()), |host| {
        let name = host.value.as_ref()?;
        host_named(name, host.place, names, mistakes)
    });
    match said.as_slice() {
        [] => mistakes.error(place, "it does not say who", format!("one of {}", SELECTORS.join(", "))),
        [_] => {}
        [(first, _), (second, _), ..] => mistakes.error(
            place,
            format!("it says who in two ways, `{first}` and `{second}`"),
            "leave one of them",
        ),
    }
    let pick = table.pick.as_ref().map_or(Some(Pick::Count(1)), |pick| pick.value);
    if let (Some(pick), [(word, _)]) = (&table.pick, said.as_slice())
        && matches!(*word, "address" | "port" | "path" | "netns")
    {
        mistakes.error(pick.place, format!("there is nothing to pick from one {word}"), "remove `pick`");
    }
    if mistakes.told() > before {
        return None;
    }
    let (_, selector) = said.pop()?;
    Some(Target { selector: selector?, pick: pick?, host: host? })
}

/// Reads the endpoint a table names, and by which word.
fn endpoint(table: &tables::Target, mistakes: &mut Mistakes) -> Option<(&'static str, Option<Endpoint>)> {
    let port = table.port.as_ref().map(|port| port.value.map(|port| port.0));
    let Some(text) = &table.address else {
        return port.map(|port| ("port", port.map(|port| Endpoint { address: None, port: Some(port) })));
    };
    let read = text.value.as_ref().and_then(|value| address(value, text.place, mistakes));
    let end = match (read, port.flatten()) {
        (Some((_, Some(_))), Some(_)) => {
            mistakes.error(
                text.place,
                "its port is said twice",
                "leave out `port`, or the port of `address`",
            );
            None
        }
        (read, port) => read.map(|(address, own)| Endpoint { address: Some(address), port: own.or(port) }),
    };
    Some(("address", end))
}

fn not_empty(text: &Placed<String>, called: &str, mistakes: &mut Mistakes) -> Option<String> {
    let value = text.value.as_ref()?;
    if value.trim().is_empty() {
        mistakes.error(text.place, format!("the {called} has no name"), "");
        return None;
    }
    Some(value.clone())
}

/// The types of unit that have processes or stand for some (systemd.unit(5)).
const UNIT_TYPES: &[&str] = &["service", "scope", "slice", "socket", "timer", "path"];
/// The longest name of a unit (systemd.unit(5)).
const LONGEST_UNIT: usize = 255;

/// A unit by its full name; without a type it is a service, as `systemctl` has it.
fn unit_named(name: &str, place: Place, mistakes: &mut Mistakes) -> Option<Selector> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let full = match name.rsplit_once('.') {
        Some((before, kind)) if UNIT_TYPES.contains(&kind) && !before.is_empty() => name.to_owned(),
        _ => format!("{name}.service"),
    };
    if name.is_empty() || full.len() > LONGEST_UNIT || !name.chars().all(allowed) {
        let remedy = "such as \"nginx.service\": `systemctl list-units` shows them";
        mistakes.error(place, format!("`{name}` is no unit of systemd"), remedy);
        return None;
    }
    if ["mount", "automount", "swap", "target", "device"]
        .iter()
        .any(|kind| name.ends_with(&format!(".{kind}")))
    {
        let what = format!("`{name}` is a unit without processes");
        mistakes.error(place, what, format!("name one of type {}", UNIT_TYPES.join(", ")));
        return None;
    }
    Some(Selector::Unit(full))
}

fn service_named(name: &str, place: Place, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Selector> {
    if names.services.contains(&name) {
        return Some(Selector::Service(name.to_owned()));
    }
    let remedy = known_names(name, names.services.iter().copied(), "services");
    let remedy = if names.services.is_empty() {
        format!("{remedy}: `service` is one that the experiment starts; find others by `listen`, `exe`, ...")
    } else {
        remedy
    };
    mistakes.error(place, format!("there is no service `{name}`"), remedy);
    None
}

fn host_named(name: &str, place: Place, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<String> {
    if names.hosts.contains(&name) {
        return Some(name.to_owned());
    }
    let remedy = known_names(name, names.hosts.iter().copied(), "hosts");
    mistakes.error(place, format!("there is no host `{name}`"), remedy);
    None
}

fn container(text: &str, place: Place, mistakes: &mut Mistakes) -> Option<Which> {
    Which::parse(text).map_err(|why| mistakes.error(place, why, CONTAINER)).ok()
}

fn netns(text: &str, place: Place, mistakes: &mut Mistakes) -> Option<Netns> {
    Netns::parse(text).map_err(|why| mistakes.error(place, why, NETNS)).ok()
}

fn cmdline(text: &str, place: Place, mistakes: &mut Mistakes) -> Option<Selector> {
    let pattern: Result<Regex, _> = RegexBuilder::new(text).size_limit(MOST_PATTERN).build();
    match pattern {
        Ok(pattern) if pattern.is_match("") => {
            let remedy = "name a part of the command line that only its processes have";
            mistakes.error(place, format!("`{text}` matches every process"), remedy);
            None
        }
        Ok(pattern) => Some(Selector::Cmdline(pattern)),
        Err(why) => {
            let why = no_pattern(&why);
            mistakes.error(place, format!("`{text}` is no regular expression: {why}"), "");
            None
        }
    }
}

fn address(text: &str, place: Place, mistakes: &mut Mistakes) -> Option<(IpAddr, Option<u16>)> {
    let text = text.trim();
    let parsed = text.parse::<SocketAddr>().map(|socket| (socket.ip(), Some(socket.port()))).or_else(|_| {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse::<IpAddr>().map(|address| (address, None))
    });
    match parsed {
        Ok((_, Some(0))) => mistakes.error(place, format!("`{text}` has no port"), "a number from 1 to 65535"),
        Ok((address, _)) if address.is_unspecified() => mistakes.error(
            place,
            format!("nothing is sent to `{address}`"),
            "name the address that is connected to, or only a `port`",
        ),
        Ok(found) => return Some(found),
        Err(_) => mistakes.error(
            place,
            format!("`{text}` is no address"),
            "an IP address with or without a port, such as \"10.0.0.7:6379\" or \"[::1]:6379\"; names are not looked up",
        ),
    }
    None
}

/// Reads the limits of the blast radius.
pub(super) fn blast_radius(
    table: &tables::BlastRadius,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> BlastRadius {
    let mut limits = |texts: &[Placed<String>]| -> Vec<Limit> {
        texts.iter().filter_map(|text| limit(text.value.as_ref()?, text.place, names, mistakes)).collect()
    };
    BlastRadius {
        only: limits(&table.only),
        never: limits(&table.never),
        also: limits(&table.also),
        max_targets: table.max_targets.as_ref().and_then(|most| most.value).map(|most| most.0),
        window: table.window.clone(),
        confirm: table.confirm.clone(),
    }
}

/// `HOST: SELECTOR VALUE` or `SELECTOR VALUE`.
fn limit(text: &str, place: Place, names: &Names<'_>, mistakes: &mut Mistakes) -> Option<Limit> {
    let (host, rest) = match text.split_once(": ") {
        Some((host, rest)) if !host.trim().contains(char::is_whitespace) => (Some(host.trim()), rest),
        _ => (None, text),
    };
    let host = match host {
        Some(host) => Some(host_named(host, place, names, mistakes)?),
        None => None,
    };
    let remedy = "such as \"listen 5432\", \"exe postgres\" or \"app-07: cgroup /system.slice/db.service\"";
    let Some((word, value)) = rest.trim().split_once(char::is_whitespace) else {
        mistakes.error(place, format!("`{text}` does not say who"), remedy);
        return None;
    };
    let value = value.trim();
    let selector = match word {
        "service" => service_named(value, place, names, mistakes),
        "pid_file" => Some(Selector::PidFile(value.into())),
        "exe" => Some(Selector::Exe(value.to_owned())),
        "cmdline" => cmdline(value, place, mistakes),
        "cgroup" => Some(Selector::Cgroup(value.to_owned())),
        "path" => Some(Selector::Path(value.into())),
        "address" => address(value, place, mistakes).map(|(address, port)| Selector::Address(address, port)),
        "listen" | "port" => match value.parse() {
            Ok(0) | Err(_) => {
                mistakes.error(place, format!("`{value}` is no port"), "a number from 1 to 65535");
                None
            }
            Ok(port) if word == "listen" => Some(Selector::Listen(port)),
            Ok(port) => Some(Selector::Port(port)),
        },
        "uid" => {
            let uid = value.parse().ok();
            if uid.is_none() {
                mistakes.error(
                    place,
                    format!("`{value}` is no user id"),
                    "a number, as `id -u NAME` prints it",
                );
            }
            uid.map(Selector::Uid)
        }
        "container" => container(value, place, mistakes).map(Selector::Container),
        "netns" => netns(value, place, mistakes).map(|netns| Selector::Netns(netns, Endpoint::ANYWHERE)),
        "unit" => unit_named(value, place, mistakes),
        other => {
            let what = format!("`{other}` is no way of finding a target");
            mistakes.error(place, what, known_names(other, SELECTORS.iter().copied(), "known"));
            None
        }
    };
    Some(Limit { host, selector: selector? })
}
