//! Magnitudes that change while a fault lasts: `delay = { from = "10ms", to = "500ms", steps = 10 }`.

use serde_json::{Value as Json, json};

use crate::base::unit;
use crate::file::{FieldDoc, Key, Mistakes, Node, Place, Value};

/// So many steps are taken when it is not said.
const STEPS: i64 = 10;
/// A step is an injection and an undo of its own.
pub(super) const MOST_STEPS: i64 = 1000;

/// A fault's table as it is on each step.
#[derive(Debug)]
pub(super) struct Levels {
    /// The tables, at least one.
    pub nodes: Vec<Node>,
    /// Where its ramp stands, if it has one.
    pub place: Option<Place>,
}

/// One ramp of a table.
struct Ramp<'a> {
    key: &'a Key,
    from: &'a Node,
    to: &'a Node,
    steps: i64,
}

/// Takes the ramps among these fields apart. What is wrong with one is told, and it stands still.
pub(super) fn levels(fields: &[FieldDoc], table: &Node, mistakes: &mut Mistakes) -> Levels {
    let mut levels = Levels { nodes: vec![table.clone()], place: None };
    let Value::Table(entries) = &table.value else { return levels };
    let known = |key: &Key| fields.iter().any(|field| field.name == key.text && can_ramp(field));
    let mut ramps: Vec<Ramp<'_>> = Vec::new();
    for (key, node) in entries.iter().filter(|(key, node)| known(key) && is_table(node)) {
        levels.place = Some(node.place);
        let Some(ramp) = read(key, node, mistakes) else {
            // It stands still at nothing: what is said of it was said here.
            for level in &mut levels.nodes {
                put(level, key, first_text(node));
            }
            continue;
        };
        if let Some(other) = ramps.first().filter(|other| other.steps != ramp.steps) {
            mistakes.clash(
                node.place,
                format!(
                    "`{}` takes {} steps where `{}` takes {}",
                    key.text, ramp.steps, other.key.text, other.steps
                ),
                "give them the same `steps`",
                other.key.place,
                "the other stands here",
            );
        }
        ramps.push(ramp);
    }
    let Some(steps) = ramps.iter().map(|ramp| ramp.steps).min() else { return levels };
    let still = levels.nodes.remove(0);
    for step in 0..steps {
        let mut level = still.clone();
        for ramp in &ramps {
            let share = step as f64 / (steps - 1) as f64;
            put(&mut level, ramp.key, between(ramp, share).unwrap_or_else(|| ramp.from.value.clone()));
        }
        levels.nodes.push(level);
    }
    levels
}

/// Whether a field is a magnitude: a quantity or a count.
fn can_ramp(field: &FieldDoc) -> bool {
    let is = |word: &str| field.schema.get("type") == Some(&json!(word));
    is("integer") || (is("string") && field.schema.get("pattern").is_some())
}

fn is_table(node: &Node) -> bool {
    matches!(node.value, Value::Table(_))
}

fn read<'a>(key: &'a Key, node: &'a Node, mistakes: &mut Mistakes) -> Option<Ramp<'a>> {
    let Value::Table(entries) = &node.value else { return None };
    let told = mistakes.told();
    let get = |word: &str| entries.iter().find(|(key, _)| key.text == word).map(|(_, node)| node);
    for (other, _) in entries.iter().filter(|(key, _)| !["from", "to", "steps"].contains(&key.text.as_str()))
    {
        mistakes.error(other.place, format!("a ramp has no `{}`", other.text), "known here: from, to, steps");
    }
    let remedy = format!("such as {} = {{ from = \"10ms\", to = \"500ms\", steps = 10 }}", key.text);
    let (Some(from), Some(to)) = (get("from"), get("to")) else {
        mistakes.error(node.place, format!("the ramp of `{}` lacks `from` or `to`", key.text), remedy);
        return None;
    };
    let steps = match get("steps").map(|node| (node.place, &node.value)) {
        None => STEPS,
        Some((_, Value::Integer(steps))) if (2..=MOST_STEPS).contains(steps) => *steps,
        Some((place, _)) => {
            mistakes.error(
                place,
                "`steps` is no number of steps",
                format!("a whole number from 2 to {MOST_STEPS}"),
            );
            return None;
        }
    };
    let ramp = Ramp { key, from, to, steps };
    if between(&ramp, 0.5).is_none() {
        let what = format!("there is nothing between the `from` and the `to` of `{}`", key.text);
        mistakes.error(node.place, what, format!("two quantities in the same unit, {remedy}"));
    } else if from.value == to.value {
        mistakes.error(
            to.place,
            format!("the ramp of `{}` goes nowhere", key.text),
            "another `to` than `from`",
        );
    }
    (mistakes.told() == told).then_some(ramp)
}

/// The value at a share of the way. Both ends are written as they stand in the file.
fn between(ramp: &Ramp<'_>, share: f64) -> Option<Value> {
    match (&ramp.from.value, &ramp.to.value) {
        (from, _) if share <= 0.0 => Some(from.clone()),
        (_, to) if share >= 1.0 => Some(to.clone()),
        (Value::Text(from), Value::Text(to)) => unit::between(from, to, share).map(Value::Text),
        (Value::Integer(from), Value::Integer(to)) => {
            let way = (*to as f64 - *from as f64) * share;
            Some(Value::Integer((*from as f64 + way).round() as i64))
        }
        _ => None,
    }
}

fn first_text(node: &Node) -> Value {
    let Value::Table(entries) = &node.value else { return node.value.clone() };
    let found = entries.iter().map(|(_, node)| &node.value);
    let mut found = found.filter(|value| matches!(value, Value::Text(_) | Value::Integer(_)));
    found.next().cloned().unwrap_or(Value::Text("1s".to_owned()))
}

fn put(table: &mut Node, key: &Key, value: Value) {
    if let Value::Table(entries) = &mut table.value
        && let Some((_, node)) = entries.iter_mut().find(|(other, _)| other == key)
    {
        node.value = value;
    }
}

/// Lets magnitudes of these fields be ramps, for editors.
pub(super) fn allow(fields: &mut [FieldDoc]) {
    for field in fields.iter_mut().filter(|field| can_ramp(field)) {
        let still = field.schema.take();
        field.schema = json!({"anyOf": [still, {"$ref": "#/$defs/ramp"}]});
    }
}

/// The JSON Schema of a ramp.
pub(super) fn schema() -> Json {
    let end = json!({"type": ["string", "integer"]});
    json!({
        "description": "A magnitude that changes in equal steps while the fault lasts.",
        "type": "object",
        "properties": {
            "from": end, "to": end,
            "steps": {"type": "integer", "minimum": 2, "maximum": MOST_STEPS, "default": STEPS},
        },
        "required": ["from", "to"],
        "additionalProperties": false,
    })
}
