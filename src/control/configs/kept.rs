//! Configurations in memory, and with a `state_dir` in files: `configs/NAME/VERSION` and `configs/NAME/current`. What is put is on
//! the disk before it is answered. Files are read when the first is asked for, which is when nobody else writes them any more.

mod files;
pub(crate) mod text;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt;
use tokio::sync::{OnceCell, broadcast};

use self::files::Files;
use super::versions::{Asked, Course, Name, Version, Versions, stale, superfluous};
use crate::{
    config::RolloutSettings,
    control::refused::{Reason, Refused},
};

/// Names that wait for whoever follows; who is behind reads all anew.
const AHEAD: usize = 256;

pub(crate) struct Memory {
    shared: Arc<Shared>,
    read: OnceCell<()>,
    changed: broadcast::Sender<Name>,
}

struct Shared {
    files: Option<Files>,
    all: Mutex<BTreeMap<Name, Entry>>,
    /// Held while files are written. Another process goes on with them where it is set.
    is_given_away: Mutex<bool>,
}

#[derive(Clone)]
pub(super) struct Entry {
    /// The oldest first.
    pub(super) versions: Vec<Arc<Version>>,
    pub(super) course: Course,
}

impl Memory {
    pub(crate) fn new(state_dir: Option<&Path>, settings: &RolloutSettings) -> Memory {
        let files = state_dir.map(|directory| Files::within(directory, settings.clone()));
        let shared = Shared { files, all: Mutex::default(), is_given_away: Mutex::new(false) };
        let (read, changed) = (OnceCell::new(), broadcast::Sender::new(AHEAD));
        Memory { shared: Arc::new(shared), read, changed }
    }

    /// Another process goes on: nothing is written after this.
    pub(crate) fn give_away(&self) {
        *self.shared.given_away() = true;
    }

    pub(crate) fn take_back(&self) {
        *self.shared.given_away() = false;
    }

    async fn all(&self) -> Result<(), Refused> {
        let read = self.read.get_or_try_init(|| async {
            let shared = self.shared.clone();
            aside(move || {
                let found = shared.files.as_ref().map(Files::read).unwrap_or_default();
                *shared.all() = found;
                Ok(())
            })
            .await
        });
        read.await.map(|_| ())
    }

    async fn change(
        &self,
        name: &Name,
        change: impl FnOnce(&Shared, &Name) -> Result<(), Refused> + Send + 'static,
    ) -> Result<(), Refused> {
        self.all().await?;
        let (shared, of) = (self.shared.clone(), name.clone());
        aside(move || {
            let given_away = shared.given_away();
            if *given_away {
                return Err(unavailable("another process goes on with it (ask again)"));
            }
            change(&shared, &of)
        })
        .await?;
        // Nobody may follow.
        let _ = self.changed.send(name.clone());
        Ok(())
    }
}

impl Versions for Memory {
    fn names(&self) -> Asked<'_, Vec<Name>> {
        async {
            self.all().await?;
            Ok(self.shared.all().keys().cloned().collect())
        }
        .boxed()
    }

    fn versions<'a>(&'a self, name: &'a str) -> Asked<'a, Vec<Arc<Version>>> {
        async move {
            self.all().await?;
            Ok(self.shared.all().get(name).map(|entry| entry.versions.clone()).unwrap_or_default())
        }
        .boxed()
    }

    fn current<'a>(&'a self, name: &'a str) -> Asked<'a, Option<Course>> {
        async move {
            self.all().await?;
            Ok(self.shared.all().get(name).map(|entry| entry.course.clone()))
        }
        .boxed()
    }

    fn put<'a>(&'a self, name: &'a Name, version: Arc<Version>, course: Course) -> Asked<'a, ()> {
        self.change(name, move |shared, name| shared.put(name, version, course)).boxed()
    }

    fn go_on<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()> {
        self.change(name, move |shared, name| shared.go_on(name, course)).boxed()
    }

    fn remove<'a>(&'a self, name: &'a Name, course: Course) -> Asked<'a, ()> {
        self.change(name, move |shared, name| shared.remove(name, &course)).boxed()
    }

    fn watch(&self) -> broadcast::Receiver<Name> {
        self.changed.subscribe()
    }
}

impl Shared {
    fn put(&self, name: &Name, version: Arc<Version>, course: Course) -> Result<(), Refused> {
        let before = self.all().get(name).cloned();
        let newest = before.as_ref().map_or(0, |entry| entry.course.version);
        if version.number != newest + 1 {
            return Err(stale(name, newest));
        }
        let mut versions = before.map(|entry| entry.versions).unwrap_or_default();
        versions.push(version.clone());
        let superfluous = superfluous(&versions, &course);
        versions.retain(|version| !superfluous.contains(&version.number));
        if let Some(files) = &self.files {
            files.write_version(name, &version).map_err(unkept)?;
            files.write_course(name, &course).map_err(unkept)?;
            files.remove(name, &superfluous);
        }
        self.all().insert(name.clone(), Entry { versions, course });
        Ok(())
    }

    fn go_on(&self, name: &Name, course: Course) -> Result<(), Refused> {
        let newest = self.all().get(name).map_or(0, |entry| entry.course.version);
        if course.version != newest {
            return Err(stale(name, newest));
        }
        if let Some(files) = &self.files {
            files.write_course(name, &course).map_err(unkept)?;
        }
        if let Some(entry) = self.all().get_mut(name) {
            entry.course = course;
        }
        Ok(())
    }

    fn remove(&self, name: &Name, course: &Course) -> Result<(), Refused> {
        let newest = self.all().get(name).map_or(0, |entry| entry.course.version);
        if newest != course.version {
            return Err(stale(name, newest));
        }
        if let Some(files) = &self.files {
            files.remove_all(name).map_err(unkept)?;
        }
        self.all().remove(name);
        Ok(())
    }

    /// Both are whole after every statement that changes them.
    fn all(&self) -> MutexGuard<'_, BTreeMap<Name, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given_away(&self) -> MutexGuard<'_, bool> {
        self.is_given_away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unkept(error: std::io::Error) -> Refused {
    unavailable(&format!("it cannot be kept, and nothing was changed: {error} (is `state_dir` writable?)"))
}

fn unavailable(why: &str) -> Refused {
    Reason::StoreUnavailable.because(why)
}

/// Files may be slow.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refused> + Send + 'static,
) -> Result<T, Refused> {
    // One that panics is told of in the log.
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(unavailable("it failed, see the log")))
}
