//! RequestRedirect. Where a prefix is replaced, what stands behind it is captured by a template.

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

/// What ends the template of a prefix that is replaced.
const REST: &str = "/{*rest}";

pub(crate) fn drafts<'f>(
    redirect: &Redirect,
    draft: RouteDraft<'f>,
    port: &Port<'_>,
    report: &mut Report,
) -> Vec<RouteDraft<'f>> {
    let origin = origin(redirect, port);
    let to = |draft: &RouteDraft<'f>, path: &str| {
        let redirect =
            Map::new().with("to", format!("{origin}{path}?{{query}}")).with("status", redirect.status);
        let mut rest = draft.rest.clone();
        rest.set("redirect", redirect);
        rest
    };
    match (&redirect.path, &draft.path) {
        (Some(NewPath::Full(path)), _) => vec![RouteDraft { rest: to(&draft, &template(path)), ..draft }],
        (Some(NewPath::Prefix(new)), PathMatch::Prefix(old)) => {
            let pattern = format!("{}{REST}", old.trim_end_matches('/'));
            let below = format!("{}/{{path.rest}}", template(new.trim_end_matches('/')));
            let captured = RouteDraft {
                name: format!("{}/rest", draft.name),
                path: PathMatch::Template(pattern),
                rest: to(&draft, &below),
                ..draft.clone()
            };
            vec![RouteDraft { rest: to(&draft, &template(new)), ..draft }, captured]
        }
        (Some(NewPath::Prefix(_)), _) => {
            report.entry(
                "matches",
                draft.at,
                "replacePrefixMatch is for matches of the type PathPrefix: the path stays",
            );
            vec![RouteDraft { rest: to(&draft, "{path}"), ..draft }]
        }
        (None, _) => vec![RouteDraft { rest: to(&draft, "{path}"), ..draft }],
    }
}

/// `scheme://host`, with the port where it must be said.
fn origin(redirect: &Redirect, port: &Port<'_>) -> String {
    let host = redirect.host.as_deref().map_or("{host.name}".to_owned(), template);
    let listens_on = if port.certificates.is_empty() { "http" } else { "https" };
    let scheme = redirect.scheme.as_deref().unwrap_or(listens_on);
    let well_known = if scheme == "https" { 443 } else { 80 };
    // With a scheme the port is that of the scheme; without, that of the listener.
    let by_default = if redirect.scheme.is_some() { well_known } else { port.number };
    let number = redirect.port.unwrap_or(by_default);
    let scheme = redirect.scheme.as_deref().unwrap_or("{scheme}");
    if number == well_known { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{number}") }
}

/// Templates go before prefixes, however long these are: each longer prefix below one that is replaced is said as templates as well.
pub(crate) fn outrank(drafts: &mut Vec<RouteDraft<'_>>) {
    let replaced: Vec<(String, Vec<String>)> = drafts
        .iter()
        .filter_map(|draft| Some((replaced_prefix(draft)?.to_owned(), draft.hosts.clone())))
        .collect();
    let mut further = Vec::new();
    for draft in drafts.iter() {
        let PathMatch::Prefix(prefix) = &draft.path else { continue };
        let meets = |hosts: &[String]| {
            hosts.is_empty() && draft.hosts.is_empty() || hosts.iter().any(|host| draft.hosts.contains(host))
        };
        let is_below = |short: &str| {
            prefix.strip_prefix(short).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
        };
        if replaced.iter().any(|(short, hosts)| is_below(short) && meets(hosts)) {
            let paths = [
                PathMatch::Exact(prefix.clone()),
                PathMatch::Exact(format!("{prefix}/")),
                PathMatch::Template(format!("{prefix}{REST}")),
            ];
            for (number, path) in (1..).zip(paths) {
                let name = format!("{}/above{number}", draft.name);
                further.push(RouteDraft { name, path, what: String::new(), ..draft.clone() });
            }
        }
    }
    drafts.extend(further);
}

fn replaced_prefix<'d>(draft: &'d RouteDraft<'_>) -> Option<&'d str> {
    match &draft.path {
        PathMatch::Template(pattern) => pattern.strip_suffix(REST),
        _ => None,
    }
}
