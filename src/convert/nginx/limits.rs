//! How much a client may send, and how much of it at once: `limit_req`, `limit_conn` and `client_max_body_size`.

use super::{
    parser::Directive,
    scope::Scope,
    units,
    values::{Piece, Purpose, Values, pieces},
    world::{World, filter, list},
};
use crate::convert::draft::{Map, Node};

/// nginx's own.
pub(super) const BODY: u64 = 1 << 20;

/// None for no limit.
pub(super) fn body(scope: &Scope<'_>, world: &mut World<'_>) -> Option<u64> {
    let Some(directive) = scope.one("client_max_body_size") else {
        return Some(BODY);
    };
    match units::bytes(directive.first()) {
        Some(0) => None,
        Some(bytes) => Some(bytes),
        None => {
            world.notes.leave(directive, "that is no size: it is 1 MiB, as if nothing were written");
            Some(BODY)
        }
    }
}

/// The names of the chains that count requests.
pub(super) fn chains(scope: &Scope<'_>, values: &Values, world: &mut World<'_>) -> Vec<String> {
    let status = scope.one("limit_req_status").map_or("503", Directive::first).to_owned();
    let mut names = Vec::new();
    for directive in scope.all("limit_req") {
        match limit(directive, values, world) {
            Ok((name, chain)) => {
                if status != "429" {
                    world.notes.differ(directive, "`limit_req` (what is too much is answered with 429 here, whatever `limit_req_status` says)");
                }
                world.chains.set(&name, chain);
                names.push(name);
            }
            Err(why) => world.notes.leave(directive, why),
        }
    }
    let status = scope.one("limit_conn_status").map_or("503", Directive::first).to_owned();
    for directive in scope.all("limit_conn") {
        match concurrency(directive, values, world) {
            Ok((name, chain)) => {
                if status != "429" {
                    world.notes.differ(directive, "`limit_conn` (what is too much is answered with 429 here, whatever `limit_conn_status` says)");
                }
                world.chains.set(&name, chain);
                names.push(name);
            }
            Err(why) => world.notes.leave(directive, why),
        }
    }
    names
}

/// nginx counts a connection while it has a request, and each request over HTTP/2: requests under way, as we do.
fn concurrency(
    directive: &Directive,
    values: &Values,
    world: &mut World<'_>,
) -> Result<(String, crate::convert::draft::List), String> {
    let zone = directive.first();
    let most = most(directive)?;
    let defined =
        world.connection_zones.get(zone).copied().ok_or_else(|| format!("there is no zone {zone:?}"))?.read();
    let (key, when) = match defined.first() {
        "$server_name" | "$host" | "$http_host" => {
            world
                .notes
                .differ(directive, "`limit_conn` by the name of the server (each host is counted alone)");
            ("{host}".into(), None)
        }
        text => key(&values.expanded(text), values)?,
    };
    let limit = Map::new().with("max", most).with("key", key).with("name", plain(zone));
    let mut limit = filter("concurrency_limit", limit);
    when.into_iter().for_each(|when| limit.set("when", when));
    Ok((format!("connections-{}-{most}", plain(zone)), [limit].into_iter().collect()))
}

fn most(directive: &Directive) -> Result<i64, String> {
    let most =
        directive.argument(1).parse::<i64>().ok().filter(|most| (1..=i64::from(u32::MAX)).contains(most));
    most.ok_or_else(|| "its limit is no number from 1".to_owned())
}

/// Of a listener for TCP, which counts the connections of an address alone.
pub(super) fn of_connections(scope: &Scope<'_>, world: &mut World<'_>) -> Option<i64> {
    let mut found = None;
    for directive in scope.all("limit_conn") {
        let zone = world.connection_zones.get(directive.first()).map(|zone| zone.read().first());
        match (zone, most(directive)) {
            (Some("$binary_remote_addr" | "$remote_addr"), Ok(most)) if found.is_none() => found = Some(most),
            (_, Err(why)) => world.notes.leave(directive, why),
            _ => world.notes.leave(
                directive,
                "a listener for TCP has one limit, of the connections of an address: `limits.connections_per_ip`",
            ),
        }
    }
    found
}

fn limit(
    directive: &Directive,
    values: &Values,
    world: &mut World<'_>,
) -> Result<(String, crate::convert::draft::List), String> {
    let option = |name: &str| directive.texts().find_map(|text| text.strip_prefix(name)?.strip_prefix('='));
    let zone = option("zone").ok_or("it names no zone")?;
    let burst = option("burst")
        .map_or(Some(0), |burst| burst.parse::<i64>().ok())
        .filter(|burst| (0..1_000_000).contains(burst))
        .ok_or("its burst is no number")?;
    let defined = world.zones.get(zone).copied().ok_or_else(|| format!("there is no zone {zone:?}"))?.read();
    let rate = defined.texts().find_map(|text| text.strip_prefix("rate=")).unwrap_or_default();
    let (number, unit) = rate
        .strip_suffix("r/s")
        .map(|number| (number, "s"))
        .or_else(|| rate.strip_suffix("r/m").map(|number| (number, "m")))
        .ok_or("its zone has no rate")?;
    let number = number
        .parse::<u32>()
        .ok()
        .filter(|number| (1..=1_000_000).contains(number))
        .ok_or("its zone has no rate")?;
    if burst > 0 && !directive.texts().any(|text| text == "nodelay") {
        world.notes.differ(
            directive,
            "`limit_req` without `nodelay` (requests within the burst are not delayed here)",
        );
    }
    let (key, when) = key(&values.expanded(defined.first()), values)?;
    let limit = Map::new()
        .with("rate", format!("{number}/{unit}"))
        .with("burst", burst + 1)
        .with("key", key)
        .with("headers", false);
    let mut limit = filter("rate_limit", limit.with("name", plain(zone)));
    when.into_iter().for_each(|when| limit.set("when", when));
    let name =
        if burst == 0 { format!("limit-{}", plain(zone)) } else { format!("limit-{}-{burst}", plain(zone)) };
    Ok((name, [limit].into_iter().collect()))
}

/// Who is counted; nginx does not count requests without a key.
fn key(text: &str, values: &Values) -> Result<(Node, Option<Map>), String> {
    let present = |field: &str| {
        Some(Map::new().with("headers", Map::new().with(field, Map::new().with("present", true))))
    };
    let parts = pieces(text);
    Ok(match parts.as_slice() {
        [Piece::Variable(name)] if matches!(name.as_str(), "binary_remote_addr" | "remote_addr") => {
            ("client_ip".into(), None)
        }
        [Piece::Variable(name)] if name.starts_with("http_") => {
            let header = name["http_".len()..].replace('_', "-");
            (Map::new().with("header", header.as_str()).into(), present(&header))
        }
        [Piece::Variable(name)] if name.starts_with("cookie_") => {
            let cookie = &name["cookie_".len()..];
            let holds =
                super::maps::holds(name, &super::maps::How::Regex { pattern: ".", is_caseless: false })?;
            (Map::new().with("cookie", cookie).into(), Some(holds))
        }
        parts
            if parts.len() > 1
                && parts.iter().any(|part| {
                    *part == Piece::Variable("binary_remote_addr".to_owned())
                        || *part == Piece::Variable("remote_addr".to_owned())
                }) =>
        {
            let others: String = parts
                .iter()
                .map(|part| match part {
                    Piece::Variable(name) if name.ends_with("remote_addr") => String::new(),
                    Piece::Variable(name) => format!("${{{name}}}"),
                    Piece::Text(text) => text.clone(),
                })
                .collect();
            let filled = values.filled(&others, Purpose::Url)?;
            if !filled.contains('{') {
                return Ok(("client_ip".into(), None));
            }
            let mut keys = list(["client_ip"]);
            keys.push(filled);
            (keys.into(), None)
        }
        _ => return Err("requests are counted by an address, a header or a cookie here".to_owned()),
    })
}

fn plain(zone: &str) -> String {
    zone.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn connections_are_limited_by_the_requests_under_way() {
        for (key, expected) in [
            ("$binary_remote_addr", "key: client_ip"),
            ("$server_name", "key: \"{host}\""),
            ("$http_x_key", "header: x-key"),
        ] {
            let (file, left) = converted(&format!(
                "limit_conn_zone {key} zone=addr:10m; limit_conn_status 429;
                server {{ listen 80; limit_conn addr 5;
                    location /a {{ proxy_pass http://10.0.0.1; }} location /b {{ proxy_pass http://10.0.0.1; }} }}"
            ));
            assert!(left.is_empty() && file.contains("max: 5") && file.contains(expected), "{file}{left}");
            // Both count together.
            assert_eq!(file.matches("- connections-addr-5").count(), 2, "{file}");
            assert_eq!(file.matches("concurrency_limit:").count(), 1, "{file}");
        }
        for (zone, limit, why) in [
            ("$binary_remote_addr zone=addr:10m", "other 5", "there is no zone"),
            ("$binary_remote_addr zone=addr:10m", "addr 0", "no number from 1"),
            ("$request_id zone=addr:10m", "addr 5", "counted by an address, a header or a cookie"),
        ] {
            let (_, left) = converted(&format!(
                "limit_conn_zone {zone}; server {{ listen 80; limit_conn {limit}; location / {{ proxy_pass http://10.0.0.1; }} }}"
            ));
            assert!(left.contains("not carried over: limit_conn") && left.contains(why), "{left}");
        }
    }

    #[test]
    fn a_stream_limits_the_connections_of_an_address() {
        let (file, left) = converted(
            "stream { limit_conn_zone $binary_remote_addr zone=addr:10m; limit_conn_zone $server_addr zone=all:1m;
                server { listen 5432; limit_conn addr 5; limit_conn all 9; proxy_pass 10.0.0.1:5432; } }",
        );
        assert!(file.contains("connections_per_ip: 5"), "{file}");
        assert!(left.contains("limit_conn all 9 (a listener for TCP") && !left.contains("addr 5"), "{left}");
    }
}
