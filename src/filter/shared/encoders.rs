//! How many responses are encoded at once, in the whole process: each is memory that a client which does not read keeps.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::observe::metrics::ResourceMetrics;

pub(crate) struct Encoders {
    most: AtomicUsize,
    active: AtomicUsize,
    metrics: ResourceMetrics,
}

/// A place among those that are encoded, until dropped.
pub(crate) struct Place(Arc<Encoders>);

impl Encoders {
    /// Without a bound, until one is set.
    pub(crate) fn new(metrics: ResourceMetrics) -> Arc<Encoders> {
        Arc::new(Encoders { most: AtomicUsize::new(usize::MAX), active: AtomicUsize::new(0), metrics })
    }

    pub(crate) fn set_most(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// `None` where all are at work.
    pub(crate) fn enter(self: &Arc<Encoders>) -> Option<Place> {
        let active = self.active.fetch_add(1, Relaxed) + 1;
        let place = Place(self.clone());
        if active > self.most.load(Relaxed) {
            self.metrics.unencoded();
            return None;
        }
        self.metrics.encoders(active);
        Some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.active.fetch_sub(1, Relaxed);
        self.0.metrics.encoders(before - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Live;

    #[test]
    fn there_are_no_more_than_may_be_and_a_place_is_given_back() {
        let encoders = Encoders::new(Live::offline().metrics().resources().clone());
        encoders.set_most(2);
        let (one, two) = (encoders.enter(), encoders.enter());
        assert!(one.is_some() && two.is_some() && encoders.enter().is_none());
        drop(one);
        assert!(encoders.enter().is_some());
    }
}
