//! The filter's options, and what of them makes no sense.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{
    Along, Guard, Service,
    cache::{Cache, Known},
    checks::{Checks, is_all, url_of_grpc, url_of_http},
    grpc::{Grpc, Names},
    http::{Http, asked},
};
use crate::{
    config::{ByteSize, HumanDuration, Path},
    fetch,
    filter::{Filter, Invalid, Live, Options, builtin::headers::header_name, shared::proven::ProvenHeader},
    observe::log_throttle::Sparse,
};

/// Asks a service about each request, over HTTP or in Envoy's protocol of gRPC, and lets in what the service does.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtAuth {
    /// Where to ask a service of HTTP: `http://` or `https://`, with path and query. It lets in with an answer of 2xx.
    url: Option<String>,
    /// Where to ask a service that speaks Envoy's `ext_authz` (`envoy.service.auth.v3.Authorization`), in the place of `url`: `http://`
    /// (HTTP/2 without TLS) or `https://`, host and port.
    grpc: Option<String>,
    /// How a service of HTTP is asked.
    #[serde(default)]
    method: Asking,
    /// How long the answer may take.
    #[serde(default = "timeout")]
    timeout: HumanDuration,
    /// What of the client's request the service sees. Default: `[authorization, cookie]`, besides `X-Forwarded-Method`, `-Proto`, `-Host`,
    /// `-Uri` and `-For`; with `grpc` all, `["*"]`.
    request_headers: Option<Vec<String>>,
    /// What the service says with its permission that the upstream sees. What a client sends there is taken off. Default: none; with `grpc`
    /// all, `["*"]`, in the place of what the client sent or beside it, as the service says.
    response_headers: Option<Vec<String>>,
    /// What of a refusal the client sees, besides its status, `Content-Type` and body. Default: `[www-authenticate, location, set-cookie]`;
    /// with `grpc` all, `["*"]`.
    client_headers: Option<Vec<String>>,
    /// What the service says with its permission that the client sees with the response: `set-cookie` renews a session. It takes the
    /// place of the upstream's field of that name; cookies are added. Default: none; with `grpc` all, `["*"]`, as the service says.
    client_headers_allowed: Option<Vec<String>>,
    /// The request's body goes along. Without, the service sees none of it.
    with_body: Option<WithBody>,
    /// What the service has decided is remembered for a while. Without, it is asked about each request.
    cache: Option<Remember>,
    /// What the service is told besides the request, with `grpc`: `context_extensions` of its attributes.
    #[serde(default)]
    context_extensions: BTreeMap<String, String>,
    /// What becomes of requests while the service cannot be asked.
    #[serde(default)]
    fail: Fail,
    /// A file of certificates in PEM, which is watched: who is trusted to be the service. Default: whom the system trusts.
    ca: Option<PathBuf>,
    /// The longest answer: its body, which goes to the client with a refusal, or its message of gRPC.
    #[serde(default = "max_body")]
    max_body: ByteSize,
    /// So many questions at once, and 503 beyond.
    #[serde(default = "max_requests")]
    max_requests: usize,
}

/// With which method to ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
enum Asking {
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// The client's own.
    #[serde(rename = "original")]
    Original,
}

/// What to do with a request when the service is away: it does not answer, or with 500, 502, 503 or 504.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fail {
    /// Answer 503.
    #[default]
    Closed,
    /// Let it in, without `response_headers`.
    Open,
}

/// How the body goes along.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WithBody {
    /// So much of it, at most 1MiB. A request with more is answered with 413.
    #[serde(default = "max_size")]
    max_size: ByteSize,
    /// Of a body with more, its beginning goes along.
    #[serde(default)]
    allow_partial: bool,
    /// With `grpc` it goes along in `raw_body`, also where it is text.
    #[serde(default)]
    as_bytes: bool,
}

/// For how long, and by what a decision is known, besides the client's address and certificate, the target, and the body where it goes
/// along.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Remember {
    /// Fields of the request. Default: all `request_headers`; where those are `["*"]`, they are to be named here.
    headers: Option<Vec<String>>,
    /// A decision holds for all methods, hosts and paths: for services that look only at `headers`.
    ignore_target: bool,
    /// How long a permission is remembered, at most 1h.
    ttl: HumanDuration,
    /// How long a refusal is remembered, at most 1h. Redirects and answers with cookies never are.
    denied_ttl: HumanDuration,
    /// About how many decisions are remembered, at most a million.
    entries: usize,
}

impl Default for Remember {
    fn default() -> Remember {
        Remember {
            headers: None,
            ignore_target: false,
            ttl: HumanDuration::from_secs(10),
            denied_ttl: HumanDuration::from_secs(0),
            entries: 10_000,
        }
    }
}

fn timeout() -> HumanDuration {
    HumanDuration::from_secs(1)
}

fn max_body() -> ByteSize {
    ByteSize::from_bytes(64 * 1024)
}

fn max_size() -> ByteSize {
    ByteSize::kib(8)
}

fn max_requests() -> usize {
    256
}

const LARGEST_BODY: u64 = 1024 * 1024;
const LONGEST_TTL: Duration = Duration::from_secs(3600);
const MOST_ENTRIES: usize = 1_000_000;

impl Options for ExtAuth {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let mut checks = Checks { at, invalid: Vec::new() };
        self.limits(&mut checks);
        let proven = self.proven(&mut checks);
        let service = self.service(&mut checks);
        let by = self.cached_by(&mut checks);
        let client = checks.keep(at.key("ca"), self.client(live));
        let (Some(service), Some(client), true) = (service, client, checks.invalid.is_empty()) else {
            return Err(checks.invalid);
        };
        let with_target = self.cache.as_ref().is_none_or(|cache| !cache.ignore_target);
        let body = self.with_body.as_ref().map(|body| Along {
            most: usize::try_from(body.max_size.bytes()).unwrap_or(usize::MAX),
            may_be_partial: body.allow_partial,
        });
        let (timeout, fail, max_requests) = (self.timeout.as_std(), self.fail, self.max_requests);
        let max_body = usize::try_from(self.max_body.bytes()).unwrap_or(usize::MAX);
        let results = live.keep("ext_auth", |_| live.metrics().access().ext_auth(live.place()));
        let cache = self.cache.clone().map(|cache| {
            // All that decides what is decided: a filter that asks otherwise begins with nothing known.
            let known = live.keep(self, |_| Known::new(cache.entries));
            Cache::new(by, with_target, cache.ttl.as_std(), cache.denied_ttl.as_std(), known)
        });
        Ok(Arc::new(Guard {
            service,
            timeout,
            proven,
            body,
            cache,
            fail,
            client,
            max_body,
            room: Semaphore::new(max_requests),
            place: live.place().into(),
            results,
            told: Sparse::default(),
        }))
    }
}

impl ExtAuth {
    /// Shared with all that ask in the same way, and so kept over a reload.
    pub(super) fn client(&self, live: &Live) -> Result<Arc<fetch::Trusting>, String> {
        let file = self.ca.as_ref().map(|path| live.full_path(path));
        let options = fetch::Options {
            connect_timeout: self.timeout.as_std(),
            http2_only: self.grpc.is_some(),
            ..fetch::Options::default()
        };
        live.client(file, options)
    }

    fn limits(&self, checks: &mut Checks<'_>) {
        checks.refuse_if(self.timeout.as_std().is_zero(), "timeout", "a duration of 0 makes no sense here");
        checks.refuse_if(
            !(1..=Semaphore::MAX_PERMITS).contains(&self.max_requests),
            "max_requests",
            "at least one question must be allowed",
        );
        if let Some(body) = &self.with_body {
            let at = checks.at.key("with_body");
            let size = body.max_size.bytes();
            if !(1..=LARGEST_BODY).contains(&size) {
                checks.refuse(at.key("max_size"), "max_size is from 1B to 1MiB");
            }
            if body.as_bytes && self.grpc.is_none() {
                checks.refuse(
                    at.key("as_bytes"),
                    "a body goes to a service of HTTP as it is (leave `as_bytes` out)",
                );
            }
            if self.url.is_some() && self.method == Asking::Get {
                let why = "a question with a body is asked with the client's method (set `method: original`)";
                checks.refuse(checks.at.key("method"), why);
            }
        }
        if let Some(cache) = &self.cache {
            let at = checks.at.key("cache");
            for (key, ttl) in [("ttl", cache.ttl), ("denied_ttl", cache.denied_ttl)] {
                if ttl.as_std() > LONGEST_TTL {
                    checks.refuse(
                        at.key(key),
                        "at most 1h: nothing tells the gateway of a decision that was changed",
                    );
                }
            }
            if cache.ttl.as_std().is_zero() && cache.denied_ttl.as_std().is_zero() {
                checks.refuse(at.key("ttl"), "nothing is remembered for 0s (leave `cache` out)");
            }
            if !(1..=MOST_ENTRIES).contains(&cache.entries) {
                checks.refuse(at.key("entries"), "entries are from 1 to a million");
            }
        }
        if self.grpc.is_some() {
            checks.refuse_if(
                self.method != Asking::Get,
                "method",
                "with `grpc` the method stands in the question (leave it out)",
            );
        } else {
            let why = "only services of `grpc` are told these (use `headers`, or the query of `url`)";
            checks.refuse_if(!self.context_extensions.is_empty(), "context_extensions", why);
        }
    }

    fn service(&self, checks: &mut Checks<'_>) -> Option<Service> {
        let at = checks.at.clone();
        match (&self.url, &self.grpc) {
            (Some(url), None) => {
                let url = checks.keep(at.key("url"), url_of_http(url));
                let service = Http {
                    url: url.unwrap_or_default(),
                    asks_with_original_method: self.method == Asking::Original,
                    request_headers: checks.listed(
                        "request_headers",
                        self.request_headers.as_deref(),
                        &REQUEST,
                        asked,
                    ),
                    response_headers: self.proven(&mut Checks { at: &at, invalid: Vec::new() }),
                    client_headers: checks.listed(
                        "client_headers",
                        self.client_headers.as_deref(),
                        &CLIENT,
                        header_name,
                    ),
                    client_headers_allowed: checks.listed(
                        "client_headers_allowed",
                        self.client_headers_allowed.as_deref(),
                        &[],
                        header_name,
                    ),
                };
                Some(Service::Http(service))
            }
            (None, Some(url)) => {
                let url = checks.keep(at.key("grpc"), url_of_grpc(url));
                let proven = self.proven(&mut Checks { at: &at, invalid: Vec::new() });
                let service = Grpc {
                    url: url.unwrap_or_default(),
                    timeout: self.timeout.as_std(),
                    context_extensions: self.context_extensions.clone(),
                    body_as_bytes: self.with_body.as_ref().is_some_and(|body| body.as_bytes),
                    request_headers: checks.names("request_headers", self.request_headers.as_deref()),
                    response_headers: match is_all(self.response_headers.as_deref()) {
                        true => Names::All,
                        false => Names::Listed(proven),
                    },
                    client_headers: checks.names("client_headers", self.client_headers.as_deref()),
                    client_headers_allowed: checks
                        .names("client_headers_allowed", self.client_headers_allowed.as_deref()),
                };
                Some(Service::Grpc(service))
            }
            (None, None) => {
                checks.refuse(at, "nothing says whom to ask (give `url`, or `grpc`)");
                None
            }
            (Some(_), Some(_)) => {
                checks.refuse(at.key("grpc"), "one service is asked: by `url`, or by `grpc` (leave one out)");
                None
            }
        }
    }

    /// What only the service may say of the client.
    fn proven(&self, checks: &mut Checks<'_>) -> Vec<ProvenHeader> {
        let listed = self.response_headers.as_deref();
        match self.grpc.is_some() && is_all(listed) {
            true => Vec::new(),
            false => checks.listed("response_headers", listed, &[], ProvenHeader::parse),
        }
    }

    fn cached_by(&self, checks: &mut Checks<'_>) -> Vec<HeaderName> {
        let Some(cache) = &self.cache else { return Vec::new() };
        let at = checks.at.key("cache");
        match (&cache.headers, self.grpc.is_some() && is_all(self.request_headers.as_deref())) {
            (Some(names), _) => checks.parsed(&at.key("headers"), names, header_name),
            (None, true) => {
                let why =
                    "the service sees all fields: name those that it decides by (`headers: [authorization]`)";
                checks.refuse(at, why);
                Vec::new()
            }
            // What is wrong with them is said where they stand.
            (None, false) => {
                let names = self.request_headers.clone().unwrap_or_else(|| REQUEST.map(str::to_owned).into());
                names.iter().filter_map(|name| header_name(name).ok()).collect()
            }
        }
    }
}

const REQUEST: [&str; 2] = ["authorization", "cookie"];
const CLIENT: [&str; 3] = ["www-authenticate", "location", "set-cookie"];
