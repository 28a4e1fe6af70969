#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod backoff;
mod cache;
mod client;
mod discovery;
mod duration;
mod error;
mod events;
mod instance;
mod pick;
mod registration;
mod service;
mod thread;
#[cfg(feature = "tls")]
mod tls;
mod transport;

pub use self::{
    client::{Builder, Client},
    discovery::{Discovery, Instances},
    error::Error,
    instance::{Health, Instance, Protocol, State},
    registration::{Registration, Status},
    service::Service,
};
