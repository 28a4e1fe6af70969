//! `admin`: the address for operators.

use std::{num::NonZeroUsize, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{ByteSize, Secret};

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
    /// Whether upstreams and routes may be added, changed and removed while the gateway runs, beside this file, and endpoints
    /// drained.
    pub parts: AdminParts,
}

/// `false` turns parts off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AdminParts {
    Off(bool),
    On(PartLimits),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PartLimits {
    /// Parts at a time, and orders for endpoints: 429 beyond.
    pub most: NonZeroUsize,
    /// Of one part: 413 beyond.
    pub size: ByteSize,
    /// Of all parts together: 429 beyond.
    pub total_size: ByteSize,
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
        AdminListener {
            address: "127.0.0.1:9901".into(),
            token: None,
            tls: None,
            parts: AdminParts::default(),
        }
    }
}

impl Default for AdminParts {
    fn default() -> Self {
        AdminParts::On(PartLimits::default())
    }
}

impl Default for PartLimits {
    fn default() -> Self {
        PartLimits {
            most: const { NonZeroUsize::new(1000).unwrap() },
            size: ByteSize::mib(1),
            total_size: ByteSize::mib(16),
        }
    }
}

impl Admin {
    /// Where parts may be given while the gateway runs, their limits.
    pub fn parts(&self) -> Option<&PartLimits> {
        match self {
            Admin::On(AdminListener { parts: AdminParts::On(limits), .. }) => Some(limits),
            Admin::On(_) | Admin::Off(_) => None,
        }
    }
}
