//! From the tables to the model: names become places, and every part is judged with the others.

use std::path::Path;

use super::aims::{self, Names};
use super::draft::known_names;
use super::fill::Filler;
use super::model::{self, Experiment, Late};
use super::promises;
use super::tables::{self, File, Named};
use super::timeline;
use super::words::{Arrivals, Restart};
use crate::base::{Rate, unit};
use crate::file::{Fields, Key, Mistakes, Node, Place, Placed};
use crate::host::standpoint::Standpoint;
use crate::host::target::Target;
use crate::probe::{Rhythm, Spread};

/// Reads the one table that a file and its includes make. `None` after mistakes; they are told.
pub(super) fn experiment(
    root: &Node,
    directory: &Path,
    filler: &Filler<'_>,
    mistakes: &mut Mistakes,
) -> Option<Experiment> {
    let mut fields = Fields::open(root, "this file", mistakes)?;
    let file = File::take(&mut fields, mistakes);
    fields.close(mistakes);
    let file = file?;

    if file.title.is_none() {
        mistakes.whole("the experiment has no title", "begin the file with `title = \"what it proves\"`");
    }
    for (_, host) in &file.host.0 {
        if let Some(ssh) = host.as_ref().map(|host| &host.ssh) {
            let remedy = "run brownout on that machine, with targets that name no host";
            mistakes.error(ssh.place, "hosts over ssh are not in this version yet", remedy);
        }
    }
    let names = Names { services: words(&file.service), hosts: words(&file.host) };
    let services = services(&file.service, filler, mistakes);
    for (name, target) in &file.target.0 {
        if let Some(target) = target {
            aims::target(target, name.place, &names, mistakes);
        }
    }
    let blast_radius =
        file.blast_radius.value.as_ref().map(|table| aims::blast_radius(table, &names, mistakes));

    let looks: Vec<Look> = file
        .probe
        .0
        .iter()
        .map(|(name, probe)| look(name, probe.as_ref(), &file, &names, mistakes))
        .collect();
    for (name, place) in &filler.counted {
        if places(&looks, name).is_empty() {
            let known = looks.iter().map(|look| look.name.as_str());
            let what = format!("`${{probe.{name}...}}`: there is no probe `{name}`");
            mistakes.error(*place, what, known_names(name, known, "probes"));
        }
    }
    let harms = timeline::harms(&file, &names, mistakes);
    let length = timeline::judge(&harms, &file, mistakes);
    let slos = promises::slos(&file.slo, &looks, &harms, mistakes);
    let expects = promises::expects(&file.expect, &looks, &harms, mistakes);
    promises::judge(&file, &looks, &slos, &expects, length, mistakes);
    if let Some(blast_radius) = &blast_radius {
        timeline::judge_blast_radius(&harms, blast_radius, mistakes);
    }

    let guard = file.guard.value?;
    let value = |placed: &Option<Placed<String>>| placed.as_ref().and_then(|placed| placed.value.clone());
    Some(Experiment {
        title: file.title?.value?,
        hypothesis: value(&file.hypothesis),
        owner: value(&file.owner),
        tags: file.tags.value?,
        seed: file.seed.and_then(|seed| seed.value),
        services,
        probes: probes(file.probe, looks, filler)?,
        slos: slos.into_iter().map(|slo| slo.slo).collect(),
        expects,
        steady_for: file.steady_state.value?.r#for.value?,
        guard: model::Guard {
            budget: guard.budget.and_then(|budget| budget.value),
            false_abort: guard.false_abort.value?,
            kill_switch: guard.kill_switch,
        },
        faults: timeline::faults(file.fault, harms)?,
        recovery_within: file.recovery.value?.within.value?,
        proof: file.verdict.value?.proof,
        blast_radius: blast_radius?,
        max_duration: file.max_duration.and_then(|most| most.value),
        directory: directory.to_owned(),
    })
}

/// The names of a section.
fn words<T>(named: &Named<T>) -> Vec<&str> {
    named.0.iter().map(|(key, _)| key.text.as_str()).collect()
}

/// When and how a probe looks, whether or not its kind's own part is right.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub name: String,
    pub place: Place,
    pub rhythm: Option<Rhythm>,
    pub once: Option<model::Once>,
    pub timeout: std::time::Duration,
    pub in_flight: u32,
    pub retries: u32,
    pub observe_only: bool,
    pub from: Option<Standpoint>,
    pub target: Option<Target>,
    /// Its table was wrong: what it lacks is no further mistake.
    pub broken: bool,
}

fn look(
    name: &Key,
    probe: Option<&tables::Probe>,
    file: &File,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Look {
    let mut look = Look {
        name: name.text.clone(),
        place: name.place,
        rhythm: None,
        once: None,
        timeout: std::time::Duration::from_secs(1),
        in_flight: 1000,
        retries: 0,
        observe_only: false,
        from: None,
        target: None,
        broken: true,
    };
    let Some(probe @ tables::Probe { looking, kind, .. }) = probe else { return look };
    look.place = kind.place;
    look.broken = false;
    look.observe_only = looking.role.is_some();
    look.retries = looking.retries;
    look.target = aims::looked_at(probe, &file.target, names, mistakes);
    look.in_flight = looking.in_flight.value.map_or(1000, |most| most.0);
    look.from = standpoint(looking, &kind.text, mistakes);
    if let Some(control) = &looking.control_of {
        let what = "telling the cause apart with `control_of` is not in this version yet";
        mistakes.error(control.place, what, "remove it: the probe is then one like any other");
    }
    match looking.timeout.value {
        Some(timeout) if timeout.is_zero() => {
            mistakes.error(
                looking.timeout.place,
                "every look would be too late",
                "give it a `timeout` above zero",
            );
        }
        Some(timeout) => look.timeout = timeout,
        None => {}
    }
    let every = looking.every.as_ref().map(|every| {
        let rate = every.value.and_then(|every| Rate::per_second(1.0 / every.as_secs_f64()));
        if every.value.is_some_and(|every| every.as_secs_f64() < 1e-6) {
            mistakes.error(
                every.place,
                "it cannot look more than a million times a second",
                "such as \"50ms\"",
            );
        }
        rate
    });
    let every = every.flatten().map(|rate| tables::Pace { rate, ramp: None });
    let pace = looking.rate.as_ref().and_then(|rate| rate.value).or(every);
    look.rhythm = pace.map(|pace| rhythm(pace, looking, mistakes));
    look.once = looking.once.as_ref().and_then(|once| once.value);
    let said: Vec<(&str, Place)> = [
        ("rate", looking.rate.as_ref().map(|rate| rate.place)),
        ("every", looking.every.as_ref().map(|every| every.place)),
        ("once", looking.once.as_ref().map(|once| once.place)),
    ]
    .into_iter()
    .filter_map(|(word, place)| Some((word, place?)))
    .collect();
    match said.as_slice() {
        [] => mistakes.error(
            kind.place,
            "how often it looks is not said",
            "add `rate = \"20/s\"`, `every = \"50ms\"`, or `once = \"after\"` for a check",
        ),
        [_] => {}
        [(first, there), (second, place), ..] => mistakes.clash(
            *place,
            format!("how often it looks is said by `{first}` and by `{second}`"),
            "leave one of them",
            *there,
            format!("`{first}` stands here"),
        ),
    }
    if let Some(once) = &looking.once {
        let arrivals = looking.arrivals.as_ref().map(|arrivals| ("arrivals", arrivals.place));
        let jitter = looking.jitter.as_ref().map(|jitter| ("jitter", jitter.place));
        for (word, place) in arrivals.into_iter().chain(jitter) {
            let what = format!("a check that is made once has no `{word}`");
            mistakes.clash(place, what, format!("remove `{word}`"), once.place, "`once` stands here");
        }
    }
    if let Some(rhythm) = look.rhythm {
        let together = rhythm.highest().hertz() * look.timeout.as_secs_f64();
        if together > f64::from(look.in_flight) {
            mistakes.warn(
                kind.place,
                format!(
                    "when nothing answers, {:.0} looks are under way at a time and only {} may be: the rest is missed, \
                     which proves nothing",
                    together.ceil(),
                    look.in_flight
                ),
                "raise `in_flight`, or lower `rate` or `timeout`",
            );
        }
    }
    look
}

/// How a probe that looks at some pace does so.
fn rhythm(pace: tables::Pace, looking: &tables::Looking, mistakes: &mut Mistakes) -> Rhythm {
    let tables::Pace { rate, ramp } = pace;
    let late = looking.jitter.as_ref().and_then(|jitter| jitter.value).unwrap_or_default();
    let poisson = looking.arrivals.as_ref().filter(|arrivals| arrivals.value == Some(Arrivals::Poisson));
    let spread = if poisson.is_some() { Spread::Poisson } else { Spread::Even(late) };
    let rhythm = Rhythm { rate, ramp, spread };
    let shortest = rhythm.highest().interval();
    match (&looking.jitter, poisson) {
        (Some(jitter), Some(arrivals)) => mistakes.clash(
            jitter.place,
            "arrivals by chance have no grid to be late on",
            "remove `jitter`",
            arrivals.place,
            "`arrivals` stands here",
        ),
        (Some(jitter), None) if late > shortest => mistakes.error(
            jitter.place,
            format!("a look could be due after the next one: they are {} apart", unit::say(shortest)),
            "a shorter `jitter`, or `arrivals = \"poisson\"`",
        ),
        _ => {}
    }
    rhythm
}

/// Where a probe looks from, when that is not here.
fn standpoint(looking: &tables::Looking, kind: &str, mistakes: &mut Mistakes) -> Option<Standpoint> {
    let said = looking.netns.as_ref().map(|netns| netns.place);
    let said = said.or(looking.container.as_ref().map(|container| container.place));
    if let (Some(place), "host") = (said, kind) {
        mistakes.error(place, "`host` looks at this machine", "leave it out, or name a `target`");
    }
    match (&looking.netns, &looking.container) {
        (Some(netns), Some(container)) => {
            mistakes.clash(
                container.place,
                "where it looks from is said by `netns` and by `container`",
                "leave one of them",
                netns.place,
                "`netns` stands here",
            );
            None
        }
        (Some(netns), None) => {
            if matches!(kind, "file" | "log") {
                let remedy = "leave it out, or name a `container`";
                mistakes.error(netns.place, "a file is the same from every network", remedy);
            }
            netns.value.clone().map(Standpoint::Network)
        }
        (None, container) => container.as_ref()?.value.clone().map(Standpoint::Container),
    }
}

/// The places of the probes a name stands for: one, or all that `each` made of it.
pub(super) fn places(looks: &[Look], name: &str) -> Vec<usize> {
    let made = |look: &Look| look.name.split_once('.').is_some_and(|(base, _)| base == name);
    looks.iter().enumerate().filter(|(_, look)| look.name == name || made(look)).map(|(n, _)| n).collect()
}

fn probes(tables: Named<tables::Probe>, looks: Vec<Look>, filler: &Filler<'_>) -> Option<Vec<model::Probe>> {
    tables
        .0
        .into_iter()
        .zip(looks)
        .map(|((_, probe), look)| {
            let probe = probe?;
            let counts = filler.counts_in(&probe.node);
            Some(model::Probe {
                name: look.name,
                place: look.place,
                look: probe.look?,
                target: look.target,
                late: counts.then_some(Late { kind: probe.kind.text, table: probe.node }),
                rhythm: look.rhythm,
                once: look.once,
                timeout: look.timeout,
                in_flight: look.in_flight,
                retries: look.retries,
                observe_only: look.observe_only,
                from: look.from,
            })
        })
        .collect()
}

fn services(
    named: &Named<tables::Service>,
    filler: &Filler<'_>,
    mistakes: &mut Mistakes,
) -> Vec<model::Service> {
    let mut read: Vec<Option<model::Service>> = Vec::new();
    let mut needs: Vec<Vec<usize>> = Vec::new();
    for (name, table) in &named.0 {
        let mut needed = Vec::new();
        for need in table.iter().flat_map(|table| &table.needs) {
            let Some(text) = &need.value else { continue };
            if let Some(at) = named.0.iter().position(|(other, _)| other.text == *text) {
                needed.push(at);
            } else {
                let known = words(named).into_iter().filter(|word| *word != name.text);
                let remedy = known_names(text, known, "other services");
                mistakes.error(need.place, format!("there is no service `{text}`"), remedy);
            }
        }
        needs.push(needed);
        read.push(table.as_ref().and_then(|table| service(name, table, filler, mistakes)));
    }
    match in_order(&needs) {
        Ok(order) => order.into_iter().filter_map(|at| read[at].take()).collect(),
        Err(circle) => {
            let shown: Vec<&str> = circle.iter().map(|at| named.0[*at].0.text.as_str()).collect();
            let place = named.0[circle[0]].0.place;
            let what = format!("services need one another: {}", shown.join(" -> "));
            mistakes.error(place, what, "break the circle of `needs`");
            Vec::new()
        }
    }
}

/// An order in which what is needed comes first, else a circle (its first is also its last).
pub(super) fn in_order(needs: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order: Vec<usize> = Vec::with_capacity(needs.len());
    let mut done = vec![false; needs.len()];
    // The way from a start to where we are, with the next need to look at: no recursion, whatever is asked.
    for start in 0..needs.len() {
        let mut way: Vec<(usize, usize)> = if done[start] { Vec::new() } else { vec![(start, 0)] };
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            let Some(&need) = needs[at].get(*next) else {
                done[at] = true;
                order.push(at);
                way.pop();
                continue;
            };
            *next += 1;
            if let Some(from) = way.iter().position(|(on_the_way, _)| *on_the_way == need) {
                let mut circle: Vec<usize> = way[from..].iter().map(|(at, _)| *at).collect();
                circle.push(need);
                return Err(circle);
            }
            if !done[need] {
                way.push((need, 0));
            }
        }
    }
    Ok(order)
}

fn service(
    name: &Key,
    table: &tables::Service,
    filler: &Filler<'_>,
    mistakes: &mut Mistakes,
) -> Option<model::Service> {
    let command = |words: &[String], place: Place, word: &str, mistakes: &mut Mistakes| {
        if words.first().is_none_or(String::is_empty) {
            let remedy =
                "a list of words, the program first: [\"redis-server\", \"--port\", \"${self.port}\"]";
            mistakes.error(place, format!("`{word}` names no program"), remedy);
        }
    };
    if let Some(run) = &table.run.value {
        command(run, table.run.place, "run", mistakes);
    }
    let setup = table.setup.as_ref().and_then(|setup| Some((setup.value.clone()?, setup.place)));
    if let Some((setup, place)) = &setup {
        command(setup, *place, "setup", mistakes);
    }
    for word in table.env.keys().filter(|word| word.is_empty() || word.contains(['=', '\0'])) {
        let what = format!("`{}` is no variable of an environment", word.escape_debug());
        mistakes.error(name.place, what, "no `=`, and not empty");
    }
    let texts = table.run.value.iter().flatten().chain(setup.iter().flat_map(|(words, _)| words));
    if texts.chain(table.env.values()).any(|text| text.contains('\0')) {
        mistakes.error(name.place, "a command or its environment holds a NUL", "no program can be told one");
    }
    let mut ready_within = std::time::Duration::from_secs(30);
    let ready = table.ready.as_ref().and_then(|placed| {
        let ready = placed.value.as_ref()?;
        ready_within = ready.within;
        if ready.within.is_zero() {
            mistakes.error(placed.place, "it can never be ready within 0 s", "such as `within = \"30s\"`");
        }
        match (&ready.tcp, &ready.http, &ready.exec) {
            (Some(address), None, None) => Some(model::Ready::Tcp(address.clone())),
            (None, Some(url), None) => Some(model::Ready::Http(url.clone())),
            (None, None, Some(words)) => {
                command(words, placed.place, "exec", mistakes);
                Some(model::Ready::Exec(words.clone()))
            }
            _ => {
                mistakes.error(
                    placed.place,
                    "how it is known to be ready is said by none or several",
                    "one of `tcp`, `http`, `exec`",
                );
                None
            }
        }
    });
    Some(model::Service {
        name: name.text.clone(),
        needs: table.needs.iter().filter_map(|need| need.value.clone()).collect(),
        setup: setup.map(|(words, _)| words),
        run: table.run.value.clone()?,
        env: table.env.clone(),
        user: table.user.clone(),
        port: filler.port_of(&name.text),
        dir: filler.dir_of(&name.text),
        restart_after: match table.restart {
            Restart::Never => None,
            Restart::After(wait) => Some(wait),
        },
        ready,
        ready_within,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_a_circle_is_shown() {
        assert_eq!(in_order(&[vec![1, 2], vec![2], vec![]]), Ok(vec![2, 1, 0]));
        assert_eq!(in_order(&[vec![], vec![0]]), Ok(vec![0, 1]));
        assert_eq!(in_order(&[vec![1], vec![2], vec![1]]), Err(vec![1, 2, 1]));
        assert_eq!(in_order(&[vec![0]]), Err(vec![0, 0]));
    }
}
