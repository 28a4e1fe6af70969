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

    /// Whether another try would go to whoever stands in, as nobody is left here, and an endpoint may be used there that is none of
    /// those `tried`, nor the present one (by their ids).
    pub fn leaves_to_others(&self, tried: &[u64], present: Option<u64>, now: Instant) -> bool {
        self.then.as_ref().is_some_and(|then| {
            self.upstream.is_out(now)
                && (then.upstream.has_others(tried, present, now)
                    || then.leaves_to_others(tried, present, now))
        })
    }

    /// Whether another try would go to whoever stands in if this endpoint could not be reached.
    pub fn leaves_without(&self, endpoint: u64, now: Instant) -> bool {
        self.then.as_ref().is_some_and(|then| self.upstream.is_out_without(endpoint, now) && then.admits(now))
    }
}
