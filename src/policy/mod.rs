//! Pure decisions: what to do, given numbers. No clock, no I/O, no globals; `now` and the random source are
//! arguments, so that every policy is tested without a network and without sleeping.

pub mod balance;
pub mod bucket;
pub mod buckets;
