//! `forwarded`: what is believed of proxies in front, and what upstreams are told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which headers tell who the client is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarded {
    /// Which header of a trusted proxy is believed and extended. Name the one that your proxies write: the other may be
    /// the client's own, and is replaced.
    pub trust: ForwardedHeader,
    /// Write `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    pub x_forwarded: bool,
    /// Write `X-Real-IP`: the client's address alone. Default: as `x_forwarded`.
    pub x_real_ip: Option<bool>,
    /// Write `Forwarded` (RFC 7239).
    pub forwarded: bool,
    /// What becomes of `X-Forwarded-Client-Cert`.
    pub client_cert: ClientCertHeader,
    /// Write `Via`, behind what it has: to upstreams, and in their responses.
    pub via: Via,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// It passes as it is.
    #[default]
    Off,
    /// `1.1 tidegate`, with the version in which the message came.
    On,
}

/// The header tells the upstream whose certificate the client has shown, as Envoy writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertHeader {
    /// Not written, and taken out whoever sent it.
    #[default]
    Off,
    /// Written where the client has shown a certificate, in place of whatever was sent.
    Write,
    /// The same, behind what one of `trusted_proxies` has sent.
    Append,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl Default for Forwarded {
    fn default() -> Self {
        Forwarded {
            trust: ForwardedHeader::default(),
            x_forwarded: true,
            x_real_ip: None,
            forwarded: false,
            client_cert: ClientCertHeader::default(),
            via: Via::default(),
        }
    }
}
