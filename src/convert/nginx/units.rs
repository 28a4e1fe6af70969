//! nginx's times and sizes, as the configuration has them.

/// As `5s`; none where it is no time, or is more than a century.
pub(super) fn duration(text: &str) -> Option<String> {
    let milliseconds = milliseconds(text)?;
    Some(match milliseconds {
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        part => format!("{part}ms"),
    })
}

/// `1h 30m`, `500ms`, `60`: a bare number is seconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    const CENTURY: u64 = 36_500 * 86_400_000;
    let mut total = 0_u64;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units = [
            ("ms", 1),
            ("s", 1000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
            ("w", 604_800_000),
            ("M", 2_592_000_000),
            ("y", 31_536_000_000),
        ];
        let (unit, each) = units.into_iter().find(|(unit, _)| rest.starts_with(unit)).unwrap_or(("", 1000));
        rest = rest[unit.len()..].trim_start();
        total = total.checked_add(number.checked_mul(each)?)?;
    }
    (total <= CENTURY).then_some(total)
}

/// `8k`, `10m`, `1g`, `512`: in bytes.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let (number, each) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(each).filter(|bytes| *bytes <= 1 << 50)
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0 => "0B".to_owned(),
        mega if mega % (1 << 20) == 0 => format!("{}MiB", mega >> 20),
        kilo if kilo % (1 << 10) == 0 => format!("{}KiB", kilo >> 10),
        bytes => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_get_our_units() {
        for (text, expected) in [
            ("60", "60s"),
            ("1h 30m", "5400s"),
            ("1m30s", "90s"),
            ("500ms", "500ms"),
            ("1d", "86400s"),
            ("0", "0s"),
        ] {
            assert_eq!(duration(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "x", "5x", "99999999999999999999", "9999999y", "-1"] {
            assert_eq!(duration(text), None, "{text}");
        }
        for (text, expected) in
            [("8k", "8KiB"), ("10M", "10MiB"), ("1g", "1024MiB"), ("100", "100B"), ("0", "0B")]
        {
            assert_eq!(bytes(text).map(size).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(bytes("1x"), None);
    }
}
