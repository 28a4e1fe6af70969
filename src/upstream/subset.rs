//! A subset of an upstream: the endpoints with certain tags, for routes that want these alone. It is an upstream of its own to whoever
//! sends requests, and shares all that lives with the whole: endpoints with their state, limits, connections. Only its table is
//! its own, made from the whole's whenever that is another one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};

use crate::upstream::{Upstream, endpoint::lock, pool::Shared, table::Table};

pub(super) struct Subset {
    tags: BTreeMap<String, String>,
    /// What the table was made from.
    whole: ArcSwapOption<Table>,
    table: ArcSwap<Table>,
    making: Mutex<()>,
}

impl Upstream {
    /// Its endpoints that have all of these tags.
    pub fn subset(&self, tags: &BTreeMap<String, String>) -> Arc<Upstream> {
        let subset = Subset {
            tags: tags.clone(),
            whole: ArcSwapOption::empty(),
            table: ArcSwap::new(self.pool.shared.table_of(Vec::new())),
            making: Mutex::new(()),
        };
        Arc::new(Upstream {
            name: self.name.clone(),
            settings: self.settings.clone(),
            pool: self.pool.clone(),
            connections: self.connections.clone(),
            room: self.room.clone(),
            failover: self.failover.clone(),
            tls: self.tls.clone(),
            affinity: self.affinity.as_ref().map(|affinity| affinity.of_subset(tags)),
            group: self.group,
            passing: self.passing.clone(),
            subset: Some(subset),
        })
    }

    /// The endpoints to choose from.
    pub(super) fn table(&self) -> Guard<Arc<Table>> {
        match &self.subset {
            None => self.pool.shared.peek(),
            Some(subset) => subset.table(&self.pool.shared),
        }
    }
}

impl Subset {
    fn table(&self, shared: &Shared) -> Guard<Arc<Table>> {
        let whole = shared.peek();
        if !self.is_of(&whole) {
            self.make(&whole, shared);
        }
        self.table.load()
    }

    fn is_of(&self, whole: &Arc<Table>) -> bool {
        self.whole.load().as_ref().is_some_and(|of| Arc::ptr_eq(of, whole))
    }

    fn make(&self, whole: &Arc<Table>, shared: &Shared) {
        let _one_at_a_time = lock(&self.making);
        if self.is_of(whole) {
            return;
        }
        let has_all = |metadata: &BTreeMap<String, String>| {
            self.tags.iter().all(|(name, value)| metadata.get(name) == Some(value))
        };
        let endpoints = whole.endpoints.iter().filter(|endpoint| has_all(&endpoint.metadata));
        // First: whoever sees the one sees the other.
        self.table.store(shared.table_of(endpoints.cloned().collect()));
        self.whole.store(Some(whole.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        config,
        names::SystemResolver,
        upstream::{Endpoint, Live, NoEndpoint},
    };

    fn upstream(yaml: &str) -> Arc<Upstream> {
        let config: config::Upstream = serde_yaml::from_str(&format!("{{{yaml}}}")).unwrap();
        let live = Live::offline(Arc::new(SystemResolver::new()), Arc::new(()));
        Upstream::new("u", &config, &live, None).unwrap()
    }

    fn subset(whole: &Upstream, tags: &[(&str, &str)]) -> Arc<Upstream> {
        whole.subset(&tags.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    fn pick(upstream: &Upstream) -> Result<Arc<Endpoint>, NoEndpoint> {
        upstream.pick(None, &[], Instant::now(), &mut fastrand::Rng::with_seed(7))
    }

    const TAGGED: &str = "endpoints: [{address: '10.0.0.1:80', tags: {version: v1, colour: blue}}, \
                          {address: '10.0.0.2:80', tags: {version: v2}}, {address: '10.0.0.3:80', tags: {version: v1}}]";

    #[test]
    fn has_those_with_all_of_the_tags_and_what_lives_is_the_same() {
        let whole = upstream(TAGGED);
        for (tags, expected) in [
            (&[("version", "v1")][..], &["10.0.0.1:80", "10.0.0.3:80"][..]),
            (&[("version", "v1"), ("colour", "blue")], &["10.0.0.1:80"]),
            (&[("version", "v2"), ("colour", "blue")], &[]),
            (&[("version", "v3")], &[]),
        ] {
            let subset = subset(&whole, tags);
            let names: Vec<String> =
                subset.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect();
            assert_eq!(names, expected, "{tags:?}");
            match expected {
                [] => assert_eq!(pick(&subset).err(), Some(NoEndpoint::EmptySubset), "{tags:?}"),
                [first, ..] => assert_eq!(&*pick(&subset).unwrap().name, *first, "{tags:?}"),
            }
            assert_eq!(subset.is_ready(), !expected.is_empty());
        }
        let subset = subset(&whole, &[("version", "v2")]);
        whole.endpoints()[1].probed(false, 1);
        assert_eq!(pick(&subset).err(), Some(NoEndpoint::Unhealthy));
        assert!(!subset.admits(Instant::now()) && whole.admits(Instant::now()));
    }

    #[test]
    fn follows_the_whole() {
        let whole = upstream(TAGGED);
        let subset = subset(&whole, &[("version", "v2")]);
        assert_eq!(pick(&subset).unwrap().weight, 1);
        let stamp = config::Stamp { etag: "1".into(), by: "somebody".into(), at: "then".into() };
        let ordered = config::OrderedEndpoint { order: config::EndpointOrder::Weight(7), stamp };
        whole.order(Arc::new([("10.0.0.2:80".to_owned(), ordered)].into()));
        assert_eq!(pick(&subset).unwrap().weight, 7);
        assert_eq!(pick(&subset).unwrap().id(), whole.endpoints()[1].id());
    }
}
