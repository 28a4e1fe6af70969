//! `routes[].mirror`: where copies of requests go; one upstream as a map, several as a list.

use std::{borrow::Cow, fmt, slice};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::traffic::Mirror;

/// As they are written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Mirrors {
    One(Mirror),
    Several(Vec<Mirror>),
}

impl Mirrors {
    pub fn all(&self) -> &[Mirror] {
        match self {
            Mirrors::One(mirror) => slice::from_ref(mirror),
            Mirrors::Several(mirrors) => mirrors,
        }
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Mirrors::Several(_))
    }
}

impl<'de> Deserialize<'de> for Mirrors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MirrorsVisitor)
    }
}

struct MirrorsVisitor;

impl<'de> Visitor<'de> for MirrorsVisitor {
    type Value = Mirrors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, or a list of maps")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Mirrors, A::Error> {
        Mirror::deserialize(MapAccessDeserializer::new(map)).map(Mirrors::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Mirrors, A::Error> {
        let mut mirrors = Vec::new();
        while let Some(mirror) = items.next_element()? {
            mirrors.push(mirror);
        }
        Ok(Mirrors::Several(mirrors))
    }
}

impl JsonSchema for Mirrors {
    fn schema_name() -> Cow<'static, str> {
        "Mirrors".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Mirror>();
        let description = "A share of the requests is copied to another upstream, or to several.";
        let several = serde_json::json!({"type": "array", "items": one, "minItems": 1});
        json_schema!({"description": description, "anyOf": [one, several]})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn one_and_several_are_read_and_shown_as_they_are_written() {
        let one = json!({"upstream": "a", "ratio": "10%", "max_requests": 5});
        for form in [one.clone(), json!([one]), json!([one, one])] {
            let read: Mirrors = from_value(form.clone()).unwrap();
            assert_eq!(to_value(&read).unwrap(), form);
            assert_eq!(read.all()[0].upstream, "a");
        }
        assert!(from_value::<Mirrors>(json!("a")).is_err());
    }
}
