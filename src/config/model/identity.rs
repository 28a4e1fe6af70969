//! The `identity:` section: who this gateway is, and where the proof of it comes from.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::units::{HumanDuration, Secret};

/// Who this gateway is, for mTLS: exactly one of `files`, `workload_api`, `ca` and `control`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The name of the trust domain, such as `mesh.local`.
    pub trust_domain: String,
    /// Watched, and rotated without a restart.
    pub files: Option<IdentityFiles>,
    /// The Unix socket of a SPIFFE Workload API, such as `unix:///run/spire/agent.sock`.
    pub workload_api: Option<String>,
    /// The directory of a CA made by `tidegate ca init`: this gateway issues and renews its own SVID.
    pub ca: Option<PathBuf>,
    /// The control plane of `control.join` signs and renews the SVID.
    pub control: Option<IdentityControl>,
    /// With `ca`: the SPIFFE ID to issue, by default `spiffe://TRUST_DOMAIN/tidegate`. With `workload_api`: which SVID
    /// to take when there are several, by default the first.
    pub id: Option<String>,
    /// With `ca`: how long an SVID is valid, by default 24 hours; a new one is issued after half of it.
    pub ttl: Option<HumanDuration>,
    /// Files with the authorities of other trust domains, whose members are to be trusted as such.
    #[serde(default)]
    pub bundles: BTreeMap<String, PathBuf>,
}

/// The key is made here and never leaves; what was signed is kept in `state_dir`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityControl {
    /// The SPIFFE ID to be signed.
    pub id: String,
    /// Of `tidegate token create`, for the first SVID. A restart goes on with the one that is kept, and needs none.
    pub token: Option<Secret>,
}

/// Files in PEM.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The SVID, and after it the certificates between it and the bundle.
    pub cert: PathBuf,
    /// Its private key, without a passphrase.
    pub key: PathBuf,
    /// The authorities of our own trust domain.
    pub bundle: PathBuf,
}
