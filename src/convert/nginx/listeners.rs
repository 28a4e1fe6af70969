//! One address: TLS, the PROXY header, and the limits of connections. nginx has these for each server, a listener once.

use super::{names::Listen, parser::Directive, scope::Scope, units, world::World};
use crate::convert::draft::{List, Map, Node};

pub(super) struct Port {
    pub(super) address: String,
    pub(super) number: Option<u16>,
    pub(super) is_tls: bool,
    /// The server that takes the hosts which no other has, by its place in the file.
    pub(super) default: usize,
    pub(super) listener: Map,
    /// Servers whose clients must show certificates that the listener does not ask for.
    pub(super) unasked: Vec<usize>,
}

/// None where it would not be what it was: without its certificate, or open to whom it was closed.
pub(super) fn port<'f>(
    address: &str,
    there: &[(usize, &Listen<'f>, &Scope<'f>)],
    world: &mut World<'f>,
) -> Option<Port> {
    let (default, listen, scope) =
        there.iter().find(|(_, listen, _)| listen.is_default).or(there.first()).copied()?;
    let mut listener = Map::new().with("address", address);
    let is_tls = there.iter().any(|(_, listen, _)| listen.is_tls);
    if there.iter().any(|(_, listen, _)| listen.has_proxy_protocol) {
        if trusted(scope).is_empty() {
            leave(
                listen,
                "a PROXY header is taken from `trusted_proxies` only, and no `set_real_ip_from` says whose they are: there is no such listener",
                world,
            );
            return None;
        }
        listener.set("proxy_protocol", "accept");
    }
    if is_tls {
        let scopes: Vec<&Scope<'f>> =
            std::iter::once(scope).chain(there.iter().map(|(_, _, scope)| *scope)).collect();
        match tls(&scopes, world) {
            Ok(tls) => listener.set("tls", tls),
            Err((directive, why)) => {
                match directive {
                    Some(directive) => {
                        world.notes.leave(directive, format!("{why}: there is no such listener"))
                    }
                    None => leave(listen, &format!("{why}: there is no such listener"), world),
                }
                return None;
            }
        }
    }
    let mut unasked = Vec::new();
    for (index, _, other) in there.iter().filter(|_| is_tls) {
        if let Some(verify) = asks_more(scope, other) {
            world.notes.leave(
                verify,
                format!("a listener asks all its clients the same, as its first server does: until that is solved the routes of this one answer 403 at {address}"),
            );
            unasked.push(*index);
        }
    }
    limits(&mut listener, scope, there, world);
    Some(Port { address: address.to_owned(), number: listen.port, is_tls, default, listener, unasked })
}

fn leave(listen: &Listen<'_>, why: &str, world: &mut World<'_>) {
    if let Some(directive) = listen.directive {
        world.notes.leave(directive, why);
    }
}

/// Whose `X-Forwarded-For` or PROXY header is believed.
pub(super) fn trusted<'f>(scope: &Scope<'f>) -> Vec<&'f Directive> {
    scope.all("set_real_ip_from")
}

type Missing<'f> = (Option<&'f Directive>, String);

/// The scopes of all servers of the address, the default one first: its certificate is for clients that name nobody.
fn tls<'f>(scopes: &[&Scope<'f>], world: &mut World<'f>) -> Result<Map, Missing<'f>> {
    let mut certificates: Vec<Map> = Vec::new();
    for scope in scopes {
        for (cert, key) in scope.all("ssl_certificate").into_iter().zip(scope.all("ssl_certificate_key")) {
            for (directive, mark) in [(cert, "CERTIFICATE-----"), (key, "PRIVATE KEY-----")] {
                match world.read_file(directive.first()) {
                    Ok(text) if text.contains(mark) => {}
                    Ok(_) => {
                        return Err((
                            Some(directive),
                            format!("{} is no PEM file", world.file(directive.first()).display()),
                        ));
                    }
                    Err(why) => return Err((Some(directive), why)),
                }
            }
            let pair = Map::new()
                .with("cert", world.file_text(cert.first()))
                .with("key", world.file_text(key.first()));
            if !certificates.contains(&pair) {
                certificates.push(pair);
            }
        }
    }
    if certificates.is_empty() {
        return Err((None, "no server here has an `ssl_certificate` with its key".to_owned()));
    }
    let mut tls = Map::new().with("certificates", List::from_iter(certificates));
    let scope = scopes[0];
    if let Some(auth) = client_auth(scope, world)? {
        tls.set("client_auth", auth);
    }
    for other in &scopes[1..] {
        // Of one that asks for more, more is said.
        let all = ["ssl_protocols", "ssl_verify_client", "ssl_client_certificate", "ssl_crl"];
        for name in all.into_iter().take(if asks_more(scope, other).is_some() { 1 } else { all.len() }) {
            if let Some(directive) = other
                .one(name)
                .filter(|one| scope.one(name).is_none_or(|first| first.texts().ne(one.texts())))
            {
                world.notes.leave(
                    directive,
                    "a listener asks all its clients the same: that of its first server holds",
                );
            }
        }
    }
    if let Some(protocols) = scope.one("ssl_protocols") {
        let has = |version: &str| protocols.texts().any(|text| text == version);
        if has("TLSv1.3") && !has("TLSv1.2") {
            tls.set("min_version", "1.3");
        }
        if has("TLSv1") || has("TLSv1.1") {
            world.notes.differ(protocols, "`ssl_protocols` (TLS before 1.2 is not spoken here)");
        }
        if has("TLSv1.2") && !has("TLSv1.3") {
            tls.set("max_version", "1.2");
        }
    }
    Ok(tls)
}

/// What a server demands of its clients' certificates, where the listener's first server does not demand the same.
fn asks_more<'f>(first: &Scope<'f>, other: &Scope<'f>) -> Option<&'f Directive> {
    let is_required =
        |scope: &Scope<'f>| scope.one("ssl_verify_client").is_some_and(|verify| verify.first() == "on");
    let file = |scope: &Scope<'f>, name: &str| scope.one(name).map(|one| one.first());
    let is_same = |name: &str| file(first, name) == file(other, name);
    let is_asked = is_required(first)
        && is_same("ssl_client_certificate")
        && (file(other, "ssl_crl").is_none() || is_same("ssl_crl"));
    other.one("ssl_verify_client").filter(|_| is_required(other) && !is_asked)
}

fn client_auth<'f>(scope: &Scope<'f>, world: &mut World<'f>) -> Result<Option<Map>, Missing<'f>> {
    let Some(verify) = scope.one("ssl_verify_client").filter(|verify| verify.first() != "off") else {
        return Ok(None);
    };
    let mode = match verify.first() {
        "on" => "require",
        "optional" => "request",
        _ => return Err((Some(verify), "certificates that nobody has verified are not taken".to_owned())),
    };
    let ca = scope
        .one("ssl_client_certificate")
        .ok_or((Some(verify), "there is no `ssl_client_certificate`".to_owned()))?;
    let readable = |directive: &'f Directive, world: &World<'f>| match world.file(directive.first()).is_file()
    {
        true => Ok(Node::from(world.file_text(directive.first()))),
        false => {
            Err((Some(directive), format!("{} cannot be read here", world.file(directive.first()).display())))
        }
    };
    let mut auth = Map::new().with("mode", mode).with("trust", Map::new().with("ca", readable(ca, world)?));
    if let Some(crl) = scope.one("ssl_crl") {
        auth.set("crl", readable(crl, world)?);
    }
    if mode == "require" {
        world.notes.differ(verify, "`ssl_verify_client on` (who has no certificate is turned away in the handshake here, and not with 400)");
    }
    Ok(Some(auth))
}

fn limits<'f>(
    listener: &mut Map,
    scope: &Scope<'f>,
    there: &[(usize, &Listen<'f>, &Scope<'f>)],
    world: &mut World<'f>,
) {
    const TIMES: [(&str, &str); 4] = [
        ("client_header_timeout", "header_timeout"),
        ("client_body_timeout", "body_timeout"),
        ("send_timeout", "write_timeout"),
        ("keepalive_timeout", "idle_timeout"),
    ];
    let mut limits = Map::new();
    for (theirs, ours) in TIMES {
        if let Some(directive) = of_all(theirs, scope, there, world) {
            if theirs == "keepalive_timeout" && directive.arguments.len() > 1 {
                world.notes.leave_in_part(
                    directive,
                    "its second time: clients are not told in a `Keep-Alive` field how long a connection stays open",
                );
            }
            match units::duration(directive.first()).filter(|time| time != "0s") {
                Some(time) => limits.set(ours, time),
                None => world.notes.leave(directive, "a timeout is a time above 0 here"),
            }
        }
    }
    for (theirs, ours) in [
        ("keepalive_requests", "requests_per_connection"),
        ("http2_max_concurrent_streams", "streams_per_connection"),
    ] {
        if let Some(directive) = of_all(theirs, scope, there, world) {
            match directive.first().parse::<i64>().ok().filter(|number| (1..=1_000_000_000).contains(number))
            {
                Some(number) => limits.set(ours, number),
                None => world.notes.leave(directive, "that is no number of requests"),
            }
        }
    }
    if let Some(directive) = of_all("large_client_header_buffers", scope, there, world) {
        let all = directive
            .first()
            .parse::<u64>()
            .ok()
            .zip(units::bytes(directive.argument(1)))
            .and_then(|(number, each)| number.checked_mul(each));
        match all.filter(|all| (1 << 10..1 << 20).contains(all)) {
            Some(all) => limits.set("header_size", units::size(all)),
            None => world.notes.leave(directive, "a request's header has 1 KiB to just under 1 MiB here"),
        }
    }
    if !limits.is_empty() {
        listener.set("limits", limits);
    }
}

/// What the first server says for all; where another says otherwise, that is left.
fn of_all<'f>(
    name: &str,
    scope: &Scope<'f>,
    there: &[(usize, &Listen<'f>, &Scope<'f>)],
    world: &mut World<'f>,
) -> Option<&'f Directive> {
    let found = scope.one(name);
    for (_, _, other) in there {
        if let Some(directive) =
            other.one(name).filter(|one| found.is_none_or(|found| found.texts().ne(one.texts())))
        {
            world
                .notes
                .leave(directive, "a listener has one for all its servers: that of its first server holds");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::convert::nginx::convert;

    /// Of two servers at one address, and the second at a plain one as well.
    fn of_two(first: &str, second: &str) -> (String, String) {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("pem"), "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n")
            .unwrap();
        fs::copy(home.path().join("pem"), home.path().join("other")).unwrap();
        let text = format!(
            "ssl_certificate pem; ssl_certificate_key pem;
            server {{ listen 443 ssl; server_name a.example.com; {first} location / {{ proxy_pass http://10.0.0.1; }} }}
            server {{ listen 443 ssl; listen 80; server_name b.example.com; {second} location / {{ proxy_pass http://10.0.0.2; }} }}"
        );
        let file = home.path().join("a.conf");
        fs::write(&file, text).unwrap();
        let found = convert(&file, None).unwrap();
        let left = found.left.iter().map(ToString::to_string).collect::<Vec<_>>();
        (found.file.to_string(), left.join("\n"))
    }

    #[test]
    fn each_limit_of_connections_is_the_listener_s_or_named() {
        let (file, left) = crate::convert::nginx::converted(
            "keepalive_timeout 75s 20s; keepalive_requests 7; http2_max_concurrent_streams 9;
            server { listen 80; return 204; }",
        );
        for limit in ["idle_timeout: 75s", "requests_per_connection: 7", "streams_per_connection: 9"] {
            assert!(file.contains(limit), "{file}");
        }
        assert!(
            left.starts_with("a.conf:1: not carried over: keepalive_timeout 75s 20s (its second time"),
            "{left}"
        );
        assert!(file.contains(&format!("# {left}")), "{file}");
    }

    #[test]
    fn a_server_that_demands_certificates_which_its_listener_does_not_is_closed_there() {
        const ON: &str = "ssl_verify_client on; ssl_client_certificate pem;";
        for (first, second) in [
            ("", ON),
            ("ssl_verify_client optional; ssl_client_certificate pem;", ON),
            (ON, "ssl_verify_client on; ssl_client_certificate other;"),
            (ON, "ssl_verify_client on; ssl_client_certificate pem; ssl_crl other;"),
        ] {
            let (file, left) = of_two(first, second);
            assert_eq!(file.matches("status: 403").count(), 1, "{file}");
            assert_eq!(file.matches("upstream: ").count(), 2, "{file}");
            assert!(
                left.contains("answer 403 at 0.0.0.0:443") || left.contains("answer 403 at :443"),
                "{left}"
            );
        }
        for (first, second) in [(ON, ON), (ON, ""), ("", "ssl_verify_client off;")] {
            let (file, _) = of_two(first, second);
            assert!(!file.contains("status: 403"), "{file}");
        }
    }
}
