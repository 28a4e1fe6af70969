//! What the operator writes, as types: the whole schema of the YAML file, top-down.
//! Nothing here is compiled or resolved; a value that parses is well-formed, not yet meaningful. Names are
//! references until the snapshot is built, and a filter's options stay raw until the filter itself reads them.

pub(in crate::config) mod access;
pub(in crate::config) mod identity;
pub(in crate::config) mod one_or_map;
pub(in crate::config) mod proxy_protocol;
pub(in crate::config) mod sidecar;
pub(in crate::config) mod sni;
pub(in crate::config) mod tls;
pub(in crate::config) mod traffic;
pub(in crate::config) mod traffic_forms;
pub(in crate::config) mod units;
pub(in crate::config) mod unix;
pub(in crate::config) mod upstream_tls;

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    identity::Identity,
    one_or_map::proxies,
    proxy_protocol::{AcceptProxy, ProxyProtocol},
    sidecar::{Mode, OriginalDestination, Sidecar},
    sni::SniTarget,
    tls::ListenerTls,
    traffic::{Canary, CircuitBreaker, Hedge, Mirror, Outlier, Retry, Split},
    units::{ByteSize, HumanDuration, Rate, Ratio, Secret},
    unix::FileMode,
    upstream_tls::UpstreamTls,
};

/// The whole file, with its includes merged in.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files to merge into this one: paths or glob patterns, relative to this file.
    pub include: Vec<String>,
    pub admin: Admin,
    pub log: Log,
    /// Also reload when a configuration file changes; without it only SIGHUP reloads.
    pub watch: bool,
    /// Whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed; `unix` is who comes over a Unix socket. Default:
    /// nobody's.
    #[serde(deserialize_with = "proxies")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    pub forwarded: Forwarded,
    pub paths: Paths,
    pub shutdown: Shutdown,
    pub upgrade: Upgrade,
    /// Where progress that must survive a restart is kept, such as a canary's. Default: it is not kept.
    pub state_dir: Option<PathBuf>,
    /// Threads that serve connections. Default: the number of CPUs this process may use.
    pub threads: Option<NonZeroUsize>,
    /// Who this gateway is, for mTLS. Default: nobody.
    pub identity: Option<Identity>,
    pub mode: Mode,
    /// The two directions of `mode: sidecar`.
    pub sidecar: Option<Sidecar>,
    pub listeners: Vec<Listener>,
    pub routes: Vec<Route>,
    pub upstreams: BTreeMap<String, Upstream>,
    /// Named filter chains, reusable by routes and listeners.
    pub filters: BTreeMap<String, Vec<FilterUse>>,
}

/// The operator's HTTP API: `false` turns it off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Admin {
    Off(bool),
    On(AdminListener),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminListener {
    /// Default 127.0.0.1:9901. Any address that is not loopback needs `token` or `tls.client_ca`.
    pub address: String,
    /// Bearer token that every request but `/livez` and `/readyz` must carry.
    pub token: Option<Secret>,
    /// Default: plain text.
    pub tls: Option<AdminTls>,
}

/// TLS towards those who use the API. Files are read again as they change.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// PEM: the certificate, then those that lead from it to its root.
    pub cert: PathBuf,
    /// PEM: the private key, not encrypted.
    pub key: PathBuf,
    /// PEM: every request but those to `/livez` and `/readyz` must come with a certificate by one of these authorities.
    pub client_ca: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: LogLevel,
    /// Default: text when stdout is a terminal, json otherwise.
    pub format: Option<LogFormat>,
    pub access: AccessLog,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Json,
    Text,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `stderr`, `off`, or a file path (reopened on SIGUSR1).
    pub to: String,
    /// Default: as `log.format`.
    pub format: Option<LogFormat>,
    /// The share of requests that are logged; answers of 500 and above always are.
    pub sample: Ratio,
    /// Lines waiting to be written may take this much memory; beyond it they are dropped and counted.
    pub buffer: ByteSize,
}

/// Which headers tell who the client is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarded {
    /// Which header of a trusted proxy is believed and extended. Name the one that your proxies write: the other may be
    /// the client's own, and is replaced.
    pub trust: ForwardedHeader,
    /// Write `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    pub x_forwarded: bool,
    /// Write `Forwarded` (RFC 7239).
    pub forwarded: bool,
    /// What becomes of `X-Forwarded-Client-Cert`.
    pub client_cert: ClientCertHeader,
}

/// The header tells the upstream whose certificate the client has shown, as Envoy writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertHeader {
    /// Not written, and taken out whoever sent it.
    #[default]
    Off,
    /// Written where the client has shown a certificate, in place of whatever was sent.
    Write,
    /// The same, behind what one of `trusted_proxies` has sent.
    Append,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// How request paths are normalised before a route is chosen.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What to do with `%2F` and `%5C`.
    pub encoded_slashes: EncodedSlashes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodedSlashes {
    /// Left as they are: an encoded slash never separates segments.
    #[default]
    Keep,
    /// Answered with 400.
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// On SIGTERM: how long requests in flight may take to finish.
    pub grace: HumanDuration,
    /// On SIGTERM: how long to answer 503 on `/readyz` and keep accepting before the listeners close,
    /// so that load balancers can take this process out first.
    pub unready_for: HumanDuration,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upgrade {
    /// The Unix socket over which a running gateway hands its listeners to `run --upgrade`.
    /// Default: `tidegate-<uid>.sock` in the runtime directory.
    pub socket: Option<PathBuf>,
    /// How long a successor waits for the running gateway, and that for its successor to serve.
    pub timeout: HumanDuration,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Default: its address.
    pub name: Option<String>,
    /// `ip:port`; `:port` means every address, IPv4 and IPv6; `unix:/path` is a Unix socket.
    pub address: String,
    /// Who may connect to a Unix socket, by the permissions of its file. Default: "0660".
    pub mode: Option<FileMode>,
    #[serde(default)]
    pub protocol: Protocol,
    /// Who says in front of each connection whose it is.
    #[serde(default)]
    pub proxy_protocol: AcceptProxy,
    /// Default: plain text.
    pub tls: Option<ListenerTls>,
    /// Names whose TLS is passed on as it is: exact, `*.suffix`, or `*` for all others. On a listener that terminates TLS
    /// too, what no entry is for is terminated.
    pub sni: Option<BTreeMap<String, SniTarget>>,
    /// iptables redirects connections here: `true`, or how they are served.
    pub original_destination: Option<OriginalDestination>,
    #[serde(default)]
    pub limits: Limits,
    /// Run before each route's own.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// Names of the routes served here. Default: all.
    pub routes: Option<Vec<String>>,
    /// Where `protocol: tcp` carries its connections.
    pub upstream: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 by prior knowledge (h2c), on one port.
    #[default]
    Http,
    /// Bytes, both ways, to `upstream`.
    Tcp,
    /// TLS that is not terminated, to an upstream chosen by the name the client asks for.
    TlsPassthrough,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections on this listener; one more is closed at once.
    pub connections: NonZeroUsize,
    /// Open connections from one client address. Default: no limit of its own.
    pub connections_per_ip: Option<NonZeroUsize>,
    /// New connections, such as `1000/s`; one more is closed at once. Default: no limit.
    pub connection_rate: Option<Rate>,
    /// New connections from one client address. Default: no limit.
    pub connection_rate_per_ip: Option<Rate>,
    /// From the opening of a connection to the end of its TLS handshake; a PROXY header before it may take as long again.
    pub handshake_timeout: HumanDuration,
    /// Request line and header fields together: 431 beyond.
    pub header_size: ByteSize,
    /// From the first byte of a request to the end of its header: 408 beyond.
    pub header_timeout: HumanDuration,
    /// Request body: 413 beyond.
    pub body_size: ByteSize,
    /// What filters may hold back of each body to look at it as a whole: 413 or 502 beyond.
    pub filter_buffer: ByteSize,
    /// Longest pause between two reads of a request body: 408 beyond.
    pub body_timeout: HumanDuration,
    /// Longest stall while the client does not read the response.
    pub write_timeout: HumanDuration,
    /// How long a connection may stay open without a request; of TCP, without a byte in either direction.
    /// Default: 60s, of TCP 1h.
    pub idle_timeout: Option<HumanDuration>,
    /// How long nothing may pass either way on an upgraded connection (a WebSocket).
    pub upgraded_idle_timeout: HumanDuration,
    /// HTTP/2 clients are sent a ping this often, and are gone when they have not answered it by the next. Default: none
    /// is sent.
    pub ping_interval: Option<HumanDuration>,
    /// Requests after which a connection is closed.
    pub requests_per_connection: NonZeroU32,
    /// Concurrent HTTP/2 streams per connection.
    pub streams_per_connection: NonZeroU32,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Default: derived from the match.
    pub name: Option<String>,
    #[serde(default, rename = "match")]
    pub matching: RouteMatch,
    /// Run in this order: a name from the top-level `filters`, or one inline.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// Exactly one of `upstream`, `split`, `canary`, `respond` and `redirect`.
    pub upstream: Option<String>,
    pub split: Option<Split>,
    pub canary: Option<Canary>,
    pub respond: Option<Respond>,
    pub redirect: Option<Redirect>,
    /// The whole request, retries included: 504 beyond. Default: no limit of its own.
    pub timeout: Option<HumanDuration>,
    /// A request header in which the upstream is told how many milliseconds of `timeout` are left. gRPC requests have
    /// `grpc-timeout` for it.
    pub timeout_header: Option<String>,
    /// Default: connecting elsewhere, and one more try where an idempotent request met a broken connection.
    pub retry: Option<Retry>,
    pub hedge: Option<Hedge>,
    pub mirror: Option<Mirror>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteMatch {
    /// Exact names or `*.suffix`; none means any host.
    pub hosts: Vec<String>,
    pub path: Option<PathMatch>,
    pub methods: Vec<String>,
    pub headers: BTreeMap<String, ValueMatch>,
    pub query: BTreeMap<String, ValueMatch>,
}

/// A bare string is a prefix on a segment boundary.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    Exact(String),
    Prefix(String),
    Regex(String),
    /// `/users/{id}`: each `{name}` matches one whole segment; `{*rest}` as the last segment matches what is left.
    Template(String),
}

/// A bare string is an exact value.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    Exact(String),
    Regex(String),
    Present(bool),
}

/// Answered by the gateway itself.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// 200 to 599.
    #[serde(default = "default_respond_status")]
    pub status: u16,
    #[serde(default)]
    pub body: String,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn default_respond_status() -> u16 {
    200
}

/// Answered by the gateway itself with a `Location`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// An absolute URL or path; `{host}`, `{path}`, `{query}` and `{path.name}` are filled in from the request.
    pub to: String,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "default_redirect_status")]
    pub status: u16,
}

fn default_redirect_status() -> u16 {
    308
}

/// One entry of a chain: the name of a chain under top-level `filters`, or one filter with its options, and beside it
/// the [conditions](FilterUse::CONDITIONS) under which it runs.
/// What is inside is kept as written; it is read when the filter is built.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FilterUse {
    Named(String),
    Inline(BTreeMap<String, serde_json::Value>),
}

impl FilterUse {
    /// The keys of an inline entry that are no filter: each holds a [`RouteMatch`].
    pub const CONDITIONS: [&str; 2] = ["when", "unless"];
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    pub endpoints: Vec<Endpoint>,
    /// Requests go where their connection was meant to go before iptables redirected it, in place of `endpoints`. With
    /// `protocol: auto`, by the version of HTTP that they came in.
    pub original_destination: bool,
    pub protocol: UpstreamProtocol,
    pub balancer: Balancer,
    pub connect_timeout: HumanDuration,
    /// Longest pause while the upstream answers, its first byte included: 504 beyond.
    pub read_timeout: HumanDuration,
    /// Longest stall while the upstream does not read the request.
    pub write_timeout: HumanDuration,
    /// How long a connection is kept for the next request.
    pub idle_timeout: HumanDuration,
    pub pool: Pool,
    pub health_check: Option<HealthCheck>,
    pub outlier: Option<Outlier>,
    pub circuit_breaker: Option<CircuitBreaker>,
    /// A new or recovered endpoint gets its full share only after this time.
    pub slow_start: Option<HumanDuration>,
    /// When a smaller share of the endpoints is healthy and not ejected, requests go to all of them. 0% turns it off.
    pub panic_threshold: Ratio,
    /// Speak TLS to the endpoints.
    pub tls: Option<UpstreamTls>,
    /// Tell the endpoints whose connection they are given. Over HTTP, connections are then not shared between clients.
    pub proxy_protocol: ProxyProtocol,
    /// Names of fields keep the case in which they came, between HTTP/1 clients and HTTP/1 endpoints. Else they are in lower
    /// case.
    pub preserve_header_case: bool,
}

/// A bare string is an address of weight 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Endpoint {
    /// `ip:port`, `hostname:port` or `unix:/path`.
    pub address: String,
    /// 0 to 65,535; 0 drains the endpoint.
    pub weight: u16,
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
    /// Consistent hashing (Ketama).
    Hash(HashKey),
}

/// `client_ip`, `{header: NAME}` or `{cookie: NAME}`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    ClientIp,
    Header(String),
    Cookie(String),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Idle connections kept open to this upstream, all endpoints together, and as many for requests without a body over
    /// HTTP/1, hedges and mirrors, which keep theirs apart; 0 keeps none.
    pub idle_connections: usize,
    /// Concurrent streams per HTTP/2 connection.
    pub streams_per_connection: NonZeroUsize,
    /// How often an HTTP/2 connection is asked for a sign of life: it is closed after 5s without one. 0s never asks.
    pub ping_interval: HumanDuration,
    /// Connections open at once. Default: no limit.
    pub max_connections: Option<NonZeroUsize>,
    /// Requests in flight at once. Default: no limit.
    pub max_requests: Option<NonZeroUsize>,
    /// Requests that may wait for one of the two above to have room: 503 `overloaded` beyond.
    pub max_pending: usize,
    /// How long they may wait: 503 `overloaded` beyond.
    pub pending_timeout: HumanDuration,
}

/// Exactly one of `http`, `tcp` and `grpc`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    pub http: Option<HttpProbe>,
    pub tcp: Option<TcpProbe>,
    pub grpc: Option<GrpcProbe>,
    #[serde(default = "default_interval")]
    pub interval: HumanDuration,
    #[serde(default = "default_probe_timeout")]
    pub timeout: HumanDuration,
    /// Each pause is up to this share shorter or longer than `interval`, so that gateways do not probe in step.
    #[serde(default = "default_jitter")]
    pub jitter: Ratio,
    /// Failed probes in a row after which a healthy endpoint is taken out.
    #[serde(default = "default_unhealthy_after")]
    pub unhealthy_after: NonZeroU32,
    /// Good probes in a row after which an unhealthy endpoint is taken back. The first probe alone decides
    /// for an endpoint that has never been probed.
    #[serde(default = "default_healthy_after")]
    pub healthy_after: NonZeroU32,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpProbe {
    pub path: String,
    /// A status, a range or several: `200`, `200-299`, `[200, 204, 300-399]`.
    pub expect: ExpectedStatuses,
    /// Default: the endpoint's address.
    pub host: Option<String>,
    pub headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcProbe {
    /// The service asked about in `grpc.health.v1.Health/Check`; empty asks about the whole server.
    pub service: String,
}

/// Inclusive ranges of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedStatuses(pub Vec<(u16, u16)>);

impl ExpectedStatuses {
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

fn default_interval() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn default_probe_timeout() -> HumanDuration {
    HumanDuration::from_secs(2)
}

fn default_jitter() -> Ratio {
    Ratio::from_percent(10)
}

fn default_unhealthy_after() -> NonZeroU32 {
    const { NonZeroU32::new(3).unwrap() }
}

fn default_healthy_after() -> NonZeroU32 {
    const { NonZeroU32::new(2).unwrap() }
}

impl Default for Admin {
    fn default() -> Self {
        Admin::On(AdminListener::default())
    }
}

impl Default for AdminListener {
    fn default() -> Self {
        AdminListener { address: "127.0.0.1:9901".into(), token: None, tls: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: LogLevel::Info, format: None, access: AccessLog::default() }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog {
            to: "stdout".into(),
            format: None,
            sample: Ratio::from_percent(100),
            buffer: ByteSize::mib(8),
        }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Upgrade { socket: None, timeout: HumanDuration::from_secs(60) }
    }
}

impl Default for Forwarded {
    fn default() -> Self {
        Forwarded {
            trust: ForwardedHeader::default(),
            x_forwarded: true,
            forwarded: false,
            client_cert: ClientCertHeader::default(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { grace: HumanDuration::from_secs(30), unready_for: HumanDuration::from_secs(0) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).unwrap()
        }
        const fn count32(n: u32) -> NonZeroU32 {
            NonZeroU32::new(n).unwrap()
        }
        Limits {
            connections: const { count(20_000) },
            connections_per_ip: None,
            connection_rate: None,
            connection_rate_per_ip: None,
            handshake_timeout: HumanDuration::from_secs(10),
            header_size: ByteSize::kib(64),
            header_timeout: HumanDuration::from_secs(10),
            body_size: ByteSize::mib(10),
            filter_buffer: ByteSize::mib(1),
            body_timeout: HumanDuration::from_secs(60),
            write_timeout: HumanDuration::from_secs(60),
            idle_timeout: None,
            upgraded_idle_timeout: HumanDuration::from_secs(3600),
            ping_interval: None,
            requests_per_connection: const { count32(10_000) },
            streams_per_connection: const { count32(100) },
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
            connect_timeout: HumanDuration::from_secs(1),
            read_timeout: HumanDuration::from_secs(60),
            write_timeout: HumanDuration::from_secs(60),
            idle_timeout: HumanDuration::from_secs(60),
            pool: Pool::default(),
            health_check: None,
            outlier: None,
            circuit_breaker: None,
            slow_start: None,
            panic_threshold: Ratio::default(),
            tls: None,
            proxy_protocol: ProxyProtocol::default(),
            preserve_header_case: false,
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            idle_connections: 512,
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

impl Default for HttpProbe {
    fn default() -> Self {
        HttpProbe {
            path: "/".into(),
            expect: ExpectedStatuses(vec![(200, 299)]),
            host: None,
            headers: BTreeMap::new(),
        }
    }
}
