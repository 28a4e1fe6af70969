//! Renewals of sessions, one for each however many requests wait for it: a browser asks for several things at once, and providers that exchange
//! refresh tokens take a second use of the same one for theft. A renewal goes on though nobody waits for it any more, as its
//! tokens would be lost.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, FutureExt, Shared};

use crate::filter::builtin::oidc::{session::Session, trouble::Trouble};

/// Requests with the old cookies may come for so long.
const KEPT: Duration = Duration::from_secs(60);
/// What failed is tried again after so long.
const PAUSE: Duration = Duration::from_secs(1);
/// So many sessions are renewed within `KEPT`, and 503 beyond.
const MOST: usize = 20_000;

pub(super) type Renewed = Result<Arc<Session>, Trouble>;

#[derive(Default)]
pub(super) struct Refreshes(Mutex<Flights>);

#[derive(Default)]
struct Flights {
    by_digest: HashMap<[u8; 32], Flight>,
    /// When those that are over were last let go of.
    swept: Option<Instant>,
}

struct Flight {
    began: Instant,
    renewed: Shared<BoxFuture<'static, Renewed>>,
}

impl Flight {
    fn counts(&self, now: Instant) -> bool {
        let kept = match self.renewed.peek() {
            Some(Err(_)) => PAUSE,
            _ => KEPT,
        };
        now.saturating_duration_since(self.began) < kept
    }
}

impl Refreshes {
    /// What became, or becomes, of the session with that digest. `renew` is run for the first who asks.
    pub(super) async fn join<F>(&self, digest: [u8; 32], now: Instant, renew: impl FnOnce() -> F) -> Renewed
    where
        F: Future<Output = Renewed> + Send + 'static,
    {
        let renewed = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Flights { by_digest, swept } = &mut *flights;
            if swept.is_none_or(|swept| now.saturating_duration_since(swept) >= PAUSE) {
                *swept = Some(now);
                by_digest.retain(|_, flight| flight.counts(now));
            }
            match by_digest.get(&digest).filter(|flight| flight.counts(now)) {
                Some(flight) => flight.renewed.clone(),
                None if by_digest.len() >= MOST => return Err(Trouble::Overloaded),
                None => {
                    let task = tokio::spawn(renew());
                    let renewed = task.map(|done| done.unwrap_or(Err(Trouble::Internal))).boxed().shared();
                    by_digest.insert(digest, Flight { began: now, renewed: renewed.clone() });
                    renewed
                }
            }
        };
        renewed.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn all_that_wait_share_one_renewal_which_goes_on_without_them() {
        let (refreshes, count) = (Refreshes::default(), Arc::new(AtomicU64::new(0)));
        let now = Instant::now();
        let join = |digest: u8, now| {
            let count = count.clone();
            refreshes.join([digest; 32], now, move || async move {
                tokio::task::yield_now().await;
                Ok(Arc::new(Session { began: count.fetch_add(1, Relaxed), ..Session::default() }))
            })
        };
        let first = join(1, now);
        // The first to ask has left.
        drop(tokio::time::timeout(Duration::ZERO, first).await);
        let (a, b, other) = tokio::join!(join(1, now), join(1, now + KEPT / 2), join(2, now));
        let began = |renewed: Renewed| renewed.unwrap().began;
        assert_eq!((began(a), began(b), began(other)), (0, 0, 1));
        assert_eq!(began(join(1, now + KEPT).await), 2, "the old cookies are worth nothing any more");
    }

    #[tokio::test]
    async fn what_failed_is_soon_tried_again() {
        let refreshes = Refreshes::default();
        let now = Instant::now();
        let failed = refreshes.join([1; 32], now, || async { Err(Trouble::Client) }).await;
        assert_eq!(failed, Err(Trouble::Client));
        let again = refreshes.join([1; 32], now + PAUSE / 2, || async { Ok(Arc::default()) }).await;
        assert_eq!(again, Err(Trouble::Client));
        assert!(refreshes.join([1; 32], now + PAUSE, || async { Ok(Arc::default()) }).await.is_ok());
    }
}
