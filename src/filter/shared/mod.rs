//! What several filters use.

pub(in crate::filter) mod accept_encoding;
pub(in crate::filter) mod credentials;
pub(in crate::filter) mod encoder;
pub(in crate::filter) mod encoders;
pub(in crate::filter) mod origin;
pub(in crate::filter) mod properties;
pub(in crate::filter) mod proven;
pub(in crate::filter) mod remembered;
pub(in crate::filter) mod spelling;
pub(in crate::filter) mod template;
pub(in crate::filter) mod vary;
