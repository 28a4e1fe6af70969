//! `defaults`: what every route, upstream and listener has that does not say otherwise. Before anything is read into its type, it is written
//! into those (`document/defaults`); so nothing is kept of it here but its schema.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use crate::config::model::{listener::Listener, route::Route, upstream::Upstream};

/// What each of the others is that does not say otherwise. Nothing is shown of it: what it gives is shown where it is given.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// For every route: any of its keys but `name`, `match` and where it goes.
    #[schemars(schema_with = "of_routes")]
    pub route: Spread,
    /// For every upstream: any of its keys but its endpoints.
    #[schemars(schema_with = "of_upstreams")]
    pub upstream: Spread,
    /// For every listener: any of its keys but what makes it this one, such as its address.
    #[schemars(schema_with = "of_listeners")]
    pub listener: Spread,
}

/// What was written into others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread;

impl<'de> Deserialize<'de> for Spread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Spread)
    }
}

/// What makes a route this route.
pub(in crate::config) const OF_ONE_ROUTE: [&str; 9] =
    ["name", "match", "upstream", "subset", "split", "canary", "respond", "redirect", "defaults"];
pub(in crate::config) const OF_ONE_UPSTREAM: [&str; 3] = ["endpoints", "original_destination", "defaults"];
pub(in crate::config) const OF_ONE_LISTENER: [&str; 9] =
    ["name", "address", "mode", "protocol", "sni", "original_destination", "routes", "upstream", "defaults"];

fn of_routes(generator: &mut SchemaGenerator) -> Schema {
    without(Route::json_schema(generator), &OF_ONE_ROUTE)
}

fn of_upstreams(generator: &mut SchemaGenerator) -> Schema {
    without(Upstream::json_schema(generator), &OF_ONE_UPSTREAM)
}

fn of_listeners(generator: &mut SchemaGenerator) -> Schema {
    without(Listener::json_schema(generator), &OF_ONE_LISTENER)
}

fn without(mut schema: Schema, keys: &[&str]) -> Schema {
    schema.remove("required");
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|key, _| !keys.contains(&key.as_str()));
    }
    schema
}
