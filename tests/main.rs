//! The one integration-test binary.

mod admin;
mod architecture;
mod backend;
mod cli;
mod support;
