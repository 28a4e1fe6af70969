//! Who follows which services. A follower has a set of names that have changed and never a queue, so that one that is slow
//! costs no more than one that is quick; what it then looks up is the newest state. Changes of a service are passed on by
//! the rule in `policy/coalesce`, for all its followers together.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::{sync::Notify, time::sleep_until};

use crate::policy::coalesce::Coalesce;

pub(crate) struct Hub {
    followers: Mutex<Followers>,
    pace: Mutex<Pace>,
    /// Something is due earlier than before.
    earlier: Notify,
}

#[derive(Default)]
struct Followers {
    next: u64,
    of_all: HashMap<u64, Arc<Inbox>>,
    by_name: HashMap<Arc<str>, OfName>,
}

/// By their numbers. There are as many lists as services, and as many entries in all of them as readers follow services.
type OfName = Vec<(u64, Arc<Inbox>)>;

#[derive(Default)]
struct Pace {
    by_name: HashMap<Arc<str>, Coalesce>,
    /// Changes that wait, by when they are passed on.
    waiting: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Default)]
struct Inbox {
    dirty: Mutex<BTreeSet<Arc<str>>>,
    filled: Notify,
}

/// Dropped, it follows nothing any more of what was named when it was made.
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    inbox: Arc<Inbox>,
    names: BTreeSet<Arc<str>>,
}

impl Hub {
    pub(crate) fn new() -> Arc<Hub> {
        Arc::new(Hub { followers: Mutex::default(), pace: Mutex::default(), earlier: Notify::new() })
    }

    /// What happens from now on to these services, or to all.
    pub(crate) fn subscribe(self: &Arc<Self>, names: Option<BTreeSet<Arc<str>>>) -> Subscription {
        let inbox = Arc::new(Inbox::default());
        let mut followers = lock(&self.followers);
        followers.next += 1;
        let id = followers.next;
        match &names {
            None => _ = followers.of_all.insert(id, inbox.clone()),
            Some(names) => names.iter().for_each(|name| _ = followers.follow(id, name, &inbox)),
        }
        Subscription { hub: self.clone(), id, inbox, names: names.unwrap_or_default() }
    }

    /// A service has changed.
    pub(crate) fn changed(&self, name: &Arc<str>, now: Instant) {
        let mut pace = lock(&self.pace);
        let due = pace.by_name.entry(name.clone()).or_default().changed(now);
        if due > now {
            let is_first = pace.waiting.first().is_none_or(|(first, _)| due < *first);
            pace.waiting.insert((due, name.clone()));
            drop(pace);
            if is_first {
                self.earlier.notify_one();
            }
            return;
        }
        pace.passed(name, now);
        drop(pace);
        lock(&self.followers).tell(name);
    }

    /// All of these have, at once: what is said of them beside their instances.
    pub(crate) fn all_changed(&self, names: &[Arc<str>]) {
        let followers = lock(&self.followers);
        names.iter().for_each(|name| followers.tell(name));
    }

    /// Pass on what waits, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let due = lock(&self.pace).waiting.first().map(|(due, _)| *due);
            match due {
                Some(due) => tokio::select! {
                    () = sleep_until(due.into()) => self.pass_on(tokio::time::Instant::now().into_std()),
                    () = self.earlier.notified() => {}
                },
                None => self.earlier.notified().await,
            }
        }
    }

    fn pass_on(&self, now: Instant) {
        let mut pace = lock(&self.pace);
        let mut due = Vec::new();
        while let Some((at, name)) = pace.waiting.first().cloned().filter(|(at, _)| *at <= now) {
            pace.waiting.remove(&(at, name.clone()));
            pace.passed(&name, now);
            due.push(name);
        }
        drop(pace);
        self.all_changed(&due);
    }

    /// Forget the pace of services that are still; to be called now and then.
    pub(crate) fn tidy(&self, now: Instant) {
        lock(&self.pace).by_name.retain(|_, coalesce| !coalesce.is_still(now));
    }
}

impl Pace {
    fn passed(&mut self, name: &Arc<str>, now: Instant) {
        if let Some(coalesce) = self.by_name.get_mut(name) {
            coalesce.passed(now);
        }
    }
}

impl Followers {
    fn follow(&mut self, id: u64, name: &Arc<str>, inbox: &Arc<Inbox>) -> Arc<str> {
        let entry = self.by_name.entry(name.clone());
        let shared = entry.key().clone();
        let of_name = entry.or_default();
        if let Err(index) = of_name.binary_search_by_key(&id, |(id, _)| *id) {
            of_name.insert(index, (id, inbox.clone()));
        }
        shared
    }

    fn forget(&mut self, id: u64, name: &str) {
        let Some(followers) = self.by_name.get_mut(name) else { return };
        if let Ok(index) = followers.binary_search_by_key(&id, |(id, _)| *id) {
            followers.remove(index);
        }
        if followers.is_empty() {
            self.by_name.remove(name);
        }
    }

    fn tell(&self, name: &Arc<str>) {
        let of_name = self.by_name.get(name).into_iter().flatten().map(|(_, inbox)| inbox);
        for inbox in self.of_all.values().chain(of_name) {
            if lock(&inbox.dirty).insert(name.clone()) {
                inbox.filled.notify_one();
            }
        }
    }
}

impl Subscription {
    /// The name as all share it. Whoever follows one more has to forget it: to keep the names here as well would cost each
    /// reader a list of them.
    pub(crate) fn follow(&self, name: &Arc<str>) -> Arc<str> {
        lock(&self.hub.followers).follow(self.id, name, &self.inbox)
    }

    pub(crate) fn forget(&self, name: &str) {
        lock(&self.hub.followers).forget(self.id, name);
        lock(&self.inbox.dirty).remove(name);
    }

    /// Waits until one that is followed has changed, and answers all that have since the last time. Dropped and called anew
    /// at any time: nothing is lost.
    pub(crate) async fn changed(&self) -> Vec<Arc<str>> {
        loop {
            let dirty = std::mem::take(&mut *lock(&self.inbox.dirty));
            if !dirty.is_empty() {
                return dirty.into_iter().collect();
            }
            self.inbox.filled.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut followers = lock(&self.hub.followers);
        followers.of_all.remove(&self.id);
        for name in &self.names {
            followers.forget(self.id, name);
        }
    }
}

/// All that is behind these locks is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    fn told(subscription: &Subscription) -> Vec<String> {
        let names = subscription.changed().now_or_never().unwrap_or_default();
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_follower_is_told_of_what_it_follows_once() {
        let (hub, now) = (Hub::new(), Instant::now());
        let all = hub.subscribe(None);
        let one = hub.subscribe(Some([name("a")].into()));
        hub.changed(&name("a"), now);
        hub.changed(&name("b"), now);
        assert_eq!(told(&all), ["a", "b"]);
        assert_eq!(told(&one), ["a"]);
        assert_eq!((told(&all), told(&one)), (vec![], vec![]));
        one.follow(&name("b"));
        one.forget("a");
        hub.changed(&name("b"), now + Duration::from_secs(1));
        hub.changed(&name("a"), now + Duration::from_secs(1));
        assert_eq!(told(&one), ["b"]);
    }

    #[test]
    fn whoever_has_gone_leaves_nothing_behind() {
        let hub = Hub::new();
        let subscription = hub.subscribe(Some([name("a"), name("b")].into()));
        drop((subscription, hub.subscribe(None)));
        let followers = lock(&hub.followers);
        assert!(followers.by_name.is_empty() && followers.of_all.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn further_changes_wait_for_each_other_and_none_is_lost() {
        let hub = Hub::new();
        tokio::spawn(hub.clone().run());
        let subscription = hub.subscribe(Some([name("a")].into()));
        let now = tokio::time::Instant::now();
        hub.changed(&name("a"), now.into_std());
        assert_eq!(told(&subscription), ["a"]);
        hub.changed(&name("a"), now.into_std());
        assert_eq!(told(&subscription), [""; 0], "it waits");
        assert_eq!(subscription.changed().await.len(), 1);
        assert_eq!(now.elapsed(), Duration::from_millis(100));
    }
}
