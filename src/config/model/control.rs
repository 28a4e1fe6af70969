//! `control`: this process and a control plane.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::control_serve::{ControlServe, serve, serve_schema};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// A registry of services on an address of its own; `true` is the registry with all defaults. Default: none.
    #[serde(deserialize_with = "serve")]
    #[schemars(schema_with = "serve_schema")]
    pub serve: Option<ControlServe>,
}
