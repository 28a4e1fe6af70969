//! What any bytes whatever must do to what reads a stranger's. Not part of the API: these functions are public for `fuzz/`,
//! whose targets call them one by one, and for `tests/fuzzing.rs`, which runs them all over the same corpus.
//!
//! Each takes bytes and panics if the reader breaks a promise: it reads them in one way only, however they come in parts;
//! what it understood and is written again means the same; nothing that comes out is larger than what went in allows. What
//! reads the bytes is private to its room, so the checks stand there, in a `fuzzing.rs` beside it, and here is the list.

mod canary;
mod configuration;
mod connection;
mod grpc;
mod path;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{accept, control, export, filter, forward, http as http1, identity, trace};

/// One reader, by the name of its target in `fuzz/` and of its corpus.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "canary_state", run: canary::state },
    Target { name: "check_response", run: filter::fuzzing::check_response },
    Target { name: "chunked", run: http1::fuzzing::chunked },
    Target { name: "client_hello", run: accept::fuzzing::client_hello },
    Target { name: "config_json", run: configuration::json },
    Target { name: "config_yaml", run: configuration::yaml },
    Target { name: "cookies", run: |bytes| forward::fuzzing::cookies(message(bytes).0) },
    Target { name: "csr", run: identity::fuzzing::csr },
    Target { name: "forwarded", run: |bytes| forward::fuzzing::forwarded(&message(bytes).0) },
    Target { name: "grpc_web", run: grpc::web },
    Target { name: "hostcalls", run: filter::fuzzing::hostcalls },
    Target { name: "http1", run: connection::http1 },
    Target { name: "http2", run: connection::http2 },
    Target { name: "jwks", run: filter::fuzzing::jwks },
    Target { name: "jwt", run: filter::fuzzing::jwt },
    Target { name: "nginx", run: configuration::nginx },
    Target { name: "oidc", run: filter::fuzzing::oidc },
    Target { name: "otlp_reply", run: otlp_reply },
    Target { name: "path", run: path::path },
    Target { name: "proxy_header", run: accept::fuzzing::proxy_header },
    Target { name: "redis_reply", run: filter::fuzzing::redis_reply },
    Target { name: "registration", run: control::fuzzing::registration },
    Target { name: "registry_state", run: control::fuzzing::state },
    Target { name: "request_head", run: accept::fuzzing::request_head },
    Target { name: "response_head", run: forward::fuzzing::response_head },
    Target { name: "trace_context", run: |bytes| trace::fuzzing::context(&message(bytes).0) },
    Target { name: "websocket", run: accept::fuzzing::websocket },
];

/// Run the target of this name.
///
/// # Panics
///
/// There is none of this name, or a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target is called {name}")).run)(bytes);
}

fn otlp_reply(bytes: &[u8]) {
    let (headers, body) = message(bytes);
    export::fuzzing::reply(&headers, body);
}

/// Lines of `name: value` up to an empty one, and what is behind it. What is no field is left out.
fn message(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let mut headers = HeaderMap::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 1..).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), value)
            && headers.len() < 256
        {
            headers.append(name, value);
        }
    }
    (headers, rest)
}
