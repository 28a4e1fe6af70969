//! What a collector's answer means (pure): taken, refused for good, or to be sent again later.

use std::time::Duration;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, StatusCode, header};

use super::signal::Signal;
use crate::observe::otlp::Encoding;

#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// With so many records that it would not have.
    Taken {
        rejected: u64,
        message: String,
    },
    Refused(String),
    /// `after` is when the collector wants to be asked again.
    Later {
        why: String,
        after: Option<Duration>,
    },
}

/// Longer pauses are not kept to.
const LONGEST_PAUSE: u64 = 3600;

pub(super) fn of_http(
    signal: Signal,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    encoding: Encoding,
) -> Reply {
    let why = format!("the collector answered {status}");
    match status.as_u16() {
        200..=299 if is_html(headers) => {
            Reply::Refused(format!("{why}, but with a page: it is no collector"))
        }
        200..=299 => match encoding {
            Encoding::Protobuf => taken(body),
            Encoding::Json => taken_json(signal, body),
        },
        429 | 502..=504 => {
            let after = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Reply::Later { why, after: after.map(|after: u64| Duration::from_secs(after.min(LONGEST_PAUSE))) }
        }
        300..=399 => {
            Reply::Refused(format!("{why}, and redirects are not followed: name the collector itself"))
        }
        404 => Reply::Refused(format!(
            "{why}: is this an OTLP endpoint for {}, and of this `protocol`?",
            signal.records()
        )),
        _ => Reply::Refused(why),
    }
}

fn is_html(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"))
}

pub(super) fn of_grpc(
    signal: Signal,
    status: StatusCode,
    headers: &HeaderMap,
    trailers: &HeaderMap,
    body: &[u8],
) -> Reply {
    let field = |name: &str| trailers.get(name).or_else(|| headers.get(name));
    let code = field("grpc-status").and_then(|value| value.to_str().ok()?.parse::<u8>().ok());
    let message = field("grpc-message").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let message = message.unwrap_or_default();
    let Some(code) = code else {
        // Something else than a server of gRPC, such as a proxy before it.
        return match status.as_u16() {
            200 => Reply::Refused("the collector does not speak gRPC".into()),
            _ => of_http(signal, status, headers, body, Encoding::Protobuf),
        };
    };
    let why = format!("the collector answered with gRPC status {code}: {message}");
    match code {
        0 => taken(body.get(5..).unwrap_or_default()),
        1 | 4 | 10 | 11 | 14 | 15 => Reply::Later { why, after: pause(field("grpc-status-details-bin")) },
        // Only with a pause is it meant to be tried again.
        8 => match pause(field("grpc-status-details-bin")) {
            Some(after) => Reply::Later { why, after: Some(after) },
            None => Reply::Refused(why),
        },
        _ => Reply::Refused(why),
    }
}

/// `Export...ServiceResponse { partial_success: 1 { rejected_...: 1, error_message: 2 } }`
fn taken(body: &[u8]) -> Reply {
    let partial = fields(body).find_map(|(number, value)| value.bytes().filter(|_| number == 1));
    let mut rejected = (0, String::new());
    for (number, value) in fields(partial.unwrap_or_default()) {
        match (number, value) {
            (1, Value::Number(count)) => rejected.0 = count,
            (2, Value::Bytes(text)) => rejected.1 = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    Reply::Taken { rejected: rejected.0, message: rejected.1 }
}

fn taken_json(signal: Signal, body: &[u8]) -> Reply {
    let read: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let partial = &read["partialSuccess"];
    let count = &partial[signal.keys().rejected];
    // 64-bit numbers are text in JSON, but not everybody knows.
    let rejected = count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0);
    Reply::Taken { rejected, message: partial["errorMessage"].as_str().unwrap_or_default().to_owned() }
}

/// `google.rpc.Status { details: 3 Any { type_url: 1, value: 2 RetryInfo { retry_delay: 1 { seconds: 1, nanos: 2 } } } }`
fn pause(details: Option<&http::HeaderValue>) -> Option<Duration> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let base64 = GeneralPurpose::new(&alphabet::STANDARD, config);
    let status = base64.decode(details?.as_bytes()).ok()?;
    let any = fields(&status).filter_map(|(number, value)| value.bytes().filter(|_| number == 3));
    let info = any.into_iter().find_map(|any| {
        let is_info = fields(any).any(|(number, value)| {
            number == 1 && value.bytes().is_some_and(|name| name.ends_with(b"google.rpc.RetryInfo"))
        });
        let value = fields(any).find_map(|(number, value)| value.bytes().filter(|_| number == 2));
        value.filter(|_| is_info)
    })?;
    let delay = fields(info).find_map(|(number, value)| value.bytes().filter(|_| number == 1))?;
    let part = |wanted| {
        fields(delay).find_map(|(number, value)| match value {
            Value::Number(part) if number == wanted => Some(part),
            _ => None,
        })
    };
    let nanos = part(2).unwrap_or(0).min(999_999_999) as u32;
    Some(Duration::new(part(1).unwrap_or(0).min(LONGEST_PAUSE), nanos))
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Value::Bytes(bytes) => Some(bytes),
            Value::Number(_) => None,
        }
    }
}

/// The fields of a message in protobuf, as far as it can be read.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut message)?),
            1 => Value::Bytes(take(&mut message, 8)?),
            2 => {
                let length = varint(&mut message)?;
                Value::Bytes(take(&mut message, usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(take(&mut message, 4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(count)?;
    *message = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    fn is_later(reply: &Reply) -> bool {
        matches!(reply, Reply::Later { .. })
    }

    #[test]
    fn http_answers_are_tried_again_where_the_specification_says_so() {
        let reply = |status: u16, headers: &HeaderMap| {
            of_http(Signal::Traces, StatusCode::from_u16(status).unwrap(), headers, b"", Encoding::Protobuf)
        };
        let none = HeaderMap::new();
        for status in [429, 502, 503, 504] {
            assert!(is_later(&reply(status, &none)), "{status}");
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert!(matches!(reply(status, &none), Reply::Refused(_)), "{status}");
        }
        let page = headers(&[("content-type", "text/html; charset=utf-8")]);
        assert!(matches!(reply(200, &page), Reply::Refused(_)));
        assert!(matches!(reply(200, &none), Reply::Taken { .. }));
        let after = |value| match reply(429, &headers(&[("retry-after", value)])) {
            Reply::Later { after, .. } => after,
            other => panic!("{other:?}"),
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("99999999"), Some(Duration::from_secs(3600)));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn grpc_statuses_are_tried_again_where_the_specification_says_so() {
        let reply = |code: &str, more: &[(&'static str, &str)]| {
            let trailers = headers(&[&[("grpc-status", code)], more].concat());
            of_grpc(Signal::Traces, StatusCode::OK, &HeaderMap::new(), &trailers, b"\0\0\0\0\0")
        };
        for code in ["1", "4", "10", "11", "14", "15"] {
            assert!(is_later(&reply(code, &[])), "{code}");
        }
        for code in ["2", "3", "5", "6", "7", "8", "9", "12", "13", "16"] {
            assert!(matches!(reply(code, &[]), Reply::Refused(_)), "{code}");
        }
        // Status { details: [Any { RetryInfo { retry_delay { seconds: 3 } } }] }
        let mut any = vec![10, 40];
        any.extend_from_slice(b"type.googleapis.com/google.rpc.RetryInfo");
        any.extend_from_slice(&[18, 4, 10, 2, 8, 3]);
        let mut status = vec![26, any.len() as u8];
        status.extend_from_slice(&any);
        let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status);
        let limited = reply("8", &[("grpc-status-details-bin", &details)]);
        assert!(matches!(limited, Reply::Later { after: Some(after), .. } if after.as_secs() == 3));
    }

    #[test]
    fn what_is_no_server_of_grpc_is_judged_by_its_status() {
        let none = HeaderMap::new();
        let reply = |status: u16| {
            of_grpc(Signal::Logs, StatusCode::from_u16(status).unwrap(), &none, &none, b"<html>")
        };
        assert!(matches!(reply(200), Reply::Refused(_)));
        assert!(is_later(&reply(503)));
    }

    #[test]
    fn records_that_were_rejected_are_counted() {
        let partial = [10, 6, 8, 3, 18, 2, b'n', b'o'];
        assert_eq!(taken(&partial), Reply::Taken { rejected: 3, message: "no".into() });
        assert_eq!(taken(b""), Reply::Taken { rejected: 0, message: String::new() });
        assert_eq!(taken(b"<html>"), Reply::Taken { rejected: 0, message: String::new() });
        for (signal, key) in [
            (Signal::Traces, "rejectedSpans"),
            (Signal::Metrics, "rejectedDataPoints"),
            (Signal::Logs, "rejectedLogRecords"),
        ] {
            let json = format!(r#"{{"partialSuccess":{{"{key}":"3","errorMessage":"no"}}}}"#);
            let taken = taken_json(signal, json.as_bytes());
            assert_eq!(taken, Reply::Taken { rejected: 3, message: "no".into() });
        }
        assert_eq!(taken_json(Signal::Logs, b"<html>"), Reply::Taken { rejected: 0, message: String::new() });
    }
}
