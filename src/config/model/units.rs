//! Quantities as an operator writes them: with their units. A bare `5` for a duration is refused, since half of
//! those who write it mean seconds and the other half milliseconds.

use std::{borrow::Cow, fmt, num::NonZeroU64, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::config::document::node::{REDACTED, quoted};

/// The name under which a [`Secret`] asks for its value, so that the tree learns which values are secrets.
pub(in crate::config) const SECRET: &str = "$tidegate::Secret";

/// A duration such as `250ms`, `5s`, `2m`, `1h30m`; at most a century, so that adding it to now cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

    pub const fn from_secs(seconds: u64) -> Self {
        HumanDuration(Duration::from_secs(seconds))
    }

    pub const fn from_millis(milliseconds: u64) -> Self {
        HumanDuration(Duration::from_millis(milliseconds))
    }

    pub const fn as_std(self) -> Duration {
        self.0
    }

    fn parse(given: Given<'_>) -> Result<Self, String> {
        let text = match given {
            Given::Text(text) if !is_number(text) => text,
            bare => {
                let hint = "durations carry a unit, such as \"5s\"";
                return Err(format!("{bare} is not a duration ({hint})"));
            }
        };
        match humantime::parse_duration(text) {
            Ok(duration) if duration > Self::LONGEST => Err(format!("{given} is longer than a century")),
            Ok(duration) => Ok(HumanDuration(duration)),
            Err(_) => Err(format!("{given} is not a duration (try {:?})", near_duration(text))),
        }
    }
}

/// What was likely meant: the number with the unit that begins like the one written.
fn near_duration(text: &str) -> String {
    let digits: String = text.chars().take_while(char::is_ascii_digit).take(9).collect();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').to_lowercase();
    let unit = [("ms", "ms"), ("mil", "ms"), ("m", "m"), ("h", "h"), ("d", "d")]
        .into_iter()
        .find(|(start, _)| unit.starts_with(start))
        .map_or("s", |(_, unit)| unit);
    format!("{}{unit}", if digits.is_empty() { "5" } else { &digits })
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        HumanDuration(duration)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&humantime::format_duration(self.0).to_string().replace(' ', ""))
    }
}

/// A size in bytes, such as `64KiB` (1,024 each) or `10MB` (1,000,000 each).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    pub const fn from_bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    pub const fn kib(kibibytes: u64) -> Self {
        ByteSize(kibibytes * 1024)
    }

    pub const fn mib(mebibytes: u64) -> Self {
        ByteSize(mebibytes * 1024 * 1024)
    }

    pub const fn bytes(self) -> u64 {
        self.0
    }

    fn parse(given: Given<'_>) -> Result<Self, String> {
        match given {
            Given::Text(text) if !is_number(text) => match text.parse::<bytesize::ByteSize>() {
                Ok(size) => Ok(ByteSize(size.as_u64())),
                Err(_) => Err(format!("{given} is not a size (try \"64KiB\" or \"10MB\")")),
            },
            bare => {
                let (Given::Text(number) | Given::Number(number)) = bare;
                let example = number.parse::<u64>().ok().filter(|bytes| *bytes > 0).map(ByteSize);
                let hint = match example {
                    Some(size) => format!("sizes carry a unit: \"{size}\""),
                    None => "sizes carry a unit, such as \"64KiB\" or \"10MB\"".to_owned(),
                };
                Err(format!("{bare} is not a size ({hint})"))
            }
        }
    }
}

impl fmt::Display for ByteSize {
    /// Exact, in the largest unit that is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 6] = [
            ("GiB", 1 << 30),
            ("GB", 1_000_000_000),
            ("MiB", 1 << 20),
            ("MB", 1_000_000),
            ("KiB", 1 << 10),
            ("KB", 1000),
        ];
        match UNITS.iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// How much memory the process may have: a size, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    Off,
    Bytes(ByteSize),
}

impl MemoryLimit {
    fn parse(given: Given<'_>) -> Result<Self, String> {
        /// With less not even the configuration could be read.
        const LEAST: ByteSize = ByteSize::mib(64);
        if matches!(given, Given::Text("off")) {
            return Ok(MemoryLimit::Off);
        }
        match ByteSize::parse(given)? {
            size if size < LEAST => {
                Err(format!("{size} is too little to serve with (at least {LEAST}, or `off`)"))
            }
            size => Ok(MemoryLimit::Bytes(size)),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryLimit::Off => f.write_str("off"),
            MemoryLimit::Bytes(size) => size.fmt(f),
        }
    }
}

/// A share from 0 to 1, written `50%` or `0.5`.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Ratio(f64);

impl Ratio {
    /// More than 100 is 100.
    pub fn from_percent(percent: u8) -> Self {
        Ratio(f64::from(percent.min(100)) / 100.0)
    }

    /// 0.0 to 1.0.
    pub const fn as_f64(self) -> f64 {
        self.0
    }

    fn parse(given: Given<'_>) -> Result<Self, String> {
        let (number, unit) = match given {
            Given::Number(number) => (Some(number), 1.0),
            Given::Text(text) => match text.strip_suffix('%') {
                Some(percent) => (Some(percent.trim_end()).filter(|number| is_number(number)), 100.0),
                None => (Some(text).filter(|number| is_number(number)), 1.0),
            },
        };
        let Some(number) = number.and_then(|number| number.parse::<f64>().ok()) else {
            return Err(format!("{given} is not a ratio (try \"50%\" or 0.5)"));
        };
        match number / unit {
            ratio if (0.0..=1.0).contains(&ratio) => Ok(Ratio(ratio)),
            _ if unit == 1.0 && (1.0..=100.0).contains(&number) => {
                Err(format!("{given} is not between 0 and 1 (try \"{number}%\")"))
            }
            _ => Err(format!("{given} is not between 0% and 100%")),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded, or 7% would come back as 7.000000000000001%.
        write!(f, "{}%", (self.0 * 1e10).round() / 1e8)
    }
}

/// So many per second, minute, hour or day: `100/s`, `5000/m`, `10/h`, `1000/d`. Never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: NonZeroU64,
    unit: RateUnit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateUnit {
    Second,
    Minute,
    Hour,
    Day,
    Month,
}

impl Rate {
    pub const fn per_second_of(count: NonZeroU64) -> Rate {
        Rate { count, unit: RateUnit::Second }
    }

    pub const fn per_minute_of(count: NonZeroU64) -> Rate {
        Rate { count, unit: RateUnit::Minute }
    }

    pub const fn per_hour_of(count: NonZeroU64) -> Rate {
        Rate { count, unit: RateUnit::Hour }
    }

    /// Only what counts by the calendar knows months.
    pub const fn per_month_of(count: NonZeroU64) -> Rate {
        Rate { count, unit: RateUnit::Month }
    }

    pub const fn unit(self) -> RateUnit {
        self.unit
    }

    /// How many are allowed in one period.
    pub const fn count(self) -> u64 {
        self.count.get()
    }

    /// One second, minute, hour or day. A month is taken for 30 days, which is good enough to compare by.
    pub const fn period(self) -> Duration {
        Duration::from_secs(match self.unit {
            RateUnit::Second => 1,
            RateUnit::Minute => 60,
            RateUnit::Hour => 3600,
            RateUnit::Day => 86_400,
            RateUnit::Month => 30 * 86_400,
        })
    }

    pub fn per_second(self) -> f64 {
        self.count() as f64 / self.period().as_secs_f64()
    }

    pub(in crate::config) fn parse(given: Given<'_>) -> Result<Self, String> {
        let text = match given {
            Given::Text(text) if !is_number(text) => text,
            Given::Text(number) | Given::Number(number) => {
                let whole = number.parse::<u64>().ok().filter(|count| *count > 0).unwrap_or(100);
                return Err(format!("{given} is not a rate (rates carry a unit, such as \"{whole}/s\")"));
            }
        };
        let parts = text.split_once('/').map(|(count, unit)| (count.trim().parse::<u64>(), unit.trim()));
        let Some((Ok(count), unit)) = parts else {
            return Err(format!("{given} is not a rate (try {})", near_rate(text)));
        };
        let unit = match unit {
            "s" => RateUnit::Second,
            "m" => RateUnit::Minute,
            "h" => RateUnit::Hour,
            "d" => RateUnit::Day,
            _ => {
                return Err(format!("{given} is not a rate (try {})", near_rate(&format!("{count}/{unit}"))));
            }
        };
        match NonZeroU64::new(count) {
            Some(count) => Ok(Rate { count, unit }),
            None => Err(format!("{given} allows nothing (a rate is at least 1)")),
        }
    }
}

/// `100r/s` and `5 per minute` as they would be written.
fn near_rate(text: &str) -> String {
    let digits: String = text.chars().take_while(char::is_ascii_digit).take(9).collect();
    let count = if digits.is_empty() { "100" } else { &digits };
    let unit =
        text.rsplit(['/', ' ']).next().unwrap_or_default().trim_start_matches(|c: char| !c.is_alphabetic());
    let unit = unit.to_lowercase();
    if unit.starts_with("mo") {
        return format!("\"{count}/month\"");
    }
    match unit.chars().next() {
        Some(unit @ ('s' | 'm' | 'h' | 'd')) => format!("\"{count}/{unit}\""),
        _ => format!("\"{count}/s\", \"{count}/m\" or \"{count}/h\""),
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            RateUnit::Second => "s",
            RateUnit::Minute => "m",
            RateUnit::Hour => "h",
            RateUnit::Day => "d",
            RateUnit::Month => "month",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// Bytes a second, `240B/s` or `1KiB/s`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MinRate(Option<NonZeroU64>);

impl MinRate {
    pub const fn per_second(bytes: NonZeroU64) -> Self {
        MinRate(Some(bytes))
    }

    /// `None` where it is off.
    pub const fn bytes_per_second(self) -> Option<NonZeroU64> {
        self.0
    }

    fn parse(given: Given<'_>) -> Result<Self, String> {
        let Given::Text(text) = given else {
            return Err(format!("{given} is not a rate of bytes (try \"240B/s\" or \"off\")"));
        };
        if text == "off" {
            return Ok(MinRate(None));
        }
        let size = text.strip_suffix("/s").map(|size| ByteSize::parse(Given::Text(size.trim_end())));
        let Some(Ok(size)) = size else {
            return Err(format!("{given} is not a rate of bytes (try \"240B/s\", \"1KiB/s\" or \"off\")"));
        };
        match NonZeroU64::new(size.bytes()) {
            Some(bytes) => Ok(MinRate(Some(bytes))),
            None => Err(format!("{given} asks for nothing (say \"off\")")),
        }
    }
}

impl fmt::Display for MinRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{}/s", ByteSize(bytes.get())),
            None => f.write_str("off"),
        }
    }
}

/// Text that is never shown: not when logged, not when serialised, not in an error. Never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;

        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Secret, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text.is_empty() {
                    return Err(de::Error::custom("a secret cannot be empty"));
                }
                Ok(Secret(text))
            }
        }

        deserializer.deserialize_newtype_struct(SECRET, SecretVisitor)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let description = "A secret, best as ${env:NAME} or ${file:PATH}; it is never shown.";
        json_schema!({"type": "string", "minLength": 1, "description": description})
    }
}

/// A scalar as written, for parsers that take text and say so when given a bare number.
#[derive(Clone, Copy)]
pub(in crate::config) enum Given<'a> {
    Text(&'a str),
    Number(&'a str),
}

impl fmt::Display for Given<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Text(text) => f.write_str(&quoted(text)),
            Given::Number(number) => f.write_str(number),
        }
    }
}

/// Reads a string or a number with `parse`, whose error is told as it is.
pub(in crate::config) fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(Given<'_>) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(GivenVisitor { expected, parse, takes_off: false })
}

/// The same where `off` is one of the words. Many tools load that as `false` (YAML 1.1).
pub(in crate::config) fn read_or_off<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(Given<'_>) -> Result<T, String>,
) -> Result<T, D::Error> {
    deserializer.deserialize_any(GivenVisitor { expected, parse, takes_off: true })
}

struct GivenVisitor<T> {
    expected: &'static str,
    parse: fn(Given<'_>) -> Result<T, String>,
    takes_off: bool,
}

impl<T> Visitor<'_> for GivenVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<T, E> {
        match self.takes_off && !on {
            true => (self.parse)(Given::Text("off")).map_err(E::custom),
            false => Err(E::invalid_type(de::Unexpected::Bool(on), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(Given::Text(text)).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.parse)(Given::Number(&number.to_string())).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(Given::Number(&number.to_string())).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.parse)(Given::Number(&number.to_string())).map_err(E::custom)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

macro_rules! written_as_text {
    ($($type:ident, $read:ident, $expected:literal, $schema:tt;)*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $read(deserializer, $expected, $type::parse)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

written_as_text! {
    HumanDuration, read, "a duration, such as \"5s\"", {
        "type": "string", "pattern": "[0-9]\\s*[a-zA-Zµ]|\\$\\{",
        "description": "A duration with its unit: 250ms, 5s, 2m, 1h30m."
    };
    ByteSize, read, "a size, such as \"64KiB\"", {
        "type": "string", "pattern": "[0-9]\\s*[a-zA-Z]|\\$\\{",
        "description": "A size with its unit: 64KiB, 10MB."
    };
    MemoryLimit, read_or_off, "a size, such as \"512MiB\", or `off`", {
        "type": "string", "pattern": "[0-9]\\s*[a-zA-Z]|^off$|\\$\\{",
        "description": "A size with its unit, such as 512MiB; or off."
    };
    Ratio, read, "a ratio, such as \"50%\"", {
        "type": ["string", "number"], "minimum": 0, "maximum": 1, "pattern": "%$|^[0-9.]+$|\\$\\{",
        "description": "A share: 50% or 0.5."
    };
    MinRate, read_or_off, "a rate of bytes, such as \"240B/s\"", {
        "type": "string", "pattern": "^off$|^[0-9.]+ *[a-zA-Z]+ */s$|\\$\\{",
        "description": "Bytes a second, 240B/s or 1KiB/s; or off."
    };
    Rate, read, "a rate, such as \"100/s\"", {
        "type": "string", "pattern": "^[0-9]+ */ *[smhd]$|\\$\\{",
        "description": "So many per second, minute, hour or day: 100/s, 5000/m, 10/h, 1000/d."
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text<T>(parse: fn(Given<'_>) -> Result<T, String>, text: &str) -> Result<T, String> {
        parse(Given::Text(text))
    }

    #[test]
    fn durations_need_a_unit() {
        for (written, millis) in
            [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            let duration = text(HumanDuration::parse, written).unwrap();
            assert_eq!(duration, HumanDuration::from_millis(millis));
            assert_eq!(duration.to_string(), written);
        }
        let table = [
            ("5 minuts", r#""5 minuts" is not a duration (try "5m")"#),
            ("soon", r#""soon" is not a duration (try "5s")"#),
            ("-5s", r#""-5s" is not a duration (try "5s")"#),
            ("10", r#""10" is not a duration (durations carry a unit, such as "5s")"#),
            ("1000y", r#""1000y" is longer than a century"#),
        ];
        for (written, expected) in table {
            assert_eq!(text(HumanDuration::parse, written).unwrap_err(), expected);
        }
    }

    #[test]
    fn sizes_need_a_unit_and_come_back_exact() {
        for (written, bytes) in [("64KiB", 65536), ("10MB", 10_000_000), ("1.5MiB", 1_572_864), ("7B", 7)] {
            let size = text(ByteSize::parse, written).unwrap();
            assert_eq!(size.bytes(), bytes);
            assert_eq!(text(ByteSize::parse, &size.to_string()), Ok(size));
        }
        for wrong in ["", "10", "1.5", "10 potatoes", "KiB", "-1KB"] {
            assert!(text(ByteSize::parse, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ratios_lie_between_nothing_and_all() {
        for (written, expected) in [("50%", 0.5), ("0.5", 0.5), ("100%", 1.0), ("7%", 0.07), ("0%", 0.0)] {
            assert_eq!(text(Ratio::parse, written).map(Ratio::as_f64), Ok(expected));
        }
        assert_eq!(text(Ratio::parse, "7%").unwrap().to_string(), "7%");
        for wrong in ["", "%", "101%", "-1%", "nan", "inf%", "half"] {
            assert!(text(Ratio::parse, wrong).is_err(), "{wrong:?}");
        }
        let message = Ratio::parse(Given::Number("50")).unwrap_err();
        assert_eq!(message, r#"50 is not between 0 and 1 (try "50%")"#);
    }

    #[test]
    fn rates_are_per_second_minute_hour_or_day() {
        let rate = text(Rate::parse, "5000/m").unwrap();
        assert_eq!((rate.count(), rate.period()), (5000, Duration::from_secs(60)));
        assert_eq!(rate.to_string(), "5000/m");
        for wrong in ["", "100", "0/s", "1/w", "-1/s", "/s", "1.5/s"] {
            assert!(text(Rate::parse, wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rates_of_bytes_are_per_second_or_off() {
        for (written, bytes) in [("240B/s", Some(240)), ("1KiB/s", Some(1024)), ("off", None)] {
            let rate = text(MinRate::parse, written).unwrap();
            assert_eq!(rate.bytes_per_second().map(NonZeroU64::get), bytes);
            assert_eq!(rate.to_string(), written);
        }
        for wrong in ["", "240", "240B", "240/s", "240B/m", "on", "-1B/s"] {
            assert!(text(MinRate::parse, wrong).is_err(), "{wrong:?}");
        }
        assert!(text(MinRate::parse, "0B/s").unwrap_err().contains("say \"off\""));
    }

    #[test]
    fn secrets_show_nothing_of_themselves() {
        let secret: Secret = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        let shown = format!("{secret:?} {secret} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
