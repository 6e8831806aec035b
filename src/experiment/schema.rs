//! The JSON Schema of the file, for editors: made of the very tables that read it.

use serde_json::{Value as Json, json};

use super::tables::File;
use crate::file::object_schema;

/// The JSON Schema (draft 2020-12) of an experiment file. It knows shapes, not names: what refers to what is
/// judged by `brownout check`.
#[must_use]
pub fn schema() -> Json {
    let mut schema = object_schema(File::ABOUT, &File::fields());
    let required = take_required(&mut schema);
    allow_variables(&mut schema);
    if let Json::Object(schema) = &mut schema {
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".to_owned(), json!("A Brownout experiment"));
        schema.insert("$defs".to_owned(), json!({"ramp": super::ramp::schema()}));
        schema.insert(
            "if".to_owned(),
            json!({"not": {"anyOf": [{"required": ["defaults"]}, {"required": ["include"]}]}}),
        );
        schema.insert("then".to_owned(), json!({"properties": required}));
    }
    schema
}

/// Takes what the kinds require out of their tables, into a schema of its own: it holds only where no defaults,
/// here or in another file, can say it instead.
fn take_required(schema: &mut Json) -> Json {
    let mut sections = serde_json::Map::new();
    for word in ["probe", "fault"] {
        let kinds = schema.pointer_mut(&format!("/properties/{word}/additionalProperties/properties"));
        let Some(Json::Object(kinds)) = kinds else { continue };
        let required: serde_json::Map<String, Json> = kinds
            .iter_mut()
            .filter_map(|(kind, table)| {
                let required = table.as_object_mut()?.shift_remove("required")?;
                Some((kind.clone(), json!({"required": required})))
            })
            .collect();
        sections.insert(word.to_owned(), json!({"additionalProperties": {"properties": required}}));
    }
    Json::Object(sections)
}

/// A string of a closed form may also hold a variable, which is filled in before it is read.
fn allow_variables(schema: &mut Json) {
    match schema {
        Json::Object(object) => {
            object.values_mut().for_each(allow_variables);
            let closed = ["pattern", "enum"].iter().any(|word| object.contains_key(*word));
            if closed && object.get("type") == Some(&json!("string")) {
                let description = object.shift_remove("description");
                let default = object.shift_remove("default");
                let strict = Json::Object(std::mem::take(object));
                let variable = json!({"type": "string", "pattern": r"\$\{"});
                object.insert("anyOf".to_owned(), json!([strict, variable]));
                for (word, value) in [("description", description), ("default", default)] {
                    if let Some(value) = value {
                        object.insert(word.to_owned(), value);
                    }
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(allow_variables),
        _ => {}
    }
}
