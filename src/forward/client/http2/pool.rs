//! HTTP/2 connections by the pool's name for them, those at work and those at rest. A request goes to the one with the most
//! streams that has room, so that those too many grow idle and old; a sweep closes them.
//!
//! What requests ask for at once they ask of one new connection: while one is being opened, as many as it is expected to have
//! room for wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::watch;

use super::connection::{Connection, Driver};
use crate::upstream::{IdleLimit, IdleSlot};

/// How long a connection whose time is over may still hold its descriptor.
const SWEEP: Duration = Duration::from_secs(1);
/// So many connections are left aside while what nobody reads fills their windows: each may hold as much as that is. Beyond it
/// requests wait behind what is not read.
const MOST_FILLED: usize = 4;

pub(in super::super) struct Pool(Arc<Shared>);

struct Shared {
    /// So many may be idle, all together.
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<u64, Shelf>,
    idle: usize,
    /// Counts up: each connection, and each that is being opened, has a number of its own.
    numbers: u64,
    is_swept: bool,
}

/// Under one name.
#[derive(Default)]
struct Shelf {
    slots: Vec<Slot>,
    openings: Vec<Awaited>,
}

struct Slot {
    number: u64,
    connection: Arc<Connection>,
    streams: usize,
    /// While it has none.
    rest: Option<Rest>,
}

struct Rest {
    place: IdleSlot,
    /// `None` for longer than there is time.
    until: Option<Instant>,
}

struct Awaited {
    number: u64,
    /// For so many more.
    room: usize,
    ended: watch::Receiver<()>,
}

/// What there is for a request.
pub(in super::super) enum Found {
    Room(Claim),
    /// A connection that may have room is being opened, until this is closed.
    Opening(watch::Receiver<()>),
    /// A connection is to be opened.
    Nothing(Opening),
}

/// A connection is being opened, until dropped; then those that wait for it look again.
pub(in super::super) struct Opening {
    shared: Weak<Shared>,
    key: u64,
    number: u64,
    _ended: watch::Sender<()>,
}

/// Room for one stream, until dropped.
pub(in super::super) struct Claim {
    shared: Arc<Shared>,
    key: u64,
    number: u64,
    connection: Arc<Connection>,
    sender: Option<SendRequest<Bytes>>,
    limit: IdleLimit,
}

impl Rest {
    /// Its time is over, or the connection is held to be dead.
    fn is_over(&self, now: Instant) -> bool {
        self.place.is_void() || self.until.is_some_and(|until| until <= now)
    }
}

impl Pool {
    pub(in super::super) fn new(most: usize) -> Pool {
        Pool(Arc::new(Shared { most, kept: Mutex::default() }))
    }

    /// Room on a connection that is there.
    pub(in super::super) fn claim(&self, key: u64, limit: &IdleLimit) -> Option<Claim> {
        loop {
            let (number, connection, claimed) = {
                let mut kept = self.0.lock();
                kept.claim(key)?
            };
            let mut claim =
                Claim { shared: self.0.clone(), key, number, connection, sender: None, limit: limit.clone() };
            // What the other side has said since is asked without the lock.
            match claim.connection.sender() {
                Some(sender) if claimed <= claim.connection.most() => {
                    claim.sender = Some(sender);
                    return Some(claim);
                }
                Some(_) => {}
                None => claim.withdraw(),
            }
        }
    }

    /// Room on a connection that is there, or is being opened. A new one is expected to have room for `streams`; `shares` says
    /// that it will speak HTTP/2 for certain.
    pub(in super::super) fn find(&self, key: u64, streams: usize, shares: bool, limit: &IdleLimit) -> Found {
        if let Some(claim) = self.claim(key, limit) {
            return Found::Room(claim);
        }
        let mut kept = self.0.lock();
        kept.numbers += 1;
        let number = kept.numbers;
        let shelf = kept.by_key.entry(key).or_default();
        // Others like it say how much room there will be.
        let told = shelf.slots.iter().map(|slot| slot.connection.most()).max();
        if shares || told.is_some() {
            let first = shelf.openings.iter_mut().find(|opening| opening.room > 0);
            if let Some(opening) = first {
                opening.room -= 1;
                return Found::Opening(opening.ended.clone());
            }
        }
        let (sender, ended) = watch::channel(());
        let room = told.map_or(streams, |told| told.min(streams)).saturating_sub(1);
        shelf.openings.push(Awaited { number, room, ended });
        Found::Nothing(Opening { shared: Arc::downgrade(&self.0), key, number, _ended: sender })
    }

    /// Take in a connection for which this was an opening, with room for the first request.
    pub(super) fn put(&self, opening: Opening, opened: (Connection, Driver), limit: &IdleLimit) -> Claim {
        let (connection, driver) = opened;
        let (connection, key, number) = (Arc::new(connection), opening.key, opening.number);
        let sender = connection.sender();
        let is_swept = {
            let mut kept = self.0.lock();
            let slot = Slot { number, connection: connection.clone(), streams: 1, rest: None };
            kept.by_key.entry(key).or_default().slots.push(slot);
            std::mem::replace(&mut kept.is_swept, true)
        };
        if !is_swept {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
        let shared = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            driver.run(opening).await;
            if let Some(shared) = shared.upgrade() {
                shared.withdraw(key, number);
            }
        });
        Claim { shared: self.0.clone(), key, number, connection, sender, limit: limit.clone() }
    }
}

impl Claim {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What its request is sent with, once. `None` where the connection takes none any more.
    pub(super) fn sender(&mut self) -> Option<SendRequest<Bytes>> {
        self.sender.take()
    }

    /// No other request is to go there.
    pub(super) fn withdraw(&self) {
        self.shared.withdraw(self.key, self.number);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let closed = self.shared.lock().release(self.key, self.number, &self.limit, self.shared.most);
        drop(closed);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut kept = shared.lock();
        if let Some(shelf) = kept.by_key.get_mut(&self.key) {
            shelf.openings.retain(|opening| opening.number != self.number);
        }
        kept.tidy(self.key);
    }
}

impl Shared {
    fn withdraw(&self, key: u64, number: u64) {
        let closed = self.lock().remove(key, number);
        drop(closed);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Room on the connection with the most streams that has any, and how many it has with that. One that is filled with what nobody
    /// reads is taken last.
    fn claim(&mut self, key: u64) -> Option<(u64, Arc<Connection>, usize)> {
        let shelf = self.by_key.get_mut(&key)?;
        let are_many = shelf.slots.iter().filter(|slot| slot.connection.is_filled()).count() >= MOST_FILLED;
        let mut best: Option<(bool, &mut Slot)> = None;
        for slot in &mut shelf.slots {
            let is_over = |rest: &Rest| rest.is_over(Instant::now());
            let is_free = !slot.connection.is_filled();
            let is_better =
                best.as_ref().is_none_or(|(free, best)| (is_free, slot.streams) > (*free, best.streams));
            let has_room = slot.streams < slot.connection.most() && (is_free || are_many);
            if is_better && has_room && !slot.rest.as_ref().is_some_and(is_over) {
                best = Some((is_free, slot));
            }
        }
        let (_, slot) = best?;
        if slot.rest.take().is_some() {
            self.idle -= 1;
        }
        slot.streams += 1;
        Some((slot.number, slot.connection.clone(), slot.streams))
    }

    /// A stream has ended. The connection is answered where it is not kept: closing is for outside of the lock.
    fn release(&mut self, key: u64, number: u64, limit: &IdleLimit, most: usize) -> Option<Slot> {
        let shelf = self.by_key.get_mut(&key)?;
        let slot = shelf.slots.iter_mut().find(|slot| slot.number == number)?;
        slot.streams -= 1;
        if slot.streams > 0 {
            return None;
        }
        let place = if self.idle < most { limit.take() } else { None };
        let Some(place) = place else { return self.remove(key, number) };
        slot.rest = Some(Rest { place, until: Instant::now().checked_add(limit.idle_timeout) });
        self.idle += 1;
        None
    }

    fn remove(&mut self, key: u64, number: u64) -> Option<Slot> {
        let shelf = self.by_key.get_mut(&key)?;
        let at = shelf.slots.iter().position(|slot| slot.number == number)?;
        // In order: among equals the first serves.
        let slot = shelf.slots.remove(at);
        self.idle -= usize::from(slot.rest.is_some());
        self.tidy(key);
        Some(slot)
    }

    /// Take out those whose time is over.
    fn leave(&mut self, key: u64, now: Instant) -> Vec<Slot> {
        let Some(shelf) = self.by_key.get_mut(&key) else { return Vec::new() };
        let is_over = |rest: &Rest| rest.is_over(now);
        let left: Vec<Slot> =
            shelf.slots.extract_if(.., |slot| slot.rest.as_ref().is_some_and(is_over)).collect();
        self.idle -= left.len();
        self.tidy(key);
        left
    }

    fn tidy(&mut self, key: u64) {
        if self.by_key.get(&key).is_some_and(|shelf| shelf.slots.is_empty() && shelf.openings.is_empty()) {
            self.by_key.remove(&key);
        }
    }
}

async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(shared) = shared.upgrade() else { return };
        let keys: Vec<u64> = shared.lock().by_key.keys().copied().collect();
        for key in keys {
            // One name at a time: requests wait for the lock.
            let closed = shared.lock().leave(key, Instant::now());
            drop(closed);
        }
    }
}
