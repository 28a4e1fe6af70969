//! What comes after an upstream: who stands in for it exists, can, and is not itself in the end. And which of its endpoints a route
//! wants, of which there have to be some.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
};

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

/// More of them are no help.
const MOST_TAGS: usize = 5;

fn pairs(tags: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = tags.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    pairs.join(", ")
}

impl Compiler<'_> {
    /// What a route, or a variant of its split, wants of its upstream.
    pub(super) fn subset(&mut self, name: Option<&str>, subset: &BTreeMap<String, String>, at: &Path) {
        if subset.is_empty() {
            return;
        }
        let Some(name) = name else {
            if !self.sources.is_doubtful(&at.key("upstream")) {
                let hint = "add `upstream: NAME`, or give it to the variants of the `split`";
                self.refuse_with_hint(
                    &at.key("subset"),
                    "`subset` is of an `upstream`, and there is none",
                    hint,
                );
            }
            return;
        };
        let Some(upstream) = self.config.upstreams.get(name) else { return };
        let of_upstream = Path::root().key("upstreams").key(name).key("endpoints");
        if upstream.endpoints.is_empty() && !upstream.original_destination
            || self.sources.is_doubtful(&of_upstream)
        {
            return;
        }
        // What a registry knows, only that can say.
        let may_be = |endpoint: &config::Endpoint| {
            endpoint.is_registered()
                || subset.iter().all(|(name, value)| endpoint.tags.get(name) == Some(value))
        };
        if upstream.endpoints.iter().any(may_be) {
            return;
        }
        let tags: BTreeSet<String> = upstream
            .endpoints
            .iter()
            .filter(|one| !one.tags.is_empty())
            .map(|one| pairs(&one.tags))
            .collect();
        let tags: Vec<String> = tags.into_iter().take(MOST_TAGS).collect();
        let hint = match tags.as_slice() {
            [] => format!(
                "none has tags: write `endpoints: [{{address: \"127.0.0.1:3000\", tags: {{{}}}}}]`",
                pairs(subset)
            ),
            tags => format!("there are {}", tags.join(" and ")),
        };
        self.refuse_with_hint(
            &at.key("subset"),
            format!("no endpoint of upstream `{name}` has the tags {}", pairs(subset)),
            hint,
        );
    }

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
            let message =
                format!("upstream `{name}` stands in for itself: {} -> {name}", circle.join(" -> "));
            self.refuse_with_hint(&at, message, "take `then` off the last of them");
        }
    }
}
