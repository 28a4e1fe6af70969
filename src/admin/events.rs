//! `GET /v1/events`: what happens, and once a second how much is going on.

use std::{collections::HashMap, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderName;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    State,
    api::{
        endpoints::{EndpointState, FlowView},
        overview::Connections,
    },
    journal::{hash, time},
    refused::{Reason, Refused},
    router::Asked,
    sampler::{Sample, Traffic},
    stream::{self, Ended, Out},
};
use crate::{
    api::{Connection, reply::Reply},
    observe::events::{Place, written},
    snapshot::phase_word,
};

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Told of in one second.
const MOST_ROUTES: usize = 200;
const MOST_ENDPOINTS: usize = 500;
/// Told before they are told of again.
const AT_ONCE: usize = 64 * 1024;

/// The data of `traffic`: what had requests lately. What is not in it had none.
#[derive(Serialize, JsonSchema)]
pub(super) struct Passing {
    at: String,
    seconds: f64,
    phase: &'static str,
    gateway: Traffic,
    connections: Connections,
    routes: HashMap<Arc<str>, Traffic>,
    upstreams: HashMap<Arc<str>, Traffic>,
    /// By `UPSTREAM/NAME`.
    endpoints: HashMap<String, Endpoint>,
    canaries: HashMap<Arc<str>, Stands>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PassingEndpoint")]
struct Endpoint {
    #[serde(flatten)]
    flow: FlowView,
    active_requests: usize,
    state: EndpointState,
}

/// How a canary stands.
#[derive(Serialize, JsonSchema)]
struct Stands {
    phase: &'static str,
    weight: f64,
    etag: String,
}

impl Passing {
    pub(super) fn of(state: &State, sample: &Sample) -> Passing {
        let (snapshot, now) = (state.current.pin(), Instant::now());
        let mut routes: Vec<_> = sample.routes.iter().collect();
        if routes.len() > MOST_ROUTES {
            let rate = |traffic: &Traffic| traffic.requests_per_second;
            routes.sort_by(|one, other| rate(other.1).total_cmp(&rate(one.1)));
            routes.truncate(MOST_ROUTES);
        }
        let mut endpoints = HashMap::new();
        'all: for upstream in snapshot.upstreams.values() {
            for endpoint in upstream.endpoints() {
                let key = (upstream.shared_name(), endpoint.name.clone());
                let flow = sample.endpoints.get(&key).copied();
                let active = endpoint.active();
                if flow.is_none() && active == 0 {
                    continue;
                }
                if endpoints.len() == MOST_ENDPOINTS {
                    break 'all;
                }
                let told = Endpoint {
                    flow: FlowView::of(flow.unwrap_or_default()),
                    active_requests: active,
                    state: EndpointState::of(&endpoint, now),
                };
                endpoints.insert(format!("{}/{}", upstream.name(), endpoint.name), told);
            }
        }
        let rollouts = snapshot.routes.iter().filter_map(|route| route.rollout());
        let canaries = rollouts.map(|rollout| {
            let status = rollout.status(now);
            let stands =
                Stands { phase: phase_word(status.phase), weight: status.weight, etag: status.etag() };
            (rollout.route.clone(), stands)
        });
        Passing {
            at: time(sample.at),
            seconds: (sample.seconds * 1e3).round() / 1e3,
            phase: state.phase.word(),
            gateway: sample.gateway,
            connections: Connections::of(&snapshot),
            routes: routes.into_iter().map(|(name, traffic)| (name.clone(), *traffic)).collect(),
            upstreams: sample.upstreams.clone(),
            endpoints,
            canaries: canaries.collect(),
        }
    }
}

pub(super) fn stream(state: &State, connection: &Connection, asked: &Asked) -> Result<Reply, Refused> {
    let place = place(asked)?;
    let watching = state.journal.events.watch(place);
    let hello = json!({
        "boot": state.journal.events.boot(),
        "version": env!("CARGO_PKG_VERSION"),
        "phase": state.phase.word(),
        "config_hash": hash(state.current.pin().hash),
        "resumed": watching.is_resumed,
    });
    let mut first = BytesMut::from(written("hello", None, &hello.to_string()).as_bytes());
    watching.missed.iter().for_each(|event| first.extend_from_slice(event));
    let to_come = watching.to_come;
    stream::open(state, connection, move |mut out| async move {
        let ended = follow(&mut out, first.freeze(), to_come).await;
        (out, ended)
    })
}

async fn follow(out: &mut Out, first: Bytes, mut to_come: Receiver<Bytes>) -> Ended {
    if let Err(ended) = out.send(first).await {
        return ended;
    }
    loop {
        let text = match out.next(next(&mut to_come)).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ended::Here("closing"),
            Err(ended) => return ended,
        };
        if let Err(ended) = out.send(text).await {
            return ended;
        }
    }
}

/// All that is there by now, in one piece.
async fn next(to_come: &mut Receiver<Bytes>) -> Option<Bytes> {
    let lost = |events: u64| written("lost", None, &json!({ "events": events }).to_string());
    let first: Bytes = match to_come.recv().await {
        Ok(event) => event,
        Err(RecvError::Lagged(events)) => lost(events).into(),
        Err(RecvError::Closed) => return None,
    };
    if to_come.is_empty() {
        return Some(first);
    }
    let mut text = BytesMut::from(&first[..]);
    while text.len() < AT_ONCE
        && let Ok(event) = to_come.try_recv()
    {
        text.extend_from_slice(&event);
    }
    Some(text.freeze())
}

/// Where whoever comes back has stopped.
pub(super) fn place(asked: &Asked) -> Result<Option<Place>, Refused> {
    let given = match asked.headers.get(LAST_EVENT_ID) {
        Some(id) => Some(id.to_str().unwrap_or("?")),
        None => asked.query.text("after"),
    };
    let Some(given) = given.filter(|given| !given.is_empty()) else { return Ok(None) };
    match Place::parse(given) {
        Some(place) => Ok(Some(place)),
        None => Err(Reason::BadRequest
            .because("Last-Event-ID is not the id of an event (leave it out to begin anew)")),
    }
}
