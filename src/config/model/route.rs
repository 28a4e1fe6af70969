//! `routes`: what is matched, the filters, and where it goes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::config::model::{
    OwnPaths,
    error_pages::ErrorPages,
    mirrors::Mirrors,
    short_forms::{or_addresses, or_url},
    tracing::RouteTrace,
    traffic::{Canary, Hedge, Priority, Retry, Split},
    units::HumanDuration,
};

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Default: derived from the match.
    pub name: Option<String>,
    /// The requests that this route takes. Default: all.
    #[serde(default, rename = "match")]
    pub matching: RouteMatch,
    /// Run in this order: a name from the top-level `filters`, or one inline.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// Its name, or in its place an address or a list of them. Exactly one of `upstream`, `split`, `canary`, `respond` and `redirect`.
    #[schemars(transform = or_addresses)]
    pub upstream: Option<String>,
    /// With `upstream`: only its endpoints that have all of these `tags`, or where they come from a registry this metadata.
    #[serde(default)]
    pub subset: BTreeMap<String, String>,
    // Boxed is what most routes lack, as a place for it would be most of each.
    /// Requests are shared among several upstreams.
    pub split: Option<Box<Split>>,
    /// A candidate that gets more of the traffic step by step.
    pub canary: Option<Box<Canary>>,
    /// The gateway answers by itself.
    pub respond: Option<Box<Respond>>,
    /// The client is sent elsewhere: a URL, or how.
    pub redirect: Option<Box<Redirect>>,
    /// The whole request, retries included: 504 beyond. Default: no limit of its own.
    pub timeout: Option<HumanDuration>,
    /// Who is refused last when an upstream with `concurrency` has too much to do: `critical`, `high`, `normal` or `low`. Default: `normal`.
    pub priority: Option<Priority>,
    /// How paths are normalised here.
    #[serde(default)]
    pub paths: OwnPaths,
    /// Calls of gRPC may be streams without end: `body_size` bounds each message, and they may be silent for an hour.
    /// Default: where all upstreams of the route say `protocol: grpc`.
    pub grpc_streams: Option<bool>,
    /// A request header in which the upstream is told how many milliseconds of `timeout` are left. gRPC requests have
    /// `grpc-timeout` for it.
    pub timeout_header: Option<String>,
    /// Default: connecting elsewhere, and one more try where an idempotent request met a broken connection.
    pub retry: Option<Box<Retry>>,
    /// A slow request is sent to a second endpoint as well.
    pub hedge: Option<Box<Hedge>>,
    /// A share of the requests is copied to another upstream, or to several.
    pub mirror: Option<Box<Mirrors>>,
    /// What differs from the top-level `tracing`.
    pub trace: Option<RouteTrace>,
    /// Before those of the listener and the top level.
    #[serde(default)]
    pub error_pages: ErrorPages,
    /// `false`: takes nothing of the top-level `defaults`.
    pub defaults: Option<bool>,
    /// Read by plugins: by namespace, names and values. They find it as `xds.route_metadata.filter_metadata`.
    pub metadata: Option<Box<BTreeMap<String, Value>>>,
}

impl Route {
    /// Where its requests may go, copies aside.
    pub fn upstreams(&self) -> impl Iterator<Item = &String> {
        self.upstreams_and_subsets().map(|(name, _)| name)
    }

    /// The same, each with the tags that its endpoints must have.
    pub fn upstreams_and_subsets(&self) -> impl Iterator<Item = (&String, &BTreeMap<String, String>)> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        let variants = self.split.iter().flat_map(|split| &split.to);
        let variants = variants.map(|variant| (&variant.upstream, &variant.subset));
        let sides = self.canary.iter().flat_map(|canary| [&canary.stable, &canary.candidate]);
        let own = self.upstream.iter().map(|upstream| (upstream, &self.subset));
        own.chain(variants).chain(sides.map(|side| (side, &NONE)))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteMatch {
    /// Exact names or `*.suffix`; none means any host.
    pub hosts: Vec<String>,
    /// A prefix such as `/api`, or `{exact}`, `{prefix}`, `{regex}`, `{template}`. Default: any path.
    pub path: Option<PathMatch>,
    /// Any of these; GET includes HEAD. None means any method.
    pub methods: Vec<String>,
    /// Header fields, all of which must be there: a value, or `{exact}`, `{regex}`, `{present}`.
    pub headers: BTreeMap<String, ValueMatch>,
    /// Query parameters, all of which must be there, as for `headers`.
    pub query: BTreeMap<String, ValueMatch>,
    /// What this matches is left out.
    pub not: Option<Box<RouteMatch>>,
    /// One of these, beside all of the above. Each is as if it were a route of its own.
    pub any: Vec<RouteMatch>,
}

impl RouteMatch {
    /// Itself, or where it is one of several the first of them, as far as it says what the whole does not.
    pub fn first(&self) -> RouteMatch {
        let mut first = self.clone();
        let Some(alternative) = self.any.first().map(RouteMatch::first) else { return first };
        if first.hosts.is_empty() {
            first.hosts = alternative.hosts;
        }
        if first.methods.is_empty() {
            first.methods = alternative.methods;
        }
        first.path = first.path.or(alternative.path);
        first
    }
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
    /// The body, as it stands.
    #[serde(default)]
    pub body: String,
    /// Fields of the answer, as they stand.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

fn default_respond_status() -> u16 {
    200
}

/// Answered by the gateway itself with a `Location`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields)]
#[schemars(transform = or_url)]
pub struct Redirect {
    /// An absolute URL or path, with placeholders: `https://www.example.com{uri}` keeps path and query.
    pub to: Option<String>,
    /// In place of `to`, at a route that matches a path prefix: what stands in the place of this prefix. The rest of the path and the
    /// query stay.
    pub replace_prefix: Option<String>,
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "default_redirect_status")]
    pub status: u16,
}

fn default_redirect_status() -> u16 {
    308
}

impl Redirect {
    pub fn to(to: impl Into<String>) -> Redirect {
        Redirect { to: Some(to.into()), replace_prefix: None, status: default_redirect_status() }
    }

    /// Where it leads, as it is written.
    pub fn target(&self) -> &str {
        self.to.as_deref().or(self.replace_prefix.as_deref()).unwrap_or_default()
    }
}

/// One entry of a chain: the name of a chain under top-level `filters`, or one filter with its options, and beside it
/// the [conditions](FilterUse::CONDITIONS) under which it runs.
/// What is inside is kept as written; it is read when the filter is built.
#[derive(Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FilterUse {
    Named(String),
    Inline(Entry),
}

/// The keys of such an entry with what stands under each, in JSON: thousands of routes have filters, and hardly anybody asks. As trees of
/// values they would be the largest part of a configuration.
#[derive(Clone, PartialEq)]
pub struct Entry(Box<[(Box<str>, Box<str>)]>);

impl Entry {
    pub(in crate::config) fn of(values: BTreeMap<String, Value>) -> Entry {
        let written = |(key, value): (String, Value)| (key.into(), value.to_string().into());
        Entry(values.into_iter().map(written).collect())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &**key)
    }

    /// Read anew each time.
    pub fn values(&self) -> impl Iterator<Item = (&str, Value)> {
        self.0.iter().map(|(key, text)| (&**key, serde_json::from_str(text).unwrap_or_default()))
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.values())
    }
}

impl FilterUse {
    /// The keys of an inline entry that are no filter: each holds a [`RouteMatch`].
    pub const CONDITIONS: [&str; 2] = ["when", "unless"];
}
