//! How an upstream is spoken to: timeouts, TLS, the version of HTTP, and what is tried again. nginx says so where it passes requests on.

use super::{parser::Directive, scope::Scope, units, world::World};
use crate::convert::draft::{List, Map};

/// How an upstream is spoken to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Manner {
    /// `connect_timeout` and the like, as they stand in the file.
    pub(super) options: Map,
    pub(super) is_tls: bool,
}

impl Manner {
    /// # Errors
    ///
    /// An upstream would not be trusted as it was, or not be shown what it was.
    pub(super) fn read(
        authority: &str,
        is_tls: bool,
        is_grpc: bool,
        scope: &Scope<'_>,
        world: &World<'_>,
    ) -> Result<Manner, String> {
        let family = if is_grpc { "grpc" } else { "proxy" };
        let mut options = Map::new();
        if is_grpc {
            options.set("protocol", "grpc");
        }
        for (ours, theirs, default) in [
            ("connect_timeout", "connect_timeout", Some("60s")),
            ("read_timeout", "read_timeout", None),
            ("write_timeout", "send_timeout", None),
        ] {
            let found = scope
                .one(&format!("{family}_{theirs}"))
                .and_then(|directive| units::duration(directive.first()));
            match found.filter(|time| time != "0s").or(default.map(str::to_owned)) {
                Some(time) if time == "60s" && ours != "connect_timeout" => {}
                Some(time) => options.set(ours, time),
                None => {}
            }
        }
        if is_tls {
            options.set("tls", tls(authority, scope, world)?);
        }
        Ok(Manner { options, is_tls })
    }
}

/// nginx verifies nobody unless it is told to.
pub(super) fn tls(authority: &str, scope: &Scope<'_>, world: &World<'_>) -> Result<Map, String> {
    let shown = shown(scope, world)?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let name = scope.one("proxy_ssl_name").map_or(host, Directive::first);
    let is_name = super::names::is_host(name) && name.parse::<std::net::Ipv4Addr>().is_err();
    let mut tls = Map::new();
    if scope.is_on("proxy_ssl_verify") {
        if !is_name {
            return Err(format!("an upstream is verified by a DNS name here, and {name:?} is none"));
        }
        let mut verify = Map::new().with("name", name);
        if let Some(ca) = scope.one("proxy_ssl_trusted_certificate") {
            if !world.file(ca.first()).is_file() {
                return Err(format!(
                    "{} cannot be read, so nobody can be verified by it",
                    world.file(ca.first()).display()
                ));
            }
            verify.set("ca", world.file_text(ca.first()));
        }
        tls.set("verify", verify);
    } else {
        tls.set("insecure_skip_verify", true);
        if is_name {
            tls.set("server_name", name);
        }
    }
    if let Some(shown) = shown {
        tls.set("client_cert", shown);
    }
    Ok(tls)
}

/// The certificate that an upstream is shown.
fn shown(scope: &Scope<'_>, world: &World<'_>) -> Result<Option<Map>, String> {
    let Some(cert) = scope.one("proxy_ssl_certificate").filter(|cert| !cert.first().is_empty()) else {
        return Ok(None);
    };
    let key = scope.one("proxy_ssl_certificate_key").ok_or("there is no `proxy_ssl_certificate_key`")?;
    let mut shown = Map::new();
    for (name, file) in [("cert", cert.first()), ("key", key.first())] {
        if !world.file(file).is_file() {
            return Err(format!(
                "{} cannot be read, so an upstream cannot be shown it",
                world.file(file).display()
            ));
        }
        shown.set(name, world.file_text(file));
    }
    Ok(Some(shown))
}

/// With one server there is nobody else to ask.
pub(super) fn retry(scope: &Scope<'_>, servers: usize, world: &mut World<'_>) -> Option<Map> {
    let tries = scope
        .one("proxy_next_upstream_tries")
        .and_then(|directive| directive.first().parse::<i64>().ok())
        .filter(|tries| *tries > 0);
    let next = scope.one("proxy_next_upstream");
    if servers < 2 && next.is_none_or(|next| next.first() != "off") {
        return None;
    }
    let (mut on, mut methods) = (vec!["connect_error", "refused_stream"], None);
    match next {
        None => on.extend(["reset", "timeout"]),
        Some(next) if next.first() == "off" => return Some(Map::new().with("on", List::from_iter(["none"]))),
        Some(next) => {
            for word in next.texts() {
                match word {
                    "error" | "invalid_header" => on.push("reset"),
                    "timeout" => on.push("timeout"),
                    "http_500" | "http_502" | "http_503" | "http_504" | "http_403" | "http_404"
                    | "http_429" => on.push(&word["http_".len()..]),
                    "non_idempotent" => {
                        methods = Some(List::from_iter([
                            "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH",
                        ]))
                    }
                    _ => world.notes.leave(next, format!("`{word}` is no reason to try again here")),
                }
            }
        }
    }
    let mut known = Vec::new();
    on.retain(|one| {
        !known.contains(one) && {
            known.push(*one);
            true
        }
    });
    let servers = i64::try_from(servers).unwrap_or(10);
    let mut retry =
        Map::new().with("attempts", tries.unwrap_or(servers).clamp(1, 10)).with("on", List::from_iter(on));
    methods.into_iter().for_each(|methods| retry.set("methods", methods));
    Some(retry)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::convert::nginx::convert;

    #[test]
    fn an_upstream_is_shown_the_certificate_that_it_was_shown() {
        let home = tempfile::tempdir().unwrap();
        for file in ["cert.pem", "key.pem"] {
            fs::write(home.path().join(file), "").unwrap();
        }
        let of = |cert: &str| {
            let text =
                format!("server {{ listen 80; location / {{ {cert} proxy_pass https://a.example; }} }}");
            let file = home.path().join("a.conf");
            fs::write(&file, text).unwrap();
            convert(&file, None).unwrap().file.to_string()
        };
        let file = of("proxy_ssl_certificate cert.pem; proxy_ssl_certificate_key key.pem;");
        assert!(
            file.contains("client_cert:") && file.contains("/cert.pem") && file.contains("/key.pem"),
            "{file}"
        );
        for cert in [
            "proxy_ssl_certificate cert.pem;",
            "proxy_ssl_certificate none.pem; proxy_ssl_certificate_key key.pem;",
        ] {
            let file = of(cert);
            assert!(!file.contains("upstream:") && file.contains("not carried over: proxy_pass"), "{file}");
        }
    }
}
