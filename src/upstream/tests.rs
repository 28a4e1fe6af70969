//! Upstreams as their callers see them: readiness, reload, DNS and health over real sockets.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, atomic::AtomicUsize},
    time::Duration,
};

use async_trait::async_trait;
use tokio::net::TcpListener;

use super::*;
use crate::{
    identity::Material,
    names::{Files, Resolve, ResolveError, Resolved, SystemResolver, tests::name_server},
};

/// Long enough for a loaded machine; nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps what it hears, one line each.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0))
    }

    fn push(&self, line: String) {
        lock(&self.0).push(line);
    }
}

impl Observer for Recorder {
    fn health_changed(&self, _upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        self.push(format!("{} {endpoint}", if outcome.is_ok() { "healthy" } else { "unhealthy" }));
    }
    fn avoidance_changed(&self, _upstream: &str, endpoint: &str, outcome: Result<(), &str>) {
        self.push(format!("{} {endpoint}", if outcome.is_ok() { "no longer avoided" } else { "avoided" }));
    }
    fn tls_failed(&self, _upstream: &str, endpoint: &str, kind: &'static str) {
        self.push(format!("TLS {endpoint} {kind}"));
    }
    fn endpoint_added(&self, _upstream: &str, endpoint: &str) {
        self.push(format!("added {endpoint}"));
    }
    fn endpoint_removed(&self, _upstream: &str, endpoint: &str) {
        self.push(format!("removed {endpoint}"));
    }
}

/// Answers what it was last told, valid for a second.
#[derive(Default)]
struct FakeDns(Mutex<Option<Vec<IpAddr>>>);

impl FakeDns {
    fn says(addresses: &[&str]) -> Arc<FakeDns> {
        let dns = Arc::new(FakeDns::default());
        dns.now_says(addresses);
        dns
    }

    fn now_says(&self, addresses: &[&str]) {
        *lock(&self.0) = Some(addresses.iter().map(|address| address.parse().unwrap()).collect());
    }
}

#[async_trait]
impl Resolve for FakeDns {
    async fn resolve(&self, _host: &str) -> Result<Resolved, ResolveError> {
        match lock(&self.0).clone() {
            Some(addresses) => Ok(Resolved { addresses, ttl: Duration::ZERO }),
            None => Err(ResolveError("no such host".into())),
        }
    }
}

/// A check that names no kind yet, with the defaults of the file.
pub(crate) fn health_check() -> config::HealthCheck {
    serde_json::from_str("{}").unwrap()
}

fn tcp_check() -> config::HealthCheck {
    config::HealthCheck { tcp: Some(config::TcpProbe {}), ..health_check() }
}

fn upstream_of(endpoints: &[(&str, u16)]) -> config::Upstream {
    let endpoint = |(address, weight): &(&str, u16)| config::Endpoint::at(*address, *weight);
    config::Upstream { endpoints: endpoints.iter().map(endpoint).collect(), ..Default::default() }
}

fn offline() -> Live {
    Live::offline(Arc::new(FakeDns::default()), Arc::new(()))
}

fn build(config: &config::Upstream, live: &Live, previous: Option<&Upstream>) -> Arc<Upstream> {
    Upstream::new("users", config, live, previous).unwrap()
}

fn names(upstream: &Upstream) -> Vec<String> {
    upstream.endpoints().iter().map(|endpoint| endpoint.name.to_string()).collect()
}

fn pick(upstream: &Upstream, tried: &[u64]) -> Result<Arc<Endpoint>, NoEndpoint> {
    upstream.pick(None, tried, Instant::now(), &mut fastrand::Rng::with_seed(1))
}

async fn settled(upstream: &Upstream) {
    tokio::time::timeout(PATIENCE, upstream.settled()).await.expect("settles");
}

/// Looks again each time the upstream's tasks have had a chance to run.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[test]
fn endpoints_without_a_check_are_ready_at_once_in_the_order_of_the_file() {
    let upstream = build(&upstream_of(&[("10.0.0.2:80", 1), ("10.0.0.1:80", 1)]), &offline(), None);
    assert!(upstream.is_ready());
    assert_eq!(names(&upstream), ["10.0.0.2:80", "10.0.0.1:80"]);
    assert_eq!(&*pick(&upstream, &[]).unwrap().name, "10.0.0.2:80");
}

#[test]
fn says_why_there_is_nobody() {
    let reason = |config: &config::Upstream| pick(&build(config, &offline(), None), &[]).err();
    assert_eq!(reason(&upstream_of(&[])), Some(NoEndpoint::Empty));
    assert_eq!(reason(&upstream_of(&[("10.0.0.1:80", 0)])), Some(NoEndpoint::Empty));
    assert_eq!(reason(&upstream_of(&[("users.internal:80", 1)])), Some(NoEndpoint::Unresolved));
    let checked = config::Upstream { health_check: Some(tcp_check()), ..upstream_of(&[("10.0.0.1:80", 1)]) };
    assert_eq!(reason(&checked), Some(NoEndpoint::Unhealthy));
}

#[test]
fn refuses_all_that_cannot_work_at_once() {
    let refusals = Upstream::new("users", &upstream_of(&[("a", 1), ("b:80", 1), ("c", 1)]), &offline(), None);
    let paths: Vec<_> = refusals.err().unwrap().into_iter().map(|refusal| refusal.path).collect();
    assert_eq!(paths, ["endpoints[0].address", "endpoints[2].address"]);
}

#[tokio::test]
async fn a_socket_is_an_endpoint_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", dir.path().join("s").display());
    let mut config = upstream_of(&[(&address, 1), ("10.0.0.1:80", 1)]);
    config.balancer = config::Balancer::Hash(config::HashKey::ClientIp);
    let upstream = build(&config, &offline(), None);
    assert_eq!(names(&upstream), [&address, "10.0.0.1:80"]);
    let pick =
        |client: u8| upstream.pick(Some(&[client]), &[], Instant::now(), &mut fastrand::Rng::with_seed(1));
    let picked: Vec<_> = (0..50).map(|client| pick(client).unwrap().name.to_string()).collect();
    assert!(picked.contains(&address) && picked.contains(&"10.0.0.1:80".to_owned()), "{picked:?}");
    let again = build(&config, &offline(), Some(&upstream));
    assert_eq!(again.endpoints()[0].id(), upstream.endpoints()[0].id());
    let refusal = Upstream::new("users", &upstream_of(&[("unix:@s", 1)]), &offline(), None).err().unwrap();
    assert!(refusal[0].why.contains("abstract"), "{refusal:?}");
}

#[test]
fn an_endpoint_is_tried_again_only_after_all_others() {
    let upstream = build(&upstream_of(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)]), &offline(), None);
    let first = pick(&upstream, &[]).unwrap();
    let second = pick(&upstream, &[first.id()]).unwrap();
    assert_ne!(first.id(), second.id());
    assert!(pick(&upstream, &[first.id(), second.id()]).is_ok());
}

#[test]
fn a_reload_keeps_the_state_of_addresses_that_stay() {
    let recorder = Arc::new(Recorder::default());
    let live = Live::offline(Arc::new(FakeDns::default()), recorder.clone());
    let old = build(&upstream_of(&[("10.0.0.1:80", 1), ("10.0.0.2:80", 1)]), &live, None);
    let (kept, gone) = (old.endpoints()[0].clone(), old.endpoints()[1].clone());
    let now = Instant::now();
    let (on_kept, on_gone) = (kept.start_anyway(Instant::now()), gone.start_anyway(Instant::now()));
    kept.observe(Duration::from_millis(30), now);

    let new = build(&upstream_of(&[("10.0.0.1:80", 7), ("10.0.0.3:80", 1)]), &live, Some(&old));
    let carried = new.endpoints()[0].clone();
    assert_eq!((carried.id(), carried.active(), carried.weight), (kept.id(), 1, 7));
    assert!((carried.latency(now).unwrap() - 0.03).abs() < 1e-5);
    assert_eq!(names(&new), ["10.0.0.1:80", "10.0.0.3:80"]);

    recorder.take();
    drop((old, kept, gone, on_kept));
    assert_eq!(carried.active(), 0);
    assert!(recorder.take().is_empty(), "a request is still on its way to it");
    drop(on_gone);
    assert_eq!(recorder.take(), ["removed 10.0.0.2:80"]);
}

#[test]
fn an_endpoint_that_returns_while_requests_are_on_their_way_has_its_count() {
    let live = offline();
    let one = build(&upstream_of(&[("10.0.0.1:80", 1)]), &live, None);
    let request = one.endpoints()[0].start_anyway(Instant::now());
    let two = build(&upstream_of(&[("10.0.0.2:80", 1)]), &live, Some(&one));
    drop(one);
    let three = build(&upstream_of(&[("10.0.0.1:80", 1)]), &live, Some(&two));
    assert_eq!(three.endpoints()[0].active(), 1);
    drop(request);
    assert_eq!(three.endpoints()[0].active(), 0);
}

#[test]
fn a_reload_that_changes_only_timeouts_shares_the_pool() {
    let config = upstream_of(&[("10.0.0.1:80", 1)]);
    let old = build(&config, &offline(), None);
    let slower = config::Upstream { read_timeout: config::HumanDuration::from_secs(9), ..config.clone() };
    let new = build(&slower, &offline(), Some(&old));
    assert!(Arc::ptr_eq(old.pool.shared(), new.pool.shared()));
    assert_eq!(new.settings(), &slower);
    let hashed = config::Upstream { balancer: config::Balancer::Hash(config::HashKey::ClientIp), ..config };
    let new = build(&hashed, &offline(), Some(&old));
    assert!(!Arc::ptr_eq(old.pool.shared(), new.pool.shared()));
    assert_eq!(new.balancer_key(), Some(&config::HashKey::ClientIp));
}

#[test]
fn a_reload_makes_anew_what_a_changed_setting_belongs_to_and_keeps_the_rest() {
    const ENDPOINT: &str = "endpoints: [{address: 'a.internal:80', weight: 1}]";
    let read = |yaml: &str| serde_yaml::from_str::<config::Upstream>(&format!("{{{yaml}}}")).unwrap();
    let old = build(&read(&format!("{ENDPOINT}, tls: {{}}")), &offline(), None);
    let kept = |yaml: &str| {
        let new = build(&read(yaml), &offline(), Some(&old));
        let tls = new.tls.as_ref().zip(old.tls.as_ref());
        (
            Arc::ptr_eq(new.pool.shared(), old.pool.shared()),
            Arc::ptr_eq(new.room.shared(), old.room.shared()),
            tls.is_some_and(|(new, old)| Arc::ptr_eq(new.shared(), old.shared())),
        )
    };
    for other in [
        "read_timeout: 9s",
        "connect_timeout: 9s",
        "write_timeout: 9s",
        "idle_timeout: 9s",
        "tcp_user_timeout: 9s",
        "then: {upstream: other, stay: 9s}",
        // This gateway stands in no zone.
        "zone_aware: false",
    ] {
        assert_eq!(kept(&format!("{ENDPOINT}, tls: {{}}, {other}")), (true, true, true), "{other}");
    }
    for (of_pool, tls) in [
        ("balancer: random", true),
        ("panic_threshold: 10%", true),
        ("health_check: {tcp: {}}", true),
        ("circuit_breaker: {}", true),
        ("outlier: off", true),
        ("slow_start: 10s", true),
        ("proxy_protocol: v2", true),
        ("protocol: auto", false),
    ] {
        assert_eq!(kept(&format!("{ENDPOINT}, tls: {{}}, {of_pool}")), (false, true, tls), "{of_pool}");
    }
    assert_eq!(kept("endpoints: [{address: 'b.internal:80', weight: 1}], tls: {}"), (false, true, true));
    for pool in ["max_requests: 9", "max_connections: 9", "max_pending: 9", "pending_timeout: 9s"] {
        assert_eq!(kept(&format!("{ENDPOINT}, tls: {{}}, pool: {{{pool}}}")), (true, false, true), "{pool}");
    }
    for pool in ["idle_connections: 9", "idle_per_endpoint: 9", "ping_interval: 9s"] {
        assert_eq!(kept(&format!("{ENDPOINT}, tls: {{}}, pool: {{{pool}}}")), (true, true, true), "{pool}");
    }
    // Probes are made with it, and speak TLS as it says.
    assert_eq!(kept(&format!("{ENDPOINT}, tls: {{server_name: c.internal}}")), (false, true, false));
    assert_eq!(kept(ENDPOINT), (false, true, false));
}

#[test]
fn another_identity_makes_anew_only_what_shows_or_needs_it() {
    let identity = || Some(Arc::new(Identity::new(Material::default())));
    let (one, other) = (offline().with_identity(identity()), offline().with_identity(identity()));
    for (tls, kept) in [
        ("{}", true),
        ("{client_identity: true}", false),
        ("{verify: {spiffe: ['spiffe://mesh.local/users']}}", false),
    ] {
        let config = serde_yaml::from_str(&format!("{{endpoints: ['a.internal:80'], tls: {tls}}}")).unwrap();
        let old = build(&config, &one, None);
        let is_kept = |live| Arc::ptr_eq(old.pool.shared(), build(&config, live, Some(&old)).pool.shared());
        assert!(is_kept(&one), "{tls}");
        assert_eq!(is_kept(&other), kept, "{tls}");
    }
}

#[tokio::test]
async fn tasks_end_with_the_last_upstream_that_uses_them() {
    let dns = FakeDns::says(&["10.0.0.1"]);
    let live = Live::new(Handle::current(), dns.clone(), Arc::new(()));
    let config =
        config::Upstream { health_check: Some(tcp_check()), ..upstream_of(&[("users.internal:80", 1)]) };
    let old = build(&config, &live, None);
    let new = build(&config, &live, Some(&old));
    let shared = Arc::downgrade(&old.pool.shared);
    drop(old);
    tokio::task::yield_now().await;
    assert!(shared.upgrade().is_some());
    drop(new);
    until("the tasks have let go", || shared.strong_count() == 0).await;
}

#[tokio::test]
async fn every_address_of_a_name_is_an_endpoint_and_names_are_asked_again() {
    let dns = FakeDns::says(&["10.0.0.1", "::1"]);
    let live = Live::new(Handle::current(), dns.clone(), Arc::new(()));
    let upstream = build(&upstream_of(&[("users.internal:80", 3)]), &live, None);
    assert!(!upstream.is_ready());
    settled(&upstream).await;
    assert_eq!(names(&upstream), ["10.0.0.1:80", "[::1]:80"]);
    let stays = upstream.endpoints()[0].clone();
    assert_eq!((stays.weight, &*stays.origin), (3, "users.internal:80"));

    dns.now_says(&["10.0.0.1", "10.0.0.9"]);
    until("the answer has been asked for again", || names(&upstream).contains(&"10.0.0.9:80".into())).await;
    assert_eq!(names(&upstream), ["10.0.0.1:80", "10.0.0.9:80"]);
    assert!(Arc::ptr_eq(&upstream.endpoints()[0], &stays));
}

/// Says the same for an hour, and counts how often it is asked.
#[derive(Default)]
struct PatientDns(AtomicUsize);

#[async_trait]
impl Resolve for PatientDns {
    async fn resolve(&self, _host: &str) -> Result<Resolved, ResolveError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let addresses = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        Ok(Resolved { addresses, ttl: Duration::from_secs(3600) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_whose_addresses_all_refuse_is_asked_at_once_and_once_a_second() {
    let dns = Arc::new(PatientDns::default());
    let live = Live::new(Handle::current(), dns.clone(), Arc::new(()));
    let upstream = build(&upstream_of(&[("users.internal:80", 1)]), &live, None);
    settled(&upstream).await;
    let asked = || dns.0.load(Ordering::Relaxed);
    let [one, other] = &upstream.endpoints()[..] else { panic!("two addresses") };
    let fail = |endpoint: &Arc<Endpoint>| {
        let mut attempt = endpoint.start_anyway(Instant::now()).unwrap();
        upstream.report(&mut attempt, Outcome::ConnectFailed, Instant::now());
    };
    tokio::time::sleep(Duration::from_secs(5)).await;
    fail(one);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(asked(), 1, "the other may be well");
    fail(other);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(asked(), 2);
    (0..100).for_each(|_| fail(one));
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(asked(), 2);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(asked(), 3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asked(), 3, "nobody has asked for it since");
    let mut attempt = other.start_anyway(Instant::now()).unwrap();
    upstream.report(&mut attempt, Outcome::Success, Instant::now());
    fail(one);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(asked(), 3, "the other is well again");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_leaves_the_upstream_unready_until_it_does() {
    let dns = Arc::new(FakeDns::default());
    let live = Live::new(Handle::current(), dns.clone(), Arc::new(()));
    let upstream = build(&upstream_of(&[("users.internal:80", 1)]), &live, None);
    settled(&upstream).await;
    assert_eq!(pick(&upstream, &[]).err(), Some(NoEndpoint::Unresolved));
    dns.now_says(&["10.0.0.1"]);
    until("it has resolved", || upstream.is_ready()).await;
}

#[tokio::test]
async fn a_failing_name_server_and_a_reload_keep_the_last_answer() {
    let dns = FakeDns::says(&["10.0.0.1"]);
    let live = Live::new(Handle::current(), dns.clone(), Arc::new(()));
    let old = build(&upstream_of(&[("users.internal:80", 1)]), &live, None);
    settled(&old).await;
    *lock(&dns.0) = None;
    let new = build(&upstream_of(&[("users.internal:80", 1), ("10.0.0.2:80", 1)]), &live, Some(&old));
    assert_eq!(names(&new), ["10.0.0.1:80", "10.0.0.2:80"]);
    settled(&new).await;
    tokio::task::yield_now().await;
    assert_eq!(names(&new), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[tokio::test]
async fn the_first_probe_decides_and_a_reload_keeps_the_verdict() {
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let open_at: SocketAddr = open.local_addr().unwrap();
    let closed_at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (good, bad) = (open_at.to_string(), closed_at.to_string());
    let recorder = Arc::new(Recorder::default());
    let live = Live::new(Handle::current(), Arc::new(FakeDns::default()), recorder.clone());
    let config =
        config::Upstream { health_check: Some(tcp_check()), ..upstream_of(&[(&good, 1), (&bad, 1)]) };

    let old = build(&config, &live, None);
    assert_eq!(pick(&old, &[]).err(), Some(NoEndpoint::Unhealthy), "nobody has been probed yet");
    settled(&old).await;
    let health: Vec<_> = old.endpoints().iter().map(|endpoint| endpoint.health()).collect();
    assert_eq!(health, [Health::Healthy, Health::Unhealthy]);
    let heard = recorder.take();
    assert!(
        heard.contains(&format!("healthy {good}")) && heard.contains(&format!("unhealthy {bad}")),
        "{heard:?}"
    );

    let new = build(&config::Upstream { balancer: config::Balancer::Random, ..config }, &live, Some(&old));
    let health: Vec<_> = new.endpoints().iter().map(|endpoint| endpoint.health()).collect();
    assert_eq!(health, [Health::Healthy, Health::Unhealthy]);
    assert!(recorder.take().is_empty());
    (0..20).for_each(|_| assert_eq!(*pick(&new, &[]).unwrap().name, *good));
}

#[tokio::test]
async fn looking_once_resolves_and_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let live = Live::offline(FakeDns::says(&["127.0.0.1"]), Arc::new(()));
    let config = upstream_of(&[(&format!("users.internal:{}", address.port()), 1), ("nonsense", 1)]);
    let outcomes = resolve_once(&config, &live).await;
    assert_eq!(outcomes[0].1, Ok(vec![address.into()]));
    assert!(outcomes[1].1.is_err());
    assert_eq!(probe_once(&config, &live, &outcomes[0].0, address.into()).await, Ok(()));
    drop(listener);
    assert!(probe_once(&config, &live, &outcomes[0].0, address.into()).await.is_err());
}

/// With so many endpoints, and what else is set.
fn upstream_with(endpoints: usize, settings: &str) -> config::Upstream {
    let config: config::Upstream = serde_yaml::from_str(&format!("{{endpoints: [], {settings}}}")).unwrap();
    let address = |n| config::Endpoint::at(format!("10.0.0.{}:80", n + 1), 1);
    config::Upstream { endpoints: (0..endpoints).map(address).collect(), ..config }
}

fn meets(upstream: &Upstream, endpoint: &Arc<Endpoint>, outcome: Outcome, times: usize, now: Instant) {
    for _ in 0..times {
        upstream.report(&mut endpoint.start_anyway(now).unwrap(), outcome, now);
    }
}

/// Owes so many answers that each says something.
fn owing(endpoint: &Arc<Endpoint>, now: Instant) -> Vec<InFlight> {
    let mut owed: Vec<_> = (0..5).map(|_| endpoint.start_anyway(now).unwrap()).collect();
    owed.iter_mut().for_each(|attempt| attempt.is_asked(now));
    owed
}

#[test]
fn the_last_endpoint_that_can_serve_is_never_ejected() {
    let now = Instant::now();
    let weightless = config::Endpoint::at("10.0.0.2:80", 0);
    let mut drained = upstream_with(1, "outlier: {}");
    drained.endpoints.push(weightless);
    let is_ejected = |config: &config::Upstream, spoil: &dyn Fn(&Upstream, &Arc<Endpoint>)| {
        let upstream = build(config, &offline(), None);
        let [one, other] = &upstream.endpoints()[..] else { panic!("two endpoints") };
        spoil(&upstream, other);
        meets(&upstream, one, Outcome::ServerError, 20, now);
        one.is_ejected(now)
    };
    let two = upstream_with(2, "outlier: {}");
    assert!(is_ejected(&two, &|_, _| ()));
    assert!(!is_ejected(&drained, &|_, _| ()), "the other gets nothing");
    assert!(!is_ejected(&two, &|upstream, other| meets(upstream, other, Outcome::ConnectFailed, 1, now)));
    assert!(!is_ejected(&two, &|upstream, other| meets(upstream, other, Outcome::ServerError, 1, now)));
    let breaker =
        upstream_with(2, "outlier: {}, circuit_breaker: {consecutive_failures: 3, failures: [timeout]}");
    let open = |upstream: &Upstream, other: &Arc<Endpoint>| {
        let successes: Vec<_> = (0..20).map(|_| other.start_anyway(now).unwrap()).collect();
        meets(upstream, other, Outcome::Timeout, 3, now);
        for mut success in successes {
            upstream.report(&mut success, Outcome::Success, now);
        }
        assert!(other.start_anyway(now).is_none() && other.is_well(now));
    };
    assert!(!is_ejected(&breaker, &open), "its circuit breaker lets nothing through");
    let checked = config::Upstream { health_check: Some(tcp_check()), ..two.clone() };
    let unhealthy = |_: &Upstream, other: &Arc<Endpoint>| {
        other.probed(false, 1);
    };
    assert!(!is_ejected(&checked, &unhealthy));
}

#[test]
fn of_two_that_fail_at_the_same_moment_one_stays() {
    let now = Instant::now();
    for _ in 0..50 {
        let settings = "outlier: {consecutive_failures: 1, max_ejected: 100%, failure_ratio: 50%, window: 2}";
        let upstream = build(&upstream_with(2, settings), &offline(), None);
        let endpoints = upstream.endpoints();
        std::thread::scope(|scope| {
            for endpoint in &endpoints {
                let upstream = &upstream;
                scope.spawn(move || meets(upstream, endpoint, Outcome::ServerError, 20, now));
            }
        });
        assert!(endpoints.iter().any(|endpoint| !endpoint.is_ejected(now)));
    }
}

#[test]
fn streams_that_end_in_silence_do_not_eject_in_a_row() {
    let now = Instant::now();
    for (begins, ejected) in [(true, false), (false, true)] {
        let upstream = build(&upstream_with(2, "outlier: {}"), &offline(), None);
        let one = upstream.endpoints()[0].clone();
        for _ in 0..10 {
            let mut attempt = one.start_anyway(now).unwrap();
            if begins {
                upstream.lives(&mut attempt, now);
            }
            upstream.report(&mut attempt, Outcome::Timeout, now);
        }
        assert_eq!(one.is_ejected(now), ejected, "{begins}");
    }
}

#[test]
fn where_all_endpoints_are_silent_requests_are_sent_all_the_same() {
    for balancer in ["round_robin", "least_requests", "p2c_ewma"] {
        let upstream = build(&upstream_with(30, &format!("balancer: {balancer}")), &offline(), None);
        let now = Instant::now();
        let _owed: Vec<_> = upstream.endpoints().iter().map(|endpoint| owing(endpoint, now)).collect();
        let (later, mut rng) = (now + Duration::from_millis(500), fastrand::Rng::with_seed(1));
        for _ in 0..30 {
            assert!(upstream.begin(None, &[], later, &mut rng).is_ok(), "{balancer}");
        }
    }
}

#[test]
fn requests_leave_a_silent_endpoint_only_for_one_that_answers() {
    let upstream = build(&upstream_with(2, "outlier: {max_silence: 2s}"), &offline(), None);
    let [one, other] = &upstream.endpoints()[..] else { panic!("two endpoints") };
    let now = Instant::now();
    let (mut owed, mut others) = (owing(one, now), owing(other, now));
    let at = |millis| now + Duration::from_millis(millis);
    assert!(!upstream.is_hopeless(one, at(10_000)), "both are slow");
    upstream.report(&mut others[0], Outcome::Success, at(1990));
    assert!(!upstream.is_hopeless(one, at(1999)));
    assert!(upstream.is_hopeless(one, at(2000)));
    upstream.lives(&mut owed[0], at(2000));
    assert!(!upstream.is_hopeless(one, at(2001)));
}

#[test]
fn a_reload_keeps_what_is_known_of_the_pace() {
    let config = upstream_with(2, "outlier: {}");
    let old = build(&config, &offline(), None);
    let now = Instant::now();
    old.observe(Duration::from_secs(30), now);
    let new = build(&upstream_with(3, "outlier: {}, balancer: random"), &offline(), Some(&old));
    assert!(!Arc::ptr_eq(old.pool.shared(), new.pool.shared()));
    let [one, other, ..] = &new.endpoints()[..] else { panic!("three endpoints") };
    let _owed = owing(one, now);
    let later = now + Duration::from_secs(29);
    meets(&new, other, Outcome::Success, 1, later);
    assert!(!new.is_hopeless(one, later));
}

#[tokio::test]
async fn srv_records_are_endpoints_of_which_the_lowest_priority_comes_first_and_changes_are_followed() {
    let server = name_server::NameServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let files = Files { hosts: at("hosts"), resolv_conf: at("resolv.conf"), port: server.address().port() };
    let hosts = ["a.internal A 10.0.0.1", "b.internal A 10.0.0.2"];
    let two = ["users.internal SRV 20 5 8082 b.internal.", "users.internal SRV 10 5 8081 a.internal."];
    server.say(1, &[hosts, two].concat());
    let live = Live::new(Handle::current(), Arc::new(SystemResolver::of(files)), Arc::new(()));
    let config = serde_yaml::from_str("{endpoints: [{srv: users.internal, weight: 2}]}").unwrap();
    let upstream = build(&config, &live, None);
    settled(&upstream).await;
    let shown =
        |endpoint: &Arc<Endpoint>| format!("{} {} {}", endpoint.name, endpoint.weight, endpoint.origin);
    let all: Vec<_> = upstream.endpoints().iter().map(shown).collect();
    assert_eq!(all, ["10.0.0.1:8081 10 a.internal:8081", "10.0.0.2:8082 10 b.internal:8082"]);
    (0..10).for_each(|_| assert_eq!(*pick(&upstream, &[]).unwrap().name, *"10.0.0.1:8081"));
    upstream.endpoints()[0].met(Outcome::ConnectFailed, Instant::now());
    (0..10).for_each(|_| assert_eq!(*pick(&upstream, &[]).unwrap().name, *"10.0.0.2:8082"));
    upstream.endpoints()[1].met(Outcome::ConnectFailed, Instant::now());
    assert!(pick(&upstream, &[]).is_ok(), "where none can be reached, any may be tried");
    server.say(1, &[hosts[1], "users.internal SRV 10 5 8083 b.internal."]);
    until("the records have been asked for again", || names(&upstream) == ["10.0.0.2:8083"]).await;
}
