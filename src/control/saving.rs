//! Writes the registry down as it changes, at most every few seconds: what is lost in between comes back with the next
//! heartbeat.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{instance::Instance, registry::Registry, store::StateFile};
use crate::observe::metrics::RegistryMetrics;

const EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Saving {
    file: StateFile,
    registry: Arc<Registry>,
    metrics: RegistryMetrics,
    state: Mutex<State>,
}

struct State {
    /// The revision that the file has.
    saved: Option<u64>,
    /// Somebody else writes the file now.
    is_given_away: bool,
    /// It was told that the file cannot be written.
    told: bool,
}

impl Saving {
    pub(crate) fn new(file: StateFile, registry: Arc<Registry>, metrics: RegistryMetrics) -> Saving {
        let state = State { saved: None, is_given_away: false, told: false };
        Saving { file, registry, metrics, state: Mutex::new(state) }
    }

    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let saving = self.clone();
            // A panic in it is logged by the hook, and the next time comes.
            let _ = tokio::task::spawn_blocking(move || saving.save()).await;
        }
    }

    /// Blocking.
    pub(crate) fn save(&self) {
        self.save_in(&mut self.state());
    }

    pub(crate) fn give_away(&self) {
        let mut state = self.state();
        self.save_in(&mut state);
        state.is_given_away = true;
    }

    pub(crate) fn take_back(&self) {
        *self.state() = State { saved: None, is_given_away: false, told: false };
    }

    pub(crate) fn read(&self) -> Option<Vec<Arc<Instance>>> {
        self.file.read(self.registry.ttls()).map(|(_, instances)| instances)
    }

    fn save_in(&self, state: &mut State) {
        let position = self.registry.position();
        if state.is_given_away || state.saved == Some(position.revision) {
            return;
        }
        let instances = self.registry.store().list(None, None, usize::MAX);
        match self.file.write(position, &instances) {
            Ok(()) => {
                state.saved = Some(position.revision);
                state.told = false;
            }
            Err(error) => {
                self.metrics.save_failed();
                // Once for each failure in a row of them.
                if !std::mem::replace(&mut state.told, true) {
                    let path = self.file.path().display();
                    log::error!(
                        "cannot write the registry to {path}: {error}; after a restart, services have to register again"
                    );
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
