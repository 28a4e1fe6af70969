//! `redirect`: send the client elsewhere. A route's `redirect` is this filter at the end of its chain.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header::LOCATION};

use crate::{
    config::{Path, Redirect},
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response, Template},
};

impl Options for Redirect {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        build(self, None, at, live)
    }
}

/// `prefix` is what the route that it stands at matches, where that is a prefix.
pub(crate) fn build(
    redirect: Redirect,
    prefix: Option<&str>,
    at: &Path,
    _live: &Live,
) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
    let Redirect { to, replace_prefix, status } = redirect;
    let mut invalid = Vec::new();
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let message = format!("{status} is not a redirect (301, 302, 303, 307 or 308)");
        invalid.push(Invalid::new(at.key("status"), message));
    }
    let key = if to.is_some() { "to" } else { "replace_prefix" };
    let (text, replaced) = match (to, replace_prefix, prefix) {
        (Some(to), None, _) => (to, None),
        (None, Some(new), Some(prefix)) => (new, Some(prefix.trim_end_matches('/').to_owned())),
        (None, Some(_), None) => {
            let message = "there is no prefix to replace (it stands at a route with `match: {path: /old}`)";
            invalid.push(Invalid::new(at.key(key), message));
            return Err(invalid);
        }
        _ => {
            let message =
                "give exactly one of `to` and `replace_prefix` (`to: \"https://example.com{uri}\"`)";
            invalid.push(Invalid::new(at.clone(), message));
            return Err(invalid);
        }
    };
    let template = is_target(&text).and_then(|()| {
        Template::parse(match replaced {
            Some(_) => text.trim_end_matches('/'),
            None => &text,
        })
    });
    let template = template.map_err(|message| invalid.push(Invalid::new(at.key(key), message)));
    match (template, StatusCode::from_u16(status)) {
        (Ok(to), Ok(status)) if invalid.is_empty() => Ok(Arc::new(Elsewhere { to, replaced, status })),
        _ => Err(invalid),
    }
}

/// A browser takes `example.com` for a file beside the page that it shows.
fn is_target(text: &str) -> Result<(), String> {
    let (scheme, rest) = text.split_once(':').unwrap_or(("", ""));
    let is_scheme = |scheme: &str| {
        !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-'))
    };
    if text.starts_with(['/', '{'])
        || is_scheme(scheme) && !rest.starts_with(|first: char| first.is_ascii_digit())
    {
        return Ok(());
    }
    let host = text.split(['/', '{']).next().unwrap_or_default();
    let hint = match host.contains('.') || host.starts_with("localhost") {
        true if host == text => format!("https://{text}{{uri}}"),
        true => format!("https://{text}"),
        false => format!("/{text}"),
    };
    Err(format!("{text:?} is neither a URL nor a path from the root (write {hint:?})"))
}

struct Elsewhere {
    to: Template,
    /// What the path begins with in whose place `to` is put, with the rest behind it.
    replaced: Option<String>,
    status: StatusCode,
}

impl Elsewhere {
    fn target(&self, exchange: &Exchange<'_>) -> Result<String, Reason> {
        let mut to = self.to.fill_url(exchange)?;
        if let Some(prefix) = &self.replaced {
            let path = exchange.facts.path();
            // A segment's beginning is a slash, so that what follows can name no other host.
            to.push_str(
                path.strip_prefix(prefix.as_str()).filter(|rest| rest.starts_with('/')).unwrap_or_default(),
            );
            if to.is_empty() {
                to.push('/');
            }
            if let Some(query) = exchange.facts.target.query() {
                to.push('?');
                to.push_str(query);
            }
        }
        if names_host(&to) { Ok(to) } else { Err(Reason::BadRequest) }
    }
}

/// Whether the host of a URL over HTTP is whole: a client that did not say it, or a value that is missing, leaves `https:///a` or
/// `https://.example.com`. Where there is no host by design, that is so.
fn names_host(url: &str) -> bool {
    let schemes = ["//", "http://", "https://"];
    let Some(rest) = schemes.into_iter().find_map(|scheme| url.strip_prefix(scheme)) else { return true };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (_, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    if place.starts_with('[') {
        return true;
    }
    let (host, _) = place.split_once(':').unwrap_or((place, ""));
    // A dot at the end is the root's.
    !host.strip_suffix('.').unwrap_or(host).split('.').any(str::is_empty)
}

impl Filter for Elsewhere {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        // The placeholders come from the request, which may hold what a header cannot.
        let to = HeaderValue::try_from(self.target(exchange)?).map_err(|_| Reason::BadRequest)?;
        let mut response = Response::new(self.status);
        response.headers.push((LOCATION, to));
        Ok(Flow::Reply(response))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_target_is_whole() {
        for whole in [
            "https://a.example/",
            "http://a",
            "https://a.:8080?b",
            "//a.example/b",
            "https://[::1]:8080/",
            "https://u@a.example",
            "/a",
            "/a//b",
            "",
            "mailto:a@b.example",
            "app:///open",
            "/a?to=https:///b",
        ] {
            assert!(names_host(whole), "{whole}");
        }
        for wrong in [
            "https:///ru/x",
            "https://",
            "http://?a",
            "https://:8080/",
            "https://.example.com",
            "https://a..b/",
            "//",
            "https://./",
            "https://u@/a",
        ] {
            assert!(!names_host(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_target_is_a_url_or_a_path_from_the_root() {
        for good in
            ["/a", "https://a.example", "{scheme}://x", "{uri}", "//cdn.example/a", "mailto:a@b.example"]
        {
            assert_eq!(is_target(good), Ok(()), "{good}");
        }
        for (wrong, hint) in [
            ("example.com", "https://example.com{uri}"),
            ("example.com:8080/a", "https://example.com:8080/a"),
            ("www.example.com{path}", "https://www.example.com{path}"),
            ("new", "/new"),
            ("", "/"),
        ] {
            let error = is_target(wrong).unwrap_err();
            assert!(error.ends_with(&format!("(write {hint:?})")), "{error}");
        }
    }
}
