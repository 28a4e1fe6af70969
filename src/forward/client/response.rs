//! The head of an HTTP/1 response: its fields, how the body behind it is framed, and whether the connection goes on after
//! it (RFC 9112). Pure: bytes in, header out.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{ResponseHeader, header_value_from_raw};

use crate::http::{Chunked, has_token, head_end};

/// As many fields as Pingora takes.
pub(super) const MAX_FIELDS: usize = 256;
/// A head that is longer is not read on.
pub(super) const LONGEST_HEAD: usize = 1024 * 1024;

/// Where a body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    /// After so many bytes more.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    Close,
}

/// Room for what most filters add to it.
const MOST_ADDED: usize = 8;
/// What each response begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// The head at the start of `bytes`, which is taken off them; `None` until all of it is there. `searched` says how many
/// bytes were looked at before without finding its end. With the bytes that it was.
///
/// # Errors
///
/// It is malformed, or too long.
pub(super) fn take(bytes: &mut BytesMut, searched: usize) -> Result<Option<(Box<ResponseHeader>, Bytes)>> {
    // What is no HTTP may have no end to wait for.
    if bytes.iter().zip(VERSION).any(|(byte, expected)| byte != expected) {
        return Err(malformed("not HTTP/1"));
    }
    // An end may have begun in what was looked at.
    let from = searched.saturating_sub(3);
    let Some(length) = head_end(&bytes[from..]) else {
        return match bytes.len() {
            ..=LONGEST_HEAD => Ok(None),
            _ => Err(malformed("a response header of more than 1 MiB")),
        };
    };
    // Its end may have come with the same read as what is too much.
    if from + length > LONGEST_HEAD {
        return Err(malformed("a response header of more than 1 MiB"));
    }
    let head = bytes.split_to(from + length).freeze();
    Ok(Some((parse(&head)?, head)))
}

fn parse(head: &Bytes) -> Result<Box<ResponseHeader>> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    // What RFC 9112, sections 5.1 and 5.2, has a proxy mend instead of refuse.
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    parser.allow_obsolete_multiline_headers_in_responses(true);
    let status = parser.parse_response_with_uninit_headers(&mut parsed, head, &mut fields);
    let (Ok(httparse::Status::Complete(_)), Some(code)) = (&status, parsed.code) else {
        let cause = status.err().map_or_else(|| "an empty line within".to_owned(), |e| e.to_string());
        return Err(malformed(&cause));
    };
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(code).map_err(|_| malformed("the status"))?;
    parts.version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers.reserve(parsed.headers.len() + MOST_ADDED);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| malformed("a field's name"))?;
        let value = header_value_from_raw(head.slice_ref(field.value));
        parts.headers.try_append(name, value).map_err(|_| malformed("too many fields"))?;
    }
    let mut header = Box::new(ResponseHeader::from(parts));
    header.set_reason_phrase(parsed.reason)?;
    Ok(header)
}

/// How the body of a final response to a request of `method` is framed.
///
/// # Errors
///
/// Several lengths, or one that is none; a transfer coding that is not `chunked`.
pub(super) fn framing(header: &ResponseHeader, method: &Method) -> Result<Framing> {
    let is_chunked = is_chunked(&header.headers)?;
    // Beside a transfer coding a length means nothing (RFC 9112, section 6.3).
    let length = if is_chunked { None } else { content_length(&header.headers)? };
    Ok(match (is_bodiless(method, header.status), is_chunked, length) {
        (true, ..) => Framing::Length(0),
        (_, true, _) => Framing::Chunked(Chunked::tolerant()),
        (_, _, Some(length)) => Framing::Length(length),
        _ => Framing::Close,
    })
}

/// Take off a final response what frames it: each side makes its own. What is left is a `Content-Length` that says what is
/// true, once: that of the body, or of the one that is not there because HEAD asked, or nothing has changed.
///
/// # Errors
///
/// Several lengths, or one that is none.
pub(super) fn unframe(header: &mut ResponseHeader, method: &Method, length: Option<u64>) -> Result<()> {
    let codes = header.headers.contains_key(header::TRANSFER_ENCODING);
    if codes {
        header.remove_header(&header::TRANSFER_ENCODING);
    }
    if !header.headers.contains_key(header::CONTENT_LENGTH) {
        return Ok(());
    }
    let told = match is_bodiless(method, header.status) {
        // RFC 9110, section 8.6.
        true if header.status == StatusCode::NO_CONTENT || codes => None,
        true => content_length(&header.headers)?,
        false => length.filter(|_| !codes),
    };
    match told {
        None => drop(header.remove_header(&header::CONTENT_LENGTH)),
        Some(told) if is_said_once(&header.headers, told) => {}
        Some(told) => drop(header.insert_header(header::CONTENT_LENGTH, told)?),
    }
    Ok(())
}

/// Whether a response has no body, whatever its fields say.
pub(crate) fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Whether the upstream keeps the connection after this response (RFC 9112, section 9.3), as far as its fields say.
pub(super) fn keeps_connection(header: &ResponseHeader) -> bool {
    let says = |word| has_token(&header.headers, &header::CONNECTION, word);
    match header.version {
        // Section 6.1: that it is framed as it says cannot be relied on.
        Version::HTTP_10 => says("keep-alive") && !header.headers.contains_key(header::TRANSFER_ENCODING),
        _ => !says("close"),
    }
}

/// Whether the body ends as chunks do. Any other coding would be lost, as it belongs to the connection.
fn is_chunked(headers: &HeaderMap) -> Result<bool> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter().peekable();
    let is_coded = values.peek().is_some();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    match codings.all(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        true => Ok(is_coded),
        false => Err(malformed("a transfer coding that is not chunked")),
    }
}

/// The same length may be said more than once (RFC 9110, section 8.6).
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>> {
    let said = |value: &'_ HeaderValue| -> Option<u64> {
        let mut lengths = value.as_bytes().split(|byte| *byte == b',').map(|text| digits(text.trim_ascii()));
        let first = lengths.next()??;
        lengths.all(|other| other == Some(first)).then_some(first)
    };
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let length = said(first).filter(|length| values.all(|value| said(value) == Some(*length)));
    length.map(Some).ok_or_else(|| malformed("a Content-Length that is none, or several"))
}

fn is_said_once(headers: &HeaderMap, length: u64) -> bool {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    values.next().is_some_and(|value| digits(value.as_bytes()) == Some(length)) && values.next().is_none()
}

fn digits(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

pub(super) fn malformed(what: &str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, format!("in a response: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Box<ResponseHeader>> {
        let mut bytes = BytesMut::from(text);
        take(&mut bytes, 0).map(|taken| taken.expect("a whole head").0)
    }

    fn framed(fields: &str, method: Method) -> Result<String> {
        let mut header = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"))?;
        let framing = framing(&header, &method)?;
        let length = if let Framing::Length(length) = framing { Some(length) } else { None };
        unframe(&mut header, &method, length)?;
        assert!(!header.headers.contains_key(header::TRANSFER_ENCODING));
        let length = header.headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap());
        Ok(match framing {
            Framing::Length(left) => format!("{left} {length:?}"),
            Framing::Chunked(_) => format!("chunked {length:?}"),
            Framing::Close => format!("close {length:?}"),
        })
    }

    #[test]
    fn takes_a_head_however_it_arrives_and_leaves_what_is_behind() {
        let text = "HTTP/1.1 404 Nothing\r\nX-One: 1\r\nx-two:  2 \r\n\r\nbody";
        for piece in 1..text.len() {
            let (mut bytes, mut searched, mut found) = (BytesMut::new(), 0, None);
            for part in text.as_bytes().chunks(piece) {
                bytes.extend_from_slice(part);
                if found.is_none() {
                    found = take(&mut bytes, searched).unwrap();
                    searched = bytes.len();
                }
            }
            let (header, _) = found.expect("a head");
            assert_eq!((header.status.as_u16(), header.get_reason_phrase()), (404, Some("Nothing")));
            assert_eq!(
                (&header.headers["x-one"], &header.headers["x-two"]),
                (&"1".parse().unwrap(), &"2".parse().unwrap())
            );
            assert_eq!(bytes, "body", "by {piece}");
        }
    }

    #[test]
    fn mends_what_a_proxy_is_to_mend() {
        let folded = head("HTTP/1.1 200 OK\r\nx-long: a\r\n b\r\nx-space : c\r\n\r\n").unwrap();
        assert_eq!(
            (&folded.headers["x-long"], &folded.headers["x-space"]),
            (&"a b".parse().unwrap(), &"c".parse().unwrap())
        );
    }

    #[test]
    fn refuses_what_is_no_response() {
        for text in [
            "\r\n",
            "SSH-2.0-x\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 No\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_FIELDS + 1)),
        ] {
            let refused = head(text).expect_err(text);
            assert_eq!(*refused.etype(), ErrorType::InvalidHTTPHeader, "{text:?}");
        }
        let mut endless = BytesMut::from(vec![b'x'; LONGEST_HEAD + 1].as_slice());
        assert!(take(&mut endless, 0).is_err());
    }

    #[test]
    fn a_body_is_framed_by_the_first_rule_that_holds() {
        let get = |fields| framed(fields, Method::GET).unwrap();
        assert_eq!(get("content-length: 5\r\n"), "5 Some(\"5\")");
        assert_eq!(get("content-length: 5, 5\r\n"), "5 Some(\"5\")");
        assert_eq!(get("content-length: 5\r\ncontent-length: 5\r\n"), "5 Some(\"5\")");
        assert_eq!(get("content-length: 5\r\ntransfer-encoding: chunked\r\n"), "chunked None");
        assert_eq!(get("transfer-encoding: chunked\r\ntransfer-encoding: Chunked\r\n"), "chunked None");
        for lost in ["gzip, chunked", "gzip", "identity", "chunked, gzip", ""] {
            assert!(framed(&format!("transfer-encoding: {lost}\r\n"), Method::GET).is_err(), "{lost}");
        }
        assert_eq!(get(""), "close None");
        assert_eq!(framed("content-length: 5\r\n", Method::HEAD).unwrap(), "0 Some(\"5\")");
        for bad in ["5\r\ncontent-length: 6", "5, 6", "", "-5", "+5", "0x5", "5 5", "99999999999999999999"] {
            assert!(framed(&format!("content-length: {bad}\r\n"), Method::GET).is_err(), "{bad:?}");
        }
        for status in ["204 No Content", "304 Not Modified"] {
            let header = head(&format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\n\r\n")).unwrap();
            assert!(matches!(framing(&header, &Method::GET), Ok(Framing::Length(0))), "{status}");
        }
    }

    #[test]
    fn the_connection_goes_on_unless_one_side_says_otherwise() {
        for (version, fields, kept) in [
            ("1.1", "", true),
            ("1.1", "connection: x, Close\r\n", false),
            ("1.1", "connection: keep-alive\r\n", true),
            ("1.0", "", false),
            ("1.0", "connection: Keep-Alive\r\n", true),
            ("1.0", "connection: keep-alive\r\ntransfer-encoding: chunked\r\n", false),
        ] {
            let header = head(&format!("HTTP/{version} 200 OK\r\n{fields}\r\n")).unwrap();
            assert_eq!(keeps_connection(&header), kept, "{version} {fields:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(HTTP/1.1 200 OK\r\n)?[ -~\r\n\t:,]{0,120}(\r\n\r\n)?") {
            let mut bytes = BytesMut::from(text.as_str());
            if let Ok(Some((header, _))) = take(&mut bytes, 0) {
                let _ = (keeps_connection(&header), framing(&header, &Method::GET));
            }
        }
    }
}
