//! Middlewares that send clients elsewhere.

use super::middlewares::Chain;
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{Fields, Report},
    },
    route::HostPattern,
};

pub(crate) fn redirect_scheme(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let scheme = fields.text("scheme", report);
    let port = fields.number("port", 1, 65_535, report);
    let status = if fields.flag("permanent", report) == Some(true) { 308 } else { 307 };
    if scheme != Some("https") {
        report.entry("redirectScheme", at, "clients are redirected to https alone");
        return;
    }
    let mut options = Map::new().with("status", status);
    if let Some(port) = port.filter(|port| *port != 443) {
        options.set("port", port);
    }
    chain.filters.push(Map::new().with("https_redirect", options));
}

/// What is most often written: all of one host to another, with the path behind it.
pub(crate) fn redirect_regex(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let (pattern, replacement) = (
        fields.text("regex", report).unwrap_or_default(),
        fields.text("replacement", report).unwrap_or_default(),
    );
    let status = if fields.flag("permanent", report) == Some(true) { 308 } else { 307 };
    let Some((host, to)) = host_redirect(pattern, replacement) else {
        report.entry(
            "redirectRegex",
            at,
            "a redirect is made of a host and a path, not of an expression for the whole URL: see `redirect`",
        );
        return;
    };
    let to = Map::new().with("to", format!("{to}{{uri}}")).with("status", status);
    let redirect =
        Map::new().with("redirect", to).with("when", Map::new().with("hosts", List::from_iter([host])));
    chain.filters.push(redirect);
}

/// `^https?://www.example.com/(.*)` and `https://example.com/${1}` as a host and a URL without its path.
fn host_redirect(pattern: &str, replacement: &str) -> Option<(String, String)> {
    let rest = pattern.strip_prefix('^')?;
    let rest = ["https?://", "http://", "https://", "http[s]?://"]
        .into_iter()
        .find_map(|scheme| rest.strip_prefix(scheme))?;
    let (host, tail) = rest.split_once('/')?;
    matches!(tail.trim_end_matches('$'), "(.*)" | "(.+)").then_some(())?;
    let host = host.replace("\\.", ".");
    let to = replacement.strip_suffix("/${1}").or_else(|| replacement.strip_suffix("/$1"))?;
    let target = to.strip_prefix("https://").or_else(|| to.strip_prefix("http://"))?;
    let is_host = |name: &str| !name.starts_with('*') && HostPattern::parse(name).is_ok();
    let (name, port) = target.split_once(':').map_or((target, None), |(name, port)| (name, Some(port)));
    (is_host(&host) && is_host(name) && port.is_none_or(|port| port.parse::<u16>().is_ok()))
        .then(|| (host, to.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_of_whole_hosts_are_understood() {
        let table = [
            (
                "^https?://www\\.example\\.com/(.*)",
                "https://example.com/${1}",
                Some(("www.example.com", "https://example.com")),
            ),
            (
                "^http://localhost/(.*)",
                "http://mydomain:8080/$1",
                Some(("localhost", "http://mydomain:8080")),
            ),
            ("^https?://(www\\.)?a/(.*)", "https://b/${2}", None),
            ("(.*)", "https://b/${1}", None),
        ];
        for (pattern, replacement, expected) in table {
            let found = host_redirect(pattern, replacement);
            assert_eq!(found.as_ref().map(|(host, to)| (host.as_str(), to.as_str())), expected, "{pattern}");
        }
    }
}
