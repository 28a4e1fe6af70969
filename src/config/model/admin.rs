//! `admin`: the address for operators.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{ByteSize, HumanDuration, Secret};

/// The operator's HTTP API: `false` turns it off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "a configuration has one")]
pub enum Admin {
    Off(bool),
    On(AdminListener),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminListener {
    /// Default 127.0.0.1:9901. Any address that is not loopback needs `token`, `tokens` or `tls.client_ca`.
    pub address: String,
    /// Bearer token that every request but `/livez` and `/readyz` must carry: one operator, named `token`.
    pub token: Option<Secret>,
    /// In its place: a token for each who may use the API, with what they may.
    pub tokens: Vec<AdminToken>,
    /// The web console, and what it needs: rates, their history, and the access log live.
    pub console: AdminConsole,
    /// Of a browser that has logged in.
    pub session: AdminSession,
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

/// Somebody who may use the API.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminToken {
    /// Who it is, for the log and for those who ask later.
    pub name: String,
    /// What this token may do: `viewer`, `operator` or `admin`.
    #[serde(default)]
    pub role: AdminRole,
    /// The token itself, best as `${file:PATH}`.
    pub token: Secret,
}

/// What somebody may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminRole {
    /// Look at everything, and change nothing.
    #[default]
    Viewer,
    /// Give orders as well.
    Operator,
}

/// `false` turns the console, the live access log and the history off.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AdminConsole {
    Off(bool),
    On(ConsoleSettings),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleSettings {
    /// Whether the access log can be followed live.
    pub tail: bool,
    /// For how long rates are kept, in memory: 1m to 24h, or 0s for not at all. The longer it is, the coarser they are.
    pub history: HumanDuration,
    /// Whether live access lines have the addresses of clients.
    pub client_addresses: ClientAddressesShown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddressesShown {
    #[default]
    Show,
    Hide,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSession {
    /// One that is not used for so long has to log in again.
    pub idle: HumanDuration,
    /// And so has everybody after this.
    pub max: HumanDuration,
}

/// Whose certificate may what: SPIFFE IDs, `spiffe://DOMAIN/PATH/*` for all below a path, or `*` for every certificate by
/// `client_ca`. Whoever is in neither list is a viewer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateRoles {
    /// SPIFFE IDs or subjects that may change things.
    pub operator: Vec<String>,
    /// SPIFFE IDs or subjects that may look.
    pub viewer: Vec<String>,
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
    /// What the owners of certificates by `client_ca` may. Without it, each of them is an operator.
    pub roles: Option<CertificateRoles>,
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
            tokens: Vec::new(),
            console: AdminConsole::default(),
            session: AdminSession::default(),
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

impl Default for AdminConsole {
    fn default() -> Self {
        AdminConsole::On(ConsoleSettings::default())
    }
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        ConsoleSettings {
            tail: true,
            history: Duration::from_secs(15 * 60).into(),
            client_addresses: ClientAddressesShown::default(),
        }
    }
}

impl Default for AdminSession {
    fn default() -> Self {
        AdminSession { idle: Duration::from_secs(3600).into(), max: Duration::from_secs(12 * 3600).into() }
    }
}

impl AdminListener {
    /// What of the console is on.
    pub fn console(&self) -> Option<&ConsoleSettings> {
        match &self.console {
            AdminConsole::On(settings) => Some(settings),
            AdminConsole::Off(_) => None,
        }
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
