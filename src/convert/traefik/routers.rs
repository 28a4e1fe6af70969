//! Routers of HTTP as routes, for each entry point.

use std::collections::BTreeMap;

use super::{
    acme::Order,
    entry_points::{EntryPoint, EntryPoints},
    matching::Matching,
    middlewares::{Chain, Middlewares},
    order::{self, Difference, Ranked},
    rule,
    services::{Services, Target},
    tls::Tls,
};
use crate::{
    config::{Foreign, ForeignValue},
    convert::{
        draft::{List, Map, Node},
        fields::{Fields, Report},
        table::{RouteDraft, Routes, prune},
    },
};

/// What an entry point serves.
#[derive(Debug, Default)]
pub(crate) struct Table<'f> {
    pub routes: Vec<String>,
    pub has_tls: bool,
    /// The name of the options of TLS.
    pub tls_options: Option<String>,
    pub orders: Vec<Order<'f>>,
}

/// A router as it was read; the lower its place in the list, the earlier it is tried.
struct Router<'f> {
    name: &'f str,
    at: &'f Foreign,
    /// Why there are none, where it may be guarded and so is not left out.
    alternatives: Result<rule::Alternatives, String>,
    priority: i64,
    middlewares: &'f [Foreign],
    service: &'f str,
    points: Vec<usize>,
    /// `Some(None)` is `tls:` or `tls: {}`.
    tls: Option<Option<&'f Foreign>>,
}

/// The names of entry points in routers, and where they stand.
pub(crate) fn entry_points<'f>(
    routers: &[(&'f str, &'f Foreign)],
) -> impl Iterator<Item = (&'f str, &'f Foreign)> {
    routers
        .iter()
        .flat_map(|(_, router)| router.find("entryPoints"))
        .flat_map(|names| names.one_or_more())
        .filter_map(|name| Some((name.text()?, name)))
}

/// The entry points that a router is on.
pub(crate) fn points_of(router: &Foreign, points: &EntryPoints<'_>) -> Vec<usize> {
    match router.find("entryPoints").map(Foreign::one_or_more) {
        None | Some([]) => points.defaults(),
        Some(names) => {
            let named = |point: &EntryPoint<'_>| names.iter().any(|name| name.text() == Some(&point.name));
            points.all.iter().enumerate().filter(|(_, point)| named(point)).map(|(index, _)| index).collect()
        }
    }
}

pub(crate) fn tables<'f>(
    routers: &[(&'f str, &'f Foreign)],
    points: &EntryPoints<'f>,
    middlewares: &Middlewares<'f>,
    services: &mut Services<'f>,
    tls: &Tls<'f>,
    routes: &mut Routes,
    report: &mut Report,
) -> BTreeMap<usize, Table<'f>> {
    let mut read: Vec<Router<'f>> = Vec::new();
    for (name, router) in routers {
        match read_router(name, router, points, report) {
            Ok(router) => read.push(router),
            Err(why) => report.entry(name, router, why),
        }
    }
    read.sort_by_key(|router| std::cmp::Reverse(router.priority));
    tell_of_prefixes(&read, report);
    let mut tables = BTreeMap::new();
    let on = |index: usize| read.iter().filter(move |router| router.points.contains(&index));
    let speaks: Vec<bool> = points
        .all
        .iter()
        .enumerate()
        .map(|(index, point)| speaks_tls(point, &on(index).collect::<Vec<_>>(), points))
        .collect();
    let fits =
        |router: &Router<'f>, index: usize| tls_of(router, &points.all[index]).is_some() == speaks[index];
    for (index, point) in points.all.iter().enumerate() {
        let has_tls = speaks[index];
        // The port speaks TLS or not; of the routers that do not fit it, those that are nowhere else are reported.
        let (fitting, others): (Vec<&Router<'f>>, Vec<&Router<'f>>) =
            on(index).partition(|router| fits(router, index));
        for router in others {
            let is_elsewhere = router.points.iter().any(|other| fits(router, *other));
            if !is_elsewhere || router.at.find("entryPoints").is_some() {
                report.entry(
                    router.name,
                    router.at,
                    format!("`{}` speaks TLS, and the router has no `tls`", point.name),
                );
            }
        }
        let tls_options = fitting.iter().find_map(|router| options_of(tls_of(router, point)));
        let mut orders: Vec<Order<'f>> = Vec::new();
        for order in fitting.iter().filter_map(|router| order(router, point, report)) {
            if !orders.contains(&order) {
                orders.push(order);
            }
        }
        let tls_options = tls_options.map(ToOwned::to_owned);
        let mut table = Table { routes: Vec::new(), has_tls, tls_options, orders };
        let mut drafts = drafts(&fitting, point, &table, middlewares, services, tls, report);
        prune(&mut drafts, report);
        table.routes = drafts.into_iter().map(|draft| routes.add(draft)).collect();
        tables.insert(index, table);
    }
    tables
}

/// Traefik listens for both on one port; here it speaks TLS or not. Those that name the entry point decide, as routers on all are on those for
/// plain text, too, where they are never asked.
fn speaks_tls(point: &EntryPoint<'_>, own: &[&Router<'_>], points: &EntryPoints<'_>) -> bool {
    let has_tls = |router: &&Router<'_>| tls_of(router, point).is_some();
    let mut naming = own.iter().filter(|router| router.at.find("entryPoints").is_some()).peekable();
    if point.tls.is_some() || naming.peek().is_some() {
        return point.tls.is_some() || naming.any(has_tls);
    }
    let is_secure = |point: &EntryPoint<'_>| {
        point.name.contains("secure") || point.name == "https" || point.address.ends_with("443")
    };
    let is_for_tls = is_secure(point) || (own.iter().all(has_tls) && !points.all.iter().any(is_secure));
    is_for_tls && own.iter().any(has_tls)
}

fn read_router<'f>(
    name: &'f str,
    router: &'f Foreign,
    points: &EntryPoints<'f>,
    report: &mut Report,
) -> Result<Router<'f>, String> {
    let mut fields = Fields::of(name, router, report);
    let rule = fields.text("rule", report).ok_or("it has no rule")?;
    let service = fields.text("service", report).ok_or("it has no service")?;
    let priority = fields.number("priority", 0, i64::MAX, report).filter(|priority| *priority > 0);
    let middlewares = fields.one_or_more("middlewares");
    fields.skip(&["entryPoints", "tls"]);
    fields.needless(&["ruleSyntax"], "since rules are read in both syntaxes", report);
    let of_all = "the access log, metrics and traces are of all routes: see `log.access.when`";
    fields.leave("observability", of_all, report);
    fields.finish("it has no equal here", report);
    let tls = router
        .entries()
        .iter()
        .find(|(name, _)| name == "tls")
        .map(|(_, tls)| Some(tls).filter(|tls| tls.value != ForeignValue::Null));
    if let Some(Some(tls)) = tls {
        finish_tls(tls, report);
    }
    let own = points_of(router, points);
    if own.is_empty() {
        return Err("none of its entry points is there".to_owned());
    }
    let alternatives = rule::parse(rule).map_err(|error| format!("its rule: {error}"));
    if middlewares.is_empty() && options_of(tls).is_none() {
        alternatives.as_ref().map_err(Clone::clone)?;
    }
    Ok(Router {
        name,
        at: router,
        alternatives,
        // By default, the longer rule goes first.
        priority: priority.unwrap_or(i64::try_from(rule.len()).unwrap_or(i64::MAX)),
        middlewares,
        service,
        points: own,
        tls,
    })
}

/// What is read of it where it holds is not looked at here.
pub(crate) fn finish_tls(tls: &Foreign, report: &mut Report) {
    let mut fields = Fields::of("tls", tls, report);
    fields.skip(&["options", "certResolver"]);
    if tls.find("certResolver").is_some() {
        fields.skip(&["domains"]);
    }
    fields.needless(&["domains"], "since no CA is asked for their certificates", report);
    fields.finish("it has no equal here", report);
}

/// The certificates that a router wants from a CA: for its domains, or for the hosts of its rule.
fn order<'f>(router: &Router<'f>, point: &EntryPoint<'f>, report: &mut Report) -> Option<Order<'f>> {
    let tls = tls_of(router, point)??;
    let resolver = tls.find_text("certResolver").filter(|name| !name.is_empty())?;
    let mut names: Vec<String> = Vec::new();
    for domain in tls.find("domains").map_or(&[][..], Foreign::one_or_more) {
        let mut fields = Fields::of("domains", domain, report);
        let (main, others) = (fields.text("main", report), fields.texts("sans", report));
        fields.finish("it has no equal here", report);
        names.extend(main.into_iter().chain(others).map(str::to_ascii_lowercase));
    }
    if names.is_empty() {
        let atoms = router.alternatives.iter().flatten().flatten();
        let hosts = atoms.filter(|atom| atom.name == "host" && atom.holds).flat_map(|atom| &atom.args);
        names.extend(hosts.map(|host| host.to_ascii_lowercase()));
    }
    Some(Order { resolver, names, at: tls })
}

/// A router's own, or what its entry point says for all.
fn tls_of<'f>(router: &Router<'f>, point: &EntryPoint<'f>) -> Option<Option<&'f Foreign>> {
    router.tls.or(point.tls.map(|tls| Some(tls).filter(|tls| tls.value != ForeignValue::Null)))
}

/// Those of another provider go by their whole name, which no file here has.
pub(crate) fn options_of(tls: Option<Option<&Foreign>>) -> Option<&str> {
    let name = tls??.find_text("options")?;
    Some(super::services::local(name).unwrap_or(name))
}

fn drafts<'f>(
    routers: &[&Router<'f>],
    point: &EntryPoint<'f>,
    table: &Table<'_>,
    middlewares: &Middlewares<'f>,
    services: &mut Services<'f>,
    tls: &Tls<'f>,
    report: &mut Report,
) -> Vec<RouteDraft<'f>> {
    let mut ranked: Vec<Ranked> = Vec::new();
    let mut targets: Vec<Option<Map>> = Vec::new();
    for (rank, router) in routers.iter().enumerate() {
        let target = target(router, point, table, middlewares, services, tls, report);
        if let Some(target) = &target {
            ranked.extend(routes_of(router, rank, target.guards, report));
        }
        targets.push(target.map(|target| target.rest));
    }
    let (ranked, differences) = order::arrange(ranked);
    tell(&differences, routers, report);
    let mut drafts: Vec<RouteDraft<'f>> = Vec::new();
    for route in ranked {
        let Some(rest) = &targets[route.rank] else { continue };
        let draft = draft(&route, routers, rest, report);
        // Routes that differ in their hosts alone are one.
        let same = drafts.iter_mut().rev().take_while(|known| known.at.line == draft.at.line).find(|known| {
            let other =
                RouteDraft { hosts: draft.hosts.clone(), name: draft.name.clone(), ..(*known).clone() };
            other.written() == draft.written() && !known.hosts.is_empty() && !draft.hosts.is_empty()
        });
        match same {
            Some(same) => same.hosts.extend(
                draft.hosts.into_iter().filter(|host| !same.hosts.contains(host)).collect::<Vec<_>>(),
            ),
            None => drafts.push(draft),
        }
    }
    number(&mut drafts);
    drafts
}

/// The routes of a router. Where one cannot be said, a guarded router gets a wider one that answers 503: another router, which may be open,
/// must not have its requests.
fn routes_of(router: &Router<'_>, rank: usize, guards: bool, report: &mut Report) -> Vec<Ranked> {
    let mut routes = Vec::new();
    let ranked = |matching, is_wider| Ranked { matching, rank, beside: None, is_wider, guards };
    let mut wrong = |why: &str| {
        let why = match guards {
            true => {
                format!("`{}` is guarded, and answers 503 to all that it may be about: {why}", router.name)
            }
            false => format!("a part of `{}` is left out: {why}", router.name),
        };
        report.entry("rule", router.at.find("rule").unwrap_or(router.at), why);
    };
    let alternatives = match &router.alternatives {
        Ok(alternatives) => alternatives,
        Err(why) => {
            wrong(why);
            return guards.then(|| ranked(Matching::anything(), true)).into_iter().collect();
        }
    };
    // What an open router asks for in vain is taken out with what never matches (`prune`).
    let error_of = |matching: &Matching| unfiltered(matching, router).rule(0).err().filter(|_| guards);
    for atoms in alternatives {
        let matching = Matching::of(atoms).and_then(|matching| match matching.as_ref().and_then(error_of) {
            Some(why) => Err(why),
            None => Ok(matching),
        });
        match matching {
            Ok(matching) => routes.extend(matching.map(|matching| ranked(matching, false))),
            Err(why) => {
                wrong(&why);
                let wider = || Matching::wider(atoms, |one| error_of(one).is_none());
                routes.extend(guards.then(wider).flatten().map(|matching| ranked(matching, true)));
            }
        }
    }
    routes
}

fn draft<'f>(route: &Ranked, routers: &[&Router<'f>], rest: &Map, report: &mut Report) -> RouteDraft<'f> {
    let router = routers[route.rank];
    let mut rest = if route.is_wider { refusal() } else { rest.clone() };
    if !route.matching.clients.is_empty() {
        report.entry(
            "rule",
            router.at.find("rule").unwrap_or(router.at),
            format!("clients of other networks get 403 from `{}`, and not the next router", router.name),
        );
        let rules = Map::new().with(
            "ip_rules",
            Map::new()
                .with("allow", route.matching.clients.iter().cloned().collect::<List>())
                .with("by", "peer"),
        );
        let mut filters = List::from_iter([rules]);
        if let Some(Node::List(own)) = rest.find("filters") {
            own.items().for_each(|own| filters.push(own.clone()));
        }
        rest.set("filters", filters);
    }
    let name = match route.beside {
        Some(other) => format!("{}+{}", router.name, routers[other].name),
        None => router.name.to_owned(),
    };
    let what = if route.beside.is_some() { String::new() } else { format!("router {}", router.name) };
    RouteDraft { name, rest, what, ..unfiltered(&route.matching, router) }
}

/// What a match asks for, without what becomes of it.
fn unfiltered<'f>(matching: &Matching, router: &Router<'f>) -> RouteDraft<'f> {
    RouteDraft {
        name: String::new(),
        hosts: matching.host.iter().cloned().collect(),
        path: matching.path.clone(),
        methods: matching.methods.clone(),
        headers: matching.headers.clone(),
        query: matching.query.clone(),
        rest: Map::new(),
        at: router.at,
        what: String::new(),
    }
}

fn refusal() -> Map {
    Map::new().with("respond", Map::new().with("status", 503_i64))
}

/// Several routes of one name get a number each.
fn number(drafts: &mut [RouteDraft<'_>]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for draft in drafts {
        let count = seen.entry(draft.name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            draft.name = format!("{}/{count}", draft.name);
        }
    }
}

/// What becomes of a router's requests.
struct Served {
    /// What stands beside `match` in its routes.
    rest: Map,
    /// Whether some are refused, so that no other router may get what its own do not take.
    guards: bool,
}

/// What becomes of the requests of a router; `None` where it leads nowhere, and other routers get its requests, as in Traefik.
fn target<'f>(
    router: &Router<'f>,
    point: &EntryPoint<'f>,
    table: &Table<'_>,
    middlewares: &Middlewares<'f>,
    services: &mut Services<'f>,
    tls: &Tls<'f>,
    report: &mut Report,
) -> Option<Served> {
    let mut chain: Chain = middlewares.chain(point.middlewares, report);
    let own = middlewares.chain(router.middlewares, report);
    own.filters.items().for_each(|filter| chain.filters.push(filter.clone()));
    let refused = own.refused.or(chain.refused).or_else(|| refused_by_tls(router, point, table, tls, report));
    let guards = own.guards || refused.is_some();
    if refused.is_some() {
        return Some(Served { rest: refusal(), guards });
    }
    let breaker = own.breaker.or(chain.breaker);
    let Target { route, filters } = match services.target(router.service, breaker.as_ref(), report) {
        Ok(target) => target,
        Err(why)
            if !guards
                && (why.starts_with("there is no service") || why.ends_with("of another provider")) =>
        {
            report.entry(router.name, router.at, why);
            return None;
        }
        Err(why) => {
            report.entry(router.name, router.at, format!("{why}: the router answers 503"));
            return Some(Served { rest: refusal(), guards });
        }
    };
    filters.into_iter().for_each(|filter| chain.filters.push(filter));
    let mut rest = Map::new();
    if !chain.filters.is_empty() {
        rest.set("filters", chain.filters);
    }
    if let Some(retry) = own.retry.or(chain.retry) {
        rest.set("retry", retry);
    }
    for (key, value) in route.entries() {
        rest.set(key, value.clone());
    }
    Some(Served { rest, guards })
}

/// Options of TLS are a listener's: a router that asks clients for certificates must not be served by one that does not.
fn refused_by_tls(
    router: &Router<'_>,
    point: &EntryPoint<'_>,
    table: &Table<'_>,
    tls: &Tls<'_>,
    report: &mut Report,
) -> Option<String> {
    if !table.has_tls {
        return None;
    }
    let own = options_of(tls_of(router, point)).unwrap_or("default");
    let of_listener = table.tls_options.as_deref().unwrap_or("default");
    if own == of_listener && tls.has_options(own) {
        return None;
    }
    let asks = tls.asks_clients(own) || !tls.has_options(own);
    let what = if asks { ": the router answers 503" } else { "" };
    report.add(
        router.at,
        format!("router {}: the options {own:?} of TLS", router.name),
        format!("a listener has one set of options, and `{}` has {of_listener:?}{what}", point.name),
    );
    asks.then(|| "options of TLS".to_owned())
}

/// Once for all, as nearly every router has one.
fn tell_of_prefixes(routers: &[Router<'_>], report: &mut Report) {
    let mut inside = Vec::new();
    for router in routers {
        for atom in router
            .alternatives
            .iter()
            .flatten()
            .flatten()
            .filter(|atom| atom.name == "pathprefix" && atom.holds)
        {
            let prefix = atom.args.first().filter(|prefix| !prefix.ends_with('/') && !prefix.contains('{'));
            inside.extend(prefix.map(|prefix| (router.at.find("rule").unwrap_or(router.at), prefix)));
        }
    }
    inside.sort_by_key(|(at, _)| at.place());
    if let Some((at, prefix)) = inside.first() {
        let why = match inside.len() {
            1 => "a prefix of ours ends with a segment".to_owned(),
            several => format!("a prefix of ours ends with a segment, as in {several} rules of these files"),
        };
        report.add(
            at,
            format!("PathPrefix(`{prefix}`) for {prefix}x"),
            format!("{why}: `path: {{regex: \"^{prefix}\"}}` takes both"),
        );
    }
}

fn tell(differences: &[Difference], routers: &[&Router<'_>], report: &mut Report) {
    for difference in differences {
        match difference {
            Difference::Covered { by, rank } if by == rank => {}
            Difference::Covered { by, rank } => {
                let router = routers[*rank];
                report.add(
                    router.at,
                    format!("router {}", router.name),
                    format!("`{}` always goes first, or for a part of it", routers[*by].name),
                );
            }
            Difference::Unclear { first, second } => {
                let router = routers[*second];
                report.add(
                    router.at,
                    format!("router {}", router.name),
                    format!(
                        "`{}` goes before it in Traefik, and after it here, where a request fits both",
                        routers[*first].name
                    ),
                );
            }
            Difference::Closed { first, second } => {
                let router = routers[*second];
                let first = routers[*first].name;
                report.add(
                    router.at,
                    format!("router {}", router.name),
                    format!("`{first}` is guarded and goes before it in Traefik, and no match says where a request fits both: it answers 503"),
                );
            }
            Difference::TooMany => {
                let at = routers[0].at;
                report.add(at, "the order of the routers", "there are too many to be compared: the most specific route goes first, whatever the priority");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::convert::traefik::written;

    /// These routers, all to one service, beside the middlewares `auth` and `ok`.
    fn with(routers: &str) -> serde_json::Value {
        let text = written(&format!(
            "entryPoints: {{inside: {{address: ':81'}}, web: {{address: ':80'}}}}
http:
  routers:
{routers}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}]}}}}}}
  middlewares: {{auth: {{ipAllowList: {{sourceRange: [10.0.0.0/8]}}}}, chained: {{chain: {{middlewares: auth}}}}, add: {{addPrefix: {{prefix: /a}}}}}}
"
        ));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn names_without_a_list_are_a_list_of_one() {
        for middlewares in ["auth", "[auth]", "chained"] {
            let file = with(&format!("    r: {{rule: 'Host(`a`)', service: s, middlewares: {middlewares}}}"));
            assert_eq!(file["routes"][0]["filters"][0]["ip_rules"]["allow"][0], "10.0.0.0/8", "{file}");
        }
        let file = with("    r: {rule: 'Host(`a`)', service: s, entryPoints: inside}");
        assert_eq!(file["listeners"].as_array().unwrap().len(), 1, "{file}");
        assert_eq!(file["listeners"][0]["name"], "inside");
        let file = with("    r: {rule: 'Host(`a`)', service: s, middlewares: {auth: yes}}");
        assert_eq!(file["routes"][0]["respond"]["status"], 503, "{file}");
    }

    #[test]
    fn no_other_router_gets_the_requests_of_a_guarded_one() {
        for rule in [
            "Host(`a`) && !Method(`GET`)",
            "Host(`a`) && PathRegexp(`(`)",
            "Host(`a`) && Tea(`x`)",
            "Host(`a`) && Header(`b`, `c`) && HeaderRegexp(`b`, `d`) && !Method(`GET`)",
            "Host(`a`) && !PathPrefix(`/x`) && ClientIP(`10.0.0.0/8`)",
            "Host(`a`",
        ] {
            for guarded in ["auth", "[chained]", "[none]", "[add, auth]"] {
                let file = with(&format!(
                    "    guarded: {{rule: '{rule}', service: s, middlewares: {guarded}, priority: 9}}
    open: {{rule: 'Host(`a`)', service: s, priority: 8}}"
                ));
                let routes = file["routes"].as_array().unwrap();
                let is_refused = |route: &&serde_json::Value| route["respond"]["status"] == 503;
                assert!(routes.iter().any(|route| is_refused(&route)), "{rule} {guarded}\n{file:#}");
                let first = routes.iter().position(|route| is_refused(&route));
                let open = routes.iter().position(|route| route["name"] == "open");
                assert!(open.is_none_or(|open| first < Some(open)), "{rule} {guarded}\n{file:#}");
                // Only what it asks for for sure is asked for here.
                assert_eq!(open.is_some(), rule.contains("Header"), "{rule} {guarded}\n{file:#}");
            }
            let file = with(&format!(
                "    first: {{rule: '{rule}', service: s, middlewares: add, priority: 9}}
    open: {{rule: 'Host(`a`)', service: s, priority: 8}}"
            ));
            assert!(
                file["routes"].as_array().unwrap().iter().any(|route| route["name"] == "open"),
                "{rule}\n{file:#}"
            );
        }
    }

    #[test]
    fn a_guarded_router_to_nowhere_answers_itself() {
        for service in ["s@docker", "other"] {
            let file = with(&format!(
                "    guarded: {{rule: 'Host(`a`) && PathPrefix(`/x`)', service: {service}, middlewares: auth}}
    open: {{rule: 'Host(`a`)', service: s}}"
            ));
            assert_eq!(file["routes"][0]["respond"]["status"], 503, "{file:#}");
        }
    }

    #[test]
    fn a_router_that_fits_no_entry_point_is_named() {
        let of = |plain: &str| {
            written(&format!(
                "entryPoints: {{a: {{address: ':443'}}, b: {{address: ':8443'}}}}
http:
  routers:
    one: {{rule: 'Host(`one`)', service: s, entryPoints: a, tls: {{}}}}
    two: {{rule: 'Host(`two`)', service: s, entryPoints: b, tls: {{}}}}
    plain: {{rule: 'Host(`plain`)', service: s{plain}}}
  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}]}}}}}}
"
            ))
        };
        for plain in ["", ", entryPoints: a", ", entryPoints: [a, b]"] {
            let text = of(plain);
            assert!(text.contains("# a.yaml:6: not carried over: plain: "), "{plain}: {text}");
        }
        assert!(of(", entryPoints: none").contains("# a.yaml:6: not carried over: entryPoints: none ("));
    }

    #[test]
    fn an_open_router_that_may_get_requests_of_a_guarded_one_is_closed() {
        let rules = |middlewares: &str| {
            with(&format!(
                "    guarded: {{rule: 'PathPrefix(`/a`)', service: s, middlewares: auth, priority: 9}}
    other: {{rule: 'Host(`a`) && PathRegexp(`x`)', service: s{middlewares}, priority: 8}}"
            ))
        };
        let route = |file: &serde_json::Value, name: &str| {
            file["routes"].as_array().unwrap().iter().find(|route| route["name"] == name).cloned()
        };
        let file = rules("");
        assert_eq!(route(&file, "other"), None, "{file:#}");
        assert_eq!(route(&file, "guarded+other").unwrap()["respond"]["status"], 503, "{file:#}");
        let file = rules(", middlewares: auth");
        assert!(route(&file, "other").is_some() && route(&file, "guarded+other").is_none(), "{file:#}");
    }
}
