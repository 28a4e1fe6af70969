//! The control plane's API as gRPC: services as tonic generates them, called by our own accept loop, on the port of the REST API.

mod registry;
mod service;

use tonic::{Code, Status, metadata::MetadataValue};

pub(crate) use self::service::Grpc;
use super::refused::{Reason, Refused};

/// Why a call is refused, as gRPC says it. The word for it stands in the trailers.
pub(crate) fn status(refused: &Refused) -> Status {
    let code = match refused.reason {
        Reason::BadRequest | Reason::TooLarge => Code::InvalidArgument,
        Reason::Unauthenticated => Code::Unauthenticated,
        Reason::NotYours => Code::PermissionDenied,
        Reason::NotRegistered | Reason::NotFound => Code::NotFound,
        Reason::Conflict => Code::AlreadyExists,
        Reason::Limit => Code::ResourceExhausted,
    };
    let mut status = Status::new(code, refused.why.clone());
    status.metadata_mut().insert("x-tidegate-reason", MetadataValue::from_static(refused.reason.code()));
    status
}
