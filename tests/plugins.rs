//! Plugins over real sockets: filters in WebAssembly that are written by hand, one for each thing that they do, or do wrong.

mod bodies;
mod calls;
mod examples;
mod failing;
mod loading;
mod reloading;
mod state;

use crate::support::{Backend, Gateway, plugins::directory_with};

/// A gateway with the plugin `p` from that module in front of a backend, and what more stands in the plugin.
async fn gateway(backend: &Backend, module: &str, more: &str) -> Gateway {
    Gateway::start_in(directory_with(&[module]), &yaml(backend, module, more), &[]).await
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
