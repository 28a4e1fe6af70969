//! One spelling per path, so that a route's filters cannot be bypassed by spelling its path differently.
//!
//! What is normalised here is what routes match *and* what must be forwarded. Path parameters (`;a=b`) are left
//! alone, and so are encoded reserved characters: `%3A` is not `:` (RFC 3986 §2.2), and rules see the two as different.
//!
//! Some servers read more into a path than that: they drop parameters, or take an encoded slash for one. A segment that
//! they would then resolve as `..` leads out of the route that was matched, so it is refused, whatever it is written with.
//! Whether other encoded slashes pass is for the route to say: see [`has_encoded_slash`].

use std::{borrow::Cow, fmt};

/// Why a request's path is refused, with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`, nor is it the `*` of `OPTIONS *`.
    Relative,
    /// A `%` without two hexadecimal digits.
    Encoding,
    /// `%00`.
    Null,
    /// A raw `\`, which some servers and all browsers read as `/`.
    Backslash,
    /// A segment that is `.` or `..` to a server that drops path parameters, or takes an encoded slash or backslash for
    /// a slash. Of what a rewrite made, also a plain one.
    DotSegment,
    /// A raw control character, space, `?` or `#`.
    Character,
}

/// The normal form of `path`: unreserved characters decoded and all other escapes in upper case (RFC 3986 §6.2.2),
/// characters a path may not hold raw encoded, slashes merged, then dot segments removed (§5.2.4; `..` above the root
/// stays at the root). `*` is returned as it is. Normalising twice changes nothing; a path that is already normal is
/// borrowed.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    in_form(path, Dots::Resolve)
}

/// The same of a path that was made of an operator's words and a client's: in it, dot segments are not resolved but
/// refused, as they could lead out of where the operator's words point.
pub fn normalise_made(path: &str) -> Result<Cow<'_, str>, PathError> {
    in_form(path, Dots::Refuse)
}

/// Whether a path in normal form holds `%2F` or `%5C`, which some servers take for a slash.
pub fn has_encoded_slash(path: &str) -> bool {
    let mut rest = path.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        rest = &rest[at + 1..];
        if rest.starts_with(b"2F") || rest.starts_with(b"5C") {
            return true;
        }
    }
    false
}

/// What becomes of `.` and `..` segments.
#[derive(Clone, Copy, PartialEq)]
enum Dots {
    Resolve,
    Refuse,
}

fn in_form(path: &str, dots: Dots) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    let normal = match is_normal(path.as_bytes()) {
        true => Cow::Borrowed(path),
        false => Cow::Owned(rewrite(path.as_bytes(), dots)?),
    };
    if has_hidden_dots(normal.as_bytes()) { Err(PathError::DotSegment) } else { Ok(normal) }
}

/// Whether a segment of a normal path is `.` or `..` once parameters are dropped and encoded slashes taken for slashes.
fn has_hidden_dots(path: &[u8]) -> bool {
    // Without one of them, what is normal has no dot segment in any reading.
    if memchr::memchr2(b';', b'%', path).is_none() {
        return false;
    }
    let is_end = |rest: &[u8]| {
        matches!(
            rest,
            [] | [b'/' | b';', ..] | [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..] | [b'%', b'3', b'B', ..]
        )
    };
    let mut at = 0;
    while at < path.len() {
        let rest = &path[at..];
        let slash = match rest {
            [b'/', ..] => 1,
            [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..] => 3,
            _ => 0,
        };
        let segment = &rest[slash..];
        let dots = segment.iter().take_while(|byte| **byte == b'.').count();
        if slash > 0 && matches!(dots, 1 | 2) && is_end(&segment[dots..]) {
            return true;
        }
        at += slash.max(1);
    }
    false
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathError::Relative => "the path does not begin with `/`",
            PathError::Encoding => {
                "the path holds `%` without two hexadecimal digits (write a literal one as `%25`)"
            }
            PathError::Null => "the path holds `%00`",
            PathError::Backslash => "the path holds a backslash (write `/`, or `%5C` if it is meant)",
            PathError::DotSegment => {
                "the path holds a segment that some servers read as `.` or `..` (`..;x`, `..%2F`; write the path it means)"
            }
            PathError::Character => {
                "the path holds a raw space, control character, `?` or `#` (percent-encode it)"
            }
        })
    }
}

impl std::error::Error for PathError {}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Stands for itself and is never encoded: RFC 3986 unreserved.
    Unreserved,
    /// Stands for itself, and is not the same when encoded: sub-delims, `:` and `@`.
    Reserved,
    Slash,
    Percent,
    /// May not stand raw in a path but is harmless: encoded.
    Encode,
    Backslash,
    Refuse,
}

static CLASSES: [Class; 256] = {
    let mut classes = [Class::Encode; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => Class::Unreserved,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
                Class::Reserved
            }
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            0..=b' ' | 0x7f | b'?' | b'#' => Class::Refuse,
            _ => Class::Encode,
        };
        byte += 1;
    }
    classes
};

/// Whether [`rewrite`] would neither change nor refuse the path. One pass, no copy.
fn is_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += 1;
        match CLASSES[byte as usize] {
            Class::Unreserved | Class::Reserved => {}
            Class::Slash => match &path[at..] {
                [b'/', ..] | [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..] => {
                    return false;
                }
                _ => {}
            },
            Class::Percent => match escape(&path[at..]) {
                Ok(decoded) => {
                    let upper = !path[at..at + 2].iter().any(u8::is_ascii_lowercase);
                    if !upper || CLASSES[decoded as usize] == Class::Unreserved {
                        return false;
                    }
                    at += 2;
                }
                Err(_) => return false,
            },
            Class::Encode | Class::Backslash | Class::Refuse => return false,
        }
    }
    true
}

fn rewrite(path: &[u8], dots: Dots) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += 1;
        match CLASSES[byte as usize] {
            Class::Unreserved | Class::Reserved => out.push(byte as char),
            Class::Slash => {
                end_segment(&mut out, dots)?;
                if !out.ends_with('/') {
                    out.push('/');
                }
            }
            Class::Percent => {
                let decoded = escape(&path[at..])?;
                at += 2;
                match CLASSES[decoded as usize] {
                    Class::Unreserved => out.push(decoded as char),
                    _ => push_escape(&mut out, decoded),
                }
            }
            Class::Encode => push_escape(&mut out, byte),
            Class::Backslash => return Err(PathError::Backslash),
            Class::Refuse => return Err(PathError::Character),
        }
    }
    end_segment(&mut out, dots)?;
    Ok(out)
}

/// If what follows the last slash is a dot segment, takes back what it takes back. The slash before it stays.
fn end_segment(out: &mut String, dots: Dots) -> Result<(), PathError> {
    let Some(slash) = out.rfind('/') else { return Ok(()) };
    match &out[slash + 1..] {
        "." | ".." if dots == Dots::Refuse => return Err(PathError::DotSegment),
        "." => out.truncate(slash + 1),
        ".." => {
            let parent = out[..slash].rfind('/').unwrap_or(0);
            out.truncate(parent + 1);
        }
        _ => {}
    }
    Ok(())
}

/// The byte that the two digits after a `%` stand for.
fn escape(digits: &[u8]) -> Result<u8, PathError> {
    let digit = |at: usize| digits.get(at).and_then(|d| (*d as char).to_digit(16));
    let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(PathError::Encoding) };
    match (high * 16 + low) as u8 {
        0 => Err(PathError::Null),
        byte => Ok(byte),
    }
}

fn push_escape(out: &mut String, byte: u8) {
    out.push_str(percent_encoding::percent_encode_byte(byte));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn has_one_spelling_per_path() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/%61dmin", "/admin"),
            ("/a%2db%2E%5f%7e", "/a-b._~"),
            ("/a%3ab", "/a%3Ab"),
            ("/a//b///c", "/a/b/c"),
            ("//", "/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/../../a", "/a"),
            ("/..", "/"),
            ("/a//../b", "/b"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a/..b/.c", "/a/..b/.c"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%5cb", "/a%5Cb"),
            ("/café", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/{a}|b", "/%7Ba%7D%7Cb"),
            ("/a;x=1/..b;/...;/.c;", "/a;x=1/..b;/...;/.c;"),
            ("/a%2f..b%5c...", "/a%2F..b%5C..."),
            ("/v1/users:batch", "/v1/users:batch"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn refuses_what_servers_read_differently() {
        for (path, expected) in [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("**", PathError::Relative),
            ("/%zz", PathError::Encoding),
            ("/%4", PathError::Encoding),
            ("/%", PathError::Encoding),
            ("/%%34%31", PathError::Encoding),
            ("/%é", PathError::Encoding),
            ("/a%00", PathError::Null),
            ("/a\\b", PathError::Backslash),
            ("/a b", PathError::Character),
            ("/a\r\nb", PathError::Character),
            ("/a\u{7f}", PathError::Character),
            ("/a?b", PathError::Character),
            ("/a#b", PathError::Character),
        ] {
            assert_eq!(normalise(path), Err(expected), "{path:?}");
        }
    }

    #[test]
    fn a_dot_segment_is_refused_however_it_is_hidden() {
        for path in [
            "/api/public/..;/private",
            "/a/.;x=1/b",
            "/a/..;",
            "/a/%2e%2e;/b",
            "/a/..%3b/b",
            "/static/..%2fadmin/x",
            "/static/..%5Cadmin",
            "/a%2f..",
            "/a%2f../b",
            "/a%5c.%2Fb",
            "/..%2f",
            "/%2f..;v=1%2fb",
        ] {
            assert_eq!(normalise(path), Err(PathError::DotSegment), "{path}");
            assert_eq!(normalise_made(path), Err(PathError::DotSegment), "{path}");
        }
    }

    #[test]
    fn what_was_made_may_have_no_dot_segments_at_all() {
        for path in ["/files/../secret", "/a/.", "/a/%2e%2E/b", "/..", "/a//../b"] {
            assert_eq!(normalise_made(path), Err(PathError::DotSegment), "{path}");
        }
        for (path, expected) in
            [("/a//b", "/a/b"), ("/caf\u{e9}/%7ea", "/caf%C3%A9/~a"), ("/a..b/...", "/a..b/...")]
        {
            assert_eq!(normalise_made(path).as_deref(), Ok(expected), "{path}");
        }
        assert_eq!(normalise_made("/a?b"), Err(PathError::Character));
    }

    #[test]
    fn an_encoded_slash_is_found_and_nothing_else_is_taken_for_one() {
        for (path, expected) in [
            ("/a%2fb", true),
            ("/a%5cb", true),
            ("/%41%2F", true),
            ("/a%252Fb", false),
            ("/a/2F", false),
            ("/%C3%A9", false),
        ] {
            assert_eq!(has_encoded_slash(&normalise(path).unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "*", "/v1/users/7", "/.well-known/a.b", "/a%2Fb%C3%A9", "/a;b=c/!$&'()*+,=:@"] {
            assert!(matches!(normalise(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn normalising_twice_changes_nothing(
            path in "/([./%;a]|%3[bB]|%2[eEfF5]|%5[cC]|%6[1A]|%[cC]3|\\.\\.|é|\\{|[2eEfF0-9])*"
        ) {
            let Ok(once) = normalise(&path) else { return Ok(()) };
            let twice = normalise(&once);
            prop_assert!(matches!(twice, Ok(Cow::Borrowed(same)) if same == once), "{once}");
            prop_assert!(matches!(normalise_made(&once), Ok(Cow::Borrowed(same)) if same == once), "{once}");
            prop_assert!(!once.contains("//"));
            // As the most generous of servers reads it.
            let read = once.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
            let mut segments = read.split('/').map(|segment| segment.split(';').next());
            prop_assert!(segments.all(|segment| !matches!(segment, Some("." | ".."))), "{once}");
        }

        #[test]
        fn no_input_panics(path in "\\PC*", raw in "(?s)/.*") {
            let _ = normalise(&path);
            let _ = normalise(&raw);
        }
    }
}
