//! Messages and services of the control plane's API, as `build.rs` makes them of `proto/`.

mod codec;

pub(crate) use self::codec::Codec;

/// `tidegate.control.v1`
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
pub mod v1 {
    tonic::include_proto!("tidegate.control.v1");
}

/// `grpc.health.v1`
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
