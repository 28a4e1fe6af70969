//! How fast connections may come to a listener, all together and from one address. One more is closed before anything
//! is spent on it, so a flood of connections costs little more than accepting them.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::Instant,
};

use crate::{
    config::Rate,
    kept::Kept,
    policy::{
        address_block::Ipv6Prefix,
        bucket::{Bucket, Limit, Unusable},
        buckets::Buckets,
    },
    snapshot::Limits,
};

/// Addresses that are told apart; 100,000 of them take a few megabytes.
const MOST_ADDRESSES: usize = 100_000;

/// What [`ConnectionRate`] are made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    all: Option<Rate>,
    by_ip: Option<Rate>,
    ipv6_prefix: Ipv6Prefix,
}

pub struct ConnectionRate {
    all: Option<(Limit, Bucket)>,
    by_ip: Option<Buckets>,
    ipv6_prefix: Ipv6Prefix,
    /// Its seed is random and stays here, so that no client can choose an address that is counted with another's.
    hasher: RandomState,
    origin: Instant,
}

pub type KeptConnectionRate = Kept<Rates, ConnectionRate>;

impl Rates {
    /// Every limit is named, so that the compiler asks of a new one whether arrivals are counted by it.
    fn of(limits: &Limits) -> Rates {
        let &Limits {
            connections: _,
            connections_per_ip: _,
            connection_rate: all,
            connection_rate_per_ip: by_ip,
            ipv6_prefix,
            handshake_timeout: _,
            header_size: _,
            header_timeout: _,
            body_size: _,
            filter_buffer: _,
            body_timeout: _,
            write_timeout: _,
            least_rates: _,
            idle_timeout: _,
            carried_idle_timeout: _,
            upgraded_idle_timeout: _,
            ping_interval: _,
            requests_per_connection: _,
            streams_per_connection: _,
            stream_window: _,
            connection_window: _,
        } = limits;
        Rates { all, by_ip, ipv6_prefix }
    }
}

/// A second's, minute's or hour's worth may come at once.
///
/// # Errors
///
/// It is faster than buckets count.
pub(super) fn limit(rate: Rate) -> Result<Limit, Unusable> {
    Limit::new(rate.count(), rate.period(), rate.count().min(Limit::LARGEST))
}

impl ConnectionRate {
    /// Counts go on from `before` where the limits are the same. `None` without a limit.
    pub(super) fn under(limits: &Limits, before: Option<&KeptConnectionRate>) -> Option<KeptConnectionRate> {
        let rates = Rates::of(limits);
        let limits_any = rates.all.is_some() || rates.by_ip.is_some();
        limits_any.then(|| Kept::keep_or(before, rates, ConnectionRate::new))
    }

    fn new(rates: &Rates) -> ConnectionRate {
        let [all, by_ip] = [rates.all, rates.by_ip].map(|rate| rate.and_then(|rate| limit(rate).ok()));
        ConnectionRate {
            all: all.map(|limit| (limit, Bucket::default())),
            by_ip: by_ip.map(|limit| Buckets::new(limit, MOST_ADDRESSES)),
            ipv6_prefix: rates.ipv6_prefix,
            hasher: RandomState::new(),
            origin: Instant::now(),
        }
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
        // All who come over a Unix socket would count as one.
        if let Some(by_ip) = self.by_ip.as_ref().filter(|_| !peer.is_unspecified()) {
            let key = self.hasher.hash_one(self.ipv6_prefix.block(peer));
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
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::config::{self, Protocol};

    fn arrivals(limits: &str, before: Option<&KeptConnectionRate>) -> Option<KeptConnectionRate> {
        let limits: config::Limits = serde_yaml::from_str(limits).unwrap();
        ConnectionRate::under(&Limits::of(&limits, Protocol::Tcp, Limits::BODY_SIZE), before)
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
    fn a_network_of_ipv6_is_one_address_unless_the_listener_tells_its_hosts_apart() {
        let (one, two) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        for (prefix, second) in [("", Err("connection_rate_per_ip")), (", ipv6_prefix: 128", Ok(()))] {
            let arrivals = arrivals(&format!("{{connection_rate_per_ip: 1/h{prefix}}}"), None).unwrap();
            assert_eq!([one, two].map(|ip| arrivals.admit(ip, Instant::now())), [Ok(()), second]);
        }
    }

    #[test]
    fn a_reload_that_leaves_the_limits_keeps_the_counts() {
        let first = arrivals("{connection_rate: 10/h}", None).unwrap();
        let goes_on = |limits| Arc::ptr_eq(arrivals(limits, Some(&first)).unwrap().shared(), first.shared());
        assert!(goes_on("{connection_rate: 10/h}"));
        assert!(goes_on("{connection_rate: 10/h, connections: 5}"));
        assert!(!goes_on("{connection_rate: 11/h}"));
        assert!(!goes_on("{connection_rate: 10/h, ipv6_prefix: 56}"));
        assert!(!goes_on("{connection_rate: 10/h, connection_rate_per_ip: 1/h}"));
        assert!(arrivals("{}", Some(&first)).is_none());
    }
}
