//! The one integration-test binary.

mod admin;
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
mod http;
mod http2;
mod jwt;
mod lifecycle;
mod rate_limit;
mod support;
mod traffic;
mod upstreams;
