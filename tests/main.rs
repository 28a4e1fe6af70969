//! The one integration-test binary.

mod admin;
mod architecture;
mod backend;
mod bad_input;
mod cli;
mod config;
mod filters;
mod forwarding;
mod http;
mod lifecycle;
mod rate_limit;
mod support;
mod upstreams;
