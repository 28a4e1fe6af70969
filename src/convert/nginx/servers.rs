//! `server` blocks: listeners, and for each the routes of those who listen there. The first server of an address, or the one that says so,
//! takes every host that no other names, so its routes name none.

use crate::convert::fields;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    guards,
    listeners::{self, Port},
    names::{self, Listen},
    order,
    parser::Directive,
    route::Route,
    scope::Scope,
    site::Site,
    units,
    values::Values,
    world::{World, filter},
};
use crate::convert::draft::{List, Map, Node};

struct Server<'f> {
    directive: &'f Directive,
    scope: Scope<'f>,
    hosts: Vec<String>,
    listens: Vec<Listen<'f>>,
}

/// Listeners and routes of all servers in `http`; and the pages of errors, where all routes have the same.
pub(super) fn convert<'f>(
    http: &Scope<'f>,
    world: &mut World<'f>,
    listeners: &mut List,
    routes: &mut List,
) -> Map {
    let mut servers = Vec::new();
    for directive in http.own().iter().filter(|one| one.name == "server") {
        let scope = http.inside(directive.read().inside());
        let (hosts, listens) =
            (names::hosts(&scope, &mut world.notes), names::listens(&scope, &mut world.notes));
        servers.push(Server { directive, scope, hosts, listens });
    }
    merge_addresses(&mut servers);
    let ports = ports(&servers, world);
    let mut taken = BTreeSet::new();
    // By address: the names of its routes, and the largest body of any.
    let mut served: BTreeMap<&str, (Vec<String>, Vec<Option<u64>>)> = BTreeMap::new();
    let mut written: Vec<(String, Vec<String>, Route)> = Vec::new();
    // What was said above routes that are none in the end.
    let mut dropped = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let found = variants(index, server, &servers, &ports, world);
        for (addresses, hosts, is_closed) in found.into_iter().flat_map(|found| closed(index, found, &ports))
        {
            let mut paths = BTreeSet::new();
            let mut site = site(server, &addresses, &ports, hosts.is_empty(), world);
            if hosts.is_empty() {
                site.refused_hosts = refused_hosts(index, &servers, &addresses, world);
            }
            for mut route in site.routes(world) {
                bound_conditions(&mut route, server.directive, world);
                if is_closed {
                    route.filters = List::new();
                    route.rest = Map::new().with("respond", Map::new().with("status", 403));
                }
                if !paths.insert(format!("{:?} {}", route.path, route.matching)) {
                    world.notes.leave_in_part(
                        server.directive,
                        format!(
                            "`{}` takes nothing: what stands before it takes the same paths",
                            route.label
                        ),
                    );
                    dropped.append(&mut route.comments);
                    continue;
                }
                let name = fresh_name(&route.label, &mut taken);
                for address in &addresses {
                    let (names, bodies) = served.entry(address).or_default();
                    names.push(name.clone());
                    bodies.push(route.body);
                }
                written.push((name, hosts.clone(), route));
            }
        }
    }
    let most =
        served.iter().map(|(address, (_, bodies))| (*address, largest(bodies))).collect::<BTreeMap<_, _>>();
    let is_one_set = served.values().all(|(names, _)| names.len() == written.len());
    for port in &ports {
        let Some((names, _)) = served.get(port.address.as_str()) else { continue };
        world.notes.fresh().into_iter().for_each(|comment| listeners.comment(comment));
        let mut listener = port.listener.clone();
        set_body_size(&mut listener, most[port.address.as_str()]);
        if !is_one_set {
            listener.set("routes", names.iter().map(String::as_str).collect::<List>());
        }
        listeners.push(listener);
    }
    let largest = most.values().copied().max_by_key(|body| body.unwrap_or(u64::MAX)).flatten();
    dropped.into_iter().for_each(|comment| routes.comment(comment));
    let pages = shared_pages(&mut written);
    for (name, hosts, route) in written {
        write(name, &hosts, route, largest, routes);
    }
    pages
}

/// Takes the pages of errors out of routes that all have the same.
fn shared_pages(written: &mut [(String, Vec<String>, Route)]) -> Map {
    let Some((_, _, first)) = written.first() else { return Map::new() };
    let pages = first.pages.clone();
    if !written.iter().all(|(_, _, route)| route.pages == pages) {
        return Map::new();
    }
    written.iter_mut().for_each(|(_, _, route)| route.pages = Map::new());
    pages
}

/// A chain has no more filters with conditions, those of chains in it included. A route without some of its filters would do something else.
fn bound_conditions(route: &mut Route, server: &Directive, world: &mut World<'_>) {
    const MOST: usize = 64;
    let has_condition = |node: &Node| matches!(node, Node::Map(filter) if filter.find("when").is_some() || filter.find("unless").is_some());
    let count = |node: &Node| match node {
        Node::Text(name) => match world.chains.find(name) {
            Some(Node::List(chain)) => chain.items().filter(|filter| has_condition(filter)).count(),
            _ => 0,
        },
        filter => usize::from(has_condition(filter)),
    };
    if route.filters.items().map(count).sum::<usize>() > MOST {
        world.notes.leave_in_part(
            server,
            format!("`{}` has more than {MOST} conditions: it answers 503", route.label),
        );
        route.comments.extend(world.notes.fresh());
        route.filters = List::new();
        route.rest = Map::new().with("respond", Map::new().with("status", 503));
    }
}

fn largest(bodies: &[Option<u64>]) -> Option<u64> {
    bodies.iter().copied().max_by_key(|body| body.unwrap_or(u64::MAX)).flatten()
}

/// More than anybody sends: a listener has a limit.
const ENDLESS: u64 = 1 << 40;

fn set_body_size(listener: &mut Map, most: Option<u64>) {
    listener.map("limits").set("body_size", units::size(most.unwrap_or(ENDLESS)));
}

fn write(name: String, hosts: &[String], route: Route, largest: Option<u64>, routes: &mut List) {
    route.comments.into_iter().for_each(|comment| routes.comment(comment));
    let mut matching = Map::new();
    if !hosts.is_empty() {
        matching.set("hosts", hosts.iter().map(String::as_str).collect::<List>());
    }
    if route.path.node() != Node::from("/") {
        matching.set("path", route.path.node());
    }
    for (key, value) in route.matching.entries() {
        matching.set(key, value.clone());
    }
    let mut written = Map::new().with("name", fields::literal(&name));
    if !matching.is_empty() {
        written.set("match", matching);
    }
    let mut filters = route.filters;
    // Listeners allow as much as any of their routes.
    if let Some(most) =
        route.body.filter(|most| route.is_proxied && largest.is_none_or(|largest| *most < largest))
    {
        filters.push(filter("body_limit", units::size(most)));
    }
    // What does nothing but respond makes no errors of its own.
    if !route.pages.is_empty() && (route.is_proxied || !filters.is_empty()) {
        written.set("error_pages", route.pages);
    }
    if !filters.is_empty() {
        written.set("filters", filters);
    }
    for (key, value) in route.rest.entries() {
        written.set(key, value.clone());
    }
    routes.push(written);
}

fn fresh_name(label: &str, taken: &mut BTreeSet<String>) -> String {
    let label: String = label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let numbered = (2..).map(|number| format!("{label} ({number})"));
    let name = std::iter::once(label.clone())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .expect("numbers do not end");
    taken.insert(name.clone());
    name
}

/// Where nginx has a socket for IPv4 and one for IPv6, one listener takes both.
fn merge_addresses(servers: &mut [Server<'_>]) {
    let all: BTreeSet<String> = servers
        .iter()
        .flat_map(|server| server.listens.iter().map(|listen| listen.address.clone()))
        .collect();
    for listen in servers.iter_mut().flat_map(|server| server.listens.iter_mut()) {
        let Some(port) = listen.port else { continue };
        let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let every = format!(":{port}");
        let has_both = both.iter().all(|address| all.contains(address)) || all.contains(&every);
        if has_both && both.contains(&listen.address) {
            listen.address = every;
        }
    }
    for server in servers {
        let mut known = BTreeSet::new();
        server.listens.retain(|listen| known.insert(listen.address.clone()));
    }
}

/// Whether a listener on `every` address takes what comes to this one. nginx tells them apart when a connection has come, and the kernel
/// lets only one of them be listened on.
fn takes(every: &str, address: &str) -> bool {
    let (Some((every, its)), Some((host, port))) = (every.rsplit_once(':'), address.rsplit_once(':')) else {
        return false;
    };
    let is_every = |host: &str| matches!(host, "" | "[::]" | "0.0.0.0");
    its == port && is_every(every) && !is_every(host) && (every != "0.0.0.0" || !host.starts_with('['))
}

/// Every address once, with the listener that it becomes.
fn ports<'f>(servers: &[Server<'f>], world: &mut World<'f>) -> Vec<Port> {
    let mut addresses: Vec<&str> = Vec::new();
    for listen in servers.iter().flat_map(|server| &server.listens) {
        if !addresses.contains(&listen.address.as_str()) {
            addresses.push(&listen.address);
        }
    }
    let mut ports = Vec::new();
    for address in &addresses {
        let there: Vec<(usize, &Listen<'f>, &Scope<'f>)> = servers
            .iter()
            .enumerate()
            .flat_map(|(index, server)| {
                server
                    .listens
                    .iter()
                    .filter(|listen| listen.address == *address)
                    .map(move |listen| (index, listen, &server.scope))
            })
            .collect();
        if addresses.iter().any(|every| takes(every, address)) {
            for directive in there.iter().filter_map(|(_, listen, _)| listen.directive) {
                let why = "a listener has this port on every address, and what comes to this one is answered by its servers";
                world.notes.leave(directive, why);
            }
            continue;
        }
        ports.extend(listeners::port(address, &there, world));
    }
    ports
}

/// At which addresses the server's routes name which hosts.
fn variants<'p>(
    index: usize,
    server: &Server<'_>,
    servers: &[Server<'_>],
    ports: &'p [Port],
    world: &mut World<'_>,
) -> Vec<(Vec<&'p str>, Vec<String>)> {
    let here: Vec<&Port> = ports
        .iter()
        .filter(|port| server.listens.iter().any(|listen| listen.address == port.address))
        .collect();
    let (default, named): (Vec<&Port>, Vec<&Port>) =
        here.iter().copied().partition(|port| port.default == index);
    let mut hosts = server.hosts.clone();
    // The first server that has a name at an address has it alone.
    let before = |host: &String| {
        servers[..index].iter().any(|other| {
            other.hosts.contains(host)
                && other.listens.iter().any(|listen| here.iter().any(|port| port.address == listen.address))
        })
    };
    if hosts.iter().any(before) {
        world.notes.leave_in_part(server.directive, "a server before this one has the same name and address");
        hosts.retain(|host| !before(host));
    }
    let others = |port: &Port| {
        servers
            .iter()
            .enumerate()
            .filter(|(other, one)| {
                *other != index && one.listens.iter().any(|listen| listen.address == port.address)
            })
            .any(|(_, one)| names::is_covered(&hosts, &one.hosts))
    };
    let mut by_name: Vec<&Port> = named;
    by_name.extend(default.iter().copied().filter(|port| others(port)));
    let mut found = Vec::new();
    if !default.is_empty() {
        found.push((default.iter().map(|port| port.address.as_str()).collect(), Vec::new()));
    }
    if !by_name.is_empty() && !hosts.is_empty() {
        found.push((by_name.iter().map(|port| port.address.as_str()).collect(), hosts));
    } else if found.is_empty() {
        world.notes.leave(
            server.directive,
            "no request gets to this server: it has no name that a route can have, or no address",
        );
    }
    found
}

/// What default servers refuse: hosts of guarded servers, by names that no route can have.
fn refused_hosts(
    index: usize,
    servers: &[Server<'_>],
    addresses: &[&str],
    world: &mut World<'_>,
) -> Vec<String> {
    let mut refused = Vec::new();
    for (_, other) in servers.iter().enumerate().filter(|(other, _)| *other != index) {
        let is_here = other.listens.iter().any(|listen| addresses.contains(&listen.address.as_str()));
        if !is_here || !guards::is_within(other.scope.own()) {
            continue;
        }
        for pattern in names::expressions(&other.scope) {
            world.notes.leave_in_part(
                other.directive,
                format!(
                    "it is guarded, so that hosts that {pattern:?} takes get 403 from the default server"
                ),
            );
            refused.push(pattern);
        }
    }
    refused
}

/// Where the listener asks no client for the certificate that this server demands, it answers nobody.
fn closed<'p>(
    index: usize,
    (addresses, hosts): (Vec<&'p str>, Vec<String>),
    ports: &[Port],
) -> impl Iterator<Item = (Vec<&'p str>, Vec<String>, bool)> {
    let is_closed =
        |address: &&str| ports.iter().any(|port| port.address == *address && port.unasked.contains(&index));
    let (closed, open): (Vec<&str>, Vec<&str>) = addresses.into_iter().partition(is_closed);
    let both = [(open, hosts.clone(), false), (closed, hosts, true)];
    both.into_iter().filter(|(addresses, ..)| !addresses.is_empty())
}

fn site<'f>(
    server: &Server<'f>,
    addresses: &[&str],
    ports: &[Port],
    is_default: bool,
    world: &mut World<'f>,
) -> Site<'f> {
    let here = || ports.iter().filter(|port| addresses.contains(&port.address.as_str()));
    let one_of = |values: BTreeSet<Option<u16>>| {
        if values.len() == 1 { values.into_iter().next().flatten() } else { None }
    };
    let tls: BTreeSet<bool> = here().map(|port| port.is_tls).collect();
    let first = server
        .scope
        .own()
        .iter()
        .find(|one| one.name == "server_name")
        .map(Directive::first)
        .unwrap_or_default();
    let mut values = Values {
        server_name: first.trim_start_matches('.').to_owned(),
        host: server
            .hosts
            .first()
            .filter(|host| !is_default && server.hosts.len() == 1 && !host.starts_with('*'))
            .cloned(),
        port: one_of(here().map(|port| port.number).collect()),
        ..Values::default()
    };
    values.read_sets(server.scope.own());
    let label = server.hosts.first().cloned().unwrap_or_else(|| "default".to_owned());
    let locations = order::locations(&server.scope, &mut world.notes);
    let is_tls = if tls.len() == 1 { tls.into_iter().next() } else { None };
    Site { label, scope: server.scope.clone(), values, is_tls, locations, refused_hosts: Vec::new() }
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    #[test]
    fn hosts_of_a_guarded_server_that_are_no_names_are_refused_by_the_default_one() {
        for (name, pattern) in [
            ("~^admin\\d*\\.example$", "(?i)^admin\\\\d*\\\\.example"),
            ("admin.*", "(?i)^admin[.]"),
            ("~^admin(?!x)", "(?i)^admin"),
        ] {
            for guard in ["deny all;", "location /x { auth_basic a; }", "return 403;"] {
                let (file, left) = converted(&format!(
                    "server {{ listen 80; location / {{ proxy_pass http://10.0.0.1; }} }} server {{ listen 80; server_name {name}; {guard} }}"
                ));
                assert!(file.contains("status: 403") && file.contains(pattern), "{name}: {file}");
                assert!(left.contains("get the default server") && left.contains("get 403"), "{left}");
            }
        }
        let (file, _) = converted(
            "server { listen 80; location / { proxy_pass http://10.0.0.1; } } server { listen 80; server_name admin.*; return 204; }",
        );
        assert!(!file.contains("status: 403"), "{file}");
    }

    #[test]
    fn an_address_whose_port_another_has_on_every_address_is_named() {
        let one = |listen: &str| format!("server {{ {listen} return 204; }} ");
        for (every, own) in [
            ("", "127.0.0.1:80"),
            ("listen 80;", "127.0.0.1"),
            ("listen [::]:80;", "[::1]:80"),
            ("listen 80; listen [::]:80;", "192.0.2.1:080"),
        ] {
            let (file, left) = converted(&(one(&format!("listen {own};")) + &one(every)));
            assert_eq!(file.matches("- address").count(), 1, "{own}: {file}");
            assert!(left.contains("has this port on every address"), "{own}: {left}");
        }
        for (one_address, other) in
            [("80", "127.0.0.1:81"), ("80", "[::1]:80"), ("127.0.0.2:80", "127.0.0.1:80")]
        {
            let (file, left) =
                converted(&(one(&format!("listen {one_address};")) + &one(&format!("listen {other};"))));
            assert_eq!(
                (file.matches("- address").count(), left.contains("on every address")),
                (2, false),
                "{file}"
            );
        }
    }
}
