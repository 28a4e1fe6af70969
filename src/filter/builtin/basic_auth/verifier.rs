//! Verifying passwords off the threads that serve requests, and not more at a time than the machine bears: hashing is
//! slow on purpose, and whoever sends guesses must get neither all of the processors for it nor all of the places to wait.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use crate::{
    filter::builtin::basic_auth::hash::Hash,
    policy::turns::{Bounds, Turns, Who},
};

/// There is one for the process.
pub(crate) struct Verifier(Mutex<State>);

struct State {
    /// So many more may run.
    free: usize,
    waiting: Turns<oneshot::Sender<Permit>>,
}

/// To run one; it goes on to whose turn it is.
struct Permit(Option<Arc<Verifier>>);

/// So many may wait for a verification, and as many again of those who have proven themselves before: a few KB each.
const WAITING: Bounds = Bounds { all: 1024, each: 128 };
/// With bcrypt at cost 10 on two processors, a client that has all of its places waits ten seconds for the last.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// As many verifications of this client wait as may, or this one has waited for too long.
#[derive(Debug, PartialEq)]
pub(crate) struct Busy;

impl Verifier {
    /// Half of the processors verify.
    pub(crate) fn new() -> Verifier {
        let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Verifier::with(processors.div_ceil(2), WAITING)
    }

    fn with(running: usize, waiting: Bounds) -> Verifier {
        Verifier(Mutex::new(State { free: running, waiting: Turns::new(waiting) }))
    }

    /// # Errors
    ///
    /// Too many are at it.
    pub(crate) async fn verify(
        self: &Arc<Verifier>,
        who: Who,
        hash: Arc<Hash>,
        password: Vec<u8>,
    ) -> Result<bool, Busy> {
        let permit = self.turn(who).await?;
        let verifying = tokio::task::spawn_blocking(move || {
            // Given on when it is done, not when the client leaves: the work goes on without it.
            let _permit = permit;
            hash.verifies(&password)
        });
        // A panic in it proves nothing.
        Ok(verifying.await.unwrap_or(false))
    }

    async fn turn(self: &Arc<Verifier>, who: Who) -> Result<Permit, Busy> {
        let waiting = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit(Some(self.clone())));
            }
            let (sender, waiting) = oneshot::channel();
            // Whoever makes room hears of it when the sender is dropped.
            state.waiting.push(who, sender).map_err(|_| Busy)?;
            waiting
        };
        match timeout(LONGEST_WAIT, waiting).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Busy),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(verifier) = self.0.take() else { return };
        let mut state = verifier.state();
        while let Some(next) = state.waiting.pop() {
            match next.send(Permit(Some(verifier.clone()))) {
                Ok(()) => return,
                // Nobody waits there any more. It must not come back here, where the lock is held.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
        state.free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::builtin::basic_auth::hash::tests::bcrypt_of;

    fn who(client: u64) -> Who {
        Who { client, name: 1, is_known: false }
    }

    fn busy_one(waiting: Bounds) -> (Arc<Verifier>, Permit) {
        let verifier = Arc::new(Verifier::with(1, waiting));
        verifier.state().free -= 1;
        let running = Permit(Some(verifier.clone()));
        (verifier, running)
    }

    #[tokio::test]
    async fn one_more_than_may_wait_is_turned_away() {
        let (verifier, running) = busy_one(Bounds { all: 2, each: 1 });
        let hash = Arc::new(Hash::parse(&bcrypt_of("x")).unwrap());
        let mut waiting = Box::pin(verifier.verify(who(1), hash.clone(), b"y".to_vec()));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(verifier.verify(who(1), hash.clone(), b"x".to_vec()).await, Err(Busy));
        let mut other = Box::pin(verifier.verify(who(2), hash, b"x".to_vec()));
        assert!(futures::poll!(&mut other).is_pending());
        drop(running);
        assert_eq!((waiting.await, other.await), (Ok(false), Ok(true)));
        assert_eq!(verifier.state().free, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_has_an_end_and_its_turn_goes_to_the_next() {
        let (verifier, running) = busy_one(WAITING);
        assert!(verifier.turn(who(1)).await.is_err(), "the clock runs on where nothing else does");
        let mut next = Box::pin(verifier.turn(who(2)));
        assert!(futures::poll!(&mut next).is_pending());
        drop(running);
        drop(next.await.unwrap());
        let state = verifier.state();
        assert_eq!((state.free, state.waiting.len()), (1, 0));
    }

    #[tokio::test]
    async fn a_permit_that_nobody_took_is_not_lost() {
        let (verifier, running) = busy_one(WAITING);
        let mut left = Box::pin(verifier.turn(who(1)));
        assert!(futures::poll!(&mut left).is_pending());
        drop(running);
        drop(left);
        assert_eq!(verifier.state().free, 1);
    }
}
