//! What any bytes must do to what filters read; see `crate::fuzzing`.

pub(crate) use super::builtin::{
    jwt::fuzzing::{jwks, jwt},
    rate_limit::fuzzing::redis_reply,
};
