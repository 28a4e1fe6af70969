//! How changes reach those who follow services.

mod subscription;

pub(crate) use self::subscription::{Hub, Subscription};
