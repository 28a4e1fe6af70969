//! A configuration as a tree whose nodes know their places, from text or from values, and how it is read into types.

pub(in crate::config) mod blank;
pub(in crate::config) mod collect;
pub(in crate::config) mod de;
pub(in crate::config) mod defaults;
pub(in crate::config) mod effective;
pub(in crate::config) mod expand;
pub(in crate::config) mod fault;
pub(in crate::config) mod foreign;
pub(in crate::config) mod form;
pub(in crate::config) mod inline;
pub(in crate::config) mod json;
pub(in crate::config) mod load;
pub(in crate::config) mod loaded;
pub(in crate::config) mod meant;
pub(in crate::config) mod node;
pub(in crate::config) mod omissions;
pub(in crate::config) mod origin;
pub(in crate::config) mod parts;
pub(in crate::config) mod problem;
pub(in crate::config) mod received;
pub(in crate::config) mod secrets;
pub(in crate::config) mod slips;
pub(in crate::config) mod sources;
pub(in crate::config) mod tree;
