//! What a filter knows that its options do not say, such as how often whom it has let through. It is asked for by
//! name when a filter is built, so the filter of the next snapshot finds that of the last; when no filter holds it
//! any more, it is gone.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use crate::observe::metrics::Metrics;

/// There is one for the process, seen from the place of each filter. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    kept: Arc<Mutex<Kept>>,
    metrics: Arc<Metrics>,
    place: String,
    directory: PathBuf,
}

/// State that works by itself, such as keys that are fetched again and again.
pub trait Background: Send + Sync {
    /// Called within the runtime, once a configuration it belongs to is in force. Whatever it begins must end when the
    /// state is dropped.
    fn start(&self);
}

#[derive(Default)]
struct Kept {
    states: HashMap<(String, TypeId), Weak<dyn Any + Send + Sync>>,
    /// Made, but not yet started.
    waiting: Vec<Weak<dyn Background>>,
    /// So many may there be before those that are gone are looked for.
    look_at: usize,
}

impl Live {
    pub fn new(metrics: Arc<Metrics>) -> Live {
        Live { kept: Arc::default(), metrics, place: String::new(), directory: PathBuf::new() }
    }

    /// For building filters that will never run.
    pub fn offline() -> Live {
        Live::new(Arc::new(Metrics::new("")))
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The filter's place: the name of its route, chain or listener, and its index there. Other than its place in the
    /// file, it does not change when something is added in front of the route.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A path in the filter's options, which is relative to the file that they stand in.
    pub fn full_path(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }

    /// For options that stand in a file of this directory.
    #[must_use]
    pub fn beside(&self, directory: PathBuf) -> Live {
        Live { directory, ..self.clone() }
    }

    /// Seen from a place below.
    #[must_use]
    pub fn within(&self, place: &str) -> Live {
        Live { place: format!("{}{place}", self.place), ..self.clone() }
    }

    /// The state that a filter at this place keeps under `key`. A key that names the options gives a filter with other
    /// options a state of its own.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        self.share(&format!("{} {key}", self.place), make)
    }

    /// The same for state that works by itself. It begins with [`start`](Self::start): a configuration that is only
    /// checked, or refused, does nothing.
    pub fn share_running<T: Background + 'static>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut is_new = false;
        let state = self.share(key, || {
            is_new = true;
            make()
        });
        if is_new {
            let background: Arc<dyn Background> = state.clone();
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.waiting.retain(|waiting| waiting.strong_count() > 0);
            kept.waiting.push(Arc::downgrade(&background));
        }
        state
    }

    /// Starts what works by itself and was made since. Called within the runtime.
    pub fn start(&self) {
        let waiting = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut kept.waiting)
        };
        waiting.iter().filter_map(Weak::upgrade).for_each(|state| state.start());
    }

    /// The state that all filters share under `key`, wherever they stand.
    pub fn share<T: Any + Send + Sync>(&self, key: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (key.to_owned(), TypeId::of::<T>());
        let known = kept.states.get(&key).and_then(Weak::upgrade);
        if let Some(Ok(state)) = known.map(Arc::downcast) {
            return state;
        }
        let state = Arc::new(make());
        if kept.states.len() >= kept.look_at {
            kept.states.retain(|_, state| state.strong_count() > 0);
            kept.look_at = (kept.states.len() * 2).max(64);
        }
        let known: Arc<dyn Any + Send + Sync> = state.clone();
        kept.states.insert(key, Arc::downgrade(&known));
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_and_key_find_the_same_state_while_it_is_held() {
        let live = Live::offline();
        let (users, pets) =
            (live.within("routes users").within("[0]"), live.within("routes pets").within("[0]"));
        let first = users.keep("10/s", || 1);
        assert_eq!(*users.keep("10/s", || 2), 1);
        assert_eq!(*users.keep("20/s", || 3), 3);
        assert_eq!(*pets.keep("10/s", || 4), 4);
        assert_eq!(*users.keep("10/s", || "another type"), "another type");
        drop(first);
        assert_eq!(*users.keep("10/s", || 5), 5);
    }

    #[test]
    fn what_is_shared_is_found_from_every_place() {
        let live = Live::offline();
        let first = live.within("routes users").share("redis", || 1);
        assert!(Arc::ptr_eq(&first, &live.within("routes pets").share("redis", || 2)));
    }

    struct Counted(Arc<std::sync::atomic::AtomicU32>);

    impl Background for Counted {
        fn start(&self) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn what_works_by_itself_is_started_once_and_only_if_it_is_held() {
        let live = Live::offline();
        let starts = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let held = live.share_running("held", || Counted(starts.clone()));
        drop(live.share_running("dropped", || Counted(starts.clone())));
        live.start();
        live.start();
        assert_eq!(starts.load(std::sync::atomic::Ordering::Relaxed), 1);
        drop(held);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let live = Live::offline();
        let held = live.keep("held", || 0);
        (0..10_000).for_each(|n| drop(live.keep(&n.to_string(), || n)));
        assert!(live.kept.lock().unwrap().states.len() <= 64);
        assert!(Arc::ptr_eq(&held, &live.keep("held", || 1)));
    }
}
