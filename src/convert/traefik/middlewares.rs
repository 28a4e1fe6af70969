//! Middlewares of Traefik as filters. One that may be there to refuse requests is never left out: where it has no equal, its routers answer 503.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    access::{basic_auth, forward_auth, ip_list},
    headers,
    redirects::{redirect_regex, redirect_scheme},
    services::local,
    units,
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report, literal, percent, template},
    },
    route::normalise_made,
};

/// Middlewares that a router may have, those of chains included.
const MOST: usize = 200;

/// What a router's middlewares come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    pub filters: List,
    pub retry: Option<Map>,
    pub breaker: Option<Map>,
    /// Why nothing may pass.
    pub refused: Option<String>,
    /// Whether one of them lets some requests in and others not: then no other router may get these.
    pub guards: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Middlewares<'f>(pub BTreeMap<&'f str, &'f Foreign>);

impl<'f> Middlewares<'f> {
    /// The chain of these names; `at` is where they stand.
    pub(crate) fn chain(&self, names: &[Foreign], report: &mut Report) -> Chain {
        let mut chain = Chain::default();
        let mut left = MOST;
        self.add(names, &mut BTreeSet::new(), &mut left, &mut chain, report);
        chain
    }

    fn add(
        &self,
        names: &[Foreign],
        open: &mut BTreeSet<String>,
        left: &mut usize,
        chain: &mut Chain,
        report: &mut Report,
    ) {
        for item in names {
            let found = item.text().and_then(local).and_then(|name| Some((name, *self.0.get(name)?)));
            let Some((name, middleware)) = found else {
                report.entry("middlewares", item, "there is no such middleware: the router answers 503");
                chain.refused = Some("a middleware is missing".to_owned());
                continue;
            };
            if *left == 0 || !open.insert(name.to_owned()) {
                report.entry(
                    "middlewares",
                    item,
                    "it is in itself, or there are too many: the router answers 503",
                );
                chain.refused = Some("a middleware is in itself".to_owned());
                continue;
            }
            *left -= 1;
            if middleware.entries().is_empty() {
                report.add(middleware, name, "it says nothing of what it does: the router answers 503");
                chain.refused = Some("a middleware says nothing".to_owned());
            }
            // Of those without options, `compress:` for one, the value is null.
            for (kind, value) in middleware.entries() {
                if kind == "chain" {
                    let mut fields = Fields::secret(kind, value, report);
                    let names = fields.one_or_more("middlewares");
                    fields.finish("it has no equal here", report);
                    self.add(names, open, left, chain, report);
                } else {
                    add_one(kind, value, chain, report);
                }
            }
            open.remove(name);
        }
    }
}

fn add_one(kind: &str, value: &Foreign, chain: &mut Chain, report: &mut Report) {
    chain.guards |= matches!(kind, "basicAuth" | "forwardAuth" | "ipAllowList" | "ipWhiteList");
    // What is known to be no secret is shown with its values.
    let mut fields = match kind {
        "addPrefix" | "stripPrefix" | "stripPrefixRegex" | "replacePath" | "replacePathRegex" | "headers"
        | "ipAllowList" | "ipWhiteList" | "rateLimit" | "redirectScheme" | "redirectRegex" | "retry"
        | "circuitBreaker" | "compress" | "buffering" | "grpcWeb" | "contentType" | "inFlightReq" => {
            Fields::of(kind, value, report)
        }
        _ => Fields::secret(kind, value, report),
    };
    match kind {
        "addPrefix" => {
            let prefix = fields
                .text("prefix", report)
                .filter(|prefix| prefix.starts_with('/') && normalise_made(prefix).is_ok());
            match prefix {
                Some(prefix) => rewrite(chain, Map::new().with("add_prefix", literal(prefix))),
                None => report.entry(kind, value, "its prefix is no path"),
            }
        }
        "stripPrefix" => {
            fields.usual("forceSlash", true, "a path always begins with a slash", report);
            strip_prefix(&fields.texts("prefixes", report), value, chain, report);
        }
        "stripPrefixRegex" => {
            for expression in fields.texts("regex", report) {
                let expression = expression.strip_prefix('^').unwrap_or(expression);
                replace(chain, &format!("^(?:{expression})/?"), "/", value, report);
            }
        }
        "replacePath" => match fields
            .text("path", report)
            .filter(|path| path.starts_with('/') && !path.contains(['?', '#']))
        {
            Some(path) => {
                set_request(chain, "x-replaced-path", "{path}");
                rewrite(chain, Map::new().with("path", template(path)));
            }
            None => report.entry(kind, value, "its path is none"),
        },
        "replacePathRegex" => {
            let (pattern, replacement) =
                (fields.text("regex", report), fields.text("replacement", report).unwrap_or_default());
            set_request(chain, "x-replaced-path", "{path}");
            replace(chain, pattern.unwrap_or_default(), replacement, value, report);
        }
        "headers" => {
            let hosts = fields.take("allowedHosts").filter(|hosts| !hosts.one_or_more().is_empty());
            if let Some(hosts) = hosts {
                let why = "no filter refuses other hosts, the router's rule says which it is for: the router answers 503";
                report.entry("allowedHosts", hosts, why);
                chain.refused = Some("only some hosts may be asked for".to_owned());
            }
            headers::add(&mut fields, value, &mut chain.filters, report);
        }
        "basicAuth" => basic_auth(&mut fields, value, chain, report),
        "forwardAuth" => forward_auth(&mut fields, value, chain, report),
        "ipAllowList" | "ipWhiteList" => ip_list(&mut fields, value, chain, report),
        "rateLimit" => rate_limit(&mut fields, value, chain, report),
        "redirectScheme" => redirect_scheme(&mut fields, value, chain, report),
        "redirectRegex" => redirect_regex(&mut fields, value, chain, report),
        "retry" => {
            let attempts = fields.number("attempts", 1, 1_000_000, report).unwrap_or(2);
            let mut retry = Map::new().with("attempts", attempts.clamp(1, 10));
            if attempts > 10 {
                report.add(value, format!("attempts: {attempts}"), "a request is tried at most ten times");
            }
            if let Some(base) =
                units::duration(&mut fields, "initialInterval", report).filter(|base| base != "0s")
            {
                let is_long = units::milliseconds(&base).is_some_and(|millis| millis > 1000);
                retry.map("backoff").set("base", base.as_str());
                if is_long {
                    retry.map("backoff").set("max", base);
                }
            }
            chain.retry = Some(retry);
        }
        "circuitBreaker" => {
            chain.breaker = circuit_breaker(&mut fields, value, report).or(chain.breaker.take())
        }
        "compress" => compress(&mut fields, chain, report),
        "buffering" => {
            if let Some(bytes) =
                fields.number("maxRequestBodyBytes", 0, i64::MAX, report).filter(|bytes| *bytes > 0)
            {
                chain.filters.push(Map::new().with("body_limit", format!("{bytes}B")));
            }
        }
        "grpcWeb" => {
            fields.leave("allowOrigins", "write a `cors` filter in front of `grpc_web`", report);
            chain.filters.push(Map::new().with("grpc_web", Map::new()));
        }
        "contentType" => {
            if fields.flag("autoDetect", report) != Some(false) {
                report.entry(kind, value, "nothing here guesses what an answer is");
            }
        }
        "errors" => report.entry(
            kind,
            value,
            "pages come from no service: `error_pages` with `upstream: true` puts a file in place of an upstream's errors",
        ),
        "inFlightReq" => in_flight(&mut fields, value, chain, report),
        "passTLSClientCert" => {
            report.entry(
                kind,
                value,
                "`forwarded.client_cert: write` tells upstreams in X-Forwarded-Client-Cert; Traefik's own fields are taken off what clients send",
            );
            for name in ["x-forwarded-tls-client-cert", "x-forwarded-tls-client-cert-info"] {
                remove_request(chain, name);
            }
        }
        _ => {
            let why = match kind {
                "digestAuth" => "no filter speaks digest authentication",
                "plugin" => "plugins of Traefik do not run here",
                _ => "an unknown middleware",
            };
            report.add(value, kind, format!("{why}: the router answers 503"));
            chain.refused = Some(why.to_owned());
            return;
        }
    }
    let is_whole = matches!(kind, "errors" | "passTLSClientCert" | "contentType");
    if !is_whole {
        fields.finish("it has no equal here", report);
    }
}

fn rewrite(chain: &mut Chain, options: Map) {
    chain.filters.push(Map::new().with("rewrite", options));
}

fn set_request(chain: &mut Chain, name: &str, value: &str) {
    let set = Map::new().with("set", Map::new().with(name, value));
    chain.filters.push(Map::new().with("headers", Map::new().with("request", set)));
}

/// Takes a field off that Traefik would have overwritten, and clients could forge.
pub(crate) fn remove_request(chain: &mut Chain, name: &str) {
    let remove = Map::new().with("remove", List::from_iter([name.to_ascii_lowercase()]));
    chain.filters.push(Map::new().with("headers", Map::new().with("request", remove)));
}

fn replace(chain: &mut Chain, pattern: &str, replacement: &str, at: &Foreign, report: &mut Report) {
    if regex::Regex::new(pattern).is_err() || pattern.is_empty() {
        report.entry("regex", at, "no expression that is understood here");
    } else if replacement.contains(['?', '#']) {
        report.entry("replacement", at, "a path holds no `?` or `#`");
    } else {
        rewrite(
            chain,
            Map::new().with(
                "regex",
                Map::new().with("pattern", literal(pattern)).with("replacement", literal(replacement)),
            ),
        );
    }
}

/// Upstreams are told the prefix in `X-Forwarded-Prefix`, as Traefik tells them.
fn strip_prefix(prefixes: &[&str], at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let good: Vec<&str> = prefixes
        .iter()
        .copied()
        .filter(|prefix| prefix.starts_with('/') && normalise_made(prefix).is_ok())
        .collect();
    if good.len() < prefixes.len() || prefixes.is_empty() {
        report.entry("prefixes", at, "a prefix is a path");
    }
    let good: Vec<&str> = good
        .into_iter()
        .map(|prefix| prefix.trim_end_matches('/'))
        .filter(|prefix| !prefix.is_empty())
        .collect();
    for prefix in &good {
        if prefix.contains(['{', '}', '?', '#', '*']) {
            continue;
        }
        let set = Map::new().with("set", Map::new().with("x-forwarded-prefix", literal(prefix)));
        let headers = Map::new().with("headers", Map::new().with("request", set));
        chain.filters.push(headers.with("when", Map::new().with("path", literal(prefix))));
    }
    match &good[..] {
        [] => {}
        [only] => rewrite(chain, Map::new().with("strip_prefix", literal(only))),
        several => {
            let all: Vec<String> = several.iter().map(|prefix| regex::escape(prefix)).collect();
            replace(chain, &format!("^(?:{})(?:/|$)", all.join("|")), "/", at, report);
        }
    }
}

fn rate_limit(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let average = fields.number("average", 0, 1_000_000_000, report).unwrap_or(0);
    let burst = fields.number("burst", 0, 1_000_000_000, report).unwrap_or(1).max(1);
    let period = fields
        .take("period")
        .map_or(Some(1000), |period| period.text().and_then(units::milliseconds))
        .filter(|period| *period > 0);
    let criterion = fields.take("sourceCriterion");
    if average == 0 {
        return;
    }
    let Some(rate) = period.and_then(|period| rate(average, period)) else {
        report.entry("rateLimit", at, "a rate is at most a million a second, and at least one an hour");
        return;
    };
    let mut limit = Map::new().with("rate", rate).with("burst", burst.min(1_000_000));
    if let Some(key) = criterion.and_then(|criterion| counted_by(criterion, report)) {
        limit.set("key", key);
    }
    limit.set("headers", false);
    chain.filters.push(Map::new().with("rate_limit", limit));
}

/// What is counted together; none for the client's address.
fn counted_by(criterion: &Foreign, report: &mut Report) -> Option<Node> {
    const ADDRESS: &str = "clients are counted by their address, as far as `trusted_proxies` tell it";
    let mut fields = Fields::of("sourceCriterion", criterion, report);
    let header = fields.text("requestHeaderName", report);
    let by_host = fields.flag("requestHost", report) == Some(true);
    fields.finish(ADDRESS, report);
    match header.map(|name| (name, http::HeaderName::try_from(name).is_ok())) {
        Some((name, true)) => Some(Map::new().with("header", name.to_ascii_lowercase()).into()),
        Some(_) => {
            report.entry("sourceCriterion", criterion, ADDRESS);
            None
        }
        None => by_host.then(|| "{host}".into()),
    }
}

/// Without a criterion, Traefik counts by the host that was asked for.
fn in_flight(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let most = fields.number("amount", 1, i64::from(u32::MAX), report);
    let criterion = fields.take("sourceCriterion");
    let Some(most) = most else {
        report.add(at, "inFlightReq", "no request is let in by it: the router answers 503");
        chain.refused = Some("none may be under way".to_owned());
        return;
    };
    let mut limit = Map::new().with("max", most);
    match criterion {
        None => limit.set("key", "{host}"),
        Some(criterion) => {
            if let Some(key) = counted_by(criterion, report) {
                limit.set("key", key);
            }
        }
    }
    chain.filters.push(Map::new().with("concurrency_limit", limit));
}

/// So many in so many milliseconds, in the finest unit in which that is a whole number.
fn rate(average: i64, period: u64) -> Option<String> {
    let scaled = |unit: u64| {
        let product = u64::try_from(average).ok()?.checked_mul(unit)?;
        (product.is_multiple_of(period) && product >= period).then(|| product / period)
    };
    let (rate, unit) = [(1000, "s"), (60_000, "m"), (3_600_000, "h")]
        .into_iter()
        .find_map(|(unit, name)| Some((scaled(unit)?, name)))?;
    let per_second = match unit {
        "s" => rate,
        "m" => rate / 60,
        _ => rate / 3600,
    };
    (per_second <= 1_000_000).then(|| format!("{rate}/{unit}"))
}

/// `NetworkErrorRatio() > 0.3`, `ResponseCodeRatio(500, 600, 0, 600) > 0.25`, or one of these or the other.
fn circuit_breaker(fields: &mut Fields<'_>, at: &Foreign, report: &mut Report) -> Option<Map> {
    let expression = fields.text("expression", report).unwrap_or_default();
    let open_for = units::duration(fields, "fallbackDuration", report).filter(|duration| duration != "0s");
    fields.leave("checkPeriod", "each result is judged as it comes", report);
    fields.leave("recoveryDuration", "`half_open_requests` go first, and then all", report);
    let mut ratio: f64 = 1.0;
    let mut failures: BTreeSet<&str> = BTreeSet::new();
    for term in expression.split("||") {
        let (call, share) = term.split_once('>').unwrap_or((term, ""));
        let kinds: &[&str] = match call.split_whitespace().collect::<String>().as_str() {
            "NetworkErrorRatio()" => &["connect_error", "timeout", "reset"],
            "ResponseCodeRatio(500,600,0,600)" => &["5xx"],
            _ => &[],
        };
        let share = share.trim().parse::<f64>().ok().filter(|share| *share >= 0.001 && *share <= 1.0);
        let Some(share) = share.filter(|_| !kinds.is_empty()) else {
            report.entry(
                "circuitBreaker",
                at,
                "a breaker opens by the share of network errors, or of answers of 500 to 599",
            );
            return None;
        };
        failures.extend(kinds);
        ratio = ratio.min(share);
    }
    let mut breaker = Map::new().with("failure_ratio", percent((ratio * 1000.0).round() as i64, 1000));
    breaker.set("open_for", open_for.unwrap_or_else(|| "10s".to_owned()));
    breaker.set("scope", "upstream");
    breaker.set("failures", failures.into_iter().collect::<List>());
    Some(breaker)
}

fn compress(fields: &mut Fields<'_>, chain: &mut Chain, report: &mut Report) {
    let mut options = Map::new();
    let is_type = |name: &&str| {
        let (one, other) = name.split_once('/').unwrap_or_default();
        let is_token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+.".contains(&byte))
        };
        is_token(one) && (is_token(other) || other == "*")
    };
    let types: List = fields
        .texts("includedContentTypes", report)
        .into_iter()
        .filter(is_type)
        .map(str::to_ascii_lowercase)
        .collect();
    if !types.is_empty() {
        options.set("types", types);
    }
    if let Some(bytes) = fields.number("minResponseBodyBytes", 0, i64::from(i32::MAX), report) {
        options.set("min_size", format!("{bytes}B"));
    }
    let known = |name: &&str| matches!(*name, "gzip" | "br" | "zstd");
    let encodings: BTreeSet<&str> = fields.texts("encodings", report).into_iter().filter(known).collect();
    if !encodings.is_empty() {
        options.set("algorithms", encodings.into_iter().collect::<List>());
    }
    chain.filters.push(Map::new().with("compression", options));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_in_the_finest_unit_that_fits() {
        for (average, period, expected) in [
            (100, 1000, Some("100/s")),
            (10, 60_000, Some("10/m")),
            (1, 5000, Some("12/m")),
            (60, 60_000, Some("1/s")),
            (1, 7_200_000, None),
            (1, 7000, None),
            (1_000_000_000, 1000, None),
        ] {
            assert_eq!(rate(average, period).as_deref(), expected, "{average} in {period}");
        }
    }
}
