//! The endpoints, in one table: the list on `/`, what is answered with 404 and 405, who may ask, which parameters there are,
//! and the description that `tidegate schema --api` prints all come from it.

use http::{HeaderMap, StatusCode};

use super::{
    State,
    api::{
        canaries, certificates, config, control, endpoints, history, maintenance, me, overview, plugins,
        reloads, routes, topology, upstreams,
    },
    parts::Resource,
    refused::Refused,
    roles::Who,
    sessions::Session,
    stats, view,
};
use crate::{
    api::{
        openapi::{anything, names},
        query::Query,
        reply::{self, Reply},
    },
    config::PartKind,
};

pub(super) struct Endpoint {
    pub(super) method: &'static str,
    /// The name, then its aliases. What stands in braces is handed to the action, percent-decoded.
    pub(super) paths: &'static [&'static str],
    pub(super) about: &'static str,
    pub(super) access: Access,
    /// With what each says.
    pub(super) query: &'static [(&'static str, &'static str)],
    pub(super) body: Option<Taken>,
    /// Each status with what is answered, beside the refusals that every endpoint has.
    pub(super) answers: &'static [(u16, Shape)],
    pub(super) action: Action,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Access {
    /// For probes and for the console's page, which have no credentials.
    Anyone,
    /// Whoever may look.
    Viewer,
    Operator,
}

/// What a request brings.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Taken {
    Json(&'static str),
    /// YAML or JSON, as in a file.
    Document,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// By the name of its type.
    Json(&'static str),
    Text(&'static str),
    Events,
    /// Of no fixed form.
    Any(&'static str),
    Nothing,
}

/// What a view is told of the request.
pub(super) struct Asked {
    pub(super) names: Vec<String>,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) path: String,
    pub(super) who: Option<Who>,
    pub(super) session: Option<Session>,
}

pub(super) type View = fn(&State, &Asked) -> Result<Reply, Refused>;

#[derive(Clone, Copy)]
pub(super) enum Action {
    Index,
    View(View),
    Reload,
    Drain,
    Upgrade,
    /// ROUTE, ORDER
    Canary,
    /// UPSTREAM, ENDPOINT, ORDER
    Breaker,
    /// SWITCH, ORDER
    Maintenance,
    /// NAME
    Renew,
    /// Shows something that may stand beside the file.
    Part(Resource),
    /// Adds, changes or removes it.
    ChangePart(Resource),
    Login,
    Logout,
    Explain,
    Check,
    Events,
    Tail,
    /// The page, and what belongs to it.
    Asset,
}

const PAGE: &[(&str, &str)] = &[
    ("q", "whose name, hosts, path or target has this in it"),
    (
        "sort",
        "`index`, `name`, `requests`, `errors`, `p99` or `last_used`; with `-` before it the other way round",
    ),
    ("upstream", "that lead to this one"),
    ("limit", "at most so many; all without it"),
    ("after", "after the row of this name"),
];
const TAIL: &[(&str, &str)] = &[
    ("route", "of this route"),
    ("upstream", "sent to this one"),
    ("method", "with this method"),
    ("path", "whose path begins with this"),
    ("status", "`5xx`, `404` or `400-499`; several with commas"),
    ("reason", "that the gateway answered for this reason; several with commas"),
    ("min", "that took at least so long, such as `100ms`"),
    ("client", "from this address or network"),
];
const DRY: &[(&str, &str)] = &[("dry_run", "say whether it could be done, and do nothing")];
const IF_MATCH: &str = "; If-Match: what was seen";

pub(super) const ENDPOINTS: &[Endpoint] = &[
    Endpoint { action: Action::Index, answers: TEXT, ..look(&["/"], "this list", none) },
    anyone(&["/livez"], "200 while the process runs", |_, _| Ok(reply::text(StatusCode::OK, "ok"))),
    Endpoint {
        query: &[("verbose", "also what is wrong with certificates from CAs, a line for each")],
        answers: &[(200, Shape::Text("text/plain")), (503, Shape::Text("text/plain"))],
        ..anyone(
            &["/readyz", "/health"],
            "200 when ready, 503 while starting, draining or without a configuration",
            view::readiness,
        )
    },
    Endpoint { answers: TEXT, ..look(&["/metrics"], "Prometheus metrics", view::metrics) },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/stats", "/v1/stats"], "a summary, with counts, latency and bytes", stats::show)
    },
    Endpoint {
        query: &[("format", "`json`, or `yaml`")],
        answers: &[(200, Shape::Any("application/json"))],
        ..look(
            &["/config", "/v1/config"],
            "the configuration in force, secrets hidden; ?format=yaml for YAML",
            view::config,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/routes"], "the routes, in the order of the file", view::routes)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/upstreams", "/backends"], "the upstreams and their endpoints", view::upstreams)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(
            &["/plugins", "/v1/plugins"],
            "the plugins, their instances, memory, timings and failures",
            plugins::list,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Canaries"))],
        ..look(&["/canaries", "/v1/canaries"], "the canaries, how far they are and why", canaries::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Canary"))],
        ..look(&["/v1/canaries/{route}"], "one canary", canaries::one)
    },
    Endpoint {
        answers: &[(200, Shape::Json("CanaryOrdered")), (409, Shape::Json("Problem"))],
        ..order(
            &["/canaries/{route}/{order}", "/v1/canaries/{route}/{order}"],
            "promote, rollback, pause, resume or step a canary",
            Action::Canary,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("BreakerOrdered")), (409, Shape::Json("Problem"))],
        ..order(
            &["/breakers/{upstream}/{endpoint}/{order}", "/v1/breakers/{upstream}/{endpoint}/{order}"],
            "open, close or reset a circuit breaker",
            Action::Breaker,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Maintenance"))],
        ..look(&["/v1/maintenance"], "the maintenance switches, and whether they are on", maintenance::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Maintenance"))],
        ..order(
            &["/v1/maintenance/{switch}/{order}"],
            "switch maintenance on or off, or leave it to its file (auto)",
            Action::Maintenance,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Me"))],
        ..look(&["/v1/me"], "who you are, what you may, and which gateway this is", me::show)
    },
    Endpoint {
        body: Some(Taken::Json("Login")),
        answers: &[(200, Shape::Json("Me"))],
        access: Access::Anyone,
        ..order(&["/v1/session"], "log a browser in: a token for a cookie", Action::Login)
    },
    Endpoint {
        method: "DELETE",
        answers: &[(204, Shape::Nothing)],
        access: Access::Anyone,
        ..order(&["/v1/session"], "log it out", Action::Logout)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Overview"))],
        ..look(&["/v1/overview"], "how it is, and what needs attention", overview::show)
    },
    Endpoint {
        query: &[("routes", "so many of the busiest, 1 to 1000; 200 without it")],
        answers: &[(200, Shape::Json("Topology"))],
        ..look(
            &["/v1/topology"],
            "listeners, routes, upstreams and endpoints, and what flows between them",
            topology::show,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Upstreams"))],
        ..look(&["/v1/upstreams"], "the upstreams, with rates, and which of them are parts", upstreams::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Upstream"))],
        action: Action::Part(Resource::Part(PartKind::Upstream)),
        ..look(&["/v1/upstreams/{upstream}"], "one upstream", none)
    },
    change("PUT", &["/v1/upstreams/{upstream}"], "add or change an upstream beside the file", UPSTREAM),
    change(
        "DELETE",
        &["/v1/upstreams/{upstream}"],
        "remove an upstream that stands beside the file",
        UPSTREAM,
    ),
    Endpoint {
        query: &[("upstream", "of this one"), ("q", "whose name or address has this in it")],
        answers: &[(200, Shape::Json("Endpoints"))],
        ..look(&["/v1/endpoints"], "the endpoints, how each is and why", endpoints::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Endpoint"))],
        action: Action::Part(Resource::Endpoint),
        ..look(&["/v1/upstreams/{upstream}/endpoints/{endpoint}"], "one endpoint", none)
    },
    change(
        "PUT",
        &["/v1/upstreams/{upstream}/endpoints/{endpoint}"],
        "order an endpoint's weight, or drain it",
        Resource::Endpoint,
    ),
    change(
        "DELETE",
        &["/v1/upstreams/{upstream}/endpoints/{endpoint}"],
        "undo what was ordered of an endpoint",
        Resource::Endpoint,
    ),
    Endpoint {
        query: PAGE,
        answers: &[(200, Shape::Json("Routes"))],
        ..look(&["/v1/routes"], "the routes, with rates, and which of them are parts", routes::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("OneRoute"))],
        action: Action::Part(Resource::Part(PartKind::Route)),
        ..look(&["/v1/routes/{route}"], "one route", none)
    },
    change("PUT", &["/v1/routes/{route}"], "add or change a route beside the file", ROUTE),
    change("DELETE", &["/v1/routes/{route}"], "remove a route that stands beside the file", ROUTE),
    Endpoint {
        answers: &[(200, Shape::Json("Certificates"))],
        ..look(
            &["/v1/certificates"],
            "certificates, identities, bundles and revocation lists",
            certificates::list,
        )
    },
    Endpoint {
        answers: &[(202, Shape::Json("RenewalOrdered"))],
        ..order(
            &["/v1/certificates/{name}/renew"],
            "order a name's certificate anew at its CA",
            Action::Renew,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("ConfigPlaces"))],
        ..look(
            &["/v1/config/places"],
            "where each object stands in the files, and what was not taken last",
            config::places,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Reloads"))],
        ..look(&["/v1/reloads"], "reloads, with what they changed", reloads::list)
    },
    Endpoint {
        answers: &[(200, Shape::Json("Reload"))],
        ..look(&["/v1/reloads/{id}"], "one reload", reloads::one)
    },
    Endpoint {
        answers: &[(200, Shape::Text("text/plain"))],
        ..look(
            &["/v1/reloads/{id}/diff"],
            "what it changed in the configuration, secrets hidden",
            reloads::diff,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Json("Orders"))],
        ..look(&["/v1/orders"], "orders, with who gave them", reloads::orders)
    },
    Endpoint {
        query: &[
            ("of", "`gateway`, `route:NAME` or `upstream:NAME`"),
            ("window", "of the last time, such as `15m`; all there is without it"),
        ],
        answers: &[(200, Shape::Json("Series"))],
        ..look(&["/v1/history"], "rates and quantiles as they were", history::show)
    },
    Endpoint {
        body: Some(Taken::Json("Question")),
        answers: &[(200, Shape::Json("Explained"))],
        access: Access::Viewer,
        ..order(&["/v1/explain"], "which route a request would take, and why not another", Action::Explain)
    },
    Endpoint {
        body: Some(Taken::Document),
        answers: &[(200, Shape::Json("CheckedConfig"))],
        access: Access::Viewer,
        ..order(&["/v1/check"], "what is wrong with a configuration; nothing is changed", Action::Check)
    },
    Endpoint {
        query: &[("after", "the id of the last event that was seen, as `Last-Event-ID` says it")],
        answers: &[(200, Shape::Events)],
        action: Action::Events,
        ..look(&["/v1/events"], "what happens, as server-sent events; Last-Event-ID resumes", none)
    },
    Endpoint {
        query: TAIL,
        answers: &[(200, Shape::Events)],
        action: Action::Tail,
        ..look(&["/v1/access"], "the access log live, as server-sent events", none)
    },
    Endpoint {
        answers: &[(200, Shape::Json("ControlSummary"))],
        ..look(
            &["/v1/control"],
            "the control plane that is served here, and the one that is followed",
            control::summary,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/control/services"], "services that are registered here", control::services)
    },
    Endpoint {
        query: &[("name", "of this service")],
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/control/instances"], "instances that are registered here", control::instances)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/control/configs"], "configurations that gateways take from here", control::configs)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/control/configs/{name}/versions"], "the versions of one", control::versions)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/control/rollouts"], "how far each has spread", control::rollouts)
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(
            &["/v1/control/gateways"],
            "gateways that take their configuration from here",
            control::gateways,
        )
    },
    Endpoint {
        answers: &[(200, Shape::Any("application/json"))],
        ..look(&["/v1/openapi.json"], "this API, described", |_, _| {
            Ok(reply::json(StatusCode::OK, &super::openapi::document()))
        })
    },
    Endpoint {
        answers: &[(200, Shape::Json("Reloaded")), (422, Shape::Json("ReloadRejected"))],
        ..order(&["/reload", "/v1/reload"], "read the configuration again", Action::Reload)
    },
    Endpoint {
        answers: &[(202, Shape::Json("DrainOrdered"))],
        ..order(&["/drain", "/v1/drain"], "finish what is in flight, then end", Action::Drain)
    },
    Endpoint {
        answers: &[
            (200, Shape::Json("UpgradeOrdered")),
            (409, Shape::Json("UpgradeOrdered")),
            (422, Shape::Json("UpgradeOrdered")),
        ],
        ..order(&["/upgrade", "/v1/upgrade"], "start the program anew and hand over to it", Action::Upgrade)
    },
    Endpoint {
        answers: &[(200, Shape::Text("text/html"))],
        action: Action::Asset,
        access: Access::Anyone,
        ..look(&["/ui/"], "the console, for browsers", none)
    },
];

const TEXT: &[(u16, Shape)] = &[(200, Shape::Text("text/plain"))];
const UPSTREAM: Resource = Resource::Part(PartKind::Upstream);
const ROUTE: Resource = Resource::Part(PartKind::Route);

/// For rows whose action is another.
fn none(_: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

const fn look(paths: &'static [&'static str], about: &'static str, view: View) -> Endpoint {
    Endpoint {
        method: "GET",
        paths,
        about,
        access: Access::Viewer,
        query: &[],
        body: None,
        answers: TEXT,
        action: Action::View(view),
    }
}

const fn anyone(paths: &'static [&'static str], about: &'static str, view: View) -> Endpoint {
    Endpoint { access: Access::Anyone, ..look(paths, about, view) }
}

const fn order(paths: &'static [&'static str], about: &'static str, action: Action) -> Endpoint {
    Endpoint { method: "POST", access: Access::Operator, action, ..look(paths, about, none) }
}

const fn change(
    method: &'static str,
    paths: &'static [&'static str],
    about: &'static str,
    resource: Resource,
) -> Endpoint {
    let puts = matches!(method.as_bytes(), b"PUT");
    Endpoint {
        method,
        query: DRY,
        body: if puts { Some(Taken::Document) } else { None },
        answers: if puts {
            &[(200, Shape::Json("PartOrdered")), (201, Shape::Json("PartOrdered"))]
        } else {
            &[(200, Shape::Json("PartOrdered"))]
        },
        ..order(paths, about, Action::ChangePart(resource))
    }
}

impl Endpoint {
    /// What it is called in the description: that of this version, where it has one.
    pub(super) fn name(&self) -> &'static str {
        self.paths.iter().find(|path| path.starts_with("/v1/")).unwrap_or(&self.paths[0])
    }

    /// Whether it does what it says only where things still are as whoever orders has seen them.
    pub(super) fn takes_etag(&self) -> bool {
        matches!(
            self.action,
            Action::Canary | Action::Breaker | Action::Reload | Action::Drain | Action::ChangePart(_)
        )
    }
}

/// Those at `path`, one for each method, with what stands in the braces.
pub(super) fn find(path: &str) -> Vec<(&'static Endpoint, Vec<String>)> {
    let at = |endpoint: &'static Endpoint| {
        if matches!(endpoint.action, Action::Asset) {
            let asset = path.strip_prefix("/ui/")?;
            return Some((endpoint, vec![asset.to_owned()]));
        }
        let names = endpoint.paths.iter().find_map(|pattern| names(pattern, path, anything))?;
        Some((endpoint, names))
    };
    ENDPOINTS.iter().filter_map(at).collect()
}

/// The methods of these, as `Allow` says them.
pub(super) fn allowed(found: &[(&'static Endpoint, Vec<String>)]) -> String {
    let methods = found.iter().map(|(endpoint, _)| match endpoint.method {
        "GET" => "GET, HEAD",
        other => other,
    });
    methods.collect::<Vec<_>>().join(", ")
}

pub(super) fn index() -> Reply {
    let lines = ENDPOINTS.iter().map(|endpoint| {
        let more = if endpoint.takes_etag() && endpoint.method == "POST" { IF_MATCH } else { "" };
        format!("{:<5} {:<36} {}{more}", endpoint.method, endpoint.paths.join(" "), endpoint.about)
    });
    reply::text(StatusCode::OK, lines.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_endpoint_for_a_method() {
        for endpoint in ENDPOINTS {
            for path in endpoint.paths {
                let same = find(path).iter().filter(|(other, _)| other.method == endpoint.method).count();
                assert_eq!(same, 1, "{} {path}", endpoint.method);
            }
        }
    }

    #[test]
    fn what_changes_something_is_for_operators() {
        for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.method != "GET") {
            let asks = ["/v1/session", "/v1/explain", "/v1/check"].contains(&endpoint.name());
            assert_eq!(endpoint.access == Access::Operator, !asks, "{} {}", endpoint.method, endpoint.name());
        }
        for path in ["/v1/me", "/metrics", "/v1/access", "/"] {
            assert!(find(path).iter().all(|(endpoint, _)| endpoint.access == Access::Viewer), "{path}");
        }
    }

    #[test]
    fn paths_are_found_with_what_stands_in_their_braces() {
        assert_eq!(allowed(&find("/v1/routes/a")), "GET, HEAD, PUT, DELETE");
        assert_eq!(find("/ui/views/map.js")[0].1, ["views/map.js"]);
        assert!(find("/ui").is_empty() && find("/v1").is_empty());
    }
}
