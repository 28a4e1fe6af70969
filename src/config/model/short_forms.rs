//! Short forms, where one value says it all: `retry: 3`, `redirect: URL`, `health_check: /health`, `endpoints: "a:1"`. Each means the map
//! with that one key, and is shown as that map from then on.

use std::{fmt, num::NonZeroU32};

use schemars::{Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    error_pages::ErrorPage,
    health_check::{HealthCheck, HttpProbe},
    placement::Then,
    route::Redirect,
    traffic::Retry,
    upstream::Endpoint,
};

/// Types that derive serde's traits with `remote = "Self"`: what is derived reads and writes the map, and this any form.
macro_rules! short_form {
    ($type:ty, $visitor:ident, $expecting:literal, {$($method:item)*}) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$type>::serialize(self, serializer)
            }
        }

        struct $visitor;

        impl<'de> Visitor<'de> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                <$type>::deserialize(MapAccessDeserializer::new(map))
            }

            $($method)*
        }
    };
}

short_form!(Retry, RetryVisitor, "a number of tries or a map", {
    fn visit_u64<E: Error>(self, attempts: u64) -> Result<Retry, E> {
        match u32::try_from(attempts).ok().and_then(NonZeroU32::new) {
            Some(attempts) => Ok(Retry { attempts, ..Retry::default() }),
            None => {
                Err(E::custom(format!("{attempts} is not a number of tries, the first included (try 3)")))
            }
        }
    }
});

short_form!(
    Redirect,
    RedirectVisitor,
    "a URL or path as a string, or a map with `to` or `replace_prefix`",
    {
        fn visit_str<E: Error>(self, to: &str) -> Result<Redirect, E> {
            Ok(Redirect::to(to))
        }
    }
);

short_form!(HealthCheck, HealthCheckVisitor, "a path as a string, or a map with `http`, `tcp` or `grpc`", {
    fn visit_str<E: Error>(self, path: &str) -> Result<HealthCheck, E> {
        match path {
            _ if path.starts_with('/') => {
                let http = HttpProbe { path: path.to_owned(), ..HttpProbe::default() };
                Ok(HealthCheck { http: Some(http), ..HealthCheck::default() })
            }
            "tcp" | "grpc" => {
                Err(E::custom(format!("`{path}` is a kind of probe (write `{{{path}: {{}}}}`)")))
            }
            _ => Err(E::custom(format!("\"{path}\" is no path, which begins with `/` (try \"/health\")"))),
        }
    }
});

short_form!(ErrorPage, ErrorPageVisitor, "a page as a string, or a map with `html` and `json`", {
    fn visit_str<E: Error>(self, html: &str) -> Result<ErrorPage, E> {
        Ok(ErrorPage { html: Some(html.to_owned()), ..ErrorPage::default() })
    }
});

short_form!(Then, ThenVisitor, "an upstream's name as a string, or a map with `upstream`", {
    fn visit_str<E: Error>(self, upstream: &str) -> Result<Then, E> {
        Ok(Then::at(upstream))
    }
});

/// A list of endpoints, or the address of the only one.
pub(in crate::config) fn endpoints<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Endpoint>, D::Error> {
    struct Endpoints;

    impl<'de> Visitor<'de> for Endpoints {
        type Value = Vec<Endpoint>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_str<E: Error>(self, address: &str) -> Result<Self::Value, E> {
            match address.contains([',', ' ']) {
                false => Ok(vec![Endpoint::at(address, 1)]),
                true => {
                    let each = address.split([',', ' ']).filter(|each| !each.is_empty());
                    let each: Vec<String> = each.map(|each| format!("{each:?}")).collect();
                    Err(E::custom(format!("several endpoints are a list (write `[{}]`)", each.join(", "))))
                }
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut endpoints = Vec::new();
            while let Some(endpoint) = items.next_element()? {
                endpoints.push(endpoint);
            }
            Ok(endpoints)
        }
    }

    deserializer.deserialize_any(Endpoints)
}

/// The type is the name: what addresses stand for is written before it is read (`document/inline`).
pub(in crate::config) fn or_addresses(schema: &mut Schema) {
    or(
        schema,
        serde_json::json!({
            "type": "array",
            "items": {"type": "string"},
            "minItems": 1,
            "description": "The addresses of an upstream of its own.",
        }),
    );
}

/// `schema`, or the short form beside it. The description stays where an editor shows it.
fn or(schema: &mut Schema, short: serde_json::Value) {
    let mut map = std::mem::take(schema);
    let description = map.remove("description").unwrap_or_default();
    *schema = json_schema!({"description": description, "anyOf": [short, map]});
}

pub(in crate::config) fn or_attempts(schema: &mut Schema) {
    or(
        schema,
        serde_json::json!({"type": "integer", "minimum": 1, "maximum": 10, "description": "`attempts` alone."}),
    );
}

pub(in crate::config) fn or_url(schema: &mut Schema) {
    or(schema, serde_json::json!({"type": "string", "description": "`to` alone."}));
}

pub(in crate::config) fn or_html(schema: &mut Schema) {
    or(schema, serde_json::json!({"type": "string", "description": "`html` alone."}));
}

pub(in crate::config) fn or_path(schema: &mut Schema) {
    or(
        schema,
        serde_json::json!({"type": "string", "pattern": "^/", "description": "The path of an HTTP probe."}),
    );
}

pub(in crate::config) fn or_upstream(schema: &mut Schema) {
    or(schema, serde_json::json!({"type": "string", "description": "`upstream` alone."}));
}

pub(in crate::config) fn or_one(schema: &mut Schema) {
    or(schema, serde_json::json!({"type": "string", "description": "The address of the only one."}));
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_short_form_is_the_map_with_its_one_key() {
        let short: Retry = from_value(json!(4)).unwrap();
        assert_eq!(short, from_value::<Retry>(json!({"attempts": 4})).unwrap());
        let short: Redirect = from_value(json!("/new")).unwrap();
        assert_eq!(short, from_value::<Redirect>(json!({"to": "/new"})).unwrap());
        let short: HealthCheck = from_value(json!("/health")).unwrap();
        assert_eq!(short, from_value::<HealthCheck>(json!({"http": {"path": "/health"}})).unwrap());
        assert_eq!(to_value(&short).unwrap()["http"]["path"], "/health", "it is shown as the map");
        assert_eq!(endpoints(json!("a:1")).unwrap(), endpoints(json!(["a:1"])).unwrap());
    }

    #[test]
    fn what_is_no_short_form_says_what_would_be() {
        let error = |wrong: Result<(), serde_json::Error>| wrong.unwrap_err().to_string();
        assert!(error(from_value::<Retry>(json!(0)).map(drop)).contains("try 3"));
        assert!(error(from_value::<HealthCheck>(json!("tcp")).map(drop)).contains("write `{tcp: {}}`"));
        assert!(error(from_value::<HealthCheck>(json!("health")).map(drop)).contains("try \"/health\""));
        assert!(error(endpoints(json!("a:1, b:1")).map(drop)).contains("write `[\"a:1\", \"b:1\"]`"));
    }
}
