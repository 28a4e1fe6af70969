//! Which upstream a request's next try goes to, where another one may stand in for its own.

use std::time::Instant;

use super::{Attempts, RNG};

impl Attempts {
    /// Before each try. The first goes where the policy says; others leave only an upstream that has nobody left, so that a share
    /// that comes back is drawn once for each request.
    pub(crate) fn choose_stand_in(&mut self, now: Instant) {
        let Some(destination) = self.destination.as_ref().filter(|to| to.then.is_some()) else { return };
        if self.count() > 0 && !destination.upstream.is_out(now) {
            return;
        }
        let to = RNG.with_borrow_mut(|rng| destination.stand_in(now, rng)).cloned();
        if let Some(to) = to {
            (self.destination, self.admitted) = (Some(to), None);
        }
    }

    /// No try could begin at the upstream: whoever stands in for it is next, if it may serve. A place there is yet to be had.
    pub(crate) fn goes_on_to_stand_in(&mut self, now: Instant) -> bool {
        let then = self.destination.as_ref().and_then(|destination| destination.then.clone());
        let Some(then) = then.filter(|then| then.admits(now)) else { return false };
        (self.destination, self.admitted) = (Some(then), None);
        self.choose_stand_in(now);
        true
    }
}
