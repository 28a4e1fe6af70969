//! HTTPRoutes and GRPCRoutes as routes of ours, for each port that they are served at.

use std::collections::BTreeMap;

use super::{
    attach::{self, Host, Rank},
    backends::Backends,
    filters::{NewPath, Step},
    gateways::{Gateways, Port, Speaks},
    matches::Match,
    objects::{Object, Objects},
    redirects,
    rules::{self, Action, Kind, Rule, Split},
};
use crate::{
    config::PathMatch,
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report, literal, template},
        hostnames,
        table::{RouteDraft, Routes, prune},
    },
    route::normalise,
};

#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub routes: Routes,
    /// Names of the routes of each port.
    pub served: BTreeMap<usize, Vec<String>>,
}

/// The routes of all ports.
pub(crate) fn tables<'f>(
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Tables {
    let mut by_port: BTreeMap<usize, Vec<(Rank, RouteDraft<'f>)>> = BTreeMap::new();
    for (kind, routes) in [(Kind::Http, &objects.http_routes), (Kind::Grpc, &objects.grpc_routes)] {
        for route in routes {
            add_route(kind, route, objects, gateways, backends, &mut by_port, report);
        }
    }
    let mut tables = Tables::default();
    for port in 0..gateways.ports.len() {
        let mut ranked = by_port.remove(&port).unwrap_or_default();
        // Where all else is equal, the first in the file goes first.
        ranked.sort_by_key(|(rank, _)| *rank);
        let mut drafts: Vec<RouteDraft<'f>> = ranked.into_iter().map(|(_, draft)| draft).collect();
        drafts.extend(ends_of_listeners(port, gateways));
        prune(&mut drafts, report);
        let names = drafts.into_iter().map(|draft| tables.routes.add(draft)).collect();
        tables.served.insert(port, names);
    }
    tables
}

fn add_route<'f>(
    kind: Kind,
    route: &Object<'f>,
    objects: &Objects<'f>,
    gateways: &Gateways<'f>,
    backends: &mut Backends<'f>,
    by_port: &mut BTreeMap<usize, Vec<(Rank, RouteDraft<'f>)>>,
    report: &mut Report,
) {
    let mut spec = Fields::of("spec", route.spec, report);
    let attached = attach::attach(kind.name(), route, &mut spec, objects, gateways, report);
    let written = spec.list("rules", report);
    spec.finish("it has no equal here", report);
    for (port, hosts) in attached {
        // A Gateway may show backends a certificate of its own.
        backends.show(gateways.ports[port].client_cert.clone());
        let rules: Vec<Rule<'f>> =
            written.iter().map(|rule| rules::read(kind, route, rule, backends, report)).collect();
        let drafts = by_port.entry(port).or_default();
        for (rank, group) in groups(&hosts) {
            for (number, rule) in rules.iter().enumerate() {
                for (index, one) in rule.matches.iter().enumerate() {
                    let mut name = format!("{}/{}", route.namespace, route.name);
                    if rules.len() > 1 || rule.matches.len() > 1 {
                        name.push_str(&format!("/{}", number + 1));
                    }
                    if rule.matches.len() > 1 {
                        name.push_str(&format!(".{}", index + 1));
                    }
                    let port = &gateways.ports[port];
                    drafts.push((rank, draft_of(name, &group, rule, one, port, report)));
                }
            }
        }
    }
}

/// The hosts of a route as they may stand in one: no host is any host, so those with names are apart, as are those of another rank.
fn groups(hosts: &[Host]) -> Vec<(Rank, Vec<String>)> {
    let mut groups: Vec<(Rank, bool, Vec<String>)> = Vec::new();
    for host in hosts {
        let is_any = host.name.is_none();
        let known = groups.iter_mut().find(|(rank, any, _)| (*rank, *any) == (host.rank, is_any));
        match known {
            Some((_, _, names)) => names.extend(host.name.clone()),
            None => groups.push((host.rank, is_any, host.name.clone().into_iter().collect())),
        }
    }
    groups.sort_by_key(|(_, is_any, _)| !is_any);
    groups.into_iter().map(|(rank, _, names)| (rank, names)).collect()
}

fn draft_of<'f>(
    name: String,
    hosts: &[String],
    rule: &Rule<'f>,
    one: &Match<'f>,
    port: &Port<'_>,
    report: &mut Report,
) -> RouteDraft<'f> {
    let mut rest = Map::new();
    let chain = written_chain(&rule.chain, one, report);
    if !chain.is_empty() {
        rest.set("filters", chain);
    }
    for (key, value) in rule.settings.entries() {
        rest.set(key, value.clone());
    }
    let mut draft = RouteDraft {
        what: format!("the match of {name}"),
        name,
        hosts: hosts.to_vec(),
        path: one.path.clone(),
        methods: one.methods.clone(),
        headers: one.headers.clone(),
        query: one.query.clone(),
        rest,
        at: one.at,
    };
    match &rule.action {
        Action::Upstream(upstream) => draft.rest.set("upstream", upstream.as_str()),
        Action::Split(split) => draft.rest.set("split", written_split(split, one, report)),
        Action::Respond(status) => draft.rest.set("respond", Map::new().with("status", *status)),
        Action::Redirect(redirect) => {
            let written = redirects::written(redirect, &draft, port, report);
            draft.rest.set("redirect", written);
        }
    }
    draft
}

fn written_chain(chain: &[Step], one: &Match<'_>, report: &mut Report) -> List {
    chain.iter().filter_map(|step| written_step(step, one, report)).collect()
}

fn written_split(split: &Split, one: &Match<'_>, report: &mut Report) -> Map {
    let mut to = List::new();
    for (number, variant) in split.to.iter().enumerate() {
        let mut written = Map::new();
        let is_again = split.to[..number].iter().any(|before| before.upstream == variant.upstream);
        if is_again {
            // Variants have names of their own.
            written.set("name", format!("{}#{}", variant.upstream, number + 1));
        }
        written = written.with("upstream", variant.upstream.as_str()).with("weight", variant.weight);
        let filters = written_chain(&variant.chain, one, report);
        if !filters.is_empty() {
            written.set("filters", filters);
        }
        to.push(written);
    }
    let mut written = Map::new();
    if let Some(by) = &split.by {
        written.set("by", by.clone());
    }
    written.with("to", to)
}

fn written_step(step: &Step, one: &Match<'_>, report: &mut Report) -> Option<Node> {
    let (host, path) = match step {
        Step::Ready(filter) => return Some(filter.clone().into()),
        Step::Rewrite { host, path } => (host, path),
    };
    let mut rewrite = Map::new();
    match (path, &one.path) {
        (None, _) => {}
        (Some(NewPath::Full(path)), _) => rewrite.set("path", template(path)),
        (Some(NewPath::Prefix(new)), PathMatch::Prefix(old)) if old == "/" => {
            if new != "/" {
                rewrite.set("add_prefix", literal(new));
            }
        }
        (Some(NewPath::Prefix(new)), PathMatch::Prefix(old)) if new == "/" => {
            rewrite.set("strip_prefix", literal(old))
        }
        (Some(NewPath::Prefix(new)), PathMatch::Prefix(old)) => {
            // Of `/old` no slash is left at the end, which `strip_prefix` and `add_prefix` would make.
            let old = normalise(old).map_or_else(|_| old.clone(), std::borrow::Cow::into_owned);
            let pattern = format!("^{}(/|$)", regex::escape(&old));
            let replacement = format!("{}$1", new.trim_end_matches('/').replace('$', "$$"));
            rewrite.set(
                "regex",
                Map::new().with("pattern", literal(&pattern)).with("replacement", literal(&replacement)),
            );
        }
        (Some(NewPath::Prefix(_)), _) => {
            report.entry(
                "matches",
                one.at,
                "replacePrefixMatch is for matches of the type PathPrefix: the path stays",
            );
        }
    }
    if let Some(host) = host {
        rewrite.set("host", literal(host));
    }
    (!rewrite.is_empty()).then(|| Map::new().with("rewrite", rewrite).into())
}

/// Routes of 404 for listeners that lie inside another one of their port: their requests must not come to the other's routes.
fn ends_of_listeners<'f>(port: usize, gateways: &Gateways<'f>) -> Vec<RouteDraft<'f>> {
    let is_http = |speaks: Speaks| matches!(speaks, Speaks::Http | Speaks::Https);
    let own: Vec<_> = gateways.on(port).filter(|listener| is_http(listener.speaks)).collect();
    let mut ends = Vec::new();
    for listener in &own {
        let Some(hostname) = &listener.hostname else { continue };
        let lies_inside = |other: &&&_| {
            let other: &super::gateways::Listener<'_> = other;
            other.hostname != listener.hostname
                && hostnames::covers(other.hostname.as_deref(), Some(hostname))
        };
        if own.iter().any(|other| lies_inside(&other)) {
            ends.push(RouteDraft {
                name: format!("{}/{}/{}", listener.gateway.0, listener.gateway.1, listener.name),
                hosts: vec![hostname.clone()],
                path: PathMatch::Prefix("/".into()),
                methods: Vec::new(),
                headers: Vec::new(),
                query: Vec::new(),
                rest: Map::new().with("respond", Map::new().with("status", 404)),
                at: gateways.ports[port].at,
                what: String::new(),
            });
        }
    }
    ends
}
