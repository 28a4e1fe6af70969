//! What both sides of HTTP/1 are read by: where a head ends, and where a chunked body does. Pure.

mod chunked;

use memchr::memchr;

pub use chunked::{Chunked, Malformed};

/// The length of the head at the start of `bytes`, its empty line included; `None` until all of it is there.
///
/// A bare LF counts as a line end here, so that whoever parses it gets to see it.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
