//! Counting in this process.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use prometheus::IntCounter;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    config::{self, RateUnit},
    filter::{
        Exchange, Live,
        builtin::rate_limit::{
            Key, RateLimit, Tier,
            quota::{Calendar, Moment},
            window::Window,
        },
    },
    policy::{
        bucket::{Decision, Limit},
        buckets::Buckets,
        calendar::Unit,
    },
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// Exact for each key: `burst` at once, and then `rate`.
    #[default]
    TokenBucket,
    /// At most `rate` in any one period, estimated; its memory does not grow with the number of keys.
    SlidingWindow,
    /// At most `rate` in each period of the calendar, in UTC: days begin at midnight, months on the first.
    Calendar,
}

/// What must be the same for counts to go on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counts {
    pub rate: config::Rate,
    pub limit: Limit,
    pub key: Key,
    /// Of several rates, which.
    pub tier: Option<String>,
    algorithm: Algorithm,
    pub max_keys: usize,
    name: String,
}

impl Counts {
    /// Every option is named, so that the compiler asks of a new one whether it makes other counts. `rate` and `burst` are part of
    /// the tier.
    pub(crate) fn of(options: &RateLimit, tier: &Tier<'_>) -> Counts {
        let RateLimit {
            rate: _,
            burst: _,
            key,
            algorithm: _,
            max_keys,
            headers: _,
            name,
            store: _,
            dry_run: _,
        } = options;
        Counts {
            rate: tier.rate,
            limit: tier.limit,
            key: key.clone(),
            tier: tier.name.map(str::to_owned),
            algorithm: options.algorithm(),
            max_keys: *max_keys,
            name: name.clone(),
        }
    }
}

pub(crate) struct Local {
    counter: Counter,
    /// Its seed is random and stays here, so that no client can choose a value that is counted with another's.
    hasher: RandomState,
    origin: Instant,
    evictions: IntCounter,
}

enum Counter {
    Buckets(Buckets),
    Calendar(Buckets, Calendar),
    /// Made when it is needed: it takes all of its memory at once.
    Window(OnceLock<Window>, Rate),
}

/// What a window needs to be made.
struct Rate {
    count: u64,
    period: std::time::Duration,
    max_keys: usize,
}

impl Local {
    /// That of the filter at the same place with the same options, if there is one.
    pub(crate) fn keep(counts: Counts, live: &Live) -> Arc<Local> {
        live.keep(counts, |counts| Local::new(counts, live))
    }

    fn new(counts: &Counts, live: &Live) -> Local {
        let Counts { rate, limit, key: _, tier: _, algorithm, max_keys, name } = counts;
        Local {
            counter: match algorithm {
                Algorithm::TokenBucket => Counter::Buckets(Buckets::new(*limit, *max_keys)),
                Algorithm::Calendar => {
                    let calendar = Calendar::new(unit(rate.unit()), *limit);
                    Counter::Calendar(Buckets::new(*limit, *max_keys), calendar)
                }
                Algorithm::SlidingWindow => {
                    let rate = Rate { count: rate.count(), period: rate.period(), max_keys: *max_keys };
                    Counter::Window(OnceLock::new(), rate)
                }
            },
            hasher: RandomState::new(),
            origin: Instant::now(),
            evictions: live.metrics().limits().evictions(name),
        }
    }

    /// As long as the process lives, the same for the same values.
    pub(crate) fn key(&self, key: &Key, exchange: &Exchange<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        key.values(exchange, |value| {
            hasher.write_usize(value.len());
            hasher.write(value);
        });
        hasher.finish()
    }

    pub(crate) fn decide(&self, key: u64) -> Decision {
        let moment = self.moment();
        let now = moment.now;
        match &self.counter {
            Counter::Buckets(buckets) | Counter::Calendar(buckets, _) => {
                let decision = buckets.decide(key, now, 1);
                match buckets.take_evicted() {
                    0 => {}
                    evicted => self.evictions.inc_by(evicted),
                }
                moment.told(decision)
            }
            Counter::Window(window, Rate { count, period, max_keys }) => {
                window.get_or_init(|| Window::new(*count, *period, *max_keys)).decide(key, now)
            }
        }
    }

    /// Now, in nanoseconds that are good for 584 years, or within a period of the calendar.
    pub(crate) fn moment(&self) -> Moment {
        match &self.counter {
            Counter::Calendar(_, calendar) => {
                calendar.at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
            }
            Counter::Buckets(_) | Counter::Window(..) => {
                let now = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                Moment { now, of: None }
            }
        }
    }
}

fn unit(unit: RateUnit) -> Unit {
    match unit {
        RateUnit::Second => Unit::Second,
        RateUnit::Minute => Unit::Minute,
        RateUnit::Hour => Unit::Hour,
        RateUnit::Day => Unit::Day,
        RateUnit::Month => Unit::Month,
    }
}
