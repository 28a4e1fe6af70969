//! `control.serve`: this process as a control plane, whose registry services announce themselves at.

use std::{borrow::Cow, fmt, num::NonZeroUsize, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    rollout::RolloutSettings,
    tls::ListenerTls,
    units::{HumanDuration, Ratio, Secret},
    word_or_names::{Word, WordOrNames},
};

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ControlServe {
    /// Any address that is not loopback needs `tls` and `authorize`.
    pub address: String,
    /// As a listener's. Default: plain text.
    pub tls: Option<ListenerTls>,
    /// Where it is kept. Default: in memory.
    pub store: Store,
    /// How registrations live and end.
    pub registry: RegistrySettings,
    /// Configurations for gateways, and how they spread.
    pub configs: ConfigsSettings,
    /// Who may what: rules add up, and what none grants is refused. Without rules everybody may everything.
    pub authorize: Vec<Authorize>,
    /// Sign SVIDs with the CA of `identity.ca`. Default: nobody's.
    pub issue: Option<Issue>,
    /// Where the other replicas of this control plane reach this one, `host:port`. Needed with `store: {etcd: ...}`.
    pub advertise: Option<String>,
    /// Not there yet.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub xds: Option<NotYet>,
}

/// A key that has its place and does nothing so far: refused, since it would not do what it says.
#[derive(Clone, Debug, PartialEq)]
pub enum NotYet {}

/// Where what is registered is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Store {
    /// In memory, and with `state_dir` in a file over restarts.
    #[default]
    Memory,
    /// In etcd, which the replicas of a control plane share.
    Etcd(EtcdStore),
}

/// An etcd cluster, version 3.4 or later.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdStore {
    /// `https://host:port` of each member; `http` on this host alone. One is used at a time, another after each failure.
    pub endpoints: Vec<String>,
    /// Of all keys. Replicas with the same prefix are one control plane.
    #[serde(default = "default_prefix")]
    pub prefix: String,
    /// Speak TLS to etcd.
    pub tls: Option<EtcdTls>,
    /// With `password`. A client certificate whose common name is the user needs neither.
    pub user: Option<String>,
    /// Of `user`.
    pub password: Option<Secret>,
}

impl EtcdStore {
    pub fn members(&self) -> EtcdMembers {
        let EtcdStore { endpoints, prefix: _, tls, user, password } = self.clone();
        EtcdMembers { endpoints, tls, user, password }
    }
}

/// An etcd cluster that others use as well, version 3.4 or later.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EtcdMembers {
    /// `https://host:port` of each member; `http` on this host alone. One is used at a time, another after each failure.
    pub endpoints: Vec<String>,
    /// Speak TLS to etcd.
    pub tls: Option<EtcdTls>,
    /// With `password`. A client certificate whose common name is the user needs neither.
    pub user: Option<String>,
    /// Of `user`.
    pub password: Option<Secret>,
}

/// Files are read again for each connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdTls {
    /// PEM file of the authorities that may have issued etcd's certificates. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to present, with `key`.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key for `cert`.
    pub key: Option<PathBuf>,
}

fn default_prefix() -> String {
    "/tidegate/v1/".to_owned()
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// How long a registration lasts without a sign of life.
    pub ttl: TtlRange,
    /// When instances that fall silent together are kept.
    pub hold: HoldRule,
    /// When an instance that comes and goes is held.
    pub flapping: FlappingRule,
    /// How much may be registered.
    pub limits: RegistryLimits,
}

/// How long an instance stays without a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TtlRange {
    /// Of those that do not say.
    pub default: HumanDuration,
    /// No registration may ask for less.
    pub min: HumanDuration,
    /// No registration may ask for longer.
    pub max: HumanDuration,
}

/// `false`, or what mass silence is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum HoldRule {
    Off(bool),
    On(HoldSettings),
}

/// When so many fall silent together, they are kept: it is more likely the network than all of them.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HoldSettings {
    /// More than this share of all instances that renewed in the minute before.
    pub overdue: Ratio,
    /// More than this share of a service's.
    pub of_service: Ratio,
    /// Fewer are never held.
    pub at_least: NonZeroUsize,
    /// After this they are removed. When 85 % renew again, the rest are removed earlier.
    pub r#for: HumanDuration,
}

/// An instance whose health turns more often is shown as critical until it has been still for a window.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlappingRule {
    /// So many changes within `window` are flapping.
    pub turns: NonZeroUsize,
    /// Over what changes are counted.
    pub window: HumanDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryLimits {
    /// 429 `limit` beyond, as with the others.
    pub instances: NonZeroUsize,
    /// Instances of one service.
    pub instances_per_service: NonZeroUsize,
    /// Watches, and long polls that wait, at a time.
    pub watches: NonZeroUsize,
}

/// Configurations that gateways take.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigsSettings {
    /// 429 `limit` beyond.
    pub most: NonZeroUsize,
    /// How a new version spreads, where its document does not say.
    pub rollout: RolloutSettings,
}

/// SVIDs that this control plane signs for others.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Issue {
    /// How long an SVID is valid, and never longer than the CA is. It is renewed at half of it.
    pub ttl: HumanDuration,
    /// Who is issued what.
    pub allow: IssueGrant,
}

/// For whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IssueGrant {
    /// For the ID that a token was made for, and for whoever still has a valid SVID of it.
    #[default]
    Own,
}

impl Default for Issue {
    fn default() -> Self {
        Issue { ttl: HumanDuration::from_secs(12 * 3600), allow: IssueGrant::Own }
    }
}

/// What one of `spiffe`, or whoever has `token`, may do.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Authorize {
    /// SPIFFE IDs, or all below: `spiffe://mesh.local/*`.
    pub spiffe: Vec<String>,
    /// The token that callers show.
    pub token: Option<Secret>,
    /// Services that may be registered: `own`, or names such as `cart.shop`, `*.shop` and `*`. `own` is the service that is
    /// named as the SPIFFE ID's path: `/payments` is `payments`, and `/shop/cart` is `cart.shop`.
    pub register: Option<RegisterGrant>,
    /// Services that may be seen.
    pub discover: Vec<String>,
    /// Configurations that gateways may take.
    pub join: Vec<String>,
    /// Configurations that may be changed.
    pub configure: Vec<String>,
    /// Read the metrics, see all gateways, lead every rollout, remove anybody's instances, and make tokens for first SVIDs.
    pub operate: bool,
}

/// `own`: the service that a SPIFFE ID names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Own;

pub type RegisterGrant = WordOrNames<Own>;

impl Word for Own {
    const WORD: &'static str = "own";
    const NAMES: &'static str = "services";
    const SCHEMA: &'static str = "RegisterGrant";
}

impl Default for ControlServe {
    fn default() -> Self {
        ControlServe {
            address: "127.0.0.1:9902".into(),
            tls: None,
            store: Store::default(),
            registry: RegistrySettings::default(),
            configs: ConfigsSettings::default(),
            authorize: Vec::new(),
            issue: None,
            advertise: None,
            xds: None,
        }
    }
}

impl Default for ConfigsSettings {
    fn default() -> Self {
        let most = const { NonZeroUsize::new(100).unwrap() };
        ConfigsSettings { most, rollout: RolloutSettings::default() }
    }
}

impl Default for TtlRange {
    fn default() -> Self {
        let [default, min, max] = [30, 1, 86_400].map(HumanDuration::from_secs);
        TtlRange { default, min, max }
    }
}

impl Default for HoldRule {
    fn default() -> Self {
        HoldRule::On(HoldSettings::default())
    }
}

impl Default for HoldSettings {
    fn default() -> Self {
        HoldSettings {
            overdue: Ratio::from_percent(15),
            of_service: Ratio::from_percent(50),
            at_least: const { NonZeroUsize::new(5).unwrap() },
            r#for: HumanDuration::from_secs(600),
        }
    }
}

impl Default for FlappingRule {
    fn default() -> Self {
        let turns = const { NonZeroUsize::new(5).unwrap() };
        FlappingRule { turns, window: HumanDuration::from_secs(60) }
    }
}

impl Default for RegistryLimits {
    fn default() -> Self {
        RegistryLimits {
            instances: const { NonZeroUsize::new(100_000).unwrap() },
            instances_per_service: const { NonZeroUsize::new(10_000).unwrap() },
            watches: const { NonZeroUsize::new(20_000).unwrap() },
        }
    }
}

pub(in crate::config) fn serve<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ControlServe>, D::Error> {
    struct ServeVisitor;

    impl<'de> Visitor<'de> for ServeVisitor {
        type Value = Option<ControlServe>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false or a map")
        }

        fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
            Ok(on.then(ControlServe::default))
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            ControlServe::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(ServeVisitor)
}

pub(in crate::config) fn serve_schema(generator: &mut SchemaGenerator) -> Schema {
    let settings = generator.subschema_for::<ControlServe>();
    json_schema!({"anyOf": [{"type": "boolean"}, settings, {"type": "null"}]})
}

impl<'de> Deserialize<'de> for NotYet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer)?;
        Err(D::Error::custom("this release does nothing with it yet (leave it out)"))
    }
}

impl<'de> Deserialize<'de> for Store {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StoreVisitor;

        impl<'de> Visitor<'de> for StoreVisitor {
            type Value = Store;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`memory`, or a map with `etcd`")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Store, E> {
                match word {
                    "memory" => Ok(Store::Memory),
                    "etcd" => Err(E::custom(
                        "etcd needs its endpoints (try `{etcd: {endpoints: [\"https://etcd-1:2379\"]}}`)",
                    )),
                    _ => {
                        Err(E::custom(format!("{word:?} is not a store (write `memory` or `{{etcd: ...}}`)")))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Store, A::Error> {
                let Kind { etcd } = Kind::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Store::Etcd(etcd))
            }
        }

        deserializer.deserialize_any(StoreVisitor)
    }
}

/// What a store that is a map is.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "SharedStore")]
struct Kind<E = EtcdStore> {
    etcd: E,
}

impl Serialize for Store {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Store::Memory => serializer.serialize_str("memory"),
            Store::Etcd(etcd) => Kind { etcd }.serialize(serializer),
        }
    }
}

impl JsonSchema for Store {
    fn schema_name() -> Cow<'static, str> {
        "Store".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let etcd = generator.subschema_for::<Kind>();
        let memory = json_schema!({"const": "memory", "description": "In memory, and with `state_dir` in a file over restarts."});
        json_schema!({"description": "Where what is registered is kept.", "anyOf": [memory, etcd]})
    }
}

impl<'de> Deserialize<'de> for HoldRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HoldVisitor;

        impl<'de> Visitor<'de> for HoldVisitor {
            type Value = HoldRule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`false` or a map")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<HoldRule, E> {
                Ok(if on { HoldRule::default() } else { HoldRule::Off(false) })
            }

            fn visit_unit<E: Error>(self) -> Result<HoldRule, E> {
                Ok(HoldRule::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HoldRule, A::Error> {
                HoldSettings::deserialize(MapAccessDeserializer::new(map)).map(HoldRule::On)
            }
        }

        deserializer.deserialize_any(HoldVisitor)
    }
}

impl JsonSchema for HoldRule {
    fn schema_name() -> Cow<'static, str> {
        "HoldRule".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<HoldSettings>();
        let description =
            "What becomes of many that fall silent together; `false` believes in their silence.";
        json_schema!({"description": description, "anyOf": [{"type": "boolean"}, settings]})
    }
}
