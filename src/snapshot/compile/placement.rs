//! What comes after an upstream: who stands in for it exists, can, and is not itself in the end.

use std::iter::successors;

use super::Compiler;
use crate::config::{self, Config, Path};

/// `name` and those that stand in for it, in their order; each once, though they may go round in a circle, which is refused.
pub(in crate::snapshot) fn stand_ins<'c>(config: &'c Config, name: &'c str) -> impl Iterator<Item = &'c str> {
    let then = |name: &&str| Some(config.upstreams.get(*name)?.then.as_ref()?.upstream.as_str());
    let mut seen = Vec::new();
    successors(Some(name), then).take_while(move |name| {
        let is_new = !seen.contains(name);
        seen.push(name);
        is_new
    })
}

impl Compiler<'_> {
    pub(super) fn stand_in(&mut self, name: &str, upstream: &config::Upstream, at: &Path) {
        let Some(then) = &upstream.then else { return };
        let at = at.key("then");
        self.upstream_exists(&format!("upstream `{name}`"), &then.upstream, &at);
        let Some(other) = self.config.upstreams.get(&then.upstream) else { return };
        if other.original_destination {
            let message = format!("upstream `{}` is where a connection was meant to go", then.upstream);
            self.refuse_with_hint(&at, message, "name an upstream with `endpoints`");
        }
        let circle: Vec<&str> = stand_ins(self.config, name).collect();
        let last = circle.last().and_then(|last| self.config.upstreams.get(*last)?.then.as_ref());
        // Told once, at the first of those in the circle.
        let is_in_circle = last.is_some_and(|back| back.upstream == name);
        if is_in_circle && circle.iter().min() == Some(&name) {
            let message = format!("upstream `{name}` stands in for itself: {} -> {name}", circle.join(" -> "));
            self.refuse_with_hint(&at, message, "take `then` off the last of them");
        }
    }
}
