//! The places at an API's address. Nobody is turned away: whoever comes takes the place of the one that has been idle for
//! longest. So a stranger who holds connections open holds them until somebody wants one, and probes are answered
//! however many he opens.
//!
//! Strangers, whose connection has shown no credentials yet, have few places for each address, and give way before those who
//! have shown some.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntGauge};
use tokio::sync::oneshot;

use super::Terms;
use crate::{observe::log::event, policy::address_block::Ipv6Prefix};

/// How often it is said that somebody had to go.
const SAY_EVERY: Duration = Duration::from_secs(60);

pub(super) struct Room {
    places: Mutex<Places<oneshot::Sender<&'static str>>>,
    said: Mutex<Option<Instant>>,
    key: &'static str,
    setting: &'static str,
    open: IntGauge,
    closed: IntCounter,
}

/// A place, until it is dropped.
pub(super) struct Seat {
    id: u64,
    room: Arc<Room>,
}

/// A request under way on a connection.
pub(super) struct Busy(Arc<Seat>);

impl Room {
    pub(super) fn new(terms: &Terms) -> Arc<Room> {
        Arc::new(Room {
            places: Mutex::new(Places::new(terms.places, terms.strangers)),
            said: Mutex::default(),
            key: terms.key,
            setting: terms.setting,
            open: terms.open.clone(),
            closed: terms.evicted.clone(),
        })
    }

    /// A place for a connection, and what tells it that it has to go, and why.
    pub(super) fn enter(self: &Arc<Room>, peer: IpAddr) -> (Arc<Seat>, oneshot::Receiver<&'static str>) {
        let (end, ended) = oneshot::channel();
        let (now, block) = (Instant::now(), Ipv6Prefix::default().block(peer));
        let (id, evicted) = self.places().enter(block, end, now);
        self.open.inc();
        if let Some((block, end)) = evicted {
            self.closed.inc();
            self.open.dec();
            self.say(block, now);
            // It may have ended by itself.
            let _ = end.send("it made room");
        }
        (Arc::new(Seat { id, room: self.clone() }), ended)
    }

    fn say(&self, block: IpAddr, now: Instant) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_some_and(|last| now.saturating_duration_since(last) < SAY_EVERY) {
            return;
        }
        *said = Some(now);
        event!(
            Warn,
            format!("{} connections are closed to make room", self.key),
            client = block,
            hint = format!("somebody holds many open: let only those reach {} who need it", self.setting)
        );
    }

    fn places(&self) -> MutexGuard<'_, Places<oneshot::Sender<&'static str>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A request has come, with credentials or without.
    pub(super) fn begin(self: &Arc<Seat>, is_proven: bool) -> Busy {
        self.room.places().begin(self.id, is_proven, Instant::now());
        Busy(self.clone())
    }

    pub(super) fn hang_up(&self) {
        let place = self.room.places().by_id.remove(&self.id);
        if let Some(place) = place {
            self.room.open.dec();
            let _ = place.end.send("it takes nothing");
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.room.places().end(self.0.id, Instant::now());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.room.places().leave(self.id) {
            self.room.open.dec();
        }
    }
}

struct Places<T> {
    by_id: HashMap<u64, Place<T>>,
    next: u64,
    most: usize,
    strangers: usize,
}

struct Place<T> {
    block: IpAddr,
    end: T,
    is_proven: bool,
    /// Requests under way.
    busy: u32,
    used: Instant,
}

impl<T> Places<T> {
    fn new(most: usize, strangers: usize) -> Places<T> {
        Places { by_id: HashMap::new(), next: 0, most, strangers }
    }

    /// The new one's number, and who had to go for it, with its block.
    fn enter(&mut self, block: IpAddr, end: T, now: Instant) -> (u64, Option<(IpAddr, T)>) {
        let evicted = self.to_go(block).and_then(|id| self.by_id.remove(&id));
        self.next += 1;
        self.by_id.insert(self.next, Place { block, end, is_proven: false, busy: 0, used: now });
        (self.next, evicted.map(|place| (place.block, place.end)))
    }

    fn begin(&mut self, id: u64, is_proven: bool, now: Instant) {
        if let Some(place) = self.by_id.get_mut(&id) {
            place.busy += 1;
            place.is_proven |= is_proven;
            place.used = now;
        }
    }

    fn end(&mut self, id: u64, now: Instant) {
        if let Some(place) = self.by_id.get_mut(&id) {
            place.busy -= 1;
            place.used = now;
        }
    }

    /// False where it had to go before.
    fn leave(&mut self, id: u64) -> bool {
        self.by_id.remove(&id).is_some()
    }

    fn to_go(&self, block: IpAddr) -> Option<u64> {
        let strangers = || self.by_id.iter().filter(|(_, place)| !place.is_proven);
        let own = || strangers().filter(|(_, place)| place.block == block);
        if own().count() >= self.strangers {
            return idlest(own());
        }
        if self.by_id.len() < self.most {
            return None;
        }
        idlest(strangers()).or_else(|| idlest(self.by_id.iter()))
    }
}

fn idlest<'a, T: 'a>(places: impl Iterator<Item = (&'a u64, &'a Place<T>)>) -> Option<u64> {
    places.min_by_key(|(id, place)| (place.busy > 0, place.used, **id)).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: usize = 100;
    const STRANGERS: usize = 32;

    fn address(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn a_stranger_who_has_his_share_gives_up_the_place_that_was_idle_for_longest() {
        let (mut places, now) = (Places::new(PLACES, STRANGERS), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        for n in 0..STRANGERS as u64 {
            assert_eq!(places.enter(address(1), n, after(n)).1, None);
        }
        // The first is in use, the second was a moment ago.
        places.begin(1, false, after(100));
        places.begin(2, false, after(100));
        places.end(2, after(101));
        assert_eq!(places.enter(address(1), 100, after(102)).1, Some((address(1), 2)));
        assert_eq!(places.enter(address(2), 101, after(103)).1, None, "others are not concerned");
        places.begin(4, true, after(104));
        assert_eq!(
            places.enter(address(1), 102, after(105)).1,
            None,
            "who has proven himself is no stranger"
        );
    }

    #[test]
    fn when_all_is_taken_strangers_go_first_and_those_in_use_last() {
        let (mut places, now) = (Places::new(PLACES, STRANGERS), Instant::now());
        for n in 0..PLACES as u64 {
            let (id, _) = places.enter(address(n as u8), n, now);
            places.begin(id, n != 50, now);
            if n != 7 {
                places.end(id, now + Duration::from_secs(n));
            }
        }
        let mut evicted = || places.enter(address(200), 1000, now).1.map(|(_, end)| end);
        assert_eq!(evicted(), Some(50));
        // The newcomer is a stranger, and so on.
        assert_eq!(evicted(), Some(1000));
        let last = places.next;
        places.begin(last, true, now);
        assert_eq!(
            places.enter(address(201), 1001, now).1.map(|(_, end)| end),
            Some(0),
            "all have proven themselves"
        );
    }

    #[test]
    fn who_left_holds_no_place() {
        let (mut places, now) = (Places::new(PLACES, STRANGERS), Instant::now());
        let (id, _) = places.enter(address(1), 0, now);
        assert!(places.leave(id) && !places.leave(id));
        places.end(id, now);
        assert!(places.by_id.is_empty());
    }
}
