//! Upstreams: built as they will run, without what runs in the background.

use std::sync::Arc;

use super::Compiler;
use crate::{
    config::{self, Path, Sources},
    upstream::{self, SystemResolver, Upstream},
};

impl Compiler<'_> {
    pub(super) fn upstreams(&mut self) {
        // Builds each upstream without its background tasks: what cannot work is refused by the code that runs it.
        let offline = upstream::Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        for (name, upstream) in &self.config.upstreams {
            let at = Path::root().key("upstreams").key(name);
            if upstream.endpoints.is_empty() && !self.sources.is_doubtful(&at.key("endpoints")) {
                self.refuse_with_hint(&at, "no endpoints", "add `endpoints: [127.0.0.1:3000]`");
            }
            self.upstream_tls(upstream, &at);
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
            self.guards(upstream, &at);
            if let Some(check) = &upstream.health_check {
                self.refuse_zero(&at.key("health_check").key("interval"), check.interval);
                self.refuse_zero(&at.key("health_check").key("timeout"), check.timeout);
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
    upstream
}

/// `at` extended by a relative path such as `endpoints[2].address`.
fn below(at: &Path, relative: &str) -> Path {
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
