//! Who is told everything first, when many come at once: so many at a time, and the others in the order in which they came. A
//! thousand gateways that come back together are no stampede.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const AT_A_TIME: usize = 64;

#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Gate {
        Gate(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

impl Gate {
    /// The place of one, which it keeps until it drops it. `None` where there is no order to keep any more.
    pub(crate) fn turn(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + Send + 'static {
        let places = self.0.clone();
        async move { places.acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn so_many_at_a_time_and_the_next_when_one_is_done() {
        let gate = Gate::default();
        let mut turns: Vec<_> = (0..AT_A_TIME).map(|_| gate.turn().now_or_never().flatten()).collect();
        assert!(turns.iter().all(Option::is_some));
        let mut next = Box::pin(gate.turn());
        assert!(next.as_mut().now_or_never().is_none());
        turns.pop();
        assert!(next.now_or_never().flatten().is_some());
    }
}
