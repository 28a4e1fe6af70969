//! The registry: the one place that changes instances. It checks who may, keeps the clocks that a store has no need of
//! (heartbeats cost no write), and lets the policies decide who expires, who is held and who flaps.
//!
//! Every method is told the time. None waits but for a store that others share (`shared`): there a change is in force once
//! it is written, and what the store says is what everybody sees.

mod clocks;
mod shared;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use self::clocks::{Clocks, Origin};
use super::{
    access::Caller,
    feed::{Hub, Subscription},
    instance::{Health, Instance, Owner, State},
    refused::{Reason, Refused},
    registration::{Registration, Ttls},
    store::{Change, Event, Gone, Kind, Position, Service, Store, etcd},
};
use crate::{
    observe::metrics::RegistryMetrics,
    policy::{
        expiry::{Expiry, Hold, Verdict},
        flapping::Flapping,
    },
};

/// After a start, whoever was not heard yet has no longer than this.
const LONGEST_WARMING: Duration = Duration::from_secs(300);

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) ttls: Ttls,
    pub(crate) hold: Option<Hold>,
    pub(crate) flapping: Flapping,
    pub(crate) instances: usize,
    pub(crate) instances_per_service: usize,
}

pub(crate) struct Registry {
    settings: Settings,
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    metrics: RegistryMetrics,
    /// Where changes are written before they are in force; `None` where `store` is all there is.
    shared: Option<Arc<etcd::Shared>>,
    live: Mutex<Live>,
}

struct Live {
    /// Of all, or with a shared store of those that this replica keeps.
    clocks: Clocks,
    expiry: Expiry<Arc<str>>,
    warming: Option<Instant>,
    /// Of a shared store.
    keys: etcd::Keys,
}

/// A change that was decided on.
enum Step {
    Done(Arc<Instance>),
    /// It is in force once it is written.
    Writing(etcd::Ticket),
}

/// What a heartbeat says beside that the instance is there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heartbeat {
    pub(crate) health: Option<Health>,
    pub(crate) weight: Option<u16>,
}

/// Whether a registration was a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Updated,
}

impl Registry {
    /// With what `store` has, all of which is given one TTL to be heard again.
    pub(crate) fn new(
        settings: Settings,
        store: Arc<dyn Store>,
        metrics: RegistryMetrics,
        now: Instant,
    ) -> Registry {
        let mut clocks = Clocks::default();
        for instance in store.list(None, None, usize::MAX) {
            clocks.start(&instance, Origin::Left, now);
        }
        // Where nothing was kept, everybody comes back within this time as well.
        let longest = clocks.longest_ttl().unwrap_or(settings.ttls.default).min(LONGEST_WARMING);
        let keys = etcd::Keys::new("".into());
        let live = Live { clocks, expiry: Expiry::new(settings.hold), warming: Some(now + longest), keys };
        let live = Mutex::new(live);
        let registry = Registry { settings, store, hub: Hub::new(), metrics, shared: None, live };
        registry.show(&registry.live());
        registry
    }

    /// With a store that is shared, and of which nothing is known yet.
    pub(crate) fn sharing(mut self, shared: Arc<etcd::Shared>) -> Registry {
        self.live.get_mut().unwrap_or_else(PoisonError::into_inner).keys =
            etcd::Keys::new(shared.me().clone());
        self.shared = Some(shared);
        self
    }

    pub(crate) fn ttls(&self) -> &Ttls {
        &self.settings.ttls
    }

    pub(crate) fn position(&self) -> Position {
        self.store.position()
    }

    /// After a start: what is missing may still come back, and whoever was not heard yet does not expire.
    pub(crate) fn is_warming(&self) -> bool {
        self.live().warming.is_some()
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn service(&self, name: &str) -> Arc<Service> {
        self.store.service(name)
    }

    /// When an instance expires if it is not heard again.
    pub(crate) fn due(&self, id: &str) -> Option<Instant> {
        self.live().clocks.due(id)
    }

    /// What happens from now on to these services, or to all.
    pub(crate) fn subscribe(&self, names: Option<BTreeSet<Arc<str>>>) -> Subscription {
        self.hub.subscribe(names)
    }

    /// # Errors
    ///
    /// `not_yours`, `conflict`, `limit` or `store_unavailable`.
    pub(crate) async fn register(
        &self,
        registration: Registration,
        caller: &Caller,
        now: Instant,
    ) -> Result<(Arc<Instance>, Outcome), Refused> {
        caller.check_register(&registration.name)?;
        self.persist(|| self.begin_registration(registration.clone(), caller, now)).await
    }

    fn begin_registration(
        &self,
        registration: Registration,
        caller: &Caller,
        now: Instant,
    ) -> Result<(Step, Outcome), Refused> {
        let mut live = self.live();
        let Some(known) = self.store.get(&registration.id) else {
            self.check_room(&registration.name)?;
            let instance = registration.instance(caller.owner.clone(), SystemTime::now());
            if self.shared.is_none() {
                live.clocks.start(&instance, Origin::Heard, now);
            }
            return Ok((self.put(&live, instance, Kind::Registered, now), Outcome::Created));
        };
        caller.check_owns(&known)?;
        if known.name != registration.name {
            let why = format!("{} is an instance of {:?}", known.id, known.name);
            return Err(
                Reason::Conflict.because(format!("{why} (deregister it first, or choose another `id`)"))
            );
        }
        let owner = if known.owner == Owner::Anybody { &caller.owner } else { &known.owner };
        let mut next = registration.instance(owner.clone(), known.registered);
        next.revision = known.revision;
        next.since = known.since;
        if self.is_kept_elsewhere(&live, &known.id) {
            // Where it registers is where it is heard.
            self.time_here(&mut live, &next, now);
            return Ok((self.put(&live, next, Kind::Updated, now), Outcome::Updated));
        }
        live.clocks.renew(&next, now);
        Ok((self.change(&mut live, &known, next, now), Outcome::Updated))
    }

    /// # Errors
    ///
    /// `not_registered`: it has to register again. `not_yours`. `store_unavailable`: it was heard, and what it says
    /// beside could not be written.
    pub(crate) async fn heartbeat(
        &self,
        id: &str,
        beat: Heartbeat,
        caller: &Caller,
        now: Instant,
    ) -> Result<Arc<Instance>, Refused> {
        let (instance, ()) = self.persist(|| Ok((self.begin_heartbeat(id, beat, caller, now)?, ()))).await?;
        Ok(instance)
    }

    fn begin_heartbeat(
        &self,
        id: &str,
        beat: Heartbeat,
        caller: &Caller,
        now: Instant,
    ) -> Result<Step, Refused> {
        let mut live = self.live();
        let Some(known) = self.store.get(id) else {
            self.metrics.heartbeat("not_registered");
            return Err(not_registered(id));
        };
        if let Err(refused) = caller.check_owns(&known) {
            self.metrics.heartbeat("not_yours");
            return Err(refused);
        }
        self.metrics.heartbeat("ok");
        live.clocks.renew(&known, now);
        Ok(self.hear(&mut live, &known, beat, now))
    }

    /// What a heartbeat says of one that was renewed.
    fn hear(&self, live: &mut Live, known: &Arc<Instance>, beat: Heartbeat, now: Instant) -> Step {
        if self.shared.is_some()
            && let Some(step) = self.hear_elsewhere(live, known, beat, now)
        {
            return step;
        }
        // Most say nothing new, and cost no more than this.
        if beat.is_same(known) {
            return Step::Done(known.clone());
        }
        self.change(live, known, beat.upon(known), now)
    }

    /// With `drain` it gets nothing new for that long, and is gone then. That it is not there is no fault.
    ///
    /// # Errors
    ///
    /// `not_yours` or `store_unavailable`.
    pub(crate) async fn deregister(
        &self,
        id: &str,
        drain: Duration,
        caller: &Caller,
        now: Instant,
    ) -> Result<(), Refused> {
        if self.store.get(id).is_none() {
            return Ok(());
        }
        let begin = || Ok((self.begin_deregistration(id, drain, caller, now)?, ()));
        match self.persist(begin).await {
            // Somebody else has taken it out meanwhile.
            Err(Refused { reason: Reason::NotRegistered, .. }) => Ok(()),
            done => done.map(drop),
        }
    }

    fn begin_deregistration(
        &self,
        id: &str,
        drain: Duration,
        caller: &Caller,
        now: Instant,
    ) -> Result<Step, Refused> {
        let mut live = self.live();
        let known = self.store.get(id).ok_or_else(|| not_registered(id))?;
        caller.check_owns(&known)?;
        if drain.is_zero() {
            return Ok(self.remove(&mut live, known, Gone::Deregistered, now));
        }
        if self.shared.is_some() {
            self.time_here(&mut live, &known, now);
        }
        live.clocks.leave(id, now + drain);
        if known.draining {
            return Ok(Step::Done(known));
        }
        let next = Instance { draining: true, ..Instance::clone(&known) };
        Ok(self.change(&mut live, &known, next, now))
    }

    /// Who is overdue, who leaves, and who is still again; to be called once a second.
    pub(crate) fn tick(&self, now: Instant) {
        let mut live = self.live();
        // Nobody is taken out while it cannot be written down that they are.
        if self.shared.as_ref().is_none_or(|shared| shared.is_up()) {
            self.time_again(&mut live, now);
            for id in live.clocks.left(now) {
                if let Some(instance) = self.store.get(&id).filter(|_| self.may_remove(&mut live, &id)) {
                    self.remove(&mut live, instance, Gone::Deregistered, now);
                }
            }
            self.end_warming(&mut live, now);
            self.expire(&mut live, now);
            for name in live.clocks.flapping(now, self.settings.flapping) {
                self.damp(&mut live, &name, now);
            }
        }
        self.store.tidy(now);
        self.hub.tidy(now);
        self.show(&live);
    }

    /// What another process has kept, in place of what is here.
    pub(crate) fn replace(&self, instances: Vec<Arc<Instance>>, now: Instant) {
        let mut live = self.live();
        let kept: BTreeSet<&Arc<str>> = instances.iter().map(|instance| &instance.id).collect();
        for instance in self.store.list(None, None, usize::MAX) {
            if !kept.contains(&instance.id) {
                self.remove(&mut live, instance, Gone::Deregistered, now);
            }
        }
        for instance in instances {
            live.clocks.start(&instance, Origin::Left, now);
            let known = self.store.get(&instance.id);
            let revision = known.as_ref().map_or(0, |known| known.revision);
            let next = Instance { revision, ..Instance::clone(&instance) };
            if known.is_none_or(|known| *known != next) {
                self.apply(Change::Put(next, Kind::Updated), now);
            }
        }
    }

    /// Passes changes on and looks at the clocks, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        const LOOK: Duration = Duration::from_secs(1);
        tokio::spawn(self.hub.clone().run());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.tick(Instant::now());
        }
    }

    fn check_room(&self, name: &str) -> Result<(), Refused> {
        let (most, most_of_one) = (self.settings.instances, self.settings.instances_per_service);
        let (which, most) = if self.store.count().instances >= most {
            ("instances", most)
        } else if self.store.service(name).instances.len() >= most_of_one {
            ("instances_per_service", most_of_one)
        } else {
            return Ok(());
        };
        let setting = format!("`control.serve.registry.limits.{which}`");
        Err(Reason::Limit.because(format!("there are {most} already, which is the limit ({setting})")))
    }

    /// `next` in place of `known`, where it says something else.
    fn change(&self, live: &mut Live, known: &Arc<Instance>, mut next: Instance, now: Instant) -> Step {
        let turned = next.health != known.health;
        if turned {
            live.clocks.turned(&next.id, now, self.settings.flapping);
        }
        next.damped = live.clocks.damped(&next, now, self.settings.flapping);
        if next == **known {
            return Step::Done(known.clone());
        }
        if next.state() != known.state() {
            next.since = SystemTime::now();
        }
        let step = self.put(live, next, Kind::Updated, now);
        if turned {
            self.damp(live, &known.name, now);
        }
        step
    }

    /// How many of a service flap decides how each of them is shown.
    fn damp(&self, live: &mut Live, name: &str, now: Instant) {
        for known in &self.store.service(name).instances {
            // Whoever keeps another's clock knows how often it turned.
            if !live.clocks.has(&known.id) {
                continue;
            }
            let damped = live.clocks.damped(known, now, self.settings.flapping);
            if damped != known.damped {
                let mut next = Instance { damped, ..Instance::clone(known) };
                next.since = SystemTime::now();
                self.put(live, next, Kind::Updated, now);
            }
        }
    }

    fn end_warming(&self, live: &mut Live, now: Instant) {
        if live.warming.is_some_and(|until| now >= until) {
            live.warming = None;
            // Whoever kept what was missing may let go of it.
            self.hub.all_changed(&self.store.names());
        }
    }

    fn expire(&self, live: &mut Live, now: Instant) {
        let Live { clocks, expiry, warming, .. } = &mut *live;
        let mut held = 0;
        for (id, verdict) in expiry.look(clocks.renewals(warming.is_some()), now) {
            let known = self.store.get(&id).filter(|_| self.may_remove(live, &id));
            let Some(known) = known else { continue };
            match verdict {
                Verdict::Expire => _ = self.remove(live, known, Gone::Expired, now),
                Verdict::Hold => {
                    held += 1;
                    let next = Instance { held: true, since: SystemTime::now(), ..Instance::clone(&known) };
                    self.put(live, next, Kind::Held, now);
                }
            }
        }
        if held > 0 {
            crate::observe::log::event!(
                Warn,
                "many instances fell silent together and are held",
                instances = held,
                hint = "is the network to them up? those that are dead are removed later, or by DELETE /v1/services/{id}"
            );
        }
    }

    fn remove(&self, live: &mut Live, instance: Arc<Instance>, gone: Gone, now: Instant) -> Step {
        live.clocks.stop(&instance.id);
        if let Some(shared) = &self.shared {
            let revision = live.keys.revision(&instance.id);
            return Step::Writing(shared.remove(&instance, revision, gone));
        }
        Step::Done(self.apply(Change::Remove(instance, gone), now).instance.clone())
    }

    fn put(&self, live: &Live, next: Instance, kind: Kind, now: Instant) -> Step {
        if let Some(shared) = &self.shared {
            let revision = live.keys.revision(&next.id);
            return Step::Writing(shared.put(next, revision));
        }
        Step::Done(self.apply(Change::Put(next, kind), now).instance.clone())
    }

    fn apply(&self, change: Change, now: Instant) -> Arc<Event> {
        let event = self.store.apply(change, now);
        self.tell(&event, now);
        event
    }

    fn tell(&self, event: &Event, now: Instant) {
        self.metrics.event(event.kind.word());
        self.hub.changed(&event.instance.name, now);
    }

    fn show(&self, live: &Live) {
        let states = self.store.states(None);
        let of = |state: State| states.get(&state).copied().unwrap_or_default();
        self.metrics.states(State::ALL.map(|state| (state.word(), of(state))).into_iter());
        let (services, revision) = (self.store.count().services, self.store.position().revision);
        self.metrics.show(services, of(State::Held), revision, live.warming.is_some());
    }

    /// Whole after every statement that changes it.
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// Whether it says nothing of `known` but that it is there.
    fn is_same(self, known: &Instance) -> bool {
        self.health.is_none_or(|health| health == known.health)
            && self.weight.is_none_or(|weight| weight == known.weight)
            && !known.held
    }

    fn upon(self, known: &Instance) -> Instance {
        let mut next = known.clone();
        next.held = false;
        next.health = self.health.unwrap_or(known.health);
        next.weight = self.weight.unwrap_or(known.weight);
        next
    }
}

fn not_registered(id: &str) -> Refused {
    let hint = "register it again with POST /v1/services";
    Reason::NotRegistered.because(format!("there is no instance {id:?} ({hint})"))
}

#[cfg(test)]
mod tests;
