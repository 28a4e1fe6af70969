//! Upstreams, with their rates and what they are told beside the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::endpoints::EndpointRow;
use crate::{
    admin::{
        State,
        parts::tagged,
        parts_view::{Origin, find},
        refused::Refused,
        router::Asked,
        sampler::{Sample, Traffic},
    },
    api::reply::{self, Reply},
    config::{self, PartKind, TlsVersion, UpstreamProtocol, UpstreamTls},
    snapshot::Snapshot,
    upstream::{Affinity, GroupShare, Upstream, failover_word},
};

/// `GET /v1/upstreams`.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Upstreams(Vec<Row>);

#[derive(Serialize, JsonSchema)]
struct Row {
    #[serde(flatten)]
    about: About,
    endpoints: usize,
}

/// `GET /v1/upstreams/{upstream}`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Upstream")]
pub(in crate::admin) struct OneUpstream {
    #[serde(flatten)]
    about: About,
    /// With its defaults, without its secrets.
    config: Value,
    endpoint_count: usize,
    endpoints: Vec<EndpointRow>,
}

#[derive(Serialize, JsonSchema)]
struct About {
    name: String,
    #[serde(flatten)]
    origin: Origin,
    ready: bool,
    /// Of its endpoints, for so many something is ordered.
    ordered: usize,
    /// `file:line:column`.
    place: Option<String>,
    #[schemars(with = "String")]
    protocol: UpstreamProtocol,
    balancer: Value,
    tls: Option<TlsView>,
    usable: usize,
    /// Null where nothing is sampled.
    traffic: Option<Traffic>,
    queue: QueueView,
    /// Null where no other upstream stands in.
    failover: Option<FailoverView>,
    /// By priority and zone, the first to be asked first; none where all endpoints stand alike.
    groups: Vec<GroupView>,
    /// What keeps a client at one endpoint; null where nothing does.
    affinity: Option<AffinityView>,
    /// Tags of its endpoints that routes ask for, each once.
    subsets: Vec<BTreeMap<String, String>>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Affinity")]
struct AffinityView {
    /// `cookie` or `header`.
    by: &'static str,
    /// Of the cookie or the header; a subset's cookie has its own.
    name: String,
}

/// By upstream.
type Subsets<'a> = BTreeMap<&'a str, BTreeSet<&'a BTreeMap<String, String>>>;

fn subsets(snapshot: &Snapshot) -> Subsets<'_> {
    let mut subsets = Subsets::new();
    let all = snapshot.config.routes.iter().flat_map(|route| route.upstreams_and_subsets());
    for (upstream, tags) in all.filter(|(_, tags)| !tags.is_empty()) {
        subsets.entry(upstream).or_default().insert(tags);
    }
    subsets
}

/// Whom an upstream has to be, and whether we say who we are.
#[derive(Serialize, JsonSchema)]
struct TlsView {
    /// `false` where anybody's certificate is accepted.
    verified: bool,
    spiffe: Value,
    /// Null where it is the host of each endpoint's address.
    name: Option<String>,
    client_identity: bool,
    #[schemars(with = "String")]
    min_version: TlsVersion,
}

/// Endpoints of one priority, and of the gateway's own zone or of the others.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointGroup")]
pub(in crate::admin) struct GroupView {
    priority: u16,
    /// `own` or `other`; null where zones do not count.
    zone: Option<&'static str>,
    endpoints: usize,
    /// Of the upstream's requests, 0 to 1.
    share: f64,
}

impl GroupView {
    pub(in crate::admin) fn all(upstream: &Upstream, now: Instant) -> Vec<GroupView> {
        let shown = |group: GroupShare| GroupView {
            priority: group.priority,
            zone: group.zone_word(),
            endpoints: group.endpoints,
            share: (group.share * 1e4).round() / 1e4,
        };
        upstream.group_shares(now).into_iter().map(shown).collect()
    }
}

/// Whether its requests go to another upstream.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Failover")]
pub(in crate::admin) struct FailoverView {
    /// The upstream that stands in.
    to: String,
    /// `serving`, `failed_over` or `recovering`.
    state: &'static str,
    /// The part of its requests that it serves itself, 0 to 1.
    share: f64,
}

impl FailoverView {
    pub(in crate::admin) fn of(upstream: &Upstream, now: Instant) -> Option<FailoverView> {
        let failover = upstream.failover(now)?;
        Some(FailoverView {
            to: failover.to.to_owned(),
            state: failover_word(failover.phase),
            share: (failover.share * 1e4).round() / 1e4,
        })
    }
}

#[derive(Serialize, JsonSchema)]
struct QueueView {
    /// There is a limit to requests at once.
    limited: bool,
    /// Requests that wait for room.
    pending: usize,
}

impl About {
    fn of(snapshot: &Snapshot, sample: Option<&Sample>, subsets: &Subsets<'_>, upstream: &Upstream) -> About {
        let (endpoints, orders, now) = (upstream.endpoints(), upstream.orders(), Instant::now());
        let settings = upstream.settings();
        let ordered = endpoints.iter().filter(|endpoint| orders.contains_key(&*endpoint.name)).count();
        let usable = endpoints
            .iter()
            .filter(|endpoint| endpoint.weight > 0 && endpoint.is_usable() && !endpoint.is_ejected(now));
        About {
            name: upstream.name().to_owned(),
            origin: Origin::of(snapshot, PartKind::Upstream, upstream.name()),
            ready: upstream.is_ready(),
            ordered,
            place: snapshot.places.upstream(upstream.name()),
            protocol: settings.protocol,
            balancer: serde_json::to_value(&settings.balancer).unwrap_or_default(),
            tls: settings.tls.as_ref().map(TlsView::of),
            usable: usable.count(),
            traffic: sample.map(|sample| sample.upstreams.get(upstream.name()).copied().unwrap_or_default()),
            queue: QueueView {
                limited: upstream.room().is_limited(),
                pending: if upstream.room().is_limited() { upstream.room().pending() } else { 0 },
            },
            failover: FailoverView::of(upstream, now),
            groups: GroupView::all(upstream, now),
            affinity: upstream.affinity().map(AffinityView::of),
            subsets: subsets.get(upstream.name()).into_iter().flatten().copied().cloned().collect(),
        }
    }
}

impl AffinityView {
    fn of(affinity: &Affinity) -> AffinityView {
        let (by, name) = match affinity.settings() {
            config::Affinity::Cookie(cookie) => ("cookie", &cookie.name),
            config::Affinity::Header(header) => ("header", &header.name),
        };
        AffinityView { by, name: name.clone() }
    }
}

impl TlsView {
    fn of(tls: &UpstreamTls) -> TlsView {
        TlsView {
            verified: !tls.insecure_skip_verify,
            spiffe: serde_json::to_value(&tls.verify.spiffe).unwrap_or_default(),
            name: tls.verify.name.clone(),
            client_identity: tls.client_identity,
            min_version: tls.min_version,
        }
    }
}

pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let snapshot = state.current.pin();
    let sample = state.sampler.as_ref().map(|sampler| sampler.latest());
    let subsets = subsets(&snapshot);
    let rows = snapshot.upstreams.values().map(|upstream| Row {
        about: About::of(&snapshot, sample.as_deref(), &subsets, upstream),
        endpoints: upstream.endpoints().len(),
    });
    Ok(reply::json(StatusCode::OK, &Upstreams(rows.collect())))
}

pub(in crate::admin) fn one(state: &State, snapshot: &Snapshot, name: &str) -> Result<Reply, Refused> {
    let upstream = find(snapshot, name)?;
    let sample = state.sampler.as_ref().map(|sampler| sampler.latest());
    let mut effective = snapshot.effective.value();
    let endpoints = EndpointRow::all(state, sample.as_deref(), upstream, Instant::now());
    let view = OneUpstream {
        about: About::of(snapshot, sample.as_deref(), &subsets(snapshot), upstream),
        config: effective["upstreams"][name].take(),
        endpoint_count: upstream.endpoints().len(),
        endpoints,
    };
    Ok(tagged(reply::json(StatusCode::OK, &view), view.about.origin.etag()))
}
