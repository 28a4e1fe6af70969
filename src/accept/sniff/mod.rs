//! What a connection is for, before anything is served on it: where it was meant to go, what it speaks, and which name its
//! TLS asks for. What was read to find out is read again by whoever serves it.

pub(crate) mod client_hello;
pub(in crate::accept) mod detect;
mod ja4;
pub(in crate::accept) mod original_dst;
pub(in crate::accept) mod passthrough;
