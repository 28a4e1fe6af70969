//! What parts look like to those who ask: beside what the file has of their kind, with who gave them and when. Made from
//! one pinned snapshot, as the other views are.

use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::{
    State,
    orders::no_such,
    parts::{Reason, Refused, Resource, Target, problem, tagged, target},
};
use crate::{
    api::reply::{self, Reply},
    config::{EndpointOrder, EndpointOrders, PartKind, PartName, Stamp},
    snapshot::{Route, Snapshot},
    upstream::{Endpoint, Upstream},
};

/// Where something was written.
#[derive(Serialize)]
struct Origin<'a> {
    /// `file`, the part, or the document of the control plane.
    origin: String,
    #[serde(flatten)]
    stamp: Option<&'a Stamp>,
}

impl<'a> Origin<'a> {
    fn of(snapshot: &'a Snapshot, kind: PartKind, name: &str) -> Origin<'a> {
        if let Some((name, part)) = snapshot.additions.parts.named(kind, name) {
            return Origin { origin: name.to_string(), stamp: Some(&part.stamp) };
        }
        let received = snapshot.received.get(&(kind, name.into()));
        Origin { origin: received.map_or("file", |origin| origin).to_owned(), stamp: None }
    }

    fn etag(&self) -> Option<&'a str> {
        self.stamp.map(|stamp| stamp.etag.as_str())
    }
}

pub(super) fn upstreams(state: &State) -> Reply {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        #[serde(flatten)]
        origin: Origin<'a>,
        ready: bool,
        endpoints: usize,
        /// Of these, for so many something is ordered.
        ordered: usize,
    }
    let snapshot = state.current.pin();
    let rows = snapshot.upstreams.values().map(|upstream| {
        let (endpoints, orders) = (upstream.endpoints(), upstream.orders());
        Row {
            name: upstream.name(),
            origin: Origin::of(&snapshot, PartKind::Upstream, upstream.name()),
            ready: upstream.is_ready(),
            endpoints: endpoints.len(),
            ordered: endpoints.iter().filter(|endpoint| orders.contains_key(&*endpoint.name)).count(),
        }
    });
    reply::json(StatusCode::OK, &rows.collect::<Vec<_>>())
}

pub(super) fn routes(state: &State) -> Reply {
    #[derive(Serialize)]
    struct Row<'a> {
        name: &'a str,
        #[serde(flatten)]
        origin: Origin<'a>,
    }
    let snapshot = state.current.pin();
    let rows = snapshot
        .routes
        .iter()
        .map(|route| Row { name: &route.name, origin: Origin::of(&snapshot, PartKind::Route, &route.name) });
    reply::json(StatusCode::OK, &rows.collect::<Vec<_>>())
}

/// One of them.
pub(super) fn one(state: &State, resource: Resource, names: &[String]) -> Reply {
    let snapshot = state.current.pin();
    let found = target(resource, names).and_then(|target| match &target {
        Target::Part(PartName { kind: PartKind::Upstream, name }) => upstream(&snapshot, name),
        Target::Part(PartName { kind: PartKind::Route, name }) => route(&snapshot, name),
        Target::Endpoint { upstream, endpoint } => one_endpoint(&snapshot, upstream, endpoint),
    });
    found.unwrap_or_else(|refused| problem(&refused))
}

fn upstream(snapshot: &Snapshot, name: &str) -> Result<Reply, Refused> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a str,
        #[serde(flatten)]
        origin: Origin<'a>,
        /// With its defaults, without its secrets.
        config: &'a Value,
        endpoints: Vec<EndpointView<'a>>,
    }
    let upstream = find(snapshot, name)?;
    let effective = snapshot.effective.value();
    let orders = upstream.orders();
    let present = upstream.endpoints();
    let gone = orders.keys().filter(|name| !present.iter().any(|endpoint| *endpoint.name == ***name));
    let endpoints =
        present.iter().map(|endpoint| &*endpoint.name).chain(gone.map(String::as_str)).map(|name| {
            EndpointView::of(name, present.iter().find(|endpoint| *endpoint.name == *name), &orders)
        });
    let view = View {
        name,
        origin: Origin::of(snapshot, PartKind::Upstream, name),
        config: &effective["upstreams"][name],
        endpoints: endpoints.collect(),
    };
    Ok(tagged(reply::json(StatusCode::OK, &view), view.origin.etag()))
}

fn route(snapshot: &Snapshot, name: &str) -> Result<Reply, Refused> {
    #[derive(Serialize)]
    struct View<'a> {
        name: &'a str,
        #[serde(flatten)]
        origin: Origin<'a>,
        /// With its defaults, without its secrets; null for one that `sidecar` stands for.
        config: &'a Value,
    }
    let index = snapshot.routes.iter().position(|route| *route.name == *name).ok_or_else(|| {
        let known = snapshot.routes.iter().map(|route: &Arc<Route>| &*route.name);
        unknown("route", name, known)
    })?;
    let effective = snapshot.effective.value();
    // Compiled routes stand in the order of the file.
    let config = &effective["routes"][index];
    let view = View { name, origin: Origin::of(snapshot, PartKind::Route, name), config };
    Ok(tagged(reply::json(StatusCode::OK, &view), view.origin.etag()))
}

#[derive(Serialize)]
struct EndpointView<'a> {
    name: &'a str,
    /// False for one that is ordered and not there now.
    present: bool,
    /// That counts; null where it is not there.
    weight: Option<u32>,
    active_requests: usize,
    /// Null where nothing is ordered.
    order: Option<EndpointOrder>,
    #[serde(flatten)]
    stamp: Option<&'a Stamp>,
}

impl<'a> EndpointView<'a> {
    fn of(name: &'a str, endpoint: Option<&Arc<Endpoint>>, orders: &'a EndpointOrders) -> EndpointView<'a> {
        let ordered = orders.get(name);
        EndpointView {
            name,
            present: endpoint.is_some(),
            weight: endpoint.map(|endpoint| endpoint.weight),
            active_requests: endpoint.map_or(0, |endpoint| endpoint.active()),
            order: ordered.map(|ordered| ordered.order),
            stamp: ordered.map(|ordered| &ordered.stamp),
        }
    }
}

fn one_endpoint(snapshot: &Snapshot, upstream: &str, name: &str) -> Result<Reply, Refused> {
    let upstream = find(snapshot, upstream)?;
    let (endpoints, orders) = (upstream.endpoints(), upstream.orders());
    let endpoint = endpoints.iter().find(|endpoint| *endpoint.name == *name);
    if endpoint.is_none() && !orders.contains_key(name) {
        return Err(unknown("endpoint", name, endpoints.iter().map(|endpoint| &*endpoint.name)));
    }
    let view = EndpointView::of(name, endpoint, &orders);
    Ok(tagged(reply::json(StatusCode::OK, &view), view.stamp.map(|stamp| stamp.etag.as_str())))
}

/// # Errors
///
/// There is none of that name.
pub(crate) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Arc<Upstream>, Refused> {
    let all = || snapshot.upstreams.keys().map(String::as_str);
    snapshot.upstreams.get(name).ok_or_else(|| unknown("upstream", name, all()))
}

/// There is no `what` of that name, and which there are.
pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> Refused {
    Reason::NotFound.because(no_such(what, name, known))
}
