//! Where in a request the token stands. There must be one: who sends two may have them read differently by two servers.

use std::borrow::Cow;

use http::{
    HeaderName, HeaderValue, Uri,
    header::{AUTHORIZATION, COOKIE},
};
use pingora_http::RequestHeader;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::filter::{
    builtin::jwt::refusal::Refusal,
    shared::spelling::{take_off, take_off_others},
};

/// Exactly one of them.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct From {
    /// This header. In `authorization` the token follows `Bearer`; in others that may be left out.
    header: Option<String>,
    /// This cookie.
    cookie: Option<String>,
    /// This parameter of the query. It ends up in logs of other servers, so not without need.
    query: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    Header(HeaderName),
    Cookie(String),
    Query(String),
}

impl From {
    /// # Errors
    ///
    /// It names no place, several, or what is no name.
    pub(crate) fn place(&self) -> Result<Place, String> {
        let token = |name: &str| HeaderName::try_from(name).map_err(|_| format!("`{name}` is not a name"));
        match self {
            From { header: Some(name), cookie: None, query: None } => token(name).map(Place::Header),
            From { header: None, cookie: Some(name), query: None } => {
                token(name).map(|_| Place::Cookie(name.clone()))
            }
            From { header: None, cookie: None, query: Some(name) } => {
                token(name).map(|_| Place::Query(name.clone()))
            }
            _ => Err("expected exactly one of `header`, `cookie` and `query`".to_owned()),
        }
    }
}

impl Place {
    /// # Errors
    ///
    /// There is more than one.
    pub(crate) fn find<'r>(&self, request: &'r RequestHeader) -> Result<Option<&'r [u8]>, Refusal> {
        match self {
            Place::Header(name) => {
                let found = only(request.headers.get_all(name).iter().map(HeaderValue::as_bytes))?;
                Ok(found.and_then(|value| match bearer(value) {
                    Some(token) => Some(token),
                    // Credentials of another kind are another filter's.
                    None if *name == AUTHORIZATION => None,
                    None => Some(value),
                }))
            }
            Place::Cookie(name) => {
                let fields = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
                let cookies = fields.flat_map(|field| field.split(|byte| *byte == b';'));
                only(cookies.filter_map(|cookie| value(cookie.trim_ascii(), name)))
            }
            Place::Query(name) => {
                let query = request.uri.query().unwrap_or_default().as_bytes();
                only(query.split(|byte| *byte == b'&').filter_map(|pair| value(pair, name)))
            }
        }
    }

    /// Takes off what an upstream could read as the token.
    pub(crate) fn remove_others(&self, request: &mut RequestHeader) {
        if let Place::Header(name) = self {
            take_off_others(request, name);
        }
    }

    /// Takes the token off a request on its way to the upstream.
    pub(crate) fn remove(&self, request: &mut RequestHeader) {
        match self {
            // Credentials of another kind stay: they were not looked at.
            Place::Header(name)
                if *name == AUTHORIZATION
                    && request
                        .headers
                        .get(AUTHORIZATION)
                        .is_none_or(|it| bearer(it.as_bytes()).is_none()) => {}
            Place::Header(name) => take_off(request, name),
            Place::Cookie(name) => remove_cookie(request, name),
            Place::Query(name) => {
                let path = request.uri.path();
                let query = request.uri.query().unwrap_or_default();
                let kept: Vec<&str> =
                    query.split('&').filter(|pair| value(pair.as_bytes(), name).is_none()).collect();
                let target = match kept.is_empty() {
                    true => Cow::Borrowed(path),
                    false => Cow::Owned(format!("{path}?{}", kept.join("&"))),
                };
                // Parts of a target are one.
                if let Ok(target) = target.parse::<Uri>() {
                    request.set_uri(target);
                }
            }
        }
    }
}

fn remove_cookie(request: &mut RequestHeader, name: &str) {
    let fields: Vec<HeaderValue> = request.headers.get_all(COOKIE).iter().cloned().collect();
    request.remove_header(&COOKIE);
    for field in fields {
        let cookies = field.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let kept: Vec<&[u8]> = cookies.filter(|cookie| value(cookie, name).is_none()).collect();
        let kept = HeaderValue::from_bytes(&kept.join(&b"; "[..])).ok().filter(|kept| !kept.is_empty());
        if let Some(kept) = kept {
            // There were as many before.
            let _ = request.append_header(COOKIE, kept);
        }
    }
}

fn only<'r>(mut found: impl Iterator<Item = &'r [u8]>) -> Result<Option<&'r [u8]>, Refusal> {
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Refusal::Several),
        (found, None) => Ok(found),
    }
}

fn value<'r>(pair: &'r [u8], name: &str) -> Option<&'r [u8]> {
    let rest = pair.strip_prefix(name.as_bytes())?;
    match rest {
        [] => Some(b""),
        _ => rest.strip_prefix(b"="),
    }
}

/// What follows `Bearer`, in whatever case (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer".len())?;
    if !scheme.eq_ignore_ascii_case(b"Bearer") {
        return None;
    }
    match token {
        [] => Some(token),
        [b' ', ..] => Some(token.trim_ascii()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn finds_the_one_token() {
        let several = Err(Refusal::Several);
        let (header, other) = (Place::Header(AUTHORIZATION), Place::Header("x-token".parse().unwrap()));
        let (cookie, query) = (Place::Cookie("t".to_owned()), Place::Query("t".to_owned()));
        for (place, target, headers, expected) in [
            (&header, "/", &[("authorization", "Bearer a.b.c")][..], Ok(Some("a.b.c"))),
            (&header, "/", &[("authorization", "bEARER   a.b.c ")], Ok(Some("a.b.c"))),
            (&header, "/", &[("authorization", "Bearer")], Ok(Some(""))),
            (&header, "/", &[("authorization", "Bearera.b.c")], Ok(None)),
            (&header, "/", &[("authorization", "Basic dTpw")], Ok(None)),
            (&header, "/", &[], Ok(None)),
            (&header, "/", &[("authorization", "Bearer a"), ("authorization", "Bearer a")], several),
            (&header, "/", &[("authorization", "Bearer a"), ("authorization", "Basic a")], several),
            (&other, "/", &[("x-token", "a.b.c")], Ok(Some("a.b.c"))),
            (&other, "/", &[("x-token", "Bearer a.b.c")], Ok(Some("a.b.c"))),
            (&cookie, "/", &[("cookie", "a=b; t=a.b.c; tt=1")], Ok(Some("a.b.c"))),
            (&cookie, "/", &[("cookie", "t=a; t=a")], several),
            (&cookie, "/", &[("cookie", "t=a"), ("cookie", "t=b")], several),
            (&cookie, "/", &[("cookie", "a=b")], Ok(None)),
            (&query, "/?a=b&t=a.b.c", &[], Ok(Some("a.b.c"))),
            (&query, "/?t=a&t=b", &[], several),
            (&query, "/?t=a&t", &[], several),
            (&query, "/?tt=a", &[], Ok(None)),
            (&query, "/", &[], Ok(None)),
        ] {
            let request = request(target, headers);
            let found = place.find(&request).map(|found| found.map(|it| std::str::from_utf8(it).unwrap()));
            assert_eq!(found, expected, "{place:?} {target} {headers:?}");
        }
    }

    #[test]
    fn takes_the_token_off_and_nothing_else() {
        let mut request = request("/p?a=1&t=x&b=2", &[("cookie", "a=b; t=x; c=d"), ("cookie", "t=y")]);
        Place::Query("t".to_owned()).remove(&mut request);
        Place::Cookie("t".to_owned()).remove(&mut request);
        assert_eq!(request.uri, "/p?a=1&b=2");
        assert_eq!(request.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=b; c=d"]);
        Place::Query("a".to_owned()).remove(&mut request);
        Place::Query("b".to_owned()).remove(&mut request);
        assert_eq!(request.uri, "/p");
    }
}
