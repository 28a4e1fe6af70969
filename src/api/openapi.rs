//! What the descriptions of the APIs of this process have in common, as OpenAPI 3.1 has them. Each is made from its table of
//! endpoints and from the types that are read and written, so it cannot say anything else than what is done.

use percent_encoding::percent_decode_str;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

/// Of schemas that `reference`s lead to.
pub(crate) fn generator() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    settings.into_generator()
}

pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(crate) fn document(
    title: &str,
    description: &str,
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {"title": title, "version": "v1", "description": description},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    })
}

/// What stands in the braces of `path`, and what `query` has with what each says.
pub(crate) fn parameters(path: &str, query: &[(&str, &str)]) -> Vec<Value> {
    let in_path = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = query.iter().map(|(name, about)| {
        json!({"name": name, "in": "query", "description": about, "schema": {"type": "string"}})
    });
    in_path.chain(in_query).collect()
}

/// Of whoever has shown credentials; none are asked for where the configuration has none.
pub(crate) fn security() -> Value {
    json!([{}, {"token": []}, {"certificate": []}])
}

/// What stands in `path` where `pattern` has braces, read by `decode`; `None` where they do not match.
pub(crate) fn names(pattern: &str, path: &str, decode: fn(&str) -> Option<String>) -> Option<Vec<String>> {
    if pattern.split('/').count() != path.split('/').count() {
        return None;
    }
    let mut names = Vec::new();
    for (wanted, given) in pattern.split('/').zip(path.split('/')) {
        if wanted.starts_with('{') {
            names.push(decode(given)?);
        } else if wanted != given {
            return None;
        }
    }
    Some(names)
}

/// What is no text is nothing's name.
pub(crate) fn text(given: &str) -> Option<String> {
    percent_decode_str(given).decode_utf8().ok().map(Into::into)
}

/// What is no text is no name of anything, and whoever looks for it says so.
pub(crate) fn anything(given: &str) -> Option<String> {
    Some(percent_decode_str(given).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// How many references there are in it; each leads somewhere.
    pub(crate) fn count_references(document: &Value) -> usize {
        fn look(value: &Value, document: &Value, seen: &mut usize) {
            if let Some(reference) = value["$ref"].as_str() {
                let pointer = reference.strip_prefix('#').expect("within the document");
                assert!(document.pointer(pointer).is_some(), "{reference}");
                *seen += 1;
            }
            match value {
                Value::Object(fields) => fields.values().for_each(|value| look(value, document, seen)),
                Value::Array(items) => items.iter().for_each(|value| look(value, document, seen)),
                _ => {}
            }
        }
        let mut seen = 0;
        look(document, document, &mut seen);
        seen
    }

    #[test]
    fn a_path_names_what_stands_in_the_braces() {
        assert_eq!(names("/a/{id}", "/a/b-%31", text), Some(vec!["b-1".to_owned()]));
        assert_eq!(names("/a/{id}/c", "/a/b%2Fx/c", text), Some(vec!["b/x".to_owned()]));
        for path in ["/a", "/a/b/c", "/b/x", "/a/%ff"] {
            assert_eq!(names("/a/{id}", path, text), None, "{path}");
        }
        assert_eq!(names("/a/{id}", "/a/%ff", anything), Some(vec!["\u{fffd}".to_owned()]));
    }
}
