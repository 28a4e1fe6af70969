//! Header fields that belong to one connection must not cross the gateway (RFC 9110, section 7.6.1).

use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    error::Reason,
    http::{has_token, is_token},
    upstream::Endpoint,
};

const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::UPGRADE,
];

const WEBSOCKET: &str = "websocket";

/// What a `Connection` field may not nominate: the message could not be read without it.
const FRAMING: [HeaderName; 3] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONTENT_TYPE];

const HOP_BY_HOP_IN_REQUESTS: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a client must not have the gateway drop: the upstream would learn something else from the rest.
const PROTECTED: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Nominating is work for us, so not without bound.
const MAX_NOMINATED: usize = 9;

/// Take them off before the filters of the way to the upstream run. No protocol switch survives it.
///
/// # Errors
///
/// `BadRequest` when a `Connection` field nominates what is protected, no field at all, or too many.
pub(crate) fn clean_request(request: &mut RequestHeader) -> Result<(), Reason> {
    // One pass finds out whether there is anything to do.
    if !request.headers.keys().any(|name| *name == header::TE || HOP_BY_HOP_IN_REQUESTS.contains(name)) {
        return Ok(());
    }
    let mut nominated = Vec::new();
    let values = request.headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    for token in tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
        let name = HeaderName::from_bytes(token).map_err(|_| Reason::BadRequest)?;
        // `HeaderName` lets more pass.
        if !is_token(token) || PROTECTED.contains(&name.as_str()) || nominated.len() == MAX_NOMINATED {
            return Err(Reason::BadRequest);
        }
        nominated.push(name);
    }
    for name in nominated.iter().chain(&HOP_BY_HOP_IN_REQUESTS) {
        request.remove_header(name);
    }
    // HTTP/2 lets no hop say anything else with it (RFC 9113, section 8.2.2), and gRPC insists.
    let keeps_te = request.version == Version::HTTP_2
        && request.headers.get_all(header::TE).iter().all(|te| te.as_bytes() == b"trailers");
    if !keeps_te {
        request.remove_header(&header::TE);
    }
    Ok(())
}

/// The protocols that a request asks to switch to, as its upstream is offered them. `None` where it does not ask as RFC 9110,
/// section 7.8, has it, in a version that knows no switch, or not for WebSocket, the only one that is passed on.
pub(crate) fn offered(request: &RequestHeader) -> Option<HeaderValue> {
    let asks = |name, word| has_token(&request.headers, name, word);
    if request.version != Version::HTTP_11
        || !asks(&header::UPGRADE, WEBSOCKET)
        || !asks(&header::CONNECTION, "upgrade")
    {
        return None;
    }
    let values = request.headers.get_all(header::UPGRADE).iter();
    let protocols = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    // HTTP/2 in clear begins with a request that would pass no filter (RFC 9113, section 3.1, has done away with it).
    let is_offered = |protocol: &&[u8]| {
        !protocol.eq_ignore_ascii_case(b"h2c") && protocol.split(|byte| *byte == b'/').all(is_token)
    };
    let protocols: Vec<&[u8]> = protocols.map(<[u8]>::trim_ascii).filter(is_offered).collect();
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok()
}

/// Whether an answer of 101 agrees to what can be passed on.
pub(super) fn agrees(response: &ResponseHeader) -> bool {
    let mut agreed = response.headers.get_all(header::UPGRADE).iter();
    let is_websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    agreed.next().is_some_and(is_websocket) && agreed.next().is_none()
}

pub(crate) fn clean_response(response: &mut ResponseHeader) {
    // A protocol switch is agreed by these very fields.
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    // One pass finds out what there is to do: mostly nothing.
    let found: Vec<HeaderName> =
        response.headers.keys().filter(|name| HOP_BY_HOP.contains(name)).cloned().collect();
    if found.is_empty() || (found == [header::CONNECTION] && nominates_nothing(response)) {
        return;
    }
    // A refusal of whatever is not WebSocket says so (RFC 9110, section 15.5.22).
    let is_required = response.status == StatusCode::UPGRADE_REQUIRED
        && has_token(&response.headers, &header::UPGRADE, WEBSOCKET);
    for name in nominated(response).into_iter().chain(found) {
        response.remove_header(&name);
    }
    if is_required {
        // In place of what was there.
        let _ = response.insert_header(header::UPGRADE, WEBSOCKET);
        let _ = response.insert_header(header::CONNECTION, "upgrade");
    }
}

/// HTTP/1.0 has requests without a host; HTTP/1.1 and HTTP/2, which upstreams are spoken to in, have none (RFC 9112, section
/// 3.2). It is the endpoint's then.
///
/// # Errors
///
/// The request has too many header fields to take another.
pub(crate) fn name_host(request: &mut RequestHeader, endpoint: &Endpoint) -> Result<(), Reason> {
    if request.headers.contains_key(header::HOST) || request.uri.authority().is_some() {
        return Ok(());
    }
    let host = if endpoint.origin.starts_with("unix:") { "localhost" } else { &*endpoint.origin };
    request.insert_header(header::HOST, host).map_err(|_| Reason::HeaderTooLarge)
}

/// `Connection: close` or `keep-alive` alone, which is left out when the response is written.
fn nominates_nothing(response: &ResponseHeader) -> bool {
    let mut values = response.headers.get_all(header::CONNECTION).iter();
    let plain = |value: &HeaderValue| matches!(value.as_bytes(), b"close" | b"keep-alive");
    values.next().is_some_and(plain) && values.next().is_none()
}

fn nominated(response: &ResponseHeader) -> Vec<HeaderName> {
    let values = response.headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(|name| !FRAMING.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    #[test]
    fn drops_hop_by_hop_and_nominated_fields_only() {
        let mut cleaned = response(
            200,
            &[
                ("connection", "close, X-Private"),
                ("connection", "content-length"),
                ("keep-alive", "timeout=5"),
                ("x-private", "1"),
                ("x-public", "1"),
                ("content-length", "2"),
            ],
        );
        clean_response(&mut cleaned);
        let left: Vec<&str> = cleaned.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-public", "content-length"]);
    }

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn takes_hop_by_hop_and_nominated_fields_off_a_request() {
        let mut cleaned = request(&[
            ("host", "a"),
            ("connection", "keep-alive, X-Private"),
            ("connection", ",upgrade"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "basic x"),
            ("x-private", "1"),
            ("x-public", "1"),
        ]);
        assert_eq!(clean_request(&mut cleaned), Ok(()));
        let left: Vec<&str> = cleaned.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "x-public"]);
    }

    #[test]
    fn te_trailers_crosses_between_http2_hops_only() {
        for (version, te, kept) in [
            (Version::HTTP_11, "trailers", false),
            (Version::HTTP_2, "trailers", true),
            (Version::HTTP_2, "gzip", false),
        ] {
            let mut cleaned = request(&[("te", te)]);
            cleaned.set_version(version);
            clean_request(&mut cleaned).unwrap();
            assert_eq!(cleaned.headers.contains_key("te"), kept, "{version:?} {te}");
        }
    }

    #[test]
    fn refuses_nominations_that_are_an_attack() {
        let many = ["a"; 10].join(",");
        for nominated in ["Host", "close, X-Forwarded-For", ":authority", "\"x\"", "a b", &many] {
            let refused = clean_request(&mut request(&[("connection", nominated)]));
            assert_eq!(refused, Err(Reason::BadRequest), "{nominated}");
        }
    }

    #[test]
    fn a_switch_is_offered_where_it_is_asked_for_by_the_book() {
        for (connection, upgrade, told) in [
            ("upgrade", "websocket", Some("websocket")),
            ("keep-alive, Upgrade", "WebSocket", Some("WebSocket")),
            ("upgrade", "foo/1, websocket,h2c", Some("foo/1, websocket")),
            ("upgrade", "\"x\", websocket", Some("websocket")),
            ("keep-alive", "websocket", None),
            ("upgrade", "h2c", None),
            ("upgrade", "websocket/13", None),
        ] {
            let mut asking = request(&[("connection", connection), ("upgrade", upgrade)]);
            let given = offered(&asking);
            assert_eq!(given.as_ref().map(|value| value.to_str().unwrap()), told, "{connection} {upgrade}");
            asking.set_version(Version::HTTP_10);
            assert_eq!(offered(&asking), None);
        }
        assert_eq!(offered(&request(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn leaves_a_protocol_switch_alone() {
        let mut switching = response(101, &[("connection", "upgrade"), ("upgrade", "websocket")]);
        clean_response(&mut switching);
        assert_eq!(switching.headers.len(), 2);
    }
}
