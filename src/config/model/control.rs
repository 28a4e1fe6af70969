//! `control`: the control plane that this process is, or joins, and what it announces there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    control_join::{Join, Registration},
    control_serve::{ControlServe, serve, serve_schema},
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// A registry of services on an address of its own; `true` is the registry with all defaults. Default: none.
    #[serde(deserialize_with = "serve")]
    #[schemars(schema_with = "serve_schema")]
    pub serve: Option<ControlServe>,
    /// Follow the registry of another control plane.
    pub join: Option<Join>,
    /// What this process announces to the control plane that it joins or serves.
    pub register: Vec<Registration>,
}

impl Control {
    /// Whether anybody can say who is registered.
    pub fn has_registry(&self) -> bool {
        self.serve.is_some() || self.join.is_some()
    }
}
