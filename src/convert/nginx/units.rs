//! nginx's times and sizes, as the configuration has them.

use crate::convert::durations::{self, NGINX, written};

/// As `5s`; none where it is no time, or is more than a century.
pub(super) fn duration(text: &str) -> Option<String> {
    milliseconds(text).map(written)
}

pub(super) fn milliseconds(text: &str) -> Option<u64> {
    durations::milliseconds(text, &NGINX)
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
    fn sizes_get_our_units() {
        for (text, expected) in
            [("8k", "8KiB"), ("10M", "10MiB"), ("1g", "1024MiB"), ("100", "100B"), ("0", "0B")]
        {
            assert_eq!(bytes(text).map(size).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(bytes("1x"), None);
    }
}
