//! Routes, with their rates.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, StatusCode, header::LINK};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    admin::{
        State,
        journal::time,
        parts::tagged,
        parts_view::{Origin, unknown},
        refused::{Reason, Refused},
        router::Asked,
        sampler::{Sample, Traffic},
        view::{said, target},
    },
    api::reply::{self, Reply},
    config::{self, PartKind},
    observe::metrics::RouteMetrics,
    snapshot::{Route, Snapshot, Target},
};

/// `GET /v1/routes`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Routes(Vec<Row>);

#[derive(Serialize, JsonSchema)]
struct Row {
    name: String,
    /// In the order of the file, from 0.
    index: usize,
    #[serde(flatten)]
    origin: Origin,
    #[serde(rename = "match")]
    matching: Value,
    #[serde(flatten)]
    about: About,
    /// What its target says, under the key by which it was written.
    #[serde(flatten)]
    written: Map<String, Value>,
}

/// `GET /v1/routes/{route}`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct OneRoute {
    name: String,
    #[serde(flatten)]
    origin: Origin,
    /// With its defaults, without its secrets; null for one that `sidecar` stands for.
    config: Value,
    #[serde(flatten)]
    about: About,
}

#[derive(Serialize, JsonSchema)]
struct About {
    /// `file:line:column`.
    place: Option<String>,
    /// In the order in which they run.
    filters: Vec<String>,
    /// `upstream`, `split`, `canary`, `redirect`, `respond` or `filters`.
    target: &'static str,
    upstreams: Vec<String>,
    /// Null where nothing is sampled.
    traffic: Option<Traffic>,
    totals: Totals,
    /// Null if never, or if nothing is sampled. To the second.
    last_used_at: Option<String>,
}

/// Since the process began, or the settings of its series changed.
#[derive(Default, Serialize, JsonSchema)]
struct Totals {
    requests: u64,
    errors_4xx: u64,
    errors_5xx: u64,
    /// Answered by the gateway itself, by reason.
    own: BTreeMap<String, u64>,
    retries: BTreeMap<String, u64>,
    hedges: BTreeMap<String, u64>,
}

/// How rows are sorted.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    Index,
    Name,
    Requests,
    Errors,
    P99,
    LastUsed,
}

const KEYS: [(&str, Key); 6] = [
    ("index", Key::Index),
    ("name", Key::Name),
    ("requests", Key::Requests),
    ("errors", Key::Errors),
    ("p99", Key::P99),
    ("last_used", Key::LastUsed),
];
const MOST: usize = 10_000;

/// What all rows are made from.
struct Seen {
    sample: Option<Arc<Sample>>,
    last_used: HashMap<Arc<str>, u64>,
}

impl Seen {
    fn of(state: &State) -> Seen {
        let sampler = state.sampler.as_ref();
        Seen {
            sample: sampler.map(|sampler| sampler.latest()),
            last_used: sampler.map(|sampler| sampler.last_used()).unwrap_or_default(),
        }
    }

    fn traffic(&self, route: &Route) -> Option<Traffic> {
        self.sample.as_ref().map(|sample| sample.routes.get(&route.name).copied().unwrap_or_default())
    }

    fn last_used(&self, route: &Route) -> Option<u64> {
        self.last_used.get(&route.name).copied()
    }
}

impl About {
    fn of(snapshot: &Snapshot, index: usize, route: &Route, seen: &Seen) -> About {
        let mut filters: Vec<String> = route.chain.names().map(str::to_owned).collect();
        // A route that answers itself ends in the filter that does; that is its target.
        if matches!(route.target, Target::Chain) {
            filters.pop();
        }
        let upstreams = route.target.destinations().iter().map(|to| to.upstream.name().to_owned());
        let at = |unix| time(SystemTime::UNIX_EPOCH + Duration::from_secs(unix));
        About {
            place: snapshot.places.route(index),
            filters,
            target: kind(snapshot.config.routes.get(index)),
            upstreams: upstreams.collect(),
            traffic: seen.traffic(route),
            totals: Totals::of(route),
            last_used_at: seen.last_used(route).map(at),
        }
    }
}

impl Totals {
    fn of(route: &Route) -> Totals {
        let mut totals = Totals::default();
        route.series().for_each(|(_, series)| totals.add(series));
        totals
    }

    fn add(&mut self, series: &RouteMetrics) {
        if let Some(read) = series.read() {
            self.requests += read.requests;
            self.errors_4xx += read.client_errors;
            self.errors_5xx += read.server_errors;
        }
        for (to, counts) in [
            (&mut self.own, series.own_answers()),
            (&mut self.retries, series.retries()),
            (&mut self.hedges, series.hedges()),
        ] {
            for (key, count) in counts {
                *to.entry(key.to_owned()).or_insert(0) += count;
            }
        }
    }
}

/// What it does with a request, in a word.
pub(super) fn kind(route: Option<&config::Route>) -> &'static str {
    let Some(route) = route else { return "filters" };
    if route.upstream.is_some() {
        "upstream"
    } else if route.split.is_some() {
        "split"
    } else if route.canary.is_some() {
        "canary"
    } else if route.redirect.is_some() {
        "redirect"
    } else if route.respond.is_some() {
        "respond"
    } else {
        "filters"
    }
}

pub(in crate::admin) fn list(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let query = &asked.query;
    let (key, is_reversed) = sort(query.text("sort").unwrap_or("index"))?;
    let limit = query.number("limit", MOST)?;
    let snapshot = state.current.pin();
    let seen = Seen::of(state);
    let effective = snapshot.effective.value();
    let written = effective["routes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = query.text("q").map(str::to_lowercase);
    let of_upstream = query.text("upstream");
    // Compiled routes stand in the order of the file; behind them those that `sidecar` stands for.
    let mut found: Vec<(usize, &Arc<Route>)> = snapshot
        .routes
        .iter()
        .enumerate()
        .filter(|(index, route)| {
            of_upstream
                .is_none_or(|name| route.target.destinations().iter().any(|to| to.upstream.name() == name))
                && wanted.as_ref().is_none_or(|wanted| holds(route, written.get(*index), wanted))
        })
        .collect();
    found.sort_by(|one, other| {
        let order = compare(key, &seen, *one, *other);
        if is_reversed { order.reverse() } else { order }
    });
    let total = found.len();
    if let Some(after) = query.text("after") {
        let Some(place) = found.iter().position(|(_, route)| *route.name == *after) else {
            return Err(unknown("route", after, snapshot.routes.iter().map(|route| &*route.name)));
        };
        found.drain(..=place);
    }
    let next = limit.filter(|limit| *limit < found.len()).and_then(|limit| {
        found.truncate(limit);
        found.last().map(|(_, route)| route.name.clone())
    });
    let rows = found.into_iter().map(|(index, route)| {
        let written = written.get(index).unwrap_or(&Value::Null);
        Row {
            name: route.name.to_string(),
            index,
            origin: Origin::of(&snapshot, PartKind::Route, &route.name),
            matching: said(&written["match"]),
            about: About::of(&snapshot, index, route, &seen),
            written: target(written),
        }
    });
    let mut reply = reply::json(StatusCode::OK, &Routes(rows.collect()));
    reply.headers_mut().insert("x-total-count", total.into());
    if let Some(link) = next.and_then(|next| link(asked, &next)) {
        reply.headers_mut().insert(LINK, link);
    }
    Ok(reply)
}

fn sort(text: &str) -> Result<(Key, bool), Refused> {
    let (word, is_reversed) = text.strip_prefix('-').map_or((text, false), |word| (word, true));
    match KEYS.into_iter().find(|(known, _)| *known == word) {
        Some((_, key)) => Ok((key, is_reversed)),
        None => {
            let known = KEYS.map(|(known, _)| known).join(", ");
            Err(Reason::BadRequest.because(format!("sort: {word:?} is not one of {known}")))
        }
    }
}

/// The busiest, worst and latest first; those that are equal in the order of the file.
fn compare(key: Key, seen: &Seen, one: (usize, &Arc<Route>), other: (usize, &Arc<Route>)) -> Ordering {
    let by = |of: fn(&Traffic) -> f64| {
        let value = |route: &Route| seen.traffic(route).as_ref().map_or(0.0, of);
        value(other.1).total_cmp(&value(one.1))
    };
    let order = match key {
        Key::Index => Ordering::Equal,
        Key::Name => one.1.name.cmp(&other.1.name),
        Key::Requests => by(|traffic| traffic.requests_per_second),
        Key::Errors => by(|traffic| traffic.errors_5xx_per_second),
        Key::P99 => by(|traffic| traffic.p99_ms.unwrap_or(0.0)),
        Key::LastUsed => seen.last_used(other.1).cmp(&seen.last_used(one.1)),
    };
    order.then(one.0.cmp(&other.0))
}

/// Whether its name, its match or its target has that in it.
fn holds(route: &Route, written: Option<&Value>, wanted: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(wanted);
    has(&route.name)
        || route.target.destinations().iter().any(|to| has(to.upstream.name()))
        || written.is_some_and(|written| {
            let matching = said(&written["match"]);
            let target = Value::Object(target(written));
            has(&matching.to_string()) || has(&target.to_string())
        })
}

/// The page after this one.
fn link(asked: &Asked, next: &str) -> Option<HeaderValue> {
    let mut query = format!("after={}", utf8_percent_encode(next, NON_ALPHANUMERIC));
    for key in ["q", "sort", "upstream", "limit"] {
        if let Some(value) = asked.query.text(key) {
            query.push_str(&format!("&{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
    }
    HeaderValue::try_from(format!("<{}?{query}>; rel=\"next\"", asked.path)).ok()
}

pub(in crate::admin) fn one(state: &State, snapshot: &Snapshot, name: &str) -> Result<Reply, Refused> {
    let index = snapshot.routes.iter().position(|route| *route.name == *name).ok_or_else(|| {
        let known = snapshot.routes.iter().map(|route: &Arc<Route>| &*route.name);
        unknown("route", name, known)
    })?;
    let mut effective = snapshot.effective.value();
    let view = OneRoute {
        name: name.to_owned(),
        origin: Origin::of(snapshot, PartKind::Route, name),
        // Compiled routes stand in the order of the file.
        config: effective["routes"].get_mut(index).map(Value::take).unwrap_or_default(),
        about: About::of(snapshot, index, &snapshot.routes[index], &Seen::of(state)),
    };
    Ok(tagged(reply::json(StatusCode::OK, &view), view.origin.etag()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_by_what_is_known_of_them() {
        assert!(matches!(sort("-requests"), Ok((Key::Requests, true))));
        assert!(matches!(sort("name"), Ok((Key::Name, false))));
        let refused = sort("speed").err().unwrap();
        assert!(refused.why.contains("index, name, requests"), "{}", refused.why);
    }
}
