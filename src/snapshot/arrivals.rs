//! How fast connections may come to a listener, all together and from one address. One more is closed before anything
//! is spent on it, so a flood of connections costs little more than accepting them.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use super::Limits;
use crate::{
    config::Rate,
    policy::{
        bucket::{Bucket, Limit, Unusable},
        buckets::Buckets,
    },
};

/// Addresses that are told apart; 100,000 of them take a few megabytes.
const MOST_ADDRESSES: usize = 100_000;

pub struct Arrivals {
    rates: [Option<Rate>; 2],
    all: Option<(Limit, Bucket)>,
    by_ip: Option<Buckets>,
    /// Its seed is random and stays here, so that no client can choose an address that is counted with another's.
    hasher: RandomState,
    origin: Instant,
}

/// A second's, minute's or hour's worth may come at once.
///
/// # Errors
///
/// It is faster than buckets count.
pub(super) fn limit(rate: Rate) -> Result<Limit, Unusable> {
    Limit::new(rate.count(), rate.period(), rate.count().min(Limit::LARGEST))
}

impl Arrivals {
    /// Counts go on from `before` where the limits are the same. `None` without a limit.
    pub(super) fn under(limits: &Limits, before: Option<&Arc<Arrivals>>) -> Option<Arc<Arrivals>> {
        let rates = [limits.connection_rate, limits.connection_rate_per_ip];
        if rates == [None, None] {
            return None;
        }
        if let Some(same) = before.filter(|before| before.rates == rates) {
            return Some(same.clone());
        }
        let [all, by_ip] = rates.map(|rate| rate.and_then(|rate| limit(rate).ok()));
        Some(Arc::new(Arrivals {
            rates,
            all: all.map(|limit| (limit, Bucket::default())),
            by_ip: by_ip.map(|limit| Buckets::new(limit, MOST_ADDRESSES)),
            hasher: RandomState::new(),
            origin: Instant::now(),
        }))
    }

    /// Counts a connection from `peer`.
    ///
    /// # Errors
    ///
    /// The limit that it is one too many for.
    pub fn admit(&self, peer: IpAddr, now: Instant) -> Result<(), &'static str> {
        let now = now.saturating_duration_since(self.origin).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        // Its own limit first: what an address sends beyond it must take nothing from the others.
        if let Some(by_ip) = &self.by_ip {
            let key = self.hasher.hash_one(peer.to_canonical());
            if !by_ip.decide(key, now, 1).allowed {
                return Err("connection_rate_per_ip");
            }
        }
        match &self.all {
            Some((limit, bucket)) if !bucket.decide(limit, now, 1).allowed => Err("connection_rate"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{self, Protocol};

    fn arrivals(limits: &str, before: Option<&Arc<Arrivals>>) -> Option<Arc<Arrivals>> {
        let limits: config::Limits = serde_yaml::from_str(limits).unwrap();
        Arrivals::under(&Limits::of(&limits, Protocol::Tcp), before)
    }

    #[test]
    fn one_address_uses_up_its_own_share_and_not_that_of_others() {
        let arrivals = arrivals("{connection_rate: 3/s, connection_rate_per_ip: 2/s}", None).unwrap();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let now = Instant::now();
        let admitted = [one, one, one, one, two, two].map(|ip| arrivals.admit(ip, now));
        let own = Err("connection_rate_per_ip");
        assert_eq!(admitted, [Ok(()), Ok(()), own, own, Ok(()), Err("connection_rate")]);
        assert_eq!(arrivals.admit(one, now + Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_reload_that_leaves_the_limits_keeps_the_counts() {
        let first = arrivals("{connection_rate: 10/h}", None).unwrap();
        assert!(Arc::ptr_eq(&arrivals("{connection_rate: 10/h}", Some(&first)).unwrap(), &first));
        assert!(!Arc::ptr_eq(&arrivals("{connection_rate: 11/h}", Some(&first)).unwrap(), &first));
        assert!(arrivals("{}", Some(&first)).is_none());
    }
}
