//! What an upstream is told of a request's tries: which one this is, and how long the answer is waited for.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::forwarded::set;
use crate::{error::Reason, grpc, http::spellings, snapshot::Route};

/// The number of this try, from 1, on routes with `retry`.
static ATTEMPTS: HeaderName = HeaderName::from_static("x-tidegate-attempts");

/// # Errors
///
/// The request has too many header fields to take another.
pub(crate) fn write(
    headers: &mut HeaderMap,
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
        set(headers, &ATTEMPTS, count)?;
    }
    let Some(left) = left else { return Ok(()) };
    if let Some(name) = route.and_then(|route| route.timeout_header.as_ref()) {
        spellings(headers, name).iter().for_each(|spelled| drop(headers.remove(spelled)));
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        set(headers, name, milliseconds.into())?;
    }
    let given = headers.get(&grpc::TIMEOUT).map(|value| grpc::parse_timeout(value.as_bytes()));
    let is_grpc = given.is_some() || grpc::is_grpc(headers);
    // A deadline that is sooner stays.
    if is_grpc && given.flatten().is_none_or(|given| given > left) {
        let value = HeaderValue::try_from(grpc::format_timeout(left)).map_err(|_| Reason::Internal)?;
        set(headers, &grpc::TIMEOUT, value)?;
    }
    Ok(())
}
