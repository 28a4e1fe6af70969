//! What a redirected connection speaks, by its first bytes. Nobody has said so, and a wrong guess breaks the connection:
//! so HTTP is only what cannot well be anything else, and all that is not known is carried as it is.
//!
//! Pure: it is asked again with all bytes so far as more come in, and once more when the client's time is over.

use crate::http::is_tchar;

/// What speaks first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::accept) enum Spoken {
    /// HTTP/1, or HTTP/2 by prior knowledge: they share a port, and are told apart behind it.
    Http,
    /// A ClientHello.
    Tls,
    /// Anything else.
    Opaque,
}

/// The client connection preface of HTTP/2 (RFC 9113, section 3.4).
pub(in crate::accept) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// So many bytes of a first line are waited for: a longer one that began like a request is taken for one.
pub(in crate::accept) const LONGEST_LINE: usize = 4096;

/// A method is a word of this length at most (RFC 9110 has none beyond 7, WebDAV none beyond 16).
const LONGEST_METHOD: usize = 24;

/// The methods that one has to expect: with a space behind it, each begins a request.
pub(in crate::accept) const METHODS: [&[u8]; 9] =
    [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"TRACE"];

/// What `bytes`, all that came so far, are the beginning of; `None` while more could decide.
pub(in crate::accept) fn detect(bytes: &[u8]) -> Option<Spoken> {
    match bytes.first()? {
        0x16 => client_hello(bytes),
        _ if PREFACE.starts_with(&bytes[..bytes.len().min(PREFACE.len())]) => {
            (bytes.len() >= PREFACE.len()).then_some(Spoken::Http)
        }
        _ => request_line(bytes),
    }
}

/// The same when no more bytes are waited for.
pub(in crate::accept) fn guess(bytes: &[u8]) -> Spoken {
    if let Some(spoken) = detect(bytes) {
        return spoken;
    }
    let bytes = without_empty_lines(bytes);
    let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_whole = method.len() < bytes.len();
    // A request whose line comes slowly, and be it in its first word: what filters guard is not to be had by waiting. The
    // header's own deadline is the next to watch it.
    let is_method = |known: &&[u8]| if is_whole { *known == method } else { known.starts_with(method) };
    let is_preface = !bytes.is_empty() && PREFACE.starts_with(bytes);
    match is_preface || (!method.is_empty() && METHODS.iter().any(is_method)) {
        true => Spoken::Http,
        false => Spoken::Opaque,
    }
}

/// Empty lines before the first request are to be forgiven (RFC 9112, section 2.2).
fn without_empty_lines(mut bytes: &[u8]) -> &[u8] {
    while let [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

/// A TLS record of type handshake, version 3.x, no longer than a record may be, that begins with a ClientHello
/// (RFC 8446, sections 4 and 5.1).
fn client_hello(bytes: &[u8]) -> Option<Spoken> {
    const LONGEST_RECORD: u16 = 1 << 14;
    let is_possible = |index: usize| match (index, bytes[index]) {
        (1, major) => major == 3,
        (2, minor) => minor <= 4,
        (3, high) => u16::from(high) << 8 <= LONGEST_RECORD,
        (4, low) => (4..=LONGEST_RECORD).contains(&u16::from_be_bytes([bytes[3], low])),
        (5, kind) => kind == 1,
        _ => true,
    };
    match (1..bytes.len().min(6)).all(is_possible) {
        false => Some(Spoken::Opaque),
        true => (bytes.len() >= 6).then_some(Spoken::Tls),
    }
}

/// `METHOD target HTTP/1.x` (RFC 9112, section 3). Other protocols send lines of words too: what tells is the end.
fn request_line(bytes: &[u8]) -> Option<Spoken> {
    let read = bytes.len();
    let bytes = without_empty_lines(bytes);
    if bytes.is_empty() || bytes == b"\r" {
        return (read > LONGEST_LINE).then_some(Spoken::Opaque);
    }
    let method = bytes.iter().take_while(|byte| is_tchar(**byte)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Some(Spoken::Opaque);
    }
    match bytes.get(method) {
        None => return None,
        Some(b' ') => {}
        Some(_) => return Some(Spoken::Opaque),
    }
    let (name, target) = (&bytes[..method], &bytes[method + 1..]);
    // However the line ends: servers differ in what they forgive, and no filter is to be passed by with a line that is none.
    if METHODS.contains(&name) && (target.starts_with(b"/") || target.starts_with(b"http")) {
        return Some(Spoken::Http);
    }
    let line = match memchr::memchr(b'\n', bytes) {
        Some(end) => &bytes[..end],
        None if bytes.len() < LONGEST_LINE => return (!is_text(bytes)).then_some(Spoken::Opaque),
        None => {
            let is_request = METHODS.contains(&name);
            return Some(if is_request { Spoken::Http } else { Spoken::Opaque });
        }
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_http = line.len() > method + 10
        && is_text(line)
        && matches!(&line[line.len() - 9..], [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1']);
    Some(if is_http { Spoken::Http } else { Spoken::Opaque })
}

/// Nothing in it that no line of text has.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte >= b' ' || *byte == b'\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello's first bytes: record type, version, length, handshake type.
    const HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

    #[test]
    fn knows_what_it_must_know() {
        for (bytes, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Spoken::Http),
            (b"GET / HTTP/1.1\n", Spoken::Http),
            (b"\r\nPOST /a?b=c HTTP/1.0\r\nHost: a\r\n", Spoken::Http),
            (b"PROPFIND http://a/ HTTP/1.1\r\n", Spoken::Http),
            (b"CONNECT a:443 HTTP/1.1\r\n", Spoken::Http),
            (PREFACE, Spoken::Http),
            (HELLO, Spoken::Tls),
            // SMTP, FTP, Redis, memcached, IMAP, SSH, PostgreSQL, MongoDB, and what only looks like HTTP.
            (b"EHLO mail.example.com\r\n", Spoken::Opaque),
            (b"USER anonymous\r\n", Spoken::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Spoken::Opaque),
            (b"GET key\r\n", Spoken::Opaque),
            (b"get /key\r\n", Spoken::Opaque),
            (b"a001 LOGIN a b\r\n", Spoken::Opaque),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Spoken::Opaque),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Spoken::Opaque),
            (b"GET / HTTP/2.0\r\n", Spoken::Http),
            (b"GET / HTTP/1.1 \r\n", Spoken::Http),
            (b"GET /a\r\n", Spoken::Http),
            (b"GET http://a/ HTTP/1.1\r\n", Spoken::Http),
            (b"\r\n\n\r\nGET / HTTP/1.1\r\n", Spoken::Http),
            (b"OPTIONS sip:a@b SIP/2.0\r\n", Spoken::Opaque),
            (b"MKCOL / HTTP/2.0\r\n", Spoken::Opaque),
            (b"GET HTTP/1.1\r\n", Spoken::Opaque),
            (b"GET /\0", Spoken::Http),
            (b"MKCOL /\0", Spoken::Opaque),
            (b" GET / HTTP/1.1\r\n", Spoken::Opaque),
            // TLS records that begin no handshake, an empty one, one too long, a version of the future.
            (&[0x17, 3, 3, 0, 9, 1], Spoken::Opaque),
            (&[0x16, 3, 1, 0, 0, 1], Spoken::Opaque),
            (&[0x16, 3, 1, 0x40, 1, 1], Spoken::Opaque),
            (&[0x16, 3, 5], Spoken::Opaque),
            (&[0x16, 3, 1, 2, 0, 2], Spoken::Opaque),
        ] {
            assert_eq!(detect(bytes), Some(spoken), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn waits_for_what_could_still_decide() {
        for bytes in
            [&b""[..], b"G", b"GET", b"GET ", b"MKCOL /a HTTP/1.1\r", b"\r\n", b"PRI * HTTP/2", &HELLO[..5]]
        {
            assert_eq!(detect(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn takes_a_request_that_comes_slowly_for_one_and_silence_for_another_protocol() {
        for bytes in [&b"G"[..], b"GET", b"GET ", b"\r\n\r\nGE", b"PRI * HT"] {
            assert_eq!(guess(bytes), Spoken::Http, "{bytes:?}");
        }
        for bytes in [&b""[..], b"\r\n", b"GETS", b"USER a", &HELLO[..3]] {
            assert_eq!(guess(bytes), Spoken::Opaque, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_that_never_ends_is_decided_by_its_method() {
        let endless = |start: &[u8]| [start, &vec![b'a'; LONGEST_LINE]].concat();
        assert_eq!(detect(&endless(b"GET /")), Some(Spoken::Http));
        assert_eq!(detect(&endless(b"SAY ")), Some(Spoken::Opaque));
        assert_eq!(detect(&endless(b"")), Some(Spoken::Opaque));
    }

    proptest! {
        /// Whatever comes, it is decided within a line's length, and nothing panics.
        #[test]
        fn is_decided_in_bounded_space(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = guess(&bytes);
            let full = [bytes.as_slice(), &vec![b'x'; LONGEST_LINE + 2]].concat();
            prop_assert!(detect(&full).is_some());
        }

        /// How the bytes are cut into segments makes no difference: once decided, more bytes change nothing.
        #[test]
        fn does_not_change_its_mind(
            start in prop_oneof![
                Just(&b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"[..]), Just(PREFACE), Just(HELLO),
                Just(&b"EHLO me\r\n"[..]), Just(&b"\r\nPUT /a HTTP/1.1\r\n"[..]),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let whole = [start, &rest].concat();
            let mut known = None;
            for end in 0..=whole.len() {
                let now = detect(&whole[..end]);
                if known.is_some() {
                    prop_assert_eq!(now, known, "after {} bytes", end);
                }
                known = now;
            }
            prop_assert!(known.is_some());
        }

        #[test]
        fn knows_every_request_line(
            method in "[A-Z]{1,20}", target in "/[a-zA-Z0-9/?&=%._-]{0,200}", minor in 0..2u8, line_end in "\r?\n",
        ) {
            let line = format!("{method} {target} HTTP/1.{minor}{line_end}");
            prop_assert_eq!(detect(line.as_bytes()), Some(Spoken::Http));
        }
    }
}
