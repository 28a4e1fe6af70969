//! The last changes, so that whoever was away for a moment is told what he missed and not everything.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Event, Gone, Kind};

const MOST: usize = 100_000;
/// So that large instances which change often do not fill the memory with what they were.
const LARGEST: usize = 64 * 1024 * 1024;
pub(super) const LONGEST: Duration = Duration::from_secs(600);

pub(super) struct Log {
    all: VecDeque<Arc<Event>>,
    /// The same events, so that a service that changes rarely is not looked for among those that change often.
    by_service: HashMap<Arc<str>, VecDeque<Arc<Event>>>,
    /// What came up to here is forgotten.
    floor: u64,
    /// Of all instances in it, about.
    bytes: usize,
    most: usize,
    largest: usize,
}

impl Log {
    pub(super) fn new(revision: u64) -> Log {
        Log {
            all: VecDeque::new(),
            by_service: HashMap::new(),
            floor: revision,
            bytes: 0,
            most: MOST,
            largest: LARGEST,
        }
    }

    /// Its revision is greater than any before.
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.by_service.entry(event.instance.name.clone()).or_default().push_back(event.clone());
        self.bytes += event.instance.size();
        self.all.push_back(event);
        while self.all.len() > self.most || self.bytes > self.largest {
            self.forget();
        }
    }

    pub(super) fn tidy(&mut self, now: Instant) {
        while self.all.front().is_some_and(|event| now.saturating_duration_since(event.at) > LONGEST) {
            self.forget();
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// What came after `revision`; `None` where some of it is forgotten.
    pub(super) fn since(&self, revision: u64, name: Option<&str>) -> Option<Vec<Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        let Some(name) = name else {
            let first = self.all.partition_point(|event| event.revision <= revision);
            return Some(self.all.range(first..).cloned().collect());
        };
        let Some(events) = self.by_service.get(name) else { return Some(Vec::new()) };
        let first = events.partition_point(|event| event.revision <= revision);
        Some(events.range(first..).cloned().collect())
    }

    /// Those of a service that left, as long as that is known. One may have come back since.
    pub(super) fn gone(&self, name: &str) -> impl Iterator<Item = (Arc<str>, Gone)> {
        let events = self.by_service.get(name).into_iter().flatten();
        events.filter_map(|event| match event.kind {
            Kind::Gone(gone) => Some((event.instance.id.clone(), gone)),
            _ => None,
        })
    }

    fn forget(&mut self) {
        let Some(event) = self.all.pop_front() else { return };
        self.floor = event.revision;
        self.bytes -= event.instance.size();
        let name = &event.instance.name;
        if let Some(events) = self.by_service.get_mut(name) {
            events.pop_front();
            if events.is_empty() {
                self.by_service.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{
        instance::tests::instance,
        store::{Event, Kind},
    };

    fn log(most: usize) -> Log {
        Log { most, ..Log::new(0) }
    }

    fn event(revision: u64, name: &str, at: Instant) -> Arc<Event> {
        Arc::new(Event { revision, at, kind: Kind::Updated, instance: Arc::new(instance(name, 1)) })
    }

    fn revisions(events: Option<Vec<Arc<Event>>>) -> Option<Vec<u64>> {
        events.map(|events| events.iter().map(|event| event.revision).collect())
    }

    #[test]
    fn tells_what_came_since_of_all_or_of_one_service() {
        let (mut log, now) = (log(10), Instant::now());
        for (revision, name) in [(1, "a"), (2, "b"), (3, "a"), (4, "c")] {
            log.push(event(revision, name, now));
        }
        assert_eq!(revisions(log.since(2, None)), Some(vec![3, 4]));
        assert_eq!(revisions(log.since(0, Some("a"))), Some(vec![1, 3]));
        assert_eq!(revisions(log.since(1, Some("a"))), Some(vec![3]));
        assert_eq!(revisions(log.since(0, Some("z"))), Some(vec![]));
        assert_eq!(revisions(log.since(4, None)), Some(vec![]));
    }

    #[test]
    fn large_ones_are_forgotten_earlier() {
        let now = Instant::now();
        let one = event(1, "a", now).instance.size();
        let mut log = Log { largest: one * 3, ..log(100) };
        for revision in 1..=5 {
            log.push(event(revision, "a", now));
        }
        assert_eq!((log.floor(), log.bytes), (2, one * 3));
    }

    #[test]
    fn what_is_forgotten_is_not_made_up() {
        let (mut log, now) = (log(3), Instant::now());
        for revision in 1..=5 {
            log.push(event(revision, "a", now + Duration::from_secs(revision)));
        }
        assert_eq!(log.since(1, None).map(|_| ()), None);
        assert_eq!(revisions(log.since(2, Some("a"))), Some(vec![3, 4, 5]));
        log.tidy(now + LONGEST + Duration::from_secs(5));
        assert_eq!((log.floor(), revisions(log.since(4, None))), (4, Some(vec![5])));
        log.tidy(now + LONGEST * 2);
        assert!(log.by_service.is_empty() && log.all.is_empty());
        assert_eq!(revisions(log.since(5, Some("a"))), Some(vec![]));
    }
}
