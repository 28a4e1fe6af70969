use std::time::Duration;

use futures::stream;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    config::ConfigsSettings,
    control::configs::{Asked, Change, Course, Memory, Terms, Version, Versions},
    observe::metrics::Metrics,
};

const ROUTES: &str = "routes: [{respond: {status: 204}}]";

/// What gateways follow, and what closes it.
fn follow() -> (Arc<Follow>, watch::Sender<bool>) {
    let metrics = Metrics::new("test").of_registry().clone();
    let settings = ConfigsSettings::default();
    let store = Arc::new(Memory::new(None, &settings.rollout));
    let configs = Arc::new(Configs::new(store, settings, metrics.clone()));
    tokio::spawn(configs.clone().run());
    let (close, closing) = watch::channel(false);
    let seats = Seats::new(Arc::new(Semaphore::new(10)), metrics);
    (Arc::new(Follow { configs, gate: Gate::default(), seats, closing }), close)
}

async fn put(follow: &Follow, text: &str) -> u64 {
    let terms = Terms { at_once: true, by: "test".into(), ..Terms::default() };
    let applied = follow.configs.apply("edge", Change::Main(text.into()), terms).await.unwrap();
    applied.version.unwrap().number
}

/// A gateway that takes so many orders before it reads any.
fn gateway(
    follow: &Arc<Follow>,
    room: usize,
) -> (Following, mpsc::Receiver<Result<v1::ConfigOrder, Status>>) {
    let hello = v1::ConfigHello {
        hello: Some(v1::Hello { node: "g1".into(), ..v1::Hello::default() }),
        config: "edge".into(),
        ..v1::ConfigHello::default()
    };
    let (orders, told) = mpsc::channel(room);
    let arrival = Arrival::read(hello).unwrap();
    (Following::begin(follow.clone(), arrival, &Caller::gateway(), orders).ok().unwrap(), told)
}

/// One that says nothing, for ever.
fn silent() -> impl Stream<Item = Report> + Send + Unpin {
    stream::pending()
}

fn version(order: Option<Result<v1::ConfigOrder, Status>>) -> (&'static str, u64) {
    match order.expect("an order").unwrap().message.unwrap() {
        Order::Config(config) => ("config", config.version),
        Order::Progress(progress) => ("progress", progress.version),
        Order::Check(check) => ("check", check.version),
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_is_let_go_after_half_a_minute() {
    let (follow, _close) = follow();
    put(&follow, ROUTES).await;
    // There is room for the first, and none for the sign of life after it.
    let (mut following, _told) = gateway(&follow, 1);
    let began = Instant::now();
    assert_eq!(following.serve(silent()).await, Ended::Slow);
    assert!((TAKES_NOTHING..=PROGRESS + TAKES_NOTHING).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_still_stream_gives_signs_of_life_until_it_is_old() {
    let (follow, _close) = follow();
    put(&follow, ROUTES).await;
    let (mut following, mut told) = gateway(&follow, 100);
    let began = Instant::now();
    assert_eq!(following.serve(silent()).await, Ended::Aged);
    let age = began.elapsed();
    assert!(AGE.mul_f64(0.8) <= age && age <= AGE.mul_f64(1.2), "{age:?}");
    drop(following);
    assert_eq!(version(told.recv().await), ("config", 1));
    let mut signs = 0;
    while let Some(order) = told.recv().await {
        assert_eq!(version(Some(order)), ("progress", 1), "it is sent once, whatever comes of it");
        signs += 1;
    }
    let due = age.as_secs() / PROGRESS.as_secs();
    assert!((due - 1..=due + 1).contains(&signs), "{signs} in {age:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_where_nothing_is_put_is_told_so_at_once() {
    let (follow, close) = follow();
    let (mut following, mut told) = gateway(&follow, 10);
    let served = tokio::spawn(async move { following.serve(silent()).await });
    let began = Instant::now();
    assert_eq!(version(told.recv().await), ("progress", 0));
    assert_eq!(began.elapsed(), Duration::ZERO, "it waits for that with its start");
    put(&follow, ROUTES).await;
    // It is asked to check it first, and says nothing.
    let config = loop {
        match version(told.recv().await) {
            ("config", version) => break version,
            ("check" | "progress", _) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(config, 1);
    close.send_replace(true);
    assert_eq!(served.await.unwrap(), Ended::Shutdown);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_sent_a_configuration_waits_for_its_turn() {
    let (follow, _close) = follow();
    put(&follow, ROUTES).await;
    let mut turns = Vec::new();
    while let Some(turn) = futures::FutureExt::now_or_never(follow.gate.turn()).flatten() {
        turns.push(turn);
    }
    let (mut following, mut told) = gateway(&follow, 10);
    let served = tokio::spawn(async move { following.serve(silent()).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(told.try_recv().is_err());
    turns.pop();
    assert_eq!(version(told.recv().await), ("config", 1));
    drop(told);
    assert_eq!(served.await.unwrap(), Ended::Left);
}

/// A store that does not answer yet.
struct Unread(tokio::sync::broadcast::Sender<Name>);

impl Versions for Unread {
    fn names(&self) -> Asked<'_, Vec<Name>> {
        Box::pin(std::future::pending())
    }
    fn versions<'a>(&'a self, _: &'a str) -> Asked<'a, Vec<Arc<Version>>> {
        Box::pin(std::future::pending())
    }
    fn current<'a>(&'a self, _: &'a str) -> Asked<'a, Option<Course>> {
        Box::pin(std::future::pending())
    }
    fn put<'a>(&'a self, _: &'a Name, _: Arc<Version>, _: Course) -> Asked<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn go_on<'a>(&'a self, _: &'a Name, _: Course) -> Asked<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn remove<'a>(&'a self, _: &'a Name, _: Course) -> Asked<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn watch(&self) -> tokio::sync::broadcast::Receiver<Name> {
        self.0.subscribe()
    }
}

#[tokio::test(start_paused = true)]
async fn while_what_is_kept_is_being_read_calls_are_refused_and_gateways_wait() {
    let metrics = Metrics::new("test").of_registry().clone();
    let store = Arc::new(Unread(tokio::sync::broadcast::Sender::new(1)));
    let configs = Arc::new(Configs::new(store, ConfigsSettings::default(), metrics.clone()));
    tokio::spawn(configs.clone().run());
    let (_close, closing) = watch::channel(false);
    let seats = Seats::new(Arc::new(Semaphore::new(10)), metrics);
    let follow = Arc::new(Follow { configs, gate: Gate::default(), seats, closing });
    let began = Instant::now();
    let refused = follow.configs.version("edge", None).await.unwrap_err();
    assert_eq!((refused.reason, began.elapsed()), (Reason::Warming, Duration::from_secs(5)));
    let (mut following, mut told) = gateway(&follow, 10);
    let served = tokio::spawn(async move { following.serve(silent()).await });
    // It keeps what it has, and is told nothing else.
    for _ in 0..3 {
        assert_eq!(version(told.recv().await), ("progress", 0));
    }
    drop(told);
    assert_eq!(served.await.unwrap(), Ended::Left);
}
