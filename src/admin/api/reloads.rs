//! Reloads with what they changed, and orders with who gave them.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;

use crate::{
    admin::{
        State,
        journal::{Order, Reload},
        refused::{Reason, Refused},
        router::Asked,
    },
    api::reply::{self, Reply},
};

/// Lines around a change.
const CONTEXT: usize = 3;
/// A diff that takes longer is coarser.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

/// `GET /v1/reloads`, the newest first.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Reloads(Vec<Reload>);

/// `GET /v1/orders`, the newest first.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Orders(Vec<Order>);

pub(in crate::admin) fn list(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &Reloads(state.journal.reloads())))
}

pub(in crate::admin) fn orders(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &Orders(state.journal.orders())))
}

pub(in crate::admin) fn one(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &find(state, asked)?))
}

/// A unified diff of both configurations in YAML, as they are shown: without secrets.
pub(in crate::admin) fn diff(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let reload = find(state, asked)?;
    let Some((before, after)) = state.journal.texts(reload.id) else {
        let why = "there is no diff of it: it changed nothing, or is too long ago";
        return Err(Reason::NotFound.because(why));
    };
    let (before, after) = (yaml(&before)?, yaml(&after)?);
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(&before, &after);
    let text = diff.unified_diff().context_radius(CONTEXT).header("before", "after").to_string();
    Ok(reply::with_type(StatusCode::OK, "text/plain; charset=utf-8", text))
}

fn find(state: &State, asked: &Asked) -> Result<Reload, Refused> {
    let id = asked.names.first().map(String::as_str).unwrap_or_default();
    let found = state.journal.reloads().into_iter().find(|reload| reload.id.to_string() == id);
    found.ok_or_else(|| {
        Reason::NotFound
            .because(format!("there is no reload {id} any more (GET /v1/reloads lists those that are kept)"))
    })
}

fn yaml(json: &str) -> Result<String, Refused> {
    let value: Result<Value, _> = serde_json::from_str(json);
    let yaml = value.ok().and_then(|value| serde_yaml::to_string(&value).ok());
    yaml.ok_or_else(|| Reason::Internal.because("it cannot be written as YAML"))
}
