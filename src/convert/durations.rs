//! Durations as other gateways write them: numbers with units behind them, added up. Each has its own units and liberties.

/// How durations are written.
pub(super) struct Grammar {
    /// In milliseconds. None stands behind one that it begins with.
    units: &'static [(&'static str, f64)],
    /// Where a number without a unit is one of seconds.
    bare: Bare,
    fractions: bool,
    most_digits: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Bare {
    Never,
    /// Where nothing else is written.
    Alone,
    Anywhere,
}

/// `1h 30m`, `500ms`, `60`.
pub(super) const NGINX: Grammar = Grammar {
    units: &[
        ("ms", 1.0),
        ("s", 1000.0),
        ("m", 60_000.0),
        ("h", 3_600_000.0),
        ("d", 86_400_000.0),
        ("w", 604_800_000.0),
        ("M", 2_592_000_000.0),
        ("y", 31_536_000_000.0),
    ],
    bare: Bare::Anywhere,
    fractions: false,
    most_digits: 20,
};

/// Those of Go, `1m30s` or `1.5s`, or a number of seconds, as Traefik has them.
pub(super) const GO: Grammar = Grammar {
    units: &[
        ("ms", 1.0),
        ("us", 0.001),
        ("µs", 0.001),
        ("ns", 0.000_001),
        ("h", 3_600_000.0),
        ("m", 60_000.0),
        ("s", 1000.0),
    ],
    bare: Bare::Alone,
    fractions: true,
    most_digits: 20,
};

/// Those of the Gateway API (GEP-2257).
pub(super) const GATEWAY_API: Grammar = Grammar {
    units: &[("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)],
    bare: Bare::Never,
    fractions: false,
    most_digits: 5,
};

/// A century at most.
pub(super) fn milliseconds(text: &str, grammar: &Grammar) -> Option<u64> {
    const LONGEST: f64 = 100.0 * 365.0 * 86_400_000.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let (whole, mut sum) = (rest.len(), 0.0);
    while !rest.is_empty() {
        let is_digit = |c: char| c.is_ascii_digit() || grammar.fractions && c == '.';
        let digits = rest.len() - rest.trim_start_matches(is_digit).len();
        let number: f64 = rest[..digits].parse().ok().filter(|_| digits <= grammar.most_digits)?;
        rest = &rest[digits..];
        let bare = match grammar.bare {
            Bare::Anywhere => Some(("", 1000.0)),
            Bare::Alone if digits == whole => Some(("", 1000.0)),
            Bare::Alone | Bare::Never => None,
        };
        let found = grammar.units.iter().copied().find(|(unit, _)| rest.starts_with(unit));
        let (unit, each) = found.or(bare)?;
        sum += number * each;
        rest = rest[unit.len()..].trim_start();
    }
    (sum <= LONGEST).then(|| sum.round() as u64)
}

/// As ours are written; `0s` for none.
pub(super) fn written(millis: u64) -> String {
    if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gateway_s_durations_are_read_as_it_reads_them() {
        let read = |text, grammar| milliseconds(text, grammar).map(written);
        for (text, nginx, go, gateway_api) in [
            ("60", Some("60s"), Some("60s"), None),
            ("10s", Some("10s"), Some("10s"), Some("10s")),
            ("1m30s", Some("90s"), Some("90s"), Some("90s")),
            ("1h30m5s200ms", Some("5405200ms"), Some("5405200ms"), Some("5405200ms")),
            ("1h 30", Some("3630s"), None, None),
            ("500ms", Some("500ms"), Some("500ms"), Some("500ms")),
            ("1d", Some("86400s"), None, None),
            ("1.5s", None, Some("1500ms"), None),
            ("1.2.3s", None, None, None),
            ("1s2", Some("3s"), None, None),
            ("0s", Some("0s"), Some("0s"), Some("0s")),
            ("999999s", Some("999999s"), Some("999999s"), None),
        ] {
            let expected = [nginx, go, gateway_api].map(|text| text.map(str::to_owned));
            assert_eq!([&NGINX, &GO, &GATEWAY_API].map(|grammar| read(text, grammar)), expected, "{text}");
        }
        for text in ["", " ", "x", "5x", "é", "-1", "99999999999999999999", "99999999999999h", "9999999y"] {
            let none = [&NGINX, &GO, &GATEWAY_API].map(|grammar| read(text, grammar));
            assert_eq!(none, [None, None, None], "{text}");
        }
    }
}
