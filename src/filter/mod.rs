//! Stage 3: filters, the steps of a route's chain. Each is one file: its options, and what it does in which phase.
//!
//! Requests pass the filters in the written order, responses in reverse: the first is outermost. The order in the operator's
//! YAML is the order of execution. To add one that every gateway has: its file, its lines in `builtin/mod.rs` and
//! `registry.rs`, `docs/filters/<name>.md`, and `tests/filters/<name>.yaml`.
//!
//! # A filter of your own
//!
//! What this page shows is what a [gateway of your own](crate::Gateway) is written against. [`Options`] are what an operator
//! writes below the filter's name; they make the [`Filter`], which sees each request as an [`Exchange`]. The crates that
//! stand in these types are here as well, so that yours are the gateway's versions.
//!
//! This one answers 403 where a request does not say for which tenant it is, and numbers those that it lets through:
//!
//! ```
//! use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
//! use tidegate::filter::{
//!     Exchange, Filter, Flow, Invalid, Live, Options, Path, Phases, Reason, http::HeaderName, schemars::JsonSchema,
//!     serde::Deserialize,
//! };
//!
//! /// Admits requests for a tenant, and numbers them.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(crate = "tidegate::filter::serde", default, deny_unknown_fields)]
//! #[schemars(crate = "tidegate::filter::schemars")]
//! struct Tenant {
//!     /// Where the tenant stands.
//!     header: String,
//! }
//!
//! impl Default for Tenant {
//!     fn default() -> Tenant {
//!         Tenant { header: "x-tenant".to_owned() }
//!     }
//! }
//!
//! impl Options for Tenant {
//!     fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
//!         let header = HeaderName::try_from(&self.header).map_err(|_| {
//!             // The operator reads it with file, line and column.
//!             vec![Invalid::new(at.key("header"), format!("`{}` is not a header name", self.header))]
//!         })?;
//!         // A reload goes on with this count, as long as the header is the same.
//!         let count = live.keep(self.header, |_| AtomicU64::new(0));
//!         Ok(Arc::new(Admit { header, count }))
//!     }
//! }
//!
//! struct Admit {
//!     header: HeaderName,
//!     count: Arc<AtomicU64>,
//! }
//!
//! impl Filter for Admit {
//!     fn phases(&self) -> Phases {
//!         Phases::REQUEST | Phases::FORWARD
//!     }
//!
//!     fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
//!         match exchange.request.headers.contains_key(&self.header) {
//!             true => Ok(Flow::Continue),
//!             false => Err(Reason::Forbidden),
//!         }
//!     }
//!
//!     fn on_forward(&self, exchange: &mut Exchange<'_>) -> Result<(), Reason> {
//!         let count = self.count.fetch_add(1, Relaxed) + 1;
//!         exchange.request.insert_header("x-tenant-request", count.to_string()).map_err(|_| Reason::Internal)
//!     }
//! }
//!
//! // Its test needs no socket.
//! use tidegate::filter::{Facts, RequestHeader};
//!
//! let filter = Tenant::default().build(&Path::root(), &Live::offline()).unwrap();
//! let mut request = RequestHeader::build("GET", b"/", None).unwrap();
//! let mut facts = Facts::default();
//! let mut exchange = Exchange::new(&mut request, &mut facts);
//! assert_eq!(filter.on_request(&mut exchange).unwrap_err(), Reason::Forbidden);
//! exchange.request.insert_header("x-tenant", "7").unwrap();
//! assert!(matches!(filter.on_request(&mut exchange), Ok(Flow::Continue)));
//! filter.on_forward(&mut exchange).unwrap();
//! assert_eq!(exchange.request.headers["x-tenant-request"], "1");
//! ```
//!
//! # What holds for every filter
//!
//! - A panic ends the one request with 500 `panic`, and the gateway serves on. What a filter shares between requests must be
//!   valid at every step.
//! - Nothing blocks: a phase runs on a thread that serves other requests. Who has to wait implements
//!   [`on_request_async`](Filter::on_request_async).
//! - `when`, `unless`, order, error places, `check`, `explain`, `schema` and the metrics `tidegate_filter_*` come from the
//!   gateway.

mod builtin;
mod chain;
mod condition;
pub(crate) mod error_pages;
mod exchange;
pub(crate) mod fuzzing;
mod live;
mod registry;
mod shared;
pub(crate) mod switches;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::BitOr,
    sync::Arc,
};

use ::bytes::Bytes;
use ::http::HeaderMap;
use ::schemars::JsonSchema;
use ::serde::de::DeserializeOwned;
use condition::Condition;

// What options, filters and their tests are written with.
#[doc(no_inline)]
pub use ::{async_trait, bytes, http, schemars, serde};
pub use exchange::{Exchange, Facts, Response, TlsFacts};
pub use live::{Background, Live};
pub use pingora_http::{RequestHeader, ResponseHeader};

#[doc(inline)]
pub use crate::{
    config::{ByteSize, HumanDuration, Path, Ratio, Secret},
    error::Reason,
    identity::{Caller, Claims},
    route::Params,
};

// What the gateway itself needs of this stage. Nothing is promised of it.
#[doc(hidden)]
pub use builtin::authz::let_in;
pub(crate) use builtin::basic_auth::{HashKind, hash_password};
pub(crate) use builtin::redirect::build as redirect;
#[doc(hidden)]
pub use chain::{Chain, Decided, Held, Passed};
#[doc(hidden)]
pub use condition::rule;
#[doc(hidden)]
pub use error_pages::ErrorPages;
pub(crate) use exchange::{Called, Peeked, Waits};
#[cfg(feature = "wasm")]
pub(crate) use exchange::{Ended, UpstreamWay, address_of};
#[doc(hidden)]
pub use live::Modules;
#[doc(hidden)]
pub use registry::Registry;
use shared::encoder::Encoder;
pub(crate) use shared::origin::OriginPattern;
#[doc(hidden)]
pub use shared::template::Template;
pub(crate) use shared::template::{Piece, Pieces, REDACTED};

use crate::config::{FilterUse, Problem, Sources, suggest, unknown_filter};

/// One step in a route's chain. Implement only the phases you need, and name them in `phases`.
#[async_trait::async_trait]
pub trait Filter: Send + Sync {
    /// Which of the methods below do something; the others are never called.
    fn phases(&self) -> Phases;

    /// Which of several of its kind it is, where that is shown: `wasm:waf`.
    #[doc(hidden)]
    fn detail(&self) -> Option<&str> {
        None
    }

    /// Sees the request before an upstream is chosen; may answer it.
    fn on_request(&self, _exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        Ok(Flow::Continue)
    }

    /// Of a filter that has to wait only at times: what can be said at once. `None` leaves it to `on_request_async`.
    fn on_request_at_once(&self, _exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        Ok(None)
    }

    /// The same for a filter that has to wait. Costs an allocation per request, so it is a phase of its own.
    ///
    /// ```
    /// use tidegate::filter::{Exchange, Filter, Flow, Phases, Reason, async_trait::async_trait};
    ///
    /// struct Ask;
    ///
    /// #[async_trait]
    /// impl Filter for Ask {
    ///     fn phases(&self) -> Phases {
    ///         Phases::REQUEST_ASYNC
    ///     }
    ///
    ///     async fn on_request_async(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
    ///         // It must come to an end by itself: give it a deadline.
    ///         match may_pass(exchange.facts.path()).await {
    ///             Some(true) => Ok(Flow::Continue),
    ///             Some(false) => Err(Reason::Forbidden),
    ///             None => Err(Reason::AuthUnavailable),
    ///         }
    ///     }
    /// }
    ///
    /// async fn may_pass(path: &str) -> Option<bool> {
    ///     // Ask whoever knows.
    /// #   Some(path == "/")
    /// }
    /// ```
    async fn on_request_async(&self, _exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        Ok(Flow::Continue)
    }

    /// Edits the request as the upstream will see it (runs once per attempt).
    fn on_forward(&self, _exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        Ok(())
    }

    /// Edits the response as the client will see it; also runs for answers the gateway made itself. A filter that is going
    /// to change the body takes `Content-Length` off here.
    fn on_response(&self, _exchange: &mut Exchange<'_>) -> Result<(), Reason> {
        Ok(())
    }

    /// Sees a part of the request's body on its way to the upstream, once, whatever becomes of the tries that it is sent
    /// with. The last part may be empty. A filter that changes the body takes `Content-Length` off in `on_forward`.
    fn on_request_body(
        &self,
        _exchange: &mut Exchange<'_>,
        _data: &mut Bytes,
        _is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        Ok(BodyFlow::Pass)
    }

    /// Sees the fields behind the request's body, after its last part; there may be none.
    fn on_request_trailers(
        &self,
        _exchange: &mut Exchange<'_>,
        _trailers: &mut HeaderMap,
    ) -> Result<(), Reason> {
        Ok(())
    }

    /// Sees a part of the response's body on its way to the client; also of answers the gateway made itself.
    fn on_response_body(
        &self,
        _exchange: &mut Exchange<'_>,
        _data: &mut Bytes,
        _is_last: bool,
    ) -> Result<BodyFlow, Reason> {
        Ok(BodyFlow::Pass)
    }

    /// Sees the fields behind the response's body, after its last part; there may be none. What it answers goes in front
    /// of them, at the end of the body.
    fn on_response_trailers(
        &self,
        _exchange: &mut Exchange<'_>,
        _trailers: &mut HeaderMap,
    ) -> Result<Bytes, Reason> {
        Ok(Bytes::new())
    }

    /// The request is over, however it ended. Nothing can be changed any more.
    fn on_end(&self, _exchange: &mut Exchange<'_>) {}
}

/// What becomes of a part of a body.
///
/// ```
/// use tidegate::filter::{BodyFlow, Exchange, Filter, Phases, Reason, bytes::Bytes};
///
/// struct NoScripts;
///
/// impl Filter for NoScripts {
///     fn phases(&self) -> Phases {
///         Phases::REQUEST_BODY
///     }
///
///     fn on_request_body(
///         &self,
///         _exchange: &mut Exchange<'_>,
///         data: &mut Bytes,
///         is_last: bool,
///     ) -> Result<BodyFlow, Reason> {
///         // What is looked for may be cut in two, so all of it is looked at together.
///         match is_last {
///             false => Ok(BodyFlow::Hold),
///             true if data.windows(7).any(|part| part == b"<script") => Err(Reason::Forbidden),
///             true => Ok(BodyFlow::Pass),
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub enum BodyFlow {
    /// It goes on as it is now.
    Pass,
    /// It waits, and is seen again together with the next part, so that a filter may gather what it needs. How much may
    /// wait is bounded by the listener's `filter_buffer`. The last part does not wait.
    // Where `facts.waits` is set, it is seen again after that, too, alone.
    Hold,
    /// The filter waits, and is asked again about the same part, which it keeps meanwhile: `facts.waits` says for what.
    #[doc(hidden)]
    Wait,
    /// The exchange ends with this answer, where none has begun.
    Reply(Response),
}

/// Whether a request goes on.
#[derive(Debug)]
pub enum Flow {
    /// To the next filter, and then to the upstream.
    Continue,
    /// It is answered with this. The response filters see the answer, as they see an upstream's.
    Reply(Response),
}

/// A set of phases: `Phases::REQUEST | Phases::RESPONSE`. The names are those of the methods of [`Filter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u16);

impl Phases {
    pub const REQUEST: Phases = Phases(1);
    pub const REQUEST_ASYNC: Phases = Phases(2);
    pub const FORWARD: Phases = Phases(4);
    pub const RESPONSE: Phases = Phases(8);
    pub const REQUEST_BODY: Phases = Phases(16);
    pub const REQUEST_TRAILERS: Phases = Phases(32);
    pub const RESPONSE_BODY: Phases = Phases(64);
    pub const RESPONSE_TRAILERS: Phases = Phases(128);
    pub const END: Phases = Phases(256);
    /// `on_request` may change the request, so that the route has to be found anew where it stands in a listener's chain.
    pub const CHANGES_REQUEST: Phases = Phases(512);
    /// It is told where requests come in and where they go.
    #[cfg(feature = "wasm")]
    pub(crate) const ASKS_FOR_WAYS: Phases = Phases(1024);

    pub const fn empty() -> Phases {
        Phases(0)
    }

    pub const fn contains(self, phases: Phases) -> bool {
        self.0 & phases.0 == phases.0
    }

    /// Whether one of `phases` is among these.
    pub const fn intersects(self, phases: Phases) -> bool {
        self.0 & phases.0 != 0
    }
}

impl BitOr for Phases {
    type Output = Phases;

    fn bitor(self, other: Phases) -> Phases {
        Phases(self.0 | other.0)
    }
}

/// A filter's options as the operator writes them. Keys that nobody knows should be refused (`deny_unknown_fields`), and doc
/// comments become the descriptions that editors show.
pub trait Options: DeserializeOwned + JsonSchema {
    /// State that is to survive a reload is taken from `live`.
    ///
    /// # Errors
    ///
    /// What is wrong, at a path below the options.
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>>;
}

/// Options that parse but make no sense: a message for the operator, and where the mistake stands.
///
/// ```
/// use tidegate::filter::{Invalid, Path};
///
/// let at = Path::root();
/// let invalid = Invalid::new(at.key("share"), "0% makes no sense here (leave the filter out)");
/// assert_eq!(invalid.path.to_string(), "share");
/// ```
#[derive(Debug)]
pub struct Invalid {
    pub path: Path,
    pub message: String,
}

impl Invalid {
    pub fn new(path: Path, message: impl ToString) -> Invalid {
        Invalid { path, message: message.to_string() }
    }
}

/// A chain and all that is wrong with it. `named` are the chains under the top-level `filters`, built before. `live` is
/// that of the chain's owner.
#[doc(hidden)]
pub fn build_chain(
    uses: &[FilterUse],
    at: &Path,
    live: &Live,
    sources: &Sources,
    named: &BTreeMap<String, Chain>,
    problems: &mut Vec<Problem>,
) -> Chain {
    let mut chain = Chain::default();
    for (index, filter_use) in uses.iter().enumerate() {
        let (at, live) = (at.index(index), live.within(&format!("[{index}]")));
        match filter_use {
            FilterUse::Named(name) => match named.get(name) {
                Some(other) => chain.extend(other),
                None if sources.may_lack_entries(&Path::root().key("filters")) => {}
                None => problems.push(unknown_chain(name, &at, live.registry(), sources, named)),
            },
            // One filter: the configuration's own types saw to it.
            FilterUse::Inline(entry) => {
                let condition = Condition::read(entry, &at, sources, problems);
                for name in entry.keys().filter(|key| !FilterUse::CONDITIONS.contains(key)) {
                    add(&mut chain, name, condition.clone(), &at.key(name), &live, sources, problems);
                }
            }
        }
    }
    chain.seal();
    if !chain.is_decidable() {
        let most = Chain::CONDITIONAL;
        let problem =
            sources.problem(at, format!("only the first {most} filters of a chain may have conditions"));
        problems.push(problem.hint("move those with `when` or `unless` to the front"));
    }
    chain
}

fn add(
    chain: &mut Chain,
    name: &str,
    condition: Option<Arc<Condition>>,
    at: &Path,
    live: &Live,
    sources: &Sources,
    problems: &mut Vec<Problem>,
) {
    let Some((name, kind)) = live.registry().find(name) else {
        let problem = sources.problem(at, format!("unknown filter `{name}`"));
        let near = suggest(name, live.registry().names()).map(|near| format!("did you mean `{near}`?"));
        let hint = match near.or_else(|| unknown_filter(name)) {
            Some(hint) => hint,
            None => format!("filters: {}", live.registry().names().collect::<Vec<_>>().join(", ")),
        };
        problems.push(problem.hint(hint));
        return;
    };
    match (kind.build)(sources, at, live) {
        Ok(filter) => chain.push_counted(name, filter, condition, live.metrics().filter(name)),
        Err(wrong) => problems.extend(wrong),
    }
}

fn unknown_chain(
    name: &str,
    at: &Path,
    registry: &Registry,
    sources: &Sources,
    named: &BTreeMap<String, Chain>,
) -> Problem {
    let problem = sources.problem(at, format!("filter chain `{name}` does not exist"));
    let candidates: BTreeSet<&str> = named.keys().map(String::as_str).collect();
    match suggest(name, candidates.into_iter()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if registry.names().any(|filter| filter == name) => {
            problem.hint(format!("a filter is written with its options: `- {name}: {{}}`"))
        }
        None => problem.hint("chains are defined under the top-level `filters`"),
    }
}
