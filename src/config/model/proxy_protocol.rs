//! `proxy_protocol` of listeners and upstreams: who says in front of a connection whose it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a listener does with the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AcceptProxy {
    /// A PROXY header is not expected, and no client can tell who it is with one.
    #[default]
    Off,
    /// Every connection must come from one of `trusted_proxies` and begin with a PROXY header (version 1 or 2).
    Accept,
}

/// Which PROXY header an upstream is sent, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    #[default]
    Off,
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
