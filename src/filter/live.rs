//! What a filter knows that its options do not say, such as how often whom it has let through. It is asked for by place
//! and settings when a filter is built, so the filter of the next snapshot finds that of the last; when no filter holds
//! it any more, it is gone.
//!
//! The rule is that of [`crate::kept`]: whole settings are compared, and state is made from them. But there is no one
//! predecessor to hand here, as several filters may share state, and filters are built before their snapshot is.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    Registry,
    shared::encoders::Encoders,
    switches::{Switch, Switches},
};
#[cfg(feature = "wasm")]
use crate::plugin;
use crate::{
    config::{UNREAD, unread},
    fetch,
    names::Resolve,
    observe::metrics::Metrics,
};

/// What filters know of the process: the state that outlives a reload, and the files beside the configuration. There is one
/// for the process, seen from the place of each filter. Cheap to clone.
///
/// State is asked for by the settings that it is made from. As long as they are equal, the filter of the next configuration
/// has the state of the last:
///
/// ```
/// use std::sync::{Arc, atomic::AtomicU64};
/// use tidegate::filter::Live;
///
/// let live = Live::offline();
/// let count = live.keep("x-tenant", |_header| AtomicU64::new(0));
/// let after_a_reload = live.keep("x-tenant", |_header| AtomicU64::new(0));
/// assert!(Arc::ptr_eq(&count, &after_a_reload));
///
/// let of_other_settings = live.keep("x-customer", |_header| AtomicU64::new(0));
/// assert!(!Arc::ptr_eq(&count, &of_other_settings));
/// ```
#[derive(Clone)]
pub struct Live {
    registry: Arc<Registry>,
    states: Arc<Mutex<States>>,
    metrics: Arc<Metrics>,
    encoders: Arc<Encoders>,
    names: Arc<dyn Resolve>,
    switches: Switches,
    place: String,
    directory: PathBuf,
    #[cfg(feature = "wasm")]
    modules: Modules,
    #[cfg(feature = "wasm")]
    host: Arc<plugin::Host>,
    #[cfg(feature = "wasm")]
    plugins: Arc<plugin::Table>,
}

/// What becomes of plugins where filters are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// Their files are not even read.
    Unread,
    /// They start in instances that are thrown away.
    TriedOut,
    Run,
}

/// State that works by itself, such as keys that are fetched again and again.
pub trait Background: Send + Sync {
    /// Called within the runtime, once a configuration it belongs to is in force. Whatever it begins must end when the
    /// state is dropped.
    fn start(&self);
}

#[derive(Default)]
struct States {
    /// By place, where it is that of one, and by the types of the settings and of the state. There are few of a kind.
    by_kind: HashMap<(Option<String>, TypeId), Vec<State>>,
    /// Of all kinds, those included that are gone but not forgotten yet.
    count: usize,
    /// So many may there be before those that are gone are looked for.
    look_at: usize,
    /// Made, but not yet started.
    waiting: Vec<Weak<dyn Background>>,
}

struct State {
    settings: Box<dyn Any + Send>,
    state: Weak<dyn Any + Send + Sync>,
}

impl Live {
    #[doc(hidden)]
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, names: Arc<dyn Resolve>) -> Live {
        let encoders = Encoders::new(metrics.resources().clone());
        Live {
            registry,
            states: Arc::default(),
            metrics,
            encoders,
            names,
            switches: Switches::default(),
            place: String::new(),
            directory: PathBuf::new(),
            #[cfg(feature = "wasm")]
            modules: Modules::Run,
            #[cfg(feature = "wasm")]
            host: Arc::default(),
            #[cfg(feature = "wasm")]
            plugins: Arc::default(),
        }
    }

    /// For building filters that will never run, and for tests. A configuration can name the filters that every gateway has.
    pub fn offline() -> Live {
        Arc::new(Registry::built_in()).offline()
    }

    /// Which filters a configuration can name.
    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// With this done to plugins.
    #[cfg(feature = "wasm")]
    pub(super) fn with_modules(self, modules: Modules) -> Live {
        Live { modules, ..self }
    }

    #[cfg(not(feature = "wasm"))]
    pub(super) fn with_modules(self, _modules: Modules) -> Live {
        self
    }

    #[cfg(feature = "wasm")]
    pub(crate) fn modules(&self) -> Modules {
        self.modules
    }

    /// What is alive of plugins.
    #[cfg(feature = "wasm")]
    pub(crate) fn plugin_host(&self) -> &plugin::Host {
        &self.host
    }

    /// The plugins that filters may name.
    #[cfg(feature = "wasm")]
    pub(crate) fn plugins(&self) -> &Arc<plugin::Table> {
        &self.plugins
    }

    /// The files of plugins, which belong to the configuration.
    #[cfg(feature = "wasm")]
    pub(crate) fn plugin_files(&self) -> impl Iterator<Item = PathBuf> {
        self.plugins.entries().map(|(_, entry)| entry.file().to_owned())
    }

    #[cfg(not(feature = "wasm"))]
    pub(crate) fn plugin_files(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::empty()
    }

    /// How plugins fare, by name and with their files.
    #[cfg(feature = "wasm")]
    pub(crate) fn plugin_reports(&self) -> Vec<(String, PathBuf, plugin::Report)> {
        self.host.reports(&self.plugins)
    }

    /// A configuration with these plugins is in force, and no other.
    pub(crate) fn keep_plugins(&self) {
        #[cfg(feature = "wasm")]
        self.host.keep(&self.plugins);
    }

    /// Whether one of those files is another one than it was.
    pub(crate) fn has_changed_plugins(&self) -> bool {
        #[cfg(feature = "wasm")]
        return self.plugins.has_changed();
        #[cfg(not(feature = "wasm"))]
        false
    }

    /// For a configuration with these plugins.
    #[cfg(feature = "wasm")]
    #[must_use]
    pub(crate) fn with_plugins(&self, plugins: Arc<plugin::Table>) -> Live {
        Live { plugins, ..self.clone() }
    }

    /// How many responses are encoded at once.
    pub(crate) fn encoders(&self) -> &Arc<Encoders> {
        &self.encoders
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Who knows the addresses of hosts.
    pub(crate) fn names(&self) -> &Arc<dyn Resolve> {
        &self.names
    }

    /// Those that filters look at.
    pub(crate) fn switches(&self) -> &Switches {
        &self.switches
    }

    /// The switch of that name that a file turns on.
    pub(super) fn switch(&self, name: &str, file: Option<PathBuf>) -> Arc<Switch> {
        let switch = self.share_running((name.to_owned(), file), |(name, file)| {
            self.switches.make(name, file.clone(), self.metrics.switches())
        });
        self.switches.add(&switch);
        switch
    }

    /// A client for requests of our own, which all share that trust the same and wait as long: the authorities of the system
    /// take their time to be read, and memory.
    pub(crate) fn client(
        &self,
        ca: Option<PathBuf>,
        options: fetch::Options,
    ) -> Result<Arc<fetch::Trusting>, String> {
        let names = self.names.clone();
        self.try_share((ca, options), |(ca, options)| {
            fetch::Trusting::new(ca.clone(), options.clone(), names)
        })
    }

    /// The filter's place: the name of its route, chain or listener, and its index there. Other than its place in the
    /// file, it does not change when something is added in front of the route.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A path in the filter's options, which is relative to the file that they stand in.
    pub fn full_path(&self, path: &Path) -> PathBuf {
        if self.directory == Path::new(UNREAD) {
            return unread(path);
        }
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

    /// The state that a filter at this place keeps for as long as its settings are equal. `settings` are all that the
    /// state is made from.
    pub fn keep<S, T>(&self, settings: S, make: impl FnOnce(&S) -> T) -> Arc<T>
    where
        S: Any + PartialEq + Send,
        T: Any + Send + Sync,
    {
        let made = |settings: &S| Ok::<T, Infallible>(make(settings));
        let Ok(state) = self.lock().find_or_make(Some(self.place.clone()), settings, made);
        state
    }

    /// The state that all filters with equal settings share, wherever they stand.
    pub fn share<S, T>(&self, settings: S, make: impl FnOnce(&S) -> T) -> Arc<T>
    where
        S: Any + PartialEq + Send,
        T: Any + Send + Sync,
    {
        let Ok(state) = self.try_share(settings, |settings| Ok::<T, Infallible>(make(settings)));
        state
    }

    /// The same for state that may not come to be, which is then made for nobody.
    pub fn try_share<S, T, E>(&self, settings: S, make: impl FnOnce(&S) -> Result<T, E>) -> Result<Arc<T>, E>
    where
        S: Any + PartialEq + Send,
        T: Any + Send + Sync,
    {
        self.lock().find_or_make(None, settings, make)
    }

    /// The same for state that works by itself. It begins with [`start`](Self::start): a configuration that is only
    /// checked, or refused, does nothing.
    pub fn share_running<S, T>(&self, settings: S, make: impl FnOnce(&S) -> T) -> Arc<T>
    where
        S: Any + PartialEq + Send,
        T: Background + 'static,
    {
        let mut is_new = false;
        let mut states = self.lock();
        let Ok(state) = states.find_or_make(None, settings, |settings| {
            is_new = true;
            Ok::<T, Infallible>(make(settings))
        });
        if is_new {
            let background: Arc<dyn Background> = state.clone();
            states.waiting.retain(|waiting| waiting.strong_count() > 0);
            states.waiting.push(Arc::downgrade(&background));
        }
        state
    }

    /// Starts what works by itself and was made since. Called within the runtime.
    pub fn start(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        waiting.iter().filter_map(Weak::upgrade).for_each(|state| state.start());
        #[cfg(feature = "wasm")]
        self.host.start();
    }

    /// Let go of what is left of states that no filter holds.
    pub fn forget_unused(&self) {
        self.lock().forget_those_gone();
    }

    fn lock(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl States {
    fn find_or_make<S, T, E>(
        &mut self,
        place: Option<String>,
        settings: S,
        make: impl FnOnce(&S) -> Result<T, E>,
    ) -> Result<Arc<T>, E>
    where
        S: Any + PartialEq + Send,
        T: Any + Send + Sync,
    {
        let kind = (place, TypeId::of::<(S, T)>());
        let of_kind = self.by_kind.get(&kind).into_iter().flatten();
        let equal = of_kind.filter(|known| known.settings.downcast_ref() == Some(&settings));
        let mut held = equal.filter_map(|known| known.state.upgrade()?.downcast().ok());
        if let Some(state) = held.next() {
            return Ok(state);
        }
        drop(held);
        let state = Arc::new(make(&settings)?);
        self.forget_those_gone_now_and_then();
        let known: Arc<dyn Any + Send + Sync> = state.clone();
        let known = State { settings: Box::new(settings), state: Arc::downgrade(&known) };
        self.by_kind.entry(kind).or_default().push(known);
        self.count += 1;
        Ok(state)
    }

    fn forget_those_gone_now_and_then(&mut self) {
        if self.count >= self.look_at {
            self.forget_those_gone();
        }
    }

    fn forget_those_gone(&mut self) {
        self.by_kind.retain(|_, of_kind| {
            of_kind.retain(|known| known.state.strong_count() > 0);
            !of_kind.is_empty()
        });
        self.count = self.by_kind.values().map(Vec::len).sum();
        self.look_at = (self.count * 2).max(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system trusts takes 20 ms and a megabyte to read.
    #[test]
    fn authorities_are_read_once_for_all_who_trust_the_same() {
        let live = Live::offline();
        let client = |route: usize| {
            live.within(&format!("routes {route}")).client(None, fetch::Options::default()).unwrap()
        };
        let first = client(0);
        assert!((1..200).all(|route| Arc::ptr_eq(&client(route), &first)));
    }

    #[test]
    fn the_same_place_and_equal_settings_find_the_same_state_while_it_is_held() {
        let live = Live::offline();
        let (users, pets) =
            (live.within("routes users").within("[0]"), live.within("routes pets").within("[0]"));
        let first = users.keep(("10/s", 1), |_| 1);
        assert_eq!(*users.keep(("10/s", 1), |_| 2), 1);
        assert_eq!(*users.keep(("20/s", 1), |_| 3), 3);
        assert_eq!(*users.keep(("10/s", 2), |settings| settings.1 * 4), 8);
        assert_eq!(*pets.keep(("10/s", 1), |_| 4), 4);
        assert_eq!(*users.keep(("10/s", 1), |_| "another type"), "another type");
        assert_eq!(*users.share(("10/s", 1), |_| 5), 5);
        drop(first);
        assert_eq!(*users.keep(("10/s", 1), |_| 6), 6);
    }

    #[test]
    fn what_is_shared_is_found_from_every_place() {
        let live = Live::offline();
        let first = live.within("routes users").share("redis", |_| 1);
        assert!(Arc::ptr_eq(&first, &live.within("routes pets").share("redis", |_| 2)));
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
        let held = live.share_running("held", |_| Counted(starts.clone()));
        drop(live.share_running("dropped", |_| Counted(starts.clone())));
        live.start();
        live.start();
        assert_eq!(starts.load(std::sync::atomic::Ordering::Relaxed), 1);
        drop(held);
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let live = Live::offline();
        let held = live.keep(-1, |_| 0);
        (0..10_000).for_each(|n| drop(live.keep(n, |_| n)));
        (0..10_000).for_each(|n| drop(live.within(&n.to_string()).keep(n, |_| n)));
        let states = live.lock();
        assert!(states.by_kind.values().map(Vec::len).sum::<usize>() <= 64 && states.by_kind.len() <= 64);
        drop(states);
        assert!(Arc::ptr_eq(&held, &live.keep(-1, |_| 1)));
    }
}
