//! The one integration-test binary.

mod admin;
mod architecture;
mod backend;
mod bad_input;
mod cli;
mod compression;
mod config;
mod filters;
mod forwarding;
mod http;
mod lifecycle;
mod support;
mod upstreams;
