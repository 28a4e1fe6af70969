//! How many: one rate for everybody, or one for each plan that is known by a claim, a header or an API key.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::StrDeserializer},
};

use super::key::Key;
use crate::config::{Rate, RateUnit};

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rates {
    One(Rate),
    Tiers(Tiers),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tiers {
    /// What says which rate is a request's.
    pub by: Key,
    /// By the value of that.
    pub named: BTreeMap<String, Rate>,
    /// For requests with another value, or none.
    pub other: Option<Rate>,
}

/// The key of the rate for all that are not named.
pub(crate) const OTHER: &str = "other";

impl Rates {
    /// What stands behind each: the key under which it is written, where there are several.
    pub(crate) fn all(&self) -> Vec<(Option<&str>, Rate)> {
        match self {
            Rates::One(rate) => vec![(None, *rate)],
            Rates::Tiers(tiers) => {
                let named = tiers.named.iter().map(|(name, rate)| (Some(name.as_str()), *rate));
                named.chain([(Some(OTHER), tiers.for_others())]).collect()
            }
        }
    }
}

impl Rates {
    /// Whether one of them is for a month, which only the calendar knows.
    pub(crate) fn has_months(&self) -> bool {
        self.all().iter().any(|(_, rate)| rate.unit() == RateUnit::Month)
    }
}

/// A rate, or so many in a month.
struct Written(Rate);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Written, D::Error> {
        struct WrittenVisitor;

        impl Visitor<'_> for WrittenVisitor {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rate, such as \"100/s\", or a quota, such as \"10000/month\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Written, E> {
                let count = text.split_once('/').filter(|(_, unit)| unit.trim() == "month");
                match count.map(|(count, _)| count.trim().parse()) {
                    Some(Ok(count)) => Ok(Written(Rate::per_month_of(count))),
                    _ => Rate::deserialize(StrDeserializer::new(text)).map(Written),
                }
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Written, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(WrittenVisitor)
    }
}

impl JsonSchema for Written {
    fn schema_name() -> Cow<'static, str> {
        "RateOrQuota".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<Rate>();
        json_schema!({
            "description": "So many per second, minute, hour or day, or per month of the calendar: 100/s, 10000/month.",
            "anyOf": [rate, {"type": "string", "pattern": "^[0-9]+ */ *month$"}],
        })
    }
}

impl Tiers {
    /// Who is not known is no better off than anybody who is.
    fn for_others(&self) -> Rate {
        let lowest =
            self.named.values().copied().min_by(|one, other| one.per_second().total_cmp(&other.per_second()));
        self.other.or(lowest).unwrap_or(Rate::per_second_of(std::num::NonZeroU64::MIN))
    }
}

impl<'de> Deserialize<'de> for Rates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rates, D::Error> {
        deserializer.deserialize_any(RatesVisitor)
    }
}

struct RatesVisitor;

impl<'de> Visitor<'de> for RatesVisitor {
    type Value = Rates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rate such as `100/s`, or `{by: KEY, NAME: RATE, other: RATE}`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Rates, E> {
        Written::deserialize(StrDeserializer::new(text)).map(|Written(rate)| Rates::One(rate))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Rates, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rates, A::Error> {
        let (mut by, mut named, mut other) = (None, BTreeMap::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "by" => by = Some(map.next_value::<Key>()?),
                OTHER => other = Some(map.next_value::<Written>()?.0),
                _ => drop(named.insert(name, map.next_value::<Written>()?.0)),
            }
        }
        let by = by.ok_or_else(|| {
            A::Error::custom("what tells the rates apart is missing (add `by: {claim: plan}`)")
        })?;
        if !by.is_one_part() {
            return Err(A::Error::custom("`by` is one key, not a list"));
        }
        if named.is_empty() {
            return Err(A::Error::custom("no rate has a name (add `NAME: RATE` for each value of `by`)"));
        }
        Ok(Rates::Tiers(Tiers { by, named, other }))
    }
}

impl JsonSchema for Rates {
    fn schema_name() -> Cow<'static, str> {
        "Rates".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (rate, key) = (generator.subschema_for::<Written>(), generator.subschema_for::<Key>());
        let description = "One rate, or one for each value of `by`, and `other` for all other values.";
        json_schema!({
            "description": description,
            "anyOf": [rate, {
                "type": "object",
                "properties": {"by": {"description": "What says which rate is a request's: one key, no list.", "anyOf": [key]}},
                "required": ["by"],
                "additionalProperties": rate,
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(yaml: &str) -> Result<Rates, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn one_rate_or_several_by_what_tells_them_apart() {
        let all = |yaml: &str| {
            let rates = rates(yaml).unwrap();
            rates
                .all()
                .iter()
                .map(|(name, rate)| format!("{} {rate}", name.unwrap_or("-")))
                .collect::<Vec<_>>()
        };
        assert_eq!(all("10/m"), ["- 10/m"]);
        assert_eq!(all("10000/month"), ["- 10000/month"]);
        assert!(rates("{by: user, a: 9/d, b: 20 / month}").unwrap().has_months());
        assert_eq!(
            all("{by: {claim: plan}, pro: 1000/m, free: 10/m}"),
            ["free 10/m", "pro 1000/m", "other 10/m"]
        );
        assert_eq!(
            all("{by: user, slow: 90/m, fast: 2/s, other: 1/d}"),
            ["fast 2/s", "slow 90/m", "other 1/d"]
        );
        assert_eq!(all("{by: user, day: 100000/d, second: 1/s}")[2], "other 1/s", "the lowest");
        for (yaml, says) in [
            ("{free: 10/m}", "is missing"),
            ("{by: {claim: plan}}", "no rate has a name"),
            ("{by: [user, route], a: 1/s}", "not a list"),
            ("{by: user, a: soon}", "is not a rate"),
            ("soon", "is not a rate"),
            ("0/month", "is not a rate"),
        ] {
            let error = rates(yaml).unwrap_err();
            assert!(error.contains(says), "{yaml}: {error}");
        }
    }
}
