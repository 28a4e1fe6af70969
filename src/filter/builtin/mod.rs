//! The filters that every gateway has, one file or folder each. They stand in the registry by their names.

pub(in crate::filter) mod api_key;
pub(in crate::filter) mod authz;
pub(in crate::filter) mod basic_auth;
pub(in crate::filter) mod body_limit;
pub(in crate::filter) mod compression;
pub(in crate::filter) mod concurrency_limit;
pub(in crate::filter) mod cors;
pub(in crate::filter) mod ext_auth;
pub(in crate::filter) mod fault;
pub(in crate::filter) mod grpc_web;
pub(in crate::filter) mod headers;
#[cfg(debug_assertions)]
pub(in crate::filter) mod hold;
pub(in crate::filter) mod https_redirect;
pub(in crate::filter) mod introspection;
pub(in crate::filter) mod ip_rules;
pub(in crate::filter) mod jwt;
pub(in crate::filter) mod maintenance;
pub(in crate::filter) mod oidc;
#[cfg(debug_assertions)]
pub(in crate::filter) mod panic;
pub(in crate::filter) mod rate_limit;
pub(in crate::filter) mod redirect;
pub(in crate::filter) mod request_id;
pub(in crate::filter) mod respond;
pub(in crate::filter) mod rewrite;
#[cfg(feature = "wasm")]
pub(in crate::filter) mod wasm;
