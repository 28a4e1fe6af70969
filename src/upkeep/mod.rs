//! Files of `state_dir` that come from elsewhere and are kept fresh while the gateway runs. Whoever uses one watches it as any other
//! file, and knows nothing of where it comes from; so a start shows what was there the last time.

mod lists;
mod tickets;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{runtime::Handle, task::AbortHandle};

pub(crate) use self::{lists::ListSettings, tickets::TicketSettings};
use crate::{names::Resolve, observe::metrics::Metrics};

/// Without repetitions.
pub(crate) type Settings = Vec<Kept>;

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kept {
    /// Revocation lists.
    Lists(ListSettings),
    /// Keys of session tickets.
    Tickets(TicketSettings),
}

/// Lives as long as the process.
pub(crate) struct Upkeep {
    names: Arc<dyn Resolve>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    /// Held by whoever writes a file of lists.
    writing: Arc<Mutex<()>>,
    running: Mutex<Vec<(Kept, AbortHandle)>>,
}

impl Kept {
    fn file(&self) -> &PathBuf {
        match self {
            Kept::Lists(lists) => &lists.file,
            Kept::Tickets(tickets) => &tickets.file,
        }
    }
}

impl Upkeep {
    pub(crate) fn new(names: Arc<dyn Resolve>, metrics: Arc<Metrics>, runtime: Handle) -> Arc<Upkeep> {
        Arc::new(Upkeep { names, metrics, runtime, writing: Arc::default(), running: Mutex::default() })
    }

    /// From now on. What is under way already and still wanted goes on.
    pub(crate) fn want(&self, settings: &[Kept]) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|(kept, task)| {
            let is_wanted = settings.contains(kept);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for wanted in settings {
            if running.iter().any(|(kept, _)| kept == wanted) {
                continue;
            }
            // Before anybody watches it: a directory that is not there yet cannot be watched.
            if let Some(directory) = wanted.file().parent()
                && let Err(error) = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
            {
                log::error!("{} cannot be made: {error}", directory.display());
            }
            let (names, metrics) = (self.names.clone(), self.metrics.clone());
            let task = match wanted.clone() {
                Kept::Lists(lists) => {
                    self.runtime.spawn(lists::keep(lists, names, metrics, self.writing.clone()))
                }
                Kept::Tickets(keys) => self.runtime.spawn(tickets::keep(keys, names, metrics)),
            };
            running.push((wanted.clone(), task.abort_handle()));
        }
    }
}
