//! Servers of a load balancer, and what is said of them beside their addresses: checks of their health, and cookies.

use super::units;
use crate::{
    config::Foreign,
    convert::{
        draft::{Map, Node},
        fields::{Fields, Report, literal},
    },
    route::{HostPattern, normalise},
};

/// A server, taken apart.
pub(crate) struct Server {
    pub scheme: String,
    /// As it stands in the URL.
    pub authority: String,
    pub endpoint: String,
    pub weight: Option<i64>,
}

pub(crate) fn host_of(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host)
}

pub(crate) fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    !host.starts_with('*')
        && HostPattern::parse(host).is_ok()
        && port.parse::<u16>().is_ok_and(|number| number > 0 && !port.starts_with('+'))
}

pub(crate) fn read_server(server: &Foreign, report: &mut Report) -> Option<Server> {
    let mut fields = Fields::of("servers", server, report);
    let url = fields.text("url", report);
    let weight = fields.number("weight", 0, 65_535, report);
    fields.finish("it has no equal here", report);
    let parsed = url.and_then(|url| url.split_once("://")).and_then(|(scheme, rest)| {
        let default = match scheme {
            "http" | "h2c" => 80,
            "https" => 443,
            _ => return None,
        };
        let (authority, path) =
            rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let endpoint = if has_port { authority.to_owned() } else { format!("{authority}:{default}") };
        is_endpoint(&endpoint).then(|| {
            (Server { scheme: scheme.to_owned(), authority: authority.to_owned(), endpoint, weight }, path)
        })
    });
    let Some((parsed, path)) = parsed else {
        report.entry("servers", server, "a URL such as http://10.0.0.1:8080 is expected here");
        return None;
    };
    if !path.is_empty() {
        report.entry(
            "servers",
            server,
            "an endpoint has no path (`rewrite` with add_prefix puts one in front)",
        );
    }
    Some(parsed)
}

/// A cookie that keeps clients at one endpoint: its name, and what else is said of it.
pub(crate) fn affinity(sticky: &Foreign, report: &mut Report) -> Option<Node> {
    let (name, mut fields) = sticky_cookie(sticky, report)?;
    let mut cookie = Map::new().with("name", name);
    if let Some(path) = fields.text("path", report).filter(|path| path.starts_with('/')) {
        cookie.set("path", literal(path));
    }
    if let Some(seconds) = fields.number("maxAge", 0, i64::from(i32::MAX), report).filter(|age| *age > 0) {
        cookie.set("max_age", format!("{seconds}s"));
    }
    if let Some(site) = fields.take("sameSite") {
        match site.text().map(str::to_ascii_lowercase).as_deref() {
            Some(site @ ("none" | "lax" | "strict")) => cookie.set("same_site", site),
            _ => report.entry("sameSite", site, "it is `lax` here"),
        }
    }
    if fields.flag("secure", report) == Some(true) {
        cookie.set("secure", true);
    }
    fields.usual("httpOnly", true, "scripts of a page do not see the cookie", report);
    fields.leave("domain", "the cookie is for the host that the client has asked for", report);
    fields.finish("it has no equal here", report);
    let is_named_alone = cookie.entries().count() == 1;
    Some(if is_named_alone { name.into() } else { cookie.into() })
}

/// The name of the cookie by which a split keeps clients.
pub(crate) fn split_cookie(sticky: &Foreign, report: &mut Report) -> Option<String> {
    let (name, fields) = sticky_cookie(sticky, report)?;
    let cookie = sticky.find("cookie").filter(|_| !fields.is_empty());
    if let Some(cookie) = cookie {
        report.entry("cookie", cookie, "of the cookie of a split nothing but its name is said");
    }
    Some(name.to_owned())
}

fn sticky_cookie<'f>(sticky: &'f Foreign, report: &mut Report) -> Option<(&'f str, Fields<'f>)> {
    let mut fields = Fields::of("sticky", sticky, report);
    let cookie = fields.take("cookie");
    fields.finish("it has no equal here", report);
    let cookie = cookie?;
    let mut fields = Fields::of("cookie", cookie, report);
    let name = fields.text("name", report).unwrap_or("_sticky");
    if http::HeaderName::try_from(name).is_err() {
        report.entry("cookie", cookie, "no cookie has such a name");
        return None;
    }
    Some((name, fields))
}

pub(crate) fn health_check(check: &Foreign, report: &mut Report) -> Option<Map> {
    let mut fields = Fields::of("healthCheck", check, report);
    let path = fields.text("path", report).unwrap_or("/");
    let mode = fields.text("mode", report).unwrap_or("http");
    let host = fields.text("hostname", report);
    let status = fields.number("status", 100, 599, report);
    let headers = fields.take("headers");
    let interval = units::duration(&mut fields, "interval", report);
    let timeout = units::duration(&mut fields, "timeout", report);
    fields.finish("it has no equal here", report);
    let mut written = Map::new();
    if mode == "grpc" {
        written.set("grpc", Map::new());
    } else {
        if !path.starts_with('/') || normalise(path.split('?').next().unwrap_or(path)).is_err() {
            report.entry("healthCheck", check, "its path is none");
            return None;
        }
        let expect = status.map_or("200-399".to_owned(), |status| status.to_string());
        let mut http = Map::new().with("path", literal(path)).with("expect", expect);
        if let Some(host) = host.filter(|host| HostPattern::parse(host).is_ok()) {
            http.set("host", literal(host));
        }
        for (name, value) in headers.map_or(&[][..], Foreign::entries) {
            match value.text().filter(|value| {
                http::HeaderName::try_from(name.as_str()).is_ok()
                    && http::HeaderValue::from_str(value).is_ok()
            }) {
                Some(value) => http.map("headers").set(name, literal(value)),
                None => report.entry(name, value, "no header of this form"),
            }
        }
        written.set("http", http);
    }
    for (key, duration, default) in [("interval", interval, "30s"), ("timeout", timeout, "5s")] {
        written.set(key, duration.filter(|duration| duration != "0s").unwrap_or_else(|| default.to_owned()));
    }
    // Traefik goes by the last check alone.
    written.set("unhealthy_after", 1_i64);
    written.set("healthy_after", 1_i64);
    Some(written)
}
