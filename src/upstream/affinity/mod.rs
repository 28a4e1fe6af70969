//! Affinity: a client's requests stay at the endpoint that answered its first one. Which that is stands in a signed cookie
//! ([`seal`]), or is learned from a header of the endpoint's answers. Either way it is a digest, and an index by digest finds the
//! endpoint in the present table. Whether it may be used is asked of the table, as for any pick.

mod own_key;
mod seal;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher, RandomState},
    path::Path,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use openssl::sha::sha256;

use super::{
    Upstream,
    endpoint::{Endpoint, InFlight, lock},
    table::Table,
};
use crate::{
    config::{self, Secret},
    identity::hex,
    kept::Kept,
    policy::{breaker, sessions::Sessions},
};

pub(super) use self::own_key::OwnKey;
use self::seal::Keys;
pub use self::seal::Opened;

/// The affinity of one upstream, as it is configured now, on what is known already.
pub struct Affinity {
    settings: config::Affinity,
    /// Of the cookie, where it is by one.
    cookie_name: Arc<str>,
    state: Kept<Settings, By>,
    index: ArcSwapOption<Index>,
}

/// What the state is made from. How long and how many may change without it.
#[derive(PartialEq)]
pub(super) enum Settings {
    Cookie(Vec<Secret>),
    Header(String),
}

enum By {
    /// `None` where OpenSSL takes no key: then nobody is kept anywhere.
    Cookie(Option<Keys>),
    Header(Learned),
}

struct Learned {
    hasher: RandomState,
    sessions: Mutex<Sessions>,
}

/// The endpoints of a table by their digests.
struct Index {
    /// Held, so that no other table can be taken for it.
    of: Weak<Table>,
    places: HashMap<u64, usize>,
}

/// Why a session is not sent to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    Gone,
    Draining,
    Unhealthy,
    Ejected,
    CircuitOpen,
    Unreachable,
}

/// What was remembered of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Sessions that are remembered now.
    pub sessions: usize,
    /// So many others were forgotten, as there was no room.
    pub evicted: usize,
}

impl Away {
    /// To be read after the endpoint's name.
    pub fn words(self) -> &'static str {
        match self {
            Away::Gone => "is gone",
            Away::Draining => "is draining",
            Away::Unhealthy => "is unhealthy",
            Away::Ejected => "is ejected",
            Away::CircuitOpen => "has an open circuit breaker",
            Away::Unreachable => "cannot be reached",
        }
    }
}

impl Settings {
    pub(super) fn of(affinity: &config::Affinity) -> Settings {
        match affinity {
            config::Affinity::Cookie(cookie) => Settings::Cookie(cookie.keys.clone()),
            config::Affinity::Header(header) => Settings::Header(header.name.to_ascii_lowercase()),
        }
    }
}

impl Affinity {
    pub(super) fn new(
        upstream: &str,
        settings: &config::Affinity,
        before: Option<&Affinity>,
        own_key: &OwnKey,
        state_dir: Option<&Path>,
    ) -> Affinity {
        let before = before.map(|before| &before.state);
        let state = Kept::keep_or(before, Settings::of(settings), |settings| match settings {
            Settings::Cookie(keys) if keys.is_empty() => {
                By::Cookie(Keys::new(upstream, [own_key.within(state_dir)].into_iter()))
            }
            Settings::Cookie(keys) => {
                By::Cookie(Keys::new(upstream, keys.iter().map(|key| key.expose().as_bytes())))
            }
            Settings::Header(_) => {
                By::Header(Learned { hasher: RandomState::new(), sessions: Mutex::new(Sessions::new()) })
            }
        });
        let cookie_name = cookie_name(settings, &BTreeMap::new()).into();
        Affinity { settings: settings.clone(), cookie_name, state, index: ArcSwapOption::empty() }
    }

    /// The same on another table.
    pub(super) fn of_subset(&self, tags: &BTreeMap<String, String>) -> Affinity {
        let (settings, state) = (self.settings.clone(), self.state.clone());
        let cookie_name = cookie_name(&settings, tags).into();
        Affinity { settings, cookie_name, state, index: ArcSwapOption::empty() }
    }

    pub fn cookie_name(&self) -> &str {
        &self.cookie_name
    }

    pub fn settings(&self) -> &config::Affinity {
        &self.settings
    }

    /// What a cookie's value says; `None` for one that is none of ours. `now` is in seconds since 1970.
    pub fn open(&self, cookie: &str, now: u64) -> Option<Opened> {
        match &*self.state {
            By::Cookie(keys) => keys.as_ref()?.open(cookie, now),
            By::Header(_) => None,
        }
    }

    /// The value of a cookie that leads to `endpoint`.
    pub fn seal(&self, endpoint: &Endpoint, now: u64) -> Option<String> {
        match &*self.state {
            By::Cookie(keys) => keys.as_ref()?.seal(&endpoint.name, now),
            By::Header(_) => None,
        }
    }

    /// Where the session of this name is, as far as its endpoint is known here.
    pub fn find(&self, session: &[u8], now: Instant) -> Option<u64> {
        let (By::Header(learned), config::Affinity::Header(header)) = (&*self.state, &self.settings) else {
            return None;
        };
        lock(&learned.sessions).find(learned.digest(session), header.ttl.into(), now)
    }

    /// From now on the session of this name is at `endpoint`.
    pub fn remember(&self, session: &[u8], endpoint: &Endpoint, now: Instant) -> Option<Remembered> {
        let (By::Header(learned), config::Affinity::Header(header)) = (&*self.state, &self.settings) else {
            return None;
        };
        let (session, place) = (learned.digest(session), learned.digest(endpoint.name.as_bytes()));
        let (most, ttl): (_, Duration) = (header.max_sessions.get(), header.ttl.into());
        let mut sessions = lock(&learned.sessions);
        let evicted = sessions.put(session, place, most, ttl, now);
        Some(Remembered { sessions: sessions.count(), evicted })
    }

    fn place(&self, table: &Arc<Table>, home: u64) -> Option<usize> {
        let index = self.index.load();
        if let Some(index) = index.as_ref().filter(|index| index.of.as_ptr() == Arc::as_ptr(table)) {
            return index.places.get(&home).copied();
        }
        // Endpoints have come or gone. Two that notice at once both do this.
        let index = Arc::new(self.state.index(table));
        let place = index.places.get(&home).copied();
        self.index.store(Some(index));
        place
    }
}

/// The cookie of the endpoints with these tags. Each subset has its own: a browser that goes to two of them belongs to an endpoint in each.
pub fn cookie_name(affinity: &config::Affinity, tags: &BTreeMap<String, String>) -> String {
    match affinity {
        config::Affinity::Cookie(cookie) if tags.is_empty() => cookie.name.clone(),
        config::Affinity::Cookie(cookie) => {
            // The same at all gateways.
            let text: String = tags.iter().map(|(name, value)| format!("{name}\0{value}\0")).collect();
            format!("{}-{}", cookie.name, hex(&sha256(text.as_bytes())[..4]))
        }
        config::Affinity::Header(_) => String::new(),
    }
}

impl By {
    fn index(&self, table: &Arc<Table>) -> Index {
        let mut places = HashMap::new();
        for (place, endpoint) in table.endpoints.iter().enumerate() {
            match self {
                By::Cookie(Some(keys)) => {
                    places.extend(keys.digests(&endpoint.name).map(|digest| (digest, place)));
                }
                By::Cookie(None) => {}
                By::Header(learned) => {
                    places.insert(learned.digest(endpoint.name.as_bytes()), place);
                }
            }
        }
        Index { of: Arc::downgrade(table), places }
    }
}

impl Learned {
    /// Nobody knows the seed, so nobody can choose two names with one digest.
    fn digest(&self, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.finish()
    }
}

impl Upstream {
    pub fn affinity(&self) -> Option<&Affinity> {
        self.affinity.as_ref()
    }

    /// Begin an attempt at the endpoint that a session belongs to. `None` where it cannot be used, or is one of those `tried`: then
    /// it is any other request.
    pub fn begin_at_home(&self, home: u64, tried: &[u64], now: Instant) -> Option<InFlight> {
        let (endpoint, away) = self.whereabouts(home, now);
        let endpoint = endpoint.filter(|endpoint| away.is_none() && !tried.contains(&endpoint.id()))?;
        let in_flight = endpoint.start(&self.pool.shared.patience, now)?;
        if in_flight.half_opens() {
            self.circuit_changed(&in_flight, breaker::State::HalfOpen);
        }
        Some(in_flight)
    }

    /// The endpoint of a session, and why it cannot be used, if it cannot.
    pub fn whereabouts(&self, home: u64, now: Instant) -> (Option<Arc<Endpoint>>, Option<Away>) {
        let table = self.table();
        let place = self.affinity.as_ref().and_then(|affinity| affinity.place(&table, home));
        match place {
            Some(place) => (table.endpoints.get(place).cloned(), table.away(place, now)),
            None => (None, Some(Away::Gone)),
        }
    }
}
