//! What is done to the system, and when: faults, their moments, and which of them cannot be.

use std::time::Duration;

use super::aims::{self, Aim, Names};
use super::draft::known_names;
use super::model::{self, BlastRadius, MOST_TTL, Moment, TTL_MARGIN};
use super::resolve::in_order;
use super::tables::{self, File, Named, Timing};
use super::words::When;
use crate::base::Percent;
use crate::base::unit::say;
use crate::fault::{Aim as Kind, AnyFault};
use crate::file::{Key, Mistakes, Place, Placed};
use crate::host::container::Which;
use crate::host::target::{Pick, Selector};

/// A step of a ramp is an injection and an undo, and should be longer than both.
const SHORTEST_STEP: Duration = Duration::from_millis(500);
/// A fault may be repeated so often.
const MOST_TIMES: u32 = 10_000;

/// One fault on the timeline, whether or not its kind's own part is right.
#[derive(Debug, Clone)]
pub(super) struct Harm {
    pub name: String,
    pub place: Place,
    pub kind: String,
    pub lasting: bool,
    pub aim: Kind,
    /// `None` when it was wrong.
    pub at: Option<Moment>,
    pub at_place: Place,
    pub hold: Option<Duration>,
    pub every: Option<(Duration, u32)>,
    pub chance: Option<Percent>,
    pub target: Option<Aim>,
    pub from: Option<Aim>,
}

impl Harm {
    /// From its first beginning to its last end, as planned.
    fn span(&self) -> Duration {
        let repeated =
            self.every.map_or(Duration::ZERO, |(every, times)| every.saturating_mul(times.max(1) - 1));
        let hold = if self.lasting { self.hold.unwrap_or_default() } else { Duration::ZERO };
        repeated.saturating_add(hold)
    }
}

/// What moments count from, as far as a file can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Root {
    /// t = 0.
    Zero,
    /// A person, at this fault.
    Operator(usize),
}

/// How long the part of a run with faults lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    /// At least so long by plan.
    pub least: Duration,
    /// A person decides when a part of it begins.
    pub open: bool,
}

/// Reads the faults, all that can be read of each.
pub(super) fn harms(file: &File, names: &Names<'_>, mistakes: &mut Mistakes) -> Vec<Harm> {
    let known: Vec<&str> = file.fault.0.iter().map(|(key, _)| key.text.as_str()).collect();
    file.fault
        .0
        .iter()
        .map(|(name, table)| harm(name, table.as_ref(), &known, file, names, mistakes))
        .collect()
}

fn harm(
    name: &Key,
    table: Option<&tables::Fault>,
    known: &[&str],
    file: &File,
    names: &Names<'_>,
    mistakes: &mut Mistakes,
) -> Harm {
    let mut harm = Harm {
        name: name.text.clone(),
        place: name.place,
        kind: String::new(),
        lasting: false,
        aim: Kind::Nothing,
        at: None,
        at_place: name.place,
        hold: None,
        every: None,
        chance: None,
        target: None,
        from: None,
    };
    let Some(table) = table else { return harm };
    let timing = &table.timing;
    harm.place = table.kind.place;
    harm.kind.clone_from(&table.kind.text);
    (harm.lasting, harm.aim) = (table.lasting, table.aim);
    harm.at_place = timing.at.place;
    harm.at = timing.at.value.as_ref().and_then(|when| moment(when, timing.at.place, known, mistakes));
    // Of wrong fields nobody can tell whether it lasts.
    if table.harms.is_some() || AnyFault::lasts_by_fields(&table.kind.text) != Some(true) {
        how_long(&mut harm, timing, mistakes);
    }
    how_likely(&mut harm, table, mistakes);
    in_steps(&mut harm, table, mistakes);
    whom(&mut harm, timing, file, names, mistakes);
    harm
}

/// Resolves the name in a moment.
pub(super) fn moment(when: &When, place: Place, known: &[&str], mistakes: &mut Mistakes) -> Option<Moment> {
    let mut find = |name: &str| {
        let found = known.iter().position(|other| *other == name);
        if found.is_none() {
            let remedy = known_names(name, known.iter().copied(), "faults");
            mistakes.error(place, format!("there is no fault `{name}`"), remedy);
        }
        found
    };
    Some(match when {
        When::Zero(later) => Moment::Zero(*later),
        When::Begin(fault, later) => Moment::Begin(find(fault)?, *later),
        When::End(fault, later) => Moment::End(find(fault)?, *later),
        When::Operator => Moment::Operator,
    })
}

fn how_long(harm: &mut Harm, timing: &Timing, mistakes: &mut Mistakes) {
    let hold = timing.r#for.as_ref();
    harm.hold = hold.and_then(|hold| hold.value);
    let kind = harm.kind.as_str();
    match (hold, harm.hold) {
        (None, _) if harm.lasting => mistakes.error(
            harm.place,
            format!("`{kind}` lasts until it is undone, and for how long is not said"),
            "add `for = \"30s\"`",
        ),
        (Some(hold), Some(length)) if harm.lasting => {
            let most = MOST_TTL.saturating_sub(TTL_MARGIN);
            if length.is_zero() {
                mistakes.error(hold.place, "it would be over before it began", "give it a `for` above zero");
            } else if length > most {
                mistakes.error(
                    hold.place,
                    format!(
                        "a fault may last at most {}, so that the watchdog ends it within {}",
                        say(most),
                        say(MOST_TTL)
                    ),
                    "make it shorter, or repeat it with `every` and `times`",
                );
            }
        }
        (Some(hold), Some(_)) if timing.every.is_none() => mistakes.error(
            hold.place,
            if AnyFault::lasts_by_fields(kind) == Some(true) {
                format!("`{kind}` as it is asked here is over when it is done, so it takes no `for`")
            } else {
                format!("`{kind}` is over when it is done, so it takes no `for`")
            },
            "remove `for`, or repeat it with `every`",
        ),
        _ => {}
    }

    let Some(every) = &timing.every else {
        if let Some(times) = &timing.times {
            mistakes.error(times.place, "`times` without `every`", "add `every = \"30s\"`");
        }
        return;
    };
    let Some(interval) = every.value else { return };
    if interval.is_zero() {
        mistakes.error(
            every.place,
            "it would be repeated without end at once",
            "give it an `every` above zero",
        );
        return;
    }
    if harm.lasting && harm.hold.is_some_and(|hold| hold >= interval) {
        mistakes.error(
            every.place,
            format!("it would begin again while it still lasts {}", say(harm.hold.unwrap_or_default())),
            "make `every` longer than `for`",
        );
    }
    let times = match (&timing.times, harm.hold) {
        (Some(times), hold) => {
            if !harm.lasting && hold.is_some() {
                mistakes.error(times.place, "its end is said by `times` and by `for`", "leave one of them");
            }
            let Some(times) = times.value else { return };
            times.0
        }
        (None, Some(whole)) if !harm.lasting => {
            let times = (whole.as_secs_f64() / interval.as_secs_f64()).ceil().max(1.0);
            if times > f64::from(MOST_TIMES) { u32::MAX } else { times as u32 }
        }
        (None, _) => {
            let remedy =
                if harm.lasting { "add `times = 3`" } else { "add `times = 3`, or `for` the whole of it" };
            mistakes.error(every.place, "how often it is repeated is not said", remedy);
            return;
        }
    };
    if times > MOST_TIMES {
        mistakes.error(
            every.place,
            format!("a fault may be repeated at most {MOST_TIMES} times"),
            "make it fewer",
        );
        return;
    }
    if !harm.lasting {
        harm.hold = None; // It said how long the repetition goes on.
    }
    harm.every = Some((interval, times));
}

fn how_likely(harm: &mut Harm, table: &tables::Fault, mistakes: &mut Mistakes) {
    let Some(chance) = &table.timing.chance else { return };
    if chance.value.is_some_and(|chance| chance.share() <= 0.0) {
        mistakes.error(chance.place, "it would never happen", "give it a `chance` above zero");
    }
    if let Some(ramp) = table.ramp {
        mistakes.clash(
            chance.place,
            "a ramp happens step by step, and none of them by chance",
            "remove `chance`, or give each step a fault of its own",
            ramp,
            "its ramp stands here",
        );
    }
    harm.chance = chance.value;
}

/// A ramp is repeated, each time at its next level, without a pause.
fn in_steps(harm: &mut Harm, table: &tables::Fault, mistakes: &mut Mistakes) {
    let (Some(ramp), Some(steps)) = (table.ramp, table.harms.as_ref().map(Vec::len)) else { return };
    if !harm.lasting {
        let what = format!("`{}` is over when it is done: there is nothing to ramp over", harm.kind);
        mistakes.error(ramp, what, "give it one value");
        return;
    }
    if let Some(every) = &table.timing.every {
        mistakes.clash(
            every.place,
            "a ramp is not repeated",
            "remove `every` and `times`, or give it one value",
            ramp,
            "its ramp stands here",
        );
        return;
    }
    let Some(hold) = harm.hold.map(|hold| hold / steps.max(1) as u32) else { return };
    if hold < SHORTEST_STEP {
        let what = format!("each of {steps} steps would last {}", say(hold));
        let remedy = format!("at least {} each: fewer `steps`, or a longer `for`", say(SHORTEST_STEP));
        mistakes.error(ramp, what, remedy);
    }
    harm.hold = Some(hold);
    harm.every = Some((hold, steps as u32));
}

fn whom(harm: &mut Harm, timing: &Timing, file: &File, names: &Names<'_>, mistakes: &mut Mistakes) {
    let said = [("target", &timing.target), ("to", &timing.to), ("from", &timing.from)];
    let taken: &[&str] = match harm.aim {
        Kind::Process | Kind::Group | Kind::Unit | Kind::Container | Kind::Place => &["target"],
        Kind::Files => &["target", "from"],
        Kind::Traffic => &["to", "from"],
        Kind::Lookups => &["from"],
        Kind::Nothing => &[],
    };
    for (word, value) in said {
        let Some(value) = value else { continue };
        if !taken.contains(&word) {
            let remedy = match taken {
                [] => "remove it: its own fields say what it hurts".to_owned(),
                taken => format!("say {}", taken.join(" and ")),
            };
            mistakes.error(value.place, format!("`{}` takes no `{word}`", harm.kind), remedy);
        }
    }
    let mut read = |value: &Option<Placed<tables::Aimed>>, names_a: Kind| {
        let aim = aims::aimed(value.as_ref()?, &file.target, names, mistakes)?;
        fits(names_a, &harm.kind, &aim, mistakes).then_some(aim)
    };
    let (target, from) = match harm.aim {
        Kind::Process | Kind::Group | Kind::Unit | Kind::Container | Kind::Place => {
            (read(&timing.target, harm.aim), None)
        }
        Kind::Traffic => (read(&timing.to, harm.aim), read(&timing.from, harm.aim)),
        Kind::Files => (read(&timing.target, Kind::Place), read(&timing.from, Kind::Process)),
        Kind::Lookups => (None, read(&timing.from, harm.aim)),
        Kind::Nothing => (None, None),
    };
    (harm.target, harm.from) = (target, from);
    if let Some(first) = taken.first()
        && harm.aim != Kind::Lookups
        && said.iter().all(|(word, value)| word != first || value.is_none())
    {
        let example = match harm.aim {
            Kind::Place | Kind::Files => "{ path = \"/var/lib/app\" }",
            Kind::Unit | Kind::Group => "{ unit = \"nginx.service\" }",
            Kind::Container => "{ container = \"web\" }",
            _ => "{ service = \"redis\" }",
        };
        mistakes.error(
            harm.place,
            format!("whom `{}` hurts is not said", harm.kind),
            format!("add `{first} = {example}`, or the name of a [target]"),
        );
    }
}

/// Whether a selector finds what it should name.
fn fits(names_a: Kind, fault: &str, aim: &Aim, mistakes: &mut Mistakes) -> bool {
    let selector = &aim.target.selector;
    let place = matches!(selector, Selector::Path(_) | Selector::Inside(..));
    let endpoint = matches!(selector, Selector::Address(..) | Selector::Port(_) | Selector::Netns(..));
    let (wrong, remedy) = match names_a {
        Kind::Process if place || endpoint => (
            true,
            "find processes by service, unit, container, pid_file, exe, cmdline, listen, cgroup or uid",
        ),
        Kind::Unit if !matches!(selector, Selector::Unit(_)) => {
            (true, "such as { unit = \"nginx.service\" }")
        }
        Kind::Group
            if !matches!(selector, Selector::Unit(_) | Selector::Cgroup(_) | Selector::Service(_)) =>
        {
            (true, "name it by unit, cgroup or service; `pause` holds single processes still")
        }
        Kind::Lookups if place => {
            (true, "say the process that looks names up, or the address it does so from")
        }
        Kind::Traffic if place => (true, "say address, port, or the process whose sockets are meant"),
        Kind::Container if !matches!(selector, Selector::Container(_)) => {
            (true, "such as { container = \"web\" }")
        }
        Kind::Place if !place => (true, "such as { path = \"/var/lib/app\" }"),
        _ => (false, ""),
    };
    if wrong {
        let hurts = match names_a {
            Kind::Process => "processes",
            Kind::Group => "a whole cgroup",
            Kind::Unit => "a unit of systemd",
            Kind::Container => "containers",
            Kind::Traffic => "traffic",
            Kind::Lookups => "lookups",
            Kind::Place | Kind::Files | Kind::Nothing => "a directory",
        };
        mistakes.error(
            aim.place,
            format!("`{fault}` hurts {hurts}, which `{selector}` does not name"),
            remedy,
        );
    }
    if !wrong && names_a.is_whole() && !matches!(aim.target.pick, Pick::Count(1) | Pick::All) {
        let what = format!("`{fault}` hurts all of `{selector}`");
        mistakes.error(aim.place, what, "remove `pick`: it takes none of its processes apart");
        return false;
    }
    !wrong
}

/// When each fault begins, as far as a file can know; mistakes for circles.
fn begins(harms: &[Harm], mistakes: &mut Mistakes) -> Vec<Option<(Root, Duration)>> {
    let needs: Vec<Vec<usize>> = harms
        .iter()
        .map(|harm| match harm.at {
            Some(Moment::Begin(other, _) | Moment::End(other, _)) => vec![other],
            _ => Vec::new(),
        })
        .collect();
    let mut begins: Vec<Option<(Root, Duration)>> = vec![None; harms.len()];
    let order = match in_order(&needs) {
        Ok(order) => order,
        Err(circle) => {
            let place = harms[circle[0]].at_place;
            let shown: Vec<&str> = circle.iter().map(|at| harms[*at].name.as_str()).collect();
            if let [one, _] = shown.as_slice() {
                let remedy = "let it begin at a time such as \"0s\", or after another fault";
                mistakes.error(place, format!("fault `{one}` waits for itself"), remedy);
            } else {
                let what = format!("faults wait for one another: {}", shown.join(" -> "));
                mistakes.error(place, what, "let one of them begin at a time such as \"0s\"");
            }
            return begins;
        }
    };
    for at in order {
        begins[at] = match harms[at].at {
            Some(Moment::Zero(later)) => Some((Root::Zero, later)),
            Some(Moment::Begin(other, later)) => {
                begins[other].map(|(root, begin)| (root, begin.saturating_add(later)))
            }
            Some(Moment::End(other, later)) => begins[other]
                .map(|(root, begin)| (root, begin.saturating_add(harms[other].span()).saturating_add(later))),
            Some(Moment::Operator) => Some((Root::Operator(at), Duration::ZERO)),
            None => None,
        };
    }
    begins
}

/// Judges the timeline as a whole, and says how long it is.
pub(super) fn judge(harms: &[Harm], file: &File, mistakes: &mut Mistakes) -> Length {
    let begins = begins(harms, mistakes);
    let ends = harms
        .iter()
        .zip(&begins)
        .map(|(harm, begin)| begin.map(|(_, begin)| begin.saturating_add(harm.span())));
    let ends: Vec<Option<Duration>> = ends.collect();
    for (first, earlier) in harms.iter().enumerate() {
        for (second, later) in harms.iter().enumerate().skip(first + 1) {
            let (Some((root, a)), Some((other, b))) = (begins[first], begins[second]) else { continue };
            let instant = Duration::from_nanos(1);
            let together = a < b.saturating_add(later.span().max(instant))
                && b < a.saturating_add(earlier.span().max(instant));
            if root == other && together {
                overlap(earlier, later, mistakes);
                let first_of = |n: usize| file.fault.0.get(n)?.1.as_ref()?.harms.as_ref()?.first();
                if let Some(what) = first_of(first).and_then(|one| one.clash(first_of(second)?)) {
                    clash(
                        earlier,
                        later,
                        format!("`{}` and `{}` both {what} at one time", earlier.name, later.name),
                        mistakes,
                    );
                }
            }
        }
    }
    if let Some(most) = &file.max_duration
        && let Some(longest) = most.value
    {
        if longest.is_zero() {
            mistakes.error(
                most.place,
                "the run would be over at once",
                "give it a `max_duration` above zero",
            );
        } else if let Some((harm, end)) = harms
            .iter()
            .zip(&ends)
            .filter_map(|(harm, end)| Some((harm, (*end)?)))
            .find(|(_, end)| *end > longest)
        {
            mistakes.clash(
                most.place,
                format!("fault `{}` ends at {} by plan, after `max_duration`", harm.name, say(end)),
                "raise `max_duration`, or shorten the timeline",
                harm.place,
                format!("`{}` stands here", harm.name),
            );
        }
    }
    Length {
        least: ends.iter().flatten().max().copied().unwrap_or_default(),
        open: begins.iter().any(|begin| begin.is_none_or(|(root, _)| root != Root::Zero)),
    }
}

/// Two faults that are live at one time: some cannot be.
fn overlap(earlier: &Harm, later: &Harm, mistakes: &mut Mistakes) {
    let (Some(one), Some(two)) = (&earlier.target, &later.target) else { return };
    let same = |a: &Aim, b: &Aim| {
        a.target.host == b.target.host && a.target.selector.to_string() == b.target.selector.to_string()
    };
    if !same(one, two) {
        return;
    }
    let surely = |aim: &Aim| {
        aim.target.pick == Pick::All
            || matches!(
                aim.target.selector,
                Selector::Service(_)
                    | Selector::Unit(_)
                    | Selector::PidFile(_)
                    | Selector::Listen(_)
                    | Selector::Address(..)
                    | Selector::Port(_)
                    | Selector::Path(_)
                    | Selector::Netns(..)
                    | Selector::Container(Which::Named(_))
                    | Selector::Inside(Which::Named(_), _)
            )
    };
    let from = match (&earlier.from, &later.from) {
        (Some(a), Some(b)) => same(a, b),
        _ => true,
    };
    let who = &two.target.selector;
    if earlier.kind == later.kind && later.lasting && from {
        let what =
            format!("`{}` and `{}` both do `{}` to {who} at one time", earlier.name, later.name, later.kind);
        if surely(one) && surely(two) {
            clash(earlier, later, what, mistakes);
        } else {
            let what = format!("{what}, and may draw the same process");
            mistakes.warn(later.place, what, one_after_the_other(earlier));
        }
    } else if earlier.kind != later.kind && later.aim.is_processes() && earlier.aim.is_processes() {
        mistakes.warn(
            later.place,
            format!(
                "`{}` and `{}` hurt {who} at one time: what either did cannot be told apart",
                earlier.name, later.name
            ),
            one_after_the_other(earlier),
        );
    }
}

fn clash(earlier: &Harm, later: &Harm, what: String, mistakes: &mut Mistakes) {
    let here = format!("`{}` stands here", earlier.name);
    mistakes.clash(later.place, what, one_after_the_other(earlier), earlier.place, here);
}

fn one_after_the_other(earlier: &Harm) -> String {
    format!("let one begin after the other: `at = \"{}.end\"`", earlier.name)
}

/// Whether the limits of the blast radius bound what the faults may touch.
pub(super) fn judge_blast_radius(harms: &[Harm], limits: &BlastRadius, mistakes: &mut Mistakes) {
    for harm in harms {
        for aim in [&harm.target, &harm.from].into_iter().flatten() {
            let target = &aim.target;
            for never in &limits.never {
                let host = never.host.as_ref().is_none_or(|host| *host == target.host);
                if host
                    && never.selector.to_string() == target.selector.to_string()
                    && harm.from.as_ref().is_none_or(|from| from.place != aim.place)
                {
                    let what = format!("{} may never be hurt: [blast_radius] says so", target.selector);
                    mistakes.error(aim.place, what, "aim at another target, or change `never`");
                }
            }
        }
        let Some(aim) = &harm.target else { continue };
        if !harm.aim.is_processes() {
            continue;
        }
        let all = match aim.target.pick {
            Pick::All => true,
            Pick::Share(share) => share.share() >= 1.0,
            Pick::Count(count) => {
                if limits.max_targets.is_some_and(|most| count > most) {
                    let most = limits.max_targets.unwrap_or_default();
                    let what = format!("it picks {count} targets where [blast_radius] allows {most}");
                    mistakes.error(aim.place, what, "lower `count`, or raise `max_targets`");
                }
                false
            }
            Pick::Oldest => false,
        };
        match &aim.target.selector {
            Selector::Uid(0) if all => mistakes.error(
                aim.place,
                "every process of root is the whole machine, and brownout with it",
                "find the processes by `exe`, `cgroup` or `listen`",
            ),
            Selector::Uid(_)
            | Selector::Exe(_)
            | Selector::Cmdline(_)
            | Selector::Cgroup(_)
            | Selector::Container(Which::Labelled(_))
                if all && limits.max_targets.is_none() =>
            {
                mistakes.error(
                    aim.place,
                    format!("its blast radius has no bound: all processes of `{}`", aim.target.selector),
                    "add `max_targets` to [blast_radius], or pick fewer: `pick = { count = 1 }`",
                );
            }
            _ => {}
        }
    }
}

/// The faults as the engine takes them.
pub(super) fn faults(tables: Named<tables::Fault>, harms: Vec<Harm>) -> Option<Vec<model::Fault>> {
    tables
        .0
        .into_iter()
        .zip(harms)
        .map(|((_, table), harm)| {
            let mut harms = table?.harms?.into_iter();
            Some(model::Fault {
                name: harm.name,
                harm: harms.next()?,
                ramp: harms.collect(),
                place: harm.place,
                target: harm.target.map(|aim| aim.target),
                from: harm.from.map(|aim| aim.target),
                at: harm.at?,
                hold: harm.hold,
                every: harm.every,
                chance: harm.chance,
            })
        })
        .collect()
}
