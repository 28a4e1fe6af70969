//! Upstreams: built as they will run, without what runs in the background.

use std::sync::Arc;

use super::Compiler;
use crate::{
    config::{self, Path, Sources},
    names::SystemResolver,
    upstream::{self, Upstream},
};

impl Compiler<'_> {
    pub(super) fn upstreams(&mut self) {
        // Builds each upstream without its background tasks: what cannot work is refused by the code that runs it.
        let offline = upstream::Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        for (name, upstream) in &self.config.upstreams {
            if let Some(at) = self.generated.upstream_place(name) {
                self.generated_upstream(name, upstream, &at, &offline);
                continue;
            }
            let at = Path::root().key("upstreams").key(name);
            self.check_original_destination(upstream, &at);
            let has_endpoints = !upstream.endpoints.is_empty() || upstream.original_destination;
            // Written beside the name in place of below it.
            let is_beside = self.sources.left_out(&Path::root().key("upstreams")).contains(&"endpoints");
            if !has_endpoints && !is_beside && !self.sources.is_doubtful(&at.key("endpoints")) {
                self.refuse_with_hint(&at, "no endpoints", "add `endpoints: [127.0.0.1:3000]`");
            }
            self.upstream_tls(upstream, &at);
            self.registry_endpoints(upstream, &at);
            let upstream = &with_full_paths(upstream, self.sources, &at);
            if let Err(refusals) = Upstream::new(name, upstream, &offline, None) {
                for refusal in refusals {
                    self.refuse_unless_doubtful(&below(&at, &refusal.path), refusal.why);
                }
            }
            for (key, timeout) in [
                ("connect_timeout", upstream.connect_timeout),
                ("read_timeout", upstream.read_timeout),
                ("write_timeout", upstream.write_timeout),
            ] {
                self.refuse_zero(&at.key(key), timeout);
            }
            self.affinity(upstream, &at);
            self.guards(upstream, &at);
            self.stand_in(name, upstream, &at);
            if let Some(check) = &upstream.health_check {
                self.refuse_zero(&at.key("health_check").key("interval"), check.interval);
                self.refuse_zero(&at.key("health_check").key("timeout"), check.timeout);
            }
        }
    }

    /// One that the sidecar made: all that can be wrong with it is what the operator chose.
    fn generated_upstream(
        &mut self,
        name: &str,
        upstream: &config::Upstream,
        at: &Path,
        offline: &upstream::Live,
    ) {
        if upstream.protocol == config::UpstreamProtocol::Auto && !upstream.original_destination {
            let hint = "set `protocol: http1` or `http2`";
            let message = "`auto` is negotiated over TLS, which the application does not speak";
            self.refuse_with_hint(&at.key("protocol"), message, hint);
        }
        if upstream.endpoints.iter().any(config::Endpoint::is_registered) {
            self.registered_upstream(upstream, at);
        }
        for refusal in Upstream::new(name, upstream, offline, None).err().into_iter().flatten() {
            self.refuse_unless_doubtful(at, refusal.why);
        }
    }

    /// A service of the sidecar's: it cannot go without what it is found and verified by.
    fn registered_upstream(&mut self, upstream: &config::Upstream, at: &Path) {
        let is_there = self.config.control.as_ref().is_some_and(|control| control.has_registry());
        if !is_there && !self.sources.is_doubtful(&Path::root().key("control")) {
            let hint = "add `control: {join: {servers: [\"control:9902\"]}}`";
            self.refuse_with_hint(at, "there is no control plane to ask", hint);
        }
        if upstream.tls.is_none() && !self.sources.is_doubtful(&Path::root().key("identity")) {
            let message = "its instances prove who they are to an identity, of which there is none";
            self.refuse_with_hint(at, message, "add `identity` at the top level");
        }
    }

    /// Somebody has to say who is registered.
    fn registry_endpoints(&mut self, upstream: &config::Upstream, at: &Path) {
        let is_there = self.config.control.as_ref().is_some_and(|control| control.has_registry());
        if is_there || self.sources.is_doubtful(&Path::root().key("control")) {
            return;
        }
        if let Some(index) = upstream.endpoints.iter().position(config::Endpoint::is_registered) {
            let hint = "add `control: {join: {servers: [\"control:9902\"]}}`, or list addresses";
            let at = at.key("endpoints").index(index).key("registry");
            self.refuse_with_hint(&at, "there is no control plane to ask", hint);
        }
    }

    /// Where a connection was meant to go is one place: what is said of choosing among several does nothing there.
    fn check_original_destination(&mut self, upstream: &config::Upstream, at: &Path) {
        if !upstream.original_destination {
            return;
        }
        for (key, is_given) in [
            ("endpoints", !upstream.endpoints.is_empty()),
            ("health_check", upstream.health_check.is_some()),
            ("outlier", matches!(upstream.outlier, Some(config::OutlierRule::On(_)))),
            ("circuit_breaker", upstream.circuit_breaker.is_some()),
            ("slow_start", upstream.slow_start.is_some()),
            ("then", upstream.then.is_some()),
            ("concurrency", upstream.learnt_limit().is_some()),
            ("tls", upstream.tls.is_some()),
        ] {
            if is_given {
                let message = format!("`{key}` goes with no `original_destination`");
                self.refuse_with_hint(&at.key(key), message, "remove one of the two");
            }
        }
    }
}

/// Relative paths are relative to the file they stand in.
pub(super) fn with_full_paths(upstream: &config::Upstream, sources: &Sources, at: &Path) -> config::Upstream {
    let mut upstream = upstream.clone();
    if let Some(file) = upstream.tls.as_mut().and_then(|tls| tls.verify.ca.as_mut()) {
        *file = sources.full_path(&at.key("tls").key("verify").key("ca"), &*file);
    }
    if let Some(files) = upstream.tls.as_mut().and_then(|tls| tls.client_cert.as_mut()) {
        let at = at.key("tls").key("client_cert");
        files.cert = sources.full_path(&at.key("cert"), &files.cert);
        files.key = sources.full_path(&at.key("key"), &files.key);
    }
    upstream
}

/// `at` extended by a relative path such as `endpoints[2].address`.
pub(super) fn below(at: &Path, relative: &str) -> Path {
    let mut path = at.clone();
    for part in relative.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        path = path.key(pieces.next().unwrap_or_default());
        for index in pieces {
            path = path.index(index.trim_end_matches(']').parse().unwrap_or(0));
        }
    }
    path
}
