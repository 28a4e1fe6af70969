//! Listeners that carry connections without looking into them: what belongs to HTTP is refused there, as it would
//! silently do nothing.

use super::{Compiler, stand_ins};
use crate::config::{Balancer, HashKey, Listener, Path, Protocol, UpstreamProtocol};

impl Compiler<'_> {
    pub(super) fn carrying(&mut self, listener: &Listener, name: &str, at: &Path) {
        if self.sources.is_doubtful(&at.key("protocol")) {
            return;
        }
        match listener.protocol {
            Protocol::Http => {
                if listener.upstream.is_some() {
                    let hint = "add `protocol: tcp`, or `routes: [{upstream: NAME}]` at the top level";
                    self.refuse_with_hint(&at.key("upstream"), "HTTP goes where its routes say", hint);
                }
            }
            Protocol::TlsPassthrough => {
                self.nothing_of_http(listener, at);
                if listener.upstream.is_some() {
                    let hint = "name it under `sni`, or use `protocol: tcp`, which has one upstream";
                    self.refuse_with_hint(&at.key("upstream"), "goes by the name a client asks for", hint);
                }
                if listener.tls.is_some() {
                    let hint = "remove it, or use `protocol: http` to terminate what `sni` does not name";
                    self.refuse_with_hint(&at.key("tls"), "nothing is terminated here", hint);
                }
            }
            Protocol::Tcp => {
                self.nothing_of_http(listener, at);
                match &listener.upstream {
                    Some(upstream) => {
                        self.carried_to(upstream, &format!("listener `{name}`"), &at.key("upstream"));
                    }
                    None if self.sources.is_doubtful(&at.key("upstream")) => {}
                    // Names lead elsewhere.
                    None if listener.sni.as_ref().is_some_and(|names| !names.is_empty()) => {}
                    None if self.sources.is_doubtful(&at.key("sni")) => {}
                    None => {
                        self.refuse_with_hint(at, "a tcp listener needs an upstream", "add `upstream: NAME`")
                    }
                }
            }
        }
    }

    /// An upstream for connections that nobody looks into, and those that stand in for it.
    pub(super) fn carried_to(&mut self, name: &str, who: &str, at: &Path) {
        self.upstream_exists(who, name, at);
        let config = self.config;
        for name in stand_ins(config, name) {
            self.carries(name, at);
        }
    }

    fn carries(&mut self, name: &str, at: &Path) {
        let Some(upstream) = self.config.upstreams.get(name) else { return };
        if upstream.protocol != UpstreamProtocol::Http1 {
            let hint = "remove its `protocol`, or give this listener an upstream of its own";
            self.refuse_with_hint(at, format!("upstream `{name}` speaks HTTP/2, and this is no HTTP"), hint);
        }
        if upstream.learnt_limit().is_some() {
            let hint = "remove it or set `concurrency: off`, and limit `pool.max_connections`";
            let message = format!("upstream `{name}` learns its limit from answers, which nobody sees here");
            self.refuse_with_hint(at, message, hint);
        }
        if upstream.original_destination {
            let hint =
                "list its `endpoints`, or use `protocol: http` with `original_destination` on the listener";
            let message = format!("upstream `{name}` is where a request's connection was meant to go");
            self.refuse_with_hint(at, message, hint);
        }
        if upstream.affinity.is_some() {
            let hint = "give this listener an upstream of its own, with `balancer: {hash: client_ip}`";
            let message = format!("upstream `{name}` has `affinity`, and this is no HTTP");
            self.refuse_with_hint(at, message, hint);
        }
        if let Balancer::Hash(HashKey::Header(_) | HashKey::Cookie(_)) = &upstream.balancer {
            let hint = "use `balancer: {hash: client_ip}`";
            let message =
                format!("upstream `{name}` goes by a part of a request, which is not looked for here");
            self.refuse_with_hint(at, message, hint);
        }
    }

    fn nothing_of_http(&mut self, listener: &Listener, at: &Path) {
        let hint = "remove it, or use `protocol: http`";
        if listener.routes.is_some() {
            self.refuse_with_hint(&at.key("routes"), "only HTTP has routes", hint);
        }
        if !listener.filters.is_empty() {
            self.refuse_with_hint(&at.key("filters"), "only HTTP has filters", hint);
        }
        if !listener.error_pages.is_empty() {
            self.refuse_with_hint(&at.key("error_pages"), "only HTTP has pages", hint);
        }
        if listener.half_close {
            let hint = "remove it: here either side may always say its end first";
            self.refuse_with_hint(&at.key("half_close"), "only HTTP has half-closed clients", hint);
        }
        for (key, is_usual) in listener.limits.of_http() {
            if !is_usual {
                self.refuse_with_hint(&at.key("limits").key(key), "only HTTP has this limit", hint);
            }
        }
    }
}
