//! Plugins: filters in WebAssembly for the ABI of proxy-wasm, in instances that live long. Nothing here knows what a filter is,
//! nor how requests are read: a request is lent as a [`View`].
//!
//! Tasks move between threads, so an instance is not a thread's: it stands behind a lock that is never held while anybody
//! waits. A request takes the first that is free and stays with it, since its context is there. An instance that traps is never entered
//! again: a new one is made aside, and others serve meanwhile.

mod abi;
mod cache;
mod callbacks;
mod custom;
mod exposed;
mod instance;
mod lines;
mod module;
mod outbound;
mod pairs;
mod pool;
mod root;
mod runtime;
mod settings;
mod shared;
mod state;
mod stream;
mod table;
mod view;
mod worker;

pub(crate) use self::{
    instance::{Failure, Turn, Verdict, grpc_status},
    module::{Looked, look_at},
    outbound::{Answered, Call, Hears, Message, Outbound, Outcome, Said, Told},
    pairs::{pairs_of, read as read_pairs},
    pool::{Plugin, Report},
    root::Root,
    settings::payload,
    state::Answer,
    stream::Stream,
    table::{Host, Refused, Sought, Table, named},
    view::{Change, Map, Side, Status, View},
};
