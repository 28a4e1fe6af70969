//! What parts look like to those who ask: beside what the file has of their kind, with who gave them and when.

use std::{sync::Arc, time::Instant};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    State,
    api::{endpoints::EndpointRow, routes, upstreams},
    orders::no_such,
    parts::{Resource, Target, tagged, target},
    refused::{Reason, Refused},
};
use crate::{
    api::reply::{self, Reply},
    config::{PartKind, PartName, Stamp},
    snapshot::Snapshot,
    upstream::Upstream,
};

/// Where something was written.
#[derive(Serialize, JsonSchema)]
pub(super) struct Origin {
    /// `file`, the part, or the document of the control plane.
    origin: String,
    #[serde(flatten)]
    stamp: Option<Stamp>,
}

impl Origin {
    pub(super) fn of(snapshot: &Snapshot, kind: PartKind, name: &str) -> Origin {
        if let Some((name, part)) = snapshot.additions.parts.named(kind, name) {
            return Origin { origin: name.to_string(), stamp: Some(part.stamp.clone()) };
        }
        let received = snapshot.received.get(&(kind, name.into()));
        Origin { origin: received.map_or("file", |origin| origin).to_owned(), stamp: None }
    }

    pub(super) fn etag(&self) -> Option<&str> {
        self.stamp.as_ref().map(|stamp| stamp.etag.as_str())
    }
}

/// One of them.
pub(super) fn one(state: &State, resource: Resource, names: &[String]) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    match &target(resource, names)? {
        Target::Part(PartName { kind: PartKind::Upstream, name }) => upstreams::one(state, &snapshot, name),
        Target::Part(PartName { kind: PartKind::Route, name }) => routes::one(state, &snapshot, name),
        Target::Endpoint { upstream, endpoint } => one_endpoint(state, &snapshot, upstream, endpoint),
    }
}

fn one_endpoint(state: &State, snapshot: &Snapshot, upstream: &str, name: &str) -> Result<Reply, Refused> {
    let upstream = find(snapshot, upstream)?;
    let (endpoints, orders) = (upstream.endpoints(), upstream.orders());
    let endpoint = endpoints.iter().find(|endpoint| *endpoint.name == *name);
    if endpoint.is_none() && !orders.contains_key(name) {
        return Err(unknown("endpoint", name, endpoints.iter().map(|endpoint| &*endpoint.name)));
    }
    let sample = state.sampler.as_ref().map(|sampler| sampler.latest());
    let view = EndpointRow::of(state, sample.as_deref(), upstream, name, endpoint, Instant::now());
    Ok(tagged(reply::json(StatusCode::OK, &view), view.etag()))
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
