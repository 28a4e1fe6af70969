//! The API as OpenAPI 3.1 describes it: what `tidegate schema --api` prints and docs/openapi.json holds.

use serde_json::{Map, Value, json};

use super::{
    api::{
        canaries::{Canaries, Canary},
        certificates::Certificates,
        check::CheckedConfig,
        config::ConfigPlaces,
        control::ControlSummary,
        endpoints::{EndpointRow, Endpoints},
        explain::Question,
        history::Series,
        maintenance::Maintenance,
        me::{Login, Me},
        overview::Overview,
        reloads::{Orders, Reloads},
        routes::{OneRoute, Routes},
        topology::Topology,
        upstreams::{OneUpstream, Upstreams},
    },
    events::Passing,
    journal::Reload,
    orders::{
        BreakerOrdered, CanaryOrdered, DrainOrdered, ReloadRejected, Reloaded, RenewalOrdered, UpgradeOrdered,
    },
    parts::PartOrdered,
    refused::{Problem, Reason},
    router::{Access, Action, ENDPOINTS, Endpoint, Shape, Taken},
};
use crate::{
    api::openapi::{self, reference},
    snapshot::explain::Explained,
};

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const YAML: &str = "application/yaml";

const EVENTS: &str = "Server-sent events: `hello` first, then of /v1/events `traffic` (a `Passing`), `endpoint`, `breaker`, `canary`, \
`reload` (a `Reload`), `order` (an `Order`), `phase`, `message` and `lost`; of /v1/access `line` and `lost`. The last is `bye`, with why. A \
comment comes every 15 s. The id of an event is `BOOT-NUMBER`.";

pub(crate) fn document() -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.name()).or_insert_with(|| json!({}));
        path[endpoint.method.to_lowercase()] = operation(endpoint);
    }
    let about = "How a gateway is, what it runs, and what it is told to do. On its admin address.";
    openapi::document("Tidegate admin API", about, paths, schemas())
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut parameters = openapi::parameters(endpoint.name(), endpoint.query);
    if endpoint.takes_etag() {
        let about = "what was seen, in quotes; refused where it is not so any more";
        parameters.push(
            json!({"name": "If-Match", "in": "header", "description": about, "schema": {"type": "string"}}),
        );
    }
    let mut operation = json!({
        "summary": endpoint.about,
        "operationId": operation_id(endpoint),
        "parameters": parameters,
        "responses": responses(endpoint),
    });
    if let Some(body) = endpoint.body {
        operation["requestBody"] = match body {
            Taken::Document => {
                json!({"content": {YAML: {"schema": {"type": "string"}}, JSON: {"schema": {"type": "object"}}}})
            }
            Taken::Json(name) => json!({"required": true, "content": {JSON: {"schema": reference(name)}}}),
        };
    }
    if endpoint.access != Access::Anyone {
        operation["security"] = openapi::security();
        operation["x-tidegate-role"] =
            if endpoint.access == Access::Operator { "operator" } else { "viewer" }.into();
    }
    operation
}

/// `GET /v1/routes/{route}` is `get_v1_routes_route`.
fn operation_id(endpoint: &Endpoint) -> String {
    let path: Vec<&str> =
        endpoint.name().split(['/', '{', '}', '.']).filter(|segment| !segment.is_empty()).collect();
    format!("{}_{}", endpoint.method.to_lowercase(), path.join("_")).trim_end_matches('_').to_owned()
}

fn responses(endpoint: &Endpoint) -> Value {
    let mut responses = Map::new();
    for (status, shape) in endpoint.answers {
        let content = match shape {
            Shape::Nothing => json!({}),
            Shape::Text(kind) => json!({*kind: {"schema": {"type": "string"}}}),
            Shape::Any(kind) => json!({*kind: {"schema": {}}}),
            Shape::Events => {
                json!({"text/event-stream": {"schema": {"type": "string", "description": EVENTS}}})
            }
            Shape::Json("Problem") => json!({PROBLEM: {"schema": reference("Problem")}}),
            Shape::Json(name) => json!({JSON: {"schema": reference(name)}}),
        };
        let description = if *status < 300 { endpoint.about } else { "why not" };
        responses.insert(status.to_string(), json!({"description": description, "content": content}));
    }
    if matches!(endpoint.action, Action::View(_)) && endpoint.name() == "/v1/config" {
        responses["200"]["content"][YAML] = json!({"schema": {"type": "string"}});
    }
    let reasons = Reason::ALL.map(|reason| format!("`{}` {}", reason.code(), reason.status().as_u16()));
    let refused = format!("Refused, with a reason: {}", reasons.join(", "));
    let mut content = json!({PROBLEM: {"schema": reference("Problem")}});
    if !endpoint.name().starts_with("/v1/") {
        content = json!({"text/plain": {"schema": {"type": "string"}}});
    }
    let problem = json!({"description": refused, "content": content});
    if endpoint.access != Access::Anyone {
        responses.insert("5XX".into(), problem.clone());
    }
    responses.insert("4XX".into(), problem);
    Value::Object(responses)
}

fn schemas() -> Map<String, Value> {
    let mut generator = openapi::generator();
    generator.subschema_for::<Me>();
    generator.subschema_for::<Login>();
    generator.subschema_for::<Overview>();
    generator.subschema_for::<Topology>();
    generator.subschema_for::<Routes>();
    generator.subschema_for::<OneRoute>();
    generator.subschema_for::<Upstreams>();
    generator.subschema_for::<OneUpstream>();
    generator.subschema_for::<Endpoints>();
    generator.subschema_for::<EndpointRow>();
    generator.subschema_for::<Canaries>();
    generator.subschema_for::<Canary>();
    generator.subschema_for::<CanaryOrdered>();
    generator.subschema_for::<BreakerOrdered>();
    generator.subschema_for::<Maintenance>();
    generator.subschema_for::<RenewalOrdered>();
    generator.subschema_for::<PartOrdered>();
    generator.subschema_for::<Reloaded>();
    generator.subschema_for::<ReloadRejected>();
    generator.subschema_for::<DrainOrdered>();
    generator.subschema_for::<UpgradeOrdered>();
    generator.subschema_for::<Certificates>();
    generator.subschema_for::<ConfigPlaces>();
    generator.subschema_for::<Reloads>();
    generator.subschema_for::<Reload>();
    generator.subschema_for::<Orders>();
    generator.subschema_for::<Series>();
    generator.subschema_for::<Question>();
    generator.subschema_for::<Explained>();
    generator.subschema_for::<CheckedConfig>();
    generator.subschema_for::<ControlSummary>();
    generator.subschema_for::<Passing>();
    generator.subschema_for::<Problem>();
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reference_leads_somewhere() {
        let seen = openapi::tests::count_references(&document());
        assert!(seen > 60, "only {seen} references");
    }

    #[test]
    fn each_endpoint_is_described_once() {
        let document = document();
        let mut ids = std::collections::BTreeSet::new();
        for endpoint in ENDPOINTS {
            let operation = &document["paths"][endpoint.name()][endpoint.method.to_lowercase()];
            assert_eq!(operation["summary"], endpoint.about, "{}", endpoint.name());
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
        }
    }

    #[test]
    fn the_committed_description_is_this_one() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        let committed = std::fs::read_to_string(file).unwrap();
        let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
        assert!(committed == document(), "run `cargo run -q -- schema --api > docs/openapi.json`");
    }
}
