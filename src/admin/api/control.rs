//! The control plane that is served by this process, for those who look: its registry, its configurations and how they spread.
//! Its own API, on its own address, is for services and gateways.

use std::sync::Arc;

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    admin::{
        Plane, State,
        refused::{Reason, Refused},
        router::Asked,
    },
    api::reply::{self, Reply},
};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct ControlSummary {
    serves: bool,
    /// Null where none is served here.
    served: Value,
    /// Null where none is followed.
    follows: Value,
}

pub(in crate::admin) fn summary(state: &State, _: &Asked) -> Result<Reply, Refused> {
    let served = state.process.control().map(|plane| plane.summary());
    let summary = ControlSummary {
        serves: served.is_some(),
        served: served.unwrap_or_default(),
        follows: state.process.follows(),
    };
    Ok(reply::json(StatusCode::OK, &summary))
}

pub(in crate::admin) fn services(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &plane(state)?.services()))
}

pub(in crate::admin) fn instances(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &plane(state)?.instances(asked.query.text("name"))))
}

pub(in crate::admin) fn configs(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &plane(state)?.configs()))
}

pub(in crate::admin) fn versions(state: &State, asked: &Asked) -> Result<Reply, Refused> {
    let name = asked.names.first().map(String::as_str).unwrap_or_default();
    let versions = plane(state)?.versions(name).ok_or_else(|| {
        let hint = "GET /v1/control/configs lists those that are";
        Reason::NotFound.because(format!("there is no configuration {name:?} ({hint})"))
    })?;
    Ok(reply::json(StatusCode::OK, &versions))
}

pub(in crate::admin) fn rollouts(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &json!({"rollouts": plane(state)?.rollouts()})))
}

pub(in crate::admin) fn gateways(state: &State, _: &Asked) -> Result<Reply, Refused> {
    Ok(reply::json(StatusCode::OK, &plane(state)?.gateways()))
}

fn plane(state: &State) -> Result<Arc<dyn Plane>, Refused> {
    state.process.control().ok_or_else(|| {
        Reason::NotFound
            .because("no control plane is served here (configure `control.serve`, or ask the one that is)")
    })
}
