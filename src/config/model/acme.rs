//! `acme`, at the top and on listeners: certificates from a CA, ordered and renewed by themselves (RFC 8555).

use std::{
    borrow::Cow,
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    shared_storage::SharedStorage,
    units::{HumanDuration, Rate, Ratio, Secret},
};

/// Who orders certificates, where, and how.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeAccount {
    /// Where the CAs write to when something is wrong with a certificate. Default: nowhere.
    pub email: Option<String>,
    /// The CAs: where the first gives nothing, the next is asked. A word (`letsencrypt`, `google`, `zerossl`), the `https` URL of a
    /// directory, or a map. Ordering there is agreeing to their terms.
    pub cas: Vec<AcmeCa>,
    /// Order at the staging CAs of `letsencrypt` and `google`: for trying things out, as no browser trusts what they issue, and
    /// their limits are wide.
    pub staging: bool,
    /// How names are proved, the best first; after a failure the next is tried. Default: `http-01` where a listener speaks plain
    /// HTTP, then `tls-alpn-01`; with `dns`, `dns-01` alone.
    pub challenges: Vec<AcmeChallenge>,
    /// Writes the records of `dns-01`.
    pub dns: Option<AcmeDns>,
    /// Where certificates, accounts and failures are kept. Default: in `state_dir`, for this gateway alone.
    pub storage: Option<SharedStorage>,
    /// Who says which names that nobody has configured may have a certificate, for listeners with `on_demand`.
    pub on_demand: Option<AcmeOnDemand>,
    /// Of the private keys; each certificate has a new one.
    pub key: AcmeKey,
    /// Renew after this share of a certificate's life, unless its CA says when (ARI, RFC 9773). At most 90%.
    pub renew_after: Ratio,
    /// How long a CA has for one answer.
    pub request_timeout: HumanDuration,
    /// How long a whole order may take, the CA's look at the proofs included.
    pub order_timeout: HumanDuration,
    /// How long a CA is left alone after a failed order.
    pub retry: AcmeRetry,
    /// No more orders than this, all names together.
    pub orders: Rate,
    /// Orders that may be under way at the same time.
    pub at_once: NonZeroUsize,
}

/// Twice as long after each failure in a row, and at least as long as the CA asks for.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AcmeRetry {
    /// After the first failure; CAs allow few an hour.
    pub base: HumanDuration,
    /// No longer than this, unless the CA asks for more.
    pub max: HumanDuration,
}

/// A CA: its word or URL, or a map.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AcmeCa {
    pub directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab: Option<AcmeEab>,
}

/// A CA, with what it takes to order there.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AcmeCaForm {
    /// `letsencrypt`, `google`, `zerossl`, or the `https` URL of the CA's directory.
    directory: String,
    /// PEM: trust these for the CA's own HTTPS, in place of those that the system trusts.
    ca: Option<PathBuf>,
    /// What the CA has given to bind the account to one that it knows.
    eab: Option<AcmeEab>,
}

/// An external account (RFC 8555, section 7.3.4).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeEab {
    /// Its name at the CA.
    pub key_id: String,
    /// The secret, in base64url as CAs give it.
    pub hmac_key: Secret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AcmeChallenge {
    /// The CA asks over plain HTTP at port 80.
    #[serde(rename = "http-01")]
    Http01,
    /// The CA begins TLS at port 443.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// The CA looks for a DNS record: the only way to names with a `*`.
    #[serde(rename = "dns-01")]
    Dns01,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AcmeKey {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// For clients that know nothing else.
    Rsa2048,
    /// The same, larger and slower.
    Rsa4096,
}

/// A command or a web service: exactly one of `command` and `webhook`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeDns {
    /// A program and its first arguments. It gets three more: `present` or `cleanup`, the record's name, and its value. No shell.
    #[serde(default)]
    pub command: Vec<String>,
    /// A URL that gets the same in a POST of JSON: `action`, `name`, `type` and `value`.
    pub webhook: Option<String>,
    /// What the webhook gets as `Authorization`.
    pub authorization: Option<Secret>,
    /// How long one call may take.
    #[serde(default = "hook_timeout")]
    pub timeout: HumanDuration,
    /// How long the DNS servers have to agree before the CA looks.
    #[serde(default = "hook_wait")]
    pub wait: HumanDuration,
}

/// A service that is asked before a certificate for a new name is ordered, and what strangers can cause at most.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcmeOnDemand {
    /// A URL that gets a GET with `domain=NAME` in its query. 200 is yes, all else is no.
    pub ask: String,
    /// No more new names are asked about than this.
    #[serde(default = "on_demand_rate")]
    pub rate: Rate,
    /// New names that may be under way at the same time; at most 1000.
    #[serde(default = "on_demand_pending")]
    pub pending: NonZeroUsize,
    /// Names that are kept; at most 100000.
    #[serde(default = "on_demand_most")]
    pub most: NonZeroUsize,
    /// How long one question may take.
    #[serde(default = "on_demand_timeout")]
    pub timeout: HumanDuration,
}

/// `tls.acme` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerAcme {
    /// The account in the top-level `acme` that orders. Default: `default`, which exists by itself.
    pub account: Option<String>,
    /// One certificate for each. Default: the hosts of the routes that this listener serves.
    pub names: Option<Vec<String>>,
    /// One certificate for all of these names, of which the first leads: where one cannot be proved, none gets any.
    pub together: bool,
    /// Order also for names that nobody has configured, when a client asks for one and the account's `on_demand` allows it.
    pub on_demand: bool,
}

/// `{acme: ACCOUNT, names: [...]}` among a listener's certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcmeCertificates {
    #[serde(rename = "acme")]
    pub account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub together: bool,
}

/// The account that is there without being written.
pub const DEFAULT_ACCOUNT: &str = "default";

fn on_demand_rate() -> Rate {
    Rate::per_minute_of(NonZeroU64::MIN.saturating_add(9))
}

fn on_demand_pending() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(19)
}

fn on_demand_most() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(999)
}

fn on_demand_timeout() -> HumanDuration {
    HumanDuration::from_secs(5)
}

fn hook_timeout() -> HumanDuration {
    HumanDuration::from_secs(60)
}

fn hook_wait() -> HumanDuration {
    HumanDuration::from_secs(30)
}

impl Default for AcmeAccount {
    fn default() -> Self {
        AcmeAccount {
            email: None,
            cas: vec![AcmeCa { directory: "letsencrypt".to_owned(), ca: None, eab: None }],
            staging: false,
            challenges: Vec::new(),
            dns: None,
            storage: None,
            on_demand: None,
            key: AcmeKey::default(),
            renew_after: Ratio::from_percent(67),
            request_timeout: HumanDuration::from_secs(30),
            order_timeout: HumanDuration::from_secs(300),
            retry: AcmeRetry::default(),
            orders: Rate::per_hour_of(NonZeroU64::MIN.saturating_add(99)),
            at_once: NonZeroUsize::MIN.saturating_add(3),
        }
    }
}

impl Default for AcmeRetry {
    fn default() -> Self {
        AcmeRetry { base: HumanDuration::from_secs(300), max: HumanDuration::from_secs(12 * 3600) }
    }
}

impl<'de> Deserialize<'de> for AcmeCa {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CaVisitor;

        impl<'de> Visitor<'de> for CaVisitor {
            type Value = AcmeCa;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CA's word or URL as a string, or a map with `directory`")
            }

            fn visit_str<E: Error>(self, directory: &str) -> Result<AcmeCa, E> {
                Ok(AcmeCa { directory: directory.to_owned(), ca: None, eab: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AcmeCa, A::Error> {
                let AcmeCaForm { directory, ca, eab } =
                    AcmeCaForm::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AcmeCa { directory, ca, eab })
            }
        }

        deserializer.deserialize_any(CaVisitor)
    }
}

impl JsonSchema for AcmeCa {
    fn schema_name() -> Cow<'static, str> {
        "AcmeCa".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<AcmeCaForm>();
        json_schema!({"description": "A bare string is `directory`.", "anyOf": [{"type": "string"}, map]})
    }
}
