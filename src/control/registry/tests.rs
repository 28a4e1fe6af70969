use std::collections::BTreeMap;

use futures::FutureExt;
use http::{HeaderMap, header::AUTHORIZATION};
use proptest::prelude::*;

use super::*;
use crate::{
    control::{
        access::{Access, rule},
        instance::State,
        registration::Written,
        store::Memory,
    },
    observe::metrics::Metrics,
    snapshot::control::{Register, ServicePattern},
};

const TTL: Duration = Duration::from_secs(30);

pub(super) fn settings() -> Settings {
    let hold = Hold { overdue: 0.15, of_service: 0.5, at_least: 5, limit: Duration::from_secs(600) };
    Settings {
        ttls: Ttls { default: TTL, min: Duration::from_secs(1), max: Duration::from_secs(86_400) },
        hold: Some(hold),
        flapping: Flapping { turns: 5, window: Duration::from_secs(60) },
        instances: 1000,
        instances_per_service: 100,
    }
}

/// A registry, and what time it is there.
struct Bench {
    registry: Registry,
    now: Instant,
}

impl Bench {
    fn new(settings: Settings) -> Bench {
        Bench::with(settings, Vec::new())
    }

    fn with(settings: Settings, instances: Vec<Arc<Instance>>) -> Bench {
        let now = Instant::now();
        let store = Arc::new(Memory::new(Position { epoch: 1, revision: 0 }, instances));
        let metrics = Metrics::new("test").of_registry().clone();
        Bench { registry: Registry::new(settings, store, metrics, now), now }
    }

    fn register(&self, name: &str, port: u16) -> Result<(Arc<Instance>, Outcome), Refused> {
        self.register_as(&anybody(), name, port)
    }

    fn register_as(
        &self,
        caller: &Caller,
        name: &str,
        port: u16,
    ) -> Result<(Arc<Instance>, Outcome), Refused> {
        let registration = registration(Written {
            name: name.to_owned(),
            address: Some(format!("127.0.0.1:{port}")),
            ..Written::default()
        });
        now(self.registry.register(registration, caller, self.now))
    }

    fn beat(&self, id: &str, health: Option<Health>) -> Result<Arc<Instance>, Refused> {
        now(self.registry.heartbeat(id, Heartbeat { health, weight: None }, &anybody(), self.now))
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.registry.tick(self.now);
        }
    }

    fn states(&self) -> BTreeMap<State, usize> {
        self.registry.store().states(None)
    }
}

/// A store of one process waits for nobody.
fn now<T>(done: impl Future<Output = T>) -> T {
    done.now_or_never().expect("it is done at once")
}

fn registration(written: Written) -> Registration {
    Registration::read(written, &settings().ttls).unwrap()
}

fn anybody() -> Caller {
    Access::new(Vec::new()).caller(None, &HeaderMap::new()).unwrap()
}

fn holders() -> [Caller; 2] {
    let all = || Register::Services(vec![ServicePattern::All]);
    let access = Access::new(vec![rule("one", all(), &["*"], false), rule("two", all(), &["*"], false)]);
    ["one", "two"].map(|token| {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())]);
        access.caller(None, &headers).unwrap()
    })
}

#[test]
fn a_restart_is_no_second_instance_and_a_heartbeat_no_write() {
    let bench = Bench::new(settings());
    let (first, outcome) = bench.register("users", 1).unwrap();
    assert_eq!((outcome, first.revision), (Outcome::Created, 1));
    let (again, outcome) = bench.register("users", 1).unwrap();
    assert_eq!((outcome, again.revision), (Outcome::Updated, 1), "nothing has changed");
    bench.beat(&first.id, None).unwrap();
    bench.beat(&first.id, Some(Health::Healthy)).unwrap();
    assert_eq!(bench.registry.position().revision, 1);
    assert_eq!(bench.beat(&first.id, Some(Health::Critical)).unwrap().revision, 2);
    assert_eq!(bench.states(), [(State::Critical, 1)].into());
}

#[test]
fn an_unknown_one_is_told_to_register_again() {
    let bench = Bench::new(settings());
    assert_eq!(bench.beat("nobody", None).unwrap_err().reason, Reason::NotRegistered);
    assert!(now(bench.registry.deregister("nobody", Duration::ZERO, &anybody(), bench.now)).is_ok());
}

#[test]
fn whoever_is_silent_for_its_ttl_expires_and_says_so() {
    let mut bench = Bench::new(settings());
    bench.register("users", 1).unwrap();
    bench.pass(30);
    assert_eq!(bench.states().len(), 1);
    bench.pass(1);
    let service = bench.registry.service("users");
    assert_eq!((service.instances.len(), service.emptied), (0, Some(Gone::Expired)));
}

#[test]
fn one_that_drains_gets_nothing_new_and_then_goes() {
    let mut bench = Bench::new(settings());
    let (one, _) = bench.register("users", 1).unwrap();
    let drain = |seconds| {
        now(bench.registry.deregister(&one.id, Duration::from_secs(seconds), &anybody(), bench.now))
    };
    drain(10).unwrap();
    assert_eq!(bench.states(), [(State::Draining, 1)].into());
    bench.pass(9);
    assert_eq!(bench.states(), [(State::Draining, 1)].into());
    bench.pass(1);
    assert_eq!(bench.registry.service("users").emptied, Some(Gone::Deregistered));
}

#[test]
fn whoever_registers_again_while_it_drains_stays() {
    let mut bench = Bench::new(settings());
    let (one, _) = bench.register("users", 1).unwrap();
    now(bench.registry.deregister(&one.id, Duration::from_secs(10), &anybody(), bench.now)).unwrap();
    bench.register("users", 1).unwrap();
    bench.pass(20);
    assert_eq!(bench.states(), [(State::Healthy, 1)].into());
}

#[test]
fn many_that_fall_silent_together_are_held_and_come_back_as_they_were() {
    let mut bench = Bench::new(settings());
    let ids: Vec<_> = (1..=10).map(|port| bench.register("users", port).unwrap().0.id.clone()).collect();
    bench.beat(&ids[0], Some(Health::Critical)).unwrap();
    bench.pass(31);
    assert_eq!(bench.states(), [(State::Held, 10)].into());
    assert!(!bench.registry.service("users").instances[0].takes_requests(), "it was critical");
    for id in &ids {
        bench.beat(id, None).unwrap();
    }
    assert_eq!(bench.states(), [(State::Healthy, 9), (State::Critical, 1)].into());
}

#[test]
fn after_a_start_nobody_expires_who_was_not_heard_for_the_longest_ttl() {
    let mut before = Bench::new(settings());
    before.register("users", 1).unwrap();
    let long = Written { ttl: Some(TTL.mul_f64(4.0).into()), ..written("carts", 1) };
    now(before.registry.register(registration(long), &anybody(), before.now)).unwrap();
    let mut bench = Bench::with(settings(), before.registry.store().list(None, None, 9));
    let all = bench.registry.subscribe(None);
    bench.pass(119);
    assert!(bench.registry.is_warming() && bench.states() == [(State::Healthy, 2)].into());
    bench.pass(1);
    assert!(!bench.registry.is_warming());
    assert_eq!(all.changed().now_or_never().map(|names| names.len()), Some(2), "it is over");
    bench.pass(1);
    assert_eq!(bench.states().len(), 0);
    before.pass(30);
    assert!(!before.registry.is_warming(), "nobody was to be waited for but those who were not kept");
}

fn written(name: &str, port: u16) -> Written {
    Written { name: name.to_owned(), address: Some(format!("127.0.0.1:{port}")), ..Written::default() }
}

#[test]
fn an_id_belongs_to_whoever_registered_it_and_to_its_service() {
    let bench = Bench::new(settings());
    let [one, two] = holders();
    let (own, _) = bench.register_as(&one, "users", 1).unwrap();
    assert_eq!(bench.register_as(&two, "users", 1).unwrap_err().reason, Reason::NotYours);
    let beat = |caller| now(bench.registry.heartbeat(&own.id, Heartbeat::default(), caller, bench.now));
    assert_eq!(beat(&two).unwrap_err().reason, Reason::NotYours);
    assert!(beat(&one).is_ok());
    let gone = now(bench.registry.deregister(&own.id, Duration::ZERO, &two, bench.now));
    assert_eq!(gone.unwrap_err().reason, Reason::NotYours);
    let other = registration(Written { id: Some(own.id.to_string()), ..written("carts", 1) });
    assert_eq!(now(bench.registry.register(other, &one, bench.now)).unwrap_err().reason, Reason::Conflict);
}

#[test]
fn there_is_an_end_to_how_many() {
    let bench = Bench::new(Settings { instances: 3, instances_per_service: 2, ..settings() });
    bench.register("a", 1).unwrap();
    bench.register("a", 2).unwrap();
    let refused = bench.register("a", 3).unwrap_err();
    assert!(refused.reason == Reason::Limit && refused.why.contains("instances_per_service"), "{refused}");
    bench.register("b", 1).unwrap();
    let refused = bench.register("c", 1).unwrap_err();
    assert!(refused.reason == Reason::Limit && refused.why.contains("limits.instances`"), "{refused}");
    assert!(bench.register("b", 1).is_ok(), "one that is there may register again");
}

#[test]
fn one_that_flaps_is_critical_until_it_has_been_still() {
    let mut bench = Bench::new(settings());
    let ids: Vec<_> = (1..=3).map(|port| bench.register("users", port).unwrap().0.id.clone()).collect();
    let turn = |bench: &mut Bench, which: &[usize]| {
        for health in [Health::Critical, Health::Healthy].repeat(3) {
            which.iter().for_each(|n| _ = bench.beat(&ids[*n], Some(health)).unwrap());
            bench.pass(1);
        }
    };
    turn(&mut bench, &[0]);
    assert_eq!(bench.states(), [(State::Healthy, 2), (State::Critical, 1)].into());
    turn(&mut bench, &[0, 1]);
    assert_eq!(bench.states(), [(State::Healthy, 3)].into(), "most of the service flaps");
    for _ in 0..7 {
        ids.iter().for_each(|id| _ = bench.beat(id, None).unwrap());
        bench.pass(10);
    }
    assert_eq!(bench.states(), [(State::Healthy, 3)].into());
    assert!(bench.registry.service("users").instances.iter().all(|instance| instance.damped.is_none()));
}

#[test]
fn what_another_process_has_kept_takes_the_place_of_what_is_here() {
    let (there, here) = (Bench::new(settings()), Bench::new(settings()));
    for bench in [&there, &here] {
        bench.register("users", 1).unwrap();
    }
    there.register("users", 2).unwrap();
    here.register("users", 3).unwrap();
    here.registry.replace(there.registry.store().list(None, None, 9), here.now);
    let ports: Vec<u16> = here.registry.service("users").instances.iter().map(|one| one.port).collect();
    assert_eq!(ports, [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever happens in whatever order: pictures, counts, logs and clocks tell the same story.
    #[test]
    fn every_view_tells_the_same(steps in prop::collection::vec((0u8..5, 0u16..4, 0u16..3), 1..120)) {
        let mut bench = Bench::new(settings());
        let mut known: BTreeMap<String, Arc<Instance>> = BTreeMap::new();
        let mut at = bench.registry.position();
        for (step, port, name) in steps {
            let id = format!("s{name}-127.0.0.1-{}", port + 1);
            match step {
                0 | 1 => _ = bench.register(&format!("s{name}"), port + 1),
                2 => _ = bench.beat(&id, Some([Health::Healthy, Health::Critical][usize::from(port % 2)])),
                3 => {
                    let drain = Duration::from_secs(u64::from(port));
                    _ = now(bench.registry.deregister(&id, drain, &anybody(), bench.now));
                }
                _ => bench.pass(u64::from(port * 9)),
            }
            for event in bench.registry.store().since(at, None).expect("nothing is forgotten") {
                prop_assert_eq!(event.revision, at.revision + 1);
                at.revision = event.revision;
                match event.kind {
                    Kind::Gone(_) => prop_assert!(known.remove(&*event.instance.id).is_some()),
                    _ => _ = known.insert(event.instance.id.to_string(), event.instance.clone()),
                }
            }
            let all = bench.registry.store().list(None, None, usize::MAX);
            prop_assert_eq!(&all, &known.values().cloned().collect::<Vec<_>>());
            for name in 0..3 {
                let of_one = bench.registry.service(&format!("s{name}"));
                let expected = all.iter().filter(|one| *one.name == *format!("s{name}"));
                prop_assert!(of_one.instances.iter().eq(expected));
            }
            prop_assert!(all.iter().all(|one| bench.registry.due(&one.id).is_some()));
        }
    }
}
