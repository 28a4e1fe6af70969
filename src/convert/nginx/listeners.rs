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
    limits(&mut listener, scope, there, world);
    Some(Port { address: address.to_owned(), number: listen.port, is_tls, default, listener })
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
        for name in ["ssl_verify_client", "ssl_client_certificate", "ssl_protocols"] {
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
    }
    Ok(tls)
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
            match units::duration(directive.first()).filter(|time| time != "0s") {
                Some(time) => limits.set(ours, time),
                None => world.notes.leave(directive, "a timeout is a time above 0 here"),
            }
        }
    }
    if let Some(directive) = of_all("keepalive_requests", scope, there, world) {
        match directive.first().parse::<i64>().ok().filter(|number| (1..=1_000_000_000).contains(number)) {
            Some(number) => limits.set("requests_per_connection", number),
            None => world.notes.leave(directive, "that is no number of requests"),
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
