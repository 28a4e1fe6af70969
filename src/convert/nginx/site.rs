//! A server without its addresses: its routes, and which of its locations takes a path.

use super::{
    answers::End,
    guards,
    order::{Kind, Location},
    parser::Directive,
    patterns::{self, PathMatch},
    rewrites::{Block, Detour, Lead, Phase, goes_by_path},
    route::Route,
    scope::Scope,
    values::Values,
    world::{World, filter},
};
use crate::convert::{
    draft::{Map, Node},
    fields,
};

pub(super) struct Site<'f> {
    pub(super) label: String,
    pub(super) scope: Scope<'f>,
    pub(super) values: Values,
    pub(super) is_tls: Option<bool>,
    pub(super) locations: Vec<Location<'f>>,
    /// These hosts are of guarded servers whose names no route can have.
    pub(super) refused_hosts: Vec<String>,
}

/// Where a rewrite leads is not known, or cannot be said, and may be guarded.
struct Lost;

impl<'f> Site<'f> {
    pub(super) fn routes(&self, world: &mut World<'f>) -> Vec<Route> {
        let block = Block {
            scope: &self.scope,
            values: &self.values,
            is_tls: self.is_tls,
            path: "",
            is_server: true,
        };
        let mut phase = Phase::read(&block, world);
        let refusals = self.refused_hosts.iter().map(|pattern| {
            let host = Map::new().with("host", Map::new().with("regex", fields::literal(pattern)));
            filter("respond", Map::new().with("status", 403)).with("when", Map::new().with("headers", host))
        });
        phase.filters.splice(..0, refusals);
        let pages = self.pages(&self.scope, world);
        phase.filters.iter_mut().for_each(|filter| pages.dress_inside(filter));
        // Every route begins with these.
        let first: Vec<Node> = match phase.filters.is_empty() {
            true => Vec::new(),
            false => vec![world.chain(&format!("{} first", self.label), phase.filters).into()],
        };
        let mut routes = Vec::new();
        for detour in &phase.detours {
            let found = self.detour(detour, None, &first, world);
            routes
                .extend(found.unwrap_or_else(|Lost| vec![self.refused(detour, &self.scope, &first, world)]));
        }
        if let Some(end) = phase.end {
            let answer =
                self.answer(&self.scope, &self.values, PathMatch::Prefix("/".to_owned()), &first, end, world);
            routes.push(self.commented(answer, "", world));
            return routes;
        }
        for location in &self.locations {
            let found = self.location(location, &first, world);
            routes.extend(found);
        }
        if !self.locations.iter().any(|one| one.kind == Kind::Prefix("/".to_owned())) {
            let static_files = self.scope.one("root");
            if let Some(root) = static_files {
                world.notes.leave(root, "no files are served here: the route answers 404");
            }
            let end = End::Respond(Map::new().with("status", 404));
            let answer =
                self.answer(&self.scope, &self.values, PathMatch::Prefix("/".to_owned()), &first, end, world);
            routes.push(self.commented(answer, "/", world));
        }
        routes
    }

    fn location(&self, location: &Location<'f>, first: &[Node], world: &mut World<'f>) -> Vec<Route> {
        let own = location.scope.own();
        let label = location.directive.texts().collect::<Vec<_>>().join(" ");
        let mut values = self.values.clone();
        values.read_sets(own);
        if location.is_closed {
            let end = End::Respond(Map::new().with("status", 403));
            let answer = self.answer(&location.scope, &values, location.path.clone(), first, end, world);
            return vec![self.commented(answer, &label, world)];
        }
        if own.iter().any(|one| one.name == "internal") {
            own.iter().filter(|one| one.name == "internal").for_each(super::parser::Directive::mark_read);
            let end = End::Respond(Map::new().with("status", 404));
            let answer = self.answer(&location.scope, &values, location.path.clone(), first, end, world);
            return vec![self.commented(answer, &label, world)];
        }
        let path = match &location.kind {
            Kind::Exact(path) => path.as_str(),
            Kind::Prefix(_) | Kind::Regex(_) => "",
        };
        let block =
            Block { scope: &location.scope, values: &values, is_tls: self.is_tls, path, is_server: false };
        let mut phase = Phase::read(&block, world);
        let detours = std::mem::take(&mut phase.detours);
        let mut filters = first.to_vec();
        let pages = self.pages(&location.scope, world);
        phase.filters.iter_mut().for_each(|filter| pages.dress_inside(filter));
        filters.extend(phase.filters.drain(..).map(Node::from));
        let mut routes = Vec::new();
        for detour in &detours {
            match self.detour(detour, Some(location), &filters, world) {
                Ok(found) => routes.extend(found),
                Err(Lost) if self.is_confined(&detour.paths, Some(location)).is_ok() => {
                    routes.push(self.refused(detour, &location.scope, &filters, world));
                }
                Err(Lost) => phase.end = Some(End::Respond(Map::new().with("status", 403))),
            }
        }
        match phase.end.take() {
            Some(end) => {
                let answer =
                    self.answer(&location.scope, &values, location.path.clone(), &filters, end, world);
                routes.push(self.commented(answer, &label, world));
            }
            None => {
                if let Some(path) = self.without_slash(location) {
                    let to = Map::new()
                        .with("to", format!("{}/?{{query}}", path.replace('{', "{{").replace('}', "}}")));
                    let end = End::Redirect(to.with("status", 301));
                    let answer = self.answer(
                        &location.scope,
                        &values,
                        PathMatch::Exact(path.to_owned()),
                        first,
                        end,
                        world,
                    );
                    routes.push(self.commented(answer, &format!("{label} without its slash"), world));
                }
                let found = self.content(location, &values, location.path.clone(), &filters, &phase, world);
                routes.extend(found.into_iter().map(|route| self.commented(route, &label, world)));
            }
        }
        routes
    }

    /// Requests that leave a location, or a server, before it has done anything else.
    fn detour(
        &self,
        detour: &Detour,
        from: Option<&Location<'f>>,
        first: &[Node],
        world: &mut World<'f>,
    ) -> Result<Vec<Route>, Lost> {
        let (change, start, is_whole, directive) = match &detour.lead {
            Lead::Away(end) => {
                let scope = from.map_or(&self.scope, |from| &from.scope);
                let answer =
                    self.answer(scope, &self.values, detour.paths.clone(), first, end.clone(), world);
                return Ok(vec![self.commented(answer, "rewrite", world)]);
            }
            Lead::Closed { why, directive } => {
                world.notes.leave(directive, why.as_str());
                return Err(Lost);
            }
            Lead::To { change, start, is_whole, directive } => (change, start, *is_whole, directive),
        };
        let found = change.clone().and_then(|change| {
            let target = self.target(start, is_whole)?;
            self.is_confined(&detour.paths, from)?;
            let stays = from.is_some_and(|from| std::ptr::eq(from.directive, target.directive));
            if stays && is_asked_again(&target.scope, directive, start, is_whole, world) {
                return Err(
                    "nginx asks what else stands in the location once more, with the new path".to_owned()
                );
            }
            let mut values = self.values.clone();
            values.read_sets(target.scope.own());
            match only_answer(&target.scope).filter(|_| !stays) {
                Some(answer) if !goes_by_path(answer, world) => {
                    let (scope, is_tls) = (&target.scope, self.is_tls);
                    let block = Block { scope, values: &values, is_tls, path: "", is_server: false };
                    let end = Phase::read(&block, world).end.ok_or("it does not answer")?;
                    return Ok(vec![self.answer(scope, &values, detour.paths.clone(), first, end, world)]);
                }
                _ if stays || !target.scope.own().iter().any(is_of_rewrites) => {}
                _ => return Err("the location it leads to has rewrites of its own".to_owned()),
            }
            let mut phase = Phase::default();
            phase.changes.push(change);
            // Several, where `map` chooses among upstreams.
            Ok(self.content(target, &values, detour.paths.clone(), first, &phase, world))
        });
        match found {
            Ok(found) => {
                let label = format!("rewrite {}", directive.first());
                Ok(found.into_iter().map(|route| self.commented(route, &label, world)).collect())
            }
            Err(why) if self.may_be_guarded(start, is_whole) => {
                let why = format!("{why}; until that is solved, what it may be about answers 403");
                world.notes.leave(directive, why);
                Err(Lost)
            }
            Err(why) => {
                world.notes.leave(directive, why);
                Ok(Vec::new())
            }
        }
    }

    fn refused(&self, detour: &Detour, scope: &Scope<'f>, first: &[Node], world: &mut World<'f>) -> Route {
        let end = End::Respond(Map::new().with("status", 403));
        let answer = self.answer(scope, &self.values, detour.paths.clone(), first, end, world);
        self.commented(answer, "rewrite", world)
    }

    /// Whether a location that keeps clients out may take paths that begin so.
    fn may_be_guarded(&self, start: &str, is_whole: bool) -> bool {
        self.locations.iter().any(|one| {
            let may_take = match &one.kind {
                Kind::Exact(path) => path.starts_with(start),
                Kind::Prefix(path) => {
                    start.starts_with(path.as_str()) || !is_whole && path.starts_with(start)
                }
                Kind::Regex(pattern) => patterns::may_take(pattern, start, is_whole),
            };
            may_take && (one.is_closed || guards::first_of(one.scope.own()).is_some())
        })
    }

    /// The path that nginx redirects to the location: its prefix without the slash at the end, where requests are passed on and no other
    /// location takes that path by name.
    fn without_slash<'l>(&self, location: &'l Location<'f>) -> Option<&'l str> {
        const PASSES: [&str; 5] = ["proxy_pass", "grpc_pass", "fastcgi_pass", "uwsgi_pass", "scgi_pass"];
        let Kind::Prefix(prefix) = &location.kind else { return None };
        let path = prefix.strip_suffix('/').filter(|path| patterns::is_plain(path))?;
        let is_other = |one: &Location<'f>| matches!(&one.kind, Kind::Exact(other) | Kind::Prefix(other) if other == path);
        let passes = location.scope.own().iter().any(|one| PASSES.contains(&one.name.as_str()));
        (passes && !self.locations.iter().any(is_other)).then_some(path)
    }

    /// The one location that takes all paths that begin so.
    pub(super) fn target(&self, start: &str, is_whole: bool) -> Result<&Location<'f>, String> {
        const WHY: &str = "which location it leads to is not known before the request comes";
        let exact = self
            .locations
            .iter()
            .find(|one| matches!(&one.kind, Kind::Exact(path) if is_whole && path == start));
        if let Some(exact) = exact {
            return Ok(exact);
        }
        let takes = |one: &&Location<'f>| match &one.kind {
            Kind::Prefix(prefix) => start.starts_with(prefix.as_str()),
            Kind::Exact(_) | Kind::Regex(_) => false,
        };
        let length = |one: &&Location<'f>| match &one.kind {
            Kind::Prefix(prefix) => prefix.len(),
            Kind::Exact(_) | Kind::Regex(_) => 0,
        };
        let found = self
            .locations
            .iter()
            .filter(takes)
            .max_by_key(length)
            .ok_or("no location takes what it leads to")?;
        let may_be_other = |one: &Location<'f>| match &one.kind {
            Kind::Prefix(path) | Kind::Exact(path) => {
                !is_whole && path.len() > start.len() && path.starts_with(start)
            }
            Kind::Regex(pattern) => match is_whole {
                true => regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(start)),
                false => !found.directive.first().starts_with("^~"),
            },
        };
        if self.locations.iter().any(may_be_other) {
            return Err(WHY.to_owned());
        }
        Ok(found)
    }

    /// The paths of a location's own rewrite must be paths of that location, as its route goes before others.
    fn is_confined(&self, paths: &PathMatch, from: Option<&Location<'f>>) -> Result<(), String> {
        let (Some(from), PathMatch::Regex(pattern)) = (from, paths) else { return Ok(()) };
        let start = patterns::literal_start(pattern).unwrap_or_default();
        let is_confined = match &from.kind {
            Kind::Prefix(prefix) => {
                let is_other = |one: &Location<'f>| match &one.kind {
                    Kind::Prefix(other) | Kind::Exact(other) => {
                        other.len() > prefix.len()
                            && (other.starts_with(&start) || start.starts_with(other.as_str()))
                    }
                    Kind::Regex(_) => false,
                };
                start.starts_with(prefix.as_str()) && !self.locations.iter().any(is_other)
            }
            Kind::Exact(_) | Kind::Regex(_) => false,
        };
        is_confined
            .then_some(())
            .ok_or_else(|| "its expression takes paths of other locations as well, or may".to_owned())
    }
}

fn is_of_rewrites(directive: &Directive) -> bool {
    matches!(directive.name.as_str(), "rewrite" | "if" | "return" | "internal")
}

/// The `return` that is all of a block's rewrites.
fn only_answer<'f>(scope: &Scope<'f>) -> Option<&'f Directive> {
    let mut found = scope.own().iter().filter(|one| is_of_rewrites(one));
    let first = found.next().filter(|one| one.name == "return")?;
    found.next().is_none().then_some(first)
}

/// Whether a location that a rewrite of its own leads back to does more with the new path than pass it on.
fn is_asked_again(
    scope: &Scope<'_>,
    rewrite: &Directive,
    start: &str,
    is_whole: bool,
    world: &World<'_>,
) -> bool {
    scope.own().iter().any(|one| match one.name.as_str() {
        "return" => true,
        "if" => goes_by_path(one, world),
        "rewrite" => one.first() != rewrite.first() && patterns::may_take(one.first(), start, is_whole),
        _ => false,
    })
}
