//! What any bytes must do to the reader of response heads; see `crate::fuzzing`.

use bytes::{Bytes, BytesMut};
use http::{Method, Version, header};
use pingora_http::ResponseHeader;

use super::response::{Framing, framing, keeps_connection, take, unframe};
use crate::http::put_fields;

/// A response head is found however it comes, has one framing, and means the same once it is written again.
pub(crate) fn response_head(bytes: &[u8]) {
    let whole = taken(bytes, bytes.len());
    for size in [1, 9] {
        assert_eq!(shown(&taken(bytes, size)), shown(&whole), "in parts of {size}");
    }
    let Ok(Some((header, rest))) = whole else { return };
    assert!(bytes.ends_with(&rest), "something of the body is gone");
    assert!(
        header
            .headers
            .values()
            .all(|value| !value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)))
    );
    for method in [Method::GET, Method::HEAD] {
        framed(&header, &method);
    }
    let wire = written(&header);
    let (again, _) = taken(&wire, wire.len()).expect("what we write we read").expect("all of it is there");
    assert_eq!((again.status, &again.headers), (header.status, &header.headers));
    assert_eq!(keeps_connection(&again), keeps_connection(&header));
}

/// Each side makes its own framing: nothing of the upstream's is left but one length that is true.
fn framed(header: &ResponseHeader, method: &Method) {
    let Ok(framing) = framing(header, method) else { return };
    let length = if let Framing::Length(length) = framing { Some(length) } else { None };
    let mut own = header.clone();
    if unframe(&mut own, method, length).is_err() {
        return;
    }
    assert!(!own.headers.contains_key(header::TRANSFER_ENCODING));
    let told: Vec<_> = own.headers.get_all(header::CONTENT_LENGTH).iter().collect();
    assert!(told.len() <= 1);
    if let (Some(told), Some(length)) = (told.first(), length.filter(|length| *length > 0)) {
        assert_eq!(told.to_str().ok().and_then(|told| told.parse().ok()), Some(length));
    }
}

type Taken = pingora_core::Result<Option<(Box<ResponseHeader>, Bytes)>>;

/// As an exchange does. With what is left behind the head.
fn taken(bytes: &[u8], size: usize) -> Taken {
    let (mut ahead, mut searched) = (BytesMut::new(), 0);
    let mut parts = bytes.chunks(size.max(1));
    while let Some(part) = parts.next() {
        ahead.extend_from_slice(part);
        if let Some((header, _)) = take(&mut ahead, searched)? {
            parts.for_each(|part| ahead.extend_from_slice(part));
            return Ok(Some((header, ahead.freeze())));
        }
        searched = ahead.len();
    }
    Ok(None)
}

fn shown(taken: &Taken) -> String {
    match taken {
        Ok(Some((header, rest))) => format!("{header:?} {rest:?}"),
        Ok(None) => "more".into(),
        Err(_) => "refused".into(),
    }
}

fn written(header: &ResponseHeader) -> BytesMut {
    let minor = if header.version == Version::HTTP_10 { 0 } else { 1 };
    let reason = header.get_reason_phrase().unwrap_or_default();
    let mut wire = BytesMut::from(format!("HTTP/1.{minor} {} {reason}\r\n", header.status.as_str()).as_str());
    put_fields(&mut wire, &header.headers, None);
    wire.extend_from_slice(b"\r\n");
    wire
}
