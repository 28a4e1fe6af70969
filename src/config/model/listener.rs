//! `listeners`: an address, what is spoken there, and its limits.

use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::model::{
    OwnPaths,
    error_pages::ErrorPages,
    proxy_protocol::AcceptProxy,
    route::FilterUse,
    short_forms::or_addresses,
    sidecar::OriginalDestination,
    sni::SniTarget,
    tls::ListenerTls,
    units::{ByteSize, HumanDuration, MinRate, Rate},
    unix::FileMode,
};

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Default: its address.
    pub name: Option<String>,
    /// `ip:port`; `:port` means every address, IPv4 and IPv6; `unix:/path` is a Unix socket, and
    /// `systemd:NAME` a socket that the service manager listens on.
    pub address: String,
    /// Who may connect to a Unix socket, by the permissions of its file. Default: "0660".
    pub mode: Option<FileMode>,
    /// `http`, `tcp` or `tls_passthrough`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Who says in front of each connection whose it is.
    #[serde(default)]
    pub proxy_protocol: AcceptProxy,
    /// Default: plain text.
    pub tls: Option<ListenerTls>,
    /// Names whose TLS is passed on as it is: exact, `*.suffix`, or `*` for all others. On a listener of HTTP with `tls` what no entry
    /// is for is terminated; on one of TCP with `tls` all is, and the name chooses the upstream.
    pub sni: Option<BTreeMap<String, SniTarget>>,
    /// iptables redirects connections here: `true`, or how they are served.
    pub original_destination: Option<OriginalDestination>,
    /// What clients may take.
    #[serde(default)]
    pub limits: Limits,
    /// How paths are normalised here.
    #[serde(default)]
    pub paths: OwnPaths,
    /// Run before each route's own.
    #[serde(default)]
    pub filters: Vec<FilterUse>,
    /// Names of the routes served here. Default: all.
    pub routes: Option<Vec<String>>,
    /// A client of HTTP/1 that says that it sends nothing more (`nc -N`, half a connection) still gets its answer. One that is
    /// gone looks the same, and is noticed only when the answer cannot be sent. Default: `false`, its request ends.
    #[serde(default)]
    pub half_close: bool,
    /// Where `protocol: tcp` carries its connections: the name of an upstream, or in its place an address or a list of them. With `sni`, those whose name has no entry.
    #[schemars(transform = or_addresses)]
    pub upstream: Option<String>,
    /// Before those of the top level, behind those of the route.
    #[serde(default)]
    pub error_pages: ErrorPages,
    /// `false`: takes nothing of the top-level `defaults`.
    pub defaults: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 by prior knowledge (h2c), on one port.
    #[default]
    Http,
    /// Bytes, both ways, to `upstream`, or to what `sni` names.
    Tcp,
    /// TLS that is not terminated, to an upstream chosen by the name the client asks for.
    TlsPassthrough,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections on this listener; one more is closed at once.
    pub connections: NonZeroUsize,
    /// Open connections from one client address. Default: no limit of its own.
    pub connections_per_ip: Option<NonZeroUsize>,
    /// New connections, such as `1000/s`; one more is closed at once. Default: no limit.
    pub connection_rate: Option<Rate>,
    /// New connections from one client address. Default: no limit.
    pub connection_rate_per_ip: Option<Rate>,
    /// IPv6 clients are counted by the first so many bits of their address, 40 to 128, here and by filters.
    pub ipv6_prefix: u8,
    /// From the opening of a connection to the end of its TLS handshake; a PROXY header before it may take as long again.
    pub handshake_timeout: HumanDuration,
    /// Request line and header fields together: 431 beyond.
    pub header_size: ByteSize,
    /// From the first byte of a request to the end of its header: 408 beyond.
    pub header_timeout: HumanDuration,
    /// Request body: 413 beyond. Default: 10MiB, and no limit on the listeners of a sidecar.
    pub body_size: Option<ByteSize>,
    /// What filters may hold back of each body to look at it as a whole: 413 or 502 beyond.
    pub filter_buffer: ByteSize,
    /// Longest pause between two reads of a request body: 408 beyond.
    pub body_timeout: HumanDuration,
    /// Longest stall while the client does not read the response.
    pub write_timeout: HumanDuration,
    /// The least rate at which a client sends a request's body, and reads the response; `off` for none. Only the time counts
    /// in which it is waited for. 408 below.
    pub min_rate: MinRate,
    /// How long a client may be waited for before `min_rate` is asked of it.
    pub min_rate_grace: HumanDuration,
    /// How long a connection may stay open without a request; of TCP, without a byte in either direction.
    /// Default: 60s, of TCP 1h.
    pub idle_timeout: Option<HumanDuration>,
    /// How long nothing may pass either way on an upgraded connection (a WebSocket).
    pub upgraded_idle_timeout: HumanDuration,
    /// HTTP/2 clients are sent a ping this often, and are gone when they have not answered it by the next. Default: none
    /// is sent.
    pub ping_interval: Option<HumanDuration>,
    /// Requests after which a connection is closed.
    pub requests_per_connection: NonZeroU32,
    /// Concurrent HTTP/2 streams per connection.
    pub streams_per_connection: NonZeroU32,
    /// What an HTTP/2 client may have under way of one request body that is read as it comes. A stream begins with 64 KiB.
    pub stream_window: ByteSize,
    /// The same of all bodies of a connection. It begins with 1 MiB, and gets the rest while all such connections hold no more
    /// than a quarter of the process's `limits.memory`.
    pub connection_window: ByteSize,
}

impl Limits {
    /// Those that only HTTP has, and whether each is what it is by default.
    pub fn of_http(&self) -> [(&'static str, bool); 14] {
        let usual = Limits::default();
        [
            ("header_size", self.header_size == usual.header_size),
            ("header_timeout", self.header_timeout == usual.header_timeout),
            ("body_size", self.body_size == usual.body_size),
            ("filter_buffer", self.filter_buffer == usual.filter_buffer),
            ("body_timeout", self.body_timeout == usual.body_timeout),
            ("ping_interval", self.ping_interval == usual.ping_interval),
            ("upgraded_idle_timeout", self.upgraded_idle_timeout == usual.upgraded_idle_timeout),
            ("min_rate", self.min_rate == usual.min_rate),
            ("min_rate_grace", self.min_rate_grace == usual.min_rate_grace),
            ("write_timeout", self.write_timeout == usual.write_timeout),
            ("requests_per_connection", self.requests_per_connection == usual.requests_per_connection),
            ("streams_per_connection", self.streams_per_connection == usual.streams_per_connection),
            ("stream_window", self.stream_window == usual.stream_window),
            ("connection_window", self.connection_window == usual.connection_window),
        ]
    }
}

/// RFC 9113, section 6.9.1.
pub const MOST_WINDOW: u32 = i32::MAX as u32;

impl Default for Limits {
    fn default() -> Self {
        const fn count(n: usize) -> NonZeroUsize {
            NonZeroUsize::new(n).unwrap()
        }
        const fn count32(n: u32) -> NonZeroU32 {
            NonZeroU32::new(n).unwrap()
        }
        Limits {
            connections: const { count(20_000) },
            connections_per_ip: None,
            connection_rate: None,
            connection_rate_per_ip: None,
            ipv6_prefix: 64,
            handshake_timeout: HumanDuration::from_secs(10),
            header_size: ByteSize::kib(64),
            header_timeout: HumanDuration::from_secs(10),
            body_size: None,
            filter_buffer: ByteSize::mib(1),
            body_timeout: HumanDuration::from_secs(60),
            write_timeout: HumanDuration::from_secs(60),
            min_rate: const { MinRate::per_second(NonZeroU64::new(240).unwrap()) },
            min_rate_grace: HumanDuration::from_secs(5),
            idle_timeout: None,
            upgraded_idle_timeout: HumanDuration::from_secs(3600),
            ping_interval: None,
            requests_per_connection: const { count32(10_000) },
            streams_per_connection: const { count32(100) },
            stream_window: ByteSize::mib(4),
            connection_window: ByteSize::mib(16),
        }
    }
}
