//! What the registry knows of each instance beside what everybody sees: when it was heard, how often it turned, and when it
//! leaves. None of it is written anywhere.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    control::instance::{Health, Instance},
    policy::{
        expiry::Renewal,
        flapping::{Flapping, Shown, Turns, shown},
    },
};

#[derive(Default)]
pub(super) struct Clocks {
    by_id: HashMap<Arc<str>, Clock>,
    /// Services of which an instance has turned lately, with how many instances they have.
    turning: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    sizes: HashMap<Arc<str>, usize>,
}

pub(super) struct Clock {
    name: Arc<str>,
    renewal: Renewal,
    turns: Turns,
    /// It was deregistered, and drains until then.
    leaves: Option<Instant>,
    /// Since this process began.
    was_heard: bool,
}

/// Whether an instance was heard by this process, or an earlier one has left it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Origin {
    Heard,
    Left,
}

impl Clocks {
    /// From now on, or anew.
    pub(super) fn start(&mut self, instance: &Instance, origin: Origin, now: Instant) {
        let clock = Clock {
            name: instance.name.clone(),
            renewal: Renewal::new(instance.ttl, now),
            turns: Turns::default(),
            // One that drained when the process ended has done so by now.
            leaves: instance.draining.then_some(now),
            was_heard: origin == Origin::Heard,
        };
        if self.by_id.insert(instance.id.clone(), clock).is_none() {
            *self.sizes.entry(instance.name.clone()).or_default() += 1;
        }
    }

    pub(super) fn stop(&mut self, id: &str) {
        let Some(clock) = self.by_id.remove(id) else { return };
        if let Some(size) = self.sizes.get_mut(&clock.name) {
            *size -= 1;
            if *size == 0 {
                self.sizes.remove(&clock.name);
            }
        }
        self.still(id, &clock.name);
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// It was heard, with the TTL that it has now. Who registers again does not leave any more.
    pub(super) fn renew(&mut self, instance: &Instance, now: Instant) {
        let Some(clock) = self.by_id.get_mut(&instance.id) else { return };
        clock.renewal.ttl = instance.ttl;
        clock.renewal.renew(now);
        clock.was_heard = true;
        if !instance.draining {
            clock.leaves = None;
        }
    }

    pub(super) fn leave(&mut self, id: &str, at: Instant) {
        if let Some(clock) = self.by_id.get_mut(id) {
            clock.leaves = Some(at);
        }
    }

    /// Those whose time to drain is over.
    pub(super) fn left(&self, now: Instant) -> Vec<Arc<str>> {
        let left = self.by_id.iter().filter(|(_, clock)| clock.leaves.is_some_and(|at| at <= now));
        left.map(|(id, _)| id.clone()).collect()
    }

    /// Of all that may expire: those that leave were said goodbye to. While it is warming, whoever was not heard yet has time.
    pub(super) fn renewals(
        &mut self,
        is_warming: bool,
    ) -> impl Iterator<Item = (Arc<str>, Arc<str>, &mut Renewal)> {
        let may_expire = move |clock: &Clock| clock.leaves.is_none() && (clock.was_heard || !is_warming);
        let staying = self.by_id.iter_mut().filter(move |(_, clock)| may_expire(clock));
        staying.map(|(id, clock)| (id.clone(), clock.name.clone(), &mut clock.renewal))
    }

    pub(super) fn longest_ttl(&self) -> Option<Duration> {
        self.by_id.values().map(|clock| clock.renewal.ttl).max()
    }

    /// When the instance expires if it is not heard again.
    pub(super) fn due(&self, id: &str) -> Option<Instant> {
        self.by_id.get(id).map(|clock| clock.leaves.unwrap_or(clock.renewal.due()))
    }

    pub(super) fn turned(&mut self, id: &Arc<str>, now: Instant, rule: Flapping) {
        let Some(clock) = self.by_id.get_mut(id) else { return };
        clock.turns.turned(now, rule);
        self.turning.entry(clock.name.clone()).or_default().insert(id.clone());
    }

    /// How an instance is to be shown in place of what it says.
    pub(super) fn damped(&mut self, instance: &Instance, now: Instant, rule: Flapping) -> Option<Health> {
        let ids = self.turning.get(&instance.name)?;
        let mut is_flapping =
            |id: &Arc<str>| self.by_id.get_mut(id).is_some_and(|clock| clock.turns.is_flapping(now, rule));
        if !is_flapping(&instance.id) {
            return None;
        }
        let flapping = ids.iter().filter(|id| is_flapping(id)).count();
        let all = self.sizes.get(&instance.name).copied().unwrap_or_default();
        Some(match shown(flapping, all) {
            Shown::Critical => Health::Critical,
            Shown::Healthy => Health::Healthy,
        })
    }

    /// Services in which somebody turned lately. Those that have been still since are forgotten by the next time.
    pub(super) fn flapping(&mut self, now: Instant, rule: Flapping) -> Vec<Arc<str>> {
        let names: Vec<Arc<str>> = self.turning.keys().cloned().collect();
        for ids in self.turning.values_mut() {
            ids.retain(|id| {
                self.by_id.get_mut(id).is_some_and(|clock| {
                    clock.turns.is_flapping(now, rule);
                    !clock.turns.is_still()
                })
            });
        }
        self.turning.retain(|_, ids| !ids.is_empty());
        names
    }

    fn still(&mut self, id: &str, name: &str) {
        let Some(ids) = self.turning.get_mut(name) else { return };
        ids.remove(id);
        if ids.is_empty() {
            self.turning.remove(name);
        }
    }
}
