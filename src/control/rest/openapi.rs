//! The API as OpenAPI 3.1 describes it, made from the table of endpoints and from the types that are read and written.

use serde_json::{Map, Value, json};

use super::{
    configs::{AppliedConfig, Config, ConfigList, VersionList},
    gateways::GatewayList,
    reply::{JSON, PROBLEM, Problem},
    router::{Access, ENDPOINTS, Endpoint, Shape},
    services::{Beat, Catalog, List, Record, Registered, Renewed},
    tokens::{CreatedToken, NewToken, TokenList, TokenRecord},
    watch::Sync,
};
use crate::{
    api::openapi::{self, reference},
    control::{configs::Progress, refused::Reason, registration::Written},
};

pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for endpoint in ENDPOINTS {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method.to_lowercase()] = operation(endpoint);
    }
    let about = "Services register here, and whoever calls them finds them here. Gateways take their configurations from here.";
    openapi::document("Tidegate control plane", about, paths, schemas())
}

fn operation(endpoint: &Endpoint) -> Value {
    let mut operation = json!({
        "summary": endpoint.about,
        "parameters": openapi::parameters(endpoint.path, endpoint.query),
        "responses": responses(endpoint),
    });
    if let Some(body) = endpoint.body {
        operation["requestBody"] = match body {
            DOCUMENT => {
                json!({"content": {YAML: {"schema": {"type": "string"}}, JSON: {"schema": {"type": "object"}}}})
            }
            body => json!({"content": {JSON: {"schema": reference(body)}}}),
        };
    }
    if endpoint.access != Access::Anyone {
        operation["security"] = openapi::security();
    }
    operation
}

fn responses(endpoint: &Endpoint) -> Value {
    let mut responses = Map::new();
    for (status, shape) in endpoint.answers {
        let content = match shape {
            Shape::Nothing => json!({}),
            Shape::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
            Shape::Events => {
                json!({"text/event-stream": {"schema": {"type": "string", "description": EVENTS}}})
            }
            Shape::Json("OpenApi") => json!({JSON: {"schema": {"type": "object"}}}),
            Shape::Json(name) => json!({JSON: {"schema": reference(name)}}),
        };
        let description = if *status < 300 { endpoint.about } else { "nothing of it" };
        responses.insert(status.to_string(), json!({"description": description, "content": content}));
    }
    let reasons = Reason::ALL.map(|reason| format!("`{}` {}", reason.code(), reason.status().as_u16()));
    let refused = format!("Refused, with a reason: {}", reasons.join(", "));
    let problem = json!({"description": refused, "content": {PROBLEM: {"schema": reference("Problem")}}});
    if endpoint.access != Access::Anyone {
        responses.insert("503".into(), problem.clone());
    }
    responses.insert("4XX".into(), problem);
    Value::Object(responses)
}

/// A body that is a document as a configuration's file is.
pub(super) const DOCUMENT: &str = "Document";
const YAML: &str = "application/yaml";

const EVENTS: &str = "Events `sync` (a `Sync`), and `registered`, `updated`, `held`, `deregistered` and `expired` (a `Record` \
each). The id of an event is `EPOCH:REVISION`; a comment comes every 15 s.";

fn schemas() -> Map<String, Value> {
    let mut generator = openapi::generator();
    generator.subschema_for::<Written>();
    generator.subschema_for::<Registered>();
    generator.subschema_for::<Record>();
    generator.subschema_for::<List>();
    generator.subschema_for::<Beat>();
    generator.subschema_for::<Renewed>();
    generator.subschema_for::<Catalog>();
    generator.subschema_for::<Sync>();
    generator.subschema_for::<ConfigList>();
    generator.subschema_for::<Config>();
    generator.subschema_for::<VersionList>();
    generator.subschema_for::<AppliedConfig>();
    generator.subschema_for::<Progress>();
    generator.subschema_for::<GatewayList>();
    generator.subschema_for::<NewToken>();
    generator.subschema_for::<CreatedToken>();
    generator.subschema_for::<TokenRecord>();
    generator.subschema_for::<TokenList>();
    generator.subschema_for::<Problem>();
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reference_leads_somewhere() {
        let seen = openapi::tests::count_references(&document());
        assert!(seen > 20, "only {seen} references");
    }

    #[test]
    fn each_endpoint_is_described_with_its_parameters() {
        let document = document();
        for endpoint in ENDPOINTS {
            let operation = &document["paths"][endpoint.path][endpoint.method.to_lowercase()];
            assert_eq!(operation["summary"], endpoint.about, "{}", endpoint.path);
            let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
            assert_eq!(
                parameters,
                endpoint.query.len() + endpoint.path.matches('{').count(),
                "{}",
                endpoint.path
            );
        }
    }
}
