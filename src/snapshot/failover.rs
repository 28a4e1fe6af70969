//! Who stands in for a destination, and which of them a request goes to. Those that follow each other are a chain without a
//! circle, which compiling makes sure of.

use std::{iter::successors, sync::Arc, time::Instant};

use super::Destination;

impl Destination {
    /// It, then whoever stands in for it, and so on.
    pub fn chain(&self) -> impl Iterator<Item = &Destination> {
        successors(Some(self), |to| to.then.as_deref())
    }

    /// Whoever stands in that a request is to go to now; `None` where it stays. If the last of them cannot serve either, any that
    /// can is better, even one that was to rest a while longer.
    pub fn stand_in(&self, now: Instant, rng: &mut fastrand::Rng) -> Option<&Arc<Destination>> {
        let mut to = self.then.as_ref()?;
        if !self.upstream.yields(now, rng) {
            return None;
        }
        while let Some(next) = to.then.as_ref().filter(|_| to.upstream.yields(now, rng)) {
            to = next;
        }
        if to.upstream.admits(now) {
            return Some(to);
        }
        // With nowhere to go it stays as well, and is told why.
        let mut others = successors(self.then.as_ref(), |to| to.then.as_ref());
        if self.upstream.admits(now) { None } else { others.find(|to| to.upstream.admits(now)) }
    }

    /// Whether a try could begin now, here or where it would go.
    pub fn admits(&self, now: Instant) -> bool {
        self.chain().any(|to| to.upstream.admits(now))
    }

    /// Whether an endpoint may be used that is none of those `tried`, nor the present one (by their ids).
    pub fn has_others(&self, tried: &[u64], present: Option<u64>, now: Instant) -> bool {
        self.chain().any(|to| to.upstream.has_others(tried, present, now))
    }
}
