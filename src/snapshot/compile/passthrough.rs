//! What of a listener is decided before anything is spoken on its connections: where the names in TLS lead, who
//! introduces clients, and who may connect to a socket's file.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::Compiler;
use crate::{
    config::{self, AcceptProxy, Listener, Path, Protocol, SniTarget},
    route::HostPattern,
    snapshot::{
        Passthrough,
        sni::{Names, Passed},
    },
};

/// Everything else. On a port that terminates too there would be nothing left to terminate.
const OTHERS: &str = "*";

impl Compiler<'_> {
    /// `None` where nothing passes through.
    pub(super) fn passthrough(
        &mut self,
        listener: &Listener,
        name: &str,
        at: &Path,
    ) -> Option<Passthrough<String>> {
        let entries_at = at.key("sni");
        let Some(entries) = listener.sni.as_ref().filter(|entries| !entries.is_empty()) else {
            let is_missing = listener.protocol == Protocol::TlsPassthrough;
            if is_missing
                && !self.sources.is_doubtful(&entries_at)
                && !self.sources.is_doubtful(&at.key("protocol"))
            {
                let hint = "add `sni: {\"db.example.com\": UPSTREAM}`";
                self.refuse_with_hint(at, "no names, so nothing would be passed through", hint);
            }
            return None;
        };
        let terminates = listener.protocol == Protocol::Http;
        // TLS ends here, and the name says where what is in it goes.
        let ends_tls = listener.protocol == Protocol::Tcp;
        if (terminates || ends_tls) && listener.tls.is_none() && !self.sources.is_doubtful(&at.key("tls")) {
            let hint = match ends_tls {
                true => "use `protocol: tls_passthrough`, or add `tls` to end TLS here",
                false => {
                    "use `protocol: tls_passthrough`, or add `tls` for the names that are not passed through"
                }
            };
            self.refuse_with_hint(&entries_at, "without TLS no client names a server", hint);
        }
        if listener.original_destination.is_some() {
            let hint = "remove one of the two: redirected TLS is passed on as it is";
            self.refuse_with_hint(&entries_at, "goes with no `original_destination`", hint);
        }
        let mut seen = HashSet::new();
        let mut planned = Vec::new();
        for (pattern, target) in entries {
            let at = entries_at.key(pattern);
            let names = match names(pattern) {
                Ok(Names::Others) if terminates => {
                    let hint = "leave it out: what no name is for is terminated here";
                    self.refuse_with_hint(&at, "would leave nothing to terminate", hint);
                    continue;
                }
                Ok(names) => names,
                Err(message) => {
                    self.refuse(&at, message);
                    continue;
                }
            };
            if !seen.insert(names.clone()) {
                self.refuse(&at, format!("{pattern:?} is named twice, in another spelling"));
            }
            let who = format!("listener `{name}`");
            let passed = match target {
                SniTarget::Upstream(upstream) if ends_tls => {
                    self.carried_to(upstream, &who, &at);
                    Passed::to(upstream)
                }
                SniTarget::ByProtocol(_) if ends_tls => {
                    let hint = "name one upstream, or use `protocol: tls_passthrough`";
                    self.refuse_with_hint(
                        &at,
                        "where TLS ends here no application protocol is agreed on",
                        hint,
                    );
                    continue;
                }
                target => self.passed(target, &who, &at),
            };
            planned.push((names, passed));
        }
        if let Some(upstream) = listener.upstream.as_ref().filter(|_| ends_tls) {
            if seen.contains(&Names::Others) {
                let hint = "remove one of the two";
                self.refuse_with_hint(&entries_at.key(OTHERS), "`upstream` is for all other names", hint);
            }
            planned.push((Names::Others, Passed::to(upstream)));
        }
        let mut passthrough: Passthrough<String> = planned.into_iter().collect();
        passthrough.ends_tls = ends_tls;
        Some(passthrough)
    }

    fn passed(&mut self, target: &SniTarget, who: &str, at: &Path) -> Passed<String> {
        match target {
            SniTarget::Upstream(upstream) => {
                self.passed_to(upstream, who, at);
                Passed::to(upstream)
            }
            SniTarget::ByProtocol(choice) => {
                if choice.alpn.is_empty() && !self.sources.is_doubtful(&at.key("alpn")) {
                    let hint = "name an upstream for each, such as `{h2: grpc, http/1.1: web}`";
                    self.refuse_with_hint(&at.key("alpn"), "no protocols to choose by", hint);
                }
                for (protocol, upstream) in &choice.alpn {
                    let at = at.key("alpn").key(protocol);
                    if protocol.is_empty() || protocol.len() > 255 {
                        self.refuse(&at, "the name of a protocol has 1 to 255 bytes (RFC 7301)");
                    }
                    self.passed_to(upstream, who, &at);
                }
                if let Some(upstream) = &choice.default {
                    self.passed_to(upstream, who, &at.key("default"));
                }
                let by_protocol = choice.alpn.iter();
                Passed {
                    by_protocol: by_protocol.map(|(p, up)| (p.as_bytes().into(), up.clone())).collect(),
                    default: choice.default.clone(),
                }
            }
        }
    }

    fn passed_to(&mut self, upstream: &str, who: &str, at: &Path) {
        self.carried_to(upstream, who, at);
        if self.config.upstreams.get(upstream).is_some_and(|upstream| upstream.tls.is_some()) {
            let hint = "remove its `tls`, or give this name an upstream of its own";
            let message = format!(
                "upstream `{upstream}` is spoken to in TLS of our own, and the client's passes through"
            );
            self.refuse_with_hint(at, message, hint);
        }
    }

    /// Whose PROXY headers are believed; `None` where there are none.
    pub(super) fn introduced_by(&mut self, listener: &Listener, at: &Path) -> Option<Arc<[IpNet]>> {
        if listener.proxy_protocol == AcceptProxy::Off {
            return None;
        }
        if listener.original_destination.is_some() {
            let hint = "remove one of the two: clients that are redirected know nothing of it";
            self.refuse_with_hint(&at.key("proxy_protocol"), "goes with no `original_destination`", hint);
        }
        // The permissions of the file say who may connect to it; there are no addresses to tell them by.
        if config::unix_path(&listener.address).is_some() {
            return Some([IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED))].into());
        }
        let trusted = &self.config.trusted_proxies;
        if trusted.is_empty() && !self.sources.is_doubtful(&Path::root().key("trusted_proxies")) {
            let hint = "add `trusted_proxies: [10.0.0.0/8]`, with the addresses of those in front";
            let message = "nobody's PROXY header is believed, so every connection would be closed";
            self.refuse_with_hint(&at.key("proxy_protocol"), message, hint);
        }
        Some(trusted.as_slice().into())
    }

    /// The permissions of a listener's file, where it has one.
    pub(super) fn mode(&mut self, listener: &Listener, at: &Path) -> u32 {
        let is_unix = config::unix_path(&listener.address).is_some();
        if listener.mode.is_some() && !is_unix && !self.sources.is_doubtful(&at.key("address")) {
            let hint = "remove it, or listen on `unix:/run/app.sock`";
            self.refuse_with_hint(&at.key("mode"), "only a Unix socket has permissions", hint);
        }
        if is_unix && listener.original_destination.is_some() {
            let message = "nothing is redirected to a Unix socket";
            self.refuse_with_hint(&at.key("original_destination"), message, "remove it");
        }
        listener.mode.unwrap_or_default().bits()
    }
}

fn names(pattern: &str) -> Result<Names, String> {
    if pattern == OTHERS {
        return Ok(Names::Others);
    }
    // In the one spelling in which names are compared.
    let pattern = HostPattern::parse(pattern).map_err(|error| error.to_string())?.to_string();
    Ok(match pattern.strip_prefix("*.") {
        Some(suffix) => Names::Below(suffix.into()),
        None => Names::Exact(pattern.into()),
    })
}
