//! What a module exports for its host to call. Each function has one signature, so a module that has another is refused.

use wasmtime::{ExternType, Instance, Module, Store, TypedFunc, ValType, WasmParams, WasmResults};

use super::state::State;

/// A look at a head: before 0.2.0 nobody said whether it is all.
#[derive(Clone)]
pub(super) enum HeadCallback {
    WithEnd(TypedFunc<(i32, i32, i32), i32>),
    WithoutEnd(TypedFunc<(i32, i32), i32>),
}

type Of1 = Option<TypedFunc<i32, ()>>;
type Of2<R> = Option<TypedFunc<(i32, i32), R>>;
type Of5 = Option<TypedFunc<(i32, i32, i32, i32, i32), ()>>;
type Of3<R> = Option<TypedFunc<(i32, i32, i32), R>>;

#[derive(Default)]
pub(super) struct Callbacks {
    pub context_create: Of2<()>,
    pub vm_start: Of2<i32>,
    pub configure: Of2<i32>,
    pub tick: Of1,
    pub queue_ready: Of2<()>,
    pub grpc_metadata: Of3<()>,
    pub grpc_message: Of3<()>,
    pub grpc_trailers: Of3<()>,
    pub grpc_close: Of3<()>,
    pub call_answered: Of5,
    pub request_headers: Option<HeadCallback>,
    pub request_body: Of3<i32>,
    pub request_trailers: Of2<i32>,
    pub response_headers: Option<HeadCallback>,
    pub response_body: Of3<i32>,
    pub response_trailers: Of2<i32>,
    pub done: Option<TypedFunc<i32, i32>>,
    pub log: Of1,
    pub delete: Of1,
}

impl Callbacks {
    /// # Errors
    ///
    /// One of them has another signature.
    pub(super) fn find(store: &mut Store<State>, instance: &Instance) -> Result<Callbacks, String> {
        Ok(Callbacks {
            context_create: function(store, instance, "proxy_on_context_create")?,
            vm_start: function(store, instance, "proxy_on_vm_start")?,
            configure: function(store, instance, "proxy_on_configure")?,
            tick: function(store, instance, "proxy_on_tick")?,
            queue_ready: function(store, instance, "proxy_on_queue_ready")?,
            grpc_metadata: function(store, instance, "proxy_on_grpc_receive_initial_metadata")?,
            grpc_message: function(store, instance, "proxy_on_grpc_receive")?,
            grpc_trailers: function(store, instance, "proxy_on_grpc_receive_trailing_metadata")?,
            grpc_close: function(store, instance, "proxy_on_grpc_close")?,
            call_answered: function(store, instance, "proxy_on_http_call_response")?,
            request_headers: head(store, instance, "proxy_on_request_headers")?,
            request_body: function(store, instance, "proxy_on_request_body")?,
            request_trailers: function(store, instance, "proxy_on_request_trailers")?,
            response_headers: head(store, instance, "proxy_on_response_headers")?,
            response_body: function(store, instance, "proxy_on_response_body")?,
            response_trailers: function(store, instance, "proxy_on_response_trailers")?,
            done: function(store, instance, "proxy_on_done")?,
            log: function(store, instance, "proxy_on_log")?,
            delete: function(store, instance, "proxy_on_delete")?,
        })
    }
}

/// `None` where it is not exported.
///
/// # Errors
///
/// It has another signature.
pub(super) fn function<P: WasmParams, R: WasmResults>(
    store: &mut Store<State>,
    instance: &Instance,
    name: &str,
) -> Result<Option<TypedFunc<P, R>>, String> {
    let Some(function) = instance.get_func(&mut *store, name) else { return Ok(None) };
    let typed = function.typed(&*store).map(Some);
    typed.map_err(|error| format!("`{name}` is not the function that proxy-wasm knows: {error:#}"))
}

fn head(store: &mut Store<State>, instance: &Instance, name: &str) -> Result<Option<HeadCallback>, String> {
    if let Ok(found) = function(store, instance, name) {
        return Ok(found.map(HeadCallback::WithEnd));
    }
    Ok(function(store, instance, name)?.map(HeadCallback::WithoutEnd))
}

/// Of functions that have one: how many numbers they take, and return. All are `i32`.
const SIGNATURES: [(&str, usize, usize); 19] = [
    ("proxy_on_context_create", 2, 0),
    ("proxy_on_vm_start", 2, 1),
    ("proxy_on_configure", 2, 1),
    ("proxy_on_tick", 1, 0),
    ("proxy_on_queue_ready", 2, 0),
    ("proxy_on_grpc_receive_initial_metadata", 3, 0),
    ("proxy_on_grpc_receive", 3, 0),
    ("proxy_on_grpc_receive_trailing_metadata", 3, 0),
    ("proxy_on_grpc_close", 3, 0),
    ("proxy_on_http_call_response", 5, 0),
    ("proxy_on_request_headers", 3, 1),
    ("proxy_on_request_body", 3, 1),
    ("proxy_on_request_trailers", 2, 1),
    ("proxy_on_response_headers", 3, 1),
    ("proxy_on_response_body", 3, 1),
    ("proxy_on_response_trailers", 2, 1),
    ("proxy_on_done", 1, 1),
    ("proxy_on_log", 1, 0),
    ("proxy_on_delete", 1, 0),
];
/// In the first version they do not say whether a head is all.
const HEADS: [&str; 2] = ["proxy_on_request_headers", "proxy_on_response_headers"];

/// # Errors
///
/// One that the host would call has another signature.
pub(super) fn check_signatures(module: &Module) -> Result<(), String> {
    let has = |name: &str| module.get_export(name).is_some();
    let first = |names: [&'static str; 2]| if has(names[0]) { names[0] } else { names[1] };
    let others =
        [(first(["proxy_on_memory_allocate", "malloc"]), 1, 1), (first(["_initialize", "_start"]), 0, 0)];
    for (name, takes, returns) in SIGNATURES.into_iter().chain(others) {
        let Some(ExternType::Func(is)) = module.get_export(name) else { continue };
        let (params, results): (Vec<ValType>, Vec<ValType>) = (is.params().collect(), is.results().collect());
        let are_numbers = params.iter().chain(&results).all(ValType::is_i32);
        let takes_as_many = params.len() == takes || (HEADS.contains(&name) && params.len() == 2);
        if !(are_numbers && takes_as_many && results.len() == returns) {
            let expected = (vec![ValType::I32; takes], vec![ValType::I32; returns]);
            return Err(format!(
                "`{name}` is not the function that proxy-wasm knows: it is {}, and should be {}",
                shown(&params, &results),
                shown(&expected.0, &expected.1)
            ));
        }
    }
    Ok(())
}

fn shown(params: &[ValType], results: &[ValType]) -> String {
    let list = |types: &[ValType]| {
        let types: Vec<String> = types.iter().map(ToString::to_string).collect();
        format!("({})", types.join(", "))
    };
    format!("{} -> {}", list(params), list(results))
}
