//! The configuration in force as it is shown: with its defaults, and without its secrets.
//! It is kept as text. As a tree of values it would be the largest thing that a gateway with thousands of routes holds, and
//! hardly anybody asks for it.

use serde_json::Value as Json;

use crate::config::{
    document::{
        defaults::DEFAULTS,
        node::{Node, REDACTED, Value},
    },
    model::Config,
};

/// A configuration with all defaults written out, secrets redacted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effective(Box<str>);

impl Effective {
    /// `root` is what `config` was read from.
    pub(in crate::config) fn of(config: &Config, root: &Node) -> Effective {
        const TOLD: &str = "the configuration has text keys and finite numbers";
        if !root.hides() {
            return Effective(serde_json::to_string(config).expect(TOLD).into());
        }
        let mut json = serde_json::to_value(config).expect(TOLD);
        overlay(root, &mut json, true);
        Effective(json.to_string().into())
    }

    /// In JSON.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Large, where there are many routes: to be shown and dropped.
    pub fn value(&self) -> Json {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

/// Puts what must not be shown as it is in `json` back to what was written at the same place in `node`.
/// What the defaults give is shown where they give it, and only there is it known which values are secrets.
fn overlay(node: &Node, json: &mut Json, is_top: bool) {
    if !node.hides() {
        return;
    }
    match (&node.value, &mut *json) {
        (Value::List(items), Json::Array(values)) if items.len() == values.len() => {
            items.iter().zip(values).for_each(|(item, value)| overlay(item, value, false));
        }
        (Value::Map(map), Json::Object(values)) => {
            for entry in map.iter().filter(|entry| entry.value.hides() && !(is_top && entry.key == DEFAULTS))
            {
                match values.get_mut(&entry.key) {
                    Some(value) => overlay(&entry.value, value, false),
                    None => drop(values.insert(entry.key.clone(), entry.value.as_written())),
                }
            }
        }
        // A secret stays one when it is written in a form that the type spells out.
        (Value::Scalar(scalar), _) if scalar.is_secret() => *json = REDACTED.into(),
        _ => *json = node.as_written(),
    }
}
