//! When keys are read. Several filters may use one source, each on a schedule of its own, and it is read once for all of
//! them: as often as the most impatient wants. How old keys may be remains each one's own affair.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    pub refresh: Duration,
    /// One read may take so long.
    pub timeout: Duration,
    /// Between two reads that tokens asked for.
    pub cooldown: Duration,
    pub max_stale: Duration,
}

impl Schedule {
    pub(crate) const NEVER: Schedule = Schedule {
        refresh: Duration::MAX,
        timeout: Duration::MAX,
        cooldown: Duration::MAX,
        max_stale: Duration::MAX,
    };

    /// What serves both. A read that one of them would wait for is not broken off for the other.
    fn and(self, other: &Schedule) -> Schedule {
        Schedule {
            refresh: self.refresh.min(other.refresh),
            timeout: self.timeout.max(other.timeout),
            cooldown: self.cooldown.min(other.cooldown),
            max_stale: self.max_stale.min(other.max_stale),
        }
    }
}

/// Those of all who use a source.
pub(super) struct Schedules {
    all: Mutex<Vec<Weak<Schedule>>>,
    joined: watch::Sender<()>,
}

impl Schedules {
    pub(super) fn new() -> Schedules {
        let (joined, _) = watch::channel(());
        Schedules { all: Mutex::default(), joined }
    }

    /// Counts for as long as it is held.
    pub(super) fn join(&self, schedule: Schedule) -> Arc<Schedule> {
        let schedule = Arc::new(schedule);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&schedule));
        drop(all);
        self.joined.send_replace(());
        schedule
    }

    /// What is to be done for all of them.
    pub(super) fn joint(&self) -> Schedule {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let joint = all.iter().filter_map(Weak::upgrade).fold(None, |joint: Option<Schedule>, schedule| {
            Some(joint.map_or_else(|| (*schedule).clone(), |joint| joint.and(&schedule)))
        });
        joint.unwrap_or(Schedule::NEVER)
    }

    /// Nobody uses keys that are older.
    pub(super) fn longest_stale(&self) -> Duration {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).map(|schedule| schedule.max_stale).max().unwrap_or(Duration::MAX)
    }

    /// Whoever joins may want it sooner than the others.
    pub(super) fn joined(&self) -> watch::Receiver<()> {
        self.joined.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(seconds: [u64; 4]) -> Schedule {
        let [refresh, timeout, cooldown, max_stale] = seconds.map(Duration::from_secs);
        Schedule { refresh, timeout, cooldown, max_stale }
    }

    #[test]
    fn the_most_impatient_is_served_and_no_read_is_broken_off_for_it() {
        let schedules = Schedules::new();
        assert_eq!(schedules.joint(), Schedule::NEVER);
        let seldom = schedules.join(schedule([600, 1, 10, 3600]));
        assert_eq!(schedules.joint(), *seldom);
        let often = schedules.join(schedule([60, 5, 30, 86_400]));
        assert_eq!(schedules.joint(), schedule([60, 5, 10, 3600]));
        assert_eq!(schedules.longest_stale(), often.max_stale);
        drop(often);
        assert_eq!(schedules.joint(), *seldom, "whoever is gone does not count");
    }
}
