//! Tidegate: a programmable gateway on Pingora.
//!
//! A folder named by a verb is a stage that every request passes, in this order:
//!
//! 1. `accept`: a connection is taken, put under limits and deadlines, and one request header is read from it;
//! 2. [`route`]: the request is matched to a route;
//! 3. [`filter`]: the listener's and the route's filters see it, and may answer it;
//! 4. `forward`: an endpoint is chosen and the request is sent there;
//! 5. [`observe`]: what happened is recorded.
//!
//! What is not HTTP is carried by `tunnel` from the first stage on.
//!
//! `proxy` is the table of contents: one short method for each phase, each calling one stage, and
//! the loop over the tries of a request.
//! A folder named by a noun is something a stage uses: [`config`] is what the operator wrote, [`snapshot`] its compiled
//! form, [`upstream`] the pools of endpoints, [`identity`] who speaks, [`policy`] the pure decisions,
//! [`grpc`] what gRPC makes of HTTP, `http` what both sides of HTTP/1 are read by, `kept` what outlives a reload,
//! `sharded` what each thread has for itself, `resources` what all of the process shares and can run out of, `trace` the contexts of distributed traces, `export` the way of what is
//! observed to a collector, `trust` TLS towards servers that are no upstreams, `etcd` connections to one, [`acme`] certificates from a CA, `control` the control plane, and `api` what its API and the operator's (`admin`) share. `app` puts everything together, and
//! `cli` is the way in.
//!
//! # As a library
//!
//! A [`Gateway`] of your own is this one with filters of yours, which are written against [`filter`]. Of all else that is
//! public nothing is promised: it is there for the tests and the benchmarks.

mod accept;
#[doc(hidden)]
pub mod acme;
mod admin;
mod api;
mod app;
mod cli;
#[doc(hidden)]
pub mod config;
mod control;
#[doc(hidden)]
pub mod convert;
#[doc(hidden)]
pub mod error;
mod etcd;
mod export;
mod fetch;
pub mod filter;
#[doc(hidden)]
pub mod fleet;
mod forward;
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod grpc;
mod http;
#[doc(hidden)]
pub mod identity;
mod kept;
#[doc(hidden)]
pub mod names;
#[doc(hidden)]
pub mod observe;
#[cfg(feature = "wasm")]
mod plugin;
#[doc(hidden)]
pub mod policy;
mod proxy;
mod redis;
mod resources;
#[doc(hidden)]
pub mod route;
mod sharded;
#[doc(hidden)]
pub mod snapshot;
mod state_file;
mod tls;
mod trace;
mod trust;
mod tunnel;
mod upkeep;
#[doc(hidden)]
pub mod upstream;
mod wire;

pub use cli::Gateway;
