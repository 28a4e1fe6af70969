//! A rate of which no client has more than half, so that one that asks without end is in nobody's way.

use super::{
    bucket::{Bucket, Limit},
    buckets::Buckets,
};

/// Clients that are told apart.
const MOST_CLIENTS: usize = 4_096;

#[derive(Default)]
pub struct FairShare {
    all: Bucket,
    /// Made anew where the rate is another.
    by_client: Option<Buckets>,
}

impl FairShare {
    /// Whether a client, which is told apart by a digest, may have one of what the limit allows. `now` is in nanoseconds.
    pub fn takes(&mut self, limit: &Limit, client: u64, now: u64) -> bool {
        let half = limit.half();
        if self.by_client.as_ref().is_none_or(|by_client| *by_client.limit() != half) {
            self.by_client = Some(Buckets::new(half, MOST_CLIENTS));
        }
        // First: whoever has had its half takes nothing from the others.
        let own = self.by_client.as_ref().is_some_and(|by_client| by_client.decide(client, now, 1).allowed);
        own && self.all.decide(limit, now, 1).allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_without_end_leaves_half_to_the_others() {
        let (limit, now) = (Limit::per_second(10), 1_000_000_000);
        let mut share = FairShare::default();
        let taken = (0..1_000).filter(|_| share.takes(&limit, 1, now)).count();
        let others = (2..1_000).filter(|client| share.takes(&limit, *client, now)).count();
        assert_eq!((taken, others), (5, 5));
    }
}
