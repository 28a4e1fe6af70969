//! How changes reach those who follow services.

pub(crate) mod difference;
pub(crate) mod gate;
pub(crate) mod messages;
pub(crate) mod seats;
pub(crate) mod stream;
mod subscription;
mod told;

pub(crate) use self::subscription::{Hub, Subscription};
