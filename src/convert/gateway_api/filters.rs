//! Filters of a rule or of a backend, in our words. One that has no equal must not be passed over, as it may be there to refuse: the
//! specification has its requests answered with an error.

use super::{
    backends::{Backends, Use},
    objects::Object,
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map, Node},
        fields::{FRAMING, Fields, Report, is_origin, literal, percent, template},
    },
    route::{HostPattern, normalise_made},
};

/// What can be said of a rule's filters before it is known where its requests come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filters {
    pub chain: Vec<Step>,
    pub redirect: Option<Redirect>,
    pub mirrors: Vec<Map>,
    /// One of them has no equal.
    pub is_broken: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Ready(Map),
    Rewrite { host: Option<String>, path: Option<NewPath> },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NewPath {
    Full(String),
    /// In place of the prefix that matched.
    Prefix(String),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Redirect {
    pub scheme: Option<String>,
    pub host: Option<String>,
    pub port: Option<i64>,
    pub path: Option<NewPath>,
    pub status: i64,
}

/// As many as a route may have.
const MOST_MIRRORS: usize = 8;
/// What their requests are, where a filter has no equal.
const REFUSED: &str = "its requests are answered with 500";

pub(crate) fn read<'f>(
    filters: &'f [Foreign],
    kind: &str,
    route: &Object<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Filters {
    let mut read = Filters::default();
    for filter in filters {
        let mut fields = Fields::of("filters", filter, report);
        let of_type = fields.text("type", report).unwrap_or_default();
        let key = match of_type {
            "RequestHeaderModifier" => "requestHeaderModifier",
            "ResponseHeaderModifier" => "responseHeaderModifier",
            "RequestRedirect" => "requestRedirect",
            "URLRewrite" => "urlRewrite",
            "RequestMirror" => "requestMirror",
            "CORS" => "cors",
            _ => {
                report.entry("filters", filter, format!("a filter without an equal: {REFUSED}"));
                read.is_broken = true;
                continue;
            }
        };
        let Some(value) = fields.take(key) else {
            report.entry("filters", filter, format!("it has no `{key}`: {REFUSED}"));
            read.is_broken = true;
            continue;
        };
        match of_type {
            "RequestHeaderModifier" => read.chain.extend(headers("request", value, report)),
            "ResponseHeaderModifier" => read.chain.extend(headers("response", value, report)),
            "RequestRedirect" => read.redirect = Some(redirect(value, report)),
            "URLRewrite" => read.chain.extend(rewrite(value, report)),
            "RequestMirror" => {
                let mirror = mirror(value, kind, route, backends, report);
                let is_double = |own: &Map| {
                    read.mirrors.iter().any(|other| other.find("upstream") == own.find("upstream"))
                };
                match mirror {
                    None => {}
                    Some(own) if is_double(&own) => {
                        report.entry("filters", filter, "mirrors of a route have different targets");
                    }
                    Some(_) if read.mirrors.len() == MOST_MIRRORS => {
                        report.entry(
                            "filters",
                            filter,
                            format!("a route has at most {MOST_MIRRORS} mirrors"),
                        );
                    }
                    Some(own) => read.mirrors.push(own),
                }
            }
            _ => read.chain.extend(cors(value, report)),
        }
        fields.finish("a filter has one kind of options", report);
    }
    if read.redirect.is_some() {
        read.mirrors.clear();
    }
    read
}

fn headers(side: &str, value: &Foreign, report: &mut Report) -> Option<Step> {
    let mut fields = Fields::of(side, value, report);
    let mut edits = Map::new();
    let removed: Vec<&str> =
        fields.texts("remove", report).into_iter().filter(|name| can_edit(name, value, report)).collect();
    if !removed.is_empty() {
        edits.set("remove", List::from_iter(removed));
    }
    for key in ["set", "add"] {
        for header in fields.list(key, report) {
            let mut header_fields = Fields::of(key, header, report);
            let (name, text) = (header_fields.text("name", report), header_fields.text("value", report));
            header_fields.finish("a header has a name and a value", report);
            let Some((name, text)) = name.zip(text).filter(|(name, _)| can_edit(name, header, report)) else {
                continue;
            };
            if http::HeaderValue::from_str(text).is_err() {
                report.entry(key, header, "no header has such a value");
                continue;
            }
            let name = name.to_ascii_lowercase();
            match edits.map(key).find(&name) {
                // Several fields of one name: ours adds one.
                Some(Node::Text(before)) if key == "add" => {
                    let both = format!("{before}, {}", template(text));
                    edits.map(key).set(&name, both);
                }
                Some(_) => report.entry(key, header, "the first of that name counts"),
                None => edits.map(key).set(&name, template(text)),
            }
        }
    }
    fields.finish("it has no equal here", report);
    (!edits.is_empty()).then(|| Step::Ready(Map::new().with("headers", Map::new().with(side, edits))))
}

fn can_edit(name: &str, at: &Foreign, report: &mut Report) -> bool {
    let why = match name.to_ascii_lowercase() {
        name if FRAMING.contains(&name.as_str()) => "it says how a message is framed",
        name if http::HeaderName::try_from(name.as_str()).is_err() => "no header has such a name",
        _ => return true,
    };
    report.add(at, name, why);
    false
}

fn new_path(value: &Foreign, report: &mut Report) -> Option<NewPath> {
    let mut fields = Fields::of("path", value, report);
    let of_type = fields.text("type", report);
    let (full, prefix) = (fields.text("replaceFullPath", report), fields.text("replacePrefixMatch", report));
    fields.finish("a path has no such field", report);
    let written = full.or(prefix).unwrap_or_default();
    let path = if written.starts_with('/') { written.to_owned() } else { format!("/{written}") };
    if written.contains(['?', '#']) || normalise_made(&path).is_err() {
        report.entry("path", value, "no path has this form");
        return None;
    }
    match (of_type, full, prefix) {
        (Some("ReplaceFullPath"), Some(_), None) => Some(NewPath::Full(path)),
        (Some("ReplacePrefixMatch"), None, Some(_)) => Some(NewPath::Prefix(path)),
        _ => {
            report.entry("path", value, "one of replaceFullPath and replacePrefixMatch, as `type` says");
            None
        }
    }
}

fn hostname(fields: &mut Fields<'_>, report: &mut Report) -> Option<String> {
    let value = fields.take("hostname")?;
    let name = value.text().filter(|name| !name.starts_with('*') && HostPattern::parse(name).is_ok());
    if name.is_none() {
        report.entry("hostname", value, "no host has such a name");
    }
    name.map(ToOwned::to_owned)
}

fn redirect(value: &Foreign, report: &mut Report) -> Redirect {
    let mut fields = Fields::of("requestRedirect", value, report);
    let scheme = fields.take("scheme");
    if let Some(scheme) = scheme.filter(|scheme| !matches!(scheme.text(), Some("http" | "https"))) {
        report.entry("scheme", scheme, "http or https is expected here");
    }
    let scheme = scheme
        .and_then(Foreign::text)
        .filter(|scheme| matches!(*scheme, "http" | "https"))
        .map(ToOwned::to_owned);
    let host = hostname(&mut fields, report);
    let port = fields.number("port", 1, 65_535, report);
    let path = fields.take("path").and_then(|path| new_path(path, report));
    let status = fields.number("statusCode", 300, 399, report).unwrap_or(302);
    let status = if matches!(status, 301 | 302 | 303 | 307 | 308) {
        status
    } else {
        report.add(
            value,
            format!("statusCode: {status}"),
            "302 instead: a redirect is 301, 302, 303, 307 or 308",
        );
        302
    };
    fields.finish("it has no equal here", report);
    Redirect { scheme, host, port, path, status }
}

fn rewrite(value: &Foreign, report: &mut Report) -> Option<Step> {
    let mut fields = Fields::of("urlRewrite", value, report);
    let host = hostname(&mut fields, report);
    let path = fields.take("path").and_then(|path| new_path(path, report));
    fields.finish("it has no equal here", report);
    (host.is_some() || path.is_some()).then_some(Step::Rewrite { host, path })
}

fn mirror<'f>(
    value: &'f Foreign,
    kind: &str,
    route: &Object<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Option<Map> {
    let mut fields = Fields::of("requestMirror", value, report);
    let reference = fields.take("backendRef");
    let whole_percent = fields.number("percent", 0, 100, report);
    let fraction = fields.take("fraction");
    fields.finish("it has no equal here", report);
    let service =
        backends.resolve(kind, route, reference.unwrap_or(value), "nothing is copied", report).service?;
    let use_ = if kind == "GRPCRoute" { Use::Grpc } else { Use::Http };
    let ratio = match (whole_percent, fraction) {
        (Some(own), _) => Some(format!("{own}%")),
        (None, Some(fraction)) => {
            let part = |name: &str| fraction.find_text(name).and_then(|text| text.parse::<u32>().ok());
            let (numerator, denominator) =
                (part("numerator").unwrap_or(0), part("denominator").unwrap_or(100).max(1));
            Some(percent(i64::from(numerator.min(denominator)), i64::from(denominator)))
        }
        (None, None) => None,
    };
    if matches!(ratio.as_deref(), Some("0%")) {
        return None;
    }
    let mut mirror = Map::new().with("upstream", backends.upstream(&service, use_, None));
    if let Some(ratio) = ratio.filter(|ratio| ratio != "100%") {
        mirror.set("ratio", ratio);
    }
    Some(mirror)
}

fn cors(value: &Foreign, report: &mut Report) -> Option<Step> {
    let mut fields = Fields::of("cors", value, report);
    let credentials = fields.flag("allowCredentials", report).unwrap_or(false);
    let mut cors = Map::new();
    for (theirs, ours) in [
        ("allowOrigins", "origins"),
        ("allowMethods", "methods"),
        ("allowHeaders", "headers"),
        ("exposeHeaders", "expose"),
    ] {
        let all = fields.take(theirs);
        let mut texts: Vec<&str> =
            all.map_or(&[][..], Foreign::items).iter().filter_map(Foreign::text).collect();
        if texts.contains(&"*") {
            texts = vec!["*"];
        }
        let Some(all) = all.filter(|_| !texts.is_empty()) else { continue };
        // Methods and headers are those that a preflight asks for.
        if credentials && texts == ["*"] && matches!(ours, "origins" | "expose") {
            report.entry(theirs, all, "with credentials every name must be written out");
            // Without origins the filter says nothing to any page, which is what browsers take for a no.
            if ours == "origins" {
                return None;
            }
            continue;
        }
        let fits = |text: &&str| {
            let fits = match ours {
                "origins" => is_origin(text, credentials),
                "methods" => http::Method::try_from(*text).is_ok(),
                _ => http::HeaderName::try_from(*text).is_ok(),
            };
            if !fits {
                report.entry(
                    theirs,
                    all,
                    format!(
                        "{text:?} is none here; of an origin's host the first label may be `*`, and all of it, but with credentials not where anybody can have a name"
                    ),
                );
            }
            fits
        };
        let kept: Vec<String> = texts.into_iter().filter(fits).map(literal).collect();
        if !kept.is_empty() {
            cors.set(ours, kept.into_iter().collect::<List>());
        }
    }
    let seconds = fields.number("maxAge", 0, 86_400 * 365, report);
    fields.finish("it has no equal here", report);
    cors.find("origins")?;
    if credentials {
        cors.set("credentials", true);
    }
    if let Some(seconds) = seconds {
        cors.set("max_age", format!("{seconds}s"));
    }
    Some(Step::Ready(Map::new().with("cors", cors)))
}
