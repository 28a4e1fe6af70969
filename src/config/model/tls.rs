//! `listeners[].tls`: which certificates a listener shows, and whose it asks for.

use std::{borrow::Cow, fmt, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    acme::{AcmeCertificates, ListenerAcme},
    shared_storage::SharedStorage,
    units::{ByteSize, HumanDuration},
};

/// TLS towards clients; HTTP/2 and HTTP/1.1 are agreed on by ALPN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerTls {
    /// Chosen by the name the client asks for; the first is for everyone else. Files are watched. Default: `[identity]`,
    /// where clients are trusted by `spiffe`.
    pub certificates: Vec<Certificate>,
    /// Certificates from a CA, ordered and renewed by themselves: `{}` is one for each host of the routes. They come after
    /// those in `certificates`.
    #[serde(default)]
    pub acme: Option<ListenerAcme>,
    /// Whether clients show a certificate, and whose are trusted.
    pub client_auth: ClientAuth,
    /// The oldest version of TLS that is spoken: `"1.2"` or `"1.3"`.
    pub min_version: TlsVersion,
    /// The newest version that is spoken. Default: `"1.3"`.
    pub max_version: Option<TlsVersion>,
    /// Groups for the exchange of keys, in the order of preference, by OpenSSL's names. Default: `[X25519MLKEM768, X25519, P-256, P-384]`.
    pub groups: Vec<String>,
    /// Ciphers of TLS 1.2 and 1.3, in the order of preference, by OpenSSL's names. A version of which none is named keeps its own. Default: those with forward secrecy
    /// and authentication in one (AEAD).
    pub ciphers: Vec<String>,
    /// The keys of session tickets, for gateways that share them. A file: each line has 80 bytes in base64, the first writes tickets, all read
    /// them, and it is watched. Or a storage, where the gateways make and rotate them. Default: keys that the process makes and keeps to itself.
    pub ticket_keys: Option<TicketKeys>,
    /// Hosts that are kept apart, as listeners of their own would: exact, or `*.suffix`. A request for a host of one entry on a connection
    /// that was opened for a host of another, or of none, gets 421; and the other way round. Default: certificates alone tell hosts apart.
    pub isolated_hosts: Vec<String>,
}

impl ListenerTls {
    pub fn speaks(&self, version: TlsVersion) -> bool {
        version >= self.min_version && self.max_version.is_none_or(|newest| version <= newest)
    }

    /// Those that are written, or what stands for none.
    pub fn shown(&self) -> &[Certificate] {
        match self.client_auth.trust {
            // Whoever asks others for their SVID has one.
            Some(ClientTrust::Spiffe) if self.certificates.is_empty() && self.acme.is_none() => {
                &[Certificate::Identity]
            }
            _ => &self.certificates,
        }
    }
}

/// `identity`, a pair of files, or what an account of `acme` orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// What this gateway's `identity` has, as it is renewed.
    Identity,
    Files(CertificateFiles),
    Acme(AcmeCertificates),
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
    /// The revocation lists (CRLs) of the authorities in `trust: {ca: FILE}`, one of each: a file in PEM, which is watched, or URLs.
    pub crl: Option<Crl>,
}

/// A file, or where gateways share keys that they make themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TicketKeys {
    File(PathBuf),
    Shared(Box<SharedTicketKeys>),
}

/// Whichever gateway has the lock makes new keys; all take them, and keep them in `state_dir`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedTicketKeys {
    /// Where the keys are.
    pub storage: SharedStorage,
    /// How long a key writes tickets. It is known to all for as long before, and reads tickets for twice as long afterwards.
    #[serde(default = "rotate")]
    pub rotate: HumanDuration,
}

fn rotate() -> HumanDuration {
    HumanDuration::from_secs(12 * 3600)
}

/// A file, or where lists are fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Crl {
    File(PathBuf),
    Fetched(FetchedCrl),
}

/// They are kept in `state_dir`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FetchedCrl {
    /// Of each authority, where it publishes its list, in DER or PEM: `http` will do, since lists are signed.
    pub urls: Vec<String>,
    /// Fetch them at least this often; they are fetched before they run out in any case.
    #[serde(default = "crl_every")]
    pub every: HumanDuration,
    /// How long one answer may take.
    #[serde(default = "crl_timeout")]
    pub timeout: HumanDuration,
    /// The largest answer that is read.
    #[serde(default = "crl_max_size")]
    pub max_size: ByteSize,
    /// Clients whose authority has no valid list at present.
    #[serde(default)]
    pub stale: StaleCrl,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaleCrl {
    /// They are refused.
    #[default]
    Refuse,
    /// They are looked for in the list that there was, and served where there was none.
    Allow,
}

fn crl_every() -> HumanDuration {
    HumanDuration::from_secs(3600)
}

fn crl_timeout() -> HumanDuration {
    HumanDuration::from_secs(10)
}

fn crl_max_size() -> ByteSize {
    ByteSize::mib(10)
}

/// Of a type that is a file, or a map with a key that must be there.
macro_rules! file_or_map {
    ($type:ident, $map:ident($form:ty), $name:literal, $expecting:literal, $description:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct FormVisitor;

                impl<'de> Visitor<'de> for FormVisitor {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, file: &str) -> Result<$type, E> {
                        Ok($type::File(file.into()))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        <$form>::deserialize(MapAccessDeserializer::new(map)).map($type::$map)
                    }
                }

                deserializer.deserialize_any(FormVisitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let map = generator.subschema_for::<$form>();
                json_schema!({"description": $description, "anyOf": [{"type": "string"}, map]})
            }
        }
    };
}

file_or_map!(
    Crl,
    Fetched(FetchedCrl),
    "Crl",
    "a file as a string, or a map with `urls`",
    "A bare string is a file in PEM."
);

file_or_map!(
    TicketKeys,
    Shared(Box<SharedTicketKeys>),
    "TicketKeys",
    "a file as a string, or a map with `storage`",
    "A bare string is a file."
);

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
const FORMS: &str = "`identity`, or a map with `cert` and `key`, or one with `acme`";

impl<'de> Deserialize<'de> for Certificate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CertificateVisitor)
    }
}

struct CertificateVisitor;

impl<'de> Visitor<'de> for CertificateVisitor {
    type Value = Certificate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Certificate, E> {
        match text {
            IDENTITY => Ok(Certificate::Identity),
            _ => Err(E::custom(format!("expected {FORMS}"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Certificate, A::Error> {
        CertificateForm::deserialize(MapAccessDeserializer::new(map))?.read().map_err(A::Error::custom)
    }
}

/// A pair of files, or `acme` and its names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CertificateForm {
    /// PEM: the certificate, then those that lead from it to its root.
    cert: Option<PathBuf>,
    /// PEM: the private key, not encrypted.
    key: Option<PathBuf>,
    /// The account in the top-level `acme` that orders; `default` exists by itself.
    acme: Option<String>,
    /// One certificate for each. Default: the hosts of the routes that this listener serves.
    names: Option<Vec<String>>,
    /// One certificate for all of these names, of which the first leads: where one cannot be proved, none gets any.
    together: Option<bool>,
}

impl CertificateForm {
    fn read(self) -> Result<Certificate, &'static str> {
        match self {
            CertificateForm { cert: Some(cert), key: Some(key), acme: None, names: None, together: None } => {
                Ok(Certificate::Files(CertificateFiles { cert, key }))
            }
            CertificateForm { cert: None, key: None, acme: Some(account), names, together } => {
                let together = together.unwrap_or_default();
                Ok(Certificate::Acme(AcmeCertificates { account, names, together }))
            }
            CertificateForm { cert: None, key: Some(_), acme: None, .. } => Err("missing key `cert`"),
            CertificateForm { cert: Some(_), key: None, acme: None, .. } => Err("missing key `key`"),
            CertificateForm { acme: None, names: Some(_), .. } => {
                Err("`names` are those of `acme` (write `{acme: default, names: [...]}`)")
            }
            _ => Err("expected `cert` and `key`, or `acme`"),
        }
    }
}

impl Serialize for Certificate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Certificate::Identity => serializer.serialize_str(IDENTITY),
            Certificate::Files(files) => files.serialize(serializer),
            Certificate::Acme(acme) => acme.serialize(serializer),
        }
    }
}

impl JsonSchema for Certificate {
    fn schema_name() -> Cow<'static, str> {
        "Certificate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<CertificateForm>();
        let description = "`identity` is this gateway's own SVID, as it is renewed.";
        json_schema!({"description": description, "anyOf": [{"const": IDENTITY}, map]})
    }
}
