//! One reader of the feed, from its first message to its end.
//!
//! It has a set of services that are due and never a queue: what a slow reader is told at last is the newest. What it costs is a
//! revision for each of its subscriptions.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    time::Instant,
};
use tonic::Status;

use super::{
    Subscription,
    difference::Difference,
    gate::Gate,
    messages,
    seats::{Seat, Seats},
    told::{Subscriptions, Told},
};
use crate::{
    control::{
        access::Caller,
        grpc::status,
        refused::{Reason, Refused},
        registry::Registry,
        store::Position,
    },
    upstream::Selector,
    wire::v1::{self, watch_request::Message},
};

/// A reader that takes nothing for so long is let go: it comes back with what it has.
pub(crate) const TAKES_NOTHING: Duration = Duration::from_secs(30);
/// A reader hears something this often.
pub(crate) const PROGRESS: Duration = Duration::from_secs(15);
/// How often it is looked whether the registry is still warming, while it is.
const WARMING: Duration = Duration::from_secs(1);
/// Each stream lives this long, up to a fifth longer or shorter, so that readers spread over all servers.
pub(crate) const AGE: Duration = Duration::from_secs(600);
/// A reader that does not say what is in force costs no more than that.
const MOST_UNAPPLIED: usize = 1_000;
/// A reader that asks for ever is told something in between.
const MOST_AT_ONCE: usize = 1_000;
/// What is told at once goes together, up to about so much: thousands of small frames would each have their place for ever.
const LARGEST_BATCH: usize = 16 * 1024;
/// A reader has no more subscriptions than that.
const MOST_SUBSCRIPTIONS: usize = 20_000;

pub(crate) type Requests = Pin<Box<dyn Stream<Item = Request> + Send>>;
type Request = Result<v1::WatchRequest, Status>;
pub(crate) type Updates = mpsc::Sender<Result<Vec<v1::Update>, Status>>;

/// What streams share.
pub(crate) struct Feed {
    pub(crate) registry: Arc<Registry>,
    pub(crate) gate: Gate,
    pub(crate) seats: Seats,
    /// The process is about to end, or its successor serves.
    pub(crate) closing: watch::Receiver<bool>,
}

/// Why a stream has ended, as a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By its reader.
    Left,
    /// It took nothing.
    Slow,
    /// It had lived long enough.
    Aged,
    /// The process ends, or its successor serves.
    Shutdown,
    Refused,
    /// The same gateway has come by another stream.
    Replaced,
}

impl Ended {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Ended::Left => "left",
            Ended::Slow => "slow",
            Ended::Aged => "age",
            Ended::Shutdown => "shutdown",
            Ended::Refused => "refused",
            Ended::Replaced => "replaced",
        }
    }
}

pub(crate) struct Reader {
    feed: Arc<Feed>,
    subscription: Subscription,
    told: Subscriptions,
    due: BTreeSet<Arc<str>>,
    /// There are subscriptions of which nothing was said yet.
    has_new: bool,
    /// While the first news are sent.
    turn: Option<OwnedSemaphorePermit>,
    caller: Caller,
    /// What is about to be sent, and how large that is.
    batch: Vec<v1::Update>,
    batched: usize,
    updates: Updates,
    said: Instant,
    looked: Instant,
    was_warming: bool,
    /// What was told and is not in force yet: up to which revision, and since when.
    unapplied: VecDeque<(Position, std::time::Instant)>,
    seat: Seat,
}

impl Reader {
    pub(crate) fn new(feed: Arc<Feed>, seat: Seat, caller: Caller, updates: Updates) -> Reader {
        let subscription = feed.registry.subscribe(Some(BTreeSet::new()));
        let was_warming = feed.registry.is_warming();
        Reader {
            feed,
            subscription,
            told: Subscriptions::default(),
            due: BTreeSet::new(),
            has_new: false,
            turn: None,
            caller,
            batch: Vec::new(),
            batched: 0,
            updates,
            said: Instant::now(),
            looked: Instant::now(),
            was_warming,
            unapplied: VecDeque::new(),
            seat,
        }
    }

    /// Tells what is asked for in `requests`, until one of the two has enough.
    pub(crate) async fn run(mut self, requests: Requests) {
        let ended = self.serve(requests).await;
        self.seat.ended(ended);
    }

    async fn serve(&mut self, mut requests: Requests) -> Ended {
        let mut closing = self.feed.closing.clone();
        let age = Instant::now() + AGE.mul_f64(0.8 + 0.4 * fastrand::f64());
        loop {
            if let Err(ended) = self.tell_what_is_due().await {
                return ended;
            }
            let progress = self.said + PROGRESS;
            let look = if self.was_warming { progress.min(self.looked + WARMING) } else { progress };
            tokio::select! {
                request = requests.next() => {
                    if let Err(ended) = self.take_all(request, &mut requests).await {
                        return ended;
                    }
                }
                changed = self.subscription.changed() => self.due.extend(changed),
                () = tokio::time::sleep_until(look) => {
                    if let Err(ended) = self.say_progress().await {
                        return ended;
                    }
                }
                () = tokio::time::sleep_until(age) => return Ended::Aged,
                // That nobody can say so any more means the same.
                () = async { drop(closing.wait_for(|closing| *closing).await) } => return Ended::Shutdown,
                () = self.updates.closed() => return Ended::Left,
            }
        }
    }

    /// With all that have come since: those who ask for many services at once are told of them in one turn.
    async fn take_all(&mut self, first: Option<Request>, requests: &mut Requests) -> Result<(), Ended> {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(request) = next {
            match request {
                Some(Ok(request)) => {
                    if let Err(refused) = self.take(request) {
                        return Err(self.refuse(&refused).await);
                    }
                }
                Some(Err(_)) => return Err(Ended::Left),
                // Nothing more is asked, and what was asked is still wanted.
                None => *requests = stream::pending().boxed(),
            }
            taken += 1;
            next = if taken < MOST_AT_ONCE { requests.next().now_or_never() } else { None };
        }
        Ok(())
    }

    fn take(&mut self, request: v1::WatchRequest) -> Result<(), Refused> {
        match request.message {
            Some(Message::Hello(_)) | None => Ok(()),
            Some(Message::Subscribe(subscribe)) => self.subscribe(subscribe),
            Some(Message::Unsubscribe(v1::Unsubscribe { subscription })) => {
                self.unsubscribe(subscription);
                Ok(())
            }
            Some(Message::Applied(v1::Applied { epoch, revision })) => {
                self.applied(Position { epoch, revision });
                Ok(())
            }
        }
    }

    fn applied(&mut self, position: Position) {
        let is_in_force =
            |(told, _): &(Position, _)| told.epoch != position.epoch || told.revision <= position.revision;
        while self.unapplied.front().is_some_and(is_in_force) {
            if let Some((told, begun)) = self.unapplied.pop_front()
                && told.epoch == position.epoch
            {
                self.seat.applied(begun.elapsed());
            }
        }
        if self.unapplied.is_empty() {
            // The first of all may have been many.
            self.unapplied = VecDeque::new();
        }
    }

    fn subscribe(&mut self, subscribe: v1::Subscribe) -> Result<(), Refused> {
        let v1::Subscribe { subscription, selector, epoch, revision } = subscribe;
        if subscription == 0 || self.told.has(subscription) {
            return Err(Reason::BadRequest.because("a subscription has a number of its own, 1 or more"));
        }
        if self.told.len() == MOST_SUBSCRIPTIONS {
            return Err(
                Reason::Limit.because(format!("a stream has at most {MOST_SUBSCRIPTIONS} subscriptions"))
            );
        }
        let selector = read_selector(selector)?;
        self.caller.check_discover(selector.name())?;
        let name = self.subscription.follow(selector.name());
        let narrowed = selector.is_narrow().then(|| Box::new(selector));
        let position = Position { epoch, revision };
        self.told.insert(subscription, Told { name: name.clone(), narrowed, position, is_new: true });
        self.due.insert(name);
        self.has_new = true;
        Ok(())
    }

    fn unsubscribe(&mut self, subscription: u64) {
        if let Some(name) = self.told.remove(subscription) {
            self.subscription.forget(&name);
            self.due.remove(&name);
        }
    }

    async fn tell_what_is_due(&mut self) -> Result<(), Ended> {
        if self.has_new {
            self.wait_for_turn().await?;
        }
        if !self.due.is_empty() {
            for subscription in self.told.of(&std::mem::take(&mut self.due)) {
                self.tell(subscription).await?;
            }
        }
        self.send().await?;
        if self.turn.is_some() {
            self.until_taken().await?;
        }
        (self.turn, self.has_new) = (None, false);
        Ok(())
    }

    /// Messages are several times as large until they are encoded: whoever is next waits for that.
    async fn until_taken(&self) -> Result<(), Ended> {
        match tokio::time::timeout(TAKES_NOTHING, self.updates.reserve()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Ended::Left),
            Err(_) => Err(Ended::Slow),
        }
    }

    /// Many that come at once are told one after the other.
    async fn wait_for_turn(&mut self) -> Result<(), Ended> {
        let turn = self.feed.gate.turn();
        tokio::pin!(turn);
        loop {
            tokio::select! {
                turn = &mut turn => {
                    self.turn = turn;
                    return Ok(());
                }
                () = tokio::time::sleep_until(self.said + PROGRESS) => {
                    // Nothing is told by that but that it is alive.
                    let alive = messages::progress(Position { epoch: 0, revision: 0 }, true);
                    self.say(alive).await?;
                    self.send().await?;
                }
                () = self.updates.closed() => return Err(Ended::Left),
            }
        }
    }

    async fn tell(&mut self, subscription: u64) -> Result<(), Ended> {
        let Some(told) = self.told.get_mut(subscription) else { return Ok(()) };
        let news = Difference::since(&self.feed.registry, &told.name, told.position);
        told.position = news.position;
        // One that is new is always answered, also where nothing has changed since it was here.
        if news.is_empty() && !std::mem::take(&mut told.is_new) {
            return Ok(());
        }
        told.is_new = false;
        if let Some(begun) = news.begun
            && self.unapplied.len() < MOST_UNAPPLIED
        {
            self.unapplied.push_back((news.position, begun));
        }
        for update in messages::updates(subscription, told.narrowed.as_deref(), &news) {
            self.say(update).await?;
        }
        Ok(())
    }

    /// All there is to tell, and then up to where that is.
    async fn say_progress(&mut self) -> Result<(), Ended> {
        self.looked = Instant::now();
        let (position, warming) = (self.feed.registry.position(), self.feed.registry.is_warming());
        if self.said.elapsed() < PROGRESS && self.was_warming == warming {
            return Ok(());
        }
        for subscription in self.told.numbers() {
            self.tell(subscription).await?;
        }
        self.was_warming = warming;
        self.say(messages::progress(position, warming)).await?;
        self.send().await
    }

    /// With what else there is to say.
    async fn say(&mut self, update: v1::Update) -> Result<(), Ended> {
        self.batched += update.encoded_len();
        self.batch.push(update);
        if self.batched < LARGEST_BATCH { Ok(()) } else { self.send().await }
    }

    /// All that was said.
    async fn send(&mut self) -> Result<(), Ended> {
        self.batched = 0;
        let batch = std::mem::take(&mut self.batch);
        let count = batch.len() as u64;
        if count == 0 {
            return Ok(());
        }
        match tokio::time::timeout(TAKES_NOTHING, self.updates.send(Ok(batch))).await {
            Ok(Ok(())) => {
                self.seat.told(count);
                self.said = Instant::now();
                Ok(())
            }
            Ok(Err(_)) => Err(Ended::Left),
            Err(_) => Err(Ended::Slow),
        }
    }

    async fn refuse(&self, refused: &Refused) -> Ended {
        let _ = tokio::time::timeout(TAKES_NOTHING, self.updates.send(Err(status(refused)))).await;
        Ended::Refused
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.told.names().for_each(|name| self.subscription.forget(name));
    }
}

/// # Errors
///
/// It selects nothing.
pub(crate) fn read_selector(selector: Option<v1::Selector>) -> Result<Selector, Refused> {
    let v1::Selector { name, tags, metadata } =
        selector.ok_or_else(|| Reason::BadRequest.because("`selector` is missing"))?;
    Selector::new(&name, &tags, &metadata.into_iter().collect())
        .map_err(|why| Reason::BadRequest.because(format!("{name:?} {why}")))
}

#[cfg(test)]
mod tests;
