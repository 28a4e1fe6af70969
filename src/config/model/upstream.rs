//! `upstreams`: endpoints, and the connections to them.

use std::{collections::BTreeMap, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    affinity::Affinity,
    health_check::HealthCheck,
    placement::Then,
    proxy_protocol::ProxyProtocol,
    short_forms::{endpoints, or_one},
    traffic::{CircuitBreaker, Concurrency, ConcurrencyRule, Outlier, OutlierRule},
    units::{HumanDuration, Ratio},
    upstream_tls::UpstreamTls,
};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Where requests go: `ip:port`, `hostname:port`, `unix:/path`, or a map with a weight, SRV records or a registered service.
    #[serde(deserialize_with = "endpoints")]
    #[schemars(transform = or_one)]
    pub endpoints: Vec<Endpoint>,
    /// Requests go where their connection was meant to go before iptables redirected it, in place of `endpoints`. With
    /// `protocol: auto`, by the version of HTTP that they came in.
    pub original_destination: bool,
    /// `http1`, `http2`, `grpc` or `auto`.
    pub protocol: UpstreamProtocol,
    /// Which endpoint is next: `round_robin`, `least_requests`, `random`, `p2c_ewma` or `{hash: ...}`.
    pub balancer: Balancer,
    /// What keeps a client's requests at one endpoint: a cookie, or a header. Default: nothing.
    pub affinity: Option<Affinity>,
    /// How long a connection may take to open, TLS included.
    pub connect_timeout: HumanDuration,
    /// Longest pause while the upstream answers, its first byte included: 504 beyond.
    pub read_timeout: HumanDuration,
    /// Longest stall while the upstream does not read the request.
    pub write_timeout: HumanDuration,
    /// How long a connection is kept for the next request.
    pub idle_timeout: HumanDuration,
    /// How long what was sent may stay unacknowledged by the other machine: then the connection is given up. 0s leaves it to the
    /// system, which takes a quarter of an hour.
    pub tcp_user_timeout: HumanDuration,
    /// How many connections and requests there may be.
    pub pool: Pool,
    /// How many requests the upstream can do at once is learnt from how long it takes to answer: `adaptive`, or how. Default: it is not.
    pub concurrency: Option<ConcurrencyRule>,
    /// How endpoints are asked for their health: a path, or how. Default: they are not.
    pub health_check: Option<HealthCheck>,
    /// Default: on.
    pub outlier: Option<OutlierRule>,
    /// Keeps requests from endpoints that fail. Default: none.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// A new or recovered endpoint gets its full share only after this time.
    pub slow_start: Option<HumanDuration>,
    /// When a smaller share of the endpoints is healthy and not ejected, requests go to all of them. 0% turns it off.
    pub panic_threshold: Ratio,
    /// Endpoints in the gateway's own `zone` come first, as far as they can bear its requests. `false`: zones do not count.
    pub zone_aware: bool,
    /// Where requests go while no endpoint can be used: an upstream's name, or how.
    pub then: Option<Then>,
    /// Speak TLS to the endpoints.
    pub tls: Option<UpstreamTls>,
    /// Tell the endpoints whose connection they are given. Over HTTP, connections are then not shared between clients.
    pub proxy_protocol: ProxyProtocol,
    /// Names of fields keep the case in which they came, between HTTP/1 clients and HTTP/1 endpoints. Else they are in lower
    /// case.
    pub preserve_header_case: bool,
    /// `false`: takes nothing of the top-level `defaults`.
    pub defaults: Option<bool>,
}

/// A bare string is an address of weight 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    #[serde(flatten)]
    pub origin: EndpointOrigin,
    /// 0 to 65,535; 0 drains the endpoint. For a registry it multiplies what each instance is registered with.
    pub weight: u16,
    /// 0 comes first; others get what those before cannot bear.
    #[serde(skip_serializing_if = "is_first")]
    pub priority: u16,
    /// Where it stands. Instances of a registry say so themselves, in their metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What subsets are chosen by; of an address. Instances of a registry have metadata.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

fn is_first(priority: &u16) -> bool {
    *priority == 0
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EndpointOrigin {
    /// `ip:port`, `hostname:port` or `unix:/path`.
    Address {
        address: String,
    },
    Srv(SrvEndpoint),
    Registry(RegistryEndpoint),
}

/// Hosts of a service, by the SRV records of a name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SrvEndpoint {
    pub srv: String,
}

/// Instances of a service that are registered at the control plane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegistryEndpoint {
    /// The service.
    pub registry: String,
    /// All of them must be an instance's.
    pub tags: Vec<String>,
    /// All of these pairs must be an instance's.
    pub metadata: BTreeMap<String, String>,
    /// How long the last instances stay here when silence alone has taken them; 0s: not at all.
    pub keep_last: HumanDuration,
}

impl Endpoint {
    pub fn at(address: impl Into<String>, weight: u16) -> Endpoint {
        Endpoint::of(EndpointOrigin::Address { address: address.into() }, weight)
    }

    /// Of the first rank, and of no place in particular.
    pub fn of(origin: EndpointOrigin, weight: u16) -> Endpoint {
        Endpoint { origin, weight, priority: 0, zone: None, tags: BTreeMap::new() }
    }

    pub fn is_registered(&self) -> bool {
        matches!(self.origin, EndpointOrigin::Registry(_))
    }
}

impl RegistryEndpoint {
    /// All instances of `service`.
    pub fn of(service: impl Into<String>) -> RegistryEndpoint {
        RegistryEndpoint {
            registry: service.into(),
            tags: Vec::new(),
            metadata: BTreeMap::new(),
            keep_last: HumanDuration::from_secs(600),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    #[default]
    Http1,
    /// HTTP/2: over TLS where the endpoint agrees (ALPN), else by prior knowledge.
    Http2,
    /// The same as `http2`.
    Grpc,
    /// HTTP/2 where the endpoint offers it over TLS (ALPN), else HTTP/1.1.
    Auto,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    LeastRequests,
    Random,
    /// The better of two random choices by response time and load.
    P2cEwma,
    /// Consistent hashing (weighted rendezvous).
    Hash(HashKey),
}

/// `client_ip`, `{header: NAME}`, `{cookie: NAME}` or `{cookie: {name: NAME, ...}}`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    ClientIp,
    /// By the value of this header.
    Header(String),
    /// By the value of this cookie.
    Cookie(HashCookie),
}

/// A bare string is its name. Clients that come without it are given one with a random value, and have their endpoint from then on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HashCookie {
    pub name: String,
    /// false: only the upstream gives it out.
    pub issue: bool,
    pub path: String,
    /// How long browsers keep it. Default: as long as they run.
    pub max_age: Option<HumanDuration>,
    pub same_site: SameSite,
    /// Browsers send it over HTTPS alone.
    pub secure: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    Strict,
    #[default]
    Lax,
    /// Needs `secure`.
    None,
}

impl HashCookie {
    pub fn named(name: impl Into<String>) -> HashCookie {
        HashCookie {
            name: name.into(),
            issue: true,
            path: "/".into(),
            max_age: None,
            same_site: SameSite::default(),
            secure: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Idle connections kept open to this upstream, all endpoints together; 0 keeps none.
    pub idle_connections: usize,
    /// Of them, so many to one endpoint.
    pub idle_per_endpoint: NonZeroUsize,
    /// Concurrent streams per HTTP/2 connection.
    pub streams_per_connection: NonZeroUsize,
    /// How often an HTTP/2 connection is asked for a sign of life: it is closed after 5s without one. 0s never asks.
    pub ping_interval: HumanDuration,
    /// Connections open at once. Default: no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// Requests in flight at once. Default: 20,000, beyond which nobody waits.
    pub max_requests: Option<NonZeroUsize>,
    /// Requests that may wait for one of the two above to have room: 503 `overloaded` beyond.
    pub max_pending: usize,
    /// How long they may wait: 503 `overloaded` beyond.
    pub pending_timeout: HumanDuration,
}

impl Upstream {
    /// How its limit is learnt, where it is.
    pub fn learnt_limit(&self) -> Option<&Concurrency> {
        match &self.concurrency {
            Some(ConcurrencyRule::On(concurrency)) => Some(concurrency),
            Some(ConcurrencyRule::Off) | None => None,
        }
    }

    /// The rule of passive ejection. Where a connection was meant to go is one place, of which none is left out.
    pub fn ejection(&self) -> Option<Outlier> {
        match &self.outlier {
            Some(OutlierRule::Off) => None,
            Some(OutlierRule::On(outlier)) => Some(outlier.clone()),
            None => (!self.original_destination).then(Outlier::default),
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Upstream {
            endpoints: Vec::new(),
            original_destination: false,
            protocol: UpstreamProtocol::default(),
            balancer: Balancer::default(),
            affinity: None,
            connect_timeout: HumanDuration::from_secs(1),
            read_timeout: HumanDuration::from_secs(60),
            write_timeout: HumanDuration::from_secs(60),
            idle_timeout: HumanDuration::from_secs(60),
            tcp_user_timeout: HumanDuration::from_secs(10),
            pool: Pool::default(),
            concurrency: None,
            health_check: None,
            outlier: None,
            circuit_breaker: None,
            slow_start: None,
            panic_threshold: Ratio::default(),
            zone_aware: true,
            then: None,
            tls: None,
            proxy_protocol: ProxyProtocol::default(),
            preserve_header_case: false,
            defaults: None,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            // A few thousand endpoints in turn, from each thread, find a connection that is there.
            idle_connections: 16_384,
            idle_per_endpoint: const { NonZeroUsize::new(512).unwrap() },
            streams_per_connection: const { NonZeroUsize::new(100).unwrap() },
            // Servers of gRPC close connections that ask more often than every five minutes.
            ping_interval: HumanDuration::from_secs(360),
            max_connections: None,
            max_requests: None,
            max_pending: 100,
            pending_timeout: HumanDuration::from_secs(1),
        }
    }
}
