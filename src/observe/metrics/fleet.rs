//! The series of what the gateways of a fleet share in a Redis. Rare, so through the `prometheus` crate.

use prometheus::{IntGaugeVec, Opts, Registry};

use super::{distinct, register};

/// Cheap to clone.
#[derive(Clone)]
pub struct FleetMetrics {
    store_up: IntGaugeVec,
}

impl FleetMetrics {
    pub(super) fn new(registry: &Registry) -> FleetMetrics {
        let store_up =
            Opts::new("tidegate_fleet_store_up", "Whether the Redis that gateways share can be asked.");
        FleetMetrics { store_up: register(registry, distinct(IntGaugeVec::new(store_up, &["store"]))) }
    }

    /// `store` is an address without credentials.
    pub fn store_up(&self, store: &str, is_up: bool) {
        self.store_up.with_label_values(&[store]).set(i64::from(is_up));
    }

    /// Nobody asks it any more.
    pub fn forget_store(&self, store: &str) {
        // There is none where nobody ever asked.
        let _ = self.store_up.remove_label_values(&[store]);
    }
}
