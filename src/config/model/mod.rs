//! What the operator writes, as types: the whole schema of the YAML file, top-down.
//! Nothing here is compiled or resolved; a value that parses is well-formed, not yet meaningful. Names are
//! references until the snapshot is built, and a filter's options stay raw until the filter itself reads them.

pub(in crate::config) mod access;
pub(in crate::config) mod acme;
pub(in crate::config) mod admin;
pub(in crate::config) mod affinity;
pub(in crate::config) mod control;
pub(in crate::config) mod control_join;
pub(in crate::config) mod control_serve;
pub(in crate::config) mod defaults;
pub(in crate::config) mod error_pages;
pub(in crate::config) mod forwarded;
pub(in crate::config) mod health_check;
pub(in crate::config) mod identity;
pub(in crate::config) mod limits;
pub(in crate::config) mod listener;
pub(in crate::config) mod log_targets;
pub(in crate::config) mod logging;
pub(in crate::config) mod metrics;
pub(in crate::config) mod mirrors;
pub(in crate::config) mod one_or_map;
pub(in crate::config) mod otlp;
pub(in crate::config) mod placement;
pub(in crate::config) mod plugins;
pub(in crate::config) mod proxy_protocol;
pub(in crate::config) mod redis;
pub(in crate::config) mod rollout;
pub(in crate::config) mod route;
pub(in crate::config) mod shared_storage;
pub(in crate::config) mod short_forms;
pub(in crate::config) mod sidecar;
pub(in crate::config) mod sni;
pub(in crate::config) mod systemd;
pub(in crate::config) mod tls;
pub(in crate::config) mod tracing;
pub(in crate::config) mod traffic;
pub(in crate::config) mod traffic_forms;
pub(in crate::config) mod units;
pub(in crate::config) mod unix;
pub(in crate::config) mod upstream;
pub(in crate::config) mod upstream_tls;
pub(in crate::config) mod word_or_names;

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    acme::AcmeAccount,
    admin::Admin,
    control::Control,
    control_serve::ControlServe,
    defaults::Defaults,
    error_pages::ErrorPages,
    forwarded::Forwarded,
    identity::Identity,
    limits::ProcessLimits,
    listener::Listener,
    logging::Log,
    metrics::Metrics,
    one_or_map::proxies,
    plugins::Plugin,
    route::{FilterUse, Route},
    sidecar::{Mode, Sidecar},
    tracing::Tracing,
    units::HumanDuration,
    upstream::Upstream,
};

/// The whole file, with its includes merged in.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Files to merge into this one: paths or glob patterns, relative to this file.
    pub include: Vec<String>,
    /// The operator's HTTP API and console; `false` turns it off.
    pub admin: Admin,
    /// This process and a control plane. Default: neither serves one nor follows one.
    pub control: Option<Control>,
    /// Messages and the access log.
    pub log: Log,
    /// What metrics have, and whom they are sent to.
    pub metrics: Metrics,
    /// Distributed traces. Default: contexts pass untouched, and nothing is recorded.
    pub tracing: Option<Tracing>,
    /// Also reload when a configuration file changes; without it only SIGHUP reloads.
    pub watch: bool,
    /// Whose `X-Forwarded-*`, `Forwarded` and PROXY headers are believed; `unix` is who comes over a Unix socket. Default:
    /// nobody's.
    #[serde(deserialize_with = "proxies")]
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// Which headers tell who the client is, in both directions.
    pub forwarded: Forwarded,
    /// How request paths are normalised before a route is chosen.
    pub paths: Paths,
    /// How the gateway ends on SIGTERM.
    pub shutdown: Shutdown,
    /// How a new process takes over from a running one.
    pub upgrade: Upgrade,
    /// Where progress that must survive a restart is kept, such as a canary's. Default: it is not kept.
    pub state_dir: Option<PathBuf>,
    /// Where this gateway stands. Endpoints of the same zone come first; see an endpoint's `zone`. `${env:ZONE}` takes it from the environment.
    pub zone: Option<String>,
    /// What the whole process may take.
    pub limits: ProcessLimits,
    /// Threads that serve connections. Default: the number of CPUs this process may use.
    pub threads: Option<NonZeroUsize>,
    /// Who this gateway is, for mTLS. Default: nobody.
    pub identity: Option<Identity>,
    /// By name: accounts that order certificates from CAs, for listeners with `tls: {acme: ...}`. `default` exists by itself.
    pub acme: BTreeMap<String, AcmeAccount>,
    /// `gateway`, or `sidecar` beside one application.
    pub mode: Mode,
    /// The two directions of `mode: sidecar`.
    pub sidecar: Option<Sidecar>,
    /// What clients read in the place of the gateway's own short answers: by reason, status or class.
    pub error_pages: ErrorPages,
    /// What each route, upstream and listener has that does not say otherwise.
    #[serde(skip_serializing)]
    pub defaults: Defaults,
    /// Where connections are accepted.
    pub listeners: Vec<Listener>,
    /// Which requests go where. The most specific match wins, not the first.
    pub routes: Vec<Route>,
    /// By name: the servers that requests are sent to.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Filters in WebAssembly, for the ABI of proxy-wasm, by the names that `wasm` filters use.
    pub plugins: BTreeMap<String, Plugin>,
    /// Named filter chains, reusable by routes and listeners.
    pub filters: BTreeMap<String, Vec<FilterUse>>,
}

impl Config {
    /// The control plane that this process serves, if it does.
    pub fn serves_control(&self) -> Option<&ControlServe> {
        self.control.as_ref()?.serve.as_ref()
    }

    /// The membership by which a control plane gives this process its configuration, and what that is called there.
    pub fn takes_config(&self) -> Option<(&control_join::Join, &str)> {
        let join = self.control.as_ref()?.join.as_ref()?;
        Some((join, join.config.as_deref()?))
    }
}

/// How request paths are normalised before a route is chosen.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What to do with `%2F` and `%5C`.
    pub encoded_slashes: EncodedSlashes,
}

/// The same for what a listener or a route serves, before what is said for all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OwnPaths {
    /// What to do with `%2F` and `%5C`. Default: what the listener says, then what the top level does.
    pub encoded_slashes: Option<EncodedSlashes>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EncodedSlashes {
    /// Left as they are: an encoded slash never separates segments here. Only for upstreams that read them so, too.
    Keep,
    /// Answered with 400: many servers take them for slashes, and see another path than the one that was matched.
    #[default]
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

impl Default for Upgrade {
    fn default() -> Self {
        Upgrade { socket: None, timeout: HumanDuration::from_secs(60) }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { grace: HumanDuration::from_secs(30), unready_for: HumanDuration::from_secs(0) }
    }
}
