//! How the words and short forms of `traffic` are read and written.

use std::{borrow::Cow, num::NonZeroU32};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::config::model::{
    traffic::{BreakerWindow, HedgeAfter, RetryMethods, RetryOn},
    units::{Given, HumanDuration, read},
};

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a condition such as \"connect_error\", or a status", |given| {
            let (Given::Text(word) | Given::Number(word)) = given;
            Ok(RetryOn(word.to_owned()))
        })
    }
}

impl<'de> Deserialize<'de> for RetryMethods {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `idempotent` or a list of methods")]
        enum Forms {
            Word(String),
            List(Vec<String>),
        }
        match Forms::deserialize(deserializer)? {
            Forms::Word(word) if word == "idempotent" => Ok(RetryMethods::Idempotent),
            Forms::Word(word) => {
                Err(Error::custom(format!("\"{word}\" is not `idempotent` (or a list such as [\"{word}\"])")))
            }
            Forms::List(methods) if methods.is_empty() => {
                Err(Error::custom("an empty list retries nothing (leave `retry` out instead)"))
            }
            Forms::List(methods) => Ok(RetryMethods::Listed(methods)),
        }
    }
}

impl JsonSchema for RetryMethods {
    fn schema_name() -> Cow<'static, str> {
        "RetryMethods".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`idempotent` or a list of methods.",
            "anyOf": [
                {"type": "string", "enum": ["idempotent"]},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ],
        })
    }
}

impl HedgeAfter {
    fn parse(given: Given<'_>) -> Result<HedgeAfter, String> {
        let Given::Text(text) = given else {
            return Err(format!("{given} is not a time to wait (try \"50ms\" or \"p95\")"));
        };
        if let Some(digits) = text.strip_prefix('p')
            && let Ok(percent) = digits.parse::<f64>()
        {
            return match (50.0..=99.9).contains(&percent) {
                true => Ok(HedgeAfter::Quantile(percent / 100.0)),
                false => Err(format!("{given} is not between p50 and p99.9")),
            };
        }
        match humantime::parse_duration(text) {
            Ok(wait) if !wait.is_zero() => Ok(HedgeAfter::Fixed(HumanDuration::from(wait))),
            _ => Err(format!("{given} is not a time to wait (try \"50ms\" or \"p95\")")),
        }
    }
}

impl<'de> Deserialize<'de> for HedgeAfter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a duration or a quantile such as \"p95\"", HedgeAfter::parse)
    }
}

impl Serialize for HedgeAfter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            HedgeAfter::Fixed(wait) => wait.serialize(serializer),
            // Rounded, or p99.9 would come back as p99.90000000000001.
            HedgeAfter::Quantile(quantile) => {
                serializer.collect_str(&format_args!("p{}", (quantile * 1e6).round() / 1e4))
            }
        }
    }
}

impl BreakerWindow {
    const MOST_REQUESTS: u32 = 10_000;

    fn parse(given: Given<'_>) -> Result<BreakerWindow, String> {
        let (Given::Text(text) | Given::Number(text)) = given;
        if let Ok(requests) = text.parse::<u32>() {
            let in_range = NonZeroU32::new(requests).filter(|requests| requests.get() <= Self::MOST_REQUESTS);
            return in_range.map(BreakerWindow::Requests).ok_or_else(|| {
                format!("{given} is not a number of requests from 1 to {}", Self::MOST_REQUESTS)
            });
        }
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() => Ok(BreakerWindow::Time(HumanDuration::from(time))),
            _ => Err(format!("{given} is neither a number of requests nor a duration (try 20 or \"10s\")")),
        }
    }
}

impl<'de> Deserialize<'de> for BreakerWindow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a number of requests or a duration", BreakerWindow::parse)
    }
}

impl Serialize for BreakerWindow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            BreakerWindow::Requests(requests) => requests.serialize(serializer),
            BreakerWindow::Time(time) => time.serialize(serializer),
        }
    }
}

impl JsonSchema for BreakerWindow {
    fn schema_name() -> Cow<'static, str> {
        "BreakerWindow".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The last so many requests (1 to 10,000), or those of the last so long (`10s`).",
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": BreakerWindow::MOST_REQUESTS,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn each_form_reads_back_as_it_was_written() {
        for after in ["50ms", "p95", "p99.9", "p50"] {
            let read: HedgeAfter = from_value(json!(after)).unwrap();
            assert_eq!(to_value(read).unwrap(), json!(after));
        }
        for window in [json!(20), json!("10s")] {
            let read: BreakerWindow = from_value(window.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), window);
        }
        for methods in [json!("idempotent"), json!(["GET", "POST"])] {
            let read: RetryMethods = from_value(methods.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), methods);
        }
    }

    #[test]
    fn refuses_what_means_nothing() {
        for after in [json!(50), json!("p100"), json!("p5"), json!("0s"), json!("soon")] {
            assert!(from_value::<HedgeAfter>(after.clone()).is_err(), "{after}");
        }
        for window in [json!(0), json!(10_001), json!("0s"), json!("many")] {
            assert!(from_value::<BreakerWindow>(window.clone()).is_err(), "{window}");
        }
        for methods in [json!("all"), json!([])] {
            assert!(from_value::<RetryMethods>(methods.clone()).is_err(), "{methods}");
        }
    }
}
