//! Switches that filters look at with each request: a file turns one on by being there, and an operator's order goes before it. Filters of
//! one name share what is ordered, whatever files they look for. An order lasts as long as the process, or until it is taken back; what
//! is to outlast it is a file.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

use super::live::Background;
use crate::{
    observe::{log::event, metrics::SwitchMetrics},
    policy::switch::Ordered,
};

/// How often files are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// One file, or none, under one name.
pub(crate) struct Switch {
    pub name: String,
    shared: Arc<Shared>,
    task: OnceLock<AbortHandle>,
}

struct Shared {
    name: String,
    file: Option<PathBuf>,
    ordered: AtomicU8,
    is_there: AtomicBool,
    metrics: SwitchMetrics,
}

/// All that there are of a process. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Switches(Arc<Mutex<Vec<Weak<Switch>>>>);

impl Switches {
    /// Each that a filter looks at.
    pub(crate) fn all(&self) -> Vec<Arc<Switch>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Orders it of all of that name, which are given back.
    pub(crate) fn order(&self, name: &str, ordered: Ordered) -> Vec<Arc<Switch>> {
        let named: Vec<_> = self.all().into_iter().filter(|switch| switch.name == name).collect();
        named.iter().for_each(|switch| switch.shared.order(ordered));
        named
    }

    /// A new one begins as those of its name stand.
    pub(super) fn make(&self, name: &str, file: Option<PathBuf>, metrics: &SwitchMetrics) -> Switch {
        let ordered = self.all().iter().find(|switch| switch.name == name).map(|switch| switch.ordered());
        // It is looked for before the first request, as a gateway that starts anew is closed as the last was.
        let is_there = file.as_deref().is_some_and(Path::exists);
        let shared = Shared {
            name: name.to_owned(),
            file,
            ordered: AtomicU8::new(ordered.unwrap_or(Ordered::Auto) as u8),
            is_there: AtomicBool::new(is_there),
            metrics: metrics.clone(),
        };
        Switch { name: name.to_owned(), shared: Arc::new(shared), task: OnceLock::new() }
    }

    pub(super) fn add(&self, switch: &Arc<Switch>) {
        let mut all = self.lock();
        all.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(switch)));
        all.push(Arc::downgrade(switch));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Switch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    pub(crate) fn is_on(&self) -> bool {
        self.shared.is_on()
    }

    pub(crate) fn ordered(&self) -> Ordered {
        self.shared.ordered()
    }

    /// The file that turns it on, and whether it is there.
    pub(crate) fn file(&self) -> Option<(&Path, bool)> {
        Some((self.shared.file.as_deref()?, self.shared.is_there.load(Relaxed)))
    }
}

impl Shared {
    fn is_on(&self) -> bool {
        self.ordered().decides(self.is_there.load(Relaxed))
    }

    fn ordered(&self) -> Ordered {
        let ordered = self.ordered.load(Relaxed);
        Ordered::ALL.into_iter().find(|known| *known as u8 == ordered).unwrap_or(Ordered::Auto)
    }

    fn order(&self, ordered: Ordered) {
        self.ordered.store(ordered as u8, Relaxed);
        self.show();
    }

    fn show(&self) {
        self.metrics.show(&self.name, self.file.as_deref(), self.is_on());
    }

    /// What cannot be looked at, as where the folder is not ours to read, is not there.
    async fn follow(self: Arc<Self>) {
        let Some(file) = self.file.clone() else { return };
        loop {
            let is_there = tokio::fs::try_exists(&file).await.unwrap_or(false);
            if self.is_there.swap(is_there, Relaxed) != is_there {
                let word = if is_there { "on" } else { "off" };
                event!(Warn, "switched by its file", switch = self.name, to = word);
            }
            self.show();
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Background for Switch {
    fn start(&self) {
        self.shared.show();
        if self.shared.file.is_some() {
            self.task.get_or_init(|| tokio::spawn(self.shared.clone().follow()).abort_handle());
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
        self.shared.metrics.forget(&self.name, self.shared.file.as_deref());
    }
}
