use futures::FutureExt;
use tokio::sync::Semaphore;

use super::*;
use crate::{
    control::{
        instance::tests::instance,
        registration::Ttls,
        registry::Settings,
        store::{Change, Kind, Memory, Store},
    },
    observe::metrics::Metrics,
    policy::flapping::Flapping,
};

/// A feed of the services `a` and `b`, each with one instance; and what closes it.
fn feed() -> (Arc<Feed>, watch::Sender<bool>) {
    let day = Duration::from_secs(86_400);
    let settings = Settings {
        ttls: Ttls { default: day, min: Duration::from_secs(1), max: day },
        hold: None,
        flapping: Flapping { turns: 5, window: Duration::from_secs(60) },
        instances: 10,
        instances_per_service: 10,
    };
    let now = std::time::Instant::now();
    let store = Arc::new(Memory::new(Position { epoch: 1, revision: 0 }, Vec::new()));
    for name in ["a", "b"] {
        store.apply(Change::Put(instance(name, 1), Kind::Registered), now);
    }
    let metrics = Metrics::new("test").of_registry().clone();
    let (close, closing) = watch::channel(false);
    let seats = Seats::new(Arc::new(Semaphore::new(10)), metrics.clone());
    let registry = Arc::new(Registry::new(settings, store, metrics, now));
    (Arc::new(Feed { registry, gate: Gate::default(), seats, closing }), close)
}

/// A reader with room for so many batches, and what it is told.
fn reader(feed: &Arc<Feed>, room: usize) -> (Reader, mpsc::Receiver<Result<Vec<v1::Update>, Status>>) {
    let (updates, told) = mpsc::channel(room);
    let seat = feed.seats.take("services").ok().unwrap();
    (Reader::new(feed.clone(), seat, Caller::gateway(), updates), told)
}

fn subscribe(subscription: u64, name: &str) -> Result<v1::WatchRequest, Status> {
    let selector = Some(v1::Selector { name: name.to_owned(), ..v1::Selector::default() });
    let subscribe = v1::Subscribe { subscription, selector, ..v1::Subscribe::default() };
    Ok(v1::WatchRequest { message: Some(Message::Subscribe(subscribe)) })
}

/// These, and nothing more, for ever.
fn asking(requests: impl IntoIterator<Item = Result<v1::WatchRequest, Status>>) -> Requests {
    let requests: Vec<_> = requests.into_iter().collect();
    stream::iter(requests).chain(stream::pending()).boxed()
}

#[tokio::test(start_paused = true)]
async fn whoever_takes_nothing_is_let_go_after_half_a_minute() {
    let (feed, _close) = feed();
    let (mut reader, _told) = reader(&feed, 1);
    reader.updates.try_send(Ok(Vec::new())).unwrap();
    let began = Instant::now();
    let ended = reader.serve(asking([subscribe(1, "a")])).await;
    assert_eq!(ended, Ended::Slow);
    assert_eq!(began.elapsed().as_secs(), TAKES_NOTHING.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_still_stream_gives_signs_of_life_until_it_is_old() {
    let (feed, _close) = feed();
    let (mut reader, mut told) = reader(&feed, 100);
    let began = Instant::now();
    assert_eq!(reader.serve(asking([subscribe(1, "a")])).await, Ended::Aged);
    let age = began.elapsed();
    assert!(AGE.mul_f64(0.8) <= age && age <= AGE.mul_f64(1.2), "{age:?}");
    drop(reader);
    let mut subscriptions = Vec::new();
    while let Some(batch) = told.recv().await {
        subscriptions.extend(batch.unwrap().iter().map(|update| update.subscription));
    }
    assert_eq!(subscriptions[0], 1);
    let signs = age.as_secs() / PROGRESS.as_secs();
    let heard = subscriptions.iter().filter(|subscription| **subscription == 0).count() as u64;
    assert!(signs - 1 <= heard && heard <= signs + 1, "{heard} in {age:?}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_the_process_does() {
    let (feed, close) = feed();
    let (mut reader, _told) = reader(&feed, 10);
    close.send_replace(true);
    assert_eq!(reader.serve(asking([])).now_or_never(), Some(Ended::Shutdown));
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_together_is_told_together() {
    let (feed, _close) = feed();
    let (mut reader, mut told) = reader(&feed, 10);
    assert!(reader.serve(asking([subscribe(7, "b"), subscribe(3, "a")])).now_or_never().is_none());
    let seen = |update: v1::Update| (update.subscription, update.changed.len(), update.end);
    let batch: Vec<_> = told.try_recv().unwrap().unwrap().into_iter().map(seen).collect();
    assert_eq!(batch, [(3, 1, true), (7, 1, true)]);
    assert!(told.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_has_no_more_subscriptions_than_it_may() {
    let (feed, _close) = feed();
    let (mut reader, mut told) = reader(&feed, MOST_SUBSCRIPTIONS + 10);
    let many = (1..=MOST_SUBSCRIPTIONS as u64 + 1).map(|subscription| subscribe(subscription, "a"));
    assert_eq!(reader.serve(asking(many)).await, Ended::Refused);
    drop(reader);
    let mut last = None;
    while let Some(batch) = told.recv().await {
        last = Some(batch);
    }
    let refused = last.unwrap().unwrap_err();
    assert_eq!(refused.metadata().get("x-tidegate-reason").unwrap(), "limit");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_has_a_number_of_its_own() {
    let (feed, _close) = feed();
    for requests in [vec![subscribe(0, "a")], vec![subscribe(1, "a"), subscribe(1, "b")]] {
        let (mut reader, _told) = reader(&feed, 10);
        assert_eq!(reader.serve(asking(requests)).await, Ended::Refused);
    }
}
