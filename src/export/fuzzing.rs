//! What any answer of a collector must do; see `crate::fuzzing`.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use super::{
    reply::{Reply, of_grpc, of_http},
    signal::Signal,
};
use crate::observe::otlp::Encoding;

/// Longer than this nobody waits: an hour, and what a fraction of a second adds.
const LONGEST: Duration = Duration::from_secs(3601);

/// `headers` are those of the answer, and its trailers.
pub(crate) fn reply(headers: &HeaderMap, body: &[u8]) {
    for status in [200, 404, 429, 503].map(|code| StatusCode::from_u16(code).expect("a status")) {
        for encoding in [Encoding::Protobuf, Encoding::Json] {
            check(&of_http(Signal::Logs, status, headers, body, encoding), headers, body);
        }
        check(&of_grpc(Signal::Traces, status, headers, &HeaderMap::new(), body), headers, body);
        check(&of_grpc(Signal::Traces, status, &HeaderMap::new(), headers, body), headers, body);
    }
}

fn check(reply: &Reply, headers: &HeaderMap, body: &[u8]) {
    let told: usize = headers.values().map(|value| value.len()).sum::<usize>() + body.len();
    let text = match reply {
        Reply::Taken { message, .. } => message,
        Reply::Refused(why) => why,
        Reply::Later { why, after } => {
            assert!(after.is_none_or(|after| after <= LONGEST), "to wait for {after:?}");
            why
        }
    };
    // What is no text becomes a sign of three bytes.
    assert!(text.len() <= 3 * told + 200, "{} bytes are made of {told}", text.len());
}
