//! The endpoints, in one table: what is answered with 404 and 405, who may ask, which parameters there are, and the
//! description in `/v1/openapi.json` all come from it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::ACCEPT, request::Parts};
use http_body_util::{BodyExt, Either, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::{
    openapi::{self, DOCUMENT},
    reply::{self, Answer, Body},
};
use crate::{
    api::{
        self, Connection,
        guard::{Denied, check_host, check_origin},
        openapi::{names, text},
        query::Query,
    },
    config::PartKind,
    control::{
        access::{self, Caller},
        configs::{Configs, Lead},
        feed::gate::Gate,
        grpc::Grpc,
        issuing::Issuing,
        refused::{Reason, Refused},
        registry::Registry,
    },
    identity,
    observe::metrics::{Format, Metrics, RegistryMetrics},
};

const BODY_SIZE: usize = 1024 * 1024;
/// A configuration. What is larger than that is refused when it is read.
const DOCUMENT_SIZE: usize = 4 * 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Endpoint {
    pub(super) method: &'static str,
    /// What stands in braces is handed to the action, percent-decoded.
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    pub(super) access: Access,
    /// With what each says.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) body: Option<&'static str>,
    /// Each status with the schema of its answer, beside the refusals that every endpoint has.
    pub(super) answers: &'static [(u16, Shape)],
    pub(super) action: Action,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Access {
    /// For probes, which have no credentials.
    Anyone,
    /// Whoever a rule knows; the action looks at what is granted.
    Known,
    Operator,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    Json(&'static str),
    Text,
    Events,
    Nothing,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Action {
    Index,
    Live,
    Ready,
    Metrics,
    OpenApi,
    Register,
    List,
    Read,
    Deregister,
    Heartbeat,
    Catalog,
    Watch,
    ListConfigs,
    ReadConfig,
    PutConfig,
    RemoveConfig,
    ListVersions,
    PutPart(PartKind),
    RemovePart(PartKind),
    Rollback,
    Lead(Lead),
    ListGateways,
    ReadGateway,
    CreateToken,
    ListTokens,
    RevokeToken,
}

/// What every change of a configuration may say.
const HOW: &[(&str, &str)] = &[
    ("dry_run", "check it, and change nothing"),
    ("rollout", "`now`: to all gateways at once, without waves; for emergencies"),
];
const APPLIED: &[(u16, Shape)] = &[(202, Shape::Json("AppliedConfig")), (200, Shape::Json("AppliedConfig"))];

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        body: Some("Written"),
        answers: &[(201, Shape::Json("Registered")), (200, Shape::Json("Registered"))],
        ..known(
            "POST",
            "/v1/services",
            "register an instance, or update the one of that id",
            Action::Register,
        )
    },
    Endpoint {
        query: &[
            ("name", "of this service"),
            ("tag", "that have this tag"),
            ("health", "in this state"),
            ("limit", "at most so many; 1000 without it"),
            ("after", "after this id: `next` of the page before"),
            ("revision", "only if something is newer than this, else 304"),
            ("wait", "beside `revision`: so long for something newer, up to 5m"),
        ],
        answers: &[(200, Shape::Json("List")), (304, Shape::Nothing)],
        ..known("GET", "/v1/services", "instances, by id", Action::List)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Record"))],
        ..known("GET", "/v1/services/{id}", "one instance", Action::Read)
    },
    Endpoint {
        query: &[("drain", "give it nothing new for so long first, up to 1h")],
        answers: &[(204, Shape::Nothing)],
        ..known("DELETE", "/v1/services/{id}", "deregister an instance", Action::Deregister)
    },
    Endpoint {
        body: Some("Beat"),
        answers: &[(200, Shape::Json("Renewed"))],
        ..known("PUT", "/v1/services/{id}/heartbeat", "renew an instance", Action::Heartbeat)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Catalog"))],
        ..known("GET", "/v1/catalog", "services, with how many instances are in each state", Action::Catalog)
    },
    Endpoint {
        query: &[("name", "of this service")],
        answers: &[(200, Shape::Events)],
        ..known("GET", "/v1/watch", "changes as server-sent events; Last-Event-ID resumes", Action::Watch)
    },
    Endpoint {
        answers: &[(200, Shape::Json("ConfigList"))],
        ..known("GET", "/v1/configs", "configurations that gateways take", Action::ListConfigs)
    },
    Endpoint {
        query: &[("version", "this one; the newest without it")],
        answers: &[(200, Shape::Json("Config"))],
        ..known("GET", "/v1/configs/{name}", "one configuration, with its texts", Action::ReadConfig)
    },
    Endpoint {
        query: HOW,
        body: Some(DOCUMENT),
        answers: APPLIED,
        ..known(
            "PUT",
            "/v1/configs/{name}",
            "a new version; If-Match: VERSION prevents lost updates",
            Action::PutConfig,
        )
    },
    Endpoint {
        query: &[("force", "also where gateways follow it: they keep what they have")],
        answers: &[(204, Shape::Nothing)],
        ..known(
            "DELETE",
            "/v1/configs/{name}",
            "forget a configuration, with all of its versions; If-Match: VERSION",
            Action::RemoveConfig,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("VersionList"))],
        ..known("GET", "/v1/configs/{name}/versions", "the versions that are kept", Action::ListVersions)
    },
    part("PUT", "/v1/configs/{name}/upstreams/{upstream}", Action::PutPart(PartKind::Upstream)),
    part("DELETE", "/v1/configs/{name}/upstreams/{upstream}", Action::RemovePart(PartKind::Upstream)),
    part("PUT", "/v1/configs/{name}/routes/{route}", Action::PutPart(PartKind::Route)),
    part("DELETE", "/v1/configs/{name}/routes/{route}", Action::RemovePart(PartKind::Route)),
    Endpoint {
        query: &[("version", "which one"), HOW[0], HOW[1]],
        answers: APPLIED,
        ..known("POST", "/v1/configs/{name}/rollback", "an earlier version once more", Action::Rollback)
    },
    lead("/v1/configs/{name}/pause", "stop the rollout where it is", Lead::Pause),
    lead("/v1/configs/{name}/resume", "go on with the rollout, without gateways that are away", Lead::Resume),
    lead("/v1/configs/{name}/abort", "give those that have it the version before", Lead::Abort),
    Endpoint {
        query: &[("config", "that take this configuration")],
        answers: &[(200, Shape::Json("GatewayList"))],
        ..known("GET", "/v1/gateways", "gateways, with the version that each has", Action::ListGateways)
    },
    Endpoint {
        answers: &[(200, Shape::Json("GatewayList"))],
        ..known("GET", "/v1/gateways/{node}", "one gateway", Action::ReadGateway)
    },
    Endpoint {
        body: Some("NewToken"),
        answers: &[(201, Shape::Json("CreatedToken"))],
        ..operator("POST", "/v1/tokens", "make a token for a first SVID", Action::CreateToken)
    },
    Endpoint {
        answers: &[(200, Shape::Json("TokenList"))],
        ..operator("GET", "/v1/tokens", "tokens for first SVIDs, without their secrets", Action::ListTokens)
    },
    Endpoint {
        answers: &[(204, Shape::Nothing)],
        ..operator("DELETE", "/v1/tokens/{id}", "revoke a token", Action::RevokeToken)
    },
    Endpoint {
        answers: &[(200, Shape::Json("OpenApi"))],
        ..anyone("GET", "/v1/openapi.json", "this API, described", Action::OpenApi)
    },
    anyone("GET", "/", "this list", Action::Index),
    anyone("GET", "/livez", "200 while the process runs", Action::Live),
    Endpoint {
        answers: &[(200, Shape::Text), (503, Shape::Text)],
        ..anyone(
            "GET",
            "/readyz",
            "200 when ready, 503 before the store was read and while draining",
            Action::Ready,
        )
    },
    operator("GET", "/metrics", "Prometheus metrics", Action::Metrics),
];

const fn operator(method: &'static str, path: &'static str, about: &'static str, action: Action) -> Endpoint {
    Endpoint { access: Access::Operator, ..anyone(method, path, about, action) }
}

const fn known(method: &'static str, path: &'static str, about: &'static str, action: Action) -> Endpoint {
    Endpoint { access: Access::Known, ..anyone(method, path, about, action) }
}

const fn part(method: &'static str, path: &'static str, action: Action) -> Endpoint {
    let (about, body) = match action {
        Action::PutPart(_) => ("a part beside the main document, as a new version", Some(DOCUMENT)),
        _ => ("a new version without this part", None),
    };
    Endpoint { query: HOW, body, answers: APPLIED, ..known(method, path, about, action) }
}

const fn lead(path: &'static str, about: &'static str, lead: Lead) -> Endpoint {
    let answers = &[(200, Shape::Json("Progress"))];
    Endpoint { answers, ..known("POST", path, about, Action::Lead(lead)) }
}

const fn anyone(method: &'static str, path: &'static str, about: &'static str, action: Action) -> Endpoint {
    let answers = &[(200, Shape::Text)];
    Endpoint { method, path, about, access: Access::Anyone, query: &[], body: None, answers, action }
}

/// What the API answers from.
pub(crate) struct Api {
    pub(crate) grpc: Grpc,
    pub(crate) registry: Arc<Registry>,
    pub(crate) configs: Arc<Configs>,
    /// `None` where no SVIDs are issued.
    pub(crate) issuing: Option<Arc<Issuing>>,
    pub(crate) access: access::Access,
    pub(crate) is_loopback: bool,
    /// The process is about to end.
    pub(crate) draining: Arc<AtomicBool>,
    pub(crate) closing: watch::Receiver<bool>,
    /// Places for watches and for polls that wait.
    pub(crate) watches: Arc<Semaphore>,
    /// Those who are sent everything first.
    pub(crate) gate: Gate,
    pub(crate) all_metrics: Arc<Metrics>,
    pub(crate) metrics: RegistryMetrics,
}

impl api::Service for Api {
    type Body = Either<Body, tonic::body::Body>;

    fn is_proven(&self, caller: Option<&identity::Caller>, headers: &HeaderMap) -> bool {
        self.access.is_proven(caller, headers)
    }

    async fn handle(
        self: Arc<Self>,
        connection: Connection,
        request: Request<Incoming>,
    ) -> Response<Self::Body> {
        if Grpc::is_grpc(request.headers()) {
            return self.answer_grpc(&connection, request).await.map(Either::Right);
        }
        let (head, body) = request.into_parts();
        let answer = match self.answer(connection, &head, body).await {
            Ok(answer) => answer,
            Err(refused) => {
                self.metrics.refused("rest", refused.reason.code());
                reply::problem(&refused)
            }
        };
        answer.map(Either::Left)
    }
}

impl Api {
    async fn answer_grpc(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Response<tonic::body::Body> {
        let (head, body) = request.into_parts();
        if let Err(denied) = check_host(&head, self.is_loopback) {
            return self.grpc.refuse(&Refused::from(denied));
        }
        let caller = self.access.caller(connection.caller.as_deref(), &head.headers);
        self.grpc.call(Request::from_parts(head, body), caller, connection.caller.clone()).await
    }

    async fn answer(&self, connection: Connection, head: &Parts, body: Incoming) -> Result<Answer, Refused> {
        check_host(head, self.is_loopback)?;
        let found = find(head.uri.path());
        let certificate = connection.caller.as_deref();
        let is_for_anyone = found.iter().any(|(endpoint, _)| endpoint.access == Access::Anyone);
        // Whoever no rule knows does not learn what there is, either.
        let caller = match is_for_anyone {
            true => None,
            false => Some(self.access.caller(certificate, &head.headers)?),
        };
        if found.is_empty() {
            return Err(Reason::NotFound.because("there is nothing here (GET / lists what there is)"));
        }
        let method = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
        let by_method = found.iter().find(|(endpoint, _)| endpoint.method == method.as_str());
        let Some((endpoint, names)) = by_method else {
            let allowed: Vec<_> = found.iter().map(|(endpoint, _)| endpoint.method).collect();
            return Ok(reply::not_allowed(&allowed.join(", ")));
        };
        if method != Method::GET {
            check_origin(head)?;
        }
        if let (Access::Operator, Some(caller)) = (endpoint.access, &caller) {
            caller.check_operate()?;
        }
        let parameters: Vec<_> = endpoint.query.iter().map(|(name, _)| *name).collect();
        let query = Query::read(head.uri.query().unwrap_or_default(), &parameters)?;
        let most = if endpoint.body == Some(DOCUMENT) { DOCUMENT_SIZE } else { BODY_SIZE };
        let body = whole(body, most).await?;
        if endpoint.body.is_none() && !body.is_empty() {
            return Err(Reason::BadRequest.because("this takes no body (send none)"));
        }
        if endpoint.access == Access::Known {
            self.registry.check_open()?;
        }
        match caller {
            None => Ok(self.for_anyone(endpoint.action)),
            Some(caller) => {
                let asked = Asked { names, query: &query, headers: &head.headers, body: &body };
                self.act(endpoint.action, connection, caller, asked).await
            }
        }
    }

    fn for_anyone(&self, action: Action) -> Answer {
        let plain =
            |status, text: &str| reply::text(status, "text/plain; charset=utf-8", format!("{text}\n"));
        match action {
            Action::OpenApi => reply::json(StatusCode::OK, &openapi::document()),
            Action::Ready if self.draining.load(Relaxed) => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "draining")
            }
            Action::Ready => match self.registry.check_open() {
                Ok(()) => plain(StatusCode::OK, "ready"),
                Err(refused) => plain(StatusCode::SERVICE_UNAVAILABLE, &refused.why),
            },
            Action::Index => plain(StatusCode::OK, &index()),
            _ => plain(StatusCode::OK, "ok"),
        }
    }

    async fn act(
        &self,
        action: Action,
        connection: Connection,
        caller: Caller,
        asked: Asked<'_>,
    ) -> Result<Answer, Refused> {
        let Asked { names, query, headers, body } = asked;
        let [id, of] = [0, 1].map(|index| names.get(index).map_or("", String::as_str));
        match action {
            Action::Register => self.register(&caller, body).await,
            Action::List => self.list(&caller, query).await,
            Action::Read => self.read(&caller, id),
            Action::Deregister => self.deregister(&caller, id, query).await,
            Action::Heartbeat => self.heartbeat(&caller, id, body).await,
            Action::Catalog => Ok(self.catalog(&caller)),
            Action::Watch => self.watch(connection, caller, query, headers),
            Action::ListConfigs => self.list_configs(&caller).await,
            Action::ReadConfig => self.read_config(&caller, id, query).await,
            Action::PutConfig => self.put_config(&caller, id, query, headers, body).await,
            Action::RemoveConfig => self.remove_config(&caller, id, query, headers).await,
            Action::ListVersions => self.list_versions(&caller, id).await,
            Action::PutPart(kind) => self.put_part(&caller, (id, kind, of), query, headers, body).await,
            Action::RemovePart(kind) => self.remove_part(&caller, (id, kind, of), query, headers).await,
            Action::Rollback => self.rollback(&caller, id, query, headers).await,
            Action::Lead(lead) => self.lead(&caller, id, lead).await,
            Action::ListGateways => Ok(self.list_gateways(&caller, query)),
            Action::ReadGateway => self.read_gateway(&caller, id),
            Action::CreateToken => self.create_token(caller, body).await,
            Action::ListTokens => self.list_tokens(),
            Action::RevokeToken => self.revoke_token(caller, id).await,
            Action::Metrics => Ok(self.show_metrics(headers)),
            Action::Index | Action::Live | Action::Ready | Action::OpenApi => Ok(self.for_anyone(action)),
        }
    }

    fn show_metrics(&self, headers: &HeaderMap) -> Answer {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::asked_for(&accepted.collect::<Vec<_>>().join(","));
        reply::text(
            StatusCode::OK,
            format.content_type(),
            self.all_metrics.render(format, &self.all_metrics.gather(|| {})),
        )
    }

    /// # Errors
    ///
    /// `limit`: there are as many watches as there may be.
    pub(super) fn watch_turn(&self) -> Result<OwnedSemaphorePermit, Refused> {
        self.watches.clone().try_acquire_owned().map_err(|_| {
            let setting = "`control.serve.registry.limits.watches`";
            Reason::Limit.because(format!("there are as many watches as there may be ({setting})"))
        })
    }
}

/// What a request says beside its method and path.
struct Asked<'a> {
    /// What stands in the braces.
    names: &'a [String],
    query: &'a Query,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Refused {
        Refused { status: Some(denied.status), ..Reason::BadRequest.because(denied.why) }
    }
}

/// The endpoints at `path`, one for each method, with what stands in the braces.
fn find(path: &str) -> Vec<(&'static Endpoint, Vec<String>)> {
    ENDPOINTS.iter().filter_map(|endpoint| Some((endpoint, names(endpoint.path, path, text)?))).collect()
}

async fn whole(body: Incoming, most: usize) -> Result<Bytes, Refused> {
    let read = timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Reason::TooLarge.because(format!("a body has at most {most} bytes")))
        }
        Ok(Err(_)) => Err(Reason::BadRequest.because("the body is cut off")),
        Err(_) => Err(Refused {
            status: Some(StatusCode::REQUEST_TIMEOUT),
            ..Reason::BadRequest.because("the body took too long (send it at once)")
        }),
    }
}

fn index() -> String {
    let lines = ENDPOINTS
        .iter()
        .map(|endpoint| format!("{:<6} {:<40} {}", endpoint.method, endpoint.path, endpoint.about));
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_stands_in_the_braces() {
        let id = |path: &str| find(path).first().and_then(|(_, names)| names.first().cloned());
        assert_eq!(id("/v1/services/a-%31").as_deref(), Some("a-1"));
        assert_eq!(id("/v1/services/a/heartbeat").as_deref(), Some("a"));
        assert_eq!(id("/v1/services"), None);
        assert!(
            find("/v1/services/a/b").is_empty()
                && find("/v1").is_empty()
                && find("/v1/services/%ff").is_empty()
        );
    }

    #[test]
    fn those_at_one_path_are_for_the_same_callers() {
        for endpoint in ENDPOINTS {
            let same = find(endpoint.path).iter().all(|(other, _)| other.access == endpoint.access);
            assert!(same, "{}: who may ask is looked at before the method is", endpoint.path);
        }
    }
}
