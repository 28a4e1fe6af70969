//! What a request's target may hold raw: one rule for both versions of HTTP.
//!
//! Clients send more than RFC 3986 lets a URI hold, and servers differ in what they make of it. What can only be meant as data is
//! percent-encoded, so that everybody behind us reads the same. What could end the target, or the request line, is refused
//! where it is read. Pure.

/// The target with all of that encoded; `None` where there is nothing to be encoded.
pub(super) fn encoded(target: &[u8]) -> Option<Vec<u8>> {
    let first = target.iter().position(|byte| is_encoded(*byte))?;
    let mut made = Vec::with_capacity(target.len() + 16);
    made.extend_from_slice(&target[..first]);
    for byte in &target[first..] {
        if is_encoded(*byte) {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            made.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        } else {
            made.push(*byte);
        }
    }
    Some(made)
}

/// Quotes, angle brackets, and whatever is not ASCII, valid UTF-8 or not.
const fn is_encoded(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_uri_may_not_hold_is_encoded_and_nothing_else() {
        assert_eq!(encoded(b"/a-b.c_~%3c?d=e&{f}|'()*,;:@$!^[]"), None);
        for (target, made) in [
            (&b"/<a>?b=\"c\""[..], &b"/%3Ca%3E?b=%22c%22"[..]),
            ("/é?`".as_bytes(), b"/%C3%A9?%60"),
            (b"/\xff/x?\xfe", b"/%FF/x?%FE"),
            (b"http://a/<", b"http://a/%3C"),
        ] {
            assert_eq!(encoded(target).as_deref(), Some(made));
        }
    }

    proptest::proptest! {
        #[test]
        fn once_is_enough(target in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            proptest::prop_assert_eq!(encoded(&target).and_then(|made| encoded(&made)), None);
        }
    }
}
