//! gRPC-Web, for clients that see no trailers (PROTOCOL-WEB of gRPC): trailers are a last frame of the body, and in the
//! text form the body is Base64, of which parts that end with padding may follow each other.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

use super::{Dialect, suffix_after};

const WEB: &str = "application/grpc-web";
const WEB_TEXT: &str = "application/grpc-web-text";

/// How a request speaks gRPC-Web, if it does.
pub fn dialect(headers: &HeaderMap) -> Option<Dialect> {
    let content_type = headers.get(header::CONTENT_TYPE)?;
    match suffix_after(content_type, WEB_TEXT) {
        Some(_) => Some(Dialect::WebText),
        None => suffix_after(content_type, WEB).map(|_| Dialect::Web),
    }
}

/// The media type of gRPC-Web `from`, as plain gRPC has it; that of gRPC where it is another.
pub fn to_grpc(from: Option<&HeaderValue>) -> HeaderValue {
    let suffix = from.and_then(|value| suffix_after(value, WEB_TEXT).or_else(|| suffix_after(value, WEB)));
    media_type("application/grpc", suffix)
}

/// The media type of gRPC `from` in this dialect; `None` where it is another.
pub fn from_grpc(from: &HeaderValue, dialect: Dialect) -> Option<HeaderValue> {
    let suffix = suffix_after(from, "application/grpc")?;
    Some(media_type(content_type(dialect), Some(suffix)))
}

pub fn content_type(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Http2 => "application/grpc",
        Dialect::Web => WEB,
        Dialect::WebText => WEB_TEXT,
    }
}

fn media_type(base: &'static str, suffix: Option<&[u8]>) -> HeaderValue {
    let suffix = suffix.filter(|suffix| !suffix.is_empty());
    let whole = suffix.and_then(|suffix| HeaderValue::from_bytes(&[base.as_bytes(), suffix].concat()).ok());
    whole.unwrap_or(HeaderValue::from_static(base))
}

/// The frame that ends the body: its flag, its length, and the trailers as lines of HTTP/1.
pub fn trailers(fields: &HeaderMap, dialect: Dialect) -> Bytes {
    const TRAILERS: u8 = 0x80;
    let mut lines = BytesMut::new();
    for (name, value) in fields {
        // Writing to memory does not fail.
        let _ = write!(lines, "{name}: ");
        lines.put_slice(value.as_bytes());
        lines.put_slice(b"\r\n");
    }
    let mut frame = BytesMut::with_capacity(5 + lines.len());
    frame.put_u8(TRAILERS);
    // HTTP/2 bounds them to much less than fits.
    frame.put_u32(u32::try_from(lines.len()).unwrap_or(u32::MAX));
    frame.put_slice(&lines);
    match dialect {
        Dialect::WebText => encode(&frame),
        Dialect::Http2 | Dialect::Web => frame.freeze(),
    }
}

/// Padded at its end, so that the client can decode it before the next part comes.
pub fn encode(part: &[u8]) -> Bytes {
    STANDARD.encode(part).into()
}

/// The body of a request is to be Base64, and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBase64;

/// One Base64 body being decoded, in parts that end anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a group of four characters.
    rest: [u8; 4],
    filled: usize,
}

impl Decoder {
    /// What `part` completes.
    ///
    /// # Errors
    ///
    /// A character or padding where none may be, or the last group is not whole. It cannot go on.
    pub fn decode(&mut self, mut part: &[u8], is_last: bool) -> Result<Bytes, NotBase64> {
        let mut out = Vec::with_capacity((self.filled + part.len()) / 4 * 3);
        if self.filled > 0 {
            let taken = part.len().min(4 - self.filled);
            self.rest[self.filled..self.filled + taken].copy_from_slice(&part[..taken]);
            self.filled += taken;
            part = &part[taken..];
            if self.filled == 4 {
                self.filled = 0;
                groups(&self.rest, &mut out)?;
            }
        }
        let (whole, rest) = part.split_at(part.len() / 4 * 4);
        groups(whole, &mut out)?;
        if !rest.is_empty() {
            self.rest[..rest.len()].copy_from_slice(rest);
            self.filled = rest.len();
        }
        if is_last && self.filled > 0 { Err(NotBase64) } else { Ok(out.into()) }
    }
}

/// Groups of four, any of which may be padded.
fn groups(mut groups: &[u8], out: &mut Vec<u8>) -> Result<(), NotBase64> {
    while !groups.is_empty() {
        let end = match memchr::memchr(b'=', groups) {
            Some(padding) => (padding / 4 + 1) * 4,
            None => groups.len(),
        };
        let (run, rest) = groups.split_at(end);
        STANDARD.decode_vec(run, out).map_err(|_| NotBase64)?;
        groups = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn media_types_are_translated_with_what_follows_them() {
        for (web, grpc, found) in [
            ("application/grpc-web", "application/grpc", Dialect::Web),
            ("application/grpc-web+proto", "application/grpc+proto", Dialect::Web),
            ("application/grpc-web-text", "application/grpc", Dialect::WebText),
            (
                "application/grpc-web-text+thrift; charset=utf-8",
                "application/grpc+thrift; charset=utf-8",
                Dialect::WebText,
            ),
        ] {
            let headers: HeaderMap = [(header::CONTENT_TYPE, value(web))].into_iter().collect();
            assert_eq!(dialect(&headers), Some(found), "{web}");
            assert_eq!(to_grpc(Some(&value(web))), grpc);
            assert_eq!(from_grpc(&value(grpc), found).unwrap(), web);
        }
        for other in ["application/grpc", "application/grpc-webx", "text/html"] {
            let headers: HeaderMap = [(header::CONTENT_TYPE, value(other))].into_iter().collect();
            assert_eq!(dialect(&headers), None, "{other}");
        }
        assert_eq!(from_grpc(&value("text/html"), Dialect::Web), None);
    }

    #[test]
    fn trailers_become_a_frame() {
        let fields: HeaderMap = [("grpc-status", "5"), ("grpc-message", "gone"), ("x-a", "1"), ("x-a", "2")]
            .into_iter()
            .map(|(name, text)| (http::HeaderName::from_static(name), value(text)))
            .collect();
        let lines = "grpc-status: 5\r\ngrpc-message: gone\r\nx-a: 1\r\nx-a: 2\r\n";
        let frame = trailers(&fields, Dialect::Web);
        assert_eq!(frame[..5], [0x80, 0, 0, 0, lines.len() as u8]);
        assert_eq!(&frame[5..], lines.as_bytes());
        assert_eq!(trailers(&fields, Dialect::WebText), STANDARD.encode(frame));
    }

    #[test]
    fn decodes_however_the_body_is_cut_and_padded() {
        let parts: [&[u8]; 4] = [b"a", b"hello", b"", b"three and more bytes"];
        let body: String = parts.map(|part| STANDARD.encode(part)).concat();
        for size in 1..=body.len() {
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            for part in body.as_bytes().chunks(size) {
                decoded.extend_from_slice(&decoder.decode(part, false).unwrap());
            }
            decoded.extend_from_slice(&decoder.decode(b"", true).unwrap());
            assert_eq!(decoded, parts.concat(), "{size}");
        }
    }

    #[test]
    fn refuses_what_is_no_base64() {
        for body in ["AAA", "A", "AA=A", "=AAA", "AA*A", "AAAA=", "\r\n\r\n", "A==="] {
            assert_eq!(Decoder::default().decode(body.as_bytes(), true), Err(NotBase64), "{body:?}");
        }
    }
}
