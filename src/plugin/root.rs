//! A plugin with one configuration: what a step of a chain stands for. It has a context of its own in each instance, which ends
//! when no configuration has it any more, its last request is over, and it says that it is done.

use std::{
    sync::{
        Arc, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Failure, Plugin, Stream, pool::Cell};

/// So long may one take that has something left to do.
const LONGEST_END: Duration = Duration::from_secs(30);

pub(crate) struct Root {
    pub(super) plugin: Arc<Plugin>,
    pub(super) number: u64,
    pub(super) config: Arc<[u8]>,
    /// It has been asked whether it is done: nobody takes it up again.
    is_ending: AtomicBool,
}

impl Root {
    pub(crate) fn plugin(&self) -> &Arc<Plugin> {
        &self.plugin
    }

    /// A context for one request.
    ///
    /// # Errors
    ///
    /// No instance is ready, or it fails.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Stream, Failure> {
        Plugin::enter(self)
    }
}

impl Drop for Root {
    /// The last request that held it is over.
    fn drop(&mut self) {
        self.plugin.end_root(self.number);
    }
}

impl Plugin {
    /// A root context with this configuration in each instance: the one that there is, or a new one.
    ///
    /// # Errors
    ///
    /// The plugin does not start, or does not take it.
    pub(crate) fn root(self: &Arc<Self>, config: Arc<[u8]>) -> Result<Arc<Root>, String> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |root: &Arc<Root>| root.config == config && !root.is_ending.load(Relaxed);
        if let Some(root) = self.roots().into_iter().find(is_same) {
            return Ok(root);
        }
        // What is serving must not fail of it.
        if self.cells().next().is_some() {
            self.try_out(&config)?;
        }
        let number = self.next_root.fetch_add(1, Relaxed);
        let root = Arc::new(Root { plugin: self.clone(), number, config, is_ending: AtomicBool::new(false) });
        for cell in self.cells() {
            let added = cell.lock().add_root(number, &root.config);
            if let Err(problem) = added {
                self.retire_if_broken(&cell, &problem);
                return Err(problem);
            }
        }
        self.lock_roots().push((number, Arc::downgrade(&root)));
        self.fill()?;
        // Ticks that were asked for before anybody knew of the instance.
        if self.cells().any(|cell| cell.lock().next_tick().is_some()) {
            self.looks();
        }
        Ok(root)
    }

    fn retire_if_broken(&self, cell: &Arc<Cell>, problem: &str) {
        let is_broken = cell.lock().is_broken();
        if is_broken {
            self.retire(cell, &Failure::new("trap", problem));
        }
    }

    /// A configuration is in force that names these roots and no others: the others are asked at once whether they are done.
    /// They end with their last request.
    pub(super) fn keep_roots(&self, named: &[Arc<Root>]) {
        for root in self.roots() {
            let is_named = named.iter().any(|other| Arc::ptr_eq(other, &root));
            if !is_named && !root.is_ending.swap(true, Relaxed) {
                self.is_root_done(root.number);
            }
        }
    }

    fn is_root_done(&self, number: u64) -> bool {
        let mut is_done = true;
        for cell in self.cells() {
            let finished = cell.lock().finish_root(number);
            match finished {
                Ok(done) => is_done &= done,
                Err(failure) => self.retire(&cell, &failure),
            }
        }
        is_done
    }

    /// Nobody holds it any more.
    fn end_root(self: &Arc<Self>, number: u64) {
        self.lock_roots().retain(|(other, _)| *other != number);
        match self.is_root_done(number) {
            true => self.remove_root(number),
            false => self.worker().linger(self, number, Instant::now() + LONGEST_END),
        }
    }

    /// The same for one that has had something left to do. True where it is gone.
    pub(super) fn ends_now(&self, number: u64, until: Instant, now: Instant) -> bool {
        let ends = until <= now || self.is_root_done(number);
        if ends {
            self.remove_root(number);
        }
        ends
    }

    fn remove_root(&self, number: u64) {
        for cell in self.cells() {
            let removed = cell.lock().remove_root(number);
            if let Err(failure) = removed {
                self.retire(&cell, &failure);
            }
        }
        // Whoever makes instances right now is about to need them.
        if let Ok(_building) = self.building.try_lock()
            && self.cells().all(|cell| !cell.lock().has_roots())
        {
            self.let_instances_go();
        }
    }

    pub(super) fn roots(&self) -> Vec<Arc<Root>> {
        self.lock_roots().iter().filter_map(|(_, root)| root.upgrade()).collect()
    }

    fn lock_roots(&self) -> MutexGuard<'_, Vec<(u64, Weak<Root>)>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
