//! Where connections come from: sockets that are bound, changed and handed over while the process runs, and the accept loop
//! of each, which sees to its connections' deadlines and gives them to threads.

pub(crate) mod activated;
pub(crate) mod handover;
pub(crate) mod port;
pub(crate) mod socket;
mod unix;
pub(in crate::accept) mod workers;
