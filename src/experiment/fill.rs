//! Variables in string values: `${VAR}`, `${VAR:-default}`, `${VAR:?message}`, and our own.
//!
//! Our own words hold a dot or are `each`, so that no variable of the environment can shadow them. What is
//! filled in is not looked through again: a value cannot smuggle in another variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::file::{Mistake, Mistakes, Node, Place};

/// Looks up a variable of the environment.
pub type Lookup = Box<dyn Fn(&str) -> Option<String>>;

/// What the experiment is read in: the only thing in which checking a file and running it differ.
pub struct Surroundings {
    /// A variable of the environment.
    pub env: Lookup,
    /// A port for a service, by its name; asked once for each.
    pub port: Box<dyn FnMut(&str) -> u16>,
    /// Services get their own folders in here.
    pub services_dir: PathBuf,
}

impl Surroundings {
    /// For `check` and `plan`: the real environment, ports and folders that nobody will use.
    #[must_use]
    pub fn pretended() -> Self {
        let mut next = 40_000;
        Self {
            env: Box::new(environment),
            port: Box::new(move |_| {
                next += 1;
                next
            }),
            services_dir: PathBuf::from("/tmp/brownout-services"),
        }
    }
}

/// A variable of the real environment. `brownout` is ours: the path of this very program, so that an experiment
/// can start parts of it.
#[must_use]
pub fn environment(name: &str) -> Option<String> {
    match name {
        "brownout" => std::env::current_exe().ok().map(|path| path.display().to_string()),
        _ => std::env::var(name).ok(),
    }
}

/// What a probe has counted when the run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// Its good looks.
    Good,
    /// Its bad looks.
    Bad,
    /// All its looks that were made.
    Total,
}

impl Count {
    fn named(text: &str) -> Option<Self> {
        match text {
            "good" => Some(Self::Good),
            "bad" => Some(Self::Bad),
            "total" => Some(Self::Total),
            _ => None,
        }
    }
}

/// Where in the file a string stands, as far as that decides what may be filled in.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Scope<'a> {
    /// In this service's table.
    pub service: Option<&'a str>,
    /// The value of `${each}`.
    pub each: Option<&'a str>,
    /// That value was wrong, and has been told: what comes of it is judged no further.
    pub each_is_wrong: bool,
    /// In a scenario, whose steps are filled in one by one as it goes on.
    pub steps: bool,
    /// In the command of a check that is made after the run, where the counts of probes are filled in later.
    pub counts: bool,
}

/// What a service has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Port,
    Dir,
}

/// Fills in variables, and remembers which ports and folders were given.
pub(super) struct Filler<'a> {
    surroundings: &'a mut Surroundings,
    services: BTreeSet<String>,
    ports: BTreeMap<String, u16>,
    /// What services use of their own.
    own: BTreeSet<(String, Thing)>,
    referred: Vec<(String, Thing, Place)>,
    /// Where something could not be filled in: what is left there makes no further mistake.
    empty: BTreeSet<Place>,
    /// What came from the environment, where, and by which name: it may be a secret.
    foreign: BTreeMap<Place, Vec<(String, String)>>,
    /// The probes whose counts are asked for, and where.
    pub counted: Vec<(String, Place)>,
}

impl<'a> Filler<'a> {
    pub fn new(surroundings: &'a mut Surroundings, services: BTreeSet<String>) -> Self {
        Self {
            surroundings,
            services,
            ports: BTreeMap::new(),
            own: BTreeSet::new(),
            referred: Vec::new(),
            empty: BTreeSet::new(),
            foreign: BTreeMap::new(),
            counted: Vec::new(),
        }
    }

    /// Fills in every string below a node.
    pub fn fill(&mut self, node: &mut Node, scope: Scope<'_>, mistakes: &mut Mistakes) {
        node.each_text(&mut |place, text| {
            if text.contains("${") {
                let told = mistakes.told();
                let (filled, closed) =
                    walk(text, |word| self.word(word, place, scope, mistakes), scope.counts);
                *text = filled;
                if !closed {
                    mistakes.error(
                        place,
                        "a `${` is never closed",
                        "add `}`, or write `$${` for a plain `${`",
                    );
                }
                if mistakes.told() > told || scope.each_is_wrong {
                    self.empty.insert(place);
                }
            }
        });
    }

    /// What stands at a place is wrong, and has been told: it is judged no further.
    pub fn told(&mut self, place: Place) {
        self.empty.insert(place);
    }

    /// Says which ports were asked for that nobody listens on, and which folders that nobody has, once everything is
    /// filled in.
    pub fn settle(&self, mistakes: &mut Mistakes) {
        for (service, thing, place) in &self.referred {
            let (word, so) = match thing {
                Thing::Port => ("self.port", "nobody listens there"),
                Thing::Dir => ("self.dir", "it has no folder"),
            };
            if !self.uses(service, *thing) {
                mistakes.error(
                    *place,
                    format!("service `{service}` never uses `${{{word}}}`, so {so}"),
                    format!("hand `${{{word}}}` to the command of [service.{service}]"),
                );
            }
        }
    }

    /// Looks at a mistake that was made of what was filled in: whether it is one of its own. What came from
    /// the environment is not printed.
    pub fn revise(&self, mistake: &mut Mistake) -> bool {
        let Some(place) = mistake.place else { return true };
        for (name, value) in self.foreign.get(&place).into_iter().flatten() {
            mistake.what = mistake.what.replace(value.as_str(), &format!("${{{name}}}"));
        }
        !self.empty.contains(&place)
    }

    /// The port a service uses, when it asked for one.
    pub fn port_of(&self, service: &str) -> Option<u16> {
        self.ports.get(service).copied().filter(|_| self.uses(service, Thing::Port))
    }

    /// The folder a service uses, when it asked for one.
    pub fn dir_of(&self, service: &str) -> Option<PathBuf> {
        self.uses(service, Thing::Dir).then(|| self.dir(service))
    }

    fn uses(&self, service: &str, thing: Thing) -> bool {
        self.own.contains(&(service.to_owned(), thing))
    }

    fn dir(&self, service: &str) -> PathBuf {
        self.surroundings.services_dir.join(service)
    }

    /// Whether a table asks for counts: a string in it asked for some.
    pub fn counts_in(&self, table: &Node) -> bool {
        let mut found = false;
        let mut asks =
            |place: Place, _: &mut String| found |= self.counted.iter().any(|(_, at)| *at == place);
        table.clone().each_text(&mut asks);
        found
    }

    fn port(&mut self, service: &str) -> u16 {
        if let Some(port) = self.ports.get(service) {
            return *port;
        }
        let port = (self.surroundings.port)(service);
        self.ports.insert(service.to_owned(), port);
        port
    }

    fn thing(&mut self, thing: Thing, service: &str) -> String {
        match thing {
            Thing::Port => self.port(service).to_string(),
            Thing::Dir => self.dir(service).display().to_string(),
        }
    }

    /// What stands for one `${word}`; `None` leaves it as it is.
    fn word(
        &mut self,
        word: &str,
        place: Place,
        scope: Scope<'_>,
        mistakes: &mut Mistakes,
    ) -> Option<String> {
        let Some(ours) = ours(word) else { return Some(self.variable(word, place, mistakes)) };
        match ours {
            Ours::Each => match scope.each {
                Some(each) => return Some(each.to_owned()),
                None => mistakes.error(
                    place,
                    "`${each}` stands for nothing here",
                    "it is filled in on a probe that has `each = { a = \"...\", b = \"...\" }`",
                ),
            },
            Ours::Own(thing) => match scope.service {
                Some(service) => {
                    self.own.insert((service.to_owned(), thing));
                    return Some(self.thing(thing, service));
                }
                None => mistakes.error(
                    place,
                    format!("`${{{word}}}` stands for nothing here"),
                    format!(
                        "it is filled in inside a [service.NAME]; elsewhere say `${{{}}}`",
                        word.replace("self", "service.NAME")
                    ),
                ),
            },
            Ours::Of(service, thing) => {
                if self.services.contains(service) {
                    self.referred.push((service.to_owned(), thing, place));
                    return Some(self.thing(thing, service));
                }
                let known = self.services.iter().map(String::as_str);
                mistakes.error(
                    place,
                    format!("`${{{word}}}`: there is no service `{service}`"),
                    super::draft::known_names(service, known, "services"),
                );
            }
            Ours::CountOf(probe) if scope.counts => {
                self.counted.push((probe.to_owned(), place));
                return None;
            }
            Ours::Step if scope.steps => return None,
            Ours::Step => mistakes.error(
                place,
                format!("`${{{word}}}` stands for nothing here"),
                "it is filled in in the later steps of a scenario",
            ),
            Ours::CountOf(_) => mistakes.error(
                place,
                format!("`${{{word}}}` is not known yet here"),
                "it is filled in in the `run` of an exec probe with `once = \"after\"`",
            ),
            Ours::Wrong => mistakes.error(
                place,
                format!("`${{{word}}}` is nothing we know"),
                "ours are ${self.port}, ${self.dir}, ${service.NAME.port|dir}, ${each}, ${probe.NAME.good|bad|total} and ${step.NAME}; \
                 a variable of the environment is ${VAR}, ${VAR:-default} or ${VAR:?message}; `$${` is a plain `${`",
            ),
        }
        Some(String::new())
    }

    fn variable(&mut self, word: &str, place: Place, mistakes: &mut Mistakes) -> String {
        let (name, otherwise) =
            word.split_once(':').map_or((word, ""), |(name, otherwise)| (name, otherwise));
        let set = (self.surroundings.env)(name);
        // As in a shell: with a colon, an empty variable counts as unset.
        let set = if otherwise.is_empty() { set } else { set.filter(|value| !value.is_empty()) };
        if let Some(value) = set {
            // What is shorter is no secret, and would be found in every sentence.
            if value.len() >= 4 {
                self.foreign.entry(place).or_default().push((name.to_owned(), value.clone()));
            }
            return value;
        }
        if let Some(default) = otherwise.strip_prefix('-') {
            return default.to_owned();
        }
        match otherwise.strip_prefix('?') {
            Some(message) => mistakes.error(place, format!("`{name}` is not set: {message}"), ""),
            None => mistakes.error(
                place,
                format!("the environment has no `{name}`"),
                format!(
                    "set it, give a default as in `${{{name}:-default}}`, or write `$${{` for a plain `${{`"
                ),
            ),
        }
        String::new()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ours<'a> {
    Each,
    Own(Thing),
    Of(&'a str, Thing),
    CountOf(&'a str),
    Step,
    Wrong,
}

/// Which of our own words it is; `None` for a variable of the environment.
fn ours(word: &str) -> Option<Ours<'_>> {
    let parts: Vec<&str> = word.split('.').collect();
    match parts.as_slice() {
        ["each"] => return Some(Ours::Each),
        ["self", "port"] => return Some(Ours::Own(Thing::Port)),
        ["self", "dir"] => return Some(Ours::Own(Thing::Dir)),
        ["service", service, "port"] => return Some(Ours::Of(service, Thing::Port)),
        ["service", service, "dir"] => return Some(Ours::Of(service, Thing::Dir)),
        ["step", _] => return Some(Ours::Step),
        ["probe", name @ .., count] if !name.is_empty() && Count::named(count).is_some() => {
            let from = "probe.".len();
            return Some(Ours::CountOf(&word[from..word.len() - count.len() - 1]));
        }
        _ => {}
    }
    let (name, otherwise) = word.split_once(':').map_or((word, None), |(name, rest)| (name, Some(rest)));
    let is_variable = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !matches!(name, "each" | "self" | "service" | "probe" | "step")
        && otherwise.is_none_or(|rest| rest.starts_with(['-', '?']));
    (!is_variable).then_some(Ours::Wrong)
}

/// Walks a text, asking what stands for each `${word}`. With `later`, `$${` stays for the second walk. Also
/// says whether every `${` was closed.
fn walk(text: &str, mut fill: impl FnMut(&str) -> Option<String>, later: bool) -> (String, bool) {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            filled.push_str(before);
            filled.push_str(if later { "$${" } else { "${" });
            rest = &from[2..];
            continue;
        }
        filled.push_str(before);
        let Some((word, after)) = from[2..].split_once('}') else {
            filled.push_str(from);
            return (filled, false);
        };
        if let Some(value) = fill(word) {
            filled.push_str(&value);
        } else {
            filled.push_str("${");
            filled.push_str(word);
            filled.push('}');
        }
        rest = after;
    }
    filled.push_str(rest);
    (filled, true)
}

/// Fills in what probes have counted: the second walk, over what the first left.
pub(super) fn fill_counts(node: &mut Node, count: &mut impl FnMut(&str, Count) -> u64) {
    node.each_text(&mut |_, text| {
        let counted = |word: &str| {
            let (probe, what) = word.strip_prefix("probe.")?.rsplit_once('.')?;
            Some(count(probe, Count::named(what)?).to_string())
        };
        *text = walk(text, counted, false).0;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Sources, Value};

    fn filled(text: &str, scope: Scope<'_>) -> (String, Vec<String>) {
        let mut surroundings = Surroundings {
            env: Box::new(|name| match name {
                "HOST" => Some("db".to_owned()),
                "EMPTY" => Some(String::new()),
                "SLY" => Some("${HOST}".to_owned()),
                "each" | "self" => Some("shadow".to_owned()),
                _ => None,
            }),
            port: Box::new(|_| 4321),
            services_dir: PathBuf::from("/s"),
        };
        let mut sources = Sources::default();
        let mut mistakes = Mistakes::default();
        let mut node = sources.parse("x.toml", "a = 1", &mut mistakes);
        node.value = Value::Text(text.to_owned());
        let services = BTreeSet::from(["redis".to_owned()]);
        Filler::new(&mut surroundings, services).fill(&mut node, scope, &mut mistakes);
        let Value::Text(text) = node.value else { panic!("a text stays a text") };
        (text, mistakes.sorted().iter().map(|mistake| mistake.what.clone()).collect())
    }

    #[test]
    fn variables_are_filled_in_once() {
        let here = Scope { service: Some("redis"), each: Some("e"), ..Scope::default() };
        for (text, expected) in [
            ("plain $ {x} $x", "plain $ {x} $x"),
            ("a ${HOST} b", "a db b"),
            ("${NONE:-x:y z}", "x:y z"),
            ("${EMPTY:-x}${EMPTY}", "x"),
            ("${HOST:-x}", "db"),
            ("$${HOST}", "${HOST}"),
            ("${SLY}", "${HOST}"),
            ("${self.port} ${self.dir} ${each} ${service.redis.port}", "4321 /s/redis e 4321"),
            ("${service.redis.dir}/db", "/s/redis/db"),
        ] {
            assert_eq!(filled(text, here), (expected.to_owned(), vec![]), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_a_mistake() {
        for (text, expected) in [
            ("${NONE}", "the environment has no `NONE`"),
            ("${NONE:?say which}", "`NONE` is not set: say which"),
            ("${EMPTY:?say which}", "`EMPTY` is not set: say which"),
            ("${each}", "`${each}` stands for nothing here"),
            ("${self.port}", "`${self.port}` stands for nothing here"),
            ("${service.pg.port}", "`${service.pg.port}`: there is no service `pg`"),
            ("${service.pg.dir}", "`${service.pg.dir}`: there is no service `pg`"),
            ("${probe.x.good}", "`${probe.x.good}` is not known yet here"),
            ("${each:-x}", "`${each:-x}` is nothing we know"),
            ("${self.port:-1}", "`${self.port:-1}` is nothing we know"),
            ("${self}", "`${self}` is nothing we know"),
            ("${}", "`${}` is nothing we know"),
            ("${HOST", "a `${` is never closed"),
        ] {
            let (_, mistakes) = filled(text, Scope::default());
            assert_eq!(mistakes, [expected], "{text}");
        }
    }

    #[test]
    fn counts_wait_for_the_second_walk() {
        let scope = Scope { counts: true, ..Scope::default() };
        let (text, mistakes) = filled("${HOST} ${probe.o.good} $${probe.o.good}", scope);
        assert_eq!((text.as_str(), mistakes), ("db ${probe.o.good} $${probe.o.good}", vec![]));
        let mut mistakes = Mistakes::default();
        let mut node = Sources::default().parse("x", "a = 1", &mut mistakes);
        node.value = Value::Text(text);
        fill_counts(&mut node, &mut |probe, what| {
            assert_eq!((probe, what), ("o", Count::Good));
            7
        });
        assert_eq!(node.value, Value::Text("db 7 ${probe.o.good}".to_owned()));
    }
}
