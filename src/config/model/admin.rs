//! `admin`: the address for operators.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::Secret;

/// The operator's HTTP API: `false` turns it off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Admin {
    Off(bool),
    On(AdminListener),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminListener {
    /// Default 127.0.0.1:9901. Any address that is not loopback needs `token` or `tls.client_ca`.
    pub address: String,
    /// Bearer token that every request but `/livez` and `/readyz` must carry.
    pub token: Option<Secret>,
    /// Default: plain text.
    pub tls: Option<AdminTls>,
}

/// TLS towards those who use the API. Files are read again as they change.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTls {
    /// PEM: the certificate, then those that lead from it to its root.
    pub cert: PathBuf,
    /// PEM: the private key, not encrypted.
    pub key: PathBuf,
    /// PEM: every request but those to `/livez` and `/readyz` must come with a certificate by one of these authorities.
    pub client_ca: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin::On(AdminListener::default())
    }
}

impl Default for AdminListener {
    fn default() -> Self {
        AdminListener { address: "127.0.0.1:9901".into(), token: None, tls: None }
    }
}
