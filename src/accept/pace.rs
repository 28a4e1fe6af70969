//! The least rate of a client in one direction, with the timer that ends a wait which is too slow.

use std::{
    task::{Context, Poll},
    time::Instant,
};

use super::{Connection, connection::timer::Timer};
use crate::{
    error::Reason,
    policy::pace::{LeastRate, Pace},
};

#[derive(Default)]
pub(crate) struct Pacer {
    pace: Pace,
    timer: Timer,
}

impl Pacer {
    /// For a new request.
    pub(super) fn begin(&mut self, rate: Option<LeastRate>) {
        self.pace = Pace::new(rate);
    }

    pub(super) fn progress(&mut self, bytes: usize, connection: &Connection) {
        self.pace.progress(bytes as u64, connection.sharing(), Instant::now);
    }

    /// The client is waited for, up to `by` where there is a longest pause. Ready when it is too slow.
    pub(super) fn poll_late(
        &mut self,
        by: Option<Instant>,
        connection: &Connection,
        cx: &mut Context<'_>,
    ) -> Poll<Reason> {
        let due = self.pace.wait(connection.sharing(), Instant::now());
        let (at, reason) = match (by, due) {
            (Some(by), Some(due)) if by <= due => (by, Reason::ClientTimeout),
            (_, Some(due)) => (due, Reason::ClientTooSlow),
            (Some(by), None) => (by, Reason::ClientTimeout),
            (None, None) => return Poll::Pending,
        };
        if self.timer.is_over(at, cx) { Poll::Ready(reason) } else { Poll::Pending }
    }
}
