//! How an instance begins: its memory, what the module does first, and its root contexts.

use std::{collections::HashMap, sync::Arc};

use wasmtime::{Store, TypedFunc};

use super::{
    Instance,
    running::{Failure, arm, explain, interrupt, run},
    small,
};
use crate::plugin::{
    callbacks::{Callbacks, function},
    module::Module,
    state::{Context, Done, Own, Place, Root, State},
};

impl Instance {
    /// With these roots, each by its number and with its configuration.
    ///
    /// # Errors
    ///
    /// It traps, takes too long, or says no; with the last lines that it wrote.
    pub(in crate::plugin) fn start(
        module: &Module,
        own: &Arc<Own>,
        place: Place,
        roots: &[(u64, Arc<[u8]>)],
    ) -> Result<Instance, String> {
        let state = State::new(Some(own.clone()), module.abi, place);
        let mut store = Store::new(&module.runtime.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.epoch_deadline_callback(|mut context| interrupt(&mut context.data_mut().clock));
        arm(&mut store, own.settings.limits.start);
        let instance = module
            .pre
            .instantiate(&mut store)
            .map_err(|error| told("cannot be instantiated", &explain(&store, &error).text, &store))?;
        store.data_mut().memory = instance.get_memory(&mut store, "memory");
        let allocate = match function(&mut store, &instance, "proxy_on_memory_allocate")? {
            Some(allocate) => Some(allocate),
            None => function(&mut store, &instance, "malloc")?,
        };
        store.data_mut().allocate = allocate;
        let callbacks = Callbacks::find(&mut store, &instance)?;
        let store = initialised(store, &instance)?;
        let mut instance = Instance { store, callbacks, roots: HashMap::new(), next: 1, is_broken: false };
        for (number, config) in roots {
            instance.configured(*number, config)?;
        }
        Ok(instance)
    }

    /// One more root context.
    ///
    /// # Errors
    ///
    /// It traps, takes too long, or says no.
    pub(in crate::plugin) fn add_root(&mut self, number: u64, config: &Arc<[u8]>) -> Result<(), String> {
        if self.is_broken {
            return Err(Failure::of_another().text);
        }
        let allowed = self.own().settings.limits.start;
        arm(&mut self.store, allowed);
        self.configured(number, config)
    }

    fn configured(&mut self, number: u64, config: &Arc<[u8]>) -> Result<(), String> {
        let id = self.next_id();
        let root = Root { config: config.clone(), tick: None, ticks_at: None, done: Done::NotAsked };
        self.store.data_mut().contexts.insert(id, Context::Root(root));
        self.store.data_mut().effective = id;
        self.roots.insert(number, id);
        let create = self.callbacks.context_create.clone();
        let (vm_start, configure) = (self.callbacks.vm_start.clone(), self.callbacks.configure.clone());
        let vm_config = self.own().settings.vm_config.len();
        let context = id.cast_signed();
        if let Some(create) = create {
            self.first(&create, (context, 0)).map_err(|failure| {
                let state = self.store.data();
                let hint = match state.asked_for_root && self.own().settings.root_id.is_empty() {
                    true => "it has asked for its `root_id`, and none is written",
                    false => "were no contexts registered? In Go, `SetVMContext` belongs in `init()`",
                };
                told("proxy_on_context_create failed", &format!("{failure} ({hint})"), &self.store)
            })?;
        }
        self.asks("proxy_on_vm_start", vm_start, context, vm_config, "it said that it cannot start")?;
        let no = "it does not take its configuration";
        self.asks("proxy_on_configure", configure, context, config.len(), no)
    }

    /// Whether it agrees.
    fn asks(
        &mut self,
        name: &str,
        function: Option<TypedFunc<(i32, i32), i32>>,
        context: i32,
        length: usize,
        no: &str,
    ) -> Result<(), String> {
        let Some(function) = function else { return Ok(()) };
        match self.first(&function, (context, small(length))) {
            Ok(0) => Err(told(name, no, &self.store)),
            Ok(_) => Ok(()),
            Err(failure) => Err(told(&format!("{name} failed"), &failure.text, &self.store)),
        }
    }

    /// A call that the time to start is for.
    fn first<P: wasmtime::WasmParams, R: wasmtime::WasmResults>(
        &mut self,
        function: &TypedFunc<P, R>,
        arguments: P,
    ) -> Result<R, Failure> {
        let called = run(&mut self.store, function, arguments);
        self.is_broken |= called.is_err();
        called
    }
}

/// What it does before it has contexts.
fn initialised(mut store: Store<State>, instance: &wasmtime::Instance) -> Result<Store<State>, String> {
    let initialise = function::<(), ()>(&mut store, instance, "_initialize")?;
    let begin = match &initialise {
        Some(_) => initialise,
        None => function::<(), ()>(&mut store, instance, "_start")?,
    };
    if let Some(begin) = &begin {
        run(&mut store, begin, ()).map_err(|failure| told("cannot be initialised", &failure.text, &store))?;
    }
    // A reactor may have one all the same, from which C++ and Rust of old register their filters.
    let is_reactor = instance.get_func(&mut store, "_initialize").is_some();
    if is_reactor {
        let failed = |store: &Store<State>, failure: Failure| told("main failed", &failure.text, store);
        if let Ok(Some(main)) = function::<(i32, i32), i32>(&mut store, instance, "main") {
            run(&mut store, &main, (0, 0)).map_err(|failure| failed(&store, failure))?;
        } else if let Ok(Some(main)) = function::<(), i32>(&mut store, instance, "__main_void") {
            run(&mut store, &main, ()).map_err(|failure| failed(&store, failure))?;
        }
    }
    store.data_mut().runs = true;
    Ok(store)
}

fn told(what: &str, why: &str, store: &Store<State>) -> String {
    match store.data().last_lines() {
        lines if lines.is_empty() => format!("{what}: {why}"),
        lines => format!("{what}: {why}; its last lines: {lines}"),
    }
}
