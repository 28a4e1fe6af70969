//! `wasm: waf`, or the same with a configuration of its own.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use super::Step;
use crate::{
    config::{Path, suggest},
    filter::{Filter, Invalid, Live, Options},
    plugin::payload,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Written {
    /// A name under the top-level `plugins`.
    plugin: String,
    /// In the place of the plugin's own `config`, all of it.
    #[serde(default, deserialize_with = "given")]
    config: Option<Value>,
}

/// `null` is a configuration, too: none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A filter in WebAssembly: the name of a plugin, or a map with its name and a configuration of its own.
#[derive(Debug)]
pub(crate) struct Wasm {
    written: Written,
    is_short: bool,
}

impl<'de> Deserialize<'de> for Wasm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Wasm;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a plugin, or a map such as `{plugin: waf, config: {}}`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Wasm, E> {
                Ok(Wasm { written: Written { plugin: name.to_owned(), config: None }, is_short: true })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Wasm, A::Error> {
                let written = Written::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Wasm { written, is_short: false })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Wasm {
    fn schema_name() -> Cow<'static, str> {
        "Wasm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<Written>();
        let description = "The name of a plugin, or its name and a configuration of its own.";
        json_schema!({"description": description, "anyOf": [{"type": "string"}, map]})
    }
}

impl Options for Wasm {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let name = &self.written.plugin;
        let at_name = if self.is_short { at.clone() } else { at.key("plugin") };
        let invalid = |at: &Path, why: String| vec![Invalid::new(at.clone(), why)];
        let plugins = live.plugins();
        let Some(entry) = plugins.find(name) else {
            let known = suggest(name, plugins.names());
            let hint = known.map_or("plugins stand under the top-level `plugins`".to_owned(), |near| {
                format!("did you mean `{near}`?")
            });
            return Err(invalid(&at_name, format!("plugin `{name}` does not exist ({hint})")));
        };
        // Nothing is to run: only the place of the filter counts.
        let Some(entry) = entry else { return Ok(Arc::new(Step::placeholder(name))) };
        let config = self.written.config.as_ref().map(payload);
        let root = entry
            .open(config)
            .map_err(|why| invalid(at, format!("plugin `{name}` does not start: {why}")))?;
        Ok(Arc::new(match root {
            Some(root) => Step::new(name, root),
            None => Step::placeholder(name),
        }))
    }
}
