use std::collections::HashMap;

use futures::FutureExt;
use http::HeaderMap;

use super::*;
use crate::{
    config::EtcdStore,
    control::{
        access::{Access, Caller},
        instance::{Health, tests::instance},
        registration::Ttls,
        registry::{Settings, tests::settings},
        store::Memory,
    },
    observe::metrics::Metrics,
};

const TTL: Duration = Duration::from_secs(30);

/// A replica that has a session, of which nothing gets anywhere.
struct Bench {
    registry: Registry,
    shared: Arc<Shared>,
    now: Instant,
}

impl Bench {
    async fn new() -> Bench {
        let metrics = Metrics::new("test");
        let Settings { ttls, .. } = settings();
        let shared = Arc::new(shared(ttls, &metrics));
        shared.pretend().await;
        let nothing = Arc::new(Memory::new(Position { epoch: 0, revision: 0 }, Vec::new()));
        let now = Instant::now();
        let registry = Registry::new(settings(), nothing, metrics.of_registry().clone(), now);
        Bench { registry: registry.sharing(shared.clone()), shared, now }
    }

    fn me(&self) -> Arc<str> {
        self.shared.me().clone()
    }

    /// All there is at `revision`: each port, by whom it is kept.
    fn listing(&self, revision: u64, kept: &[(u16, &str)]) -> Listing {
        let records = kept.iter().map(|(port, replica)| record(*port, replica, u64::from(*port)));
        let alive = [(self.me(), "127.0.0.1:1".into()), ("other".into(), "127.0.0.1:2".into())];
        Listing {
            epoch: 7,
            revision,
            records: records.collect(),
            unreadable: Vec::new(),
            replicas: HashMap::from(alive),
            leader: Some(self.me()),
            configs: Vec::new(),
        }
    }

    fn learn(&self, revision: u64, news: News) {
        self.registry.learn(Batch { revision, news: vec![news], configs: Vec::new() }, self.now);
    }

    fn beat(&self, port: u16, health: Option<Health>) {
        let id = instance("a", port).id;
        let said = Heartbeat { health, weight: None };
        let heard = self.registry.heartbeat(&id, said, &anybody(), self.now).now_or_never();
        assert!(heard.is_none_or(|heard| heard.is_ok()));
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.registry.tick(self.now);
        }
    }

    fn ports(&self) -> Vec<u16> {
        self.registry.service("a").instances.iter().map(|one| one.port).collect()
    }

    /// What was written since: what is done, to which port, at which revision of its key.
    fn written(&self) -> Vec<(&'static str, u16, u64)> {
        self.shared
            .take_queued()
            .into_iter()
            .map(|(word, instance, revision)| (word, instance.port, revision))
            .collect()
    }
}

fn shared(ttls: Ttls, metrics: &Metrics) -> Shared {
    let settings =
        EtcdStore { endpoints: Vec::new(), prefix: "/t/".to_owned(), tls: None, user: None, password: None };
    Shared::new(&settings, "127.0.0.1:1", ttls, metrics.of_store().clone())
}

fn record(port: u16, replica: &str, revision: u64) -> Record {
    Record { replica: replica.into(), instance: Instance { revision, ttl: TTL, ..instance("a", port) } }
}

fn anybody() -> Caller {
    Access::new(Vec::new()).caller(None, &HeaderMap::new()).unwrap()
}

#[tokio::test]
async fn a_heartbeat_is_for_the_keeper_and_where_there_is_none_for_this_replica() {
    let bench = Bench::new().await;
    let me = bench.me();
    let listing = bench.listing(10, &[(1, &me), (2, "other"), (3, "dead")]);
    bench.registry.take_in(listing, Continuity::First, bench.now);
    (1..=3).for_each(|port| bench.beat(port, None));
    assert_eq!(bench.written(), [("put", 3, 3)], "nobody kept it");
    bench.beat(2, Some(Health::Critical));
    assert_eq!(bench.written(), [], "its keeper writes that");
    let [(id, beat)] = [(instance("a", 2).id, Heartbeat { health: Some(Health::Critical), weight: None })];
    bench.registry.take_over("other", vec![(id, beat)], bench.now);
    assert_eq!(bench.written(), [("put", 2, 2)], "it could not be told");
    let renewed =
        bench.registry.renewed(vec![(instance("a", 1).id.to_string(), beat), ("x".into(), beat)], bench.now);
    assert_eq!((renewed, bench.written()), (vec!["x".to_owned()], vec![("put", 1, 1)]));
}

#[tokio::test]
async fn the_leader_counts_a_ttl_for_those_whose_replica_is_gone() {
    let mut bench = Bench::new().await;
    bench.registry.take_in(bench.listing(10, &[(1, "other")]), Continuity::First, bench.now);
    bench.pass(60);
    assert_eq!(bench.written(), [], "its keeper looks after it");
    bench.learn(11, News::ReplicaGone("other".into()));
    bench.pass(30);
    assert_eq!(bench.written(), []);
    bench.pass(1);
    assert_eq!(bench.written(), [("delete", 1, 1)]);
    assert_eq!(bench.ports(), [1], "it is there until that is written");
    let gone = News::Removed { service: "a".into(), id: instance("a", 1).id, gone: Gone::Expired };
    bench.learn(12, gone);
    assert_eq!((bench.ports(), bench.registry.position().revision), (vec![], 12));
}

#[tokio::test]
async fn one_that_is_renewed_elsewhere_is_let_go_of() {
    let mut bench = Bench::new().await;
    let me = bench.me();
    bench.registry.take_in(bench.listing(10, &[(1, &me)]), Continuity::First, bench.now);
    bench.beat(1, None);
    bench.learn(11, News::Put(record(1, "other", 11)));
    assert_eq!(bench.registry.position().revision, 10, "another keeper is nobody's concern");
    bench.pass(100);
    assert_eq!(bench.written(), []);
}

#[tokio::test]
async fn a_store_that_was_compacted_tells_of_what_differs_and_of_nothing_else() {
    let bench = Bench::new().await;
    bench.registry.take_in(bench.listing(10, &[(1, "other"), (2, "other")]), Continuity::First, bench.now);
    let from = bench.registry.position();
    assert_eq!(from, Position { epoch: 7, revision: 10 });
    bench.registry.take_in(bench.listing(40, &[(1, "other"), (3, "other")]), Continuity::Same, bench.now);
    let events = bench.registry.store().since(from, None).unwrap();
    let told: Vec<_> =
        events.iter().map(|event| (event.kind.word(), event.instance.port, event.revision)).collect();
    assert_eq!(told, [("expired", 2, 40), ("registered", 3, 40)]);
}

#[tokio::test]
async fn a_restored_store_is_another_epoch_and_is_given_back_what_it_lost() {
    let mut bench = Bench::new().await;
    let me = bench.me();
    let listing = bench.listing(10, &[(1, &me), (2, &me), (3, "other")]);
    bench.registry.take_in(listing, Continuity::First, bench.now);
    bench.learn(
        11,
        News::Put(Record {
            instance: Instance { weight: 5, ..record(2, &me, 11).instance },
            ..record(2, &me, 11)
        }),
    );
    let backup = Listing { epoch: 8, ..bench.listing(5, &[(2, &me), (4, &me)]) };
    bench.registry.take_in(backup, Continuity::Broken, bench.now);
    assert_eq!(bench.registry.position(), Position { epoch: 8, revision: 5 });
    assert_eq!((bench.ports(), bench.registry.is_warming()), (vec![1, 2, 3, 4], true));
    let weight = bench.registry.service("a").instances[1].weight;
    assert_eq!(
        (weight, bench.written()),
        (5, vec![("put", 1, 0), ("put", 2, 2)]),
        "the other one writes its own"
    );
    // What only the backup knew goes, when nobody has renewed it for as long as it is warming.
    bench.learn(20, News::Put(record(1, &me, 20)));
    for _ in 0..31 {
        (1..=2).for_each(|port| bench.beat(port, None));
        bench.pass(1);
    }
    assert_eq!(bench.written().last(), Some(&("delete", 4, 4)));
}

#[tokio::test]
async fn what_a_watch_never_told_of_is_repaired() {
    let bench = Bench::new().await;
    bench.registry.take_in(
        bench.listing(10, &[(1, "other"), (2, "other"), (5, "other")]),
        Continuity::First,
        bench.now,
    );
    // Since the look was begun: one has left, and another one has come.
    bench.learn(31, News::Removed { service: "a".into(), id: instance("a", 5).id, gone: Gone::Deregistered });
    bench.learn(32, News::Put(record(32, "other", 32)));
    let looked = bench.listing(30, &[(1, "other"), (5, "other"), (7, "other")]);
    assert_eq!(bench.registry.repair(looked, 33, bench.now), 2, "2 has left, and 7 has come");
    assert_eq!(bench.ports(), [1, 32, 7]);
    let looked = bench.listing(34, &[(1, "other"), (7, "other"), (32, "other")]);
    assert_eq!(bench.registry.repair(looked, 35, bench.now), 0);
    assert_eq!(bench.registry.position().revision, 33);
}

#[tokio::test]
async fn a_removal_that_was_not_written_leaves_the_clock_running() {
    let mut bench = Bench::new().await;
    let me = bench.me();
    bench.registry.take_in(bench.listing(10, &[(1, &me)]), Continuity::First, bench.now);
    bench.pass(31);
    assert_eq!(bench.written(), [("delete", 1, 1)]);
    bench.pass(1);
    assert_eq!(bench.written(), [], "it is on its way");
    bench.shared.not_written(&instance("a", 1).id);
    // It is given a whole TTL from the next look on.
    bench.pass(32);
    assert_eq!(bench.written(), [("delete", 1, 1)]);
}
