//! `listeners[].sni`: where TLS connections go by the name the client asks for, as they are or without their TLS.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// An upstream, or one for each application protocol that clients offer (ALPN).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SniTarget {
    Upstream(String),
    ByProtocol(ByProtocol),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct ByProtocol {
    /// Upstreams by the name of a protocol, such as `h2`. Of those a client offers, the first that is named here counts.
    pub alpn: BTreeMap<String, String>,
    /// The upstream for clients that offer none of them. Default: they are refused.
    pub default: Option<String>,
}

const FORMS: &str = "the name of an upstream, or a map with `alpn` and `default`";

impl<'de> Deserialize<'de> for SniTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TargetVisitor)
    }
}

struct TargetVisitor;

impl<'de> Visitor<'de> for TargetVisitor {
    type Value = SniTarget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_str<E: Error>(self, upstream: &str) -> Result<SniTarget, E> {
        Ok(SniTarget::Upstream(upstream.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SniTarget, A::Error> {
        ByProtocol::deserialize(MapAccessDeserializer::new(map)).map(SniTarget::ByProtocol)
    }
}

impl Serialize for SniTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            SniTarget::Upstream(upstream) => serializer.serialize_str(upstream),
            SniTarget::ByProtocol(by_protocol) => by_protocol.serialize(serializer),
        }
    }
}

impl JsonSchema for SniTarget {
    fn schema_name() -> Cow<'static, str> {
        "SniTarget".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let by_protocol = generator.subschema_for::<ByProtocol>();
        let description = "A bare string is the name of an upstream.";
        json_schema!({"description": description, "anyOf": [{"type": "string"}, by_protocol]})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn both_forms_are_read_and_can_be_read_back() {
        for form in [json!("db"), json!({"alpn": {"h2": "grpc"}, "default": "web"})] {
            let read: SniTarget = from_value(form.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), form);
        }
        assert!(from_value::<SniTarget>(json!({"h2": "grpc"})).is_err());
        assert!(from_value::<SniTarget>(json!(7)).is_err());
    }
}
