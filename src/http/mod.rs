//! What both sides of HTTP/1 are read by: of which bytes its words are made, where a head ends, and where a chunked body
//! does; and who speaks by which field. Pure.

mod chunked;
pub(crate) mod fuzzing;
mod names;
mod outgoing;
mod spelling;
mod trailers;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName};
use memchr::memchr;

pub(crate) use chunked::Chunked;
pub(crate) use names::{Speaker, is_in_disguise, speaker, spellings};
pub(crate) use outgoing::{Coding, Outgoing};
pub(crate) use spelling::Spelling;
pub(crate) use trailers::{Trailers, clean as clean_trailers};

/// The length of the head at the start of `bytes`, its empty line included; `None` until all of it is there.
///
/// A bare LF counts as a line end here, so that whoever parses it gets to see it.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(line_feed) = memchr(b'\n', &bytes[at..]) {
        at += line_feed + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

static TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
        byte += 1;
    }
    table
};

/// `tchar` of RFC 9110, section 5.6.2.
pub(crate) fn is_tchar(byte: u8) -> bool {
    TCHAR[usize::from(byte)]
}

/// `token` of RFC 9110, section 5.6.2: a method, the name of a field.
pub(crate) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().fold(true, |is_token, byte| is_token & is_tchar(*byte))
}

/// Whether a field's value holds what none may (RFC 9110, section 5.5).
pub(crate) fn has_control(value: &[u8]) -> bool {
    // To the end: without a way out the compiler looks at many bytes at once.
    value.iter().fold(false, |found, &byte| found | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f))
}

/// Write fields as lines. Names mean the same in every case (RFC 9110, section 5.1), and are in lower case unless a
/// `spelling` is given.
pub(crate) fn put_fields(wire: &mut BytesMut, fields: &HeaderMap, spelling: Option<&Spelling>) {
    fields.iter().for_each(|(name, value)| put_field(wire, name, value.as_bytes(), spelling));
}

pub(crate) fn put_field(wire: &mut BytesMut, name: &HeaderName, value: &[u8], spelling: Option<&Spelling>) {
    let name = name.as_str();
    wire.reserve(name.len() + value.len() + 4);
    wire.put_slice(spelling.map_or(name.as_bytes(), |spelling| spelling.name(name)));
    wire.put_slice(b": ");
    wire.put_slice(value);
    wire.put_slice(b"\r\n");
}

/// Whether a list field has this word in it, in whatever case (RFC 9110, section 5.6.1).
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_made_of_what_they_may_be_made_of() {
        assert!(
            is_token(b"X-Custom_1")
                && !is_token(b"")
                && !is_token(b"a b")
                && !is_token(b"a:")
                && !is_token(b"\xe9")
        );
        assert!(
            !has_control(b"a\tb \xe9~") && has_control(b"a\0") && has_control(b"\x7f") && has_control(b"a\r")
        );
    }

    #[test]
    fn finds_the_end_of_a_header_wherever_it_was_cut() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
        for cut in 0..head.len() - 4 {
            assert_eq!(head_end(&head[..cut]), None, "{cut}");
        }
        assert_eq!(head_end(head), Some(head.len() - 4));
        assert_eq!(head_end(b"GET / HTTP/1.1\n\nx"), Some(16));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            proptest::prop_assert!(head_end(&bytes).is_none_or(|end| end <= bytes.len()));
        }
    }
}
