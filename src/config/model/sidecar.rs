//! `mode: sidecar` and connections that iptables has redirected here. A sidecar says in a few lines what the listeners,
//! routes and upstreams of a gateway would say; what they are is made of it when the configuration is compiled.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::config::model::{
    health_check::HealthCheck, listener::Limits, route::FilterUse, tls::ListenerTls, units::HumanDuration,
    upstream::UpstreamProtocol,
};

/// What two sidecars agree on by ALPN (RFC 7301) for a connection that is not HTTP.
pub const TUNNEL_PROTOCOL: &[u8] = b"tidegate-tunnel/1";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Gateway,
    /// Beside one application, as `sidecar` says: it speaks mTLS for it, in both directions.
    Sidecar,
}

/// With `mode: sidecar`: at least one direction.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sidecar {
    /// From others to the application. Makes a listener, a route and an upstream, all named `inbound`.
    pub inbound: Option<SidecarInbound>,
    /// From the application to others. Makes a listener `outbound`, and for each upstream a route for the host of
    /// that name.
    pub outbound: Option<SidecarOutbound>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SidecarInbound {
    /// Where others reach this sidecar: one address, or a list.
    pub address: Addresses,
    /// Where the application listens, as `ip:port`. Default, with `original_destination`: where the connection was meant
    /// to go.
    pub app: Option<String>,
    /// What the application speaks.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// As of a route: calls of gRPC to the application may be streams without end. Default: with `protocol: grpc`.
    pub grpc_streams: Option<bool>,
    /// The SPIFFE IDs that are let in; `spiffe://mesh.local/team/*` is all below. Where more than the ID counts, leave it
    /// out and write an `authz` filter.
    pub allow: Option<Vec<String>>,
    /// Ports of the application that other sidecars reach by a tunnel, for what is not HTTP. Default: all, and none where
    /// `filters` or `routes` keep somebody out, since filters see HTTP alone.
    pub tunnel_ports: Option<Vec<u16>>,
    /// Default: our SVID is shown, and one of the mesh is required.
    pub tls: Option<ListenerTls>,
    /// iptables redirects connections here: `true`, or how they are served.
    pub original_destination: Option<OriginalDestination>,
    /// What callers may take.
    #[serde(default)]
    pub limits: Limits,
    /// Run for every request, after `allow`.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// Names of the routes served here, and by `outbound` no more. Default: everything goes to the application.
    pub routes: Option<Vec<String>>,
    /// How the application is asked for its health. Default: a connection is tried where it is registered, and else nothing.
    pub health_check: Option<HealthCheck>,
    /// The sidecar itself answers GET with 200 at this path, such as `/health`, to callers that `allow` lets in. Default: the path is the
    /// application's.
    pub health: Option<String>,
    /// Announce the application to the control plane, as the service that our SPIFFE ID names, at the first of these addresses.
    #[serde(default)]
    pub register: bool,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SidecarOutbound {
    /// Where the application reaches this sidecar: one address, or a list. Loopback keeps others out.
    pub address: Addresses,
    /// iptables redirects connections here: `true`, or how they are served.
    pub original_destination: Option<OriginalDestination>,
    /// What the application may take.
    #[serde(default)]
    pub limits: Limits,
    /// As of a route: calls of gRPC from the application may be streams without end. Default: to upstreams with
    /// `protocol: grpc`.
    pub grpc_streams: Option<bool>,
    /// Run before each route's own.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// The sidecar itself answers GET with 200 at this path, such as `/health`, where the host is `localhost` or its own address. Default:
    /// it does not.
    pub health: Option<String>,
    /// Services of the control plane's registry: each is an upstream of that name, whose endpoints must show the SPIFFE ID that
    /// the name stands for (`cart.shop` is `/shop/cart`).
    #[serde(default)]
    pub services: Vec<String>,
}

/// How a listener serves connections that iptables has redirected to it. `true` takes all defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OriginalDestination {
    /// How long the client may be silent before it is taken for one that waits for the server to speak first.
    pub detection_timeout: HumanDuration,
    /// Connections that were meant for these ports are passed on as they are, unseen.
    pub opaque_ports: Vec<u16>,
    /// What becomes of what is not for us: TLS, protocols other than HTTP, and in a sidecar HTTP to a host that names no
    /// upstream. Default: `mtls` in the `outbound` of a sidecar that has an identity, else `forward`.
    pub unknown: Option<Unknown>,
    /// What is passed on as it is, or in a tunnel, may be silent for this long.
    pub idle_timeout: HumanDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// It goes where it was meant to go, untouched.
    Forward,
    /// It goes to where it was meant to go over mTLS, and only if a sidecar of our trust domain is there. TLS goes untouched.
    Mtls,
    /// Connections are closed, requests answered with 404.
    Refuse,
}

/// One address, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses(pub Vec<String>);

#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
struct OriginalDestinationForm {
    /// How long the client may be silent before it is taken for one that waits for the server to speak first. At most
    /// 10s.
    detection_timeout: HumanDuration,
    /// Connections that were meant for these ports are passed on as they are, unseen.
    opaque_ports: Vec<u16>,
    /// What becomes of what is not for us: TLS, protocols other than HTTP, and in a sidecar HTTP to a host that names no
    /// upstream. Default: `mtls` in the `outbound` of a sidecar that has an identity, else `forward`.
    unknown: Option<Unknown>,
    /// What is passed on as it is, or in a tunnel, may be silent for this long.
    idle_timeout: HumanDuration,
}

impl Default for OriginalDestinationForm {
    fn default() -> Self {
        let OriginalDestination { detection_timeout, opaque_ports, unknown, idle_timeout } =
            OriginalDestination::default();
        OriginalDestinationForm { detection_timeout, opaque_ports, unknown, idle_timeout }
    }
}

impl Default for OriginalDestination {
    fn default() -> Self {
        // Clients that speak first do so as soon as they are connected; the others wait this much longer for each connection.
        const TIMEOUT: HumanDuration = HumanDuration::from_millis(100);
        OriginalDestination {
            detection_timeout: TIMEOUT,
            opaque_ports: Vec::new(),
            unknown: None,
            // As for a `tcp` listener.
            idle_timeout: HumanDuration::from_secs(3600),
        }
    }
}

const FORMS: &str = "`true`, or a map with `detection_timeout`, `opaque_ports`, `unknown` and `idle_timeout`";

impl<'de> Deserialize<'de> for OriginalDestination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OriginalDestinationVisitor)
    }
}

struct OriginalDestinationVisitor;

impl<'de> Visitor<'de> for OriginalDestinationVisitor {
    type Value = OriginalDestination;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMS)
    }

    fn visit_bool<E: Error>(self, on: bool) -> Result<OriginalDestination, E> {
        match on {
            true => Ok(OriginalDestination::default()),
            false => Err(E::custom(format!("expected {FORMS} (leave it out where nothing is redirected)"))),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OriginalDestination, A::Error> {
        let OriginalDestinationForm { detection_timeout, opaque_ports, unknown, idle_timeout } =
            OriginalDestinationForm::deserialize(MapAccessDeserializer::new(map))?;
        Ok(OriginalDestination { detection_timeout, opaque_ports, unknown, idle_timeout })
    }
}

impl JsonSchema for OriginalDestination {
    fn schema_name() -> Cow<'static, str> {
        "OriginalDestination".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<OriginalDestinationForm>();
        let description =
            "How connections that iptables has redirected here are served; `true` takes all defaults.";
        json_schema!({"description": description, "anyOf": [{"const": true}, map]})
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressesVisitor)
    }
}

struct AddressesVisitor;

impl<'de> Visitor<'de> for AddressesVisitor {
    type Value = Addresses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address such as \"127.0.0.1:15001\", or a list of them")
    }

    fn visit_str<E: Error>(self, address: &str) -> Result<Addresses, E> {
        Ok(Addresses(vec![address.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Addresses, A::Error> {
        let mut addresses = Vec::new();
        while let Some(address) = items.next_element()? {
            addresses.push(address);
        }
        match addresses.is_empty() {
            false => Ok(Addresses(addresses)),
            true => Err(Error::custom("an empty list listens nowhere (try \"127.0.0.1:15001\")")),
        }
    }
}

/// In the form it was most likely written in.
impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [address] => serializer.serialize_str(address),
            addresses => addresses.serialize(serializer),
        }
    }
}

impl JsonSchema for Addresses {
    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = json_schema!({"type": "string"});
        let description = "One `ip:port`, or a list of them.";
        json_schema!({"description": description, "anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn redirected_connections_are_served_by_defaults_or_as_told() {
        let read = |value| from_value::<OriginalDestination>(value);
        assert_eq!(read(json!(true)).unwrap(), OriginalDestination::default());
        assert_eq!(read(json!({})).unwrap(), OriginalDestination::default());
        let told = read(json!({"opaque_ports": [3306], "unknown": "refuse"})).unwrap();
        assert_eq!((told.opaque_ports, told.unknown), (vec![3306], Some(Unknown::Refuse)));
        assert!(read(json!(false)).is_err());
        assert!(read(json!({"opaque_port": [1]})).is_err());
    }

    #[test]
    fn addresses_are_one_or_several_and_can_be_read_back() {
        for addresses in [json!("127.0.0.1:1"), json!(["127.0.0.1:1", "[::1]:1"])] {
            let read: Addresses = from_value(addresses.clone()).unwrap();
            assert_eq!(to_value(read).unwrap(), addresses);
        }
        assert!(from_value::<Addresses>(json!([])).is_err());
    }
}
