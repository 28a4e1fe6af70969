//! Types that an operator may write in more than one form: a string where a string says it all, a map otherwise.
//! Their errors name the forms, which serde's untagged enums would not.

use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr};

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
    ser::SerializeSeq,
};

use crate::config::model::{
    admin::{Admin, AdminConsole, AdminListener, AdminParts, ConsoleSettings, PartLimits},
    health_check::ExpectedStatuses,
    route::{Entry, FilterUse, PathMatch, RouteMatch, ValueMatch},
    tracing::{RouteSample, RouteTrace, TraceLimit},
    traffic::{Concurrency, ConcurrencyRule, Outlier, OutlierRule},
    units::{Given, HumanDuration, Rate, read, read_or_off},
    upstream::{Endpoint, EndpointOrigin, HashCookie, RegistryEndpoint, SameSite, SrvEndpoint},
};

/// Writes `Deserialize` for a type with a visitor that has the given methods.
macro_rules! forms {
    ($type:ty, $visitor:ident, $expecting:literal, {$($method:item)*}) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any($visitor)
            }
        }

        struct $visitor;

        impl<'de> Visitor<'de> for $visitor {
            type Value = $type;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($expecting)
            }

            $($method)*
        }
    };
}

pub(in crate::config::model) use forms;

forms!(Admin, AdminVisitor, "`false` or a map", {
    fn visit_bool<E: Error>(self, on: bool) -> Result<Admin, E> {
        match on {
            false => Ok(Admin::Off(false)),
            true => Ok(Admin::default()),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Admin, E> {
        Ok(Admin::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Admin, A::Error> {
        AdminListener::deserialize(MapAccessDeserializer::new(map)).map(Admin::On)
    }
});

impl JsonSchema for Admin {
    fn schema_name() -> Cow<'static, str> {
        "Admin".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let listener = generator.subschema_for::<AdminListener>();
        let description = "The operator's HTTP API: `false` turns it off.";
        json_schema!({"description": description, "anyOf": [{"type": "boolean"}, listener]})
    }
}

forms!(AdminParts, AdminPartsVisitor, "`false` or a map", {
    fn visit_bool<E: Error>(self, on: bool) -> Result<AdminParts, E> {
        match on {
            false => Ok(AdminParts::Off(false)),
            true => Ok(AdminParts::default()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AdminParts, A::Error> {
        PartLimits::deserialize(MapAccessDeserializer::new(map)).map(AdminParts::On)
    }
});

impl JsonSchema for AdminParts {
    fn schema_name() -> Cow<'static, str> {
        "AdminParts".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let limits = generator.subschema_for::<PartLimits>();
        let description = "Parts beside this file, given while the gateway runs: `false` turns them off.";
        json_schema!({"description": description, "anyOf": [{"type": "boolean"}, limits]})
    }
}

forms!(AdminConsole, AdminConsoleVisitor, "`false`, `true` or a map", {
    fn visit_bool<E: Error>(self, on: bool) -> Result<AdminConsole, E> {
        match on {
            false => Ok(AdminConsole::Off(false)),
            true => Ok(AdminConsole::default()),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AdminConsole, A::Error> {
        ConsoleSettings::deserialize(MapAccessDeserializer::new(map)).map(AdminConsole::On)
    }
});

impl JsonSchema for AdminConsole {
    fn schema_name() -> Cow<'static, str> {
        "AdminConsole".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let settings = generator.subschema_for::<ConsoleSettings>();
        let description = "`false` turns the console, the live access log and the history off.";
        json_schema!({"description": description, "anyOf": [{"type": "boolean"}, settings]})
    }
}

forms!(RouteTrace, RouteTraceVisitor, "`off` or a map with `sample`", {
    fn visit_str<E: Error>(self, word: &str) -> Result<RouteTrace, E> {
        match word {
            "off" => Ok(RouteTrace::Off),
            _ => Err(Error::custom(format!("\"{word}\" is not `off` (or a map such as `{{sample: 10%}}`)"))),
        }
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<RouteTrace, E> {
        match on {
            false => Ok(RouteTrace::Off),
            true => Err(Error::custom("expected `off`, or a map such as `{sample: 10%}`")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RouteTrace, A::Error> {
        RouteSample::deserialize(MapAccessDeserializer::new(map)).map(RouteTrace::On)
    }
});

impl JsonSchema for RouteTrace {
    fn schema_name() -> Cow<'static, str> {
        "RouteTrace".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<RouteSample>();
        let description = "`off`, or what a route does differently.";
        json_schema!({"description": description, "anyOf": [{"enum": ["off", false]}, map]})
    }
}

impl<'de> Deserialize<'de> for TraceLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read_or_off(deserializer, "a rate such as \"100/s\", or `off`", |given| match given {
            Given::Text("off") => Ok(TraceLimit(None)),
            _ => Rate::parse(given).map(|rate| TraceLimit(Some(rate))),
        })
    }
}

impl Serialize for TraceLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(rate) => rate.serialize(serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl JsonSchema for TraceLimit {
    fn schema_name() -> Cow<'static, str> {
        "TraceLimit".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rate = generator.subschema_for::<Rate>();
        json_schema!({"description": "A rate, or `off`.", "anyOf": [{"enum": ["off"]}, rate]})
    }
}

forms!(OutlierRule, OutlierVisitor, "`off` or a map", {
    fn visit_str<E: Error>(self, word: &str) -> Result<OutlierRule, E> {
        match word {
            "off" => Ok(OutlierRule::Off),
            _ => Err(E::custom(format!("\"{word}\" is neither `off` nor a map"))),
        }
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<OutlierRule, E> {
        match on {
            false => Ok(OutlierRule::Off),
            true => Ok(OutlierRule::On(Outlier::default())),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OutlierRule, A::Error> {
        Outlier::deserialize(MapAccessDeserializer::new(map)).map(OutlierRule::On)
    }
});

forms!(ConcurrencyRule, ConcurrencyVisitor, "`adaptive`, `off` or a map", {
    fn visit_str<E: Error>(self, word: &str) -> Result<ConcurrencyRule, E> {
        match word {
            "off" => Ok(ConcurrencyRule::Off),
            "adaptive" => Ok(ConcurrencyRule::On(Concurrency::default())),
            _ => Err(E::custom(format!("\"{word}\" is neither `adaptive`, `off` nor a map"))),
        }
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<ConcurrencyRule, E> {
        match on {
            false => Ok(ConcurrencyRule::Off),
            true => Ok(ConcurrencyRule::On(Concurrency::default())),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ConcurrencyRule, A::Error> {
        Concurrency::deserialize(MapAccessDeserializer::new(map)).map(ConcurrencyRule::On)
    }
});

impl JsonSchema for ConcurrencyRule {
    fn schema_name() -> Cow<'static, str> {
        "ConcurrencyRule".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rule = generator.subschema_for::<Concurrency>();
        let description = "A limit that is learnt from response times: `adaptive`, `off`, or how.";
        json_schema!({"description": description, "anyOf": [{"enum": ["adaptive", "off", false]}, rule]})
    }
}

impl JsonSchema for OutlierRule {
    fn schema_name() -> Cow<'static, str> {
        "OutlierRule".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let rule = generator.subschema_for::<Outlier>();
        let description = "Passive ejection: `off`, or how.";
        json_schema!({"description": description, "anyOf": [{"const": "off"}, {"const": false}, rule]})
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
struct PathForms {
    /// This path and no other.
    exact: Option<String>,
    /// This path and all below it.
    prefix: Option<String>,
    /// Paths in which this regular expression finds a match.
    regex: Option<String>,
    /// `/users/{id}`: each `{name}` matches one whole segment; `{*rest}` as the last segment matches what is left.
    template: Option<String>,
}

forms!(
    PathMatch,
    PathVisitor,
    "a path prefix as a string, or a map with `exact`, `prefix`, `regex` or `template`",
    {
        fn visit_str<E: Error>(self, prefix: &str) -> Result<PathMatch, E> {
            Ok(PathMatch::Prefix(prefix.into()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathMatch, A::Error> {
            let PathForms { exact, prefix, regex, template } =
                PathForms::deserialize(MapAccessDeserializer::new(map))?;
            match (exact, prefix, regex, template) {
                (Some(path), None, None, None) => Ok(PathMatch::Exact(path)),
                (None, Some(path), None, None) => Ok(PathMatch::Prefix(path)),
                (None, None, Some(path), None) => Ok(PathMatch::Regex(path)),
                (None, None, None, Some(path)) => Ok(PathMatch::Template(path)),
                _ => Err(Error::custom("expected exactly one of `exact`, `prefix`, `regex` and `template`")),
            }
        }
    }
);

impl JsonSchema for PathMatch {
    fn schema_name() -> Cow<'static, str> {
        "PathMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<PathForms>();
        let description = "A bare string is a prefix on a segment boundary.";
        json_schema!({"description": description, "anyOf": [{"type": "string"}, map]})
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("minProperties" = 1, "maxProperties" = 1))]
struct ValueForms {
    /// This value and no other.
    exact: Option<String>,
    /// Values in which this regular expression finds a match.
    regex: Option<String>,
    /// Whether it is there at all, whatever its value.
    present: Option<bool>,
}

forms!(ValueMatch, ValueVisitor, "a value as a string, or a map with `exact`, `regex` or `present`", {
    fn visit_str<E: Error>(self, value: &str) -> Result<ValueMatch, E> {
        Ok(ValueMatch::Exact(value.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ValueMatch, A::Error> {
        let ValueForms { exact, regex, present } = ValueForms::deserialize(MapAccessDeserializer::new(map))?;
        match (exact, regex, present) {
            (Some(value), None, None) => Ok(ValueMatch::Exact(value)),
            (None, Some(regex), None) => Ok(ValueMatch::Regex(regex)),
            (None, None, Some(present)) => Ok(ValueMatch::Present(present)),
            _ => Err(Error::custom("expected exactly one of `exact`, `regex` and `present`")),
        }
    }
});

impl JsonSchema for ValueMatch {
    fn schema_name() -> Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<ValueForms>();
        json_schema!({"description": "A bare string is an exact value.", "anyOf": [{"type": "string"}, map]})
    }
}

forms!(
    FilterUse,
    FilterVisitor,
    "the name of a chain as a string, or a map with one filter and its options",
    {
        fn visit_str<E: Error>(self, chain: &str) -> Result<FilterUse, E> {
            Ok(FilterUse::Named(chain.into()))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FilterUse, A::Error> {
            let entry: BTreeMap<String, serde_json::Value> =
                BTreeMap::deserialize(MapAccessDeserializer::new(map))?;
            // `{name: cors, config: {...}}`, as others write it.
            let is_filter = |name: &&str| {
                name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            };
            let named = ["name", "type"].iter().find_map(|key| entry.get(*key)?.as_str()).filter(is_filter);
            let named = named.map(str::to_owned);
            let entry = Entry::of(entry);
            let filters: Vec<&str> =
                entry.keys().filter(|key| !FilterUse::CONDITIONS.contains(key)).collect();
            match filters.len() {
                1 => Ok(FilterUse::Inline(entry)),
                0 => Err(Error::custom("expected a filter and its options, found none")),
                _ => {
                    let names: Vec<_> = filters.iter().map(|name| format!("`{name}`")).collect();
                    let hint = match named {
                        Some(name) => format!("write `- {name}: {{...}}`: the name of a filter is its key"),
                        None => "start each filter with its own `-`, and indent options deeper than the name"
                            .into(),
                    };
                    Err(Error::custom(format!("expected one filter, found {} ({hint})", names.join(", "))))
                }
            }
        }
    }
);

/// Never the options: they may hold secrets.
impl fmt::Debug for FilterUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterUse::Named(chain) => write!(f, "Named({chain:?})"),
            FilterUse::Inline(filters) => write!(f, "Inline({:?})", filters.keys().collect::<Vec<_>>()),
        }
    }
}

impl JsonSchema for FilterUse {
    fn schema_name() -> Cow<'static, str> {
        "FilterUse".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let matching = generator.subschema_for::<RouteMatch>();
        let condition = |description| json_schema!({"description": description, "allOf": [matching]});
        let chain = "The name of a chain under `filters`.";
        json_schema!({
            "description": "The name of a chain under top-level `filters`, or one filter with its options.",
            "anyOf": [
                {"type": "string", "description": chain},
                {"type": "object", "properties": {
                    "when": condition("The filter runs only for requests that match this."),
                    "unless": condition("The filter does not run for requests that match this."),
                }},
            ],
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline, extend("oneOf" = [{"required": ["address"]}, {"required": ["srv"]}, {"required": ["registry"]}]))]
struct EndpointForm {
    /// `ip:port`, `hostname:port` or `unix:/path`.
    address: Option<String>,
    /// In the place of an address: the hosts, ports, weights and priorities in the SRV records of this name, such as
    /// `_http._tcp.example.internal`.
    srv: Option<String>,
    /// In the place of an address: the instances of this service that are registered at the control plane.
    registry: Option<String>,
    /// With `address`: names and values that a route's `subset` chooses by. With `registry`: a list, all of which must be an instance's.
    tags: Option<EndpointTags>,
    /// With `registry`: all of these pairs must be an instance's.
    metadata: Option<BTreeMap<String, String>>,
    /// 0 to 65,535; 0 drains the endpoint. For a registry and SRV records it multiplies the weight of each instance or record.
    #[serde(default = "default_weight")]
    weight: u16,
    /// 0 comes first. Others get what those before cannot bear: something, once less than 71% of their weight can be used.
    #[serde(default)]
    priority: u16,
    /// Where it stands: those in the gateway's own `zone` come first. An instance's metadata, where they have `zone`, go before this.
    zone: Option<String>,
    /// With `registry`: how long the last instances stay here when silence alone has taken them; 0s: not at all. Default:
    /// 10m.
    keep_last: Option<HumanDuration>,
}

fn default_weight() -> u16 {
    1
}

impl EndpointForm {
    fn read(self) -> Result<Endpoint, String> {
        let EndpointForm { address, srv, registry, tags, metadata, weight, priority, zone, keep_last } = self;
        let (names, pairs) = match tags {
            None => (None, None),
            Some(EndpointTags::Names(names)) => (Some(names), None),
            Some(EndpointTags::Pairs(pairs)) => (None, Some(pairs)),
        };
        let of_registries = [("metadata", metadata.is_some()), ("keep_last", keep_last.is_some())];
        let alone = |key: &str| match of_registries.iter().find(|(_, is_given)| *is_given) {
            Some((given, _)) => Err(format!("`{given}` goes with `registry`, not with `{key}`")),
            None if names.is_some() => {
                Err("`tags` of an address have values (write `tags: {version: v2}`)".into())
            }
            None => Ok(()),
        };
        match (address, srv, registry) {
            (Some(address), None, None) => alone("address").map(|()| Endpoint {
                priority,
                zone,
                tags: pairs.unwrap_or_default(),
                ..Endpoint::at(address, weight)
            }),
            (None, Some(_), None) if priority != 0 => {
                Err("SRV records say the priority of each host (leave out `priority`)".into())
            }
            (None, Some(srv), None) => alone("srv").map(|()| Endpoint {
                zone,
                tags: pairs.unwrap_or_default(),
                ..Endpoint::of(EndpointOrigin::Srv(SrvEndpoint { srv }), weight)
            }),
            (None, None, Some(_)) if pairs.is_some() => {
                Err("with `registry`, `tags` are a list, and pairs are metadata (write `metadata: {version: v2}`)".into())
            }
            (None, None, Some(registry)) => {
                let all = RegistryEndpoint::of(registry);
                let origin = EndpointOrigin::Registry(RegistryEndpoint {
                    tags: names.unwrap_or_default(),
                    metadata: metadata.unwrap_or_default(),
                    keep_last: keep_last.unwrap_or(all.keep_last),
                    ..all
                });
                Ok(Endpoint { priority, zone, ..Endpoint::of(origin, weight) })
            }
            _ => Err("expected exactly one of `address`, `srv` and `registry`".into()),
        }
    }
}

/// What an instance of a registry must have, or what an address has.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum EndpointTags {
    Names(Vec<String>),
    Pairs(BTreeMap<String, String>),
}

impl<'de> Deserialize<'de> for EndpointTags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EndpointTagsVisitor)
    }
}

struct EndpointTagsVisitor;

impl<'de> Visitor<'de> for EndpointTagsVisitor {
    type Value = EndpointTags;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map, or with `registry` a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointTags, A::Error> {
        BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(EndpointTags::Pairs)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, names: A) -> Result<EndpointTags, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(names)).map(EndpointTags::Names)
    }
}

forms!(Endpoint, EndpointVisitor, "an address as a string, or a map with `address`, `srv` or `registry`", {
    fn visit_str<E: Error>(self, address: &str) -> Result<Endpoint, E> {
        Ok(Endpoint::at(address, default_weight()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
        EndpointForm::deserialize(MapAccessDeserializer::new(map))?.read().map_err(Error::custom)
    }
});

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<EndpointForm>();
        json_schema!({"description": "A bare string is an address of weight 1.", "anyOf": [{"type": "string"}, map]})
    }
}

forms!(HashCookie, HashCookieVisitor, "a cookie's name as a string, or a map with `name`", {
    fn visit_str<E: Error>(self, name: &str) -> Result<HashCookie, E> {
        Ok(HashCookie::named(name))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HashCookie, A::Error> {
        let HashCookieForm { name, issue, path, max_age, same_site, secure } =
            HashCookieForm::deserialize(MapAccessDeserializer::new(map))?;
        Ok(HashCookie { name, issue, path, max_age, same_site, secure })
    }
});

/// The cookie that a hash goes by.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HashCookieForm {
    /// The cookie's name.
    name: String,
    /// Clients that come without it are given one, with a random value. false: only the upstream gives it out.
    #[serde(default = "yes")]
    issue: bool,
    /// The path that browsers send it for.
    #[serde(default = "root")]
    path: String,
    /// How long browsers keep it. Default: as long as they run.
    max_age: Option<HumanDuration>,
    /// To which sites' requests browsers add it.
    #[serde(default)]
    same_site: SameSite,
    /// Browsers send it over HTTPS alone.
    #[serde(default)]
    secure: bool,
}

fn yes() -> bool {
    true
}

fn root() -> String {
    "/".into()
}

impl JsonSchema for HashCookie {
    fn schema_name() -> Cow<'static, str> {
        "HashCookie".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<HashCookieForm>();
        json_schema!({"description": "A bare string is its name.", "anyOf": [{"type": "string"}, map]})
    }
}

forms!(ExpectedStatuses, StatusesVisitor, "a status, a range such as \"200-299\", or a list of them", {
    fn visit_u64<E: Error>(self, status: u64) -> Result<ExpectedStatuses, E> {
        StatusRange::parse(Given::Number(&status.to_string())).map(StatusRange::alone).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, range: &str) -> Result<ExpectedStatuses, E> {
        StatusRange::parse(Given::Text(range)).map(StatusRange::alone).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ExpectedStatuses, A::Error> {
        let mut ranges = Vec::new();
        while let Some(StatusRange(low, high)) = items.next_element()? {
            ranges.push((low, high));
        }
        match ranges.is_empty() {
            false => Ok(ExpectedStatuses(ranges)),
            true => Err(Error::custom("an empty list expects no status at all (try \"200-299\")")),
        }
    }
});

#[derive(Clone, Copy)]
struct StatusRange(u16, u16);

impl StatusRange {
    fn alone(self) -> ExpectedStatuses {
        ExpectedStatuses(vec![(self.0, self.1)])
    }

    fn parse(given: Given<'_>) -> Result<Self, String> {
        let (Given::Text(text) | Given::Number(text)) = given;
        if let Some(class @ b'1'..=b'5') = text.strip_suffix("xx").and_then(|class| match class.as_bytes() {
            [class] => Some(*class),
            _ => None,
        }) {
            let low = u16::from(class - b'0') * 100;
            return Ok(StatusRange(low, low + 99));
        }
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.trim().parse(), high.trim().parse()) {
            (Ok(low @ 100..=599), Ok(high @ 100..=599)) if low <= high => Ok(StatusRange(low, high)),
            _ => Err(format!(
                "{given} is not a status or a range of them from 100 to 599 (try 200 or \"200-299\")"
            )),
        }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a status or a range such as \"200-299\"", StatusRange::parse)
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 == self.1 {
            true => serializer.serialize_u16(self.0),
            false => serializer.collect_str(&format_args!("{}-{}", self.0, self.1)),
        }
    }
}

/// In the form it was most likely written in.
impl Serialize for ExpectedStatuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let [(low, high)] = self.0[..] {
            return StatusRange(low, high).serialize(serializer);
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        for (low, high) in &self.0 {
            list.serialize_element(&StatusRange(*low, *high))?;
        }
        list.end()
    }
}

impl JsonSchema for ExpectedStatuses {
    fn schema_name() -> Cow<'static, str> {
        "ExpectedStatuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let range = json_schema!({"type": ["integer", "string"], "minimum": 100, "maximum": 599});
        let description = "A status, a range or several: `200`, `200-299`, `[200, 204, 300-399]`.";
        json_schema!({"description": description, "anyOf": [range, {"type": "array", "items": range, "minItems": 1}]})
    }
}

/// Networks such as `10.0.0.0/8`; a bare address is a network of its own.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let networks = Vec::<Network>::deserialize(deserializer)?;
    Ok(networks.into_iter().map(|network| network.0).collect())
}

/// The same, and `unix` for those who come over a Unix socket.
pub(crate) fn proxies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let proxies = Vec::<Proxy>::deserialize(deserializer)?;
    Ok(proxies.into_iter().map(|proxy| proxy.0).collect())
}

struct Proxy(IpNet);

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a network, such as \"10.0.0.0/8\", or \"unix\"", |given| match given {
            // Its clients have the unspecified address, which nobody has on a network.
            Given::Text("unix") => Ok(Proxy(IpNet::from(IpAddr::from([0; 16])))),
            given => network(given).map(Proxy),
        })
    }
}

fn network(given: Given<'_>) -> Result<IpNet, String> {
    let (Given::Text(text) | Given::Number(text)) = given;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("{given} is not a network (try {})", near_network(text)))
}

/// `10.0.*.*` and `10.0.0.0/255.0.0.0` as they would be written.
fn near_network(text: &str) -> String {
    const EXAMPLE: &str = "\"10.0.0.0/8\"";
    match text.to_ascii_lowercase().as_str() {
        "all" | "any" | "everybody" | "everyone" | "*" => return "\"0.0.0.0/0\" and \"::/0\"".to_owned(),
        "localhost" | "loopback" => return "\"127.0.0.0/8\" and \"::1\"".to_owned(),
        _ => {}
    }
    let stars = text.matches(".*").count() as u8;
    let octets = text.replace(".*", ".0");
    match octets.parse::<std::net::Ipv4Addr>() {
        Ok(address) if (1..=3).contains(&stars) => return format!("\"{address}/{}\"", 32 - 8 * stars),
        _ => {}
    }
    let masked = text.split_once('/').and_then(|(address, mask)| {
        let address = address.parse::<std::net::Ipv4Addr>().ok()?;
        IpNet::with_netmask(address.into(), mask.parse::<std::net::Ipv4Addr>().ok()?.into()).ok()
    });
    masked.map_or(EXAMPLE.to_owned(), |network| format!("\"{network}\""))
}

struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, "a network, such as \"10.0.0.0/8\"", |given| network(given).map(Network))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn short_and_long_forms_mean_the_same() {
        let path = |value| from_value::<PathMatch>(value).unwrap();
        assert_eq!(path(json!("/a")), path(json!({"prefix": "/a"})));
        let value = |value| from_value::<ValueMatch>(value).unwrap();
        assert_eq!(value(json!("a")), value(json!({"exact": "a"})));
        let endpoint = |value| from_value::<Endpoint>(value).unwrap();
        assert_eq!(endpoint(json!("a:1")), endpoint(json!({"address": "a:1", "weight": 1})));
        let registered =
            endpoint(json!({"registry": "users", "tags": [], "metadata": {}, "keep_last": "10m"}));
        assert_eq!(endpoint(json!({"registry": "users"})), registered);
        assert_eq!(from_value::<Admin>(json!(true)).unwrap(), from_value::<Admin>(json!({})).unwrap());
        assert_eq!(from_value::<Admin>(json!(false)).unwrap(), Admin::Off(false));
    }

    #[test]
    fn every_form_can_be_read_back() {
        for statuses in [json!(200), json!("200-299"), json!([200, "300-399"])] {
            let read: ExpectedStatuses = from_value(statuses.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), statuses);
        }
        for endpoint in [
            json!({"address": "a:1", "weight": 2}),
            json!({"registry": "users", "tags": ["v2"], "metadata": {"a": "b"}, "weight": 1, "keep_last": "10m"}),
        ] {
            let read: Endpoint = from_value(endpoint.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), endpoint);
        }
        for path in [json!({"exact": "/"}), json!({"regex": "^/a"}), json!({"template": "/{id}"})] {
            let read: PathMatch = from_value(path.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), path);
        }
    }

    #[test]
    fn refuses_forms_that_say_two_things_or_none() {
        assert!(from_value::<PathMatch>(json!({"exact": "/", "prefix": "/"})).is_err());
        assert!(from_value::<ValueMatch>(json!({})).is_err());
        assert!(from_value::<Endpoint>(json!({"address": "a:1", "registry": "a"})).is_err());
        assert!(from_value::<Endpoint>(json!({"address": "a:1", "tags": []})).is_err());
        assert!(from_value::<Endpoint>(json!({"weight": 1})).is_err());
        assert!(from_value::<FilterUse>(json!({"cors": null, "max_age": 1})).is_err());
        assert!(from_value::<FilterUse>(json!({})).is_err());
        assert!(from_value::<FilterUse>(json!({"when": {"path": "/"}})).is_err());
        assert!(from_value::<FilterUse>(json!({"cors": null, "when": {}, "unless": {}})).is_ok());
        for wrong in [json!(99), json!(600), json!("300-200"), json!("2x"), json!([])] {
            assert!(from_value::<ExpectedStatuses>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bare_address_is_a_network() {
        let read = networks(json!(["10.0.0.0/8", "::1"])).unwrap();
        assert_eq!(read, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()]);
        assert!(networks(json!(["10.0.0.0/33"])).is_err());
        assert!(networks(json!(["unix"])).is_err());
        assert_eq!(proxies(json!(["unix", "10.0.0.1"])).unwrap()[0], "::/128".parse::<IpNet>().unwrap());
    }
}
