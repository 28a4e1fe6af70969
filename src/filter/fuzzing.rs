//! What any bytes must do to what filters read; see `crate::fuzzing`.

pub(crate) use super::builtin::{
    ext_auth::fuzzing::check_response,
    jwt::fuzzing::{jwks, jwt},
    oidc::fuzzing::oidc,
    rate_limit::fuzzing::redis_reply,
};

#[cfg(feature = "wasm")]
pub(crate) use super::builtin::wasm::fuzzing::hostcalls;

/// There are no plugins here.
#[cfg(not(feature = "wasm"))]
pub(crate) fn hostcalls(_: &[u8]) {}
