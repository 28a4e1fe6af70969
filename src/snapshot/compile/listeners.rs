//! Listeners: addresses, limits, and which routes a listener serves.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{super::Captured, Compiler, Limits, PlannedListener};
use crate::{
    config::{self, Path, Protocol},
    policy::address_block::Ipv6Prefix,
    route::{Rule, Table},
    snapshot::connection_rate,
    tls::Speaks,
};

impl Compiler<'_> {
    pub(super) fn listeners(&mut self, rules: &[Rule]) -> Vec<PlannedListener> {
        // Routes of two listeners never meet: which of them could match first is asked for each listener.
        let serves_all =
            |listener: &config::Listener| listener.protocol == Protocol::Http && listener.routes.is_none();
        let whole = match self.config.listeners.iter().any(serves_all) || self.config.listeners.is_empty() {
            true => self.table(self.written_rules(rules)),
            false => Arc::default(),
        };
        let mut planned: Vec<PlannedListener> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut taken: HashMap<String, String> = HashMap::new();
        let is_admin_known = !self.sources.is_doubtful(&Path::root().key("admin").key("address"));
        if let config::Admin::On(admin) = &self.config.admin
            && is_admin_known
        {
            taken.insert(admin.address.clone(), "admin".to_owned());
        }
        let control_at = Path::root().key("control").key("serve").key("address");
        if let Some(control) = self.config.serves_control()
            && !self.sources.is_doubtful(&control_at)
        {
            self.control_beside_admin(control, &control_at);
            taken.insert(control.address.clone(), "control.serve".to_owned());
        }
        let addresses = self.config.listeners.iter();
        let ours: Arc<[SocketAddr]> =
            addresses.filter_map(|listener| listen_address(&listener.address).ok()).collect();
        for (index, listener) in self.config.listeners.iter().enumerate() {
            let at = self.generated.listener_place(index);
            let name = listener.name.clone().unwrap_or_else(|| listener.address.clone());
            let is_name_known = listener.name.is_some() || !self.sources.is_doubtful(&at.key("name"));
            if let Some(first) = names.get(&name).filter(|_| is_name_known) {
                let first = self.sources.problem(&self.generated.listener_place(*first), "").place();
                self.refuse_with_hint(
                    &at,
                    format!("a listener named `{name}` exists already"),
                    format!("the first is at {first}; names are unique"),
                );
            }
            if is_name_known {
                names.entry(name.clone()).or_insert(index);
            }
            let key = self.listener_key(listener, &name, &at.key("address"), &mut taken);
            self.limits(&listener.limits, &at.key("limits"));
            let speaks = match listener.protocol {
                Protocol::Http if self.takes_tunnels(index) => Speaks::Mesh,
                Protocol::Http => Speaks::Http,
                Protocol::Tcp | Protocol::TlsPassthrough => Speaks::Anything,
            };
            let tls = listener.tls.as_ref().and_then(|tls| {
                let hosts = self.hosts_of(listener);
                self.tls(tls, speaks, &hosts, &at.key("tls"))
            });
            let chain = self.listener_chain(index, listener, &name, &at);
            let tunnels = self.tunnels(index, listener, &chain);
            self.carrying(listener, &name, &at);
            let passthrough = self.passthrough(listener, &name, &at);
            let introduced_by = self.introduced_by(listener, &at);
            let mode = self.mode(listener, &at);
            if let Some(settings) = &listener.original_destination {
                let at = at.key("original_destination");
                self.original_destination(settings, listener, &at);
                self.reaches_sidecars(index, settings, &at);
                self.guarded(settings, listener, &chain, &at);
            }
            let table = match (self.sidecar_table(index, rules), &listener.routes) {
                _ if listener.protocol != Protocol::Http => Arc::default(),
                (Some(table), _) => table,
                (None, None) => whole.clone(),
                (None, Some(names)) => self.part(names, rules, &at.key("routes")),
            };
            let usual_body_size = match self.generated.direction(index) {
                Some(_) => Limits::ENDLESS,
                None => Limits::BODY_SIZE,
            };
            let limits = Limits::of(&listener.limits, listener.protocol, usual_body_size);
            planned.push(PlannedListener {
                key,
                name: name.into(),
                protocol: listener.protocol,
                upstream: listener.upstream.clone(),
                address: listener.address.clone(),
                mode,
                introduced_by,
                passthrough,
                limits,
                encoded_slashes: self.encoded_slashes(listener),
                half_close: listener.half_close,
                error_pages: self.error_pages(&listener.error_pages, &at),
                tls,
                chain,
                table,
                original_destination: listener
                    .original_destination
                    .as_ref()
                    .map(|settings| Captured::new(settings, ours.clone())),
                tunnels,
            });
        }
        let needs_none = self.is_waiting || self.config.serves_control().is_some();
        if planned.is_empty() && !needs_none && !self.sources.is_doubtful(&Path::root().key("listeners")) {
            let hint = "add `listeners: [{address: 127.0.0.1:8000}]`";
            self.refuse_with_hint(&Path::root(), "no listeners, so nothing would be served", hint);
        }
        planned
    }

    fn listener_key(
        &mut self,
        listener: &config::Listener,
        name: &str,
        at: &Path,
        taken: &mut HashMap<String, String>,
    ) -> String {
        let key = match config::unix_path(&listener.address) {
            // In one spelling.
            Some(Ok(path)) => format!("unix:{}", path.display()),
            _ => listener.address.clone(),
        };
        match listen_address(&listener.address) {
            _ if matches!(config::systemd_name(&listener.address), Some(Ok(_))) => {
                self.bound_once(listener, key.clone(), name, at, taken);
            }
            _ if key.starts_with("unix:/") => self.bound_once(listener, key.clone(), name, at, taken),
            Err(message) => self.refuse(at, message),
            // The kernel picks a free port for each: they are told apart by their names.
            Ok(address) if address.port() == 0 => return format!("name:{name}"),
            Ok(_) => self.bound_once(listener, key.clone(), name, at, taken),
        }
        key
    }

    fn bound_once(
        &mut self,
        listener: &config::Listener,
        key: String,
        name: &str,
        at: &Path,
        taken: &mut HashMap<String, String>,
    ) {
        let overlaps = |(other, _): &(&String, &String)| **other != key && overlap(other, &key);
        if let Some((address, other)) = taken.iter().find(overlaps) {
            let message = format!("{} is taken by `{other}`, which has {address}", listener.address);
            let hint = "one of them listens on every address, or give one of them another port";
            self.refuse_with_hint(at, message, hint);
        }
        if let Some(other) = taken.insert(key, name.to_owned()) {
            let hint = format!("`{other}` listens there already");
            self.refuse_with_hint(at, format!("{} is bound twice", listener.address), hint);
        }
    }

    fn limits(&mut self, limits: &config::Limits, at: &Path) {
        /// Pingora's parser takes no more.
        const MOST: u64 = 1024 * 1024 - 1;
        if limits.header_size.bytes() > MOST || limits.header_size.bytes() < 1024 {
            self.refuse(&at.key("header_size"), "header_size is from 1KiB to just under 1MiB");
        }
        self.windows(limits, at);
        for (key, timeout) in [
            ("handshake_timeout", limits.handshake_timeout),
            ("header_timeout", limits.header_timeout),
            ("body_timeout", limits.body_timeout),
            ("write_timeout", limits.write_timeout),
            ("upgraded_idle_timeout", limits.upgraded_idle_timeout),
        ] {
            self.refuse_zero(&at.key(key), timeout);
        }
        if Ipv6Prefix::new(limits.ipv6_prefix).is_none() {
            let (least, most) = (Ipv6Prefix::LEAST, Ipv6Prefix::MOST);
            let hint = "64 is one network, 128 tells all hosts apart";
            let message = format!("a prefix is from {least} to {most} bits");
            self.refuse_with_hint(&at.key("ipv6_prefix"), message, hint);
        }
        for (key, timeout) in [("idle_timeout", limits.idle_timeout), ("ping_interval", limits.ping_interval)]
        {
            if let Some(timeout) = timeout {
                self.refuse_zero(&at.key(key), timeout);
            }
        }
        for (key, rate) in [
            ("connection_rate", limits.connection_rate),
            ("connection_rate_per_ip", limits.connection_rate_per_ip),
        ] {
            if rate.is_some_and(|rate| connection_rate::limit(rate).is_err()) {
                self.refuse(&at.key(key), "a rate is at most a million a second");
            }
        }
    }

    fn windows(&mut self, limits: &config::Limits, at: &Path) {
        /// With less, a body hardly flows.
        const LEAST: u64 = 16 * 1024;
        let (stream, connection) = (limits.stream_window, limits.connection_window);
        for (key, window) in [("stream_window", stream), ("connection_window", connection)] {
            if !(LEAST..=u64::from(config::MOST_WINDOW)).contains(&window.bytes()) {
                self.refuse(&at.key(key), format!("{key} is from 16KiB to just under 2GiB"));
            }
        }
        if stream > connection {
            let hint = format!("make `connection_window` at least {stream}, or `stream_window` smaller");
            let message = "the window of a stream is larger than its connection's";
            self.refuse_with_hint(&at.key("stream_window"), message, hint);
        }
    }

    /// The table of a listener that serves only some routes.
    fn part(&mut self, names: &[String], rules: &[Rule], at: &Path) -> Arc<Table> {
        let wanted = self.ids(names, at);
        self.table(rules.iter().filter(|rule| wanted.contains(&rule.id)).cloned().collect())
    }

    /// The routes of these names.
    pub(super) fn ids(&mut self, names: &[String], at: &Path) -> BTreeSet<usize> {
        let mut wanted = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            match self.route_names.ids.get(name.as_str()) {
                Some(id) => drop(wanted.insert(*id)),
                None if self.route_names.may_lack => {}
                None => {
                    let near = self.near(name, self.route_names.ids.keys().map(|name| &**name));
                    let hint = near.map_or("routes are named by `name`".to_owned(), |near| {
                        format!("did you mean `{near}`?")
                    });
                    self.refuse_with_hint(&at.index(index), format!("route `{name}` does not exist"), hint);
                }
            }
        }
        wanted
    }
}

impl<'a> Compiler<'a> {
    /// The hosts of the routes that a listener serves, as they are written.
    fn hosts_of(&self, listener: &config::Listener) -> Vec<&'a str> {
        let config = self.config;
        if listener.protocol != Protocol::Http {
            return Vec::new();
        }
        let routes: Vec<&config::Route> = match &listener.routes {
            None => config.routes.iter().collect(),
            Some(names) => {
                let ids = names.iter().filter_map(|name| self.route_names.ids.get(name.as_str()));
                ids.filter_map(|id| config.routes.get(*id)).collect()
            }
        };
        routes.into_iter().flat_map(|route| route.matching.hosts.iter().map(String::as_str)).collect()
    }
}

/// `ip:port`, or `:port` for every address.
pub(super) fn listen_address(address: &str) -> Result<SocketAddr, String> {
    if let Some(Err(why)) = config::unix_path(address) {
        return Err(why);
    }
    match config::systemd_name(address) {
        Some(Err(why)) => return Err(why),
        Some(Ok(_)) => {
            return Err(format!(
                "only listeners take sockets of systemd, and {address:?} is one (try \"127.0.0.1:8000\")"
            ));
        }
        None => {}
    }
    let shown = |hint: &str| Err(format!("{address:?} is not an address to listen on ({hint})"));
    let full = if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() };
    match full.parse() {
        Ok(address) => Ok(address),
        Err(_) => match meant(address) {
            Some(meant) => shown(&format!("an IP address and a port: try {meant:?}")),
            None => shown("an IP address and a port, such as \"127.0.0.1:8000\" or \":8000\""),
        },
    }
}

/// What was likely meant by an address that is none.
fn meant(address: &str) -> Option<String> {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest).trim_end_matches('/');
    if bare.parse::<u16>().is_ok() {
        return Some(format!(":{bare}"));
    }
    if let Ok(ip) = bare.parse::<std::net::Ipv4Addr>() {
        return Some(format!("{ip}:8000"));
    }
    let (host, port) = bare.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    match host {
        "localhost" => Some(format!("127.0.0.1:{port}")),
        _ if host.parse::<std::net::Ipv4Addr>().is_ok() => Some(format!("{host}:{port}")),
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => Some(format!("[{host}]:{port}")),
        // A name, or a star, for those that come by it.
        _ => Some(format!(":{port}")),
    }
}

/// Whether the kernel lets only one of them be listened on: every address and one of them, at the same port.
fn overlap(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (listen_address(one), listen_address(other)) else { return false };
    // `[::]` takes IPv4 as well.
    let all =
        |all: SocketAddr, other: SocketAddr| all.ip().is_unspecified() && (all.is_ipv6() || other.is_ipv4());
    one.port() != 0 && one.port() == other.port() && (all(one, other) || all(other, one))
}
