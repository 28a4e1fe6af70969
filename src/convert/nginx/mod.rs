//! nginx: its words (lexer), blocks and includes (parser), what holds where (scope), and what becomes of it: servers and their addresses
//! (servers, names, listeners), locations in nginx's order (order), and what each does (route), one file for each matter.
//!
//! Two things are kept. Every line is accounted for: what nobody has looked at in the end is named as well (fates). And what kept somebody
//! out still does: where it cannot be said here, the route is closed (access).

mod access;
mod answers;
mod compress;
mod conditions;
mod confined;
mod error_pages;
mod fates;
mod guards;
mod headers;
mod lexer;
mod limits;
mod listeners;
mod logs;
mod manner;
mod maps;
mod names;
mod notes;
mod order;
mod parser;
mod patterns;
mod places;
mod proxy;
mod rewrite;
mod rewrites;
mod route;
mod scope;
mod servers;
mod site;
mod stream;
mod units;
mod upstreams;
mod values;
mod world;

use std::path::Path;

use self::{parser::Directive, scope::Scope, world::World};
use super::{
    Converted, Place, Refused,
    draft::{List, Map},
};

/// What differs by itself, whatever the file says.
const ALWAYS: &str = "Where Tidegate differs by itself, and no line of nginx says so:
- paths are brought into one form before they are matched and passed on, and what nginx makes of two slashes is one;
- X-Forwarded-* and their like are taken off unless `trusted_proxies` has the sender, and names of fields are in lower case;
- upstreams are spoken to over HTTP/1.1 with kept connections, may switch to WebSocket, and `Location` is passed on as they wrote it;
- redirects are written as they stand here, and answers of the gateway's own have no page but those of `error_page`.";

/// What this file and those that it includes say, in our words. `prefix` is what relative paths are relative to, by default the
/// file's folder.
///
/// # Errors
///
/// A file that cannot be read, or is none of nginx's; one in which there is nothing to convert.
pub fn convert(file: &Path, prefix: Option<&Path>) -> Result<Converted, Refused> {
    let prefix = prefix.or(file.parent()).unwrap_or(Path::new(""));
    of_directives(&parser::read(file, prefix)?, &file.display().to_string(), prefix)
}

/// The same of a text that may include no files.
///
/// # Errors
///
/// As [`convert`].
pub fn convert_text(text: &str, name: &str) -> Result<Converted, Refused> {
    of_directives(&parser::read_text(text, name)?, name, Path::new(""))
}

fn of_directives(directives: &[Directive], file: &str, prefix: &Path) -> Result<Converted, Refused> {
    let refused = |why: String| Refused { at: Place { file: file.to_owned(), line: 0 }, column: 0, why };
    let has = |name: &str| directives.iter().any(|directive| directive.name == name);
    if !["http", "stream", "server"].iter().any(|name| has(name)) {
        return Err(refused("there is nothing to convert: no `http`, `stream` or `server` block".to_owned()));
    }
    let (mut listeners, mut routes) = (List::new(), List::new());
    let mut world = World::new(prefix);
    let mut top = Map::new();
    // The file of one site stands in the `http` block of another.
    let of_site = (!has("http")).then_some(directives);
    for http in blocks(directives, "http").chain(of_site.filter(|_| has("server"))) {
        let scope = Scope::new(http);
        world.read_shared(&scope);
        let pages = servers::convert(&scope, &mut world, &mut listeners, &mut routes);
        if !pages.is_empty() {
            top.set("error_pages", pages);
        }
        shared(&scope, &mut top, &mut world);
    }
    for stream in blocks(directives, "stream") {
        let scope = Scope::new(stream);
        world.read_shared(&scope);
        stream::convert(&scope, &mut world, &mut listeners);
    }
    blocks(directives, "events").for_each(drop);
    fates::survey(directives, &mut world.notes);
    if listeners.is_empty() {
        let left = world.notes.into_left();
        let why = left.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        return Err(refused(format!("none of its servers can be carried over:\n{why}")));
    }
    Ok(assembled(file, top, listeners, routes, world))
}

fn blocks<'f>(directives: &'f [Directive], name: &'static str) -> impl Iterator<Item = &'f [Directive]> {
    directives
        .iter()
        .filter(move |directive| directive.name == name)
        .map(|directive| directive.read().inside())
}

/// What stands at the top level, once for all listeners.
fn shared(http: &Scope<'_>, top: &mut Map, world: &mut World<'_>) {
    let servers =
        http.own().iter().filter(|one| one.name == "server").map(|server| http.inside(server.inside()));
    let mut networks: Vec<String> = Vec::new();
    for scope in servers.chain([http.clone()]) {
        for directive in listeners::trusted(&scope) {
            let text = if directive.first() == "unix:" { "unix" } else { directive.first() };
            let is_network = text == "unix"
                || text.parse::<ipnet::IpNet>().is_ok()
                || text.parse::<std::net::IpAddr>().is_ok();
            match is_network {
                true if networks.iter().any(|known| known == text) => {}
                true => networks.push(text.to_owned()),
                false => world.notes.leave(directive, "that is no network"),
            }
        }
        if let Some(header) = scope
            .one("real_ip_header")
            .filter(|header| !["X-Forwarded-For", "proxy_protocol"].contains(&header.first()))
        {
            world.notes.leave(
                header,
                "the client's address is read from X-Forwarded-For, Forwarded or a PROXY header",
            );
        }
    }
    if !networks.is_empty() {
        top.set("trusted_proxies", networks.iter().map(String::as_str).collect::<List>());
    }
    // What upstreams see of the client is written by the routes, as nginx does.
    top.set("forwarded", Map::new().with("x_forwarded", false));
    if let Some(access) = logs::access(http, world) {
        top.set("log", Map::new().with("access", access));
    }
}

fn assembled(file: &str, top: Map, listeners: List, routes: List, mut world: World<'_>) -> Converted {
    let mut converted = Map::new();
    converted.comment(format!("Converted from nginx's {}", notes::on_a_line(file)));
    converted.comment(ALWAYS);
    world.notes.head(&mut converted);
    world.notes.fresh().into_iter().for_each(|comment| converted.comment(comment));
    for (key, value) in top.entries() {
        converted.set(key, value.clone());
    }
    converted.set("listeners", listeners);
    if !routes.is_empty() {
        converted.set("routes", routes);
    }
    if !world.chains.is_empty() {
        converted.set("filters", world.chains);
    }
    let upstreams = world.upstreams.into_map();
    if !upstreams.is_empty() {
        converted.set("upstreams", upstreams);
    }
    Converted { file: converted, left: world.notes.into_left() }
}

/// What is written of a text, and the lines that are left.
#[cfg(test)]
fn converted(text: &str) -> (String, String) {
    let found = convert_text(text, "a.conf").unwrap();
    let left = found.left.iter().map(ToString::to_string).collect::<Vec<_>>();
    (found.file.to_string(), left.join("\n"))
}
