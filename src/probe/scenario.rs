//! `scenario`: what a user does, step by step.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use serde_json_path::JsonPath;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::expect::Pattern;
use super::{AnyProbe, AnyProber, Miss, Probe, Prober, Setting, Step as Seen, Trace, beginning};
use crate::file::{Fields, Mistakes, Node, Read, Value, nearest};

/// What may be captured at most: a token, an id, an address.
const LONGEST: usize = 64 * 1024;

crate::kind! {
    /// Does several looks one after the other, each with what the ones before it captured.
    ///
    /// One look of a scenario is one journey: it is good when all its steps are, and `timeout` is for all of it. The first
    /// step that is not good ends it, and is named with its reason. Each step's own time is in the journal, and `brownout
    /// probe` shows them.
    ///
    /// A step with `always = true` is made in any case, also when the journey has failed or its time is over (then with a
    /// timeout of its own): it cleans up. It is left out where it needs something that was not captured. Its time counts, and
    /// when it fails, so has the journey.
    pub struct Scenario("scenario") {
        /// The steps, in their order. Each has a `name`, and one probe as it stands elsewhere, for example `http = { url =
        /// "..." }`. `capture` takes values out of its answer: a table of names, each with a JSON path ("$.id"), or with a
        /// regular expression whose first group is taken. Later steps have them in any of their strings as `${step.NAME}`.
        steps: Vec<Step> = required,
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    name: String,
    kind: String,
    table: Node,
    captures: Vec<(String, Capture)>,
    always: bool,
    /// What it needs of the steps before it.
    needs: Vec<String>,
    /// As it is, or with something in place of what it needs: whether it makes sense is known when the file is read.
    probe: AnyProbe,
}

/// How a value is found in an answer.
#[derive(Debug, Clone)]
enum Capture {
    Json(JsonPath),
    Text(Pattern),
}

impl Read for Step {
    const NAME: &'static str = "table";

    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut fields = Fields::open(node, "a step", mistakes)?;
        let name = fields.required::<String>("name", mistakes);
        let captures = match fields.node("capture") {
            Some((_, node)) => captures(node, mistakes),
            None => Some(Vec::new()),
        };
        let always = match fields.node("always") {
            Some((_, node)) => bool::read(node, mistakes),
            None => Some(false),
        };
        let rest = fields.rest();
        let [(kind, table)] = rest.as_slice() else {
            let what = if rest.is_empty() { "a step has no probe" } else { "a step has more than one probe" };
            mistakes.error(node.place, what, "give it one, for example `http = { url = \"...\" }`");
            return None;
        };
        if kind.text == Scenario::KIND || !AnyProbe::KINDS.contains(&kind.text.as_str()) {
            let known = AnyProbe::KINDS.iter().copied().filter(|kind| *kind != Scenario::KIND);
            let remedy = nearest(&kind.text, known).map_or_else(
                || "`brownout explain` lists them".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            mistakes.error(kind.place, format!("`{}` is no probe that a step can be", kind.text), remedy);
            return None;
        }
        let mut needs = Vec::new();
        let mut sample = (*table).clone();
        fill(&mut sample, |name| {
            needs.push(name.to_owned());
            // It is good as a number, as a part of a path and as a word.
            "1".to_owned()
        });
        let probe = take(&kind.text, &sample, mistakes);
        Some(Self {
            name: name?,
            kind: kind.text.clone(),
            table: (*table).clone(),
            captures: captures?,
            always: always?,
            needs,
            probe: probe?,
        })
    }

    fn schema() -> Json {
        json!({
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string"},
                "capture": {"type": "object", "additionalProperties": {"type": "string"}},
                "always": {"type": "boolean"},
            },
        })
    }
}

fn captures(node: &Node, mistakes: &mut Mistakes) -> Option<Vec<(String, Capture)>> {
    let read = Fields::open(node, "`capture`", mistakes)?.rest().into_iter().map(|(key, node)| {
        let capture = match &node.value {
            Value::Text(text) if text.starts_with('$') => match JsonPath::parse(text) {
                Ok(path) => Some(Capture::Json(path)),
                Err(why) => {
                    let what = format!("`{text}` is not a JSON path: {}", why.message());
                    mistakes.error(node.place, what, "write it like \"$.items[0].id\" (RFC 9535)");
                    None
                }
            },
            _ => Pattern::read(node, mistakes).map(Capture::Text),
        };
        Some((key.text.clone(), capture?))
    });
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

/// A probe of its own, with all its mistakes.
fn take(kind: &str, table: &Node, mistakes: &mut Mistakes) -> Option<AnyProbe> {
    let mut fields = Fields::open(table, format!("`{kind}`"), mistakes)?;
    let probe = AnyProbe::take(kind, &mut fields, mistakes);
    fields.close(mistakes);
    probe
}

/// Puts something in place of every `${step.NAME}` below a node.
fn fill(node: &mut Node, mut with: impl FnMut(&str) -> String) {
    const BEGIN: &str = "${step.";
    node.each_text(&mut |_, text| {
        let (mut filled, mut rest) = (String::new(), text.as_str());
        while let Some((before, after)) = rest.split_once(BEGIN)
            && let Some((name, after)) = after.split_once('}')
        {
            filled.push_str(before);
            filled.push_str(&with(name));
            rest = after;
        }
        filled.push_str(rest);
        *text = filled;
    });
}

/// Journeys, again and again.
pub struct ScenarioProber {
    steps: Arc<[Ready]>,
    timeout: Duration,
}

/// A step that can be made.
struct Ready {
    step: Step,
    /// Ready once and for all, unless it needs something.
    prober: Option<Box<AnyProber>>,
    setting: Setting,
}

/// What was captured on one journey.
type Known = BTreeMap<String, String>;

impl Probe for Scenario {
    type Prober = ScenarioProber;
    const EXAMPLE: &'static str = r#"[probe.purchase.scenario]
rate    = "2/s"
timeout = "5s"
[[probe.purchase.scenario.steps]]
name    = "login"
http    = { url = "http://127.0.0.1:8080/login", method = "POST", body = "a" }
capture = { token = "$.token" }
[[probe.purchase.scenario.steps]]
name    = "order"
http    = { url = "http://127.0.0.1:8080/orders?by=${step.token}" }
capture = { order = "id=([0-9]+)" }
[[probe.purchase.scenario.steps]]
name    = "cancel"
always  = true
http    = { url = "http://127.0.0.1:8080/${step.order}", method = "DELETE" }
"#;

    fn check(&self) -> Result<(), (String, String)> {
        if self.steps.is_empty() {
            return Err(("a scenario without steps does nothing".to_owned(), "give it some".to_owned()));
        }
        let mut known: Vec<&str> = Vec::new();
        for (nth, step) in self.steps.iter().enumerate() {
            if self.steps[..nth].iter().any(|other| other.name == step.name) {
                let what = format!("two steps are called `{}`", step.name);
                return Err((what, "name each in its own way".to_owned()));
            }
            if let Some(missing) = step.needs.iter().find(|name| !known.contains(&name.as_str())) {
                let what = format!(
                    "step `{}` needs `${{step.{missing}}}`, which no step before it captures",
                    step.name
                );
                return Err((what, "write `capture = { NAME = \"$.path\" }` in an earlier step".to_owned()));
            }
            known.extend(step.captures.iter().map(|(name, _)| name.as_str()));
        }
        Ok(())
    }

    fn prober(&self, setting: &Setting) -> Result<ScenarioProber, String> {
        let ready = |step: &Step| {
            let named = |why| format!("step `{}`: {why}", step.name);
            // Also where it is made anew each time: what it reads must be there.
            let prober = step.probe.prober(setting).map(Box::new).map_err(named)?;
            let prober = step.needs.is_empty().then_some(prober);
            Ok(Ready { step: step.clone(), prober, setting: setting.clone() })
        };
        let steps: Result<Vec<Ready>, String> = self.steps.iter().map(ready).collect();
        Ok(ScenarioProber { steps: steps?.into(), timeout: setting.timeout })
    }

    fn looks_at(&self) -> String {
        self.steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

impl Prober for ScenarioProber {
    async fn look(&self, trace: &mut Trace) -> Result<(), Miss> {
        let mut journey = Journey::begin(&self.steps, self.timeout);
        let mut result = Ok(());
        for ready in self.steps.iter().filter(|ready| !ready.step.always) {
            result = journey.make(ready, trace).await;
            if result.is_err() {
                break;
            }
        }
        let cleaned = journey.clean_up(trace).await;
        result.and(cleaned)
    }
}

/// One journey. When it is dropped before its end, what cleans up is still done, on its own.
struct Journey {
    steps: Arc<[Ready]>,
    known: Known,
    cleaned: bool,
    timeout: Duration,
}

impl Journey {
    fn begin(steps: &Arc<[Ready]>, timeout: Duration) -> Self {
        Self { steps: Arc::clone(steps), known: Known::new(), cleaned: false, timeout }
    }

    async fn make(&mut self, ready: &Ready, trace: &mut Trace) -> Result<(), Miss> {
        let begun = Instant::now();
        let result = ready.look(&mut self.known, trace).await;
        let took = begun.elapsed();
        trace.measure("step", took.as_secs_f64(), || {
            format!("{} took {}", ready.step.name, crate::base::unit::say(took))
        });
        trace.steps.push(Seen { name: ready.step.name.clone(), took, good: result.is_ok() });
        let named =
            |miss: Miss| Miss { why: format!("step `{}`: {}", ready.step.name, miss.why), ours: miss.ours };
        result.map_err(named)
    }

    /// Makes the steps that are always made; the first that fails.
    async fn clean_up(&mut self, trace: &mut Trace) -> Result<(), Miss> {
        let (steps, mut result) = (Arc::clone(&self.steps), Ok(()));
        for ready in steps.iter().filter(|ready| ready.step.always) {
            let has_all = ready.step.needs.iter().all(|name| self.known.contains_key(name));
            if has_all {
                result = result.and(self.make(ready, trace).await);
            }
        }
        self.cleaned = true;
        result
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        let any = self.steps.iter().any(|ready| ready.step.always);
        if self.cleaned || !any {
            return;
        }
        let mut rest = Self::begin(&self.steps, self.timeout);
        rest.known = std::mem::take(&mut self.known);
        rest.cleaned = true; // Once is enough, however it ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                let _ = timeout(rest.timeout, rest.clean_up(&mut Trace::default())).await;
            });
        }
    }
}

impl Ready {
    /// Looks, and takes down what is captured. Boxed, since a step is any probe, and a scenario is one.
    fn look<'a>(
        &'a self,
        known: &'a mut Known,
        trace: &'a mut Trace,
    ) -> Pin<Box<dyn Future<Output = Result<(), Miss>> + Send + 'a>> {
        Box::pin(async move {
            let filled;
            let prober = if let Some(prober) = &self.prober {
                prober.as_ref()
            } else {
                filled = self.filled(known)?;
                &filled
            };
            let mut own = Trace::new(trace.keeps);
            own.keeps_answer = !self.step.captures.is_empty();
            let result = prober.look(&mut own).await;
            trace.facts.append(&mut own.facts);
            result?;
            for (name, capture) in &self.step.captures {
                let answer = own.answer.as_deref().unwrap_or_default();
                known.insert(name.clone(), capture.of(name, answer)?);
            }
            Ok(())
        })
    }

    /// The probe with what it needs.
    fn filled(&self, known: &Known) -> Result<AnyProber, Miss> {
        let (mut table, mut mistakes) = (self.step.table.clone(), Mistakes::default());
        fill(&mut table, |name| known.get(name).cloned().unwrap_or_default());
        take(&self.step.kind, &table, &mut mistakes)
            .ok_or_else(|| "what was captured makes no sense in it".to_owned())
            .and_then(|probe| probe.prober(&self.setting))
            .map_err(Miss::new)
    }
}

impl Capture {
    /// The value in an answer.
    fn of(&self, name: &str, answer: &[u8]) -> Result<String, Miss> {
        let found = match self {
            Self::Json(path) => serde_json::from_slice::<Json>(answer).ok().and_then(|document| {
                path.query(&document).all().first().map(|found| match found {
                    Json::String(text) => text.clone(),
                    other => other.to_string(),
                })
            }),
            Self::Text(pattern) => pattern.group(answer),
        };
        match found {
            Some(value) if value.len() <= LONGEST => Ok(value),
            Some(_) => Err(Miss::new(format!("`{name}` is longer than 64 KiB"))),
            None => {
                let begins = beginning(answer);
                Err(Miss::new(format!("`{name}` is not in the answer, which begins `{begins}`")))
            }
        }
    }
}
