//! The one integration-test binary.

mod architecture;
mod backend;
mod support;
