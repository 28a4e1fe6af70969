//! What an upstream is told of a request's tries: which one this is, and how long the answer is waited for.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;

use crate::{error::Reason, snapshot::Route};

/// The number of this try, from 1, on routes with `retry`.
static ATTEMPTS: HeaderName = HeaderName::from_static("x-tidegate-attempts");
/// How long a gRPC call may take (gRPC over HTTP/2, "Timeout").
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// # Errors
///
/// The request has too many header fields to take another.
pub fn write(
    request: &mut RequestHeader,
    route: Option<&Arc<Route>>,
    tries: u32,
    left: Option<Duration>,
) -> Result<(), Reason> {
    if route.is_some_and(|route| route.retry.explicit) {
        // Most requests have one try, and its number need not be allocated.
        let count = match tries {
            1 => HeaderValue::from_static("1"),
            count => HeaderValue::from(count),
        };
        request.insert_header(&ATTEMPTS, count).map_err(|_| Reason::HeaderTooLarge)?;
    } else if request.headers.contains_key(&ATTEMPTS) {
        // A client's word for it.
        request.remove_header(&ATTEMPTS);
    }
    let Some(left) = left else { return Ok(()) };
    if let Some(name) = route.and_then(|route| route.timeout_header.clone()) {
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        request.insert_header(name, milliseconds).map_err(|_| Reason::HeaderTooLarge)?;
    }
    let given = request.headers.get(&GRPC_TIMEOUT).map(|value| parse(value.as_bytes()));
    let is_grpc = given.is_some()
        || request
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"));
    // A deadline that is sooner stays.
    if is_grpc && given.flatten().is_none_or(|given| given > left) {
        let value = HeaderValue::try_from(format(left)).map_err(|_| Reason::Internal)?;
        request.insert_header(&GRPC_TIMEOUT, value).map_err(|_| Reason::HeaderTooLarge)?;
    }
    Ok(())
}

/// At most eight digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 {
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

/// In milliseconds while they fit in eight digits, else in seconds.
fn format(left: Duration) -> String {
    match left.as_millis() {
        milliseconds @ ..100_000_000 => format!("{milliseconds}m"),
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
        for text in ["", "S", "123456789S", "1", "-1S", "1s"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for left in [Duration::from_millis(1), Duration::from_secs(60), Duration::from_secs(1_000_000)] {
            assert_eq!(parse(format(left).as_bytes()), Some(left));
        }
    }
}
