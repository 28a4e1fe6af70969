//! What a rule matches.

use super::rules::Kind;
use crate::{
    config::{Foreign, PathMatch, ValueMatch},
    convert::fields::{Fields, Report},
};

#[derive(Clone, Debug)]
pub(crate) struct Match<'f> {
    pub path: PathMatch,
    pub methods: Vec<String>,
    pub headers: Vec<(String, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub at: &'f Foreign,
}

pub(crate) fn read_match<'f>(kind: Kind, at: &'f Foreign, report: &mut Report) -> Option<Match<'f>> {
    let mut fields = Fields::of("matches", at, report);
    let path = match kind {
        Kind::Http => {
            fields.take("path").map_or(Some(PathMatch::Prefix("/".into())), |path| http_path(path, report))?
        }
        Kind::Grpc => fields
            .take("method")
            .map_or(Some(PathMatch::Prefix("/".into())), |method| grpc_path(method, report))?,
    };
    let methods = match kind {
        Kind::Http => fields.text("method", report).map(ToOwned::to_owned).into_iter().collect(),
        Kind::Grpc => Vec::new(),
    };
    let headers = values("headers", fields.list("headers", report), true, report)?;
    let query = values("queryParams", fields.list("queryParams", report), false, report)?;
    // Without a condition more would match than should.
    let is_whole = fields.is_empty();
    fields.finish("it has no equal here: its rule's match is left out", report);
    is_whole.then_some(Match { path, methods, headers, query, at })
}

fn http_path(path: &Foreign, report: &mut Report) -> Option<PathMatch> {
    let value = path.find_text("value").unwrap_or("/");
    match path.find_text("type").unwrap_or("PathPrefix") {
        "Exact" => Some(PathMatch::Exact(value.to_owned())),
        "PathPrefix" => {
            // A slash at its end says nothing: `/a/` takes `/a` as well.
            let value = value.trim_end_matches('/');
            Some(PathMatch::Prefix(if value.is_empty() { "/" } else { value }.to_owned()))
        }
        "RegularExpression" => Some(PathMatch::Regex(whole(value))),
        _ => {
            report.entry("path", path, "Exact, PathPrefix or RegularExpression is expected here");
            None
        }
    }
}

/// A call's path is `/SERVICE/METHOD`.
fn grpc_path(method: &Foreign, report: &mut Report) -> Option<PathMatch> {
    let (service, name) = (method.find_text("service"), method.find_text("method"));
    let is_regex = match method.find_text("type").unwrap_or("Exact") {
        "Exact" => false,
        "RegularExpression" => true,
        _ => {
            report.entry("method", method, "Exact or RegularExpression is expected here");
            return None;
        }
    };
    Some(match (service, name, is_regex) {
        (None, None, _) => PathMatch::Prefix("/".into()),
        (Some(service), Some(name), false) => PathMatch::Exact(format!("/{service}/{name}")),
        (Some(service), None, false) => PathMatch::Prefix(format!("/{service}")),
        (None, Some(name), false) => PathMatch::Template(format!("/{{service}}/{name}")),
        (service, name, true) => {
            let part = |part: Option<&str>| part.map_or("[^/]+".to_owned(), |part| format!("(?:{part})"));
            PathMatch::Regex(format!("^/{}/{}$", part(service), part(name)))
        }
    })
}

/// Of several with one name the first counts, as the specification says.
fn values(
    name: &str,
    items: &[Foreign],
    is_header: bool,
    report: &mut Report,
) -> Option<Vec<(String, ValueMatch)>> {
    let mut read: Vec<(String, ValueMatch)> = Vec::new();
    for item in items {
        let (Some(key), Some(value)) = (item.find_text("name"), item.find_text("value")) else {
            report.entry(name, item, "it has no name or no value: its rule's match is left out");
            return None;
        };
        let key = if is_header { key.to_ascii_lowercase() } else { key.to_owned() };
        if read.iter().any(|(known, _)| *known == key) {
            report.entry(name, item, "the first of that name counts");
            continue;
        }
        match item.find_text("type").unwrap_or("Exact") {
            "Exact" => read.push((key, ValueMatch::Exact(value.to_owned()))),
            "RegularExpression" => read.push((key, ValueMatch::Regex(whole(value)))),
            _ => {
                report.entry(
                    name,
                    item,
                    "Exact or RegularExpression is expected here: its rule's match is left out",
                );
                return None;
            }
        }
    }
    Some(read)
}

/// An expression that must fit the whole value.
fn whole(regex: &str) -> String {
    format!("^(?:{regex})$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_path() {
        let path = |text: &str| {
            let method = crate::config::foreign(text, "a.yaml").unwrap().remove(0);
            grpc_path(&method, &mut Report::default())
        };
        assert_eq!(path("{service: a.B, method: C}"), Some(PathMatch::Exact("/a.B/C".into())));
        assert_eq!(path("{service: a.B}"), Some(PathMatch::Prefix("/a.B".into())));
        assert_eq!(path("{method: C}"), Some(PathMatch::Template("/{service}/C".into())));
        assert_eq!(
            path("{type: RegularExpression, service: a|b}"),
            Some(PathMatch::Regex("^/(?:a|b)/[^/]+$".into()))
        );
        assert_eq!(path("{type: Glob}"), None);
    }
}
