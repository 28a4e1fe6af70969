//! The engine that runs plugins, and the clock that interrupts them. It exists while a plugin is loaded.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::Duration,
};

use wasmtime::{Config, Engine, Linker, WasmBacktraceDetails};

use super::{abi, state::State};

/// How often the clock of the engine ticks: what runs is looked at so often.
pub(super) const TICK: Duration = Duration::from_millis(10);

pub(super) struct Runtime {
    pub engine: Engine,
    pub linker: Linker<State>,
}

impl Runtime {
    /// That of the process, or a new one.
    ///
    /// # Errors
    ///
    /// This machine cannot run WebAssembly.
    pub(super) fn share(held: &Mutex<Weak<Runtime>>) -> Result<Arc<Runtime>, String> {
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = held.upgrade() {
            return Ok(runtime);
        }
        let runtime = Arc::new(Runtime::new().map_err(|error| format!("{error:#}"))?);
        *held = Arc::downgrade(&runtime);
        tick(Arc::downgrade(&runtime)).map_err(|error| error.to_string())?;
        Ok(runtime)
    }

    fn new() -> wasmtime::Result<Runtime> {
        let mut config = Config::new();
        config.epoch_interruption(true);
        // Nothing of proxy-wasm says which memory a pointer is for.
        config.wasm_multi_memory(false);
        // Names of functions are in the module itself. Lines of source files would be read from files that the module names.
        config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
        let engine = Engine::new(&config)?;
        let linker = abi::linker(&engine)?;
        Ok(Runtime { engine, linker })
    }
}

/// Ends with the runtime.
fn tick(runtime: Weak<Runtime>) -> std::io::Result<()> {
    let ticking = move || {
        while let Some(runtime) = runtime.upgrade() {
            runtime.engine.increment_epoch();
            drop(runtime);
            #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("plugin clock".into()).spawn(ticking).map(drop)
}
