//! What a gateway knows of one service, and what becomes of it when it hears more. Pure: the time is an argument.
//!
//! Two sets. `current` is what the control plane of now says. `carried` is what was known before and not yet taken back: what was
//! held while this process was down, or what another epoch of the plane said. While the plane is `warming`, what it does not
//! name may still come back, so the union of both counts; afterwards `current` alone.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::upstream::Instance;

/// Instances that fall silent one after another within this time have fallen silent together: they have heartbeats of their own.
const TOGETHER: Duration = Duration::from_secs(60);
/// Remembered for that; far more than any service that empties like this has.
const MOST_REMEMBERED: usize = 10_000;

/// How far something is known: revisions of different epochs cannot be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub epoch: u64,
    pub revision: u64,
}

/// Why an instance is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    Deregistered,
    Expired,
    /// Nobody remembers.
    Unknown,
}

/// What is heard of one service, whole.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub mark: Mark,
    /// `changed` is all there is, and `removed` those that are remembered to have left lately.
    pub reset: bool,
    pub warming: bool,
    pub changed: Vec<Arc<Instance>>,
    pub removed: Vec<(Arc<str>, Gone)>,
    /// Why the last one left, where there is none and that is known.
    pub emptied: Option<Gone>,
}

type Instances = BTreeMap<Arc<str>, Arc<Instance>>;

#[derive(Default)]
pub(super) struct Known {
    current: Instances,
    carried: Instances,
    /// `None`: nothing was heard in this process's life.
    mark: Option<Mark>,
    /// Whether `carried` is what stood at this mark, word for word.
    held: Option<Mark>,
    /// Those that silence took lately, the last of them last.
    silent: VecDeque<(Instant, Arc<Instance>)>,
    emptied: Option<Gone>,
}

/// What hearing something did, beside what is visible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// So many stay though the plane does not name them.
    pub carried: usize,
}

impl Known {
    /// As it stood at `mark` in the process before.
    pub(super) fn held(mark: Mark, instances: Vec<Arc<Instance>>) -> Known {
        Known { carried: by_id(instances), held: Some(mark), ..Known::default() }
    }

    /// Whether the plane has spoken.
    pub(super) fn is_heard(&self) -> bool {
        self.mark.is_some()
    }

    /// Whether there is anything from before.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// From where the plane may go on, if it remembers.
    pub(super) fn resume(&self) -> Mark {
        // What another epoch has said and nobody has confirmed is no base to go on from.
        let is_base = self.carried.is_empty() || self.mark.is_none();
        self.mark.or(self.held).filter(|_| is_base).unwrap_or_default()
    }

    /// All that counts, in the order of their ids.
    pub(super) fn visible(&self) -> Vec<Arc<Instance>> {
        if self.carried.is_empty() {
            return self.current.values().cloned().collect();
        }
        let mut all = self.carried.clone();
        all.extend(self.current.iter().map(|(id, instance)| (id.clone(), instance.clone())));
        all.into_values().collect()
    }

    /// Those that silence took together with the last one.
    pub(super) fn fell_silent(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.silent.iter().map(|(_, instance)| instance)
    }

    pub(super) fn emptied(&self) -> Option<Gone> {
        self.emptied
    }

    pub(super) fn hear(&mut self, change: Change, now: Instant) -> Effect {
        let Change { mark, reset, warming, changed, removed, emptied } = change;
        if !reset && self.held.is_some_and(|held| held.epoch == mark.epoch) {
            // It goes on from what was held.
            self.current = std::mem::take(&mut self.carried);
        }
        self.held = None;
        if reset {
            self.replace(by_id(changed), &removed, warming, emptied, now);
        } else {
            self.take_out(removed, now);
            for instance in changed {
                self.carried.remove(&instance.id);
                self.current.insert(instance.id.clone(), instance);
            }
        }
        if !warming {
            // They had their time to come back.
            let late = std::mem::take(&mut self.carried);
            late.into_values().for_each(|instance| self.falls_silent(instance, now));
        }
        self.forget_returned();
        self.mark = Some(mark);
        self.emptied = emptied.filter(|_| self.current.is_empty());
        Effect { carried: self.carried.len() }
    }

    /// The plane is no longer warming, or is at a later revision, and that is all.
    pub(super) fn hear_progress(&mut self, mark: Mark, warming: bool, now: Instant) -> bool {
        if self.mark.is_none_or(|known| known.epoch != mark.epoch) {
            return false;
        }
        self.mark = Some(mark);
        if warming || self.carried.is_empty() {
            return false;
        }
        let late = std::mem::take(&mut self.carried);
        late.into_values().for_each(|instance| self.falls_silent(instance, now));
        true
    }

    fn replace(
        &mut self,
        new: Instances,
        removed: &[(Arc<str>, Gone)],
        warming: bool,
        emptied: Option<Gone>,
        now: Instant,
    ) {
        let left: HashMap<&Arc<str>, Gone> = removed.iter().map(|(id, why)| (id, *why)).collect();
        let mut before = std::mem::replace(&mut self.current, new);
        before.extend(std::mem::take(&mut self.carried));
        before.retain(|id, _| !self.current.contains_key(id) && left.get(id) != Some(&Gone::Deregistered));
        if warming {
            self.carried = before;
            return;
        }
        // Of all others the plane has forgotten them, or has found them silent: nobody took them out.
        let is_forgotten = self.current.is_empty() && emptied != Some(Gone::Deregistered);
        for (id, instance) in before {
            if is_forgotten || left.contains_key(&id) {
                self.falls_silent(instance, now);
            }
        }
    }

    fn take_out(&mut self, removed: Vec<(Arc<str>, Gone)>, now: Instant) {
        for (id, why) in removed {
            let current = self.current.remove(&id);
            let carried = if why == Gone::Deregistered { self.carried.remove(&id) } else { None };
            if let Some(instance) = current.or(carried)
                && why == Gone::Expired
            {
                self.falls_silent(instance, now);
            }
        }
    }

    fn falls_silent(&mut self, instance: Arc<Instance>, now: Instant) {
        let is_long_ago = |(at, _): &(Instant, _)| now.saturating_duration_since(*at) > TOGETHER;
        while self.silent.len() == MOST_REMEMBERED || self.silent.front().is_some_and(is_long_ago) {
            self.silent.pop_front();
        }
        self.silent.push_back((now, instance));
    }

    fn forget_returned(&mut self) {
        let Known { silent, current, .. } = self;
        silent.retain(|(_, instance)| !current.contains_key(&instance.id));
    }
}

fn by_id(instances: Vec<Arc<Instance>>) -> Instances {
    instances.into_iter().map(|instance| (instance.id.clone(), instance)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instance(id: &str) -> Arc<Instance> {
        Arc::new(Instance {
            id: id.into(),
            address: format!("{id}:80").into(),
            weight: 1,
            takes_requests: true,
            tags: Default::default(),
            metadata: Default::default(),
            owner: None,
        })
    }

    fn all(ids: &str) -> Vec<Arc<Instance>> {
        ids.chars().map(|id| instance(&id.to_string())).collect()
    }

    fn ids<'a>(instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> String {
        instances.into_iter().map(|instance| &*instance.id).collect()
    }

    fn seen(known: &Known) -> String {
        ids(&known.visible())
    }

    fn whole(epoch: u64, ids: &str) -> Change {
        let mark = Mark { epoch, revision: 1 };
        Change { mark, reset: true, warming: false, changed: all(ids), removed: Vec::new(), emptied: None }
    }

    fn less(epoch: u64, ids: &str, why: Gone) -> Change {
        let removed = ids.chars().map(|id| (id.to_string().as_str().into(), why)).collect();
        Change { reset: false, changed: Vec::new(), removed, ..whole(epoch, "") }
    }

    #[test]
    fn what_is_heard_replaces_what_was() {
        let (mut known, now) = (Known::default(), Instant::now());
        assert!(!known.is_heard());
        for (change, expected) in [
            (whole(1, "abc"), "abc"),
            (less(1, "a", Gone::Deregistered), "bc"),
            (Change { changed: all("d"), ..less(1, "b", Gone::Expired) }, "cd"),
            (whole(1, "x"), "x"),
        ] {
            known.hear(change, now);
            assert_eq!(seen(&known), expected);
        }
    }

    #[test]
    fn another_epoch_takes_nobody_out_until_it_is_warm() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.hear(whole(1, "abc"), now);
        let effect = known.hear(Change { warming: true, ..whole(2, "a") }, now);
        assert_eq!((seen(&known).as_str(), effect.carried), ("abc", 2));
        known.hear(Change { warming: true, ..less(2, "b", Gone::Deregistered) }, now);
        assert_eq!(seen(&known), "ac", "but for those that are taken out on purpose");
        known.hear(Change { warming: true, changed: all("d"), ..less(2, "", Gone::Expired) }, now);
        assert_eq!(seen(&known), "acd");
        assert_eq!(known.resume(), Mark::default(), "what nobody has confirmed is asked for again");
        assert!(known.hear_progress(Mark { epoch: 2, revision: 9 }, false, now));
        assert_eq!((seen(&known), ids(known.fell_silent())), ("ad".into(), "c".into()));
        assert_eq!(known.resume(), Mark { epoch: 2, revision: 9 });
    }

    #[test]
    fn what_was_held_is_gone_on_from_or_added_to() {
        let (mark, now) = (Mark { epoch: 1, revision: 5 }, Instant::now());
        let held = || Known::held(mark, all("ab"));
        assert_eq!((held().resume(), seen(&held()).as_str(), held().is_heard()), (mark, "ab", false));
        let mut same = held();
        same.hear(Change { changed: all("c"), ..less(1, "a", Gone::Deregistered) }, now);
        assert_eq!(seen(&same), "bc");
        let mut forgotten = held();
        forgotten.hear(Change { warming: true, ..whole(2, "c") }, now);
        assert_eq!(seen(&forgotten), "abc");
        let mut warm = held();
        warm.hear(whole(2, "c"), now);
        assert_eq!(seen(&warm), "c");
    }

    #[test]
    fn those_that_fell_silent_together_are_remembered_and_those_that_left_are_not() {
        let (mut known, start) = (Known::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        known.hear(whole(1, "abcd"), at(0));
        known.hear(less(1, "a", Gone::Expired), at(0));
        known.hear(less(1, "b", Gone::Expired), at(100));
        known.hear(less(1, "c", Gone::Deregistered), at(110));
        known.hear(Change { emptied: Some(Gone::Expired), ..less(1, "d", Gone::Expired) }, at(120));
        assert_eq!((seen(&known).as_str(), ids(known.fell_silent())), ("", "bd".into()));
        assert_eq!(known.emptied(), Some(Gone::Expired));
        known.hear(Change { changed: all("b"), ..less(1, "", Gone::Expired) }, at(130));
        assert_eq!(ids(known.fell_silent()), "d", "one that is back is not silent");
    }

    #[test]
    fn those_that_left_while_nobody_listened_are_told_apart() {
        let now = Instant::now();
        let removed = vec![("b".into(), Gone::Deregistered), ("c".into(), Gone::Expired)];
        let mut known = Known::default();
        known.hear(whole(1, "abc"), now);
        known.hear(Change { removed: removed.clone(), ..whole(1, "a") }, now);
        assert_eq!((seen(&known).as_str(), ids(known.fell_silent()).as_str()), ("a", "c"));
        let mut warming = Known::default();
        warming.hear(whole(1, "abc"), now);
        warming.hear(Change { removed, warming: true, ..whole(2, "a") }, now);
        assert_eq!(seen(&warming), "ac");
    }

    #[test]
    fn a_plane_that_forgot_a_service_has_not_deregistered_it() {
        let now = Instant::now();
        for (emptied, silent) in [(None, "ab"), (Some(Gone::Expired), "ab"), (Some(Gone::Deregistered), "")] {
            let mut known = Known::default();
            known.hear(whole(1, "ab"), now);
            known.hear(Change { emptied, ..whole(2, "") }, now);
            assert_eq!(
                (seen(&known).as_str(), ids(known.fell_silent()).as_str()),
                ("", silent),
                "{emptied:?}"
            );
        }
    }

    proptest! {
        /// Whatever comes, the end is what the plane says, and those that were always there are never missing.
        #[test]
        fn any_interleaving_ends_in_the_planes_state(steps in prop::collection::vec((0_u8..4, 0_u8..8, any::<bool>()), 0..60)) {
            let (mut known, now) = (Known::default(), Instant::now());
            let mut plane: std::collections::BTreeSet<char> = ['z'].into();
            let (mut epoch, mut revision) = (1, 1);
            known.hear(whole(1, "z"), now);
            for (step, which, warming) in steps {
                let id = char::from(b'a' + which);
                revision += 1;
                let mark = Mark { epoch, revision };
                match step {
                    0 => {
                        plane.insert(id);
                        let changed = all(&id.to_string());
                        known.hear(Change { mark, warming, changed, ..less(epoch, "", Gone::Unknown) }, now);
                    }
                    1 => {
                        plane.remove(&id);
                        known.hear(Change { mark, warming, ..less(epoch, &id.to_string(), Gone::Deregistered) }, now);
                    }
                    2 => {
                        epoch += 1;
                        let state: String = plane.iter().collect();
                        known.hear(Change { warming, ..whole(epoch, &state) }, now);
                    }
                    _ => {
                        known.hear_progress(mark, warming, now);
                    }
                }
                let seen = seen(&known);
                prop_assert!(plane.iter().all(|id| seen.contains(*id)), "{plane:?} {seen}");
            }
            known.hear_progress(Mark { epoch, revision }, false, now);
            prop_assert_eq!(seen(&known), plane.iter().collect::<String>());
        }
    }
}
