//! Plugins over real sockets: filters in WebAssembly that are written by hand, one for each thing that they do, or do wrong.

mod abi;
mod as_elsewhere;
mod bodies;
mod cache;
mod calls;
mod draining;
mod examples;
mod failing;
mod hostile;
mod lasting;
mod limits;
mod loading;
mod properties;
mod reloading;
mod state;
mod streams;
mod waiting;

use crate::support::{
    Backend, Gateway,
    plugins::{directory_with, put, written},
};

/// A gateway with the plugin `p` from that module in front of a backend, and what more stands in the plugin.
async fn gateway(backend: &Backend, module: &str, more: &str) -> Gateway {
    Gateway::start_in(directory_with(&[module]), &yaml(backend, module, more), &[]).await
}

/// The same with a plugin of these functions.
async fn gateway_of(backend: &Backend, functions: &str, more: &str) -> Gateway {
    gateway_from(backend, &written(functions), more).await
}

async fn gateway_from(backend: &Backend, module: &[u8], more: &str) -> Gateway {
    let directory = tempfile::TempDir::new().unwrap();
    put(directory.path(), "written", module);
    Gateway::start_in(directory, &yaml(backend, "written", more), &[]).await
}

fn yaml(backend: &Backend, module: &str, more: &str) -> String {
    format!(
        "admin: {{address: '127.0.0.1:0'}}\n\
         listeners: [{{name: main, address: '127.0.0.1:0'}}]\n\
         plugins: {{p: {{file: {module}.wasm, {more}}}}}\n\
         routes:\n\
         - {{match: {{path: /plain}}, upstream: origin}}\n\
         - {{name: r, filters: [{{wasm: p}}], upstream: origin}}\n\
         upstreams: {{origin: {{endpoints: ['{}']}}}}\n",
        backend.address()
    )
}
