//! What is promised and expected, and whether a run of this length can tell.

use std::time::Duration;

use super::draft::known_names;
use super::model::{self, Budget, Moment, Promises, Sees};
use super::resolve::{Look, places};
use super::tables::{self, File, Named};
use super::timeline::{self, Harm, Length};
use super::words::{Is, When};
use crate::base::Percent;
use crate::base::unit::say;
use crate::file::{Key, Mistakes, Place, Placed};

/// The steady state takes so many looks of each judged probe.
const LEAST_LOOKS: f64 = 20.0;

/// An SLO with the places of what it says.
#[derive(Debug)]
pub(super) struct Read {
    pub slo: model::Slo,
    /// Each tolerated bad ratio that holds in general: where it stands, and how it is written.
    ratios: Vec<(Place, String, f64)>,
}

/// Reads the SLOs; one of a probe that `each` multiplied becomes several.
pub(super) fn slos(
    named: &Named<tables::Slo>,
    looks: &[Look],
    harms: &[Harm],
    mistakes: &mut Mistakes,
) -> Vec<Read> {
    let mut read = Vec::new();
    for (name, table) in &named.0 {
        let Some(table) = table else { continue };
        if let Some(window) = &table.window {
            let what = "an SLO's `window` is for `brownout watch`, which is not in this version yet";
            mistakes.error(window.place, what, "remove it");
        }
        let probes = judged_probes(&table.probe, looks, mistakes);
        // The shortest of their timeouts: a threshold above it is a mistake for at least one of them.
        let timeout = probes.iter().map(|at| looks[*at].timeout).min();
        let says = Says {
            availability: table.availability.as_ref(),
            latency: &table.latency,
            longest_outage: table.longest_outage.as_ref(),
        };
        let mut ratios = Vec::new();
        let general = promises(name, &says, timeout, &mut ratios, mistakes);
        let mut during = Vec::new();
        for (fault, instead) in &table.during.0 {
            let at = harms.iter().position(|harm| harm.name == fault.text);
            if at.is_none() {
                let known = harms.iter().map(|harm| harm.name.as_str());
                let remedy = known_names(&fault.text, known, "faults");
                mistakes.error(fault.place, format!("there is no fault `{}`", fault.text), remedy);
            }
            let Some(instead) = instead else { continue };
            let says = Says {
                availability: instead.availability.as_ref(),
                latency: &instead.latency,
                longest_outage: instead.longest_outage.as_ref(),
            };
            let promises = promises(fault, &says, timeout, &mut Vec::new(), mistakes);
            during.extend(at.map(|at| (at, promises)));
        }
        for at in probes {
            let name = match looks[at].name.split_once('.') {
                Some((base, key)) if table.probe.value.as_deref() == Some(base) => {
                    format!("{}.{key}", name.text)
                }
                _ => name.text.clone(),
            };
            let slo = model::Slo { name, probe: at, promises: general.clone(), during: during.clone() };
            read.push(Read { slo, ratios: ratios.clone() });
        }
    }
    read
}

/// The probes an SLO is about, when they can be judged by one.
fn judged_probes(name: &Placed<String>, looks: &[Look], mistakes: &mut Mistakes) -> Vec<usize> {
    let Some(text) = &name.value else { return Vec::new() };
    let found = places(looks, text);
    let Some(first) = found.first().map(|at| &looks[*at]) else {
        no_probe(text, name.place, looks, mistakes);
        return found;
    };
    if first.once.is_some() {
        let what = format!("probe `{text}` is a check made once: it has no rate of good looks to promise");
        mistakes.error(name.place, what, "a check must pass anyhow: remove this SLO");
    }
    if first.observe_only {
        let what = format!("probe `{text}` only observes, so no SLO judges it");
        mistakes.error(name.place, what, "remove its `role`, or say what you wait for in an [expect.NAME]");
    }
    found
}

fn no_probe(text: &str, place: Place, looks: &[Look], mistakes: &mut Mistakes) {
    let remedy = known_names(text, looks.iter().map(|look| look.name.as_str()), "probes");
    mistakes.error(place, format!("there is no probe `{text}`"), remedy);
}

struct Says<'a> {
    availability: Option<&'a Placed<Percent>>,
    latency: &'a [tables::Latency],
    longest_outage: Option<&'a Placed<Duration>>,
}

fn promises(
    name: &Key,
    says: &Says<'_>,
    timeout: Option<Duration>,
    ratios: &mut Vec<(Place, String, f64)>,
    mistakes: &mut Mistakes,
) -> Promises {
    if says.availability.is_none() && says.latency.is_empty() && says.longest_outage.is_none() {
        let remedy = "add `availability`, `latency` or `longest_outage`";
        mistakes.error(name.place, format!("`{}` promises nothing", name.text), remedy);
    }
    let availability = says.availability.and_then(|said| {
        let percent = said.value?;
        if percent.share() >= 1.0 {
            mistakes.error(
                said.place,
                "100% leaves no error budget: the first bad look would end the run",
                "promise less, such as \"99.9%\", or bound what is bad by `longest_outage`",
            );
            return None;
        }
        if percent.share() < 0.5 {
            let what = format!("{percent} promises that most looks may be bad");
            mistakes.error(
                said.place,
                what,
                "promise at least \"50%\", or bound what is bad by `longest_outage`",
            );
            return None;
        }
        ratios.push((said.place, percent.to_string(), 1.0 - percent.share()));
        Some(percent)
    });
    let mut latency = Vec::new();
    for one in says.latency {
        let (Some(percentile), Some(below)) = (one.percentile.value, one.below.value) else { continue };
        if below.is_zero() {
            mistakes.error(one.below.place, "no look is faster than 0 s", "give it a threshold above zero");
            continue;
        }
        if let Some(timeout) = timeout.filter(|timeout| below > *timeout) {
            mistakes.error(
                one.below.place,
                format!(
                    "a look is bad after its probe's timeout of {}, so {} is never measured",
                    say(timeout),
                    say(below)
                ),
                "raise the probe's `timeout`, or lower the threshold",
            );
            continue;
        }
        let percent = (percentile.0 * 1e8).round() / 1e6;
        ratios.push((one.percentile.place, format!("p{percent}"), 1.0 - percentile.0));
        latency.push((percentile.0, below));
    }
    Promises { availability, latency, longest_outage: says.longest_outage.and_then(|said| said.value) }
}

/// Reads the expectations.
pub(super) fn expects(
    named: &Named<tables::Expect>,
    looks: &[Look],
    harms: &[Harm],
    mistakes: &mut Mistakes,
) -> Vec<model::Expect> {
    let read =
        named.0.iter().filter_map(|(name, table)| expect(name, table.as_ref()?, looks, harms, mistakes));
    read.collect()
}

fn expect(
    name: &Key,
    table: &tables::Expect,
    looks: &[Look],
    harms: &[Harm],
    mistakes: &mut Mistakes,
) -> Option<model::Expect> {
    let known: Vec<&str> = harms.iter().map(|harm| harm.name.as_str()).collect();
    let of = table.of.as_ref().and_then(|of| {
        let when = of.value.as_ref()?;
        if *when == When::Operator {
            mistakes.error(of.place, "a person's word is no moment to count from", "such as \"FAULT.begin\"");
            return None;
        }
        timeline::moment(when, of.place, &known, mistakes)
    });
    let within = table.within.value;
    if within.is_some_and(|within| within.is_zero()) {
        mistakes.error(table.within.place, "nothing happens within 0 s", "give it a `within` above zero");
    }
    let is = table.is.value;
    let sees = match (&table.probe, &table.fault) {
        (Some(probe), None) => {
            if table.of.is_none() {
                mistakes.error(
                    name.place,
                    format!("expectation `{}` has no `of`", name.text),
                    "such as `of = \"FAULT.begin\"`",
                );
            }
            if is == Some(Is::Back) {
                mistakes.error(
                    table.is.place,
                    "a probe is \"good\" or \"bad\", not \"back\"",
                    "or name a `fault` instead",
                );
            }
            let text = probe.value.as_ref()?;
            match places(looks, text).as_slice() {
                [] => {
                    no_probe(text, probe.place, looks, mistakes);
                    None
                }
                [one] if looks[*one].once.is_some() => {
                    let what = format!("probe `{text}` is a check made once, so it cannot be waited for");
                    mistakes.error(probe.place, what, "give the probe a `rate` or `every`");
                    None
                }
                [one] => Some(Sees::Probe { probe: *one, good: is == Some(Is::Good) }),
                [first, ..] => {
                    let remedy = format!("name one, such as `{}`", looks[*first].name);
                    mistakes.error(probe.place, format!("`{text}` is several probes"), remedy);
                    None
                }
            }
        }
        (None, Some(fault)) => {
            if matches!(is, Some(Is::Good | Is::Bad)) {
                mistakes.error(
                    table.is.place,
                    "what a fault hit is \"back\", not \"good\" or \"bad\"",
                    "or name a `probe` instead",
                );
            }
            let text = fault.value.as_ref()?;
            let at = harms.iter().position(|harm| harm.name == *text);
            match at.map(|at| &harms[at]) {
                None => {
                    let remedy = known_names(text, known.iter().copied(), "faults");
                    mistakes.error(fault.place, format!("there is no fault `{text}`"), remedy);
                }
                Some(harm) if !harm.kind.is_empty() && !harm.aim.is_processes() => {
                    let what = format!("`{}` hurts no processes that could be back", harm.kind);
                    mistakes.error(fault.place, what, "wait for a probe that is \"good\" instead");
                }
                Some(_) => {}
            }
            Some(Sees::Back { fault: at? })
        }
        (probe, _) => {
            let many =
                if probe.is_some() { "both a probe and a fault" } else { "neither a probe nor a fault" };
            let what = format!("expectation `{}` names {many}", name.text);
            mistakes.error(name.place, what, "name one of them");
            None
        }
    };
    let of = match (of, sees, &table.of) {
        (Some(of), ..) => Some(of),
        (None, Some(Sees::Back { fault }), None) => Some(Moment::Begin(fault, Duration::ZERO)),
        _ => None,
    };
    Some(model::Expect { name: name.text.clone(), sees: sees?, within: within?, of: of? })
}

/// Judges what is promised against how it is watched, for how long, and what may be spent.
pub(super) fn judge(
    file: &File,
    looks: &[Look],
    slos: &[Read],
    expects: &[model::Expect],
    length: Length,
    mistakes: &mut Mistakes,
) {
    nobody_judges(file, looks, slos, expects, mistakes);
    let steady = file.steady_state.value.as_ref().map(|steady| &steady.r#for);
    for read in slos {
        let look = &looks[read.slo.probe];
        let Some(rhythm) = look.rhythm else { continue };
        let rate = rhythm.rate;
        if let Some(steady) = steady
            && let Some(long) = steady.value.filter(|long| !long.is_zero())
            && rate.hertz() * long.as_secs_f64() < LEAST_LOOKS - 1e-9
        {
            let needed = Duration::from_secs_f64((LEAST_LOOKS / rate.hertz()).min(1e9));
            let remedy = format!(
                "say `[steady_state] for = \"{}s\"`, or look more often",
                needed.as_secs_f64().ceil()
            );
            mistakes.error(
                look.place,
                format!(
                    "the steady state of {} sees {:.0} looks of probe `{}`, and takes 20",
                    say(long),
                    (rate.hertz() * long.as_secs_f64()).floor(),
                    look.name
                ),
                remedy,
            );
        }
        if length.least.is_zero() {
            continue;
        }
        let seconds = length.least.as_secs_f64();
        let hertz = rhythm.mean(length.least);
        let count = hertz * seconds;
        for (place, said, p0) in &read.ratios {
            let needed = (1.0 / p0 - 1e-6).ceil();
            if !length.open && count < needed {
                mistakes.warn(
                    *place,
                    format!(
                        "{said} takes {needed:.0} looks to be judged, and probe `{}` makes {:.0} in the {} of the run: \
                         it cannot pass",
                        look.name, count.floor(), say(length.least)
                    ),
                    "look more often, let the faults last longer, or promise less",
                );
            }
            budget(file, hertz, seconds, said, *p0, mistakes);
        }
    }
    if let Some(recovery) = &file.recovery.value
        && recovery.within.value.is_some_and(|within| within.is_zero())
    {
        mistakes.error(recovery.within.place, "nothing recovers within 0 s", "such as `within = \"30s\"`");
    }
    if let Some(guard) = &file.guard.value
        && let Some(chance) = guard.false_abort.value
        && (chance.share() <= 0.0 || chance.share() > 0.5)
    {
        let what = format!("{chance} is no chance the guard can keep");
        mistakes.error(guard.false_abort.place, what, "above 0 % and at most 50 %, such as \"1%\"");
    }
    if let Some(steady) = steady
        && steady.value.is_some_and(|long| long.is_zero())
    {
        mistakes.error(steady.place, "a steady state of 0 s proves nothing", "such as `for = \"30s\"`");
    }
}

/// Warns of a budget that a system at its very promise would spend.
fn budget(file: &File, hertz: f64, seconds: f64, said: &str, p0: f64, mistakes: &mut Mistakes) {
    let Some(budget) = file.guard.value.as_ref().and_then(|guard| guard.budget.as_ref()) else { return };
    let Some(amount) = budget.value else { return };
    let bad_seconds = match amount {
        Budget::Seconds(bad) => bad,
        Budget::Looks(looks) => looks as f64 / hertz,
        Budget::Share(share, period) => share * p0 * period.as_secs_f64(),
    };
    let allowed = p0 * seconds;
    if bad_seconds <= allowed {
        let figure = match amount {
            Budget::Looks(looks) => format!("{looks} looks are {bad_seconds:.2} bad seconds"),
            Budget::Share(..) => format!("this budget is {bad_seconds:.2} bad seconds"),
            Budget::Seconds(_) => format!("{bad_seconds:.2} bad seconds may be spent"),
        };
        mistakes.warn(
            budget.place,
            format!("{figure}, and {said} itself allows {allowed:.2} in the run: the guard would stop a run that keeps it"),
            format!("give it more than {allowed:.2} s, best twice as much, or leave `budget` out"),
        );
    }
}

/// Warns of what is watched in vain, and of a run that nothing can stop.
fn nobody_judges(
    file: &File,
    looks: &[Look],
    slos: &[Read],
    expects: &[model::Expect],
    mistakes: &mut Mistakes,
) {
    // A broken SLO or expectation may have been meant for any of them.
    let whole = file.slo.0.iter().all(|(_, slo)| slo.is_some()) && expects.len() == file.expect.0.len();
    for (at, look) in looks.iter().enumerate() {
        let judged = slos.iter().any(|read| read.slo.probe == at)
            || expects.iter().any(|expect| matches!(expect.sees, Sees::Probe { probe, .. } if probe == at));
        if whole && !judged && look.once.is_none() && !look.observe_only && !look.broken {
            let name = look.name.split('.').next().unwrap_or_default();
            mistakes.warn(
                look.place,
                format!("nobody judges probe `{name}`"),
                format!("add an [slo.NAME] with `probe = \"{name}\"`, or say `role = \"observe\"`"),
            );
        }
    }
    if file.slo.0.is_empty()
        && let Some((fault, _)) = file.fault.0.first()
    {
        mistakes.warn(
            fault.place,
            "no SLO is promised, so nothing can stop this run early",
            "add an [slo.NAME]",
        );
    }
}
