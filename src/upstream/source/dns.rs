//! Endpoints from DNS: every address of a name is an endpoint, and the name is asked again as its answer expires, or as
//! the machine's hosts file or name servers change.
//! A name that does not resolve is asked again with growing pauses; the last good answer stays in use meanwhile.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;

use super::{Address, EndpointSource, Found, Line, Supply};
use crate::{names::Resolve, upstream::endpoint::lock};

pub(super) fn supply(line: &Line<'_>) -> Option<Supply> {
    let Address::Host { host, port } = &line.address else { return None };
    Some(Supply::Followed(Box::new(Dns {
        host: host.clone(),
        port: *port,
        resolver: line.live.resolver.clone(),
        refresh: Mutex::default(),
    })))
}

/// One configured `host:port` as a source of endpoints; each address has the whole weight.
struct Dns {
    host: String,
    port: u16,
    resolver: Arc<dyn Resolve>,
    refresh: Mutex<Refresh>,
}

#[async_trait]
impl EndpointSource for Dns {
    fn name(&self) -> &str {
        &self.host
    }

    async fn discover(&self) -> Result<Vec<Found>, String> {
        // Before the question: what changes meanwhile is asked again.
        lock(&self.refresh).begins(self.resolver.edition());
        match self.resolver.resolve(&self.host).await {
            Ok(answer) if !answer.addresses.is_empty() => {
                lock(&self.refresh).resolved(answer.ttl);
                let addresses = answer.addresses.into_iter();
                Ok(addresses.map(|ip| Found::at(SocketAddr::new(ip, self.port))).collect())
            }
            outcome => {
                lock(&self.refresh).failed(&mut fastrand::Rng::new());
                Err(outcome.err().map_or_else(|| "the answer is empty".into(), |error| error.to_string()))
            }
        }
    }

    async fn changed(&self) {
        is_due(&self.refresh, &*self.resolver).await;
    }
}

/// Waits until it is time to ask again.
pub(super) async fn is_due(refresh: &Mutex<Refresh>, resolver: &dyn Resolve) {
    let Refresh { wait, edition, .. } = *lock(refresh);
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = resolver.changed(edition) => {}
    }
}

/// When to ask a name again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Refresh {
    pub(super) failures: u32,
    pub(super) wait: Duration,
    /// What the machine said when the name was asked.
    edition: u64,
}

impl Refresh {
    /// Some names carry a TTL of 0; asking for each request is not what they mean.
    const SHORTEST: Duration = Duration::from_secs(1);
    /// A TTL of a day must not keep an address that has moved for a day.
    const LONGEST: Duration = Duration::from_secs(300);
    const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

    /// The name is asked now.
    pub(super) fn begins(&mut self, edition: u64) {
        self.edition = edition;
    }

    pub(super) fn resolved(&mut self, ttl: Duration) {
        self.failures = 0;
        self.wait = ttl.clamp(Self::SHORTEST, Self::LONGEST);
    }

    /// 1 s, doubled with each failure up to 30 s, of which a random half is taken off above the first second.
    pub(super) fn failed(&mut self, rng: &mut fastrand::Rng) {
        let full = Self::SHORTEST.saturating_mul(1 << self.failures.min(5)).min(Self::LONGEST_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.wait = full.mul_f64(1.0 - 0.5 * rng.f64()).max(Self::SHORTEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_for_their_ttl_within_a_second_and_five_minutes() {
        let mut refresh = Refresh::default();
        for (ttl, wait) in [(0, 1), (1, 1), (60, 60), (86_400, 300)] {
            refresh.resolved(Duration::from_secs(ttl));
            assert_eq!(refresh.wait, Duration::from_secs(wait));
        }
    }

    #[test]
    fn failures_back_off_from_one_second_to_thirty_and_start_over_after_an_answer() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut refresh = Refresh::default();
        for full in [1, 2, 4, 8, 16, 30, 30, 30] {
            refresh.failed(&mut rng);
            let full = Duration::from_secs(full);
            assert!(refresh.wait <= full && refresh.wait >= (full / 2).max(Refresh::SHORTEST), "{refresh:?}");
        }
        refresh.resolved(Duration::from_secs(60));
        refresh.failed(&mut rng);
        assert_eq!(refresh.wait, Duration::from_secs(1));
    }
}
