//! The JSON Schema of the configuration, for editors. Draft 7, which is what their YAML plugins speak.
//! Filters are not known to the types here: their schemas are handed in and placed where a filter may stand.

use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value as Json, json};

use super::model::{Config, route::FilterUse};

impl Config {
    /// The schema of the whole file. `filters` has the schema of each filter's options by its name, best made
    /// with [`schema_of`].
    pub fn json_schema(filters: &BTreeMap<String, Json>) -> Json {
        let mut schema = schema_of::<Config>();
        take_booleans(&mut schema);
        let mut properties = Map::new();
        let Some(definitions) = schema.get_mut("definitions").and_then(Json::as_object_mut) else {
            return schema;
        };
        for (name, options) in filters {
            properties.insert(name.clone(), place(name, options.clone(), definitions));
        }
        let name = FilterUse::schema_name();
        if let Some(inline) =
            definitions.get_mut(name.as_ref()).and_then(|schema| schema.pointer_mut("/anyOf/1"))
        {
            inline["oneOf"] = properties.keys().map(|name| json!({"required": [name]})).collect();
            match inline.get_mut("properties").and_then(Json::as_object_mut) {
                Some(conditions) => conditions.append(&mut properties),
                None => inline["properties"] = Json::Object(properties),
            }
            inline["additionalProperties"] = Json::Bool(false);
        }
        describe(&mut schema);
        schema
    }
}

/// The schema of `T`, in the form that [`Config::json_schema`] takes.
pub fn schema_of<T: JsonSchema>() -> Json {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>().to_value()
}

/// Moves the definitions that `options` brings along to those of the whole file, where references are resolved.
/// One that differs from another filter's of the same name is put under the filter's name.
fn place(filter: &str, mut options: Json, definitions: &mut Map<String, Json>) -> Json {
    let Some(object) = options.as_object_mut() else { return options };
    object.remove("$schema");
    object.remove("title");
    let own = ["definitions", "$defs"].into_iter().filter_map(|key| object.remove(key));
    let own: Vec<(String, Json)> = own.filter_map(|own| own.as_object().cloned()).flatten().collect();
    let rename = |name: &str| match own.iter().find(|(own, _)| own == name) {
        Some((_, schema)) if definitions.get(name).is_some_and(|there| there != schema) => {
            format!("{filter}.{name}")
        }
        _ => name.to_owned(),
    };
    let renamed: Vec<String> = own.iter().map(|(name, _)| rename(name)).collect();
    let names: BTreeMap<&str, &str> =
        own.iter().map(|(name, _)| name.as_str()).zip(renamed.iter().map(String::as_str)).collect();
    redirect(&mut options, &names);
    for ((_, schema), name) in own.iter().zip(&renamed) {
        let mut schema = schema.clone();
        redirect(&mut schema, &names);
        definitions.entry(name.clone()).or_insert(schema);
    }
    // A filter whose options all have defaults may be written with nothing after its colon.
    match (options.get("type").and_then(Json::as_str), options.get("required")) {
        (Some("object"), None) => {
            let description = options.get("description").cloned();
            let mut either = json!({"anyOf": [options, {"type": "null"}]});
            if let Some(description) = description {
                either["description"] = description;
            }
            either
        }
        _ => options,
    }
}

/// What is said of a map with one key is said of the key, which is what an editor shows.
fn describe(schema: &mut Json) {
    match schema {
        Json::Array(items) => items.iter_mut().for_each(describe),
        Json::Object(object) => {
            let description = object.get("description").cloned();
            if let (Some(description), Some(Json::Object(properties))) =
                (description, object.get_mut("properties"))
                && properties.len() == 1
            {
                for property in properties.values_mut().filter_map(Json::as_object_mut) {
                    property.entry("description").or_insert_with(|| description.clone());
                }
            }
            object.values_mut().for_each(describe);
        }
        _ => {}
    }
}

/// Many tools load `off` and `on` as booleans and write these (YAML 1.1), so that they are read as well. Filters read theirs themselves.
fn take_booleans(schema: &mut Json) {
    const WORDS: [(&str, bool); 2] = [("off", false), ("on", true)];
    match schema {
        Json::Array(items) => items.iter_mut().for_each(take_booleans),
        Json::Object(object) => {
            // First: what is put in below has all that it needs.
            object.values_mut().for_each(take_booleans);
            let words = match (object.remove("const"), object.get("enum").and_then(Json::as_array)) {
                (Some(word), _) if WORDS.iter().any(|(known, _)| word == *known) => Some(vec![word]),
                (Some(other), _) => {
                    object.insert("const".to_owned(), other);
                    None
                }
                (None, words) => words.cloned(),
            };
            if let Some(mut words) = words {
                let booleans = WORDS.iter().filter(|(word, _)| words.iter().any(|known| known == word));
                let booleans: Vec<Json> = booleans.map(|(_, value)| Json::Bool(*value)).collect();
                let more: Vec<Json> = booleans.into_iter().filter(|value| !words.contains(value)).collect();
                if !more.is_empty() {
                    object.remove("type");
                }
                words.extend(more);
                object.insert("enum".to_owned(), words.into());
            }
            let is_word =
                object.get("pattern").and_then(Json::as_str).is_some_and(|text| text.contains("^off$"));
            if is_word {
                let text: Map<String, Json> = ["type", "pattern"]
                    .iter()
                    .filter_map(|key| Some((key.to_string(), object.remove(*key)?)))
                    .collect();
                object.insert("anyOf".to_owned(), json!([text, {"const": false}]));
            }
        }
        _ => {}
    }
}

fn redirect(schema: &mut Json, names: &BTreeMap<&str, &str>) {
    match schema {
        Json::Array(items) => items.iter_mut().for_each(|item| redirect(item, names)),
        Json::Object(object) => {
            for (key, value) in object {
                let target =
                    value.as_str().filter(|_| key == "$ref").and_then(|target| target.rsplit('/').next());
                match target.and_then(|target| names.get(target)) {
                    Some(name) => *value = format!("#/definitions/{name}").into(),
                    None => redirect(value, names),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inline_filter_is_one_of_those_registered() {
        let options = json!({
            "$schema": "x", "type": "object", "required": ["at"],
            "properties": {"at": {"$ref": "#/$defs/Limits"}},
            "$defs": {"Limits": {"type": "string"}},
        });
        let schema = Config::json_schema(&BTreeMap::from([("gate".to_owned(), options)]));
        let inline = &schema["definitions"]["FilterUse"]["anyOf"][1];
        assert_eq!(inline["additionalProperties"], json!(false));
        let at = &inline["properties"]["gate"]["properties"]["at"]["$ref"];
        assert_eq!(at, "#/definitions/gate.Limits", "the listener's limits keep their name");
        assert_eq!(schema["definitions"]["gate.Limits"], json!({"type": "string"}));
    }

    #[test]
    fn wherever_off_may_stand_false_may() {
        fn check(schema: &Json) {
            match schema {
                Json::Object(object) => {
                    let words = object.get("enum").and_then(Json::as_array).cloned().unwrap_or_default();
                    if words.contains(&json!("off")) {
                        assert!(words.contains(&json!(false)) && !object.contains_key("type"), "{schema}");
                    }
                    assert_ne!(object.get("const"), Some(&json!("off")), "{schema}");
                    object.values().for_each(check);
                }
                Json::Array(items) => items.iter().for_each(check),
                _ => {}
            }
        }
        let schema = Config::json_schema(&BTreeMap::new());
        check(&schema);
        let memory = &schema["definitions"]["MemoryLimit"];
        assert_eq!(memory["anyOf"][1], json!({"const": false}), "{memory}");
        assert!(memory["description"].is_string());
        assert_eq!(schema["definitions"]["Via"]["oneOf"][1]["enum"], json!(["on", true]));
    }

    #[test]
    fn doc_comments_become_descriptions() {
        let schema = Config::json_schema(&BTreeMap::new());
        let watch = schema["properties"]["watch"]["description"].as_str().unwrap();
        assert!(watch.starts_with("Also reload"), "{watch}");
    }

    #[test]
    fn every_reference_resolves() {
        fn check(schema: &Json, root: &Json) {
            match schema {
                Json::Object(object) => {
                    if let Some(Json::String(target)) = object.get("$ref") {
                        assert!(root.pointer(target.trim_start_matches('#')).is_some(), "{target}");
                    }
                    object.values().for_each(|value| check(value, root));
                }
                Json::Array(items) => items.iter().for_each(|item| check(item, root)),
                _ => {}
            }
        }
        let filters = BTreeMap::from([("limits".to_owned(), schema_of::<crate::config::Limits>())]);
        let schema = Config::json_schema(&filters);
        check(&schema, &schema);
    }
}
