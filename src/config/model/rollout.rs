//! How a new version of a configuration spreads over the gateways that take it.

use std::{borrow::Cow, fmt, num::NonZeroUsize};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IntoDeserializer, Visitor, value::StrDeserializer},
};

use crate::config::model::units::{HumanDuration, Ratio};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// How many gateways have it by the end of each wave: a number, or a share of those that are there. The last is `100%`.
    pub waves: Vec<WaveSize>,
    /// How long a wave is watched once all of its gateways have it in force.
    pub hold: HumanDuration,
    /// How long a wave waits for a gateway that is away or says nothing; then it pauses.
    pub ack_timeout: HumanDuration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WaveSize {
    Gateways(NonZeroUsize),
    Share(Ratio),
}

impl Default for RolloutSettings {
    fn default() -> Self {
        let one = const { NonZeroUsize::new(1).unwrap() };
        let [tenth, all] = [10, 100].map(|percent| WaveSize::Share(Ratio::from_percent(percent)));
        RolloutSettings {
            waves: vec![WaveSize::Gateways(one), tenth, all],
            hold: HumanDuration::from_secs(30),
            ack_timeout: HumanDuration::from_secs(30),
        }
    }
}

impl RolloutSettings {
    /// More would be no waves any more.
    pub const MOST_WAVES: usize = 20;

    /// What makes no sense, if anything does: the key, what is wrong with it, and what to do.
    pub fn fault(&self) -> Option<(&'static str, &'static str, &'static str)> {
        let is_all = |size: &WaveSize| matches!(size, WaveSize::Share(share) if share.as_f64() >= 1.0);
        let is_none = |size: &WaveSize| matches!(size, WaveSize::Share(share) if share.as_f64() <= 0.0);
        if !self.waves.last().is_some_and(is_all) {
            return Some(("waves", "the last wave is not all gateways", "end with \"100%\""));
        }
        if self.waves.iter().any(is_none) {
            return Some(("waves", "a wave of no gateway does nothing", "leave it out"));
        }
        if self.waves.len() > RolloutSettings::MOST_WAVES {
            return Some(("waves", "there are more than 20 waves", "leave some out"));
        }
        if self.ack_timeout.as_std().is_zero() {
            return Some(("ack_timeout", "a duration of 0 makes no sense here", "30s is the default"));
        }
        None
    }
}

impl<'de> Deserialize<'de> for WaveSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = WaveSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of gateways, or a share such as \"10%\"")
            }

            fn visit_u64<E: Error>(self, gateways: u64) -> Result<WaveSize, E> {
                let gateways = usize::try_from(gateways).ok().and_then(NonZeroUsize::new);
                gateways.map(WaveSize::Gateways).ok_or_else(|| E::custom("a wave has 1 gateway at least"))
            }

            fn visit_str<E: Error>(self, share: &str) -> Result<WaveSize, E> {
                let share: StrDeserializer<'_, E> = share.into_deserializer();
                Ratio::deserialize(share).map(WaveSize::Share)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl fmt::Display for WaveSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaveSize::Gateways(gateways) => gateways.fmt(f),
            WaveSize::Share(share) => share.fmt(f),
        }
    }
}

impl Serialize for WaveSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WaveSize::Gateways(gateways) => gateways.serialize(serializer),
            WaveSize::Share(share) => share.serialize(serializer),
        }
    }
}

impl JsonSchema for WaveSize {
    fn schema_name() -> Cow<'static, str> {
        "WaveSize".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let share = generator.subschema_for::<Ratio>();
        let description = "A number of gateways, or a share of those that are there, such as `10%`.";
        json_schema!({"description": description, "anyOf": [{"type": "integer", "minimum": 1}, share]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<RolloutSettings, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn waves_are_numbers_and_shares() {
        let read = read(r#"{"waves": [2, "25%", "100%"], "hold": "0s"}"#).unwrap();
        let shown: Vec<_> = read.waves.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["2", "25%", "100%"]);
        assert_eq!(read.ack_timeout, HumanDuration::from_secs(30));
        assert_eq!((read.fault(), RolloutSettings::default().fault()), (None, None));
        let written = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<RolloutSettings>(&written).unwrap(), read);
    }

    #[test]
    fn what_would_reach_nobody_or_never_all_is_a_fault() {
        for (json, says) in [
            (r#"{"waves": []}"#, "the last wave is not all"),
            (r#"{"waves": [1, "50%"]}"#, "the last wave is not all"),
            (r#"{"waves": ["0%", "100%"]}"#, "a wave of no gateway"),
            (r#"{"ack_timeout": "0s"}"#, "a duration of 0"),
        ] {
            assert!(read(json).unwrap().fault().is_some_and(|fault| fault.1.contains(says)), "{json}");
        }
        for (json, says) in [
            (r#"{"waves": [0]}"#, "1 gateway at least"),
            (r#"{"waves": ["many"]}"#, "is not a ratio"),
            (r#"{"waves": [-1]}"#, "invalid type"),
        ] {
            assert!(read(json).unwrap_err().contains(says), "{json}");
        }
    }
}
