//! A registry whose store is shared with other replicas. What the store says is what everybody sees, on each replica from
//! its own memory; a change is written first and comes back as news. Each instance's clock is kept by one replica: heartbeats
//! that reach another one are passed on to it, and when it is gone, the next heartbeat makes another one its keeper.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Heartbeat, LONGEST_WARMING, Live, Registry, Step, clocks::Origin};
use crate::control::{
    instance::Instance,
    refused::{Reason, Refused},
    store::{
        Change, Gone, Kind, Position,
        etcd::{Batch, Continuity, Fate, Keeper, Listing, News, Record, Shared},
    },
};

/// How often a change is decided on anew after somebody else was quicker.
const ATTEMPTS: usize = 5;
/// What was written comes back within this time, or is answered as it was meant.
const COMES_BACK: Duration = Duration::from_secs(2);

impl Registry {
    /// # Errors
    ///
    /// `store_unavailable`: the store was not read yet, and nothing is said before.
    pub(crate) fn check_open(&self) -> Result<(), Refused> {
        match &self.shared {
            Some(shared) if !shared.was_read() => {
                let why = "etcd was not read yet (try again; the log says why, if it takes long)";
                Err(Reason::Warming.because(why))
            }
            _ => Ok(()),
        }
    }

    /// Until the store was read whole once.
    pub(crate) async fn opened(&self) {
        if let Some(shared) = &self.shared {
            shared.opened().await;
        }
    }

    /// Replicas share the store.
    pub(crate) fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref()
    }

    /// Until what `begin` decides on is in force, or is refused.
    pub(super) async fn persist<T>(
        &self,
        begin: impl Fn() -> Result<(Step, T), Refused>,
    ) -> Result<(Arc<Instance>, T), Refused> {
        for _ in 0..ATTEMPTS {
            let (ticket, outcome) = match begin()? {
                (Step::Done(instance), outcome) => return Ok((instance, outcome)),
                (Step::Writing(ticket), outcome) => (ticket, outcome),
            };
            let (instance, fate) = ticket.settled().await;
            match fate {
                Fate::Written(revision) => {
                    self.wait_for(revision, COMES_BACK).await;
                    return Ok((self.store.get(&instance.id).unwrap_or(instance), outcome));
                }
                Fate::Conflict(revision) => self.wait_for(revision, COMES_BACK / 4).await,
                Fate::Unavailable(why) => {
                    let hint = "try again; heartbeats and what is known go on meanwhile";
                    return Err(
                        Reason::StoreUnavailable.because(format!("it cannot be written: {why} ({hint})"))
                    );
                }
            }
        }
        Err(Reason::StoreUnavailable.because("others change it at the same time (try again)"))
    }

    async fn wait_for(&self, revision: u64, most: Duration) {
        if let Some(shared) = &self.shared {
            shared.wait_for(revision, most).await;
        }
    }

    /// What becomes of a heartbeat whose instance's clock is not kept here: `None` where it is.
    pub(super) fn hear_elsewhere(
        &self,
        live: &mut Live,
        known: &Arc<Instance>,
        beat: Heartbeat,
        now: Instant,
    ) -> Option<Step> {
        match live.keys.keeper(&known.id) {
            Keeper::Me if live.keys.revision(&known.id) > 0 => None,
            Keeper::Other { replica } => {
                self.shared.as_ref()?.passing().pass(&replica, &known.id, beat);
                Some(Step::Done(known.clone()))
            }
            // Nobody keeps it, or the store has lost it.
            Keeper::Me | Keeper::Nobody => Some(self.keep(live, known, beat, now)),
        }
    }

    /// From now on this replica keeps its clock. The answer does not wait for that to be written, as it says nothing else.
    fn keep(&self, live: &mut Live, known: &Arc<Instance>, beat: Heartbeat, now: Instant) -> Step {
        self.time_here(live, known, now);
        let step = self.put(live, beat.upon(known), Kind::Updated, now);
        if beat.is_same(known) { Step::Done(known.clone()) } else { step }
    }

    pub(super) fn is_kept_elsewhere(&self, live: &Live, id: &str) -> bool {
        self.shared.is_some() && live.keys.keeper(id) != Keeper::Me
    }

    /// A clock may run here for one that another replica keeps, since it could not be written that this one does.
    pub(super) fn may_remove(&self, live: &mut Live, id: &str) -> bool {
        let may = self.shared.is_none() || live.keys.is_timed_here(id);
        if !may {
            live.clocks.stop(id);
        }
        may
    }

    pub(super) fn time_here(&self, live: &mut Live, known: &Instance, now: Instant) {
        if live.clocks.has(&known.id) {
            live.clocks.renew(known, now);
        } else {
            live.clocks.start(known, Origin::Heard, now);
        }
    }

    /// Another replica has heard of these: those whose clocks are not kept here.
    pub(crate) fn renewed(&self, beats: Vec<(String, Heartbeat)>, now: Instant) -> Vec<String> {
        let mut live = self.live();
        let mut not_owned = Vec::new();
        for (id, beat) in beats {
            let known = self.store.get(&id).filter(|_| live.keys.keeper(&id) == Keeper::Me);
            let Some(known) = known else {
                not_owned.push(id);
                continue;
            };
            self.time_here(&mut live, &known, now);
            self.hear(&mut live, &known, beat, now);
        }
        not_owned
    }

    /// `replica` could not be told of these, or does not keep them: they are kept here.
    pub(crate) fn take_over(&self, replica: &str, beats: Vec<(Arc<str>, Heartbeat)>, now: Instant) {
        let mut live = self.live();
        for (id, beat) in beats {
            let is_still = match live.keys.keeper(&id) {
                Keeper::Other { replica: keeper } => *keeper == *replica,
                Keeper::Nobody => true,
                Keeper::Me => false,
            };
            if let Some(known) = self.store.get(&id).filter(|_| is_still) {
                self.keep(&mut live, &known, beat, now);
            }
        }
    }

    /// Those whose removal could not be written are there, so their clocks run on.
    pub(super) fn time_again(&self, live: &mut Live, now: Instant) {
        let Some(shared) = &self.shared else { return };
        for id in shared.not_removed() {
            if let Some(known) = self.store.get(&id).filter(|_| live.keys.is_timed_here(&id))
                && !live.clocks.has(&id)
            {
                live.clocks.start(&known, Origin::Left, now);
            }
        }
    }

    /// What was written, by whomever.
    pub(crate) fn learn(&self, batch: Batch, now: Instant) {
        let mut live = self.live();
        let changes =
            batch.news.into_iter().filter_map(|news| self.change_of(&mut live, news, now)).collect();
        self.take(&live, batch.revision, changes, now);
    }

    fn take(&self, _live: &Live, revision: u64, changes: Vec<Change>, now: Instant) {
        // The position is that of the last change: others of the store's revisions are of no concern to those who follow.
        if !changes.is_empty() {
            self.store.learn(revision, changes, now).iter().for_each(|event| self.tell(event, now));
        }
        if let Some(shared) = &self.shared {
            shared.reached(revision);
        }
    }

    fn change_of(&self, live: &mut Live, news: News, now: Instant) -> Option<Change> {
        match news {
            News::Put(record) => {
                let is_mine = self.shared.as_ref().is_some_and(|shared| *shared.me() == record.replica);
                let origin = if is_mine { Origin::Heard } else { Origin::Left };
                self.change_to(live, record, origin, now)
            }
            News::Removed { service, id, gone } => {
                let known = self.store.get(&id).filter(|known| *known.name == *service)?;
                live.keys.forget(&id);
                live.clocks.stop(&id);
                Some(Change::Remove(known, gone))
            }
            News::ReplicaCame { id, advertise } => {
                live.keys.replica_came(id, advertise);
                None
            }
            News::ReplicaGone(id) => {
                live.keys.replica_gone(&id);
                self.time_orphans(live, now);
                None
            }
            News::Unreadable { id, revision } => {
                live.keys.overwritten(id, revision);
                None
            }
            News::Leader(leader) => {
                live.keys.set_leader(leader);
                self.time_orphans(live, now);
                None
            }
        }
    }

    /// `None` where nobody has to be told.
    fn change_to(&self, live: &mut Live, record: Record, origin: Origin, now: Instant) -> Option<Change> {
        let Record { replica, mut instance } = record;
        let known = self.store.get(&instance.id);
        if known.as_ref().is_some_and(|known| known.name != instance.name) {
            log::warn!("{} is an instance of two services, and counts as one of the first", instance.id);
            return None;
        }
        live.keys.set(&instance.id, instance.revision, &replica);
        if !live.keys.is_timed_here(&instance.id) {
            live.clocks.stop(&instance.id);
        } else if !live.clocks.has(&instance.id) {
            live.clocks.start(&instance, origin, now);
        }
        let kind = match &known {
            None => Kind::Registered,
            Some(known) => {
                // Another keeper is nobody's concern.
                instance.revision = known.revision;
                if **known == instance {
                    return None;
                }
                if instance.held && !known.held { Kind::Held } else { Kind::Updated }
            }
        };
        Some(Change::Put(instance, kind))
    }

    /// The leader counts anew for those whose replica is gone. Whoever does not lead any more leaves them alone.
    fn time_orphans(&self, live: &mut Live, now: Instant) {
        for id in live.keys.orphans() {
            if !live.keys.is_leader() {
                live.clocks.stop(&id);
            } else if let Some(known) = self.store.get(&id).filter(|_| !live.clocks.has(&id)) {
                live.clocks.start(&known, Origin::Left, now);
                // What a restored store has lost, and its replica does not write again.
                if live.keys.revision(&id) == 0 {
                    self.put(live, Instance::clone(&known), Kind::Updated, now);
                }
            }
        }
    }

    /// All that the store has, after a time in which it was not followed.
    pub(crate) fn take_in(&self, listing: Listing, continuity: Continuity, now: Instant) {
        let mut live = self.live();
        let listed = listing.ids();
        live.keys.set_replicas(listing.replicas);
        live.keys.set_leader(listing.leader);
        let mut changes = match continuity {
            Continuity::Same => self.removals(&mut live, &listed),
            Continuity::First | Continuity::Broken => {
                self.store.begin(Position { epoch: listing.epoch, revision: listing.revision });
                self.write_again(&mut live, &listed, now);
                Vec::new()
            }
        };
        for (id, revision) in listing.unreadable {
            live.keys.overwritten(id, revision);
        }
        for record in listing.records {
            if continuity == Continuity::Broken && self.write_over(&mut live, &record, now) {
                continue;
            }
            changes.extend(self.change_to(&mut live, record, Origin::Left, now));
        }
        self.take(&live, listing.revision, changes, now);
        self.time_orphans(&mut live, now);
        if continuity != Continuity::Same {
            self.warm(&mut live, now);
            self.hub.all_changed(&self.store.names());
        }
    }

    fn removals(&self, live: &mut Live, listed: &HashSet<Arc<str>>) -> Vec<Change> {
        let mut removals = Vec::new();
        for id in live.keys.missing_in(listed) {
            live.keys.forget(&id);
            live.clocks.stop(&id);
            // Why is not known any more. Gateways keep what silence took, and find out.
            removals.extend(self.store.get(&id).map(|known| Change::Remove(known, Gone::Expired)));
        }
        removals
    }

    /// A store that was restored does not know these. They are there until their clocks say otherwise.
    fn write_again(&self, live: &mut Live, listed: &HashSet<Arc<str>>, now: Instant) {
        for id in live.keys.missing_in(listed) {
            live.keys.lost(&id);
            if let Some(known) = self.store.get(&id).filter(|_| live.keys.keeper(&id) == Keeper::Me) {
                self.put(live, Instance::clone(&known), Kind::Updated, now);
            }
        }
    }

    /// A store that was restored has what one of ours once was: what it is now takes its place.
    fn write_over(&self, live: &mut Live, record: &Record, now: Instant) -> bool {
        let old = &record.instance;
        let known = self.store.get(&old.id).filter(|_| live.keys.keeper(&old.id) == Keeper::Me);
        let is_other =
            |known: &Arc<Instance>| Instance { revision: old.revision, ..Instance::clone(known) } != *old;
        let Some(known) = known.filter(is_other) else { return false };
        let me = self.shared.as_ref().map_or_else(|| record.replica.clone(), |shared| shared.me().clone());
        live.keys.set(&known.id, old.revision, &me);
        self.put(live, Instance::clone(&known), Kind::Updated, now);
        true
    }

    /// The store was away for so long that others may have taken this replica for dead.
    pub(crate) fn returned(&self, now: Instant) {
        let mut live = self.live();
        for id in live.keys.orphans() {
            live.clocks.stop(&id);
        }
        self.time_orphans(&mut live, now);
        self.warm(&mut live, now);
        self.hub.all_changed(&self.store.names());
    }

    fn warm(&self, live: &mut Live, now: Instant) {
        let longest = self.store.list(None, None, usize::MAX).iter().map(|instance| instance.ttl).max();
        let longest = longest.unwrap_or(self.settings.ttls.default).min(LONGEST_WARMING);
        live.warming = Some(now + longest);
    }

    /// `listing` was made before `revision`, and all up to that was heard: what differs was lost on the way. How many.
    pub(crate) fn repair(&self, listing: Listing, revision: u64, now: Instant) -> usize {
        let mut live = self.live();
        let mut changes = Vec::new();
        let mut repairs = 0;
        for id in live.keys.missing_in(&listing.ids()) {
            if live.keys.revision(&id) <= listing.revision {
                repairs += 1;
                live.keys.forget(&id);
                live.clocks.stop(&id);
                changes.extend(self.store.get(&id).map(|known| Change::Remove(known, Gone::Expired)));
            }
        }
        for record in listing.records {
            if live.keys.is_news(&record.instance.id, record.instance.revision) {
                repairs += 1;
                changes.extend(self.change_to(&mut live, record, Origin::Left, now));
            }
        }
        live.keys.looked_through();
        self.take(&live, revision, changes, now);
        repairs
    }

    pub(crate) fn lacks_leader(&self) -> bool {
        !self.live().keys.has_leader()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.live().keys.is_leader()
    }

    /// Where a replica is reached; `None` where it is gone.
    pub(crate) fn address_of(&self, replica: &str) -> Option<Arc<str>> {
        self.live().keys.address(replica)
    }
}

#[cfg(test)]
mod tests;
