//! `upstreams.*.tls` as the operator writes it. Whose certificate is accepted must be said, or follow from the endpoint's
//! host name: that nothing is verified has to be asked for in so many words.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{
    CertificateFiles, TlsVersion,
    model::word_or_names::{Word, WordOrNames},
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// Whose certificate is accepted. Default: that of the host name in the endpoint's address.
    pub verify: Verify,
    /// Present this gateway's own certificate, of `identity`.
    pub client_identity: bool,
    /// Present this certificate, where the endpoint asks for one. Both files are watched. Not with `client_identity`.
    pub client_cert: Option<CertificateFiles>,
    /// The name that is sent to the endpoint (SNI). Default: the name that is verified, or the host of the endpoint's address.
    pub server_name: Option<String>,
    /// The oldest version of TLS that is spoken: `"1.2"` or `"1.3"`.
    pub min_version: TlsVersion,
    /// Accept any certificate of anybody. Not with `verify`, `client_identity`, `client_cert` or `identity`.
    pub insecure_skip_verify: bool,
}

/// Either `spiffe`, or `name` and `ca`, or `uri`, `dns` and `ca`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// SPIFFE IDs of which the endpoint must have one, verified by the bundle of the ID's trust domain; `spiffe://mesh.local/team/*`
    /// is all below. Or `registered`: the ID that has registered it.
    pub spiffe: ExpectedIds,
    /// URIs of which the endpoint's certificate must have one in its subjectAltName, compared as text. Needs `ca`: authorities that
    /// everybody trusts do not verify them.
    pub uri: Vec<String>,
    /// DNS names of which the endpoint's certificate must have one; with `uri`, one of all of these.
    pub dns: Vec<String>,
    /// DNS name in the endpoint's certificate. Default: the host of the endpoint's address.
    pub name: Option<String>,
    /// PEM file of the authorities that may have issued the certificate. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// `registered`: each endpoint has an ID of its own, which the registry tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Registered;

pub type ExpectedIds = WordOrNames<Registered>;

impl Word for Registered {
    const WORD: &'static str = "registered";
    const NAMES: &'static str = "SPIFFE IDs";
    const SCHEMA: &'static str = "ExpectedIds";
}

impl UpstreamTls {
    /// Whether the operator said anything of whom to trust.
    pub fn names_nobody(&self) -> bool {
        self.verify == Verify::default()
    }
}
