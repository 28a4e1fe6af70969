//! Middlewares that let requests in, or not.

use super::{
    matching::is_network,
    middlewares::{Chain, remove_request},
};
use crate::{
    config::Foreign,
    convert::{
        draft::{List, Map},
        fields::{FRAMING, Fields, Report, literal},
    },
};

pub(crate) fn basic_auth(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let mut users = List::new();
    for user in fields.one_or_more("users") {
        let hash = user.text().and_then(|text| text.split_once(':'));
        match hash.filter(|(_, hash)| is_strong(hash)) {
            Some((name, hash)) => {
                users.push(Map::new().with("name", literal(name)).with("hash", literal(hash)))
            }
            None => {
                let name =
                    user.text().and_then(|text| text.split_once(':')).map_or("a user", |(name, _)| name);
                report.add(user, format!("users: {name}"), "only bcrypt and Argon2 are taken, not MD5, SHA-1 and crypt: make the hash anew with `tidegate hash-password`");
            }
        }
    }
    let file = fields.text("usersFile", report);
    let mut auth = Map::new();
    match (users.is_empty(), file) {
        (false, None) => auth.set("users", users),
        (true, Some(file)) => auth.set("file", literal(file)),
        (false, Some(_)) => {
            report.add(at, "usersFile", "users stand in the file or here: those of the file are not let in");
            auth.set("users", users);
        }
        (true, None) => {
            report.add(at, "basicAuth", "no user is left: the router answers 503");
            chain.refused = Some("nobody could log in".to_owned());
            return;
        }
    }
    if let Some(realm) = fields.text("realm", report).filter(|realm| realm.is_ascii()) {
        auth.set("realm", literal(realm));
    }
    if let Some(name) =
        fields.text("headerField", report).filter(|name| http::HeaderName::try_from(*name).is_ok())
    {
        auth.set("forward_user", literal(name));
    }
    // Traefik passes the credentials on unless it is told not to.
    if fields.flag("removeHeader", report) != Some(true) {
        auth.set("forward_credentials", true);
    }
    chain.filters.push(Map::new().with("basic_auth", auth));
}

/// bcrypt and Argon2, whole.
fn is_strong(hash: &str) -> bool {
    let is_of = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    let parts: Vec<&str> = hash.split('$').collect();
    match parts[..] {
        ["", "2a" | "2b" | "2y", cost, rest] => {
            cost.len() == 2
                && cost.parse::<u8>().is_ok_and(|cost| (4..=15).contains(&cost))
                && rest.len() == 53
                && is_of(rest, b"./")
        }
        ["", "argon2id" | "argon2i" | "argon2d", "v=19", parameters, salt, hash] => {
            is_of(parameters, b"=,") && is_of(salt, b"+/") && is_of(hash, b"+/")
        }
        _ => false,
    }
}

pub(crate) fn forward_auth(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let is_url = |url: &&str| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['#', '@', ' ', '{', '"', '<', '>']))
            && url.parse::<http::Uri>().is_ok_and(|url| url.host().is_some())
    };
    let Some(url) = fields.text("address", report).filter(is_url) else {
        report.add(at, "forwardAuth", "its address is no URL: the router answers 503");
        chain.refused = Some("there is nobody to ask".to_owned());
        return;
    };
    let mut auth = Map::new().with("url", literal(url));
    let names = |fields: &mut Fields<'_>, key: &str, report: &mut Report| {
        let is_name = |name: &&str| http::HeaderName::try_from(*name).is_ok();
        let mut names = List::new();
        for item in fields.one_or_more(key) {
            match item.text().filter(is_name) {
                Some(name) => names.push(name.to_ascii_lowercase()),
                None => report.add(item, key, "the name of a header is expected here"),
            }
        }
        names
    };
    let asked = names(fields, "authRequestHeaders", report);
    if asked.is_empty() {
        report.add(at, "authRequestHeaders", "Traefik shows the service all fields; here it sees authorization and cookie, unless `request_headers` names more");
    } else {
        auth.set("request_headers", asked);
    }
    if let Some(expression) = fields.take("authResponseHeadersRegex") {
        let why = "fields are named one by one, and what fits the expression could be forged by clients: the router answers 503";
        report.entry("authResponseHeadersRegex", expression, why);
        chain.refused = Some("fields by an expression".to_owned());
    }
    let given = names(fields, "authResponseHeaders", report);
    if !given.is_empty() {
        auth.set("response_headers", given);
    }
    if let Some(tls) = fields.take("tls") {
        let mut fields = Fields::secret("tls", tls, report);
        if let Some(ca) = fields.text("ca", report) {
            auth.set("ca", literal(ca));
        }
        fields.finish("the service's certificate is always verified, and none is shown to it", report);
    }
    // Traefik overwrites the field that tells who it is.
    if let Some(field) = fields.take("headerField") {
        let is_own = |name: &&str| {
            http::HeaderName::try_from(*name).is_ok()
                && !FRAMING.contains(&name.to_ascii_lowercase().as_str())
        };
        match field.text().filter(is_own) {
            Some(name) => {
                report.add(
                    field,
                    format!("headerField: {name}"),
                    "nobody tells it, so it is taken off what clients send",
                );
                remove_request(chain, name);
            }
            None => report.add(field, "headerField", "the name of a header is expected here"),
        }
    }
    fields.usual(
        "trustForwardHeader",
        false,
        "whose X-Forwarded-* are believed is said once, in `trusted_proxies`",
        report,
    );
    chain.filters.push(Map::new().with("ext_auth", auth));
}

pub(crate) fn ip_list(fields: &mut Fields<'_>, at: &Foreign, chain: &mut Chain, report: &mut Report) {
    let mut networks = List::new();
    for item in fields.list("sourceRange", report) {
        match item.text().filter(|network| is_network(network)) {
            Some(network) => networks.push(network),
            None => report.entry("sourceRange", item, "a network such as 10.0.0.0/8 is expected here"),
        }
    }
    if networks.is_empty() {
        report.entry("sourceRange", at, "no network is left: the router answers 503");
        chain.refused = Some("nobody would be let in".to_owned());
        return;
    }
    let mut rules = Map::new().with("allow", networks);
    match fields.take("ipStrategy") {
        None => rules.set("by", "peer"),
        Some(strategy) => report.entry(
            "ipStrategy",
            strategy,
            "whose X-Forwarded-For is believed is said once, in `trusted_proxies`",
        ),
    }
    chain.filters.push(Map::new().with("ip_rules", rules));
}

#[cfg(test)]
mod tests {
    use crate::convert::traefik::written;

    /// A router with this middleware.
    fn with(middleware: &str) -> String {
        written(&format!(
            "http:
  routers: {{r: {{rule: 'Host(`a`)', service: s, middlewares: m}}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}]}}}}}}
  middlewares: {{m: {middleware}}}
"
        ))
    }

    #[test]
    fn no_secret_of_a_middleware_is_in_the_report() {
        for middleware in [
            "{basicAuth: {users: ['joe:hush']}}",
            "{basicAuth: {users: 'joe:hush'}}",
            "{basicAuth: {users: {joe: hush}}}",
            "{basicAuth: 'joe:hush'}",
            "{basicAuth: {user: ['joe:hush']}}",
            "{digestAuth: {users: ['joe:realm:hush']}}",
            "{plugin: {key: {token: hush}}}",
            "{other: hush}",
            "{forwardAuth: {address: 'http://joe:hush@a'}}",
            "{forwardAuth: [hush]}",
        ] {
            let text = with(middleware);
            assert!(!text.contains("hush") && text.contains("status: 503"), "{middleware}\n{text}");
        }
        assert!(with("{basicAuth: {users: ['joe:hush']}}").contains("users: joe ("));
        for misplaced in ["middlewares: {m: {basicAuth: {users: ['joe:hush']}}}", "http: ['joe:hush']"] {
            let text = written(misplaced);
            assert!(!text.contains("hush") && text.contains("not carried over"), "{text}");
        }
    }

    #[test]
    fn a_middleware_that_says_nothing_closes_its_router() {
        for nothing in ["{}", "[]", "hush"] {
            let text = with(nothing);
            assert!(text.contains("says nothing") && text.contains("status: 503"), "{nothing}\n{text}");
            assert!(!text.contains("hush"), "{text}");
        }
        assert!(!with("{compress: }").contains("503"));
    }

    #[test]
    fn clients_cannot_forge_what_traefik_overwrote() {
        for (middleware, removed) in [
            ("{forwardAuth: {address: 'http://a', headerField: X-User}}", &["x-user"][..]),
            (
                "{passTLSClientCert: {pem: true}}",
                &["x-forwarded-tls-client-cert", "x-forwarded-tls-client-cert-info"],
            ),
            ("{headers: {customRequestHeaders: {X-Tenant: \"a\\nb\"}}}", &["x-tenant"]),
            ("{headers: {customRequestHeaders: {X-Tenant: [a]}}}", &["x-tenant"]),
        ] {
            let text = with(middleware);
            let file: serde_json::Value = serde_yaml::from_str(&text).unwrap();
            let filters = file["routes"][0]["filters"].as_array().unwrap();
            let of_filters: Vec<&str> = filters
                .iter()
                .filter_map(|filter| filter["headers"]["request"]["remove"][0].as_str())
                .collect();
            assert_eq!(of_filters, removed, "{text}");
            assert!(text.contains("what clients send"), "{text}");
        }
        let text = with("{forwardAuth: {address: 'http://a', authResponseHeadersRegex: '^X-'}}");
        assert!(text.contains("could be forged") && text.contains("status: 503"), "{text}");
        let text = with("{forwardAuth: {address: 'http://a', authResponseHeaders: X-User}}");
        assert!(text.contains("response_headers:") && text.contains("- x-user"), "{text}");
    }

    #[test]
    fn hosts_that_headers_allowed_are_not_joined_by_others() {
        let text = with("{headers: {allowedHosts: [a.example]}}");
        assert!(text.contains("no filter refuses other hosts") && text.contains("status: 503"), "{text}");
        assert!(!with("{headers: {allowedHosts: []}}").contains("503"));
    }
}
