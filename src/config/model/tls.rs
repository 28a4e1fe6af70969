//! `listeners[].tls`: which certificates a listener shows, and whose it asks for.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// TLS towards clients; HTTP/2 and HTTP/1.1 are agreed on by ALPN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Chosen by the name the client asks for; the first is for everyone else. Files are watched. Default: `[identity]`,
    /// where clients are trusted by `spiffe`.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Whether clients show a certificate, and whose are trusted.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// The oldest version of TLS that is spoken: `"1.2"` or `"1.3"`.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// Hosts that are kept apart, as listeners of their own would: exact, or `*.suffix`. A request for a host of one entry on a connection
    /// that was opened for a host of another, or of none, gets 421; and the other way round. Default: certificates alone tell hosts apart.
    #[serde(default)]
    pub isolated_hosts: Vec<String>,
}

impl ListenerTls {
    /// Those that are written, or what stands for none.
    pub fn shown(&self) -> &[Certificate] {
        match self.client_auth.trust {
            // Whoever asks others for their SVID has one.
            Some(ClientTrust::Spiffe) if self.certificates.is_empty() => &[Certificate::Identity],
            _ => &self.certificates,
        }
    }
}

/// `identity`, or a pair of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// What this gateway's `identity` has, as it is renewed.
    Identity,
    Files(CertificateFiles),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those that lead from it to its root.
    pub cert: PathBuf,
    /// PEM: the private key, not encrypted.
    pub key: PathBuf,
}

/// Whether clients must show a certificate, and whose are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientAuth {
    /// Whether clients must show a certificate.
    pub mode: ClientAuthMode,
    /// `spiffe`, or `{ca: FILE}`.
    pub trust: Option<ClientTrust>,
    /// PEM, watched: the revocation lists (CRLs) of the authorities in `trust: {ca: FILE}`, one of each.
    pub crl: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthMode {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for, and clients with a bad one are served as those without. Only with `trust: {ca: FILE}`.
    Lenient,
    /// Clients without a certificate are served too; a bad one is refused.
    Request,
    /// Only clients with a good certificate are served.
    Require,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientTrust {
    /// SVIDs, each by the bundle of its own trust domain, as `identity` has them.
    Spiffe,
    /// Certificates of the authorities in this PEM file, which is watched.
    Ca(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

const IDENTITY: &str = "identity";

impl<'de> Deserialize<'de> for Certificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CertificateVisitor)
    }
}

struct CertificateVisitor;

impl<'de> Visitor<'de> for CertificateVisitor {
    type Value = Certificate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`identity`, or a map with `cert` and `key`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Certificate, E> {
        match text {
            IDENTITY => Ok(Certificate::Identity),
            _ => Err(E::custom("expected `identity`, or a map with `cert` and `key`")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Certificate, A::Error> {
        CertificateFiles::deserialize(MapAccessDeserializer::new(map)).map(Certificate::Files)
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Certificate::Identity => serializer.serialize_str(IDENTITY),
            Certificate::Files(files) => files.serialize(serializer),
        }
    }
}

impl JsonSchema for Certificate {
    fn schema_name() -> Cow<'static, str> {
        "Certificate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let files = generator.subschema_for::<CertificateFiles>();
        let description = "`identity` is this gateway's own SVID, as it is renewed.";
        json_schema!({"description": description, "anyOf": [{"const": IDENTITY}, files]})
    }
}
