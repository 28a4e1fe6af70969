//! What a plugin may call: the functions of proxy-wasm, and those of WASI, which open nothing. One table here, one file for each
//! kind of thing that they are about.

mod buffer;
mod call;
mod flow;
mod foreign;
mod grpc;
mod headers;
mod log;
mod memory;
mod metric;
mod property;
mod shared;
mod wasi;

use wasmtime::{Engine, Linker};

use super::{state::State, view::Status};

type Caller<'c> = wasmtime::Caller<'c, State>;

/// Nothing more is to be said where all went well.
type Hostcall = Result<(), Halt>;

enum Halt {
    Status(Status),
    /// The plugin cannot go on: its allocator trapped.
    Trap(wasmtime::Error),
}

impl From<Status> for Halt {
    fn from(status: Status) -> Halt {
        Halt::Status(status)
    }
}

fn code(done: Hostcall) -> wasmtime::Result<i32> {
    match done {
        Ok(()) => Ok(Status::Ok as i32),
        Err(Halt::Status(status)) => Ok(status as i32),
        Err(Halt::Trap(trap)) => Err(trap),
    }
}

/// Offers functions under their names. `$when` says in which state of the plugin.
macro_rules! offer {
    ($linker:ident, $module:literal, $when:path, {
        $($name:literal ($($argument:ident: $type:ty),*) => $function:path;)*
    }) => {
        $($linker.func_wrap($module, $name, |mut caller: Caller<'_>, $($argument: $type),*| {
            match $when(caller.data()) {
                true => code($function(&mut caller, $($argument),*)),
                false => Ok(Status::InternalFailure as i32),
            }
        })?;)*
    };
}

/// An allocator that runs for a hostcall may write a line, and no more.
fn always(_: &State) -> bool {
    true
}

fn with_contexts(state: &State) -> bool {
    state.runs && !state.allocates
}

pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    offer!(linker, "env", always, {
        "proxy_log"(level: i32, line: i32, length: i32) => log::write;
        "proxy_get_log_level"(level_at: i32) => log::level;
        "proxy_get_current_time_nanoseconds"(time_at: i32) => log::now;
    });
    offer!(linker, "env", with_contexts, {
        "proxy_set_tick_period_milliseconds"(period: i32) => flow::set_tick;

        "proxy_get_buffer_bytes"(buffer: i32, start: i32, most: i32, at: i32, length_at: i32) => buffer::get;
        "proxy_set_buffer_bytes"(buffer: i32, start: i32, length: i32, bytes: i32, count: i32) => buffer::set;
        "proxy_get_buffer_status"(buffer: i32, length_at: i32, flags_at: i32) => buffer::status;
        "proxy_get_configuration"(at: i32, length_at: i32) => buffer::configuration;

        "proxy_get_header_map_pairs"(map: i32, at: i32, length_at: i32) => headers::pairs;
        "proxy_set_header_map_pairs"(map: i32, pairs: i32, length: i32) => headers::set_pairs;
        "proxy_get_header_map_value"(map: i32, name: i32, length: i32, at: i32, length_at: i32) => headers::value;
        "proxy_add_header_map_value"(map: i32, name: i32, length: i32, value: i32, count: i32) => headers::add;
        "proxy_replace_header_map_value"(map: i32, name: i32, length: i32, value: i32, count: i32) => headers::replace;
        "proxy_remove_header_map_value"(map: i32, name: i32, length: i32) => headers::remove;
        "proxy_get_header_map_size"(map: i32, size_at: i32) => headers::size;

        "proxy_get_property"(path: i32, length: i32, at: i32, length_at: i32) => property::get;
        "proxy_set_property"(path: i32, length: i32, value: i32, count: i32) => property::set;

        "proxy_continue_stream"(stream: i32) => flow::resume;
        "proxy_close_stream"(stream: i32) => flow::close;
        "proxy_continue_request"() => flow::resume_request;
        "proxy_continue_response"() => flow::resume_response;
        "proxy_clear_route_cache"() => flow::clear_route_cache;
        "proxy_send_local_response"(
            status: i32, detail: i32, detail_length: i32, body: i32, body_length: i32,
            fields: i32, fields_length: i32, grpc_status: i32
        ) => flow::answer;
        "proxy_get_status"(code_at: i32, at: i32, length_at: i32) => flow::status;
        "proxy_set_effective_context"(context: i32) => flow::set_effective;
        "proxy_done"() => flow::done;

        "proxy_get_shared_data"(key: i32, length: i32, at: i32, length_at: i32, cas_at: i32) => shared::get;
        "proxy_set_shared_data"(key: i32, length: i32, value: i32, count: i32, cas: i32) => shared::set;
        "proxy_register_shared_queue"(name: i32, length: i32, id_at: i32) => shared::register;
        "proxy_resolve_shared_queue"(vm: i32, vm_length: i32, name: i32, length: i32, id_at: i32) => shared::resolve;
        "proxy_enqueue_shared_queue"(queue: i32, part: i32, length: i32) => shared::enqueue;
        "proxy_dequeue_shared_queue"(queue: i32, at: i32, length_at: i32) => shared::dequeue;

        "proxy_define_metric"(kind: i32, name: i32, length: i32, id_at: i32) => metric::define;
        "proxy_increment_metric"(metric: i32, by: i64) => metric::increment;
        "proxy_record_metric"(metric: i32, value: i64) => metric::record;
        "proxy_get_metric"(metric: i32, value_at: i32) => metric::get;

        "proxy_call_foreign_function"(
            name: i32, name_length: i32, argument: i32, length: i32, at: i32, length_at: i32
        ) => foreign::call;

        "proxy_http_call"(
            upstream: i32, upstream_length: i32, fields: i32, fields_length: i32, body: i32, body_length: i32,
            trailers: i32, trailers_length: i32, timeout: i32, call_at: i32
        ) => call::http;
        "proxy_grpc_call"(
            upstream: i32, upstream_length: i32, service: i32, service_length: i32, method: i32, method_length: i32,
            metadata: i32, metadata_length: i32, message: i32, message_length: i32, timeout: i32, call_at: i32
        ) => grpc::call;
        "proxy_grpc_stream"(
            upstream: i32, upstream_length: i32, service: i32, service_length: i32, method: i32, method_length: i32,
            metadata: i32, metadata_length: i32, stream_at: i32
        ) => grpc::stream;
        "proxy_grpc_send"(stream: i32, message: i32, length: i32, is_last: i32) => grpc::send;
        "proxy_grpc_cancel"(call: i32) => grpc::cancel;
        "proxy_grpc_close"(call: i32) => grpc::close;
    });
    linker.func_wrap("env", "pthread_equal", |one: i32, other: i32| i32::from(one == other))?;
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: i32| {})?;
    wasi::offer(&mut linker)?;
    Ok(linker)
}
