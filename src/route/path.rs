//! One spelling per path, so that a route's filters cannot be bypassed by spelling its path differently.
//!
//! What is normalised here is what routes match *and* what must be forwarded. Path parameters (`;a=b`) are left
//! alone: an upstream that drops them (`/..;/admin` in some servlet containers) must be guarded by itself. So
//! are encoded reserved characters: `%3A` is not `:` (RFC 3986 §2.2), and rules see the two as different.

use std::{borrow::Cow, fmt};

/// What to do with `%2F` and `%5C`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodedSlashes {
    /// Left as they are: an encoded slash never separates segments.
    #[default]
    Keep,
    Refuse,
}

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
    /// `%2F` or `%5C` under [`EncodedSlashes::Refuse`].
    EncodedSlash,
    /// A raw control character, space, `?` or `#`.
    Character,
}

/// The normal form of `path`: unreserved characters decoded and all other escapes in upper case (RFC 3986 §6.2.2),
/// characters a path may not hold raw encoded, slashes merged, then dot segments removed (§5.2.4; `..` above the root
/// stays at the root). `*` is returned as it is. Normalising twice changes nothing; a path that is already normal is
/// borrowed.
pub fn normalise(path: &str, slashes: EncodedSlashes) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    match is_normal(path.as_bytes(), slashes) {
        true => Ok(Cow::Borrowed(path)),
        false => rewrite(path.as_bytes(), slashes).map(Cow::Owned),
    }
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
            PathError::EncodedSlash => {
                "the path holds an encoded slash (`%2F` or `%5C`), which is refused here"
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
fn is_normal(path: &[u8], slashes: EncodedSlashes) -> bool {
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
            Class::Percent => match escape(&path[at..], slashes) {
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

fn rewrite(path: &[u8], slashes: EncodedSlashes) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        at += 1;
        match CLASSES[byte as usize] {
            Class::Unreserved | Class::Reserved => out.push(byte as char),
            Class::Slash => {
                end_segment(&mut out);
                if !out.ends_with('/') {
                    out.push('/');
                }
            }
            Class::Percent => {
                let decoded = escape(&path[at..], slashes)?;
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
    end_segment(&mut out);
    Ok(out)
}

/// If what follows the last slash is a dot segment, takes back what it takes back. The slash before it stays.
fn end_segment(out: &mut String) {
    let Some(slash) = out.rfind('/') else { return };
    match &out[slash + 1..] {
        "." => out.truncate(slash + 1),
        ".." => {
            let parent = out[..slash].rfind('/').unwrap_or(0);
            out.truncate(parent + 1);
        }
        _ => {}
    }
}

/// The byte that the two digits after a `%` stand for.
fn escape(digits: &[u8], slashes: EncodedSlashes) -> Result<u8, PathError> {
    let digit = |at: usize| digits.get(at).and_then(|d| (*d as char).to_digit(16));
    let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(PathError::Encoding) };
    match (high * 16 + low) as u8 {
        0 => Err(PathError::Null),
        b'/' | b'\\' if slashes == EncodedSlashes::Refuse => Err(PathError::EncodedSlash),
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

    fn normal(path: &str) -> Result<Cow<'_, str>, PathError> {
        normalise(path, EncodedSlashes::Keep)
    }

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
            ("/a;x=1/..;/b", "/a;x=1/..;/b"),
            ("/v1/users:batch", "/v1/users:batch"),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
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
            assert_eq!(normal(path), Err(expected), "{path:?}");
        }
    }

    #[test]
    fn encoded_slashes_are_refused_on_request() {
        for path in ["/a%2fb", "/a%2Fb", "/a%5Cb"] {
            assert_eq!(normalise(path, EncodedSlashes::Refuse), Err(PathError::EncodedSlash), "{path}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in ["/", "*", "/v1/users/7", "/.well-known/a.b", "/a%2Fb%C3%A9", "/a;b=c/!$&'()*+,=:@"] {
            assert!(matches!(normal(path), Ok(Cow::Borrowed(_))), "{path}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn normalising_twice_changes_nothing(
            path in "/([./%;a]|%2[eEfF5]|%5[cC]|%6[1A]|%[cC]3|\\.\\.|é|\\{|[2eEfF0-9])*"
        ) {
            for slashes in [EncodedSlashes::Keep, EncodedSlashes::Refuse] {
                let Ok(once) = normalise(&path, slashes) else { continue };
                let twice = normalise(&once, slashes);
                prop_assert!(matches!(twice, Ok(Cow::Borrowed(same)) if same == once), "{once}");
                prop_assert!(!once.contains("//"));
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }

        #[test]
        fn no_input_panics(path in "\\PC*", raw in "(?s)/.*") {
            let _ = normal(&path);
            let _ = normal(&raw);
        }
    }
}
