//! A location becomes a route: its filters in the order in which nginx does what they do, and where its requests go.

use super::{
    access,
    answers::End,
    compress, guards, headers, limits,
    order::{Kind, Location},
    parser::Directive,
    patterns::PathMatch,
    proxy,
    rewrites::Phase,
    scope::Scope,
    site::Site,
    values::Values,
    world::{World, filter},
};
use crate::convert::draft::{List, Map, Node};

/// One route, for whichever hosts.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) label: String,
    pub(super) comments: Vec<String>,
    pub(super) path: PathMatch,
    /// What the match says besides.
    pub(super) matching: Map,
    /// Maps, and names of chains.
    pub(super) filters: List,
    /// `upstream` and the like.
    pub(super) rest: Map,
    /// `error_pages`
    pub(super) pages: Map,
    /// The largest body; none without a limit.
    pub(super) body: Option<u64>,
    pub(super) is_proxied: bool,
}

impl<'f> Site<'f> {
    /// A route that answers by itself: nginx looks at no limit and no password before it does.
    pub(super) fn answer(
        &self,
        scope: &Scope<'f>,
        values: &Values,
        path: PathMatch,
        first: &[Node],
        end: End,
        world: &mut World<'f>,
    ) -> Route {
        let mut filters = List::from_iter(compress::chain(scope, world));
        first.iter().for_each(|filter| filters.push(filter.clone()));
        headers::of_responses(scope, values, false, world)
            .into_iter()
            .for_each(|filter| filters.push(filter));
        let pages = self.pages(scope, world);
        let rest = match end {
            End::Respond(mut options) => {
                pages.dress(&mut options);
                Map::new().with("respond", options)
            }
            End::Redirect(options) => Map::new().with("redirect", options),
            End::Secure(options) => {
                filters.push(filter("https_redirect", options));
                Map::new().with("respond", Map::new().with("status", 404))
            }
        };
        let body = limits::body(scope, world);
        Route {
            label: String::new(),
            comments: Vec::new(),
            path,
            matching: Map::new(),
            filters,
            rest,
            pages: pages.written(),
            body,
            is_proxied: false,
        }
    }

    /// What a location does once a request is its own.
    pub(super) fn content(
        &self,
        location: &Location<'f>,
        values: &Values,
        path: PathMatch,
        first: &[Node],
        phase: &Phase,
        world: &mut World<'f>,
    ) -> Vec<Route> {
        let scope = &location.scope;
        let mut filters = List::from_iter(compress::chain(scope, world));
        first.iter().for_each(|filter| filters.push(filter.clone()));
        limits::chains(scope, values, world).into_iter().for_each(|name| filters.push(name));
        let mut access = access::read(scope, values, self, world);
        let except = access::except(scope, values, self, world);
        access.filters.extend(except.filters);
        access.fields.extend(except.fields);
        access.is_closed |= except.is_closed;
        std::mem::take(&mut access.filters).into_iter().for_each(|filter| filters.push(filter));
        let body = limits::body(scope, world);
        let pages = self.pages(scope, world);
        let route = |filters: List, matching: Map, mut rest: Map, is_proxied: bool| {
            pages.dress_inside(&mut rest);
            Route {
                label: String::new(),
                comments: Vec::new(),
                path: path.clone(),
                matching,
                filters,
                rest,
                pages: pages.written(),
                body,
                is_proxied,
            }
        };
        let closed = |status: i64| Map::new().with("respond", Map::new().with("status", status));
        if access.is_closed {
            return vec![route(filters, Map::new(), closed(403), false)];
        }
        // These are not inherited by the locations inside.
        let own = scope.own().iter().find(|one| matches!(one.name.as_str(), "proxy_pass" | "grpc_pass"));
        let try_files = scope.own().iter().find(|one| one.name == "try_files");
        let (pass, from) = match (own, try_files) {
            (Some(pass), _) => (pass, scope.clone()),
            (None, Some(try_files)) => match self.fallback(try_files.read()) {
                Some((pass, named)) => {
                    if let Some(guard) = guard(scope, &named) {
                        world.notes.leave(guard, "what a location asks that `try_files` ends with cannot be asked here as well: until that is solved the route answers 403");
                        return vec![route(filters, Map::new(), closed(403), false)];
                    }
                    world.notes.leave(
                        try_files,
                        "no files are served here: all requests go to the location it ends with",
                    );
                    (pass, named)
                }
                None => {
                    world.notes.leave(try_files, "no files are served here: the route answers 404");
                    return vec![route(filters, Map::new(), closed(404), false)];
                }
            },
            (None, None) => {
                if let Some(file) = self.of_file(location, world) {
                    let rest = Map::new().with("respond", file);
                    return vec![route(filters, Map::new(), rest, false)];
                }
                let status = self.unserved(scope, world);
                return vec![route(filters, Map::new(), closed(status), false)];
            }
        };
        let scope = &from;
        let is_grpc = pass.read().name == "grpc_pass";
        let kind = &location.kind;
        let passed = match proxy::read(pass, scope, kind, values, phase.changed.as_deref(), world) {
            Ok(passed) => passed,
            Err(why) => {
                world.notes.leave(pass, format!("{why}; the route answers 502"));
                return vec![route(filters, Map::new(), closed(502), false)];
            }
        };
        let responses = headers::of_responses(scope, values, is_grpc, world);
        let changes = phase.changes.iter().chain(&passed.changes).cloned().collect::<Vec<_>>();
        let mirror = self.mirror(scope, world);
        let mut routes = Vec::new();
        for way in passed.ways {
            let requests =
                headers::of_requests(scope, values, way.host.as_deref(), is_grpc, &access.fields, world);
            let mut filters = filters.clone();
            responses.iter().chain(&changes).chain(&requests).for_each(|filter| filters.push(filter.clone()));
            let rest = mirror.iter().fold(way.route, |rest, mirror| rest.with("mirror", mirror.clone()));
            routes.push(route(filters, way.matching, rest, true));
        }
        routes
    }

    /// The named location at the end of `try_files`, and what it passes on.
    fn fallback(&self, try_files: &'f Directive) -> Option<(&'f Directive, Scope<'f>)> {
        let name = try_files.texts().last().filter(|last| last.starts_with('@'))?;
        let named = self.scope.own().iter().find(|one| one.name == "location" && one.first() == name)?;
        let pass = named
            .read()
            .inside()
            .iter()
            .find(|one| matches!(one.name.as_str(), "proxy_pass" | "grpc_pass"))?;
        Some((pass, self.scope.inside(named.inside())))
    }

    /// What is answered in place of files, and of what speaks another protocol.
    fn unserved(&self, scope: &Scope<'f>, world: &mut World<'f>) -> i64 {
        let of_files = ["root", "alias", "index", "autoindex"];
        for directive in scope.own().iter().filter(|one| of_files.contains(&one.name.as_str())) {
            world.notes.leave(directive, "no files are served here: the route answers 404");
        }
        if let Some(root) =
            scope.one("root").filter(|_| !scope.own().iter().any(|one| of_files.contains(&one.name.as_str())))
        {
            world.notes.leave(root, "no files are served here: routes to them answer 404");
        }
        let other =
            |name: &str| ["fastcgi_pass", "uwsgi_pass", "scgi_pass", "memcached_pass"].contains(&name);
        if scope.own().iter().any(|one| other(&one.name)) { 502 } else { 404 }
    }

    fn mirror(&self, scope: &Scope<'f>, world: &mut World<'f>) -> Option<Map> {
        let directive = scope.one("mirror").filter(|directive| directive.first() != "off")?;
        let found = self.target(directive.first(), true).and_then(|location| {
            let pass = location
                .scope
                .own()
                .iter()
                .find(|one| one.name == "proxy_pass")
                .ok_or("the location passes nothing on")?;
            let changed = pass.read().first().strip_suffix("$request_uri").unwrap_or(pass.first());
            let is_same = location.scope.own().iter().all(|one| one.name != "proxy_set_header");
            if changed.trim_start_matches("http://").contains('/') || !is_same {
                return Err("a copy is the same request here".to_owned());
            }
            proxy::read(pass, &location.scope, &Kind::Prefix("/".to_owned()), &self.values, None, world)
        });
        match found.map(|passed| passed.ways) {
            Ok(ways) if ways.len() == 1 => match ways[0].route.find("upstream") {
                Some(upstream) => return Some(Map::new().with("upstream", upstream.clone())),
                None => world.notes.leave(directive, "copies go to one upstream"),
            },
            Ok(_) => world.notes.leave(directive, "copies go to one upstream"),
            Err(why) => world.notes.leave(directive, why),
        }
        None
    }

    /// With its name, and what was left on the way to it.
    pub(super) fn commented(&self, mut route: Route, label: &str, world: &mut World<'f>) -> Route {
        route.label = format!(
            "{}{}{label}",
            self.label,
            if label.starts_with('/') || label.is_empty() { "" } else { " " }
        );
        route.comments = world.notes.fresh();
        route
    }
}

/// By what a named location keeps clients out who come from another one: lines of its own, and those around it that the other one sets anew.
fn guard<'f>(from: &Scope<'f>, named: &Scope<'f>) -> Option<&'f Directive> {
    let lists: [&[&str]; 6] = [
        &["allow", "deny"],
        &["auth_basic"],
        &["auth_request"],
        &["limit_req"],
        &["limit_conn"],
        &guards::FOREIGN,
    ];
    let around = lists.into_iter().find_map(|names| {
        let (found, asked) = (named.any(names), from.any(names));
        let is_other = |one: &&&'f Directive| !asked.iter().any(|asked| std::ptr::eq(*asked, **one));
        found.iter().find(is_other).copied().filter(|one| one.first() != "off")
    });
    let turns = |one: &&Directive| matches!(one.name.as_str(), "return" | "if");
    guards::first_of(named.own()).or(named.own().iter().find(turns)).or(around)
}

#[cfg(test)]
mod tests {
    use crate::convert::nginx::converted;

    fn of_named(server: &str, location: &str, named: &str) -> String {
        let (file, left) = converted(&format!(
            "server {{ listen 80; {server}
                location / {{ {location} try_files $uri @app; }}
                location @app {{ {named} proxy_pass http://10.0.0.1; }} }}"
        ));
        assert_eq!(left.contains("answers 403"), file.contains("status: 403"), "{file}{left}");
        file
    }

    #[test]
    fn a_named_location_that_keeps_clients_out_closes_the_routes_that_lead_to_it() {
        for (server, location, named) in [
            ("", "", "allow 10.0.0.0/8; deny all;"),
            ("", "", "auth_basic x; auth_basic_user_file y;"),
            ("", "", "if ($http_x = a) { return 403; }"),
            ("", "", "return 403;"),
            ("", "", "limit_except GET { deny all; }"),
            ("deny all;", "allow all;", ""),
        ] {
            let file = of_named(server, location, named);
            assert!(file.contains("status: 403") && !file.contains("upstream:"), "{named}: {file}");
        }
        for (server, location, named) in
            [("deny 10.0.0.1;", "", ""), ("", "deny 10.0.0.1;", "auth_basic off;")]
        {
            let file = of_named(server, location, named);
            assert!(file.contains("upstream:") && file.contains("10.0.0.1/32"), "{file}");
        }
    }
}
