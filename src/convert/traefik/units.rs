//! Durations of Traefik: those of Go, `1m30s`, or a number of seconds.

use crate::convert::fields::{Fields, Report};

/// As ours are written; `0s` for none.
pub(crate) fn duration(fields: &mut Fields<'_>, name: &str, report: &mut Report) -> Option<String> {
    let value = fields.take(name)?;
    let found = value.text().and_then(milliseconds).map(written);
    if found.is_none() {
        report.entry(name, value, "a duration such as 10s is expected here");
    }
    found
}

pub(crate) fn written(millis: u64) -> String {
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

/// A century at most.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    const LONGEST: f64 = 100.0 * 365.0 * 86_400_000.0;
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ms", 1.0),
            ("us", 0.001),
            ("µs", 0.001),
            ("ns", 0.000_001),
            ("h", 3_600_000.0),
            ("m", 60_000.0),
            ("s", 1000.0),
        ];
        let (unit, of_unit) = match units.into_iter().find(|(unit, _)| rest.starts_with(unit)) {
            Some(found) => found,
            // A bare number is one of seconds.
            None if rest.is_empty() && digits == text.len() => ("", 1000.0),
            None => return None,
        };
        sum += number * of_unit;
        rest = &rest[unit.len()..];
    }
    (!text.is_empty() && sum <= LONGEST).then(|| sum.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go_or_seconds() {
        for (text, expected) in [
            ("10", Some("10s")),
            ("10s", Some("10s")),
            ("1m30s", Some("90s")),
            ("1.5s", Some("1500ms")),
            ("100ms", Some("100ms")),
            ("0", Some("0s")),
            ("", None),
            ("s", None),
            ("1x", None),
            ("1s2", None),
            ("1.2.3s", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(milliseconds(text).map(written).as_deref(), expected, "{text}");
        }
    }
}
