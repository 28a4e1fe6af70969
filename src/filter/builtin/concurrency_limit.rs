//! `concurrency_limit`: so many requests of each key at a time, and 429 for those beyond.
//!
//! A rate says nothing about slow requests: ten a second that take a minute each are six hundred at a time. A place is part of what is kept of
//! the request, so it is given back however that ends. There are no more keys than requests under way, so nothing has to be forgotten.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, Hasher, RandomState},
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use http::header::RETRY_AFTER;
use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

use super::rate_limit::{is_name, key::Key};
use crate::{
    config::Path,
    filter::{Exchange, Filter, Flow, Invalid, Live, Options, Phases, Reason, Response},
};

/// Allows each key so many requests at a time, and answers 429 to those beyond.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConcurrencyLimit {
    /// How many requests of one key may be under way.
    max: NonZeroU32,
    /// Who or what is counted. Requests without the header or cookie, or with more than one, are counted as one.
    #[serde(default)]
    key: Key,
    /// What the limit is called in metrics and the access log.
    #[serde(default = "name")]
    name: String,
    /// Refuse nobody, and count those who would have been refused.
    #[serde(default)]
    dry_run: bool,
}

fn name() -> String {
    "default".to_owned()
}

/// When a place comes free is not known.
const RETRY_AFTER_SECONDS: u64 = 1;

impl Options for ConcurrencyLimit {
    fn build(self, at: &Path, live: &Live) -> Result<Arc<dyn Filter>, Vec<Invalid>> {
        let ConcurrencyLimit { max, key, name, dry_run } = self;
        if !is_name(&name) {
            let message = "a name is 1 to 64 letters, digits and any of `_`, `-`, `.`, `:` and `/`";
            return Err(vec![Invalid::new(at.key("name"), message)]);
        }
        // Another `max` costs no counts: who is under way still is.
        let held = live.keep(key.clone(), |_| Held::default());
        let metrics = live.metrics().limits();
        let beyond = if dry_run { metrics.dry_run(&name) } else { metrics.concurrency_refused(&name) };
        Ok(Arc::new(Limiter { max: max.get(), key, name, held, beyond, dry_run }))
    }
}

struct Limiter {
    max: u32,
    key: Key,
    name: String,
    held: Arc<Held>,
    /// Counts who is refused, or would be.
    beyond: IntCounter,
    dry_run: bool,
}

impl Filter for Limiter {
    fn phases(&self) -> Phases {
        Phases::REQUEST
    }

    fn on_request(&self, exchange: &mut Exchange<'_>) -> Result<Flow, Reason> {
        let key = self.held.key(&self.key, exchange);
        let most = if self.dry_run { u32::MAX } else { self.max };
        let Some((place, count)) = self.held.take(key, most) else {
            self.beyond.inc();
            exchange.facts.explain(format!("concurrency_limit.{}", self.name));
            let mut response = Response::refusal(Reason::RateLimited, &exchange.request.headers);
            response.headers.push((RETRY_AFTER, RETRY_AFTER_SECONDS.into()));
            return Ok(Flow::Reply(response));
        };
        if count > self.max {
            self.beyond.inc();
        }
        exchange.keep(self, place);
        Ok(Flow::Continue)
    }
}

/// Requests under way, by key.
struct Held {
    /// Each has its own keys, so that few requests wait for each other.
    shards: [Mutex<HashMap<u64, u32>>; SHARDS],
    /// Its seed is random and stays here, so that no client can choose a value that is counted with another's.
    hasher: RandomState,
}

const SHARDS: usize = 64;

impl Default for Held {
    fn default() -> Held {
        Held { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Held {
    fn key(&self, key: &Key, exchange: &Exchange<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.values(exchange, |value| {
            hasher.write_usize(value.len());
            hasher.write(value);
        });
        hasher.finish()
    }

    /// A place, and how many there are with it; none where `most` are taken.
    fn take(self: &Arc<Self>, key: u64, most: u32) -> Option<(Place, u32)> {
        let count = self.change(key, |count| (count < most).then(|| count + 1))?;
        Some((Place { held: self.clone(), key }, count))
    }

    /// The count becomes what `to` answers, if it does; one of 0 is forgotten.
    fn change(&self, key: u64, to: impl FnOnce(u32) -> Option<u32>) -> Option<u32> {
        let shard = &self.shards[key as usize % SHARDS];
        // Counts are whole at every step.
        let mut counts = shard.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.entry(key) {
            Entry::Occupied(mut entry) => {
                let count = to(*entry.get())?;
                match count {
                    0 => drop(entry.remove()),
                    _ => *entry.get_mut() = count,
                }
                Some(count)
            }
            Entry::Vacant(entry) => {
                let count = to(0)?;
                entry.insert(count);
                Some(count)
            }
        }
    }
}

/// One of them, until dropped.
struct Place {
    held: Arc<Held>,
    key: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.held.change(self.key, |count| count.checked_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pingora_http::RequestHeader;

    use super::*;
    use crate::filter::{Chain, Decided, Facts};

    fn build(yaml: &str, live: &Live) -> Chain {
        let options: ConcurrencyLimit = serde_yaml::from_str(yaml).unwrap();
        let mut chain = Chain::default();
        chain.push("concurrency_limit", options.build(&Path::root(), live).unwrap());
        chain
    }

    /// The status with which a client is answered, and what is kept of its request.
    fn ask(chain: &Chain, client: &str) -> (u16, Facts) {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        let mut facts = Facts { client: client.parse().unwrap(), ..Facts::default() };
        let mut exchange = Exchange { request: &mut request, response: None, facts: &mut facts };
        let flow = chain.on_request(Decided::default(), &mut exchange).now_or_never().unwrap().unwrap();
        let status = match flow {
            Flow::Continue => 200,
            Flow::Reply(reply) => {
                assert!(reply.headers.iter().any(|(name, value)| *name == RETRY_AFTER && value == "1"));
                reply.status.as_u16()
            }
        };
        (status, facts)
    }

    #[test]
    fn each_key_has_so_many_at_a_time_and_gives_them_back() {
        let chain = build("{max: 2}", &Live::offline());
        let (one, two) = (ask(&chain, "192.0.2.1"), ask(&chain, "192.0.2.1"));
        assert_eq!((one.0, two.0), (200, 200));
        assert_eq!(ask(&chain, "192.0.2.1").0, 429);
        assert_eq!(ask(&chain, "192.0.2.2").0, 200);
        drop(one);
        let three = ask(&chain, "192.0.2.1");
        assert_eq!(three.0, 200);
        assert_eq!(ask(&chain, "192.0.2.1").0, 429, "one that was refused gives nothing back");
    }

    #[test]
    fn a_reload_that_changes_the_number_knows_who_is_under_way() {
        let live = Live::offline();
        let place = live.within("routes users[0]");
        let before = build("{max: 1}", &place);
        let one = ask(&before, "192.0.2.1");
        assert_eq!(ask(&build("{max: 1, name: other}", &place), "192.0.2.1").0, 429);
        let after = build("{max: 2}", &place);
        let two = ask(&after, "192.0.2.1");
        assert_eq!((one.0, two.0, ask(&after, "192.0.2.1").0), (200, 200, 429));
        assert_eq!(ask(&build("{max: 1}", &live.within("routes pets[0]")), "192.0.2.1").0, 200);
    }

    #[test]
    fn nothing_is_kept_of_keys_with_nothing_under_way() {
        let held = Arc::new(Held::default());
        let places: Vec<_> = (0..1000).map(|key| held.take(key, 1).unwrap()).collect();
        drop(places);
        assert!(held.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn dry_run_refuses_nobody_and_counts_those_beyond() {
        let live = Live::offline();
        let chain = build("{max: 1, dry_run: true, name: rehearsal}", &live);
        let all = [ask(&chain, "192.0.2.1"), ask(&chain, "192.0.2.1"), ask(&chain, "192.0.2.1")];
        assert!(all.iter().all(|(status, _)| *status == 200));
        assert_eq!(live.metrics().limits().dry_run("rehearsal").get(), 2);
    }

    #[test]
    fn a_name_that_cannot_be_shown_is_refused() {
        let options: ConcurrencyLimit = serde_yaml::from_str("{max: 1, name: 'a b'}").unwrap();
        let invalid = options.build(&Path::root(), &Live::offline()).err().unwrap();
        assert_eq!(invalid[0].path.to_string(), "name");
    }
}
