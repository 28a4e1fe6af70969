//! Status codes, and what of HTTP they stand for. Sources: gRPC's "Status codes and their use in gRPC", "HTTP to gRPC
//! Status Code Mapping", and "Errors" in gRPC over HTTP/2.

use std::borrow::Cow;

use http::StatusCode;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// By code.
const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

/// Lower case; `None` above 16.
pub fn name(code: u8) -> Option<&'static str> {
    NAMES.get(usize::from(code)).copied()
}

/// In any case: the specification writes `UNAVAILABLE`, our configuration `unavailable`.
pub fn code(name: &str) -> Option<u8> {
    NAMES.iter().position(|status| status.eq_ignore_ascii_case(name)).map(|code| code as u8)
}

/// Unknown, deadline exceeded, internal, unavailable, data loss: what a healthy server does not say.
pub fn is_fault(code: u8) -> bool {
    matches!(code, 2 | 4 | 13 | 14 | 15)
}

/// What an answer of plain HTTP means to a client of gRPC. As gRPC's own table, but that what is too much (413, 429, 431)
/// is told apart from a server that is not there: who retries at once makes it worse.
pub fn of_http(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 | 405 => 12,
        413 | 429 | 431 => 8,
        502..=504 => 14,
        _ => 2,
    }
}

/// What a reset of the stream with this code of HTTP/2 means.
pub fn of_reset(reason: u32) -> u8 {
    match reason {
        // REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY
        7 => 14,
        8 => 1,
        11 => 8,
        12 => 7,
        _ => 13,
    }
}

/// All but printable ASCII, and the sign of the encoding itself.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// A text as `grpc-message` carries it.
pub fn message(text: &str) -> Cow<'_, str> {
    percent_encode(text.as_bytes(), ENCODED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_names_both_ways() {
        for (status, expected) in [(0, "ok"), (1, "cancelled"), (4, "deadline_exceeded"), (13, "internal")] {
            assert_eq!(name(status), Some(expected));
        }
        for status in 0..=16 {
            assert_eq!(code(name(status).unwrap()), Some(status));
        }
        assert_eq!(name(17), None);
        assert_eq!(code("nothing"), None);
    }

    #[test]
    fn http_maps_as_the_specification_says() {
        for (status, code) in
            [(400, 13), (401, 16), (403, 7), (404, 12), (429, 8), (502, 14), (503, 14), (504, 14), (418, 2)]
        {
            assert_eq!(of_http(StatusCode::from_u16(status).unwrap()), code, "{status}");
        }
    }

    #[test]
    fn resets_map_as_the_specification_says() {
        for (reason, code) in [(0, 13), (1, 13), (2, 13), (7, 14), (8, 1), (11, 8), (12, 7), (99, 13)] {
            assert_eq!(of_reset(reason), code, "{reason}");
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        for (text, encoded) in [
            ("no route matches", "no route matches"),
            ("100%", "100%25"),
            ("a\r\nb", "a%0D%0Ab"),
            ("\u{20ac}", "%E2%82%AC"),
        ] {
            assert_eq!(message(text), encoded);
        }
    }
}
