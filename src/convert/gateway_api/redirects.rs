//! RequestRedirect: the parts of a Location that it names, and those of the request or the listener in place of the others.

use super::{
    filters::{NewPath, Redirect},
    gateways::Port,
};
use crate::{
    config::PathMatch,
    convert::{
        draft::Map,
        fields::{Report, template},
        table::RouteDraft,
    },
};

/// What stands under `redirect` of this route.
pub(crate) fn written(
    redirect: &Redirect,
    draft: &RouteDraft<'_>,
    port: &Port<'_>,
    report: &mut Report,
) -> Map {
    let origin = origin(redirect, port);
    let (key, target) = match (&redirect.path, &draft.path) {
        (Some(NewPath::Full(path)), _) => ("to", format!("{origin}{}?{{query}}", template(path))),
        (Some(NewPath::Prefix(new)), PathMatch::Prefix(_)) => {
            ("replace_prefix", format!("{origin}{}", template(new)))
        }
        (Some(NewPath::Prefix(_)), _) => {
            let why = "replacePrefixMatch is for matches of the type PathPrefix: the path stays";
            report.entry("matches", draft.at, why);
            ("to", format!("{origin}{{uri}}"))
        }
        (None, _) => ("to", format!("{origin}{{uri}}")),
    };
    Map::new().with(key, target).with("status", redirect.status)
}

/// `scheme://host`, with the port where it must be said.
fn origin(redirect: &Redirect, port: &Port<'_>) -> String {
    let host = redirect.host.as_deref().map_or("{host}".to_owned(), template);
    let listens_on = if port.certificates.is_empty() { "http" } else { "https" };
    let scheme = redirect.scheme.as_deref().unwrap_or(listens_on);
    let well_known = if scheme == "https" { 443 } else { 80 };
    // With a scheme the port is that of the scheme; without, that of the listener.
    let by_default = if redirect.scheme.is_some() { well_known } else { port.number };
    let number = redirect.port.unwrap_or(by_default);
    let scheme = redirect.scheme.as_deref().unwrap_or("{scheme}");
    if number == well_known { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{number}") }
}
