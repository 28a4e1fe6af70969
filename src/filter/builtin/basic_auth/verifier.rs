//! Verifying passwords off the threads that serve requests, and not more at a time than the machine bears: hashing is
//! slow on purpose, and whoever sends guesses must not get all of the processors for it.

use std::{num::NonZeroUsize, sync::Arc, thread};

use tokio::sync::Semaphore;

use crate::filter::builtin::basic_auth::hash::Hash;

/// There is one for the process.
pub(crate) struct Verifier {
    /// To those that are under way, and to those that wait as well.
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

/// So many may wait for a verification. With bcrypt at cost 10, on two processors, the last waits three seconds.
const WAITING: usize = 64;

/// As many verifications wait as may.
#[derive(Debug, PartialEq)]
pub(crate) struct Busy;

impl Verifier {
    /// Half of the processors verify.
    pub(crate) fn new() -> Verifier {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Verifier::with(processors.div_ceil(2), WAITING)
    }

    fn with(running: usize, waiting: usize) -> Verifier {
        Verifier {
            running: Arc::new(Semaphore::new(running)),
            admitted: Arc::new(Semaphore::new(running + waiting)),
        }
    }

    /// # Errors
    ///
    /// Too many are at it.
    pub(crate) async fn verify(&self, hash: Arc<Hash>, password: Vec<u8>) -> Result<bool, Busy> {
        let admitted = self.admitted.clone().try_acquire_owned().map_err(|_| Busy)?;
        let running = self.running.clone().acquire_owned().await.map_err(|_| Busy)?;
        let verifying = tokio::task::spawn_blocking(move || {
            // Given back when it is done, not when the client leaves: the work goes on without it.
            let _held = (admitted, running);
            hash.verifies(&password)
        });
        // A panic in it proves nothing.
        Ok(verifying.await.unwrap_or(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::builtin::basic_auth::hash::tests::bcrypt_of;

    #[tokio::test]
    async fn one_more_than_may_wait_is_turned_away() {
        let verifier = Verifier::with(1, 1);
        let hash = Arc::new(Hash::parse(&bcrypt_of("x")).unwrap());
        assert_eq!(verifier.verify(hash.clone(), b"x".to_vec()).await, Ok(true));
        let held = verifier.running.clone().acquire_owned().await.unwrap();
        let _running = verifier.admitted.clone().acquire_owned().await.unwrap();
        let waiting = verifier.verify(hash.clone(), b"y".to_vec());
        tokio::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(verifier.verify(hash, b"x".to_vec()).await, Err(Busy));
        drop(held);
        assert_eq!(waiting.await, Ok(false));
    }
}
