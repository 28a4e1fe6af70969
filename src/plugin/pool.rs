//! A plugin: its module, and as many instances as it is given. Which of them a request takes, and what becomes of one that
//! fails.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use serde::Serialize;
use tokio::sync::Notify;

use super::{
    custom::{Custom, Shown},
    instance::{Failure, Instance},
    lines::{Early, Lines},
    module::Module,
    outbound::{Outcome, Said, Way},
    root::Root,
    settings::Settings,
    shared::Rooms,
    state::{Common, Own, Place},
    stream::Stream,
    table::digits,
    worker::Worker,
};
use crate::{
    observe::{log::event, log_throttle::Sparse, metrics::PluginMetrics},
    sharded::thread_number,
};

pub(crate) struct Plugin {
    own: Arc<Own>,
    module: Arc<Module>,
    slots: Box<[ArcSwapOption<Cell>]>,
    pub(super) roots: Mutex<Vec<(u64, Weak<Root>)>>,
    pub(super) next_root: AtomicU64,
    next_instance: AtomicU64,
    /// The instance that is being made, if one is.
    making: AtomicU64,
    /// Held while instances, or roots in them, are made.
    pub(super) building: Mutex<()>,
    worker: Worker,
    since: SystemTime,
    failures: AtomicU64,
    told: Sparse,
    /// A configuration without it is in force: it ends with its last request.
    is_draining: AtomicBool,
}

/// Where one instance is, which many requests may be inside of, between two callbacks.
pub(super) struct Cell {
    instance: Mutex<Instance>,
    is_dead: AtomicBool,
    pub(super) place: Place,
}

impl Cell {
    pub(super) fn lock(&self) -> MutexGuard<'_, Instance> {
        self.instance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Relaxed)
    }
}

/// How a plugin fares, for the operator.
#[derive(Serialize)]
pub(crate) struct Report {
    pub sha256: String,
    pub abi: &'static str,
    pub instances: usize,
    pub ready: usize,
    /// Instances of earlier configurations that have requests yet.
    pub draining: usize,
    /// In bytes, of those that are ready.
    pub memory: usize,
    /// Of requests and of configurations.
    pub contexts: usize,
    pub failures: u64,
    /// Seconds since 1970.
    pub since: u64,
}

impl Plugin {
    /// Without an instance yet: the first root makes them.
    pub(super) fn new(
        settings: Settings,
        module: Arc<Module>,
        metrics: PluginMetrics,
        rooms: &Arc<Rooms>,
        way: &Arc<Way>,
        early: &Arc<Early>,
    ) -> Arc<Plugin> {
        let custom = Arc::new(Custom::new(&settings.metric_labels));
        let common = Common { shared: rooms.of(&settings.vm_id), rooms: rooms.clone(), custom };
        let slots = (0..settings.instances).map(|_| ArcSwapOption::empty()).collect();
        let lines = Lines::new(settings.limits.log);
        let (early, way, plugin) = (early.clone(), way.clone(), OnceLock::new());
        let own = Arc::new(Own { settings, metrics, lines, early, common, way, plugin });
        let plugin = Arc::new(Plugin {
            own,
            module,
            slots,
            roots: Mutex::default(),
            next_root: AtomicU64::new(1),
            next_instance: AtomicU64::new(1),
            making: AtomicU64::new(0),
            building: Mutex::default(),
            worker: Worker::default(),
            since: SystemTime::now(),
            failures: AtomicU64::new(0),
            told: Sparse::default(),
            is_draining: AtomicBool::new(false),
        });
        // It was empty.
        let _ = plugin.own.plugin.set(Arc::downgrade(&plugin));
        plugin
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.own.settings
    }

    pub(crate) fn metrics(&self) -> &PluginMetrics {
        &self.own.metrics
    }

    /// Whether the module has this callback.
    pub(crate) fn exports(&self, name: &str) -> bool {
        self.module.exports(name)
    }

    /// The metrics that it has defined.
    pub(crate) fn custom(&self) -> Vec<Shown> {
        self.own.common.custom.shown()
    }

    /// Whether it would start and take this configuration, in an instance that is thrown away.
    ///
    /// # Errors
    ///
    /// It does not, and why.
    pub(super) fn try_out(&self, config: &Arc<[u8]>) -> Result<(), String> {
        Instance::start(&self.module, &self.own, Place::trial(), &[(0, config.clone())]).map(drop)
    }

    /// An instance takes up a request, if one can.
    ///
    /// # Errors
    ///
    /// None is ready, or the one that was taken failed.
    pub(super) fn enter(root: &Arc<Root>) -> Result<Stream, Failure> {
        let plugin = &root.plugin;
        let woken = Arc::new(Notify::new());
        let mut own: Option<Arc<Cell>> = None;
        // So that threads do not meet.
        let mine = thread_number();
        for at in 0..plugin.slots.len() {
            let Some(cell) = plugin.slots[(mine + at) % plugin.slots.len()].load_full() else { continue };
            let free = match cell.instance.try_lock() {
                Ok(instance) => Some(instance),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            match free.map(|mut instance| instance.create(root.number, woken.clone())) {
                // Another request has just made it fail.
                Some(Err(Failure { is_of_another: true, .. })) => {}
                Some(created) => return plugin.entered(root, cell, created, woken),
                None => _ = own.get_or_insert(cell),
            }
        }
        // All are busy: the nearest will be free soon.
        let none = || Failure::new("start", "no instance is ready");
        let cell = own.ok_or_else(none)?;
        let created = cell.lock().create(root.number, woken.clone());
        match created {
            Err(Failure { is_of_another: true, .. }) => Err(none()),
            created => plugin.entered(root, cell, created, woken),
        }
    }

    fn entered(
        &self,
        root: &Arc<Root>,
        cell: Arc<Cell>,
        created: Result<u32, Failure>,
        woken: Arc<Notify>,
    ) -> Result<Stream, Failure> {
        match created {
            Ok(id) => Ok(Stream::new(root.clone(), cell, id, woken)),
            Err(failure) => {
                self.retire(&cell, &failure);
                Err(failure)
            }
        }
    }

    /// The instance has failed: nobody enters it again, and another takes its place.
    pub(super) fn retire(&self, cell: &Arc<Cell>, failure: &Failure) {
        if failure.is_of_another || cell.is_dead.swap(true, Relaxed) {
            return;
        }
        self.failed(failure.why);
        let mut instance = cell.lock();
        if let Some(passed_over) = self.told.say(Instant::now()) {
            event!(
                Error,
                "a plugin failed, its instance is replaced",
                plugin = self.own.settings.name,
                why = failure.why,
                problem = failure.text,
                last_lines = instance.lines(),
                passed_over = passed_over,
            );
        }
        instance.wake_all();
        instance.give_up_calls();
        drop(instance);
        let in_place = self.slots[cell.place.slot].load();
        if in_place.as_ref().is_some_and(|there| Arc::ptr_eq(there, cell)) {
            self.slots[cell.place.slot].store(None);
        }
        self.worker.mend(&self.own.plugin);
    }

    /// Counts what went wrong without harm to the instance.
    pub(crate) fn failed(&self, why: &'static str) {
        self.own.metrics.failed(why);
        self.failures.fetch_add(1, Relaxed);
    }

    /// Make the instances that are missing.
    ///
    /// # Errors
    ///
    /// One does not start.
    pub(super) fn fill(&self) -> Result<(), String> {
        for slot in 0..self.slots.len() {
            if self.slots[slot].load().is_some() {
                continue;
            }
            let roots: Vec<_> = self.roots().iter().map(|root| (root.number, root.config.clone())).collect();
            if roots.is_empty() {
                return Ok(());
            }
            let place = Place { slot, serial: self.next_instance.fetch_add(1, Relaxed) };
            self.making.store(place.serial, Relaxed);
            let instance = Instance::start(&self.module, &self.own, place, &roots)?;
            let cell = Cell { instance: Mutex::new(instance), is_dead: AtomicBool::new(false), place };
            self.slots[slot].store(Some(Arc::new(cell)));
            self.making.store(0, Relaxed);
        }
        Ok(())
    }

    /// No configuration needs them.
    pub(super) fn let_instances_go(&self) {
        self.slots.iter().for_each(|slot| slot.store(None));
    }

    /// Put new instances in the place of those that failed.
    ///
    /// # Errors
    ///
    /// One does not start.
    pub(super) fn mend(&self) -> Result<(), String> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        self.fill()?;
        self.own.metrics.restarts.inc();
        Ok(())
    }

    /// There may be something to do: the next tick is another, or a root is done.
    pub(super) fn looks(&self) {
        self.worker.look(&self.own.plugin);
    }

    pub(super) fn tell_of_queue(&self, listener: &super::shared::Listener, queue: u32) {
        self.worker.queue(&self.own.plugin, (listener.slot, listener.root, queue));
    }

    /// What came of a call that an instance has made.
    pub(super) fn answered(&self, place: Place, call: u32, outcome: Outcome) {
        match self.cell(place.slot).filter(|cell| cell.place == place) {
            Some(cell) => self.hear(&cell, call, outcome),
            // It is still being made, or has been replaced.
            None => self.worker.answer(&self.own.plugin, (place, call, outcome)),
        }
    }

    /// The same once no instance is being made.
    pub(super) fn answered_early(&self, place: Place, call: u32, outcome: Outcome) {
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = self.cell(place.slot).filter(|cell| cell.place == place);
        drop(building);
        if let Some(cell) = cell {
            self.hear(&cell, call, outcome);
        }
    }

    /// What is heard of a stream. It comes back where its instance is still being made.
    pub(super) fn said(&self, place: Place, stream: u32, said: Said) -> Option<Said> {
        let Some(cell) = self.cell(place.slot).filter(|cell| cell.place == place) else {
            return (self.making.load(Relaxed) == place.serial).then_some(said);
        };
        let heard = cell.lock().said(stream, said);
        if let Err(failure) = heard {
            self.retire(&cell, &failure);
        }
        None
    }

    fn hear(&self, cell: &Arc<Cell>, call: u32, outcome: Outcome) {
        let heard = cell.lock().answered(call, outcome);
        if let Err(failure) = heard {
            self.retire(cell, &failure);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// A configuration is in force that has it, or has not.
    pub(super) fn set_draining(&self, is_draining: bool) {
        self.is_draining.store(is_draining, Relaxed);
    }

    pub(super) fn worker(&self) -> &Worker {
        &self.worker
    }

    pub(super) fn cell(&self, slot: usize) -> Option<Arc<Cell>> {
        self.slots.get(slot)?.load_full()
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = Arc<Cell>> {
        self.slots.iter().filter_map(ArcSwapOption::load_full)
    }

    pub(crate) fn report(&self) -> Report {
        let mut report = Report {
            sha256: digits(&self.own.settings.sha256),
            abi: self.module.abi.name(),
            instances: self.slots.len(),
            ready: 0,
            draining: 0,
            memory: 0,
            contexts: 0,
            failures: self.failures.load(Relaxed),
            since: self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        for cell in self.cells() {
            let instance = cell.lock();
            report.ready += 1;
            report.memory += instance.memory();
            report.contexts += instance.contexts();
        }
        report
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.worker.stop();
    }
}
