//! A file becomes a module that can run here: what it is, which ABI it speaks, and what it needs that nobody here has.

use std::{
    fmt::Write,
    sync::{Arc, Mutex},
};

use openssl::sha::sha256;
use wasmtime::{Engine, ExternType, InstancePre, Module as Compiled};

use super::{cache::Cache, callbacks::check_signatures, runtime::Runtime, state::State, table::digits};

pub(super) struct Module {
    pub abi: Abi,
    pub pre: InstancePre<State>,
    /// The functions that it exports.
    exports: Vec<Box<str>>,
    /// Also holds the clock.
    pub runtime: Arc<Runtime>,
}

/// Which version of proxy-wasm a module was written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abi {
    V0_1_0,
    V0_2_0,
    V0_2_1,
    /// Higress's own.
    V0_2_100,
}

impl Abi {
    const KNOWN: [(&str, Abi); 4] = [
        ("proxy_abi_version_0_1_0", Abi::V0_1_0),
        ("proxy_abi_version_0_2_0", Abi::V0_2_0),
        ("proxy_abi_version_0_2_1", Abi::V0_2_1),
        // Of 0.2.1 it differs in what it means by a pause in a head, and in what it adds.
        ("proxy_abi_version_0_2_100", Abi::V0_2_100),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Abi::V0_1_0 => "0.1.0",
            Abi::V0_2_0 => "0.2.0",
            Abi::V0_2_1 => "0.2.1",
            Abi::V0_2_100 => "0.2.100",
        }
    }

    /// Who pauses in a head holds it, and goes on to the body, as in C++.
    pub(crate) fn holds_heads(self) -> bool {
        self == Abi::V0_2_100
    }
}

const MAGIC: &[u8] = b"\0asm";
const VERSION: &[u8] = &[1, 0, 0, 0];
const ELF: &[u8] = b"\x7fELF";

impl Module {
    /// # Errors
    ///
    /// What is wrong with the bytes, and what to do about it.
    pub(super) fn new(runtime: &Arc<Runtime>, bytes: &[u8], cache: Option<&Cache>) -> Result<Module, String> {
        check_form(bytes)?;
        let compiled = compile(&runtime.engine, bytes, cache)?;
        let exports: Vec<Box<str>> = compiled
            .exports()
            .filter(|export| matches!(export.ty(), ExternType::Func(_)))
            .map(|export| export.name().into())
            .collect();
        let abi = abi(&exports)?;
        if !["proxy_on_memory_allocate", "malloc"].iter().any(|name| exports.iter().any(|e| **e == **name)) {
            return Err(
                "it exports neither `proxy_on_memory_allocate` nor `malloc`, so nothing can be handed to it"
                    .into(),
            );
        }
        if !matches!(compiled.get_export("memory"), Some(ExternType::Memory(_))) {
            return Err("it exports no memory named `memory`".into());
        }
        check_signatures(&compiled)?;
        check_imports(runtime, &compiled)?;
        let pre = runtime.linker.instantiate_pre(&compiled).map_err(|error| format!("{error:#}"))?;
        Ok(Module { abi, pre, exports, runtime: runtime.clone() })
    }

    pub(super) fn exports(&self, name: &str) -> bool {
        self.exports.iter().any(|export| **export == *name)
    }

    /// The callbacks of proxy-wasm that it has.
    pub(super) fn callbacks(&self) -> impl Iterator<Item = &str> {
        self.exports.iter().map(|name| &**name).filter(|name| name.starts_with("proxy_on_"))
    }
}

fn compile(engine: &Engine, bytes: &[u8], cache: Option<&Cache>) -> Result<Compiled, String> {
    let compile =
        || Compiled::new(engine, bytes).map_err(|error| format!("it cannot be compiled: {error:#}"));
    let Some(cache) = cache else { return compile() };
    let hash = sha256(bytes);
    if let Some(known) = cache.find(engine, &hash) {
        return Ok(known);
    }
    let compiled = compile()?;
    cache.keep(engine, &hash, &compiled);
    Ok(compiled)
}

/// What a file is.
pub(crate) struct Looked {
    pub sha256: String,
    /// `None` where it is too far from a plugin.
    pub abi: Option<&'static str>,
    pub callbacks: Vec<String>,
    /// Why it cannot be a plugin.
    pub is_sound: Result<(), String>,
}

/// Compiles the module and throws it away.
pub(crate) fn look_at(bytes: &[u8]) -> Looked {
    let sha256 = digits(&sha256(bytes));
    let module = Runtime::share(&Mutex::default()).and_then(|runtime| Module::new(&runtime, bytes, None));
    match module {
        Ok(module) => Looked {
            sha256,
            abi: Some(module.abi.name()),
            callbacks: module.callbacks().map(str::to_owned).collect(),
            is_sound: Ok(()),
        },
        Err(why) => Looked { sha256, abi: None, callbacks: Vec::new(), is_sound: Err(why) },
    }
}

fn check_form(bytes: &[u8]) -> Result<(), String> {
    if bytes.starts_with(ELF) {
        return Err("it is compiled already, and such code is never loaded: it would run outside the \
                    sandbox (name the .wasm file it was made from)"
            .into());
    }
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err("it is no WebAssembly: it does not begin with `\\0asm`".into());
    };
    match rest.starts_with(VERSION) {
        true => Ok(()),
        false => Err("it is WebAssembly of another kind, such as a component (a plugin is a core module of \
                      version 1)"
            .into()),
    }
}

fn abi(exports: &[Box<str>]) -> Result<Abi, String> {
    let known = Abi::KNOWN.iter().find(|(name, _)| exports.iter().any(|export| **export == **name));
    if let Some((_, abi)) = known {
        return Ok(*abi);
    }
    let other = exports.iter().find(|export| export.starts_with("proxy_abi_version_"));
    Err(match other {
        Some(other) => {
            format!("it is for another version of proxy-wasm (`{other}`; known are 0.1.0, 0.2.0 and 0.2.1)")
        }
        None => "it is no plugin for proxy-wasm: it exports no `proxy_abi_version_0_2_1`, nor that of \
                 another version"
            .into(),
    })
}

/// All that is missing, and not only the first.
fn check_imports(runtime: &Runtime, compiled: &Compiled) -> Result<(), String> {
    let mut missing = String::new();
    let mut store = wasmtime::Store::new(&runtime.engine, State::empty());
    for import in compiled.imports() {
        if runtime.linker.get(&mut store, import.module(), import.name()).is_err() {
            let separator = if missing.is_empty() { "" } else { ", " };
            let _ = write!(missing, "{separator}`{}.{}`", import.module(), import.name());
        }
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("it imports what is not offered here: {missing}")),
    }
}
