//! Stage 3: filters, the steps of a route's chain. Each is one file: its options, and what it does in which phase.
//!
//! Requests pass the filters in the written order, responses in reverse: the first is outermost.
//!
//! The registry below is a plain table; the order in the operator's YAML is the order of execution. To add a filter:
//! its file, its two lines here, `docs/filters/<name>.md`, and `tests/filters/<name>.yaml`.

mod builtin;
mod chain;
mod condition;
mod exchange;
pub(crate) mod fuzzing;
mod live;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::BitOr,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use condition::Condition;
use http::HeaderMap;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

pub use builtin::authz::let_in;
pub use chain::{Chain, Decided, Held};
pub use condition::rule;
pub(crate) use exchange::Called;
pub use exchange::{Exchange, Facts, Response, TlsFacts};
pub use live::{Background, Live};
use shared::encoder::Encoder;
pub use shared::template::Template;
pub(crate) use shared::template::{Piece, Pieces, REDACTED};

use crate::config::{FilterUse, Path, Problem, Redirect, Respond, Sources, suggest};
pub use crate::error::Reason;

/// One step in a route's chain. Implement only the phases you need, and name them in `phases`.
#[async_trait]
pub trait Filter: Send + Sync {
    /// Which of the methods below do something; the others are never called.
    fn phases(&self) -> Phases;

    /// Sees the request before an upstream is chosen; may answer it.
    fn on_request(&self, _exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        Ok(Flow::Continue)
    }

    /// Of a filter that has to wait only at times: what can be said at once. `None` leaves it to `on_request_async`.
    fn on_request_at_once(&self, _exchange: &mut Exchange<'_>) -> Result<Option<Flow>, Reason> {
        Ok(None)
    }

    /// The same for a filter that has to wait. Costs an allocation per request, so it is a phase of its own.
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
#[derive(Debug)]
pub enum BodyFlow {
    /// It goes on as it is now.
    Pass,
    /// It waits, and is seen again together with the next part, so that a filter may gather what it needs. How much may
    /// wait is bounded by the listener's `filter_buffer`. The last part does not wait.
    Hold,
    /// The exchange ends with this answer, where none has begun.
    Reply(Response),
}

#[derive(Debug)]
pub enum Flow {
    Continue,
    Reply(Response),
}

/// A set of phases.
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

/// A filter's options as the operator writes them.
pub trait Options: DeserializeOwned + JsonSchema {
    /// State that is to survive a reload is taken from `live`.
    ///
    /// # Errors
    ///
    /// What is wrong, at a path below the options.
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>>;
}

/// Options that parse but make no sense.
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

/// Reads the options at a path and makes the filter of them.
type Build = fn(&Sources, &Path, &Live) -> Result<Arc<dyn Filter>, Vec<Problem>>;

/// One line of the registry.
struct Kind {
    name: &'static str,
    build: Build,
    schema: fn() -> serde_json::Value,
}

const fn kind<O: Options>(name: &'static str) -> Kind {
    Kind { name, build: build::<O>, schema: schema::<O> }
}

/// In debug builds only.
const FOR_TESTS: [&str; 2] = ["hold", "panic"];

const BUILT_IN: &[Kind] = &[
    kind::<builtin::api_key::ApiKeys>("api_key"),
    kind::<builtin::authz::Authz>("authz"),
    kind::<builtin::basic_auth::BasicAuth>("basic_auth"),
    kind::<builtin::body_limit::BodyLimit>("body_limit"),
    kind::<builtin::compression::Compression>("compression"),
    kind::<builtin::cors::Cors>("cors"),
    kind::<builtin::ext_auth::ExtAuth>("ext_auth"),
    kind::<builtin::fault::Fault>("fault"),
    kind::<builtin::grpc_web::GrpcWeb>("grpc_web"),
    kind::<builtin::headers::Headers>("headers"),
    #[cfg(debug_assertions)]
    kind::<builtin::hold::Hold>("hold"),
    kind::<builtin::https_redirect::HttpsRedirect>("https_redirect"),
    kind::<builtin::ip_rules::IpRules>("ip_rules"),
    kind::<builtin::jwt::Jwt>("jwt"),
    #[cfg(debug_assertions)]
    kind::<builtin::panic::Panic>("panic"),
    kind::<builtin::rate_limit::RateLimit>("rate_limit"),
    kind::<Redirect>("redirect"),
    kind::<builtin::request_id::RequestId>("request_id"),
    kind::<Respond>("respond"),
    kind::<builtin::rewrite::Rewrite>("rewrite"),
];

fn build<O: Options>(sources: &Sources, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Problem>> {
    let options: O = sources.read(at)?;
    let live = live.beside(sources.directory_of(at));
    options.build(at, &live).map_err(|invalid| {
        let told = invalid.into_iter().filter(|invalid| !sources.is_doubtful(&invalid.path));
        told.map(|invalid| sources.problem(&invalid.path, invalid.message)).collect()
    })
}

fn schema<O: Options>() -> serde_json::Value {
    schemars::schema_for!(O).to_value()
}

/// The names of all filters a release build has.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|kind| kind.name).filter(|name| !FOR_TESTS.contains(name))
}

/// The JSON Schema of each filter's options.
pub fn schemas() -> BTreeMap<String, serde_json::Value> {
    BUILT_IN
        .iter()
        .filter(|kind| !FOR_TESTS.contains(&kind.name))
        .map(|kind| (kind.name.to_owned(), (kind.schema)()))
        .collect()
}

/// A chain and all that is wrong with it. `named` are the chains under the top-level `filters`, built before. `live` is
/// that of the chain's owner.
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
                None => problems.push(unknown_chain(name, &at, sources, named)),
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
    let Some(kind) = BUILT_IN.iter().find(|kind| kind.name == name) else {
        let problem = sources.problem(at, format!("unknown filter `{name}`"));
        let hint = match suggest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("filters: {}", names().collect::<Vec<_>>().join(", ")),
        };
        problems.push(problem.hint(hint));
        return;
    };
    match (kind.build)(sources, at, live) {
        Ok(filter) => chain.push_counted(kind.name, filter, condition, live.metrics().filter(kind.name)),
        Err(wrong) => problems.extend(wrong),
    }
}

fn unknown_chain(name: &str, at: &Path, sources: &Sources, named: &BTreeMap<String, Chain>) -> Problem {
    let problem = sources.problem(at, format!("filter chain `{name}` does not exist"));
    let candidates: BTreeSet<&str> = named.keys().map(String::as_str).collect();
    match suggest(name, candidates.into_iter()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if names().any(|filter| filter == name) => {
            problem.hint(format!("a filter is written with its options: `- {name}: {{}}`"))
        }
        None => problem.hint("chains are defined under the top-level `filters`"),
    }
}
