//! The control plane over HTTP and JSON: one table of endpoints (`router`), from which its description (`openapi`) is made as
//! well.

mod configs;
mod gateways;
mod openapi;
mod query;
mod reply;
mod router;
mod services;
mod shown;
mod tokens;
mod watch;

pub(crate) use self::{router::Api, shown::ShownPlane};
