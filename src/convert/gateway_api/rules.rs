//! The rules of HTTPRoutes and GRPCRoutes: what they match, and what becomes of it. Which hosts and ports they are served at is not known here.

use super::{
    backends::{Backend, Backends, ServicePort, Use},
    filters::{self, Filters, Step},
    matches::{Match, read_match},
    objects::Object,
};
use crate::{
    config::{Foreign, PathMatch},
    convert::{
        draft::{List, Map, Node},
        durations::{GATEWAY_API, milliseconds},
        fields::{Fields, Report, percent},
        upstreams::scale,
    },
};

/// A rule with all that it says, ready to be served at any host and port.
#[derive(Debug)]
pub(crate) struct Rule<'f> {
    pub matches: Vec<Match<'f>>,
    pub chain: Vec<Step>,
    pub action: Action,
    /// `timeout`, `retry` and `mirror`, for an action that asks an upstream.
    pub settings: Map,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    Upstream(String),
    Split(Split),
    Respond(i64),
    Redirect(filters::Redirect),
}

#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub by: Option<Node>,
    pub to: Vec<Variant>,
}

#[derive(Clone, Debug)]
pub(crate) struct Variant {
    pub upstream: String,
    pub weight: i64,
    /// Where other variants of the rule have other filters.
    pub chain: Vec<Step>,
}

/// What a route is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http,
    Grpc,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Http => "HTTPRoute",
            Kind::Grpc => "GRPCRoute",
        }
    }

    /// Of requests that the specification has answered with an error: gRPC makes UNAVAILABLE of 503.
    fn failure(self) -> i64 {
        match self {
            Kind::Http => 500,
            Kind::Grpc => 503,
        }
    }
}

pub(crate) fn read<'f>(
    kind: Kind,
    route: &Object<'f>,
    rule: &'f Foreign,
    backends: &mut Backends<'f>,
    report: &mut Report,
) -> Rule<'f> {
    let mut fields = Fields::of("rules", rule, report);
    fields.skip(&["name"]);
    let matches = match fields.list("matches", report) {
        [] => vec![Match {
            path: PathMatch::Prefix("/".into()),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            at: rule,
        }],
        matches => matches.iter().filter_map(|one| read_match(kind, one, report)).collect(),
    };
    let own = filters::read(fields.list("filters", report), kind.name(), route, backends, report);
    let references = fields.list("backendRefs", report);
    let why = "its share of requests is answered with an error";
    let targets: Vec<Backend<'_>> = references
        .iter()
        .map(|reference| backends.resolve(kind.name(), route, reference, why, report))
        .collect();
    let mut settings = Map::new();
    if let Some(timeouts) = fields.take("timeouts") {
        read_timeouts(timeouts, &mut settings, report);
    }
    if let Some(retry) = fields.take("retry") {
        read_retry(retry, &mut settings, report);
    }
    let session = fields.take("sessionPersistence").and_then(|session| read_session(session, report));
    fields.finish("it has no equal here", report);

    let mut read = Rule { matches, chain: own.chain, action: Action::Respond(kind.failure()), settings };
    if own.is_broken {
        read.chain.clear();
    } else if let Some(redirect) = own.redirect {
        read.action = Action::Redirect(redirect);
    } else {
        let mut mirrors = own.mirrors;
        forward(kind, route, &targets, session.as_ref(), &mut read, &mut mirrors, backends, report);
        match &mirrors[..] {
            [] => {}
            [mirror] => read.settings.set("mirror", mirror.clone()),
            several => read.settings.set("mirror", several.iter().cloned().collect::<List>()),
        }
    }
    if matches!(read.action, Action::Respond(_) | Action::Redirect(_)) {
        // These do nothing where no upstream is asked.
        read.settings = Map::new();
    }
    read
}

/// Where requests go, by weight; those of backends that are none are errors.
#[allow(clippy::too_many_arguments, reason = "what a rule says, and what it is said of")]
fn forward<'f>(
    kind: Kind,
    route: &Object<'f>,
    targets: &[Backend<'f>],
    session: Option<&Session<'_>>,
    rule: &mut Rule<'f>,
    mirrors: &mut Vec<Map>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) {
    let use_ = match kind {
        Kind::Http => Use::Http,
        Kind::Grpc => Use::Grpc,
    };
    let mut usable: Vec<(&Backend<'f>, Filters)> = Vec::new();
    let mut lost = 0;
    for target in targets.iter().filter(|target| target.weight > 0) {
        let filters = filters::read(target.filters, kind.name(), route, backends, report);
        match &target.service {
            Some(_) if !filters.is_broken => usable.push((target, filters)),
            _ => lost += target.weight,
        }
    }
    let Some((_, first)) = usable.first() else { return };
    let are_alike = usable.iter().all(|(_, filters)| filters == first);
    if are_alike {
        // What all backends do, the route does.
        rule.chain.extend(first.chain.iter().cloned());
        mirrors
            .extend(first.mirrors.iter().filter(|own| !mirrors.contains(own)).cloned().collect::<Vec<_>>());
        if let (Some(redirect), 0) = (&first.redirect, lost) {
            rule.action = Action::Redirect(redirect.clone());
            return;
        }
    }
    let mut to: Vec<Variant> = Vec::new();
    for (target, filters) in &usable {
        let is_said = filters.redirect.is_none() && (are_alike || filters.mirrors.is_empty());
        if !is_said {
            let filters = target.at.find("filters").unwrap_or(target.at);
            let why = "redirects and mirrors are a route's, not a backend's, and the rule's backends have different ones";
            report.entry(
                "filters",
                filters,
                format!("{why}: its share of requests is answered with an error"),
            );
            lost += target.weight;
            continue;
        }
        let Some(service) = &target.service else { continue };
        let keeps = session.map(|session| session.at(service, usable.len() > 1));
        let upstream = backends.upstream(service, use_, keeps);
        let chain = if are_alike { Vec::new() } else { filters.chain.clone() };
        match to.iter_mut().find(|known| known.upstream == upstream && known.chain == chain) {
            Some(known) => known.weight += target.weight,
            None => to.push(Variant { upstream, weight: target.weight, chain }),
        }
    }
    let whole: i64 = to.iter().map(|variant| variant.weight).sum::<i64>() + lost;
    if lost > 0 && !to.is_empty() {
        let abort = Map::new().with("ratio", percent(lost, whole)).with("status", kind.failure());
        rule.chain.insert(0, Step::Ready(Map::new().with("fault", Map::new().with("abort", abort))));
    }
    match &mut to[..] {
        [] => {
            rule.chain.clear();
            mirrors.clear();
        }
        [only] => {
            rule.chain.append(&mut only.chain);
            rule.action = Action::Upstream(only.upstream.clone());
        }
        _ => {
            let weights: Vec<i64> = to.iter().map(|variant| variant.weight).collect();
            let scale = scale(weights.into_iter());
            to.iter_mut().for_each(|variant| variant.weight = scale(variant.weight));
            rule.action = Action::Split(Split { by: session.map(Session::key), to });
        }
    }
}

fn read_timeouts(timeouts: &Foreign, settings: &mut Map, report: &mut Report) {
    let mut fields = Fields::of("timeouts", timeouts, report);
    let request = duration(&mut fields, "request", report);
    let of_try = duration(&mut fields, "backendRequest", report);
    fields.finish("it has no equal here", report);
    if let Some((text, _)) = request {
        settings.set("timeout", text);
    }
    if let Some((text, _)) =
        of_try.filter(|(_, of_try)| request.is_none_or(|(_, request)| *of_try <= request))
    {
        settings.map("retry").set("per_try_timeout", text);
    }
}

fn read_retry(retry: &Foreign, settings: &mut Map, report: &mut Report) {
    let mut fields = Fields::of("retry", retry, report);
    let attempts = fields.number("attempts", 0, 1_000_000, report);
    if attempts.is_some_and(|attempts| attempts > 9) {
        report.add(retry, "attempts", "a request is tried at most ten times");
    }
    let codes = fields.list("codes", report);
    let backoff = duration(&mut fields, "backoff", report);
    fields.finish("it has no equal here", report);
    let ours = settings.map("retry");
    ours.set("attempts", attempts.unwrap_or(1).min(9) + 1);
    let mut on = List::from_iter(["connect_error", "reset", "refused_stream"]);
    if ours.find("per_try_timeout").is_some() {
        on.push("timeout");
    }
    for code in codes {
        match code.text().and_then(|text| text.parse::<i64>().ok()).filter(|code| (400..=599).contains(code))
        {
            Some(code) => on.push(code),
            None => report.entry("codes", code, "a status from 400 to 599 is expected here"),
        }
    }
    ours.set("on", on);
    if let Some((text, millis)) = backoff {
        let backoff = ours.map("backoff");
        backoff.set("base", text);
        if millis > 1000 {
            backoff.set("max", text);
        }
    }
}

/// A duration of the specification (GEP-2257), which is one of ours, with its milliseconds; none for one of 0.
fn duration<'f>(fields: &mut Fields<'f>, name: &str, report: &mut Report) -> Option<(&'f str, u64)> {
    let value = fields.take(name)?;
    match value.text().and_then(|text| milliseconds(text, &GATEWAY_API)) {
        Some(0) => None,
        Some(millis) => Some((value.text()?, millis)),
        None => {
            report.entry(name, value, "a duration such as 10s or 1m30s is expected here");
            None
        }
    }
}

/// What keeps clients with one endpoint.
#[derive(Debug)]
enum Session<'f> {
    Cookie { name: &'f str, max_age: Option<&'f str> },
    Header(&'f str),
}

/// The cookie of sessions that are given no name.
const SESSION: &str = "tidegate-session";

impl Session<'_> {
    /// What a split goes by.
    fn key(&self) -> Node {
        match self {
            Session::Cookie { name, .. } => Map::new().with("cookie", *name).into(),
            Session::Header(name) => Map::new().with("header", *name).into(),
        }
    }

    /// What the upstream of a service says of it. Where the rule has several, the name alone is the split's cookie.
    fn at(&self, service: &ServicePort<'_>, are_several: bool) -> (&'static str, Map) {
        match *self {
            Session::Cookie { name, max_age } => {
                let ServicePort { namespace, name: of, port, .. } = service;
                let name = match are_several {
                    true => format!("{name}-{namespace}-{of}-{port}"),
                    false => name.to_owned(),
                };
                let cookie = match max_age {
                    Some(max_age) => Node::from(Map::new().with("name", name).with("max_age", max_age)),
                    None => name.into(),
                };
                ("affinity", Map::new().with("cookie", cookie))
            }
            Session::Header(name) => ("balancer", Map::new().with("hash", Map::new().with("header", name))),
        }
    }
}

fn read_session<'f>(session: &'f Foreign, report: &mut Report) -> Option<Session<'f>> {
    let mut fields = Fields::of("sessionPersistence", session, report);
    let name = fields.text("sessionName", report);
    let of_type = fields.text("type", report).unwrap_or("Cookie");
    let cookie = fields.take("cookieConfig");
    let lasts = cookie.and_then(|cookie| cookie.find_text("lifetimeType")) == Some("Permanent");
    let age = if lasts { duration(&mut fields, "absoluteTimeout", report) } else { None };
    fields.finish("a session ends only with its cookie", report);
    let name = name.or_else(|| (of_type == "Cookie").then_some(SESSION));
    let Some(name) = name.filter(|name| http::HeaderName::try_from(*name).is_ok()) else {
        report.entry(
            "sessionPersistence",
            session,
            "it has no sessionName that a cookie or a header could have",
        );
        return None;
    };
    match of_type {
        "Cookie" => {
            if lasts && age.is_none() {
                report.entry("sessionPersistence", session, "a cookie that lasts needs absoluteTimeout");
            }
            Some(Session::Cookie { name, max_age: age.map(|(text, _)| text) })
        }
        "Header" => {
            let why = format!("the gateway hashes the header `{name}`, and gives out none");
            report.entry("sessionPersistence", session, why);
            Some(Session::Header(name))
        }
        _ => {
            report.entry("sessionPersistence", session, "Cookie or Header is expected here");
            None
        }
    }
}
