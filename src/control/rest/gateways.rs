//! The gateways that take configurations, as operators see them.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    reply::{self, Answer},
    router::Api,
};
use crate::{
    api::query::Query,
    control::{
        access::Caller,
        configs::Shown,
        refused::{Reason, Refused},
    },
};

/// Gateways, by configuration and name.
#[derive(Serialize, JsonSchema)]
pub(super) struct GatewayList {
    gateways: Vec<Shown>,
}

impl GatewayList {
    pub(super) fn of(gateways: Vec<Shown>) -> GatewayList {
        GatewayList { gateways }
    }
}

impl Api {
    pub(super) fn list_gateways(&self, caller: &Caller, query: &Query) -> Answer {
        let config = query.text("config");
        let may_see =
            |name: &str| config.is_none_or(|config| config == name) && caller.may_see_gateways(name);
        reply::json(StatusCode::OK, &GatewayList { gateways: self.configs.gateways(may_see) })
    }

    /// One that takes several configurations is there as often.
    pub(super) fn read_gateway(&self, caller: &Caller, node: &str) -> Result<Answer, Refused> {
        let mut gateways = self.configs.gateways(|name| caller.may_see_gateways(name));
        gateways.retain(|gateway| gateway.node() == node);
        if gateways.is_empty() {
            let hint = "GET /v1/gateways lists those that are";
            return Err(Reason::NotFound.because(format!("there is no gateway {node:?} ({hint})")));
        }
        Ok(reply::json(StatusCode::OK, &GatewayList { gateways }))
    }
}
