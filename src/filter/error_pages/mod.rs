//! `error_pages`: the bodies of errors, made ready when the configuration is read. A route that has none costs nothing, and one that has is
//! asked only once there is an error.

mod accept;
mod body;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora_http::ResponseHeader;

use self::{
    accept::Wanted,
    body::{Body, Form, Told},
};
use super::{Exchange, Reason, Response, shared::vary};
use crate::{
    config::{ErrorPage, Path, Problem, Sources, suggest},
    error::accepts_json,
};

/// Those of the top level, a listener or a route.
#[derive(Debug)]
pub struct ErrorPages(Vec<(Kind, Page)>);

/// What a page is for; the first is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Reason(u16),
    Status(u16),
    /// By its first digit.
    Class(u16),
}

#[derive(Debug)]
struct Page {
    html: Option<Body>,
    json: Option<Body>,
    upstream: bool,
}

/// What is wrong with the connection to the content that was there, once another takes its place (RFC 9110, sections 8 and 14).
const OF_CONTENT: [&str; 13] = [
    "content-encoding",
    "content-length",
    "content-language",
    "content-location",
    "content-disposition",
    "content-range",
    "content-digest",
    "repr-digest",
    "digest",
    "content-md5",
    "accept-ranges",
    "etag",
    "last-modified",
];

impl ErrorPages {
    /// Those that are `written` at a place; `None` where there are none.
    pub fn build(
        written: &BTreeMap<String, ErrorPage>,
        at: &Path,
        sources: &Sources,
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<ErrorPages>> {
        let mut pages = Vec::new();
        for (name, page) in written {
            let at = at.key(name);
            match Kind::parse(name) {
                Ok(kind) => {
                    pages.extend(Page::build(page, kind, &at, sources, problems).map(|page| (kind, page)))
                }
                Err(why) => problems.push(sources.problem(&at, why)),
            }
        }
        pages.sort_by_key(|(kind, _)| *kind);
        (!pages.is_empty()).then(|| Arc::new(ErrorPages(pages)))
    }

    fn find(&self, reason: Option<Reason>, status: StatusCode, may: impl Fn(&Page) -> bool) -> Option<&Page> {
        let fits = |kind: &Kind| match kind {
            Kind::Reason(of) => reason.is_some_and(|reason| *of == reason as u16),
            Kind::Status(of) => *of == status.as_u16(),
            Kind::Class(of) => *of == status.as_u16() / 100,
        };
        self.0.iter().find(|(kind, page)| fits(kind) && may(page)).map(|(_, page)| page)
    }
}

/// A refusal with the page of the nearest of `levels` that has one for it. What another server has said of it, such as an
/// authorization service, stays as it is.
pub(crate) fn dress<'p>(
    levels: impl Iterator<Item = &'p ErrorPages>,
    exchange: &Exchange<'_>,
    response: &mut Response,
) {
    let Some(reason) = response.reason.filter(|_| is_error(response.status)) else { return };
    let found = levels.filter_map(|pages| pages.find(Some(reason), response.status, |_| true)).next();
    let Some(page) = found else { return };
    let accept = exchange.request.headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    if reason.body_with(response.status, accepts_json(accept)).1 != response.body {
        return;
    }
    let Some(body) = page.choose(&exchange.request.headers) else { return };
    let after = response.headers.iter().find(|(name, _)| *name == header::RETRY_AFTER);
    let told = Told {
        status: response.status.as_u16(),
        title: title(response.status),
        reason: reason.code(),
        detail: reason.detail(),
        retry_after: seconds(after.map(|(_, value)| value)),
    };
    response.body = body.fill(&told, exchange);
    response.headers.retain(|(name, _)| *name != header::CONTENT_TYPE);
    response.headers.push((header::CONTENT_TYPE, HeaderValue::from_static(body.form().content_type())));
    if page.depends() {
        response.headers.push((header::VARY, HeaderValue::from_static("accept")));
    }
}

/// What is sent in the place of an upstream's error, where one of `levels` has it so. The head is made to fit.
///
/// # Errors
///
/// The head takes no more fields.
pub(crate) fn instead<'p>(
    levels: impl Iterator<Item = &'p ErrorPages>,
    exchange: &Exchange<'_>,
    response: &mut ResponseHeader,
) -> Result<Option<Bytes>, Reason> {
    let status = response.status;
    let found = levels.filter_map(|pages| pages.find(None, status, |page| page.upstream)).next();
    let Some((page, body)) = found.and_then(|page| Some((page, page.choose(&exchange.request.headers)?)))
    else {
        return Ok(None);
    };
    let told = Told {
        status: status.as_u16(),
        title: title(status),
        reason: "upstream",
        detail: "the upstream answered with an error",
        retry_after: seconds(response.headers.get(header::RETRY_AFTER)),
    };
    let filled = body.fill(&told, exchange);
    for name in OF_CONTENT {
        response.remove_header(name);
    }
    let length = filled.len().to_string();
    for (name, value) in
        [(header::CONTENT_TYPE, body.form().content_type()), (header::CONTENT_LENGTH, &length)]
    {
        response.insert_header(name, value).map_err(|_| Reason::Internal)?;
    }
    if page.depends() {
        vary::add(response, "accept")?;
    }
    Ok(Some(filled))
}

/// Whether there may be a page for it.
pub(crate) fn is_error(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// A date is not worked out.
fn seconds(value: Option<&HeaderValue>) -> u64 {
    value.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0)
}

impl Kind {
    fn parse(name: &str) -> Result<Kind, String> {
        if let Some(reason) = Reason::from_code(name) {
            return match reason {
                Reason::ClientClosed => {
                    Err(format!("`{name}` is answered to nobody: the client is gone (remove it)"))
                }
                reason => Ok(Kind::Reason(reason as u16)),
            };
        }
        match name {
            "4xx" => return Ok(Kind::Class(4)),
            "5xx" => return Ok(Kind::Class(5)),
            _ => {}
        }
        match name.parse::<u16>() {
            Ok(status @ 400..=599) => return Ok(Kind::Status(status)),
            Ok(_) => return Err(format!("{name} is no error (statuses from 400 to 599 have pages)")),
            Err(_) => {}
        }
        let known = Reason::ALL.into_iter().map(Reason::code).chain(["4xx", "5xx"]);
        match suggest(name, known) {
            Some(near) => {
                Err(format!("`{name}` is neither a reason, a status nor a class (did you mean `{near}`?)"))
            }
            None => {
                Err(format!("`{name}` is neither a reason, a status nor a class (try 404, 5xx or no_route)"))
            }
        }
    }
}

impl Page {
    fn build(
        page: &ErrorPage,
        kind: Kind,
        at: &Path,
        sources: &Sources,
        problems: &mut Vec<Problem>,
    ) -> Option<Page> {
        let ErrorPage { html, json, upstream } = page;
        if html.is_none() && json.is_none() && !sources.is_doubtful(at) {
            let hint =
                "add `html: \"<h1>{status} {title}</h1>\"`, or `${file:404.html}` for what a file holds";
            problems.push(sources.problem(at, "a page without a body").hint(hint));
            return None;
        }
        if *upstream && matches!(kind, Kind::Reason(_)) {
            let hint = "what an upstream answers has a status: say it of `404` or `5xx`";
            problems
                .push(sources.problem(&at.key("upstream"), "a reason is never the upstream's").hint(hint));
        }
        let mut body = |text: &Option<String>, key: &str, form| {
            let at = if sources.is_text(at) { at.clone() } else { at.key(key) };
            match Body::parse(text.as_deref()?, form) {
                Ok(body) => Some(body),
                // It may be what a file holds.
                Err(why) => {
                    problems.push(sources.problem_without_value(&at, why));
                    None
                }
            }
        };
        Some(Page {
            html: body(html, "html", Form::Html),
            json: body(json, "json", Form::Json),
            upstream: *upstream,
        })
    }

    /// What is sent depends on what the client says.
    fn depends(&self) -> bool {
        self.html.is_some() && self.json.is_some()
    }

    /// `None` where the short answer serves the client better.
    fn choose(&self, headers: &HeaderMap) -> Option<&Body> {
        let Wanted { html: wants_html, json: wants_json } = Wanted::of(headers);
        match (&self.html, &self.json) {
            (Some(html), Some(json)) => Some(if wants_json > wants_html { json } else { html }),
            (Some(html), None) => (wants_html > 0 && wants_html >= wants_json).then_some(html),
            (None, Some(json)) => (wants_json > 0).then_some(json),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_http::RequestHeader;

    use super::*;
    use crate::{config::parse, filter::Facts};

    fn build(yaml: &str) -> (Option<Arc<ErrorPages>>, Vec<String>) {
        let loaded = parse(&format!("error_pages: {yaml}"), "g.yaml").unwrap();
        let of_form: Vec<String> = loaded.problems().iter().map(ToString::to_string).collect();
        assert!(of_form.is_empty(), "{of_form:?}");
        let mut problems = Vec::new();
        let at = Path::root().key("error_pages");
        let pages = ErrorPages::build(&loaded.readable().error_pages, &at, &loaded.sources, &mut problems);
        (pages, problems.iter().map(ToString::to_string).collect())
    }

    /// The body of a refusal to a request with that `Accept`.
    fn refused(levels: &[&ErrorPages], reason: Reason, accept: Option<&str>) -> (String, String) {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        if let Some(accept) = accept {
            request.insert_header(header::ACCEPT, accept).unwrap();
        }
        let mut facts = Facts::default();
        let mut response = Response::refusal(reason, &request.headers);
        let exchange = Exchange::new(&mut request, &mut facts);
        dress(levels.iter().copied(), &exchange, &mut response);
        let field = |wanted| response.headers.iter().find(|(name, _)| *name == wanted);
        let content_type = field(header::CONTENT_TYPE).unwrap().1.to_str().unwrap().to_owned();
        (String::from_utf8(response.body.to_vec()).unwrap(), content_type)
    }

    #[test]
    fn the_nearest_level_and_then_the_nearest_name_has_the_page() {
        let top = build("{4xx: top-4xx, 404: top-404, no_route: top-no-route, 5xx: top-5xx}").0.unwrap();
        let route = build("{4xx: route-4xx}").0.unwrap();
        for (levels, reason, expected) in [
            (&[&*top][..], Reason::NoRoute, "top-no-route"),
            (&[&*top], Reason::Forbidden, "top-4xx"),
            (&[&*top], Reason::Overloaded, "top-5xx"),
            (&[&*route, &*top], Reason::NoRoute, "route-4xx"),
            (&[&*route, &*top], Reason::Overloaded, "top-5xx"),
            (&[&*route], Reason::Overloaded, "the gateway or an upstream has no room for more\n"),
        ] {
            let (body, _) = refused(levels, reason, None);
            match expected.ends_with('\n') {
                true => assert_eq!(body.as_bytes(), reason.body(false).1, "{reason:?}"),
                false => assert_eq!(body, expected, "{reason:?}"),
            }
        }
    }

    #[test]
    fn a_client_gets_the_form_that_it_asks_for() {
        let both = build(r#"{5xx: {html: "<p>", json: '{"s": {status}}'}}"#).0.unwrap();
        let html = build("{5xx: <p>}").0.unwrap();
        let json = build(r#"{5xx: {json: '{"s": {status}}'}}"#).0.unwrap();
        let browser = Some("text/html,application/xhtml+xml,*/*;q=0.8");
        for (pages, accept, expected) in [
            (&both, browser, "text/html; charset=utf-8"),
            (&both, Some("application/json"), "application/json"),
            (&both, Some("*/*"), "text/html; charset=utf-8"),
            (&both, None, "text/html; charset=utf-8"),
            (&html, browser, "text/html; charset=utf-8"),
            (&html, Some("application/json"), "application/problem+json"),
            (&html, Some("image/png"), "text/plain; charset=utf-8"),
            (&json, browser, "application/json"),
            (&json, Some("text/html"), "text/plain; charset=utf-8"),
        ] {
            assert_eq!(refused(&[pages], Reason::Overloaded, accept).1, expected, "{accept:?}");
        }
    }

    #[test]
    fn what_another_server_says_of_a_refusal_stays() {
        let pages = build("{4xx: page}").0.unwrap();
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts::default();
        let mut response = Response::refusal(Reason::Forbidden, &request.headers);
        response.body = "log in first".into();
        dress([&*pages].into_iter(), &Exchange::new(&mut request, &mut facts), &mut response);
        assert_eq!(response.body, "log in first");
    }

    #[test]
    fn an_upstreams_error_is_replaced_only_where_that_is_asked_for() {
        let pages = build("{5xx: {html: 'sorry {status}', upstream: true}, 502: ours, 404: ours}").0.unwrap();
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (status, expected) in
            [(500, Some("sorry 500")), (502, Some("sorry 502")), (404, None), (200, None)]
        {
            let mut facts = Facts::default();
            let mut response = ResponseHeader::build(status, None).unwrap();
            for (name, value) in [("etag", "\"1\""), ("content-encoding", "gzip"), ("set-cookie", "a=b")] {
                response.insert_header(name, value).unwrap();
            }
            let exchange = Exchange::new(&mut request, &mut facts);
            let body = instead([&*pages].into_iter(), &exchange, &mut response).unwrap();
            assert_eq!(body.as_deref(), expected.map(str::as_bytes), "{status}");
            assert_eq!(response.headers.contains_key("etag"), expected.is_none());
            assert_eq!(response.headers.contains_key("content-encoding"), expected.is_none());
            assert_eq!(response.headers["set-cookie"], "a=b");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_where_it_stands() {
        let (_, problems) = build(
            "{no_rout: x, 200: x, 404: {}, no_route: {html: x, upstream: true}, client_closed: x, 500: '{statu}', 501: {json: '<p>'}, \
             3xx: x}",
        );
        let expected = [
            "error_pages.200: 200 is no error",
            "error_pages.3xx: `3xx` is neither a reason, a status nor a class (did you mean `4xx`?)",
            "error_pages.404: a page without a body (add `html:",
            "error_pages.500: unknown placeholder `{statu}` (did you mean `{status}`?",
            "error_pages.501.json: is no JSON once it is filled in",
            "error_pages.client_closed: `client_closed` is answered to nobody",
            "error_pages.no_rout: `no_rout` is neither a reason, a status nor a class (did you mean `no_route`?)",
            "error_pages.no_route.upstream: a reason is never the upstream's",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.contains(expected), "{problem}\nand not\n{expected}");
        }
    }
}
