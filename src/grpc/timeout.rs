//! How long a call may take, as `grpc-timeout` says it (gRPC over HTTP/2, "Timeout"): at most eight digits and a unit.

use std::time::Duration;

use http::HeaderName;

pub static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// `None` for what is no timeout.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// In the finest unit of microseconds, milliseconds and seconds in which it fits.
pub fn format(left: Duration) -> String {
    const FITS: u128 = 100_000_000;
    match (left.as_micros(), left.as_millis()) {
        (micros @ ..FITS, _) => format!("{micros}u"),
        (_, millis @ ..FITS) => format!("{millis}m"),
        _ => format!("{}S", left.as_secs().min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit_and_nothing_else() {
        for (text, milliseconds) in
            [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("4m", 4), ("5000u", 5)]
        {
            assert_eq!(parse(text.as_bytes()), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse(b"7n"), Some(Duration::from_nanos(7)));
        assert_eq!(parse(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "123456789S", "1", "-1S", "+1S", "1s"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for left in [
            Duration::from_micros(1),
            Duration::from_millis(1),
            Duration::from_secs(60),
            Duration::from_secs(600),
            Duration::from_secs(1_000_000),
        ] {
            assert_eq!(parse(format(left).as_bytes()), Some(left));
        }
        assert_eq!(parse(format(Duration::MAX).as_bytes()), Some(Duration::from_secs(99_999_999)));
    }
}
