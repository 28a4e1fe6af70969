//! gRPC-Web's bodies, media types and deadlines.

use http::{HeaderMap, HeaderValue, header};

use crate::grpc::{
    Dialect, Messages, TIMEOUT, format_timeout, parse_timeout,
    web::{self, Decoder, NotBase64},
};

pub(super) fn web(bytes: &[u8]) {
    let (headers, body) = super::message(bytes);
    media_type(&headers);
    deadline(&headers);
    trailers(&headers);
    base64(body);
    messages(body);
}

fn media_type(headers: &HeaderMap) {
    let Some(dialect) = web::dialect(headers) else { return };
    let grpc = web::to_grpc(headers.get(header::CONTENT_TYPE));
    let back = web::from_grpc(&grpc, dialect).expect("it is one of gRPC");
    let again: HeaderMap = [(header::CONTENT_TYPE, back)].into_iter().collect();
    assert_eq!(web::dialect(&again), Some(dialect), "{grpc:?}");
    assert_eq!(web::to_grpc(again.get(header::CONTENT_TYPE)), grpc);
}

fn deadline(headers: &HeaderMap) {
    let timeout = headers.get(&TIMEOUT).and_then(|value| parse_timeout(value.as_bytes()));
    let Some(timeout) = timeout else { return };
    let written = format_timeout(timeout);
    let read = parse_timeout(written.as_bytes()).expect("what is written can be read");
    assert!(read <= timeout, "{written} is more than {timeout:?}");
    assert_eq!(format_timeout(read), written);
}

fn trailers(headers: &HeaderMap) {
    let frame = web::trailers(headers, Dialect::Web);
    let (head, lines) = frame.split_first_chunk::<5>().expect("a frame has a head");
    assert_eq!(head[0], 0x80);
    assert_eq!(u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize, lines.len());
    let text = web::trailers(headers, Dialect::WebText);
    assert_eq!(decoded(&text, text.len()).as_deref(), Ok(&frame[..]));
    // Read by the rules of HTTP/1, it is the same fields.
    let mut fields = vec![httparse::EMPTY_HEADER; headers.len()];
    let block = [lines, b"\r\n"].concat();
    let Ok(httparse::Status::Complete((_, read))) = httparse::parse_headers(&block, &mut fields) else {
        panic!("trailers that cannot be read: {lines:?}");
    };
    assert_eq!(read.len(), headers.len());
    for (field, (name, value)) in read.iter().zip(headers) {
        assert_eq!((field.name, field.value), (name.as_str(), value.as_bytes()));
    }
}

fn base64(body: &[u8]) {
    let whole = decoded(body, body.len());
    for size in [1, 3, 64] {
        assert_eq!(decoded(body, size), whole, "in parts of {size}");
    }
    if let Ok(content) = whole {
        assert!(content.len() <= body.len() / 4 * 3);
        let encoded = web::encode(&content);
        assert_eq!(decoded(&encoded, encoded.len()), Ok(content));
    }
}

fn decoded(body: &[u8], size: usize) -> Result<Vec<u8>, NotBase64> {
    let (mut decoder, mut content) = (Decoder::default(), Vec::new());
    for part in body.chunks(size.max(1)) {
        content.extend_from_slice(&decoder.decode(part, false)?);
    }
    content.extend_from_slice(&decoder.decode(b"", true)?);
    Ok(content)
}

fn messages(body: &[u8]) {
    let longest = |size: usize| {
        let mut messages = Messages::default();
        body.chunks(size.max(1)).map(|part| messages.longest(part)).max()
    };
    let whole = longest(body.len());
    assert!([1, 4, 64].into_iter().all(|size| longest(size) == whole), "messages depend on the cut");
    let value = HeaderValue::from_bytes(body).ok();
    // Whatever type a client claims, the one that goes on is of gRPC.
    assert!(web::to_grpc(value.as_ref()).as_bytes().starts_with(b"application/grpc"));
}
