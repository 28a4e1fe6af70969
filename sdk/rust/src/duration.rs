//! Durations as the control plane writes them: `10s`, `3s333ms`, `1day2h`.

use std::time::Duration;

/// `None` where it is not one.
pub(crate) fn parse(mut text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    loop {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = text.split_at(digits);
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        sum = sum.checked_add(of(number.parse().ok()?, unit)?)?;
        text = rest.trim_start();
        if text.is_empty() {
            return Some(sum);
        }
    }
}

pub(crate) fn write(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn of(number: u64, unit: &str) -> Option<Duration> {
    let seconds = |each: u64| number.checked_mul(each).map(Duration::from_secs);
    match unit {
        "ns" => Some(Duration::from_nanos(number)),
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "day" | "days" => seconds(86_400),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_control_plane_writes() {
        for (text, milliseconds) in [
            ("10s", 10_000),
            ("333ms", 333),
            ("3s333ms", 3_333),
            ("1m40s", 100_000),
            ("1h 30m", 5_400_000),
            ("1day2h", 93_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "10 s",
            "-1s",
            "1.5s",
            "10s,",
            "10parsecs",
            "99999999999999999999s",
            "99999999999999999h",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&write(Duration::from_millis(1500))), Some(Duration::from_millis(1500)));
    }
}
