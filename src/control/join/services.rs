//! The services that this gateway's upstreams ask for, as far as they are known: the [`Directory`] of a gateway that has a control
//! plane. It does not know where the news comes from: a stream from another machine, or the registry in this process.
//!
//! Only what is asked for is followed, for as long as a listener lives. A service that silence has emptied leaves its last
//! instances with those who listen; how long they are used is theirs to say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::known::{Change, Gone, Known, Mark};
use crate::{
    observe::{log::event, metrics::MemberMetrics},
    upstream::{Directory, Instance, Listed, Selector},
};

pub(super) struct Services {
    state: Mutex<State>,
    /// Somebody asks for a service that nobody has asked for before.
    wanted: Notify,
    /// Something was heard.
    heard: Notify,
    metrics: MemberMetrics,
}

#[derive(Default)]
struct State {
    services: HashMap<Arc<str>, Service>,
    /// What stood in the process before, of services that nobody has asked for yet.
    held: BTreeMap<Arc<str>, (Mark, Vec<Arc<Instance>>)>,
    /// What was held counts though nothing was heard.
    uses_held: bool,
    /// Counts what changed.
    edition: u64,
}

struct Service {
    known: Known,
    listings: Vec<Listing>,
}

/// One selector, and all who listen to it.
struct Listing {
    selector: Selector,
    told: watch::Sender<Option<Arc<Listed>>>,
}

/// What is to be written down of one service.
pub(super) struct Standing {
    pub name: Arc<str>,
    pub mark: Mark,
    pub instances: Vec<Arc<Instance>>,
}

impl Services {
    pub(super) fn new(held: Vec<Standing>, metrics: MemberMetrics) -> Services {
        let held = held.into_iter().map(|held| (held.name, (held.mark, held.instances))).collect();
        Services {
            state: Mutex::new(State { held, ..State::default() }),
            wanted: Notify::new(),
            heard: Notify::new(),
            metrics,
        }
    }

    /// The services that are asked for, with how far each is known. Those that nobody listens to any more are forgotten.
    pub(super) fn wanted(&self) -> Vec<(Arc<str>, Mark)> {
        let mut state = self.lock();
        state.services.retain(|_, service| {
            service.listings.retain(|listing| listing.told.receiver_count() > 0);
            !service.listings.is_empty()
        });
        let services = state.services.iter();
        services.map(|(name, service)| (name.clone(), service.known.resume())).collect()
    }

    /// Waits until there may be more that are wanted. For one task.
    pub(super) async fn more_wanted(&self) {
        self.wanted.notified().await;
    }

    /// Takes in what was heard of `name`.
    pub(super) fn hear(&self, name: &str, change: Change, now: Instant) {
        let mut state = self.lock();
        // Nobody may ask any more.
        let Some(service) = state.services.get_mut(name) else { return };
        let effect = service.known.hear(change, now);
        self.metrics.updates_held("warming", effect.carried);
        service.publish(&self.metrics, now);
        state.edition += 1;
        drop(state);
        self.heard.notify_waiters();
    }

    /// The control plane has told all of `names` up to `mark`, and there is nothing else.
    pub(super) fn hear_progress<'a>(
        &self,
        names: impl Iterator<Item = &'a Arc<str>>,
        mark: Mark,
        warming: bool,
        now: Instant,
    ) {
        let mut state = self.lock();
        let mut has_changed = false;
        for name in names {
            let Some(service) = state.services.get_mut(name) else { continue };
            if service.known.hear_progress(mark, warming, now) {
                service.publish(&self.metrics, now);
                has_changed = true;
            }
        }
        state.edition += u64::from(has_changed);
    }

    /// Waits until something was heard of all services that are asked for, or `patience` is over: then what is held counts.
    pub(super) async fn settle(&self, patience: Duration) {
        let all_heard = async {
            loop {
                let heard = self.heard.notified();
                tokio::pin!(heard);
                // Listen before looking, or the last could pass in between.
                heard.as_mut().enable();
                if self.lock().services.values().all(|service| service.known.is_heard()) {
                    return;
                }
                heard.await;
            }
        };
        let is_late = tokio::time::timeout(patience, all_heard).await.is_err();
        let mut state = self.lock();
        state.uses_held = true;
        // Nobody has asked for the others.
        state.held.clear();
        if !is_late {
            return;
        }
        let mut unknown = 0;
        for service in state.services.values_mut().filter(|service| !service.known.is_heard()) {
            if service.known.is_held() {
                service.publish(&self.metrics, Instant::now());
            } else {
                unknown += 1;
            }
        }
        drop(state);
        let message = "the control plane has not answered in time: what was held from the last time is used";
        event!(Warn, message, services_unknown = unknown);
    }

    /// Another number when there is something new to write down.
    pub(super) fn edition(&self) -> u64 {
        self.lock().edition
    }

    /// All that is to be written down.
    pub(super) fn standing(&self) -> Vec<Standing> {
        let state = self.lock();
        let services = state.services.iter().map(|(name, service)| Standing {
            name: name.clone(),
            mark: service.known.resume(),
            instances: service.last_instances(),
        });
        services.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for Services {
    fn follow(&self, selector: &Selector) -> watch::Receiver<Option<Arc<Listed>>> {
        let mut state = self.lock();
        let State { services, held, uses_held, .. } = &mut *state;
        let service = services.entry(selector.name().clone()).or_insert_with(|| {
            self.wanted.notify_one();
            let known = held.remove(selector.name()).map(|(mark, instances)| Known::held(mark, instances));
            Service { known: known.unwrap_or_default(), listings: Vec::new() }
        });
        if let Some(same) = service.listings.iter().find(|listing| listing.selector == *selector) {
            return same.told.subscribe();
        }
        let listing = Listing { selector: selector.clone(), told: watch::channel(None).0 };
        if service.known.is_heard() || *uses_held && service.known.is_held() {
            listing.tell(&service.known, &service.known.visible(), &self.metrics, Instant::now());
        }
        let receiver = listing.told.subscribe();
        service.listings.push(listing);
        receiver
    }
}

impl Service {
    fn publish(&self, metrics: &MemberMetrics, now: Instant) {
        let visible = self.known.visible();
        self.listings.iter().for_each(|listing| listing.tell(&self.known, &visible, metrics, now));
    }

    /// Those that are used: also those that silence has taken and that are kept.
    fn last_instances(&self) -> Vec<Arc<Instance>> {
        let visible = self.known.visible();
        let is_emptied = visible.is_empty() && self.known.emptied() != Some(Gone::Deregistered);
        if is_emptied { self.known.fell_silent().cloned().collect() } else { visible }
    }
}

impl Listing {
    fn tell(&self, known: &Known, visible: &[Arc<Instance>], metrics: &MemberMetrics, now: Instant) {
        let matching = |instance: &&Arc<Instance>| self.selector.matches(instance);
        let instances: Vec<_> = visible.iter().filter(matching).cloned().collect();
        let before = self.told.borrow().clone();
        let silent = match &before {
            _ if !instances.is_empty() => None,
            Some(before) if before.instances.is_empty() => before.silent.clone(),
            Some(before) => {
                let silent: Vec<_> = known.fell_silent().filter(matching).cloned().collect();
                let is_sudden = before.instances.iter().any(|was| silent.iter().any(|now| now.id == was.id));
                is_sudden.then_some((silent, now))
            }
            None => None,
        };
        let is_same = before.as_ref().is_some_and(|before| {
            before.silent.is_some() == silent.is_some() && is_equal(&before.instances, &instances)
        });
        if is_same {
            return;
        }
        self.tell_operator(
            known,
            before.as_deref(),
            instances.len(),
            silent.as_ref().map(|(silent, _)| silent.len()),
        );
        if silent.is_some() {
            metrics.updates_held("silence", 1);
        }
        self.told.send_replace(Some(Arc::new(Listed { instances, silent })));
    }

    /// That there is nobody, and why.
    fn tell_operator(&self, known: &Known, before: Option<&Listed>, now: usize, silent: Option<usize>) {
        let had = before.is_some_and(|before| !before.instances.is_empty());
        if now > 0 {
            if before.is_some() && !had {
                event!(Info, "a service has instances again", service = self.selector, instances = now);
            }
            return;
        }
        let why = match (silent, known.emptied()) {
            (Some(_), _) => "they have fallen silent, and the last of them are kept for a while (keep_last)",
            (None, _) if !known.visible().is_empty() => {
                "instances are registered, but none has the tags and the metadata that are asked for"
            }
            (None, Some(Gone::Deregistered)) => "the last one was deregistered",
            (None, Some(Gone::Expired | Gone::Unknown)) => "the last one has expired",
            (None, None) if had => "the control plane does not know them any more",
            (None, None) => "none was ever registered",
        };
        event!(Warn, "a service has no instances", service = self.selector, why = why);
    }
}

fn is_equal(one: &[Arc<Instance>], other: &[Arc<Instance>]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| Arc::ptr_eq(one, other) || one == other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    const EPOCH: u64 = 1;

    fn services(held: Vec<Standing>) -> Services {
        Services::new(held, Metrics::new("test").member().clone())
    }

    fn instance(id: &str, tag: &str) -> Arc<Instance> {
        Arc::new(Instance {
            id: id.into(),
            address: format!("{id}:80").into(),
            weight: 1,
            takes_requests: true,
            tags: [tag.to_owned()].into(),
            metadata: Default::default(),
            owner: None,
        })
    }

    fn selector(tags: &[&str]) -> Selector {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Selector::new("users", &tags, &BTreeMap::new()).unwrap()
    }

    fn whole(revision: u64, instances: &[Arc<Instance>], emptied: Option<Gone>) -> Change {
        Change {
            mark: Mark { epoch: EPOCH, revision },
            reset: true,
            warming: false,
            changed: instances.to_vec(),
            removed: Vec::new(),
            emptied,
        }
    }

    fn seen(receiver: &watch::Receiver<Option<Arc<Listed>>>) -> Option<(String, usize)> {
        let listed = receiver.borrow().clone()?;
        let ids = listed.instances.iter().map(|instance| &*instance.id).collect();
        Some((ids, listed.silent.as_ref().map_or(0, |(silent, _)| silent.len())))
    }

    #[test]
    fn each_selector_sees_what_it_asks_for_and_is_told_only_of_that() {
        let services = services(Vec::new());
        let (all, v2) = (services.follow(&selector(&[])), services.follow(&selector(&["v2"])));
        assert_eq!((seen(&all), services.wanted().len()), (None, 1));
        let now = Instant::now();
        services.hear("users", whole(1, &[instance("a", "v1"), instance("b", "v2")], None), now);
        assert_eq!((seen(&all), seen(&v2)), (Some(("ab".into(), 0)), Some(("b".into(), 0))));
        let mut again = services.follow(&selector(&["v2"]));
        again.mark_unchanged();
        services.hear("users", whole(2, &[instance("b", "v2")], None), now);
        assert_eq!(seen(&all), Some(("b".into(), 0)));
        assert!(!again.has_changed().unwrap(), "nothing has changed for it");
    }

    #[test]
    fn those_that_silence_took_last_are_told_of_and_those_that_left_are_not() {
        for (why, kept) in [(Gone::Expired, 1), (Gone::Deregistered, 0)] {
            let services = services(Vec::new());
            let (all, v2) = (services.follow(&selector(&[])), services.follow(&selector(&["v2"])));
            let now = Instant::now();
            services.hear("users", whole(1, &[instance("a", "v1"), instance("b", "v2")], None), now);
            let gone = Change { reset: false, removed: vec![("b".into(), why)], ..whole(2, &[], None) };
            services.hear("users", gone, now);
            assert_eq!(seen(&v2), Some((String::new(), kept)), "also where others of the service are there");
            assert_eq!(seen(&all), Some(("a".into(), 0)));
            services.hear("users", whole(3, &[instance("b", "v2")], None), now);
            assert_eq!(seen(&v2), Some(("b".into(), 0)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_held_counts_once_the_wait_is_over() {
        let mark = Mark { epoch: EPOCH, revision: 7 };
        let held = Standing { name: "users".into(), mark, instances: vec![instance("a", "v1")] };
        let services = services(vec![held]);
        let all = services.follow(&selector(&[]));
        assert_eq!((seen(&all), services.wanted()), (None, vec![("users".into(), mark)]));
        services.settle(Duration::from_secs(5)).await;
        assert_eq!(seen(&all), Some(("a".into(), 0)));
        services.hear("users", whole(9, &[instance("b", "v1")], None), Instant::now());
        assert_eq!(seen(&all), Some(("b".into(), 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_once_all_has_been_heard() {
        let services = services(Vec::new());
        let _all = services.follow(&selector(&[]));
        services.hear("users", whole(1, &[], None), Instant::now());
        let start = tokio::time::Instant::now();
        services.settle(Duration::from_secs(5)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn what_nobody_listens_to_is_not_wanted() {
        let services = services(Vec::new());
        let all = services.follow(&selector(&[]));
        assert_eq!(services.wanted().len(), 1);
        drop(all);
        assert!(services.wanted().is_empty());
    }
}
