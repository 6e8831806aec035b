//! From files to one table: what is included, what is multiplied, what stands in for what is not said.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::fill::{Filler, Scope, Surroundings};
use super::model::Experiment;
use super::tables::fields_of;
use crate::fault::AnyFault;
use crate::file::{Key, Mistakes, Node, Place, Sources, Value, nearest};
use crate::probe::AnyProbe;

/// A file longer than this is not an experiment.
const MOST_BYTES: u64 = 1 << 20;
/// How deep includes may be nested.
const MOST_DEPTH: usize = 8;
/// How many files an experiment may consist of.
const MOST_FILES: usize = 64;
/// How many names a section may have, and how many probes `each` may make.
const MOST_NAMES: usize = 1_000;

/// Tables whose keys are people's own names.
const NAMED: &[&str] = &["service", "host", "target", "probe", "slo", "expect", "fault"];

/// What the format has, and this version has not.
const LATER: &[(&str, &str)] = &[
    ("notify", "notices are"),
    ("search", "the search for a breaking point is"),
    ("alert", "`brownout watch` is"),
    ("oncall", "`brownout watch` is"),
    ("maintenance", "`brownout watch` is"),
    ("page", "`brownout watch` is"),
    ("schedule", "`brownout watch` is"),
    ("store", "`brownout watch` is"),
];

/// An experiment as it was written: read, and not yet judged.
#[derive(Debug, Clone)]
pub struct Draft {
    sources: Sources,
    mistakes: Mistakes,
    root: Node,
    directory: PathBuf,
    /// Whether all files are TOML: what is half read is not judged, for most of what it lacks is there.
    whole: bool,
}

/// A checked experiment.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What is asked.
    pub experiment: Experiment,
    /// What is doubtful about it.
    pub warnings: Mistakes,
    /// The files it was read from.
    pub sources: Sources,
}

/// A file with mistakes: nothing may be done with it but to tell them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the experiment has {} mistakes", .mistakes.counts().0)]
pub struct Refused {
    /// All its mistakes and warnings.
    pub mistakes: Mistakes,
    /// The files it was read from.
    pub sources: Sources,
}

/// A person's own name: letters, digits, `-` and `_`, at most 64 of them.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.starts_with(char::is_alphanumeric)
        && text.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_')
}

/// The remedy for a word that is none of those known.
pub(super) fn known_names<'a>(word: &str, known: impl Iterator<Item = &'a str>, called: &str) -> String {
    let known: Vec<&str> = known.collect();
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("there are no {called}"),
        None => format!("{called}: {}", known.join(", ")),
    }
}

impl Draft {
    /// Reads a file and what it includes. That a file cannot be read is a mistake like any other, told by
    /// [`Draft::check`].
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let mut mistakes = Mistakes::default();
        let text = match read_text(path) {
            Ok(text) => text,
            Err(why) => {
                mistakes.whole(format!("{} cannot be read: {why}", path.display()), "");
                String::new()
            }
        };
        Self::new(path, &text, mistakes)
    }

    /// Takes a text as if it stood in a file at `path`.
    #[must_use]
    pub fn from_text(path: &Path, text: &str) -> Self {
        Self::new(path, text, Mistakes::default())
    }

    fn new(path: &Path, text: &str, mut mistakes: Mistakes) -> Self {
        let mut sources = Sources::default();
        let whole = !mistakes.refuse();
        let told = mistakes.told();
        let root = sources.parse(&path.display().to_string(), text, &mut mistakes);
        let whole = whole && mistakes.told() == told;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let nothing = Node { place: root.place, value: Value::Table(Vec::new()) };
        let mut draft = Self { sources, mistakes, root: nothing, directory: directory.clone(), whole };
        draft.root = draft.included(root, &directory, &mut vec![canonical(path)], &mut BTreeMap::new());
        draft
    }

    /// Judges it: every mistake of the file, or a checked experiment.
    ///
    /// # Errors
    /// [`Refused`] holds all mistakes, each with its place and its remedy.
    pub fn check(mut self, surroundings: &mut Surroundings) -> Result<Checked, Refused> {
        if !self.whole {
            return Err(Refused { mistakes: self.mistakes, sources: self.sources });
        }
        self.later();
        self.names();
        self.fill_defaults();
        let services = section(&self.root, "service").map(|(key, _)| key.text.clone()).collect();
        let mut filler = Filler::new(surroundings, services);
        self.multiply(&mut filler);
        self.fill(&mut filler);
        filler.settle(&mut self.mistakes);
        let told = self.mistakes.told();
        let experiment = super::resolve::experiment(&self.root, &self.directory, &filler, &mut self.mistakes);
        self.mistakes.revise(told, |mistake| filler.revise(mistake));
        match experiment {
            Some(experiment) if !self.mistakes.refuse() => {
                Ok(Checked { experiment, warnings: self.mistakes, sources: self.sources })
            }
            _ => Err(Refused { mistakes: self.mistakes, sources: self.sources }),
        }
    }

    /// A file's table with those it includes.
    fn included(
        &mut self,
        mut root: Node,
        directory: &Path,
        chain: &mut Vec<PathBuf>,
        seen: &mut BTreeMap<PathBuf, Place>,
    ) -> Node {
        for (path, place) in self.includes(&root) {
            let file = directory.join(&path);
            let identity = canonical(&file);
            if let Some(at) = chain.iter().position(|earlier| *earlier == identity) {
                let names = chain[at..].iter().chain([&identity]).map(|path| file_name(path));
                let circle = names.collect::<Vec<_>>().join(" -> ");
                self.mistakes.error(
                    place,
                    format!("files include one another: {circle}"),
                    "break the circle",
                );
                continue;
            }
            if let Some(first) = seen.get(&identity) {
                self.mistakes.clash(
                    place,
                    format!("`{path}` is included twice"),
                    "remove one of the two",
                    *first,
                    "it is included first here",
                );
                continue;
            }
            if chain.len() > MOST_DEPTH || seen.len() >= MOST_FILES {
                let remedy = format!("at most {MOST_DEPTH} levels and {MOST_FILES} files");
                self.mistakes.error(place, "files include one another too deeply", remedy);
                continue;
            }
            let text = match read_text(&file) {
                Ok(text) => text,
                Err(why) => {
                    let remedy = "its path starts from the file that includes it";
                    self.mistakes.error(place, format!("{} cannot be read: {why}", file.display()), remedy);
                    continue;
                }
            };
            seen.insert(identity.clone(), place);
            let told = self.mistakes.told();
            let other = self.sources.parse(&file.display().to_string(), &text, &mut self.mistakes);
            self.whole &= self.mistakes.told() == told;
            chain.push(identity);
            let inner = file.parent().unwrap_or(directory).to_owned();
            let other = self.included(other, &inner, chain, seen);
            chain.pop();
            merge(&mut root, other, &mut Vec::new(), &mut self.mistakes);
        }
        root
    }

    /// The paths a table includes; the entry is taken out of what is merged, and judged here.
    fn includes(&mut self, root: &Node) -> Vec<(String, Place)> {
        let Some(node) = entry(root, "include") else { return Vec::new() };
        let Value::Array(nodes) = &node.value else { return Vec::new() };
        let mut paths = Vec::new();
        for node in nodes {
            let Value::Text(path) = &node.value else { continue };
            if path.contains("${") {
                let remedy = "write the path out";
                self.mistakes.error(node.place, "`include` takes no variables", remedy);
            } else {
                paths.push((path.clone(), node.place));
            }
        }
        paths
    }

    /// Says what is not in this version, and takes it out.
    fn later(&mut self) {
        let Value::Table(entries) = &mut self.root.value else { return };
        let mistakes = &mut self.mistakes;
        entries.retain(|(key, _)| {
            let later = LATER.iter().find(|(word, _)| *word == key.text);
            if let Some((word, what)) = later {
                mistakes.error(
                    key.place,
                    format!("[{word}]: {what} not in this version yet"),
                    "remove it, or keep it in a file of its own",
                );
            }
            later.is_none()
        });
    }

    /// Every person's own name must be one.
    fn names(&mut self) {
        for word in NAMED {
            if let Some(Value::Table(entries)) = entry_mut(&mut self.root, word).map(|node| &mut node.value)
                && entries.len() > MOST_NAMES
            {
                let place = entries[MOST_NAMES].0.place;
                entries.truncate(MOST_NAMES);
                let what = format!("[{word}] has more than {MOST_NAMES} names");
                self.mistakes.error(place, what, "split the experiment");
            }
            for (key, _) in section(&self.root, word) {
                if !is_name(&key.text) {
                    self.mistakes.error(
                        key.place,
                        format!("`{}` is no name", key.text.escape_debug()),
                        "names are letters, digits, `-` and `_`, at most 64 of them",
                    );
                } else if *word == "fault" && key.text == "operator" {
                    self.mistakes.error(
                        key.place,
                        "`operator` stands for a person",
                        "name the fault otherwise",
                    );
                }
            }
        }
    }

    /// Fills `[defaults.probe.KIND]` and `[defaults.fault.KIND]` into the tables of their kind.
    fn fill_defaults(&mut self) {
        let Some(defaults) = entry(&self.root, "defaults").cloned() else { return };
        let Value::Table(sections) = defaults.value else {
            self.mistakes.error(
                defaults.place,
                "[defaults] must be a table",
                "such as [defaults.probe.http]",
            );
            return;
        };
        for (word, kinds) in sections {
            let known = match word.text.as_str() {
                "probe" => AnyProbe::KINDS,
                "fault" => AnyFault::KINDS,
                other => {
                    let remedy = known_names(other, ["probe", "fault"].into_iter(), "there are defaults for");
                    self.mistakes.error(word.place, format!("there are no defaults for `{other}`"), remedy);
                    continue;
                }
            };
            let Value::Table(kinds) = kinds.value else {
                let what = format!("[defaults.{}] must be a table of kinds", word.text);
                self.mistakes.error(kinds.place, what, format!("such as [defaults.{}.KIND]", word.text));
                continue;
            };
            for (kind, fields) in kinds {
                if !known.contains(&kind.text.as_str()) {
                    let remedy = known_names(&kind.text, known.iter().copied(), "kinds");
                    let what = format!("there is no {} kind `{}` in this version", word.text, kind.text);
                    self.mistakes.error(kind.place, what, remedy);
                    continue;
                }
                self.fill_default(&word.text, &kind, fields);
            }
        }
    }

    fn fill_default(&mut self, word: &str, kind: &Key, fields: Node) {
        let Value::Table(mut fields) = fields.value else {
            let what = format!("[defaults.{word}.{}] must be a table", kind.text);
            self.mistakes.error(fields.place, what, "");
            return;
        };
        let known = fields_of(word, &kind.text);
        let known: Vec<&str> = known.iter().map(|field| field.name).filter(|name| *name != "each").collect();
        fields.retain(|(key, _)| {
            let is_known = known.contains(&key.text.as_str());
            if !is_known {
                let remedy = if key.text == "each" {
                    "say it on the probe: it makes several of one".to_owned()
                } else {
                    known_names(&key.text, known.iter().copied(), "known here")
                };
                let what = format!("[defaults.{word}.{}] has no field `{}`", kind.text, key.text);
                self.mistakes.error(key.place, what, remedy);
            }
            is_known
        });
        for (_, named) in section_mut(&mut self.root, word) {
            let Value::Table(kinds) = &mut named.value else { continue };
            for (_, table) in kinds.iter_mut().filter(|(key, _)| key.text == kind.text) {
                let Value::Table(entries) = &mut table.value else { continue };
                for (key, value) in &fields {
                    if !entries
                        .iter()
                        .any(|(own, _)| own.text == key.text || excludes(word, &own.text, &key.text))
                    {
                        entries.push((key.clone(), value.clone()));
                    }
                }
            }
        }
    }

    /// Makes one probe of each entry of `each`.
    fn multiply(&mut self, filler: &mut Filler<'_>) {
        let mistakes = &mut self.mistakes;
        let probes = entry_mut(&mut self.root, "probe").map(|node| &mut node.value);
        let Some(Value::Table(probes)) = probes else { return };
        let mut all = Vec::with_capacity(probes.len());
        for (name, probe) in std::mem::take(probes) {
            let Some(each) = each_of(&probe).cloned() else {
                all.push((name, probe));
                continue;
            };
            let Value::Table(values) = each.value else {
                let remedy = "such as { shop = \"https://...\", api = \"https://...\" }";
                mistakes.error(each.place, "`each` is a table", remedy);
                filler.told(each.place);
                all.push((name, probe));
                continue;
            };
            if values.is_empty() {
                mistakes.error(each.place, "`each` has no entries", "such as { shop = \"https://...\" }");
            }
            if all.len() + values.len() > MOST_NAMES {
                let what = format!("there are more than {MOST_NAMES} probes");
                mistakes.error(each.place, what, "split the experiment");
                continue;
            }
            for (key, mut value) in values {
                let told = mistakes.told();
                filler.fill(&mut value, Scope::default(), mistakes);
                if !is_name(&key.text) {
                    let what = format!("`{}` is no name", key.text.escape_debug());
                    mistakes.error(
                        key.place,
                        what,
                        "names are letters, digits, `-` and `_`, at most 64 of them",
                    );
                }
                let text = if let Value::Text(text) = &value.value { text.as_str() } else { "" };
                if !matches!(value.value, Value::Text(_)) {
                    mistakes.error(value.place, "an entry of `each` is a string", "put it in quotes");
                    filler.told(value.place);
                }
                let mut probe = probe.clone();
                let scope =
                    Scope { each: Some(text), each_is_wrong: mistakes.told() > told, ..Scope::default() };
                fill_probe(&mut probe, filler, scope, mistakes);
                all.push((Key { text: format!("{}.{}", name.text, key.text), place: name.place }, probe));
            }
        }
        *probes = all;
    }

    /// Fills in the variables of all that is left.
    fn fill(&mut self, filler: &mut Filler<'_>) {
        let mistakes = &mut self.mistakes;
        let Value::Table(root) = &mut self.root.value else { return };
        for (word, node) in root {
            match (word.text.as_str(), &mut node.value) {
                // Paths of files that were read long ago, and what was copied to where it is filled in.
                ("include" | "defaults", _) => {}
                ("service", Value::Table(services)) => {
                    for (name, service) in services {
                        let scope = Scope { service: Some(&name.text), ..Scope::default() };
                        filler.fill(service, scope, mistakes);
                    }
                }
                ("probe", Value::Table(probes)) => {
                    for (name, probe) in probes {
                        // A dot: it was multiplied, and is filled in already.
                        if !name.text.contains('.') {
                            fill_probe(probe, filler, Scope::default(), mistakes);
                        }
                    }
                }
                _ => filler.fill(node, Scope::default(), mistakes),
            }
        }
    }
}

/// Whether a field that is said makes a default of another field senseless.
fn excludes(word: &str, said: &str, default: &str) -> bool {
    const HOW_OFTEN: &[&str] = &["rate", "every", "once"];
    word == "probe" && HOW_OFTEN.contains(&said) && HOW_OFTEN.contains(&default)
}

fn fill_probe(probe: &mut Node, filler: &mut Filler<'_>, plain: Scope<'_>, mistakes: &mut Mistakes) {
    let Value::Table(kinds) = &mut probe.value else { return };
    for (kind, table) in kinds {
        let after = entry(table, "once").is_some_and(|once| once.value == Value::Text("after".to_owned()));
        match &mut table.value {
            Value::Table(fields) => {
                for (field, node) in fields {
                    let counts = after && kind.text == "exec" && field.text == "run";
                    let steps = kind.text == "scenario";
                    filler.fill(node, Scope { steps, counts, ..plain }, mistakes);
                }
            }
            _ => filler.fill(table, plain, mistakes),
        }
    }
}

/// What a probe is multiplied by.
fn each_of(probe: &Node) -> Option<&Node> {
    let Value::Table(kinds) = &probe.value else { return None };
    kinds.iter().find_map(|(_, table)| entry(table, "each"))
}

/// The value under a key of a table.
fn entry<'a>(table: &'a Node, word: &str) -> Option<&'a Node> {
    let Value::Table(entries) = &table.value else { return None };
    entries.iter().find(|(key, _)| key.text == word).map(|(_, node)| node)
}

/// The entries of `[word]`; none when it is no table.
fn section<'a>(root: &'a Node, word: &str) -> impl Iterator<Item = &'a (Key, Node)> {
    match entry(root, word).map(|node| &node.value) {
        Some(Value::Table(entries)) => entries.iter(),
        _ => [].iter(),
    }
}

fn entry_mut<'a>(table: &'a mut Node, word: &str) -> Option<&'a mut Node> {
    let Value::Table(entries) = &mut table.value else { return None };
    entries.iter_mut().find(|(key, _)| key.text == word).map(|(_, node)| node)
}

fn section_mut<'a>(root: &'a mut Node, word: &str) -> impl Iterator<Item = &'a mut (Key, Node)> {
    match entry_mut(root, word).map(|node| &mut node.value) {
        Some(Value::Table(entries)) => entries.iter_mut(),
        _ => [].iter_mut(),
    }
}

/// Puts what another file says beside what is there. Tables of names and of kinds are joined; what is said
/// twice is a mistake that shows both places.
fn merge(into: &mut Node, from: Node, path: &mut Vec<String>, mistakes: &mut Mistakes) {
    let (Value::Table(into), Value::Table(from)) = (&mut into.value, from.value) else { return };
    for (key, node) in from {
        if path.is_empty() && key.text == "include" {
            continue;
        }
        let Some((own, there)) = into.iter_mut().find(|(own, _)| own.text == key.text) else {
            into.push((key, node));
            continue;
        };
        let joined = match path.first().map_or(key.text.as_str(), String::as_str) {
            "defaults" => path.len() < 2,
            word => {
                path.is_empty() && (NAMED.contains(&word) || LATER.iter().any(|(later, _)| *later == word))
            }
        };
        if joined && matches!((&there.value, &node.value), (Value::Table(_), Value::Table(_))) {
            path.push(key.text);
            merge(there, node, path, mistakes);
            path.pop();
            continue;
        }
        let name = path.iter().map(String::as_str).chain([key.text.as_str()]).collect::<Vec<_>>().join(".");
        mistakes.clash(
            key.place,
            format!("`{name}` is defined twice"),
            "rename one of the two, or remove it",
            own.place,
            "it is defined first here",
        );
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let kind = std::fs::metadata(path).map_err(|why| why.to_string())?;
    if !kind.is_file() {
        return Err("it is no file".to_owned());
    }
    if kind.len() == 0 {
        return Ok(String::new()); // Files of the kernel say so too, and some of them block for ever.
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|why| why.to_string())?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|why| why.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it is larger than {} KiB", MOST_BYTES >> 10));
    }
    String::from_utf8(bytes)
        .map_err(|why| format!("it is not UTF-8 from byte {}", why.utf8_error().valid_up_to()))
}

fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
