//! The map: listeners, routes, variants, upstreams and endpoints, and what flows between them.

use std::{cmp::Ordering, collections::HashSet, sync::Arc, time::Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    endpoints::EndpointState,
    overview::{ListenerView, listeners},
    routes::kind,
};
use crate::{
    admin::{
        State,
        journal::{hash, time},
        refused::Refused,
        router::Asked,
        sampler::{Flow, Sample, rate},
    },
    api::reply::{self, Reply},
    config,
    snapshot::{Route, Side, Snapshot},
};

/// Without `routes`.
const USUAL: usize = 200;
const MOST: usize = 1000;
/// From here on it is bad, and no longer only noticed.
const BAD: f64 = 0.05;

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Topology {
    at: String,
    config_hash: String,
    listeners: Vec<ListenerView>,
    /// The busiest, then in the order of the file.
    routes: Vec<RouteNode>,
    upstreams: Vec<UpstreamNode>,
    edges: Vec<Edge>,
    /// What is left out.
    more: More,
}

#[derive(Serialize, JsonSchema)]
struct RouteNode {
    name: String,
    /// By whose tables it can be found.
    listeners: Vec<String>,
    target: &'static str,
    variants: Vec<Variant>,
    /// What it answers itself, where it leads nowhere.
    answer: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Variant {
    name: String,
    upstream: String,
    /// 0 to 1, of those that may be chosen.
    share: f64,
    /// Of a canary: `stable` or `candidate`.
    side: Option<&'static str>,
}

#[derive(Serialize, JsonSchema)]
struct UpstreamNode {
    name: String,
    ready: bool,
    endpoints: Vec<EndpointNode>,
}

#[derive(Serialize, JsonSchema)]
struct EndpointNode {
    name: String,
    state: EndpointState,
    weight: u32,
}

/// Requests that went from one node to another within a second. Nodes are `listener:NAME`, `route:NAME`, `upstream:NAME` and
/// `endpoint:UPSTREAM/NAME`.
#[derive(Serialize, JsonSchema)]
struct Edge {
    from: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    requests_per_second: f64,
    /// Answered with 500 and above; to an endpoint: attempts that failed.
    errors_per_second: f64,
    level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// No requests.
    Idle,
    Ok,
    /// Some fail.
    Warn,
    /// One in twenty, or more.
    Bad,
}

#[derive(Serialize, JsonSchema)]
struct More {
    routes: usize,
    requests_per_second: f64,
}

impl Level {
    fn of(flow: Flow) -> Level {
        if flow.requests <= 0.0 {
            Level::Idle
        } else if flow.errors <= 0.0 {
            Level::Ok
        } else if flow.errors / flow.requests >= BAD {
            Level::Bad
        } else {
            Level::Warn
        }
    }
}

impl Edge {
    fn new(from: String, to: String, flow: Flow) -> Edge {
        Edge {
            from,
            to,
            variant: None,
            requests_per_second: rate(flow.requests),
            errors_per_second: rate(flow.errors),
            level: Level::of(flow),
        }
    }
}

pub(in crate::admin) fn show(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let most = asked.query.number("routes", MOST)?.unwrap_or(USUAL);
    let snapshot = state.current.pin();
    let sample = state.sampler.as_ref().map(|sampler| sampler.latest()).unwrap_or_default();
    let requests =
        |route: &Route| sample.routes.get(&route.name).map_or(0.0, |traffic| traffic.requests_per_second);
    let mut routes: Vec<(usize, &Arc<Route>)> = snapshot.routes.iter().enumerate().collect();
    routes.sort_by(|one, other| {
        let order = requests(other.1).partial_cmp(&requests(one.1)).unwrap_or(Ordering::Equal);
        order.then(one.0.cmp(&other.0))
    });
    let left_out = routes.split_off(most.min(routes.len()));
    let mut edges = Vec::new();
    let mut upstreams: HashSet<&str> = HashSet::new();
    let nodes = routes.iter().map(|(index, route)| {
        upstreams.extend(route.target.destinations().iter().map(|to| to.upstream.name()));
        node(&snapshot, &sample, *index, route, &mut edges)
    });
    let nodes: Vec<RouteNode> = nodes.collect();
    // Those that no route leads to as well: of a listener of TCP, or of nobody.
    let is_shown = |name: &str| {
        upstreams.contains(name)
            || !snapshot
                .routes
                .iter()
                .any(|route| route.target.destinations().iter().any(|to| to.upstream.name() == name))
    };
    let shown: Vec<_> = snapshot.upstreams.values().filter(|upstream| is_shown(upstream.name())).collect();
    let now = Instant::now();
    let upstreams = shown.into_iter().map(|upstream| {
        let endpoints = upstream.endpoints();
        for endpoint in &endpoints {
            let key = (upstream.shared_name(), endpoint.name.clone());
            let flow = sample.endpoints.get(&key).copied().unwrap_or_default();
            let to = format!("endpoint:{}/{}", upstream.name(), endpoint.name);
            edges.push(Edge::new(format!("upstream:{}", upstream.name()), to, flow));
        }
        UpstreamNode {
            name: upstream.name().to_owned(),
            ready: upstream.is_ready(),
            endpoints: endpoints
                .iter()
                .map(|endpoint| EndpointNode {
                    name: endpoint.name.to_string(),
                    state: EndpointState::of(endpoint, now),
                    weight: endpoint.weight,
                })
                .collect(),
        }
    });
    let upstreams = upstreams.collect();
    let topology = Topology {
        at: time(sample.at),
        config_hash: hash(snapshot.hash),
        listeners: listeners(&snapshot),
        routes: nodes,
        upstreams,
        edges,
        more: More {
            routes: left_out.len(),
            requests_per_second: rate(left_out.iter().map(|(_, route)| requests(route)).sum()),
        },
    };
    Ok(reply::json(StatusCode::OK, &topology))
}

fn node(
    snapshot: &Snapshot,
    sample: &Sample,
    index: usize,
    route: &Route,
    edges: &mut Vec<Edge>,
) -> RouteNode {
    let config = snapshot.config.routes.get(index);
    let listeners = found_by(snapshot, route);
    for listener in &listeners {
        let key = (Arc::from(listener.as_str()), route.name.clone());
        let flow = sample.listener_to_route.get(&key).copied().unwrap_or_default();
        edges.push(Edge::new(format!("listener:{listener}"), format!("route:{}", route.name), flow));
    }
    let variants = variants(route, config);
    for variant in &variants {
        let key = (route.name.clone(), Arc::from(variant.upstream.as_str()));
        let flow = sample.route_to_upstream.get(&key).copied().unwrap_or_default();
        let edge = Edge::new(format!("route:{}", route.name), format!("upstream:{}", variant.upstream), flow);
        edges.push(Edge { variant: Some(variant.name.clone()), ..edge });
    }
    RouteNode {
        name: route.name.to_string(),
        listeners,
        target: kind(config),
        answer: config.and_then(|config| match (&config.respond, &config.redirect) {
            (Some(respond), _) => Some(format!("respond {}", respond.status)),
            (_, Some(redirect)) => Some(format!("redirect {} {}", redirect.status, redirect.target())),
            (None, None) => None,
        }),
        variants,
    }
}

/// The listeners of HTTP that serve it: those that name it, and those that name none.
fn found_by(snapshot: &Snapshot, route: &Route) -> Vec<String> {
    let written = snapshot.config.listeners.iter();
    let serves = written.filter(|listener| {
        listener.protocol == config::Protocol::Http
            && listener.routes.as_ref().is_none_or(|names| names.iter().any(|name| **name == *route.name))
    });
    serves.map(|listener| listener.name.clone().unwrap_or_else(|| listener.address.clone())).collect()
}

fn variants(route: &Route, config: Option<&config::Route>) -> Vec<Variant> {
    let destinations = route.target.destinations();
    let weights: Vec<f64> = match (route.rollout(), config.and_then(|config| config.split.as_ref())) {
        (Some(rollout), _) => rollout.weights().iter().map(|weight| f64::from(*weight)).collect(),
        (None, Some(split)) => split.to.iter().map(|variant| f64::from(variant.weight)).collect(),
        (None, None) => vec![1.0; destinations.len()],
    };
    let all: f64 = weights.iter().sum();
    let shares = weights.iter().map(|weight| if all > 0.0 { weight / all } else { 0.0 });
    let variants = destinations.iter().zip(shares).map(|(to, share)| Variant {
        name: to.variant.as_ref().map_or(to.upstream.name(), |(name, _)| name).to_owned(),
        upstream: to.upstream.name().to_owned(),
        share: (share * 1e4).round() / 1e4,
        side: to.canary.as_ref().map(|(_, side)| match side {
            Side::Stable => "stable",
            Side::Candidate => "candidate",
        }),
    });
    variants.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_says_how_bad_it_is() {
        let level = |requests, errors| Level::of(Flow { requests, errors });
        assert_eq!(level(0.0, 0.0), Level::Idle);
        assert_eq!(level(100.0, 0.0), Level::Ok);
        assert_eq!((level(100.0, 4.9), level(100.0, 5.0)), (Level::Warn, Level::Bad));
    }
}
