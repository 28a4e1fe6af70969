//! How many requests an upstream is sent at once, and how many wait for their turn. An upstream that is given more than it
//! can do gets slower for all; a queue that is not bounded only hides it. With `concurrency` how many that is is learnt; who finds no
//! place then is refused at once, as one who waits is served late.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::concurrency::{Concurrency, Place};
use crate::{config, policy::priorities::Priority, sharded::Padded};

/// Requests that are sent at once where nothing was set: as many as one listener's connections.
const MOST: usize = 20_000;

/// The limits that a room is made from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    /// Requests sent at once; `None` without a limit.
    pub size: Option<usize>,
    pub max_pending: usize,
    pub pending_timeout: Duration,
    /// How to learn a limit.
    pub concurrency: Option<config::Concurrency>,
}

/// The room of one upstream, all endpoints together. Kept over reloads that do not change its limits.
pub struct Room {
    /// Those of a limit that was set; who finds none waits.
    places: Option<Arc<Semaphore>>,
    /// Without one: requests sent and not ended. Nobody waits, and so many are no load but a fault.
    unlimited: Arc<Padded<AtomicUsize>>,
    size: usize,
    pending: AtomicUsize,
    max_pending: usize,
    pending_timeout: Duration,
    concurrency: Option<Arc<Concurrency>>,
}

/// A request that may be sent, until dropped.
#[derive(Debug, Default)]
pub struct Admitted {
    _place: Option<OwnedSemaphorePermit>,
    _counted: Option<Counted>,
    learnt: Option<Place>,
}

/// Why a request may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `max_pending` are waiting.
    Queue,
    /// It waited for `pending_timeout`, or for as long as it could.
    Waited,
    /// As many are in flight as the upstream can do, or what is left is for more important ones.
    Shed,
}

impl Room {
    pub(super) fn new(settings: &Settings) -> Room {
        let &Settings { size, max_pending, pending_timeout, ref concurrency } = settings;
        let size = size.map(|size| size.min(Semaphore::MAX_PERMITS));
        Room {
            places: size.map(|size| Arc::new(Semaphore::new(size))),
            unlimited: Arc::default(),
            size: size.unwrap_or(MOST),
            pending: AtomicUsize::new(0),
            max_pending,
            pending_timeout,
            concurrency: concurrency
                .as_ref()
                .map(|settings| Arc::new(Concurrency::new(settings, Instant::now()))),
        }
    }

    pub fn is_limited(&self) -> bool {
        self.places.is_some()
    }

    /// Requests waiting now.
    pub fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// Requests sent and not ended; 0 where there is no limit to count them for.
    pub fn taken(&self) -> usize {
        let unlimited = || self.unlimited.load(Relaxed);
        self.places.as_ref().map_or_else(unlimited, |places| self.size - places.available_permits())
    }

    /// The limit that is learnt, where it is.
    pub fn concurrency(&self) -> Option<&Concurrency> {
        self.concurrency.as_deref()
    }

    /// A try was answered after `took`, or had not been by then.
    pub(crate) fn answered(&self, took: Duration, is_good: bool, now: Instant) {
        if let Some(concurrency) = &self.concurrency {
            concurrency.answered(took, is_good, now);
        }
    }

    /// Wait for a place, first come, first served, no longer than `pending_timeout` and `patience`. Where the limit is learnt nobody
    /// waits for that, and `priority` decides.
    ///
    /// # Errors
    ///
    /// There is none to be had.
    pub async fn enter(&self, patience: Option<Duration>, priority: Priority) -> Result<Admitted, Full> {
        let learnt = match &self.concurrency {
            Some(concurrency) => Some(concurrency.enter(priority, Instant::now()).ok_or(Full::Shed)?),
            None => None,
        };
        let admitted = self.find_place(patience).await?;
        Ok(Admitted { learnt, ..admitted })
    }

    async fn find_place(&self, patience: Option<Duration>) -> Result<Admitted, Full> {
        let Some(places) = &self.places else {
            let counted = Counted::enter(&self.unlimited, self.size).ok_or(Full::Queue)?;
            return Ok(Admitted { _counted: Some(counted), ..Admitted::default() });
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(Admitted { _place: Some(place), ..Admitted::default() });
        }
        let _pending = Pending::join(self)?;
        let patience = patience.map_or(self.pending_timeout, |patience| patience.min(self.pending_timeout));
        match tokio::time::timeout(patience, places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(Admitted { _place: Some(place), ..Admitted::default() }),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Full::Waited),
        }
    }
}

impl Admitted {
    /// The head of the answer is there, and goes to whoever asked: the place goes back that is one of a limit that is learnt. That limit
    /// comes from how long heads take, and how long a client takes to read the rest, or how long an answer lasts, says nothing about it.
    pub fn is_answered(&mut self) {
        self.learnt = None;
    }
}

/// One of those that are only counted, until dropped.
#[derive(Debug)]
struct Counted(Arc<Padded<AtomicUsize>>);

impl Counted {
    fn enter(count: &Arc<Padded<AtomicUsize>>, most: usize) -> Option<Counted> {
        let counted = Counted(count.clone());
        (count.fetch_add(1, Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A place in the queue, until dropped.
struct Pending<'a>(&'a Room);

impl Pending<'_> {
    fn join(room: &Room) -> Result<Pending<'_>, Full> {
        if room.pending.fetch_add(1, Relaxed) >= room.max_pending {
            room.pending.fetch_sub(1, Relaxed);
            return Err(Full::Queue);
        }
        Ok(Pending(room))
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::parts::Parts;

    fn room(pool: &str) -> Room {
        let config = serde_yaml::from_str(&format!("pool: {pool}")).unwrap();
        Room::new(&Parts::of(&config, None, None).room)
    }

    #[tokio::test]
    async fn without_a_limit_nobody_waits() {
        let room = room("{}");
        let mut sent = Vec::new();
        for _ in 0..MOST {
            sent.push(room.enter(None, Priority::Normal).await.unwrap());
        }
        assert_eq!(room.enter(None, Priority::Normal).await.unwrap_err(), Full::Queue, "so many are a fault");
        sent.truncate(1);
        assert_eq!(room.taken(), 1);
        room.enter(None, Priority::Normal).await.unwrap();
    }

    #[tokio::test]
    async fn a_place_that_is_given_back_goes_to_the_one_who_waits() {
        let room = Arc::new(room("{max_requests: 1, pending_timeout: 1h}"));
        let first = room.enter(None, Priority::Normal).await.unwrap();
        let waits = tokio::spawn({
            let room = room.clone();
            async move { room.enter(None, Priority::Normal).await.map(drop) }
        });
        while room.pending() == 0 {
            tokio::task::yield_now().await;
        }
        drop(first);
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_no_longer_than_it_may_and_no_more_than_may() {
        let room = room("{max_connections: 1, max_pending: 1, pending_timeout: 5s}");
        let _first = room.enter(None, Priority::Normal).await.unwrap();
        let (one, two) = tokio::join!(room.enter(None, Priority::Normal), room.enter(None, Priority::Normal));
        assert_eq!((one.unwrap_err(), two.unwrap_err()), (Full::Waited, Full::Queue));
        let began = tokio::time::Instant::now();
        assert_eq!(
            room.enter(Some(Duration::from_secs(1)), Priority::Normal).await.unwrap_err(),
            Full::Waited
        );
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert_eq!(room.pending(), 0);
    }

    #[test]
    fn an_http2_connection_has_room_for_its_streams() {
        let size = |yaml: &str| Parts::of(&serde_yaml::from_str(yaml).unwrap(), None, None).room.size;
        let pool = "pool: {max_connections: 3, streams_per_connection: 10";
        assert_eq!(size(&format!("{{protocol: grpc, {pool}}}}}")), Some(30));
        assert_eq!(size(&format!("{{protocol: grpc, {pool}, max_requests: 7}}}}")), Some(7));
        assert_eq!(size(&format!("{{{pool}}}}}")), Some(3));
        assert_eq!(size("{}"), None);
    }
}
