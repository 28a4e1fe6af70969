//! What any bytes must do to the readers of this room; see `crate::fuzzing`.

use http::HeaderMap;

use super::{Chunked, Trailers, has_control, put_fields, speaker};

/// A body that was read, as far as it goes.
#[derive(Debug, PartialEq)]
struct Body {
    content: Vec<u8>,
    /// Bytes that belong to it.
    length: usize,
    is_done: bool,
    trailers: Option<HeaderMap>,
}

/// A chunked body has one content and one end, and whoever reads it less strictly reads the same.
pub(crate) fn chunked(bytes: &[u8]) {
    for first in [Chunked::default(), Chunked::tolerant()] {
        let whole = read(first, bytes, bytes.len());
        for size in [1, 3, 64] {
            assert_eq!(read(first, bytes, size), whole, "in parts of {size}");
        }
    }
    let strict = read(Chunked::default(), bytes, bytes.len());
    let tolerant = read(Chunked::tolerant(), bytes, bytes.len());
    assert!(strict.is_none() || strict == tolerant, "what is strictly right is read in two ways");
    let Some(body) = tolerant else { return };
    assert!(body.length <= bytes.len() && body.content.len() <= body.length);
    for (name, value) in body.trailers.iter().flat_map(HeaderMap::iter) {
        let is_harmless = !has_control(value.as_bytes()) && speaker(name.as_str()).is_none();
        assert!(is_harmless, "{name}: {value:?}");
    }
    if body.is_done {
        let wire = written(&body);
        let again = read(Chunked::default(), &wire, wire.len());
        assert_eq!(again, Some(Body { length: wire.len(), ..body }));
    }
}

/// As a session does; `None` for framing that is refused.
fn read(mut chunks: Chunked, bytes: &[u8], size: usize) -> Option<Body> {
    let mut body = Body { content: Vec::new(), length: 0, is_done: false, trailers: None };
    let mut trailers = Trailers::default();
    for mut part in bytes.chunks(size.max(1)) {
        while !part.is_empty() && !chunks.is_done() {
            let in_trailers = chunks.is_in_trailers();
            let (framing, content) = chunks.decode(part).ok()?;
            assert!(framing + content > 0, "it stands still");
            if in_trailers {
                trailers.add(&part[..framing]);
            }
            body.content.extend_from_slice(&part[framing..framing + content]);
            body.length += framing + content;
            part = &part[framing + content..];
        }
    }
    body.is_done = chunks.is_done();
    body.trailers = if body.is_done { trailers.take() } else { None };
    Some(body)
}

fn written(body: &Body) -> Vec<u8> {
    let mut wire = bytes::BytesMut::new();
    if !body.content.is_empty() {
        wire.extend_from_slice(format!("{:x}\r\n", body.content.len()).as_bytes());
        wire.extend_from_slice(&body.content);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n");
    if let Some(trailers) = &body.trailers {
        put_fields(&mut wire, trailers, None);
    }
    wire.extend_from_slice(b"\r\n");
    wire.to_vec()
}
