//! The endpoints, in one table: the list on `/`, what is answered with 404 and 405, and who may ask all come from it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, StatusCode,
    header::{ACCEPT, ALLOW},
    request::Parts,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Command, Outcome, State, guard, orders,
    parts::{self, Order, Reason, Refused, Resource},
    parts_view, view,
};
use crate::{
    api::{
        self, Connection,
        guard::{check_host, check_origin},
        reply::{self, Refusal, Reply, refuse},
    },
    config::{ByteSize, PartKind},
    identity::Caller,
};

/// Of endpoints that read no body; this much is let pass, so that a client which sends one is answered.
const BODY_SIZE: usize = 64 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any reload takes; a drain that begins before it would leave it without an answer.
pub(super) const RELOAD_TIMEOUT: Duration = Duration::from_secs(50);

struct Endpoint {
    /// The name, then its aliases. A segment in capitals stands for any, and is handed to the action percent-decoded.
    paths: &'static [&'static str],
    about: &'static str,
    access: Access,
    action: Action,
}

#[derive(Clone, Copy, PartialEq)]
enum Access {
    /// For probes, which have no token.
    Anyone,
    Operator,
}

/// What a view is told of the request.
struct Asked {
    query: String,
    accept: String,
}

#[derive(Clone, Copy)]
enum Action {
    View(fn(&State, &Asked) -> Reply),
    Reload,
    Drain,
    /// Changes something by its name in the path.
    Order(fn(&State, &[String]) -> Reply),
    /// Shows, adds, changes or removes something beside the file.
    Part(Resource),
}

const ENDPOINTS: &[Endpoint] = &[
    view(&["/"], "this list", Access::Operator, index),
    view(&["/livez"], "200 while the process runs", Access::Anyone, |_, _| reply::text(StatusCode::OK, "ok")),
    view(
        &["/readyz", "/health"],
        "200 when ready, 503 while starting, draining or without a configuration",
        Access::Anyone,
        readiness,
    ),
    view(&["/metrics"], "Prometheus metrics", Access::Operator, |state, asked| {
        view::metrics(state, &asked.accept)
    }),
    view(&["/stats"], "a summary", Access::Operator, |state, _| view::stats(state)),
    view(
        &["/config"],
        "the configuration in force, secrets hidden; ?format=yaml for YAML",
        Access::Operator,
        |state, asked| view::config(state, &asked.query),
    ),
    view(&["/routes"], "the routes, in the order of the file", Access::Operator, |state, _| {
        view::routes(state)
    }),
    view(&["/upstreams", "/backends"], "the upstreams and their endpoints", Access::Operator, |state, _| {
        view::upstreams(state)
    }),
    view(&["/plugins"], "the plugins, their instances, memory and failures", Access::Operator, |state, _| {
        view::plugins(state)
    }),
    view(&["/canaries"], "the canaries, how far they are and why", Access::Operator, |state, _| {
        orders::canaries(state)
    }),
    Endpoint {
        paths: &["/canaries/ROUTE/ORDER"],
        about: "promote, rollback, pause, resume or step a canary",
        access: Access::Operator,
        action: Action::Order(orders::canary),
    },
    Endpoint {
        paths: &["/breakers/UPSTREAM/ENDPOINT/ORDER"],
        about: "open, close or reset a circuit breaker",
        access: Access::Operator,
        action: Action::Order(orders::breaker),
    },
    view(&["/v1/upstreams"], "the upstreams, and which of them are parts", Access::Operator, |state, _| {
        parts_view::upstreams(state)
    }),
    Endpoint {
        paths: &["/v1/upstreams/UPSTREAM"],
        about: "an upstream; PUT adds or changes one beside the file, DELETE removes it",
        access: Access::Operator,
        action: Action::Part(Resource::Part(PartKind::Upstream)),
    },
    Endpoint {
        paths: &["/v1/upstreams/UPSTREAM/endpoints/ENDPOINT"],
        about: "an endpoint; PUT orders its weight or drains it, DELETE undoes that",
        access: Access::Operator,
        action: Action::Part(Resource::Endpoint),
    },
    view(&["/v1/routes"], "the routes, and which of them are parts", Access::Operator, |state, _| {
        parts_view::routes(state)
    }),
    Endpoint {
        paths: &["/v1/routes/ROUTE"],
        about: "a route; PUT adds or changes one beside the file, DELETE removes it",
        access: Access::Operator,
        action: Action::Part(Resource::Part(PartKind::Route)),
    },
    Endpoint {
        paths: &["/reload"],
        about: "read the configuration again",
        access: Access::Operator,
        action: Action::Reload,
    },
    Endpoint {
        paths: &["/drain"],
        about: "finish what is in flight, then end",
        access: Access::Operator,
        action: Action::Drain,
    },
];

const fn view(
    paths: &'static [&'static str],
    about: &'static str,
    access: Access,
    view: fn(&State, &Asked) -> Reply,
) -> Endpoint {
    Endpoint { paths, about, access, action: Action::View(view) }
}

impl Asked {
    fn of(request: &Parts) -> Asked {
        let accepted = request.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Asked {
            query: request.uri.query().unwrap_or_default().to_owned(),
            accept: accepted.collect::<Vec<_>>().join(","),
        }
    }
}

impl Action {
    fn methods(self) -> &'static str {
        match self {
            Action::View(_) => "GET, HEAD",
            Action::Reload | Action::Drain | Action::Order(_) => "POST",
            Action::Part(_) => "GET, HEAD, PUT, DELETE",
        }
    }
}

pub(crate) struct Api {
    pub state: State,
    pub is_loopback: bool,
}

impl api::Service for Api {
    type Body = Full<Bytes>;

    fn is_proven(&self, caller: Option<&Caller>, headers: &HeaderMap) -> bool {
        let token = self.state.token.as_ref();
        caller.is_some() || (token.is_some() && guard::check_token(headers, token).is_ok())
    }

    async fn handle(self: Arc<Self>, connection: Connection, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let done = match self.admit(connection.caller.is_some(), &head) {
            Ok((Action::Part(resource), names)) if !is_reading(&head.method) => {
                self.change(resource, &names, &connection, &head, body).await
            }
            Ok((action, names)) => match pass_over(body).await {
                Ok(()) => Ok(self.act(action, names, &head).await),
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        done.unwrap_or_else(|refusal| *refusal)
    }
}

impl Api {
    /// What has no body.
    async fn act(&self, action: Action, names: Vec<String>, head: &Parts) -> Reply {
        match action {
            Action::View(view) => {
                let asked = Asked::of(head);
                self.look(move |state| view(state, &asked)).await
            }
            Action::Part(resource) => self.look(move |state| parts_view::one(state, resource, &names)).await,
            Action::Reload => self.reload().await,
            Action::Drain => self.drain(),
            Action::Order(order) => order(&self.state, &names),
        }
    }

    /// Adds, changes or removes something beside the file.
    async fn change(
        &self,
        resource: Resource,
        names: &[String],
        connection: &Connection,
        head: &Parts,
        body: Incoming,
    ) -> Result<Reply, Refusal> {
        let Some(limits) = &self.state.parts else { return Err(parts::turned_off()) };
        let body = match head.method {
            Method::PUT => match read(body, limits.size.bytes()).await {
                Ok(body) => body,
                Err(refused) => return Ok(parts::problem(&refused)),
            },
            _ => pass_over(body).await.map(|()| Bytes::new())?,
        };
        let by = match &connection.caller {
            Some(caller) => format!("{} at {}", caller.name(), connection.peer),
            None => connection.peer.to_string(),
        };
        Ok(match Order::of(resource, names, head, body, by) {
            Ok(order) => self.state.order(order).await,
            Err(refused) => parts::problem(&refused),
        })
    }

    /// What the request asks for, if it may, and the names in its path.
    fn admit(&self, is_known: bool, request: &Parts) -> Result<(Action, Vec<String>), Refusal> {
        check_host(request, self.is_loopback)?;
        let path = request.uri.path();
        let endpoint = ENDPOINTS.iter().find_map(|endpoint| {
            let names = endpoint.paths.iter().find_map(|pattern| names(pattern, path))?;
            Some((endpoint, names))
        });
        // Whoever has no token does not learn what there is, either.
        if endpoint.as_ref().is_none_or(|(endpoint, _)| endpoint.access == Access::Operator) {
            guard::check_caller(is_known, self.state.wants_certificate)?;
            guard::check_token(&request.headers, self.state.token.as_ref())?;
        }
        let Some((endpoint, names)) = endpoint else {
            return Err(refuse(StatusCode::NOT_FOUND, "there is nothing here (GET / lists what there is)"));
        };
        let methods = endpoint.action.methods();
        if !methods.split(", ").any(|method| method == request.method.as_str()) {
            let mut refusal = refuse(StatusCode::METHOD_NOT_ALLOWED, format!("use {methods} {path}"));
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
            return Err(refusal);
        }
        if !is_reading(&request.method) {
            check_origin(request)?;
        }
        Ok((endpoint.action, names))
    }

    /// Off the threads that serve requests: 10,000 routes take a moment to write down.
    async fn look(&self, view: impl FnOnce(&State) -> Reply + Send + 'static) -> Reply {
        let state = self.state.clone();
        let viewed = tokio::task::spawn_blocking(move || view(&state)).await;
        viewed.unwrap_or_else(|_| {
            reply::text(StatusCode::INTERNAL_SERVER_ERROR, "the answer failed (the log says why)")
        })
    }

    async fn reload(&self) -> Reply {
        if self.state.phase.is_draining() {
            return rejected(StatusCode::CONFLICT, &["the gateway is draining and reads nothing any more"]);
        }
        let (sender, outcome) = oneshot::channel();
        if self.state.commands.try_send(Command::Reload(sender)).is_err() {
            return busy();
        }
        match timeout(RELOAD_TIMEOUT, outcome).await {
            Ok(Ok(Outcome::Reloaded(changes))) => {
                reply::json(StatusCode::OK, &json!({"result": "reloaded", "changes": changes}))
            }
            Ok(Ok(Outcome::Unchanged)) => reply::json(StatusCode::OK, &json!({"result": "unchanged"})),
            Ok(Ok(Outcome::Rejected(problems))) => {
                rejected(StatusCode::UNPROCESSABLE_ENTITY, &problems.lines().collect::<Vec<_>>())
            }
            Ok(Err(_)) | Err(_) => reply::text(
                StatusCode::GATEWAY_TIMEOUT,
                "the reload has not ended yet, or the gateway began to drain (the log has its outcome)",
            ),
        }
    }

    fn drain(&self) -> Reply {
        if !self.state.phase.is_draining() && self.state.commands.try_send(Command::Drain).is_err() {
            return busy();
        }
        reply::json(StatusCode::ACCEPTED, &json!({"result": "draining"}))
    }
}

/// What stands in `path` where `pattern` has a segment in capitals; `None` where they do not match.
fn names(pattern: &str, path: &str) -> Option<Vec<String>> {
    if pattern.split('/').count() != path.split('/').count() {
        return None;
    }
    let mut names = Vec::new();
    for (wanted, given) in pattern.split('/').zip(path.split('/')) {
        if !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_uppercase()) {
            // What is no text is no name of anything, and whoever looks for it says so.
            names.push(percent_decode_str(given).decode_utf8_lossy().into_owned());
        } else if wanted != given {
            return None;
        }
    }
    Some(names)
}

/// Read the body to its end, or hyper would close the connection on a client that is still sending.
async fn pass_over(body: Incoming) -> Result<(), Refusal> {
    match timeout(BODY_TIMEOUT, std::pin::pin!(Limited::new(body, BODY_SIZE)).collect()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "no endpoint reads a body (send none)"))
        }
        Ok(Err(_)) => Err(refuse(StatusCode::BAD_REQUEST, "the body is cut off (send none)")),
        Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body took too long (send none)")),
    }
}

/// The body, of at most `most` bytes.
async fn read(body: Incoming, most: u64) -> Result<Bytes, Refused> {
    let limited = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX));
    match timeout(BODY_TIMEOUT, std::pin::pin!(limited).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let most = ByteSize::from_bytes(most);
            Err(Reason::TooLarge
                .because(format!("the body is larger than {most} (send less, or raise `admin.parts.size`)")))
        }
        Ok(Err(_)) => Err(Reason::BadRequest.because("the body is cut off (send all of it)")),
        Err(_) => Err(Reason::BadRequest
            .because(format!("the body took longer than {BODY_TIMEOUT:?} (send it faster)"))),
    }
}

/// Whether it changes nothing.
fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn rejected(status: StatusCode, problems: &[&str]) -> Reply {
    reply::json(status, &json!({"result": "rejected", "problems": problems}))
}

fn busy() -> Reply {
    let why = "the gateway is busy with earlier commands (try again in a moment)";
    reply::text(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn readiness(state: &State, _: &Asked) -> Reply {
    let status = if state.phase.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    match state.phase.is_waiting() {
        true => reply::text(
            status,
            "waiting for a configuration: the control plane has given none, and none is held",
        ),
        false => reply::text(status, state.phase.word()),
    }
}

fn index(_: &State, _: &Asked) -> Reply {
    let lines = ENDPOINTS.iter().map(|endpoint| {
        let method = endpoint.action.methods().split(',').next().unwrap_or_default();
        format!("{method:<5} {:<36} {}", endpoint.paths.join(" "), endpoint.about)
    });
    reply::text(StatusCode::OK, lines.collect::<Vec<_>>().join("\n"))
}
