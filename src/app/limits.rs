//! What the operator allows the whole process, set beside what the system allows.

use std::sync::Arc;

use super::memory;
use crate::{
    config::Config,
    filter,
    resources::{Descriptors, Resources},
};

/// What one encoder may take.
const ENCODER: u64 = 512 * 1024;
/// So many encode in any case, and where there is no limit.
const FEW: u64 = 16;
const MANY: u64 = 1024;

/// Where limits of the process are kept.
pub(crate) struct Limits {
    pub resources: Arc<Resources>,
    /// Their filters have the places of encoders.
    pub encoders: filter::Live,
}

impl Limits {
    /// From now on, those of this configuration.
    pub(crate) fn set(&self, config: &Config) {
        let memory = memory::limit(&config.limits);
        self.resources.memory.set_limit(memory);
        let room = memory.map_or(MANY, |bytes| (bytes / 8 / ENCODER).max(FEW));
        let most = config.limits.encoders.map_or(room as usize, |most| most.get());
        self.encoders.encoders().set_most(most);
    }
}

/// What to tell an operator who allows more connections than there can be. Limits that nobody wrote are not held against them:
/// they give way to what there is.
pub(crate) fn warning(config: &Config, descriptors: Descriptors) -> Option<String> {
    let usual = crate::config::Limits::default().connections;
    let listeners = config.listeners.iter().map(|listener| listener.limits.connections);
    let of_clients: usize = listeners.filter(|most| *most != usual).map(|most| most.get()).sum();
    let upstreams = config.upstreams.values().filter_map(|upstream| upstream.pool.max_connections);
    let of_upstreams: usize = upstreams.map(|most| most.get()).sum();
    let allowed = of_clients.saturating_add(of_upstreams) as u64;
    let possible = descriptors.connections();
    (allowed > possible).then(|| {
        format!(
            "the limits allow {allowed} connections, and with {} descriptors there can be {possible}: beyond that requests get 503 \
             (raise the hard limit, LimitNOFILE or `ulimit -Hn`, or lower `limits.connections` and `pool.max_connections`)",
            descriptors.most()
        )
    })
}

/// What to tell an operator whose process may have so few descriptors that usual traffic can take all of them.
pub(super) fn few(descriptors: Descriptors) -> Option<String> {
    const FEW: u64 = 4096;
    (descriptors.most() < FEW).then(|| {
        format!(
            "the process may have {} descriptors, room for {} connections to clients and upstreams together (raise the hard limit, \
             LimitNOFILE or `ulimit -Hn`)",
            descriptors.most(),
            descriptors.connections()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(yaml: &str, most: u64) -> Option<String> {
        let loaded = crate::config::parse(yaml, "g.yaml").unwrap();
        warning(loaded.config().unwrap(), Descriptors::of(most))
    }

    #[test]
    fn limits_that_were_written_and_do_not_fit_are_told() {
        let usual = "listeners: [{address: ':80'}]\nupstreams: {u: {endpoints: ['10.0.0.1:80']}}";
        assert_eq!(warned(usual, 1024), None);
        let written = "listeners: [{address: ':80', limits: {connections: 600}}]\n\
                       upstreams: {u: {endpoints: ['10.0.0.1:80'], pool: {max_connections: 400}}}";
        let told = warned(written, 1024).unwrap();
        assert!(told.contains("allow 1000 connections") && told.contains("there can be 896"), "{told}");
        assert_eq!(warned(written, 4096), None);
    }

    #[test]
    fn few_descriptors_are_told_with_what_they_are_room_for() {
        let told = few(Descriptors::of(1024)).unwrap();
        assert!(told.contains("1024 descriptors") && told.contains("896 connections"), "{told}");
        assert_eq!(few(Descriptors::of(4096)), None);
    }
}
