//! Cookies that the gateway reads, gives out and keeps to itself.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use pingora_http::ResponseHeader;

use crate::{
    config::{CookieAttributes, SameSite},
    error::Reason,
};

/// The value of a cookie (RFC 6265, section 4.2). One that is empty tells nobody apart, so it is none.
pub(super) fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    all(headers, name).find(|value| !value.is_empty())
}

/// Its values: browsers send those of several paths, and strangers what they like.
pub(super) fn all<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    // What else stands in the field may be no ASCII.
    let pairs =
        headers.get_all(COOKIE).into_iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        std::str::from_utf8(value).ok().filter(|value| value.is_ascii())
    })
}

/// A `Set-Cookie` field. Not for scripts: what the gateway gives out means nothing to them.
pub(super) fn write(attributes: CookieAttributes<'_>, value: &str) -> Option<HeaderValue> {
    let CookieAttributes { name, path, max_age, same_site, secure } = attributes;
    let max_age =
        max_age.map(|age| format!("; Max-Age={}", Duration::from(age).as_secs())).unwrap_or_default();
    let same_site = match same_site {
        SameSite::Strict => "Strict",
        SameSite::Lax => "Lax",
        SameSite::None => "None",
    };
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path={path}{max_age}; HttpOnly; SameSite={same_site}{secure}");
    HeaderValue::try_from(text).ok()
}

/// Whether a `Set-Cookie` field is for the cookie of this name.
pub(super) fn sets(value: &HeaderValue, name: &str) -> bool {
    named(value) == name.as_bytes()
}

/// Whose cookie a `Set-Cookie` field is.
fn named(value: &HeaderValue) -> &[u8] {
    value.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

/// Whether a cookie with this name is that of an upstream whose cookie is `own`, or of one of its subsets.
pub(super) fn is_of(name: &[u8], own: &str) -> bool {
    const DIGITS: usize = 8;
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match name.strip_prefix(own.as_bytes()) {
        Some([]) => true,
        Some([b'-', digits @ ..]) => digits.len() == DIGITS && digits.iter().all(is_digit),
        _ => false,
    }
}

/// Take the cookies of an upstream out of a request, and leave the others as they are.
pub(super) fn hide(headers: &mut HeaderMap, own: &str) {
    let is_it = |pair: &[u8]| {
        let pair = pair.trim_ascii();
        pair.iter().position(|byte| *byte == b'=').is_some_and(|end| is_of(&pair[..end], own))
    };
    let has_it = |value: &HeaderValue| value.as_bytes().split(|byte| *byte == b';').any(is_it);
    if !headers.get_all(COOKIE).into_iter().any(has_it) {
        return;
    }
    let without = |value: &HeaderValue| {
        let others = value.as_bytes().split(|byte| *byte == b';').filter(|pair| !is_it(pair));
        let left: Vec<&[u8]> = others.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).collect();
        HeaderValue::from_bytes(&left.join(&b"; "[..])).ok().filter(|left| !left.is_empty())
    };
    let edited: Vec<HeaderValue> = headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|value| if has_it(value) { without(value) } else { Some(value.clone()) })
        .collect();
    headers.remove(COOKIE);
    for value in edited {
        headers.append(COOKIE, value);
    }
}

/// Take away the fields of an answer that set a cookie of this upstream.
///
/// # Errors
///
/// There is none: it has fewer fields than before.
pub(super) fn unset(response: &mut ResponseHeader, own: &str) -> Result<(), Reason> {
    let all = response.headers.get_all(SET_COOKIE);
    let is_it = |value: &HeaderValue| is_of(named(value), own);
    if !all.iter().any(is_it) {
        return Ok(());
    }
    let others: Vec<HeaderValue> = all.iter().filter(|value| !is_it(value)).cloned().collect();
    response.remove_header(&SET_COOKIE);
    for value in others {
        response.append_header(SET_COOKIE, value).map_err(|_| Reason::Internal)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_cookie_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=1; session=x=y; session=z".parse().unwrap());
        headers.append(COOKIE, "b=2".parse().unwrap());
        assert_eq!(find(&headers, "session"), Some("x=y"));
        assert_eq!(all(&headers, "session").collect::<Vec<_>>(), ["x=y", "z"]);
        assert_eq!(find(&headers, "b"), Some("2"));
        assert_eq!(find(&headers, "sess"), None);
        headers.append(COOKIE, HeaderValue::from_bytes("n=Zo\u{eb}; late=1".as_bytes()).unwrap());
        assert_eq!((find(&headers, "late"), find(&headers, "n")), (Some("1"), None));
    }

    #[test]
    fn hides_one_cookie_and_leaves_the_others_as_they_are() {
        for (before, after) in [
            (vec!["at=1"], vec![]),
            (vec!["a=1; at=2; b=3;at=4"], vec!["a=1; b=3"]),
            (vec!["a=1;  b=2", "at=1", "atlas=x; at"], vec!["a=1;  b=2", "atlas=x; at"]),
            (vec!["at=\u{fc}; b=\u{fc}"], vec!["b=\u{fc}"]),
            // Those of subsets are.
            (
                vec!["at-01abcdef=1; at-1=2; at-01ABCDEF=3; at-01abcdef0=4"],
                vec!["at-1=2; at-01ABCDEF=3; at-01abcdef0=4"],
            ),
        ] {
            let mut headers = HeaderMap::new();
            let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).unwrap();
            before.iter().for_each(|text| {
                let _ = headers.append(COOKIE, value(text));
            });
            hide(&mut headers, "at");
            let left: Vec<_> = headers.get_all(COOKIE).into_iter().cloned().collect();
            assert_eq!(left, after.into_iter().map(value).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_an_endpoint_sets_under_the_name_is_taken_away() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for cookie in ["atlas=1", "at=2; Path=/", " at = 3", "b=at=4"] {
            response.append_header(SET_COOKIE, cookie).unwrap();
        }
        unset(&mut response, "at").unwrap();
        assert_eq!(
            response.headers.get_all(SET_COOKIE).into_iter().collect::<Vec<_>>(),
            ["atlas=1", "b=at=4"]
        );
    }
}
