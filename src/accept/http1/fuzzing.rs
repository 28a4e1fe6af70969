//! What any bytes must do to the reader of request heads; see `crate::fuzzing`.

use bytes::{Bytes, BytesMut};
use http::{Version, header};
use pingora_http::RequestHeader;

use super::head::{self, Body};
use crate::http::{has_control, head_end, put_fields};

/// A request head that is accepted is read alike by another parser, and means the same once it is written again.
pub(crate) fn request_head(bytes: &[u8]) {
    // Of whatever is refused.
    let (method, path) = head::summary(bytes);
    assert!(method.len() + path.len() <= 3 * bytes.len());
    head::accept(bytes);
    let Some(end) = head_end(bytes) else { return };
    let Ok((request, body)) = head::parse(&Bytes::copy_from_slice(&bytes[..end])) else { return };
    check(&request, &body);
    as_httparse_reads_it(&bytes[..end], &request);
    let wire = written(&request);
    let (again, framed) = head::parse(&wire).unwrap_or_else(|refusal| panic!("{refusal:?} of {wire:?}"));
    assert_eq!(
        (&again.method, &again.uri, again.version, &again.headers),
        (&request.method, &request.uri, request.version, &request.headers)
    );
    assert_eq!(length(&framed), length(&body));
}

fn check(request: &RequestHeader, body: &Body) {
    let headers = &request.headers;
    let count = |name| headers.get_all(name).iter().count();
    assert!(count(header::HOST) <= 1 && (count(header::HOST) == 1 || request.version == Version::HTTP_10));
    let (lengths, codings) = (count(header::CONTENT_LENGTH), count(header::TRANSFER_ENCODING));
    assert!(lengths + codings <= 1, "framed in two ways");
    assert_eq!(length(body).is_none(), codings == 1);
    assert!(headers.values().all(|value| !has_control(value.as_bytes())));
}

fn length(body: &Body) -> Option<u64> {
    if let Body::Length(length) = body { Some(*length) } else { None }
}

fn as_httparse_reads_it(head: &[u8], request: &RequestHeader) {
    let mut fields = [httparse::EMPTY_HEADER; 257];
    let mut other = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(end)) = other.parse(head) else { return };
    assert_eq!(end, head.len(), "the head ends elsewhere");
    assert_eq!(other.method, Some(request.method.as_str()));
    assert_eq!(other.version == Some(0), request.version == Version::HTTP_10);
    assert_eq!(other.headers.len(), request.headers.len());
    for (name, value) in &request.headers {
        let same = |field: &&httparse::Header<'_>| {
            field.name.eq_ignore_ascii_case(name.as_str()) && field.value == value.as_bytes()
        };
        assert!(other.headers.iter().any(|field| same(&field)), "{name}: {value:?}");
    }
}

fn written(request: &RequestHeader) -> Bytes {
    let uri = &request.uri;
    let target = match (uri.scheme(), uri.authority()) {
        // Of the server as a whole.
        (Some(scheme), Some(authority)) if uri.path() == "*" => format!("{scheme}://{authority}"),
        _ => uri.to_string(),
    };
    let mut wire = BytesMut::from(format!("{} {target} {:?}\r\n", request.method, request.version).as_str());
    put_fields(&mut wire, &request.headers, None);
    wire.extend_from_slice(b"\r\n");
    wire.freeze()
}
