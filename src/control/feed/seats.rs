//! How many follow the control plane at once: streams of gateways, watches and polls that wait have the same places.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::stream::Ended;
use crate::{
    control::refused::{Reason, Refused},
    observe::metrics::{RegistryMetrics, StreamMetrics},
};

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Seats {
    places: Arc<Semaphore>,
    metrics: RegistryMetrics,
}

/// One reader's. Given up when it is dropped.
pub(crate) struct Seat {
    _place: OwnedSemaphorePermit,
    stream: StreamMetrics,
    metrics: RegistryMetrics,
}

impl Seats {
    pub(crate) fn new(places: Arc<Semaphore>, metrics: RegistryMetrics) -> Seats {
        Seats { places, metrics }
    }

    /// `kind` is what is followed, as a metric's label.
    ///
    /// # Errors
    ///
    /// `limit`: there is none left.
    pub(crate) fn take(&self, kind: &'static str) -> Result<Seat, Refused> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let setting = "`control.serve.registry.limits.watches`";
            Reason::Limit.because(format!("there are as many streams as there may be ({setting})"))
        })?;
        let stream = self.metrics.stream(kind);
        Ok(Seat { _place: place, stream, metrics: self.metrics.clone() })
    }

    /// A call is refused.
    pub(crate) fn refused(&self, refused: &Refused) {
        self.metrics.refused("grpc", refused.reason.code());
    }
}

impl Seat {
    /// A message is on its way.
    pub(crate) fn told(&self, messages: u64) {
        self.stream.sent(messages);
    }

    /// A change is in force with the reader, so long after it was made.
    pub(crate) fn applied(&self, lag: Duration) {
        self.metrics.applied(lag);
    }

    pub(crate) fn ended(&self, why: Ended) {
        self.stream.closed(why.word());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[test]
    fn a_seat_is_free_again_when_its_reader_has_gone() {
        let seats = Seats::new(Arc::new(Semaphore::new(2)), Metrics::new("test").of_registry().clone());
        let (first, _second) = (seats.take("services").ok().unwrap(), seats.take("services").ok().unwrap());
        assert_eq!(seats.take("services").err().map(|refused| refused.reason), Some(Reason::Limit));
        first.ended(Ended::Left);
        drop(first);
        assert!(seats.take("services").is_ok());
    }
}
