//! The one integration-test binary.

mod access;
mod admin;
mod admin_tls;
mod architecture;
mod backend;
mod bad_input;
mod cli;
mod compression;
mod config;
mod deadlines;
mod docs;
mod filters;
mod forwarding;
mod grpc;
mod http;
mod http2;
mod identity;
mod jwt;
mod lifecycle;
mod rate_limit;
mod sidecar;
mod support;
mod tls;
mod traffic;
mod upstream_tls;
mod upstreams;
