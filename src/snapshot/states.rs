//! The series that change without an event, such as that of a breaker that may try again: set anew whenever they are read.

use std::time::Instant;

use super::Snapshot;
use crate::{
    observe::metrics::{Metrics, Rare},
    policy::breaker,
    upstream::Level,
};

impl Snapshot {
    /// The rare series as they are now.
    pub fn gather(&self, metrics: &Metrics) -> Rare {
        metrics.gather(|| self.refresh(metrics))
    }

    fn refresh(&self, metrics: &Metrics) {
        let (now, states) = (Instant::now(), metrics.states());
        states.clear();
        for upstream in self.upstreams.values() {
            let name = upstream.name();
            if upstream.tls().is_some_and(|tls| tls.trusts_anybody()) {
                states.insecure(name);
            }
            if upstream.room().is_limited() {
                states.pending(name, upstream.room().pending());
            }
            if let Some(failover) = upstream.failover(now) {
                states.failover(name, failover.to, failover.share);
            }
            for group in upstream.group_shares(now) {
                states.group(name, group.priority, group.zone_word().unwrap_or_default(), group.share);
            }
            if let Some(concurrency) = upstream.room().concurrency() {
                let Level { limit, in_flight, baseline } = concurrency.level();
                states.concurrency(name, limit, in_flight, baseline);
            }
            for endpoint in upstream.endpoints() {
                // The observer hears of changes; what has not been probed yet, nobody tells it.
                metrics.endpoint(name, &endpoint.name).set_healthy(endpoint.is_usable());
                states.avoided(name, &endpoint.name, endpoint.is_on_probation());
                if let Some(circuit) = endpoint.circuit() {
                    let state = match circuit.breaker.state(now) {
                        breaker::State::Closed => 0,
                        breaker::State::Open => 1,
                        breaker::State::HalfOpen => 2,
                    };
                    states.circuit(name, &endpoint.name, state);
                }
                if upstream.settings().ejection().is_some() {
                    states.ejected(name, &endpoint.name, endpoint.is_ejected(now));
                }
            }
        }
        for rollout in self.routes.iter().filter_map(|route| route.rollout()) {
            states.canary_weight(&rollout.route, rollout.weight());
        }
    }
}
