//! `stream`: TCP that is carried, and TLS that passes through by the name it asks for.

use super::{
    guards, limits, listeners,
    manner::{self, Manner},
    names::{self, Listen},
    parser::Directive,
    scope::Scope,
    units,
    values::{Piece, Values, pieces},
    world::World,
};
use crate::convert::draft::{List, Map};

pub(super) fn convert<'f>(stream: &Scope<'f>, world: &mut World<'f>, listeners: &mut List) {
    for directive in stream.own().iter().filter(|one| one.name == "server") {
        let scope = stream.inside(directive.read().inside());
        let mut values = Values::default();
        values.read_sets(scope.own());
        for listen in names::listens(&scope, &mut world.notes) {
            let found = listener(&listen, &scope, &values, world);
            world.notes.fresh().into_iter().for_each(|comment| listeners.comment(comment));
            match found {
                Ok(Some(listener)) => listeners.push(listener),
                Ok(None) => {}
                Err(why) => {
                    world.notes.leave(directive, why);
                    world.notes.fresh().into_iter().for_each(|comment| listeners.comment(comment));
                }
            }
        }
    }
}

fn listener<'f>(
    listen: &Listen<'f>,
    scope: &Scope<'f>,
    values: &Values,
    world: &mut World<'f>,
) -> Result<Option<Map>, String> {
    let refuses = |rule: &&Directive| rule.name != "allow" || rule.first() != "all";
    let foreign = scope.any(&guards::FOREIGN);
    if let Some(rule) = scope.any(&["allow", "deny"]).into_iter().find(refuses).or(foreign.first().copied()) {
        return Err(format!(
            "`{}` keeps clients out, and a listener for TCP takes all: there is no such listener",
            rule.line()
        ));
    }
    let pass = scope.one("proxy_pass").ok_or("it passes nothing on")?;
    let target = values.expanded(pass.first());
    let plain = Manner { options: connect_timeout(scope), is_tls: false };
    let Some(port) = listeners::port(&listen.address, &[(0, listen, scope)], world) else { return Ok(None) };
    let mut listener = Map::new().with("address", listen.address.as_str());
    let is_passed_through = scope.is_on("ssl_preread");
    match (is_passed_through, pieces(&target).as_slice()) {
        (true, [Piece::Variable(variable)]) => {
            listener.set("protocol", "tls_passthrough");
            listener.set("sni", by_name(variable, &plain, world)?);
        }
        (_, [Piece::Text(authority)]) => {
            let manner =
                if scope.is_on("proxy_ssl") { secure(authority, scope, &plain, world)? } else { plain };
            let mut options = manner.options.clone();
            if scope.is_on("proxy_protocol") {
                options.set("proxy_protocol", "v1");
            }
            let hashes = world.upstreams.block(authority).into_iter().flat_map(Directive::inside);
            if hashes.into_iter().any(|one| one.name == "hash" && !one.first().ends_with("remote_addr")) {
                return Err(
                    "connections are balanced by the client's address, and by nothing inside them".to_owned()
                );
            }
            listener.set("protocol", "tcp");
            let manner = Manner { options, is_tls: manner.is_tls };
            let name = world.upstreams.name(authority, &manner, &mut world.notes)?;
            listener.set("upstream", name);
        }
        _ => return Err("where connections go is not known before they come".to_owned()),
    }
    for key in ["proxy_protocol", "tls"] {
        if let Some(value) = port.listener.find(key) {
            listener.set(key, value.clone());
        }
    }
    let idle = scope
        .one("proxy_timeout")
        .and_then(|directive| units::duration(directive.first()))
        .filter(|time| time != "0s");
    let mut limits = Map::new().with("idle_timeout", idle.unwrap_or_else(|| "600s".to_owned()));
    if let Some(most) = limits::of_connections(scope, world) {
        limits.set("connections_per_ip", most);
    }
    listener.set("limits", limits);
    Ok(Some(listener))
}

fn connect_timeout(scope: &Scope<'_>) -> Map {
    let time = scope
        .one("proxy_connect_timeout")
        .and_then(|directive| units::duration(directive.first()))
        .filter(|time| time != "0s");
    Map::new().with("connect_timeout", time.unwrap_or_else(|| "60s".to_owned()))
}

/// nginx verifies nobody unless it is told to.
fn secure(authority: &str, scope: &Scope<'_>, plain: &Manner, world: &World<'_>) -> Result<Manner, String> {
    let tls = manner::tls(authority, scope, world)?;
    Ok(Manner { options: plain.options.clone().with("tls", tls), is_tls: true })
}

/// A map of `$ssl_preread_server_name`.
fn by_name(variable: &str, manner: &Manner, world: &mut World<'_>) -> Result<Map, String> {
    let directive = world
        .maps
        .get(variable)
        .map(|mapping| mapping.directive)
        .ok_or("where connections go is not known before they come")?;
    if directive.first() != "$ssl_preread_server_name" {
        return Err("TLS passes through by the name that it asks for".to_owned());
    }
    directive.mark_read();
    let mut sni = Map::new();
    for entry in directive.inside().iter().filter(|entry| entry.name != "hostnames") {
        let names = match entry.name.as_str() {
            "default" => vec!["*".to_owned()],
            name if name.starts_with('~') => {
                return Err("TLS passes through by names, and by no expression".to_owned());
            }
            name => match name.strip_prefix('.') {
                Some(rest) => vec![rest.to_owned(), format!("*.{rest}")],
                None => vec![name.to_owned()],
            },
        };
        if let Some(wrong) =
            names.iter().find(|name| *name != "*" && !names::is_host(name.trim_start_matches("*.")))
        {
            return Err(format!("{wrong:?} is no name that TLS asks for"));
        }
        let upstream = world.upstreams.name(entry.first(), manner, &mut world.notes)?;
        names.iter().for_each(|name| sni.set(name, upstream.as_str()));
    }
    Ok(sni)
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn a_server_that_keeps_clients_out_gives_no_listener() {
        for (all, own, other) in [
            ("", "allow 10.0.0.0/8; deny all;", ""),
            ("deny 10.0.0.1;", "", "allow all;"),
            ("", "js_access main.check;", ""),
        ] {
            let (file, left) = converted(&format!(
                "stream {{ {all}
                    server {{ listen 5432; {own} proxy_pass 10.0.0.1:5432; }}
                    server {{ listen 25; {other} proxy_pass 10.0.0.1:25; }} }}"
            ));
            assert!(!file.contains("5432\"") && file.contains(":25\""), "{file}");
            assert!(left.contains("there is no such listener"), "{left}");
        }
    }
}
