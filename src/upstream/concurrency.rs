//! Places at an upstream whose limit is learnt: what `policy::gradient` and `policy::priorities` decide, for one upstream.
//!
//! One lock holds both, for some additions at a time: a request takes it when it begins, when it is answered and when it gives its place back.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::endpoint::lock;
use crate::{
    config,
    policy::{
        gradient::{self, Gradient},
        priorities::Priority,
    },
};

pub struct Concurrency(Mutex<Learnt>);

struct Learnt {
    gradient: Gradient,
    in_flight: usize,
}

/// What is known at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub limit: usize,
    pub in_flight: usize,
    /// The median time of an answer while the upstream is at ease.
    pub baseline: Option<Duration>,
}

impl Concurrency {
    pub(super) fn new(settings: &config::Concurrency, now: Instant) -> Concurrency {
        let &config::Concurrency { initial, min, max, tolerance, baseline_interval } = settings;
        let settings = gradient::Settings {
            initial: initial.get(),
            min: min.get(),
            // Whoever compiles refuses anything else, after this was built.
            max: max.max(min).get(),
            tolerance: tolerance.as_f64(),
            baseline_interval: baseline_interval.into(),
        };
        let gradient = Gradient::new(settings, now);
        Concurrency(Mutex::new(Learnt { gradient, in_flight: 0 }))
    }

    /// A place, where there is one for somebody so important.
    pub(super) fn enter(self: &Arc<Self>, priority: Priority, now: Instant) -> Option<Place> {
        let mut learnt = lock(&self.0);
        let Learnt { gradient, in_flight } = &mut *learnt;
        if !priority.admits(*in_flight, gradient.limit()) {
            gradient.refused();
            return None;
        }
        *in_flight += 1;
        gradient.began(*in_flight, now);
        Some(Place(self.clone()))
    }

    /// A try was answered after `took`, or had not been by then.
    pub(super) fn answered(&self, took: Duration, is_good: bool, now: Instant) {
        lock(&self.0).gradient.answered(took, is_good, now);
    }

    pub fn level(&self) -> Level {
        let Learnt { gradient, in_flight } = &*lock(&self.0);
        Level { limit: gradient.limit(), in_flight: *in_flight, baseline: gradient.baseline() }
    }
}

/// One of the places, until dropped: when the request is answered, or has ended before.
pub(super) struct Place(Arc<Concurrency>);

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0.0).in_flight -= 1;
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}
