//! The rules of HTTPRoutes and GRPCRoutes: what they match, and what becomes of it. Which hosts and ports they are served at is not known here.

use super::{
    backends::{Backend, Backends, Use},
    filters::{self, Filters, Step},
    matches::{Match, read_match},
    objects::Object,
};
use crate::{
    config::{Foreign, PathMatch},
    convert::{
        draft::{List, Map},
        durations::{GATEWAY_API, milliseconds},
        fields::{Fields, Report, percent},
        upstreams::{one_or_several, scale},
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
    Split(Map),
    Respond(i64),
    Redirect(filters::Redirect),
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
        if let Some(mirror) = one_or_several(own.mirrors) {
            read.settings.set("mirror", mirror);
        }
        forward(kind, route, &targets, session.as_ref(), &mut read, backends, report);
    }
    if matches!(read.action, Action::Respond(_) | Action::Redirect(_)) {
        // These do nothing where no upstream is asked.
        read.settings = Map::new();
    }
    read
}

/// Where requests go, by weight; those of backends that are none are errors.
fn forward<'f>(
    kind: Kind,
    route: &Object<'f>,
    targets: &[Backend<'f>],
    session: Option<&Map>,
    rule: &mut Rule<'f>,
    backends: &mut Backends<'f>,
    report: &mut Report,
) {
    let use_ = match kind {
        Kind::Http => Use::Http,
        Kind::Grpc => Use::Grpc,
    };
    let mut lost = 0;
    let mut usable: Vec<(String, i64)> = Vec::new();
    let mut own: Vec<(&Backend<'f>, Filters)> = Vec::new();
    for target in targets.iter().filter(|target| target.weight > 0) {
        let filters = filters::read(target.filters, kind.name(), route, backends, report);
        match &target.service {
            Some(service) if !filters.is_broken => {
                let name = backends.upstream(service, use_, session);
                match usable.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, weight)) => *weight += target.weight,
                    None => usable.push((name, target.weight)),
                }
                own.push((target, filters));
            }
            _ => lost += target.weight,
        }
    }
    let Some((first, _)) = usable.first() else { return };
    let first = first.clone();
    backend_filters(&own, rule, report);
    let whole: i64 = usable.iter().map(|(_, weight)| weight).sum::<i64>() + lost;
    if lost > 0 {
        let abort = Map::new().with("ratio", percent(lost, whole)).with("status", kind.failure());
        rule.chain.insert(0, Step::Ready(Map::new().with("fault", Map::new().with("abort", abort))));
    }
    if usable.len() == 1 {
        rule.action = Action::Upstream(first);
        return;
    }
    let scale = scale(usable.iter().map(|(_, weight)| *weight));
    let mut to = List::new();
    for (name, weight) in &usable {
        to.push(Map::new().with("upstream", name.as_str()).with("weight", scale(*weight)));
    }
    let mut split = Map::new();
    if let Some(by) = session.and_then(|session| session.find("hash")) {
        split.set("by", by.clone());
    }
    split.set("to", to);
    rule.action = Action::Split(split);
}

/// Filters of backends are the route's where all backends have the same.
fn backend_filters(own: &[(&Backend<'_>, Filters)], rule: &mut Rule<'_>, report: &mut Report) {
    let Some((_, first)) = own.first() else { return };
    if own.iter().all(|(_, filters)| filters == first) {
        rule.chain.extend(first.chain.iter().cloned());
        let mirror = one_or_several(first.mirrors.clone());
        if let Some(mirror) = mirror.filter(|_| rule.settings.find("mirror").is_none()) {
            rule.settings.set("mirror", mirror);
        }
        return;
    }
    for (target, _) in own.iter().filter(|(_, filters)| *filters != Filters::default()) {
        let filters = target.at.find("filters").unwrap_or(target.at);
        report.entry(
            "filters",
            filters,
            "the rule's backends have different ones: write them under `split.to[].filters`",
        );
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

/// `balancer` of the upstreams of a rule whose clients stay with one endpoint.
fn read_session(session: &Foreign, report: &mut Report) -> Option<Map> {
    let mut fields = Fields::of("sessionPersistence", session, report);
    let name = fields.text("sessionName", report);
    let by = match fields.text("type", report).unwrap_or("Cookie") {
        "Cookie" => "cookie",
        "Header" => "header",
        _ => {
            report.entry("sessionPersistence", session, "Cookie or Header is expected here");
            return None;
        }
    };
    fields.finish("the gateway hashes what clients send, and ends no session", report);
    let is_token = |name: &&str| http::HeaderName::try_from(*name).is_ok();
    let Some(name) = name.filter(is_token) else {
        report.entry("sessionPersistence", session, "it has no sessionName, which could be hashed");
        return None;
    };
    report.entry(
        "sessionPersistence",
        session,
        format!("the gateway hashes the {by} `{name}`, and gives out none"),
    );
    Some(Map::new().with("hash", Map::new().with(by, name)))
}
