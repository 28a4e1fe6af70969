//! What is known of a service, and what silence may take from it: nothing that is the last.
//!
//! - `deregistered` removes at once. It was said, and is no silence.
//! - `expired` removes as long as others are there. If none is, those that expired in the last minute are shown again.
//! - A whole answer replaces what was known. Where it is empty, what was known stays.
//! - A control plane that begins anew (another epoch) may not have heard of everybody yet: who is missing stays for its TTL,
//!   within which it has registered again if it lives.
//!
//! It holds no clock: callers pass `now`, and call `tidy` only while they hear the control plane.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{duration, instance::Instance};

/// Those that expired within this are shown together, should nobody be left.
const TOGETHER: Duration = Duration::from_secs(60);
const USUAL_TTL: Duration = Duration::from_secs(30);

type Known = BTreeMap<String, Arc<Instance>>;

/// The data of a `sync`: a part of all there are. The last one has `end`.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) instances: Vec<Instance>,
    pub(crate) end: bool,
    pub(crate) epoch: u64,
}

#[derive(Debug)]
pub(crate) struct Cache {
    epoch: Option<u64>,
    /// As the control plane has them.
    live: Known,
    /// Those it no longer has.
    absent: BTreeMap<String, Absent>,
    /// Of a whole answer that is under way.
    coming: Known,
    /// More instances are passed over,
    most: usize,
    /// which has happened.
    pub(crate) is_full: bool,
}

#[derive(Debug)]
struct Absent {
    instance: Arc<Instance>,
    /// It is shown beside the others until then.
    until: Option<Instant>,
    since: Instant,
}

impl Cache {
    pub(crate) fn new(most: usize) -> Cache {
        let (live, absent, coming) = Default::default();
        Cache { epoch: None, live, absent, coming, most, is_full: false }
    }

    /// What whoever asks is to see, by id.
    pub(crate) fn visible(&self) -> Vec<Arc<Instance>> {
        let staying = self.absent.iter().filter(|(_, absent)| absent.until.is_some());
        let mut visible: Known = staying.map(|(id, absent)| (id.clone(), absent.instance.clone())).collect();
        visible.extend(self.live.clone());
        if visible.is_empty() {
            return self.absent.values().map(|absent| absent.instance.clone()).collect();
        }
        visible.into_values().collect()
    }

    /// The control plane is heard again. While it was away nobody could come back, so no time has passed.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.coming.clear();
        for absent in self.absent.values_mut() {
            if absent.until.is_some() {
                absent.until = Some(now + ttl(&absent.instance));
            }
        }
    }

    pub(crate) fn page(&mut self, page: Page, now: Instant) {
        for instance in page.instances {
            self.is_full |= !insert(&mut self.coming, instance.into(), self.most);
        }
        if !page.end {
            return;
        }
        let is_anew = self.epoch.is_some_and(|epoch| epoch != page.epoch);
        self.epoch = Some(page.epoch);
        let before = std::mem::replace(&mut self.live, std::mem::take(&mut self.coming));
        for (id, instance) in before {
            let until = is_anew.then(|| now + ttl(&instance));
            self.absent.insert(id, Absent { instance, until, since: now });
        }
        self.absent.retain(|id, _| !self.live.contains_key(id));
    }

    /// `kind` is a word of the control plane. One that is not known changes nothing.
    pub(crate) fn event(&mut self, kind: &str, instance: Instance, now: Instant) {
        match kind {
            "registered" | "updated" | "held" => {
                self.absent.remove(&instance.id);
                self.is_full |= !insert(&mut self.live, instance.into(), self.most);
            }
            "deregistered" => {
                self.live.remove(&instance.id);
                self.absent.remove(&instance.id);
                // The last one has said goodbye: who expired before it is not to come back for that.
                if self.live.is_empty() {
                    self.absent.retain(|_, absent| absent.until.is_some());
                }
            }
            "expired" => {
                if let Some(instance) = self.live.remove(&instance.id) {
                    self.absent.insert(instance.id.clone(), Absent { instance, until: None, since: now });
                }
            }
            _ => {}
        }
    }

    /// Forget those whose time is over.
    pub(crate) fn tidy(&mut self, now: Instant) {
        for absent in self.absent.values_mut() {
            if absent.until.is_some_and(|until| until <= now) {
                (absent.until, absent.since) = (None, now);
            }
        }
        if !self.live.is_empty() {
            self.absent.retain(|_, absent| absent.until.is_some() || absent.since + TOGETHER > now);
        }
    }

    /// When `tidy` has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        let has_others = !self.live.is_empty();
        let due = |absent: &Absent| absent.until.or(has_others.then(|| absent.since + TOGETHER));
        self.absent.values().filter_map(due).min()
    }
}

/// False where there is no room for it.
fn insert(known: &mut Known, instance: Arc<Instance>, most: usize) -> bool {
    let has_room = known.len() < most || known.contains_key(&instance.id);
    if has_room {
        known.insert(instance.id.clone(), instance);
    }
    has_room
}

/// Bounded, as it is added to a point in time.
fn ttl(instance: &Instance) -> Duration {
    duration::parse(&instance.ttl).unwrap_or(USUAL_TTL).min(Duration::from_secs(86_400))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::tests::instance;

    /// A cache with a clock that is told.
    struct Told {
        cache: Cache,
        now: Instant,
    }

    impl Told {
        fn new() -> Told {
            Told { cache: Cache::new(100), now: Instant::now() }
        }

        fn sync(&mut self, epoch: u64, ports: &[u16]) -> &mut Told {
            self.part(epoch, ports, true)
        }

        fn part(&mut self, epoch: u64, ports: &[u16], end: bool) -> &mut Told {
            let instances = ports.iter().map(|port| instance(*port)).collect();
            self.cache.page(Page { instances, end, epoch }, self.now);
            self
        }

        fn event(&mut self, kind: &str, port: u16) -> &mut Told {
            self.cache.event(kind, instance(port), self.now);
            self
        }

        fn after(&mut self, seconds: u64) -> &mut Told {
            self.now += Duration::from_secs(seconds);
            self.cache.tidy(self.now);
            self
        }

        fn ports(&self) -> Vec<u16> {
            self.cache.visible().iter().map(|instance| instance.port).collect()
        }
    }

    #[test]
    fn follows_what_the_control_plane_says() {
        let mut told = Told::new();
        assert_eq!(told.sync(1, &[1, 2]).event("registered", 3).ports(), [1, 2, 3]);
        assert_eq!(told.event("deregistered", 1).event("expired", 2).ports(), [3]);
        assert_eq!(told.event("held", 3).event("updated", 4).event("sneezed", 5).ports(), [3, 4]);
        assert_eq!(told.sync(1, &[7]).ports(), [7]);
        assert_eq!(told.after(61).cache.due(), None);
    }

    #[test]
    fn silence_never_takes_the_last_ones() {
        let mut told = Told::new();
        told.sync(1, &[1, 2, 3, 4]).event("expired", 1).after(61);
        told.event("expired", 2).after(20).event("expired", 3).after(20);
        assert_eq!(told.ports(), [4]);
        assert_eq!(told.event("expired", 4).after(100_000).ports(), [2, 3, 4]);
        assert_eq!(told.cache.due(), None);
        assert_eq!(told.sync(1, &[]).ports(), [2, 3, 4]);
        assert_eq!(told.event("registered", 3).ports(), [3]);
    }

    #[test]
    fn whoever_says_goodbye_is_gone_also_as_the_last() {
        let mut told = Told::new();
        told.sync(1, &[1, 2]).event("expired", 1);
        assert!(told.event("deregistered", 2).ports().is_empty());
        told.sync(1, &[3]).event("expired", 3);
        assert!(told.event("deregistered", 3).ports().is_empty());
    }

    #[test]
    fn an_empty_answer_empties_nothing() {
        let mut told = Told::new();
        told.sync(1, &[1, 2]).sync(1, &[]);
        assert_eq!(told.ports(), [1, 2]);
        assert_eq!(told.sync(2, &[]).after(1_000).ports(), [1, 2]);
    }

    #[test]
    fn a_control_plane_that_begins_anew_takes_nobody_who_is_yet_to_register_again() {
        let mut told = Told::new();
        told.sync(1, &[1, 2, 3]).sync(2, &[2]);
        assert_eq!(told.ports(), [1, 2, 3]);
        assert_eq!(told.event("registered", 1).after(29).ports(), [1, 2, 3]);
        assert_eq!(told.cache.due(), Some(told.now + Duration::from_secs(1)));
        assert_eq!(told.after(1).ports(), [1, 2]);
    }

    #[test]
    fn while_it_is_away_nobodys_time_runs_out() {
        let mut told = Told::new();
        told.sync(1, &[1, 2]).sync(2, &[2]);
        told.now += Duration::from_secs(1_000);
        let now = told.now;
        told.cache.connected(now);
        assert_eq!(told.after(29).ports(), [1, 2]);
    }

    #[test]
    fn half_an_answer_changes_nothing() {
        let mut told = Told::new();
        told.sync(1, &[1, 2]).part(2, &[3], false);
        assert_eq!(told.ports(), [1, 2]);
        let now = told.now;
        told.cache.connected(now);
        assert_eq!(told.part(1, &[4], false).sync(1, &[5]).ports(), [4, 5]);
    }

    #[test]
    fn holds_no_more_than_it_may() {
        let mut told = Told::new();
        told.cache.most = 2;
        assert!(!told.sync(1, &[1, 2]).cache.is_full);
        assert_eq!(told.sync(1, &[1, 2, 3]).event("registered", 4).event("updated", 2).ports(), [1, 2]);
        assert!(told.cache.is_full);
    }

    /// Any order of events, answers, restarts and pauses.
    #[test]
    fn is_empty_only_when_the_last_one_said_goodbye() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut told = Told::new();
            told.sync(1, &[1, 2, 3]);
            for step in 0..200 {
                let (before, port) = (told.ports(), rng.u16(1..6));
                let mut was_goodbye = false;
                match rng.u8(..8) {
                    0 => {
                        let ports: Vec<u16> = (1..6).filter(|_| rng.bool()).collect();
                        told.sync(rng.u64(1..3), &ports);
                    }
                    1 => _ = told.after(rng.u64(..100)),
                    2 => {
                        was_goodbye = true;
                        told.event("deregistered", port);
                    }
                    3 | 4 => _ = told.event("registered", port),
                    _ => _ = told.event("expired", port),
                }
                let is_emptied = told.ports().is_empty() && !before.is_empty();
                assert!(!is_emptied || was_goodbye, "seed {seed}, step {step}");
                assert!(told.cache.live.keys().all(|id| !told.cache.absent.contains_key(id)));
            }
        }
    }
}
