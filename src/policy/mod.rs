//! Pure decisions: what to do, given numbers. No clock, no I/O, no globals; `now` and the random source are
//! arguments, so that every policy is tested without a network and without sleeping.

pub mod address_block;
pub mod avoidance;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod bucket;
pub mod buckets;
pub mod budget;
pub mod canary;
pub mod classify;
pub mod coalesce;
pub mod expiry;
pub mod fading;
pub mod failure;
pub mod flapping;
pub mod hedge;
pub mod histogram;
pub mod issuance;
pub mod logged_out;
pub mod outlier;
pub mod pace;
pub mod quantile;
pub mod recent_failures;
pub mod rendezvous;
pub mod renewal;
pub mod sample;
pub mod silence;
pub mod slow_start;
pub mod split;
pub mod switch;
pub mod turns;
pub mod waves;
